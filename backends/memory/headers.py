"""Reads the header of a GGUF file, and nothing of its weights, through any `read(offset, length)`.

The tokenizer stands before the table of tensors, so up to some megabytes must be fetched; its strings are stepped over,
not kept. A file is not believed: counts, lengths and sizes are bounded before they are used.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct, calcsize

from backends.errors import TierdeckError
from backends.memory.quants import KINDS, Kind, tensor_bytes

Read = Callable[[int, int], Awaitable[bytes]]
"""Gives the bytes from an offset; fewer than asked for only where the file ends."""

Scalar = str | int | float | bool
Value = Scalar | tuple[Scalar, ...]

REMOTE_LIMIT = 8 << 20
"""Bytes that are fetched at most of a file that lies elsewhere."""
LOCAL_LIMIT = 64 << 20
"""The same of one that lies here."""

_FIRST, _CHUNK = 256 << 10, 1 << 20
_MOST_TENSORS, _MOST_PAIRS, _MOST_PARTS = 100_000, 65_536, 1_024
_LONGEST_KEY, _LONGEST_TEXT, _KEPT, _DEEPEST = 65_535, 1 << 20, 4_096, 3
_U32, _U64 = Struct("<I"), Struct("<Q")
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class HeaderError(TierdeckError):
    """The header of a model cannot be read; says what is wrong with the file."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the file; `dims` in GGML's order, the row first."""

    name: str
    dims: tuple[int, ...]
    kind: Kind

    @property
    def size(self) -> int:
        """Its bytes."""
        return tensor_bytes(self.kind, self.dims)

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        count = 1
        for dim in self.dims:
            count *= dim
        return count


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its model: `lengths` holds those of arrays too long to keep."""

    values: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    lengths: Mapping[str, int] = field(default_factory=dict)
    fetched: int = 0

    @property
    def arch(self) -> str:
        """The architecture, in llama.cpp's word."""
        return str(self.values.get("general.architecture", ""))

    @property
    def parts(self) -> int:
        """Of how many files the model consists."""
        count = self.values.get("split.count", 1)
        return count if isinstance(count, int) and 1 <= count <= _MOST_PARTS else 1


async def read_gguf(read: Read, limit: int = REMOTE_LIMIT) -> Header:
    """Read one file's header; raises HeaderError, and whatever `read` raises."""
    parser = _Parser(limit)
    steps = parser.parse()
    try:
        wanted = next(steps)
        while True:
            offset, length = wanted
            wanted = steps.send(await read(offset, length))
    except StopIteration as end:
        header: Header = end.value
        return header


def merged(headers: Sequence[Header]) -> Header:
    """One header of all the parts of a split model; the first has the metadata."""
    first = headers[0]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return Header(first.values, tensors, first.lengths, sum(header.fetched for header in headers))


def part_names(name: str, parts: int) -> list[str]:
    """The names of all parts of a split model, of which `name` is one; raises HeaderError for another name."""
    if parts == 1:
        return [name]
    found = re.fullmatch(r"(.*-)\d{5}(-of-\d{5}\.gguf)", name, re.DOTALL)
    if not found:
        raise HeaderError(f"{name} is one of {parts} parts, but its name does not end in -00001-of-{parts:05d}.gguf.")
    return [f"{found[1]}{part:05d}-of-{parts:05d}.gguf" for part in range(1, parts + 1)]


