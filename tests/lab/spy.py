"""Looks for a secret where it must not be, as fast as it can."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

OURS = b"tui.cli"
"""What a person starts has the secret in its environment, since cluster.toml refers to it there; its runners do not."""


class Spy(threading.Thread):
    """Looks through the command lines and environments of all processes for a secret, as fast as it can."""

    def __init__(self, secret: str) -> None:
        super().__init__(daemon=True)
        self._secret = secret.encode()
        self._over = threading.Event()
        self.seen: set[str] = set()
        self.leaks: set[str] = set()

    def run(self) -> None:
        while not self._over.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    argv = (process / "cmdline").read_bytes()
                    name = argv.replace(b"\0", b" ").decode(errors="replace")[:200]
                    self.seen.add(name)
                    shown = argv if OURS in argv else argv + (process / "environ").read_bytes()
                    if self._secret in shown:
                        self.leaks.add(name)

    def __enter__(self) -> Spy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
