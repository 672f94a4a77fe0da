"""The console on the simulated cluster while one fault after the other is caused and healed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from backends.cluster.files import load
from backends.cluster.words import Verdict
from backends.simulator.catalogue import Fault
from backends.simulator.demo import demo
from tests.tui.driving import console, shown, until
from tui.feed import Feed

MARK = frozenset(f"remote/mark-{number}" for number in ("i", "ii", "iii", "iv", "v"))


@dataclass(frozen=True)
class Row:
    """A fault by the simulator's name; what the console says of it; who is not UP meanwhile, and nobody else."""

    fault: str
    says: tuple[str, ...]
    ill: frozenset[str] = frozenset()


TABLE = (
    Row("crash-mark-iii", ("mark-iii DOWN", "refused"), frozenset({"remote/mark-iii"})),
    Row("hang-mark-i", ("mark-i   DOWN", "no answer"), frozenset({"remote/mark-i"})),
    Row("wedge-mark-iv", ("mark-iv  DOWN", "stands still"), frozenset({"remote/mark-iv"})),
    Row("oom-mark-ii", ("mark-ii  DOWN", "vision: nobody"), frozenset({"remote/mark-ii"})),
    Row("deadlock-mark", ("mark-v   DEGRADED", "Loading model", "vision: nobody"), MARK),
    Row("docker-mark", ("REMOTE is DOWN", "connect refused by", "vision: nobody"), MARK),
    Row("ssh-mark", ("refuses SSH", "start sshd")),
    Row("ssh-key-mark", ("host key", "CHANGED")),
    Row("power-mark", ("REMOTE is DOWN", "vision: nobody"), MARK),
    Row("cpu-desk", ("ON_CPU", "nothing of it on the GPU")),
    Row("gpu-desk", ("A GPU fell off",)),
    Row("nvml-mark", ("driver was updated",)),
    Row("slow-nas", ("NAS is DEGRADED", "answered only after 2."), frozenset({"nas/coder"})),
    Row("power-nas", ("NAS is DOWN", "code, vision, fast served by REMOTE"), frozenset({"nas/coder"})),
    Row("limit-gateway", ("GATEWAY is DOWN", "too many requests"), frozenset({"gateway/litellm"})),
)
"""The rest of the catalogue is proved elsewhere: a Docker that hangs is told after its time limit of 15 s
(tests/reach), cooling models by the gateway's own tests (tests/contract/test_litellm.py)."""

ELSEWHERE = {"docker-hangs-mark", "cooling-gateway"}


def test_the_table_is_whole(tmp_path: Path) -> None:
    assert {row.fault for row in TABLE} | ELSEWHERE == {fault.id for fault in demo(tmp_path).faults}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.fault)
async def test_a_fault_is_said_and_nothing_is_lost(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sim = demo(tmp_path / "sim", speed=50.0)
    sim.extra["defaults"] = {"interval": "200ms", "timeout": "5s", "down_after": 2, "up_after": 1}
    async with sim:
        for name, value in sim.secrets.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "state").mkdir()
        loaded = load(sim.inventory_path)
        async with console(tmp_path / "state", size=(200, 60), feed=Feed, loaded=loaded) as (app, pilot):
            heard: list[str] = []
            write = app.log_event

            def hear(text: str, style: str = "", *, wall: float | None = None) -> None:
                heard.append(text)
                write(text, style, wall=wall)

            monkeypatch.setattr(app, "log_event", hear)

            def serving() -> set[str]:
                return {name for name, end in app.feed.snapshot.endpoints.items() if end.verdict is Verdict.UP}

            def looked_at() -> bool:
                nodes = app.feed.snapshot.nodes
                return bool(nodes["mark"].gpus and nodes["desk"].gpus and nodes["nas"].workloads)

            everybody = set(app.feed.snapshot.endpoints)
            await until(lambda: serving() == everybody and looked_at(), "all is well", limit=60)
            fault = _named(sim.faults, row.fault)
            await sim.inflict(fault)
            await until(
                lambda: all(words in "\n".join([_words(shown(app)), *heard]) for words in row.says),
                f"said {row.says}",
                limit=60,
            )
            await until(lambda: serving() == everybody - row.ill, f"only {set(row.ill)} do not serve", limit=60)
            await sim.heal(fault)
            await pilot.press("U")
            await until(lambda: serving() == everybody, "all serve again", limit=90)
            assert app.is_running
            assert not [words for words in heard if "internal error" in words]


def _named(faults: list[Fault], name: str) -> Fault:
    return next(fault for fault in faults if fault.id == name)


def _words(screen: str) -> str:
    return "\n".join(line.rstrip(" │") for line in screen.splitlines())
