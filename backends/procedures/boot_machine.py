"""A machine as a boot starter needs it: what it is, and how a starter is tried, written, found and taken back there.

Nothing here asks systemd to reload: the unit and its links are read at the next boot. Content travels by standard
input. systemd is asked on disk only (SYSTEMD_OFFLINE), so that its answer is that of the next boot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from pydantic import JsonValue

from backends.cluster.tables import Node
from backends.errors import CommandError, ProcedureError
from backends.exports.boot import Starter, System, render, same_task
from backends.reach.runtime import Completed, Shell
from backends.reach.services_words import powershell
from backends.reach.streams import first_words

LIMIT: Final = 15.0
"""Seconds for one question or change."""

TRIAL_LIMIT: Final = 25.0
"""Seconds a dry run of the starter may take: it looks at everything once, as `tierdeck status` does."""

_FACTS: Final = b"""PATH="$PATH:$HOME/.local/bin:/usr/local/bin:/opt/homebrew/bin"
say() { printf '%s=%s\\n' "$1" "$2"; }
say system "$(uname -s)"
say user "$(id -un)"
say home "$HOME"
say program "$(command -v tierdeck)"
say state "${TIERDECK_STATE:-${XDG_STATE_HOME:+$XDG_STATE_HOME/tierdeck}}"
for file in "$TIERDECK_CLUSTER" "${XDG_CONFIG_HOME:-$HOME/.config}/tierdeck/cluster.toml" \
    "$HOME/Library/Application Support/tierdeck/cluster.toml"; do
  if [ -f "$file" ]; then say cluster "$file"; break; fi
done
if [ -d /run/systemd/system ]; then say init systemd; fi
if [ "$(id -u)" = 0 ]; then say rights root; elif sudo -n true 2>/dev/null; then say rights sudo; fi
"""

_WRITE: Final = (
    'set -e; umask 022; f=$1; n=$2; shift 2; mkdir -p "${f%/*}"; '
    'if [ -L "$f" ]; then echo "$f is a link, perhaps masked: it is left as it is" >&2; exit 1; fi; '
    'if [ -e "$f" ]; then cp -p "$f" "$f.before"; else rm -f "$f.before"; fi; '
    'trap \'rm -f "$f.new"\' EXIT; cat >"$f.new"; '
    'if [ "$(wc -c <"$f.new")" -ne "$n" ]; then echo "only a part of it arrived" >&2; exit 1; fi; '
    'mv -f "$f.new" "$f"; '
    'for l in "$@"; do mkdir -p "${l%/*}"; ln -sf "../${f##*/}" "$l"; done'
)
_TAKE_BACK: Final = (
    'f=$1; shift; if [ -e "$f.before" ]; then exec mv -f "$f.before" "$f"; else exec rm -f "$f" "$@"; fi'
)
_AGENT_DISABLED: Final = 'launchctl print-disabled "gui/$(id -u)" | grep -F "\\"$1\\"" | grep -E "disabled|true"'

_WRITE_TASK: Final = (
    "$n='{name}';$d=Join-Path $env:LOCALAPPDATA 'tierdeck';[void](New-Item -ItemType Directory -Force $d);"
    "$f=Join-Path $d ($n+'.xml');$t=[Console]::In.ReadToEnd();"
    "if($t.Length -ne {size}){{[Console]::Error.WriteLine('only a part of it arrived');exit 1}};"
    "if(Get-ScheduledTask -TaskName $n -ErrorAction SilentlyContinue)"
    "{{Export-ScheduledTask -TaskName $n|Set-Content -Encoding Unicode ($f+'.before')}}"
    "else{{Remove-Item -ErrorAction SilentlyContinue ($f+'.before')}};"
    "Set-Content -Encoding Unicode -NoNewline $f $t;schtasks.exe /Create /TN $n /XML $f /F;exit $LASTEXITCODE"
)
_READ_TASK: Final = "Export-ScheduledTask -TaskName '{name}' -ErrorAction SilentlyContinue"
_TAKE_BACK_TASK: Final = (
    "$n='{name}';$f=Join-Path $env:LOCALAPPDATA ('tierdeck\\'+$n+'.xml');"
    "if(Test-Path ($f+'.before')){{schtasks.exe /Create /TN $n /XML ($f+'.before') /F}}"
    "else{{schtasks.exe /Delete /TN $n /F}};exit $LASTEXITCODE"
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine says of itself; paths are "" where it has no such thing.

    `system` is uname's word (on Windows WSL's), `windows_user` is "" elsewhere. `rights` says how root is had there:
    root, sudo (without a password), or "" where it is not.
    """

    system: str
    user: str = ""
    home: str = ""
    program: str = ""
    cluster: str = ""
    state: str = ""
    init: str = ""
    rights: str = ""
    windows_user: str = ""


