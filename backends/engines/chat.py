"""A streamed answer from any engine, through the one route that all of them have: /v1/chat/completions."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from backends.cluster.words import Cause
from backends.engines.answers import Piece, read_piece
from backends.engines.ask import parsed
from backends.engines.http import Http, HttpStream
from backends.engines.images import Image
from backends.engines.models import ModelList
from backends.engines.refusals import key_trouble, loading, message, retry_seconds
from backends.engines.sse import Events, Overlong
from backends.engines.target import MIB, HttpAnswer, ProbeFailure, Target, address
from backends.engines.thinking import Thoughts
from backends.errors import ChatError

ROUTE: Final = "/v1/chat/completions"

MOST_TEXT: Final = 4 * MIB
"""Characters of one answer."""

MOST_CHUNKS: Final = 65_536
"""Pieces of one answer, about as many as tokens; with a limit of tokens, twice that limit."""

AFTER_THE_END: Final = 3.0
"""Seconds for the counts that may follow the last piece."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str
    images: tuple[Image, ...] = ()

    @property
    def json(self) -> dict[str, Any]:
        """As it is sent: with images the content has parts, and each image is a data URL, which Ollama takes, too."""
        if not self.images:
            return {"role": self.role, "content": self.content}
        urls = [f"data:{i.mime};base64,{base64.b64encode(i.data).decode()}" for i in self.images]
        parts: list[dict[str, Any]] = [{"type": "text", "text": self.content}]
        return {"role": self.role, "content": parts + [{"type": "image_url", "image_url": {"url": u}} for u in urls]}


@dataclass(frozen=True, slots=True)
class Started:
    """The engine took the prompt; `at` is when it was sent, on the event loop's clock."""

    at: float
    model: str | None


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer, or of the reasoning before it; free of control characters but line feed and tab."""

    text: str
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """The whole answer came: seconds in all and until its first piece, tokens read and written, and why it ended.

    `tokens_per_s` is the engine's own figure where it gives one, else from its counts, else from the pieces that came.
    """

    seconds: float
    first_token_s: float | None
    tokens_in: int | None
    tokens_out: int
    tokens_per_s: float | None
    reason: str

    @property
    def words(self) -> str:
        """The figures for a person, as far as they are known."""
        first = "" if self.first_token_s is None else f"{self.first_token_s * 1000:.0f} ms to first token, "
        pace = "" if self.tokens_per_s is None else f"{self.tokens_per_s:.0f} tok/s, "
        read = "?" if self.tokens_in is None else self.tokens_in
        return f"{first}{pace}{read} tokens in, {self.tokens_out} out"


ChatEvent = Started | Delta | Finished


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait: for the first piece (a model may have to be loaded first), and between two pieces."""

    first: float = 600.0
    next: float = 60.0


async def chat(
    http: Http,
    target: Target,
    messages: Sequence[Message],
    *,
    model: str | None = None,
    max_tokens: int | None = None,
    patience: Patience | None = None,
) -> AsyncGenerator[ChatEvent, None]:
    """Send a conversation and yield the answer as it comes: Started, then Delta after Delta, then Finished.

    Without a `model` it is the target's own, else the first that the engine names. Raises ChatError, with advice, when
    there is no answer or it breaks off. Closing the generator (use contextlib.aclosing) closes the connection at once.
    """
    if target.engine == "http":
        words = "A plain HTTP service answers no prompts."
        raise ChatError(words, "Choose an endpoint with an engine.", cause=Cause.CONFIG, sent=False)
    model = model or target.model or await _first_model(http, target)
    body: dict[str, Any] = {"messages": [m.json for m in messages], "stream": True}
    body["stream_options"] = {"include_usage": True}
    if model is not None:
        body["model"] = model
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    loop = asyncio.get_running_loop()
    tally = _Tally(target, patience or Patience(), loop.time(), max_tokens)
    try:
        async with http.stream(
            target.url + ROUTE,
            json.dumps(body).encode(),
            connect=target.timeout,
            timeout=tally.patience.first,
            headers=target.headers,
            via=target.via,
        ) as stream:
            if stream.status != 200:
                await _refuse(stream, target)
            yield Started(tally.began, model)
            async with aclosing(_deltas(stream, tally)) as deltas:
                async for delta in deltas:
                    yield delta
            for delta in tally.rest():
                yield delta
    except ProbeFailure as failure:
        raise tally.broken(failure.evidence, failure.cause, sent=failure.connected) from failure
    yield tally.finished()


