"""The router before llama.cpp's own server and LiteLLM's own proxy: one is killed in mid-stream, and nothing is sent
twice unasked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from backends.cluster.files import load
from tests.cli.driving import started, tierdeck
from tests.contract.llama_parts import SLOW
from tests.lab.parts import LiteLlm, LlamaServer, require, tiny_gguf
from tests.tui.driving import console, shown, until
from tui.app import TierdeckApp
from tui.feed import Feed

KEY = "sk-lab-routing"

TOML = """
version = 1
name = "lab"
[[tiers]]
name = "LOCAL"
[[endpoints]]
name = "local/llama"
tier = "LOCAL"
engine = "llama.cpp"
url = "{direct}"
[[endpoints]]
name = "gateway/litellm"
tier = "LOCAL"
engine = "litellm"
url = "{proxy}"
api_key = "env:LAB_KEY"
[router]
chat = ["local/llama", "gateway/litellm"]
"""


@dataclass
class Parts:
    """A llama.cpp asked directly, another one behind LiteLLM, and the inventory of both ways."""

    direct: LlamaServer
    proxy: LiteLlm
    inventory: Path

    @property
    def proxied(self) -> int:
        """Prompts that LiteLLM was sent."""
        return self.proxy.log.read_text(errors="replace").count('"POST /v1/chat/completions')


@asynccontextmanager
async def parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Parts, None]:
    """Both real parts, up; ended with the context."""
    require("llamacpp", "litellm")
    monkeypatch.setenv("LAB_KEY", KEY)
    model = tiny_gguf(folder / "slow.gguf", shape=SLOW)
    with ExitStack() as stack:
        servers = []
        for name in ("direct", "behind"):
            server = LlamaServer(model, folder / name, env={"N_CTX": "4096", "MODEL_ALIAS": "tiny"})
            servers.append(await asyncio.to_thread(stack.enter_context, server))
        base = {"model": "openai/tiny", "api_base": f"{servers[1].url}/v1", "api_key": "none"}
        config = json.dumps({"model_list": [{"model_name": "front", "litellm_params": base}]})
        proxy = await asyncio.to_thread(stack.enter_context, LiteLlm(folder / "litellm", config, KEY))
        path = folder / "cluster.toml"
        path.write_text(TOML.format(direct=servers[0].url, proxy=proxy.url))
        yield Parts(servers[0], proxy, path)


async def first_words(process: asyncio.subprocess.Process) -> None:
    """Wait until an answer streams."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        await process.stdout.readexactly(20)


def said(app: TierdeckApp) -> str:
    """All of the answer, its lines unbroken."""
    return "\n".join(row.text for row in app.dashboard.router.answer.compose_lines(400))


async def test_a_command_whose_engine_is_killed_names_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with parts(tmp_path, monkeypatch) as lab:
        words = ("route", "--cluster", str(lab.inventory), "--task", "chat")
        data = json.loads((await tierdeck(*words, "--json", "tell me a story")).out)
        assert data["chosen"]["endpoint"] == "local/llama"
        async with started(*words, "--send", "tell me a story") as process:
            await first_words(process)
            await asyncio.to_thread(lab.direct.end, "KILL")
            _, err = await process.communicate()
        assert process.returncode == 1
        assert "The answer broke off after" in err.decode()
        assert "--target gateway/litellm" in err.decode()
        assert lab.proxied == 0, "nothing is sent twice unasked"
        async with started(*words, "--send", "--target", "gateway/litellm", "tell me a story") as process:
            await first_words(process)
            await asyncio.to_thread(lab.proxy.end, "KILL")
            _, err = await process.communicate()
        assert process.returncode == 1
        assert "The answer broke off after" in err.decode()
        ran = await tierdeck(*words, "--send", "tell me a story")
        assert ran.code == 3
        assert "Nobody can serve chat: local/llama refused; gateway/litellm refused." in ran.err


@pytest.mark.long
async def test_a_console_whose_engine_is_killed_offers_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        parts(tmp_path, monkeypatch) as lab,
        console(tmp_path / "state", loaded=load(lab.inventory), feed=Feed) as (app, pilot),
    ):
        await until(lambda: all(e.serving for e in app.feed.snapshot.endpoints.values()), "both serve", limit=60)
        app.dashboard.router.forced = "chat"
        await pilot.press("t", *"story", "enter")
        await until(lambda: len(app.dashboard.router.answer.compose_lines(80)) > 8, "it streams", limit=60)
        await asyncio.to_thread(lab.direct.end, "KILL")
        await until(lambda: "Ctrl+N sends it to gateway/litellm" in shown(app), "the next is offered")
        assert "The answer broke off after" in shown(app)
        assert lab.proxied == 0
        await until(lambda: not app.feed.snapshot.endpoints["local/llama"].serving, "its health follows at once")
        await pilot.press("ctrl+n")
        await until(lambda: lab.proxied == 1, "the gateway was asked", limit=60)
        await until(lambda: "2 tries (local/llama failed)" in said(app), "its answer", limit=120)
