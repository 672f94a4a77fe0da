"""`tierdeck status` as cron and monitoring run it: exit codes, `tierdeck.status/1`, and nothing else on stdout."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from backends.reach.ssh import CONNECT_LIMIT
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.openai import OpenAi, PlainHttp
from backends.simulator.httpfaults import HttpFault
from tests.cli.driving import Ran, tierdeck
from tui.cli import main

TASKS = ("code", "reason", "chat", "vision", "fast", "embed")
CAUSES = (
    "OK", "LOADING", "SLEEPING", "BUSY", "CONFIG", "RATE_LIMITED", "TIMEOUT", "REFUSED", "UNREACHABLE", "DNS", "TLS",
    "RESET", "BAD_RESPONSE", "OFF", "MAINTENANCE",
)  # fmt: skip
"""All but STALLED and STALE, which need a history."""

TEXT = {"type": "string"}
TIME = {"type": ["string", "null"], "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"}
NUMBER = {"type": ["number", "null"], "minimum": 0}
STATE = {"enum": ["HEALTHY", "DEGRADED", "DOWN", "UNKNOWN"]}


def table(**keys: Any) -> dict[str, Any]:
    """A JSON object with exactly these keys."""
    return {"type": "object", "properties": keys, "required": list(keys), "additionalProperties": False}


def several(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item}


OUTLOOK = table(now={"type": ["string", "null"]}, next=several(TEXT))
LOSS = table(node=TEXT, lost=several({"enum": list(TASKS)}), tasks={"type": "object"})
WORK = table(
    requests_running=NUMBER,
    requests_waiting=NUMBER,
    tokens_per_s=NUMBER,
    kv_cache_pct=NUMBER,
    first_token_ms=NUMBER,
    models=several(table(name=TEXT, requests_per_minute=NUMBER, tokens_per_minute=NUMBER)),
)
ENDPOINT = table(
    name=TEXT,
    node={"type": ["string", "null"]},
    check={"enum": ["http", "tcp", "command", "age", "syncthing", None]},
    engine={"enum": ["ollama", "llama.cpp", "vllm", "litellm", "lmstudio", "sglang", "openai", "http", None]},
    url=TEXT,
    verdict={"enum": ["UP", "DEGRADED", "DOWN", "UNKNOWN"]},
    cause={"enum": [*CAUSES, None]},
    evidence=TEXT,
    latency_ms=NUMBER,
    models=several(TEXT),
    work={"anyOf": [WORK, {"type": "null"}]},
    checked_at=TIME,
    maintenance_until=TIME,
)
GPU = table(
    index={"type": "integer"},
    name=TEXT,
    memory_total_mib=NUMBER,
    memory_used_mib=NUMBER,
    utilization_pct=NUMBER,
    temperature_c=NUMBER,
)
COUNT = {"type": "integer", "minimum": 0}
MAYBE = {"type": ["string", "null"]}
DEVICE = table(name=TEXT, capacity=COUNT, allocatable=COUNT, requested=COUNT, holders=several(TEXT))
SCAN = table(
    scanner=TEXT,
    kind={"enum": ["vulnerabilities", "configuration"]},
    subject=TEXT,
    critical=COUNT,
    high=COUNT,
    medium=COUNT,
    low=COUNT,
    trouble=TEXT,
)
WORKLOAD = table(
    name=TEXT,
    runtime=TEXT,
    state=TEXT,
    health=MAYBE,
    error=MAYBE,
    image=TEXT,
    scaling=MAYBE,
    volumes=several(table(name=TEXT, claimed_mib=NUMBER, used_mib=NUMBER, disk_mib=NUMBER, trouble=TEXT)),
    findings=several(SCAN),
    notices=several(table(at=TIME, reason=TEXT, text=TEXT, bad={"type": "boolean"})),
)
NODE = table(name=TEXT, gpus=several(GPU), devices=several(DEVICE), workloads=several(WORKLOAD), error=MAYBE)
SHAPE = table(
    schema={"const": "tierdeck.status/1"},
    cluster=TEXT,
    taken_at=TIME,
    prognosis=table(
        state=STATE,
        summary=TEXT,
        tasks=table(**dict.fromkeys(TASKS, OUTLOOK)),
        without_busiest={"anyOf": [LOSS, {"type": "null"}]},
    ),
    tiers=several(table(name=TEXT, state=STATE, up=COUNT, total=COUNT, endpoints=several(ENDPOINT))),
    findings=several(table(name={"enum": ["ON_CPU", "GPU_LOST"]}, endpoint=TEXT, evidence=TEXT, cure=TEXT)),
    nodes=several(NODE),
)


def checked(ran: Ran) -> dict[str, Any]:
    """The data on stdout, which is one line of JSON in the promised shape and nothing else."""
    assert ran.out.count("\n") == 1, ran
    data = json.loads(ran.out)
    jsonschema.Draft202012Validator(SHAPE).validate(data)
    assert isinstance(data, dict)
    return data


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("stopped", "more", "code", "word"),
    [
        ([], "", 0, "HEALTHY"),
        (["far"], "", 1, "DEGRADED"),
        (["near", "far"], "", 2, "DOWN"),
        (["near", "far"], '[[tiers]]\nname = "EMPTY"\n', 3, "UNKNOWN"),
    ],
)
async def test_exits_as_a_monitoring_plugin(
    tmp_path: Path, stopped: list[str], more: str, code: int, word: str
) -> None:
    sim = SimulatedCluster(tmp_path)
    for name in ("near", "far"):
        engine = OpenAi(sim.world, models=["m"])
        state: Any = "stopped" if name in stopped else "ready"
        sim.add_endpoint(name, engine, tier=name.upper(), tasks=["code", "chat"], state=state)
    async with sim:
        sim.inventory_path.write_text(sim.inventory + more)
        ran = await tierdeck("status", "--json", "--cluster", str(sim.inventory_path))
    assert (ran.code, ran.err) == (code, "")
    data = checked(ran)
    assert data["prognosis"]["state"] == word
    chain = [name for name in ("near", "far") if name not in stopped]
    assert data["prognosis"]["tasks"]["code"] == {"now": chain[0] if chain else None, "next": chain[1:]}
    assert data["prognosis"]["tasks"]["vision"] == {"now": None, "next": []}


async def test_the_same_in_lines_for_people(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path)
    sim.add_endpoint("near", OpenAi(sim.world, models=["m"]))
    sim.add_endpoint("far", OpenAi(sim.world), state="stopped")
    async with sim:
        ran = await tierdeck("status", "--cluster", str(sim.inventory_path))
    first, tier, near, far = ran.out.splitlines()
    assert (ran.code, ran.err, tier.split()) == (1, "", ["LOCAL", "DEGRADED", "1/2"])
    assert first.startswith("simulated: DEGRADED. ")
    assert near.split()[:3] == ["near", "UP", "OK"]
    assert far.split()[:3] == ["far", "DOWN", "REFUSED"]


@pytest.fixture
def several_kinds(tmp_path: Path) -> SimulatedCluster:
    """Tiers and endpoints out of any alphabetical order, with and without nodes, GPUs, models and tasks."""
    sim = SimulatedCluster(tmp_path, name="größer")
    gpus = [sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576), sim.gpu(1, "NVIDIA L4", 23034)]
    sim.add_node("zeta", gpus=gpus)
    sim.add_node("alpha", docker=False)
    sim.add_endpoint(
        "z/one", LlamaCpp(sim.world, models=["/models/one.gguf"]), tier="ZETA", node="zeta", container="one", gpu=0,
        vram_mib=3000.0,
    )  # fmt: skip
    sim.add_endpoint("a/two", OpenAi(sim.world, models=["y", "x"], api_key="k-123"), tier="ALPHA", tasks=["code"])
    sim.add_endpoint("m/three", PlainHttp(sim.world), tier="ZETA")
    sim.add_endpoint("a/four", OpenAi(sim.world), tier="ALPHA", state="stopped", tasks=["code", "fast"])
    return sim


async def test_the_json_keeps_its_shape(several_kinds: SimulatedCluster) -> None:
    async with several_kinds as sim:
        dead = sim.nodes["alpha"].ssh
        assert dead is not None
        await dead.refuse()
        url = sim.endpoints["a/two"].server.url
        sim.inventory_path.write_text(sim.inventory.replace(f'"{url}"', f'"{url}/v1/models"'))
        before = time.time()
        ran = await tierdeck("status", "--json", "--cluster", str(sim.inventory_path), env=sim.secrets)
    data = checked(ran)
    assert ran.code == 1
    assert "a/two: the address was read as" in ran.err, "remarks go to standard error"
    assert "k-123" not in ran.out + ran.err
    assert data["cluster"] == "größer"
    assert before - 1 <= moment(data["taken_at"]) <= time.time() + 1
    assert [tier["name"] for tier in data["tiers"]] == ["ZETA", "ALPHA"]
    zeta, alpha = ([endpoint["name"] for endpoint in tier["endpoints"]] for tier in data["tiers"])
    assert (zeta, alpha) == (["z/one", "m/three"], ["a/two", "a/four"])
    assert [(t["state"], t["up"], t["total"]) for t in data["tiers"]] == [("HEALTHY", 2, 2), ("DEGRADED", 1, 2)]
    one, three, two, four = (e for tier in data["tiers"] for e in tier["endpoints"])
    assert (one["node"], one["engine"], one["models"]) == ("zeta", "llama.cpp", ["/models/one.gguf"])
    assert (two["node"], two["url"], two["models"], two["verdict"]) == (None, url, ["y", "x"], "UP")
    assert (three["engine"], three["cause"], three["models"]) == ("http", "OK", [])
    assert (four["verdict"], four["cause"], four["latency_ms"]) == ("DOWN", "REFUSED", None)
    assert all(before - 1 <= moment(e["checked_at"]) <= moment(data["taken_at"]) for e in (one, two, three, four))
    tasks = data["prognosis"]["tasks"]
    assert (tasks["code"], tasks["fast"]) == ({"now": "a/two", "next": []}, {"now": None, "next": []})
    assert tasks["chat"] == {"now": "z/one", "next": []}, "without tasks it serves chat, and plain HTTP nothing"
    assert [node["name"] for node in data["nodes"]] == ["zeta", "alpha"]
    assert [(g["index"], g["name"], g["memory_total_mib"]) for g in data["nodes"][0]["gpus"]] == [
        (0, "NVIDIA GeForce RTX 3090", 24576), (1, "NVIDIA L4", 23034),
    ]  # fmt: skip
    assert data["nodes"][0]["gpus"][0]["memory_used_mib"] >= 3000
    assert data["nodes"][0]["error"] is None
    assert (data["nodes"][1]["gpus"], "refuse" in data["nodes"][1]["error"]) == ([], True)


async def test_the_dead_cost_their_own_limit_and_no_more(tmp_path: Path) -> None:
    """Three black holes, a node that hangs and one that swallows cost one limit side by side, not the sum."""
    sim = SimulatedCluster(tmp_path)
    for name in ("hangs", "swallows"):
        sim.add_node(name, docker=False)
    sim.add_endpoint("good", PlainHttp(sim.world))
    holes = [sim.add_endpoint(f"hole{n}", OpenAi(sim.world), timeout="1500ms") for n in range(3)]
    async with sim:
        hanging, swallowing = sim.nodes["hangs"].ssh, sim.nodes["swallows"].ssh
        assert hanging is not None
        assert swallowing is not None
        await hanging.hang()
        await swallowing.swallow()
        for hole in holes:
            await hole.server.inflict(HttpFault("black_hole"))
        begun = time.monotonic()
        ran = await tierdeck("status", "--json", "--cluster", str(sim.inventory_path))
        took = time.monotonic() - begun
    data = checked(ran)
    good, *dead = data["tiers"][0]["endpoints"]
    assert [(e["cause"], e["node"]) for e in (good, *dead)] == [("OK", None), *[("TIMEOUT", None)] * 3]
    assert all(1.0 < moment(e["checked_at"]) - moment(good["checked_at"]) < 3.5 for e in dead)
    assert all(node["error"] for node in data["nodes"])
    assert took < CONNECT_LIMIT * 1.9


async def test_cluster_is_taken_before_and_after_the_verb_and_from_the_environment(tmp_path: Path) -> None:
    names = ("before", "after", "said", "relative", "home")
    for name in names:
        (tmp_path / f"{name}.toml").write_text(f'version = 1\nname = "{name}"\n')
    file = {name: str(tmp_path / f"{name}.toml") for name in names}
    said = {"TIERDECK_CLUSTER": file["said"]}
    everyone = await asyncio.gather(
        tierdeck("--cluster", file["before"], "status", "--json", env=said),
        tierdeck("status", "--json", f"--cluster={file['after']}", env=said),
        tierdeck("status", "--json", env=said),
        tierdeck("status", "--json", "--cluster", "relative.toml", cwd=tmp_path),
        tierdeck("--cluster", "~/home.toml", "status", "--json", env={"HOME": str(tmp_path)}),
    )
    assert [(ran.code, checked(ran)["cluster"]) for ran in everyone] == [(3, name) for name in names]


GOOD = """\
version = 1
name = "lumina"
[[nodes]]
name = "mark"
address = "10.0.10.20"
[[tiers]]
name = "LOCAL"
[[endpoints]]
name = "local/ollama"
tier = "LOCAL"
engine = "ollama"
url = "http://127.0.0.1:9"
"""


def _changed(old: str, new: str) -> Callable[[Path], object]:
    def write(path: Path) -> object:
        assert old in GOOD
        return path.write_text(GOOD.replace(old, new))

    return write


BAD: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "unknown key": (
        _changed('engine = "ollama"', 'engine = "ollama"\ntimout = "3s"'),
        ("line 12", '"timout"', 'Did you mean "timeout"?'),
    ),
    "wrong type": (_changed('"10.0.10.20"', "10"), ("line 5", "text in quotes")),
    "unknown tier": (_changed('tier = "LOCAL"', 'tier = "LOKAL"'), ("line 10", 'Did you mean "LOCAL"?')),
    "bad TOML": (_changed("[[tiers]]", "[[tiers"), ("line 6", "not valid TOML")),
    "missing": (lambda path: None, ("no such file", "tierdeck init")),
    "unreadable": (lambda path: path.symlink_to(path), ("cannot be read",)),
    "directory": (lambda path: path.mkdir(), ("cannot be read", "directory")),
    "10 MB of garbage": (lambda path: path.write_bytes(bytes(range(256)) * 40_000), ("larger than 1 MiB",)),
    "garbage": (lambda path: path.write_bytes(bytes(range(256))), ("not UTF-8 text",)),
    "plaintext secret": (
        _changed('url = "http://127.0.0.1:9"', 'url = "http://127.0.0.1:9"\napi_key = "sk-live-1234567890"'),
        ("line 13", "never the secret itself"),
    ),
}


VERBS: dict[str, tuple[int, list[str]]] = {
    "status": (3, ["status", "--json"]),
    "show": (2, ["queue", "show", "mark", "--json"]),
    "run": (2, ["queue", "run", "mark", "--yes", "--json"]),
    "route": (2, ["route", "hello"]),
}


@pytest.mark.parametrize("mistake", BAD)
@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_inventory_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: str, verb: str
) -> None:
    write, expected = BAD[mistake]
    path = tmp_path / "cluster.toml"
    write(path)
    code, words = VERBS[verb]
    with pytest.raises(SystemExit) as end:
        main([*words, "--cluster", str(path)])
    said = capsys.readouterr()
    assert (end.value.code, said.out, said.err.count("\n")) == (code, "", 1)
    assert said.err.startswith(f"tierdeck: {path}")
    assert len(said.err) < 600
    assert "sk-live" not in said.err
    for part in expected:
        assert part in said.err


@pytest.mark.parametrize("mistake", ["bad TOML", "10 MB of garbage"])
async def test_a_wrong_inventory_is_no_traceback(tmp_path: Path, mistake: str) -> None:
    path = tmp_path / "cluster.toml"
    BAD[mistake][0](path)
    ran = await tierdeck("status", "--json", "--cluster", str(path))
    assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("status --bogus", 3),
        ("--bogus status", 3),
        ("--cluster x status --bogus", 3),
        ("--cluster=x status extra", 3),
        ("status --cluster", 3),
        ("--bogus", 2),
        ("stauts", 2),
        ("queue", 2),
        ("queue show", 2),
        ("queue show status --bogus", 2),
        ("queue run mark --dry", 2),
        ("--cluster status queue --bogus", 2),
        ("route status --bogus", 2),
        ("route x --task status", 2),
        ("procedures attach", 2),
        ("schema --bogus", 2),
        ("demo --bogus", 2),
    ],
)
def test_a_wrong_command_line(capsys: pytest.CaptureFixture[str], words: str, code: int) -> None:
    with pytest.raises(SystemExit) as end:
        main(words.split())
    said = capsys.readouterr()
    assert (end.value.code, said.out) == (code, "")
    assert said.err.startswith("tierdeck: ")
    assert "usage: tierdeck" in said.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
async def test_a_full_disk_is_no_traceback_and_no_verdict(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text('version = 1\nname = "x"\n')
    full = os.open("/dev/full", os.O_WRONLY)
    ran = await tierdeck("status", "--cluster", str(path), stdout=full)
    os.close(full)
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    assert "No space left on device" in ran.err


async def test_a_closed_pipe_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ran = await tierdeck("schema", stdout=writing)
    os.close(writing)
    assert (ran.code, ran.err) == (1, "")


async def test_a_state_directory_that_cannot_be_made(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text('version = 1\nname = "x"\n')
    ran = await tierdeck("status", "--cluster", str(path), env={"TIERDECK_STATE": str(path / "state")})
    assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1)
    assert str(path / "state") in ran.err
