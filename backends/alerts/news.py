"""What is worth a message: real changes alone, several at once together, in quiet hours only what is DOWN. Pure.

A condition is what a person would act on. BUSY serves, LOADING and what is left out are no news; so a message is sent
when an endpoint falls, and another when it is back, whatever it went through in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Instant
from backends.cluster.snapshot import ClusterSnapshot, EndpointState, NodeState
from backends.cluster.tables import Alerts
from backends.cluster.words import LEFT_OUT, Cause, Verdict
from backends.history.compare import differences

UP: Final = "UP"
DEGRADED: Final = "DEGRADED"
DOWN: Final = "DOWN"

LONGEST: Final = 4
"""How many times the grouping time a message waits at most while more comes in."""

MOST_LINES: Final = 12
"""Lines of one message; Discord takes 2,000 characters."""

MOST_DIFFERENCES: Final = 4
"""What changed since it last worked, in a message."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: a title, lines, and the worst condition in it (UP where all of it got better)."""

    title: str
    body: str
    worst: str


@dataclass(frozen=True, slots=True)
class _Item:
    """One thing that is not as it was told: its condition, in words."""

    word: str
    text: str


class News:
    """Knows what was told, and what is to be; `sent` is what an earlier watch told, so that nothing is told twice."""

    def __init__(self, inventory: Inventory, sent: Mapping[str, str] | None = None) -> None:
        self._inventory = inventory
        self._rules: Alerts = inventory.alerts
        self.sent = dict(sent or {})
        self._known = dict(self.sent)
        self._pending: dict[str, _Item] = {}
        self._held: dict[str, _Item] = {}
        self._well: dict[str, ClusterSnapshot] = {}
        self._alone: set[str] = set()
        self._found: set[str] = set()
        self._first = self._last = 0.0
        self._snapshot: ClusterSnapshot | None = None

    def see(self, snapshot: ClusterSnapshot) -> None:
        """Take in how the cluster is now."""
        if snapshot.taken is None:
            return
        self._snapshot, now = snapshot, snapshot.taken.mono
        for name, state in snapshot.endpoints.items():
            if state.verdict is Verdict.UP and not state.fails and self._read_anew(name, state):
                self._well[name] = snapshot
            self._compare(name, condition(state), partial(_words, state), now)
        self._see_findings(snapshot, now)
        for name, node in snapshot.nodes.items():
            self._compare(f"node {name}", _reached(node), partial(_node_words, node), now)

    def _see_findings(self, snapshot: ClusterSnapshot, now: float) -> None:
        """Findings that are new, and those of this watch that are over."""
        found = {f"finding {f.flaw.value} of {f.endpoint}": f for f in snapshot.findings}
        for subject, finding in found.items():
            self._compare(subject, DEGRADED, partial("{}. {}".format, finding.evidence, finding.cure), now)
        for subject in self._found - found.keys():
            self._compare(subject, UP, partial(str, "no longer so"), now)
        self._found |= found.keys()

    def _read_anew(self, name: str, state: EndpointState) -> bool:
        """Whether its reading is another than the one that was kept: its container may have changed since that."""
        kept = self._well.get(name)
        return kept is None or kept.endpoints[name].taken != state.taken

    def _compare(self, subject: str, word: str | None, words: Callable[[], str], now: float) -> None:
        if word is None:
            return
        known = self._known.get(subject)
        if known is None and word == UP:
            known = self._known[subject] = self.sent[subject] = UP
        if word == known:
            self._pending.pop(subject, None)
            return
        waiting = self._pending.get(subject)
        if waiting is None or waiting.word != word:
            if not self._pending:
                self._first = now
            self._pending[subject] = _Item(word, words())
            self._last = now

    def due(self, now: Instant) -> Message | None:
        """The message that is to be sent now, if any; whoever sends it keeps `sent`."""
        quiet = self._rules.quiet is not None and is_quiet(self._rules.quiet, now.wall)
        group = self._rules.group
        waits = now.mono - self._last < group and now.mono - self._first < LONGEST * group
        pending: dict[str, _Item] = {}
        if self._pending and not waits:
            pending, self._pending = self._pending, {}
            leads = any(self._leads(subject, item) for subject, item in pending.items())
            self._known |= {subject: item.word for subject, item in pending.items()}
            if not leads:  # a node that is lost or back with all that was told of it
                self.sent |= {subject: item.word for subject, item in pending.items()}
                pending = {}
        if quiet and not any(item.word == DOWN for item in pending.values()):
            self._held |= pending
            return None
        held = {s: i for s, i in self._held.items() if s not in pending and self.sent.get(s) != i.word}
        told = held | pending
        self._held = {}
        if not told:
            return None
        self.sent |= {subject: item.word for subject, item in told.items()}
        return self._message(told)

    def _leads(self, subject: str, item: _Item) -> bool:
        """Whether it is worth a message by itself: all but a node whose endpoints tell the same."""
        kind, _, node = subject.partition(" ")
        if kind != "node" or node not in self._inventory.node_named:
            return True
        if item.word == UP:
            leads = node in self._alone
            self._alone.discard(node)
            return leads
        others = [e.name for e in self._inventory.lamps if e.node == node]
        if any(self._known.get(name, UP) != UP or name in self._pending for name in others):
            return False
        self._alone.add(node)
        return True

    def _message(self, told: Mapping[str, _Item]) -> Message:
        assert self._snapshot is not None
        snapshot = self._snapshot
        order = {DOWN: 0, UP: 2}
        ranked = sorted(told, key=lambda s: (order.get(told[s].word, 1), not s.startswith("node ")))
        lines = [line for subject in ranked for line in self._lines(subject, told[subject])]
        more = len(lines) - MOST_LINES
        lines = lines[:MOST_LINES] + ([f"... and {more} lines more: tierdeck history"] if more > 0 else [])
        worst = told[ranked[0]].word
        title = f"{snapshot.name}: {snapshot.prognosis.state.value}"
        return Message(title, "\n".join([snapshot.prognosis.summary, "", *lines]), worst)

    def _lines(self, subject: str, item: _Item) -> list[str]:
        name = subject.removeprefix("node ").removeprefix("finding ")
        lines = [f"{item.word} {name}: {item.text}"]
        well = self._well.get(name)
        known = name in self._inventory.endpoint_named
        if item.word == DOWN and known and well is not None and self._snapshot is not None:
            found = differences(self._inventory, well, self._snapshot, name)[:MOST_DIFFERENCES]
            lines += [f"    {each.what}: {each.was or 'none'} -> {each.now or 'none'}" for each in found]
        return lines


def condition(state: EndpointState) -> str | None:
    """What a person would act on: UP, DEGRADED, DOWN or UNKNOWN; None where it is no news."""
    if state.cause in (None, Cause.LOADING) or state.cause in LEFT_OUT:
        return None
    return UP if state.serving else state.verdict.value


def is_quiet(hours: str, wall: float) -> bool:
    """Whether a moment (Unix seconds) lies in quiet hours such as "23:00-07:00", by the clock of this machine."""
    begin, end = (int(part[:2]) * 60 + int(part[3:]) for part in hours.split("-"))
    local = time.localtime(wall)
    now = local.tm_hour * 60 + local.tm_min
    return begin <= now < end if begin <= end else now >= begin or now < end


def _words(state: EndpointState) -> str:
    return f"{state.cause.value if state.cause else ''} {state.evidence}".strip()


def _reached(node: NodeState) -> str | None:
    if node.reach_trouble is not None:
        return DOWN
    return UP if node.reach_taken is not None else None


def _node_words(node: NodeState) -> str:
    trouble = node.reach_trouble
    return f"{trouble.message} {trouble.advice}".strip() if trouble else "reached again"