class _Parser:
    """Parses what arrives, and yields (offset, length) for what it lacks."""

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._start = self._at = self._fetched = 0  # `_start`: where in the file the buffer begins
        self._limit = limit
        self._lengths: dict[str, int] = {}

    def parse(self) -> Generator[tuple[int, int], bytes, Header]:
        """The whole header."""
        magic = yield from self._take(4)
        if magic != b"GGUF":
            raise HeaderError("it is not a GGUF file: it does not begin with GGUF.")
        version = _U32.unpack((yield from self._take(4)))[0]
        if version not in (2, 3):
            raise HeaderError(f"its GGUF version is {version}; 2 and 3 can be read.")
        tensors, pairs = (yield from self._u64()), (yield from self._u64())
        if tensors > _MOST_TENSORS or pairs > _MOST_PAIRS:
            raise HeaderError(f"it claims {tensors} tensors and {pairs} keys, which no model has: the file is broken.")
        values: dict[str, Value] = {}
        for _ in range(pairs):
            key = yield from self._text(_LONGEST_KEY)
            kind = yield from self._u32()
            value = yield from self._value(kind, key)
            if value is not None:
                values[key] = value
        table = []
        for _ in range(tensors):
            table.append((yield from self._tensor()))
        return Header(values, tuple(table), self._lengths, self._fetched)

    def _need(self, count: int) -> Generator[tuple[int, int], bytes, None]:
        """Have `count` bytes more in the buffer."""
        while (missing := self._at + count - len(self._buffer)) > 0:
            del self._buffer[: self._at]
            self._start += self._at
            self._at = 0
            room = self._limit - self._fetched
            if missing > room:
                raise HeaderError(f"its header takes more than {self._limit >> 20} MB, which is as much as is fetched.")
            length = min(room, max(missing, _CHUNK if self._fetched else _FIRST))
            chunk = yield self._start + len(self._buffer), length
            if not chunk:
                end = self._start + len(self._buffer)
                raise HeaderError(f"it ends after {end} bytes, in the middle of its header: the file is incomplete.")
            self._buffer += chunk[:length]
            self._fetched += len(chunk)

    def _take(self, count: int) -> Generator[tuple[int, int], bytes, bytes]:
        yield from self._need(count)
        self._at += count
        return bytes(self._buffer[self._at - count : self._at])

    def _u32(self) -> Generator[tuple[int, int], bytes, int]:
        number: int = _U32.unpack((yield from self._take(4)))[0]
        return number

    def _u64(self) -> Generator[tuple[int, int], bytes, int]:
        number: int = _U64.unpack((yield from self._take(8)))[0]
        return number

    def _text(self, longest: int) -> Generator[tuple[int, int], bytes, str]:
        length = yield from self._u64()
        if length > longest:
            raise HeaderError(f"it has a text of {length} bytes, at most {longest} make sense: the file is broken.")
        return (yield from self._take(length)).decode("utf-8", "replace")

    def _value(self, kind: int, key: str) -> Generator[tuple[int, int], bytes, Value | None]:
        if kind == _STRING:
            return (yield from self._text(_LONGEST_TEXT))
        if kind == _ARRAY:
            return (yield from self._array(key, 1))
        numbers = yield from self._numbers(kind, 1)
        return numbers[0]

    def _numbers(self, kind: int, count: int) -> Generator[tuple[int, int], bytes, tuple[Scalar, ...]]:
        code = _SCALARS.get(kind)
        if code is None:
            raise HeaderError(f"it has a value of the unknown type {kind}: it is broken, or newer than this program.")
        layout = Struct(f"<{count}{code}")
        return layout.unpack((yield from self._take(layout.size)))

    def _array(self, key: str, depth: int) -> Generator[tuple[int, int], bytes, tuple[Scalar, ...] | None]:
        kind, count = (yield from self._u32()), (yield from self._u64())
        self._lengths[key] = count
        if kind == _STRING:
            yield from self._skip_texts(count)
        elif kind == _ARRAY:
            if depth == _DEEPEST or count > _KEPT:
                raise HeaderError("it has arrays inside arrays that no model has: the file is broken.")
            for _ in range(count):
                yield from self._array(key, depth + 1)
        elif count <= _KEPT and depth == 1:
            return (yield from self._numbers(kind, count))
        elif kind in _SCALARS:
            self._jump(count * calcsize("<" + _SCALARS[kind]))
        else:
            yield from self._numbers(kind, 1)
        return None

    def _jump(self, count: int) -> None:
        """Step over bytes of which none need be fetched."""
        self._at += count
        if self._at > len(self._buffer):
            self._start += self._at
            self._at = 0
            self._buffer.clear()
            if self._start > 1 << 40:
                raise HeaderError("it claims an array longer than any file: the file is broken.")

    def _skip_texts(self, count: int) -> Generator[tuple[int, int], bytes, None]:
        if count * 8 > self._limit:
            raise HeaderError(f"it claims a list of {count} texts, which no model has: the file is broken.")
        unpack, left = _U64.unpack_from, count
        while left:
            buffer, at = self._buffer, self._at
            last = len(buffer) - 8
            while left and at <= last:
                after = at + 8 + unpack(buffer, at)[0]
                if after > last + 8:
                    break
                at = after
                left -= 1
            self._at = at
            if left:
                yield from self._need(8)
                yield from self._need(8 + unpack(self._buffer, self._at)[0])

    def _tensor(self) -> Generator[tuple[int, int], bytes, Tensor]:
        name = yield from self._text(_LONGEST_KEY)
        count = yield from self._u32()
        if not 1 <= count <= 4:
            raise HeaderError(f"its tensor {name[:80]!r} has {count} dimensions instead of 1 to 4: the file is broken.")
        dims = Struct(f"<{count}Q").unpack((yield from self._take(8 * count)))
        number = yield from self._u32()
        yield from self._u64()
        kind = KINDS.get(number)
        if kind is None:
            raise HeaderError(f"its tensor {name[:80]!r} has the type {number}, which this program does not know.")
        tensor = Tensor(name, dims, kind)
        if not 0 < tensor.elements < 1 << 50 or max(dims) >= 1 << 40:
            raise HeaderError(f"its tensor {name[:80]!r} has the impossible dimensions {dims}: the file is broken.")
        return tensor
