"""A push to LiteLLM's real proxy in a container: it serves what was pushed, or what it served before, byte for byte."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cache import require
from tests.lab.gateway import FORMER, KEY, LabGateway, start_gateway
from tests.lab.process import wait_until
from tests.lab.test_parts import post

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", params=["folder", "volume"])
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, lab_model: Path
) -> Iterator[LabGateway]:
    require("docker", "sshd", "llamacpp", "litellm")
    directory = tmp_path_factory.mktemp(request.param)
    with start_gateway(directory, lab_model, volume=request.param == "volume") as made:
        wait_until(made.ready, 120, "LiteLLM lives")
        yield made


def outcome(ran: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """How a procedure ended, and what the first failed step says."""
    assert ran.stdout, ran.stderr
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    failed = next((e["detail"]["text"] for e in events if e["event"] == "step_failed"), "")
    return events[-1]["outcome"], failed


def test_a_dry_run_shows_every_call_and_changes_nothing(gateway: LabGateway) -> None:
    ran = gateway.tierdeck("gateway", "push", "--dry-run")
    assert ran.returncode == 0, ran.stderr
    for words in ("docker stop litellm; docker start litellm", "GET /v1/models", "/health/readiness", "cp -p"):
        assert words in ran.stdout
    assert "+model_list:" in ran.stderr
    assert gateway.file.read_bytes() == FORMER


def test_a_file_with_which_it_does_not_come_back_is_taken_back(gateway: LabGateway, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    rendered = gateway.tierdeck("gateway", "render").stdout
    broken.write_text(rendered.replace("router_settings:\n", "router_settings:\n  health_check_interval: 5\n"))
    ran = gateway.tierdeck("gateway", "push", "--file", str(broken), "--yes", "--interrupt", "--json")
    ended, why = outcome(ran)
    assert (ran.returncode, ended) == (1, "failed"), ran.stderr
    assert "does not come back with the new file" in why
    assert "byte for byte" in why
    assert gateway.file.read_bytes() == FORMER
    assert gateway.ready()
    assert gateway.engine.docker("ps", "--format", "{{.Names}}") == "litellm"


def test_what_is_rendered_is_pushed_and_then_serves(gateway: LabGateway) -> None:
    assert gateway.file.read_bytes() == FORMER
    ran = gateway.tierdeck("gateway", "push", "--yes", "--json")
    assert ran.returncode == 2, "requests in flight are interrupted"
    ran = gateway.tierdeck("gateway", "push", "--yes", "--interrupt", "--json")
    assert outcome(ran)[0] == "done", (ran.stdout[-2000:], ran.stderr)
    body = {"model": "code", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    answer = post(f"{gateway.url}/v1/chat/completions", body, KEY)
    assert json.loads(answer)["usage"]["completion_tokens"] >= 1
    assert gateway.file.read_text() == gateway.tierdeck("gateway", "render").stdout
    assert gateway.file.with_name("config.yaml.tierdeck-before").read_bytes() == FORMER
    assert gateway.tierdeck("gateway", "diff").returncode == 0
    assert gateway.tierdeck("gateway", "lint", str(gateway.file)).returncode == 0
    assert KEY not in ran.stdout + ran.stderr


def test_a_group_that_answered_and_does_not_any_more_is_worse(gateway: LabGateway, tmp_path: Path) -> None:
    before = gateway.tierdeck("gateway", "render").stdout.encode()
    gateway.restart(before)
    worse = tmp_path / "worse.yaml"
    worse.write_bytes(before.replace(b'/v1"', b'/v2"', 1))
    ran = gateway.tierdeck("gateway", "push", "--file", str(worse), "--yes", "--interrupt", "--json")
    ended, why = outcome(ran)
    assert (ended, "code gives no answer, but a/llama serves" in why) == ("failed", True), why
    assert gateway.file.read_bytes() == before
