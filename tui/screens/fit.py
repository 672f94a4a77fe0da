"""Tries what fits on a node's GPUs: models, context, layers and cache by the arrow keys, and the bar moves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from backends.errors import TierdeckError
from backends.memory.advice import Gpu
from backends.memory.arguments import deployment, written
from backends.memory.load import Load, llama_load, vllm_load
from tui.screens.text import TextScreen
from widgets.bars import KeysBar
from widgets.fit import Candidate, FitPane, Place
from widgets.glyphs import Glyphs
from widgets.lines import line

if TYPE_CHECKING:
    from backends.cluster.drafting import Answer
    from backends.library import Found

_KEYS = (("space", "mark"), ("left/right", "change"), ("n", "node"), ("w", "write as arguments"), ("Esc", "back"))


class FitScreen(Screen[None]):
    """Nothing is loaded or changed by it; `find` reads a model's header, `deploy` takes settings to deployment."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "app.pop_screen", "back", show=False)]

    def __init__(
        self,
        places: Sequence[Place],
        candidates: Sequence[Candidate],
        find: Callable[[str], Awaitable[Found]],
        glyphs: Glyphs,
        deploy: Callable[[str, Mapping[str, Answer]], None] | None = None,
    ) -> None:
        super().__init__()
        self._deploy = deploy
        self._pane = FitPane(places, candidates, glyphs)
        self._find, self._glyphs = find, glyphs

    def compose(self) -> ComposeResult:
        """The pane and its keys."""
        yield self._pane
        yield KeysBar()

    def on_mount(self) -> None:
        """Read what is marked from the start."""
        self._pane.focus()
        *keys, back = _KEYS
        self.query_one(KeysBar).show([*keys, *([("d", "deploy")] if self._deploy else []), back])
        for each in self._pane.marked:
            self._renew(each.name)

    def on_fit_pane_changed(self, message: FitPane.Changed) -> None:
        """Compute anew what changed."""
        for name in [message.name] if message.name else list(self._pane.candidates):
            self._renew(name)

    def on_fit_pane_written(self, message: FitPane.Written) -> None:
        """Show a candidate's settings as arguments."""
        each = self._pane.candidates[message.name]
        rows = written(each.name, each.settings, len(self._pane.place.gpus), safetensors=each.safetensors)
        lines = [line(row) for row in rows]
        self.app.push_screen(TextScreen(each.name, lambda width: lines, self._glyphs))

    def on_fit_pane_deployed(self, message: FitPane.Deployed) -> None:
        """Hand a candidate's settings to deployment, which asks for the rest."""
        if self._deploy is None:
            return
        each, node = self._pane.candidates[message.name], self._pane.place.node
        self.app.pop_screen()
        known = {"node": node, **deployment(each.settings, safetensors=each.safetensors)}
        self.app.call_later(self._deploy, each.name, known)  # by the application: what this screen asks ends with it

    def _renew(self, name: str) -> None:
        if self._pane.candidates[name].marked:
            self.run_worker(self._compute(name), group=f"fit {name}", exclusive=True, exit_on_error=False)

    async def _compute(self, name: str) -> None:
        try:
            await self._read(name)
            each, gpus = self._pane.candidates[name], self._pane.place.gpus
            for advise in (False, True):
                load = await asyncio.to_thread(_load, each, gpus, advise=advise)
                self._pane.update(replace(self._pane.candidates[name], load=load, settled=True))
                if load.fits is not False:
                    return
        except TierdeckError as error:
            self._pane.update(replace(self._pane.candidates[name], trouble=str(error), marked=False))

    async def _read(self, name: str) -> None:
        if self._pane.candidates[name].header is not None:
            return
        found = await self._find(name)
        now = self._pane.candidates[name]
        settings = replace(
            now.settings,
            context=now.settings.context or found.context,
            gpu_layers=found.gpu_layers if now.settings.gpu_layers is None else now.settings.gpu_layers,
        )
        self._pane.update(replace(now, header=found.header, settings=settings, safetensors=found.safetensors))


def _load(each: Candidate, gpus: Sequence[Gpu], *, advise: bool) -> Load:
    assert each.header is not None
    if each.safetensors:
        return vllm_load(each.name, each.header, each.settings, gpus)
    shares = tuple(float(gpu.capacity) for gpu in gpus) if len(gpus) > 1 else ()
    settings = replace(each.settings, split=shares, gpu_layers=each.settings.gpu_layers if gpus else 0)
    return llama_load(each.name, each.header, settings, gpus, advise=advise)
