"""A start queue of a Kubernetes node, killed at every line of its journal and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.clock import SystemClock
from backends.cluster.files import Loaded
from backends.procedures.events import StepEvent
from backends.procedures.kinds import KINDS
from backends.procedures.opening import open_context
from backends.procedures.plan import Plan
from backends.procedures.runner import Control, Past, past_of, run
from backends.procedures.startup import plan_queue
from backends.world import survey
from tests.kubernetes.controllers import Times
from tests.kubernetes.double import Double
from tests.kubernetes.test_queue import loaded, one_by_one
from tests.procedures.test_runner import Kept, Killed

__all__ = ["loaded"]

LAST = 14
"""A queue of three writes about twelve lines; where a later one is never written, nothing was killed."""


async def carried(loaded: Loaded, plan: Plan, journal: Kept, past: Past) -> list[StepEvent]:
    async with open_context(loaded.inventory) as context:
        events = run(
            plan, KINDS, context, procedure="p", journal=journal, ask=None, control=Control(), clock=SystemClock(),
            past=past,
        )  # fmt: skip
        return [event async for event in events]


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("edge", range(1, LAST))
async def test_killed_at_any_line_and_resumed_all_start_once_and_in_order(
    double: Double, loaded: Loaded, tmp_path: Path, edge: int, written: bool
) -> None:
    double.controllers.times = Times(start=0.01, ready=0.05, stop=0.01)
    plan = plan_queue(loaded.inventory, await survey(loaded, None, tmp_path / "state"), "gpu-1")
    dying = Kept(die_at=edge, written=written)
    try:
        first = await carried(loaded, plan, dying, Past())
    except Killed:
        again = await carried(loaded, plan, Kept(), past_of(dying.events))
        assert again[-1].outcome == "done"
    else:
        assert len(first) < edge, "it is to die at this line"
    assert double.controllers.started == one_by_one()
