"""Plans a deployment where things are declared: what changes is what the runtime's own dry run says."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from backends.cluster.deploying import Spec
from backends.cluster.inventory import Inventory
from backends.cluster.presets import gpus_of
from backends.cluster.reading import Workload
from backends.procedures import declared
from backends.procedures.deploy import COPY_LIMIT, Site, given, served, whereabouts
from backends.procedures.plan import BlastRadius, Danger, Plan, Step
from backends.procedures.startup import start_step
from backends.reach.runtime import Rehearsal

Thing = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Coming:
    """A thing as it is to be, and what its runtime says that this changes."""

    thing: Thing
    rehearsal: Rehearsal


@dataclass(frozen=True, slots=True)
class Parts:
    """What a deployment declares, in order: its volume (None where it is there), secrets by entry and reference, work
    that fills the volume with `content` (None where it is filled by hand), what runs, and its address."""

    runtime: str
    namespace: str
    volume: Thing
    coming_volume: Coming | None
    secrets: Sequence[tuple[Thing, str, str]]
    work: Thing | None
    content: str
    workload: Coming
    address: Coming


def plan_declared(
    spec: Spec,
    inventory: Inventory,
    site: Site,
    parts: Parts,
    *,
    why: Sequence[str] = (),
    warnings: Sequence[str] = (),
    on_failure: Literal["hold", "rollback"] = "hold",
) -> Plan:
    """What would be done, each change of it as the runtime's dry run tells."""
    node, where = inventory.node_named[spec.node], whereabouts(spec, inventory)
    stopped = _replicas(parts.workload.rehearsal.former)
    steps = [_declare(spec, parts, parts.coming_volume)] if parts.coming_volume else []
    steps += [_seal(spec, parts, *secret) for secret in parts.secrets]
    if parts.work is not None:
        steps.append(_fill(spec, parts, parts.work, site.size))
    steps.append(_declare(spec, parts, parts.workload, Danger.INTERRUPTS if stopped else Danger.CHANGES))
    steps.append(_declare(spec, parts, parts.address))
    gpu = gpus_of(spec, node) != "none"
    step = start_step(node, Workload(where.workload, parts.runtime, "created", gpu=gpu), last=True)
    started = [replace(step, label=f"{step.label}, through the start queue")]
    if spec.pull:
        started.append(given(spec, site))
    return Plan(
        kind="deploy",
        node=spec.node,
        title=f"Deploy {spec.name} on {spec.node}: {spec.preset}, {spec.file or spec.pull} at {where.url}",
        steps=(*steps, *served(spec, inventory, site, started)),
        blast=BlastRadius(interrupts=(where.workload,)) if stopped else BlastRadius(),
        warnings=tuple(warnings),
        targets=(where.workload,),
        why=tuple(why),
        reversible=True,
        on_failure=on_failure,
    )


def _declare(spec: Spec, parts: Parts, coming: Coming, danger: Danger = Danger.CHANGES) -> Step:
    thing, rehearsal = coming.thing, coming.rehearsal
    former = dict(rehearsal.former) if rehearsal.former is not None else None
    told = declared.Declared(spec.node, parts.runtime, thing, former)
    label = f"declare the {thing['kind']} {thing['metadata']['name']}{'' if former else ' (new)'}"
    if former:
        command = f"{_apply(parts)}: {'; '.join(rehearsal.changes) or 'nothing changes'}"
    else:
        command = f"{_apply(parts)} -f - <<< {shlex.quote(json.dumps(thing, separators=(',', ':')))}"
    return Step("declare", label, declared.to_json(told), 300.0, danger, command)


def _seal(spec: Spec, parts: Parts, thing: Thing, entry: str, reference: str) -> Step:
    told = declared.Sealed(spec.node, parts.runtime, thing, entry, reference)
    label = f"declare the Secret {thing['metadata']['name']}"
    command = f"{_apply(parts)}: + data.{entry}: what {reference} is then"
    return Step("seal", label, declared.to_json(told), 60.0, Danger.CHANGES, command)


def _fill(spec: Spec, parts: Parts, work: Thing, size: int) -> Step:
    kept = parts.coming_volume is None
    told = declared.Filled(spec.node, parts.runtime, work, parts.volume, parts.content, size, kept)
    many = f" ({size / 1e9:.2f} GB)" if size else ""
    label = f"have {spec.file}{many} fetched into {parts.volume['metadata']['name']}"
    image = work["spec"]["template"]["spec"]["containers"][0]["image"]
    command = (
        f"{_apply(parts)}: + Job {work['metadata']['name']} ({image}): {spec.model}, gone on with where it broke off"
    )
    return Step("fill", label, declared.to_json(told), COPY_LIMIT, Danger.CHANGES, command)


def _apply(parts: Parts) -> str:
    return f"kubectl apply --server-side --field-manager=tierdeck -n {parts.namespace}"


def _replicas(former: Mapping[str, Any] | None) -> int:
    return int(former["spec"].get("replicas", 1)) if former else 0
