"""An Ollama is given its model, pulled with progress or made of a GGUF file; from a shared volume it goes again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.deploying import Spec
from backends.procedures.plan import Plan, describe
from backends.simulator.engines.ollama import Ollama
from tests.deploy.carrying import failing, take_back, words
from tests.deploy.conftest import Site

GGUF = b"GGUF" + bytes(range(256)) * 4096
DIGEST = hashlib.sha256(GGUF).hexdigest()


@pytest.fixture
def ollama(site: Site) -> Site:
    """The site with the image, and a model that is a GGUF as far as its first bytes tell."""
    site.docker.images.add("ollama:1")
    site.model.write_bytes(GGUF)
    return site


def spec(site: Site, **fields: Any) -> Spec:
    return site.spec(**{"preset": "ollama", "image": "ollama:1", "context": None, **fields})


def shared(site: Site) -> dict[str, str]:
    """A volume that was there before, with something in it."""
    site.docker.disk.volumes["models-vol"] = {}
    folder = site.docker.disk.volume("models-vol")
    folder.mkdir(parents=True)
    (folder / "other.gguf").write_bytes(b"other")
    return {"volume": "models-vol"}


def engine(site: Site) -> Ollama:
    program = site.docker.containers["coder"].program
    assert program is not None
    assert isinstance(program.engine, Ollama)
    return program.engine


def blob(site: Site, volume: str = "coder-models") -> Path:
    return site.docker.disk.volume(volume) / "ollama" / "blobs" / f"sha256-{DIGEST}"


async def done(site: Site, plan: Plan) -> list[str]:
    events = await site.carry_out(plan)
    assert events[-1].outcome == "done", words(events)
    return [event.text for event in events]


async def test_it_pulls_its_model_with_progress(ollama: Site) -> None:
    before = ollama.state()
    plan = await ollama.plan(spec(ollama, model=None, pull="qwen2.5:0.5b", keep_alive="30m"))
    assert "POST /api/pull qwen2.5:0.5b" in "\n".join(describe(plan))
    assert "OLLAMA_KEEP_ALIVE=1800s" in "\n".join(describe(plan))
    assert "mark/coder has qwen2.5:0.5b" in await done(ollama, plan)
    await ollama.carry_out(plan, back=True)
    assert ollama.state() == before
    plan = await ollama.plan(spec(ollama, model=None, pull="no-such"))
    failed = next(e.text for e in await ollama.carry_out(plan, ask=take_back) if e.event == "step_failed")
    assert failed == "no-such cannot be pulled: pull model manifest: file does not exist."
    assert ollama.state() == before


async def test_it_is_made_of_a_file_without_a_second_copy_of_it(ollama: Site) -> None:
    before = ollama.state()
    plan = await ollama.plan(spec(ollama))
    assert "/models/model.gguf linked among its blobs; POST /api/create coder" in "\n".join(describe(plan))
    assert "mark/coder has coder" in await done(ollama, plan)
    assert blob(ollama).samefile(ollama.docker.disk.volume("coder-models") / "model.gguf")
    assert engine(ollama).requests["POST /api/create"] == 1
    assert engine(ollama).requests["POST /v1/chat/completions"] + engine(ollama).requests["POST /api/chat"] == 1
    await ollama.carry_out(plan, back=True)
    assert ollama.state() == before


async def test_what_is_no_gguf_is_refused_in_its_own_words(ollama: Site) -> None:
    ollama.model.write_bytes(b"PK" + GGUF)
    before = ollama.state()
    plan = await ollama.plan(spec(ollama, **shared(ollama)))
    before |= {"volumes": ollama.state()["volumes"]}
    failed = next(e.text for e in await ollama.carry_out(plan, ask=take_back) if e.event == "step_failed")
    assert failed == "coder cannot be created: invalid file magic. Is model.gguf a GGUF that this Ollama knows?"
    assert ollama.state() == before, "nor is a blob left behind"


@pytest.mark.parametrize("given", [{"model": None, "pull": "qwen2.5:0.5b"}, {}], ids=["pulled", "made"])
async def test_from_a_volume_that_was_there_it_is_deleted_again(ollama: Site, given: dict[str, Any]) -> None:
    fields = shared(ollama)
    before = ollama.state()
    plan = await ollama.plan(spec(ollama, **given, **fields))
    assert plan.steps[-1].kind == "write_fragment"
    kinds = failing(len(plan.steps) - 1, plan, late=True)
    has: list[Ollama] = []

    async def look_then_back(question: Any) -> str:
        has.append(engine(ollama))
        assert (has[0].requests["DELETE /api/delete"], len(has[0].library)) == (0, 1)
        return await take_back(question)

    events = await ollama.carry_out(plan, kinds=kinds, ask=look_then_back)
    assert events[-1].text == "taken back: all is as it was before", words(events)
    assert (has[0].requests["DELETE /api/delete"], has[0].library) == (1, {})
    assert ollama.state() == before


async def test_a_model_that_was_in_the_volume_before_stays(ollama: Site) -> None:
    fields = shared(ollama)
    plan = await ollama.plan(spec(ollama, model=None, pull="qwen2.5:0.5b", **fields))
    await ollama.carry_out(Plan("x", "mark", "its container", plan.steps[: len(plan.steps) - 3]))
    engine(ollama).library["qwen2.5:0.5b"] = engine(ollama).registry["qwen2.5:0.5b"]
    has = engine(ollama)
    assert "it has the model already" in await done(ollama, plan)
    await ollama.carry_out(plan, back=True)
    assert (has.requests["POST /api/pull"], has.requests["DELETE /api/delete"]) == (0, 0)
