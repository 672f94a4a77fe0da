"""What `d` and `S` do: a deployment from a file or a few questions, planned, asked for, followed; a model on demand."""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from backends.errors import Inadvisable, TierdeckError
from tui.procedures import Procedures
from tui.selection import container_selected

if TYPE_CHECKING:
    from backends.cluster.drafting import Answer, Question


class Deploying(Procedures):
    """The part of the actions that deploys."""

    def deploy(self) -> None:
        """Ask which file; a name without a file begins the questions."""
        from tui.screens.ask import AskScreen

        folder = self._folder()
        known = sorted(path.stem for path in folder.glob("*.toml"))
        listed = f" ({', '.join(known[:6])})" if known else ""

        def answered(words: str | None) -> None:
            if words is None or not words.strip():
                return
            path = self._meant(words.strip())
            if path.exists():
                self._app.run_worker(self._plan(path), group="deploy", exclusive=True, exit_on_error=False)
            else:
                self._begin(path)

        prompt = f"deploy which file?{listed} a new name: a few questions, then the plan"
        self._app.push_screen(AskScreen(prompt, words=known), answered)

    def _folder(self) -> Path:
        from backends.cluster.drafting import FOLDER

        return self._app.setup.loaded.path.parent / FOLDER

    def _meant(self, words: str) -> Path:
        """A path as it is written, a bare name in the folder of deployments."""
        if "/" in words or words.endswith(".toml"):
            return Path(words).expanduser()
        return self._folder() / f"{words}.toml"

    def deploy_fitted(self, name: str, answers: Mapping[str, Answer]) -> None:
        """Ask what is left to be known of a model whose settings fit; it is called `name` in the file."""
        stem = re.sub(r"[^\w.-]+", "-", name.rpartition("/")[2].removesuffix(".gguf"), flags=re.ASCII).strip("-.")
        self._begin(self._folder() / f"{stem.lower() or 'model'}.toml", answers)

    def _begin(self, path: Path, known: Mapping[str, Answer] = MappingProxyType({})) -> None:
        from backends.cluster.drafting import questions

        if path.exists():
            self._app.say(f"{path} exists already: d deploys it.", "warn")
            return
        self._question(path, list(questions(self._app.setup.loaded.inventory)), {"name": path.stem, **known})

    def _question(self, path: Path, left: list[Question], answers: dict[str, Answer], why: str = "") -> None:
        """Ask the next question, with `why` the answer before was none; Esc ends it, and nothing is written."""
        from tui.screens.ask import AskScreen

        left = left[next((n for n, each in enumerate(left) if each.asked(answers)), len(left)) :]
        if not left:
            self._app.run_worker(self._write(path, answers), group="deploy", exclusive=True, exit_on_error=False)
            return
        question, rest = left[0], left[1:]

        def answered(words: str | None) -> None:
            if words is None:
                self._app.say("Nothing was written.", "dim")
            elif wrong := question.mistake(words):
                self._question(path, left, answers | {question.key: words}, wrong)
            else:
                self._question(path, rest, answers | {question.key: words})

        value, text = str(answers.get(question.key, "")), f"{why} - {question.text}" if why else question.text
        self._app.push_screen(AskScreen(text, value=value, words=question.words), answered)

    async def _write(self, path: Path, answers: dict[str, Answer]) -> None:
        from backends.cluster.drafting import write_draft

        try:
            await asyncio.to_thread(write_draft, path, answers)
        except TierdeckError as error:
            self._app.say(str(error), "bad")
            return
        self._app.log_event(f"wrote {path}", "accent")
        await self._plan(path)

    async def _plan(self, path: Path, *, force: bool = False) -> None:
        app = self._app
        reading = await asyncio.to_thread(importlib.import_module, "backends.cluster.deploying")
        await asyncio.to_thread(importlib.import_module, "backends.deploying")
        app.say(f"{path.name}: looking whether it can be{app.setup.glyphs.ellipsis}", "accent")
        try:
            plan = await app.feed.world.plan_deploy(reading.load_spec(path), force=force)
        except Inadvisable as error:
            self._offer_force(path, error)
            return
        except TierdeckError as error:
            app.say(str(error), "bad")
            return
        self._ask(plan, "Deploy")

    def _offer_force(self, path: Path, error: Inadvisable) -> None:
        """Show why not, and what will happen all the same; whoever says yes is shown the plan."""
        from tui.screens.confirm import ConfirmScreen

        def answered(yes: bool | None) -> None:
            if yes:
                plan = self._plan(path, force=True)
                self._app.run_worker(plan, group="deploy", exclusive=True, exit_on_error=False)

        lines = [error.message, *([error.cure] if error.cure else []), f"All the same: {error.consequence}"]
        self._app.push_screen(ConfirmScreen(f"{path.stem}: better not", lines, "Plan it all the same"), answered)

    def up(self) -> None:
        """Start the selected endpoint, if it is on demand; others on demand make room."""
        app = self._app
        _, container = container_selected(app)
        try:
            plan = app.feed.world.plan_up(container, app.feed.snapshot)
        except TierdeckError as error:
            app.say(str(error), "bad")
            return
        if not plan.targets:
            app.say(f"{plan.title}: it runs and is ready.", "dim")
            return
        self._ask(plan, "Start")
