"""What Enter shows: everything known about one tier, endpoint, node, container or procedure, in lines."""

from __future__ import annotations

import time
from collections.abc import Sequence

from backends.cluster.compare import differences, machine, well_of
from backends.cluster.fold import workload_of
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Workload
from backends.cluster.snapshot import ClusterSnapshot, EndpointState
from backends.cluster.tables import Endpoint
from backends.cluster.words import Verdict
from backends.memory.ledger import Ledger, ledger
from widgets.format import age, fit, gib, percent
from widgets.glyphs import UNICODE, Glyphs
from widgets.lines import Line, line
from widgets.markdown import wrapped
from widgets.tiers import STYLES

SPARK = 20
"""Cells of a sparkline."""


def details(
    inventory: Inventory, snapshot: ClusterSnapshot, key: str, width: int, glyphs: Glyphs = UNICODE
) -> Sequence[Line]:
    """The lines about `key` (kind:name, as panes give it)."""
    kind, _, name = key.partition(":")
    match kind:
        case "tier" if name in inventory.endpoints_of:
            rows = _tier(inventory, snapshot, name)
        case "endpoint" if name in inventory.endpoint_named:
            rows = _endpoint(inventory, snapshot, inventory.endpoint_named[name], glyphs)
        case "node" if name in inventory.node_named:
            rows = _node(inventory, snapshot, name)
        case "container" if name.partition("/")[0] in inventory.node_named:
            node, _, container = name.partition("/")
            rows = _container(snapshot, node, container)
        case _:
            rows = [("", f"nothing is known about {key}", "dim")]
    return [each for row in rows for each in _row(*row, width=width)]


Row = tuple[str, str, str]


def _row(label: str, text: str, style: str, *, width: int) -> list[Line]:
    """A label and its text, wrapped beside it."""
    if not label and not text:
        return [line("")]
    if not text:
        return [line((label, "title"))]
    first, *more = (row.text for row in wrapped([(text, "")], max(10, width - 16)))
    return [line((f"  {label:<13} ", "dim"), (first, style)), *(line(" " * 16, (piece, style)) for piece in more)]


def _when(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall))


def _endpoint(inventory: Inventory, snapshot: ClusterSnapshot, endpoint: Endpoint, glyphs: Glyphs) -> list[Row]:
    state = snapshot.endpoints[endpoint.name]
    cause = state.cause.value if state.cause else "not read yet"
    rows: list[Row] = [
        ("verdict", f"{state.verdict.value}  {cause}", STYLES[state.verdict.value]),
        ("evidence", state.evidence, ""),
    ]
    for finding in snapshot.findings:
        if finding.endpoint == endpoint.name:
            rows += [("finding", f"{finding.flaw.value}  {finding.evidence}", "warn"), ("do", finding.cure, "")]
    if state.taken is not None:
        rows.append(("checked", f"{_when(state.taken.wall)}, every {state.interval:.0f} s", ""))
    if state.since is not None:
        rows.append(("since", f"{_when(state.since.wall)} ({age(state.age)})", ""))
    if state.until is not None:
        rows.append(("until", _when(state.until), "warn"))
    if state.cooling is not None:
        words = f"leaves it alone until {_when(state.cooling.until.wall)}: {state.cooling.evidence}"
        rows.append(("the router", words, "warn"))
    if state.latency is not None:
        rows.append(("latency", f"{state.latency * 1000:.0f} ms", ""))
    if state.fails:
        rows.append(("failed", f"{state.fails} in a row; {inventory.defaults.down_after} make it DOWN", "warn"))
    rows += [
        ("", "", ""),
        ("check", check.kind, "")
        if (check := inventory.check_named.get(endpoint.name))
        else ("engine", " ".join(filter(None, (endpoint.engine, state.version))), ""),
        ("looks at" if check else "address", endpoint.url + (" through SSH" if endpoint.via else ""), ""),
        ("node", endpoint.node or "none", ""),
        ("tier", endpoint.tier, ""),
        ("serves", ", ".join(endpoint.serves) or "no prompts", ""),
    ]
    workload = workload_of(snapshot, endpoint)
    if endpoint.container or endpoint.service:
        rows.append(("runs in", endpoint.container or endpoint.service or "", ""))
    if workload is not None:
        rows += _workload(workload)
    rows += _changed(snapshot, state, endpoint, workload)
    rows += _work(state, glyphs)
    rows.append(("", "", ""))
    for model in state.models:
        facts = [
            f"{model.size_mib / 1024:.1f} GiB" if model.size_mib else "",
            f"{model.context} tokens" * bool(model.context),
        ]
        loaded = {True: "loaded", False: "not loaded", None: ""}[model.loaded]
        rows.append(("model", "  ".join(filter(None, (model.name, loaded, *facts))), ""))
    return rows


