"""A decision as lines of a pane: the task and why, who answers, and each other with the reason it was passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from widgets.format import model
from widgets.glyphs import Glyphs

if TYPE_CHECKING:
    from backends.routing.choose import Decision
    from backends.routing.classify import Classified

OTHERS = 6
"""Endpoints without the task that are named; the rest are counted."""


def decision_rows(classified: Classified, decision: Decision, glyphs: Glyphs) -> list[tuple[str, str]]:
    """The decision as (words, style), most telling first: those passed over stand before those that would be next."""
    choice = decision.choice
    second = f", else {classified.runner_up}" if classified.runner_up else ""
    task = f"{decision.task} {classified.confidence:.2f}{second} {glyphs.arrow}"
    if choice is None:
        rows = [(f"{task} {decision.sentence}", "bad")]
    else:
        named = f" {model(choice.model)}" if choice.model else ""
        rows = [(f"{task} {choice.endpoint}{named} ({', '.join(classified.why)})", "accent")]
        if choice.reason not in ("warm, idle",):
            rows.append((f"  {choice.endpoint}: {choice.reason}", "warn" if choice.cold else "dim"))
    mine = [c for c in decision.candidates if c.assigned and c is not choice]
    rows += [(f"  {c.endpoint}: {c.reason}", "dim") for c in mine if c.outcome == "passed over"]
    rows += [(f"  next {c.endpoint}: {c.reason}", "dim") for c in mine if c.outcome == "next"]
    others = [c.endpoint for c in decision.candidates if not c.assigned and c is not choice]
    if others:
        more = f" and {len(others) - OTHERS} more" if len(others) > OTHERS else ""
        rows.append((f"  not for {decision.task}: {', '.join(others[:OTHERS])}{more}", "dim"))
    return rows
