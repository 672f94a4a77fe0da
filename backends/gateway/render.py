"""LiteLLM's config.yaml from the inventory: a group for each task and each model, fallbacks, and limits that work.

How LiteLLM behaves was read in its source and seen in 1.106: a group of one deployment is never cooled down unless
`allowed_fails` differs from LiteLLM's own default, 3; failures are counted for as long as a cool-down lasts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from backends.cluster.inventory import Inventory
from backends.cluster.outside import address, key_variable
from backends.cluster.reading import ModelInfo
from backends.cluster.tables import Endpoint
from backends.errors import GatewayError
from backends.yaml import yaml

MASTER: Final = "LITELLM_MASTER_KEY"
"""The environment variable from which LiteLLM takes its own key."""

PREFIX: Final = {
    "ollama": "ollama_chat",
    "llama.cpp": "openai",
    "vllm": "hosted_vllm",
    "lmstudio": "openai",
    "sglang": "openai",
    "openai": "openai",
}
"""By which of LiteLLM's providers each engine is asked for chats; Ollama's embeddings go by `ollama`."""

ALLOWED_FAILS: Final = 1
"""Failed requests that are forgiven within a cool-down's time; a request counts once, whatever its retries."""

COOLDOWN: Final = 60
"""Seconds for which a deployment that failed is left out."""

HEALTH_INTERVAL: Final = 30
"""Seconds between LiteLLM's own health checks, if they are turned on; shorter than the cool-down."""

TIMEOUT: Final = 600
"""Seconds for a whole answer, as this console waits for one."""

STREAM_TIMEOUT: Final = 300
"""Seconds until an answer begins to stream: Ollama gives a model five minutes to load."""

MOST_FALLBACKS: Final = 5
"""How many fallbacks LiteLLM tries if nothing is said."""

_EMBEDS: Final = re.compile(r"embed|minilm|(?<![a-z])(?:bge|gte|e5|jina)[-_]", re.IGNORECASE)
_LAZY: Final = frozenset({"ollama", "lmstudio"})

_NOTES: Final = {
    "  allowed_fails:": "LiteLLM takes 3, its default, for not set, and then a group of one is never cooled down.",
    "  background_health_checks:": "true asks every model for a token at each turn: it loads and wakes what is asleep.",
    "  health_check_interval:": "Must stay below cooldown_time, or a check finds nothing cooled down any more.",
}
"""What stands as a comment above a line."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The file; what a person should know of it; and the variables it refers to, each with the reference behind it."""

    text: str
    groups: tuple[str, ...]
    remarks: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Deployment:
    """A model at an endpoint; `label` is the group of all endpoints that serve it."""

    endpoint: Endpoint
    name: str
    label: str
    embeds: bool
    context: int | None


def render(inventory: Inventory, served: Mapping[str, Sequence[ModelInfo]]) -> Rendered:
    """The configuration of the cluster's gateway; `served` are the models that each endpoint names, where it answers.

    GatewayError where not one model is known. The same cluster and models give the same text.
    """
    remarks: list[str] = []
    known = {e.name: _deployments(inventory, e, served.get(e.name, ())) for e in _led_to(inventory, remarks)}
    for name, found in known.items():
        if not found:
            remarks.append(f"{name} is left out: it names no models now; start it, or say model = ... in cluster.toml.")
    tasks = {task: _chain(inventory, task, known) for task in inventory.assigned_tasks}
    tasks = {task: chain for task, chain in tasks.items() if chain}
    models: dict[str, list[_Deployment]] = {}
    for each in (each for found in known.values() for each in found):
        models.setdefault(each.label, []).append(each)
    for label in [label for label in models if label in tasks]:
        remarks.append(f"The model {label} has the name of a task; only the task's group is written.")
        del models[label]
    if not models:
        raise GatewayError(
            "No engine of this cluster names a model, so the gateway would have nothing to serve.",
            "Start one, or say model = ... of an endpoint in cluster.toml.",
        )
    groups = [*((task, chain[:1]) for task, chain in tasks.items()), *models.items()]
    entries = [_entry(inventory, group, each) for group, deployments in groups for each in deployments]
    document = {
        "model_list": entries,
        "router_settings": _router(tasks, models),
        "litellm_settings": {"drop_params": True},
        "general_settings": {
            "master_key": f"os.environ/{MASTER}",
            "background_health_checks": False,
            "health_check_interval": HEALTH_INTERVAL,
        },
    }
    if any(each.endpoint.engine == "ollama" for found in models.values() for each in found):
        remarks.append("LiteLLM cools down no Ollama that refuses connections: each request tries it, then falls back.")
    variables = tuple(dict.fromkeys(_variables(inventory, known)))
    remarks += [f"Set {name} in the gateway's environment ({reference})." for name, reference in variables]
    head = f"# {inventory.name}: written by `tierdeck gateway render`; what is changed here, the next push undoes.\n"
    text = head + _explained(yaml(document))
    return Rendered(text, tuple(group for group, _ in groups), tuple(remarks), variables)


