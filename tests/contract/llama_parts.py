"""llama.cpp's server: the simulator's, and its own as a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import cached_property
from pathlib import Path
from typing import Protocol

from backends.simulator.cluster import SimulatedCluster, State
from backends.simulator.engines.llamacpp import LlamaCpp
from tests.lab.parts import LlamaServer, Shape, sparse_gguf, tiny_gguf

SLOW = Shape(name="slow", layers=8, embd=512, heads=8, kv_heads=8, head_dim=64, ff=2048)
"""Some 30 MB of random weights: it makes a few hundred tokens in a second, so that an answer lasts."""

CONTEXT = 2048
"""Tokens of context of every server here."""


SLEEP = 3
"""Seconds without work after which a sleepy one falls asleep."""


class Llamas(Protocol):
    """Starts servers of one sort; each context gives an address, and ends its server."""

    def serving(self, *, key: str = "", slow: bool = False) -> AbstractAsyncContextManager[str]:
        """One that is ready; a `slow` one takes seconds for an answer of all its context."""
        ...

    def loading(self) -> AbstractAsyncContextManager[str]:
        """One that was just started, and takes a second or more to load."""
        ...

    def sleepy(self) -> AbstractAsyncContextManager[str]:
        """One that is ready, and falls asleep after SLEEP seconds without work."""
        ...


class SimulatedLlamas:
    """The simulator's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def serving(self, *, key: str = "", slow: bool = False) -> AbstractAsyncContextManager[str]:
        """See Llamas."""
        return self._started("ready", key, 300.0 if slow else 4000.0)

    def loading(self) -> AbstractAsyncContextManager[str]:
        """See Llamas."""
        return self._started("starting", "", 4000.0)

    def sleepy(self) -> AbstractAsyncContextManager[str]:
        """See Llamas."""
        return self._started("ready", "", 4000.0, sleep_after=float(SLEEP))

    @asynccontextmanager
    async def _started(self, state: State, key: str, rate: float, **more: float) -> AsyncGenerator[str, None]:
        sim = SimulatedCluster(self._folder / "sim")
        engine = LlamaCpp(
            sim.world, models=["tiny"], api_key=key, tokens_per_second=rate, answer_tokens=CONTEXT, slots=2,
            context=CONTEXT, prompt_tokens_per_second=50_000.0, sleep_after=more.get("sleep_after"),
        )  # fmt: skip
        endpoint = sim.add_endpoint("a", engine, state=state, load_s=1.0)
        async with sim:
            yield endpoint.server.url


class RealLlamas:
    """llama.cpp's own."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder = folder
        self._model = model

    @asynccontextmanager
    async def serving(self, *, key: str = "", slow: bool = False) -> AsyncGenerator[str, None]:
        """See Llamas."""
        env = {"N_CTX": str(2 * CONTEXT), "MODEL_ALIAS": "tiny"} | ({"API_KEY": key} if key else {})
        server = LlamaServer(self._slow if slow else self._model, self._folder / "log", env=env)
        with closing(server):
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(server.ready)
            yield server.url

    @asynccontextmanager
    async def loading(self) -> AsyncGenerator[str, None]:
        """See Llamas."""
        model = await asyncio.to_thread(sparse_gguf, self._folder / "large.gguf", layers=4)
        server = LlamaServer(model, self._folder / "log")
        with closing(server):
            await asyncio.to_thread(server.start)
            yield server.url

    @asynccontextmanager
    async def sleepy(self) -> AsyncGenerator[str, None]:
        """See Llamas."""
        server = LlamaServer(self._model, self._folder / "log", env={"SLEEP_IDLE": str(SLEEP), "MODEL_ALIAS": "tiny"})
        with closing(server):
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(server.ready)
            yield server.url

    @cached_property
    def _slow(self) -> Path:
        return tiny_gguf(self._folder / "slow.gguf", shape=SLOW)
