"""The steps of a boot plan: nothing loses its restart policy before what starts it instead is in place."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from backends.clock import SystemClock
from backends.errors import CommandError, ProcedureError, RuntimeFailure, SshError
from backends.procedures import boot_machine
from backends.procedures.boot import BOOT_KINDS, Policy, plan_boot
from backends.procedures.boot_machine import Install
from backends.procedures.events import StepEvent
from backends.procedures.plan import Plan, Step
from backends.procedures.runner import Ask, Control, Past, Question, run
from backends.reach.local import LocalShell
from backends.reach.runtime import Completed
from tests.procedures.machines import Docker, Machine, Outside
from tests.procedures.test_boot import LINUX, on, seen


class Site:
    """A folder as a machine's root, a program that says whether it works, and a Docker with two containers."""

    def __init__(self, folder: Path, *, os: str = "linux", code: int = 0, sudo: bool = False) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.seen = folder / "seen"
        program = folder / "the program"
        program.write_text(
            f'#!/bin/sh\nenv >"{self.seen}"; echo "$@" >>"{self.seen}"\n'
            f'if [ {code} != 0 ]; then echo "tierdeck: Docker is down." >&2; fi\nexit {code}\n'
        )
        program.chmod(0o755)
        system = {"linux": "Linux", "macos": "Darwin"}[os]
        machine = replace(
            LINUX, system=system, home=str(folder), program=str(program), rights="sudo" if sudo else "root"
        )
        inv = on(os)
        plan = plan_boot(inv, seen(inv), "mark", machine, policies={"b": Policy("on-failure:3")})
        self.plan = replace(plan, steps=tuple(self._rooted(step) for step in plan.steps))
        self.starter = Install(**self.plan.steps[0].arguments)  # type: ignore[arg-type]
        self.file = Path(str(self.root) + self.starter.file)
        self.links = [Path(str(self.root) + link) for link in self.starter.links]
        self.machine = Machine()
        self.docker = Docker({"a": "always", "b": "on-failure:3"})
        self.lost = False

    def _rooted(self, step: Step) -> Step:
        here = str(self.root)
        if step.kind == "install_starter":
            return replace(step, arguments={**step.arguments, "root": here})
        starter = step.arguments["starter"]
        assert isinstance(starter, dict)
        return replace(step, arguments={**step.arguments, "starter": {**starter, "root": here}})

    async def carried(
        self, *, answers: Sequence[str] | None = None, past: Past | None = None, plan: Plan | None = None
    ) -> list[StepEvent]:
        left = list(answers or ())

        async def ask(question: Question) -> str:
            return left.pop(0)

        chosen: Ask | None = ask if answers else None
        events = run(
            plan or self.plan,
            BOOT_KINDS,
            Outside(self.machine, self.docker, self.lost),
            procedure="p",
            journal=Journal(),
            ask=chosen,
            control=Control(),
            clock=SystemClock(),
            past=past or Past(),
        )
        return [event async for event in events]


class Journal:
    def write(self, event: StepEvent) -> None:
        """Nothing is kept."""


def story(events: Sequence[StepEvent]) -> list[str]:
    told = [f"{e.event} {e.step}" for e in events if e.event not in ("output", "finished")]
    return [*told, str(events[-1].outcome)]


def failure(events: Sequence[StepEvent]) -> str:
    return next(e.text for e in events if e.event == "step_failed")


DONE = [f"{word} {i}" for i in range(3) for word in ("step_started", "step_done")] + ["done"]


@pytest.mark.parametrize("os", ["linux", "macos"])
async def test_carried_out(tmp_path: Path, os: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONLY_HERE", "1")
    site = Site(tmp_path, os=os)
    events = await site.carried()
    assert story(events) == DONE
    assert site.file.read_text() == site.starter.text
    assert site.file.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in site.file.parent.iterdir() if p.is_file()] == [site.file.name]
    for link in site.links:
        assert link.samefile(site.file)
    assert site.docker.updates == [("a", "no"), ("b", "no")]
    assert site.machine.called("sudo") == 0
    assert site.machine.called("daemon-reload") == 0
    tried = site.seen.read_text()
    assert "queue run mark" in tried
    assert "--dry-run" in tried
    assert "ONLY_HERE" not in tried  # as bare as at boot
    assert events[-2].text == "restart policy no, was on-failure:3"


async def test_done_twice_it_changes_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.carried()
    before = site.file.stat()
    events = await site.carried()
    assert story(events) == ["step_skipped 0", "step_skipped 1", "step_skipped 2", "done"]
    assert site.file.stat() == before
    assert len(site.docker.updates) == 2


