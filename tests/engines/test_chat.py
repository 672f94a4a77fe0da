"""Streamed answers: what real engines send, and every way in which an answer can end badly."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing

import pytest
from pydantic import SecretStr

from backends.engines.chat import ChatEvent, Delta, Finished, Message, Patience, Started, chat
from backends.engines.http import Http
from backends.engines.target import Target
from backends.errors import ChatError
from tests.engines import servers
from tests.engines.servers import Canned, Handler, Reply, free_port, json_reply, listening, recorded_posts

HELLO = (Message("user", "hi"),)
QUICK = Patience(first=0.4, next=0.3)
KEY = "sk-very-secret-1234"


async def events(
    http: Http,
    handler: Handler,
    *,
    engine: str = "llama.cpp",
    model: str | None = "m",
    max_tokens: int | None = None,
    patience: Patience = QUICK,
    key: str | None = None,
) -> list[ChatEvent]:
    """Everything that comes of one prompt."""
    async with listening(handler) as port:
        secret = SecretStr(key) if key else None
        target = Target(f"http://127.0.0.1:{port}", engine, timeout=0.5, key=secret)
        answer = chat(http, target, HELLO, model=model, max_tokens=max_tokens, patience=patience)
        async with aclosing(answer) as stream:
            return [event async for event in stream]


def said(found: list[ChatEvent], *, reasoning: bool = False) -> str:
    return "".join(e.text for e in found if isinstance(e, Delta) and e.reasoning is reasoning)


def data(value: object) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def piece(text: str, **more: object) -> bytes:
    return data({"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": None}]})


END = data({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
DONE = data(b"[DONE]")


def streaming(
    parts: Callable[[], Iterable[bytes | float]], *, end: bytes = b"0\r\n\r\n", kind: str = "text/event-stream"
) -> Handler:
    """A server that sends `parts` in chunks (a number is a pause), then `end`; b"hang" is silence, b"reset" a reset."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await servers.read_request(reader)
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for part in parts():
            if isinstance(part, float):
                await asyncio.sleep(part)
                continue
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            await writer.drain()
        if end == b"hang":
            await asyncio.Event().wait()
        elif end == b"reset":
            await asyncio.sleep(0.02)
            servers.reset_now(writer)
        else:
            writer.write(end)

    return handle


@pytest.mark.parametrize(
    ("fixture", "engine", "text", "counts"),
    [
        ("llamacpp", "llama.cpp", "w124 w56 ex", (21, 4, pytest.approx(3167.9, abs=0.1))),
        ("vllm", "vllm", "\ufffd(", (3, 4, None)),
        ("ollama", "ollama", "R7\ufffdR", (21, 4, None)),
        ("litellm", "litellm", "", (None, 0, None)),
    ],
)
async def test_what_real_engines_stream(
    http: Http, fixture: str, engine: str, text: str, counts: tuple[int | None, int, object]
) -> None:
    body, reply = next((b, r) for b, r in recorded_posts(fixture) if b.get("stream") and r.status == 200)
    server = Canned({"POST /v1/chat/completions": reply})
    found = await events(http, server, engine=engine, model=str(body.get("model", "m")), max_tokens=4)
    assert isinstance(found[0], Started)
    assert said(found) == text
    last = found[-1]
    assert isinstance(last, Finished)
    assert (last.tokens_in, last.tokens_out, last.reason) == (*counts[:2], "length")
    if counts[2] is not None:
        assert last.tokens_per_s == counts[2]
    assert last.seconds >= (last.first_token_s or 0)
    sent = json.loads(server.seen[0].body)
    assert sent["messages"] == [{"role": "user", "content": "hi"}]
    assert (sent["stream"], sent["max_tokens"], sent["stream_options"]) == (True, 4, {"include_usage": True})


