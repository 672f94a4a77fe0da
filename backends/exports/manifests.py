"""A deployment as plain manifests: a claim, a job that fills it, the Deployment and its Service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from backends.cluster.deploying import Spec
from backends.cluster.presets import MODELS
from backends.cluster.tables import Node
from backends.exports.pods import AWAIT, FETCHER, KEY_FOLDER, WRONG, Pod, fetching, pod, spread
from backends.yaml import yaml

NOBODY: Final = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}
"""Who fetches a file: nobody in particular; engines' images expect to be root, and a repository's command is theirs."""


def manifests(spec: Spec, node: Node, *, namespace: str, storage: str, storage_class: str = "") -> str:
    """All of it as one YAML stream, for `kubectl apply --server-side -f -`; `storage` is the claim's size."""
    parts = objects(spec, node, namespace=namespace, storage=storage, storage_class=storage_class)
    found = [parts.claim, *([parts.job] if parts.job else []), parts.deployment, parts.service]
    return "---\n".join(yaml(each) for each in found)


@dataclass(frozen=True, slots=True)
class Objects:
    """A deployment's objects; `job` fills the claim where the cluster can do that by itself."""

    claim: dict[str, Any]
    job: dict[str, Any] | None
    deployment: dict[str, Any]
    service: dict[str, Any]


def objects(spec: Spec, node: Node, *, namespace: str, storage: str, storage_class: str = "") -> Objects:
    """Each of its objects as the API takes it; ProcedureError where a cluster cannot have them."""
    made = pod(spec, node)
    return Objects(
        _claim(made, namespace, storage, storage_class),
        _job(made, namespace, token_of(made) if spec.token else "") if made.fetch is not None else None,
        _deployment(made, namespace),
        _service(made, namespace),
    )


def secret(made: Pod, namespace: str, name: str) -> dict[str, Any]:
    """A secret, without its value."""
    return {**_named("Secret", "v1", name, made, namespace), "type": "Opaque"}


def token_of(made: Pod) -> str:
    """The secret with the token of the model's source."""
    return f"{made.name}-token"


def _named(kind: str, version: str, name: str, made: Pod, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": made.labels},
    }


def _claim(made: Pod, namespace: str, storage: str, storage_class: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage}}}
    spec |= {"storageClassName": storage_class} if storage_class else {}
    return {**_named("PersistentVolumeClaim", "v1", made.claim, made, namespace), "spec": spec}


def _job(made: Pod, namespace: str, token: str) -> dict[str, Any]:
    ours = made.fetch is not None and made.fetch.image == FETCHER
    container = {
        "name": "fetch",
        **fetching(made, token),
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "4Gi"}},
        "volumeMounts": [{"name": "models", "mountPath": MODELS}],
        "securityContext": _modest() | ({"readOnlyRootFilesystem": True} if ours else {}),
    }
    inner: dict[str, Any] = {
        **_withdrawn(),
        **({"securityContext": dict(NOBODY)} if ours else {}),
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": made.claim}}],
    }
    inner |= {"nodeSelector": {"kubernetes.io/hostname": made.host}} if made.host else {}
    template = {"metadata": {"labels": {"app.kubernetes.io/name": f"{made.name}-fetch"}}, "spec": inner}
    codes = {"containerName": "fetch", "operator": "In", "values": [WRONG]}
    spec = {
        "backoffLimit": 6,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": codes}]},
        "ttlSecondsAfterFinished": 86400,
        "template": template,
    }
    return {**_named("Job", "batch/v1", f"{made.name}-fetch", made, namespace), "spec": spec}


def _deployment(made: Pod, namespace: str) -> dict[str, Any]:
    select = {"app.kubernetes.io/name": made.name}
    spec = {
        "replicas": made.replicas,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": select},
        "template": {"metadata": {"labels": made.labels}, "spec": _inner(made)},
    }
    return {**_named("Deployment", "apps/v1", made.name, made, namespace), "spec": spec}


def _inner(made: Pod) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [{"name": "models", "mountPath": MODELS}]
    volumes: list[dict[str, Any]] = [{"name": "models", "persistentVolumeClaim": {"claimName": made.claim}}]
    if made.secret:
        mounts.append({"name": "key", "mountPath": KEY_FOLDER, "readOnly": True})
        volumes.append({"name": "key", "secret": {"secretName": made.secret}})
    if made.shared_memory:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(made.shared_memory)}})
    container: dict[str, Any] = {"name": "engine", "image": made.image}
    container |= {"command": list(made.command)} if made.command else {}
    container |= {
        "args": list(made.arguments),
        "env": [{"name": k, "value": v} for k, v in made.variables.items()],
        "ports": [{"name": "http", "containerPort": made.port, "protocol": "TCP"}],
        "startupProbe": made.probe(startup=True),
        "readinessProbe": made.probe(),
        "livenessProbe": made.probe(),
        "volumeMounts": mounts,
        "securityContext": _modest(),
    }
    if resources := _resources(made):
        container["resources"] = resources
    inner: dict[str, Any] = {"containers": [container], "volumes": volumes, **_withdrawn()}
    if made.file:
        inner["initContainers"] = [
            {
                "name": "model",
                "image": made.image,
                "command": ["/bin/sh", "-c", AWAIT],
                "env": [{"name": "FOLDER", "value": MODELS}, {"name": "FILE", "value": marker(made)}],
                "volumeMounts": mounts[:1],
                "securityContext": _modest(),
            }
        ]
    if made.host:
        inner["nodeSelector"] = {"kubernetes.io/hostname": made.host}
    else:
        inner["affinity"] = spread()
    return inner


def marker(made: Pod) -> str:
    """What stands in the volume once the model is whole: the file itself, or a mark in its repository's folder."""
    return f"{made.file}/.whole" if made.fetch is not None and "REPOSITORY" in made.fetch.variables else made.file


def _modest() -> dict[str, Any]:
    """No more rights than an engine needs; GPUs come by the device plugin, not by privilege."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _withdrawn() -> dict[str, Any]:
    """What a pod of ours does without: a login to the API, and the addresses of all Services in its environment."""
    return {"automountServiceAccountToken": False, "enableServiceLinks": False}


def _resources(made: Pod) -> dict[str, Any]:
    """Its GPUs, and the RAM by which the scheduler leaves out nodes that have too little."""
    found: dict[str, Any] = {"requests": {"memory": f"{made.memory}Mi"}} if made.memory else {}
    return found | ({"limits": {name: str(count) for name, count in made.gpus.items()}} if made.gpus else {})


def _service(made: Pod, namespace: str) -> dict[str, Any]:
    ports = [{"name": "http", "port": made.published, "targetPort": "http", "protocol": "TCP"}]
    spec = {"selector": {"app.kubernetes.io/name": made.name}, "ports": ports}
    return {**_named("Service", "v1", made.name, made, namespace), "spec": spec}
