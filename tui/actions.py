"""The one registry of actions: what the keys, the footer, the help, the palette and the README know.

Imports nothing of Textual, so that the command line and the README's table can read it too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Effect(StrEnum):
    """What an action does to the world."""

    LOOKS = "looks"
    ASKS = "asks"
    CHANGES = "changes"


@dataclass(frozen=True, slots=True)
class Action:
    """Something a person can do: its keys, its words, its effect and the command line's way to the same.

    `footer` says how early it appears at the bottom (0: never, 1: first). `where` names the pane it is about, or "".
    """

    id: str
    keys: tuple[str, ...]
    label: str
    help: str
    effect: Effect = Effect.LOOKS
    command: str = ""
    footer: int = 0
    where: str = ""


ACTIONS: Final[tuple[Action, ...]] = (
    Action("pane_1", ("1",), "tiers", "Go to the tiers.", command="tierdeck status"),
    Action("pane_2", ("2",), "GPUs", "Go to the GPUs.", command="tierdeck status"),
    Action("pane_3", ("3",), "queue", "Go to the start queue.", command="tierdeck queue show NODE"),
    Action("pane_4", ("4", "t"), "test", "Go to the router and type a prompt.", command="tierdeck route", footer=3),
    Action("zoom", ("z",), "zoom", "Give the pane the whole screen, and back.", footer=7),
    Action("details", ("enter",), "details", "Open the details of the selected line.", footer=2),
    Action("probe", ("u",), "probe", "Probe the selected endpoint or node now.", command="tierdeck status"),
    Action("probe_all", ("U",), "probe all", "Probe everything now.", command="tierdeck status"),
    Action(
        "queue",
        ("s",),
        "start queue",
        "Plan the start of a node's containers, one after the other.",
        Effect.CHANGES,
        "tierdeck queue run NODE",
        footer=1,
    ),
    Action(
        "procedures",
        ("p",),
        "procedures",
        "Attach to a running procedure, or read the latest.",
        command="tierdeck procedures",
        footer=8,
    ),
    Action(
        "maintenance",
        ("m",),
        "maintenance",
        "Leave the selected endpoint or node out of verdicts and alerts for a while.",
        Effect.CHANGES,
        "tierdeck maintenance NAME --for 2h",
        footer=9,
    ),
    Action(
        "fit",
        ("f",),
        "fit",
        "Try which models fit on a node, with which context, layers and cache.",
        command="tierdeck fit MODEL --node NODE",
        footer=4,
    ),
    Action(
        "models",
        ("M",),
        "models",
        "List every model: where it lies, how it is started, whether it is loaded.",
        command="tierdeck models",
    ),
    Action("output", ("o",), "output", "Follow the log of the selected container.", footer=4),
    Action("events", ("e",), "events", "Read the whole event log.", footer=10),
    Action("filter", ("slash",), "filter", "Show only the lines with these words in them.", footer=5),
    Action("command", ("colon",), "command", "Run any action by its name.", footer=6),
    Action("palette", ("ctrl+p",), "palette", "Search actions, endpoints and themes."),
    Action("help", ("question_mark",), "help", "Show the keys of where you are.", footer=11),
    Action("detach", ("q", "ctrl+c"), "detach", "Close the console; what runs goes on.", footer=12),
)
"""All of them, in the order of the help."""

NAMED: Final[dict[str, Action]] = {action.id: action for action in ACTIONS}

_SHOWN: Final = {
    "slash": "/",
    "colon": ":",
    "question_mark": "?",
    "enter": "Enter",
    "ctrl+p": "Ctrl+P",
    "ctrl+c": "Ctrl+C",
}


def shown(key: str) -> str:
    """A key as people write it."""
    return _SHOWN.get(key, key)


def allowed(read_only: bool) -> Iterable[Action]:
    """The actions there are; a read-only console has none that change the world."""
    return (a for a in ACTIONS if not (read_only and a.effect is Effect.CHANGES))


def keys_table() -> str:
    """The Markdown table of keys that stands in the README."""
    rows = ["| key | does | on the command line |", "|---|---|---|"]
    for action in ACTIONS:
        keys = ", ".join(f"`{shown(key)}`" for key in action.keys)
        command = f"`{action.command}`" if action.command else ""
        rows.append(f"| {keys} | {action.help} | {command} |")
    return "\n".join(rows)
