"""What one console is: the cluster it shows, where it stands, and what it may do. Settled before it opens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from backends.cluster.files import Loaded
from widgets.glyphs import UNICODE, Glyphs


class Breakable(Protocol):
    """A fault of the simulator that a person can cause and heal in the demo."""

    @property
    def id(self) -> str:
        """Its name."""
        ...

    @property
    def label(self) -> str:
        """What it does, in words."""
        ...


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo's palette can break."""

    faults: tuple[Breakable, ...]
    inflict: Callable[[str], Awaitable[None]]
    heal_all: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything a console needs to open; `banner` is a sentence that stays on top (a broken cluster.toml).

    `replay` is a recorded history to be shown instead of the world.
    `locate` tells on which node we stand; it looks at this machine's addresses and is asked after the first frame.
    """

    loaded: Loaded
    state_dir: Path
    locate: Callable[[], str | None] = lambda: None
    glyphs: Glyphs = UNICODE
    read_only: bool = False
    over_ssh: bool = False
    banner: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    demo: Demo | None = None
    replay: Path | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """What limits this console, in words."""
        marks = []
        if self.demo is not None:
            marks.append("DEMO")
        if self.replay is not None:
            marks.append("REPLAY")
        if self.read_only:
            marks.append("READ-ONLY")
        return tuple(marks)
