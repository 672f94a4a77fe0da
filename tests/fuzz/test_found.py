"""What the fuzzers found, one example of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends import facts
from backends.cluster.files import load, parse
from backends.engines.answers import read_piece
from backends.errors import InventoryError, RuntimeFailure
from backends.gpus import amd, apple
from backends.memory.headers import HeaderError
from backends.memory.safetensors import read_safetensors
from backends.reach import docker_words, services_words
from backends.reach.docker import _json
from tests.fuzz.strategies import DEEP, bounded, said

HUGE = 10**400
BASE = 'version = 1\nname = "x"\n[[tiers]]\nname = "T"\n[[endpoints]]\nname = "a"\ntier = "T"\nengine = "ollama"\n'


def test_a_figure_too_large_for_a_float() -> None:
    metric = [{"gpu": 0, "usage": {"gfx_activity": HUGE}}]
    assert amd.parse_amd_smi(json.dumps(metric))[0].utilization_pct is None
    piece = read_piece(json.dumps({"choices": [], "timings": {"predicted_per_second": HUGE}}))
    assert piece is not None
    assert piece.tokens_per_s is None


def test_the_unique_id_of_a_gpu_is_text_from_outside() -> None:
    (gpu,) = amd.parse_rocm(json.dumps({"card0": {"Unique ID": "\x1b]0;owned\x07id"}}))
    assert gpu.uuid == "id"


def test_searches_that_began_again_at_every_word() -> None:
    bounded(lambda: apple.parse("IOAccelerator" + '"PerformanceStatistics" = {' * 2**15, ""))
    bounded(lambda: facts.parsed("NVRM version: " * 2**16))


def test_exit_codes_of_thousands_of_digits() -> None:
    code = "9" * 5000
    (unit,) = services_words.systemd(f"LoadState=loaded\nActiveState=failed\nExecMainStatus={code}", ["u"], gpu=False)
    assert (unit.state, unit.exit_code) == ("dead", None)
    assert services_words.launchd(f"x = {{\n\tlast exit code = {code}\n}}", "x", gpu=False).exit_code == 9999999999


def test_brackets_inside_brackets() -> None:
    assert _json("[" * DEEP) is None
    with pytest.raises(RuntimeFailure, match="no list of services"):
        services_words.windows("[" * DEEP, ["x"], gpu=False)


def test_docker_may_say_odd_times_ports_and_names() -> None:
    event = {"Type": "container", "Action": "start", "Actor": {"Attributes": {"name": "a"}}}
    odds: tuple[object, ...] = (HUGE, "soon", [], {})
    for odd in odds:
        for key in ("time", "timeNano"):
            found = docker_words.event({**event, key: odd})
            assert found is not None
            assert found.at == 0.0
    ports = {"HostConfig": {"PortBindings": {"1/tcp": [{"HostPort": "9" * 5000}, {"HostPort": "80"}]}}}
    assert docker_words.workload(ports).ports == (80,)
    assert docker_words.workload({"Name": "/a\x1b[2J", "Config": {"Image": "b\x07"}}).name == "a [2J"


async def test_a_safetensors_type_that_is_a_list() -> None:
    raw = json.dumps({"t": {"dtype": [], "shape": [1]}}).encode()

    async def read(offset: int, length: int) -> bytes:
        return (len(raw).to_bytes(8, "little") + raw)[offset : offset + length]

    with pytest.raises(HeaderError, match="has the type"):
        await read_safetensors(read)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('interval = 1' + "0" * 5000, "a number of thousands of digits"),
        ("interval = 1" + "0" * 400, "a duration such as"),
        ('interval = "' + "9" * 400 + 'd"', "a duration such as"),
    ],
)  # fmt: skip
def test_durations_beyond_all_measure(line: str, words: str) -> None:
    with pytest.raises(InventoryError, match=words):
        parse(f'{BASE}url = "http://h:1"\n{line}\n', Path("cluster.toml"))


def test_what_an_error_quotes_cannot_move_a_cursor() -> None:
    text = BASE.replace('tier = "T"', 'tier = "\\u001b]0;owned\\u0007"') + 'url = "http://h:1"\n'
    with pytest.raises(InventoryError) as caught:
        parse(text, Path("cluster.toml"))
    assert str(caught.value).isprintable()
    assert "]0;owned" in str(caught.value)


def test_a_name_that_is_a_list_in_a_fragment(tmp_path: Path) -> None:
    (tmp_path / "cluster.toml").write_text(BASE + 'url = "http://h:1"\n')
    (tmp_path / "cluster.d").mkdir()
    (tmp_path / "cluster.d" / "x.toml").write_text("[[endpoints]]\nname = []\n")
    with pytest.raises(InventoryError, match=r"x\.toml, line \d"):
        load(tmp_path / "cluster.toml")


def test_a_thousand_mistakes_are_found_as_fast_as_one() -> None:
    text = "[[nodes]]\n" * 2_000
    assert "line 1:" in said(lambda: parse(text, Path("cluster.toml")))
    bounded(lambda: said(lambda: parse(text, Path("cluster.toml"))), seconds=3.0)
