"""Records a session of the demo for asciinema (docs/demo.cast): a node loses its Docker, `r` brings it back."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from tests.cli.driving import Terminal

CAST = Path(__file__).parents[2] / "docs/demo.cast"
SIZE = (100, 30)
PAUSE = 1.2
"""Seconds a viewer gets to read."""


class Recorder(Terminal):
    """A terminal that notes when each piece of it was drawn."""

    def __init__(self, *words: str) -> None:
        super().__init__(
            *words,
            size=SIZE,
            env={"TEXTUAL_FPS": "10", "TEXTUAL_ANIMATIONS": "none", "SSH_CONNECTION": "demo", "COLORTERM": ""},
        )
        self.pieces: list[tuple[float, int]] = []

    def _take(self) -> None:
        super()._take()
        self.pieces.append((time.monotonic(), len(self.raw)))

    async def keys(self, *keys: str) -> int:
        """Press keys as a person does, one after the other; where in what was drawn that began."""
        await asyncio.sleep(PAUSE)
        begun = len(self.raw)
        for key in keys:
            self.type(key)
            await asyncio.sleep(0.08)
        return begun


async def record() -> None:
    """Play the scene, and write what was drawn."""
    async with Recorder("demo") as terminal:
        await terminal.sees("HEALTHY", "qwen2.5:32b")
        begun = await terminal.keys("\x10", *"mark: Docker is down")
        await asyncio.sleep(PAUSE)
        terminal.type("\r")
        await terminal.sees("Docker", "DOWN", since=begun)
        begun = await terminal.keys("j", "j", "r")
        await terminal.sees("Recover mark", "Cancel", since=begun)
        begun = await terminal.keys("\t", "\r")
        await terminal.sees("done", since=begun)
        await terminal.keys("\x1b")
        begun = await terminal.keys("t", *"write a bash loop that restarts every container whose log says CUDA error")
        await terminal.sees("code", since=begun)
        begun = await terminal.keys("\r")
        await terminal.sees("tok/s", since=begun)
        await terminal.keys("\x1b")
        await terminal.keys("q")
        await terminal.ended()
    write(terminal)


def write(recorder: Recorder) -> None:
    """The recording in asciinema's second format: a head, then [seconds, "o", text] a line."""
    began, at = recorder.pieces[0][0], 0
    rows = [json.dumps({"version": 2, "width": SIZE[0], "height": SIZE[1], "title": "tierdeck"})]
    for moment, end in recorder.pieces:
        while end < len(recorder.raw) and recorder.raw[end] & 0xC0 == 0x80:
            end += 1  # a character that was cut in two goes with its first half
        text = recorder.raw[at:end].decode(errors="replace")
        at = max(at, end)
        if text:
            rows.append(json.dumps([round(moment - began, 3), "o", text], ensure_ascii=False))
    CAST.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(record())
