"""Service managers, by their recorded words; systemd on the simulator besides."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.errors import RuntimeFailure
from backends.reach import services_words as words
from backends.reach.local import LocalShell
from backends.reach.runtime import Completed
from backends.reach.services import Launchd, Systemd, WindowsServices

SHOWN = """\
Restart=on-failure
ExecMainStatus=0
Result=success
Id=ollama.service
LoadState=loaded
ActiveState=active
SubState=running
ActiveEnterTimestamp=Sat 2026-11-21 09:03:16 UTC

Restart=no
ExecMainStatus=1
Result=exit-code
Id=llama.service
LoadState=loaded
ActiveState=failed
SubState=failed
ActiveEnterTimestamp=

Restart=no
Id=nothing.service
LoadState=not-found
ActiveState=inactive
SubState=dead
"""


class Scripted:
    """A shell that answers by the first words of a command; `ran` keeps what it was asked."""

    def __init__(self, **answers: Completed) -> None:
        self.answers = {key.replace("_", " "): answer for key, answer in answers.items()}
        self.ran: list[list[str]] = []

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float) -> Completed:
        self.ran.append(list(argv))
        line = " ".join(argv)
        for start, answer in self.answers.items():
            if line.startswith(start):
                return answer
        raise TimeoutError

    @asynccontextmanager
    async def lines(self, argv: Sequence[str]) -> AsyncIterator[AsyncIterator[str]]:
        self.ran.append(list(argv))

        async def answer() -> AsyncIterator[str]:
            yield "\x1b[1mone\x1b[0m"
            yield "two"

        yield answer()


def good(stdout: str = "") -> Completed:
    return Completed(0, stdout, "")


def bad(stderr: str, status: int = 1) -> Completed:
    return Completed(status, "", stderr)


def test_systemd_states() -> None:
    up, failed, missing = words.systemd(SHOWN, ["ollama", "llama", "nothing"], gpu=True)
    assert (up.name, up.state, up.exit_code, up.gpu, up.restart_policy) == (
        "ollama",
        "running",
        None,
        True,
        "on-failure",
    )
    assert up.started_at == 1795251796.0
    assert (failed.state, failed.exit_code, failed.error, failed.oom_killed) == ("dead", 1, "exit-code", False)
    assert missing.state == "missing"


@pytest.mark.parametrize(
    ("text", "state", "health"),
    [
        ("LoadState=loaded\nActiveState=activating\nSubState=start", "running", "starting"),
        ("LoadState=loaded\nActiveState=activating\nSubState=auto-restart", "restarting", None),
        ("LoadState=loaded\nActiveState=inactive\nSubState=dead", "exited", None),
        ("LoadState=masked\nActiveState=inactive", "missing", None),
        ("LoadState=not-found\nActiveState=active", "running", None),
        ("LoadState=loaded\nActiveState=failed\nResult=oom-kill", "dead", None),
        ("LoadState=loaded\nActiveState=unheard-of", "missing", None),
        ("garbage\n\n\n", "missing", None),
        ("", "missing", None),
    ],
)
def test_systemd_states_by_table(text: str, state: str, health: str | None) -> None:
    (found,) = words.systemd(text, ["x"], gpu=False)
    assert (found.state, found.health, found.oom_killed) == (state, health, "oom-kill" in text)


async def test_systemd_asks_for_all_at_once_and_by_exact_names() -> None:
    shell = Scripted(env=good(SHOWN))
    runtime = Systemd("desk", shell, ["ollama", "llama", "nothing"], gpu=True)
    assert [w.state for w in await runtime.workloads()] == ["running", "dead", "missing"]
    assert len(shell.ran) == 1
    assert shell.ran[0][-4:] == ["--", "ollama.service", "llama.service", "nothing.service"]
    assert await Systemd("desk", Scripted(systemctl=good("systemd 252 (252.39)\n")), []).version() == "252"
    for pattern in ("*", "ollama*", "-H", "a b", "", "x[ab]"):
        with pytest.raises(RuntimeFailure, match="no name of a systemd unit"):
            await runtime.state(pattern)


async def test_systemd_tries_sudo_only_where_rights_are_wanting() -> None:
    shell = Scripted(systemctl=bad("Failed to start ollama.service: Interactive authentication required."), sudo=good())
    await Systemd("desk", shell, ["ollama"]).start("ollama")
    assert [argv[0] for argv in shell.ran] == ["systemctl", "sudo"]
    assert shell.ran[1][:2] == ["sudo", "-n"]

    shell = Scripted(systemctl=bad("Access denied"), sudo=bad("sudo: a password is required"))
    with pytest.raises(RuntimeFailure, match="a password is required") as caught:
        await Systemd("desk", shell, ["ollama"]).stop("ollama")
    assert "sudoers" in caught.value.advice

    shell = Scripted(systemctl=bad("Failed to start x.service: Unit x.service not found.", 5))
    with pytest.raises(RuntimeFailure, match=r"Unit x\.service not found") as caught:
        await Systemd("desk", shell, ["x"]).start("x")
    assert len(shell.ran) == 1
    assert "cluster.toml" in caught.value.advice


async def test_a_manager_that_does_not_answer() -> None:
    with pytest.raises(RuntimeFailure, match="systemd on desk did not answer within 15 s"):
        await Systemd("desk", Scripted(), ["ollama"]).workloads()
    with pytest.raises(RuntimeFailure, match="tells of no events"):
        Systemd("desk", Scripted(), ["ollama"]).events()


async def test_journal() -> None:
    shell = Scripted()
    async with Systemd("desk", shell, ["ollama"]).logs("ollama", tail=5, follow=True) as lines:
        assert [line async for line in lines] == ["one", "two"]
    assert shell.ran == [["journalctl", "--no-pager", "-o", "cat", "-n", "5", "-u", "ollama.service", "-f"]]


PRINTED = """\
gui/501/homebrew.mxcl.ollama = {
	active count = 1
	path = /Users/me/Library/LaunchAgents/homebrew.mxcl.ollama.plist
	state = running

	program = /opt/homebrew/opt/ollama/bin/ollama
	stdout path = /opt/homebrew/var/log/ollama.log
	inherited environment = {
		state = a trap
	}
	pid = 612
	last exit code = 3: whatever
}
"""


@pytest.mark.parametrize(
    ("text", "state", "code"),
    [
        (PRINTED, "running", None),
        (PRINTED.replace("running", "not running").replace("pid = 612", ""), "dead", 3),
        ("system/x = {\n state = not running\n last exit code = 0\n}", "exited", 0),
        ("system/x = {\n state = spawn scheduled\n last exit code = (never exited)\n}", "restarting", None),
        ("state = unloaded", "exited", None),
        ("", "missing", None),
    ],
)
def test_launchd_states(text: str, state: str, code: int | None) -> None:
    found = words.launchd(text, "homebrew.mxcl.ollama", gpu=True)
    assert (found.state, found.exit_code, found.gpu) == (state, code, True)


async def test_launchd_logs() -> None:
    shell = Scripted(sh=good(PRINTED))
    async with Launchd("mac", shell, []).logs("homebrew.mxcl.ollama", tail=3) as lines:
        assert await anext(lines) == "one"
    assert shell.ran[-1] == ["tail", "-n", "3", "/opt/homebrew/var/log/ollama.log"]
    with pytest.raises(RuntimeFailure, match="writes its output nowhere"):
        async with Launchd("mac", Scripted(sh=good("state = running\n")), []).logs("x"):
            pass


FAKE_LAUNCHCTL = """#!/bin/sh
echo "$@" >> "$LOG"
case "$1 $2" in
    "print user/"*"/loaded.job") echo "state = running" ;;
    "print "*) echo "Could not find service" >&2; exit 113 ;;
