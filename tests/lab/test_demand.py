"""A model on demand on real Docker: a prompt has it started, the answer comes from it, a watch stops it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.cli.driving import started, tierdeck, until
from tests.lab.cache import require
from tests.lab.engine import LLAMACPP, DockerEngine, container
from tests.lab.five import inventory
from tests.lab.models import tiny_gguf
from tests.lab.process import free_port

NAMES = ("always", "coder")

pytestmark = pytest.mark.long


def _cluster(engine: DockerEngine, ports: dict[str, int]) -> dict[str, object]:
    """Of this machine: the first always runs, the second is on demand and idle after two seconds.

    Its build does not say that asking for its counters keeps nobody awake: they are asked for where they are named.
    """
    told = inventory(ports, engine, None, 0.0, NAMES[:1])
    endpoints: Any = told["endpoints"]
    endpoints[0]["tasks"] = ["chat"]
    metrics = f"http://127.0.0.1:{ports['coder']}/metrics"
    endpoints[1] |= {"tasks": ["code"], "on_demand": True, "idle": "2s", "metrics_url": metrics}
    return told | {"defaults": {"interval": "500ms"}}


async def test_a_prompt_starts_it_and_a_watch_stops_it(tmp_path: Path, short_sockets: None) -> None:
    require("docker", "llamacpp")
    ports = {name: free_port() for name in NAMES}
    with DockerEngine(tmp_path / "docker") as engine:
        engine.image(LLAMACPP)
        engine.put(tiny_gguf(tmp_path / "tiny.gguf"), "tiny.gguf")
        for name, port in ports.items():
            container(engine, name, port, start=name == "always")

        def running() -> set[str]:
            return set(engine.docker("ps", "--format", "{{.Names}}").split())

        path = tmp_path / "cluster.toml"
        path.write_text(tomli_w.dumps(_cluster(engine, ports)))
        env = {"TIERDECK_CLUSTER": str(path), "HOME": str(tmp_path)}
        unasked = await tierdeck("route", "--send", "--task", "code", "hello", env=env)
        assert (unasked.code, running()) == (3, {"always"}), unasked
        assert "cold: remote/coder would have to start, how long is not known" in unasked.err
        ran = await tierdeck("route", "--send", "--yes", "--json", "--task", "code", "hello", env=env)
        data = json.loads(ran.out)
        assert (ran.code, data["tries"]) == (0, [{"endpoint": "remote/coder", "error": ""}]), ran
        assert data["tokens_out"] > 0
        assert running() == set(NAMES)
        again = await tierdeck("up", "coder", "--yes", env=env)
        assert (again.code, "it runs and is ready" in again.err) == (0, True), again
        async with started("watch", "--json", env=env):
            await until(lambda: running() == {"always"}, "it is stopped after its idle time")
