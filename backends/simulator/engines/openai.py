"""Any OpenAI-compatible server, and the chat that vLLM, SGLang, LM Studio and llama.cpp share."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar

from aiohttp import web

from backends.simulator.engines.base import Answer, Engine, Json
from backends.simulator.engines.words import Prompt, prompt_of
from backends.simulator.world import World

SSE = "text/event-stream; charset=utf-8"


class OpenAi(Engine):
    """Answers /v1/models and chat; others override how a chunk looks."""

    kind: ClassVar[str] = "openai"
    sse_type: ClassVar[str] = SSE

    def __init__(self, world: World, **options: Any) -> None:
        super().__init__(world, **options)
        self.started = int(time.time())
        self.routes |= {"GET /v1/models": self.v1_models, "POST /v1/chat/completions": self.chat}

    def admit(self, request: web.BaseRequest) -> None:
        """Every /v1 route needs the key."""
        if request.path.startswith("/v1/") and not self.has_key(request):
            raise Answer(self.json({"error": "Unauthorized"}, 401))

    async def v1_models(self, request: web.BaseRequest) -> web.StreamResponse:
        """The models it serves."""
        return self.json({"object": "list", "data": [self.model_card(m) for m in self.models]})

    def model_card(self, model: str) -> Json:
        """One model of /v1/models."""
        return {"id": model, "object": "model", "created": self.started, "owned_by": "organization"}

    async def chat(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a prompt, whole or as a stream."""
        prompt = prompt_of(await self.body(request))
        self.check(prompt)
        ident = self.chat_id()
        if prompt.stream:
            return await self.stream(request, self.sse_type, self._events(prompt, ident))
        text = await self.gather(prompt)
        return self.json(self.whole(prompt, ident, text))

    def check(self, prompt: Prompt) -> None:
        """Raise Answer where the prompt cannot be answered."""
        if prompt.model not in self.models:
            message = f"The model `{prompt.model}` does not exist."
            raise Answer(self.json(self.error(404, message), 404))

    async def _events(self, prompt: Prompt, ident: str) -> AsyncGenerator[bytes, None]:
        first = self.first_delta()
        if first is not None:
            yield self.event(self.chunk(prompt, ident, [self.choice(first)]))
        async with aclosing(self.tokens(prompt)) as words:
            async for word in words:
                role = {"role": "assistant"} if first is None and prompt.made == 1 else {}
                yield self.event(self.chunk(prompt, ident, [self.choice(role | {"content": word})]))
        yield self.event(self.chunk(prompt, ident, [self.choice({}, prompt.finish)]))
        if prompt.usage:
            last = self.chunk(prompt, ident, []) | {"usage": self.usage(prompt)}
            yield self.event(last | self.last_fields(prompt))
        yield b"data: [DONE]\n\n"

    def event(self, data: Json) -> bytes:
        """One server-sent event."""
        return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"

    def chat_id(self) -> str:
        """The id of one answer."""
        return f"chatcmpl-{self.world.hex(16)}"

    def frame(self, prompt: Prompt, ident: str) -> Json:
        """Fields that every answer carries."""
        return {"id": ident, "object": "chat.completion", "created": int(time.time()), "model": prompt.model}

    def chunk(self, prompt: Prompt, ident: str, choices: list[Json]) -> Json:
        """One chunk of a stream."""
        return self.frame(prompt, ident) | {"object": "chat.completion.chunk", "choices": choices}

    def first_delta(self) -> Json | None:
        """The delta that names the role before any word; None where the first word's own does."""
        return {"role": "assistant", "content": ""}

    def choice(self, delta: Json, finish: str | None = None) -> Json:
        """One choice of a chunk."""
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}

    def last_fields(self, prompt: Prompt) -> Json:
        """What the usage chunk carries besides."""
        return {}

    def usage(self, prompt: Prompt) -> Json:
        """Tokens counted."""
        total = prompt.tokens + prompt.made
        return {"prompt_tokens": prompt.tokens, "total_tokens": total, "completion_tokens": prompt.made}

    def message(self, text: str) -> Json:
        """The whole answer's message."""
        return {"role": "assistant", "content": text}

    def whole(self, prompt: Prompt, ident: str, text: str) -> Json:
        """A whole answer."""
        choice = {"index": 0, "message": self.message(text), "finish_reason": prompt.finish}
        return self.frame(prompt, ident) | {"choices": [choice], "usage": self.usage(prompt)}


class PlainHttp(Engine):
    """A plain web service: one page, nothing else."""

    kind: ClassVar[str] = "http"
    holds_vram: ClassVar[bool] = False

    def __init__(self, world: World, *, page: str = "<h1>It works</h1>", **options: Any) -> None:
        super().__init__(world, **options)
        self.page = page
        self.routes = {"GET /": self._page}

    async def _page(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.text(self.page, "text/html; charset=utf-8")

    def no_route(self, request: web.BaseRequest) -> web.StreamResponse:
        """Not here."""
        return self.text("not found", "text/plain; charset=utf-8", 404)
