"""Everything bad that can meet a recovery: it says what, leaves nothing running or open, and is resumed once cured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from pydantic import SecretStr

from backends.cluster.faults import Fault
from backends.cluster.inventory import Inventory
from backends.errors import ProcedureError, RdpError, SecretError, SshError
from backends.procedures.events import StepEvent
from backends.procedures.kinds import KINDS
from backends.procedures.plan import Plan
from backends.procedures.runner import Control, past_of, run
from backends.reach.runtime import Completed
from tests.procedures.host import Box, Host
from tests.procedures.test_recovery import BOTH, MAC, SECRET, World, inventory, plan_for, story
from tests.procedures.test_runner import Kept, Killed
from tests.procedures.virtual import VirtualClock, virtually

SUDO = {"sudo": "env:SUDO"}


@dataclass
class Ill(World):
    """A node at which some things fail until it is cured; `open` are the commands and sessions that go on."""

    shell: Exception | None = None
    hangs: bool = False
    vault: Exception | None = None
    refuses: Exception | None = None
    open: list[str] = field(default_factory=list)

    def cure(self) -> None:
        self.shell = self.vault = self.refuses = self.dies = None
        self.hangs, self.sudo, self.wakes_after = False, "", 1

    @contextmanager
    def going(self, what: str) -> Iterator[None]:
        self.open.append(what)
        try:
            yield
        finally:
            self.open.remove(what)

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        with self.going("command"):
            if self.shell:
                raise self.shell
            if self.hangs:
                await asyncio.sleep(timeout)
                raise TimeoutError
            return await super().run(argv, stdin=stdin, timeout=timeout)

    async def secret(self, reference: str) -> SecretStr:
        if self.vault:
            raise self.vault
        return await super().secret(reference)

    @asynccontextmanager
    async def desktop(self, node: str) -> AsyncGenerator[Callable[[], None], None]:
        if self.refuses:
            raise self.refuses
        with self.going("session"):
            async with super().desktop(node) as still_open:
                yield still_open


async def climb(world: Ill, plan: Plan, inv: Inventory, journal: Kept) -> list[StepEvent]:
    """Climb, or go on after what the journal holds; nothing of it runs on or stays open afterwards."""
    before = asyncio.all_tasks()
    context = replace(world.host.context(inv), shell=lambda node: world, touch=world)
    events = run(
        plan, KINDS, context, procedure="p", journal=journal, ask=None, control=Control(), clock=VirtualClock(),
        past=past_of(journal.events),
    )  # fmt: skip
    try:
        return [event async for event in events]
    finally:
        left = [task.get_coro() for task in asyncio.all_tasks() - before]
        assert [each for each in left if getattr(each, "__qualname__", "") != "Host._live"] == [], (
            "only its containers live on"
        )
        assert world.open == []
        assert world.sessions.count("opened") == world.sessions.count("disconnected")
        assert SECRET not in repr(journal.events)


def healed(world: Ill, plan: Plan, inv: Inventory) -> list[StepEvent]:
    """Climb in vain, be cured, and go on; what was said before the cure."""

    async def go() -> list[StepEvent]:
        journal = Kept()
        try:
            said = await climb(world, plan, inv, journal)
            world.cure()
            assert (await climb(world, plan, inv, journal))[-1].outcome == "done"
            return said
        finally:
            world.host.close()

    return virtually(go())


PASSWORD = RdpError("mark: the user name or the password for its desktop is wrong.", fault="password")
CASES: dict[str, tuple[Fault, dict[str, Any], dict[str, Any], str, str]] = {
    "wrong password for sudo": (Fault.DOCKER_DOWN, SUDO, {"sudo": "another"}, "restart_docker", "for sudo is wrong"),
    "wrong password for the desktop": (
        Fault.NOBODY_LOGGED_IN, {"wake": BOTH}, {"refuses": PASSWORD}, "desktop_session", "password for its desktop",
    ),
    "expired secret": (
        Fault.DOCKER_DOWN, SUDO, {"vault": SecretError("vault:a#b: Vault does not accept the token.", "vault login")},
        "restart_docker", "vault login",
    ),
    "vault sealed": (
        Fault.DOCKER_DOWN, SUDO, {"vault": SecretError("vault:a#b: Vault is sealed.", "vault operator unseal")},
        "restart_docker", "sealed",
    ),
    "vault down": (
        Fault.DOCKER_DOWN, SUDO, {"vault": SecretError("vault:a#b: Vault is not reached.", "Is it running?")},
        "restart_docker", "not reached",
    ),
    "unknown host key": (
        Fault.DOCKER_DOWN, {}, {"shell": SshError("mark: its host key is not known.", "ssh-keyscan mark")},
        "restart_docker", "ssh-keyscan",
    ),
    "a password prompt": (Fault.DOCKER_DOWN, {}, {"sudo": "asked for"}, "restart_docker", "asks for a password"),
    "a rung that hangs": (Fault.DOCKER_DOWN, {}, {"hangs": True}, "restart_docker", "did not"),
    "a session that ends too early": (
        Fault.NOBODY_LOGGED_IN, {"wake": BOTH}, {"dies": SshError("The session ended.")}, "desktop_session", "ended",
    ),
    "a machine that does not wake": (
        Fault.ASLEEP, {"wake": {"mac": MAC}}, {"awake": False, "wakes_after": 10_000}, "wake", "in vain",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_named_nothing_is_left_open_and_cured_it_goes_on(case: str) -> None:
    fault, more, ill, step, words = CASES[case]
    inv = inventory("a", **more)
    world, plan = Ill(Host(Box("a")), **ill), plan_for(fault, inv)
    world.host.down = world.awake
    events = healed(world, plan, inv)
    assert story(events, plan)[-2:] == [f"failed {step}", "finished halted"]
    assert words in events[-2].text


def test_a_node_that_dies_again_in_mid_recovery() -> None:
    inv = inventory("a", "b")
    world, plan = Ill(Host(Box("a"), Box("b"))), plan_for(Fault.DOCKER_DOWN, inv)
    world.host.down = True

    async def dies_again() -> None:
        while not world.host.starts:
            await asyncio.sleep(0.5)
        world.host.end("a")
        world.host.down = True

    async def go() -> list[StepEvent]:
        journal, again = Kept(), asyncio.create_task(dies_again())
        said = await climb(world, plan, inv, journal)
        await again
        assert (await climb(world, plan, inv, journal))[-1].outcome == "done"
        world.host.close()
        return said

    events = virtually(go())
    assert story(events, plan)[-2:] == ["failed start_queue", "finished halted"]
    assert [name for _, name in world.host.starts] == ["a", "a", "b"]


LADDER: dict[str, tuple[Fault, dict[str, Any], dict[str, Any]]] = {
    "Docker": (Fault.DOCKER_DOWN, SUDO, {"sudo": SECRET}),
    "the desktop": (Fault.NOBODY_LOGGED_IN, {"wake": BOTH}, {}),
    "sleep": (Fault.ASLEEP, {"wake": {"mac": MAC}}, {"awake": False}),
}


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("ladder", LADDER)
def test_killed_at_every_edge_and_resumed_it_is_whole_and_nothing_ran_beside(ladder: str, written: bool) -> None:
    fault, more, ill = LADDER[ladder]
    inv = inventory("a", "b", **more)
    plan = plan_for(fault, inv)

    def fresh() -> Ill:
        world = Ill(Host(Box("a"), Box("b")), **ill)
        world.host.down = True
        return world

    async def go(edge: int | None) -> list[int]:
        """The lines of the journal, counted from 1, at which a step begins or ends."""
        world, journal = fresh(), Kept(edge, written)
        if edge is not None:
            with pytest.raises(Killed):
                await climb(world, plan, inv, journal)
            journal.die_at = None
        assert (await climb(world, plan, inv, journal))[-1].outcome == "done", (edge, [e.text for e in journal.events])
        assert {box.phase for box in world.host.boxes.values()} == {"ready"}, edge
        assert world.host.most_at_once == 1, edge
        world.host.close()
        return [number for number, event in enumerate(journal.events, 1) if event.event != "output"]

    edges = virtually(go(None))
    assert len(edges) > len(plan.steps)
    for edge in edges:
        virtually(go(edge))


@pytest.mark.parametrize(
    ("more", "fault", "words"),
    [
        ({"ssh": None}, Fault.ASLEEP, "no way to wake mark"),
        ({"ssh": None, "docker": False}, Fault.DESKTOP_ONLY, "Somebody has to log in"),
        ({"ssh": None, "docker": False}, Fault.UNTOUCHABLE, "Give it ssh in cluster.toml"),
    ],
)
def test_a_node_without_ssh_or_docker_is_told_what_it_lacks(more: dict[str, Any], fault: Fault, words: str) -> None:
    with pytest.raises(ProcedureError) as refused:
        plan_for(fault, inventory("a", **more))
    assert words in f"{refused.value}"
