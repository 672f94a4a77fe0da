"""The machine we stand on: versions, terminal, state directory, open files, and what logging out would end."""

from __future__ import annotations

import asyncio
import getpass
import os
import platform
import resource
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

from backends.cluster.inventory import Inventory
from backends.doctor.finding import Finding, bad, ok, warn
from backends.errors import CommandError
from backends.paths import state_path
from backends.reach.local import LocalShell, addresses, hostname
from backends.reach.rdp import find_client, missing_words
from backends.reach.runtime import Shell

LOGIND_LIMIT: Final = 5.0
"""Seconds for logind to tell how it is set."""

FILES_BASE: Final = 64
FILES_PER_ENDPOINT: Final = 2
FILES_PER_NODE: Final = 12
"""Open files: the program's own, a probe's connection and its next, an SSH connection with what is forwarded by it."""

_LOGIND = ("KillUserProcesses", "KillOnlyUsers", "KillExcludeUsers")
_FOR_LOGINCTL = ("PATH", "LANG", "XDG_RUNTIME_DIR", "DBUS_SYSTEM_BUS_ADDRESS")
_FOLDERS = ("usr/lib/systemd", "run/systemd", "etc/systemd")


@dataclass(frozen=True, slots=True)
class Here:
    """This machine as the doctor sees it; `open_files` is the soft and the hard limit, -1 for none."""

    version: str
    encoding: str
    environment: Mapping[str, str]
    hostname: str
    addresses: frozenset[str]
    user: str
    platform: str
    open_files: tuple[int, int]
    state: Path
    root: Path
    shell: Shell


def this_machine(version: str, encoding: str, environment: Mapping[str, str]) -> Here:
    """The machine we stand on; `version` is tierdeck's, `encoding` the terminal's."""
    return Here(
        version=version,
        encoding=encoding,
        environment=environment,
        hostname=hostname(),
        addresses=addresses(),
        user=getpass.getuser(),
        platform=sys.platform,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE),
        state=state_path(environment),
        root=Path("/"),
        shell=LocalShell({name: environment[name] for name in _FOR_LOGINCTL if name in environment}),
    )


def versions(here: Here) -> Finding:
    """What runs."""
    system = f"{platform.system()} {platform.release()}"
    return ok("versions", f"tierdeck {here.version}, Python {platform.python_version()}, {system}")


def terminal(here: Here) -> Finding:
    """Whether what is drawn can be shown."""
    if here.encoding.lower().replace("-", "") in ("utf8", "utf16"):
        return ok("terminal", f"speaks {here.encoding}")
    return warn(
        "terminal",
        f"speaks {here.encoding or 'no encoding that it names'}, not UTF-8: ASCII is drawn instead",
        "export LANG=C.UTF-8 (or another UTF-8 locale of `locale -a`).",
    )


def state_directory(here: Here) -> Finding:
    """Whether journals and locks have a place of their own."""
    subject, path = "state directory", here.state
    try:
        found = path.stat()
    except FileNotFoundError:
        return ok(subject, f"{path} is made when it is first needed")
    except OSError as error:
        return bad(subject, f"{path} cannot be looked at: {error.strerror}", "Name another in TIERDECK_STATE.")
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        return bad(subject, f"{path} is no directory", "Move it away, or name another in TIERDECK_STATE.")
    if found.st_uid != os.getuid():
        return bad(
            subject, f"{path} belongs to somebody else", "chown it to yourself, or name another: TIERDECK_STATE."
        )
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return bad(subject, f"{path} cannot be written (mode {mode:04o})", f"chmod 700 {path}")
    if mode & 0o077:
        return warn(subject, f"{path} is open to others (mode {mode:04o})", f"chmod 700 {path}")
    return ok(subject, f"{path} is ours alone")


