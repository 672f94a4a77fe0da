"""What all simulated engines share: routes, keys, counts, slots, tokens at a rate, and streams that can fail."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from typing import Any, ClassVar

from aiohttp import web

from backends.simulator.engines.words import Prompt, reply
from backends.simulator.httpfaults import FAULT
from backends.simulator.physics import Device
from backends.simulator.world import World

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Json = dict[str, Any]


class Answer(Exception):
    """Ends a request with this answer, from wherever it was found to be due."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__(response.status)
        self.response = response


class Engine:
    """A server's behaviour; `requests` counts by "METHOD /path", `seen` keeps the last ones with their query."""

    kind: ClassVar[str]
    server: ClassVar[str] = ""
    """Its Server header; none when empty."""
    listens_early: ClassVar[bool] = False
    """Whether it listens before it is ready."""
    holds_vram: ClassVar[bool] = True
    """Whether the process itself holds the model's memory."""
    json_type: ClassVar[str] = "application/json"

    def __init__(
        self,
        world: World,
        *,
        models: Sequence[str] = (),
        api_key: str = "",
        tokens_per_second: float = 40.0,
        prompt_tokens_per_second: float = 2000.0,
        answer_tokens: int = 48,
        slots: int = 4,
        context: int = 8192,
        latency_s: float = 0.0,
    ) -> None:
        self.world = world
        self.models = list(models)
        self.api_key = api_key
        self.tokens_per_second = tokens_per_second
        self.prompt_tokens_per_second = prompt_tokens_per_second
        self.answer_tokens = answer_tokens
        self.slots = slots
        self.context = context
        self.latency_s = latency_s
        """Real seconds before any answer, give or take a fifth."""
        self.requests: Counter[str] = Counter()
        self.seen: deque[str] = deque(maxlen=2000)
        self.abandoned = 0
        """Answers whose reader left before the end."""
        self.ready = False
        self.wedged = False
        """Takes work and never finishes any, while every other route answers as if all were well."""
        self.prompt_tokens = 0
        self.predicted_tokens = 0
        self.predicted_seconds = 0.0
        self.decodes = 0.0
        self.running = 0
        self.waiting = 0
        self.routes: dict[str, Handler] = {}
        self.device: Device | None = None
        self.cgroup = ""
        self.write: Callable[[str], None] = lambda line: None
        self._slots = asyncio.Semaphore(slots)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, whatever it asks."""
        route = f"{request.method} {request.path}"
        self.requests[route] += 1
        self.seen.append(f"{request.method} {request.path_qs}")
        try:
            if self.latency_s:
                await asyncio.sleep(self.latency_s * self.world.rng.uniform(0.8, 1.2))
            self.admit(request)
            handler = self.routes.get(route)
            return await handler(request) if handler else self.no_route(request)
        except Answer as answer:
            return answer.response
        except asyncio.CancelledError:
            self.abandoned += 1
            raise

    def admit(self, request: web.BaseRequest) -> None:
        """Raise Answer where the request may not pass."""

    def no_route(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer where there is no such route."""
        return self.json({"detail": "Not Found"}, 404)

    def has_key(self, request: web.BaseRequest) -> bool:
        """Whether the request carries the key, where one is needed."""
        return not self.api_key or request.headers.get("Authorization") == f"Bearer {self.api_key}"

    def json(self, data: object, status: int = 200) -> web.Response:
        """A JSON answer as this server writes it."""
        return self.text(json.dumps(data, ensure_ascii=False, separators=(",", ":")), self.json_type, status)

    def text(self, text: str, content_type: str, status: int = 200) -> web.Response:
        """An answer with exactly this content type, or none where it is empty."""
        headers = {"Content-Type": content_type} if content_type else {}
        if self.server:
            headers["Server"] = self.server
        return web.Response(body=text.encode(), status=status, headers=headers)

    async def body(self, request: web.BaseRequest) -> Json:
        """The request's JSON object."""
        try:
            data = json.loads(await request.read() or b"{}")
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise Answer(self.json(self.error(400, "invalid JSON"), 400))
        return data

    def error(self, status: int, message: str) -> Json:
        """An error in this server's words."""
        return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}

    async def tokens(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        """The answer's pieces at this engine's pace, in a slot of its own; sets `prompt.finish`."""
        words = reply(prompt.text, self.world.rng, self.answer_tokens)
        limit = self.answer_tokens if prompt.limit is None else min(prompt.limit, self.answer_tokens)
        self.waiting += 1
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._slots)
            finally:
                self.waiting -= 1
            stack.enter_context(self._working())
            if self.wedged:
                await asyncio.Event().wait()
            await self.world.sleep(prompt.tokens / self.prompt_tokens_per_second)
            self.prompt_tokens += prompt.tokens
            for word in words[:limit]:
                await self.world.sleep(1 / self.tokens_per_second)
                self.predicted_tokens += 1
                self.decodes += 1 / self.running  # one step serves all that run
                self.predicted_seconds += 1 / self.tokens_per_second
                prompt.made += 1
                yield word
            prompt.finish = "length" if limit < len(words) else "stop"

    @contextmanager
    def _working(self) -> Iterator[None]:
        self.running += 1
        gpu = self.device.gpu if self.device else None
        if gpu is not None:
            gpu.active += 1
        try:
            yield
        finally:
            self.running -= 1
            if gpu is not None:
                gpu.active -= 1

    async def gather(self, prompt: Prompt) -> str:
        """The whole answer at once."""
        async with aclosing(self.tokens(prompt)) as words:
            return "".join([word async for word in words])

    async def stream(
        self, request: web.BaseRequest, content_type: str, pieces: AsyncGenerator[bytes, None]
    ) -> web.StreamResponse:
        """Send pieces as they come, with whatever fault lies over the request."""
        fault = request.get(FAULT)
        kind = fault.kind if fault else ""
        headers = {"Content-Type": content_type} | ({"Server": self.server} if self.server else {})
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        if kind == "error_in_200":
            await response.write(self.stream_error("the engine has died"))
            return response
        count = 0
        async with aclosing(pieces):
            async for piece in pieces:
                count += 1
                if kind and count == 3:
                    await self._break_stream(kind, request, response, piece)
                await response.write(piece)
        return response

    def stream_error(self, message: str) -> bytes:
        """An error in the middle of a stream."""
        return b"data: " + json.dumps(self.error(500, message)).encode() + b"\n\n"

    async def _break_stream(
        self, kind: str, request: web.BaseRequest, response: web.StreamResponse, piece: bytes
    ) -> None:
        match kind:
            case "stop_in_mid_stream":
                await asyncio.Event().wait()
            case "cut_stream" if request.transport is not None:
                request.transport.close()
            case "garbage_stream":
                await response.write(b"\xff\xfe{{{ data: \x1b[31m not json\n\ndata: {broken\n\n")
            case "endless_stream":
                while True:
                    await response.write(piece)
                    await self.world.sleep(1 / self.tokens_per_second)

    def born(self, write: Callable[[str], None], device: Device | None, cgroup: str) -> None:
        """A new process: counters start again."""
        self.write, self.device, self.cgroup = write, device, cgroup
        self.prompt_tokens = self.predicted_tokens = self.running = self.waiting = 0
        self.predicted_seconds = self.decodes = 0.0
        self.wedged = False
        self._slots = asyncio.Semaphore(self.slots)

    async def idle(self) -> None:
        """What the process does besides answering, for as long as it lives."""
        await asyncio.Event().wait()

    async def ended(self) -> None:
        """The process has ended."""

    def boot_lines(self) -> list[str]:
        """Its first log lines."""
        return []

    def device_lines(self, gpu: str, memory_mib: float) -> list[str]:
        """What it logs when CUDA is there."""
        return []

    def load_lines(self, vram_mib: float) -> list[str]:
        """What it logs while it loads."""
        return []

    def ready_lines(self, port: int) -> list[str]:
        """What it logs once it listens for work."""
        return []

    def no_device_lines(self) -> list[str]:
        """Its last words where the GPU cannot be used."""
        return ["RuntimeError: No CUDA GPUs are available"]

    def out_of_memory_lines(self, wanted_mib: float, free_mib: float) -> list[str]:
        """Its last words where the GPU's memory does not suffice."""
        return [
            f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {wanted_mib:.2f} MiB. GPU 0 has a "
            f"total capacity of which {free_mib:.2f} MiB is free."
        ]
