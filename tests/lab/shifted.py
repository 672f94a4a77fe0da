"""The console by a wall clock that somebody sets: the seconds it is wrong by stand in the file of the first argument.

The machine's own clock is everybody's, and no namespace has a wall clock of its own.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from tui import cli


def shifted(clock: Callable[[], float], by: Path) -> Callable[[], float]:
    """The clock, wrong by what the file says at that moment."""
    return lambda: clock() + float(by.read_text())


if __name__ == "__main__":
    time.time = shifted(time.time, Path(sys.argv.pop(1)))
    cli.main()
