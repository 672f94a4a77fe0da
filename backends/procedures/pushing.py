"""Plans the push of a configuration to the gateway; a deployment ends with its steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from backends.cluster.fold import workload_of
from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Endpoint
from backends.errors import GatewayError, ProcedureError
from backends.gateway.document import read, said
from backends.gateway.lint import endpoint_at, lint
from backends.gateway.render import gateway_endpoint
from backends.procedures.context import residence
from backends.procedures.gateway import READY_LIMIT, Behind, Push, digest
from backends.procedures.plan import BlastRadius, Danger, Plan, Step
from backends.procedures.trouble import call
from backends.reach.runtime import Runtime, Shell
from backends.reach.whole_file import KEPT, WholeFile, whole_file

PROMPT_LIMIT = 130.0
"""Seconds for one answer; a model may have to be loaded."""


def place_of(inventory: Inventory) -> str:
    """Where the gateway's file lies; ProcedureError where cluster.toml does not say."""
    if inventory.gateway is None or inventory.gateway.config is None:
        raise ProcedureError(
            "cluster.toml does not say where the gateway's configuration lies.",
            '[gateway] config = "ssh:NODE:/srv/litellm/config.yaml", a path of this machine, or volume:NAME/PATH',
        )
    return inventory.gateway.config


async def gateway_file(
    inventory: Inventory,
    here: str | None,
    shell: Callable[[str], Shell],
    runtime: Callable[[str, str], Awaitable[Runtime]],
) -> WholeFile:
    """The gateway's file, not yet read."""
    node = gateway_endpoint(inventory).node or ""
    return await whole_file(place_of(inventory), node, here, shell, runtime)


def plan_push(
    inventory: Inventory,
    snapshot: ClusterSnapshot,
    text: str,
    former: bytes | None,
    remarks: Sequence[str] = (),
    *,
    name: str = "the new file",
    kept: str | None = None,
) -> Plan:
    """Replace the gateway's file, which is `former` now, by `text`; ProcedureError where that cannot be planned.

    `kept` is the digest of the copy beside it, where that is to be as it was, too, once the plan is taken back.
    A file with a key in plain text is refused: a plan is written down.
    """
    endpoint = gateway_endpoint(inventory)
    served = {name: state.models for name, state in snapshot.endpoints.items()}
    findings = lint(text, inventory, served, name=name)
    for finding in findings:
        if finding.rule == "plaintext-key":
            raise ProcedureError(f"{name}, line {finding.line}: {finding.what}", finding.cure)
    workload = workload_of(snapshot, endpoint)
    told = replace(_push(inventory, text, former), ran=workload is None or workload.running, kept=kept)
    steps = _steps(endpoint, told, interrupts=snapshot.endpoints[endpoint.name].serving)
    vanishing = sorted(_former_groups(inventory, former).keys() - groups_of(inventory, text).keys())
    return Plan(
        kind="gateway",
        node=endpoint.node or "",
        title=f"Push the configuration of {endpoint.name}",
        steps=steps,
        blast=BlastRadius(
            interrupts=(f"every request that {endpoint.name} is answering then",),
            serves_meanwhile=("the engines themselves, asked directly",),
        ),
        warnings=(
            *([f"Groups that are no more: {', '.join(vanishing)}."] if vanishing else []),
            "One prompt for each group: a model that is not loaded is loaded for it.",
            *(f"line {f.line}: {f.what}" for f in findings if f.severity == "error"),
            *remarks,
        ),
        targets=(residence(endpoint),),
        reversible=True,
        on_failure="rollback",
    )


def _push(inventory: Inventory, text: str, former: bytes | None) -> Push:
    """What the steps are told; ProcedureError where the gateway cannot be restarted.

    A group answers for the endpoints that stood behind it in the former file, too.
    """
    endpoint, new = gateway_endpoint(inventory), text.encode()
    if new == former:
        raise ProcedureError("The gateway's file is this one already.", "tierdeck gateway diff says what runs.")
    runtime, name = runs_in(endpoint)
    before = _former_groups(inventory, former)
    groups = {name: _both(behind, before.get(name, behind)) for name, behind in groups_of(inventory, text).items()}
    return Push(
        endpoint.node or "", endpoint.name, place_of(inventory), digest(former), digest(new), runtime, name, text=text,
        groups=groups,
    )  # fmt: skip


def _steps(endpoint: Endpoint, told: Push, *, interrupts: bool) -> tuple[Step, ...]:
    """Keep, write, restart, ask; `interrupts`: the gateway serves now."""
    place, lines, groups = told.config, told.text.splitlines(), told.groups
    back = READY_LIMIT + 120.0
    danger = Danger.INTERRUPTS if interrupts else Danger.CHANGES
    return (
        keep_step(told),
        Step(
            "write_gateway_file", f"write {place}: {len(lines)} lines, {len(groups)} groups",
            told.to_json("text"), danger=Danger.CHANGES, command=f"replace {place} whole, and read it back",
        ),
        Step(
            "restart_gateway", f"restart {residence(endpoint)}, and wait until it is ready", told.to_json(),
            time_limit=READY_LIMIT + back, danger=danger,
            command=restart_call(told),
        ),
        Step(
            "ask_gateway", f"ask {endpoint.name} for its groups, and each for an answer", told.to_json("groups"),
            time_limit=PROMPT_LIMIT * max(1, len(groups)) + back, danger=danger,
            command="GET /v1/models; a prompt to each; rolled back where one is worse",
        ),
    )  # fmt: skip


def keep_step(told: Push) -> Step:
    """The step that keeps a copy of the gateway's file."""
    command = f"cp -p {told.config} {told.config}{KEPT}"
    return Step(
        "keep_gateway_file", f"keep a copy of {told.config}", told.to_json(), danger=Danger.CHANGES, command=command
    )


def restart_call(told: Push) -> str:
    """The restart of the gateway as a person would make it."""
    stop, start = (call(told.runtime, verb, told.name) for verb in ("stop", "start"))
    return f"{stop}; {start}; GET /health/liveliness, /health/readiness"


def runs_in(endpoint: Endpoint) -> tuple[str, str]:
    """What the gateway runs in: the kind of its runtime, and its name there; ProcedureError where that is not said."""
    if endpoint.node is None:
        raise ProcedureError(f"cluster.toml does not say on which node {endpoint.name} runs.", "Name its node there.")
    if endpoint.container:
        return "docker", endpoint.container
    if endpoint.service:
        kind, _, name = endpoint.service.partition(":")
        return kind, name
    raise ProcedureError(
        f"cluster.toml does not say what {endpoint.name} runs in, so it cannot be restarted.",
        "Name its container or service there.",
    )


def groups_of(inventory: Inventory, text: str) -> dict[str, Behind]:
    """What stands behind each group of a configuration, as far as it is of the cluster."""
    found: dict[str, Behind] = {}
    for entry in read(text, "the gateway's file").entries:
        endpoint = endpoint_at(inventory, said(entry.params.get("api_base")))
        embeds = said(entry.info.get("mode")) == "embedding"
        one = Behind((endpoint.name,) if endpoint else (), embeds)
        found[entry.group] = _both(found.get(entry.group, one), one)
    return found


def _former_groups(inventory: Inventory, former: bytes | None) -> dict[str, Behind]:
    """The groups of a file that may be none."""
    try:
        return groups_of(inventory, (former or b"").decode("utf-8", "replace"))
    except GatewayError:
        return {}


def _both(one: Behind, other: Behind) -> Behind:
    return Behind(tuple(dict.fromkeys((*one.endpoints, *other.endpoints))), one.embeds or other.embeds)
