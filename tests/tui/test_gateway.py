"""The gateway's screen: who stands behind its groups, what is wrong with its file, and a push that asks first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from backends.cluster.files import parse
from backends.errors import ReachError
from tests.tui.driving import console, picture, shown, until
from tests.tui.sample import TOML, StillFeed
from tests.tui.test_snapshots import SIZES
from tui.screens.confirm import ConfirmScreen
from tui.screens.gateway import GatewayScreen

FILE = b"""\
model_list:
  - model_name: chat
    litellm_params: {model: mistral, api_base: http://10.0.10.20:3009, api_key: sk-abcdefg}
router_settings:
  fallbacks: [{chat: [nowhere]}]
  allowed_fails: 3
"""


class GatewayFeed(StillFeed):
    """Has a gateway's file."""

    trouble = ""

    @property
    def world(self) -> Any:
        return self

    async def gateway_file(self) -> bytes | None:
        if self.trouble:
            raise ReachError(self.trouble)
        return FILE


def told() -> Any:
    gateway = '\n[gateway]\nendpoint = "gateway/litellm"\nconfig = "ssh:nas:/srv/litellm/config.yaml"\n'
    text = TOML.replace('engine = "litellm"', 'engine = "litellm"\ncontainer = "litellm"')
    return parse(text + gateway, Path("cluster.toml"))


@pytest.mark.parametrize("size", ["160x45", "80x24"])
async def test_what_it_looks_like(size: str, svg: SnapshotAssertion, tmp_path: Path) -> None:
    async with console(tmp_path, size=SIZES[size], feed=GatewayFeed, loaded=told()) as (app, pilot):
        await until(lambda: app.feed.snapshot.taken is not None, "a reading")
        await pilot.press("w")
        await until(lambda: "Groups" in shown(app), "the page")
        assert await picture(app) == svg(name=f"gateway-{size}")


async def test_a_push_shows_every_call_and_asks(tmp_path: Path) -> None:
    async with console(tmp_path, feed=GatewayFeed, loaded=told()) as (app, pilot):
        await until(lambda: app.feed.snapshot.taken is not None, "a reading")
        await pilot.press("w")
        await until(lambda: "Groups" in shown(app), "the page")
        assert "sk-abcdefg" not in shown(app)
        await pilot.press("p")
        await until(lambda: isinstance(app.screen, ConfirmScreen), "the question")
        assert "docker stop litellm; docker start litellm" in shown(app)
        await pilot.press("escape")
        await until(lambda: isinstance(app.screen, GatewayScreen), "the way back")


async def test_without_its_file_it_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GatewayFeed, "trouble", "config.yaml on mark cannot be read.")
    async with console(tmp_path, feed=GatewayFeed, loaded=told(), read_only=True) as (app, pilot):
        await until(lambda: app.feed.snapshot.taken is not None, "a reading")
        await pilot.press("w")
        await until(lambda: "cannot be read" in shown(app), "why")
        await pilot.press("p")
        await pilot.pause()
        assert isinstance(app.screen, GatewayScreen), "nothing is pushed from a console that only reads"
