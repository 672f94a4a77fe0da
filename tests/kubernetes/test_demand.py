"""On-demand models of a Kubernetes node, by the real commands: up to one if it fits, and back to none when idle."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from backends.procedures.used import Used
from tests.cli.driving import started, tierdeck, until
from tests.kubernetes.controllers import is_ready
from tests.kubernetes.double import Double
from tests.kubernetes.inventories import cluster_toml
from tests.kubernetes.store import KINDS

NAMES = ("one", "two", "new", "always")


@pytest.fixture
async def state(double: Double, tmp_path: Path, short_sockets: None) -> Path:
    """A node of three GPUs: one model always runs, two of three on demand do."""
    double.add_node("gpu-1", 3)
    for name in NAMES:
        double.add_deployment(name, int(name != "new"))
        double.services[f"{name}:8000"] = engine(double, name)
    await until(lambda: running(double) == ["always", "one", "two"], "three to run")
    (tmp_path / "cluster.toml").write_text(inventory(double.kubeconfig(tmp_path)))
    return tmp_path


def running(double: Double) -> list[str]:
    return sorted(n for n in NAMES if any(map(is_ready, double.controllers.pods_of(double.deployment(n)))))


def engine(double: Double, name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A vLLM with nothing to do, behind a Service that has endpoints only while its pod is ready."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if name not in running(double):
            return web.json_response({"kind": "Status", "message": "no endpoints available"}, status=503)
        if request.path.endswith("/v1/models"):
            return web.json_response({"object": "list", "data": [{"id": name, "object": "model"}]})
        if request.path.endswith("/metrics"):
            return web.Response(text="vllm:num_requests_running 0\nvllm:generation_tokens_total 7\n")
        return web.Response(text="")

    return answer


def inventory(kubeconfig: Path) -> str:
    more = "".join(
        f"""[[endpoints]]
name = "t/{name}"
tier = "T"
node = "gpu-1"
engine = "vllm"
url = "http://{name}.llm:8000"
via = "kubernetes"
container = "llm/{name}"
{"" if name == "always" else "on_demand = true"}
{'idle = "1s"' if name == "one" else ""}
"""
        for name in NAMES
    )
    top = 'defaults = { interval = "200ms", timeout = "20s" }'
    return cluster_toml(kubeconfig, '{ gap = "100ms", ready_timeout = "5s" }', more, top=top)


def environment(folder: Path) -> dict[str, str]:
    return {
        "TIERDECK_CLUSTER": str(folder / "cluster.toml"),
        "TIERDECK_STATE": str(folder / "state"),
    }


async def up_in_the_place_of_two(folder: Path) -> None:
    """Have `new` started, where `two` was used longest ago."""
    Used(folder / "state").note("t/one", 50.0)
    Used(folder / "state").note("t/two", 10.0)
    env = environment(folder)
    shown = await tierdeck("up", "t/new", "--dry-run", "--json", env=env)
    steps = [step["label"] for step in json.loads(shown.out)["steps"]]
    assert steps == ["stop llm/two, if it is idle", "start llm/new"], shown
    ran = await tierdeck("up", "t/new", "--yes", env=env)
    assert ran.code == 0, ran


async def test_up_scales_to_one_in_the_place_of_the_least_recently_used(double: Double, state: Path) -> None:
    await up_in_the_place_of_two(state)
    assert running(double) == ["always", "new", "one"]
    assert double.deployment("two")["spec"]["replicas"] == 0


async def test_what_always_runs_is_not_stopped_for_it(double: Double, state: Path) -> None:
    item = double.deployment("new")
    limits = item["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    limits["nvidia.com/gpu"] = "3"
    double.store.touch(KINDS["deployments"], item)
    ran = await tierdeck("up", "t/new", "--yes", env=environment(state))
    assert ran.code == 1
    assert "t/new takes about 3 nvidia.com/gpu; 0 nvidia.com/gpu are free on gpu-1" in ran.err
    assert "2 nvidia.com/gpu more without what is on demand there. What always runs is not stopped for it" in ran.err
    assert running(double) == ["always", "one", "two"]


async def test_a_watch_scales_what_is_idle_back_to_none(double: Double, state: Path) -> None:
    async with started("watch", "--json", env=environment(state)):
        await until(lambda: running(double) == ["always", "two"], "one to be scaled down")
    assert double.deployment("one")["spec"]["replicas"] == 0
