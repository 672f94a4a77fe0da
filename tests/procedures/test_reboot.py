"""A reboot: the plan, and how a machine is drained, gone and back, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from backends.cluster.fold import empty, fold
from backends.cluster.reading import (
    EndpointReading,
    Instant,
    MaintenanceReading,
    ProbeResult,
    Progress,
    Reading,
    Workload,
    WorkloadReading,
)
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.words import Cause
from backends.errors import CommandError, ProcedureError, SshError
from backends.maintenance import Maintenance
from backends.procedures.away import Leaving
from backends.procedures.booted import boot_mark, is_same_boot
from backends.procedures.events import StepEvent
from backends.procedures.kinds import KINDS
from backends.procedures.plan import Danger, Plan, from_json, to_json
from backends.procedures.reboot import plan_reboot
from backends.procedures.runner import Control, run
from backends.reach.runtime import Completed
from tests.procedures.host import Box, Host
from tests.procedures.test_recovery import MAC, RDP, Kept, World, inventory, story
from tests.procedures.virtual import EPOCH, VirtualClock, virtually

NOW = Instant(EPOCH, 0.0)
STEPS = ["begin_maintenance", "drain", "reboot", "wait_docker", "start_queue", "healthy", "end_maintenance"]


@dataclass
class Machine(World):
    """A node that is booted anew by its command, after `down` seconds, within `up`; `requests` are in flight."""

    boots: int = 1
    down: float = 4.0
    up: float = 30.0
    refuses: str = ""
    breaks: Exception | None = None
    ssh_back: bool = True
    requests: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        if argv[0] == "cat":
            if not self.awake or (self.boots > 1 and not self.ssh_back):
                raise SshError("mark did not answer.")
            return Completed(0, f"boot-{self.boots}\n", "")
        self.asked.append((tuple(argv), stdin))
        if self.refuses:
            return Completed(1, "", self.refuses)
        self.tasks.append(asyncio.create_task(self._boot()))
        if self.breaks:
            raise self.breaks
        return Completed(0, "", "")

    async def _boot(self) -> None:
        await asyncio.sleep(self.down)
        self.awake = False
        for name in [box.name for box in self.host.boxes.values() if box.state == "running"]:
            self.host.end(name)
        self.host.down = True
        await asyncio.sleep(self.up)
        self.boots += 1
        self.awake, self.host.down = True, False
        for box in self.host.boxes.values():
            if box.policy == "always":
                self.host.begin(box.name)


def seen(inv_names: Sequence[str] = ("a",), *, running: bool = True, until: float = 0.0) -> ClusterSnapshot:
    inv = inventory(*inv_names)
    snapshot = empty(inv, here=None)
    workloads = tuple(Workload(name, "docker", "running" if running else "exited", gpu=True) for name in inv_names)
    readings: list[Reading] = [
        WorkloadReading("mark", NOW, workloads),
        MaintenanceReading(NOW, {"mark": until} if until else {}),
    ]
    busy = ProbeResult(Cause.OK, "ok", progress=Progress(running=2))
    readings += [EndpointReading(f"remote/{name}", NOW, busy, 5.0, 3.0) for name in inv_names]
    for reading in readings:
        snapshot = fold(inv, snapshot, reading)
    return snapshot


def test_the_plan() -> None:
    inv = inventory("a", sudo="env:SUDO")
    plan = plan_reboot(inv, seen(), "mark", "boot-1", Leaving())
    assert [step.kind for step in plan.steps] == STEPS
    assert plan.danger is Danger.INTERRUPTS
    assert plan.blast.interrupts == ("remote/a (chat, 2 requests in flight)",)
    assert plan.steps[2].command == "sudo systemctl reboot  (its password by standard input)"
    assert from_json(to_json(plan)) == plan
    idle = plan_reboot(inv, seen(running=False), "mark", "boot-1", Leaving())
    assert (idle.danger, idle.blast.interrupts) == (Danger.CHANGES, ())


def test_maintenance_that_a_person_began_is_left_as_it_is() -> None:
    plan = plan_reboot(inventory("a"), seen(until=EPOCH + 9e6), "mark", "boot-1", Leaving())
    assert [step.kind for step in plan.steps] == STEPS[1:-1]
    assert "under maintenance already" in plan.warnings[0]


def test_docker_that_comes_only_with_a_desktop_session() -> None:
    inv = inventory("a", wake={"mac": MAC, "rdp": RDP}, os="windows")
    steps = plan_reboot(inv, seen(), "mark", "1", Leaving()).steps
    assert [step.kind for step in steps][2:6] == ["reboot", "wait_docker", "desktop_session", "wait_docker"]
    assert steps[2].command == "shutdown /r /t 0"


def test_the_machine_one_stands_on_is_not_rebooted() -> None:
    with pytest.raises(ProcedureError, match="the procedure would end with it"):
        plan_reboot(inventory("a"), empty(inventory("a"), here="mark"), "mark", "1", Leaving())


def rebooted(machine: Machine, folder: Path, plan: Plan | None = None) -> tuple[list[StepEvent], Plan]:
    names = list(machine.host.boxes)
    inv = inventory(*names)
    plan = plan or plan_reboot(inv, seen(names), "mark", "boot-1", Leaving())

    async def probe(name: str) -> ProbeResult:
        found = await machine.host.probe(inv, name)
        machine.requests = max(0, machine.requests - 1)
        return replace(found, progress=Progress(running=machine.requests))

    async def go() -> list[StepEvent]:
        context = replace(
            machine.host.context(inv),
            shell=lambda node: machine,
            touch=machine,
            probe=probe,
            maintenance=Maintenance(folder),
        )
        try:
            clock = VirtualClock()
            events = run(plan, KINDS, context, procedure="p", journal=Kept(), ask=None, control=Control(), clock=clock)
            return [event async for event in events]
        finally:
            for task in machine.tasks:
                task.cancel()
            machine.host.close()

    return virtually(go()), plan


def test_a_reboot_from_the_first_request_to_the_last_container(tmp_path: Path) -> None:
    machine = Machine(Host(Box("a", policy="always"), Box("b", policy="always"), Box("c")), requests=20)
    events, plan = rebooted(machine, tmp_path)
    assert story(events, plan) == [
        "done begin_maintenance", "done drain", "done reboot", "skipped wait_docker", "done start_queue",
        "done healthy", "done end_maintenance", "finished done",
    ]  # fmt: skip
    assert any(event.text.startswith("in flight: remote/a: ") for event in events)
    assert any(event.text.startswith("gone after ") for event in events)
    assert machine.asked == [(("sudo", "-n", "systemctl", "reboot"), b"")]
    assert all(box.phase == "" or box.state == "running" for box in machine.host.boxes.values())
    assert machine.host.beside == 0, "what came up by itself, all at once, was stopped and queued"
    assert Maintenance(tmp_path).read() == {}


@pytest.mark.parametrize("breaks", [SshError("cut"), TimeoutError(), CommandError("cut", status=None)])
def test_that_the_connection_breaks_is_what_is_wanted(breaks: Exception, tmp_path: Path) -> None:
    events, plan = rebooted(Machine(Host(Box("a")), breaks=breaks), tmp_path)
    assert "done reboot" in story(events, plan)


def test_a_machine_whose_ssh_comes_only_with_a_session_was_gone_and_answers(tmp_path: Path) -> None:
    events, plan = rebooted(Machine(Host(Box("a")), ssh_back=False), tmp_path)
    assert "done reboot" in story(events, plan)
    assert any("without SSH yet: 10.0.10.20:22 answers" in event.text for event in events)


@pytest.mark.parametrize(
    ("machine", "step", "words"),
    [
        ({"refuses": "sudo: a password is required"}, "reboot", "sudo asks for a password"),
        ({"down": 10_000.0}, "reboot", "has not gone down within 300 s"),
        ({"up": 10_000.0}, "reboot", "in vain"),
        ({"requests": 10_000}, "drain", "still works after 60"),
    ],
)
def test_what_can_go_wrong_halts_and_leaves_it_alone(
    machine: dict[str, object], step: str, words: str, tmp_path: Path
) -> None:
    events, plan = rebooted(Machine(Host(Box("a")), **machine), tmp_path)  # type: ignore[arg-type]
    assert story(events, plan)[-2:] == [f"failed {step}", "finished halted"]
    assert words in events[-2].text
    assert Maintenance(tmp_path).read()["mark"] > EPOCH


def test_resumed_after_the_reboot_it_is_not_rebooted_again(tmp_path: Path) -> None:
    events, plan = rebooted(Machine(Host(Box("a")), boots=2), tmp_path)
    assert "skipped reboot" in story(events, plan)
    assert any(event.text == "it was booted since the plan was made" for event in events)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("abc-1", "abc-1", True), ("abc-1", "abc-2", False), ("1800000000", "1800000012", True),
     ("1800000000", "1800000100", False)],
)  # fmt: skip
def test_marks_of_one_boot(one: str, other: str, same: bool) -> None:
    assert is_same_boot(one, other) is same


async def test_a_node_that_does_not_say_when_it_was_booted() -> None:
    class Mute:
        async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
            return Completed(1, "", "cat: no such file")

    with pytest.raises(Exception, match="does not say when it was booted: cat: no such file"):
        await boot_mark(inventory("a").node_named["mark"], Mute())  # type: ignore[arg-type]
