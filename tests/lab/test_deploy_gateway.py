"""One command from a model's file to an answer through LiteLLM, and back, all of it real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from backends.cluster.deploying import load_spec
from backends.cluster.files import load
from backends.procedures.gateway import GATEWAY_KINDS, digest
from backends.procedures.plan import Plan
from backends.world import World
from tests.deploy.carrying import carry_out, take_back, words
from tests.lab.engine import LLAMACPP
from tests.lab.gateway import KEY, LabGateway, start_gateway
from tests.lab.parts import require
from tests.lab.process import OPENER, free_port, wait_until
from tests.lab.test_parts import post

pytestmark = pytest.mark.long

SPEC = """\
version = 1
name = "coder"
node = "gate"
preset = "llama.cpp"
image = "{image}"
model = "{model}"
port = {port}
context = 512
gpus = "all"
tasks = ["code"]
bind = "0.0.0.0"
gateway = true
"""


@pytest.fixture(scope="module", params=[False, True], ids=["folder", "volume"])
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, lab_model: Path
) -> Iterator[LabGateway]:
    require("docker", "sshd", "litellm", "llamacpp")
    with start_gateway(tmp_path_factory.mktemp("deploy"), lab_model, volume=request.param) as made:
        made.engine.image(LLAMACPP)
        wait_until(made.ready, 120, "LiteLLM lives")
        made.restart(made.tierdeck("gateway", "render").stdout.encode())
        yield made


@pytest.fixture
def spec(tmp_path: Path, lab_model: Path) -> Path:
    path = tmp_path / "coder.toml"
    path.write_text(SPEC.format(image=LLAMACPP, model=lab_model, port=free_port()))
    return path


def state(lab: LabGateway) -> dict[str, object]:
    """`docker ps -a`, volumes with what is in them, cluster.toml with cluster.d, the gateway's file and its answer."""
    docker = lab.engine.docker
    folders = [
        Path(docker("volume", "inspect", "--format", "{{.Mountpoint}}", v))
        for v in docker("volume", "ls", "-q").split()
    ]
    folders += [lab.file.parent, lab.cluster.parent / "cluster.d"]
    files = [lab.cluster, *(file for folder in folders for file in folder.rglob("*") if file.is_file())]
    return {
        "ps": docker("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Image}} {{.State}} {{.Ports}}"),
        "files": {str(file): file.read_bytes() for file in files},
        "served": served(lab),
    }


def served(lab: LabGateway) -> list[str]:
    """The groups that it names."""
    request = Request(f"{lab.url}/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    with OPENER.open(request, timeout=30) as answer:
        return sorted(group["id"] for group in json.load(answer)["data"])


def test_one_command_to_an_answer_through_litellm_and_one_back(lab: LabGateway, spec: Path) -> None:
    before = state(lab)
    shown = lab.tierdeck("deploy", str(spec), "--dry-run")
    assert shown.returncode == 0, shown.stderr
    for call in ("docker start coder", "docker stop litellm; docker start litellm", "GET /v1/models"):
        assert call in shown.stdout
    assert state(lab) == before, "a dry run changes nothing"
    done = lab.tierdeck("deploy", str(spec), "--yes", "--interrupt", "--json")
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    asked = {"model": "coder", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    answer = json.loads(post(f"{lab.url}/v1/chat/completions", asked, KEY))
    assert answer["usage"]["completion_tokens"] >= 1
    procedure = json.loads(done.stdout.splitlines()[0])["procedure"]
    back = lab.tierdeck("procedures", "rollback", procedure, "--yes")
    assert back.returncode == 0, back.stdout + back.stderr
    assert state(lab) == before


async def test_a_litellm_that_does_not_come_back_takes_all_of_it_back(
    lab: LabGateway, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_KEY", KEY)
    before = state(lab)
    async with World(load(lab.cluster), None, tmp_path / "state") as world:
        plan = broken(await world.plan_deploy(load_spec(spec)))
    events = await carry_out(lab.cluster, plan, tmp_path / "state", ask=take_back)
    failed = next(e.text for e in events if e.event == "step_failed")
    assert "The gateway does not come back with the new file" in failed, words(events)
    assert events[-1].text == "taken back: all is as it was before", words(events)
    assert state(lab) == before


def broken(plan: Plan) -> Plan:
    """The plan with a file for the gateway that LiteLLM ends with."""
    text = str(next(s for s in plan.steps if s.kind == "write_gateway_file").arguments["text"])
    text = text.replace("router_settings:\n", "router_settings:\n  health_check_interval: 5\n")
    said: dict[str, Any] = {"new": digest(text.encode()), "text": text}
    steps = tuple(
        replace(s, arguments={**s.arguments, **{key: said[key] for key in said if key in s.arguments}})
        if s.kind in GATEWAY_KINDS
        else s
        for s in plan.steps
    )
    return replace(plan, steps=steps)
