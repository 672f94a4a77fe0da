"""Checks of every kind over real sockets, processes and SFTP: seen, named, and judged like endpoints."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from backends.checks import span
from backends.cluster.files import Loaded, parse
from backends.cluster.words import VERDICT_OF, Cause, State, Verdict
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.openai import PlainHttp
from backends.simulator.terminal import Terminal
from tests.cli.driving import tierdeck
from tests.engines.servers import Canned, Reply, free_port, json_reply, listening
from tests.world.watching import watching

HOUR = 3600.0
STATUS = {
    "errors": 0, "globalBytes": 3, "globalFiles": 1, "globalTotalItems": 1, "ignorePatterns": False, "inSyncBytes": 3,
    "inSyncFiles": 1, "invalid": "", "needBytes": 0, "needFiles": 0, "needTotalItems": 0, "pullErrors": 0,
    "sequence": 1, "state": "idle", "stateChanged": "2026-11-21T15:51:40+01:00", "version": 1,
}  # fmt: skip
"""What Syncthing 1.19 answered at /rest/db/status, but for what says nothing here."""


@pytest.fixture
async def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedCluster]:
    """A node that is reached by SSH, with a web page on it."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    sim = SimulatedCluster(tmp_path / "sim")
    sim.extra = {"defaults": {"interval": "100ms", "timeout": "2s", "down_after": 1, "up_after": 1}}
    sim.add_node("nas", docker=False)
    sim.add_endpoint("web", PlainHttp(sim.world), node="nas", tier="NAS")
    async with sim:
        yield sim


def with_checks(sim: SimulatedCluster, *checks: dict[str, Any]) -> str:
    return sim.inventory + "\n" + tomli_w.dumps({"checks": [{"tier": "NAS", **check} for check in checks]})


def files(folder: Path, **ages: float) -> Path:
    folder.mkdir(parents=True)
    for name, age in ages.items():
        (folder / name).write_text("x")
        os.utime(folder / name, (time.time() - age, time.time() - age))
    return folder


@dataclass(frozen=True)
class Row:
    """A check and what must be said of it; {port} is the web page's, {free} nobody's, {folder} one of our own."""

    name: str
    cause: Cause
    words: str
    fields: dict[str, Any]


def http(url: str) -> dict[str, Any]:
    return {"kind": "http", "url": url}


def tcp(address: str, **more: str) -> dict[str, Any]:
    return {"kind": "tcp", "address": address, **more}


def command(*words: str, **more: str) -> dict[str, Any]:
    return {"kind": "command", "command": words, **more}


def age(path: str, **more: str) -> dict[str, Any]:
    return {"kind": "age", "path": path, "limit": "26h", **more}


PY = sys.executable
WELL = "print('all is well')"
FULL = "import sys; print('disk is full', file=sys.stderr); sys.exit(3)"
SLEEP = "import time; time.sleep(60)"
CLOSED = "connect refused by 127.0.0.1:{free}"
ROWS = (
    Row("a page", Cause.OK, "answered", http("http://127.0.0.1:{port}")),
    Row("no page", Cause.REFUSED, CLOSED, http("http://127.0.0.1:{free}")),
    Row("no such page", Cause.CONFIG, "404", http("http://127.0.0.1:{port}/nowhere")),
    Row("a port", Cause.OK, "accepts connections", tcp("127.0.0.1:{port}")),
    Row("a port of the node", Cause.OK, "accepts connections", tcp("localhost:{port}", node="nas")),
    Row("no port", Cause.REFUSED, CLOSED, tcp("127.0.0.1:{free}")),
    Row("well here", Cause.OK, "all is well", command(PY, "-c", WELL, timeout="20s")),
    Row("ill here", Cause.BAD_RESPONSE, "exit code 3: disk is full", command(PY, "-c", FULL, timeout="20s")),
    Row("hangs here", Cause.TIMEOUT, "did not end within 0.5 s", command(PY, "-c", SLEEP, timeout="500ms")),
    Row("not here", Cause.CONFIG, "no-such-program is not installed", command("no-such-program")),
    Row("well there", Cause.OK, "hello", command("echo", "hello", node="nas")),
    Row("ill there", Cause.BAD_RESPONSE, "exit code 1", command("false", node="nas")),
    Row("not there", Cause.CONFIG, "exit code 127", command("no-such-program", node="nas")),
    Row("young here", Cause.OK, "newest of 2: new, 2 h old (limit 26 h)", age("{folder}/young")),
    Row("old here", Cause.BAD_RESPONSE, "newest of 2: less, 2 d old (limit 26 h)", age("{folder}/old")),
    Row("a file here", Cause.OK, "newest: new, 2 h old (limit 26 h)", age("{folder}/young/new")),
    Row("empty here", Cause.BAD_RESPONSE, "is empty", age("{folder}/empty")),
    Row("missing here", Cause.CONFIG, "No such file or directory", age("{folder}/no")),
    Row("young there", Cause.OK, "newest of 2: new, 2 h old (limit 26 h)", age("/young", node="nas")),
    Row("old there", Cause.BAD_RESPONSE, "newest of 2: less, 2 d old (limit 26 h)", age("~/old", node="nas")),
    Row("a file there", Cause.OK, "newest: new, 2 h old", age("/young/new", node="nas")),
    Row("empty there", Cause.BAD_RESPONSE, "is empty", age("/empty", node="nas")),
    Row("missing there", Cause.CONFIG, "No such file or directory", age("/no", node="nas")),
)


