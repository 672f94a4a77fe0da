"""Images that go with a prompt: read from a file, known by their first bytes, and of a bounded size."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backends.engines.target import MIB
from backends.errors import ChatError

LARGEST: Final = 20 * MIB
"""Bytes of one image, as OpenAI's own service bounds it."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image: its media type, and its bytes as they lie in the file."""

    mime: str
    data: bytes = field(repr=False)


def image_of(data: bytes, name: str) -> Image:
    """The image that `data` is; ChatError, naming it `name`, where it is none that engines read."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return Image("image/png", data)
    if data.startswith(b"\xff\xd8\xff"):
        return Image("image/jpeg", data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return Image("image/gif", data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Image("image/webp", data)
    raise ChatError(f"{name} is no image by its first bytes.", "Engines read PNG, JPEG, GIF and WebP.", sent=False)


def read_image(path: Path) -> Image:
    """The image in a file; ChatError where it cannot be read, is no file, too large, or no image. Blocks."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ChatError(f"{path} is no file.", "Name an image file.", sent=False)
        if found.st_size > LARGEST:
            words = f"{path} has {found.st_size / MIB:.0f} MiB; an image may have {LARGEST // MIB}."
            raise ChatError(words, "Make it smaller.", sent=False)
        with path.open("rb") as file:
            return image_of(file.read(LARGEST), str(path))
    except (OSError, ValueError) as error:
        words = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ChatError(f"{path} cannot be read: {words}.", "Name an image file.", sent=False) from None
