"""Programs in a pseudo-terminal, as a person sees them: what came, when, and what it cost."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from fcntl import ioctl
from pathlib import Path
from types import TracebackType
from typing import Self

_ESCAPES = re.compile(
    rb"\x1b(\[[0-9;?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|P[^\x1b]*\x1b\\|[()][A-Z0-9]|[=>78A-Z])"
)


class Terminal:
    """A program with a terminal of its own; ended on leaving."""

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], *, size: tuple[int, int] = (160, 45)
    ) -> None:
        self._argv = list(argv)
        self._environment = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8", **environment}
        self._size = size
        self.pid = 0
        self.raw = b""
        self.began = 0.0
        self.fd = -1

    def __enter__(self) -> Self:
        self.began = time.perf_counter()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.execvpe(self._argv[0], self._argv, self._environment)
            finally:
                os._exit(127)
        ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", self._size[1], self._size[0], 0, 0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self.fd)

    def read(self, seconds: float) -> int:
        """Take what comes for `seconds`; how many bytes that were."""
        end, count = time.perf_counter() + seconds, 0
        while (left := end - time.perf_counter()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                try:
                    chunk = os.read(self.fd, 65536)
                except OSError:
                    break
                self.raw += chunk
                count += len(chunk)
        return count

    def read_some(self, limit: float) -> int:
        """Take the next thing that comes within `limit` seconds; how many bytes that was."""
        if not select.select([self.fd], [], [], limit)[0]:
            return 0
        chunk = os.read(self.fd, 65536)
        self.raw += chunk
        return len(chunk)

    def until(self, words: Sequence[str], limit: float = 20.0) -> float:
        """Seconds from the start until all `words` have been on the screen."""
        end = time.perf_counter() + limit
        missing = [word.encode() for word in words]
        while missing:
            left = end - time.perf_counter()
            if left <= 0:
                raise TimeoutError(f"not seen: {missing}")
            if select.select([self.fd], [], [], left)[0]:
                self.raw += os.read(self.fd, 65536)
                text = _ESCAPES.sub(b"", self.raw)
                missing = [word for word in missing if word not in text]
        return time.perf_counter() - self.began

    def send(self, text: str) -> None:
        """Type."""
        os.write(self.fd, text.encode())

    def cpu(self) -> float:
        """Seconds of CPU it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes of memory that it has now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def environment() -> dict[str, str]:
    """A person's environment: bytecode is written, nothing of ours is set."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR")}
    return kept | {"PYTHONPATH": os.getcwd()}


PYTHON = sys.executable
