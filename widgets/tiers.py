"""Pane 1: every tier with its endpoints, their verdicts, causes and models."""

from __future__ import annotations

import time
from collections.abc import Sequence

from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot, EndpointState, Finding, TierState
from backends.cluster.words import Cause, Verdict
from widgets.cluster import ClusterPane
from widgets.format import age, fit, model
from widgets.glyphs import Glyphs
from widgets.lines import Line, line

STYLES = {
    "UP": "good",
    "HEALTHY": "good",
    "DEGRADED": "warn",
    "DOWN": "bad",
    "UNKNOWN": "dim",
}
"""The style of each verdict and state."""

_WORDS = {Cause.OFF: "off", Cause.MAINTENANCE: "maint."}


class TiersPane(ClusterPane):
    """Draws tiers and endpoints."""

    def __init__(self, inventory: Inventory, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(inventory, glyphs, "1 Tiers", id=id)
        self._drawn: dict[str, tuple[tuple[object, ...], Line]] = {}
        self._rooms: dict[int, int] = {}

    def adopt(self, inventory: Inventory) -> None:
        """What was drawn was of the former inventory."""
        super().adopt(inventory)
        self._drawn.clear()
        self._rooms.clear()

    def show(self, snapshot: ClusterSnapshot) -> None:
        """Draw this snapshot's tiers, if they differ from those drawn."""
        part = (snapshot.tiers, snapshot.endpoints, snapshot.findings)
        if part != self._slice:
            self._slice, self._snapshot = part, snapshot
            self.redraw()

    def compose_lines(self, width: int) -> Sequence[Line]:
        """A line for each tier, then one for each of its endpoints."""
        if self._snapshot is None:
            return [
                line((fit(t.name, min(14, width // 3)), "title"), ("reading" + self.glyphs.ellipsis, "dim"))
                for t in self._inventory.tiers
            ]
        room = self._room(width)
        found = {finding.endpoint: finding for finding in reversed(self._snapshot.findings)}
        lines: list[Line] = []
        for tier in self._snapshot.tiers:
            lines.append(self._tier(tier, width))
            for endpoint in self._inventory.endpoints_of[tier.name]:
                state = self._snapshot.endpoints[endpoint.name]
                lines.append(self._line_of(state, found.get(endpoint.name), width, room))
        return lines

    def _room(self, width: int) -> int:
        """The cells that names take."""
        if width not in self._rooms:
            longest = max((len(self._named(lamp.name, width)) for lamp in self._inventory.lamps), default=8)
            self._rooms[width] = min(longest, max(10, width // 3) if width < 60 else 30)
        return self._rooms[width]

    def _line_of(self, state: EndpointState, finding: Finding | None, width: int, room: int) -> Line:
        """The line of an endpoint, the one that was drawn last where nothing in it changed."""
        of = (state, finding, width, room)
        drawn = self._drawn.get(state.name)
        if drawn is None or drawn[0] != of:
            drawn = self._drawn[state.name] = of, self._endpoint(state, finding, width, room)
        return drawn[1]

    def _tier(self, tier: TierState, width: int) -> Line:
        name = max((len(t.name) for t in self._inventory.tiers), default=4) + 2
        return line(
            (fit(tier.name, min(name, max(6, width // 3))), "title"),
            (f"{self.glyphs.of(tier.state)} {tier.state.value:<9}", STYLES[tier.state.value]),
            (f" {tier.up}/{tier.total}" if tier.total else " nothing counted", "dim"),
            key=f"tier:{tier.name}",
        )

    def _endpoint(self, state: EndpointState, finding: Finding | None, width: int, room: int) -> Line:
        """The line of an endpoint, its name in `room` cells."""
        style = STYLES[state.verdict.value]
        word = _WORDS.get(state.cause, state.verdict.value) if state.cause else state.verdict.value
        name = fit(self._named(state.name, width), room, self.glyphs.ellipsis)
        head = f"  {self.glyphs.of(state.verdict)} {name} {word:<8} "
        return line((head, style), *self._rest(state, finding, max(0, width - len(head))), key=f"endpoint:{state.name}")

    def _named(self, name: str, width: int) -> str:
        """An endpoint's name; where there is little room without the prefix that only repeats its tier."""
        tier = self._inventory.endpoint_named[name].tier
        return name[len(tier) + 1 :] if width < 60 and name.lower().startswith(f"{tier.lower()}/") else name

    def _rest(self, state: EndpointState, finding: Finding | None, room: int) -> list[tuple[str, str]]:
        trouble = self._trouble(state)
        if finding is not None and not trouble:
            words = f"{finding.flaw.value.lower().replace('_', ' ')}  {finding.evidence}"
            return [(fit(words, room, self.glyphs.ellipsis), "warn")]
        models = ", ".join(model(m.name) for m in state.models if m.loaded is not False) or (
            f"{len(state.models)} models" if state.models else ""
        )
        if trouble:
            return [(fit(trouble, room, self.glyphs.ellipsis), STYLES[state.verdict.value] if state.cause else "dim")]
        latency = f"{state.latency_band:<8} " if room > 24 else ""
        return [(latency, "dim"), (fit(models, room - len(latency), self.glyphs.ellipsis), "")]

    def _trouble(self, state: EndpointState) -> str:
        """The cause in a few words and how long it has been so; nothing for one that is well."""
        if state.cause is None:
            return f"reading{self.glyphs.ellipsis}"
        if state.until is not None:
            return f"until {time.strftime('%m-%d %H:%M', time.localtime(state.until))}, {state.evidence}"
        if state.fails and state.verdict is not Verdict.DOWN:
            return f"{state.fails}/{self._inventory.defaults.down_after} failed: {state.evidence}"
        if state.verdict is Verdict.UP:
            return "asleep, wakes on demand" if state.cause.value == "SLEEPING" else ""
        if state.successes and state.verdict is Verdict.DOWN:
            return f"{state.successes}/{self._inventory.defaults.up_after} answered"
        since = f" {age(state.age)}" if state.age else ""
        return f"{state.cause.value.lower().replace('_', ' ')}{since}  {state.evidence}"
