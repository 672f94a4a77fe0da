"""Headers of model files: broken, cut short, and made to be greedy."""

from __future__ import annotations

import asyncio
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.memory.headers import HeaderError, Read, read_gguf
from backends.memory.safetensors import header_of, json_object, read_safetensors, shards
from tests.fuzz.strategies import DEEP, bounded, grafts, json_of, mangled, said, tried
from tests.memory.gguf_files import header
from tests.memory.models import Size, metadata, tensors

GGUF = header(metadata("qwen2", Size()), list(tensors("qwen2", Size())))[0]
TENSORS = {
    "__metadata__": {"format": "pt"},
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [32000, 64], "data_offsets": [0, 4096000]},
    "lm_head.weight": {"dtype": "F8_E4M3", "shape": [32000, 64], "data_offsets": [4096000, 6144000]},
}
CONFIG = {"model_type": "llama", "hidden_size": 64, "text_config": {"num_hidden_layers": 2, "rope": {"a": 1}}}


def of(raw: bytes) -> Read:
    async def read(offset: int, length: int) -> bytes:
        return raw[offset : offset + length]

    return read


def endless(start: bytes) -> Read:
    """A file that never ends: zeros behind its start."""

    async def read(offset: int, length: int) -> bytes:
        return start[offset : offset + length].ljust(length, b"\0")

    return read


def read(read: Read, *, safetensors: bool = False) -> None:
    assert len(said(lambda: asyncio.run(read_safetensors(read) if safetensors else read_gguf(read)))) < 1000


@tried
@given(mangled(GGUF) | mangled(GGUF[:400]))
def test_gguf(raw: bytes) -> None:
    read(of(raw))


def test_gguf_cut_anywhere() -> None:
    for end in range(0, len(GGUF), 7):
        with pytest.raises(HeaderError):
            asyncio.run(read_gguf(of(GGUF[:end])))


@pytest.mark.parametrize(
    "start", [b"GGUF" + struct.pack("<IQQ", 3, n, m) for n, m in ((0, 2**63), (10**4, 0), (0, 10**4))]
)
def test_a_greedy_gguf(start: bytes) -> None:
    bounded(lambda: read(endless(start)), seconds=6.0, mib=96.0)


@pytest.mark.parametrize("kind", [4, 8, 9])
@pytest.mark.parametrize("count", [2**32, 2**63])
def test_an_array_without_end(kind: int, count: int) -> None:
    key = struct.pack("<Q", 1) + b"k"
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + struct.pack("<IIQ", 9, kind, count)
    bounded(lambda: read(endless(start)), seconds=6.0, mib=96.0)


@tried
@given(json_of(TENSORS))
def test_safetensors(raw: bytes) -> None:
    read(of(len(raw).to_bytes(8, "little") + raw), safetensors=True)


def test_any_value_may_be_odd() -> None:
    for changed in grafts(TENSORS):
        raw = json.dumps(changed).encode()
        read(of(len(raw).to_bytes(8, "little") + raw), safetensors=True)
    for changed in grafts(CONFIG):
        if isinstance(changed, dict):
            header_of(changed, ())
    for changed in grafts({"weight_map": {"a": "model-00001.safetensors", "b": "model-00002.safetensors"}}):
        said(lambda changed=changed: shards(changed))


@tried
@given(st.integers(0, 2**64 - 1), st.binary(max_size=100))
def test_a_safetensors_that_lies_about_its_length(length: int, raw: bytes) -> None:
    read(of(length.to_bytes(8, "little") + b"{" + raw), safetensors=True)


def test_json_of_brackets() -> None:
    for raw in (b"[" * DEEP, b'{"a":' * DEEP, b'{"a":' + b"9" * 5000 + b"}"):
        with pytest.raises(HeaderError):
            json_object(raw)
