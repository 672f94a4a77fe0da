"""What an HTTP status means for the health of an endpoint: the table of causes, row by row."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from typing import Final

from backends.cluster.words import Cause
from backends.engines.target import HttpAnswer, ProbeFailure, Target

LONGEST_RETRY: Final = 86400.0
"""Seconds; a server that asks for more is not taken at its word."""


def refusal(answer: HttpAnswer, route: str, target: Target) -> ProbeFailure:
    """Why `answer` is not what was asked for at `route`."""
    status = answer.status
    cause, words, retry_after = Cause.BAD_RESPONSE, "", None
    if status in (401, 403):
        cause, words = Cause.CONFIG, key_words(status, target)
    elif status == 404:
        cause, words = Cause.CONFIG, "no such route on this server"
    elif status == 429:
        cause, retry_after = Cause.RATE_LIMITED, retry_seconds(answer)
        words = "too many requests" if retry_after is None else f"too many requests, again in {retry_after:.0f} s"
    elif 300 <= status < 400:
        words = f"redirects to {answer.headers.get('location', 'nowhere')}; put that address into url"
    elif 200 <= status < 300:
        words = unlike(answer, target)
    else:
        words = message(answer)
    shown = route if route.startswith("/") else "its address"
    text = f"{status} on {shown}: {words}" if words else f"{status} on {shown}"
    return ProbeFailure(cause, target.without_key(text), status=status, seconds=answer.seconds, retry_after=retry_after)


def key_trouble(answer: HttpAnswer, target: Target) -> str:
    """What is wrong with the key, where an answer to a request that needs one says so; "" where it does not.

    The server's own words are not quoted, for they may repeat the key. LiteLLM without a database has answers of its
    own: 500 to a request without a key, 400 to a key that is not the master key.
    """
    if answer.status in (401, 403):
        return key_words(answer.status, target)
    if target.engine == "litellm" and answer.status == 500 and target.key is None:
        return "API key missing (LiteLLM without a database says it so)"
    if target.engine == "litellm" and answer.status == 400 and "no_db_connection" in answer.text:
        return "API key refused (not the master key, and LiteLLM has no database with others)"
    return ""


def key_words(status: int, target: Target) -> str:
    """What to say of a 401 or 403."""
    if target.key is None:
        return "API key missing"
    return "API key refused" if status == 401 else "not allowed with this API key"


def unlike(answer: HttpAnswer, target: Target) -> str:
    """What is wrong with an answer that says it is a good one."""
    text = answer.text
    if not text:
        return "an empty answer"
    try:
        json.loads(answer.body)
    except (ValueError, RecursionError):
        return f"not what {target.engine} answers: {text[:80]}" if text[0] != "<" else "a web page, no JSON"
    return f"JSON, but not that of {target.engine}: {text[:80]}"


def message(answer: HttpAnswer) -> str:
    """What the server itself says went wrong; "" where it says nothing."""
    text = answer.text
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return "" if text.startswith("<") else text[:200]
    if isinstance(said, dict):
        said = said.get("error") or said.get("detail") or said.get("message")
    if isinstance(said, dict):
        said = said.get("message") or said.get("error")
    return said[:200] if isinstance(said, str) else ""


def loading(answer: HttpAnswer) -> bool:
    """Whether llama.cpp says that it loads its model; before 2024 it said so in another field."""
    return answer.status == 503 and "loading model" in (message(answer) or answer.text).lower()


def retry_seconds(answer: HttpAnswer) -> float | None:
    """Seconds from a Retry-After header: a number, or a date against the server's own clock (else against ours)."""
    value = answer.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:12]), LONGEST_RETRY)
    try:
        then = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    try:
        now = parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        now = time.time()
    return min(max(0.0, then - now), LONGEST_RETRY)
