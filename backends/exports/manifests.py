"""A deployment as plain manifests: a claim, a job that fills it, the Deployment and its Service."""

from __future__ import annotations

from typing import Any

from backends.cluster.deploying import Spec
from backends.cluster.presets import MODELS
from backends.cluster.tables import Node
from backends.exports.pods import AWAIT, KEY_FOLDER, Pod, fetching, pod, spread
from backends.yaml import yaml


def manifests(spec: Spec, node: Node, *, namespace: str, storage: str, storage_class: str = "") -> str:
    """All of it as one YAML stream, for `kubectl apply --server-side -f -`; `storage` is the claim's size."""
    made = pod(spec, node)
    found = [_claim(made, namespace, storage, storage_class)]
    if made.fetch is not None:
        found.append(_job(made, namespace, f"{made.name}-token" if spec.token else ""))
    return "---\n".join(yaml(each) for each in [*found, _deployment(made, namespace), _service(made, namespace)])


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
    container = {
        "name": "fetch",
        **fetching(made, token),
        "volumeMounts": [{"name": "models", "mountPath": MODELS}],
        "securityContext": _modest(),
    }
    inner: dict[str, Any] = {
        "restartPolicy": "OnFailure",
        "containers": [container],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": made.claim}}],
    }
    inner |= {"nodeSelector": {"kubernetes.io/hostname": made.host}} if made.host else {}
    template = {"metadata": {"labels": {"app.kubernetes.io/name": f"{made.name}-fetch"}}, "spec": inner}
    spec = {"backoffLimit": 6, "ttlSecondsAfterFinished": 86400, "template": template}
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
        "ports": [{"name": "http", "containerPort": made.port}],
        "startupProbe": made.probe(startup=True),
        "readinessProbe": made.probe(),
        "livenessProbe": made.probe(),
        "volumeMounts": mounts,
        "securityContext": _modest(),
    }
    if made.gpus:
        container["resources"] = {"limits": {name: str(count) for name, count in made.gpus.items()}}
    inner: dict[str, Any] = {"containers": [container], "volumes": volumes, "enableServiceLinks": False}
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
    return {"allowPrivilegeEscalation": False, "seccompProfile": {"type": "RuntimeDefault"}}


def _service(made: Pod, namespace: str) -> dict[str, Any]:
    ports = [{"name": "http", "port": made.port, "targetPort": "http"}]
    spec = {"selector": {"app.kubernetes.io/name": made.name}, "ports": ports}
    return {**_named("Service", "v1", made.name, made, namespace), "spec": spec}
