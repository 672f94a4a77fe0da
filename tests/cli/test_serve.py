"""`tierdeck serve`: who is let in, the console through a browser's own WebSocket, and an end that leaves nothing."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from backends.simulator.cluster import SimulatedCluster
from tests.cli.driving import PATIENCE, ours, started, tierdeck, until
from tests.engines.servers import free_port


@dataclass
class Served:
    """A server that runs, and what it said of itself."""

    port: int
    said: str
    session: aiohttp.ClientSession

    def url(self, path: str = "") -> str:
        """An address of it."""
        return f"http://127.0.0.1:{self.port}/{path}"

    async def status(self, path: str = "", **headers: str) -> int:
        """How a request is answered, redirects not followed."""
        async with self.session.get(self.url(path), headers=headers, allow_redirects=False) as answer:
            return answer.status

    @asynccontextmanager
    async def console(self, **headers: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A console, as the page opens it."""
        async with self.session.ws_connect(self.url("ws?width=120&height=40"), headers=headers) as socket:
            yield socket


@asynccontextmanager
async def serving(sim: SimulatedCluster, state: Path, *words: str, **secrets: str) -> AsyncIterator[Served]:
    """The cluster's console, served at a port that is free."""
    env = {"TIERDECK_STATE": str(state), **secrets}
    async with started("serve", "--port", "0", "--cluster", str(sim.inventory_path), *words, env=env) as process:
        assert process.stderr is not None
        said = (await asyncio.wait_for(process.stderr.readline(), PATIENCE)).decode()
        port = re.search(r":(\d+)/", said)
        assert port is not None, said
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            yield Served(int(port[1]), said, session)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0


async def seen(socket: aiohttp.ClientWebSocketResponse, words: str) -> None:
    """Read until the console drew these words."""
    text = ""
    async with asyncio.timeout(PATIENCE):
        while words not in text:
            text += (await socket.receive_bytes()).decode(errors="replace")


async def test_a_browser_gets_the_console_and_leaves_nothing_behind(mark: SimulatedCluster, state: Path) -> None:
    async with serving(mark, state) as served:
        assert await served.status() == 200
        async with served.console(Origin=f"http://127.0.0.1:{served.port}") as socket:
            await seen(socket, "Start queue")
            await socket.send_json(["stdin", "?"])
            await seen(socket, "Go to the tiers")
        await until(lambda: len(ours(state)) == 1, "the console's end")


async def test_the_page_asks_nobody_else_for_anything(mark: SimulatedCluster, state: Path) -> None:
    async with serving(mark, state) as served, served.session.get(served.url()) as answer:
        page = await answer.text()
        assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        for path in re.findall(r"static/[\w/.-]+", page):
            assert await served.status(path) == 200, path


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "evil.example:{port}"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
    ],
)
async def test_other_pages_and_names_are_turned_away(
    mark: SimulatedCluster, state: Path, headers: dict[str, str], status: int
) -> None:
    async with serving(mark, state) as served:
        asked = {name: value.format(port=served.port) for name, value in headers.items()}
        assert await served.status(**asked) == status
        if status == 403:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                async with served.console(**asked):
                    pass


async def test_beyond_loopback_a_token_is_made_and_asked_for(mark: SimulatedCluster, state: Path) -> None:
    async with serving(mark, state, "--host", "0.0.0.0") as served:
        token = re.search(r"token=(\S+)", served.said)
        assert token is not None
        for path in ("", "ws", "static/js/textual.js", "?token=wrong", "?token="):
            assert await served.status(path) == 403, path
        assert await served.status(f"?token={token[1]}") == 303
        assert await served.status() == 200
        async with served.console() as socket:
            await seen(socket, "Start queue")


async def test_a_token_of_ones_own_is_never_printed_and_not_given_to_the_console(
    mark: SimulatedCluster, state: Path
) -> None:
    async with serving(mark, state, "--token", "env:DECK_TOKEN", DECK_TOKEN="a-token-of-24-characters") as served:
        assert "a-token" not in served.said
        assert await served.status() == 403
        assert await served.status("?token=a-token-of-24-characters") == 303
        async with served.console() as socket:
            await seen(socket, "Start queue")
            consoles = [process for process in ours(state) if "serve" not in process.cmdline()]
            assert consoles
            assert all("DECK_TOKEN" not in process.environ() for process in consoles)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--token", "env:NOTHING_HERE"], "NOTHING_HERE"),
        (["--token", "env:SHORT"], "shorter than 16"),
        (["--public-url", "nonsense"], "is no address"),
        (["--host", "203.0.113.77"], "cannot be listened on"),
    ],
)
async def test_what_cannot_be_served_is_said(mark: SimulatedCluster, state: Path, words: list[str], said: str) -> None:
    env = {"TIERDECK_STATE": str(state), "SHORT": "secret"}
    ran = await tierdeck("serve", "--port", "0", "--cluster", str(mark.inventory_path), *words, env=env)
    assert ran.code in (1, 2, 3)
    assert said in ran.err
    assert "Traceback" not in ran.err


async def test_a_port_that_is_taken_is_named(mark: SimulatedCluster, state: Path) -> None:
    port = free_port()
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port)
    async with server:
        ran = await tierdeck("serve", "--port", str(port), "--cluster", str(mark.inventory_path))
    assert (ran.code, "--port" in ran.err) == (3, True)


async def test_a_broken_inventory_is_said_before_anything_is_served(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text("version = 1\nname = 3\n")
    assert (await tierdeck("serve", "--port", "0", "--cluster", str(path))).code == 2
