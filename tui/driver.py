"""The terminal driver: Textual's own, but that a resize and SIGCONT are handled by the event loop.

Textual 8.2 answers SIGWINCH inside the signal handler itself, which calls into asyncio; a second one that comes while
the first is being delivered waits for a lock that its own thread holds, for ever. Terminals send several in a row.
At SIGCONT it begins anew what it ended at SIGTSTP, but after SIGSTOP, of which nobody is told, nothing was ended: two
threads would read the keys, and the one that is forgotten keeps the process alive.
"""

from __future__ import annotations

import asyncio
import signal

from textual import events
from textual.drivers.linux_driver import LinuxDriver
from textual.geometry import Size


class CalmDriver(LinuxDriver):
    """Takes resizes and continuations one at a time, between two events."""

    def start_application_mode(self) -> None:
        """Begin as Textual does, with resizes held back until the event loop listens for them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
        try:
            super().start_application_mode()  # type: ignore[no-untyped-call]
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGWINCH, self._resized)
            loop.add_signal_handler(signal.SIGCONT, self._continued)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGWINCH})

    def _resized(self) -> None:
        if not self._in_band_window_resize:
            size = Size(*self._get_terminal_size())
            self._app.post_message(events.Resize(size, size))

    def _continued(self) -> None:
        if not self._auto_restart:
            return
        if not self._must_signal_resume:
            self.suspend_application_mode()
        self.resume_application_mode()
        self._app.refresh(layout=True)  # the terminal shows an empty screen now
