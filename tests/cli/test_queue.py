"""`tierdeck queue` and `tierdeck procedures` as scripts and people use them, on a simulated node."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.cluster.reading import ProcedureState
from backends.procedures.commands import Procedures
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.httpfaults import HttpFault
from tests.cli.driving import Ran, started, tierdeck, until

KEYS = {"at", "procedure", "event", "step", "detail"}


def cluster(sim: SimulatedCluster) -> dict[str, str]:
    return {"TIERDECK_CLUSTER": str(sim.inventory_path)}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def running(sim: SimulatedCluster) -> list[str]:
    return [name for name in ("a", "b") if sim.nodes["mark"].container(name).running]


@asynccontextmanager
async def held(sim: SimulatedCluster, name: str) -> AsyncGenerator[None, None]:
    """A container that starts and does not become ready until the end, or until its server is healed."""
    server = sim.endpoints[f"remote/{name}"].server
    await server.inflict(HttpFault("refuse"))
    try:
        yield
    finally:
        await server.heal()


def only(state: Path) -> ProcedureState:
    (procedure,) = Procedures(state, state / "none").list()
    return procedure


async def test_show_tells_position_state_and_cause(mark: SimulatedCluster) -> None:
    mark.endpoints["remote/a"].start(at_once=True)
    await mark.endpoints["remote/a"].program.became_ready.wait()
    ran = await tierdeck("queue", "show", "mark", "--json", env=cluster(mark))
    assert (ran.code, ran.err) == (0, "")
    shown = json.loads(ran.out)
    assert (shown["schema"], shown["node"]) == ("tierdeck.queue/1", "mark")
    a, b = shown["queue"]
    assert (a["position"], a["container"], a["state"], a["ready"], a["cause"], a["gpu"]) == (
        1, "a", "running", True, "OK", True,
    )  # fmt: skip
    assert (b["position"], b["container"], b["state"], b["ready"]) == (2, "b", "created", False)


async def test_a_dry_run_prints_the_plan_and_does_nothing(mark: SimulatedCluster, state: Path) -> None:
    ran = await tierdeck("queue", "run", "mark", "--dry-run", "--json", env=cluster(mark))
    assert (ran.code, ran.err) == (0, "")
    plan = json.loads(ran.out)
    assert (plan["schema"], plan["node"], plan["targets"]) == ("tierdeck.plan/1", "mark", ["a", "b"])
    assert [(s["kind"], s["command"], s["danger"]) for s in plan["steps"]] == [
        ("start_container", "docker start a", "changes"),
        ("start_container", "docker start b", "changes"),
    ]
    assert running(mark) == []
    assert Procedures(state, state).list() == ()
    assert not [request for request in docker_requests(mark) if request.startswith("POST")]


def docker_requests(sim: SimulatedCluster) -> list[str]:
    docker = sim.nodes["mark"].docker
    assert docker is not None
    return list(docker.requests)


async def test_the_containers_start_one_after_the_other(
    mark: SimulatedCluster, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = mark.endpoints["remote/a"].program, mark.nodes["mark"].container("b")
    start, seen = b.start, []

    def spy(**options: Any) -> None:
        seen.append(a.phase)
        start(**options)

    monkeypatch.setattr(b, "start", spy)
    ran = await tierdeck("queue", "run", "mark", "--yes", "--json", env=cluster(mark))
    events = lines(ran.out)
    assert (ran.code, seen, running(mark)) == (0, ["ready"], ["a", "b"])
    assert mark.nodes["mark"].host.cuda.deadlocks == 0
    assert "docker start a" in ran.err
    assert all(set(event) - {"outcome"} == KEYS for event in events)
    assert {event["procedure"] for event in events} == {only(state).id}
    assert [(e["event"], e["step"]) for e in events if e["event"].startswith("step")] == [
        ("step_started", 0), ("step_done", 0), ("step_started", 1), ("step_done", 1),
    ]  # fmt: skip
    assert (events[-1]["event"], events[-1]["outcome"]) == ("finished", "done")
    assert only(state).state == "done"


async def test_ctrl_c_stops_at_the_edge_of_the_step_and_resume_goes_on(mark: SimulatedCluster, state: Path) -> None:
    async with held(mark, "a"), started("queue", "run", "mark", "--yes", "--json", env=cluster(mark)) as process:
        await until(lambda: running(mark), "the first container")
        procedure = only(state).id
        second = await tierdeck("queue", "run", "mark", "--yes", "--json", env=cluster(mark))
        assert (second.code, second.out) == (1, "")
        assert "has held mark for" in second.err
        assert procedure in second.err
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while b"stops at the step's edge; Ctrl+C again stops it now" not in (line := await process.stderr.readline()):
            assert line
        assert running(mark) == ["a"]
        await mark.endpoints["remote/a"].server.heal()
        out, _ = await process.communicate()
    last = lines(out.decode())[-1]
    assert (process.returncode, last["event"], last["outcome"]) == (130, "finished", "cancelled")
    assert running(mark) == ["a"]
    assert [step.state for step in only(state).steps] == ["done", "waiting"]
    resumed = await tierdeck("procedures", "resume", procedure, "--json", "--yes", env=cluster(mark))
    assert (resumed.code, lines(resumed.out)[-1]["outcome"], running(mark)) == (0, "done", ["a", "b"])
    again = await tierdeck("procedures", "cancel", procedure, env=cluster(mark))
    assert (again.code, again.out) == (1, "")
    assert "does not run any more" in again.err


async def test_ctrl_c_while_the_runner_begins_is_not_lost_and_a_second_cancel_is_now(
    mark: SimulatedCluster, state: Path
) -> None:
    async with held(mark, "a"), started("queue", "run", "mark", "--yes", "--json", env=cluster(mark)) as process:
        await until(lambda: list(state.glob("procedures/*.log")), "the runner to be started")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while b"stops at the step's edge" not in (line := await process.stderr.readline()):
            assert line
        if only(state).open:
            cancelled = await tierdeck("procedures", "cancel", only(state).id, "--json", env=cluster(mark))
            told = {"schema": "tierdeck.cancel/1", "procedure": only(state).id, "when": "now"}
            assert (cancelled.code, json.loads(cancelled.out)) == (0, told)
        out, _ = await process.communicate()
    assert process.returncode == 130
    assert lines(out.decode())[-1]["outcome"] == "cancelled"
    assert "b" not in running(mark)
    assert only(state).state == "cancelled"


async def test_a_hang_up_detaches_and_the_procedure_goes_on(mark: SimulatedCluster, state: Path) -> None:
    words = ("queue", "run", "mark", "--only", "b", "--yes", "--json")
    async with held(mark, "b"), started(*words, env=cluster(mark)) as process:
        await until(lambda: running(mark), "the container")
        process.send_signal(signal.SIGHUP)
        assert await process.wait() == -signal.SIGHUP
        procedure = only(state)
        assert procedure.state == "running"
        listed = await tierdeck("procedures", "--json", env=cluster(mark))
        (row,) = json.loads(listed.out)["procedures"]
        assert (listed.code, row["id"], row["state"], row["node"]) == (0, procedure.id, "running", "mark")
        assert set(row) == {"id", "kind", "node", "title", "owner", "state", "started"}
    attached = await tierdeck("procedures", "attach", procedure.id[-4:], "--json", env=cluster(mark))
    last = lines(attached.out)[-1]
    assert (attached.code, last["event"], last["outcome"]) == (0, "finished", "done")
    assert all(set(event) - {"outcome"} == KEYS for event in lines(attached.out))
    assert running(mark) == ["b"]
    listed = await tierdeck("procedures", "list", env=cluster(mark))
    assert f"{procedure.id}  done" in listed.out


async def test_json_never_asks(mark: SimulatedCluster, tmp_path: Path) -> None:
    """At once: before the inventory is even looked at."""
    ran = await tierdeck("queue", "run", "mark", "--json", env={"TIERDECK_CLUSTER": str(tmp_path / "missing.toml")})
    assert (ran.code, ran.out) == (2, "")
    assert "--yes or --dry-run" in ran.err


async def test_nobody_to_ask_is_no_yes(mark: SimulatedCluster, state: Path) -> None:
    ran = await tierdeck("queue", "run", "mark", env=cluster(mark))
    assert (ran.code, ran.out, running(mark)) == (2, "", [])
    assert "nobody can be asked here" in ran.err
    assert "docker start a" in ran.err
    assert Procedures(state, state).list() == ()


async def test_what_does_not_exist_is_said(mark: SimulatedCluster) -> None:
    table = {
        ("queue", "show", "marc"): 'There is no node "marc". Known: mark.',
        ("queue", "run", "marc", "--dry-run"): 'There is no node "marc". Known: mark.',
        ("queue", "run", "mark", "--only", "z", "--dry-run"): 'mark has no container "z".',
        ("procedures", "attach", "20000101"): 'No procedure "20000101". List them: tierdeck procedures',
        ("procedures", "cancel", "../x"): 'No procedure "../x". List them: tierdeck procedures',
    }
    found = await asyncio.gather(*(tierdeck(*words, env=cluster(mark)) for words in table))
    assert found == [Ran(1, "", f"tierdeck: {told}\n") for told in table.values()]


async def test_a_node_that_does_not_answer(mark: SimulatedCluster) -> None:
    ssh = mark.nodes["mark"].ssh
    assert ssh is not None
    await ssh.refuse()
    ran = await tierdeck("queue", "show", "mark", "--json", env=cluster(mark))
    assert (ran.code, ran.out) == (3, "")
    assert "refuse" in ran.err
    assert ran.err.count("\n") == 1
