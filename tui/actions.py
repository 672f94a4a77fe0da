"""The one registry of actions: what the keys, the footer, the help, the palette and the README know.

Imports nothing of Textual, so that the command line and the README's table can read it too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PAST: Final = "past"
"""Where actions are that move through history."""


class Effect(StrEnum):
    """What an action does to the world."""

    LOOKS = "looks"
    ASKS = "asks"
    CHANGES = "changes"


@dataclass(frozen=True, slots=True)
class Action:
    """Something a person can do: its keys, its words, its effect and the command line's way to the same.

    `footer` says how early it appears at the bottom (0: never, 1: first). `where` is PAST for what only the past has;
    `past` says that it can be done there, too. `right` is what has to be
    allowed to us of the selected workload.
    """

    id: str
    keys: tuple[str, ...]
    label: str
    help: str
    effect: Effect = Effect.LOOKS
    command: str = ""
    footer: int = 0
    where: str = ""
    past: bool = False
    right: str = ""


ACTIONS: Final[tuple[Action, ...]] = (
    Action("pane_1", ("1",), "tiers", "Go to the tiers.", command="tierdeck status", past=True),
    Action("pane_2", ("2",), "GPUs", "Go to the GPUs.", command="tierdeck status", past=True),
    Action("pane_3", ("3",), "queue", "Go to the start queue.", command="tierdeck queue show NODE", past=True),
    Action(
        "pane_4",
        ("4", "t"),
        "test",
        "Go to the router and type a prompt.",
        command="tierdeck route",
        footer=3,
        past=True,
    ),
    Action("zoom", ("z",), "zoom", "Give the pane the whole screen, and back.", footer=7, past=True),
    Action("details", ("enter",), "details", "Open the details of the selected line.", footer=2, past=True),
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
        right="start",
    ),
    Action(
        "recover",
        ("r",),
        "recover",
        "Look at the selected node from all sides, and plan its recovery.",
        Effect.CHANGES,
        "tierdeck recover NODE",
        footer=2,
    ),
    Action(
        "reboot",
        ("R",),
        "reboot",
        "Plan the reboot of the selected node: out of the gateway, its work ended, gone and back.",
        Effect.CHANGES,
        "tierdeck reboot NODE",
    ),
    Action(
        "deploy",
        ("d",),
        "deploy",
        "Deploy a model from a file, or by a few questions that write one.",
        Effect.CHANGES,
        "tierdeck deploy SPEC.toml",
        footer=3,
    ),
    Action(
        "up",
        ("S",),
        "start on demand",
        "Start the selected endpoint if it is on demand; others on demand make room.",
        Effect.CHANGES,
        "tierdeck up MODEL",
        right="start",
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
    Action(
        "gateway",
        ("w",),
        "gateway",
        "Check the gateway's file against the cluster, and push a new one.",
        command="tierdeck gateway diff",
    ),
    Action("output", ("o",), "output", "Follow the log of the selected container.", footer=4, right="logs"),
    Action(
        "bench",
        ("B",),
        "bench",
        "Measure the selected endpoint, or whoever would answer the prompt: 1, 2, 4, 8 prompts at once.",
        Effect.ASKS,
        "tierdeck route bench ENDPOINT",
    ),
    Action(
        "compare",
        ("C",),
        "side by side",
        "Send the prompt to two or more endpoints, side by side.",
        Effect.ASKS,
        'tierdeck route --send --target ENDPOINT "PROMPT"',
    ),
    Action("events", ("e",), "events", "Read the whole event log.", footer=11, past=True),
    Action(
        "history",
        ("b",),
        "back in time",
        "Go back in time: the whole console as it was at the latest change.",
        command="tierdeck history",
        footer=10,
    ),
    Action("earlier", ("left",), "earlier", "In the past: one change or step back.", footer=1, where=PAST),
    Action("later", ("right",), "later", "In the past: one change or step on.", footer=2, where=PAST),
    Action("previous_change", ("p",), "previous", "In the past: the change before, over steps.", footer=3, where=PAST),
    Action("next_change", ("n",), "next change", "In the past: the next change, over steps.", footer=4, where=PAST),
    Action("now", ("escape",), "now", "In the past: back to now.", footer=5, where=PAST),
    Action("filter", ("slash",), "filter", "Show only the lines with these words in them.", footer=5, past=True),
    Action("command", ("colon",), "command", "Run any action by its name.", footer=6, past=True),
    Action("palette", ("ctrl+p",), "palette", "Search actions, endpoints and themes.", past=True),
    Action("help", ("question_mark",), "help", "Show the keys of where you are.", footer=12, past=True),
    Action("detach", ("q", "ctrl+c"), "detach", "Close the console; what runs goes on.", footer=13, past=True),
)
"""All of them, in the order of the help."""

PROMPT_KEYS: Final = (
    ("Enter", "Send; Ctrl+J breaks the line; Ctrl+Up brings back an earlier prompt."),
    ("Ctrl+T", "Force a task; again for the next."),
    ("Ctrl+G", "Choose the endpoint, or to go through the gateway."),
    ("Ctrl+O", "Attach an image: its path, typed or pasted."),
    ("Ctrl+N", "After a failure: send it to the next candidate."),
    ("Ctrl+R", "Show the reasoning of the answer, or hide it."),
    ("Ctrl+S", "Send it to several endpoints, side by side."),
    ("Ctrl+B", "Bench who would answer."),
    ("Ctrl+L", "Begin a new conversation."),
    ("Esc", "Cancel the answer; once more leaves the prompt."),
)
"""The keys of the prompt, where letters are text."""

NAMED: Final[dict[str, Action]] = {action.id: action for action in ACTIONS}

_SHOWN: Final = {
    "slash": "/",
    "colon": ":",
    "question_mark": "?",
    "enter": "Enter",
    "ctrl+p": "Ctrl+P",
    "ctrl+c": "Ctrl+C",
    "left": "Left",
    "right": "Right",
    "escape": "Esc",
}


def shown(key: str) -> str:
    """A key as people write it."""
    return _SHOWN.get(key, key)


def allowed(read_only: bool, *, past: bool = False) -> Iterable[Action]:
    """The actions there are; a read-only console has none that change the world, the past only those that look back."""
    if past:
        return (a for a in ACTIONS if a.past or a.where == PAST)
    return (a for a in ACTIONS if a.where != PAST and not (read_only and a.effect is Effect.CHANGES))


def keys_table() -> str:
    """The Markdown table of keys that stands in the README."""
    rows = ["| key | does | on the command line |", "|---|---|---|"]
    for action in ACTIONS:
        keys = ", ".join(f"`{shown(key)}`" for key in action.keys)
        command = f"`{action.command}`" if action.command else ""
        rows.append(f"| {keys} | {action.help} | {command} |")
    return "\n".join(rows)