async def test_every_kind_says_what_it_sees(sim: SimulatedCluster, tmp_path: Path) -> None:
    for folder in (tmp_path / "files", sim.nodes["nas"].folder):
        files(folder / "young", new=2 * HOUR + 60, older=90 * HOUR)
        files(folder / "old", more=90 * HOUR, less=60 * HOUR)
        files(folder / "empty")
        (folder / "old/.stfolder").mkdir()
    places = {"port": sim.endpoints["web"].server.port, "free": free_port(), "folder": tmp_path / "files"}

    def filled(value: Any) -> Any:
        return value.format(**places) if isinstance(value, str) else value

    text = with_checks(sim, *({"name": r.name, **{k: filled(v) for k, v in r.fields.items()}} for r in ROWS))
    async with watching(parse(text, tmp_path / "c.toml"), tmp_path / "state") as watch:
        await watch.until(lambda: all(watch.endpoint(row.name).cause for row in ROWS), "all were read")
        for row in ROWS:
            state = watch.endpoint(row.name)
            assert (state.cause, state.verdict) == (row.cause, VERDICT_OF[row.cause]), f"{row.name}: {state.evidence}"
            assert filled(row.words) in state.evidence, row.name
        assert watch.snapshot.tiers[0].total == len(ROWS) + 1
        assert watch.snapshot.tiers[0].state is State.DEGRADED


async def test_a_check_goes_down_backs_off_and_comes_up_like_an_endpoint(sim: SimulatedCluster, tmp_path: Path) -> None:
    backup = files(tmp_path / "backup", one=90 * HOUR)
    text = with_checks(sim, {"name": "b", **age(str(backup), interval="50ms")})
    text = text.replace("down_after = 1", "down_after = 3").replace("up_after = 1", "up_after = 2")
    async with watching(parse(text, tmp_path / "c.toml"), tmp_path / "state") as watch:
        await watch.until(lambda: watch.endpoint("b").verdict is Verdict.DOWN, "too old")
        await watch.until(lambda: watch.of("b")[-1].interval > 0.05, "it is asked less often")
        (backup / "two").write_text("x")
        watch.forget()
        watch.nudge("b")
        await watch.until(lambda: watch.of("b"), "it was seen")
        watch.nudge("b")
        await watch.until(lambda: watch.endpoint("b").verdict is Verdict.UP, "a new backup")
        assert len([r for r in watch.of("b") if r.result.cause is Cause.OK]) >= 2, "once is not enough"
        watch.world.maintenance.begin("b", time.time() + HOUR, time.time())
        await watch.until(lambda: watch.endpoint("b").cause is Cause.MAINTENANCE, "left out")


async def test_a_node_that_is_not_reached_says_so(sim: SimulatedCluster, tmp_path: Path) -> None:
    server = sim.nodes["nas"].ssh
    assert server is not None
    await server.refuse()
    text = with_checks(
        sim,
        {"name": "age", "kind": "age", "path": "/x", "limit": "1h", "node": "nas"},
        {"name": "command", "kind": "command", "command": ["true"], "node": "nas"},
    )
    async with watching(parse(text, tmp_path / "c.toml"), tmp_path / "state") as watch:
        for name in ("age", "command"):
            await watch.until(lambda name=name: watch.endpoint(name).cause is Cause.UNREACHABLE, name)
            assert "refuses SSH" in watch.endpoint(name).evidence


