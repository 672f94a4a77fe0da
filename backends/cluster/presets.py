"""From a deployment to the body by which Docker creates its container: one small rule per engine, all of them pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from backends.cluster.deploying import Preset, Spec
from backends.cluster.tables import Node
from backends.errors import ProcedureError

MODELS: Final = "/models"
"""Where the volume stands in the container."""

OLLAMA_MODELS: Final = f"{MODELS}/ollama"
"""Where an Ollama keeps what it pulled or made."""

KEY_FILE: Final = "/etc/tierdeck/api_key"
"""Where a container finds its key: a file for its owner's eyes only."""

MADE_BY: Final = "tierdeck.deployment"
"""The label that says which deployment made a container or a volume."""

NAMED: Final = "tierdeck.name"
"""The label with the deployment's name."""

PORTS: Final[Mapping[Preset, int]] = {"llama.cpp": 8080, "ollama": 11434, "vllm": 8000, "litellm": 4000}
"""Where each engine listens inside its container."""

LONG_START_S: Final = 600
"""Seconds for which a failing health check does not count yet: a large model loads for minutes."""

Gpus = tuple[int, ...] | Literal["all", "none"]

_CHUNK_TOKENS: Final = "256"
_SHARED_MEMORY: Final = 8 << 30
_NANO: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Run:
    """What an engine is started with; `program`, where not the image's own, takes its key from the variable `key`."""

    arguments: Sequence[str]
    health: str
    environment: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = ()
    key: str = ""
    shared_memory: int = 0


def gpus_of(spec: Spec, node: Node) -> Gpus:
    """The GPUs it gets: "all", "none" or their numbers."""
    if spec.gpus is not None:
        return spec.gpus
    return "none" if node.gpus == "none" or spec.preset == "litellm" else "all"


def bind_of(spec: Spec) -> str:
    """The address of the node it is published at: what nobody guards is not open to everybody."""
    return spec.bind or ("0.0.0.0" if spec.api_key else "127.0.0.1")


def body(spec: Spec, node: Node, deployment: str) -> dict[str, Any]:
    """What `POST /containers/create` is told; `deployment` is the token by which its maker knows it again.

    ProcedureError where no container can have what it needs.
    """
    refuse_apple(spec, node)
    run = _RUNS[spec.preset](spec, node)
    inner = f"{PORTS[spec.preset]}/tcp"
    told: dict[str, Any] = {
        "Image": spec.image,
        "Cmd": [*run.arguments, *spec.arguments],
        "Env": [f"{name}={value}" for name, value in {**run.environment, **spec.environment}.items()],
        "Labels": labels(spec.name, deployment),
        "ExposedPorts": {inner: {}},
        "Healthcheck": {
            "Test": ["CMD-SHELL", run.health],
            "Interval": 15 * _NANO,
            "Timeout": 5 * _NANO,
            "StartPeriod": LONG_START_S * _NANO,
            "Retries": 3,
        },
        "HostConfig": {
            "Mounts": [{"Type": "volume", "Source": spec.volume_name, "Target": MODELS}],
            "PortBindings": {inner: [{"HostIp": bind_of(spec), "HostPort": str(spec.port)}]},
            "RestartPolicy": {"Name": "no"},
            **_devices(gpus_of(spec, node), node),
            **({"ShmSize": run.shared_memory} if run.shared_memory else {}),
        },
    }
    if run.program:
        script = f'{run.key}="$(cat {KEY_FILE})" && export {run.key} && exec "$@"'
        told["Entrypoint"] = [*(["/bin/sh", "-c", script, "sh"] if spec.api_key else []), *run.program]
    return told


def refuse_apple(spec: Spec, node: Node) -> None:
    """No container of macOS sees its GPU: ProcedureError that says what to do instead."""
    if node.gpus == "apple" and gpus_of(spec, node) != "none":
        raise ProcedureError(
            f"{node.name} has an Apple GPU, and no container can use it: Docker's virtual machine does not pass it on.",
            'Run the engine natively there (Ollama\'s app, llama-server), or say gpus = "none" to run it on the CPU.',
        )


def labels(name: str, deployment: str) -> dict[str, str]:
    """The labels that say who made a thing."""
    return {MADE_BY: deployment, NAMED: name}


