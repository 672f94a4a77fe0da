"""What llama-server does where nobody says otherwise, by its build: defaults that changed, and what it reserves.

Where the very build of a change is not known, the first that surely has it stands here: what is predicted may be too
much for a few builds before it, never too little.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Profile:
    """Defaults of one build; `gpu_layers` None is all, `every_output` says that logits are reserved for each token."""

    flash: bool = False
    gpu_layers: int | None = 0
    parallel: int = 1
    unified: bool = False
    every_output: bool = True


_CHANGES: Final = (
    (6325, {"flash": True, "gpu_layers": None}),
    (6900, {"parallel": 4, "unified": True}),
    (9500, {"every_output": False}),
)
"""llama.cpp#15434: flash attention and all layers; #16736: four slots that share a cache; #23861: outputs by slot."""

_BUILD: Final = re.compile(r"(?<![a-z0-9])b(\d{4,6})(?!\d)")


def profile(build: int | None) -> Profile:
    """The defaults of a build; None is the newest."""
    found = Profile()
    for first, changed in _CHANGES:
        if build is None or build >= first:
            found = replace(found, **changed)
    return found


def build_of(*texts: str | None) -> int | None:
    """The build that a version or an image's tag names (b9284-afcda09d1, server-cuda-b6401), the first of them."""
    found = (_BUILD.search(text) for text in texts if text)
    return next((int(match[1]) for match in found if match), None)