async def test_reasoning_is_told_apart(http: Http) -> None:
    parts = [
        data({"choices": [{"delta": {"reasoning_content": "hm "}}]}),
        data({"choices": [{"delta": {"reasoning": "well"}}]}),
        piece("yes"),
        END,
        DONE,
    ]
    found = await events(http, streaming(lambda: parts))
    assert (said(found, reasoning=True), said(found)) == ("hm well", "yes")


async def test_reasoning_between_tags_is_told_apart_too(http: Http) -> None:
    tagged = [piece(text) for text in ("<thi", "nk>hm", " well</th", "ink>", "\n\n", "yes <think>", "no")]
    found = await events(http, streaming(lambda: [*tagged, END, DONE]))
    assert (said(found, reasoning=True), said(found)) == ("hm well", "yes <think>no")
    cut = await events(http, streaming(lambda: [piece("<thin"), END, DONE]))
    assert said(cut) == "<thin"


async def test_a_rate_from_what_came(http: Http) -> None:
    parts: list[bytes | float] = [piece("a"), 0.1, piece("b"), 0.1, piece("c"), END, DONE]
    last = (await events(http, streaming(lambda: parts)))[-1]
    assert isinstance(last, Finished)
    assert last.tokens_out == 3
    assert last.tokens_per_s is not None
    assert 4 < last.tokens_per_s < 11


async def test_escape_sequences_do_not_get_through(http: Http) -> None:
    parts = [piece("\x1b[2J\x07one\n\ttwo\u202e\r"), END, DONE]
    assert said(await events(http, streaming(lambda: parts))) == "[2Jone\n\ttwo"


async def test_an_answer_in_one_piece(http: Http) -> None:
    whole = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}
    found = await events(http, Canned({"POST /v1/chat/completions": json_reply(whole)}))
    assert said(found) == "yes"
    assert isinstance(found[-1], Finished)


async def test_an_end_without_done_is_an_end(http: Http) -> None:
    for end in (b"0\r\n\r\n", b"hang"):
        found = await events(http, streaming(lambda: [piece("yes"), END], end=end))
        assert said(found) == "yes"
        assert isinstance(found[-1], Finished)


class TestModel:
    LISTED = json_reply({"data": [{"id": "nomic-embed-text"}, {"id": "qwen"}, {"id": "gemma"}]})
    ANSWER = Reply(200, piece("yes") + END + DONE, {"Content-Type": "text/event-stream"})

    async def test_the_first_is_asked_for_where_none_is_said(self, http: Http) -> None:
        server = Canned({"/v1/models": self.LISTED, "POST /v1/chat/completions": self.ANSWER})
        found = await events(http, server, model=None, key=KEY)
        assert json.loads(server.seen[1].body)["model"] == "qwen"
        assert isinstance(found[0], Started)
        assert found[0].model == "qwen"
        assert {seen.headers["authorization"] for seen in server.seen} == {f"Bearer {KEY}"}

    async def test_none_where_there_is_no_list(self, http: Http) -> None:
        server = Canned({"POST /v1/chat/completions": self.ANSWER})
        assert said(await events(http, server, model=None)) == "yes"
        assert "model" not in json.loads(server.seen[1].body)

    @pytest.mark.parametrize(
        ("reply", "words"),
        [
            (json_reply({"data": []}), "has no models"),
            (Reply(401), "401: API key missing"),
            (json_reply({"error": {"message": "Loading model"}}, 503), "503: Loading model"),
        ],
    )
    async def test_why_there_is_none(self, http: Http, reply: Reply, words: str) -> None:
        with pytest.raises(ChatError, match=words) as caught:
            await events(http, Canned({"/v1/models": reply}), model=None)
        assert caught.value.advice


