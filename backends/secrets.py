"""References to secrets, resolved at the moment of use.

A value is never logged, never part of an error, never an argument or an environment variable of a child.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from pydantic import SecretStr

from backends.cluster.inventory import Inventory
from backends.errors import SecretError
from backends.text import plain
from backends.vaults import read_azure, read_hashicorp

_T = TypeVar("_T")

LIMIT: Final = 30.0
"""Seconds a vault gets to answer; its own dialog may be waiting for a person."""

FAILURE_KEPT: Final = 60.0
"""Seconds after which a poll asks again for a secret that could not be had; vaults are not to be pestered."""

_ATTENDED: Final = frozenset({"prompt", "op"})
"""Kinds that may ask a person, and so are never resolved by a poll."""

_KEYS: Final = {
    "vault": ("VAULT_TOKEN",),
    "azure-kv": ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PASSWORD", "AZURE_PASSWORD"),
    "op": ("OP_SERVICE_ACCOUNT_TOKEN", "OP_CONNECT_TOKEN"),
}
"""The environment variables that open a vault, and so are secrets themselves."""

_KINDS: Final = "env:, keyring:, pass:, op:, vault:, azure-kv: or prompt:"

_TOOL_ENVIRONMENT: Final = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|LANG|LC_\w+|DISPLAY|WAYLAND_DISPLAY|DBUS_SESSION_BUS_ADDRESS|SSH_AUTH_SOCK"
    r"|XDG_\w+|GNUPGHOME|GPG_AGENT_INFO|PASSWORD_STORE_\w+|OP_\w+"
)
"""What pass and op need of our environment; everything else, other secrets among it, is kept from them."""


class Secrets:
    """Resolves references; `ask` is how a person is asked for a `prompt:`, None where nobody can be.

    `given` are variables that were handed over instead of set: `env:` finds them there first.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[str]] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        given: Mapping[str, SecretStr] | None = None,
        clock: Callable[[], float] = time.monotonic,
        limit: float = LIMIT,
    ) -> None:
        self._ask = ask
        self._environment = os.environ if environment is None else environment
        self._given = given or {}
        self._clock = clock
        self._limit = limit
        self._kept: dict[str, SecretStr] = {}
        self._failed: dict[str, tuple[float, SecretError]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def resolve(self, reference: str, *, polling: bool) -> SecretStr:
        """The secret; SecretError where it cannot be had.

        With `polling` it is resolved once and kept in memory, and nothing that may ask a person is touched.
        """
        if not polling:
            return await self._resolve(reference, attended=True)
        kind = reference.partition(":")[0]
        if kind in _ATTENDED:
            raise SecretError(
                f"{reference} is asked for only by what a person starts, never by a poll.",
                "For what is polled use env:, keyring:, pass:, vault: or azure-kv:.",
            )
        async with self._locks.setdefault(reference, asyncio.Lock()):
            if reference in self._kept:
                return self._kept[reference]
            until, failure = self._failed.get(reference, (0.0, None))
            if failure and self._clock() < until:
                raise failure
            try:
                secret = await self._resolve(reference, attended=False)
            except SecretError as error:
                self._failed[reference] = (self._clock() + FAILURE_KEPT, error)
                raise
            self._kept[reference] = secret
            return secret

    def forget(self, reference: str) -> None:
        """Let go of a kept secret, since it turned out to be wrong or was changed; the next poll resolves it anew."""
        self._kept.pop(reference, None)
        self._failed.pop(reference, None)

    async def _resolve(self, reference: str, *, attended: bool) -> SecretStr:
        kind, _, rest = reference.partition(":")
        if not rest:
            raise SecretError(f"{reference}: nothing is named after the colon.")
        try:
            async with asyncio.timeout(None if kind == "prompt" else self._limit):
                match kind:
                    case "env":
                        given = self._given.get(rest)
                        value = given.get_secret_value() if given else self._environment.get(rest, "")
                    case "keyring":
                        value = await _keyring(reference, rest)
                    case "pass":
                        value = await self._tool(reference, ["pass", "show", "--", rest], attended)
                    case "op":
                        item = rest if rest.startswith("op://") else f"op://{rest}"
                        value = await self._tool(reference, ["op", "read", "--no-newline", "--", item], attended)
                    case "vault":
                        read = partial(read_hashicorp, reference, rest, self._environment, self._limit)
                        value = await _in_thread(read)
                    case "azure-kv":
                        value = await _in_thread(partial(read_azure, reference, rest))
                    case "prompt":
                        value = await self._prompt(reference, rest)
                    case _:
                        raise SecretError(f"{kind}: is no kind of reference.", f"Use {_KINDS}.")
        except TimeoutError:
            raise SecretError(
                f"{reference} was not answered within {self._limit:g} s.", "Is its vault locked, or asking somewhere?"
            ) from None
        if not value:
            raise SecretError(f"{reference} is empty or not set.", _HOW_TO_SET.get(kind, "").format(name=rest))
        return SecretStr(value)

    async def _prompt(self, reference: str, label: str) -> str:
        if self._ask is None:
            raise SecretError(f"{reference}: nobody can be asked here.", "Run it in a terminal, or use another kind.")
        return await self._ask(label)

    async def _tool(self, reference: str, argv: Sequence[str], attended: bool) -> str:
        """The first line that a vault's own program prints."""
        environment = {k: v for k, v in self._environment.items() if _TOOL_ENVIRONMENT.fullmatch(k)}
        if attended and "GPG_TTY" in self._environment:  # a poll must not let pinentry draw over the console
            environment["GPG_TTY"] = self._environment["GPG_TTY"]

        def run() -> subprocess.CompletedProcess[bytes]:
            nothing = subprocess.DEVNULL
            return subprocess.run(
                argv, stdin=nothing, capture_output=True, env=environment, start_new_session=True, timeout=self._limit
            )

        try:
            done = await _in_thread(run)
        except OSError as error:
            raise SecretError(
                f"{reference}: {argv[0]} cannot be run ({error.strerror}).", f"Install {argv[0]}, or use another kind."
            ) from None
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        if done.returncode:
            said = plain(done.stderr.decode(errors="replace"), 200)
            raise SecretError(f"{reference}: {argv[0]} failed: {said or f'status {done.returncode}'}")
        return done.stdout.decode(errors="replace").partition("\n")[0].rstrip("\r")


_HOW_TO_SET: Final = {"env": "Set it before you start: export {name}=...", "keyring": "keyring set SERVICE NAME."}


def secret_variables(inventory: Inventory) -> frozenset[str]:
    """The environment variables that hold secrets of this inventory, or open its vaults, to be kept from children."""
    text = inventory.model_dump_json()
    keys = (key for kind, opened in _KEYS.items() if f'"{kind}:' in text for key in opened)
    return frozenset((*named_variables(inventory), *keys))


def named_variables(inventory: Inventory) -> frozenset[str]:
    """The environment variables that `env:` references of this inventory name."""
    return frozenset(re.findall(r'"env:([^"]+)"', inventory.model_dump_json()))


async def _keyring(reference: str, rest: str) -> str:
    service, _, name = rest.partition("/")
    if not service or not name:
        raise SecretError(f"{reference}: a service and a name are needed.", "keyring:SERVICE/NAME")

    def look() -> str | None:
        try:
            library = importlib.import_module("keyring")
            errors = importlib.import_module("keyring.errors")
        except ImportError:
            raise SecretError(
                f"{reference}: the keyring library is not installed.", 'Install it: pip install "tierdeck[keyring]"'
            ) from None
        try:
            value: str | None = library.get_password(service, name)
        except errors.KeyringError as error:
            raise SecretError(
                f"{reference}: the keyring cannot be used ({type(error).__name__}).",
                "Is it unlocked, and is a backend of it installed (keyring --list-backends)?",
            ) from None
        return value

    return await _in_thread(look) or ""


async def _in_thread(call: Callable[[], _T]) -> _T:
    """Call in a thread that nobody has to wait for: a locked vault may never answer, not even at exit."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_T] = loop.create_future()

    def settle(act: Callable[[], None]) -> None:
        if not answer.done():
            act()

    def work() -> None:
        try:
            act = partial(answer.set_result, call())
        except Exception as error:  # handed to whoever waits
            act = partial(answer.set_exception, error)
        with suppress(RuntimeError):  # the loop may be gone by now
            loop.call_soon_threadsafe(settle, act)

    threading.Thread(target=work, name="vault", daemon=True).start()
    return await answer
