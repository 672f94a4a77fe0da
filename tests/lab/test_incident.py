"""An incident of the lab, recorded by the watch, carried away in a file, and drawn there as it was drawn here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from backends.cluster.files import Loaded, load
from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause
from backends.history.recording import Recording
from backends.history.store import history_path
from backends.watch import Watch
from tests.lab.cache import require
from tests.lab.five import NAMES, Five, start_five
from tests.procedures.test_process import until
from widgets.glyphs import UNICODE
from widgets.gpus import GpusPane
from widgets.lines import LinePane
from widgets.queue import QueuePane
from widgets.tiers import TiersPane

PANES: tuple[Callable[..., LinePane], ...] = (TiersPane, GpusPane, QueuePane)


def drawn(inventory: Inventory, snapshot: ClusterSnapshot) -> list[str]:
    """What the panes draw of a snapshot, half a wide screen each."""
    lines = []
    for make in PANES:
        pane = make(inventory, UNICODE)
        pane._snapshot = snapshot  # type: ignore[attr-defined]  # as `show` does, but outside an application
        lines += [each.text for each in pane.compose_lines(78)]
    return lines


async def watched(five: Five, loaded: Loaded, state: Path, settled: Callable[[ClusterSnapshot], bool]) -> list[str]:
    """Watch until the cluster is so; what the panes drew of the last that was seen."""
    watch = Watch(loaded, "mark", state, lambda *words: None)
    task = asyncio.create_task(watch.run())
    try:
        await until(lambda: settled(watch.live.snapshot), "the cluster to be so")
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return drawn(loaded.inventory, watch.live.snapshot)


async def test_an_incident_replays_to_the_same_screens_from_its_file(tmp_path: Path) -> None:
    require("docker", "sshd", "llamacpp")
    (tmp_path / "state").mkdir(mode=0o700)
    with start_five(tmp_path / "five", lock=0.2) as five:
        for name in NAMES:
            five.alone(name)
        loaded, state, carried = load(five.here), tmp_path / "state", tmp_path / "incident.tierdeck"
        ends = [f"remote/{name}" for name in NAMES]
        well = await watched(five, loaded, state, lambda s: all(s.endpoints[e].serving for e in ends))
        five.engine.docker("kill", "mark-ii")
        ill = await watched(
            five,
            loaded,
            state,
            lambda s: (
                s.endpoints["remote/mark-ii"].cause is Cause.REFUSED
                and any(w.name == "mark-ii" and not w.running for w in s.nodes["mark"].workloads)
            ),
        )
    assert any("mark-ii" in line and "DOWN" in line and "refused" in line for line in ill)
    assert not any("DOWN" in line for line in well)
    with Recording(history_path(state, "five", five.here)) as recording:
        recording.export(carried)
    with Recording(carried) as recording:
        past = recording.latest()
        assert drawn(past.inventory, past.snapshot) == ill
        fell = [r for r in recording.moments(subject="remote/mark-ii") if r.moment.word == "DOWN"]
        before = recording.last_up("remote/mark-ii", fell[-1])
        assert before is not None
        assert [r.moment.subject for r in recording.fall("remote/mark-ii")] == ["remote/mark-ii"] * len(fell)
        assert any("mark-ii" in line and " UP" in line for line in drawn(before.inventory, before.snapshot))
