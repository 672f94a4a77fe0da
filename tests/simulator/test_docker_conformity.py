"""The Docker double against the recorded answers of a real engine: status, headers, keys, types and messages.

The recorded engine is 20.10; the double speaks as 28 does, so it may leave keys out, and has the newer words of NEWER.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import aiohttp

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import Spec
from backends.simulator.engines.llamacpp import LlamaCpp
from tests.simulator.conftest import ready, until

RECORDED = Path(__file__).parent.parent / "fixtures" / "recorded" / "docker.jsonl"
NEWER = ("DELETE /containers/aa", "POST /containers/bb/kill", "GET /images/nope/json")
PUBLISHED = ("ExposedPorts", "8080/tcp")
"""The recorded bb publishes no port, as all containers of the double with a program do."""


def compare(ours: object, theirs: object, where: str) -> None:
    """Every key of ours is one of theirs, with a value of the same type or null."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in PUBLISHED or where.endswith((".Labels", ".Ports", ".Attributes")):
                continue
            assert key in theirs, f"{where}.{key} is no key of the real engine"
            compare(value, theirs[key], f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list):
        if ours and theirs:
            compare(ours[0], theirs[0], f"{where}[]")
    elif ours is not None and theirs is not None:
        assert type(ours) is type(theirs), f"{where}: {ours!r} for {theirs!r}"


def parsed(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line]


def plain(message: str) -> str:
    return re.sub(r"[0-9a-f]{64}|\d+\.\d+", "#", message)


async def test_the_same_questions_get_the_same_answers(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path, speed=200)
    sim.add_node("box", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)], ssh=False)
    spec = Spec(
        "aa", "tiny", gpu=True, restart="unless-stopped", volumes={"models-vol": "/models"}, healthcheck=True,
        environment={"A": "b"}, labels={"x": "y"},
    )  # fmt: skip
    engines = [LlamaCpp(sim.world, models=["m"]) for _ in range(2)]
    aa = sim.add_endpoint("a", engines[0], node="box", container=spec, gpu=0, state="stopped", load_s=0.1)
    bb = sim.add_endpoint("b", engines[1], node="box", container=Spec("bb", "tiny"), state="stopped", load_s=0.1)
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()][1:]
    async with sim, aiohttp.ClientSession(connector=aiohttp.UnixConnector(_socket(sim))) as session:
        for row in rows:
            method, path = row["request"].split(" ", 1)
            async with session.request(method, f"http://docker{path}", json=row["body"]) as answer:
                text = (await answer.read()).decode("latin-1")
            where = row["request"]
            assert answer.status == row["status"], where
            if "content-type" in row["headers"]:
                assert answer.headers["content-type"] == row["headers"]["content-type"], where
            if "ostype" in row["headers"] and answer.status < 400:
                assert answer.headers["ostype"] == "linux"
            if (
                "/logs" not in path
                and "/events" not in path
                and row["headers"].get("content-type", "").endswith("json")
            ):
                compare(json.loads(text), json.loads(row["answer"]), where)
                if answer.status >= 400 and where not in NEWER:
                    assert plain(json.loads(text)["message"]) == plain(json.loads(row["answer"])["message"]), where
            if "/events" in path:
                _check_events(parsed(text), parsed(row["answer"]))
            if where == "POST /containers/aa/start" and answer.status == 204:
                await ready(aa)
            if where == "POST /containers/bb/start":
                await ready(bb)
                assert bb.container is not None
                bb.container.crash(3)
                await until(lambda: bb.program.phase == "stopped")


def _socket(sim: SimulatedCluster) -> str:
    return str(sim.nodes["box"].docker_socket)


def _check_events(ours: list[Any], theirs: list[Any]) -> None:
    def story(events: list[Any]) -> list[str]:
        names = [e for e in events if e["Type"] == "container" and e["Actor"]["Attributes"]["name"] == "aa"]
        return [e["Action"] for e in names if e["Action"] != "create"]

    # How soon a restarted container is healthy again is a matter of time, not of shape.
    mine, real = ([a for a in story(events) if "health" not in a] for events in (ours, theirs))
    assert real == ["start", "update", "kill", "die", "stop"]  # the recording ends with its second, ours goes on
    assert mine[: len(real)] == real
    assert "health_status: healthy" in story(ours)
    for kind in ("container", "network"):
        one, other = (next(e for e in events if e["Type"] == kind) for events in (ours, theirs))
        compare(one, other, kind)
        assert set(one) == set(other)


def test_log_frames_are_those_of_the_real_engine() -> None:
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()][1:]
    frames = next(row["answer"] for row in rows if row["request"].endswith("stdout=1&stderr=1")).encode("latin-1")
    assert frames == b"\x02\0\0\0\0\0\0\x04two\n\x01\0\0\0\0\0\0\x04one\n"
