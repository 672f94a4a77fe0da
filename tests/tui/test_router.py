"""The router console against engines at real sockets: decided first, streamed, broken off, offered, compared."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.events import Paste
from textual.pilot import Pilot

from backends.cluster.files import load
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.litellm import Deployment, LiteLlm
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.vllm import Vllm
from backends.simulator.httpfaults import HttpFault, Kind
from tests.tui.driving import console, shown, until
from tui.app import TierdeckApp
from tui.feed import Feed
from tui.screens.bench import BenchScreen
from tui.screens.compare import CompareScreen


class Desk:
    """A console on three engines and a gateway."""

    def __init__(self, sim: SimulatedCluster, app: TierdeckApp, pilot: Pilot[None]) -> None:
        self.sim, self.app, self.pilot = sim, app, pilot

    async def sees(self, *words: str) -> None:
        await until(lambda: all(word in shown(self.app) for word in words), f"{words}, not\n{shown(self.app)}")

    def prompts(self, name: str) -> int:
        return self.sim.endpoints[name].engine.requests["POST /v1/chat/completions"]

    async def types(self, text: str) -> None:
        self.app.dashboard.router.prompt.load_text(text)
        await self.sees(text[:20])


@asynccontextmanager
async def desk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    speed: float = 20.0,
    read_only: bool = False,
    task: str | None = "chat",
) -> AsyncIterator[Desk]:
    sim = SimulatedCluster(tmp_path / "sim", speed=speed)
    sim.add_endpoint("a", LlamaCpp(sim.world, models=["/m/coder.gguf"]), tasks=["code", "chat"])
    sim.add_endpoint("b", Vllm(sim.world, models=["qwen"]), tasks=["code", "chat"])
    sim.add_endpoint("c", LlamaCpp(sim.world, models=["/m/eyes.gguf"], vision=True), tasks=["vision"])
    behind = [
        Deployment("one", "coder", sim.endpoints["a"].server),
        Deployment("two", "qwen", sim.endpoints["b"].server),
    ]
    sim.add_endpoint("g", LiteLlm(sim.world, deployments=behind), tasks=["fast"])
    sim.extra = {"defaults": {"interval": "1s"}, "router": {"chat": ["a", "b"], "code": ["a", "b"]}}
    async with sim:
        for name, value in sim.secrets.items():
            monkeypatch.setenv(name, value)
        options: dict[str, Any] = {"loaded": load(sim.inventory_path), "feed": Feed, "read_only": read_only}
        async with console(tmp_path / "state", **options) as (app, pilot):
            here = Desk(sim, app, pilot)
            await until(lambda: all(e.serving for e in app.feed.snapshot.endpoints.values()), "all serve")
            app.dashboard.router.forced = task
            await pilot.press("t")
            yield here


async def test_decided_before_it_is_sent_then_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(tmp_path, monkeypatch, task=None) as d:
        await d.types("write a python function")
        await d.sees("code", "a coder", "next b: warm, idle", "not for code: c, g")
        assert d.prompts("a") == 0
        await d.pilot.press("enter")
        await d.sees("> write a python function", "ms to first token", "tok/s", "tokens in", "1 try")
        assert d.prompts("a") == 1


async def test_a_conversation_stays_with_who_answered_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(tmp_path, monkeypatch) as d:
        await d.pilot.press("ctrl+g", "b", "enter")
        await d.sees("to b")
        await d.types("hello")
        await d.pilot.press("enter")
        await d.sees("b: ", "1 try")
        await d.pilot.press("ctrl+g", "backspace", "enter")
        await d.types("thanks")
        await d.sees("b: warm, idle, answered this conversation before")
        await d.pilot.press("ctrl+l")
        await d.types("hi")
        await d.sees("a coder", "next b: warm, idle")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("cut_stream", "broke off"), ("garbage_stream", "what is no answer"), ("error_in_200", "the engine has died")],
)
async def test_what_broke_off_goes_to_the_next_by_one_key_only(
    kind: Kind, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(tmp_path, monkeypatch) as d:
        await d.sim.endpoints["a"].server.inflict(HttpFault(kind))
        await d.types("hello")
        await d.pilot.press("enter")
        await d.sees(words, "Ctrl+N sends it to b", "Nothing is sent twice unasked")
        assert d.prompts("b") == 0
        await d.pilot.press("ctrl+n")
        await d.sees("b: ", "2 tries (a failed)", "a: tried: it just failed with this prompt")
        assert (d.prompts("a"), d.prompts("b")) == (1, 1)
        await d.pilot.press("ctrl+n")
        assert d.prompts("b") == 1, "what was answered is not offered again"


async def test_the_first_esc_closes_the_connection_and_the_second_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(tmp_path, monkeypatch, speed=0.5) as d:
        engine = d.sim.endpoints["a"].engine
        await d.types("hello")
        await d.pilot.press("enter")
        await until(lambda: engine.running == 1, "it streams")
        await d.pilot.press("escape")
        await until(lambda: engine.running == 0, "the connection is closed")
        await d.sees("cancelled")
        assert d.app.dashboard.router.prompt.has_focus
        await d.pilot.press("escape")
        assert d.app.dashboard.tiers.has_focus


async def test_an_image_is_looked_at_before_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    (tmp_path / "[red].txt").write_text("no image")
    async with desk(tmp_path, monkeypatch, task=None) as d:
        for name in ("[red].txt", "none.png"):
            await d.pilot.press("ctrl+o")
            await d.pilot.press(*str(tmp_path / name), "enter")
        await until(lambda: any("cannot be read" in e.text for e in d.app.dashboard.events.lines), "no file")
        assert any("[red].txt is no image" in e.text for e in d.app.dashboard.events.lines)
        await d.pilot.press("ctrl+o", *str(tmp_path / "x.png"), "enter")
        await d.sees("with x.png")
        await d.types("what is this?")
        await d.sees("vision 1.00", "c eyes")
        await d.pilot.press("enter")
        await d.sees("1 try")
        assert "with x.png" not in shown(d.app), "an image goes with one prompt"


async def test_through_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(tmp_path, monkeypatch) as d:
        await d.pilot.press("ctrl+g", *"gateway", "enter")
        await d.sees("through the gateway")
        await d.types("hello")
        await d.pilot.press("enter")
        await d.sees("through g as one", "1 try")
        assert d.prompts("g") == 1
        await d.pilot.press("ctrl+g", *"nobody", "enter")
        await until(lambda: any("no endpoint" in e.text for e in d.app.dashboard.events.lines), "a word about it")


async def test_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(tmp_path, monkeypatch) as d:
        await d.sim.endpoints["b"].server.inflict(HttpFault("cut_stream"))
        await d.types("hello there")
        await d.pilot.press("ctrl+s", "enter")
        await until(lambda: isinstance(d.app.screen, CompareScreen), "the columns")
        await d.sees("a coder", "b qwen", "ms to first token", "broke off")
        assert (d.prompts("a"), d.prompts("b")) == (1, 1), "one's failure is sent to nobody else"
        await d.pilot.press("escape")
        await until(lambda: d.app.screen is d.app.dashboard, "the dashboard")


async def test_leaving_the_comparison_closes_its_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(tmp_path, monkeypatch, speed=0.5) as d:
        engines = [d.sim.endpoints[name].engine for name in "ab"]
        await d.types("hello there")
        await d.pilot.press("ctrl+s", "enter")
        await until(lambda: all(engine.running for engine in engines), "both stream")
        await d.pilot.press("escape")
        await until(lambda: not any(engine.running for engine in engines), "both connections are closed")
        await d.sees("cancelled")
        assert isinstance(d.app.screen, CompareScreen)


async def test_a_bench_says_what_it_sends_and_begins_when_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(tmp_path, monkeypatch) as d:
        await d.types("hello")
        await d.pilot.press("ctrl+b")
        await until(lambda: isinstance(d.app.screen, BenchScreen), "the bench")
        await d.sees("1, 2, 4, 8 prompts at once, 64 tokens each", "Enter begins")
        assert d.prompts("a") == 0
        await d.pilot.press("enter")
        await d.sees("tok/s", "done")
        assert d.prompts("a") == 16
        await d.pilot.press("escape", "escape", "j", "j", "B")
        await until(lambda: isinstance(d.app.screen, BenchScreen), "the bench of what is selected")


async def test_read_only_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(tmp_path, monkeypatch, read_only=True) as d:
        await d.types("hello")
        await d.pilot.press("ctrl+s", "ctrl+b", "enter")
        await d.sees("decided, not sent")
        assert any("sends nothing" in e.text for e in d.app.dashboard.events.lines)
        assert d.prompts("a") == d.prompts("b") == 0


async def test_a_prompt_of_a_megabyte_is_answered_or_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(tmp_path, monkeypatch) as d:
        began = time.monotonic()
        d.app.dashboard.router.prompt.post_message(Paste("word " * 200_000))
        await d.sees("[paste 1: 1,000,000 characters]", "too long: about 285,714 tokens")
        await d.pilot.press("enter")
        await d.sees("[...] (999,999 characters)", "not sent")
        assert time.monotonic() - began < 10
        assert d.prompts("a") == d.prompts("b") == 0


async def test_two_consoles_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(tmp_path, monkeypatch) as d:
        options: dict[str, Any] = {"loaded": d.app.setup.loaded, "feed": Feed}
        async with console(tmp_path / "other", **options) as (app, pilot):
            other = Desk(d.sim, app, pilot)
            await until(lambda: all(e.serving for e in app.feed.snapshot.endpoints.values()), "all serve")
            app.dashboard.router.forced = "chat"
            await pilot.press("t", *"hello", "enter")
            await d.types("hello")
            await d.pilot.press("enter")
            await other.sees("1 try")
            await d.sees("1 try")
        assert d.prompts("a") + d.prompts("b") == 2
