"""What a person chooses beside the prompt: the target, the gateway, an image; and the dialogs that ask for them."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from backends.errors import TierdeckError

if TYPE_CHECKING:
    from backends.engines.images import Image
    from tui.app import TierdeckApp


class Choosing(ABC):
    """The choices that hold for the next prompt; an image goes with one prompt only."""

    def __init__(self, app: TierdeckApp) -> None:
        self._app = app
        self.target: str | None = None
        self.through = False
        self.image: Image | None = None
        self._image_name = ""

    def subtitle(self) -> str:
        """The choices in a line, for the pane's edge."""
        forced = self._app.view.router.forced
        words = [f"task {forced}"] if forced else []
        words += [f"to {self.target}"] if self.target else []
        words += ["through the gateway"] if self.through else []
        words += [f"with {self._image_name}"] if self.image else []
        return ", ".join(words)

    @abstractmethod
    def reconsider(self) -> None:
        """Show what follows from the choices."""

    def ask_target(self) -> None:
        """Ask where to send to."""
        from tui.screens.ask import AskScreen

        names = [e.name for e in self._app.view.inventory.endpoints if e.engine != "http"]
        way = "direct" if self.through else "gateway"
        prompt = (
            f"send to which endpoint? (empty: as routed; {way}: {'past' if self.through else 'through'} the gateway)"
        )

        def answered(words: str | None) -> None:
            if words is not None:
                self._take_target(words.strip(), names)

        self._app.push_screen(AskScreen(prompt, value=self.target or "", words=[*names, "gateway", "direct"]), answered)

    def _take_target(self, words: str, names: list[str]) -> None:
        if words in ("gateway", "direct"):
            if words == "gateway" and self._app.view.inventory.gateway_endpoint is None:
                self._app.say("No gateway is known. Name it in cluster.toml: [gateway] endpoint.", "warn")
                return
            self.through = words == "gateway"
        elif words and words not in names:
            self._app.say(f'There is no endpoint "{words}".', "warn")
            return
        else:
            self.target = words or None
        self.reconsider()

    def ask_image(self) -> None:
        """Ask for the file of an image; a path can be typed or pasted."""
        from tui.screens.ask import AskScreen

        def answered(words: str | None) -> None:
            if words is not None:
                self._app.run_worker(
                    self._take_image(words.strip()), group="image", exclusive=True, exit_on_error=False
                )

        self._app.push_screen(AskScreen("image file: PNG, JPEG, GIF or WebP (empty: none)"), answered)

    async def _take_image(self, words: str) -> None:
        from backends.engines.images import read_image

        self.image = None
        if words:
            path = Path(words.strip("'\"").removeprefix("file://"))
            try:
                self.image = await asyncio.to_thread(lambda: read_image(Path(os.path.expanduser(path))))
            except TierdeckError as error:
                self._app.say(str(error), "bad")
            self._image_name = path.name
        self.reconsider()
