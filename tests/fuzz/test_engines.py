"""What engines answer to probes and prompts, mangled; what they count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from backends.cluster.engines import EngineName
from backends.cluster.reading import ProbeResult
from backends.engines.chat import Finished, Message, Patience, chat
from backends.engines.http import Http, HttpStream
from backends.engines.metrics import LLAMACPP, SGLANG, VLLM, gateway, progress
from backends.engines.registry import ENGINES
from backends.engines.sse import Events, Overlong
from backends.engines.target import HttpAnswer, Target
from tests.engines.servers import FIXTURES
from tests.fuzz.strategies import bounded, grafts, json_of, mangled, said, text_of, tried

FIXTURE = {"ollama": "ollama", "llama.cpp": "llamacpp", "vllm": "vllm", "litellm": "litellm"}
"""What each engine's server was recorded as; the others are asked in a like way."""


def recorded(engine: str) -> dict[str, bytes]:
    """What a real server answered, by route, and to the routes of those of which there is no recording."""
    names = [FIXTURE[engine]] if engine in FIXTURE else list(FIXTURE.values())
    rows = [json.loads(line) for name in names for line in (FIXTURES / f"{name}.jsonl").read_text().splitlines()]
    good = [row for row in rows if row.get("status") == 200]
    return {row["request"].removeprefix("GET "): str(row["answer"]).encode() for row in good}


class Served:
    """Answers as given, without a network."""

    def __init__(self, answers: Mapping[str, bytes], status: int, headers: Mapping[str, str], other: bytes) -> None:
        self._answers, self._status, self._headers, self._other = answers, status, headers, other

    async def get(self, url: str, **_: object) -> HttpAnswer:
        route = "/" + url.partition("://")[2].partition("/")[2]
        return HttpAnswer(self._status, self._headers, self._answers.get(route, self._other), 0.01)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """As asyncio.run does it, without a thousand event loops."""
    return LOOP.run(work)


LOOP = asyncio.Runner()

HEADERS = st.dictionaries(
    st.sampled_from(["server", "location", "retry-after", "date", "content-type", "x-litellm-version"]),
    st.sampled_from(["llama.cpp", "9" * 5000, "-1", "Sat, 99 Nov 99999 99:99:99 GMT", "text/html", "\x1b[2J", ""]),
)


def judged(result: ProbeResult, key: str) -> None:
    assert 0 < len(result.evidence) <= 160
    assert result.evidence.isprintable()
    assert key not in repr(result)
    models = result.models or ()
    assert len(models) <= 500
    assert all(len(m.name) <= 200 and m.name.isprintable() for m in models)
    assert result.version is None or (len(result.version) <= 80 and result.version.isprintable())


def probed(engine: EngineName, served: Served, *, deep: bool, light: bool, model: str | None) -> None:
    target = Target("http://127.0.0.1:1", engine, key=SecretStr("sk-secret-1"), model=model)
    result = run(ENGINES[engine].probe(cast("Http", served), target, deep=deep, light=light))
    judged(result, "sk-secret-1")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_may_answer_anything(engine: EngineName) -> None:
    answers = recorded(engine)

    @tried
    @given(st.data(), st.sampled_from([200, 200, 200, 204, 302, 401, 404, 429, 500, 503]), HEADERS)
    def check(data: st.DataObject, status: int, headers: dict[str, str]) -> None:
        route = data.draw(st.sampled_from(sorted(answers)))
        changed = {route: data.draw(_json_like(answers[route]))}
        served = Served(answers | changed, status, headers, data.draw(st.binary(max_size=40)))
        model = data.draw(st.sampled_from([None, "m", "*", "\x1b[2J"]))
        probed(engine, served, deep=data.draw(st.booleans()), light=data.draw(st.booleans()), model=model)

    check()


def _json_like(body: bytes) -> st.SearchStrategy[bytes]:
    try:
        return json_of(_short(json.loads(body)))
    except ValueError:
        return mangled(body)


@pytest.mark.parametrize("engine", ENGINES)
def test_any_value_may_be_odd(engine: EngineName) -> None:
    answers = recorded(engine)
    for route, body in answers.items():
        try:
            document = _short(json.loads(body))
        except ValueError:
            continue
        for changed in grafts(document, every=31):
            served = Served(answers | {route: json.dumps(changed).encode()}, 200, {}, b"")
            probed(engine, served, deep=True, light=False, model=None)


def _short(document: Any) -> Any:
    """A document with no more than one entry of each list: the others are like it."""
    if isinstance(document, dict):
        return {key: _short(value) for key, value in list(document.items())[:12]}
    return [_short(value) for value in document[:1]] if isinstance(document, list) else document


