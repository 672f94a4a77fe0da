"""Hostile input: what was really seen, mangled; and what nobody would send in good faith."""

from __future__ import annotations

import copy
import itertools
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from backends.errors import TierdeckError

TIMES = float(os.environ.get("TIERDECK_FUZZ", "1"))
"""How many times as much as `make test` is tried; `make fuzz` says more."""

DEEP = 3000
"""Brackets inside brackets: more than Python's own recursion allows."""

tried = settings(
    max_examples=int(40 * TIMES),
    deadline=None,
    derandomize=TIMES == 1,
    phases=[Phase.explicit, Phase.generate] if TIMES == 1 else list(Phase),
    database=None,
    suppress_health_check=list(HealthCheck),
)
"""As many examples as it is time for; the same ones each time in `make test`, others each time in `make fuzz`."""

ODD: list[Any] = [
    None, True, False, 0, -1, 2**63, 10**400, -(10**400), 1e308, float("nan"), float("inf"), "", " ", "9" * 5000,
    "1e999",
     "\x1b]0;owned\x07\x1b[2J", "a\x00b\r\nc", "\u202egnp",
    "x" * 10_000, [], {}, [[]], [None], {"a": []}, [{}],
]  # fmt: skip
"""Single values that parsers stumble over."""

odd = st.sampled_from(ODD)

values = st.recursive(
    odd | st.text(max_size=20) | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
"""Any JSON, and some that is none."""


def _places(value: object, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from _places(part, (*place, key))


def grafts(document: Any, odd_ones: Sequence[object] = (*ODD, ...), *, every: int = 1) -> Iterator[Any]:
    """The document with each odd value at each of its places, one after the other; `...` takes the place away.

    In `make test` of all these only `every` so manieth.
    """
    cases = itertools.product(list(_places(document)), odd_ones)
    for (*way, last), value in itertools.islice(cases, 0, None, every if TIMES == 1 else 1):
        copied = copy.deepcopy(document)
        inside = copied
        for key in way:
            inside = inside[key]
        if value is ...:
            del inside[last]
        else:
            inside[last] = value
        yield copied


@st.composite
def grafted(draw: st.DrawFn, document: Any) -> Any:
    """A document of which one to four places hold something else, or are gone."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(document))
        if not places:
            return draw(values)
        *way, last = draw(st.sampled_from(places))
        inside = document
        for key in way:
            inside = inside[key]
        if draw(st.booleans()):
            inside[last] = draw(values)
        else:
            del inside[last]
    return document


@st.composite
def mangled(draw: st.DrawFn, raw: bytes) -> bytes:
    """Bytes of which up to six stretches are lost, doubled, moved or replaced."""
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.integers(0, 64)))
        new = draw(
            st.binary(max_size=12) | st.sampled_from([raw[start:end] * 2, b"\x00", b"\xff" * 8, b"{", b'"', b"\n"])
        )
        raw = raw[:start] + new + raw[end:]
    return raw


def json_of(document: Any) -> st.SearchStrategy[bytes]:
    """What a server sends instead of that document: another one, a broken one, or none."""
    whole = grafted(document) | values
    deep = st.sampled_from([b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP])
    return (
        whole.map(lambda d: json.dumps(d).encode())
        | mangled(json.dumps(document).encode())
        | deep
        | st.binary(max_size=60)
    )


def text_of(text: str) -> st.SearchStrategy[str]:
    """What a program prints instead of that text."""
    return mangled(text.encode()).map(lambda raw: raw.decode("utf-8", "replace")) | st.text(max_size=200)


def said(call: Callable[[], object]) -> str:
    """What its error says, if it is one of ours, and fit to be shown; "" where it went well."""
    try:
        call()
    except TierdeckError as error:
        words = str(error)
        if len(words) >= 2000 or not words.isprintable():
            raise AssertionError(repr(words)) from error
        return words
    return ""


def bounded(call: Callable[[], object], *, seconds: float = 2.0, mib: float = 64.0) -> None:
    """Call it: it may take so many seconds of CPU, and so much memory at its peak , measured by `make fuzz` alone."""
    began = time.process_time()
    call()
    took = time.process_time() - began
    assert took < seconds, f"{took:.1f} s of CPU"
    if TIMES == 1:
        return
    tracemalloc.start()
    try:
        call()
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    assert peak < mib, f"{peak:.0f} MiB"