def _work(state: EndpointState, glyphs: Glyphs) -> list[Row]:
    """What it works at, each figure with its last samples; what its engine does not tell is left out."""
    work = state.work
    if work is None:
        return []
    requests = [f"{n} {word}" for n, word in ((work.running, "running"), (work.waiting, "waiting")) if n is not None]
    figures = (
        ("requests", ", ".join(requests), [s.requests for s in state.samples]),
        ("tokens", "" if work.tokens_per_s is None else f"{work.tokens_per_s:g}/s",
         [s.tokens_per_s for s in state.samples]),
        ("KV cache", "" if work.kv_pct is None else f"{work.kv_pct}%", [s.kv_pct for s in state.samples]),
    )  # fmt: skip
    rows = [(label, f"{words:<22} {glyphs.spark(samples, SPARK)}".rstrip(), "") for label, words, samples in figures
            if words]  # fmt: skip
    if work.first_ms is not None:
        rows.append(("first token", f"after {work.first_ms:g} ms", ""))
    rows += [(fit(m.name, 13).rstrip(), f"{m.requests:g} requests, {m.tokens:g} tokens a minute", "")
             for m in work.models]  # fmt: skip
    return [("", "", ""), *rows] if rows else []


def _changed(
    snapshot: ClusterSnapshot, state: EndpointState, endpoint: Endpoint, workload: Workload | None
) -> list[Row]:
    """What is not as it was when it last worked, for one that does not work as it should."""
    found = any(finding.endpoint == endpoint.name for finding in snapshot.findings)
    if state.cause is None or (state.verdict is Verdict.UP and not found):
        return []
    rows: list[Row] = [("", "", ""), ("changed since it last worked", "", "")]
    if state.last_up is None or state.last_up.at is None:
        return [
            *rows,
            ("", f"not seen working since this console opened: tierdeck history --changes {state.name}", "dim"),
        ]
    rows.append(("it worked", _when(state.last_up.at.wall), ""))
    changed = differences(state.last_up, well_of(snapshot, state, endpoint, workload))
    rows += [(fit(each.what, 13).rstrip(), f"{each.was or 'none'} -> {each.now or 'none'}", "warn") for each in changed]
    return rows if changed else [*rows, ("", "nothing that is known is not as it was then", "dim")]


def _workload(workload: Workload) -> list[Row]:
    state = " ".join(filter(None, (workload.state, workload.health)))
    if workload.state == "exited":
        state += f" with code {workload.exit_code}" + (", out of memory" if workload.oom_killed else "")
    rows: list[Row] = [("state", state, "good" if workload.running else "warn")]
    if workload.image:
        rows.append(("image", workload.image, ""))
    if workload.started_at:
        rows.append(("started", _when(workload.started_at), ""))
    if workload.error:
        rows.append(("error", workload.error, "bad"))
    if workload.update:
        rows.append(("update", workload.update, "warn"))
    if workload.gpu and workload.restart_policy != "no":
        words = f"{workload.restart_policy}: starts by itself with Docker, past the queue"
        rows.append(("restart", words, "warn"))
    return rows + _noted(workload)


def _noted(workload: Workload) -> list[Row]:
    """What its runtime tells of a workload beside its state."""
    rows: list[Row] = [("scaling", workload.scaling, "")] if workload.scaling else []
    rows += [("volume", volume.words, "warn" if volume.full else "") for volume in workload.volumes]
    rows += [(scan.scanner[:13], scan.words, "warn" if scan.grave or scan.trouble else "") for scan in workload.scans]
    rows += [("said", f"{_when(each.at)}  {each.words}", "warn" if each.bad else "dim") for each in workload.notices]
    return rows


def _container(snapshot: ClusterSnapshot, node: str, name: str) -> list[Row]:
    workload = next((w for w in snapshot.nodes[node].workloads if w.name == name), None)
    if workload is None:
        return [("", f"{node} has no container {name}", "bad")]
    ports = ", ".join(str(port) for port in workload.ports)
    return [
        *_workload(workload),
        ("node", node, ""),
        ("GPU", f"asks for {_asked(workload)}", ""),
        ("ports", ports or "none published", ""),
        ("id", workload.id[:12], ""),
    ]