async def test_root_is_had_by_sudo_for_the_change_only(tmp_path: Path) -> None:
    site = Site(tmp_path, sudo=True)
    assert story(await site.carried()) == DONE
    assert [call[:4] for call in site.machine.calls if "sudo" in call] == [["sudo", "-n", "sh", "-c"]]


async def test_what_does_not_work_is_not_installed(tmp_path: Path) -> None:
    site = Site(tmp_path, code=3)
    events = await site.carried()
    assert story(events)[-2:] == ["step_failed 0", "halted"]
    assert "code 3: Docker is down." in failure(events)
    assert not site.file.exists()
    assert site.docker.updates == []


REFUSED = Completed(1, "", "sudo: a password is required\n")
FAULTS: list[tuple[str, Completed | Exception, str]] = [
    ("sh -c 'set -e; umask", REFUSED, "not installed: sudo: a password is required"),
    ("sh -c 'set -e; umask", SshError("mark: the line dropped."), "the line dropped"),
    ("sh -c 'set -e; umask", TimeoutError("late"), "did not answer in time"),
    ("is-enabled", Completed(1, "masked\n", ""), "is-enabled says masked"),
    ("is-enabled", CommandError("systemctl is not installed here.", status=127), "systemctl is not installed"),
    ("systemd-analyze", Completed(1, "", "tierdeck-queue-mark.service:3: bad\n"), "systemd-analyze verify says"),
]


@pytest.mark.parametrize(("word", "answer", "words"), FAULTS)
async def test_what_was_not_verified_is_taken_back(
    tmp_path: Path, word: str, answer: Completed | Exception, words: str
) -> None:
    site = Site(tmp_path)
    site.machine.answers[word] = answer
    events = await site.carried()
    assert story(events) == ["step_started 0", "step_failed 0", "halted"]
    assert words in failure(events)
    assert not site.file.exists()
    assert not any(link.is_symlink() for link in site.links)
    assert site.docker.policies == {"a": "always", "b": "on-failure:3"}


