"""vLLM's /metrics: the families recorded from 0.32 that say something about work and progress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.simulator.engines.vllm import Vllm

_TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0)
_SOURCES = ("device", "host", "p2p", "disk", "external_unspecified")
_ZERO_COUNTERS = {
    "estimated_flops_per_gpu": "Estimated number of floating point operations per GPU.",
    "estimated_read_bytes_per_gpu": "Estimated number of bytes read from memory per GPU.",
    "estimated_write_bytes_per_gpu": "Estimated number of bytes written to memory per GPU.",
    "prefix_cache_hits": "Prefix cache hits, in terms of number of cached tokens.",
    "external_prefix_cache_queries": "External prefix cache queries from KV connector.",
    "external_prefix_cache_hits": "External prefix cache hits from KV connector.",
    "mm_cache_queries": "Multi-modal cache queries, in terms of number of queried items.",
    "mm_cache_hits": "Multi-modal cache hits, in terms of number of cached items.",
    "num_preemptions": "Cumulative number of preemption from the engine.",
    "prompt_tokens_cached": "Number of cached prompt tokens (local + external).",
}

Samples = Sequence[tuple[Mapping[str, str], float]]


def render(engine: Vllm) -> str:
    """The whole answer."""
    return "\n".join(_lines(engine)) + "\n"


def _lines(engine: Vllm) -> Iterator[str]:
    base = {"engine": "0", "model_name": engine.models[0]}
    yield from _family("python_info", "gauge", "Python platform information", [({"version": "3.11.7"}, 1.0)])
    yield from _family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", [({}, 6.5e8)])
    for name, help_text in _ZERO_COUNTERS.items():
        yield from _counter(engine, name, help_text, [(base, 0.0)])
    yield from _gauges(engine, base)
    queries = float(engine.prompt_tokens)
    yield from _counter(
        engine, "prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens.", [(base, queries)]
    )  # fmt: skip
    yield from _counter(engine, "prompt_tokens", "Number of prefill tokens processed.", [(base, queries)])
    yield from _counter(
        engine,
        "prompt_tokens_by_source",
        "Number of prompt tokens by source.",
        [
            ({**base, "source": source}, queries if source == "local_compute" else 0.0)
            for source in ("local_compute", "local_cache_hit", "external_kv_transfer")
        ],
    )
    yield from _counter(
        engine,
        "prompt_tokens_cached_by_source",
        "Number of cached prompt tokens by source.",
        [({**base, "source": source}, 0.0) for source in _SOURCES],
    )
    generated = float(engine.predicted_tokens)
    yield from _counter(engine, "generation_tokens", "Number of generation tokens processed.", [(base, generated)])
    finished = [({**base, "finished_reason": why}, float(n)) for why, n in engine.finished.items()]
    yield from _counter(engine, "request_success", "Count of successfully processed requests.", finished)
    done = sum(engine.finished.values())
    yield from _histogram("request_prompt_tokens", "Number of prefill tokens processed.", base, _TOKENS, done, queries)
    yield from _histogram(
        "request_generation_tokens", "Number of generation tokens processed.", base, _TOKENS, done, generated
    )  # fmt: skip
    yield from _histogram(
        "time_to_first_token_seconds", "Histogram of time to first token in seconds.", base, _SECONDS, done, done * 0.05
    )  # fmt: skip


def _gauges(engine: Vllm, base: Mapping[str, str]) -> Iterator[str]:
    yield from _family(
        "vllm:num_requests_running", "gauge", "Number of requests in model execution batches.",
        [(base, 0.0 if engine.wedged else float(engine.running))],
    )  # fmt: skip
    waiting = float(engine.waiting + (engine.running if engine.wedged else 0))
    yield from _family(
        "vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.", [(base, waiting)]
    )
    yield from _family(
        "vllm:num_requests_waiting_by_reason", "gauge", "Number of requests waiting by reason.",
        [({**base, "reason": "capacity"}, waiting), ({**base, "reason": "deferred"}, 0.0)],
    )  # fmt: skip
    states = {"awake": not engine.sleeping, "weights_offloaded": engine.sleeping, "discard_all": False}
    yield from _family(
        "vllm:engine_sleep_state", "gauge", "Engine sleep state.",
        [({**base, "sleep_state": state}, float(on)) for state, on in states.items()],
    )  # fmt: skip
    yield from _family(
        "vllm:kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.",
        [(base, min(1.0, 0.07 * engine.running))],
    )  # fmt: skip


def _counter(engine: Vllm, name: str, help_text: str, samples: Samples) -> Iterator[str]:
    yield from _family(f"vllm:{name}_total", "counter", help_text, samples)
    created = [(labels, float(engine.started)) for labels, _ in samples]
    yield from _family(f"vllm:{name}_created", "gauge", help_text, created)


def _histogram(
    name: str, help_text: str, base: Mapping[str, str], limits: Sequence[float], count: int, total: float
) -> Iterator[str]:
    yield f"# HELP vllm:{name} {help_text}"
    yield f"# TYPE vllm:{name} histogram"
    mean = total / count if count else 0.0
    for limit in (*map(str, limits), "+Inf"):
        yield _sample(f"vllm:{name}_bucket", {**base, "le": limit}, count if mean <= float(limit) else 0)
    yield _sample(f"vllm:{name}_count", base, count)
    yield _sample(f"vllm:{name}_sum", base, total)


def _family(name: str, kind: str, help_text: str, samples: Samples) -> Iterator[str]:
    yield f"# HELP {name} {help_text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield _sample(name, labels, value)


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    if not labels:
        return f"{name} {float(value)}"
    inside = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
    return f"{name}{{{inside}}} {float(value)}"