@pytest.mark.parametrize(
    ("fixture", "status", "words"),
    [
        ("llamacpp", 400, "exceeds the available context size"),
        ("llamacpp-api-key", 401, "API key missing"),
        ("vllm", 404, "The model `nope` does not exist"),
        ("vllm", 400, "maximum context length is 512 tokens"),
        ("litellm", 500, "Connection error"),
        ("litellm", 400, "Invalid model name"),
    ],
)
async def test_what_real_engines_refuse(http: Http, fixture: str, status: int, words: str) -> None:
    reply = next(r for _, r in recorded_posts(fixture) if r.status == status)
    with pytest.raises(ChatError) as caught:
        await events(http, Canned({"POST /v1/chat/completions": reply}))
    assert f"answered {status}" in caught.value.message
    assert words in caught.value.message


async def test_litellm_without_a_database_speaks_of_keys_in_its_own_way(http: Http) -> None:
    replies = [reply for _, reply in recorded_posts("litellm")]
    cases = [(500, "Internal Server Error", None, "API key missing"), (400, "no_db_connection", KEY, "API key refused")]
    for status, body, key, words in cases:
        reply = next(r for r in replies if r.status == status and body in str(r.body))
        with pytest.raises(ChatError, match=words) as caught:
            await events(http, Canned({"POST /v1/chat/completions": reply}), engine="litellm", key=key)
        assert "api_key" in caught.value.advice


async def test_too_many_requests_says_when(http: Http) -> None:
    with pytest.raises(ChatError) as caught:
        await events(http, Canned({}, Reply(429, "", {"Retry-After": "12"})))
    assert caught.value.advice == "Try again in 12 s."


async def test_the_key_is_not_repeated(http: Http) -> None:
    for reply in (
        json_reply({"error": {"message": f"bad key {KEY}"}}, 500),
        json_reply({"error": {"message": f"bad key {KEY}"}}),
        Reply(200, data({"error": f"bad key {KEY}"}), {"Content-Type": "text/event-stream"}),
    ):
        with pytest.raises(ChatError, match=r"bad key \*\*\*"):
            await events(http, Canned({}, reply), key=KEY)


async def test_refused(http: Http) -> None:
    port = free_port()
    with pytest.raises(ChatError, match=f"No answer: connect refused by 127.0.0.1:{port}"):
        async for _ in chat(http, Target(f"http://127.0.0.1:{port}", "vllm"), HELLO, model="m"):
            pass


async def test_a_plain_service_answers_no_prompts(http: Http) -> None:
    with pytest.raises(ChatError, match="plain HTTP"):
        async for _ in chat(http, Target("http://127.0.0.1:1", "http"), HELLO):
            pass


def pieces(number: int) -> Callable[[], Iterable[bytes]]:
    return lambda: (piece(f"{i} ") for i in range(number))


