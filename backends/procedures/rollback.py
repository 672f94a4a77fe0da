"""Takes a whole plan back, last step first: each step that can removes what bears its mark, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, runtime_checkable

from pydantic import JsonValue

from backends.errors import TierdeckError

REVERT_LIMIT: Final = 180.0
"""Seconds that taking back one step may take."""

Tell = Callable[[Mapping[str, JsonValue]], None]


@runtime_checkable
class Reverts(Protocol):
    """A step that can be taken back, whether it was done, half done, or never begun."""

    async def revert(self, report: Tell) -> str:
        """Have the world as it was before the plan; what was taken back, or "" where there was nothing."""
        ...


async def take_back(
    steps: Mapping[int, object], tell: Callable[[int, str], None], confirm: Callable[[], Awaitable[None]]
) -> str:
    """Take back those of the `steps`, by index, that can be; why something stays, or "" where nothing does."""
    trouble = ""
    for index in sorted(steps, reverse=True):
        step = steps[index]
        if not isinstance(step, Reverts):
            continue

        def report(detail: Mapping[str, JsonValue], index: int = index) -> None:
            if text := detail.get("text"):
                tell(index, str(text))

        try:
            await confirm()
            async with asyncio.timeout(REVERT_LIMIT):
                said = await step.revert(report)
        except (TierdeckError, TimeoutError) as error:
            trouble = str(error) or f"it took longer than {REVERT_LIMIT:g} s"
            tell(index, f"cannot be taken back: {trouble}")
            continue
        if said:
            tell(index, f"taken back: {said}")
    return trouble
