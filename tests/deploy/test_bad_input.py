"""What a person or the world gets wrong in a deployment: refused in a sentence, or taken back; nothing else changes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from socket import create_server
from typing import Any

import pytest

from backends.cluster.deploying import load_spec
from backends.errors import TierdeckError
from backends.simulator.containers import Spec as ContainerSpec
from tests.cli.driving import tierdeck
from tests.cli.test_queue import cluster
from tests.deploy.carrying import take_back, words
from tests.deploy.conftest import FORMER, IMAGE, Site, free_port

TAKEN_BACK = "taken back: all is as it was before"


def written(folder: Path, site: Site, extra: str = "") -> Path:
    lines = [
        "version = 1", 'name = "coder"', 'node = "mark"', 'preset = "llama.cpp"', f'image = "{IMAGE}"',
        f'model = "{site.model}"', f"port = {free_port()}", extra, "",
    ]  # fmt: skip
    path = folder / "coder.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("gpu = 1", 'unknown key "gpu" at the top level. Did you mean "gpus"?'),
        ("gatway = true", 'unknown key "gatway" at the top level. Did you mean "gateway"?'),
        ("gateway = 3", "gateway"),
    ],
)
def test_a_key_that_is_none_is_told_with_the_nearest(site: Site, tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(TierdeckError) as refused:
        load_spec(written(tmp_path, site, line))
    assert "coder.toml, line 8: " in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "mark-i"}, "mark has a container mark-i already"),
        ({"image": "llama:none", "gateway": True, "bind": None}, "The gateway would not serve it"),
        ({"model": "/no/such.gguf"}, "/no/such.gguf cannot be read: No such file"),
    ],
)
async def test_what_can_be_known_before_is_refused(site: Site, fields: dict[str, Any], said: str) -> None:
    before = site.state()
    with pytest.raises(TierdeckError, match=said):
        await site.plan(site.spec(**fields))
    assert site.state() == before


async def test_a_port_that_somebody_unknown_takes_before_and_after_the_plan(site: Site) -> None:
    before = site.state()
    plan = await site.plan(site.spec(port=(port := free_port())))
    with closing(create_server(("127.0.0.1", port))):
        with pytest.raises(TierdeckError, match=rf"Something unknown listens at 127\.0\.0\.1:{port} already"):
            await site.plan(site.spec(port=port))
        events = await site.carry_out(plan, ask=take_back)
    failed = next(e for e in events if e.event == "step_failed")
    assert plan.steps[failed.step or 0].kind == "start_container", words(events)
    assert f"{port}: address already in use" in failed.text, words(events)
    assert events[-1].text == TAKEN_BACK, words(events)
    assert site.state() == before


async def test_a_volume_that_another_uses_by_then_stays_and_is_told(site: Site) -> None:
    before = site.state()
    plan = await site.plan(site.spec())
    assert (await site.carry_out(plan))[-1].outcome == "done"
    site.sim.add_container("mark", ContainerSpec("other", IMAGE, volumes={"coder-models": "/m"}), running=False)
    events = await site.carry_out(plan, back=True)
    assert "not everything could be taken back: The volume coder-models is used by another container" in words(events)
    assert site.copied(), "what the other one uses is there"
    del site.docker.containers["other"]
    assert (await site.carry_out(plan, back=True))[-1].text == TAKEN_BACK
    assert site.state() == before


@pytest.mark.parametrize(
    "verb",
    [
        ("gateway", "lint"),
        ("gateway", "push", "--yes", "--file"),
        ("gateway", "diff"),
        ("deploy", "--dry-run", "--gateway"),
    ],
    ids=" ".join,
)
async def test_a_yaml_that_is_none(site: Site, tmp_path: Path, verb: tuple[str, ...]) -> None:
    """In a file that is named, or as the gateway's own."""
    (broken := tmp_path / "broken.yaml").write_text("a: b: c\n")
    named = {"lint": [str(broken)], "--file": [str(broken)], "--gateway": [str(written(tmp_path, site, 'bind = "::"'))]}
    if verb[-1] in ("diff", "--gateway"):
        site.gateway.write_text("a: b: c\n")
    before = site.state()
    env = cluster(site.sim) | {"TIERDECK_STATE": str(tmp_path / "own")}
    ran = await tierdeck(*verb, *named.get(verb[-1], []), env=env)
    assert (ran.code, ran.out) == (1, "")
    assert "line 1, column 5: this is no YAML" in ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert site.state() == before
    assert site.gateway.read_bytes() in (FORMER, b"a: b: c\n")
