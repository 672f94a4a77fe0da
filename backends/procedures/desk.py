"""Where a running procedure takes commands: a socket for our eyes only, and what may be said there."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from backends.errors import ProcedureError
from backends.procedures.journal import folder
from backends.procedures.runner import Control, Question

ANSWER_LIMIT: Final = 3600.0
"""Seconds a question waits for an answer; then the procedure halts and can be resumed."""

LONGEST_SOCKET: Final = 100
"""Bytes of a socket's path; systems allow 104 to 108."""

COMMAND_LIMIT: Final = 5.0
"""Seconds a caller has to say its command."""


class Desk:
    """Where people's commands arrive: cancel, and answers to the question that is open."""

    def __init__(self) -> None:
        self.control = Control()
        self._open: tuple[Question, asyncio.Future[str]] | None = None

    async def ask(self, question: Question) -> str:
        """Wait for an answer; hold where none comes."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._open = (question, answer)
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                return await answer
        except TimeoutError:
            return "hold"
        finally:
            self._open = None

    def obey(self, command: Any) -> dict[str, JsonValue]:
        """Do one command and say how it went."""
        match command:
            case {"command": "cancel"}:
                self.control.cancel()
                return {"ok": True, "when": "now" if self.control.now.is_set() else "edge"}
            case {"command": "pause"}:
                self.control.pause()
                return {"ok": True}
            case {"command": "answer", "choice": "continue"} if not self.control.going.is_set():
                self.control.going.set()
                return {"ok": True}
            case {"command": "answer", "choice": str(choice)}:
                if self._open is None or self._open[1].done():
                    return {"error": "It asks nothing now."}
                if choice not in self._open[0].choices:
                    return {"error": f"The answers are: {', '.join(self._open[0].choices)}."}
                self._open[1].set_result(choice)
                return {"ok": True}
        return {"error": "The commands are cancel, pause and answer."}

    async def receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one caller."""
        try:
            async with asyncio.timeout(COMMAND_LIMIT):
                raw = await reader.readline()
                try:
                    reply = self.obey(json.loads(raw))
                except ValueError:
                    reply = {"error": "That is no JSON."}
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError, TimeoutError):  # the caller went away, said nothing, or too much
            return
        finally:
            writer.close()


@asynccontextmanager
async def listening(path: str, desk: Desk) -> AsyncIterator[None]:
    """Take commands at `path` until left."""
    with suppress(FileNotFoundError):
        os.unlink(path)  # of an earlier run; this one has taken the journal
    server = await asyncio.start_unix_server(desk.receive, path=path, limit=4096)
    try:
        os.chmod(path, 0o600)
        yield
    finally:
        server.close()
        with suppress(FileNotFoundError):
            os.unlink(path)


def socket_path(state_dir: Path, procedure: str) -> Path:
    """Where a procedure takes commands: beside its journal or, where that path is too long, in a short folder."""
    path = folder(state_dir) / f"{procedure}.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET:
        return path
    short = hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:8]
    place = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    if len(place) > LONGEST_SOCKET - 60:
        place = "/tmp"
    found = Path(place) / f"tierdeck-{os.getuid()}"
    with suppress(FileExistsError):
        found.mkdir(mode=0o700)
    status = found.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ProcedureError(f"{found} is not a folder of ours alone.", "Remove it, or set XDG_RUNTIME_DIR.")
    return found / f"{short}-{procedure}.sock"
