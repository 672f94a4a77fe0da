"""One command from a model's file to an answer through LiteLLM, all of it real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lab.engine import LLAMACPP
from tests.lab.gateway import KEY, start_gateway
from tests.lab.parts import require
from tests.lab.process import free_port
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
"""


def test_from_a_file_to_an_answer_through_litellm(tmp_path: Path, lab_model: Path) -> None:
    require("docker", "sshd", "litellm", "llamacpp")
    with start_gateway(tmp_path, lab_model, volume=False) as lab:
        lab.engine.image(LLAMACPP)
        lab.restart(lab.file.read_bytes())
        path = tmp_path / "coder.toml"
        path.write_text(SPEC.format(image=LLAMACPP, model=lab_model, port=free_port()))
        shown = lab.tierdeck("deploy", str(path), "--gateway", "--dry-run")
        assert shown.returncode == 0, shown.stderr
        assert "docker start coder" in shown.stdout
        assert "Push the configuration of gateway/litellm" in shown.stdout
        done = lab.tierdeck("deploy", str(path), "--gateway", "--yes", "--interrupt")
        assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
        asked = {"model": "code", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        answer = json.loads(post(f"{lab.url}/v1/chat/completions", asked, KEY))
        assert answer["choices"][0]["message"]["role"] == "assistant"