def label_of(name: str) -> str:
    """A model's name as people say it: without the folder and ending that llama.cpp gives it."""
    return (name.rsplit("/", 1)[-1] if name.startswith("/") else name).removesuffix(".gguf")


def embeds(name: str) -> bool:
    """Whether a model's name says that it embeds and does not chat."""
    return _EMBEDS.search(name) is not None


def base(inventory: Inventory, endpoint: Endpoint) -> str:
    """The `api_base` of an endpoint, as the gateway's own machine reaches it."""
    url = endpoint.url if _beside(inventory, endpoint) else address(inventory, endpoint)
    return url if endpoint.engine == "ollama" else f"{url}/v1"


def gateway_endpoint(inventory: Inventory) -> Endpoint:
    """The endpoint of the gateway; GatewayError where there is none."""
    found = inventory.gateway_endpoint
    if found is None:
        raise GatewayError("cluster.toml names no gateway.", '[gateway] endpoint = "gateway/litellm"')
    return found


def _beside(inventory: Inventory, endpoint: Endpoint) -> bool:
    """Whether the gateway runs on the endpoint's own machine, outside of a container, so that loopback leads to it."""
    gateway = inventory.gateway_endpoint
    return (
        gateway is not None and gateway.node is not None and gateway.node == endpoint.node and gateway.container is None
    )


def _led_to(inventory: Inventory, remarks: list[str]) -> Iterator[Endpoint]:
    """The engines that the gateway can reach; why another is not, is remarked."""
    for endpoint in inventory.endpoints:
        if endpoint.engine in ("litellm", "http"):
            continue
        beside = _beside(inventory, endpoint)
        if endpoint.via is not None and not beside:
            remarks.append(f"{endpoint.name} is left out: only SSH leads there, which LiteLLM does not speak.")
            continue
        host = urlsplit(base(inventory, endpoint)).hostname or ""
        if not beside and (host == "localhost" or host.startswith("127.") or host == "::1"):
            remarks.append(f"{endpoint.name}: {host} is the gateway's own machine there; name its node's address.")
        yield endpoint


def _deployments(inventory: Inventory, endpoint: Endpoint, infos: Sequence[ModelInfo]) -> list[_Deployment]:
    contexts = {info.name: info.context for info in infos}
    names = sorted(contexts)
    if endpoint.model is not None:
        names = [endpoint.model, *(name for name in names if name != endpoint.model)]
    if not names and endpoint.engine == "llama.cpp":
        names = [endpoint.name.rsplit("/", 1)[-1]]  # it answers to any name
    by_label = {label_of(name): name for name in reversed(names)}  # a file and its alias are one model
    return [
        _deployment(inventory, endpoint, by_label[label], contexts.get(by_label[label]))
        for label in dict.fromkeys(map(label_of, names))
    ]