def _devices(gpus: Gpus, node: Node) -> dict[str, Any]:
    if gpus == "none":
        return {}
    if node.gpus == "amd":
        cards = [f"/dev/dri/renderD{128 + number}" for number in gpus] if isinstance(gpus, tuple) else ["/dev/dri"]
        paths = [{"PathOnHost": d, "PathInContainer": d, "CgroupPermissions": "rwm"} for d in ("/dev/kfd", *cards)]
        return {"Devices": paths, "GroupAdd": ["video"], "SecurityOpt": ["seccomp=unconfined"]}
    which = {"DeviceIDs": [str(number) for number in gpus]} if isinstance(gpus, tuple) else {"Count": -1}
    return {"DeviceRequests": [{"Driver": "", "Capabilities": [["gpu"]], **which}]}


def _health(url: str) -> str:
    python = f"python3 -c \"import urllib.request as u; u.urlopen('{url}')\""
    return f"curl -fsS -o /dev/null {url} || wget -q -O /dev/null {url} || {python}"


def _llamacpp(spec: Spec, node: Node) -> _Run:
    arguments = ["--host", "0.0.0.0", "--port", str(PORTS["llama.cpp"]), "--model", f"{MODELS}/{spec.file}"]
    arguments += ["--alias", spec.name, "--parallel", str(spec.parallel), "--metrics"]
    if spec.context:
        arguments += ["--ctx-size", str(spec.context)]
    layers = 0 if gpus_of(spec, node) == "none" else 999 if spec.gpu_layers is None else spec.gpu_layers
    arguments += ["--n-gpu-layers", str(layers)]
    if spec.api_key:
        arguments += ["--api-key-file", KEY_FILE]
    return _Run(arguments, _health(f"http://127.0.0.1:{PORTS['llama.cpp']}/health"))


def _ollama(spec: Spec, node: Node) -> _Run:
    environment = {"OLLAMA_HOST": f"0.0.0.0:{PORTS['ollama']}", "OLLAMA_MODELS": OLLAMA_MODELS}
    environment["OLLAMA_NUM_PARALLEL"] = str(spec.parallel)
    if spec.context:
        environment["OLLAMA_CONTEXT_LENGTH"] = str(spec.context)
    if spec.keep_alive:
        environment["OLLAMA_KEEP_ALIVE"] = f"{spec.keep_alive:.0f}s"
    return _Run((), "ollama list", environment)


def _vllm(spec: Spec, node: Node) -> _Run:
    chosen = gpus_of(spec, node)
    arguments = ["--model", f"{MODELS}/{spec.file}", "--served-model-name", spec.name]
    arguments += ["--host", "0.0.0.0", "--port", str(PORTS["vllm"])]
    environment = {"HF_HUB_OFFLINE": "1"}
    if spec.context:
        arguments += ["--max-model-len", str(spec.context)]
    if chosen != "none":
        arguments += ["--gpu-memory-utilization", f"{spec.utilisation:g}"]
    split = spec.tensor_parallel or (len(chosen) if isinstance(chosen, tuple) else 1)
    if split > 1:
        arguments += ["--tensor-parallel-size", str(split)]
    if spec.offload:
        connector = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
        arguments += ["--kv-transfer-config", json.dumps(connector, separators=(",", ":"))]
        size = f"{spec.offload * (1 << 20) / 1e9:.1f}"
        environment |= {"LMCACHE_LOCAL_CPU": "True", "LMCACHE_MAX_LOCAL_CPU_SIZE": size}
        environment["LMCACHE_CHUNK_SIZE"] = _CHUNK_TOKENS
    program = ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    health = _health(f"http://127.0.0.1:{PORTS['vllm']}/health")
    return _Run(arguments, health, environment, program, "VLLM_API_KEY", _SHARED_MEMORY)


def _litellm(spec: Spec, node: Node) -> _Run:
    arguments = ["--config", f"{MODELS}/{spec.file}", "--host", "0.0.0.0", "--port", str(PORTS["litellm"])]
    health = _health(f"http://127.0.0.1:{PORTS['litellm']}/health/liveliness")
    return _Run(arguments, health, {}, ["litellm"], "LITELLM_MASTER_KEY")


_RUNS: Final = {"llama.cpp": _llamacpp, "ollama": _ollama, "vllm": _vllm, "litellm": _litellm}