async def look(shell: Shell, node: Node, *, program: str = "", cluster: str = "") -> Machine:
    """Ask a machine what it is; `program` and `cluster` are used where they are given. ReachError where it is silent.

    Changes nothing; whether sudo needs a password is tried with `sudo -n true`.
    """
    windows = node.os == "windows"
    done = await _run(shell, ["wsl.exe", "-e", "sh", "-s"] if windows else ["sh", "-s"], stdin=_FACTS)
    who = await _run(shell, ["whoami.exe"]) if windows else Completed(0, "", "")
    said = {key: value for key, equals, value in (line.partition("=") for line in done.stdout.splitlines()) if equals}
    facts = {key: said.get(key, "") for key in ("system", "user", "home", "program", "cluster", "state", "init")}
    facts |= {"program": program or facts["program"], "cluster": cluster or facts["cluster"]}
    return Machine(**facts, rights=said.get("rights", ""), windows_user=who.stdout.strip())


def starter_of(node: Node, machine: Machine, *, services: bool) -> Starter:
    """The starter of a node; ProcedureError that says why none fits. `services`: its queue has native services."""
    name, wanted = node.name, {"linux": "Linux", "macos": "Darwin", "windows": "Linux"}[node.os]
    if node.os == "windows" and not machine.system:
        raise ProcedureError(
            f"No boot starter fits {name}: on Windows tierdeck runs inside WSL, and WSL does not answer there.",
            "Install WSL with `wsl --install`, and tierdeck inside it.",
        )
    if machine.system != wanted:
        found = f"its system says {first_words(machine.system, 40)}" if machine.system else "its shell is no sh"
        raise ProcedureError(
            f"No boot starter fits {name}: cluster.toml says {node.os}, and {found}.", f"Correct os of {name}."
        )
    if node.os == "linux" and machine.init != "systemd":
        raise ProcedureError(
            f"No boot starter fits {name}: it is not run by systemd.",
            f"Let its own init run at boot: tierdeck queue run {name} --yes",
        )
    if not machine.program.startswith("/"):
        raise ProcedureError(
            f"No boot starter fits {name}: there is no tierdeck on it.",
            f"Install tierdeck on {name} too, or say where it lies there: --program PATH.",
        )
    if not machine.cluster.startswith("/"):
        raise ProcedureError(
            f"No boot starter fits {name}: tierdeck there has no cluster.toml.",
            f"Copy this one there, the same is right on every node: ~/.config/tierdeck/cluster.toml on {name}.",
        )
    user = machine.windows_user if node.os == "windows" else machine.user
    if not user:
        raise ProcedureError(f"No boot starter fits {name}: it does not say who is logged in there.")
    return Starter(name, node.os, machine.program, machine.cluster, user, machine.home, machine.state, sudo=services)


@dataclass(frozen=True, slots=True)
class Install:
    """A starter as a step installs it: the file with its links, or a task; `trial` is the dry run it must survive.

    `root` is where the machine's files begin, "" but in tests.
    """

    node: str
    os: System
    name: str
    file: str
    text: str
    links: tuple[str, ...]
    trial: tuple[str, ...]
    sudo: bool = False
    root: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        """As a step's arguments."""
        return {**asdict(self), "links": list(self.links), "trial": list(self.trial)}

    @staticmethod
    def of(starter: Starter, rights: str) -> Install:
        """How `starter` is installed by someone of those rights."""
        told = render(starter)
        sudo = starter.os == "linux" and rights != "root"
        return Install(
            starter.node, starter.os, starter.name, told.file, told.text, told.links, tuple(starter.bare()), sudo
        )


async def tried(shell: Shell, told: Install) -> None:
    """Run the starter's own command dry, as bare as at boot; ProcedureError with its words where that fails."""
    argv = list(told.trial)
    if told.os == "windows":
        argv = _powershell("& " + " ".join(_ps(word) for word in argv) + ";exit $LASTEXITCODE")
    done = await _run(shell, argv, limit=TRIAL_LIMIT)
    if done.status:
        said = re.sub(r"^tierdeck: ", "", first_words(done.stderr) or first_words(done.stdout)).rstrip(".") or "silence"
        raise ProcedureError(
            f"A dry run of what {told.node} would do at boot fails there with code {done.status}: {said}.",
            "Make it succeed on that machine: tierdeck queue run " + told.node + " --dry-run",
        )


