"""What stands beside the streamed answer: images, tokens counted, embeddings, the gateway's names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backends.cluster.tables import Endpoint
from backends.cluster.words import Cause
from backends.engines.chat import Message
from backends.engines.embed import embed
from backends.engines.gateway import leading_to
from backends.engines.http import Http
from backends.engines.images import LARGEST, image_of, read_image
from backends.engines.target import Target
from backends.engines.tokens import count_tokens
from backends.errors import ChatError
from tests.engines.servers import Canned, Reply, free_port, json_reply, listening

RECORDED = Path(__file__).parents[1] / "fixtures" / "recorded"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        (b"GIF89a...", "image/gif"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
    ],
)
def test_images_by_their_first_bytes(data: bytes, mime: str, tmp_path: Path) -> None:
    assert image_of(data, "x").mime == mime
    (tmp_path / "x.txt").write_bytes(data)
    assert read_image(tmp_path / "x.txt").data == data


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg></svg>", b"RIFF\x10\0\0\0WAVE", b"%PDF-1.7", b"\x89PN"])
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(ChatError, match=r"a\.png is no image by its first bytes"):
        image_of(data, "a.png")


def test_files_that_cannot_be_sent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    large = tmp_path / "large.png"
    large.write_bytes(PNG)
    os.truncate(large, LARGEST + 1)
    cases = [("none.png", "cannot be read: No such file"), ("", "is no file"), ("pipe.png", "is no file")]
    for name, words in [*cases, ("large.png", "has 20 MiB; an image may have 20"), ("a\0b", "cannot be read")]:
        with pytest.raises(ChatError, match=words):
            read_image(tmp_path / name)


def test_an_image_goes_as_a_data_url() -> None:
    said = Message("user", "what is it?", (image_of(PNG, "x"),)).json
    assert said["content"][0] == {"type": "text", "text": "what is it?"}
    assert said["content"][1]["image_url"]["url"].startswith("data:image/png;base64,iVBORw0KGgo")


@pytest.mark.parametrize(("fixture", "engine", "count"), [("llamacpp", "llama.cpp", 12), ("vllm", "vllm", 2)])
async def test_tokens_as_real_engines_count_them(http: Http, fixture: str, engine: str, count: int) -> None:
    rows = [json.loads(row) for row in (RECORDED / f"{fixture}.jsonl").read_text().splitlines()]
    row = next(row for row in rows if row.get("request") == "POST /tokenize")
    server = Canned({"POST /tokenize": Reply(row["status"], row["answer"], row["headers"])})
    async with listening(server) as port:
        target = Target(f"http://127.0.0.1:{port}", engine)
        assert await count_tokens(http, target, "hello world", "tiny") == count
    field = {"llama.cpp": "content", "vllm": "prompt"}[engine]
    assert json.loads(server.seen[-1].body) == {field: "hello world", "model": "tiny"}


@pytest.mark.parametrize("reply", [Reply(404), json_reply({"tokens": "many"}), Reply(200, "<html>")])
async def test_tokens_that_nobody_counts(http: Http, reply: Reply) -> None:
    async with listening(Canned({}, reply)) as port:
        assert await count_tokens(http, Target(f"http://127.0.0.1:{port}", "llama.cpp"), "x", None) is None
    assert await count_tokens(http, Target(f"http://127.0.0.1:{free_port()}", "vllm"), "x", None) is None
    assert await count_tokens(http, Target("http://127.0.0.1:1", "ollama"), "x", None) is None, "it has no such route"


async def test_an_embedding(http: Http) -> None:
    answer = {"data": [{"embedding": [0.5] * 768}], "usage": {"prompt_tokens": 3}}
    server = Canned({"POST /v1/embeddings": json_reply(answer)})
    async with listening(server) as port:
        found = await embed(http, Target(f"http://127.0.0.1:{port}", "ollama", model="nomic"), "hello")
    assert (found.dimensions, found.tokens_in, found.model) == (768, 3, "nomic")
    assert json.loads(server.seen[0].body) == {"input": "hello", "model": "nomic"}


@pytest.mark.parametrize(
    ("reply", "words", "cause"),
    [
        (Reply(404), "answered 404", Cause.CONFIG),
        (json_reply({"error": {"message": "Start it with `--embeddings`"}}, 501), "501: Start it with", Cause.CONFIG),
        (json_reply({"error": {"message": "out of memory"}}), "No embedding: out of memory", Cause.BAD_RESPONSE),
        (json_reply({"data": []}), "it sends no vector", Cause.BAD_RESPONSE),
        (json_reply({"data": [{"embedding": []}]}), "it sends no vector", Cause.BAD_RESPONSE),
    ],
)
async def test_no_embedding(http: Http, reply: Reply, words: str, cause: Cause) -> None:
    async with listening(Canned({}, reply)) as port:
        with pytest.raises(ChatError, match=words) as caught:
            await embed(http, Target(f"http://127.0.0.1:{port}", "llama.cpp"), "hello")
    assert caught.value.cause == cause


class TestGateway:
    """The name to ask LiteLLM for."""

    async def name(self, http: Http, info: object, url: str, model: str | None = None) -> str:
        endpoint = Endpoint(name="a", tier="T", engine="llama.cpp", url=url, model=model)
        async with listening(Canned({"/model/info": json_reply(info)})) as port:
            gateway = Target(f"http://127.0.0.1:{port}", "litellm")
            return await leading_to(http, gateway, Target(url, "llama.cpp"), endpoint)

    @staticmethod
    def deployment(name: str, base: str, model: str = "openai/m") -> dict[str, object]:
        return {"model_name": name, "litellm_params": {"api_base": base, "model": model}}

    async def test_by_address_then_by_model(self, http: Http) -> None:
        two = [self.deployment("x", "http://h:1/v1"), self.deployment("y", "http://h:1/v1", "openai/z")]
        info = {"data": [None, {"model_name": "odd"}, self.deployment("w", "http://h:http/v1"), *two]}
        assert await self.name(http, info, "http://h:1") == "x"
        assert await self.name(http, info, "http://h:1", model="z") == "y"

    async def test_by_name_where_no_address_is_told(self, http: Http) -> None:
        assert await self.name(http, {"data": [{"model_name": "a"}]}, "http://h:1") == "a"

    async def test_none(self, http: Http) -> None:
        with pytest.raises(ChatError, match="no model that leads to a") as caught:
            await self.name(http, {"data": [self.deployment("x", "http://other:1/v1")]}, "http://h:1")
        assert caught.value.advice == "It has x."
        assert not caught.value.sent
