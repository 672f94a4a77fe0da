"""The recovery ladder: the plan that follows from a fault, and how it is climbed, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from pydantic import SecretStr

from backends.cluster.faults import HOLDS, Check, Diagnosis, Fault
from backends.cluster.fold import empty
from backends.cluster.inventory import Inventory
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Rung
from backends.errors import ProcedureError, SshError
from backends.procedures.events import StepEvent
from backends.procedures.kinds import KINDS
from backends.procedures.plan import Danger, Plan, describe, from_json, to_json
from backends.procedures.recovery import plan_recovery
from backends.procedures.runner import Control, run
from backends.reach.runtime import Completed
from tests.procedures.host import Box, Host
from tests.procedures.virtual import VirtualClock, virtually

SECRET = "correct horse"


def inventory(*names: str, wake: object = None, sudo: str | None = None, **more: object) -> Inventory:
    """A node "mark" with these containers."""
    node: dict[str, object] = {
        "name": "mark",
        "address": "10.0.10.20",
        "ssh": {"user": "ops"},
        "queue": {"order": list(names), "gap": "1s", "ready_timeout": "60s"},
        "wake": wake,
        "sudo": sudo,
    }
    return Inventory.model_validate(
        {
            "version": 1,
            "name": "lumina",
            "nodes": [node | more],
            "tiers": [{"name": "REMOTE"}],
            "endpoints": [
                {"name": f"remote/{n}", "tier": "REMOTE", "node": "mark", "engine": "llama.cpp",
                 "url": "http://10.0.10.20:3009", "container": n}
                for n in names
            ],
        }
    )  # fmt: skip


RDP = {"user": "ops", "password": "env:RDP"}
MAC = "AA:BB:CC:DD:EE:FF"
BOTH = {"mac": MAC, "rdp": RDP}


def snapshot(inv: Inventory) -> ClusterSnapshot:
    return empty(inv, here=None)


def plan_for(fault: Fault, inv: Inventory, **more: object) -> Plan:
    diagnosis = Diagnosis("mark", fault, checks=(Check("ssh", "bad", "no answer"),))
    return plan_recovery(inv, snapshot(inv), diagnosis, **more)  # type: ignore[arg-type]


AFTER = ["wait_docker", "start_queue", "healthy"]


@pytest.mark.parametrize(
    ("fault", "wake", "start", "kinds"),
    [
        (Fault.DOCKER_DOWN, None, None, ["restart_docker", *AFTER]),
        (Fault.DOCKER_DOWN, BOTH, None, ["restart_docker", "desktop_session", *AFTER]),
        (Fault.NOBODY_LOGGED_IN, BOTH, None, ["desktop_session", *AFTER]),
        (Fault.DESKTOP_ONLY, BOTH, None, ["desktop_session", *AFTER]),
        (Fault.ASLEEP, {"mac": MAC}, None, ["wake", "wait_docker", "restart_docker", *AFTER]),
        (Fault.ASLEEP, {"command": "ipmi on"}, None, ["wake", "wait_docker", "restart_docker", *AFTER]),
        (Fault.ASLEEP, BOTH, None, ["wake", "wait_docker", "restart_docker", "desktop_session", *AFTER]),
        (Fault.DOCKER_DOWN, BOTH, "rdp", ["desktop_session", *AFTER]),
        (Fault.NONE, {"mac": MAC}, "wake", ["wake", "wait_docker", "restart_docker", *AFTER]),
    ],
)
def test_the_plan_that_follows_from_a_fault(fault: Fault, wake: object, start: Rung | None, kinds: list[str]) -> None:
    plan = plan_for(fault, inventory("a", wake=wake), start=start)
    assert [step.kind for step in plan.steps] == kinds
    assert from_json(to_json(plan)) == plan
    assert "seen: ssh: no answer" in "\n".join(describe(plan))
    last_rung = [s for s in plan.steps if s.kind not in AFTER][-1]
    assert not last_rung.may_fail
    assert all(s.may_fail for s in plan.steps if s.kind == "restart_docker" and s is not last_rung)


@pytest.mark.parametrize("fault", sorted(HOLDS))
def test_what_no_rung_cures_is_said_with_what_does(fault: Fault) -> None:
    with pytest.raises(ProcedureError) as refused:
        plan_for(fault, inventory("a", wake=BOTH))
    assert refused.value.advice


@pytest.mark.parametrize(
    ("fault", "wake", "advice"),
    [
        (Fault.ASLEEP, None, "no way to wake mark"),
        (Fault.ASLEEP, {"rdp": RDP}, "no way to wake mark"),
        (Fault.DESKTOP_ONLY, {"mac": MAC}, "Somebody has to log in"),
        (Fault.NOBODY_LOGGED_IN, None, "Somebody has to log in"),
        (Fault.NONE, BOTH, "tierdeck status"),
    ],
)
def test_where_nothing_can_be_climbed(fault: Fault, wake: object, advice: str) -> None:
    with pytest.raises(ProcedureError, match=advice):
        plan_for(fault, inventory("a", wake=wake))


def test_no_higher_than_allowed_and_nothing_woken_unattended_without_a_lock_host() -> None:
    with pytest.raises(ProcedureError, match="above containers"):
        plan_for(Fault.DOCKER_DOWN, inventory("a", wake=BOTH), highest="containers")
    plan = plan_for(Fault.DOCKER_DOWN, inventory("a", wake=BOTH), highest="docker")
    assert [s.kind for s in plan.steps] == ["restart_docker", *AFTER]
    with pytest.raises(ProcedureError, match="lock_host"):
        plan_for(Fault.ASLEEP, inventory("a", wake=BOTH), unattended=True)


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({}, "sudo -n systemctl restart docker"),
        ({"sudo": "env:SUDO"}, "sudo systemctl restart docker  (its password by standard input)"),
        ({"ssh": {"user": "root"}}, "systemctl restart docker"),
        ({"docker": {"restart": "service docker restart"}}, "service docker restart"),
        ({"docker": {"socket": "/run/user/1000/docker.sock"}}, "systemctl --user restart docker"),
        ({"os": "windows"}, "docker desktop restart (else its processes and service)"),
        ({"os": "macos"}, "docker desktop restart (else quit and open Docker)"),
    ],
)
def test_the_exact_command_is_shown(more: dict[str, object], shown: str) -> None:
    plan = plan_for(Fault.DOCKER_DOWN, inventory("a", **more))  # type: ignore[arg-type]
    assert plan.steps[0].command == shown
    assert SECRET not in "\n".join(describe(plan))


@dataclass
class World:
    """A node around a Host: how its Docker, its machine and its desktop behave when they are touched."""

    host: Host
    awake: bool = True
    sudo: str = ""
    """The password that sudo wants; "" where it asks for none."""
    docker_cures: bool = True
    desktop_cures: bool = True
    wakes_after: int = 1
    users: tuple[str, ...] | None = None
    asked: list[tuple[tuple[str, ...], bytes]] = field(default_factory=list)
    woken: int = 0
    sessions: list[str] = field(default_factory=list)
    dies: Exception | None = None

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        self.asked.append((tuple(argv), stdin))
        if not self.awake:
            raise SshError("mark did not answer.")
        if self.sudo and stdin != self.sudo.encode() + b"\n":
            return Completed(1, "", "sudo: a password is required" if not stdin else "Sorry, try again.")
        await asyncio.sleep(2)
        if self.docker_cures:
            self.host.down = False
        return Completed(0, "", "")

    def lines(self, argv: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        raise AssertionError(argv)

    async def alive(self, node: str) -> str:
        return "10.0.10.20:22 answers" if self.awake else ""

    async def secret(self, reference: str) -> SecretStr:
        return SecretStr(SECRET)

    async def wake(self, node: str) -> str:
        self.woken += 1
        self.awake = self.woken >= self.wakes_after
        return "packet sent"

    async def logged_in(self, node: str) -> tuple[str, ...] | None:
        return self.users

    @asynccontextmanager
    async def desktop(self, node: str) -> AsyncGenerator[Callable[[], None], None]:
        self.sessions.append("opened")
        task = asyncio.create_task(self._logon())
        try:
            yield self._still_open
        finally:
            task.cancel()
            self.sessions.append("disconnected")

    async def _logon(self) -> None:
        await asyncio.sleep(8)
        if self.desktop_cures:
            self.awake, self.host.down = True, False

    def _still_open(self) -> None:
        if self.dies:
            raise self.dies


class Kept:
    def write(self, event: StepEvent) -> None:
        """Keep nothing."""


def climbed(
    world: World, plan: Plan, inv: Inventory, meanwhile: Callable[[], Awaitable[None]] | None = None
) -> list[StepEvent]:
    async def go() -> list[StepEvent]:
        context = replace(world.host.context(inv), shell=lambda node: world, touch=world)
        other = asyncio.ensure_future(meanwhile()) if meanwhile else None
        try:
            events = run(
                plan, KINDS, context, procedure="p", journal=Kept(), ask=None, control=Control(), clock=VirtualClock()
            )
            return [event async for event in events]
        finally:
            if other:
                other.cancel()
            world.host.close()

    return virtually(go())


def story(events: Sequence[StepEvent], plan: Plan) -> list[str]:
    kept = ("step_done", "step_skipped", "step_failed", "finished")
    return [
        f"{e.event.removeprefix('step_')} {plan.steps[e.step].kind if e.step is not None else e.outcome}"
        for e in events
        if e.event in kept
    ]


WELL = ["done start_queue", "done healthy", "finished done"]


def test_docker_restarted_and_everything_started_one_after_the_other() -> None:
    inv = inventory("a", "b", "c", sudo="env:SUDO")
    world = World(Host(Box("a", policy="always"), Box("b", policy="always"), Box("c")), sudo=SECRET)
    world.host.down = True
    plan = plan_for(Fault.DOCKER_DOWN, inv)
    events = climbed(world, plan, inv)
    assert story(events, plan) == ["done restart_docker", "skipped wait_docker", *WELL]
    assert world.asked == [(("sudo", "-S", "-p", "", "systemctl", "restart", "docker"), SECRET.encode() + b"\n")]
    assert world.host.most_at_once == 1
    assert [name for _, name in world.host.starts] == ["a", "b", "c"]
    assert SECRET not in repr(events)


@pytest.mark.parametrize(("init", "stopped"), [(1.5, {"b", "z"}), (0.01, {"a", "b", "z"})])
def test_what_came_up_by_itself_with_docker_is_stopped_but_for_one_and_queued(init: float, stopped: set[str]) -> None:
    """The first goes on; where those beside it had locked it up by then, it is stopped, too."""
    inv = inventory("a", "b")
    world = World(Host(*(Box(name, policy="always", init=init) for name in ("a", "b", "z"))))
    plan = plan_for(Fault.DOCKER_DOWN, inv)

    async def docker_dies() -> None:
        await world.host.restart_docker(20.0)

    world.host.down = True
    world.docker_cures = False
    events = climbed(world, plan, inv, docker_dies)
    assert story(events, plan)[-1] == "finished done", events[-1]
    assert {name for _, name in world.host.stops} == stopped
    assert set(world.host.ready_at) == {"a", "b", "z"}
    assert any("a hangs; stopped, and queued" in e.text for e in events) == ("a" in stopped)
    assert world.host.beside == 0


def test_a_docker_rung_that_does_not_help_is_followed_by_the_desktop_session_held_for_a_minute() -> None:
    inv = inventory("a", wake=BOTH)
    world = World(Host(Box("a")), docker_cures=False, users=("anna",))
    world.host.down = True
    plan = plan_for(Fault.DOCKER_DOWN, inv)
    events = climbed(world, plan, inv)
    assert story(events, plan) == ["failed restart_docker", "done desktop_session", "skipped wait_docker", *WELL]
    assert world.sessions == ["opened", "disconnected"]
    texts = [e.text for e in events]
    assert "logged in there: anna" in texts
    opened = next(e.at for e in events if e.text.startswith("desktop session open"))
    closed = next(e.at for e in events if e.event == "step_done" and e.text.startswith("Docker 1 answers; the session"))
    assert 66 <= closed - opened <= 80


def test_nobodys_desktop_is_taken_unattended() -> None:
    inv = inventory("a", wake=BOTH)
    world = World(Host(Box("a")), users=("anna",))
    world.host.down = True
    plan = plan_for(Fault.NOBODY_LOGGED_IN, inv, unattended=True)
    events = climbed(world, plan, inv)
    assert story(events, plan) == ["failed desktop_session", "finished halted"]
    assert "anna is logged in on mark: unattended, nobody's desktop is taken." in events[-2].text
    assert world.sessions == []


def test_a_session_that_ends_too_early_is_named() -> None:
    inv = inventory("a", wake=BOTH)
    world = World(Host(Box("a")), desktop_cures=False, dies=SshError("The session ended: logged off."))
    world.host.down = True
    plan = plan_for(Fault.NOBODY_LOGGED_IN, inv)
    events = climbed(world, plan, inv)
    assert story(events, plan) == ["failed desktop_session", "finished halted"]
    assert "logged off" in events[-2].text
    assert world.sessions == ["opened", "disconnected"]


def test_a_machine_is_woken_until_it_answers() -> None:
    inv = inventory("a", wake={"mac": MAC})
    world = World(Host(Box("a")), awake=False, wakes_after=3)
    plan = plan_for(Fault.ASLEEP, inv)
    events = climbed(world, plan, inv)
    skipped = ["skipped wait_docker", "skipped restart_docker", "skipped wait_docker"]
    assert story(events, plan) == ["done wake", *skipped, *WELL]
    assert world.woken == 3


def test_a_machine_that_does_not_wake_halts_the_ladder() -> None:
    inv = inventory("a", wake={"mac": MAC})
    world = World(Host(Box("a")), awake=False, wakes_after=10_000)
    plan = plan_for(Fault.ASLEEP, inv)
    events = climbed(world, plan, inv)
    assert story(events, plan) == ["failed wake", "finished halted"]
    assert "in vain" in events[-2].text


@pytest.mark.parametrize(
    ("sudo", "given", "advice"),
    [("x", None, "name one, [[nodes]] sudo"), ("x", "env:SUDO", "The password for sudo is wrong")],
)
def test_what_sudo_says(sudo: str, given: str | None, advice: str) -> None:
    inv = inventory("a", sudo=given)
    world = World(Host(Box("a")), sudo=sudo)
    world.host.down = True
    plan = plan_for(Fault.DOCKER_DOWN, inv)
    events = climbed(world, plan, inv)
    assert story(events, plan) == ["failed restart_docker", "finished halted"]
    assert advice in events[-2].text


def test_health_names_what_does_not_serve() -> None:
    inv = inventory("a")
    world = World(Host(Box("a", state="exited", exits_after=1.0)))
    plan = replace(plan_for(Fault.DOCKER_DOWN, inv), steps=plan_for(Fault.DOCKER_DOWN, inv).steps[-1:])
    events = climbed(world, plan, inv)
    assert story(events, plan) == ["failed healthy", "finished halted"]
    assert "remote/a does not serve yet: REFUSED" in events[-2].text


def test_the_danger_of_every_rung_is_told() -> None:
    for fault in (Fault.DOCKER_DOWN, Fault.ASLEEP, Fault.NOBODY_LOGGED_IN):
        assert plan_for(fault, inventory("a", wake=BOTH)).danger is Danger.CHANGES
