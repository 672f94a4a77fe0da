"""A runner with steps that leave files, and stop at any stage for as long as a test wants them to."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

from pydantic import SecretStr

from backends.cluster.inventory import Inventory
from backends.errors import RuntimeFailure
from backends.procedures.context import Context, Touch
from backends.procedures.plan import Step
from backends.procedures.process import main
from backends.procedures.runner import Report
from backends.reach.lease_files import FilePlace, LocalFiles
from backends.secrets import Secrets
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


class SecretToy(FileToy):
    """Counts the characters of `env:TOY_SECRET`."""

    def __init__(self, step: Step, context: Context) -> None:
        super().__init__(step, context)
        self.touch = context.touch

    async def verify(self, report: Report) -> str:
        await self.at("verify")
        assert self.touch is not None
        secret = await self.touch.secret("env:TOY_SECRET")
        return f"{len(secret.get_secret_value())} characters; set here: {'TOY_SECRET' in os.environ}"


class Vault:
    """The real secrets, and nothing else that can be touched."""

    def __init__(self, given: Mapping[str, SecretStr]) -> None:
        self.secrets = Secrets(given=given)

    async def secret(self, reference: str) -> SecretStr:
        return await self.secrets.resolve(reference, polling=False)


@asynccontextmanager
async def opened(inventory: Inventory, given: Mapping[str, SecretStr]) -> AsyncIterator[Context]:
    """With a lease in the home that TOY_HOME names, if it does."""
    context = replace(Host().context(inventory), touch=cast(Touch, Vault(given)))
    if home := os.environ.get("TOY_HOME"):
        context = replace(context, places=lambda node: [FilePlace(LocalFiles(Path(home)), node)])
    yield context


if __name__ == "__main__":
    sys.exit(main(kinds={"toy": FileToy, "secret": SecretToy}, opens=opened))
