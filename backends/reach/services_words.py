"""What service managers are asked and what they answer: commands, scripts and parsers. Pure."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from backends.cluster.reading import Workload
from backends.errors import RuntimeFailure
from backends.reach.streams import first_words

PROPERTIES: Final = "Id,LoadState,ActiveState,SubState,ActiveEnterTimestamp,ExecMainStatus,Result,Restart"
"""What `systemctl show` is asked for."""

_FIND = (
    'uid=$(id -u); for d in "gui/$uid" "user/$uid" system; do '
    'if launchctl print "$d/$1" >/dev/null 2>&1; then domain=$d; break; fi; done; '
)
_PLIST = (
    'for p in "$HOME/Library/LaunchAgents/$1.plist gui/$uid" "/Library/LaunchAgents/$1.plist gui/$uid" '
    '"/Library/LaunchDaemons/$1.plist system"; do file=${p% *}; '
    'if [ -f "$file" ]; then plist=$file; home=${p##* }; break; fi; done; '
)
LAUNCHD_PRINT: Final = (
    _FIND + 'if [ -n "$domain" ]; then exec launchctl print "$domain/$1"; fi; ' + _PLIST + 'if [ -n "$plist" ]; then '
    'echo "state = unloaded"; else exit 113; fi'
)
"""Prints what launchd knows of the label $1; "state = unloaded" where only its property list is there."""

LAUNCHD_START: Final = (
    _FIND + 'if [ -n "$domain" ]; then exec launchctl kickstart "$domain/$1"; fi; ' + _PLIST + 'if [ -n "$plist" ]; '
    'then exec launchctl bootstrap "$home" "$plist"; fi; echo "no such job: $1" >&2; exit 113'
)
LAUNCHD_STOP: Final = _FIND + 'if [ -n "$domain" ]; then exec launchctl bootout "$domain/$1"; fi'

_LONGEST_COMMAND: Final = 8191
"""Characters that cmd takes on one line."""

_SYSTEMD_STATES: Final = {
    "active": "running",
    "reloading": "running",
    "refreshing": "running",
    "activating": "running",
    "deactivating": "running",
    "inactive": "exited",
    "failed": "dead",
    "maintenance": "dead",
}
_WINDOWS_STATES: Final = {
    "Running": "running",
    "StartPending": "running",
    "ContinuePending": "running",
    "StopPending": "running",
    "PausePending": "paused",
    "Paused": "paused",
    "Stopped": "exited",
}

_CODE: Final = r"\d{1,10}"
"""An exit code as a manager prints it."""


def unit(name: str) -> str:
    """The unit of a service name: `ollama` means ollama.service; RuntimeFailure for a pattern that could mean many."""
    if not re.fullmatch(r"[A-Za-z0-9:_.@\\][A-Za-z0-9:_.@\\-]*", name):
        raise RuntimeFailure(f"{first_words(name)} is no name of a systemd unit.", "Correct `service` in cluster.toml.")
    kinds = (".service", ".target", ".socket", ".timer", ".scope", ".slice")
    return name if name.endswith(kinds) else f"{name}.service"


def needs_rights(stderr: str) -> bool:
    """Whether a manager refused for want of rights."""
    words = ("authentication required", "access denied", "permission denied", "not privileged", "cannot open")
    return any(part in stderr.lower() for part in words)


def advice(stderr: str, node: str) -> str:
    """What to do about a refusal; "" where nothing is known."""
    text = stderr.lower()
    if "password is required" in text or "sudo" in text:
        return f"Let the user run systemctl on {node} without a password, by a line in /etc/sudoers.d."
    if needs_rights(stderr):
        return f"The user has no right to do that on {node}: log in as an administrator."
    if "not found" in text or "not loaded" in text or "cannot find any service" in text or "no such job" in text:
        return "Correct the name in `service` in cluster.toml."
    if "system has not been booted with systemd" in text or "failed to connect to bus" in text:
        return f"{node} is not run by systemd; correct `service` in cluster.toml."
    return ""


def systemd(output: str, names: Sequence[str], *, gpu: bool) -> tuple[Workload, ...]:
    """The services of one `systemctl show` of several units: blocks of Key=Value lines, in the order asked."""
    blocks: list[dict[str, str]] = [{}]
    for line in output.splitlines():
        key, equals, value = line.partition("=")
        if equals and key in blocks[-1]:
            blocks.append({})
        if equals:
            blocks[-1][key.strip()] = value.strip()
    return tuple(
        _systemd_one(blocks[place] if place < len(blocks) else {}, name, gpu=gpu) for place, name in enumerate(names)
    )


def _systemd_one(block: dict[str, str], name: str, *, gpu: bool) -> Workload:
    active, result = block.get("ActiveState", ""), block.get("Result", "")
    state = _SYSTEMD_STATES.get(active, "missing")
    if block.get("LoadState") in (None, "not-found", "masked", "bad-setting", "error") and state != "running":
        state = "missing"
    if block.get("SubState") == "auto-restart":
        state = "restarting"
    code = block.get("ExecMainStatus", "")
    return Workload(
        name=name,
        runtime="systemd",
        state=state,
        id=block.get("Id", ""),
        health="starting" if active == "activating" and state == "running" else None,
        started_at=_systemd_time(block.get("ActiveEnterTimestamp", "")) if state == "running" else None,
        exit_code=int(code) if re.fullmatch(_CODE, code) and state in ("exited", "dead", "restarting") else None,
        oom_killed=result == "oom-kill",
        error=result if result not in ("", "success") else "",
        gpu=gpu,
        restart_policy=block.get("Restart") or "no",
    )


def _systemd_time(text: str) -> float | None:
    """The time of a line asked for with TZ=UTC and LC_ALL=C: `Sat 2026-11-21 09:03:16 UTC`."""
    try:
        return datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def launchd(output: str, label: str, *, gpu: bool) -> Workload:
    """The job that `launchctl print` tells of; the outermost `key = value` lines count."""
    values = _launchd_values(output)
    said = values.get("state", "")
    running = said == "running" or values.get("pid", "").isdecimal()
    code = re.match(_CODE, values.get("last exit code", ""))
    status = int(code[0]) if code and not running else None
    if not values:
        state = "missing"
    elif running:
        state = "running"
    elif said == "spawn scheduled":
        state = "restarting"
    else:
        state = "dead" if status else "exited"
    return Workload(name=label, runtime="launchd", state=state, id=values.get("pid", ""), exit_code=status, gpu=gpu)


def launchd_log(output: str) -> str | None:
    """The file that a job's output goes to, from `launchctl print`."""
    values = _launchd_values(output)
    return values.get("stdout path") or values.get("stderr path")


