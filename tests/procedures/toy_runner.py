"""A runner with steps that leave files, and stop at any stage for as long as a test wants them to."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from backends.cluster.inventory import Inventory
from backends.errors import RuntimeFailure
from backends.procedures.context import Context
from backends.procedures.plan import Step
from backends.procedures.process import main
from backends.procedures.runner import Report
from backends.reach.lease_files import FilePlace, LocalFiles
from tests.procedures.host import Host


class FileToy:
    """`hold-STAGE-NAME` in its folder makes it wait there (it says so in `at-STAGE-NAME`), `fail-...` makes it fail."""

    def __init__(self, step: Step, context: Context) -> None:
        self.folder, self.name = Path(str(step.arguments["folder"])), str(step.arguments["name"])

    async def at(self, stage: str) -> None:
        spot = f"{stage}-{self.name}"
        while (self.folder / f"hold-{spot}").exists():
            (self.folder / f"at-{spot}").touch()
            await asyncio.sleep(0.01)
        if (self.folder / f"fail-{spot}").exists():
            raise RuntimeFailure(f"{spot} failed.", "Try again.")
        if (self.folder / f"crash-{spot}").exists():
            raise ZeroDivisionError(spot)

    async def check(self) -> str:
        await self.at("check")
        return "done already" if (self.folder / f"done-{self.name}").exists() else ""

    async def apply(self, report: Report) -> None:
        await self.at("apply")
        with (self.folder / f"done-{self.name}").open("a") as file:
            file.write("x")
        report({"text": f"did {self.name}"})
        await self.at("applied")

    async def verify(self, report: Report) -> str:
        await self.at("verify")
        return "it holds"

    async def undo(self) -> None:
        """Nothing."""


@asynccontextmanager
async def opened(inventory: Inventory) -> AsyncIterator[Context]:
    """With a lease in the home that TOY_HOME names, if it does."""
    context = Host().context(inventory)
    if home := os.environ.get("TOY_HOME"):
        context = replace(context, places=lambda node: [FilePlace(LocalFiles(Path(home)), node)])
    yield context


if __name__ == "__main__":
    sys.exit(main(kinds={"toy": FileToy}, opens=opened))
