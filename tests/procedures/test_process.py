"""The runner in a process of its own, for real."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from backends.cluster.reading import ProcedureState
from backends.errors import ProcedureError
from backends.procedures.commands import Procedures
from backends.procedures.desk import LONGEST_SOCKET
from backends.procedures.journal import read_events
from backends.procedures.lock import holder
from backends.procedures.plan import Danger, Plan, Step
from tests.cli.driving import hears_signals

ROOT = Path(__file__).parents[2]
RUNNER = (sys.executable, "-m", "tests.procedures.toy_runner")
CLUSTER = 'version = 1\nname = "toys"\n\n[[nodes]]\nname = "mark"\naddress = "127.0.0.1"\n'
PATIENCE = 30.0


async def until(condition: Callable[[], Any], what: str = "") -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s for {what or condition}"
        await asyncio.sleep(0.01)
    return found


class Bench:
    """A state directory, an inventory, and a folder in which toy steps work."""

    def __init__(self, tmp_path: Path, state: Path | None = None) -> None:
        self.toys = tmp_path / "toys"
        self.toys.mkdir(exist_ok=True)
        self.cluster = tmp_path / "cluster.toml"
        self.cluster.write_text(CLUSTER)
        self.state = state or tmp_path / "state"
        self.procedures = Procedures(self.state, self.cluster, runner=RUNNER)

    def plan(self, *names: str, node: str = "mark") -> Plan:
        def step(name: str) -> Step:
            return Step("toy", f"do {name}", {"folder": str(self.toys), "name": name}, 60.0, Danger.CHANGES)

        return Plan("toy", node, "Toys of mark", tuple(step(name) for name in names), targets=names)

    def hold(self, spot: str) -> Path:
        path = self.toys / f"hold-{spot}"
        path.touch()
        return path

    async def reached(self, spot: str) -> None:
        await until((self.toys / f"at-{spot}").exists, f"the runner at {spot}")
        (self.toys / f"at-{spot}").unlink()

    def done(self, name: str) -> str:
        path = self.toys / f"done-{name}"
        return path.read_text() if path.exists() else ""

    def state_of(self, procedure: str) -> ProcedureState:
        return self.procedures.state(procedure)

    def socket(self, procedure: str) -> str:
        first = read_events(self.state / "procedures" / f"{procedure}.jsonl")[0]
        assert isinstance(first.detail, dict)
        return str(first.detail["socket"])

    def pid(self, procedure: str) -> int:
        return int(self.state_of(procedure).owner.rpartition(":")[2])

    def alive(self, pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    async def followed(self, procedure: str) -> list[dict[str, Any]]:
        async with asyncio.timeout(PATIENCE):
            return [event.to_json() async for event in self.procedures.attach(procedure)]

    def end_all(self) -> None:
        for path in self.toys.glob("hold-*"):
            path.unlink()
        for state in self.procedures.list():
            if state.open:
                os.kill(self.pid(state.id), signal.SIGKILL)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for sockets with a short name; pytest's own are too long."""
    with TemporaryDirectory(prefix="td") as name:
        yield Path(name)


