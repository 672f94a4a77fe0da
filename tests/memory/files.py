"""Reads the header of a file of a test."""

from pathlib import Path

from backends.memory.headers import Header, read_gguf


async def header_of(path: Path) -> Header:
    """The header of a GGUF file of this machine."""
    with path.open("rb") as file:

        async def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        return await read_gguf(read)