async def write(shell: Shell, told: Install) -> None:
    """Write the starter and enable it; what was there is kept beside it as FILE.before."""
    content = told.text.encode()
    if told.os == "windows":
        argv = _powershell(_WRITE_TASK.format(name=told.name, size=len(told.text)))
    else:
        argv = _unix(told, _WRITE, told.root + told.file, str(len(content)), *(told.root + link for link in told.links))
    done = await _run(shell, argv, stdin=content)
    if done.status:
        raise ProcedureError(
            f"The starter of {told.node} was not installed: {_said(done)}.",
            f"Install it by hand: tierdeck export boot-unit {told.node}",
        )


async def fault(shell: Shell, told: Install) -> str:
    """Why the starter, just as planned, would not start at the next boot; "" where it would."""
    if told.os == "windows":
        done = await _run(shell, _powershell(_READ_TASK.format(name=told.name)))
        if not done.stdout.strip():
            return f"there is no task {told.name}"
        return "" if same_task(told.text, done.stdout) else f"the task {told.name} is another, or disabled"
    file = told.root + told.file
    done = await _run(shell, ["cat", file])
    if done.status:
        return f"{file} cannot be read ({_said(done)})"
    if done.stdout != told.text:
        return f"{file} holds something else"
    return await (_unit_fault if told.os == "linux" else _agent_fault)(shell, told, file)


async def take_back(shell: Shell, told: Install) -> None:
    """Remove the starter, or put back what was there before; only where it is really ours that stands there."""
    if told.os == "windows":
        done = await _run(shell, _powershell(_READ_TASK.format(name=told.name)))
        if not same_task(told.text, done.stdout):
            return
        argv = _powershell(_TAKE_BACK_TASK.format(name=told.name))
    else:
        done = await _run(shell, ["cat", told.root + told.file])
        if done.status or done.stdout != told.text:
            return
        argv = _unix(told, _TAKE_BACK, told.root + told.file, *(told.root + link for link in told.links))
    done = await _run(shell, argv)
    if done.status:
        raise ProcedureError(f"The starter on {told.node} could not be removed: {_said(done)}.")


async def _unit_fault(shell: Shell, told: Install, file: str) -> str:
    offline = ["env", "SYSTEMD_OFFLINE=1", "LC_ALL=C", "systemctl", f"--root={told.root or '/'}"]
    done = await _run(shell, [*offline, "is-enabled", f"{told.name}.service"])
    if done.stdout.strip() != "enabled":
        return f"systemctl is-enabled says {_said(done, out_first=True)}"
    done = await _run(shell, ["env", "LC_ALL=C", "systemd-analyze", "verify", "--man=no", file])
    ours = [line for line in done.stderr.splitlines() if told.name in line]
    if done.status and ours:
        return f"systemd-analyze verify says {first_words(ours[0])}"
    return ""


async def _agent_fault(shell: Shell, told: Install, file: str) -> str:
    done = await _run(shell, ["plutil", "-lint", file])
    if done.status:
        return f"plutil says {_said(done, out_first=True)}"
    done = await _run(shell, ["sh", "-c", _AGENT_DISABLED, "sh", told.name])
    return "" if done.status else f"launchctl has it disabled: launchctl enable gui/$(id -u)/{told.name}"


def _unix(told: Install, script: str, *arguments: str) -> list[str]:
    argv = ["sh", "-c", script, "sh", *arguments]
    return ["sudo", "-n", *argv] if told.sudo else argv


def _powershell(script: str) -> list[str]:
    """Named with its ending, it is found from WSL too."""
    argv = powershell(script)
    return ["powershell.exe", *argv[1:]]


def _ps(word: str) -> str:
    if '"' in word:
        raise ProcedureError(f"Windows PowerShell cannot pass {word!r} on.", "Rename what is called so.")
    return "'" + re.sub(r"(['\u2018\u2019\u201a\u201b])", r"\1\1", word) + "'"


def _said(done: Completed, *, out_first: bool = False) -> str:
    parts = [done.stdout, done.stderr] if out_first else [done.stderr, done.stdout]
    return next((words for part in parts if (words := first_words(part))), f"status {done.status}")


async def _run(shell: Shell, argv: Sequence[str], *, stdin: bytes = b"", limit: float = LIMIT) -> Completed:
    """Run it; a program that is not there is a status (127, as shells say it), here as over SSH."""
    try:
        return await shell.run(argv, stdin=stdin, timeout=limit)
    except CommandError as error:
        if error.status != 127:
            raise
        return Completed(127, "", error.message)
