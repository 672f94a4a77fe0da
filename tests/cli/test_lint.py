"""`tierdeck lint` on a simulated node."""

from __future__ import annotations

import json

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import Spec
from tests.cli.driving import tierdeck
from tests.cli.test_queue import cluster


async def test_findings_exit_1_and_never_show_a_key(mark: SimulatedCluster) -> None:
    secret = "sk-verysecret-123"
    mark.add_container("mark", Spec("front", "berriai/litellm:latest", environment={"OPENAI_API_KEY": secret}))
    ran = await tierdeck("lint", "--json", env=cluster(mark))
    found = json.loads(ran.out)
    assert (ran.code, found["schema"], found["containers"]) == (1, "tierdeck.lint/1", 3)
    rules = {(each["container"], each["rule"]) for each in found["findings"]}
    assert {("front", "plaintext-key"), ("front", "latest"), ("front", "no-master-key")} <= rules
    told = await tierdeck("lint", "mark", env=cluster(mark))
    assert "secrets in its environment: OPENAI_API_KEY [plaintext-key]" in told.out
    assert secret not in ran.out + ran.err + told.out + told.err


async def test_a_node_that_cannot_be_asked_is_no_clean_bill(mark: SimulatedCluster) -> None:
    for name in ("a", "b"):
        docker = mark.nodes["mark"].docker
        assert docker is not None
        del docker.containers[name]
    whole = await tierdeck("lint", env=cluster(mark))
    assert (whole.code, whole.out) == (0, "0 containers looked at: nothing to remark\n")
    assert docker is not None
    await docker.server.close()
    silent = await tierdeck("lint", env=cluster(mark))
    assert silent.code == 3
    assert "Docker on mark" in silent.err
    wrong = await tierdeck("lint", "mrak", env=cluster(mark))
    assert (wrong.code, wrong.err) == (1, 'tierdeck: There is no node "mrak". Known: mark.\n')
