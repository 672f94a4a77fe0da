"""Boot on Windows: a task of Task Scheduler that runs tierdeck inside WSL."""

from __future__ import annotations

from dataclasses import replace

from backends.clock import SystemClock
from backends.procedures import boot_machine
from backends.procedures.boot import BOOT_KINDS, plan_boot
from backends.procedures.boot_machine import Install
from backends.procedures.events import StepEvent
from backends.procedures.plan import Plan
from backends.procedures.runner import Control, run
from backends.reach.runtime import Completed
from tests.procedures.machines import Docker, Machine, Outside, Windows
from tests.procedures.test_boot import LINUX, on, seen
from tests.procedures.test_boot_steps import DONE, Journal, failure, story


def windows() -> tuple[Plan, Windows, Docker]:
    inv = on("windows")
    machine = replace(LINUX, init="", rights="", windows_user="desk\\ops", program="/home/o's/bin/tierdeck")
    plan = plan_boot(inv, seen(inv), "mark", machine)
    return plan, Windows(), Docker({"a": "always", "b": "on-failure"})


async def carried(plan: Plan, machine: Machine, docker: Docker) -> list[StepEvent]:
    outside = Outside(machine, docker)
    control, clock = Control(), SystemClock()
    events = run(plan, BOOT_KINDS, outside, procedure="p", journal=Journal(), ask=None, control=control, clock=clock)
    return [event async for event in events]


async def test_a_task_is_registered_and_read_back() -> None:
    plan, machine, docker = windows()
    assert story(await carried(plan, machine, docker)) == DONE
    assert machine.tasks == {"tierdeck-queue-mark": plan.steps[0].arguments["text"]}
    assert docker.policies == {"a": "no", "b": "no"}
    trial = next(script for script in machine.scripts if "wsl.exe" in script)
    assert trial.endswith("'--dry-run';exit $LASTEXITCODE")
    assert "'/home/o''s/bin/tierdeck'" in trial
    assert story(await carried(plan, machine, docker))[0] == "step_skipped 0"


async def test_a_task_that_is_another_is_replaced_and_kept() -> None:
    plan, machine, docker = windows()
    machine.tasks["tierdeck-queue-mark"] = "<Task/>"
    assert story(await carried(plan, machine, docker)) == DONE
    assert machine.kept == {"tierdeck-queue-mark": "<Task/>"}


async def test_a_task_that_was_disabled_is_written_anew() -> None:
    plan, machine, docker = windows()
    text = str(plan.steps[0].arguments["text"])
    machine.tasks["tierdeck-queue-mark"] = text.replace("<Enabled>true", "<Enabled>false")
    assert story(await carried(plan, machine, docker)) == DONE
    assert machine.tasks["tierdeck-queue-mark"] == text


async def test_a_task_that_does_not_stay_is_told() -> None:
    plan, machine, docker = windows()

    class Forgetful(Windows):
        def _script(self, script: str, given: str) -> Completed:
            done = super()._script(script, given)
            self.tasks.clear()
            return done

    events = await carried(plan, Forgetful(), docker)
    assert "there is no task tierdeck-queue-mark" in failure(events)
    assert docker.updates == []
    machine.trial = Completed(1, "", "ModuleNotFoundError: no module named resource")
    assert "ModuleNotFoundError" in failure(await carried(plan, machine, docker))
    assert machine.tasks == {}


async def test_a_task_is_taken_back() -> None:
    plan, machine, _ = windows()
    starter = Install(**plan.steps[0].arguments)  # type: ignore[arg-type]
    machine.tasks["tierdeck-queue-mark"] = "<Task/>"
    await boot_machine.write(machine, starter)
    await boot_machine.take_back(machine, starter)
    assert machine.tasks == {"tierdeck-queue-mark": "<Task/>"}
    await boot_machine.take_back(machine, starter)  # not ours: left alone
    assert machine.tasks == {"tierdeck-queue-mark": "<Task/>"}
