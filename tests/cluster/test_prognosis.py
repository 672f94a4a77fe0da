"""What would be left if the busiest node died, as a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.cluster.files import parse
from backends.cluster.fold import empty, fold_all
from backends.cluster.reading import EndpointReading, Instant, ProbeResult
from backends.cluster.report import status_json, status_text
from backends.cluster.words import Cause

NOW = Instant(1e6, 10.0)
HEAD = 'version = 1\nname = "t"\n[[tiers]]\nname = "A"\n' + "".join(
    f'[[nodes]]\nname = "{name}"\naddress = "10.0.0.{n}"\n' for n, name in enumerate(("desk", "mark", "nas"), 1)
)


def endpoint(name: str, node: str, tasks: str, engine: str = "llama.cpp") -> str:
    where = f'node = "{node}"\n' if node else ""
    listed = ", ".join(f'"{task}"' for task in tasks.split())
    return (
        f'[[endpoints]]\nname = "{name}"\ntier = "A"\nengine = "{engine}"\nurl = "http://10.0.0.9:1"\n'
        f"tasks = [{listed}]\n{where}"
    )


DESK = endpoint("ollama", "desk", "chat reason", "ollama")
MARK = endpoint("mark-i", "mark", "chat") + endpoint("mark-ii", "mark", "vision") + endpoint("mark-iii", "mark", "code")
NAS = endpoint("coder", "nas", "code")
GATE = endpoint("gate", "nas", "chat reason vision code", "litellm")
CLOUD = endpoint("cloud", "", "chat vision code")


@pytest.mark.parametrize(
    ("text", "down", "node", "lost", "words"),
    [
        (DESK + MARK + NAS, "", "mark", ("vision",), "if mark dies, vision: nobody"),
        (NAS + DESK + MARK, "mark-ii", "desk", ("reason",), "if desk dies, reason: nobody"),
        (MARK, "", "mark", ("code", "chat", "vision"), "if mark dies, nothing is served"),
        (MARK + CLOUD, "", "mark", (), "if mark dies, all goes on elsewhere"),
        (MARK + GATE, "", "mark", ("code", "chat", "vision"), "if mark dies, code, chat, vision: nobody"),
        (DESK + MARK + GATE, "", "mark", ("code", "vision"), "if mark dies, code, vision: nobody"),
        (GATE, "", "nas", ("code", "reason", "chat", "vision"), "if nas dies, nothing is served"),
        (MARK, "mark-i mark-ii mark-iii", None, (), ""),
        (CLOUD, "", None, (), ""),
        ("", "", None, (), ""),
    ],
    ids=["one task", "another is busiest", "only one", "a cloud", "a gateway leads nowhere", "a gateway leads on",
         "a gateway alone", "all is down", "no node", "nothing"],
)  # fmt: skip
def test_without_the_busiest(text: str, down: str, node: str | None, lost: tuple[str, ...], words: str) -> None:
    inventory = parse(HEAD + text, Path("t.toml")).inventory
    readings = [
        EndpointReading(e.name, NOW, ProbeResult(Cause.REFUSED if e.name in down.split() else Cause.OK, "said"), 5.0)
        for e in inventory.endpoints
    ]
    snapshot = fold_all(inventory, empty(inventory), readings)
    loss, told = snapshot.prognosis.without, status_json(inventory, snapshot)["prognosis"]["without_busiest"]
    if loss is None:
        assert (node, told) == (None, None)
        return
    assert (loss.node, loss.lost, loss.words) == (node, lost, words)
    assert told == {"node": node, "lost": list(lost), "tasks": dict(loss.tasks)}
    assert all(name is None or inventory.endpoint_named[name].node != node for name in loss.tasks.values())
    assert f"{words[0].upper()}{words[1:]}." in list(status_text(inventory, snapshot))
