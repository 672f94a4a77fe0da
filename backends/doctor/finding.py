"""What the doctor found: one line for a person, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backends.errors import TierdeckError
from backends.text import plain


@dataclass(frozen=True, slots=True)
class Finding:
    """What holds of `subject`; `advice` is "" where nothing is to be done."""

    subject: str
    state: Literal["ok", "warn", "bad"]
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding(plain(subject), "ok", plain(text, 400))


def warn(subject: str, text: str, advice: str = "") -> Finding:
    """It works, but not as it should, or not for long."""
    return Finding(plain(subject), "warn", plain(text, 400), plain(advice, 600))


def bad(subject: str, text: str, advice: str = "") -> Finding:
    """It does not work."""
    return Finding(plain(subject), "bad", plain(text, 400), plain(advice, 600))


def failed(subject: str, error: TierdeckError) -> Finding:
    """It does not work, in the words of the error."""
    return bad(subject, error.message, error.advice)
