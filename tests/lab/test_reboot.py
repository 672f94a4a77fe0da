"""A reboot behind LiteLLM's real proxy: meanwhile the other node answers, and then all is as it was."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import tomli_w

from backends.gateway.without import MARK
from tests.lab.cache import require
from tests.lab.deadnode import DeadNode
from tests.lab.gateway import KEY, LabGateway, start_gateway
from tests.lab.process import wait_until

pytestmark = pytest.mark.long


@dataclass
class Front:
    """The gateway on `gate`, and the node `mark` behind it."""

    gateway: LabGateway
    node: DeadNode
    file: bytes

    def answered_by(self) -> str:
        """Where LiteLLM says that its answer to a prompt comes from."""
        body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        asked = Request(f"{self.gateway.url}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urlopen(asked, timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] >= 1
            return str(answer.headers["x-litellm-model-api-base"])

    def is_away(self) -> bool:
        """Whether the node is out of the file and down, and the gateway serves."""
        return self.gateway.file.read_text().startswith(MARK) and not self.node.ssh_answers() and self.gateway.ready()


@pytest.fixture
def front(tmp_path: Path, lab_model: Path, dead_node: DeadNode) -> Iterator[Front]:
    require("litellm")
    with start_gateway(tmp_path, lab_model, volume=False) as gateway:
        bases = [f"{gateway.llama.url}/v1", f"http://{dead_node.lan.address}:{dead_node.ports['mark-i']}/v1"]
        listed = "".join(
            f"  - {{model_name: chat, litellm_params: {{model: openai/tiny, api_key: none, api_base: '{base}'}}}}\r\n"
            for base in bases
        )
        file = f"# by hand é\r\nmodel_list:\n{listed}litellm_settings: {{drop_params: yes}}\n".encode()
        inventory, more = (tomllib.loads(path.read_text()) for path in (gateway.cluster, dead_node.config))
        for table in ("nodes", "tiers", "endpoints"):
            inventory[table] += [each for each in more[table] if each not in inventory[table]]
        gateway.cluster.write_text(tomli_w.dumps({**inventory, "lock_host": "nas"}))
        gateway.env.update(dead_node.env)
        wait_until(gateway.ready, 120, "LiteLLM lives")
        gateway.restart(file)
        yield Front(gateway, dead_node, file)


def test_while_a_node_reboots_the_other_answers_and_then_both_do(front: Front) -> None:
    gateway, node = front.gateway, front.node
    before = node.boot_id.read_text()
    argv = [sys.executable, "-m", "tui.cli", "reboot", "mark", "--yes", "--interrupt", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, env=gateway.env, stdout=pipe, stderr=pipe, text=True) as reboot:
        try:
            wait_until(lambda: front.is_away() or reboot.poll() is not None, 180, "the node is away")
            assert reboot.poll() is None, reboot.communicate()
            meanwhile = front.answered_by()
        finally:
            out, err = reboot.communicate(timeout=240)
    assert reboot.returncode == 0, (out[-3000:], err[-3000:])
    assert meanwhile.startswith(gateway.llama.url)
    assert "gateway/litellm: chat" in err
    assert gateway.file.read_bytes() == front.file
    assert node.boot_id.read_text() != before
    assert node.whole()
    seen: set[str] = set()

    def both() -> bool:
        seen.add(front.answered_by())
        return len(seen) == 2

    wait_until(both, 60, "both answer")
