"""When an endpoint that answers on its node is said to be closed from here, and not merely slow or lossy."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from backends.clock import SystemClock
from backends.cluster.engines import EngineName
from backends.cluster.files import parse
from backends.cluster.reading import EndpointReading, ProbeResult
from backends.cluster.tables import Endpoint
from backends.cluster.words import Cause
from backends.engines.http import Http
from backends.engines.target import Target
from backends.sources import EndpointSource

TOML = """\
version = 1
name = "c"
[[nodes]]
name = "n"
address = "10.0.0.9"
[[tiers]]
name = "T"
[[endpoints]]
name = "e"
tier = "T"
node = "n"
engine = "http"
url = "http://10.0.0.9:80"
"""
HERE, THERE = Target("http://10.0.0.9:80", "http"), Target("http://127.0.0.1:80", "http")
OK, LATE, SHUT = Cause.OK, Cause.TIMEOUT, Cause.REFUSED


class Line:
    """An engine that is well on its node, and from here answers as the line lets it."""

    name: EngineName = "http"

    def __init__(self, *causes: Cause) -> None:
        self._causes = iter(causes)

    async def probe(self, http: Any, target: Target, *, deep: bool = False, light: bool = False) -> ProbeResult:
        return ProbeResult(Cause.OK if target is THERE else next(self._causes), "")


@pytest.mark.parametrize(
    ("from_here", "said"),
    [
        ([LATE], [Cause.CONFIG]),
        ([SHUT, OK], [Cause.CONFIG, OK]),
        ([OK, SHUT], [OK, Cause.CONFIG]),
        ([OK, LATE, OK, LATE, LATE, OK], [OK, LATE, OK, LATE, LATE, OK]),
        ([OK, LATE, LATE, LATE, LATE], [OK, LATE, LATE, Cause.CONFIG, Cause.CONFIG]),
        ([LATE, OK, LATE], [Cause.CONFIG, OK, LATE]),
    ],
    ids=lambda causes: " ".join(cause.name for cause in causes),
)
async def test_a_lost_packet_is_no_closed_port(from_here: list[Cause], said: list[Cause]) -> None:
    async def here(endpoint: Endpoint) -> Target:
        return HERE

    async def there(endpoint: Endpoint) -> Target | None:
        return THERE

    inventory = parse(TOML, Path("c.toml")).inventory
    source = EndpointSource(
        inventory.endpoints[0], inventory, Line(*from_here), cast("Http", None), here, SystemClock(), Random(1),
        detour=there,
    )  # fmt: skip
    found = []
    for _ in from_here:
        (reading,), _ = await source.read()
        assert isinstance(reading, EndpointReading)
        found.append(reading.result.cause)
    assert found == said
