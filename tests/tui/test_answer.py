"""What keeps the end of an answer in sight, and what does not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.screen import ModalScreen
from textual.widgets import Static

from widgets.answer import Answer
from widgets.glyphs import UNICODE


class Desk(App[None]):
    """A decision of changing height, above an answer."""

    CSS = "#decision { height: 2; } Answer { height: 1fr; }"

    def compose(self) -> ComposeResult:
        yield Static("decision", id="decision")
        yield Answer(UNICODE)

    @property
    def answer(self) -> Answer:
        return self.screen_stack[0].query_one(Answer)

    @property
    def last(self) -> str:
        """The last line of the answer that is in sight."""
        strip = self.answer.render_line(self.answer.scrollable_content_region.height - 1)
        return strip.text.strip()


@pytest.fixture
async def pilot() -> AsyncIterator[Pilot[None]]:
    app = Desk()
    async with app.run_test(size=(40, 12)) as pilot:
        app.answer.begin(("the prompt", "title"))
        yield pilot


def desk(pilot: Pilot[None]) -> Desk:
    assert isinstance(pilot.app, Desk)
    return pilot.app


def say(app: Desk, first: int, count: int) -> None:
    for number in range(first, first + count):
        app.answer.paragraph(f"line {number}")


async def test_it_is_followed_while_the_pane_shrinks_and_grows(pilot: Pilot[None]) -> None:
    app = desk(pilot)
    say(app, 0, 30)
    await pilot.pause()
    for height in (8, 3, 10, 2):
        app.query_one("#decision").styles.height = height
        await pilot.pause()
        assert app.last == "line 29"
    say(app, 30, 1)
    await pilot.pause()
    assert app.last == "line 30"


async def test_it_is_followed_under_a_dialog(pilot: Pilot[None]) -> None:
    app = desk(pilot)
    app.push_screen(ModalScreen())
    await pilot.pause()
    say(app, 0, 30)
    await pilot.pause()
    app.pop_screen()
    await pilot.pause()
    assert app.last == "line 29"
    say(app, 30, 1)
    await pilot.pause()
    assert app.last == "line 30"


async def test_who_scrolls_away_is_left_in_peace(pilot: Pilot[None]) -> None:
    app = desk(pilot)
    say(app, 0, 30)
    app.answer.focus()
    await pilot.pause()
    await pilot.press("k", "k")
    assert app.last == "line 27"
    say(app, 30, 5)
    await pilot.pause()
    assert app.last == "line 27"
    await pilot.press("G")
    say(app, 35, 1)
    await pilot.pause()
    assert app.last == "line 35"


async def test_a_new_prompt_is_followed_wherever_one_was(pilot: Pilot[None]) -> None:
    app = desk(pilot)
    say(app, 0, 30)
    app.answer.focus()
    await pilot.pause()
    await pilot.press("g")
    app.answer.begin(("another", "title"))
    say(app, 0, 20)
    await pilot.pause()
    assert app.last == "line 19"


async def test_a_key_that_moves_nothing_loses_nothing(pilot: Pilot[None]) -> None:
    app = desk(pilot)
    app.answer.focus()
    await pilot.pause()
    await pilot.press("j", "k")
    say(app, 0, 30)
    await pilot.pause()
    assert app.last == "line 29"
