"""A node out of the gateway while it is away: however that ends, the file is as it was, and the gateway has read it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

import pytest

from backends.cluster.fold import empty, fold
from backends.cluster.inventory import Inventory
from backends.cluster.reading import EndpointReading, Instant, ProbeResult
from backends.cluster.words import Cause
from backends.errors import ProcedureError, ReachError, SshError
from backends.gateway.without import MARK
from backends.procedures.away import Leaving
from backends.procedures.context import Context
from backends.procedures.events import StepEvent
from backends.procedures.kinds import KINDS
from backends.procedures.leaving import prepare_leaving
from backends.procedures.plan import Danger, Plan, Step, describe, from_json, to_json
from backends.procedures.runner import Ask, Control, Question, Report, past_of, run
from backends.reach.runtime import Completed, Runtime
from tests.procedures.test_gateway import Site
from tests.procedures.test_runner import Kept, Killed

MINE = b"""\
# by hand \xc3\xa9, the key is in here
model_list:\r
  - {model_name: code, litellm_params: {model: openai/m, api_key: sk-mine-0001, api_base: "http://10.0.10.20:8000/v1"}}
  - {model_name: code, litellm_params: {model: openai/n, api_base: "http://10.0.10.5:9001/v1"}}
  - {model_name: chat, litellm_params: {model: openai/m, api_base: "http://10.0.10.20:8000/v1"}}
