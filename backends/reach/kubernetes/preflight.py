"""Whether a cluster would take a deployment: rights, namespace, storage class, GPUs, and a pod by the API's dry run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backends.cluster.reading import Device
from backends.errors import RuntimeFailure
from backends.reach.kubernetes.api import KubernetesApi
from backends.reach.kubernetes.objects import path_of
from backends.reach.kubernetes.quantities import quantity
from backends.reach.kubernetes.refusals import is_withheld
from backends.reach.kubernetes.rights import Right, ask
from backends.reach.kubernetes.shapes import Host
from backends.text import plain

DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"
"""The annotation of the storage class that claims get which name none."""

GIB: Final = 2.0**30

_OWN: Final = ("get", "create", "patch", "delete")
_NEEDED: Final = (
    ("", "persistentvolumeclaims", "", _OWN),
    ("", "services", "", _OWN),
    ("apps", "deployments", "", _OWN),
    ("apps", "deployments", "scale", ("get", "update")),
    ("batch", "jobs", "", _OWN),
    ("", "pods", "", ("list",)),
    ("", "pods", "log", ("get",)),
    ("", "services", "proxy", ("get", "create")),
)
_SECRETS: Final = (("", "secrets", "", _OWN),)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a deployment wants of a cluster: its objects, and the storage class of its claim ("" for the default)."""

    namespace: str
    claim: Mapping[str, Any]
    job: Mapping[str, Any] | None
    deployment: Mapping[str, Any]
    gpus: Mapping[str, int]
    storage_class: str = ""
    secrets: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What was seen, in lines; why its pod would wait ("" where it would not), and whose the name is already.

    `claim` says that the claim is there, `taken` that a Deployment of that name is, whoever made it.
    """

    seen: tuple[str, ...]
    waits: str
    claim: bool
    taken: str


async def examine(api: KubernetesApi, host: Host | None, devices: Sequence[Device], wanted: Wanted) -> Found:
    """Ask for all that a deployment needs; RuntimeFailure, in words, for the first thing that cannot be.

    `host` is None where we may not look at nodes: then nothing is known of GPUs.
    """
    namespace = wanted.namespace
    if host is not None:
        refuse_host(api.name, host)
    seen = [await refuse_namespace(api, namespace)]
    seen.append(await refuse_rights(api, needed(namespace, secrets=wanted.secrets)))
    claim = await _there(api, wanted.claim)
    if claim is None:
        seen.append(await refuse_class(api, wanted.storage_class))
    else:
        size = str(((claim.get("status") or {}).get("capacity") or {}).get("storage") or "size not known")
        seen.append(f"claim {claim['metadata']['name']}: there ({size})")
    if wanted.job is not None and await _there(api, wanted.job) is not None:
        name = wanted.job["metadata"]["name"]
        raise RuntimeFailure(
            f"There is a Job {name} in {namespace} already, of another deployment.",
            f"Remove it: kubectl delete job -n {namespace} {name}",
        )
    said, waits = room(host, wanted, devices) if host else ("nodes: we may not look at them", "")
    taken = await _there(api, wanted.deployment)
    await refuse_pod(api, wanted.deployment)
    return Found((*seen, *([said] if said else [])), waits, claim is not None, _whose(taken))


async def _there(api: KubernetesApi, thing: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        return await api.get(path_of(thing))
    except RuntimeFailure as failure:
        if failure.status == 404:
            return None
        raise


def _whose(found: Mapping[str, Any] | None) -> str:
    """A Deployment in words: its image, its replicas; "" for none."""
    if found is None:
        return ""
    containers = found["spec"]["template"]["spec"].get("containers") or [{}]
    return f"{plain(str(containers[0].get('image')), 100)}, replicas: {found['spec'].get('replicas', 1)}"


def needed(namespace: str, *, secrets: bool) -> list[Right]:
    """What a deployment does in its namespace, with `secrets` where it has a key or a token."""
    resources = [*_NEEDED, *(_SECRETS if secrets else ())]
    return [Right(verb, group, name, part, namespace) for group, name, part, verbs in resources for verb in verbs]


async def refuse_rights(api: KubernetesApi, rights: Sequence[Right]) -> str:
    """How many rights were asked about, side by side; RuntimeFailure that names all that are missing."""
    answers = await asyncio.gather(*(ask(api, right) for right in rights))
    missing = [right.what for right, yes in zip(rights, answers, strict=True) if yes is False]
    namespace = rights[0].namespace
    if missing:
        raise RuntimeFailure(
            f"{api.name}: may not: {', '.join(missing)} in {namespace}.", "Give that in a Role of that namespace."
        )
    return f"rights in {namespace}: all {len(rights)} that it needs"


async def refuse_namespace(api: KubernetesApi, namespace: str) -> str:
    """That the namespace is there; RuntimeFailure where it is not, or is being deleted."""
    try:
        found = await api.get(f"/api/v1/namespaces/{namespace}")
    except RuntimeFailure as failure:
        if failure.status == 404:
            advice = f"Make it: kubectl create namespace {namespace}; or say namespace = another."
            raise RuntimeFailure(f"{api.name} has no namespace {namespace}.", advice) from None
        if is_withheld(failure):
            return f"namespace {namespace}: we may not look at it"
        raise
    if (found.get("status") or {}).get("phase") == "Terminating":
        raise RuntimeFailure(f"The namespace {namespace} of {api.name} is being deleted.", "Wait, or name another.")
    return f"namespace {namespace}: there"


async def refuse_class(api: KubernetesApi, wanted: str) -> str:
    """Which storage class a claim would get; RuntimeFailure where it would get none."""
    try:
        listed = (await api.get("/apis/storage.k8s.io/v1/storageclasses")).get("items") or []
    except RuntimeFailure as failure:
        if is_withheld(failure):
            return f"storage class {wanted or 'of the cluster'}: we may not look at it"
        raise
    names = [str(each["metadata"]["name"]) for each in listed]
    marked = [n for n, each in zip(names, listed, strict=True) if _is_default(each)]
    if wanted in names:
        return f"storage class {wanted}: there"
    known = f"It has: {', '.join(names)}." if names else "It has none: install a provisioner."
    if wanted:
        raise RuntimeFailure(f"{api.name} has no storage class {wanted}.", known)
    if not marked:
        raise RuntimeFailure(f"{api.name} has no default storage class.", f"Say storage_class = ... {known}")
    return f"storage class {marked[0]}: the default"


def _is_default(found: Mapping[str, Any]) -> bool:
    return (found["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"


def refuse_host(cluster: str, host: Host) -> None:
    """RuntimeFailure where nothing is placed on that node now."""
    if not host.ready:
        raise RuntimeFailure(f"{host.name} is NotReady in {cluster}: {host.why}.", "Nothing starts there now.")
    if host.cordoned:
        raise RuntimeFailure(
            f"{host.name} is cordoned: nothing new is placed on it.", f"Allow it again: kubectl uncordon {host.name}"
        )


def gpus(node: str, asked: Mapping[str, int], devices: Sequence[Device]) -> tuple[str, str]:
    """How many of the GPUs it asks for are free, in words, and why it would stay pending ("" where it would not)."""
    seen, waits = [], []
    for name, count in asked.items():
        device = next((d for d in devices if d.name == name), None)
        free = device.allocatable - device.requested if device else 0
        total = device.allocatable if device else 0
        seen.append(f"{name} on {node}: {count} asked, {free} of {total} free")
        if device is None or total < count:
            waits.append(f"{node} hands out {total} {name}, and {count} are asked for")
        elif free < count:
            waits.append(f"{node} has {free} of {total} {name} free, held by {', '.join(device.holders)}")
    return "; ".join(seen), "; ".join(waits)


def room(host: Host, wanted: Wanted, devices: Sequence[Device]) -> tuple[str, str]:
    """What it asks of a node's GPUs and memory, in words, and why it would stay pending ("" where it would not)."""
    told = [gpus(host.name, wanted.gpus, devices), memory(host, wanted.deployment)]
    return "; ".join(said for said, _ in told if said), "; ".join(waits for _, waits in told if waits)


