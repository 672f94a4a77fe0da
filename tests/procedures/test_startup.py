from __future__ import annotations

from dataclasses import replace

import pytest

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Instant, Progress, Trouble, Workload
from backends.cluster.snapshot import ClusterSnapshot, EndpointState, NodeState, Prognosis
from backends.cluster.words import VERDICT_OF, Cause, State
from backends.errors import ProcedureError
from backends.procedures.plan import Danger, Plan, describe, from_json, to_json
from backends.procedures.startup import plan_queue


def inventory(order: tuple[str, ...] = ("a", "b"), gpus: str = "nvidia", **queue: object) -> Inventory:
    endpoints = [
        {"name": f"remote/{c}", "tier": "R", "node": "mark", "engine": "llama.cpp", "url": "http://h:1", "container": c}
        for c in ("a", "b", "c", "cpu")
    ]
    endpoints[1]["tasks"] = ["code", "chat"]  # type: ignore[assignment]
    return Inventory.model_validate(
        {
            "version": 1,
            "name": "lumina",
            "nodes": [{"name": "mark", "address": "h", "gpus": gpus, "queue": {"order": order, "gap": "5s", **queue}}],
            "tiers": [{"name": "R"}, {"name": "L"}],
            "endpoints": [
                *endpoints,
                {"name": "nas/x", "tier": "L", "engine": "ollama", "url": "http://n:1", "tasks": ["chat"]},
                {
                    "name": "remote/spare",
                    "tier": "R",
                    "node": "mark",
                    "engine": "vllm",
                    "url": "http://h:2",
                    "container": "spare",
                    "on_demand": True,
                },
            ],
        }
    )


def box(name: str, state: str = "exited", gpu: bool = True, **more: object) -> Workload:
    workload = Workload(name, "docker", state, gpu=gpu, started_at=1.0 if state == "running" else None)
    return replace(workload, **more)  # type: ignore[arg-type]


BOXES = (box("a"), box("b"), box("c"), box("cpu", gpu=False), box("spare"))


def snapshot(inv: Inventory, workloads: tuple[Workload, ...] = BOXES, **causes: Cause) -> ClusterSnapshot:
    endpoints = {}
    for endpoint in inv.endpoints:
        cause = causes.get(endpoint.name.partition("/")[2], Cause.REFUSED)
        endpoints[endpoint.name] = EndpointState(
            endpoint.name, VERDICT_OF[cause], cause, progress=Progress(running=2) if cause is Cause.OK else None
        )
    at = Instant(1000.0, 10.0)
    node = NodeState("mark", workloads=workloads, workloads_taken=at)
    prognosis = Prognosis(State.UNKNOWN, "", {})
    return ClusterSnapshot("lumina", None, endpoints, (), {"mark": node}, prognosis, taken=at)


def queued(plan: Plan) -> list[str]:
    return [str(step.arguments["name"]) for step in plan.steps if step.kind == "start_container"]


def test_the_order_first_then_other_gpu_containers_of_endpoints() -> None:
    inv = inventory(("b", "a"), ready_timeout="90s", hard_timeout="10m")
    plan = plan_queue(inv, snapshot(inv), "mark")
    assert queued(plan) == ["b", "a", "c"]
    assert [step.command for step in plan.steps] == ["docker start b", "docker start a", "docker start c"]
    assert [step.arguments["gap"] for step in plan.steps] == [5.0, 5.0, 0.0]
    assert {(step.arguments["patience"], step.time_limit) for step in plan.steps} == {(90.0, 600.0)}
    assert {step.danger for step in plan.steps} == {Danger.CHANGES}
    assert plan.targets == ("b", "a", "c")
    assert plan.title == "Start queue of mark: start b, a, c"
    assert plan.blast.interrupts == ()
    assert from_json(to_json(plan)) == plan


def test_what_is_ready_is_left_alone() -> None:
    inv = inventory()
    snap = snapshot(inv, (box("a", "running"), box("b", "running"), box("c")), a=Cause.OK, b=Cause.LOADING)
    plan = plan_queue(inv, snap, "mark")
    assert [step.kind for step in plan.steps] == ["leave_alone", "start_container", "start_container"]
    assert "already ready, left alone" in plan.steps[0].label
    assert plan.targets == ("b", "c")
    assert "1 ready already" in plan.title


@pytest.mark.parametrize("cause", [Cause.OK, Cause.SLEEPING, Cause.BUSY, Cause.RATE_LIMITED])
def test_everything_ready(cause: Cause) -> None:
    inv = inventory(("a",))
    snap = snapshot(inv, (box("a", "running"), box("cpu", gpu=False)), a=cause)
    plan = plan_queue(inv, snap, "mark")
    assert queued(plan) == []
    assert plan.danger is Danger.NONE
    assert "nothing to do" in describe(plan)[0]


@pytest.mark.parametrize(
    "cause", [Cause.REFUSED, Cause.LOADING, Cause.TIMEOUT, Cause.STALE, Cause.CONFIG, Cause.STALLED]
)
def test_running_and_not_ready_is_queued(cause: Cause) -> None:
    inv = inventory(("a",))
    assert queued(plan_queue(inv, snapshot(inv, (box("a", "running"),), a=cause), "mark")) == ["a"]


