"""A procedure on the screen: how far each step has come, its log live, waits told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from pydantic import JsonValue
from syrupy.assertion import SnapshotAssertion

from backends.procedures.events import StepEvent, fold
from backends.procedures.plan import Plan, Step, to_json
from tests.tui.driving import console, picture, shown, until
from tests.tui.test_snapshots import SIZES
from tui.screens.procedure import ProcedureScreen
from widgets.glyphs import UNICODE

PLAN = Plan("queue", "mark", "Start queue of mark", tuple(Step("x", f"start {n}") for n in ("mark-v", "mark-iii")))
AT = 1_700_000_000.0


def output(at: float, step: int, **detail: JsonValue) -> StepEvent:
    return StepEvent(AT + at, "p", "output", step, detail)


def waits(at: float, step: int, text: str, **more: JsonValue) -> StepEvent:
    return output(at, step, text=text, gate="ready", waited_s=at, **more)


STORY = (
    StepEvent(AT, "p", "created", None, {"owner": "ops@desk:7", "plan": to_json(PLAN)}),
    StepEvent(AT, "p", "step_started", 0, {"text": "start mark-v"}),
    waits(1, 0, "starting 1 s"),
    waits(2, 0, "starting 2 s"),
    output(3, 0, log=["load_tensors: CUDA0 model buffer size = 4096.00 MiB", "[b]no markup[/b]"]),
    waits(14, 0, "ready after 14 s; a pause of 5 s"),
    StepEvent(AT + 19, "p", "step_done", 0, {"text": "ready after 14 s"}),
    StepEvent(AT + 19, "p", "step_started", 1, {"text": "start mark-iii"}),
    waits(41, 1, "loading 22/~31 s, VRAM 3.1/~4.4 GiB", progress=0.71, estimate=True),
)


async def followed() -> AsyncGenerator[StepEvent, None]:
    for event in STORY:
        yield event
    await asyncio.Event().wait()


async def test_paused_and_continued_by_one_key(tmp_path: Path) -> None:
    said: list[str] = []
    news: asyncio.Queue[StepEvent] = asyncio.Queue()

    async def follow() -> AsyncGenerator[StepEvent, None]:
        for event in STORY:
            yield event
        while True:
            yield await news.get()

    async def hear(word: str) -> None:
        said.append(word)

    async with console(tmp_path, size=SIZES["100x30"]) as (app, pilot):
        await app.push_screen(
            ProcedureScreen(PLAN.title, follow, fold, hear, lambda: AT + 41, UNICODE, read_only=False)
        )
        await until(lambda: "p pause" in shown(app), "the key")
        started: dict[str, JsonValue] = {"text": "start mark-iii", "command": "docker start mark-iii"}
        news.put_nowait(StepEvent(AT + 42, "p", "step_started", 1, started))
        await until(lambda: "$ docker start mark-iii" in shown(app), "the exact command")
        await pilot.press("r", "s", "a", "p")
        await until(lambda: "p continue" in shown(app), "the pause is taken")
        detail: dict[str, JsonValue] = {"text": "Paused before: start x. continue, or cancel?", "choices": ["continue"]}
        news.put_nowait(StepEvent(AT + 42, "p", "question", 1, detail))
        await until(lambda: "Paused before: start x" in shown(app), "the question")
        await pilot.press("p")
        await until(lambda: said == ["pause", "continue"], "the answer")
        await until(lambda: "p pause" in shown(app), "the key once more")


async def nothing(word: str) -> None:
    raise AssertionError(word)


@pytest.mark.parametrize("size", ["100x30", "46x30"])
async def test_a_start_in_progress(svg: SnapshotAssertion, tmp_path: Path, size: str) -> None:
    async with console(tmp_path, size=SIZES[size]) as (app, _):
        await app.push_screen(
            ProcedureScreen(PLAN.title, followed, fold, nothing, lambda: AT + 41, UNICODE, read_only=False)
        )
        await until(lambda: "~71%" in shown(app), "its progress")
        text = shown(app)
        assert "[b]no markup[/b]" in text
        assert text.count("starting") == 1
        assert await picture(app) == svg(name=f"procedure-{size}")
