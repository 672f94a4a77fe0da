"""Probes of every engine against everything that is not a good answer."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate

import pytest
from pydantic import SecretStr

from backends.cluster.engines import ENGINES as FACTS
from backends.cluster.engines import EngineName
from backends.cluster.reading import ModelInfo, ProbeResult
from backends.cluster.words import Cause
from backends.engines.engine import carried, stays_deep
from backends.engines.http import Http
from backends.engines.registry import ENGINES
from backends.engines.target import Target
from tests.engines import servers
from tests.engines.servers import Canned, Handler, Huge, Reply, free_port, json_reply, listening, recorded

LIMIT = 5.0
KEY = "sk-very-secret-1234"
SPEAKING = [name for name in FACTS if name != "http"]
HEALTH = {
    "ollama": "/api/version",
    "llama.cpp": "/health",
    "vllm": "/health",
    "sglang": "/health",
    "litellm": "/health/liveliness",
    "openai": "/v1/models",
    "lmstudio": "/v1/models",
    "http": "/",
}


async def probe(
    http: Http,
    engine: EngineName,
    handler: Handler,
    *,
    deep: bool = False,
    limit: float = LIMIT,
    slow: float = LIMIT,
    key: str | None = None,
) -> ProbeResult:
    """The result of one probe, which comes within its time limit and half a second."""
    async with listening(handler) as port:
        secret = SecretStr(key) if key else None
        target = Target(f"http://127.0.0.1:{port}", engine, timeout=limit, slow=slow, key=secret)
        asked = ENGINES[engine]
        began = time.monotonic()
        result = await asked.probe(http, target, deep=deep)
        assert time.monotonic() - began < limit + 0.5
    assert 0 < len(result.evidence) <= 160
    assert KEY not in repr(result)
    return result


def everywhere(reply: Reply) -> Canned:
    return Canned({}, reply)


HTML = Reply(200, "<html><h1>It works!</h1></html>", {"Content-Type": "text/html"})


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("engine", FACTS)
@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (Reply(401), Cause.CONFIG),
        (Reply(403, "no"), Cause.CONFIG),
        (Reply(404), Cause.CONFIG),
        (Reply(429), Cause.RATE_LIMITED),
        (Reply(500, "Internal Server Error"), Cause.BAD_RESPONSE),
        (Reply(502, "<html>Bad Gateway</html>"), Cause.BAD_RESPONSE),
        (json_reply({"error": {"message": "overloaded"}}, 503), Cause.BAD_RESPONSE),
        (Reply(302, "", {"Location": "http://127.0.0.1:1/"}), Cause.BAD_RESPONSE),
        (Reply(400, "what?"), Cause.BAD_RESPONSE),
        (Reply(200, b"x" * (2**20 + 1)), Cause.BAD_RESPONSE),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else value.value,
)
async def test_statuses(http: Http, engine: EngineName, reply: Reply, cause: Cause, deep: bool) -> None:
    result = await probe(http, engine, everywhere(reply), deep=deep)
    assert result.cause is cause, result.evidence


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("engine", SPEAKING)
@pytest.mark.parametrize(
    "body",
    [
        HTML.body,
        "hello",
        '{"something": "else"}',
        '["something", {"else": 1}]',
        "[" * 100_000,
        '{"data": 3, "models": 3, "version": 3, "status": 3}',
        "null",
        "\x00\xff",
    ],
    ids=["html", "text", "object", "array", "nested", "types", "null", "binary"],
)
async def test_answers_that_are_not_the_engines(http: Http, engine: EngineName, body: str, deep: bool) -> None:
    result = await probe(http, engine, everywhere(Reply(200, body)), deep=deep)
    assert result.cause is Cause.BAD_RESPONSE, result.evidence
    assert result.evidence.isprintable()


@pytest.mark.parametrize("engine", [name for name in SPEAKING if name not in ("vllm", "sglang")])
async def test_an_empty_answer_is_none(http: Http, engine: EngineName) -> None:
    result = await probe(http, engine, everywhere(Reply(200)))
    assert (result.cause, "an empty answer" in result.evidence) == (Cause.BAD_RESPONSE, True)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_an_empty_answer_to_everything_is_no_engine(http: Http, engine: EngineName) -> None:
    assert (await probe(http, engine, everywhere(Reply(200)))).cause is Cause.OK
    assert (await probe(http, engine, everywhere(Reply(200)), deep=True)).cause is Cause.BAD_RESPONSE


@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        (servers.black_hole, Cause.TIMEOUT),
        (servers.drip, Cause.TIMEOUT),
        (servers.reset, Cause.RESET),
        (servers.no_http, Cause.BAD_RESPONSE),
    ],
)
async def test_faults_of_transport(http: Http, handler: Handler, cause: Cause) -> None:
    """All engines side by side: none waits for another."""
    limit = 1.0 if cause is Cause.TIMEOUT else LIMIT
    found = await asyncio.gather(*(probe(http, name, handler, deep=True, limit=limit) for name in FACTS))
    assert {result.cause for result in found} == {cause}


@pytest.mark.parametrize("engine", FACTS)
async def test_a_gigabyte(http: Http, engine: EngineName) -> None:
    result = await probe(http, engine, Huge(chunked=True), deep=True)
    assert (result.cause, "more than 1 MiB" in result.evidence) == (Cause.BAD_RESPONSE, True)


@pytest.mark.parametrize("engine", FACTS)
async def test_refused(http: Http, engine: EngineName) -> None:
    port = free_port()
    result = await ENGINES[engine].probe(http, Target(f"http://127.0.0.1:{port}", engine), deep=True)
    assert (result.cause, result.evidence) == (Cause.REFUSED, f"connect refused by 127.0.0.1:{port}")


class TestSlow:
    """An endpoint that answers late."""

    async def late(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await servers.read_request(reader)
        await asyncio.sleep(0.15)
        writer.write(json_reply({"status": "ok"}).wire)

    async def test_is_busy(self, http: Http) -> None:
        result = await probe(http, "llama.cpp", self.late, slow=0.1)
        assert result.cause is Cause.BUSY
        assert result.evidence.startswith("answered only after 0.")
        assert result.evidence.endswith("(limit 0.1 s)")

    async def test_is_well_within_its_limit(self, http: Http) -> None:
        assert (await probe(http, "llama.cpp", self.late, slow=3)).cause is Cause.OK


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"Retry-After": "30"}, 30),
            ({"Retry-After": "999999999999999999999"}, 86400),
            (
                {"Retry-After": formatdate(2_000_000_060, usegmt=True), "Date": formatdate(2_000_000_000, usegmt=True)},
                60,
            ),
            ({"Retry-After": formatdate(1_000_000_000, usegmt=True)}, 0),
            ({"Retry-After": "soon"}, None),
            ({"Retry-After": "-5"}, None),
            ({"Retry-After": "٣"}, None),
            ({}, None),
        ],
    )
    async def test_is_read(self, http: Http, headers: dict[str, str], seconds: float | None) -> None:
        latin = {name: value.encode().decode("latin-1") for name, value in headers.items()}
        result = await probe(http, "llama.cpp", everywhere(Reply(429, "", latin)))
        assert (result.cause, result.retry_after) == (Cause.RATE_LIMITED, seconds)

    async def test_of_a_date_is_measured_against_the_clock(self, http: Http) -> None:
        reply = Reply(429, "", {"Retry-After": formatdate(time.time() + 100, usegmt=True)})
        result = await probe(http, "llama.cpp", everywhere(reply))
        assert result.retry_after is not None
        assert 90 < result.retry_after <= 100


class TestDeepAfterGoodHealth:
    """What a deep probe finds after a good health call never says DOWN for what may pass."""

    async def found(
        self, http: Http, engine: EngineName, reply: Reply | None, handler: Handler | None = None
    ) -> ProbeResult:
        fixture = {"llama.cpp": "llamacpp", "vllm": "vllm", "ollama": "ollama", "litellm": "litellm"}[engine]
        models = "/api/tags" if engine == "ollama" else "/v1/models"
        canned = Canned({**recorded(fixture, skip=1), **({models: reply} if reply else {})})

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                seen = await servers.read_request(reader)
                if handler is not None and seen.path == models:
                    await asyncio.Event().wait()
                writer.write(canned.reply(seen).wire)
                await writer.drain()

        return await probe(http, engine, serve, deep=True, key=KEY, limit=1.0 if handler else LIMIT)

    @pytest.mark.parametrize("engine", ["llama.cpp", "vllm", "ollama", "litellm"])
    @pytest.mark.parametrize(
        ("reply", "cause", "words"),
        [
            (Reply(500, "Internal Server Error"), Cause.OK, "answered; 500 on /"),
            (Reply(503, "wait"), Cause.OK, "answered; 503 on /"),
            (Reply(401), Cause.CONFIG, "API key refused"),
            (Reply(403), Cause.CONFIG, "not allowed with this API key"),
            (Reply(429, "", {"Retry-After": "7"}), Cause.RATE_LIMITED, "again in 7 s"),
            (Reply(404), Cause.CONFIG, "404 on /"),
            (HTML, Cause.BAD_RESPONSE, "web page"),
        ],
        ids=["500", "503", "401", "403", "429", "404", "html"],
    )
    async def test_statuses(self, http: Http, engine: EngineName, reply: Reply, cause: Cause, words: str) -> None:
        result = await self.found(http, engine, reply)
        assert result.cause is cause, result.evidence
        assert words in result.evidence
        assert result.latency is not None

    async def test_silence(self, http: Http) -> None:
        engines: tuple[EngineName, ...] = ("llama.cpp", "vllm", "ollama", "litellm")
        for result in await asyncio.gather(*(self.found(http, e, None, servers.black_hole) for e in engines)):
            assert result.cause is Cause.OK
            assert result.evidence.startswith("answered; no answer from 127.0.0.1:")

    async def test_silence_beside_the_point(self, http: Http) -> None:
        canned = Canned(recorded("vllm"))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                seen = await servers.read_request(reader)
                if seen.path == "/metrics":
                    await asyncio.Event().wait()
                writer.write(canned.reply(seen).wire)

        result = await probe(http, "vllm", serve, deep=True, limit=1.0)
        assert (result.cause, result.version) == (Cause.OK, "0.32.0")
        assert result.evidence.startswith("answered; 1 model; metrics: no answer")

    async def test_loading_again(self, http: Http) -> None:
        loading = json_reply({"error": {"message": "Loading model", "code": 503}}, 503)
        assert (await self.found(http, "llama.cpp", loading)).cause is Cause.LOADING


class TestHostileLists:
    async def models(self, http: Http, data: object) -> tuple[ModelInfo, ...] | None:
        return (await probe(http, "openai", everywhere(json_reply({"data": data})), deep=True)).models

    async def test_many(self, http: Http) -> None:
        found = await self.models(http, [{"id": f"m{i}"} for i in range(5000)])
        assert found is not None
        assert len(found) == 500

    async def test_long_and_moving_names(self, http: Http) -> None:
        found = await self.models(http, [{"id": "\x1b[2J" + "n" * 5000 + "\u202e"}])
        assert found is not None
        assert len(found[0].name) == 200
        assert found[0].name.isprintable()

    async def test_odd_entries_are_passed_over(self, http: Http) -> None:
        data = [None, 3, {}, {"id": None}, {"id": "good", "max_model_len": "many"}, {"id": "two", "max_model_len": -1}]
        assert await self.models(http, data) == (ModelInfo("good"), ModelInfo("two"))


async def test_the_key_never_comes_back(http: Http) -> None:
    """Some servers repeat the key that they refuse."""
    for status in (400, 401, 403, 418, 500, 200):
        reply = json_reply({"error": {"message": f"bad key {KEY}"}}, status)
        for engine in FACTS:
            await probe(http, engine, everywhere(reply), deep=True, key=KEY)


def test_a_shallow_result_keeps_what_the_last_deep_one_found() -> None:
    deep = ProbeResult(Cause.SLEEPING, "asleep", latency=1.0, models=(ModelInfo("a"),), version="1")
    shallow = ProbeResult(Cause.OK, "answered", latency=0.1)
    found = carried(shallow, deep)
    assert (found.cause, found.evidence, found.models, found.latency) == (Cause.SLEEPING, "asleep", deep.models, 0.1)
    assert carried(shallow, None) == shallow
    refused = ProbeResult(Cause.REFUSED, "refused")
    assert carried(refused, deep) == refused
    assert carried(shallow, ProbeResult(Cause.CONFIG, "401")) == shallow


def test_what_only_a_deep_probe_can_see_is_asked_for_again() -> None:
    assert stays_deep(ProbeResult(Cause.CONFIG, ""))
    assert stays_deep(ProbeResult(Cause.BAD_RESPONSE, ""))
    assert not stays_deep(ProbeResult(Cause.OK, ""))
    assert not stays_deep(ProbeResult(Cause.SLEEPING, ""))


def test_the_registry_has_every_engine() -> None:
    assert tuple(ENGINES) == tuple(FACTS)
    assert len(ENGINES) == len(FACTS)
    assert {name: ENGINES[name].name for name in FACTS} == {name: name for name in FACTS}
    with pytest.raises(KeyError):
        ENGINES["nope"]  # type: ignore[index]
