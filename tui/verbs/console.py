"""`tierdeck`: opens the console; a broken cluster.toml opens the last good one, read-only."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tomllib
from pathlib import Path

from backends.cluster.files import Loaded, load, parse
from backends.errors import InventoryError
from backends.paths import config_dir, private_copy, state_dir
from tui.verbs.opening import cluster_path, where
from widgets.glyphs import ASCII, UNICODE, Glyphs


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
        here=where(loaded),
        glyphs=glyphs(arguments, os.environ),
        read_only=getattr(arguments, "read_only", False) or bool(banner),
        over_ssh="SSH_CONNECTION" in os.environ,
        banner=banner,
        keys=keys(config_dir() / "config.toml"),
    )
    app = TierdeckApp(setup)
    app.run()
    return app.return_code or 0


def _load_or_last_good(path: Path, state: Path) -> tuple[Loaded, str]:
    kept = state / "last-good" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.toml"
    try:
        loaded = load(path)
    except InventoryError as error:
        if not kept.exists():
            raise
        return parse(kept.read_text(encoding="utf-8"), path), f"{error} Showing the last good one, read-only."
    private_copy(kept, loaded.text)
    return loaded, ""


def prepare_terminal(environment: os._Environ[str]) -> None:
    """Set Textual's own knobs before it is imported: over SSH no animation and few frames."""
    if not sys.stdout.isatty():
        raise InventoryError("The console needs a terminal.", "For scripts there is: tierdeck status --json")
    if "SSH_CONNECTION" in environment:
        environment.setdefault("TEXTUAL_ANIMATIONS", "none")
        environment.setdefault("TEXTUAL_FPS", "15")
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