def _asked(workload: Workload) -> str:
    """Which GPUs it takes, as far as its runtime tells."""
    if workload.asks:
        return ", ".join(f"{count} {device}" for device, count in workload.asks)
    return "one" if workload.gpu else "none"


def _tier(inventory: Inventory, snapshot: ClusterSnapshot, name: str) -> list[Row]:
    tier = next(t for t in snapshot.tiers if t.name == name)
    rows: list[Row] = [
        (name, "", ""),
        ("state", f"{tier.state.value}, {tier.up} of {tier.total} up", STYLES[tier.state.value]),
    ]
    for endpoint in inventory.endpoints_of[name]:
        state = snapshot.endpoints[endpoint.name]
        rows.append((endpoint.name[:13], f"{state.verdict.value}  {state.evidence}", STYLES[state.verdict.value]))
    rows += [("", "", ""), ("the whole", "", ""), ("prognosis", snapshot.prognosis.summary, "")]
    for task, outlook in snapshot.prognosis.tasks.items():
        if inventory.chain(task):
            following = f", then {', '.join(outlook.next)}" if outlook.next else ", then nobody"
            rows.append((task, f"{outlook.now}{following}" if outlook.now else "nobody", "" if outlook.now else "bad"))
    if (without := snapshot.prognosis.without) is not None:
        rows.append(("n-1", without.words, "warn" if without.lost else ""))
    return rows


def _books(books: Ledger | None) -> list[Row]:
    """Who holds a GPU's memory: by endpoint as measured, declared and predicted; what starts will still take."""
    rows: list[Row] = []
    for each in books.entries if books else ():
        predicted = "said in its log" if each.certainty == "observed" else "predicted"
        figures = (("measured", each.measured), ("declared", each.declared), (predicted, each.predicted))
        words = [f"{word} {gib(mib)}" for word, mib in figures if mib is not None]
        words += [f"still to come {gib(each.reserved)}"] * (each.reserved >= 1)
        if words:
            rows.append(("", f"{each.endpoint}: {', '.join(words)} GiB", "warn" if each.reserved >= 1 else ""))
    if books and rows:
        rows.append(("", f"by no model: {gib(books.unattributed)} GiB", "dim"))
    return rows


def _node(inventory: Inventory, snapshot: ClusterSnapshot, name: str) -> list[Row]:
    node, state = inventory.node_named[name], snapshot.nodes[name]
    way = "this machine" if state.here else "SSH" if node.ssh else "not reached (no ssh in cluster.toml)"
    if node.kubernetes is not None:
        way = f"the API of {node.kubernetes.cluster}" + (f", {way}" if state.here or node.ssh else "")
    rows: list[Row] = [("address", node.address, ""), ("reached by", way, ""), ("system", node.os, "")]
    rows += [(what, words, "") for what, words in machine(state.facts).items() if words]
    for trouble in (state.reach_trouble, state.gpus_trouble, state.workloads_trouble):
        if trouble is not None:
            rows += [("trouble", trouble.message, "bad"), ("do", trouble.advice or "-", "")]
    for gpu in state.gpus:
        memory = f"{gib(gpu.memory_used_mib)} of {gib(gpu.memory_total_mib)} GiB, {percent(gpu.utilization_pct)}"
        heat = f", {gpu.temperature_c:.0f} C" if gpu.temperature_c is not None else ""
        power = f", {gpu.power_w:.0f} W" if gpu.power_w is not None else ""
        rows += [(f"GPU {gpu.index}", gpu.name, ""), ("", memory + heat + power, "")]
        rows += _books(ledger(inventory, snapshot, node, gpu))
    for endpoint in inventory.lamps:
        if endpoint.node == name:
            verdict = snapshot.endpoints[endpoint.name]
            rows.append(
                (endpoint.name[:13], f"{verdict.verdict.value}  {verdict.evidence}", STYLES[verdict.verdict.value])
            )
    for workload in state.workloads:
        rows.append((workload.name[:13], f"{workload.state}  {workload.image}", "" if workload.running else "dim"))
    volumes = dict.fromkeys(volume for workload in state.workloads for volume in workload.volumes)
    return rows + [("volume", volume.words, "warn" if volume.full else "") for volume in volumes]
