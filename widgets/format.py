"""How figures are written in panes: short, rounded, the same everywhere."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, set_cell_size


def age(seconds: float) -> str:
    """An age in one unit ("40 s", "3 m", "2 h", "5 d")."""
    if seconds < 60:
        return f"{int(seconds)} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} m"
    if seconds < 86400:
        return f"{int(seconds // 3600)} h"
    return f"{int(seconds // 86400)} d"


def gib(mib: float | None) -> str:
    """MiB as GiB with one decimal ("?" where unknown)."""
    return "?" if mib is None else f"{mib / 1024:.1f}"


def percent(value: float | None) -> str:
    """A percentage ("?" where unknown)."""
    return "?" if value is None else f"{value:.0f}%"


def model(name: str) -> str:
    """A model's name as it is spoken: the file's without its folders and ending."""
    return name.rstrip("/").rpartition("/")[2].removesuffix(".gguf") if name.startswith("/") else name


def plain(text: str) -> str:
    """Text from outside without anything a terminal could obey: no control, no direction-changing characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " for c in text if unicodedata.category(c) not in ("Cf", "Cs"))


def fit(text: str, width: int, ellipsis: str = "…") -> str:
    """Text in exactly `width` terminal cells, cut with an ellipsis or filled with blanks."""
    if width <= 0:
        return ""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, max(0, width - cell_len(ellipsis))) + ellipsis[:width]
