"""LiteLLM's proxy: forwards prompts to the engines behind it; /health asks them all and must not be polled."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import aiohttp
from aiohttp import web
from ruamel.yaml import YAML

from backends.simulator.engines.base import Answer, Engine, Json
from backends.simulator.engines.openai import SSE
from backends.simulator.physics import Device
from backends.simulator.world import World

CREATED = 1677610602
OPEN_ROUTES = frozenset({"/health/liveliness", "/health/liveness", "/health/readiness"})
GUARDED_ROUTES = frozenset({"/health/backlog", "/v1/models", "/model/info", "/v1/model/info", "/health"})


class Addressed(Protocol):
    """Something that is asked at an address."""

    @property
    def url(self) -> str:
        """Where it listens."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """An address as a file says it."""

    url: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model name and the engine behind it; `provider` is openai or ollama_chat."""

    name: str
    model: str
    server: Addressed
    provider: str = "openai"
    api_key: str = "none"

    @property
    def api_base(self) -> str:
        """The address as LiteLLM's configuration has it."""
        return self.server.url if self.provider == "ollama_chat" else f"{self.server.url}/v1"

    @property
    def ident(self) -> str:
        """LiteLLM's id of a deployment."""
        return hashlib.sha256(self.name.encode()).hexdigest()


