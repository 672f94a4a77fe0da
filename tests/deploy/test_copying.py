"""A model on its way into a volume: from everywhere, through cuts, onto full disks, and checked at the end."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web

from backends.errors import ReachError
from backends.procedures import copying
from backends.procedures.events import StepEvent
from backends.procedures.plan import Plan
from backends.procedures.runner import Control
from backends.reach.model_files import LocalFiles, ModelFile
from tests.deploy.carrying import carry_out, words
from tests.deploy.conftest import MODEL, Site

SHA = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PART", 1 << 18)
    monkeypatch.setattr(copying, "AGAIN", 0.05)
    monkeypatch.setattr(copying, "OUTAGE", 5.0)


async def copied(site: Site, **fields: Any) -> list[StepEvent]:
    """Only the volume and the copy."""
    plan = await site.plan(site.spec(**fields))
    return await site.carry_out(replace(plan, steps=plan.steps[:2]))


@dataclass
class Served:
    """A server of models: by ranges or not, which may cut its line, want a token, or be a Hugging Face hub."""

    ranges: bool = True
    cuts: int = 0
    token: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        wanted = request.headers.get("Range", "")
        self.asked.append(f"{request.path} {wanted}".strip())
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        if request.path == "/api/models/org/repo/revision/0123abc":
            return web.json_response({"siblings": [self._listed(name) for name in self.files]})
        data = self.files.get(request.path.removeprefix("/org/repo/resolve/0123abc/"), MODEL)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted) if self.ranges else None
        start = int(match[1]) if match else 0
        end = int(match[2]) + 1 if match and match[2] else len(data)
        response = web.StreamResponse(status=206 if match else 200, headers={"ETag": '"one"'})
        response.content_length = min(end, len(data)) - start
        if match:
            response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        await response.prepare(request)
        body = data[start:end]
        if self.cuts and len(body) > 1:
            self.cuts -= 1
            await response.write(body[:300_000])
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(body)
        return response

    def _listed(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        large = {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}} if len(data) > 1000 else {}
        return {"rfilename": name, "size": len(data), "blobId": "b", **large}


@asynccontextmanager
async def serving(**how: Any) -> AsyncIterator[Served]:
    served = Served(**how)
    runner = web.ServerRunner(web.Server(served.answer))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        served.url = f"http://{host}:{port}"
        yield served
    finally:
        await runner.cleanup()


async def test_a_file_in_parts_with_bytes_rate_and_checksum(site: Site) -> None:
    events = await copied(site, sha256=SHA)
    assert events[-1].outcome == "done", words(events)
    assert site.copied() == MODEL
    assert f"SHA-256 {SHA} (as expected)" in words(events)
    assert "1.0 MB in the volume, 1.0 MB sent" in words(events)
    shares = [e.detail["progress"] for e in events if isinstance(e.detail, dict) and "progress" in e.detail]
    assert shares
    assert not [name for name in site.docker.containers if name.startswith("tierdeck-")]
    assert [p.name for p in site.docker.disk.volume("coder-models").iterdir() if p.is_dir()] == []


async def test_a_line_that_is_cut_is_gone_on_with_where_it_was(site: Site) -> None:
    async with serving(cuts=2) as served:
        events = await copied(site, model=f"{served.url}/models/model.gguf", sha256=SHA)
    assert events[-1].outcome == "done", words(events)
    assert site.copied() == MODEL
    assert "the line was cut at 262.1 kB, going on from there" in words(events)
    assert "/models/model.gguf bytes=262144-" in served.asked


async def test_docker_going_away_in_mid_copy_is_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    put = site.docker.disk.put

    def once(*told: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls in (3, 4):  # who asks tries once more by itself
            site.docker.server.drop()
        put(*told, **named)

    monkeypatch.setattr(site.docker.disk, "put", once)
    events = await copied(site, sha256=SHA)
    assert events[-1].outcome == "done", words(events)
    assert site.copied() == MODEL
    assert "the line was cut" in words(events)


async def test_a_copy_that_was_given_up_is_gone_on_with_by_the_next_try(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "OUTAGE", 0.0)
    plan = await site.plan(site.spec())
    plan = replace(plan, steps=plan.steps[:2])
    read = LocalFiles.stream

    @asynccontextmanager
    async def breaks(self: LocalFiles, file: ModelFile, offset: int) -> AsyncIterator[Any]:
        async def pieces() -> AsyncIterator[bytes]:
            yield MODEL[offset : offset + 600_000]
            raise ReachError("the disk went away.")

        yield pieces()

    monkeypatch.setattr(LocalFiles, "stream", breaks)
    events = await site.carry_out(plan)
    assert events[-1].outcome == "halted", "it can be resumed"
    assert not [name for name in site.docker.containers if name.startswith("tierdeck-")]
    monkeypatch.setattr(LocalFiles, "stream", read)
    events = await site.carry_out(plan)
    assert events[-1].outcome == "done"
    assert site.copied() == MODEL
    assert "1.0 MB in the volume, 524.3 kB sent" in words(events)


async def test_a_wrong_checksum_leaves_nothing(site: Site) -> None:
    events = await copied(site, sha256="0" * 64)
    assert f"arrived with SHA-256 {SHA}, expected {'0' * 64}; the copy was removed" in words(events)
    assert events[-1].outcome == "halted"
    assert not list(site.docker.disk.volume("coder-models").iterdir())


async def test_a_disk_that_is_full_is_told_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = await site.plan(site.spec())
    plan = replace(plan, steps=plan.steps[:2])
    put, calls = site.docker.disk.put, 0

    def fills(*told: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        site.docker.disk.full = calls > 2
        put(*told, **named)

    monkeypatch.setattr(site.docker.disk, "put", fills)
    events = await site.carry_out(plan)
    failed = next(e.text for e in events if e.event == "step_failed")
    assert "no space left on device" in failed
    assert "Free disk space on mark: docker system df" in failed
    site.docker.disk.full = False
    monkeypatch.setattr(site.docker.disk, "put", put)
    assert (await site.carry_out(plan))[-1].outcome == "done", "once there is room it goes on"
    assert site.copied() == MODEL


async def test_too_little_room_is_refused_with_the_figures(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "SPARE", 1 << 60)
    events = await copied(site)
    assert re.search(r"model\.gguf needs 1\.0 MB more, and mark has [\d.]+ GB free there", words(events))


async def test_another_file_of_that_name_is_not_overwritten(site: Site) -> None:
    folder = site.docker.disk.volume("models-vol")
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(b"another")
    site.docker.disk.volumes["models-vol"] = {}
    events = await copied(site, volume="models-vol")
    assert "The volume models-vol has another model.gguf (7 B, expected 1.0 MB)" in words(events)
    assert site.copied(volume="models-vol") == b"another"


async def test_a_server_without_ranges_sends_it_anew(site: Site) -> None:
    async with serving(ranges=False, cuts=1) as served:
        events = await copied(site, model=f"{served.url}/models/model.gguf")
    assert events[-1].outcome == "done", words(events)
    assert site.copied() == MODEL
    assert "with nothing to compare it with" in words(events)


async def test_from_another_node_over_ssh(site: Site) -> None:
    there = site.sim.nodes["mark"].folder / "model.gguf"
    there.write_bytes(MODEL)
    events = await copied(site, model="ssh:mark:/model.gguf")
    assert events[-1].outcome == "done", words(events)
    assert site.copied() == MODEL


async def test_all_files_of_a_repository_at_its_revision(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"config.json": b"{}", "model.safetensors": MODEL, "notes/empty.txt": b"", "notes/read.md": b"x"}
    async with serving(files=files, token="hf-secret", cuts=1) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HUB_TOKEN", "hf-secret")
        fields = {"preset": "vllm", "model": "hf:org/repo@0123abc", "token": "env:HUB_TOKEN", "gpus": "none"}
        events = await copied(site, **fields)
        assert events[-1].outcome == "done", words(events)
        with pytest.raises(ReachError, match=r"answers 401 Unauthorized\. Say token"):
            await site.plan(site.spec(**(fields | {"token": None, "name": "other"})))
    assert {name: site.copied(f"repo/{name}") for name in files} == files
    assert all("0123abc" in path for path in served.asked)
    assert "hf-secret" not in words(events)


async def test_files_that_are_there_are_not_copied_again(site: Site) -> None:
    plan = await site.plan(site.spec())
    await site.carry_out(replace(plan, steps=plan.steps[:3]))
    events = await site.carry_out(plan_of_two(plan))
    assert "model.gguf is in the volume already" in words(events)


def plan_of_two(plan: Plan) -> Plan:
    return replace(plan, steps=plan.steps[:2])


async def test_a_cancel_in_mid_copy_leaves_no_helper(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of_two(await site.plan(site.spec()))
    control = Control()

    @asynccontextmanager
    async def waits(self: LocalFiles, file: ModelFile, offset: int) -> AsyncIterator[Any]:
        async def pieces() -> AsyncIterator[bytes]:
            control.cancel()
            control.cancel()
            await asyncio.Event().wait()
            yield b""

        yield pieces()

    monkeypatch.setattr(LocalFiles, "stream", waits)
    events = await carry_out(site.cluster, plan, site.folder / "state", control=control)
    assert events[-1].outcome == "cancelled"
    assert not [name for name in site.docker.containers if name.startswith("tierdeck-")]
