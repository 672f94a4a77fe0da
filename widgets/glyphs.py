"""The shapes that carry state before colour does, in Unicode and in ASCII."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backends.cluster.words import State, Verdict


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One set of shapes."""

    up: str
    degraded: str
    down: str
    unknown: str
    done: str
    running: str
    waiting: str
    failed: str
    full: str
    declared: str
    reserved: str
    empty: str
    arrow: str
    ellipsis: str
    cursor: str
    border: str
    levels: str

    def of(self, word: Verdict | State) -> str:
        """The shape of a verdict or state."""
        return {
            "UP": self.up,
            "HEALTHY": self.up,
            "DEGRADED": self.degraded,
            "DOWN": self.down,
            "UNKNOWN": self.unknown,
        }[word.value]

    def bar(self, share: float, width: int, declared: float = 0.0, reserved: float = 0.0) -> str:
        """A bar of `width` cells: `share` (0 to 1) measured, of which `declared` is accounted for by models.

        `reserved` is what starts in progress will still take.
        """
        cells = max(0, min(width, round(share * width)))
        told = max(0, min(cells, round(declared * width)))
        coming = max(0, min(width - cells, round(reserved * width)))
        rest = width - cells - coming
        return self.full * told + self.declared * (cells - told) + self.reserved * coming + self.empty * rest

    def progress(self, share: float, width: int, *, estimate: bool) -> str:
        """How far something has come, as "[####....] 50%"; an estimate is marked by a "~"."""
        return f"[{self.bar(share, width, share)}] {'~' if estimate else ''}{share:.0%}"

    def spark(self, values: Sequence[float | None], width: int) -> str:
        """The last `width` values as columns between nothing and the greatest of them; a blank where one is unknown."""
        shown = values[-width:]
        top = max((value for value in shown if value is not None), default=0.0)
        last = len(self.levels) - 1
        return "".join(
            " " if value is None else self.levels[round(last * value / top) if top > 0 else 0] for value in shown
        )


UNICODE: Final = Glyphs(
    up="●",
    degraded="◐",
    down="✗",
    unknown="○",
    done="✓",
    running="▸",
    waiting="·",
    failed="✗",
    full="█",
    declared="▓",
    reserved="▒",
    empty="░",
    arrow="→",
    ellipsis="…",
    cursor="▌",
    border="round",
    levels="▁▂▃▄▅▆▇█",
)

ASCII: Final = Glyphs(
    up="+",
    degraded="~",
    down="x",
    unknown="?",
    done="v",
    running="*",
    waiting=".",
    failed="x",
    full="#",
    declared="=",
    reserved="~",
    empty=".",
    arrow="->",
    ellipsis="..",
    cursor=">",
    border="ascii",
    levels="_.-=#",
)
