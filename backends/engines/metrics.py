"""Progress from Prometheus text: the few counters that tell whether an engine still works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from backends.cluster.reading import ModelCount, Progress
from backends.prometheus import labelled, samples
from backends.text import plain


@dataclass(frozen=True, slots=True)
class Names:
    """What an engine calls its counters; of several names the first that occurs counts."""

    tokens: str
    running: str
    waiting: str
    kv_used: tuple[str, ...] = ()
    prompt: str = ""
    steps: str = ""
    signs: tuple[str, ...] = ()
    first: str = ""
    """The histogram of times to the first token."""


LLAMACPP: Final = Names(
    "llamacpp:tokens_predicted_total",
    "llamacpp:requests_processing",
    "llamacpp:requests_deferred",
    ("llamacpp:kv_cache_usage_ratio",),
    prompt="llamacpp:prompt_tokens_total",
    steps="llamacpp:n_decode_total",
    signs=("llamacpp:spec_decode_num_drafts_total",),
)
VLLM: Final = Names(
    "vllm:generation_tokens_total",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    prompt="vllm:prompt_tokens_total",
    first="vllm:time_to_first_token_seconds",
)
SGLANG: Final = Names(
    "sglang:generation_tokens_total",
    "sglang:num_running_reqs",
    "sglang:num_queue_reqs",
    ("sglang:token_usage",),
    prompt="sglang:prompt_tokens_total",
    signs=("sglang:num_used_tokens", "sglang:inter_token_latency_seconds_count"),
    first="sglang:time_to_first_token_seconds",
)


def progress(text: str, names: Names) -> Progress | None:
    """An engine's progress, summed over its workers (the cache: the fullest); None where it says nothing of it."""
    first_s, first_n = f"{names.first}_sum", f"{names.first}_count"
    wanted = {
        names.tokens, names.running, names.waiting, *names.kv_used, names.prompt, names.steps, *names.signs,
        *((first_s, first_n) if names.first else ()),
    }  # fmt: skip
    found: dict[str, list[float]] = {}
    for name, _, value in samples(text, wanted):
        found.setdefault(name, []).append(value)
    if not found:
        return None
    running, waiting = (_total(found.get(name)) for name in (names.running, names.waiting))
    caches = next((found[name] for name in names.kv_used if name in found), None)
    return Progress(
        tokens=_total(found.get(names.tokens)),
        running=None if running is None else int(running),
        waiting=None if waiting is None else int(waiting),
        kv_used=max(caches) if caches else None,
        prompt=_total(found.get(names.prompt)),
        steps=_total(found.get(names.steps)),
        signs=_total([value for name in names.signs for value in found.get(name, ())]),
        first_s=_total(found.get(first_s)),
        first_n=_total(found.get(first_n)),
    )


def _total(values: list[float] | None) -> float | None:
    return sum(values) if values else None


GATEWAY_MODELS: Final = 50
"""Models of a gateway that are counted."""

_REQUESTS: Final = "litellm_proxy_total_requests_metric_total"
_TOKENS: Final = "litellm_total_tokens_metric_total"


def gateway(text: str) -> Progress | None:
    """What LiteLLM's Prometheus callback counted: requests and tokens by the model that was asked for."""
    counts: dict[str, list[float]] = {}
    for name, labels, value in samples(text, (_REQUESTS, _TOKENS)):
        said = labelled(labels)
        model = plain(said.get("requested_model") or said.get("model") or "", 80)
        if model and model != "None" and (model in counts or len(counts) < GATEWAY_MODELS):
            counts.setdefault(model, [0.0, 0.0])[name == _TOKENS] += value
    if not counts:
        return None
    models = tuple(ModelCount(name, requests, tokens) for name, (requests, tokens) in sorted(counts.items()))
    return Progress(models=models)
