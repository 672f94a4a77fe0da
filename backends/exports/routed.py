"""llm-d's routing before a deployment of vLLM, as values of its InferencePool chart, and what of it does not fit.

Keys after the README of kubernetes-sigs/gateway-api-inference-extension config/charts/inferencepool (1.5), which
llm-d's guides install; plugins and weights after llm-d's documents on the endpoint picker.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from backends.cluster.deploying import Spec
from backends.cluster.tables import Node
from backends.errors import ProcedureError
from backends.exports.pods import PART_OF, pod
from backends.yaml import yaml

SCORERS: Final = (("queue-scorer", 2), ("kv-cache-utilization-scorer", 2), ("prefix-cache-scorer", 3))
"""By what a replica is chosen, and how much each counts: waiting requests, free cache, a prompt it has seen."""

LMCACHE: Final = "lmcache"
"""The word in the names of images that have LMCache's connector."""

_FILE: Final = "tierdeck-plugins.yaml"
_CONNECTOR: Final = "--kv-transfer-config"
_NO_PREFIXES: Final = "--no-enable-prefix-caching"


def llm_d(spec: Spec, node: Node, *, provider: str = "none") -> str:
    """Values for the InferencePool chart; ProcedureError for what its picker cannot route to."""
    if spec.preset != "vllm":
        raise ProcedureError(f"{spec.name} is served by {spec.preset}, and llm-d routes to vLLM.")
    if _NO_PREFIXES in spec.arguments:
        raise ProcedureError(
            f"{spec.name} has {_NO_PREFIXES}, and llm-d's prefix-cache-scorer sends prompts to where their beginning "
            "should be cached.",
            f"Leave {_NO_PREFIXES} out of arguments.",
        )
    made = pod(spec, node)
    plugins: dict[str, Any] = {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [{"type": name} for name, _ in SCORERS],
        "schedulingProfiles": [
            {"name": "default", "plugins": [{"pluginRef": name, "weight": weight} for name, weight in SCORERS]}
        ],
    }
    return yaml(
        {
            "inferencePool": {
                "targetPorts": [{"number": made.port}],
                "modelServerType": "vllm",
                "modelServers": {"matchLabels": {"app.kubernetes.io/name": made.name, **PART_OF}},
            },
            "inferenceExtension": {
                "replicas": 1,
                "pluginsConfigFile": _FILE,
                "pluginsCustomConfig": {_FILE: yaml(plugins)},
            },
            "provider": {"name": provider},
        }
    )


def remarks(spec: Spec, node: Node) -> Iterator[str]:
    """What of vLLM's settings for LMCache does not fit together, with what to do about it."""
    connects = any(word.partition("=")[0] == _CONNECTOR for word in spec.arguments)
    if (spec.offload or connects) and LMCACHE not in spec.image:
        yield (
            f"The image {spec.image} may lack LMCache, and vLLM then ends at its kv_connector: name an image that has "
            "it (lmcache/vllm-openai)."
        )
    if spec.offload and connects:
        yield f"offload says {_CONNECTOR} already, and arguments say it again: the last one counts. Leave one out."
    if spec.offload and not pod(spec, node).gpus:
        yield "offload keeps what does not fit the GPU, and it gets no GPU: leave it out."
    if spec.offload and _NO_PREFIXES in spec.arguments:
        yield f"{_NO_PREFIXES} and offload work against each other: what LMCache keeps is found by its prefix."
