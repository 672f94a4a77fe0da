"""The push of a configuration: every failure leaves the former file, byte for byte, and a gateway that runs with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from backends.cluster.fold import empty
from backends.cluster.inventory import Inventory
from backends.cluster.reading import Instant, ProbeResult, Workload
from backends.cluster.words import Cause
from backends.errors import ProcedureError, ReachError
from backends.gateway.render import render
from backends.procedures.context import Context
from backends.procedures.events import StepEvent
from backends.procedures.gateway import GATEWAY_KINDS
from backends.procedures.plan import Danger, Plan, describe, from_json, to_json
from backends.procedures.pushing import gateway_file, plan_push
from backends.procedures.runner import Control, run
from backends.reach.runtime import Runtime
from backends.reach.whole_file import KEPT
from tests.gateway.test_render import engine
from tests.procedures.test_boot_steps import Journal, failure, story

FORMER = b"model_list: []  # \xff mine\r\n"


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> Instant:
        return Instant(1e9 + self.passed, self.passed)

    async def sleep(self, seconds: float) -> None:
        self.passed += seconds
        await asyncio.sleep(0)


class Site:
    """A gateway that reads its file when it starts: with `broken` in it it ends, with `slow` it never gets ready."""

    kind = "docker"

    def __init__(self, folder: Path) -> None:
        self.file = folder / "config.yaml"
        self.kept = folder / f"config.yaml{KEPT}"
        self.file.write_bytes(FORMER)
        self.read = FORMER
        self.calls: list[str] = []
        self.mute: set[str] = set()
        self.down: set[str] = set()
        self.clock = Clock()
        self.before: Callable[[str], None] = lambda call: None

    @property
    def inventory(self) -> Inventory:
        gateway = {"name": "gw", "tier": "A", "engine": "litellm", "url": "http://10.0.10.5:4000", "node": "gate"}
        told = {
            "version": 1, "name": "home", "tiers": [{"name": "A"}],
            "nodes": [{"name": "gate", "address": "10.0.10.5"}, {"name": "mark", "address": "10.0.10.20"}],
            "gateway": {"endpoint": "gw", "config": str(self.file)},
            "endpoints": [
                {"tier": "A", **engine("a", "llama.cpp", model="m")},
                {"tier": "A", **engine("b", "vllm", model="n", url="http://10.0.10.20:8001")},
                {**gateway, "container": "litellm"},
            ],
        }  # fmt: skip
        return Inventory.model_validate(told)

    @property
    def text(self) -> str:
        return render(self.inventory, {}).text

    def plan(self, text: str = "") -> Plan:
        found = plan_push(self.inventory, empty(self.inventory), text or self.text, FORMER)
        return from_json(to_json(found))

    # -- the container -------------------------------------------------------------------------------------------------

    async def stop(self, name: str, *, grace: float) -> None:
        self._called(f"stop {name}")

    async def start(self, name: str) -> None:
        self._called(f"start {name}")
        self.read = self.file.read_bytes()

    async def state(self, name: str) -> Workload:
        return Workload(name, "docker", "exited" if b"broken" in self.read else "running")

    @asynccontextmanager
    async def logs(self, name: str, *, tail: int) -> AsyncGenerator[AsyncIterator[str], None]:
        async def lines() -> AsyncGenerator[str, None]:
            for line in ("starting", "yaml.scanner.ScannerError: line 1", "bye"):
                yield line

        yield lines()

    def _called(self, call: str) -> None:
        self.before(call)
        self.calls.append(call)

    # -- what is asked -------------------------------------------------------------------------------------------------

    async def probe(self, endpoint: str) -> ProbeResult:
        ill = endpoint in self.down or (endpoint == "gw" and (b"broken" in self.read or b"slow" in self.read))
        return ProbeResult(Cause.REFUSED if ill else Cause.OK, "refused" if ill else "answered")

    async def listed(self, endpoint: str) -> tuple[str, ...]:
        if b"nameless" in self.read:
            raise ReachError("/v1/models answered 500.")
        return () if b"forgetful" in self.read else ("chat", "m", "n")

    async def prompt(self, endpoint: str, model: str, embeds: bool) -> str:
        self.calls.append(f"ask {model}")
        return "it answered 500" if model in self.mute else ""

    async def carried(self, plan: Plan, *, control: Control | None = None, back: bool = False) -> list[StepEvent]:
        async def runtime(node: str, kind: str) -> Runtime:
            assert (node, kind) == ("gate", "docker")
            return cast("Runtime", self)

        async def nothing(node: str) -> tuple[Workload, ...]:
            raise AssertionError(node)

        async def vram(node: str) -> None:
            return None

        context = Context(
            self.inventory, self.clock, runtime, nothing, self.probe, vram, listed=self.listed, prompt=self.prompt
        )
        events = run(
            plan, GATEWAY_KINDS, context, procedure="p", journal=Journal(), ask=None, control=control or Control(),
            clock=self.clock, back=back,
        )  # fmt: skip
        return [event async for event in events]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


RESTART = ["stop litellm", "start litellm"]


async def test_it_is_kept_written_restarted_and_asked(site: Site) -> None:
    plan = site.plan()
    assert plan.node == "gate"
    assert "docker stop litellm; docker start litellm" in "\n".join(describe(plan))
    events = await site.carried(plan)
    assert story(events) == [f"{word} {i}" for i in range(4) for word in ("step_started", "step_done")] + ["done"]
    assert site.file.read_text() == site.text
    assert site.kept.read_bytes() == FORMER
    assert site.calls == [*RESTART, "ask chat", "ask m", "ask n"]
    assert events[-2].text == "3 of 3 groups answer"


@pytest.mark.parametrize(
    ("word", "step", "words"),
    [
        ("broken", 2, "ended by itself (exited). It said: yaml.scanner.ScannerError"),
        ("slow", 2, "It is not ready after 180 s"),
        ("nameless", 3, "does not name its groups: /v1/models answered 500"),
        ("forgetful", 3, "does not name chat, m, n"),
    ],
)
async def test_a_file_that_makes_it_worse_is_taken_back(site: Site, word: str, step: int, words: str) -> None:
    events = await site.carried(site.plan(f"{site.text}# {word}\n"))
    assert events[-1].outcome == "failed"
    assert next(e.step for e in events if e.event == "step_failed") == step
    assert words in failure(events)
    assert "byte for byte, and the gateway is ready with it" in failure(events)
    assert site.file.read_bytes() == site.read == FORMER
    assert site.calls == [*RESTART, *RESTART]


async def test_a_group_that_gives_no_answer_though_its_engine_serves_is_worse(site: Site) -> None:
    site.mute = {"n"}
    events = await site.carried(site.plan())
    assert "n gives no answer, but b serves: it answered 500" in failure(events)
    assert site.file.read_bytes() == site.read == FORMER


async def test_a_group_behind_which_nothing_serves_is_no_fault_of_the_file(site: Site) -> None:
    site.mute, site.down = {"n"}, {"b"}
    events = await site.carried(site.plan())
    assert events[-1].outcome == "done"
    assert events[-2].text == "2 of 3 groups answer; nothing that serves is behind n"


async def test_a_gateway_that_does_not_come_back_with_either_says_so(site: Site) -> None:
    plan = site.plan(f"{site.text}# broken\n")
    site.before = lambda call: site.down.add("gw") if len(site.calls) == 2 else None
    events = await site.carried(plan)
    assert "The former file is back, but with it: It is not ready after 180 s" in failure(events)
    assert site.file.read_bytes() == FORMER


async def test_it_can_be_taken_back_later(site: Site) -> None:
    plan = site.plan()
    await site.carried(plan)
    assert site.read == site.text.encode()
    events = await site.carried(plan, back=True)
    assert events[-1].text == "taken back: all is as it was before"
    assert site.file.read_bytes() == site.read == FORMER
    assert (await site.carried(plan, back=True))[-1].outcome == "cancelled", "there is nothing left to do"


async def test_somebody_who_stops_it_now_gets_the_former_file(site: Site) -> None:
    control = Control()

    def stop(call: str) -> None:
        if call == "start litellm" and not site.calls.count(call):
            control.cancel()
            control.cancel()

    site.before = stop
    events = await site.carried(site.plan(f"{site.text}# slow\n"), control=control)
    assert events[-1].outcome == "cancelled"
    assert site.file.read_bytes() == site.read == FORMER


async def test_a_file_that_was_changed_since_is_left_alone(site: Site) -> None:
    plan = site.plan()
    site.file.write_bytes(b"model_list: []  # somebody's\n")
    events = await site.carried(plan)
    assert "is not as it was when this was planned" in failure(events)
    assert site.file.read_bytes() == b"model_list: []  # somebody's\n"
    assert site.calls == []


async def test_what_is_done_already_is_not_done_again(site: Site) -> None:
    await site.carried(site.plan())
    assert story(await site.carried(site.plan()))[:2] == ["step_skipped 0", "step_skipped 1"]
    assert site.kept.read_bytes() == FORMER


async def test_a_folder_that_cannot_be_written_changes_nothing(site: Site) -> None:
    plan = site.plan()
    text = {**plan.steps[1].arguments, "config": "/proc/no/file"}
    events = await site.carried(replace(plan, steps=(replace(plan.steps[1], arguments=text),)))
    assert events[-1].outcome == "failed"
    assert site.file.read_bytes() == FORMER


async def test_what_a_plan_says_and_refuses(site: Site) -> None:
    seen = empty(site.inventory)
    plan = site.plan()
    assert plan.danger is Danger.CHANGES, "nobody asks a gateway that does not serve"
    former = b"model_list: [{model_name: gone, litellm_params: {model: openai/x}}]"
    warned = plan_push(site.inventory, seen, site.text, former).warnings
    assert "Groups that are no more: gone." in warned
    with pytest.raises(ProcedureError, match="this one already"):
        plan_push(site.inventory, seen, site.text, site.text.encode())
    with pytest.raises(ProcedureError, match="in plain text"):
        plan_push(site.inventory, seen, site.text.replace('"none"', '"sk-abcdefg"'), FORMER)
    for left_out, words in (
        ({"container": None}, "what gw runs in"),
        ({"node": None, "container": None}, "on which node gw runs"),
    ):
        told = site.inventory
        gateway = told.endpoints[-1].model_copy(update=left_out)
        bare = told.model_copy(update={"endpoints": (*told.endpoints[:-1], gateway)})
        with pytest.raises(ProcedureError, match=words):
            plan_push(Inventory.model_validate(bare.model_dump()), seen, site.text, FORMER)


async def test_the_former_file_is_read_where_cluster_toml_says(site: Site) -> None:
    def shell(node: str) -> object:
        raise AssertionError(node)

    async def runtime(node: str, kind: str) -> Runtime:
        raise AssertionError(node)

    file = await gateway_file(site.inventory, None, shell, runtime)  # type: ignore[arg-type]
    assert await file.read() == FORMER
    bare = site.inventory.model_copy(update={"gateway": site.inventory.gateway.model_copy(update={"config": None})})  # type: ignore[union-attr]
    with pytest.raises(ProcedureError, match="does not say where"):
        await gateway_file(bare, None, shell, runtime)  # type: ignore[arg-type]