async def test_faults_of_other_units_and_a_missing_analyzer_do_not_count(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.machine.answers["systemd-analyze"] = Completed(1, "", "snapd.service:1: nonsense\n")
    assert story(await site.carried()) == DONE
    site.file.unlink()
    site.machine.answers["systemd-analyze"] = CommandError("systemd-analyze is not installed here.", status=127)
    assert story(await site.carried())[:2] == DONE[:2]


@pytest.mark.parametrize(
    ("word", "answer", "words"),
    [
        ("plutil", Completed(1, "x.plist: Unexpected character\n", ""), "plutil says x.plist: Unexpected"),
        ("launchctl", Completed(0, '"tierdeck-queue-mark" => disabled', ""), "launchctl enable"),
    ],
)
async def test_an_agent_that_would_not_run_is_taken_back(
    tmp_path: Path, word: str, answer: Completed, words: str
) -> None:
    site = Site(tmp_path, os="macos")
    site.machine.answers[word] = answer
    events = await site.carried()
    assert words in failure(events)
    assert not site.file.exists()


async def test_what_was_there_before_is_kept_and_put_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.file.parent.mkdir(parents=True)
    site.file.write_text("by hand\n")
    site.machine.answers["is-enabled"] = Completed(1, "disabled\n", "")
    assert "is-enabled says disabled" in failure(await site.carried())
    assert site.file.read_text() == "by hand\n"
    del site.machine.answers["is-enabled"]
    assert story(await site.carried()) == DONE
    assert site.file.with_name(f"{site.file.name}.before").read_text() == "by hand\n"


async def test_a_stale_backup_does_not_come_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.file.parent.mkdir(parents=True)
    site.file.with_name(f"{site.file.name}.before").write_text("long ago\n")
    site.machine.answers["is-enabled"] = Completed(1, "disabled\n", "")
    await site.carried()
    assert list(site.file.parent.glob("tierdeck*")) == []


async def test_a_masked_unit_is_left_masked(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.file.parent.mkdir(parents=True)
    site.file.symlink_to("/dev/null")
    assert "masked" in failure(await site.carried())
    assert site.file.is_symlink()


async def test_half_a_file_is_never_put_in_place(tmp_path: Path) -> None:
    site = Site(tmp_path)

    class Torn(Machine):
        async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
            return await super().run(argv, stdin=stdin[: len(stdin) // 2], timeout=timeout)

    site.machine = Torn()
    assert "only a part of it arrived" in failure(await site.carried())
    assert list(site.file.parent.iterdir()) == []


async def test_broken_off_after_the_write_it_is_verified_and_not_written_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await boot_machine.write(site.machine, site.starter)
    site.machine.calls.clear()
    events = await site.carried(past=Past(broken_off=frozenset({0})))
    assert story(events) == DONE
    assert site.machine.called("umask") == 0


async def test_skipped_by_a_person_the_policies_stay(tmp_path: Path) -> None:
    site = Site(tmp_path, code=1)
    events = await site.carried(answers=["skip", "skip", "abort"])
    assert story(events)[-1] == "failed"
    failed = [e.text for e in events if e.event == "step_failed"]
    assert len(failed) == 3
    assert failed[1].startswith("a keeps its restart policy: nothing else would start it at boot")
    assert site.docker.updates == []


async def test_removed_meanwhile_the_policies_stay(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.carried(plan=replace(site.plan, steps=site.plan.steps[:1]))
    site.file.unlink()
    events = await site.carried(plan=replace(site.plan, steps=site.plan.steps[1:]))
    assert "cannot be read" in failure(events)
    assert site.docker.updates == []


async def test_a_node_that_is_no_longer_ours_is_not_changed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.lost = True
    events = await site.carried()
    assert "no longer ours" in failure(events)
    assert not site.file.exists()
    assert "it could not be taken back: mark is no longer ours." in [e.text for e in events]
    site.lost = False
    await site.carried(plan=replace(site.plan, steps=site.plan.steps[:1]))
    site.lost = True
    assert story(await site.carried()) == ["step_skipped 0", "step_started 1", "step_failed 1", "halted"]
    assert site.docker.updates == []


async def test_a_policy_that_does_not_hold_is_put_back(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.docker.stubborn = ("b",)
    events = await site.carried()
    assert story(events)[-2:] == ["step_failed 2", "halted"]
    assert failure(events).startswith("b still has the restart policy on-failure:3")
    assert site.docker.policies == {"a": "no", "b": "on-failure:3"}
    assert site.docker.updates == [("a", "no"), ("b", "no")]  # nothing to put back: it never left


async def test_undo_gives_the_policy_back_that_it_had_last(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.docker.policies["a"] = "unless-stopped"  # not as planned any more

    class Late(Docker):
        async def update_restart(self, name: str, policy: str) -> None:
            await super().update_restart(name, policy)
            if policy == "no":
                raise TimeoutError

    site.docker = Late(site.docker.policies)
    events = await site.carried()
    assert "did not answer in time" in failure(events)
    assert site.docker.updates == [("a", "no"), ("a", "unless-stopped")]
    assert site.docker.policies["a"] == "unless-stopped"


async def test_docker_gone_and_a_container_gone_are_told(tmp_path: Path) -> None:
    site = Site(tmp_path)
    del site.docker.policies["a"]
    assert "There is no container a on mark" in failure(await site.carried())
    site.docker.fault = RuntimeFailure("Docker on mark does not answer.")
    assert "does not answer" in failure(await site.carried())


@pytest.mark.parametrize("kind", list(BOOT_KINDS))
def test_a_step_that_cannot_be_read_is_told(kind: str) -> None:
    with pytest.raises(ProcedureError, match='The step "x" cannot be read'):
        BOOT_KINDS[kind](Step(kind, "x", {"node": 3}), Outside(Machine(), Docker()))


# -- the real thing ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("systemctl"), reason="systemd is not installed here")
async def test_systemd_itself_finds_it_enabled(tmp_path: Path) -> None:
    site = Site(tmp_path)
    starter = replace(site.starter, text=site.starter.text.replace("User=ops", "User=root"))
    shell = LocalShell()
    await boot_machine.write(shell, starter)
    assert await boot_machine.fault(shell, starter) == ""
    for link in site.links:
        link.unlink()
    assert await boot_machine.fault(shell, starter) == "systemctl is-enabled says disabled"
    await boot_machine.write(shell, starter)
    (tmp_path / "the program").chmod(0o644)
    assert "is not executable" in await boot_machine.fault(shell, starter)
    await boot_machine.take_back(shell, starter)
    assert site.file.read_text() == starter.text  # of the write before
    site.file.with_name(f"{site.file.name}.before").unlink(missing_ok=True)
    await boot_machine.take_back(shell, starter)
    assert not site.file.exists()
