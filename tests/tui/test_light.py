"""Light on the line: what did not change is not drawn, and what did is drawn alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.widget import Widget

from backends.cluster.words import Cause, Verdict
from tests.tui.driving import console


async def test_an_unchanged_tick_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with console(tmp_path) as (app, pilot):
        await pilot.pause()
        snapshot, drawn = app.feed.snapshot, []
        refresh = Widget.refresh

        def count(self: Widget, *regions: Any, **options: Any) -> Widget:
            drawn.append(self)
            return refresh(self, *regions, **options)

        monkeypatch.setattr(Widget, "refresh", count)
        app.dashboard.show(snapshot)
        app.dashboard.show(replace(snapshot))
        assert drawn == []
        await pilot.pause()
        assert set(drawn) <= {app.dashboard.clock}
        drawn.clear()
        ill = replace(snapshot.endpoints["gateway/litellm"], verdict=Verdict.DOWN, cause=Cause.REFUSED)
        app.dashboard.show(replace(snapshot, endpoints={**snapshot.endpoints, "gateway/litellm": ill}))
        assert set(drawn) == {app.dashboard.tiers}
        await pilot.pause()
        assert set(drawn) - {app.dashboard.clock} == {app.dashboard.tiers}


async def test_the_cursor_stays_where_it_was_among_lines_about_the_same(tmp_path: Path) -> None:
    async with console(tmp_path) as (app, pilot):
        await pilot.pause()
        pane, snapshot = app.dashboard.gpus, app.feed.snapshot
        name, node = next((name, node) for name, node in snapshot.nodes.items() if node.gpus)
        pair = (node.gpus[0], replace(node.gpus[0], index=1))

        async def warm(celsius: float) -> None:
            gpus = tuple(replace(gpu, temperature_c=celsius) for gpu in pair)
            app.dashboard.show(replace(snapshot, nodes={**snapshot.nodes, name: replace(node, gpus=gpus)}))
            await pilot.pause()
            assert any(f"{celsius:.0f}" in each.text for each in pane._shown)

        await warm(40.0)
        app.dashboard.go(2)
        await pilot.press("g", "j")
        second = pane._cursor
        assert pane.selected == f"node:{name}"
        await warm(41.0)
        assert pane._cursor == second != 0