METRICS = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:generation_tokens_total{engine="0"} 1234.0
llamacpp:tokens_predicted_total 77
sglang:num_running_reqs{model_name="a\\"b"} 1
litellm_proxy_total_requests_metric_total{requested_model="m",model="x"} 12.0
litellm_total_tokens_metric_total{model="m"} 1e3
"""


@tried
@given(text_of(METRICS * 3))
def test_counters_may_be_anything(text: str) -> None:
    for names in (LLAMACPP, VLLM, SGLANG):
        found = progress(text, names)
        assert found is None or found.tokens is None or found.tokens >= 0
    counted = gateway(text)
    assert counted is None or all(model.name.isprintable() and len(model.name) <= 80 for model in counted.models)


@pytest.mark.parametrize(
    "text",
    [
        "vllm:num_requests_running{" + 'a="' * 300_000,
        "vllm:num_requests_running 1\n" * 35_000,
        ("litellm_total_tokens_metric_total{" + 'model="\\' * 500 + "} 1\n") * 250,
        'litellm_total_tokens_metric_total{model="' + "m" * 4000 + '"} 1\n' * 250,
        "{" * 2**20,
        "\n" * 2**20,
    ],
    ids=["labels", "samples", "quotes", "names", "braces", "lines"],
)
def test_nor_does_counting_take_for_ever(text: str) -> None:
    bounded(lambda: [progress(text, VLLM), gateway(text)])


ANSWER = b"""data: {"choices":[{"delta":{"role":"assistant","content":"Hel"},"finish_reason":null}]}\r
\r
: ping

data: {"choices":[{"delta":{"content":"lo","reasoning_content":"hm"}}]}

data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2},"timings":{"predicted_per_second":38.5}}

data: [DONE]

"""  # noqa: E501 - as engines write it
PIECES = [json.loads(line[6:]) for line in ANSWER.splitlines() if line.startswith(b"data: {")]


class Streaming:
    """Streams as given, without a network."""

    def __init__(self, chunks: list[bytes], headers: Mapping[str, str]) -> None:
        self._chunks, self._headers = chunks, headers

    @asynccontextmanager
    async def stream(self, *_: object, **__: object) -> AsyncIterator[HttpStream]:
        async def chunks() -> AsyncIterator[bytes]:
            for chunk in self._chunks:
                yield chunk

        yield HttpStream(200, self._headers, chunks())


def streamed(raw: bytes, sizes: Iterator[int], *, named: bool) -> None:
    """Chat with an engine that streams `raw` in pieces: the answer ends, or it breaks off with words for a person."""
    pieces, at = [], 0
    while at < len(raw):
        size = next(sizes)
        pieces.append(raw[at : at + size])
        at += size

    async def talk() -> None:
        http = Streaming(pieces, {"content-type": "text/event-stream"} if named else {})
        target = Target("http://127.0.0.1:1", "openai", model="m")
        last: object = None
        async for last in chat(cast("Http", http), target, [Message("user", "hi")], patience=Patience(1.0, 1.0)):
            assert all(text not in getattr(last, "text", "") for text in ("\x1b", "\x07", "\u202e"))
        assert isinstance(last, Finished)

    assert len(said(lambda: run(talk()))) < 1000


def _forever(size: int) -> Iterator[int]:
    while True:
        yield size


@tried
@given(mangled(ANSWER), st.integers(1, 200), st.booleans())
def test_a_stream_may_be_anything(raw: bytes, size: int, named: bool) -> None:
    streamed(raw, _forever(size), named=named)


def test_any_value_of_a_stream_may_be_odd() -> None:
    for piece in PIECES:
        for changed in grafts(piece, every=7):
            raw = b"data: " + json.dumps(changed).encode() + b"\n\ndata: [DONE]\n\n"
            streamed(raw, _forever(10**6), named=True)


@pytest.mark.parametrize("size", [16, 65536])
@pytest.mark.parametrize("part", [b"\n", b"data:\n", b"data: x", b"x:\n", b": ping\n\n"])
def test_events_take_no_room(part: bytes, size: int) -> None:
    raw = (part * 2**20)[: 2**19 if size == 16 else 2**21]

    def feed() -> None:
        events = Events()
        try:
            for at in range(0, len(raw), size):
                for _ in events.feed(raw[at : at + size]):
                    pass
        except Overlong:
            return

    bounded(feed, seconds=6.0, mib=32.0)