def _deployment(inventory: Inventory, endpoint: Endpoint, name: str, context: int | None) -> _Deployment:
    label = label_of(name)
    told = next((m.context for m in inventory.models if label_of(m.name) == label), None)
    only = endpoint.serves == ("embed",)
    return _Deployment(endpoint, label if name.startswith("/") else name, label, only or embeds(name), context or told)


def _chain(inventory: Inventory, task: str, known: Mapping[str, Sequence[_Deployment]]) -> list[_Deployment]:
    """For a task one model of each endpoint that serves it, the preferred first."""
    found = (
        next((each for each in known.get(name, ()) if each.embeds == (task == "embed")), None)
        for name in inventory.chain(task)
    )
    return [each for each in found if each is not None]


def _entry(inventory: Inventory, group: str, each: _Deployment) -> dict[str, Any]:
    endpoint = each.endpoint
    prefix = "ollama" if each.embeds and endpoint.engine == "ollama" else PREFIX[endpoint.engine]
    params: dict[str, Any] = {"model": f"{prefix}/{each.name}", "api_base": base(inventory, endpoint)}
    variable = key_variable(endpoint)
    if variable is not None:
        params["api_key"] = f"os.environ/{variable}"
    elif endpoint.engine != "ollama":
        params["api_key"] = "none"
    info: dict[str, Any] = {"mode": "embedding"} if each.embeds else {}
    if each.context:
        info["max_input_tokens"] = each.context
    if endpoint.on_demand or endpoint.engine in _LAZY:
        info["disable_background_health_check"] = True
    return {"model_name": group, "litellm_params": params} | ({"model_info": info} if info else {})


def _router(tasks: Mapping[str, list[_Deployment]], models: Mapping[str, list[_Deployment]]) -> dict[str, Any]:
    fallbacks = {task: _others(chain[0], chain[1:], models) for task, chain in tasks.items()}
    wider = {
        task: _others(chain[0], [each for each in chain[1:] if _longer(each, chain[0])], models)
        for task, chain in tasks.items()
    }
    settings: dict[str, Any] = {
        "routing_strategy": "simple-shuffle",
        "num_retries": 1,
        "timeout": TIMEOUT,
        "stream_timeout": STREAM_TIMEOUT,
        "allowed_fails": ALLOWED_FAILS,
        "cooldown_time": COOLDOWN,
        "fallbacks": [{task: others} for task, others in fallbacks.items() if others],
        "context_window_fallbacks": [{task: others} for task, others in wider.items() if others],
    }
    longest = max(map(len, fallbacks.values()), default=0)
    if longest > MOST_FALLBACKS:
        settings["max_fallbacks"] = longest
    if any(each.context for found in models.values() for each in found):
        settings["enable_pre_call_checks"] = True
    return settings


def _others(first: _Deployment, rest: Iterable[_Deployment], models: Mapping[str, Sequence[_Deployment]]) -> list[str]:
    """The groups to fall back to, each once; not one in which there is nothing but what failed."""
    labels = dict.fromkeys(each.label for each in rest)
    return [label for label in labels if any(each != first for each in models.get(label, ()))]


def _longer(each: _Deployment, than: _Deployment) -> bool:
    return each.context is not None and than.context is not None and each.context > than.context


def _variables(inventory: Inventory, known: Mapping[str, Sequence[_Deployment]]) -> Iterator[tuple[str, str]]:
    gateway = inventory.gateway_endpoint
    asked = gateway.api_key if gateway else None
    yield MASTER, f"its own key, {asked}" if asked else "its own key, which begins with sk-"
    for endpoint in (inventory.endpoint_named[name] for name, found in known.items() if found):
        if (variable := key_variable(endpoint)) is not None:
            yield variable, f"the key of {endpoint.name}, {endpoint.api_key}"


def _explained(text: str) -> str:
    lines = []
    for line in text.splitlines():
        note = next((note for start, note in _NOTES.items() if line.startswith(start)), None)
        if note is not None:
            lines.append(f"  # {note}")
        lines.append(line)
    return "\n".join(lines) + "\n"