esac
"""


async def test_launchd_scripts_in_a_real_shell(tmp_path: Path) -> None:
    """The scripts run under sh with a launchctl of ours: the right domain, the property list, odd labels."""
    (tmp_path / "launchctl").write_text(FAKE_LAUNCHCTL)
    (tmp_path / "launchctl").chmod(0o755)
    agents = tmp_path / "Library/LaunchAgents"
    agents.mkdir(parents=True)
    (agents / "resting.job.plist").touch()
    log = tmp_path / "log"
    log.touch()
    shell = LocalShell({"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "LOG": str(log)})
    runtime = Launchd("mac", shell, ["loaded.job", "resting.job", 'no"; touch /$(x)', "-n"])
    assert [w.state for w in await runtime.workloads()] == ["running", "exited", "missing", "missing"]
    log.write_text("")
    await runtime.start("loaded.job")
    await runtime.start("resting.job")
    await runtime.stop("loaded.job")
    await runtime.stop("resting.job")
    changes = [line.split()[0] for line in log.read_text().splitlines() if not line.startswith("print")]
    assert changes == ["kickstart", "bootstrap", "bootout"]
    assert f"{agents}/resting.job.plist" in log.read_text()
    with pytest.raises(RuntimeFailure, match="no such job: nobody"):
        await runtime.start("nobody")


def script(argv: Sequence[str]) -> str:
    assert argv[:4] == ["powershell", "-NoProfile", "-NonInteractive", "-EncodedCommand"]
    return base64.b64decode(argv[4]).decode("utf-16-le")


async def test_windows_services() -> None:
    answer = (
        '\ufeff[{"Name":"Ollama","Status":"Running","StartType":"Automatic"},{"Name":"llama","Status":"Stopped"}]\r\n'
    )
    shell = Scripted(powershell=good(answer))
    runtime = WindowsServices("mark", shell, ["ollama", "llama", "nothing"], gpu=True)
    assert [(w.name, w.state, w.gpu) for w in await runtime.workloads()] == [
        ("ollama", "running", True), ("llama", "exited", True), ("nothing", "missing", True),
    ]  # fmt: skip
    assert "@('ollama','llama','nothing')" in script(shell.ran[0])
    await runtime.start("O'Brien\u2019s")
    assert "-eq 'O''Brien\u2019\u2019s'" in script(shell.ran[-1])
    assert "Start-Service" in script(shell.ran[-1])
    with pytest.raises(RuntimeFailure, match="keeps no log"):
        runtime.logs("ollama")


@pytest.mark.parametrize(
    ("answer", "state"),
    [("", "missing"), ("[]", "missing"), ('{"Name":"x","Status":"StartPending"}', "running"), ("[1,null]", "missing"),
     ('[{"Name":"X","Status":"Paused"}]', "paused"), ('[{"Name":"x","Status":"?"}]', "dead")],
)  # fmt: skip
def test_windows_answers(answer: str, state: str) -> None:
    (found,) = words.windows(answer, ["x"], gpu=False)
    assert found.state == state


def test_windows_answers_that_are_none() -> None:
    with pytest.raises(RuntimeFailure, match="no list of services: #< CLIXML"):
        words.windows("#< CLIXML\r\n<Objs>", ["x"], gpu=False)
    with pytest.raises(RuntimeFailure, match="Too many services"):
        words.powershell(words.windows_query([f"service-{n}" for n in range(400)]))


async def test_windows_refusal() -> None:
    shell = Scripted(powershell=bad("Cannot find any service nothing\r\n"))
    with pytest.raises(RuntimeFailure, match="Cannot find any service nothing") as caught:
        await WindowsServices("mark", shell, []).stop("nothing")
    assert "cluster.toml" in caught.value.advice