def test_without_an_endpoint_the_health_check_tells() -> None:
    inv = inventory(("z",))
    for health, ready in (("healthy", True), ("unhealthy", False), ("starting", False), (None, True)):
        snap = snapshot(inv, (box("z", "running", health=health),))
        plan = plan_queue(inv, snap, "mark")
        assert (queued(plan) == []) is ready
        assert any("No endpoint in cluster.toml" in w for w in plan.warnings)


def test_restart_interrupts_and_says_whom() -> None:
    inv = inventory()
    snap = snapshot(inv, (box("a"), box("b", "running"), box("c")), b=Cause.OK, x=Cause.OK)
    plan = plan_queue(inv, snap, "mark", only=["a", "b"], restart=True)
    assert queued(plan) == ["a", "b"]
    assert [step.danger for step in plan.steps] == [Danger.CHANGES, Danger.INTERRUPTS]
    assert plan.steps[1].command == "docker stop b; docker start b"
    assert plan.steps[1].arguments["since"] == 1.0
    assert plan.blast.interrupts == ("remote/b (code, chat, 2 requests in flight)",)
    assert plan.blast.serves_meanwhile == ("code: nobody", "chat: nas/x")


def test_only() -> None:
    inv = inventory(("b", "a"))
    assert queued(plan_queue(inv, snapshot(inv), "mark", only=["a", "b"])) == ["b", "a"]
    assert queued(plan_queue(inv, snapshot(inv), "mark", only=["cpu", "a", "a"])) == ["a", "cpu"]


def test_cpu_containers_pass_no_gpu_gate() -> None:
    inv = inventory(("cpu", "a"))
    steps = plan_queue(inv, snapshot(inv, (box("a"), box("cpu", gpu=False))), "mark").steps
    assert (steps[0].arguments["gpu"], steps[0].arguments["gap"]) == (False, 0.0)
    assert steps[1].arguments["gpu"] is True


def test_started_on_demand_is_left_out_unless_named() -> None:
    inv = inventory(("spare", "a"))
    plan = plan_queue(inv, snapshot(inv), "mark")
    assert queued(plan) == ["a", "b", "c"]
    assert any(w.startswith("spare is started on demand") for w in plan.warnings)
    assert queued(plan_queue(inv, snapshot(inv), "mark", only=["spare"])) == ["spare"]


def test_an_order_that_names_one_twice_starts_it_once() -> None:
    inv = inventory(("a", "b", "a"))
    assert queued(plan_queue(inv, snapshot(inv), "mark")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("order", "only", "node", "words"),
    [
        (("mark-vv",), None, "mark", r'queue\.order of mark names "mark-vv".*Nearest: "mark-v".*Correct cluster\.toml'),
        (("zzz",), None, "mark", r"no such container\. Correct"),
        ((), ["mark-w"], "mark", r'mark has no container "mark-w"\. Nearest: "mark-v"'),
        ((), None, "mork", r'no node "mork"\. Nearest: "mark"'),
        ((), [], "mark", r"nothing to queue"),
    ],
)
def test_mistakes(order: tuple[str, ...], only: list[str] | None, node: str, words: str) -> None:
    inv = inventory(order)
    with pytest.raises(ProcedureError, match=words):
        plan_queue(inv, snapshot(inv, (box("mark-v"), box("a"))), node, only=only)


def test_an_empty_order_with_nothing_to_do() -> None:
    inv = inventory(())
    with pytest.raises(ProcedureError, match=r"mark has nothing to queue.*queue = \{ order"):
        plan_queue(inv, snapshot(inv, (box("cpu", gpu=False),)), "mark")


def test_a_node_that_was_not_read() -> None:
    inv = inventory()
    snap = snapshot(inv, ())
    bare = NodeState("mark")
    with pytest.raises(ProcedureError, match="not been read"):
        plan_queue(inv, replace(snap, nodes={"mark": bare}), "mark")
    dark = replace(bare, workloads_trouble=Trouble("ssh: no route to host.", "Is it on?"))
    with pytest.raises(ProcedureError, match=r"no route to host\. Is it on\?"):
        plan_queue(inv, replace(snap, nodes={"mark": dark}), "mark")


def test_warnings() -> None:
    inv = inventory(("a",), gpus="none")
    workloads = (box("a", restart_policy="always"), box("b", "running"), box("other", "restarting"))
    warnings = " ".join(plan_queue(inv, snapshot(inv, workloads, b=Cause.LOADING), "mark", only=["a"]).warnings)
    for words in (
        "At the next boot Docker starts by itself, past this queue: a (always)",
        "b runs and is not ready",
        "other runs and is not ready",
        "cannot be read",
    ):
        assert words in warnings


def test_names_are_quoted_in_the_calls_shown() -> None:
    inv = inventory(("a b;c",))
    plan = plan_queue(inv, snapshot(inv, (box("a b;c"),)), "mark")
    assert plan.steps[0].command == "docker start 'a b;c'"
