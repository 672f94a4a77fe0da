"""Writes the manual page from the command line's own parser and the registry of actions."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from typing import Any

from tui.actions import ACTIONS, PAST, shown
from tui.arguments import parser

_AFTER = r"""
.SH EXIT STATUS
.B tierdeck status
exits as a monitoring plugin does: 0 healthy, 1 degraded, 2 down, 3 unknown, and 3 also where the inventory or the
command line is wrong. All others: 0 done, 1 failed, 2 usage or inventory, 3 unreachable, 4 time limit, 130 interrupted.
.SH ENVIRONMENT
.TP
.B TIERDECK_CLUSTER
The cluster.toml to use.
.TP
.B TIERDECK_STATE
The state directory, instead of the one of XDG.
.TP
.B TIERDECK_ASCII
Draw with ASCII only, where it is 1.
.TP
.B NO_COLOR
Draw without colours.
.SH FILES
.TP
.I $XDG_CONFIG_HOME/tierdeck/cluster.toml
The inventory. It is the person's: tierdeck never writes it.
.TP
.I $XDG_CONFIG_HOME/tierdeck/cluster.d/*.toml
What tierdeck adds to it.
.TP
.I $XDG_CONFIG_HOME/tierdeck/config.toml
Keys of one's own, under [keys].
.TP
.I $XDG_STATE_HOME/tierdeck
Journals, history and what was learned; readable by its owner alone.
"""


def manual() -> str:
    """The manual page, in man's macros."""
    return "\n".join(_lines(parser())) + _AFTER


def _lines(top: argparse.ArgumentParser) -> Iterator[str]:
    yield '.TH TIERDECK 1 "" "tierdeck" "User Commands"'
    yield ".SH NAME"
    yield r"tierdeck \- console for language models on your own machines"
    yield ".SH SYNOPSIS"
    yield ".B tierdeck"
    yield r"[\fIVERB\fR] [\fIoptions\fR]"
    yield ".SH DESCRIPTION"
    yield _plain(top.description or "")
    yield ".SH OPTIONS"
    yield from _arguments(top)
    yield ".SH VERBS"
    yield from _verbs(top, "tierdeck")
    yield ".SH KEYS"
    for action in ACTIONS:
        yield ".TP"
        yield rf"\fB{_plain(', '.join(shown(key) for key in action.keys))}\fR"
        yield _plain(action.help + (" (In the past.)" if action.where == PAST else ""))


def _verbs(top: argparse.ArgumentParser, name: str) -> Iterator[str]:
    for action in top._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for verb, below in action.choices.items():
            yield f".SS {_plain(f'{name} {verb}')}"
            yield _plain(_sentence(helps[verb]))
            yield from _arguments(below, told={"cluster"})
            yield from _verbs(below, f"{name} {verb}")


def _arguments(of: argparse.ArgumentParser, told: Collection[str] = ()) -> Iterator[str]:
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction) or action.dest in told:
            continue
        yield ".TP"
        yield _head(action)
        yield _plain(_sentence(action.help or ""))


def _head(action: argparse.Action) -> str:
    value = _value(action)
    if not action.option_strings:
        return rf"\fI{value}\fR"
    named = ", ".join(rf"\fB{_plain(word)}\fR" for word in action.option_strings)
    return named if action.nargs == 0 else rf"{named} \fI{value}\fR"


def _value(action: argparse.Action) -> str:
    metavar: Any = action.metavar
    if metavar is None and action.choices is not None:
        metavar = "|".join(map(str, action.choices))
    return _plain(str(metavar or (action.dest.upper() if action.option_strings else action.dest)))


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")


def _plain(words: str) -> str:
    """Text in which troff finds nothing to obey."""
    escaped = words.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("%%", "%")
    return rf"\&{escaped}" if escaped.startswith(".") else escaped
