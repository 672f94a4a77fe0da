"""What the screens look like, in every size; `make snapshots` takes them anew."""

from __future__ import annotations

from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.tui.driving import console, picture, shown, until
from tests.tui.sample import CannedWorld
from widgets.glyphs import ASCII

SIZES = {"160x45": (160, 45), "100x30": (100, 30), "80x24": (80, 24), "46x30": (46, 30)}
PANES = {"tiers": "1", "gpus": "2", "queue": "3", "router": "4"}


@pytest.mark.parametrize("size", SIZES)
async def test_dashboard(size: str, svg: SnapshotAssertion, tmp_path: Path) -> None:
    async with console(tmp_path, size=SIZES[size]) as (app, _):
        assert await picture(app) == svg(name=f"dashboard-{size}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pane", PANES)
async def test_panes(pane: str, size: str, svg: SnapshotAssertion, tmp_path: Path) -> None:
    async with console(tmp_path, size=SIZES[size]) as (app, pilot):
        await pilot.press(PANES[pane])
        if pane == "router":
            await pilot.press(*"write a python function")
            await until(lambda: "code" in shown(app), "the decision")
        else:
            await pilot.press("z")
        await pilot.pause()
        assert await picture(app) == svg(name=f"{pane}-{size}")


@pytest.mark.parametrize("size", ["160x45", "80x24"])
async def test_stream(size: str, svg: SnapshotAssertion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with console(tmp_path, size=SIZES[size]) as (app, pilot):
        monkeypatch.setattr(app.feed, "_world", CannedWorld())
        await pilot.press("4")
        app.view.toggle_zoom()
        await pilot.press(*"write a python function", "enter")
        await until(lambda: "1 try" in shown(app), "the answer")
        assert await picture(app) == svg(name=f"stream-{size}")


@pytest.mark.parametrize("size", ["160x45", "80x24"])
async def test_comparison(size: str, svg: SnapshotAssertion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with console(tmp_path, size=SIZES[size]) as (app, pilot):
        monkeypatch.setattr(app.feed, "_world", CannedWorld())
        await pilot.press("4", *"write a python function", "ctrl+s", "enter")
        await until(lambda: shown(app).count("ms to first token") == 2, "both answers")
        assert await picture(app) == svg(name=f"comparison-{size}")


@pytest.mark.parametrize(("name", "keys"), [("help", "?"), ("events", "e")])
async def test_pages(name: str, keys: str, svg: SnapshotAssertion, tmp_path: Path) -> None:
    async with console(tmp_path, size=SIZES["80x24"]) as (app, pilot):
        await pilot.press(*keys)
        await pilot.pause()
        assert await picture(app) == svg(name=f"{name}-80x24")


async def test_details(svg: SnapshotAssertion, tmp_path: Path) -> None:
    async with console(tmp_path, size=SIZES["80x24"]) as (app, pilot):
        await pilot.press("j", "j", "j", "j", "j", "enter")
        await until(lambda: "REFUSED" in shown(app), "the details of the refused endpoint")
        assert await picture(app) == svg(name="details-80x24")


async def test_plan(svg: SnapshotAssertion, tmp_path: Path) -> None:
    async with console(tmp_path, size=SIZES["100x30"]) as (app, pilot):
        await pilot.press("3", "s")
        await until(lambda: "[x] 3. mark-iv" in shown(app), "the arrangement")
        assert await picture(app) == svg(name="arrange-100x30")
        await pilot.press("enter")
        await until(lambda: "docker start mark-iv" in shown(app), "the plan")
        assert await picture(app) == svg(name="plan-100x30")


async def test_ascii(svg: SnapshotAssertion, tmp_path: Path) -> None:
    async with console(tmp_path, size=SIZES["80x24"], glyphs=ASCII) as (app, _):
        assert shown(app).isascii()
        assert await picture(app) == svg(name="ascii-80x24")


async def test_without_colour(svg: SnapshotAssertion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with console(tmp_path, size=SIZES["80x24"]) as (app, _):
        for word in ("HEALTHY", "DEGRADED", "DOWN", "UP"):
            assert word in shown(app)
        assert await picture(app) == svg(name="no-colour-80x24")