def open_files(here: Here, inventory: Inventory) -> Finding:
    """Whether all endpoints and nodes can be connected to at once."""
    subject, (soft, hard) = "open files", here.open_files
    needed = FILES_BASE + FILES_PER_ENDPOINT * len(inventory.endpoints) + FILES_PER_NODE * len(inventory.nodes)
    if soft < 0 or soft >= needed:
        return ok(subject, f"{'no limit' if soft < 0 else f'{soft} allowed'}, about {needed} needed")
    text = f"{soft} allowed, about {needed} needed for {len(inventory.endpoints)} endpoints"
    if hard < 0 or hard >= needed:
        return warn(subject, text, f"ulimit -n {needed} before you start tierdeck.")
    return bad(
        subject, f"{text}, and no more than {hard} may be asked for", "Raise nofile in /etc/security/limits.conf."
    )


def desktops(here: Here, inventory: Inventory) -> tuple[Finding, ...]:
    """Whether the nodes that are woken by a desktop session can be, from here; nothing where there are none."""
    woken = [node.name for node in inventory.nodes if node.wake and node.wake.rdp]
    if not woken:
        return ()
    which = partial(shutil.which, path=here.environment.get("PATH", ""))
    client = find_client(here.environment, which=which)
    if client is not None:
        drawn = "on a screen of its own" if client.screen else "in a window"
        return (ok("desktop sessions", f"{Path(client.program).name} is there, and draws {drawn}"),)
    text, advice = missing_words(which=which)
    return (warn("desktop sessions", f"{', '.join(woken)} cannot be woken by one: {text.rstrip('.')}", advice),)


async def logind(here: Here) -> Finding:
    """Whether a procedure outlives the session in which it was started."""
    subject = "log-out"
    if here.platform != "linux":
        return ok(subject, "a procedure goes on")
    settings = await _logind(here)
    if settings is None:
        return ok(subject, "a procedure goes on: no logind is set up here")
    kills = settings.get("KillUserProcesses", "no").lower() in ("yes", "true", "1", "on")
    only = settings.get("KillOnlyUsers", "").split()
    spared = here.user in settings.get("KillExcludeUsers", "root").split() or (only and here.user not in only)
    if not kills or spared:
        return ok(subject, "a procedure goes on: logind leaves it alone")
    return warn(
        subject,
        f"logind ends all processes of {here.user} at log-out (KillUserProcesses=yes), running procedures, too",
        "Set KillUserProcesses=no in /etc/systemd/logind.conf (holds from the next boot); or: loginctl enable-linger, "
        "and start tierdeck by `systemd-run --user --scope tierdeck`.",
    )


async def _logind(here: Here) -> dict[str, str] | None:
    """logind's own word, else what its files say; None where there is neither."""
    asked = chain.from_iterable(("-p", name) for name in _LOGIND)
    try:
        done = await here.shell.run(["loginctl", "show-session", "--no-pager", *asked], timeout=LOGIND_LIMIT)
    except (CommandError, TimeoutError):
        done = None
    if done is not None and done.status == 0 and "KillUserProcesses=" in done.stdout:
        return _settings(done.stdout.splitlines())
    return await asyncio.to_thread(_files, here.root)


def _files(root: Path) -> dict[str, str] | None:
    """logind.conf with its drop-ins, a later one overriding; of drop-ins of one name only /etc's counts."""
    drop_ins: dict[str, Path] = {}
    for folder in _FOLDERS:
        drop_ins |= {path.name: path for path in (root / folder / "logind.conf.d").glob("*.conf")}
    main = [path for folder in _FOLDERS if (path := root / folder / "logind.conf").is_file()]
    files = [*main[-1:], *(drop_ins[name] for name in sorted(drop_ins))]
    found: dict[str, str] = {}
    for path in files:
        try:
            found |= _settings(path.read_text(errors="replace").splitlines())
        except OSError:
            continue
    return found if files else None


def _settings(lines: Iterable[str]) -> dict[str, str]:
    pairs = (line.strip().partition("=") for line in lines if not line.lstrip().startswith(("#", ";")))
    return {key.strip(): value.strip() for key, sign, value in pairs if sign and key.strip() in _LOGIND}