@pytest.fixture
def bench(tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    made = Bench(tmp_path)
    try:
        yield made
    finally:
        made.end_all()


async def test_a_procedure_from_start_to_end(bench: Bench) -> None:
    procedure = await bench.procedures.start(bench.plan("a", "b"))
    events = await bench.followed(procedure)
    assert [event["event"] for event in events] == [
        "created",
        *("step_started", "output", "step_done") * 2,
        "finished",
    ]
    assert events[-1]["outcome"] == "done"
    assert set(events[1]) == {"at", "procedure", "event", "step", "detail"}
    assert all(event["procedure"] == procedure for event in events)
    assert events[0]["detail"]["owner"].endswith(f"@{socket.gethostname()}:{bench.pid(procedure)}")
    assert (bench.done("a"), bench.done("b")) == ("x", "x")
    pid = bench.pid(procedure)
    await until(lambda: not bench.alive(pid), "the runner to end")
    folder = bench.state / "procedures"
    assert [path.name for path in folder.iterdir()] == [f"{procedure}.jsonl"]
    assert (folder.stat().st_mode & 0o777, (folder / f"{procedure}.jsonl").stat().st_mode & 0o777) == (0o700, 0o600)
    assert holder(bench.state, "mark") is None
    assert [state.state for state in bench.procedures.list()] == ["done"]


async def test_it_belongs_to_nobody_and_holds_nothing_of_its_starter(bench: Bench, tmp_path: Path) -> None:
    held = bench.hold("apply-a")
    fd = os.open(tmp_path / "mine", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(fd, True)
    procedure = await bench.procedures.start(bench.plan("a"))
    await bench.reached("apply-a")
    pid = bench.pid(procedure)
    seen = psutil.Process(pid)
    assert seen.ppid() != os.getpid()
    assert os.getsid(pid) != os.getsid(0)
    fds = {int(name): os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    assert str(tmp_path / "mine") not in fds.values()
    assert fds[0] == fds[1] == "/dev/null"
    assert fds[2].endswith(f"{procedure}.log")
    assert "toys" not in " ".join(seen.cmdline())
    assert os.stat(bench.socket(procedure)).st_mode & 0o777 == 0o600
    os.close(fd)
    held.unlink()
    assert (await bench.followed(procedure))[-1]["outcome"] == "done"


SECRET = "s3cret-0815"


def secretive(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan that needs `env:TOY_SECRET`, which is set here and named in cluster.toml."""
    monkeypatch.setenv("TOY_SECRET", SECRET)
    monkeypatch.setenv("VAULT_TOKEN", SECRET)
    bench.cluster.write_text(f'{CLUSTER}sudo = "env:TOY_SECRET"\n')
    plan = bench.plan("a")
    return replace(plan, steps=(replace(plan.steps[0], kind="secret"),))


async def test_a_runner_has_our_secrets_where_nobody_sees_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held = bench.hold("verify-a")
    procedure = await bench.procedures.start(secretive(bench, monkeypatch))
    await bench.reached("verify-a")
    runner = Path(f"/proc/{bench.pid(procedure)}")
    environment = (runner / "environ").read_bytes()
    assert SECRET.encode() not in environment + (runner / "cmdline").read_bytes()
    assert {name.partition(b"=")[0] for name in environment.split(b"\0")} >= {b"PATH", b"PYTHONPATH"}
    held.unlink()
    events = await bench.followed(procedure)
    assert events[-2]["detail"]["text"] == f"{len(SECRET)} characters; set here: False"
    assert SECRET not in "".join(path.read_text() for path in (bench.state / "procedures").iterdir())


async def test_resumed_where_a_variable_is_not_set_it_says_which(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held = bench.hold("verify-a")
    procedure = await bench.procedures.start(secretive(bench, monkeypatch), attended=False)
    await bench.reached("verify-a")
    pid = bench.pid(procedure)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not bench.alive(pid), "the runner to die")
    held.unlink()
    monkeypatch.delenv("TOY_SECRET")
    await bench.procedures.resume(procedure, attended=False)
    events = await bench.followed(procedure)
    assert events[-1]["outcome"] == "halted"
    said = "env:TOY_SECRET is empty or not set. Set it before you start: export TOY_SECRET=..."
    assert [e["detail"]["text"] for e in events if e["event"] == "step_failed"] == [said]
    monkeypatch.setenv("TOY_SECRET", SECRET)
    await bench.procedures.resume(procedure, attended=False)
    assert (await bench.followed(procedure))[-1]["outcome"] == "done"


STARTER = """
import asyncio, json, sys
from pathlib import Path
from backends.procedures.commands import Procedures
from backends.procedures.plan import from_json
state, cluster, plan, *runner = sys.argv[1:]
async def go():
    procedures = Procedures(Path(state), Path(cluster), runner=runner)
    procedure = await procedures.start(from_json(json.loads(plan)))
    async for event in procedures.attach(procedure):
        print(event.event, flush=True)
asyncio.run(go())
"""


async def test_a_closed_terminal_detaches_and_the_procedure_goes_on(bench: Bench) -> None:
    from backends.procedures.plan import to_json

    held = bench.hold("apply-a")
    plan = json.dumps(to_json(bench.plan("a", "b")))
    master, slave = pty.openpty()
    starter = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"import os, fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{STARTER}",
        *(str(bench.state), str(bench.cluster), plan, *RUNNER),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=hears_signals,
    )
    os.close(slave)
    await bench.reached("apply-a")
    (state,) = bench.procedures.list()
    os.close(master)
    async with asyncio.timeout(PATIENCE):
        assert await starter.wait() != 0
    pid = bench.pid(state.id)
    os.kill(pid, signal.SIGHUP)
    assert bench.alive(pid)
    assert bench.state_of(state.id).state == "running"
    held.unlink()
    assert (await bench.followed(state.id))[-1]["outcome"] == "done"
    assert bench.done("b") == "x"


@pytest.mark.parametrize("spot", ["apply-a", "applied-a", "verify-a"])
async def test_killed_it_is_lost_and_resumed_it_finishes(bench: Bench, spot: str) -> None:
    held = bench.hold(spot)
    procedure = await bench.procedures.start(bench.plan("a", "b"))
    await bench.reached(spot)
    pid = bench.pid(procedure)
    follower = asyncio.create_task(bench.followed(procedure))
    os.kill(pid, signal.SIGKILL)
    events = await follower
    assert events[-1]["event"] == "lost"
    await until(lambda: bench.state_of(procedure).state == "lost", "the runner to die")
    assert [state.state for state in bench.procedures.list()] == ["lost"]
    assert holder(bench.state, "mark") is None
    with pytest.raises(ProcedureError, match="does not run any more"):
        await bench.procedures.cancel(procedure)
    held.unlink()
    await bench.procedures.resume(procedure)
    events = await bench.followed(procedure)
    assert events[-1]["outcome"] == "done"
    assert sum(event["event"] == "resumed" for event in events) == 1
    assert (bench.done("a"), bench.done("b")) == ("x", "x")
    with pytest.raises(ProcedureError, match="nothing to resume"):
        await bench.procedures.resume(procedure)


async def test_cancelled_over_the_socket(bench: Bench) -> None:
    held = bench.hold("apply-a")
    procedure = await bench.procedures.start(bench.plan("a", "b"))
    await bench.reached("apply-a")
    assert await bench.procedures.cancel(procedure) == "edge"
    held.unlink()
    events = await bench.followed(procedure)
    assert (events[-1]["event"], events[-1]["outcome"]) == ("finished", "cancelled")
    assert (bench.done("a"), bench.done("b")) == ("x", "")
    held = bench.hold("apply-b")
    await bench.procedures.resume(procedure)
    await bench.reached("apply-b")
    with pytest.raises(ProcedureError, match=r"still runs|has held mark"):
        await bench.procedures.resume(procedure)
    await bench.procedures.cancel(procedure)
    assert await bench.procedures.cancel(procedure) == "now"
    assert (await bench.followed(procedure))[-1]["outcome"] == "cancelled"
    assert bench.done("b") == ""


async def test_paused_over_the_socket_though_nobody_attends(bench: Bench) -> None:
    held = bench.hold("apply-a")
    procedure = await bench.procedures.start(bench.plan("a", "b"), attended=False)
    await bench.reached("apply-a")
    await bench.procedures.pause(procedure)
    held.unlink()
    await until(lambda: bench.state_of(procedure).state == "asking", "the pause")
    assert (bench.done("a"), bench.done("b")) == ("x", "")
    await bench.procedures.answer(procedure, "continue")
    assert (await bench.followed(procedure))[-1]["outcome"] == "done"
    assert bench.done("b") == "x"


async def test_a_polite_kill_stops_at_the_edge(bench: Bench) -> None:
    held = bench.hold("apply-a")
    procedure = await bench.procedures.start(bench.plan("a", "b"))
    await bench.reached("apply-a")
    os.kill(bench.pid(procedure), signal.SIGTERM)
    held.unlink()
    assert (await bench.followed(procedure))[-1]["outcome"] == "cancelled"
    assert (bench.done("a"), bench.done("b")) == ("x", "")


async def test_questions_are_answered_over_the_socket(bench: Bench) -> None:
    fails = bench.toys / "fail-apply-a"
    fails.touch()
    procedure = await bench.procedures.start(bench.plan("a"))
    state = await until(lambda: (s := bench.state_of(procedure)).state == "asking" and s, "a question")
    assert "apply-a failed. Try again. retry, skip, hold, abort?" in state.question
    assert state.open
    with pytest.raises(ProcedureError, match="The answers are: retry, skip, hold, abort"):
        await bench.procedures.answer(procedure, "perhaps")
    fails.unlink()
    await bench.procedures.answer(procedure, "retry")
    events = await bench.followed(procedure)
    assert events[-1]["outcome"] == "done"
    assert [e["detail"]["text"] for e in events if e["event"] == "answer"] == ["retry"]


async def test_nothing_asked_nothing_answered(bench: Bench) -> None:
    held = bench.hold("apply-a")
    procedure = await bench.procedures.start(bench.plan("a"))
    await bench.reached("apply-a")
    with pytest.raises(ProcedureError, match="asks nothing now"):
        await bench.procedures.answer(procedure, "retry")
    path = bench.socket(procedure)
    for rubbish in (b"", b"x\n", b"[]\n", b'{"command":"dance"}\n', b"x" * 100_000 + b"\n"):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(rubbish)
        writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
        writer.close()
        assert answer == b"" or b"error" in answer
    held.unlink()
    assert (await bench.followed(procedure))[-1]["outcome"] == "done"


async def test_unattended_a_failure_halts_and_it_can_be_resumed_or_abandoned(bench: Bench) -> None:
    fails = bench.toys / "fail-apply-a"
    fails.touch()
    procedure = await bench.procedures.start(bench.plan("a"), attended=False)
    assert (await bench.followed(procedure))[-1]["outcome"] == "halted"
    other = await bench.procedures.start(bench.plan("a"), attended=False)
    assert (await bench.followed(other))[-1]["outcome"] == "halted"
    bench.procedures.abandon(other)
    assert bench.state_of(other).state == "cancelled"
    fails.unlink()
    await bench.procedures.resume(procedure)
    assert (await bench.followed(procedure))[-1]["outcome"] == "done"
    with pytest.raises(ProcedureError, match="nothing to abandon"):
        bench.procedures.abandon(procedure)


async def test_one_per_node_and_the_other_is_named(bench: Bench) -> None:
    held = bench.hold("apply-a")
    first = await bench.procedures.start(bench.plan("a"))
    await bench.reached("apply-a")
    with pytest.raises(ProcedureError, match=rf"has held mark for \d+ s with procedure {first}"):
        await bench.procedures.start(bench.plan("b"))
    with pytest.raises(ProcedureError, match="still runs"):
        bench.procedures.abandon(first)
    second = await bench.procedures.start(bench.plan("c", node="desk"))
    assert (await bench.followed(second))[-1]["outcome"] == "done"
    held.unlink()
    assert (await bench.followed(first))[-1]["outcome"] == "done"
    third = await bench.procedures.start(bench.plan("b"))
    assert (await bench.followed(third))[-1]["outcome"] == "done"


async def test_a_plan_takes_every_node_that_it_changes(bench: Bench) -> None:
    held = bench.hold("apply-a")
    first = await bench.procedures.start(replace(bench.plan("a"), beside=("desk",)))
    await bench.reached("apply-a")
    with pytest.raises(ProcedureError, match=rf"has held desk for \d+ s with procedure {first}"):
        await bench.procedures.start(bench.plan("b", node="desk"))
    held.unlink()
    assert (await bench.followed(first))[-1]["outcome"] == "done"
    second = await bench.procedures.start(bench.plan("b", node="desk"))
    assert (await bench.followed(second))[-1]["outcome"] == "done"


async def test_two_at_the_same_moment_one_wins(bench: Bench) -> None:
    held = bench.hold("apply-a")
    results = await asyncio.gather(*(bench.procedures.start(bench.plan("a")) for _ in range(4)), return_exceptions=True)
    held.unlink()
    won = [result for result in results if isinstance(result, str)]
    assert len(won) == 1
    assert all("has held mark" in str(r) or "another process" in str(r) for r in results if not isinstance(r, str))
    assert len(bench.procedures.list()) == 1
    await bench.followed(won[0])


async def test_a_crash_is_written_and_its_trace_kept(bench: Bench) -> None:
    (bench.toys / "crash-verify-a").touch()
    procedure = await bench.procedures.start(bench.plan("a"))
    events = await bench.followed(procedure)
    assert events[-1]["outcome"] == "failed"
    assert events[-1]["detail"]["text"] == "ZeroDivisionError: verify-a"
    log = bench.state / "procedures" / f"{procedure}.log"
    await until(lambda: "Traceback" in log.read_text(), "the trace")
    assert log.stat().st_mode & 0o777 == 0o600


async def test_an_inventory_that_got_broken_is_said_at_once_and_leaves_nothing(bench: Bench) -> None:
    bench.cluster.write_text("version = [")
    with pytest.raises(ProcedureError, match=r"cluster\.toml, line 1"):
        await bench.procedures.start(bench.plan("a"))
    assert bench.procedures.list() == ()
    assert list((bench.state / "procedures").iterdir()) == []


async def test_a_step_of_another_version(bench: Bench) -> None:
    procedure = await bench.procedures.start(Plan("toy", "mark", "t", (Step("teleport", "x"),)))
    events = await bench.followed(procedure)
    assert events[-1]["outcome"] == "failed"
    assert "teleport" in events[-1]["detail"]["text"]


@pytest.mark.parametrize(
    ("runner", "words"),
    [
        (("/nowhere/python",), "cannot be started: No such file"),
        ((sys.executable, "-c", "raise SystemExit('broken')"), "ended before it began"),
    ],
)
async def test_a_runner_that_does_not_begin(bench: Bench, runner: tuple[str, ...], words: str) -> None:
    procedures = Procedures(bench.state, bench.cluster, runner=runner)
    with pytest.raises(ProcedureError, match=words):
        await procedures.start(bench.plan("a"))
    assert procedures.list() == ()


async def test_the_socket_lies_beside_the_journal_or_where_its_path_is_short_enough(
    bench: Bench, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = Bench(short)
    procedure = await beside.procedures.start(beside.plan("a"))
    assert beside.socket(procedure) == str(short / "state" / "procedures" / f"{procedure}.sock")
    assert (await beside.followed(procedure))[-1]["outcome"] == "done"
    far = Bench(bench.toys.parent, bench.toys.parent / ("deep" * 20) / "state")
    held = far.hold("apply-a")
    procedure = await far.procedures.start(far.plan("a", "b"))
    await far.reached("apply-a")
    socket_ = Path(far.socket(procedure))
    assert len(os.fsencode(socket_)) <= LONGEST_SOCKET
    assert socket_.parent.parent == short
    assert socket_.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert await far.procedures.cancel(procedure) == "edge"
    held.unlink()
    assert (await far.followed(procedure))[-1]["outcome"] == "cancelled"
    await until(lambda: not socket_.exists(), "the socket to go")


async def test_a_socket_folder_of_somebody_else_is_not_used(bench: Bench, short: Path) -> None:
    (short / f"tierdeck-{os.getuid()}").mkdir(mode=0o777)
    (short / f"tierdeck-{os.getuid()}").chmod(0o777)
    far = Bench(bench.toys.parent, bench.toys.parent / ("deep" * 20) / "state")
    with pytest.raises(ProcedureError, match="not a folder of ours alone"):
        await far.procedures.start(far.plan("a"))
    assert far.done("a") == ""


async def test_found_by_a_part_of_its_name(bench: Bench) -> None:
    procedure = await bench.procedures.start(bench.plan("a"))
    assert bench.procedures.find(procedure) == procedure
    assert bench.procedures.find(procedure[-4:]) == procedure
    assert bench.procedures.find(procedure[:4]) == procedure
    for word in ("", "zzz"):
        with pytest.raises(ProcedureError, match="procedure"):
            bench.procedures.find(word)
    await bench.followed(procedure)


async def test_what_does_not_exist(bench: Bench) -> None:
    with pytest.raises(ProcedureError, match="no procedure"):
        await bench.procedures.cancel("nope")
    with pytest.raises(ProcedureError, match="no procedure"):
        await bench.procedures.resume("nope")
    with pytest.raises(ProcedureError, match="no procedure"):
        bench.procedures.abandon("nope")
    with pytest.raises(ProcedureError, match="no procedure"):
        await bench.followed("nope")
