"""Imports asyncssh without the children that it would start, each with all of our environment and the secrets in it.

Asked for liboqs and nettle, `ctypes.util.find_library` runs a compiler and a linker where they are installed. The two
add algorithms (sntrup761, UMAC) beside others that every OpenSSH offers, so asyncssh is told that they are not there.
"""

from __future__ import annotations

import ctypes.util
import importlib
from types import ModuleType
from typing import Final

_FIND: Final = ctypes.util.find_library


def _nowhere(name: str) -> str | None:
    return None


def import_ssh(name: str) -> ModuleType:
    """A module of ours that imports asyncssh."""
    ctypes.util.find_library = _nowhere
    try:
        return importlib.import_module(name)
    finally:
        ctypes.util.find_library = _FIND
