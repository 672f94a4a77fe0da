"""llama.cpp's router mode: many models behind one port, each loaded when somebody merely asks about it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any, ClassVar

from aiohttp import web

from backends.simulator.engines.base import Answer, Json
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.words import Prompt
from backends.simulator.physics import Holding
from backends.simulator.world import World


class LlamaRouter(LlamaCpp):
    """A router that counts every load in `loads`; /props and /metrics of a model load it unless autoload=false.

    `statuses` are unloaded, loading, loaded, sleeping or failed; a sleeping model wakes even with autoload=false.
    """

    holds_vram: ClassVar[bool] = False

    def __init__(self, world: World, *, model_mib: float = 4400.0, load_s: float = 4.0, **options: Any) -> None:
        super().__init__(world, **options)
        self.model_mib, self.model_load_s = model_mib, load_s
        self.loads: Counter[str] = Counter()
        self.statuses = dict.fromkeys(self.models, "unloaded")
        self.failing: set[str] = set()
        """Models whose process exits while it loads."""
        self._begun: dict[str, float] = {}
        self._holdings: dict[str, Holding] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.routes |= {
            "GET /models": self._list,
            "GET /v1/models": self._list,
            "GET /models/sse": self._event_route,
            "POST /models/load": self._load_route,
            "POST /models/unload": self._unload_route,
            "GET /props": self._model_props,
            "GET /metrics": self._model_metrics,
            "GET /slots": self._model_slots,
        }

    async def _list(self, request: web.BaseRequest) -> web.StreamResponse:
        data = [self.model_card(name) | {"status": self._status(name), "in_cache": True} for name in self.models]
        return self.json({"object": "list", "data": data})

    def _status(self, name: str) -> Json:
        value = self.statuses[name]
        status: Json = {"value": "unloaded" if value == "failed" else value, "args": ["llama-server"]}
        return status | {"failed": True, "exit_code": 1} if value == "failed" else status

    async def _event_route(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self.stream(request, "text/event-stream", self._told())

    async def _told(self) -> AsyncGenerator[bytes, None]:
        """Every change of a status, and how far what loads has come."""
        told: dict[str, Json] = {}
        while True:
            for name, status in self.statuses.items():
                data: Json = {"status": status}
                if status == "loading":
                    share = min(1.0, (self.world.story() - self._begun[name]) / self.model_load_s)
                    data["progress"] = {"stages": ["text_model"], "current": "text_model", "value": round(share, 2)}
                if told.get(name) != data:
                    told[name] = data
                    event = {"model": name, "event": "status_change", "data": data}
                    yield b"data: " + json.dumps(event).encode() + b"\n\n"
            await self.world.sleep(0.05)

    async def _load_route(self, request: web.BaseRequest) -> web.StreamResponse:
        name = self._known(str((await self.body(request)).get("model", "")))
        if self.statuses[name] in ("loaded", "loading"):
            return self.json(self.error(400, "model is already running"), 400)
        self._begin(name)
        return self.json({"success": True})

    async def _unload_route(self, request: web.BaseRequest) -> web.StreamResponse:
        name = self._known(str((await self.body(request)).get("model", "")))
        if self.statuses[name] not in ("loaded", "loading", "sleeping"):
            return self.json(self.error(400, "model is not running"), 400)
        self._end(name)
        return self.json({"success": True})

    async def _model_props(self, request: web.BaseRequest) -> web.StreamResponse:
        if "model" not in request.query:
            return self.json({"role": "router", "max_instances": 4, "models_autoload": True})
        await self._asked(request)
        return await super()._props(request)

    async def _model_metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        await self._asked(request)
        return await super()._metrics(request)

    async def _model_slots(self, request: web.BaseRequest) -> web.StreamResponse:
        await self._asked(request)
        return await super()._slots_route(request)

    async def chat(self, request: web.BaseRequest) -> web.StreamResponse:
        """Load the model, then answer."""
        await self._have(self._known(str((await self.body(request)).get("model", ""))))
        return await super().chat(request)

    def check(self, prompt: Prompt) -> None:
        """The answer carries the name that was asked for."""
        name = prompt.model
        super().check(prompt)
        prompt.model = name

    async def _asked(self, request: web.BaseRequest) -> None:
        """Asking about a model loads it, unless told otherwise; a sleeping one wakes all the same."""
        name = self._known(request.query.get("model", ""))
        if request.query.get("autoload") in ("false", "0") and self.statuses[name] != "sleeping":
            if self.statuses[name] != "loaded":
                raise Answer(self.json(self.error(400, "model is not loaded"), 400))
            return
        await self._have(name)

    def _known(self, name: str) -> str:
        if not name:
            raise Answer(self.json(self.error(400, "model name is missing from the request"), 400))
        if name not in self.statuses:
            raise Answer(self.json(self.error(404, f"model '{name}' not found", "not_found_error"), 404))
        return name

    async def _have(self, name: str) -> None:
        if self.statuses[name] != "loaded" and name not in self._tasks:
            self._begin(name)
        task = self._tasks.get(name)
        if task is not None:
            await asyncio.shield(task)
        if self.statuses[name] == "failed":
            raise Answer(self.json(self.error(500, f"model '{name}' failed to load"), 500))

    def _begin(self, name: str) -> None:
        self.loads[name] += 1
        self.statuses[name] = "loading"
        self._begun[name] = self.world.story()
        self._tasks[name] = asyncio.ensure_future(self._load_model(name))

    async def _load_model(self, name: str) -> None:
        try:
            if self.device is not None:
                pid = self.device.host.spawn(self.cgroup)
                self._holdings[name] = holding = self.device.gpu.claim(pid, "/app/llama-server")
                await self.device.host.cuda.initialise(holding, 0.5)
                holding.move(self.model_mib, self.model_load_s)
            await self.world.sleep(self.model_load_s)
            self.statuses[name] = "failed" if name in self.failing else "loaded"
        finally:
            self._tasks.pop(name, None)

    def fall_asleep(self, name: str) -> None:
        """A model goes to sleep, as after its idle time."""
        self.statuses[name] = "sleeping"

    def _end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
        holding = self._holdings.pop(name, None)
        if holding is not None and self.device is not None:
            self.device.host.reap(holding.pid)
            self.device.gpu.release(holding)
        self.statuses[name] = "unloaded"

    async def ended(self) -> None:
        """Its children end with it."""
        await super().ended()
        tasks = tuple(self._tasks.values())
        for name in self.models:
            self._end(name)
        await asyncio.gather(*tasks, return_exceptions=True)
