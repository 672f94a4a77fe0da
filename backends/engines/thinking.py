"""Reasoning that an engine sends inside its answer, between <think> tags, told apart from the answer itself."""

from __future__ import annotations

from typing import Final

OPENING: Final = "<think>"
CLOSING: Final = "</think>"
"""As DeepSeek-R1, QwQ and Qwen3 write them, and engines without a parser for reasoning pass them on."""


class Thoughts:
    """Splits a streamed answer; only tags at its very beginning count, later ones are the answer's own words."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = self._over = False
        self._fresh = False
        """The reasoning has just ended; the empty lines between it and the answer belong to neither."""

    def split(self, text: str) -> list[tuple[str, bool]]:
        """The next piece as (text, whether it is reasoning); what may yet become a tag is held back."""
        if self._over:
            return [(self._answer(text), False)]
        self._held += text
        if not self._begun:
            head = self._held.lstrip()
            if len(head) < len(OPENING) and OPENING.startswith(head):
                return []
            if not head.startswith(OPENING):
                self._over = True
                return self.rest()
            self._begun, self._held = True, head[len(OPENING) :]
        thought, closed, answer = self._held.partition(CLOSING)
        if closed:
            self._over, self._fresh, self._held = True, True, ""
            return [(thought, True), (self._answer(answer), False)]
        kept = max((n for n in range(1, len(CLOSING)) if thought.endswith(CLOSING[:n])), default=0)
        self._held = thought[len(thought) - kept :]
        return [(thought[: len(thought) - kept], True)]

    def _answer(self, text: str) -> str:
        if self._fresh:
            text = text.lstrip("\n")
            self._fresh = not text
        return text

    def rest(self) -> list[tuple[str, bool]]:
        """What was held back, at the end."""
        held, self._held = self._held, ""
        return [(held, self._begun and not self._over)]
