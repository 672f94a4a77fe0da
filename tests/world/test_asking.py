"""Asking through the router at real sockets: who is asked, what is tried again by itself, and what never is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from backends.asking import AskEvent, Asking, Unreached, ask
from backends.clock import SystemClock
from backends.cluster.files import load
from backends.cluster.fold import fold
from backends.cluster.reading import ChatReading
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause
from backends.engines.chat import ChatEvent, Delta, Finished, Patience
from backends.errors import ChatError
from backends.paces import Paces
from backends.routing import Candidate, Decision, Wish, choose
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.vllm import Vllm
from backends.simulator.httpfaults import HttpFault, Kind
from backends.world import World

QUICK = Patience(first=1.0, next=0.5)


class Asker:
    """A world over three engines that serve chat, and the readings that prompts leave."""

    def __init__(self, sim: SimulatedCluster, world: World, snapshot: ClusterSnapshot) -> None:
        self.sim, self.world, self.snapshot = sim, world, snapshot
        self.told: list[ChatReading] = []
        self.events: list[AskEvent] = []

    def decide(self, tried: frozenset[str]) -> Decision:
        return choose(self.world.inventory, self.snapshot, Wish("chat", tried=tried))

    def send(self, candidate: Candidate) -> AsyncGenerator[ChatEvent, None]:
        return self.world.chat(candidate.endpoint, "hello", model=candidate.model, patience=QUICK)

    def tell(self, reading: ChatReading) -> None:
        self.told.append(reading)
        self.snapshot = fold(self.world.inventory, self.snapshot, reading)

    async def ask(self) -> list[AskEvent]:
        self.events = []
        async with aclosing(ask(self.decide, self.send, self.tell, SystemClock())) as events:
            async for event in events:
                self.events.append(event)
        return self.events

    @property
    def asked(self) -> list[str]:
        return [e.candidate.endpoint for e in self.events if isinstance(e, Asking)]

    def prompts(self, name: str) -> int:
        return self.sim.endpoints[name].engine.requests["POST /v1/chat/completions"]


@asynccontextmanager
async def asker(path: Path) -> AsyncGenerator[Asker, None]:
    sim = SimulatedCluster(path / "sim", speed=50.0)
    sim.add_endpoint("a", LlamaCpp(sim.world, models=["m"]), tasks=["chat"])
    sim.add_endpoint("b", Vllm(sim.world, models=["m"]), tasks=["chat"])
    sim.add_endpoint("c", LlamaCpp(sim.world, models=["m"]), tasks=["chat"])
    async with sim, World(load(sim.inventory_path), None, path / "state") as world:
        yield Asker(sim, world, await world.look())


async def test_the_answer_and_its_pace(tmp_path: Path) -> None:
    async with asker(tmp_path) as a:
        events = await a.ask()
        assert any(isinstance(e, Delta) for e in events)
        assert isinstance(events[-1], Finished)
        assert a.asked == ["a"]
        assert a.told[0].cause is Cause.OK
        assert a.snapshot.endpoints["a"].pace


async def test_what_reached_nobody_goes_to_the_next_by_itself(tmp_path: Path) -> None:
    async with asker(tmp_path) as a:
        await a.sim.endpoints["a"].stop()
        events = await a.ask()
        assert a.asked == ["a", "b"]
        (unreached,) = [e for e in events if isinstance(e, Unreached)]
        assert "connect refused" in unreached.error.message
        assert a.snapshot.endpoints["a"].cooling is not None, "a refusal cools down at once"
        assert (await a.ask())[0] == Asking(a.decide(frozenset()).candidates[0])
        assert a.asked == ["b"]


async def test_nobody_is_asked_instead_who_would_have_to_be_started(tmp_path: Path) -> None:
    async with asker(tmp_path) as a:
        off = {name: replace(a.snapshot.endpoints[name], cause=Cause.OFF) for name in "bc"}
        a.snapshot = replace(a.snapshot, endpoints={**a.snapshot.endpoints, **off})
        await a.sim.endpoints["a"].stop()
        with pytest.raises(ChatError, match="connect refused"):
            await a.ask()
        assert a.asked == ["a"]
        assert a.decide(frozenset("a")).chosen == "b", "it is there to be offered"


async def test_at_most_two_others_are_tried(tmp_path: Path) -> None:
    async with asker(tmp_path) as a:
        for name in "abc":
            await a.sim.endpoints[name].stop()
        with pytest.raises(ChatError, match="connect refused"):
            await a.ask()
        assert a.asked == ["a", "b", "c"]
        with pytest.raises(ChatError, match=r"Nobody can serve chat: a cools down until .*; b cools .*; c cools"):
            await a.ask()
        assert a.asked == []


@pytest.mark.parametrize(
    ("kind", "words", "cause"),
    [
        ("garbage_stream", "what is no answer", Cause.BAD_RESPONSE),
        ("stop_in_mid_stream", "nothing came for 0.5 s", Cause.TIMEOUT),
        ("cut_stream", "broke off", Cause.RESET),
        ("error_in_200", "the engine has died", Cause.BAD_RESPONSE),
        ("half_open", "No answer", Cause.TIMEOUT),
        ("status", "answered 500", Cause.BAD_RESPONSE),
    ],
)
async def test_what_may_have_reached_an_engine_is_never_sent_again(
    kind: Kind, words: str, cause: Cause, tmp_path: Path
) -> None:
    async with asker(tmp_path) as a:
        await a.sim.endpoints["a"].server.inflict(HttpFault(kind, under="/v1/chat"))
        with pytest.raises(ChatError, match=words) as caught:
            await a.ask()
        assert caught.value.sent
        assert (a.asked, a.told[0].cause) == (["a"], cause)
        assert a.prompts("b") == a.prompts("c") == 0
        assert a.decide(frozenset("a")).chosen == "b", "the next candidate is there to be offered"


async def test_an_answer_without_end_is_stopped_by_its_size(tmp_path: Path) -> None:
    async with asker(tmp_path) as a:
        a.sim.world.speed = 1e6
        await a.sim.endpoints["a"].server.inflict(HttpFault("endless_stream"))
        async with asyncio.timeout(30):
            with pytest.raises(ChatError, match="does not come to an end"):
                async for _ in a.world.chat("a", "hello", max_tokens=100):
                    pass


async def test_too_many_requests_cool_down_for_as_long_as_is_asked(tmp_path: Path) -> None:
    async with asker(tmp_path) as a:
        await a.sim.endpoints["a"].server.inflict(HttpFault("status", status=429, retry_after=30, under="/v1/chat"))
        with pytest.raises(ChatError, match="429"):
            await a.ask()
        cooling = a.snapshot.endpoints["a"].cooling
        assert cooling is not None
        assert cooling.until.mono - a.told[0].at.mono == 30
        await a.ask()
        assert a.asked == ["b"]


async def test_two_at_once_are_two_answers(tmp_path: Path) -> None:
    async with asker(tmp_path) as a:
        other = Asker(a.sim, a.world, a.snapshot)
        first, second = await asyncio.gather(a.ask(), other.ask())
        assert isinstance(first[-1], Finished)
        assert isinstance(second[-1], Finished)
        assert a.prompts("a") == 2


async def test_tokens_are_counted_by_whoever_can(tmp_path: Path) -> None:
    async with asker(tmp_path) as a:
        assert await a.world.count_tokens("one two three", [("a", "m"), ("b", "m")]) == {"a": 13, "b": 3}


async def test_leaving_closes_the_connection(tmp_path: Path) -> None:
    async with asker(tmp_path) as a:
        a.sim.world.speed = 1.0
        async with aclosing(ask(a.decide, a.send, a.tell, SystemClock())) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
        engine = a.sim.endpoints["a"].engine
        async with asyncio.timeout(2):
            while engine.running:
                await asyncio.sleep(0.01)
        assert a.told == [], "a person left; that says nothing about the endpoint"


def test_paces_are_remembered(tmp_path: Path) -> None:
    paces = Paces(tmp_path, "home/../lab")
    assert paces.read() == {}
    paces.learn("a", 30.0)
    paces.learn("a", 60.0)
    paces.learn("b", 5.0)
    assert Paces(tmp_path, "home/../lab").read() == {"a": 40.0, "b": 5.0}
    (file,) = (tmp_path / "paces").iterdir()
    file.write_text("{broken")
    assert paces.read() == {}
