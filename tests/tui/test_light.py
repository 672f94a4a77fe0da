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
        ill = replace(snapshot.endpoints["gateway/litellm"], verdict=Verdict.DOWN, cause=Cause.REFUSED)
        app.dashboard.show(replace(snapshot, endpoints={**snapshot.endpoints, "gateway/litellm": ill}))
        assert set(drawn) == {app.dashboard.tiers}
