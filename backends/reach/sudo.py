"""Whether `sudo` would run a command on a node, found out without running it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

from pydantic import SecretStr

from backends.reach.runtime import Completed, Shell
from backends.reach.streams import first_words

LIMIT: Final = 15.0
"""Seconds for an answer of sudo; one that asks elsewhere (LDAP) takes its time."""

_TAG: Final = re.compile(r"\b((?:NO)?PASSWD):")


async def refusal(shell: Shell, argv: Sequence[str], password: SecretStr | None) -> str:
    """Why sudo would not run `argv` as root, or ""; a ReachError or TimeoutError where it cannot be asked.

    The password goes to standard input. That a command may be run says nothing of whether a password is asked for
    (sudoers(5), listpw), so without one the rule that allows it has to say NOPASSWD.
    """
    shown = shlex.join(argv)
    if password is not None:
        stdin = password.get_secret_value().encode() + b"\n"
        told = await _ask(shell, ["-k", "-S", "-p", "", "-v"], stdin)
        if told.status:
            return _words(told) or "sudo does not take the password"
        allowed = await _ask(shell, ["-k", "-S", "-p", "", "-l", *argv], stdin)
        return "" if allowed.status == 0 else _words(allowed) or f"sudo may not run: {shown}"
    allowed = await _ask(shell, ["-n", "-l", *argv])
    if allowed.status:
        return _words(allowed) or f"sudo may not run: {shown}"
    command = allowed.stdout.strip()
    rules = _without_password((await _ask(shell, ["-n", "-l"])).stdout)
    if any(rule in ("ALL", command.partition(" ")[0]) or fnmatchcase(command, rule) for rule in rules):
        return ""
    return f"sudo asks for a password before it runs: {shown}"


async def _ask(shell: Shell, options: Sequence[str], stdin: bytes = b"") -> Completed:
    return await shell.run(["sudo", *options], stdin=stdin, timeout=LIMIT)


def _without_password(listed: str) -> list[str]:
    """The commands that `sudo -l` lists behind NOPASSWD; long rules go on in the next line."""
    found = []
    for line in listed.replace("\n        ", " ").splitlines():
        free = False
        for command in line.split(","):
            *_, tag = _TAG.findall(command) or [""]
            free = tag == "NOPASSWD" if tag else free
            found += [_TAG.split(command)[-1].strip()] if free else []
    return found


def _words(done: Completed) -> str:
    return first_words(done.stderr)
