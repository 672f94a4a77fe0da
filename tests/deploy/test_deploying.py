"""A deployment on the simulator: it is done, and whatever fails, all is as it was before."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from backends.errors import ProcedureError, TierdeckError
from backends.procedures.plan import describe, from_json, to_json
from backends.world import survey
from tests.deploy.carrying import failing, take_back
from tests.deploy.conftest import IMAGE, MODEL, Site

STEPS = [
    "make_volume", "copy_model", "make_container", "write_fragment", "start_container", "ask_once", "write_fragment",
]  # fmt: skip


async def test_from_a_file_to_an_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODER_KEY", "sk-secret")
    before = site.state()
    plan = await site.plan(site.spec(api_key="env:CODER_KEY", sha256=hashlib.sha256(MODEL).hexdigest()))
    assert site.state() == before, "a plan changes nothing"
    assert from_json(to_json(plan)) == plan
    assert [step.kind for step in plan.steps] == STEPS
    shown = "\n".join(describe(plan))
    for call in (
        "docker volume create coder-models", "docker create --name coder --restart no --gpus=all", "docker start coder",
        "[joins.queue]", 'url = "http://localhost:', "prompt: Say one word.",
    ):  # fmt: skip
        assert call in shown, call
    events = await site.carry_out(plan)
    assert events[-1].outcome == "done", [e.text for e in events]
    assert site.copied() == MODEL
    assert site.docker.containers["coder"].running
    assert "tierdeck-copy-coder" not in site.docker.containers, "the helper is gone"
    key = site.docker.disk.real(site.docker.containers["coder"], "/etc/tierdeck/api_key")
    assert (key.read_text(), key.stat().st_mode & 0o777) == ("sk-secret", 0o600)
    assert "sk-secret" not in shown + str(to_json(plan)) + str([e.to_json() for e in events])
    inventory = site.loaded.inventory
    assert inventory.node_named["mark"].queue.order == ("mark-i", "coder")
    assert inventory.chain("code") == ("remote/a", "mark/coder")
    snapshot = await survey(site.loaded, None, site.folder / "state")
    assert snapshot.endpoints["mark/coder"].serving
    events = await site.carry_out(plan, back=True)
    assert (events[-1].outcome, events[-1].text) == ("cancelled", "taken back: all is as it was before")
    assert site.state() == before


async def test_a_volume_that_was_there_keeps_what_was_in_it(site: Site) -> None:
    volume = site.docker.disk.volume("models-vol")
    volume.mkdir(parents=True)
    site.docker.disk.volumes["models-vol"] = {}
    (volume / "other.gguf").write_bytes(b"other")
    before = site.state()
    plan = await site.plan(site.spec(volume="models-vol"))
    assert any("models-vol is there already" in w for w in plan.warnings)
    events = await site.carry_out(plan, kinds=failing(4, plan, late=True), ask=take_back)
    assert events[-1].text == "taken back: all is as it was before", [e.text for e in events]
    assert site.state() == before


async def test_an_image_that_is_not_there_is_fetched_and_goes_again(site: Site) -> None:
    site.docker.registry.add("llama:b2")
    before = site.state()
    plan = await site.plan(site.spec(image="llama:b2"))
    assert plan.steps[0].command == "docker pull llama:b2"
    await site.carry_out(plan)
    assert "llama:b2" in site.docker.images
    await site.carry_out(plan, back=True)
    assert site.state() == before
    plan = await site.plan(site.spec(image="llama:b3"))
    events = await site.carry_out(plan, ask=take_back)
    failed = next(e.text for e in events if e.event == "step_failed")
    assert "pull access denied for llama" in failed
    assert site.state() == before


async def test_what_somebody_else_wrote_meanwhile_is_not_overwritten(site: Site) -> None:
    plan = await site.plan(site.spec())
    folder = site.cluster.parent / "cluster.d"
    folder.mkdir()
    (folder / "deploy-coder.toml").write_text("# somebody's\n")
    events = await site.carry_out(plan, ask=take_back)
    assert "was changed by somebody else meanwhile" in next(e.text for e in events if e.event == "step_failed")
    assert (folder / "deploy-coder.toml").read_text() == "# somebody's\n"
    assert "coder" not in site.docker.containers


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"node": "mrak"}, 'There is no node "mrak". Did you mean "mark"?'),
        (
            {"name": "mark-i"},
            r"mark has a container mark-i already \(.*:server-cuda, running\). Choose another",
        ),
        ({"helper": "busybox:1"}, "mark has no image busybox:1, named as helper. docker pull busybox:1"),
        ({"model": "/no/such.gguf"}, "/no/such.gguf cannot be read: No such file"),
        ({"model": "ssh:nas:/a.gguf"}, 'There is no node "nas". Known: mark.'),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_done(
    site: Site, fields: dict[str, Any], words: str
) -> None:
    before = site.state()
    with pytest.raises(TierdeckError, match=words):
        await site.plan(site.spec(**fields))
    assert site.state() == before


async def test_a_port_that_is_taken_is_named_with_its_holder(site: Site) -> None:
    port = site.sim.endpoints["remote/a"].server.port
    with pytest.raises(ProcedureError, match=f"Port {port} of mark is held by the container mark-i"):
        await site.plan(site.spec(port=port))
    node = site.sim.nodes["mark"]
    assert node.ssh is not None
    with pytest.raises(ProcedureError, match=r"Something unknown listens at 127\.0\.0\.1:\d+ already"):
        await site.plan(site.spec(port=node.ssh.port))


async def test_an_image_by_latest_is_warned_of(site: Site) -> None:
    site.docker.images.add("llama:latest")
    plan = await site.plan(site.spec(image="llama"))
    assert any("names no version" in warning for warning in plan.warnings)
    assert IMAGE in "\n".join(describe(await site.plan(site.spec())))
