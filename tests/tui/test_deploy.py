"""`d`: a file is picked or written by a few questions; its plan is shown, asked for, and started."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from backends.cluster.deploying import Spec, load_spec
from backends.cluster.files import parse
from backends.errors import Inadvisable, ProcedureError
from backends.procedures.plan import Danger, Plan, Step
from tests.tui.driving import console, shown, until
from tests.tui.sample import TOML, StillFeed

SPEC = """\
version = 1
name = "coder"
node = "mark"
preset = "llama.cpp"
image = "llama:b1"
model = "/srv/a.gguf"
port = 3014
"""


class DeployingFeed(StillFeed):
    """Plans what it is given, and remembers what was started."""

    specs: list[Spec]
    started: list[Plan]
    refuses = ""
    inadvisable: tuple[str, str, str] | None = None

    @property
    def world(self) -> Any:
        return self

    async def plan_deploy(self, spec: Spec, *, force: bool = False) -> Plan:
        self.specs = [*getattr(self, "specs", []), spec]
        if self.inadvisable and not force:
            raise Inadvisable(*self.inadvisable)
        if self.refuses:
            raise ProcedureError(self.refuses)
        step = Step(
            "make_volume", "make the volume", danger=Danger.CHANGES, command="docker volume create coder-models"
        )
        warnings = (f"{self.inadvisable[0]} Forced: {self.inadvisable[2]}",) if self.inadvisable else ()
        return Plan("deploy", spec.node, f"Deploy {spec.name} on {spec.node}", (step,), warnings=warnings)

    async def start(self, plan: Plan, *, take_over: bool = False) -> str:
        self.started = [*getattr(self, "started", []), plan]
        raise ProcedureError("started, as far as this test goes.")


def opened(tmp_path: Path) -> AbstractAsyncContextManager[tuple[Any, Pilot[None]]]:
    return console(tmp_path, feed=DeployingFeed, loaded=parse(TOML, tmp_path / "cluster.toml"))


async def write(pilot: Any, words: str) -> None:
    for letter in words:
        await pilot.press(
            {"/": "slash", ".": "full_stop", "-": "minus", ":": "colon", "_": "underscore"}.get(letter, letter)
        )
    await pilot.press("enter")


async def test_a_file_is_picked_planned_asked_for_and_started(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        folder = app.setup.loaded.path.parent / "deployments"
        folder.mkdir()
        (folder / "coder.toml").write_text(SPEC)
        await pilot.press("d")
        await until(lambda: "deploy which file? (coder)" in shown(app), "the question")
        await write(pilot, "coder")
        await until(lambda: "docker volume create coder-models" in shown(app), "the plan")
        assert app.feed.specs[0].port == 3014
        await pilot.press("tab", "enter")
        await until(lambda: getattr(app.feed, "started", []), "its start")


async def test_questions_write_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, pilot):
        await pilot.press("d")
        await until(lambda: "deploy which file?" in shown(app), "the question")
        await write(pilot, "coder")
        steps = [
            ("coder", ""), ("node (", "marc"), ('did you mean "mark"? - node (', ""), ("served by", "llama.cpp"),
            ("image,", "llama:b1"), ("model:", "/srv/a.gguf"), ("port", "x"), ("expected a valid integer", ""),
            ("context", ""), ("reference", ""), ("tasks (", "code"),
        ]  # fmt: skip
        for text, answer in steps:
            await until(lambda text=text: text in shown(app), text)
            if "?" in text or "expected" in text:
                await pilot.press(*["backspace"] * 4)
                answer = "mark" if "mark" in text else "3014"
            await write(pilot, answer)
        await until(lambda: "docker volume create coder-models" in shown(app), "the plan")
        spec = load_spec(app.setup.loaded.path.parent / "deployments" / "coder.toml")
        assert (spec.name, spec.node, spec.port, spec.context, spec.tasks) == ("coder", "mark", 3014, None, ("code",))


async def test_a_refusal_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as (app, _):
        app.feed.refuses = "mark has a container coder already."
        path = app.setup.loaded.path.parent / "coder.toml"
        path.write_text(SPEC.replace("port", "prot"))
        app.run_worker(app.commands._plan(path), exit_on_error=False)
        await until(lambda: 'Did you mean "port"?' in shown(app), "what is wrong with the file")
        path.write_text(SPEC)
        app.run_worker(app.commands._plan(path), exit_on_error=False)
        await until(lambda: "mark has a container coder already." in shown(app), "the refusal")


async def test_what_would_not_fit_is_shown_with_its_figures_and_can_be_forced(tmp_path: Path) -> None:
    figures = "It does not fit: GPU0 needs 9.1 of 4.0 GiB free."
    async with opened(tmp_path) as (app, pilot):
        app.feed.inadvisable = (figures, "n_gpu_layers 20 would fit.", "it will run out of memory as it starts.")
        path = app.setup.loaded.path.parent / "coder.toml"
        path.write_text(SPEC)
        app.run_worker(app.commands._plan(path), exit_on_error=False)
        await until(lambda: "All the same: it will run out of memory as it starts." in shown(app), "the consequence")
        assert figures in shown(app)
        assert "n_gpu_layers 20 would fit." in shown(app)
        await pilot.press("enter")
        await until(lambda: figures not in shown(app), "Cancel has the focus: nothing was planned")
        assert len(app.feed.specs) == 1
        app.run_worker(app.commands._plan(path), exit_on_error=False)
        await until(lambda: figures in shown(app), "the refusal again")
        await pilot.press("tab", "enter")
        await until(lambda: f"warning: {figures} Forced: it will run" in shown(app), "the plan with its warning")
        assert "docker volume create coder-models" in shown(app)
        await pilot.press("tab", "enter")
        await until(lambda: getattr(app.feed, "started", []), "its start")
