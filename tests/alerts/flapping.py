"""A cluster that is driven by a clock of our own: endpoints flap and fall as a test says."""

from __future__ import annotations

from pathlib import Path

from backends.alerts.news import Message, News
from backends.cluster.files import parse
from backends.cluster.inventory import Inventory
from backends.cluster.reading import EndpointReading, Instant, ProbeResult, ReachReading, Reading, Trouble
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause
from backends.live import LiveCluster

NOON = 1_795_262_400.0
"""2026-11-21 12:00 UTC."""


class Clock:
    """A clock that is wound by hand."""

    def __init__(self, wall: float = NOON) -> None:
        self.begun = wall
        self.seconds = 0.0

    def now(self) -> Instant:
        return Instant(self.begun + self.seconds, self.seconds)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")


def inventory(alerts: str = "", endpoints: int = 4) -> Inventory:
    """Node a with all endpoints but the last, which is on node b."""
    nodes = "".join(f'[[nodes]]\nname = "{n}"\naddress = "10.0.0.{i}"\nssh = {{}}\n' for i, n in enumerate("ab"))
    names = [f"e{i}" for i in range(endpoints)]
    rows = "".join(
        f'[[endpoints]]\nname = "{name}"\ntier = "T"\nnode = "{"b" if name == names[-1] else "a"}"\n'
        f'engine = "vllm"\nurl = "http://10.0.0.1:{1000 + i}"\ninterval = "5s"\n'
        for i, name in enumerate(names)
    )
    text = f'version = 1\nname = "home"\n{nodes}[[tiers]]\nname = "T"\n{rows}[alerts]\n{alerts}\n'
    return parse(text, Path("cluster.toml")).inventory


class Play:
    """Seconds that pass: each five every endpoint is read, each second it is asked what is to be told."""

    def __init__(self, inventory: Inventory, clock: Clock | None = None, sent: dict[str, str] | None = None) -> None:
        self.clock = clock or Clock()
        self.inventory = inventory
        self.news = News(inventory, sent)
        self.live = LiveCluster(inventory, None, self.clock, self._publish)
        self.ill: dict[str, Cause] = {}
        self.lost: set[str] = set()
        self.messages: list[tuple[float, Message]] = []

    def _publish(self, before: ClusterSnapshot, after: ClusterSnapshot) -> None:
        self.news.see(after)

    def second(self) -> None:
        now = self.clock.now()
        if self.clock.seconds % 5 == 0:
            for reading in self._readings(now):
                self.live.emit(reading)
        self.live.settle()
        message = self.news.due(now)
        if message is not None:
            self.messages.append((self.clock.seconds, message))
        self.clock.seconds += 1

    def _readings(self, now: Instant) -> list[Reading]:
        found: list[Reading] = []
        for endpoint in self.inventory.endpoints:
            cause = self.ill.get(endpoint.name, Cause.OK)
            found.append(EndpointReading(endpoint.name, now, ProbeResult(cause, f"{cause}", 0.01), 5.0))
        for node in self.inventory.nodes:
            trouble = Trouble(f"{node.name} does not answer.") if node.name in self.lost else None
            found.append(ReachReading(node.name, now, trouble))
        return found

    def run(self, seconds: int) -> list[Message]:
        """Let time pass; the messages that it brought."""
        before = len(self.messages)
        for _ in range(seconds):
            self.second()
        return [message for _, message in self.messages[before:]]
