"""`tierdeck replay`: the console on a recorded history; nothing outside is touched."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path


def run(arguments: argparse.Namespace) -> int:
    """Open the console on the file's latest change."""
    from backends.cluster.files import Loaded
    from backends.history.recording import Recording
    from tui.verbs.console import glyphs, opened, prepare_terminal

    prepare_terminal(os.environ)
    path = Path(arguments.file)
    with Recording(path) as recording:
        inventory = recording.latest().inventory

    from tui.app import TierdeckApp
    from tui.setup import Setup

    setup = Setup(
        loaded=Loaded(inventory, path, "", ()),
        state_dir=path.parent,
        glyphs=glyphs(arguments, os.environ),
        read_only=True,
        over_ssh="SSH_CONNECTION" in os.environ,
        replay=path,
    )
    return asyncio.run(opened(TierdeckApp(setup)))
