"""The real runner, but it kills itself (SIGKILL) at every edge of its journal that no run before it died at."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from backends.procedures import process
from backends.procedures.events import StepEvent
from backends.procedures.journal import Journal

EDGES = ("step_started", "step_done")


def main() -> int:
    """Carry the procedure out with a journal that is deadly; the file died-at lists the edges of earlier runs."""
    write = Journal.write

    def deadly(journal: Journal, event: StepEvent) -> None:
        write(journal, event)
        died_at = Path(os.environ["XDG_RUNTIME_DIR"]) / "died-at"
        edge = f"{event.event} {event.step}\n"
        if event.event in EDGES and edge not in died_at.read_text():
            with died_at.open("a") as file:
                file.write(edge)
            os.kill(os.getpid(), signal.SIGKILL)

    Journal.write = deadly  # type: ignore[method-assign,assignment]
    return process.main()


if __name__ == "__main__":
    sys.exit(main())