def _launchd_values(output: str) -> dict[str, str]:
    found: dict[str, str] = {}
    depth = 0
    for line in output.splitlines():
        text = line.strip()
        key, _, value = text.partition(" = ")
        if depth <= 1 and value and value != "{":
            found.setdefault(key, value)
        depth += text.endswith("{") - text.startswith("}")
    return found


def powershell(script: str) -> list[str]:
    """The command line that runs a PowerShell script in any shell of Windows; RuntimeFailure where it is too long."""
    quiet = "$ProgressPreference='SilentlyContinue';$ErrorActionPreference='Stop';"
    plain = "[Console]::OutputEncoding=[Text.Encoding]::UTF8;"
    encoded = base64.b64encode((quiet + plain + script).encode("utf-16-le")).decode()
    argv = ["powershell", "-NoProfile", "-NonInteractive", "-EncodedCommand", encoded]
    if len(" ".join(argv)) > _LONGEST_COMMAND:
        raise RuntimeFailure("Too many services for one command line of Windows.", "Name fewer on that node.")
    return argv


def windows_query(names: Sequence[str]) -> str:
    """The script that prints those services as JSON."""
    listed = ",".join(_quoted(name) for name in names)
    return (
        f"$n=@({listed});$s=@(Get-Service|Where-Object{{$n -contains $_.Name}}|ForEach-Object{{"
        "@{Name=$_.Name;Status=[string]$_.Status;StartType=[string]$_.StartType}});"
        "ConvertTo-Json -Compress -InputObject $s"
    )


def windows_change(verb: str, name: str) -> str:
    """The script that starts or stops a service; asked by its exact name, since -Name takes patterns."""
    return (
        f"$s=@(Get-Service|Where-Object{{$_.Name -eq {_quoted(name)}}});"
        f"if(!$s){{[Console]::Error.WriteLine('Cannot find any service '+{_quoted(name)});exit 1}};"
        f"try{{$s|{verb}}}catch{{[Console]::Error.WriteLine($_.Exception.Message);exit 1}}"
    )


def windows(output: str, names: Sequence[str], *, gpu: bool) -> tuple[Workload, ...]:
    """The services of a `windows_query`; RuntimeFailure where its answer is no JSON."""
    try:
        listed = json.loads(output.strip().lstrip("\ufeff") or "[]")
    except (ValueError, RecursionError):
        raise RuntimeFailure(f"PowerShell answered what is no list of services: {first_words(output)}") from None
    known: dict[str, dict[str, Any]] = {}
    for item in listed if isinstance(listed, list) else [listed]:
        if isinstance(item, dict):
            known[str(item.get("Name", "")).lower()] = item
    found = []
    for name in names:
        item = known.get(name.lower())
        said = str(item.get("Status", "")) if item else ""
        state = _WINDOWS_STATES.get(said, "dead") if item else "missing"
        health = "starting" if said == "StartPending" else None
        found.append(Workload(name=name, runtime="windows", state=state, health=health, gpu=gpu))
    return tuple(found)


def _quoted(text: str) -> str:
    """A PowerShell string; it takes typographic quotes for quotes too."""
    return "'" + re.sub(r"(['\u2018\u2019\u201a\u201b])", r"\1\1", text) + "'"
