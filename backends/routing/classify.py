"""Tells the task of a prompt from what is attached and from a small table of cues; unsure, it says chat."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

HEAD: Final = 8192
"""How many characters of a prompt are looked at; the rest of a pasted log says nothing new."""

SURE: Final = 0.6
"""Below this confidence the task is chat, and the better guess is the runner-up."""

_CUES: Final[tuple[tuple[str, float, str, re.Pattern[str]], ...]] = tuple(
    (task, weight, words, re.compile(pattern, re.IGNORECASE))
    for task, weight, words, pattern in (
        ("code", 3.0, "a code block", r"```|^\s*(def|class|import|from|#include|SELECT|fn|func|const|let|var)\b"),
        ("code", 2.2, "asks for a program", r"\b(write|fix|refactor|debug|implement|schreib\w*|écri\w*)\b.{0,60}\b"
         r"(function|funktion|fonction|script|program\w*|class|query|regex|code|test|dockerfile|playbook)\b"),
        ("code", 1.5, "names a language", r"\b(python|javascript|typescript|rust|golang|java|c\+\+|bash|sql|html|css|"
         r"yaml|powershell|regex|kubectl|ansible|terraform)\b"),
        ("code", 1.5, "shows an error", r"\b(traceback|stack trace|segfault|exception|syntax ?error|"
         r"undefined reference)\b"),
        ("reason", 2.2, "asks for a proof or steps", r"\b(prove|proof|derive|step by step|beweise|schritt für schritt|"
         r"explain why|warum|root cause)\b"),
        ("reason", 1.8, "counts or computes", r"\b(how many|how much|how long|wie viele|combien|calculate|solve|"
         r"probability)\b.*\d|\d+\s*[-+*/^=]\s*\d+"),
        ("reason", 1.4, "weighs options", r"\b(compare|trade-?offs?|pros and cons|should i|which is better)\b"),
        ("fast", 1.6, "a one-word wish", r"^\W*(\w+\W+){0,3}(translate|define|synonym|capital of|spell)\b.{0,60}$"),
        ("chat", 1.2, "small talk", r"^\W*(hi|hello|hey|hallo|thanks|thank you|danke|merci|good (morning|evening))\b"),
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Classified:
    """The task of a prompt, how sure that is (0 to 1), the next best task, and the strongest cues in words."""

    task: str
    confidence: float
    runner_up: str | None
    why: tuple[str, ...]


def classify(text: str, *, image: bool = False, kind: str | None = None) -> Classified:
    """The task of a prompt; an attached image or an embedding call decides at once."""
    if kind == "embed":
        return Classified("embed", 1.0, None, ("an embedding call",))
    if image:
        return Classified("vision", 1.0, None, ("an image is attached",))
    scores = {"code": 0.0, "reason": 0.0, "chat": 1.0, "fast": 0.0}
    why: list[tuple[float, str, str]] = []
    head = text[:HEAD]
    for task, weight, words, pattern in _CUES:
        if pattern.search(head):
            scores[task] += weight
            why.append((weight, task, words))
    ranked = sorted(scores, key=lambda task: scores[task], reverse=True)
    best, second = ranked[0], ranked[1]
    confidence = round(scores[best] / (scores[best] + scores[second] + 0.5), 2)
    cues = tuple(words for _, task, words in sorted(why, reverse=True) if task == best)[:3]
    if best != "chat" and confidence < SURE:
        return Classified("chat", round(1 - confidence, 2), best, (f"not sure it is {best}",))
    return Classified(best, confidence, second if scores[second] else None, cues or ("no cue for anything else",))
