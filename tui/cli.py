"""The command line: says what there is, and imports only what the verb needs (Textual only for the console)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

STATUS_USAGE = 3
"""`tierdeck status` keeps 2 for DOWN, as monitoring plugins do, so a typing error must be 3."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit as DESIGN promises; a person never sees a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        from tui.version import __version__

        print(f"tierdeck {__version__}")
        raise SystemExit(0)
    from tui.arguments import USAGE, parser

    try:
        arguments = parser().parse_args(words)
    except SystemExit as end:
        raise SystemExit(STATUS_USAGE if end.code == USAGE and _verb(words) == "status" else end.code) from None
    if getattr(arguments, "version", False):
        main(["--version"])
    raise SystemExit(_run(arguments))


def _verb(words: Sequence[str]) -> str:
    """The first word that is neither an option nor the value of one."""
    pairs = zip(("", *words), words, strict=False)
    bare = (word for before, word in pairs if before != "--cluster" and not word.startswith("-"))
    return next(bare, "")


def _run(arguments: argparse.Namespace) -> int:
    from backends.errors import InventoryError, ReachError, TierdeckError
    from tui.arguments import USAGE

    verb = arguments.verb or "console"
    status = verb == "status"
    try:
        code = _call(verb, arguments)
        print(end="", flush=True)
        return code
    except InventoryError as error:
        return _told(error, STATUS_USAGE if status else USAGE)
    except ReachError as error:
        return _told(error, 3)
    except TierdeckError as error:
        return _told(error, 3 if status else 1)
    except TimeoutError:
        return _told("the time limit is over.", 3 if status else 4)
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # most likely of standard output: what was not written yet goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 3 if status else 1
        return code if isinstance(error, BrokenPipeError) else _told(error, code)


def _told(error: object, code: int) -> int:
    with suppress(OSError):  # nobody is left to be told
        print(f"tierdeck: {error}", file=sys.stderr)
    return code


def _call(verb: str, arguments: argparse.Namespace) -> int:
    import gc
    import os
    from importlib import import_module

    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # else it reads the entry points of every package
    _allow_many_files()
    if verb == "console":
        gc.disable()  # modules that load leave no garbage; the feed enables it once all are there
    if verb == "route" and arguments.classify is not None:
        verb = "classify"
    run: int = import_module(f"tui.verbs.{verb}").run(arguments)
    return run


def _allow_many_files() -> None:
    """Raise the soft limit on open files: 1,000 endpoints take as many sockets, and 256 is the default on macOS."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