class LiteLlm(Engine):
    """LiteLLM 1.109 without a database, as recorded; `cooling` maps a model name to when it may be asked again.

    With a `config` it serves what that file says at each of its starts.
    """

    kind: ClassVar[str] = "litellm"
    server: ClassVar[str] = "uvicorn"
    holds_vram: ClassVar[bool] = False

    def __init__(
        self,
        world: World,
        *,
        deployments: Sequence[Deployment] = (),
        health_s: float = 8.0,
        retry_s: float = 1.5,
        config: Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(world, models=[d.name for d in deployments], **options)
        self.deployments = {d.name: d for d in deployments}
        self.health_s, self.retry_s = health_s, retry_s
        self.config = config
        self.cooling: dict[str, float] = {}
        self._session: aiohttp.ClientSession | None = None
        self.routes = {
            "GET /health/liveliness": self._alive,
            "GET /health/liveness": self._alive,
            "GET /health/readiness": self._readiness,
            "GET /health/backlog": self._backlog,
            "GET /health": self._health,
            "GET /v1/models": self._models,
            "GET /models": self._models,
            "GET /model/info": self._info,
            "GET /v1/model/info": self._info,
            "GET /metrics": self._metrics,
            "POST /v1/chat/completions": self._chat,
            "POST /chat/completions": self._chat,
        }

    def admit(self, request: web.BaseRequest) -> None:
        """Without a key 500, with a wrong one 400: what it does where no database is set up."""
        if request.path not in GUARDED_ROUTES and not request.path.endswith("/chat/completions"):
            return
        if "Authorization" not in request.headers and self.api_key:
            response = self.text("Internal Server Error", "text/plain; charset=utf-8", 500)
            raise Answer(response)
        if not self.has_key(request):
            raise Answer(self._error("No connected db.", "no_db_connection", 400))

    def _error(self, message: str, kind: str, status: int, **more: object) -> web.Response:
        error = {"message": message, "type": kind, "param": None, "code": str(status)}
        return self.json({"error": error | more}, status)

    async def _alive(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.json("I'm alive!")

    async def _readiness(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.json({"status": "healthy", "db": "Not connected"})

    async def _backlog(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.json({
            "in_flight_requests": 1 + self.running, "admitted_requests": 0, "queued_requests": 0,
            "rejected_requests": 0,
        })  # fmt: skip

    async def _metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        message = "Unauthorized access to metrics endpoint: No module named 'prisma' To allow unauthenticated access, set `litellm_settings.require_auth_for_metrics_endpoint: false` in your proxy_config.yaml."  # noqa: E501
        return self.json(message, 401)

    async def _models(self, request: web.BaseRequest) -> web.StreamResponse:
        data = [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "openai"}
            | ({} if d.provider == "ollama_chat" else {"max_input_tokens": 8192, "max_output_tokens": 8192})
            for name, d in self.deployments.items()
        ]
        return self.json({"data": data, "object": "list"})

    async def _info(self, request: web.BaseRequest) -> web.StreamResponse:
        data = [
            {
                "model_name": d.name,
                "litellm_params": {
                    "api_base": d.api_base, "allow_client_keepalive_override": False,
                    "use_in_pass_through": False, "use_litellm_proxy": False, "use_xai_oauth": False,
                    "merge_reasoning_content_in_choices": False, "model": f"{d.provider}/{d.model}",
                },
                "model_info": {
                    "id": d.ident, "db_model": False, "member_auto_router": False, "pricing_overrides": [],
                },
            }
            for d in self.deployments.values()
        ]  # fmt: skip
        return self.json({"data": data})

    async def _health(self, request: web.BaseRequest) -> web.StreamResponse:
        """Asks every model for an answer, one after the other in the worst case."""
        healthy: list[Json] = []
        unhealthy: list[Json] = []
        for d in self.deployments.values():
            entry: Json = {"api_base": d.api_base, "model": f"{d.provider}/{d.model}", "model_id": d.ident}
            await self.world.sleep(self.health_s / max(1, len(self.deployments)))
            try:
                async with self._forward(d, {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}):
                    healthy.append(entry)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                unhealthy.append(entry | {"error": f"{type(error).__name__}", "exception_status": 500})
        return self.json({
            "healthy_endpoints": healthy, "unhealthy_endpoints": unhealthy,
            "healthy_count": len(healthy), "unhealthy_count": len(unhealthy),
        })  # fmt: skip

    async def _chat(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await self.body(request)
        deployment = self._deployment(str(body.get("model", "")))
        self.running += 1
        try:
            async with AsyncExitStack() as stack:
                upstream = await self._reached(stack, deployment, body)
                if upstream is not None:
                    return await self._pass_on(request, deployment, body, upstream)
        finally:
            self.running -= 1
        message = (
            "litellm.InternalServerError: InternalServerError: OpenAIException - Connection error.\n\nLiteLLM: "
            f"model group '{deployment.name}' failed with the error above. No fallback was attempted."
        )
        return self._error(message, "internal_server_error", 500)

    async def _reached(self, stack: AsyncExitStack, d: Deployment, body: Json) -> aiohttp.ClientResponse | None:
        """The engine's answer, or None after LiteLLM's two retries."""
        for attempt in range(3):
            try:
                return await stack.enter_async_context(self._forward(d, body))
            except (aiohttp.ClientConnectionError, OSError):
                if attempt < 2:
                    await self.world.sleep(self.retry_s)
        return None

    def _deployment(self, name: str) -> Deployment:
        if name not in self.deployments:
            message = (
                f"/chat/completions: Invalid model name passed in model={name}. Call `/v1/models` to view "
                "available models for your key."
            )
            fields = {"error": message}
            raise Answer(self._error(message, "invalid_request_error", 400, provider_specific_fields=fields))
        wait = self.cooling.get(name, 0.0) - time.time()
        if wait > 0:
            message = (
                f"litellm.RouterRateLimitError: No deployments available for selected model, Try again in "
                f"{wait:.0f} seconds. Passed model={name}."
            )
            raise Answer(self._error(message, "None", 429))
        return self.deployments[name]

    @asynccontextmanager
    async def _forward(self, d: Deployment, body: Json) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask the engine behind a name."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        ollama = d.provider == "ollama_chat"
        url = f"{d.api_base}/api/chat" if ollama else f"{d.api_base}/chat/completions"
        onward = body | {"model": d.model, "stream": bool(body.get("stream", False))}
        if ollama and "max_tokens" in body:
            onward["options"] = {"num_predict": body["max_tokens"]}
        headers = {} if d.api_key == "none" else {"Authorization": f"Bearer {d.api_key}"}
        async with self._session.post(url, json=onward, headers=headers, allow_redirects=False) as upstream:
            yield upstream

    async def _pass_on(
        self, request: web.BaseRequest, d: Deployment, body: Json, upstream: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        if upstream.status != 200:
            words = (await upstream.text())[:300]
            message = f"litellm.APIError: APIError: OpenAIException - {words}"
            return self._error(message, "None", upstream.status if upstream.status < 500 else 500)
        if body.get("stream"):
            return await self.stream(request, SSE, self._events(d, upstream))
        return self.json(self._whole(d, await upstream.json(content_type=None)))

    def _whole(self, d: Deployment, answer: Json) -> Json:
        frame = {
            "id": answer.get("id", f"chatcmpl-{self.world.hex(16)}"), "created": int(time.time()),
            "model": d.name, "object": "chat.completion",
        }  # fmt: skip
        if d.provider == "ollama_chat":
            made, read = answer.get("eval_count", 0), answer.get("prompt_eval_count", 0)
            message = {"content": answer["message"]["content"], "role": "assistant"}
            finish = answer.get("done_reason", "stop")
            usage = {"completion_tokens": made, "prompt_tokens": read, "total_tokens": made + read}
            choices = [{"finish_reason": finish, "index": 0, "message": message}]
            return frame | {"choices": choices, "usage": usage}
        choice = answer["choices"][0]
        message = {"content": choice["message"]["content"], "role": "assistant"}
        choices = [{"finish_reason": choice["finish_reason"], "index": 0, "message": message}]
        return frame | {"choices": choices, "usage": {k: v for k, v in answer["usage"].items() if v is not None}}

    async def _events(self, d: Deployment, upstream: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
        frame = {
            "id": f"chatcmpl-{self.world.hex(16)}", "object": "chat.completion.chunk",
            "created": int(time.time()), "model": d.name,
        }  # fmt: skip
        first, broken = True, False
        try:
            async with aclosing(_deltas(upstream)) as deltas:
                async for word, finish, usage in deltas:
                    delta: Json = {"content": word} if word or first else {}
                    if first:
                        delta = {"role": "assistant"} | delta
                    first = False
                    choice: Json = {"index": 0, "delta": delta}
                    choices = [] if usage else [choice | ({"finish_reason": finish} if finish else {})]
                    data = frame | {"choices": choices} | ({"usage": usage} if usage else {})
                    yield b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
        except aiohttp.ClientError:
            broken = True
        if broken:
            yield self.stream_error("litellm.APIConnectionError: the stream behind broke off")
            return
        yield b"data: [DONE]\n\n"

    def born(self, write: Callable[[str], None], device: Device | None, cgroup: str) -> None:
        """Nothing cools down at first; its file is read now."""
        super().born(write, device, cgroup)
        self.cooling.clear()
        if self.config is not None:
            self.deployments = _configured(self.config)
            self.models = list(self.deployments)

    async def ended(self) -> None:
        """Its connections end with it."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def boot_lines(self) -> list[str]:
        """The first lines."""
        return ["INFO:     Started server process [1]", "INFO:     Waiting for application startup."]

    def load_lines(self, vram_mib: float) -> list[str]:
        """The models it will proxy."""
        return ["LiteLLM: Proxy initialized with Config, Set models:", *(f"    {m}" for m in self.models)]

    def ready_lines(self, port: int) -> list[str]:
        """It listens."""
        return ["INFO:     Application startup complete.", "INFO:     Uvicorn running on http://0.0.0.0:4000"]


def _configured(path: Path) -> dict[str, Deployment]:
    """What a configuration serves: of each group its first deployment."""
    found: dict[str, Deployment] = {}
    for entry in YAML(typ="safe").load(path)["model_list"]:
        params, name = entry["litellm_params"], str(entry["model_name"])
        provider, _, model = str(params["model"]).partition("/")
        address = Address(str(params["api_base"]).removesuffix("/v1"))
        kind = provider if provider == "ollama_chat" else "openai"
        found.setdefault(name, Deployment(name, model, address, kind))
    return found


async def _deltas(upstream: aiohttp.ClientResponse) -> AsyncGenerator[tuple[str, str | None, Json | None], None]:
    """Word, finish reason and usage from an engine's stream, be it OpenAI's or Ollama's."""
    async for line in upstream.content:
        text = line.strip().removeprefix(b"data: ")
        if not text or text == b"[DONE]":
            continue
        data = json.loads(text)
        if "message" in data:
            yield data["message"]["content"], data.get("done_reason"), None
        elif data.get("choices"):
            choice = data["choices"][0]
            yield choice["delta"].get("content") or "", choice.get("finish_reason"), None
        elif data.get("usage"):
            yield "", None, data["usage"]