async def test_a_command_is_run_without_a_shell(sim: SimulatedCluster, tmp_path: Path) -> None:
    said: list[list[str]] = []

    async def look(argv: list[str], terminal: Terminal) -> int:
        said.append(argv)
        return 0

    sim.nodes["nas"].commands.extra["look"] = look
    text = with_checks(
        sim, {"name": "c", "kind": "command", "command": ["look", "$HOME; rm -rf *", "'"], "node": "nas"}
    )
    async with watching(parse(text, tmp_path / "c.toml"), tmp_path / "state") as watch:
        await watch.until(lambda: watch.endpoint("c").verdict is Verdict.UP, "it was run")
    assert said[0] == ["$HOME; rm -rf *", "'"]


@pytest.mark.parametrize(
    ("reply", "cause", "words"),
    [
        (json_reply(STATUS), Cause.OK, "in sync since 2026-11-21 14:51 UTC; 1 files"),
        (json_reply(STATUS | {"state": "scanning"}), Cause.OK, "in sync since"),
        (json_reply(STATUS | {"state": "syncing", "needTotalItems": 12, "needBytes": 3 << 20}), Cause.BUSY,
         "syncing since 2026-11-21 14:51 UTC: 12 items, 3.0 MiB to go"),
        (json_reply(STATUS | {"state": "error", "error": "folder marker missing"}), Cause.BAD_RESPONSE,
         "stands still since 2026-11-21 14:51 UTC: folder marker missing"),
        (json_reply(STATUS | {"errors": 2, "needTotalItems": 2}), Cause.BAD_RESPONSE, "2 items cannot be synced"),
        (json_reply(STATUS | {"state": "", "stateChanged": "0001-01-01T00:00:00Z"}), Cause.CONFIG, "paused"),
        (Reply(404, "no such folder\n"), Cause.CONFIG, "Syncthing knows no folder a&b"),
        (Reply(403, "CSRF Error\n"), Cause.CONFIG, "403: API key not accepted"),
        (json_reply({"state": 3}), Cause.BAD_RESPONSE, "/rest/db/status"),
        (Reply(200, "<html>"), Cause.BAD_RESPONSE, "/rest/db/status"),
    ],
    ids=["in sync", "scanning", "syncing", "error", "items", "paused", "no folder", "no key", "wrong JSON", "no JSON"],
)  # fmt: skip
async def test_syncthing(
    reply: Reply, cause: Cause, words: str, sim: SimulatedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNC_KEY", "k-very-secret")
    peer = Canned({"/rest/db/status?folder=a%26b": reply})
    async with listening(peer) as port:
        check = {"name": "s", "kind": "syncthing", "url": f"http://127.0.0.1:{port}", "folder": "a&b"}
        text = with_checks(sim, check | {"api_key": "env:SYNC_KEY"})
        async with watching(parse(text, tmp_path / "c.toml"), tmp_path / "state") as watch:
            await watch.until(lambda: watch.endpoint("s").cause, "it was read")
            state = watch.endpoint("s")
    assert (state.cause, words in state.evidence) == (cause, True), state.evidence
    assert peer.seen[0].headers["x-api-key"] == "k-very-secret"
    assert "k-very-secret" not in repr(state)


async def test_they_are_in_status(sim: SimulatedCluster, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(with_checks(sim, {"name": "nas/echo", "kind": "command", "command": ["true"], "node": "nas"}))
    ran = await tierdeck("status", "--json", "--cluster", str(path))
    endpoints = {e["name"]: e for e in json.loads(ran.out)["tiers"][0]["endpoints"]}
    told = endpoints["nas/echo"]
    assert (told["check"], told["engine"], told["url"], told["verdict"]) == ("command", None, "command: true", "UP")
    assert endpoints["web"]["check"] is None
    ran = await tierdeck("status", "--cluster", str(path))
    assert any(line.split()[:3] == ["nas/echo", "UP", "OK"] for line in ran.out.splitlines())


def loaded(text: str) -> Loaded:
    return parse(f'version = 1\nname = "t"\n[[tiers]]\nname = "A"\n{text}', Path("t.toml"))


def test_a_check_serves_nobody() -> None:
    inventory = loaded('[[checks]]\nname = "c"\ntier = "A"\nkind = "tcp"\naddress = "h:1"\n').inventory
    assert inventory.assigned_tasks == ()
    assert [e.name for e in inventory.endpoints_of["A"]] == ["c"]
    assert inventory.interval(inventory.lamps[0]) == 5.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7199, "119 min"), (26 * HOUR, "26 h"), (4 * 86400, "4 d")],
)
def test_spans(seconds: float, words: str) -> None:
    assert span(seconds) == words
