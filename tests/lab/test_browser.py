"""The console in a real browser, on a desk and on a phone: drawn, driven, nothing asked of anybody else."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.lab.browser import browse
from tests.lab.cache import require


@asynccontextmanager
async def served_demo() -> AsyncIterator[str]:
    """The demo's console, served; its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tui.cli", "serve", "--demo", "--port", "0", stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        said = (await process.stderr.readline()).decode()
        found = re.search(r"http://\S+", said)
        assert found, said
        yield found[0]
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize(("width", "height", "phone"), [(1280, 800, False), (390, 844, True)])
async def test_the_console_is_drawn_and_driven_in_a_browser(
    tmp_path: Path, width: int, height: int, phone: bool
) -> None:
    require("browser")
    async with (
        served_demo() as address,
        browse(address, tmp_path / "profile", width=width, height=height, phone=phone) as page,
    ):
        await page.until("HEALTHY")
        shown = await page.call("Runtime.evaluate", expression="getComputedStyle(keys).display")
        assert (shown["result"]["value"] == "flex") == phone
        await page.tap("?")
        await page.until("Go to the tiers")
        assert len(await page.screenshot()) > 10_000
        assert page.asked_for
        assert all(url.startswith(address) for url in page.asked_for)
