"""What every test stands on: UTC, colours on, no configuration or state of the person who runs them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _a_place_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [
        n for n in os.environ if n.startswith("TIERDECK_") and n not in ("TIERDECK_LAB", "TIERDECK_LAB_CACHE")
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TIERDECK_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("NO_COLOR", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made from now on; its path is short enough for sockets in them."""
    with tempfile.TemporaryDirectory(prefix="td") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        yield Path(short)


@pytest.fixture
def short_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder for control sockets; the names of pytest's own are too long for them."""
    with tempfile.TemporaryDirectory(prefix="td") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        yield
