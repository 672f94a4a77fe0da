"""Ollama: serves at once, loads a model when it is asked for, unloads it after a while or when told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, ClassVar

from aiohttp import web

from backends.simulator.engines.base import Answer, Json
from backends.simulator.engines.ollama_models import FOREVER, Loaded, OllamaModel, created, pulled, seconds_of, tagged
from backends.simulator.engines.openai import OpenAi
from backends.simulator.engines.words import Prompt, prompt_of
from backends.simulator.physics import CONTEXT_MIB, Device, Holding
from backends.simulator.world import World, rfc3339

JSON = "application/json; charset=utf-8"
QUEUE_LIMIT = 512

__all__ = ["Ollama", "OllamaModel"]


class Ollama(OpenAi):
    """Ollama of November 2026, as recorded; `preload` are in memory when it first starts, and stay."""

    kind: ClassVar[str] = "ollama"
    listens_early: ClassVar[bool] = True
    holds_vram: ClassVar[bool] = False
    json_type: ClassVar[str] = JSON
    sse_type: ClassVar[str] = "text/event-stream"

    def __init__(
        self,
        world: World,
        *,
        library: Sequence[OllamaModel] = (),
        preload: Sequence[str] = (),
        keep_alive: float = 300.0,
        **options: Any,
    ) -> None:
        super().__init__(world, models=[m.name for m in library], **options)
        self.library = {m.name: m for m in library}
        self.registry: dict[str, OllamaModel] = {}
        """What can be pulled."""
        self.blobs: Path | None = None
        """Where its blobs lie, if it has a disk."""
        self.keep_alive = keep_alive
        self.loads = 0
        """How often a model was loaded."""
        self.aborted_loads = 0
        self._made: dict[str, Path] = {}
        """The blobs of models that were created here."""
        self._preload = tuple(preload)
        self._loaded: dict[str, Loaded] = {}
        self._loading = asyncio.Lock()
        self.routes |= {
            "GET /": self._hello,
            "HEAD /": self._hello,
            "GET /api/version": self._version,
            "GET /api/tags": self._tags,
            "GET /api/ps": self._ps,
            "POST /api/show": self._show,
            "POST /api/generate": self._generate,
            "POST /api/chat": self._api_chat,
            "POST /api/embed": self._embed,
            "POST /api/pull": self._pull,
            "POST /api/create": self._create,
            "DELETE /api/delete": self._delete,
            "POST /v1/embeddings": self._v1_embeddings,
        }

    @property
    def loaded(self) -> tuple[str, ...]:
        """The models in memory."""
        return tuple(self._loaded)

    def no_route(self, request: web.BaseRequest) -> web.StreamResponse:
        """Gin's words."""
        return self.text("404 page not found", "text/plain", 404)

    def error(self, status: int, message: str) -> Json:
        """An error in one string."""
        return {"error": message}

    def stream_error(self, message: str) -> bytes:
        """A line of its own."""
        return json.dumps({"error": message}).encode() + b"\n"

    async def _hello(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.text("Ollama is running", "text/plain; charset=utf-8")

    async def _version(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.json({"version": "0.13.0"})

    async def _tags(self, request: web.BaseRequest) -> web.StreamResponse:
        models = [
            {
                "name": m.name, "model": m.name, "modified_at": "2026-10-02T08:08:15.694797179Z",
                "size": int(m.file_mib * 2**20), "digest": m.digest,
                "details": m.details() | {"context_length": m.context, "embedding_length": m.width},
                "capabilities": list(m.capabilities),
            }
            for m in self.library.values()
        ]  # fmt: skip
        return self.json({"models": models})

    async def _ps(self, request: web.BaseRequest) -> web.StreamResponse:
        models = [
            {
                "name": x.model.name, "model": x.model.name, "size": int(x.model.vram_mib * 2**20),
                "digest": x.model.digest, "details": x.model.details(),
                "expires_at": rfc3339(min(x.expires, time.time() + FOREVER)),
                "size_vram": int(x.vram_mib * 2**20), "context_length": x.model.context,
            }
            for x in self._loaded.values()
        ]  # fmt: skip
        return self.json({"models": models})

    async def _show(self, request: web.BaseRequest) -> web.StreamResponse:
        name = str((await self.body(request)).get("model", ""))
        model = self.library.get(name) or self.library.get(f"{name}:latest")
        if model is None:
            full = name if ":" in name else f"{name}:latest"
            return self.json({"error": f"model '{full}' not found"}, 404)
        return self.json({
            "modelfile": f"# Modelfile generated by \"ollama show\"\nFROM {model.name}\n",
            "template": "{{ .Prompt }}", "details": model.details(), "model_info": model.info(),
            "tensors": model.tensors(),
            "capabilities": list(model.capabilities), "modified_at": "2026-10-02T08:08:15.694797179Z",
        })  # fmt: skip

    async def _generate(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self.body(request)
        prompt = self._prompt(body)
        stamp = {"model": prompt.model, "created_at": rfc3339(time.time())}
        keep = seconds_of(body.get("keep_alive"), self.keep_alive)
        if not body.get("prompt"):
            if keep == 0:
                self._unload(prompt.model)
            else:
                await self._load(prompt.model, keep)
            reason = "unload" if keep == 0 else "load"
            return self.json(stamp | {"response": "", "done": True, "done_reason": reason})
        return await self._respond(request, prompt, keep, lambda word: {"response": word}, {"context": [1, 2, 3]})

    async def _api_chat(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self.body(request)
        keep = seconds_of(body.get("keep_alive"), self.keep_alive)
        return await self._respond(
            request,
            self._prompt(body),
            keep,
            lambda word: {"message": {"role": "assistant", "content": word}},
            {},
        )

    async def _respond(
        self,
        request: web.BaseRequest,
        prompt: Prompt,
        keep: float,
        shape: Callable[[str], Json],
        last: Json,
    ) -> web.StreamResponse:
        begun = time.time()
        await self._load(prompt.model, keep)
        loaded = time.time()
        if prompt.stream:
            lines = self._lines(prompt, shape, last, begun, loaded)
            return await self.stream(request, "application/x-ndjson", lines)
        text = await self.gather(prompt)
        return self.json(self._line(prompt, shape(text), True) | last | self._durations(prompt, begun, loaded))

    async def _lines(
        self, prompt: Prompt, shape: Callable[[str], Json], last: Json, begun: float, loaded: float
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(self.tokens(prompt)) as words:
            async for word in words:
                yield json.dumps(self._line(prompt, shape(word), False)).encode() + b"\n"
        line = self._line(prompt, shape(""), True) | last | self._durations(prompt, begun, loaded)
        yield json.dumps(line).encode() + b"\n"

    def _line(self, prompt: Prompt, content: Json, done: bool) -> Json:
        line = {"model": prompt.model, "created_at": rfc3339(time.time()), **content, "done": done}
        return line | {"done_reason": prompt.finish} if done else line

    def _durations(self, prompt: Prompt, begun: float, loaded: float) -> Json:
        read = prompt.tokens / self.prompt_tokens_per_second
        return {
            "total_duration": int((time.time() - begun) * 1e9),
            "load_duration": int((loaded - begun) * 1e9),
            "prompt_eval_count": prompt.tokens,
            "prompt_eval_duration": int(read * 1e9),
            "eval_count": prompt.made,
            "eval_duration": int(prompt.made / self.tokens_per_second * 1e9),
        }

    async def _embed(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self.body(request)
        prompt = self._prompt(body)
        await self._load(prompt.model, self.keep_alive)
        inputs = body.get("input", "")
        vectors = [self._vector() for _ in (inputs if isinstance(inputs, list) else [inputs])]
        spent = {"total_duration": 9000000, "load_duration": 800000, "prompt_eval_count": prompt.tokens}
        return self.json({"model": prompt.model, "embeddings": vectors} | spent)

    async def _v1_embeddings(self, request: web.BaseRequest) -> web.StreamResponse:
        prompt = self._prompt(await self.body(request))
        await self._load(prompt.model, self.keep_alive)
        data = [{"object": "embedding", "embedding": self._vector(), "index": 0}]
        usage = {"prompt_tokens": prompt.tokens, "total_tokens": prompt.tokens}
        return self._v1({"object": "list", "data": data, "model": prompt.model, "usage": usage})

    def _vector(self) -> list[float]:
        return [round(self.world.rng.uniform(-1, 1), 6) for _ in range(8)]

    async def _pull(self, request: web.BaseRequest) -> web.StreamResponse:
        model = self.registry.get(str((await self.body(request)).get("model", "")))
        return await self._gained(request, pulled(model), model)

    async def _create(self, request: web.BaseRequest) -> web.StreamResponse:
        """Of one GGUF file that is among the blobs already."""
        body = await self.body(request)
        (digest,) = dict(body.get("files") or {}).values()
        blob = (self.blobs or Path("/nowhere")) / str(digest).replace(":", "-")
        said, model = created(tagged(body.get("model")), blob)
        if model is not None:
            self._made[model.name] = blob
        return await self._gained(request, said, model)

    async def _gained(
        self, request: web.BaseRequest, said: Sequence[Json], model: OllamaModel | None
    ) -> web.StreamResponse:
        """Say so line by line; then the model, if there is one, is in the library."""

        async def lines() -> AsyncGenerator[bytes, None]:
            for each in said:
                if model is not None and each == said[-1]:
                    self.library[model.name] = model
                    self.models = list(self.library)
                yield json.dumps(each).encode() + b"\n"

        return await self.stream(request, "application/x-ndjson", lines())

    async def _delete(self, request: web.BaseRequest) -> web.StreamResponse:
        """A model, and its blob if no other has it."""
        name = tagged((await self.body(request)).get("model"))
        if name not in self.library:
            return self.json({"error": f"model '{name}' not found"}, 404)
        del self.library[name]
        self.models = list(self.library)
        self._unload(name)
        blob = self._made.pop(name, None)
        if blob is not None and blob not in self._made.values():
            blob.unlink()
        return self.text("", "text/plain")

    async def v1_models(self, request: web.BaseRequest) -> web.StreamResponse:
        """The same models for OpenAI's clients."""
        cards = [
            {"id": name, "object": "model", "created": self.started, "owned_by": "library"} for name in self.library
        ]
        return self._v1({"object": "list", "data": cards})

    def _v1(self, data: Json) -> web.Response:
        return self.text(json.dumps(data) + "\n", "application/json")

    async def chat(self, request: web.BaseRequest) -> web.StreamResponse:
        """Load first, then answer in OpenAI's shape."""
        prompt = prompt_of(await self.body(request))
        self.check(prompt)
        await self._load(prompt.model, self.keep_alive)
        return await super().chat(request)

    def check(self, prompt: Prompt) -> None:
        """Only a model of the library."""
        if prompt.model not in self.library:
            error = {"message": f"model '{prompt.model}' not found", "type": "not_found_error"}
            raise Answer(self.json({"error": error | {"param": None, "code": None}}, 404))

    def first_delta(self) -> Json | None:
        """No chunk of its own for the role."""
        return None

    def frame(self, prompt: Prompt, ident: str) -> Json:
        """Every answer carries its mark."""
        return super().frame(prompt, ident) | {"system_fingerprint": "fp_ollama"}

    def choice(self, delta: Json, finish: str | None = None) -> Json:
        """Without logprobs; the role comes with the first word."""
        return {"index": 0, "delta": delta, "finish_reason": finish}

    def _prompt(self, body: Json) -> Prompt:
        body.setdefault("stream", True)
        prompt = prompt_of(body)
        if prompt.model not in self.library and f"{prompt.model}:latest" in self.library:
            prompt.model += ":latest"
        if prompt.model not in self.library:
            raise Answer(self.json({"error": f"model '{prompt.model}' not found"}, 404))
        if self.waiting >= QUEUE_LIMIT:
            message = "server busy, please try again.  maximum pending requests exceeded"
            raise Answer(self.json({"error": message}, 503))
        return prompt

    async def _load(self, name: str, keep: float) -> None:
        """Have a model in memory; whoever waits for a load and leaves, aborts it."""
        async with self._loading:
            if name not in self._loaded:
                await self._load_now(self.library[name])
        self._loaded[name].expires = time.time() + keep

    async def _load_now(self, model: OllamaModel) -> None:
        self.loads += 1
        device = self.device
        if device is None or device.gpu.lost:
            await self.world.sleep(model.load_s)
            self._loaded[model.name] = Loaded(model, None, 0.0, time.time())
            return
        holding = self._claim(device)
        try:
            await device.host.cuda.initialise(holding, model.init_s)
            holding.move(CONTEXT_MIB, 0.0)
            self._evict(model.vram_mib)
            vram = min(model.vram_mib, device.gpu.memory_total_mib - device.gpu.promised_mib + CONTEXT_MIB)
            holding.move(vram, model.load_s)
            await self.world.sleep(model.load_s)
        except asyncio.CancelledError:
            self.aborted_loads += 1
            self._give_back(holding)
            raise
        self._loaded[model.name] = Loaded(model, holding, vram, time.time())

    async def move(self, device: Device | None) -> None:
        """Unload everything and load it anew on that device (None: the CPU), as after a suspend."""
        names = self.loaded
        for name in names:
            self._unload(name)
        self.device = device
        for name in names:
            await self._load(name, FOREVER)

    def _evict(self, wanted_mib: float) -> None:
        """Unload what expires first until there is room."""
        assert self.device is not None
        gpu = self.device.gpu
        for name in sorted(self._loaded, key=lambda n: self._loaded[n].expires):
            if gpu.memory_total_mib - gpu.promised_mib + CONTEXT_MIB >= wanted_mib:
                return
            self._unload(name)

    def _claim(self, device: Device) -> Holding:
        pid = device.host.spawn(self.cgroup)
        return device.gpu.claim(pid, "/usr/local/lib/ollama/llama-server")

    def _give_back(self, holding: Holding) -> None:
        assert self.device is not None
        self.device.host.reap(holding.pid)
        self.device.gpu.release(holding)

    def _unload(self, name: str) -> None:
        loaded = self._loaded.pop(name, None)
        if loaded is not None and loaded.holding is not None:
            self._give_back(loaded.holding)

    def born(self, write: Callable[[str], None], device: Device | None, cgroup: str) -> None:
        """Nothing is loaded, but for what the first start is told to have loaded already."""
        super().born(write, device, cgroup)
        preload, self._preload = self._preload, ()
        for model in (self.library[name] for name in preload):
            holding = self._claim(device) if device else None
            if holding is not None:
                holding.move(model.vram_mib, 0.0)
            vram = model.vram_mib if holding else 0.0
            self._loaded[model.name] = Loaded(model, holding, vram, time.time() + FOREVER)

    async def idle(self) -> None:
        """Unload what nobody has asked for in a while."""
        while True:
            await self.world.sleep(1.0)
            for name in [n for n, x in self._loaded.items() if x.expires < time.time()]:
                self._unload(name)

    async def ended(self) -> None:
        """Its runners end with it."""
        for name in tuple(self._loaded):
            self._unload(name)

    def boot_lines(self) -> list[str]:
        """The first line."""
        return ['level=INFO source=routes.go:1502 msg="server config" env="map[OLLAMA_KEEP_ALIVE:5m0s]"']

    def ready_lines(self, port: int) -> list[str]:
        """It listens."""
        return [f'level=INFO source=routes.go:1569 msg="Listening on 127.0.0.1:{port} (version 0.13.0)"']
