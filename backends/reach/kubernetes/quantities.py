"""Quantities as Kubernetes writes them: 100Gi, 7500m, 1k. Pure."""

from __future__ import annotations

import re
from typing import Final

_QUANTITY: Final = re.compile(
    r"([+-]?\d{1,19}(?:\.\d{1,19})?)(?:([eE][+-]?\d{1,2})|(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei))?"
)
_FACTORS: Final = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip


def quantity(text: object) -> float | None:
    """The number of a quantity; None where it is none."""
    found = _QUANTITY.fullmatch(str(text))
    if found is None:
        return None
    return float(f"{found[1]}{found[2] or ''}") * _FACTORS.get(found[3] or "", 1.0)