async def _deltas(stream: HttpStream, tally: _Tally) -> AsyncGenerator[Delta, None]:
    """The pieces of the answer, until it is whole."""
    events = Events()
    chunk = await tally.next(stream.chunks)
    if chunk is not None and not _is_stream(stream, chunk):
        for delta in tally.take("data", await _whole(stream.chunks, chunk, tally)):
            yield delta
        tally.reason = tally.reason or "stop"
        return
    while not tally.done:
        try:
            found = list(events.feed(chunk) if chunk is not None else events.close())
        except Overlong:
            raise tally.broken("it sends lines without end") from None
        for field, text in found:
            for delta in tally.take(field, text):
                yield delta
        if chunk is None:
            break
        if not tally.done:
            chunk = await tally.next(stream.chunks)
    if not tally.done and not tally.reason:
        raise tally.broken("the connection ended before the answer did", Cause.RESET)


def _is_stream(stream: HttpStream, chunk: bytes) -> bool:
    named = "event-stream" in stream.headers.get("content-type", "")
    return named or chunk.lstrip().startswith((b"data:", b"event:", b":"))


async def _whole(chunks: AsyncIterator[bytes], chunk: bytes | None, tally: _Tally) -> str:
    """An answer that is not streamed, though it was asked to be."""
    parts: list[bytes] = []
    while chunk is not None:
        parts.append(chunk)
        if sum(map(len, parts)) > MIB:
            raise tally.broken("it sends more than 1 MiB that is no stream")
        chunk = await tally.next(chunks)
    return b"".join(parts).decode("utf-8", "replace")


class _Tally:
    """What has come of an answer so far, and when."""

    def __init__(self, target: Target, patience: Patience, began: float, max_tokens: int | None) -> None:
        self.patience = patience
        self.began = began
        self.reason = ""
        self.done = False
        self._target = target
        self._most = min(MOST_CHUNKS, 2 * max_tokens + 64) if max_tokens is not None else MOST_CHUNKS
        self._pieces = self._deltas = self._size = 0
        self._first: float | None = None
        self._last: float | None = None
        self._ended: float | None = None
        self._said = Piece()
        self._thoughts = Thoughts()

    async def next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """The next bytes, None at the end; ChatError when they do not come in time."""
        if self.reason:
            due = (self._ended or self.began) + min(AFTER_THE_END, self.patience.next)
        elif self._last is not None:
            due = self._last + self.patience.next
        else:
            due = self.began + self.patience.first
        try:
            async with asyncio.timeout_at(due):
                return await anext(chunks, None)
        except TimeoutError:
            if self.reason:
                return None
            waited = self.patience.first if self._last is None else self.patience.next
            raise self.broken(f"nothing came for {waited:.3g} s", Cause.TIMEOUT) from None

    def take(self, field: str, text: str) -> list[Delta]:
        """Count one event and give what is to be shown of it."""
        if text.strip() == "[DONE]":
            self.done = True
            return []
        piece = read_piece(text)
        if field == "error":
            piece = piece if piece and piece.error else Piece(error=text[:300])
        if piece is None:
            raise self.broken(f"it sends what is no answer: {text[:80]}")
        if piece.error:
            raise self.broken(piece.error)
        self._count(piece)
        shown = [(piece.reasoning, True), *(self._thoughts.split(piece.text) if piece.text else ())]
        return [Delta(words, reasoning) for words, reasoning in shown if words]

    def rest(self) -> list[Delta]:
        """What was held back because it could have been a tag."""
        return [Delta(words, reasoning) for words, reasoning in self._thoughts.rest() if words]

    def _count(self, piece: Piece) -> None:
        now = asyncio.get_running_loop().time()
        words = piece.text or piece.reasoning
        self._pieces += 1
        self._deltas += bool(words)
        self._size += len(piece.text) + len(piece.reasoning)
        if self._pieces > self._most or self._size > MOST_TEXT:
            raise self.broken("it does not come to an end, and was stopped")
        if words and self._first is None:
            self._first = now
        if self._first is not None and not self.reason:
            self._last = now
        if piece.reason:
            self.reason, self._ended = piece.reason, now
        self._said = Piece(
            tokens_in=self._said.tokens_in if piece.tokens_in is None else piece.tokens_in,
            tokens_out=self._said.tokens_out if piece.tokens_out is None else piece.tokens_out,
            tokens_per_s=piece.tokens_per_s or self._said.tokens_per_s,
        )

    def finished(self) -> Finished:
        """The whole answer in figures."""
        written = self._deltas if self._said.tokens_out is None else self._said.tokens_out
        rate = self._said.tokens_per_s
        if rate is None and self._first is not None and self._last is not None and written > 1:
            rate = (written - 1) / (self._last - self._first) if self._last > self._first else None
        return Finished(
            seconds=asyncio.get_running_loop().time() - self.began,
            first_token_s=None if self._first is None else self._first - self.began,
            tokens_in=self._said.tokens_in,
            tokens_out=written,
            tokens_per_s=rate,
            reason=self.reason or "stop",
        )

    def broken(self, words: str, cause: Cause = Cause.BAD_RESPONSE, *, sent: bool = True) -> ChatError:
        """The error for an answer that ends here."""
        words = self._target.without_key(words).rstrip(".")
        if self._first is None:
            words = f"N{words[1:]}" if words.startswith("no answer") else f"No answer: {words}"
            advice = "Choose another endpoint, or look at this one's health."
            return ChatError(f"{words}.", advice, cause=cause, sent=sent)
        came = "1 token" if self._deltas == 1 else f"{self._deltas} tokens"
        words = f"The answer broke off after {came}: {words}."
        return ChatError(words, "Send it again, or to another endpoint.", cause=cause)


