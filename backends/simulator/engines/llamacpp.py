"""llama.cpp's server: listens early and answers 503 while it loads; sleeps and wakes; counts its wakings."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

from aiohttp import web

from backends.simulator.engines.base import Answer, Json
from backends.simulator.engines.llamacpp_texts import defaults, device_lines, load_lines, metrics
from backends.simulator.engines.openai import OpenAi
from backends.simulator.engines.words import Prompt
from backends.simulator.physics import CONTEXT_MIB, Holding
from backends.simulator.world import World

BUILD = "b11549-3c7d1e0a"
JSON = "application/json; charset=utf-8"


class LlamaCpp(OpenAi):
    """llama.cpp b11549 with one model, as recorded.

    `sleep_after` story seconds of idleness put it to sleep; /slots, a prompt and (`metrics_wake`) /metrics wake it.
    `models_open` is how older builds leave /v1/models open without the key and answer it while they load.
    """

    kind: ClassVar[str] = "llama.cpp"
    server: ClassVar[str] = "llama.cpp"
    listens_early: ClassVar[bool] = True
    json_type: ClassVar[str] = JSON
    sse_type: ClassVar[str] = "text/event-stream"

    def __init__(
        self,
        world: World,
        *,
        metrics: bool = True,
        slots_route: bool = True,
        embeddings: bool = False,
        layers: int = 32,
        quant: str = "Q4_K_M",
        vision: bool = False,
        sleep_after: float | None = None,
        metrics_wake: bool = False,
        models_open: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(world, **options)
        self.metrics_on, self.slots_on, self.embeddings_on = metrics, slots_route, embeddings
        self.layers, self.quant, self.vision = layers, quant, vision
        self.sleep_after, self.metrics_wake, self.models_open = sleep_after, metrics_wake, models_open
        self.sleeping = False
        self.wakings = 0
        self.peak_tokens = 0
        self._used_at = 0.0
        self._asleep: tuple[Holding, float] | None = None
        self.routes |= {
            "GET /health": self._health,
            "GET /v1/health": self._health,
            "GET /models": self.v1_models,
            "GET /props": self._props,
            "GET /slots": self._slots_route,
            "GET /metrics": self._metrics,
            "GET /": self._page,
            "POST /tokenize": self._tokenize,
            "POST /chat/completions": self.chat,
            "POST /v1/embeddings": self._embeddings,
        }

    def admit(self, request: web.BaseRequest) -> None:
        """The key first, then whether the model is there."""
        listing = request.path == "/v1/models" and self.models_open
        is_open = listing or request.path in ("/health", "/v1/health")
        if not is_open and not self.has_key(request):
            raise Answer(self.json(self.error(401, "Invalid API Key", "authentication_error"), 401))
        if not self.ready and not listing:
            raise Answer(self.json(self.error(503, "Loading model", "unavailable_error"), 503))

    def no_route(self, request: web.BaseRequest) -> web.StreamResponse:
        """Not here, in its words."""
        return self.json(self.error(404, "File Not Found", "not_found_error"), 404)

    def error(self, status: int, message: str, kind: str = "invalid_request_error") -> Json:
        """An error as it writes it."""
        return {"error": {"message": message, "type": kind, "code": status}}

    async def _health(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.json({"status": "ok"})

    async def _page(self, request: web.BaseRequest) -> web.StreamResponse:
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return self.text("<!doctype html><title>llama.cpp</title>", "text/html; charset=utf-8")
        return self.text("Error: gzip is not supported by this browser", "text/plain", 415)

    async def v1_models(self, request: web.BaseRequest) -> web.StreamResponse:
        """The model, in Ollama's shape and in OpenAI's."""
        name = self.models[0]
        details = {
            "parent_model": "", "format": "gguf", "family": "", "families": [""], "parameter_size": "",
            "quantization_level": "",
        }  # fmt: skip
        capabilities = ["completion", "multimodal"] if self.vision else ["completion"]
        like_ollama = {
            "name": name, "model": name, "modified_at": "", "size": "", "digest": "", "type": "model",
            "description": "", "tags": [""], "capabilities": capabilities, "parameters": "", "details": details,
        }  # fmt: skip
        return self.json({"models": [like_ollama], "object": "list", "data": [self.model_card(name)]})

    def model_card(self, model: str) -> Json:
        """One model with what its file says of it."""
        inputs = ["text", "image"] if self.vision else ["text"]
        return {
            "id": model, "aliases": [model], "tags": [], "object": "model",
            "architecture": {"input_modalities": inputs, "output_modalities": ["text"]},
            "created": int(time.time()), "owned_by": "llamacpp",
            "meta": {
                "vocab_type": 1, "n_vocab": 152064, "n_ctx": self.context, "n_ctx_train": 32768,
                "n_embd": 5120, "n_params": 14770033664, "size": 8981610496, "ftype": self.quant,
            },
        }  # fmt: skip

    async def _props(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.json(
            defaults(self.models[0], self.context, self.slots, self.quant, self.vision)
            | {"build_info": BUILD, "is_sleeping": self.sleeping, "cors_proxy_enabled": False}
        )

    async def _slots_route(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self.slots_on:
            message = "This server does not support slots endpoint. Start it with `--slots`"
            return self.json(self.error(501, message, "not_supported_error"), 501)
        await self.wake()
        if request.query.get("fail_on_no_slot") and self.running >= self.slots:
            return self.json(self.error(503, "no slot available", "unavailable_error"), 503)
        slots: list[Json] = []
        for number in range(self.slots):
            slot: Json = {"id": number, "n_ctx": self.context, "speculative": False}
            busy = number < self.running
            slot["is_processing"] = busy
            if busy:
                slot["next_token"] = [{"has_next_token": True, "n_remain": -1, "n_decoded": self.predicted_tokens}]
            slots.append(slot)
        return self.json(slots)

    async def _metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self.metrics_on:
            message = "This server does not support metrics endpoint. Start it with `--metrics`"
            return self.json(self.error(501, message, "not_supported_error"), 501)
        if self.metrics_wake:
            await self.wake()
        return self.text(metrics(self), "text/plain; version=0.0.4")

    async def _tokenize(self, request: web.BaseRequest) -> web.StreamResponse:
        text = str((await self.body(request)).get("content", ""))
        return self.json({"tokens": [259 + ord(c) % 100 for c in text]})

    async def _embeddings(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self.embeddings_on:
            message = "This server does not support embeddings. Start it with `--embeddings`"
            return self.json(self.error(501, message, "not_supported_error"), 501)
        await self.wake()
        vector = [round(self.world.rng.uniform(-1, 1), 6) for _ in range(8)]
        data = [{"embedding": vector, "index": 0, "object": "embedding"}]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return self.json({"model": self.models[0], "object": "list", "usage": usage, "data": data})

    async def chat(self, request: web.BaseRequest) -> web.StreamResponse:
        """Wake, then answer."""
        await self.wake()
        return await super().chat(request)

    def check(self, prompt: Prompt) -> None:
        """It answers to any model's name; only a prompt that is too long is refused."""
        prompt.model = self.models[0]
        self.peak_tokens = max(self.peak_tokens, prompt.tokens)
        if prompt.tokens > self.context:
            message = (
                f"request ({prompt.tokens} tokens) exceeds the available context size ({self.context} tokens), "
                "try increasing it"
            )
            error = self.error(400, message, "exceed_context_size_error")["error"]
            error |= {"n_prompt_tokens": prompt.tokens, "n_ctx": self.context}
            raise Answer(self.json({"error": error}, 400))

    def chat_id(self) -> str:
        """Its ids are longer."""
        return f"chatcmpl-{self.world.hex(32)}"

    def frame(self, prompt: Prompt, ident: str) -> Json:
        """Every answer names the build."""
        return super().frame(prompt, ident) | {"system_fingerprint": BUILD}

    def first_delta(self) -> Json:
        """The role comes with content null."""
        return {"role": "assistant", "content": None}

    def choice(self, delta: Json, finish: str | None = None) -> Json:
        """Without logprobs."""
        return {"finish_reason": finish, "index": 0, "delta": delta}

    def usage(self, prompt: Prompt) -> Json:
        """With what came from the cache."""
        return super().usage(prompt) | {"prompt_tokens_details": {"cached_tokens": 0}}

    def last_fields(self, prompt: Prompt) -> Json:
        """Timings."""
        read_ms = prompt.tokens / self.prompt_tokens_per_second * 1000
        made_ms = prompt.made / self.tokens_per_second * 1000
        timings = {
            "cache_n": 0, "prompt_n": prompt.tokens, "prompt_ms": read_ms,
            "prompt_per_token_ms": read_ms / prompt.tokens,
            "prompt_per_second": self.prompt_tokens_per_second, "predicted_n": prompt.made,
            "predicted_ms": made_ms, "predicted_per_token_ms": made_ms / max(1, prompt.made),
            "predicted_per_second": self.tokens_per_second,
        }  # fmt: skip
        return {"timings": timings}

    def whole(self, prompt: Prompt, ident: str, text: str) -> Json:
        """A whole answer with timings."""
        return super().whole(prompt, ident, text) | self.last_fields(prompt)

    async def wake(self) -> None:
        """Load again if asleep; whoever calls resets the idle clock."""
        self._used_at = self.world.story()
        if not self.sleeping:
            return
        self.sleeping = False
        self.wakings += 1
        if self._asleep is not None:
            holding, mib = self._asleep
            holding.move(mib, 1.0)
        await self.world.sleep(1.0)

    async def idle(self) -> None:
        """Fall asleep after a while without work."""
        if self.sleep_after is None:
            await super().idle()
            return
        self._used_at = self.world.story()
        while True:
            if self.running:
                self._used_at = self.world.story()
            elif not self.sleeping and self.world.story() - self._used_at >= self.sleep_after:
                self._fall_asleep()
            await asyncio.sleep(min(0.25, self.sleep_after / self.world.speed / 10))

    def _fall_asleep(self) -> None:
        self.sleeping = True
        self.write("srv    operator(): server is entering sleeping state")
        for holding in self.device.gpu.processes() if self.device else ():
            if self.device and self.device.host.cgroups.get(holding.pid) == self.cgroup:
                self._asleep = holding, holding.goal_mib
                holding.move(CONTEXT_MIB, 0.5)

    async def ended(self) -> None:
        """A new process is awake."""
        self.sleeping, self._asleep = False, None

    def boot_lines(self) -> list[str]:
        """Before CUDA is touched."""
        return [
            f"build: {BUILD} with gcc 13.3.0 for x86_64-linux-gnu",
            f"system info: n_threads = 8, n_threads_batch = 8, total_threads = 16, n_slots = {self.slots}",
            "main: binding port with default address family",
            f"srv    load_model: loading model '{self.models[0]}'",
        ]

    def device_lines(self, gpu: str, memory_mib: float) -> list[str]:
        """CUDA is there."""
        return device_lines(gpu, memory_mib)

    def load_lines(self, vram_mib: float) -> list[str]:
        """Layers, buffers, cache."""
        return load_lines(self.models[0], self.layers, self.context, self.slots, vram_mib)

    def ready_lines(self, port: int) -> list[str]:
        """It listens for work."""
        return [
            "main: model loaded",
            "main: server is listening on http://0.0.0.0:8080",
            "srv  update_slots: all slots are idle",
        ]

    def no_device_lines(self) -> list[str]:
        """CUDA found nothing."""
        return ["ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"]

    def out_of_memory_lines(self, wanted_mib: float, free_mib: float) -> list[str]:
        """The last words of a load that did not fit."""
        return [
            f"ggml_backend_cuda_buffer_type_alloc_buffer: allocating {wanted_mib:.2f} MiB on device 0: "
            "cudaMalloc failed: out of memory",
            f"alloc_tensor_range: failed to allocate CUDA0 buffer of size {int(wanted_mib * 2**20)}",
            "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
            "main: exiting due to model loading error",
        ]
