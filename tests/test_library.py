"""Where models are found: over SSH, in a volume, by HTTP, at an Ollama and in a registry; nothing is loaded for it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backends.cluster.inventory import Inventory
from backends.errors import ReachError, TierdeckError
from backends.library import Library, library
from backends.memory.headers import REMOTE_LIMIT, Header, HeaderError
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.demo import demo
from tests.engines.servers import Canned, Reply, Seen, json_reply, listening
from tests.memory.gguf_files import header, split
from tests.memory.models import Size, metadata, tensors

ROWS = list(tensors("qwen2", Size()))
RECORDED = Path(__file__).parent / "fixtures" / "recorded" / "ollama.jsonl"
RAW = header(metadata("qwen2", Size()), ROWS)[0]


class Ranges(Canned):
    """A server of one large file that gives ranges, and counts what it gave."""

    def __init__(self, raw: bytes, size: int = 0, *, whole: bool = False) -> None:
        super().__init__({})
        self.raw, self.size, self.whole, self.given = raw, max(size, len(raw)), whole, 0

    def reply(self, seen: Seen) -> Reply:
        first, last = map(int, seen.headers["range"].removeprefix("bytes=").split("-"))
        if self.whole:
            return Reply(200, self.raw)
        if first >= self.size:
            return Reply(416)
        last = min(last, self.size - 1)
        body = self.raw[first : last + 1].ljust(last + 1 - first, b"\0")
        self.given += len(body)
        return Reply(206, body, {"Content-Range": f"bytes {first}-{last}/{self.size}"})


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[SimulatedCluster]:
    async with demo(tmp_path / "sim", speed=100.0) as sim:
        yield sim


@pytest.fixture
async def alone() -> AsyncIterator[Library]:
    """A library without an inventory."""
    async with library(None, None) as found:
        yield found


def names(found: Header) -> list[str]:
    return [tensor.name for tensor in found.tensors]


async def test_a_file_of_a_node_is_read_over_ssh(sim: SimulatedCluster) -> None:
    (sim.directory / "nodes" / "mark" / "qwen.gguf").write_bytes(RAW)
    inventory = Inventory.model_validate(tomllib.loads(sim.inventory))
    async with library(inventory, None) as shelf:
        assert names((await shelf.find("ssh:mark:/qwen.gguf")).header) == [row[0] for row in ROWS]
        with pytest.raises(ReachError, match=r"/nope\.gguf on mark cannot be read"):
            await shelf.find("ssh:mark:/nope.gguf")
        with pytest.raises(ReachError, match="no node 'nowhere'"):
            await shelf.find("ssh:nowhere:/qwen.gguf")


async def test_a_model_of_the_inventory_in_a_volume(sim: SimulatedCluster) -> None:
    docker = sim.nodes["mark"].docker
    assert docker
    folder = docker.disk.volume("models-vol")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "qwen.gguf").write_bytes(RAW)
    tables = tomllib.loads(sim.inventory)
    model = {"name": "qwen", "file": "volume:models-vol/qwen.gguf", "context": 8192, "gpu_layers": 3}
    inventory = Inventory.model_validate(tables | {"models": [model]})
    async with library(inventory, None) as shelf:
        found = await shelf.find("qwen")
        assert names(found.header) == [row[0] for row in ROWS]
        assert (found.context, found.gpu_layers) == (8192, 3)
        with pytest.raises(ReachError, match="volume nothing"):
            await shelf.find("volume:nothing/qwen.gguf")


async def test_of_a_url_only_the_header_is_fetched(alone: Library) -> None:
    server = Ranges(RAW, size=REMOTE_LIMIT * 100)
    async with listening(server) as port:
        found = await alone.find(f"http://127.0.0.1:{port}/models/qwen.gguf")
    assert names(found.header) == [row[0] for row in ROWS]
    assert server.given < 2 << 20


async def test_a_header_without_end_is_given_up(alone: Library) -> None:
    endless = RAW[:8] + (1).to_bytes(8, "little") + (60_000).to_bytes(8, "little")
    pair = (9).to_bytes(8, "little") + b"some.key0" + (8).to_bytes(4, "little") + (1000).to_bytes(8, "little")
    server = Ranges(endless + (pair + b"x" * 1000) * 10_000)
    async with listening(server) as port:
        with pytest.raises(HeaderError, match="more than 8 MB"):
            await alone.find(f"http://127.0.0.1:{port}/endless.gguf")
    assert server.given <= REMOTE_LIMIT


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (Canned({}), "answers 404"),
        (Canned({}, Reply(200, b"<html>Sign in</html>")), "not a GGUF file"),
        (Canned({}, Reply(200, RAW[:100])), "ends after 100 bytes|no ranges"),
    ],
)
async def test_what_is_no_model_is_told(alone: Library, server: Canned, words: str) -> None:
    async with listening(server) as port:
        with pytest.raises(TierdeckError, match=words):
            await alone.find(f"http://127.0.0.1:{port}/x.gguf")


async def test_nobody_listens(alone: Library) -> None:
    with pytest.raises(ReachError, match="cannot be read"):
        await alone.find("http://127.0.0.1:1/x.gguf")


async def test_ollama_shows_a_model_it_has() -> None:
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    told = [Reply(row["status"], row["answer"]) for row in rows if row.get("request") == "POST /api/show"]
    shown, unknown = told[:2]
    server = Canned({"POST /api/show": [shown, unknown]})
    async with listening(server) as port:
        endpoint = {"name": "o", "tier": "T", "engine": "ollama", "url": f"http://127.0.0.1:{port}"}
        inventory = Inventory.model_validate(
            {"version": 1, "name": "c", "tiers": [{"name": "T"}], "endpoints": [endpoint]}
        )
        async with library(inventory, None) as shelf:
            found = await shelf.find("tiny")
            assert (found.header.arch, len(found.header.tensors), found.context) == ("llama", 21, 4096)
            with pytest.raises(ReachError, match="HOST/NAMESPACE/MODEL:TAG"):
                await shelf.find("nope")
    assert {seen.path for seen in server.seen} == {"/api/show"}


async def test_what_is_not_pulled_is_read_from_its_registry(alone: Library) -> None:
    digest = "sha256:" + "ab" * 32
    manifest = {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": len(RAW)}]}

    class Registry(Ranges):
        def reply(self, seen: Seen) -> Reply:
            if seen.path == "/v2/library/qwen/manifests/7b":
                return json_reply(manifest)
            return super().reply(seen) if seen.path == f"/v2/library/qwen/blobs/{digest}" else self.other

    async with listening(Registry(RAW)) as port:
        found = await alone.find(f"127.0.0.1:{port}/library/qwen:7b")
        assert names(found.header) == [row[0] for row in ROWS]
        with pytest.raises(ReachError, match="answers 404"):
            await alone.find(f"127.0.0.1:{port}/library/qwen:8b")


async def test_parts_are_found_beside_each_other(alone: Library, tmp_path: Path) -> None:
    paths = split(tmp_path / "m.gguf", metadata("qwen2", Size()), ROWS, 3)
    assert len((await alone.find(str(paths[2]))).header.tensors) == len(ROWS)
    paths[1].unlink()
    with pytest.raises(ReachError, match="00002-of-00003"):
        await alone.find(str(paths[0]))


async def test_a_folder_of_safetensors(alone: Library, tmp_path: Path) -> None:
    table = {"w": {"dtype": "BF16", "shape": [64, 128], "data_offsets": [0, 16384]}, "__metadata__": {"format": "pt"}}
    raw = json.dumps(table).encode()
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 64}')
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "model-00001-of-00001.safetensors"}}')
    found = await alone.find(str(tmp_path))
    assert found.safetensors
    assert (found.header.arch, found.header.tensors[0].size) == ("llama", 16384)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff" * 16,
        (1 << 62).to_bytes(8, "little") + b"{}",
        (8 << 30).to_bytes(8, "little") + b"{" * 1000,
        (1000).to_bytes(8, "little") + b"{" * 1000,
        (40).to_bytes(8, "little") + b'{"w": {"dtype": "F16", "shape": [-1]}}  ',
        (49).to_bytes(8, "little") + b'{"w": {"dtype": "F16", "shape": [1099511627775,1099511627775]}}'[:49],
        (10).to_bytes(8, "little") + b"[1,2,3,4] ",
    ],
)
async def test_safetensors_that_lie(alone: Library, tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(HeaderError, match=r"safetensors|header|broken"):
        await alone.find(str(tmp_path / "model.safetensors"))