async def _first_model(http: Http, target: Target) -> str | None:
    """The first model that the engine names and that is not for embeddings; None where it keeps no list."""
    try:
        answer = await http.get(
            f"{target.url}/v1/models", headers=target.headers, timeout=target.timeout, via=target.via
        )
    except ProbeFailure as failure:
        words = f"No answer: {failure.evidence}."
        raise ChatError(words, "Choose another endpoint.", cause=failure.cause, sent=False) from failure
    listed = parsed(answer, ModelList) if answer.status == 200 else None
    if answer.status != 200 and answer.status != 404:
        raise refused(answer, target, sent=False)
    if listed is None:
        return None
    names = [model.id for model in listed.entries]
    if not names:
        words = f"{address(target.url)} has no models."
        raise ChatError(words, "Load or pull one first.", cause=Cause.CONFIG, sent=False)
    return next((name for name in names if "embed" not in name.lower()), names[0])


async def _refuse(stream: HttpStream, target: Target) -> NoReturn:
    """Raise what an answer other than 200 says."""
    body = b""
    with suppress(TimeoutError):  # then what has come must do
        async with asyncio.timeout(target.timeout):
            async for chunk in stream.chunks:
                body += chunk
                if len(body) > MIB:
                    break
    raise refused(HttpAnswer(stream.status, stream.headers, body, 0.0), target)


def refused(answer: HttpAnswer, target: Target, *, sent: bool = True) -> ChatError:
    """The error for an answer other than 200, in the server's own words."""
    status, where = answer.status, address(target.url)
    words, advice, cause = target.without_key(message(answer)), "", Cause.BAD_RESPONSE
    after = retry_seconds(answer) if status == 429 else None
    if locked := key_trouble(answer, target):
        words, advice, cause = locked, "Check api_key of this endpoint in cluster.toml.", Cause.CONFIG
    elif status == 404:
        advice, cause = "Choose a model that it has.", Cause.CONFIG
    elif status == 429:
        advice = "Try again later." if after is None else f"Try again in {after:.0f} s."
        cause = Cause.RATE_LIMITED
    elif 400 <= status < 500 or status == 501:
        cause = Cause.CONFIG
    elif status == 503:
        advice = "Wait until it is ready, or choose another endpoint."
        cause = Cause.LOADING if loading(answer) else Cause.BAD_RESPONSE
    elif status >= 500:
        advice = "Look at the engine's log, or choose another endpoint."
    said = f"{where} answered {status}: {words}" if words else f"{where} answered {status}"
    return ChatError(f"{said.rstrip('.')}.", advice, cause=cause, retry_after=after, sent=sent)
