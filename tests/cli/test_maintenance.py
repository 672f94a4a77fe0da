"""`tierdeck maintenance`: said by a person, obeyed by `status`, over by itself."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path

import pytest

from backends.cluster.files import parse
from backends.errors import TierdeckError
from backends.maintenance import Maintenance, lasting, wanted
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.openai import OpenAi
from tests.cli.driving import tierdeck


async def test_what_is_under_maintenance_is_left_out_of_the_exit_code(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path)
    sim.add_endpoint("near", OpenAi(sim.world, models=["m"]), tasks=["chat"])
    sim.add_endpoint("far", OpenAi(sim.world), state="stopped", tasks=["chat"])
    async with sim:
        file = ("--cluster", str(sim.inventory_path))
        assert (await tierdeck("status", *file)).code == 1
        before = time.time()
        said = await tierdeck("maintenance", "far", "--for", "2h", "--json", *file)
        (row,) = json.loads(said.out)
        until = datetime.fromisoformat(row["until"]).timestamp()
        assert (said.code, row["name"]) == (0, "far")
        assert before + 7199 <= until <= time.time() + 7200
        ran = await tierdeck("status", "--json", *file)
        near, far = json.loads(ran.out)["tiers"][0]["endpoints"]
        assert (ran.code, near["verdict"], far["cause"], far["verdict"]) == (0, "UP", "MAINTENANCE", "UNKNOWN")
        assert far["maintenance_until"].startswith(row["until"].removesuffix("Z"))
        assert near["maintenance_until"] is None
        ended = await tierdeck("maintenance", "far", "--end", *file)
        assert (ended.code, ended.out) == (0, "nothing is under maintenance\n")
        assert (await tierdeck("status", *file)).code == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nobody", "--for", "2h"), 1, "There is no node or endpoint nobody. Known are: near."),
        (("near",), 2, "Say how long, or that it is over."),
        (("--end",), 2, "Say of which node or endpoint."),
        (("near", "--for", "long"), 1, '"long" is no duration.'),
        (("near", "--for", "99d"), 1, "from a second to 30 days"),
    ],
)
async def test_what_is_not_understood(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(
        'version = 1\nname = "t"\n[[tiers]]\nname = "A"\n[[endpoints]]\nname = "near"\ntier = "A"\n'
        'engine = "http"\nurl = "http://127.0.0.1:1"\n'
    )
    ran = await tierdeck("maintenance", *words, "--cluster", str(file))
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err


def test_a_broken_file_says_nothing_and_ended_entries_go(tmp_path: Path) -> None:
    kept = Maintenance(tmp_path)
    (tmp_path / "maintenance.json").write_text('{"a": NaN, "b": true, "c": "x", "d": 5, "e": 1e400}')
    assert kept.read() == {"d": 5.0}
    kept.begin("f", 100.0, 50.0)
    assert kept.read() == {"f": 100.0}
    assert kept.end("f", 60.0)
    assert not kept.end("f", 60.0)
    (tmp_path / "maintenance.json").write_text("[" * 10000)
    assert kept.read() == {}


def test_names_and_durations() -> None:
    inventory = parse('version = 1\nname = "t"\n[[nodes]]\nname = "n"\naddress = "a"\n', Path("x")).inventory
    assert wanted(inventory, "n") == "n"
    assert lasting("45m") == 2700
    for words in ("", "0s", "-1h", "nan"):
        with pytest.raises(TierdeckError):
            lasting(words)
