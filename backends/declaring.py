"""Finds out whether a deployment can be declared to its node's cluster: asked of its API, and rehearsed by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from backends.cluster.deploying import Spec
from backends.cluster.inventory import Inventory
from backends.cluster.tables import Node
from backends.cluster.words import KUBERNETES
from backends.errors import ProcedureError
from backends.exports.manifests import Objects, objects, secret, token_of
from backends.exports.pods import Pod, namespace_of, pod, refuse_words
from backends.exports.routed import remarks
from backends.procedures.declaring import Coming, Parts, Thing
from backends.procedures.deploy import Site
from backends.reach.kubernetes.changes import marked
from backends.reach.kubernetes.preflight import Wanted
from backends.reach.kubernetes.runtime import KubernetesRuntime

ROOM: Final = 1.1
"""How much larger than its model a volume is made, and a GiB."""

_GIB: Final = 1 << 30


class Told(Protocol):
    """What was seen, and what a person should know before a yes."""

    why: list[str]
    warnings: list[str]

    def refuse(self, message: str, advice: str, forced: str) -> None:
        """Refuse, or where it is forced say what will happen."""
        ...


async def declarable(spec: Spec, inventory: Inventory, site: Site, runtime: KubernetesRuntime, told: Told) -> Parts:
    """What is to be declared; ProcedureError or RuntimeFailure where it cannot be, and then nothing was changed."""
    node, namespace = inventory.node_named[spec.node], namespace_of(spec, inventory)
    made = pod(spec, node)
    _refuse_ways(spec)
    _refuse_unseen(node, inventory, namespace)
    parts, content = _objects(spec, node, namespace, site), f"{made.file} {spec.sha256 or spec.model}"
    if parts.job is not None and await runtime.objects.noted(parts.claim) == content:
        told.why.append(f"{made.file} is in the claim {made.claim} already")
        parts = replace(parts, job=None)
    wanted = Wanted(
        namespace, parts.claim, parts.job, parts.deployment, made.gpus, spec.storage_class or "",
        secrets=bool(spec.api_key or spec.token),
    )  # fmt: skip
    found = await runtime.examine(wanted)
    told.why += found.seen
    if found.waits:
        told.refuse(
            f"Its pod would wait: {found.waits}.",
            "Stop what holds them, or ask for less (gpus, offload).",
            "its pod stays pending until there is room.",
        )
    if found.taken:
        told.refuse(
            f"{namespace} has a Deployment {made.name} already ({found.taken}).",
            f"Choose another name, or remove it: kubectl delete deployment -n {namespace} {made.name}",
            "it is stopped, changed as the plan says, and started again.",
        )
    if found.claim:
        told.warnings.append(f"The claim {made.claim} is there already: what is in it stays.")
    told.warnings += remarks(spec, node)
    if made.fetch is None and spec.model:
        _by_hand(spec, made, told, there=found.claim)

    async def coming(thing: Thing) -> Coming:
        return Coming(thing, await runtime.objects.rehearse(thing))

    if parts.job is not None:
        await runtime.objects.rehearse(parts.job)
    return Parts(
        runtime=KUBERNETES,
        namespace=namespace,
        volume=parts.claim,
        coming_volume=None if found.claim else await coming(parts.claim),
        secrets=await _secrets(spec, made, namespace, site, runtime, told),
        work=parts.job,
        content=content,
        workload=await coming(parts.deployment),
        address=await coming(parts.service),
    )


def _objects(spec: Spec, node: Node, namespace: str, site: Site) -> Objects:
    """Its objects with our mark, and no replicas yet."""
    if not site.size and not spec.storage:
        raise ProcedureError(f"How large the volume of {spec.name} is to be is not known.", 'Say storage = "100Gi".')
    storage = spec.storage or f"{math.ceil(site.size * ROOM / _GIB) + 1}Gi"
    refuse_words(namespace, storage)
    parts = objects(spec, node, namespace=namespace, storage=storage, storage_class=spec.storage_class or "")
    still = {**parts.deployment, "spec": {**parts.deployment["spec"], "replicas": 0}}

    def ours(thing: Mapping[str, Any]) -> Thing:
        return marked(thing, site.deployment)

    job = ours(parts.job) if parts.job is not None else None
    return replace(parts, claim=ours(parts.claim), job=job, deployment=ours(still), service=ours(parts.service))


def _refuse_ways(spec: Spec) -> None:
    """ProcedureError for what has no way into a cluster, or to what runs there."""
    if spec.preset == "ollama" and spec.model:
        raise ProcedureError(
            "An Ollama of a cluster cannot be given a file from here.", 'Have it pull its model: pull = "...".'
        )
    if spec.api_key and spec.preset != "llama.cpp":
        raise ProcedureError(
            f"The API's service proxy carries no key to {spec.preset}: it takes the Authorization header for itself.",
            "Leave api_key out: only the cluster's pods and who may use the proxy reach a Service; "
            "or export it, and give it an Ingress.",
        )


def _refuse_unseen(node: Node, inventory: Inventory, namespace: str) -> None:
    """ProcedureError for a namespace that we do not look into."""
    cluster = node.kubernetes.cluster if node.kubernetes else ""
    seen = next((each.namespaces for each in inventory.clusters if each.name == cluster), ())
    if seen and namespace not in seen:
        raise ProcedureError(
            f"The namespace {namespace} is none of those that {cluster} is looked into ({', '.join(seen)}).",
            f'Name one of them, or add it in cluster.toml: [[clusters]] name = "{cluster}", namespaces = [...]',
        )


def _by_hand(spec: Spec, made: Pod, told: Told, *, there: bool) -> None:
    """What only a person can bring: into a claim that is there, before its pod is waited for."""
    if not there:
        raise ProcedureError(
            f"{spec.model} is not where the cluster could fetch it.",
            f"Name an address or a repository (hf:), or fill a claim {made.claim} with {made.file} first.",
        )
    told.warnings.append(f"{made.file} is not fetched: it is to be in the claim {made.claim} already.")


async def _secrets(
    spec: Spec, made: Pod, namespace: str, site: Site, runtime: KubernetesRuntime, told: Told
) -> list[tuple[Thing, str, str]]:
    """The secrets that are to be declared: those that are there are used as they are."""
    wanted = [(made.secret, "api_key", spec.api_key), (token_of(made), "token", spec.token)]
    found = []
    for name, entry, reference in wanted:
        if reference is None:
            continue
        thing = marked(secret(made, namespace, name), site.deployment)
        if (await runtime.objects.rehearse(thing)).former is None:
            found.append((thing, entry, reference))
        else:
            told.warnings.append(f"The Secret {name} is there already, and is used as it is.")
    return found
