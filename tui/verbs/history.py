"""`tierdeck history`: what happened, what changed since something last worked, and an incident to carry away."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from backends.cluster.report import iso
from backends.errors import HistoryError, InventoryError
from backends.text import plain

if TYPE_CHECKING:
    from backends.history.card import Incident
    from backends.history.compare import Difference
    from backends.history.recording import Past, Recording
    from backends.history.store import Recorded

SCHEMA: Final = "tierdeck.history/1"

LONGEST: Final = 1000
"""Characters of a line; a file from elsewhere may hold anything."""


def run(arguments: argparse.Namespace) -> int:
    """Print it; with `export` write it into a file of its own."""
    from backends.history.recording import Recording

    with Recording(path_of(arguments)) as recording:
        if getattr(arguments, "what", None) == "export":
            return _export(recording, arguments)
        if getattr(arguments, "what", None) == "card":
            return _card(recording, arguments)
        if arguments.changes is not None:
            return _changes(recording, arguments)
        return _list(recording, arguments)


def path_of(arguments: argparse.Namespace) -> Path:
    """The file that is meant: --file, or this cluster's own."""
    if (named := getattr(arguments, "file", None)) is not None:
        return Path(named)
    from backends.cluster.files import load
    from backends.history.store import history_path
    from backends.paths import state_dir
    from tui.verbs.opening import cluster_path

    loaded = load(cluster_path(arguments))
    return history_path(state_dir(os.environ), loaded.inventory.name, loaded.path)


def since(arguments: argparse.Namespace) -> float:
    """The moment (Unix seconds) from which on things are told; 0.0 where nothing is said."""
    from backends.cluster.fields import seconds_of

    words = getattr(arguments, "since", None)
    if words is None:
        return 0.0
    with suppress(ValueError):
        if (seconds := seconds_of(words)) > 0:
            return time.time() - seconds
    raise InventoryError(f'--since: "{words}" is no duration.', "Say how long: 45m, 2h, 1d.")


def _list(recording: Recording, arguments: argparse.Namespace) -> int:
    subject = getattr(arguments, "endpoint", None)
    found = recording.moments(since=since(arguments), subject=subject)
    if subject is not None and not found:
        _known(recording.latest(), subject)
    if getattr(arguments, "json", False):
        rows = [_json(recorded) for recorded in found]
        print(json.dumps({"schema": SCHEMA, "moments": rows}, ensure_ascii=False))
        return 0
    for recorded in found:
        print(f"{when(recorded.moment.at)}  {plain(recorded.moment.text, LONGEST)}")
    if not found:
        print("nothing changed" if recording.moments() else "nothing has changed since it is recorded")
    return 0


def _json(recorded: Recorded) -> dict[str, Any]:
    moment = recorded.moment
    return {
        "at": _iso(moment.at),
        "kind": moment.kind,
        "subject": moment.subject,
        "word": moment.word,
        "text": moment.text,
    }


def _export(recording: Recording, arguments: argparse.Namespace) -> int:
    target = Path(arguments.target)
    count = recording.export(target, since=since(arguments))
    print(f"{target}: {count} changes. It holds names, addresses and evidence of this cluster, and no secrets.")
    print(f"Anywhere else: tierdeck replay {target.name}")
    return 0


def _known(past: Past, name: str) -> list[str]:
    """The endpoints that are meant by the name of one, or of a node."""
    inventory = past.inventory
    found = [e.name for e in inventory.lamps if name in (e.name, e.node)]
    if not found and name not in (*inventory.node_named, *inventory.endpoints_of):
        known = ", ".join([*inventory.endpoint_named, *inventory.node_named][:12])
        raise HistoryError(f"Nothing called {name} is recorded.", f"Known are: {known}.")
    return found


def _changes(recording: Recording, arguments: argparse.Namespace) -> int:
    latest = recording.latest()
    rows = [_change(recording, latest, name) for name in _known(latest, arguments.changes)]
    if getattr(arguments, "json", False):
        print(json.dumps({"schema": SCHEMA, "changes": rows}, ensure_ascii=False))
        return 0
    for row in rows:
        print(plain(f"{row['endpoint']}: {row['text']}", LONGEST))
        for change in row["differences"]:
            words = f"{change['what']}: {change['was'] or 'none'} -> {change['now'] or 'none'}"
            print(f"  {plain(words, LONGEST)}")
    return 0


def _change(recording: Recording, latest: Past, name: str) -> dict[str, Any]:
    """What is not as it was when an endpoint last worked."""
    from backends.history.compare import differences

    state, fall = latest.snapshot.endpoints[name], recording.fall(name)
    row: dict[str, Any] = {"endpoint": name, "last_worked": None, "differences": []}
    if not fall:
        return row | {"text": f"{state.verdict.value} ever since it is recorded"}
    well = recording.last_up(name, fall[0])
    if well is None:
        return row | {"text": f"{fall[0].moment.text}; when it last worked is not recorded"}
    read = well.snapshot.endpoints[name].taken
    assert read is not None
    found = differences(latest.inventory, well.snapshot, latest.snapshot, name)
    words = "" if found else "; nothing that is recorded is not as it was then"
    now = (
        "works again" if state.serving else f"{state.verdict.value} {state.cause.value if state.cause else ''}".strip()
    )
    text = f"{now}; it stopped at {when(fall[0].moment.at)}, and last worked at {when(read.wall)}{words}"
    return row | {"last_worked": iso(read), "text": text, "differences": [_row(each) for each in found]}


def _card(recording: Recording, arguments: argparse.Namespace) -> int:
    """Print the latest incident, or that of an endpoint, as redacted Markdown."""
    from backends.history.card import card

    latest = recording.latest()
    begin = since(arguments)
    named = getattr(arguments, "endpoint", None)
    names = _known(latest, named) if named is not None else list(latest.inventory.endpoint_named)
    falls = [(fall[0].moment.at, name) for name in names if (fall := recording.fall(name))]
    falls = [each for each in falls if each[0] >= begin]
    if not falls:
        raise HistoryError("No incident is recorded.", "An incident is an endpoint that stopped being UP.")
    incident, then = _incident(recording, latest, max(falls)[1])
    text = card(then.inventory, then.snapshot, incident)
    if getattr(arguments, "json", False):
        print(json.dumps({"schema": SCHEMA, "card": text}, ensure_ascii=False))
    else:
        print(text, end="")
        print("Read it before you post it: names in models, images and messages stay.", file=sys.stderr)
    return 0


def _incident(recording: Recording, latest: Past, name: str) -> tuple[Incident, Past]:
    """The last incident of an endpoint, and the cluster as it was when it fell."""
    from backends.history.card import BEFORE, Incident
    from backends.history.compare import differences

    fall = recording.fall(name)
    then, well = recording.at(fall[0]), recording.last_up(name, fall[0])
    back = fall[-1].moment if fall[-1].moment.word == "UP" else None
    changed = differences(then.inventory, well.snapshot, then.snapshot, name) if well is not None else []
    moments = [r.moment for r in recording.moments(since=fall[0].moment.at - BEFORE)]
    return Incident(name, fall[0].moment, back, tuple(moments), tuple(changed)), then


def _row(each: Difference) -> dict[str, str]:
    return {"what": each.what, "was": each.was, "now": each.now}


def when(wall: float) -> str:
    """A moment as people write it, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall))


def _iso(wall: float) -> str | None:
    from backends.cluster.reading import Instant

    return iso(Instant(wall, 0.0))
