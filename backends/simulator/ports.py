"""Loopback ports that stay ours for a whole run, whether something listens on them, refuses or swallows."""

from __future__ import annotations

import contextlib
import socket

LOOPBACK = "127.0.0.1"


class Port:
    """One TCP port; a bound socket that does not listen keeps it while it refuses.

    Without a `number` the operating system chooses.
    """

    def __init__(self, number: int = 0) -> None:
        self._held: list[socket.socket] = []
        self.number = number
        self.number = self._take(self._bind()).getsockname()[1]

    def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            sock.bind((LOOPBACK, self.number))
        except OSError:
            sock.close()
            raise
        return sock

    def _take(self, *sockets: socket.socket) -> socket.socket:
        previous, self._held = self._held, list(sockets)
        for sock in previous:
            sock.close()
        return sockets[0]

    def refuse(self) -> None:
        """Hold the port so that nobody can connect."""
        self._take(self._bind())

    def listen(self) -> socket.socket:
        """A listening socket, owned by the caller, who calls `refuse` before closing it."""
        sock = self._bind()
        sock.listen(512)
        for held in self._held:
            held.close()
        self._held = []
        return sock

    def swallow(self) -> None:
        """Neither accept nor refuse: a full queue, so that the kernel drops every further attempt."""
        sock = self._bind()
        sock.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            filler.setblocking(False)
            fillers.append(filler)
            with contextlib.suppress(BlockingIOError):
                filler.connect((LOOPBACK, self.number))
        self._take(sock, *fillers)

    def close(self) -> None:
        """Give the port back."""
        for sock in self._held:
            sock.close()
        self._held = []
