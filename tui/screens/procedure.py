"""A procedure as it runs: its steps, what each waits for, its output. Esc detaches; only a cancel stops it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from backends.errors import TierdeckError
from tui.screens.text import Page
from widgets.bars import KeysBar
from widgets.format import fit
from widgets.glyphs import Glyphs
from widgets.lines import Line, line

if TYPE_CHECKING:
    from backends.cluster.reading import ProcedureState
    from backends.procedures.events import StepEvent

KEPT = 2000
"""How many lines of output are kept."""

_NARROW = 60
"""Cells below which a step's glyph and seconds stand for its state."""

_STYLES = {"step_done": "good", "step_skipped": "dim", "step_failed": "bad", "question": "warn", "lost": "bad"}
_OUTCOMES = {"done": "good", "failed": "bad", "cancelled": "warn", "halted": "bad"}


class ProcedureScreen(Screen[None]):
    """Follows a journal until it ends or the screen is closed; answers its questions."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "app.pop_screen", "detach", show=False),
        Binding("c", "cancel", "cancel", show=False),
        Binding("p", "pause", "pause", show=False),
        Binding("r", "answer('retry')", "retry", show=False),
        Binding("s", "answer('skip')", "skip", show=False),
        Binding("a", "answer('abort')", "abort", show=False),
        Binding("b", "answer('rollback')", "take back", show=False),
    ]
    DEFAULT_CSS = "ProcedureScreen #steps { height: auto; max-height: 50%; }"

    def __init__(
        self,
        title: str,
        follow: Callable[[], AsyncIterator[StepEvent]],
        fold: Callable[[ProcedureState | None, StepEvent], ProcedureState | None],
        control: Callable[[str], Awaitable[None]],
        now: Callable[[], float],
        glyphs: Glyphs,
        *,
        read_only: bool,
    ) -> None:
        super().__init__()
        self._follow_journal = follow
        self._fold = fold
        self._control = control
        self._now = now
        self._glyphs = glyphs
        self._read_only = read_only
        self._state: ProcedureState | None = None
        self._output: deque[Line] = deque(maxlen=KEPT)
        self._steps = Page(title, self._step_lines, glyphs)
        self._steps.id = "steps"
        self._log = Page("Output", lambda width: list(self._output), glyphs)
        self._outcome = ""
        self._paused = False
        """A person asked for a pause; it holds at the edge of the step that runs."""
        self._choices: tuple[str, ...] = ()
        """The answers to the question that is open."""
        self._said: tuple[int | None, str] = (None, "")
        """The step that spoke last, and its words or the stage of the gate at which it waits."""

    def compose(self) -> ComposeResult:
        """Steps above, output below."""
        yield self._steps
        yield self._log
        yield KeysBar()

    def on_mount(self) -> None:
        """Follow from the first event on."""
        self._log.focus()
        self._show_keys()
        self.set_interval(1.0, self._draw)
        self._follow()

    @work(exclusive=True, group="journal", exit_on_error=False)
    async def _follow(self) -> None:
        try:
            async for event in self._follow_journal():
                self._state = self._fold(self._state, event)
                self._take(event)
                self._draw()
        except TierdeckError as error:
            self._output.append(line((str(error), "bad")))
        self._show_keys()
        self._draw()

    def _take(self, event: StepEvent) -> None:
        self._choices = event.choices
        if event.event == "question":
            self._paused = "continue" in self._choices
        if event.event == "finished":
            self._outcome = event.outcome or ""
            words = f"{self._outcome}: {event.text}" if event.text else self._outcome
            self._output.append(line((words, _OUTCOMES.get(self._outcome, ""))))
        elif event.log:
            self._output.extend(line((f"{self._label(event.step)}  ", "dim"), text) for text in event.log)
        elif event.event == "step_started" and event.command:
            self._output.append(line((f"{self._label(event.step)}  ", "dim"), (f"$ {event.command}", "accent")))
        elif event.text and event.event not in ("created", "step_started"):
            said = (event.step, event.waits_at or event.text)
            if said != self._said:
                style = _STYLES.get(event.event, "")
                self._output.append(line((f"{self._label(event.step)}  ", "dim"), (event.text, style)))
            self._said = said
        self._show_keys()

    def _label(self, step: int | None) -> str:
        steps = self._state.steps if self._state else ()
        return steps[step].label if step is not None and step < len(steps) else ""

    def _step_lines(self, width: int) -> Sequence[Line]:
        if self._state is None:
            return [line((f"reading{self._glyphs.ellipsis}", "dim"))]
        lines = []
        room = min(max(len(step.label) for step in self._state.steps), width // 2) if self._state.steps else 0
        for step in self._state.steps:
            glyph, style = {
                "done": (self._glyphs.done, "good"),
                "skipped": (self._glyphs.done, "dim"),
                "running": (self._glyphs.running, "accent"),
                "failed": (self._glyphs.failed, "bad"),
            }.get(step.state, (self._glyphs.waiting, "dim"))
            end = step.ended or (self._now() if step.state == "running" and self._state.open else None)
            spent = f"{max(0.0, end - step.started):>5.0f} s" if step.started and end else " " * 7
            bar = ""
            if step.progress is not None:
                bar = self._glyphs.progress(step.progress, _bar_cells(width), estimate=step.estimate) + "  "
            state = f" {step.state:<8}" if width >= _NARROW or step.state == "waiting" else ""
            words = f"{glyph} {fit(step.label, room, self._glyphs.ellipsis)}{state}{spent}  {bar}{step.detail}"
            lines.append(line((fit(words, width, self._glyphs.ellipsis), style)))
        if self._state.question:
            lines.append(line((fit(self._state.question, width, self._glyphs.ellipsis), "warn")))
        return lines

    def _draw(self) -> None:
        following = self._log.scroll_offset.y >= self._log.max_scroll_y - 1
        self._steps.redraw()
        self._log.redraw()
        if following:
            self._log.scroll_end(animate=False)

    def _show_keys(self) -> None:
        keys = [("Esc", "detach" if self._open else "back")]
        if self._open and not self._read_only:
            keys += [(word[0], word) for word in ("retry", "skip", "abort") if word in self._choices]
            keys += [("b", "take all back")] if "rollback" in self._choices else []
            keys += [("p", "continue" if self._paused else "pause"), ("c", "cancel (again: now)")]
        self.query_one(KeysBar).show(keys)

    @property
    def _open(self) -> bool:
        return not self._outcome and (self._state is None or self._state.open)

    def action_cancel(self) -> None:
        """Stop it: once at the step's edge, twice now."""
        self._say_to_runner("cancel")

    def action_answer(self, word: str) -> None:
        """Answer its question."""
        if word in self._choices:
            self._say_to_runner(word)

    def action_pause(self) -> None:
        """Hold it at the edge of its step, or let it go on."""
        self._say_to_runner("continue" if self._paused else "pause")

    @work(group="control", exit_on_error=False)
    async def _say_to_runner(self, word: str) -> None:
        if not self._open or self._read_only:
            return
        try:
            await self._control(word)
        except TierdeckError as error:
            self._output.append(line((str(error), "bad")))
        else:
            self._paused = word == "pause" or (self._paused and word != "continue")
        self._show_keys()
        self._draw()


def _bar_cells(width: int) -> int:
    return 20 if width >= 100 else 8 if width >= _NARROW else 4