def for_ever(part: bytes, pause: float = 0.0) -> Callable[[], Iterable[bytes | float]]:
    return lambda: itertools.chain.from_iterable((part, pause) for _ in itertools.count())


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (servers.black_hole, "No answer from 127.0.0.1:"),
        (streaming(list, end=b"hang"), "No answer: nothing came for 0.4 s"),
        (streaming(pieces(3), end=b"hang"), "The answer broke off after 3 tokens: nothing came for 0.3 s"),
        (streaming(pieces(3), end=b"reset"), "The answer broke off after 3 tokens: 127.0.0.1"),
        (streaming(pieces(1), end=b""), "The answer broke off after 1 token: 127.0.0.1"),
        (streaming(pieces(2)), "The answer broke off after 2 tokens: the connection ended before the answer did"),
        (streaming(list), "No answer: the connection ended before the answer did"),
        (streaming(for_ever(b": ping\n\n", 0.02)), "No answer: nothing came for 0.4 s"),
        (streaming(for_ever(data({"choices": []}), 0.02)), "No answer: nothing came for 0.4 s"),
        (streaming(lambda: [data(b"<html>")]), "No answer: it sends what is no answer: <html>"),
        (streaming(lambda: [data(b"[1, 2]")]), "No answer: it sends what is no answer"),
        (streaming(lambda: [piece("a"), data(b"\xff\x00")]), "The answer broke off after 1 token: it sends what is no"),
        (streaming(for_ever(b"x" * 65536)), "No answer: it sends lines without end"),
        (streaming(lambda: [b"data: " + b"[" * 100_000 + b"\n\n"]), "No answer: it sends what is no answer"),
        (
            streaming(lambda: [piece("a"), data({"error": {"message": "out of memory"}})]),
            "The answer broke off after 1 token: out of memory",
        ),
        (streaming(lambda: [data({"error": "slow down"})]), "No answer: slow down"),
        (streaming(lambda: [b'error: {"error":{"message":"gone"}}\n\n']), "No answer: gone"),
        (streaming(lambda: [b"error: gone\n\n"]), "No answer: gone"),
        (streaming(lambda: [data({"error": {"code": 3}})]), "No answer: it gives no reason"),
        (streaming(lambda: [b"<html>hello</html>"], kind="text/html"), "No answer: it sends what is no answer: <html>"),
        (streaming(lambda: [b'{"error":{"message":"bad"}}'], kind="application/json"), "No answer: bad"),
        (streaming(for_ever(b" " * 65536), kind="application/json"), "No answer: it sends more than 1 MiB"),
    ],
)
async def test_answers_that_end_badly(http: Http, handler: Handler, message: str) -> None:
    silent = "nothing came" in message or message.startswith("No answer from")
    began = time.monotonic()
    with pytest.raises(ChatError) as caught:
        await events(http, handler, patience=QUICK if silent else Patience(10, 10))
    assert caught.value.message.startswith(message), caught.value.message
    assert caught.value.advice
    assert time.monotonic() - began < 5


async def test_an_answer_without_end_is_stopped(http: Http) -> None:
    with pytest.raises(ChatError, match="broke off after 85 tokens: it does not come to an end"):
        await events(http, streaming(for_ever(piece("x"))), max_tokens=10)
    with pytest.raises(ChatError, match="it does not come to an end"):
        await events(http, streaming(for_ever(piece("x" * 500_000))))


async def test_other_pieces_do_not_pass_for_silence(http: Http) -> None:
    """A tool call or an empty piece is a sign of life once the answer has begun."""
    empty = data({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]})
    pauses: list[bytes | float] = [0.1, empty]
    parts = [piece("a"), *pauses * 5, piece("b"), END, DONE]
    assert said(await events(http, streaming(lambda: parts))) == "ab"


async def test_closing_closes_the_connection_at_once(http: Http) -> None:
    closed = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await servers.read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + piece("a"))
        await reader.read()
        closed.set()

    async with listening(handle) as port:
        target = Target(f"http://127.0.0.1:{port}", "vllm")
        async with aclosing(chat(http, target, HELLO, model="m")) as stream:
            async for event in stream:
                if isinstance(event, Delta):
                    break
        async with asyncio.timeout(0.5):
            await closed.wait()


async def test_cancelling_closes_the_connection_at_once(http: Http) -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await servers.read_request(reader)
        asked.set()
        await reader.read()
        closed.set()

    async def read(stream: AsyncIterator[ChatEvent]) -> None:
        async for _ in stream:
            pass

    async with listening(handle) as port:
        target = Target(f"http://127.0.0.1:{port}", "vllm")
        task = asyncio.create_task(read(chat(http, target, HELLO, model="m")))
        async with asyncio.timeout(1):
            await asked.wait()
            task.cancel()
            await closed.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_long_load_is_waited_for(http: Http) -> None:
    """An engine may load its model first: only connecting has the short limit."""
    patience = Patience(first=5, next=0.3)
    parts: list[bytes | float] = [0.7, piece("yes"), END, DONE]
    found = await events(http, streaming(lambda: parts), patience=patience)
    last = found[-1]
    assert isinstance(last, Finished)
    assert last.first_token_s is not None
    assert last.first_token_s > 0.6