def memory(host: Host, deployment: Mapping[str, Any]) -> tuple[str, str]:
    """The RAM that its pod requests, such as what LMCache keeps, beside all that the node's pods may have."""
    containers = deployment["spec"]["template"]["spec"].get("containers") or ()
    requests = [((each.get("resources") or {}).get("requests") or {}).get("memory") for each in containers]
    asked = sum(quantity(each) or 0.0 for each in requests)
    if not asked or host.memory is None:
        return "", ""
    amounts = f"{asked / GIB:.1f} GiB", f"{host.memory / GIB:.1f} GiB"
    said = f"memory on {host.name}: {amounts[0]} asked of {amounts[1]}"
    waits = f"{host.name} has {amounts[1]} of memory for pods, and {amounts[0]} are asked for"
    return said, waits if asked > host.memory else ""


async def refuse_pod(api: KubernetesApi, workload: Mapping[str, Any]) -> None:
    """Have the API say what forbids one more pod of it; where we may not ask that, the start will tell.

    RuntimeFailure names the quota or the admission rule.
    """
    pod = _pod_of(workload)
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods"
    try:
        await api.send("POST", path, pod, params={"dryRun": "All"})
    except RuntimeFailure as failure:  # who may not make pods may have Deployments make them
        if not is_withheld(failure) and "does not support dry run" not in failure.message:
            raise


def _pod_of(workload: Mapping[str, Any]) -> dict[str, Any]:
    """The pod that a workload would make; a StatefulSet's with the volumes that it claims for each."""
    named, spec = workload["metadata"], workload.get("spec") or {}
    template = spec.get("template") or {}
    meta, inner = template.get("metadata") or {}, dict(template.get("spec") or {})
    claims = [str((claim.get("metadata") or {}).get("name")) for claim in spec.get("volumeClaimTemplates") or ()]
    own = [{"name": c, "persistentVolumeClaim": {"claimName": f"{c}-{named['name']}-0"}} for c in claims]
    if own:
        inner["volumes"] = [*(inner.get("volumes") or ()), *own]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{named['name'][:50]}-",
            "namespace": named["namespace"],
            "labels": meta.get("labels") or {},
            "annotations": meta.get("annotations") or {},
        },
        "spec": inner,
    }
