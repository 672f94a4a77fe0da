"""A deployment as values of two Helm charts: vLLM's production stack, and bjw-s' app-template.

Keys after the values schemas of the charts: vllm-project/production-stack helm/values.schema.json, and bjw-s-labs
common 5 (controllers, containers, persistence, service).
"""

from __future__ import annotations

from typing import Any, Final

from backends.cluster.deploying import Spec
from backends.cluster.presets import MODELS
from backends.cluster.tables import Node
from backends.errors import ProcedureError
from backends.exports.manifests import marker
from backends.exports.pods import AWAIT, KEY_FOLDER, Pod, fetching, pod, spread
from backends.yaml import yaml

DATA: Final = "/data"
"""Where the production stack mounts its volume."""

_OWN: Final = {"--model", "--host", "--port", "--max-model-len", "--gpu-memory-utilization", "--tensor-parallel-size"}


def vllm_chart(spec: Spec, node: Node, *, storage: str, storage_class: str = "") -> str:
    """Values for vLLM's production stack; ProcedureError for another engine, or an image without a tag."""
    if spec.preset != "vllm":
        raise ProcedureError(f"{spec.name} is served by {spec.preset}, and that chart serves vLLM only.")
    made = pod(spec, node)
    repository, tag = _image(made)
    engine: dict[str, Any] = {
        "name": made.name,
        "repository": repository,
        "tag": tag,
        "modelURL": f"{DATA}/{made.file}",
        "replicaCount": made.replicas,
        "requestCPU": 2,
        "requestMemory": f"{made.memory}Mi",
        "requestGPU": next(iter(made.gpus.values()), 0),
        "pvcStorage": storage,
        "pvcAccessMode": ["ReadWriteOnce"],
        "vllmConfig": _vllm(spec, made),
        "env": [{"name": k, "value": v} for k, v in made.variables.items() if not k.startswith("LMCACHE")],
    }
    if made.gpus and "nvidia.com/gpu" not in made.gpus:
        engine["requestGPUType"] = next(iter(made.gpus))
    engine |= {"storageClass": storage_class} if storage_class else {}
    if spec.offload:
        size = made.variables["LMCACHE_MAX_LOCAL_CPU_SIZE"]
        engine["lmcacheConfig"] = {"enabled": True, "cpuOffloadingBufferSize": size}
    if made.fetch is not None:
        told = fetching(made, f"{made.name}-token" if spec.token else "")
        told["env"] = [{**v, "value": DATA} if v["name"] == "FOLDER" else v for v in told["env"]]
        engine["initContainer"] = {"name": "fetch", **told, "mountPvcStorage": True}
    if made.host:
        expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [made.host]}
        engine["nodeSelectorTerms"] = [{"matchExpressions": [expression]}]
    else:
        engine["affinity"] = spread()
    startup = {k: v for k, v in made.probe(startup=True).items() if k != "timeoutSeconds"}
    told_all: dict[str, Any] = {"enableEngine": True, "startupProbe": startup, "strategy": {"type": "Recreate"}}
    if made.secret:
        told_all["vllmApiKey"] = {"secretName": made.secret, "secretKey": "api_key"}
    return yaml({"servingEngineSpec": {**told_all, "modelSpec": [engine]}})


def _image(made: Pod) -> tuple[str, str]:
    repository, _, tag = made.image.rpartition(":")
    if "@" in made.image or not repository or "/" in tag:
        raise ProcedureError(
            f"That chart wants an image as repository and tag, and {made.image} is not.", 'image = "REPOSITORY:TAG"'
        )
    return repository, tag


def _vllm(spec: Spec, made: Pod) -> dict[str, Any]:
    """The settings that the chart has a key for, and all others as further arguments."""
    config: dict[str, Any] = {"gpuMemoryUtilization": spec.utilisation}
    config |= {"maxModelLen": spec.context} if spec.context else {}
    split = next(iter(made.gpus.values()), 1)
    config |= {"tensorParallelSize": split} if split > 1 else {}
    rest: list[str] = []
    words = iter(made.arguments)
    for word in words:
        if word in _OWN or (word == "--kv-transfer-config" and spec.offload):
            next(words, None)
        else:
            rest.append(word)
    return {**config, "extraArgs": rest}


def app_template(spec: Spec, node: Node, *, storage: str, storage_class: str = "") -> str:
    """Values for bjw-s' app-template."""
    made = pod(spec, node)
    volume: dict[str, Any] = {
        "type": "persistentVolumeClaim",
        "accessMode": "ReadWriteOnce",
        "size": storage,
        "retain": True,
    }
    volume |= {"storageClass": storage_class} if storage_class else {}
    mounts: dict[str, Any] = {made.name: {"engine": [{"path": MODELS}]}}
    controllers: dict[str, Any] = {made.name: _controller(made)}
    if made.file:
        mounts[made.name]["model"] = [{"path": MODELS}]
    if made.fetch is not None:
        mounts["fetch"] = {"fetch": [{"path": MODELS}]}
        controllers["fetch"] = _fetch(made, f"{made.name}-token" if spec.token else "")
    persistence: dict[str, Any] = {"models": {**volume, "advancedMounts": mounts}}
    if made.secret:
        key = [{"path": KEY_FOLDER, "readOnly": True}]
        persistence["key"] = {"type": "secret", "name": made.secret, "advancedMounts": {made.name: {"engine": key}}}
    if made.shared_memory:
        shared = {made.name: {"engine": [{"path": "/dev/shm"}]}}
        size = str(made.shared_memory)
        persistence["shm"] = {"type": "emptyDir", "medium": "Memory", "sizeLimit": size, "advancedMounts": shared}
    service = {
        made.name: {"controller": made.name, "ports": {"http": {"port": made.published, "targetPort": made.port}}}
    }
    return yaml({"controllers": controllers, "service": service, "persistence": persistence})


def _controller(made: Pod) -> dict[str, Any]:
    def probe(*, startup: bool = False) -> dict[str, Any]:
        return {"enabled": True, "custom": True, "spec": made.probe(startup=startup)}

    container: dict[str, Any] = {"image": made.image}
    container |= {"command": list(made.command)} if made.command else {}
    container |= {
        "args": list(made.arguments),
        "env": dict(made.variables),
        "probes": {"startup": probe(startup=True), "readiness": probe(), "liveness": probe()},
    }
    if made.gpus:
        container["resources"] = {"limits": dict(made.gpus)}
    found: dict[str, Any] = {
        "type": "deployment",
        "replicas": made.replicas,
        "strategy": "Recreate",
        "pod": {"labels": made.labels},
        "containers": {"engine": container},
    }
    if made.file:
        wait = {"FOLDER": MODELS, "FILE": marker(made)}
        found["initContainers"] = {"model": {"image": made.image, "command": ["/bin/sh", "-c", AWAIT], "env": wait}}
    if made.host:
        found["pod"]["nodeSelector"] = {"kubernetes.io/hostname": made.host}
    else:
        found["pod"]["affinity"] = spread()
    return found


def _fetch(made: Pod, token: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "job",
        "job": {"backoffLimit": 6},
        "containers": {"fetch": fetching(made, token)},
    }
    if made.host:
        found["pod"] = {"nodeSelector": {"kubernetes.io/hostname": made.host}}
    return found