"""


class Away(Site):
    """The gateway's site, and a node `mark` that is booted by a step of the plan, unless it `refuses`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.file.write_bytes(MINE)
        self.kept.unlink(missing_ok=True)
        self.read = MINE
        self.boots, self.refuses, self.away, self.seen = 1, False, False, b""

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        if self.away:
            raise SshError("mark did not answer.")
        return Completed(0, f"boot-{self.boots}", "")

    def lines(self, argv: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        raise AssertionError(argv)

    # -- the step that boots it ----------------------------------------------------------------------------------------

    async def check(self) -> str:
        return "it was booted since" if self.boots > 1 else ""

    async def apply(self, report: Report) -> None:
        self.seen = self.read
        if self.refuses:
            self.away = True
            raise ProcedureError("It does not come back.")
        self.boots += 1

    async def verify(self, report: Report) -> str:
        return "booted anew"

    async def undo(self) -> None:
        pass

    async def planned(self, inventory: Inventory | None = None, *, serving: bool = True) -> Leaving:
        inventory = inventory or self.inventory
        snapshot = empty(inventory)
        if serving:
            reading = EndpointReading("gw", Instant(1e9, 0.0), ProbeResult(Cause.OK, "ok"), 5.0, 3.0)
            snapshot = fold(inventory, snapshot, reading)

        async def read() -> bytes:
            return self.file.read_bytes()

        return await prepare_leaving(inventory, snapshot, "mark", "boot-1", read)

    async def plan_away(self) -> Plan:
        leaving = await self.planned()
        steps = (*leaving.out, Step("boot", "boot it"), *leaving.back, Step("boot", "look after it"))
        return from_json(to_json(Plan("reboot", "mark", "Reboot mark", steps, warnings=leaving.remarks)))

    async def rebooted(
        self, plan: Plan, *, journal: Kept | None = None, ask: Ask | None = None, control: Control | None = None
    ) -> list[StepEvent]:
        """Carry it out, or go on with it after what the journal holds."""

        async def runtime(node: str, kind: str) -> Runtime:
            return cast("Runtime", self)

        async def nothing(node: str) -> Any:
            return ()

        async def confirm() -> None:
            if self.away:
                raise ReachError("mark keeps its lease, and is away.")

        context = Context(
            self.inventory, self.clock, runtime, nothing, self.probe, nothing, shell=lambda node: self, confirm=confirm
        )
        kinds = {**KINDS, "boot": lambda step, context: self}
        journal = journal or Kept()
        events = run(
            plan, kinds, context, procedure="p", journal=journal, ask=ask, control=control or Control(),
            clock=self.clock, past=past_of(journal.events),
        )  # fmt: skip
        return [event async for event in events]

    def assert_as_before(self) -> None:
        assert self.file.read_bytes() == MINE, "byte for byte"
        assert self.read == MINE, "the gateway runs with it"


@pytest.fixture
def site(tmp_path: Path) -> Away:
    return Away(tmp_path)


async def test_it_is_out_while_it_boots_and_back_as_it_was(site: Away) -> None:
    plan = await site.plan_away()
    words = "\n".join(describe(plan))
    assert "take mark out of gw: code, chat  INTERRUPTS" in words
    assert "put mark back into gw, however this ends" in words
    assert "Through gw nobody serves chat meanwhile." in words
    assert "sk-mine" not in str(to_json(plan)), "a plan is written down, and so holds no text of the file"
    events = await site.rebooted(plan)
    assert events[-1].outcome == "done", [e.text for e in events]
    assert site.seen.decode().startswith(MARK)
    assert b"10.0.10.20" not in site.seen
    assert b"10.0.10.5:9001" in site.seen
    assert site.calls == ["stop litellm", "start litellm"] * 2
    site.assert_as_before()


@pytest.mark.parametrize("answer", ["hold", "abort", "cancel", None])
async def test_it_is_put_back_though_the_node_stays_away(site: Away, answer: str | None) -> None:
    control, plan = Control(), await site.plan_away()
    site.refuses = True

    async def ask(question: Question) -> str:
        if answer == "cancel":
            control.cancel()
            control.cancel()
        return answer or ""

    events = await site.rebooted(plan, ask=ask if answer else None, control=control)
    assert events[-1].outcome == {"abort": "failed", "cancel": "cancelled"}.get(answer or "", "halted")
    assert [e.step for e in events if e.event == "step_done"] == [0, 1, 3], "kept, out, and back"
    assert site.seen.startswith(MARK.encode())
    site.assert_as_before()


async def test_resumed_after_it_halted_it_is_out_once_more(site: Away) -> None:
    plan, journal = await site.plan_away(), Kept()
    site.refuses = True
    await site.rebooted(plan, journal=journal)
    site.refuses, site.away, site.seen = False, False, b""
    assert (await site.rebooted(plan, journal=journal))[-1].outcome == "done"
    assert site.seen.startswith(MARK.encode())
    site.assert_as_before()


async def edges(folder: Path) -> int:
    """How often the journal is written in a run that goes well."""
    journal = Kept()
    site = Away(folder)
    await site.rebooted(await site.plan_away(), journal=journal)
    return journal.writes


@pytest.mark.parametrize("written", [True, False])
async def test_killed_at_every_edge_and_resumed_it_is_as_before(tmp_path: Path, written: bool) -> None:
    count = await edges(tmp_path)
    assert count >= 10
    for edge in range(1, count + 1):
        site, journal = Away(tmp_path), Kept(edge, written)
        plan = await site.plan_away()
        with pytest.raises(Killed):
            await site.rebooted(plan, journal=journal)
        journal.die_at = None
        assert (await site.rebooted(plan, journal=journal))[-1].outcome == "done", edge
        assert site.boots == 2, edge
        site.assert_as_before()


@pytest.mark.parametrize("call", ["stop litellm", "start litellm"])
@pytest.mark.parametrize("time", [0, 1])
async def test_killed_in_the_midst_of_a_restart_and_resumed(site: Away, call: str, time: int) -> None:
    plan, journal = await site.plan_away(), Kept()

    def die(called: str) -> None:
        if called == call and site.calls.count(call) == time:
            journal.die_at = 0
            raise Killed

    site.before = die
    with pytest.raises(Killed):
        await site.rebooted(plan, journal=journal)
    site.before, journal.die_at = (lambda call: None), None
    assert (await site.rebooted(plan, journal=journal))[-1].outcome == "done"
    site.assert_as_before()


async def test_a_gateway_that_does_not_come_back_with_less_gets_its_file_back(site: Away) -> None:
    plan = await site.plan_away()
    site.before = lambda call: (site.down.add if len(site.calls) == 1 else site.down.discard)("gw")
    events = await site.rebooted(plan)
    assert events[-1].outcome == "halted"
    assert "The former file is back, byte for byte" in next(e.text for e in events if e.event == "step_failed")
    assert site.boots == 1, "it is not rebooted"
    site.assert_as_before()


async def test_a_file_that_somebody_changed_meanwhile_is_left_as_it_is(site: Away) -> None:
    plan = await site.plan_away()
    site.before = lambda call: print(site.file.write_bytes(b"model_list: []\n") if len(site.calls) == 1 else 0)
    events = await site.rebooted(plan)
    assert any("was changed by somebody meanwhile" in e.text for e in events)
    assert site.file.read_bytes() == b"model_list: []\n"
    assert site.kept.read_bytes() == MINE


async def test_a_second_reboot_does_not_take_the_short_file_for_the_whole_one(site: Away) -> None:
    site.file.write_bytes(f"{MARK}desk while it is away\n".encode() + MINE)
    with pytest.raises(ProcedureError, match="without a node already") as caught:
        await site.planned()
    assert "config.yaml.tierdeck-before back by hand" in caught.value.advice


def changed(inventory: Inventory, **told: Any) -> Inventory:
    """The inventory with another gateway endpoint, or, without one said, none."""
    *others, gateway = inventory.model_dump(exclude_none=True)["endpoints"]
    gateway = {**gateway, **told} if told else None
    bare = inventory.model_dump(exclude_none=True) | {"endpoints": [*others, *([gateway] if gateway else [])]}
    return Inventory.model_validate(bare if gateway else bare | {"gateway": None})


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, "cluster.toml names no gateway"),
        ({"node": "mark"}, "gw runs on mark"),
        ({"container": None}, "It cannot be taken out: cluster.toml does not say what gw runs in"),
    ],
)
async def test_where_it_cannot_leave_the_plan_says_so(site: Away, told: dict[str, Any], words: str) -> None:
    leaving = await site.planned(changed(site.inventory, **told), serving=False)
    assert (leaving.out, leaving.back) == ((), ())
    assert words in " ".join(leaving.remarks)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"model_list: []\n", "leads nowhere on mark"),
        (b"model_list: [{\n", "cannot be taken out"),
        (b"model_list: [] # \xff\n", "is not UTF-8"),
    ],
)
async def test_a_file_it_is_not_in_or_that_cannot_be_read(site: Away, content: bytes, words: str) -> None:
    site.file.write_bytes(content)
    leaving = await site.planned()
    assert leaving.out == ()
    assert words in " ".join(leaving.remarks)


async def test_no_file_and_a_gateway_that_serves_nobody(site: Away) -> None:
    assert {step.danger for step in (await site.planned(serving=False)).out} == {Danger.CHANGES}

    async def absent() -> None:
        return None

    leaving = await prepare_leaving(site.inventory, empty(site.inventory), "mark", "boot-1", absent)
    assert leaving.out == ()
    assert "There is no " in leaving.remarks[-1]


async def test_where_the_gateways_file_is_out_of_reach(site: Away) -> None:
    async def away() -> bytes:
        raise ReachError("gate did not answer.")

    leaving = await prepare_leaving(site.inventory, empty(site.inventory), "mark", "boot-1", away)
    assert leaving.remarks == (
        "gw goes on sending requests to mark until it sees that nobody answers.",
        "It cannot be taken out: gate did not answer.",
    )


async def test_what_it_never_was_out_of_needs_no_coming_back(site: Away) -> None:
    plan, control = await site.plan_away(), Control()
    control.cancel()
    events = await site.rebooted(plan, control=control)
    assert [(e.event, e.step) for e in events] == [("step_skipped", 3), ("finished", None)]
    assert site.calls == []
