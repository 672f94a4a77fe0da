"""Writes GGUF files of any shape as holes: header and tensor table are real, the weights take no room on the disk."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

TYPES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "Q6_K": (14, 256, 210),
    "IQ4_XS": (23, 256, 136),
    "BF16": (30, 1, 2),
    "MXFP4": (39, 32, 17),
}
"""GGML's number of each type that is used here, the elements of its block, and the block's bytes."""

Row = tuple[str, tuple[int, ...], str]
"""A tensor: its name, its dimensions in GGML's order (the row first), its type."""

ALIGNMENT = 32


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: object) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_string(str(each)) for each in value)
        case [float(), *_]:
            return struct.pack(f"<IIQ{len(value)}f", 9, 6, len(value), *value)
        case [bool(), *_]:
            return struct.pack(f"<IIQ{len(value)}?", 9, 7, len(value), *value)
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    raise TypeError(value)


def size_of(row: Row) -> int:
    """Bytes of a tensor."""
    _, dims, kind = row
    _, block, size = TYPES[kind]
    rows = 1
    for count in dims[1:]:
        rows *= count
    assert dims[0] % block == 0, row
    return dims[0] // block * size * rows


def header(metadata: Mapping[str, object], rows: Sequence[Row], version: int = 3) -> tuple[bytes, int]:
    """The bytes of the header, and how many of weights follow."""
    table, offset = [], 0
    for row in rows:
        name, dims, kind = row
        table.append(_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, TYPES[kind][0], offset))
        offset += -(-size_of(row) // ALIGNMENT) * ALIGNMENT
    pairs = b"".join(_string(key) + _value(value) for key, value in metadata.items())
    return struct.pack("<4sIQQ", b"GGUF", version, len(rows), len(metadata)) + pairs + b"".join(table), offset


def write(path: Path, metadata: Mapping[str, object], rows: Iterable[Row]) -> Path:
    """Writes the file and gives its path."""
    raw, weights = header(metadata, list(rows))
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(-(-len(raw) // ALIGNMENT) * ALIGNMENT + weights)
    return path


def split(path: Path, metadata: Mapping[str, object], rows: Sequence[Row], parts: int) -> list[Path]:
    """Writes the model in several files, named and numbered as gguf-split does it; the first has the metadata."""
    paths, each = [], -(-len(rows) // parts)
    for part in range(parts):
        name = path.with_name(f"{path.stem}-{part + 1:05d}-of-{parts:05d}.gguf")
        own = {"split.no": part, "split.count": parts, "split.tensors.count": len(rows)}
        paths.append(write(name, {**(metadata if part == 0 else {}), **own}, rows[part * each : (part + 1) * each]))
    return paths
