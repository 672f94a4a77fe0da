"""`tierdeck`: opens the console; a broken cluster.toml opens the last good one, read-only."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import signal
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from backends.cluster.files import Loaded, load, parse
from backends.errors import InventoryError
from backends.paths import config_dir, private_copy, state_dir
from tui.verbs.opening import cluster_path, where
from widgets.glyphs import ASCII, UNICODE, Glyphs

if TYPE_CHECKING:
    from textual.driver import Driver

    from tui.app import TierdeckApp


def run(arguments: argparse.Namespace) -> int:
    """Open the console on the cluster."""
    prepare_terminal(os.environ)
    state = state_dir(os.environ)
    path = cluster_path(arguments)
    loaded, banner = _load_or_last_good(path, state)

    from tui.app import TierdeckApp
    from tui.setup import Setup

    setup = Setup(
        loaded=loaded,
        state_dir=state,
        locate=lambda: where(loaded),
        glyphs=glyphs(arguments, os.environ),
        read_only=getattr(arguments, "read_only", False) or bool(banner),
        over_ssh="SSH_CONNECTION" in os.environ,
        banner=banner,
        keys=keys(config_dir() / "config.toml"),
    )
    return asyncio.run(opened(TierdeckApp(setup)))


async def opened(app: TierdeckApp) -> int:
    """Run the console to its end; a hang-up or a polite kill closes it as q does, from its first moment on."""
    if not os.environ.get("TEXTUAL_DRIVER"):
        app.driver_class = _outliving(app.driver_class)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, app.exit)
    await app.run_async()
    return app.return_code or 0


class _Screen:
    """The terminal as a file; once it is gone, what is written goes nowhere."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.fileno = file.fileno

    def write(self, text: str) -> None:
        """Draw."""
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        """Draw now."""
        with suppress(OSError):
            self._file.flush()


def _outliving(driver: type[Driver]) -> type[Driver]:
    """`driver` that ends in order when its terminal is gone; Textual's own then waits for ever to write the rest."""

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        driver.__init__(self, *arguments, **options)
        self._file = _Screen(self._file)

    return type("Outliving", (driver,), {"__init__": init})


def _load_or_last_good(path: Path, state: Path) -> tuple[Loaded, str]:
    kept = state / "last-good" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.toml"
    try:
        loaded = load(path)
    except InventoryError as error:
        try:
            return parse(kept.read_text(encoding="utf-8"), path), f"{error} Showing the last good one, read-only."
        except (OSError, UnicodeDecodeError, InventoryError):
            raise error from None
    with suppress(OSError):  # a full disk locks nobody out
        private_copy(kept, loaded.text)
    return loaded, ""


def prepare_terminal(environment: os._Environ[str]) -> None:
    """Set Textual's own knobs before it is imported: over SSH no animation."""
    if environment.get("TEXTUAL_DRIVER"):  # `tierdeck serve` stands in for the terminal
        return
    if not all(os.isatty(fd) for fd in (0, 1, 2)):  # keys come by 0, pictures go by 2
        raise InventoryError("The console needs a terminal.", "For scripts there is: tierdeck status --json")
    if "SSH_CONNECTION" in environment:
        environment.setdefault("TEXTUAL_ANIMATIONS", "none")
        environment.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")


def glyphs(arguments: argparse.Namespace, environment: os._Environ[str]) -> Glyphs:
    """ASCII where asked for, or where the locale cannot do more."""
    wanted = getattr(arguments, "ascii", False) or environment.get("TIERDECK_ASCII", "") not in ("", "0")
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return ASCII if wanted or encoding not in ("utf8", "utf16") else UNICODE


def keys(path: Path) -> dict[str, str]:
    """The person's own keys: [keys] of config.toml, action = "key"."""
    from tui.actions import NAMED

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("keys", {})
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InventoryError(f"{path}: cannot be used: {error}.") from None
    if not isinstance(table, dict):
        raise InventoryError(f'{path}: keys: expected a table of action = "key".')
    for name, key in table.items():
        if name not in NAMED or not isinstance(key, str):
            raise InventoryError(f"{path}: keys {name}: expected one of {', '.join(NAMED)}, and a key in quotes.")
    return table
