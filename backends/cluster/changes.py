"""What changed between two snapshots, in words for the event log: what a person should hear of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backends.cluster.reading import Instant
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import State, Verdict


@dataclass(frozen=True, slots=True)
class Change:
    """Something that got better or worse, in words for the event log; `word` is the verdict or state it came to."""

    at: Instant
    subject: str
    text: str
    word: str


def changes(before: ClusterSnapshot, after: ClusterSnapshot) -> list[Change]:
    """What a person should hear of: tiers and endpoints that changed, what runtimes said, nodes lost or back."""
    at = after.taken
    if at is None:
        return []
    found = []
    states = {tier.name: tier.state for tier in before.tiers}
    for tier in after.tiers:
        was = states.get(tier.name, State.UNKNOWN)
        news = was is not State.UNKNOWN or tier.state is not State.HEALTHY
        if tier.state is not was and news:
            text = f"{tier.name} -> {tier.state.value} ({tier.up}/{tier.total} up)"
            found.append(Change(at, tier.name, text, tier.state.value))
    for name, now in after.endpoints.items():
        then = before.endpoints.get(name)
        first_and_well = then is not None and then.cause is None and now.verdict is Verdict.UP
        if then is not None and then.verdict is not now.verdict and now.cause is not None and not first_and_well:
            text = f"{name} -> {now.verdict.value} {now.cause.value}: {now.evidence}"
            found.append(Change(at, name, text, now.verdict.value))
    found += _found(before, after, at)
    found += _said(before, after, at)
    for name, node in after.nodes.items():
        was_node = before.nodes.get(name)
        if was_node is None or was_node.reach_trouble == node.reach_trouble:
            continue
        trouble = node.reach_trouble
        text = f"{name}: {trouble.message} {trouble.advice}".rstrip() if trouble else f"{name}: reached again"
        found.append(Change(at, name, text, "DOWN" if trouble else "UP"))
    return found


def _said(before: ClusterSnapshot, after: ClusterSnapshot, at: Instant) -> Iterator[Change]:
    """What runtimes newly said of workloads; the first look at a node finds only what is old."""
    told: set[str] = set()
    for name, node in after.nodes.items():
        then = before.nodes.get(name)
        if then is None or then.workloads_taken is None or then.workloads is node.workloads:
            continue
        was = {workload.name: workload.notices for workload in then.workloads}
        for workload in node.workloads:
            for notice in reversed(workload.notices):
                text = f"{workload.name}: {notice.words}"
                if notice not in was.get(workload.name, ()) and text not in told:
                    told.add(text)
                    word = Verdict.DEGRADED if notice.bad else Verdict.UNKNOWN
                    yield Change(at, name, text, word.value)


def _found(before: ClusterSnapshot, after: ClusterSnapshot, at: Instant) -> list[Change]:
    """Findings that are new, and those that are over."""
    was, now = ({(f.flaw, f.endpoint): f for f in each.findings} for each in (before, after))
    new = [
        Change(at, f.endpoint, f"{f.endpoint} -> {f.flaw.value}: {f.evidence}. {f.cure}", Verdict.DEGRADED.value)
        for key, f in now.items()
        if key not in was
    ]
    over = [
        Change(at, name, f"{name} -> no longer {flaw.value}", after.endpoints[name].verdict.value)
        for flaw, name in was
        if (flaw, name) not in now and after.endpoints[name].verdict is Verdict.UP
    ]
    return new + over
