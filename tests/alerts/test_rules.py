"""What [alerts] may say, and how a mistake in it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.cluster.files import parse
from backends.doctor.secrets import references
from backends.errors import InventoryError

HEAD = 'version = 1\nname = "home"\n[alerts]\n'


def test_addresses_are_references_and_the_doctor_tries_them() -> None:
    text = HEAD + 'to = ["env:HOOK", "pass:ntfy"]\nquiet = "23:00-07:00"\nheartbeat = "env:BEAT"\ngroup = "1m"\n'
    inventory = parse(text, Path("c.toml")).inventory
    assert inventory.alerts.group == 60.0
    found = references(inventory)
    assert {name: use.polled for name, use in found.items()} == {
        "env:HOOK": ["alerts"], "pass:ntfy": ["alerts"], "env:BEAT": ["the heartbeat"],
    }  # fmt: skip
    plain = parse(HEAD + 'heartbeat = "https://hc.example/1"\n', Path("c.toml")).inventory
    assert references(plain) == {}


@pytest.mark.parametrize(
    ("row", "line", "words"),
    [
        ('to = ["discord://secret/address"]', 4, "never the secret itself"),
        ('quiet = "11pm-7am"', 4, 'hours such as "23:00-07:00"'),
        ('quiet = "24:00-07:00"', 4, 'hours such as "23:00-07:00"'),
        ('heartbeat = "hc.example"', 4, "an address such as"),
        ('heartbeat = "https://me:pw@hc.example"', 4, "without a name or password"),
        ('group = "2h"', 4, "group"),
        ('tos = ["env:A"]', 4, "to"),
    ],
)
def test_mistakes_are_told_with_their_line(row: str, line: int, words: str) -> None:
    with pytest.raises(InventoryError) as error:
        parse(HEAD + row + "\n", Path("c.toml"))
    assert f"line {line}" in str(error.value)
    assert words in str(error.value)
    assert "secret/address" not in str(error.value)
    assert "me:pw" not in str(error.value)
