"""Probes against what real servers answered."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import SecretStr

from backends.cluster.engines import EngineName
from backends.cluster.reading import ModelInfo, ProbeResult, Progress
from backends.cluster.words import Cause
from backends.engines.http import Http
from backends.engines.registry import ENGINES
from backends.engines.target import Target
from tests.engines.servers import Canned, Reply, json_reply, listening, recorded

KEY = "sk-very-secret-1234"


async def probe(
    http: Http,
    engine: EngineName,
    replies: Mapping[str, Reply | list[Reply]],
    *,
    deep: bool = True,
    key: str | None = None,
    model: str | None = None,
    other: Reply | None = None,
) -> tuple[ProbeResult, Canned]:
    """The result of probing a server that gives `replies`, and that server."""
    server = Canned(replies, other)
    async with listening(server) as port:
        secret = SecretStr(key) if key else None
        target = Target(f"http://127.0.0.1:{port}", engine, timeout=5, slow=5, key=secret, model=model)
        result = await ENGINES[engine].probe(http, target, deep=deep)
    if key:
        assert key not in repr(result)
    assert 0 < len(result.evidence) <= 160
    return result, server


@pytest.mark.parametrize(
    ("engine", "fixture", "route"),
    [
        ("ollama", "ollama", "/api/version"),
        ("llama.cpp", "llamacpp", "/health"),
        ("llama.cpp", "llamacpp-api-key", "/health"),
        ("vllm", "vllm", "/health"),
        ("litellm", "litellm", "/health/liveliness"),
        ("openai", "vllm", "/v1/models"),
        ("openai", "llamacpp", "/v1/models"),
        ("http", "ollama", "/"),
    ],
)
async def test_a_shallow_probe_is_one_request(http: Http, engine: EngineName, fixture: str, route: str) -> None:
    result, server = await probe(http, engine, recorded(fixture), deep=False)
    assert result.cause is Cause.OK
    assert result.latency is not None
    assert 0 < result.latency < 5
    assert server.paths == [route]


class TestLlamaCpp:
    async def test_deep(self, http: Http) -> None:
        result, server = await probe(http, "llama.cpp", recorded("llamacpp"))
        assert (result.cause, result.evidence, result.version) == (Cause.OK, "answered; 1 model", "b0-unknown")
        assert result.models == (ModelInfo("/models/tiny.gguf", loaded=True, size_mib=149248 / 2**20, context=256),)
        assert server.paths == ["/health", "/v1/models", "/props"]

    async def test_counters_only_of_builds_that_may_be_asked(self, http: Http) -> None:
        replies = recorded("llamacpp")
        for props, asked in (
            ({"build_info": "b10519-abc", "is_sleeping": False}, True),
            ({"build_info": "b10518-abc", "is_sleeping": False}, False),
            ({"build_info": "b11549-abc", "is_sleeping": True}, False),
            ({"build_info": "b11549-abc", "is_sleeping": False, "endpoint_metrics": False}, False),
            ({"build_info": "b6000-abc"}, True),
            ({"build_info": "unknown", "is_sleeping": False}, False),
            ({"role": "router"}, False),
        ):
            result, server = await probe(http, "llama.cpp", {**replies, "/props": json_reply(props)})
            assert ("/metrics" in server.paths) is asked, props
            none = Progress(tokens=0, running=0, waiting=0, prompt=0, steps=0, signs=0)
            assert result.progress == (none if asked else None)

    async def test_never_asks_what_wakes_or_loads(self, http: Http) -> None:
        for model in (None, "/models/tiny.gguf"):
            _, server = await probe(http, "llama.cpp", recorded("llamacpp"), model=model)
            assert not [path for path in server.paths if "slots" in path or "?" in path or "load" in path]

    async def test_loading(self, http: Http) -> None:
        result, server = await probe(http, "llama.cpp", recorded("llamacpp-loading"))
        assert (result.cause, result.evidence) == (Cause.LOADING, "503 Loading model")
        assert server.paths == ["/health"]

    async def test_loading_as_older_builds_said_it(self, http: Http) -> None:
        result, _ = await probe(http, "llama.cpp", {"/health": json_reply({"status": "loading model"}, 503)})
        assert result.cause is Cause.LOADING

    async def test_asleep(self, http: Http) -> None:
        props = json_reply({"build_info": "b11549-abc", "is_sleeping": True})
        result, server = await probe(http, "llama.cpp", {**recorded("llamacpp"), "/props": props})
        assert (result.cause, result.evidence) == (Cause.SLEEPING, "asleep; loads on demand")
        assert result.models is not None
        assert result.models[0].loaded is False
        assert "/metrics" not in server.paths

    async def test_key_missing(self, http: Http) -> None:
        result, _ = await probe(http, "llama.cpp", recorded("llamacpp-api-key"))
        assert (result.cause, result.evidence) == (Cause.CONFIG, "401 on /v1/models: API key missing")
        assert result.latency is not None

    async def test_key_refused(self, http: Http) -> None:
        result, server = await probe(http, "llama.cpp", recorded("llamacpp-api-key"), key=KEY)
        assert (result.cause, result.evidence) == (Cause.CONFIG, "401 on /v1/models: API key refused")
        assert "authorization" not in server.seen[0].headers
        assert server.seen[1].headers["authorization"] == f"Bearer {KEY}"

    @pytest.mark.parametrize("name", ["/models/tiny.gguf", "tiny.gguf", "tiny", None])
    async def test_the_model_that_is_wanted(self, http: Http, name: str | None) -> None:
        assert (await probe(http, "llama.cpp", recorded("llamacpp"), model=name))[0].cause is Cause.OK

    async def test_the_model_that_is_missing(self, http: Http) -> None:
        result, _ = await probe(http, "llama.cpp", recorded("llamacpp"), model="qwen")
        assert result.cause is Cause.CONFIG
        assert result.evidence == "model qwen is missing; has /models/tiny.gguf"


class TestRouter:
    """llama.cpp as a router of models."""

    async def routed(
        self, http: Http, states: Mapping[str, object], *, model: str | None = None, autoload: bool = True
    ) -> ProbeResult:
        entries = [
            {"id": name, "owned_by": "llamacpp", "status": state if isinstance(state, dict) else {"value": state}}
            for name, state in states.items()
        ]
        replies = {
            "/health": json_reply({"status": "ok"}),
            "/v1/models": json_reply({"data": entries}),
            "/props": json_reply({"role": "router", "models_autoload": autoload}),
        }
        result, server = await probe(http, "llama.cpp", replies, model=model)
        assert ["/health", "/v1/models", "/props"][: len(server.paths)] == server.paths
        return result

    @pytest.mark.parametrize(
        ("states", "model", "cause", "evidence"),
        [
            ({"a": "loaded", "b": "unloaded"}, None, Cause.OK, "answered; 1 of 2 models loaded"),
            ({"a": "loaded", "b": "loading"}, None, Cause.OK, "answered; 1 of 2 models loaded"),
            ({"a": "loaded", "b": "loading"}, "b", Cause.LOADING, "router: b is loading"),
            ({"a": "unloaded", "b": "loading"}, None, Cause.LOADING, "router: b is loading"),
            ({"a": "unloaded"}, None, Cause.SLEEPING, "no model loaded now, 1 model on demand"),
            ({"a": "sleeping", "b": "unloaded"}, None, Cause.SLEEPING, "no model loaded now, 2 models on demand"),
            ({"a": "loaded"}, "b", Cause.CONFIG, "model b is missing; has a"),
            (
                {"a": {"value": "unloaded", "failed": True, "exit_code": 1}},
                "a",
                Cause.CONFIG,
                "a failed to load (exit code 1)",
            ),
        ],
    )
    async def test_states(
        self, http: Http, states: Mapping[str, object], model: str | None, cause: Cause, evidence: str
    ) -> None:
        result = await self.routed(http, states, model=model)
        assert (result.cause, result.evidence) == (cause, evidence)

    async def test_a_router_that_loads_nothing_by_itself(self, http: Http) -> None:
        result = await self.routed(http, {"a": "unloaded"}, autoload=False)
        assert result.cause is Cause.CONFIG
        assert "none on demand" in result.evidence


class TestOllama:
    async def test_idle(self, http: Http) -> None:
        result, server = await probe(http, "ollama", recorded("ollama"))
        assert (result.cause, result.version) == (Cause.SLEEPING, "0.99.0-scratch")
        assert result.evidence == "no model loaded now, 2 models on demand"
        assert server.paths == ["/api/version", "/api/tags", "/api/ps"]
        assert [m.loaded for m in result.models or ()] == [False, False]

    async def test_loaded(self, http: Http) -> None:
        result, _ = await probe(http, "ollama", recorded("ollama", skip=1))
        assert (result.cause, result.evidence) == (Cause.OK, "answered; 2 models")
        assert result.models is not None
        first = result.models[0]
        assert (first.loaded, first.vram_mib, first.context) == (True, 0, 2048)
        assert first.size_mib == 162741 / 2**20
        assert result.models[1].loaded is False

    @pytest.mark.parametrize(
        ("model", "cause"),
        [("tiny", Cause.SLEEPING), ("tiny:latest", Cause.SLEEPING), ("tiny:7b", Cause.CONFIG), ("nope", Cause.CONFIG)],
    )
    async def test_the_model_that_is_wanted(self, http: Http, model: str, cause: Cause) -> None:
        result, _ = await probe(http, "ollama", recorded("ollama", skip=1), model=model)
        assert result.cause is cause

    async def test_no_models(self, http: Http) -> None:
        none = json_reply({"models": None})
        result, _ = await probe(http, "ollama", {**recorded("ollama"), "/api/tags": none})
        assert (result.cause, result.evidence, result.models) == (Cause.OK, "answered; no models", ())


class TestVllm:
    async def test_deep(self, http: Http) -> None:
        result, _ = await probe(http, "vllm", recorded("vllm", skip=1))
        assert (result.cause, result.evidence, result.version) == (Cause.OK, "answered; 1 model", "0.32.0")
        assert result.models == (ModelInfo("tiny", context=512),)
        assert result.progress == Progress(tokens=8, running=0, waiting=0, kv_used=0)

    async def test_put_to_sleep(self, http: Http) -> None:
        metrics = Reply(200, 'vllm:engine_sleep_state{engine="0",sleep_state="awake"} 0.0\n')
        result, _ = await probe(http, "vllm", {**recorded("vllm"), "/metrics": metrics})
        assert result.cause is Cause.CONFIG
        assert "wake_up" in result.evidence

    async def test_metrics_elsewhere(self, http: Http) -> None:
        elsewhere = Canned(recorded("vllm", skip=1))
        server = Canned({**recorded("vllm"), "/metrics": Reply(404)})
        async with listening(server) as port, listening(elsewhere) as port2:
            metrics = f"http://127.0.0.1:{port2}/metrics"
            target = Target(f"http://127.0.0.1:{port}", "vllm", key=SecretStr(KEY), metrics_url=metrics)
            result = await ENGINES["vllm"].probe(http, target, deep=True)
        assert result.progress is not None
        assert "/metrics" not in server.paths
        assert "authorization" not in elsewhere.seen[0].headers


class TestLiteLlm:
    async def test_with_key(self, http: Http) -> None:
        result, server = await probe(http, "litellm", recorded("litellm", skip=1), key=KEY)
        assert (result.cause, result.evidence) == (Cause.OK, "answered; 3 models")
        assert [m.name for m in result.models or ()] == ["local/chat", "remote/mark-i", "remote/dead"]
        assert server.paths == ["/health/liveliness", "/health/readiness", "/v1/models"]

    async def test_key_missing(self, http: Http) -> None:
        result, _ = await probe(http, "litellm", recorded("litellm"))
        assert result.cause is Cause.CONFIG
        assert result.evidence.startswith("500 on /v1/models: API key missing")

    async def test_key_refused_without_a_database(self, http: Http) -> None:
        refused = json_reply({"error": {"message": "No connected db.", "type": "no_db_connection", "code": "400"}}, 400)
        result, _ = await probe(http, "litellm", {**recorded("litellm"), "/v1/models": refused}, key=KEY)
        assert result.cause is Cause.CONFIG
        assert "API key refused" in result.evidence

    @pytest.mark.parametrize(
        "readiness",
        [
            json_reply({"status": "unhealthy"}),
            json_reply({"detail": "unhealthy: db gone"}, 503),
            Reply(503, "unhealthy"),
        ],
    )
    async def test_not_ready(self, http: Http, readiness: Reply) -> None:
        replies = {**recorded("litellm", skip=1), "/health/readiness": readiness}
        result, _ = await probe(http, "litellm", replies, key=KEY)
        assert result.cause is Cause.CONFIG
        assert result.evidence.startswith("readiness: unhealthy")


class TestLmStudio:
    LISTED = json_reply({"data": [{"id": "qwen", "owned_by": "organization_owner"}, {"id": "gemma"}], "object": "list"})
    NOWHERE = json_reply({"error": "Unexpected endpoint or method. (GET /api/v0/models)"})

    async def test_states(self, http: Http) -> None:
        states = {"data": [{"id": "qwen", "state": "loaded", "max_context_length": 32768}, {"id": "gemma"}]}
        replies = {"/v1/models": self.LISTED, "/api/v0/models": json_reply(states)}
        result, _ = await probe(http, "lmstudio", replies)
        assert (result.cause, result.evidence) == (Cause.OK, "answered; 2 models")
        assert result.models == (ModelInfo("qwen", loaded=True, context=32768), ModelInfo("gemma", loaded=False))
        result, _ = await probe(http, "lmstudio", replies, model="gemma")
        assert (result.cause, result.evidence) == (Cause.SLEEPING, "gemma loaded now, 2 models on demand")

    async def test_the_newer_routes(self, http: Http) -> None:
        models = {"models": [{"key": "qwen", "loaded_instances": [], "size_bytes": 2**30, "max_context_length": 4096}]}
        replies = {"/v1/models": self.LISTED, "/api/v0/models": self.NOWHERE, "/api/v1/models": json_reply(models)}
        result, _ = await probe(http, "lmstudio", replies)
        assert result.cause is Cause.SLEEPING
        assert result.models == (ModelInfo("qwen", loaded=False, size_mib=1024, context=4096),)

    async def test_a_build_without_either(self, http: Http) -> None:
        result, _ = await probe(http, "lmstudio", {"/v1/models": self.LISTED}, other=self.NOWHERE)
        assert (result.cause, result.evidence) == (Cause.OK, "answered; 2 models")


async def test_sglang(http: Http) -> None:
    metrics = 'sglang:num_running_reqs{model_name="q"} 2\nsglang:num_queue_reqs 1\nsglang:token_usage 0.25\n'
    replies = {
        "/health": Reply(200),
        "/v1/models": json_reply({"data": [{"id": "q", "owned_by": "sglang", "max_model_len": 8192}]}),
        "/metrics": Reply(200, metrics),
    }
    result, server = await probe(http, "sglang", replies)
    assert (result.cause, result.models) == (Cause.OK, (ModelInfo("q", context=8192),))
    assert result.progress == Progress(running=2, waiting=1, kv_used=0.25)
    assert "/health_generate" not in server.paths


@pytest.mark.parametrize(
    ("engine", "fixture", "there"),
    [
        ("llama.cpp", "ollama", "ollama"),
        ("llama.cpp", "vllm", "vllm"),
        ("vllm", "ollama", "ollama"),
        ("vllm", "llamacpp", "llama.cpp"),
        ("vllm", "llamacpp-loading", "llama.cpp"),
        ("ollama", "llamacpp", "llama.cpp"),
        ("ollama", "vllm", "vllm"),
        ("litellm", "vllm", "vllm"),
        ("litellm", "llamacpp", "llama.cpp"),
        ("litellm", "ollama", "ollama"),
        ("sglang", "vllm", "vllm"),
        ("lmstudio", "vllm", "vllm"),
        ("lmstudio", "ollama", "ollama"),
    ],
)
async def test_another_engine_is_recognised(http: Http, engine: EngineName, fixture: str, there: str) -> None:
    go = Reply(404, "404 page not found", {"Content-Type": "text/plain"})
    result, server = await probe(http, engine, recorded(fixture), other=go if fixture == "ollama" else None)
    assert (result.cause, result.evidence) == (Cause.CONFIG, f"{there} answers here, not {engine}")
    assert len(server.paths) <= 2 + (engine == "lmstudio")


async def test_the_key_is_not_given_to_another_engines_health_route(http: Http) -> None:
    """LiteLLM's /health, asked with a key, calls every model behind it."""
    locked = json_reply(
        {"error": {"message": "Authentication Error, No api key passed in.", "type": "auth_error"}}, 401
    )
    for engine in ("vllm", "llama.cpp", "sglang"):
        result, server = await probe(http, engine, {"/health": locked}, key=KEY)
        assert (result.cause, result.evidence) == (Cause.CONFIG, f"litellm answers here, not {engine}")
        assert all("authorization" not in seen.headers for seen in server.seen if seen.path == "/health")


async def test_a_health_route_behind_a_proxy_gets_the_key_when_it_asks_for_it(http: Http) -> None:
    server_replies = {"/health": [Reply(401, "who?"), json_reply({"status": "ok"})]}
    result, server = await probe(http, "llama.cpp", server_replies, key=KEY, deep=False)
    assert result.cause is Cause.OK
    assert ["authorization" in seen.headers for seen in server.seen] == [False, True]


@pytest.mark.parametrize(
    ("engine", "fixture", "cause", "evidence"),
    [
        ("openai", "llamacpp-api-key", Cause.CONFIG, "401 on /v1/models: API key missing"),
        ("openai", "llamacpp-loading", Cause.LOADING, "503 Loading model"),
        ("openai", "ollama", Cause.OK, "answered; 2 models"),
        ("http", "llamacpp", Cause.BAD_RESPONSE, "415 on its address: Error: gzip is not supported by this browser"),
    ],
)
async def test_where_any_engine_is_right(
    http: Http, engine: EngineName, fixture: str, cause: Cause, evidence: str
) -> None:
    result, server = await probe(http, engine, recorded(fixture))
    assert (result.cause, result.evidence) == (cause, evidence)
    assert len(server.paths) == 1
