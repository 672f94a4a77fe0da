"""Checks of kind syncthing against Syncthing itself: two of them, loopback only."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from backends.cluster.files import parse
from backends.cluster.words import Cause
from tests.lab.parts import free_port, require
from tests.lab.process import Kept, http_status
from tests.world.watching import watching

KEY = "lab-key"


class Syncthing(Kept):
    """Syncthing with one folder, "default", that talks to nobody."""

    def __init__(self, directory: Path) -> None:
        home, self.folder = directory / "home", directory / "sync"
        subprocess.run(["syncthing", f"--generate={home}"], check=True, capture_output=True, timeout=60)
        config = home / "config.xml"
        text = re.sub(r"<(\w+Enabled)>true<", r"<\1>false<", config.read_text())
        text = text.replace("<listenAddress>default<", f"<listenAddress>tcp://127.0.0.1:{free_port()}<")
        config.write_text(re.sub(r'(<folder id="default"[^>]*path=")[^"]*', rf"\g<1>{self.folder}", text))
        (self.folder / ".stfolder").mkdir(parents=True)
        (self.folder / "file").write_text("hello")
        self.url = f"http://127.0.0.1:{free_port()}"
        arguments = [f"--home={home}", "--no-browser", f"--gui-address={self.url[7:]}", f"--gui-apikey={KEY}"]
        super().__init__(["syncthing", "serve", *arguments], directory / "log", env={**os.environ, "STNOUPGRADE": "1"})

    def ready(self) -> None:
        """Waits until it answers."""
        self.wait_until(lambda: http_status(f"{self.url}/rest/noauth/health") == 403, 30, "syncthing answers")

    def say(self, method: str, route: str, body: object = None) -> None:
        httpx.request(method, self.url + route, json=body, headers={"X-API-Key": KEY}, timeout=10)


@pytest.fixture
def syncthing(tmp_path: Path) -> Iterator[Syncthing]:
    require("syncthing")
    with ExitStack() as stack:
        yield stack.enter_context(Syncthing(tmp_path / "st"))


@pytest.mark.lab
async def test_a_real_folder(syncthing: Syncthing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNC_KEY", KEY)
    common = f'tier = "A"\nkind = "syncthing"\nurl = "{syncthing.url}"\ninterval = "100ms"\n'
    text = f"""
version = 1
name = "t"
[[tiers]]
name = "A"
[[checks]]
name = "folder"
folder = "default"
api_key = "env:SYNC_KEY"
{common}
[[checks]]
name = "none"
folder = "nope"
api_key = "env:SYNC_KEY"
{common}
[[checks]]
name = "keyless"
folder = "default"
{common}
"""
    async with watching(parse(text, tmp_path / "t.toml"), tmp_path / "state") as watch:
        await watch.until(lambda: watch.endpoint("folder").cause is Cause.OK, "it is in sync")
        assert watch.endpoint("folder").evidence.startswith("in sync since 20")
        await watch.until(lambda: watch.endpoint("none").cause is Cause.CONFIG, "no such folder")
        await watch.until(lambda: watch.endpoint("keyless").cause is Cause.CONFIG, "no key")
        assert "API key missing" in watch.endpoint("keyless").evidence
        (syncthing.folder / ".stfolder").rmdir()
        syncthing.say("POST", "/rest/db/scan?folder=default")
        await watch.until(lambda: "folder marker missing" in watch.endpoint("folder").evidence, "it stands still")
        (syncthing.folder / ".stfolder").mkdir()
        syncthing.say("POST", "/rest/db/scan?folder=default")
        syncthing.say("PATCH", "/rest/config/folders/default", {"paused": True})
        await watch.until(lambda: watch.endpoint("folder").cause is Cause.CONFIG, "it is paused")
