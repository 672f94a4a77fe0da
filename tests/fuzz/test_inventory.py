"""cluster.toml, and cluster.d beside it, may hold anything: then the file, the line and the cure are told."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from backends.cluster.files import load, parse
from tests.fuzz.strategies import bounded, grafts, mangled, said, tried

PATH = Path("cluster.toml")
FULL: dict[str, Any] = {
    "version": 1,
    "name": "lumina",
    "lock_host": "nas",
    "defaults": {"interval": "5s", "timeout": "3s", "down_after": 3, "up_after": 2},
    "nodes": [
        {
            "name": "mark", "address": "10.0.10.20", "os": "windows", "ssh": {"user": "ops", "port": 22},
            "gpus": "nvidia", "docker": {"context": "desktop"}, "recover": {"auto": "containers"},
            "wake": {"mac": "AA:BB:CC:DD:EE:FF", "via": "nas", "rdp": {"user": "ops", "password": "vault:a/b#c"}},
            "queue": {"order": ["a", "b"], "gap": "5s", "ready_timeout": "180s"},
        },
        {"name": "nas", "address": "nas.lan", "ssh": {"user": "ops"}, "docker": False},
    ],
    "tiers": [{"name": "REMOTE"}],
    "endpoints": [
        {
            "name": "remote/a", "tier": "REMOTE", "node": "mark", "engine": "llama.cpp", "url": "http://10.0.10.20:3009",
            "container": "a", "timeout": "8s", "api_key": "keyring:tierdeck/mark", "tasks": ["chat", "reason"],
            "metrics_url": "http://10.0.10.20:8081/metrics", "canary": "10m",
        }
    ],
    "checks": [{"name": "nas/backup", "tier": "REMOTE", "kind": "age", "node": "nas", "path": "/b", "limit": "26h"}],
    "models": [{"name": "m", "file": "volume:models-vol/m.gguf", "context": 8192, "gpu_layers": 28}],
    "router": {"code": ["remote/a"]},
    "gateway": {"endpoint": "remote/a", "config": "ssh:mark:/srv/litellm/config.yaml"},
    "alerts": {"to": ["env:DISCORD"], "group": "10s", "quiet": "23:00-07:00"},
}  # fmt: skip


def refused(text: str) -> None:
    """It is an inventory, or the error says in few printable words what is wrong."""
    assert (said(lambda: parse(text, PATH)) or "cluster.toml").startswith("cluster.toml")


def writable(documents: Iterable[Any]) -> Iterator[str]:
    """Those that TOML can say."""
    for document in documents:
        try:
            yield tomli_w.dumps(document)
        except (TypeError, ValueError, AttributeError):  # None, or a table with another name than text
            continue


def test_any_value_may_be_odd() -> None:
    parse(tomli_w.dumps(FULL), PATH)
    for text in writable(grafts(FULL, every=19)):
        refused(text)


@tried
@given(mangled(tomli_w.dumps(FULL).encode()))
def test_any_text_may_be_broken(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cluster.toml")
        path.write_bytes(raw)
        assert (said(lambda: load(path)) or folder).startswith(folder)


@tried
@given(st.text(max_size=300))
def test_any_text_at_all(text: str) -> None:
    refused(text)


def test_a_fragment_may_be_odd_too(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(tomli_w.dumps(FULL))
    (tmp_path / "cluster.d").mkdir()
    added = {
        "tiers": [{"name": "NEW"}],
        "endpoints": [{"name": "new/b", "tier": "NEW", "engine": "ollama", "url": "http://h:1/v1"}],
        "router": {"chat": ["new/b"]},
    }
    for text in writable(grafts(added)):
        (tmp_path / "cluster.d" / "found.toml").write_text(text)
        assert (said(lambda: load(path)) or str(tmp_path)).startswith(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "version = " + "9" * 5000,
        "version = " + "[" * 100_000,
        "a." * 300 + "b = 1",
        "[[nodes]]\n" * 2_000,
        'name = "' + "x" * 10**6 + '"',
        "version = 1979-05-27T07:32:00.999999999999999999999999Z",
        "version = 0x" + "f" * 5000,
        "version = 1e999",
    ],
    ids=["a number", "brackets", "dots", "nodes", "a name", "a time", "hexadecimal", "infinity"],
)
def test_nor_does_it_take_for_ever(text: str) -> None:
    bounded(lambda: refused(text), seconds=5.0, mib=256.0)


def test_dates_and_times_are_values_too() -> None:
    times = [datetime.date(2026, 1, 1), datetime.time(1), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)]
    for text in writable(grafts(FULL, times, every=13)):
        refused(text)
