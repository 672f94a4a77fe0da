"""Leases on a node: as files here and by SFTP on a simulated node, and who gets them."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from backends.cluster.files import load
from backends.errors import ProcedureError, ReachError, SshError
from backends.procedures import journal as journals
from backends.procedures import leasing
from backends.procedures.leasing import Lease, has_died, holder_for
from backends.reach.lease import Holder, NoPlace, Place, Seen
from backends.reach.lease_files import FILE, FilePlace, LocalFiles, SftpFiles, home_of
from backends.reach.reaches import Reaches
from backends.secrets import Secrets
from backends.simulator.cluster import SimulatedCluster
from tests.procedures.test_process import until

ME = Holder("ops@desk:7", "desk", "20261121-100000-aaaa", "mark", "t1")
OTHER = Holder("eva@nas:8", "nas", "20261121-100000-bbbb", "mark", "t2")


@dataclass
class Kept:
    """A node's home, and as many places in it as consoles look there."""

    home: Path
    place: Callable[[], FilePlace]

    @property
    def file(self) -> Path:
        return self.home / FILE

    def age(self, seconds: float) -> None:
        """Its owner gave its last sign of life so long ago."""
        then = time.time() - seconds
        os.utime(self.file, (then, then))


@pytest.fixture(params=["local", "sftp"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    if request.param == "local":
        yield Kept(tmp_path, lambda: FilePlace(LocalFiles(tmp_path), "mark"))
        return
    async with AsyncExitStack() as stack:
        sim = SimulatedCluster(tmp_path / "sim")
        node = sim.add_node("mark")
        await stack.enter_async_context(sim)
        inventory = load(sim.inventory_path).inventory
        reaches = await stack.enter_async_context(Reaches(inventory, None, Secrets()))
        files = SftpFiles(reaches["mark"]._remote()[0])
        yield Kept(node.folder, lambda: FilePlace(files, "mark"))


async def test_one_has_it_and_the_other_sees_who(kept: Kept) -> None:
    place, other = kept.place(), kept.place()
    assert await place.look() is None
    assert await place.token() is None
    assert await place.create(ME)
    assert not await other.create(OTHER)
    seen = await other.look()
    assert seen is not None
    assert seen.holder == ME
    assert seen.held < 5
    assert not seen.stale
    assert kept.file.stat().st_mode & 0o777 == 0o600
    assert kept.file.parent.stat().st_mode & 0o777 == 0o700
    assert not await other.clear("t2")
    assert await place.clear("t1")
    assert not await place.clear("t1")
    assert await other.create(OTHER)
    assert await place.token() == "t2"
    assert os.listdir(kept.file.parent) == ["lock.json"]


async def test_a_beat_is_of_the_nodes_clock_and_changes_nothing(kept: Kept) -> None:
    place = kept.place()
    await place.create(ME)
    kept.age(90)
    before = kept.file.read_bytes()
    seen = await place.look()
    assert seen is not None
    assert seen.stale
    assert 85 < seen.silent < 100
    assert seen.held < 5
    assert await place.beat("t1")
    assert kept.file.read_bytes() == before
    again = await place.look()
    assert again is not None
    assert again.silent < 5
    assert not await place.beat("t2")
    await place.clear("t1")
    assert not await place.beat("t1")
    assert not kept.file.exists()


async def test_of_twenty_racers_one_wins(kept: Kept) -> None:
    racers = [replace(ME, token=f"t{i}") for i in range(20)]
    won = await asyncio.gather(*(kept.place().create(racer) for racer in racers))
    assert won.count(True) == 1
    assert await kept.place().token() == racers[won.index(True)].token


async def test_of_many_who_end_the_same_stale_lease_one_does_and_a_fresh_one_survives(kept: Kept) -> None:
    await kept.place().create(ME)
    ended = await asyncio.gather(*(kept.place().clear("t1") for _ in range(5)))
    assert ended.count(True) == 1
    assert await kept.place().create(OTHER)
    assert not any(await asyncio.gather(*(kept.place().clear("t1") for _ in range(5))))
    assert await kept.place().token() == "t2"


async def test_a_lease_that_was_taken_between_look_and_end_is_put_back(kept: Kept) -> None:
    place = kept.place()
    await place.create(ME)

    class Late(FilePlace):
        async def token(self) -> str | None:
            found = await super().token()
            if found == "t1":
                await kept.place().clear("t1")
                await kept.place().create(OTHER)
            return found

    assert not await Late(place._files, "mark").clear("t1")
    assert await place.token() == "t2"
    assert os.listdir(kept.file.parent) == ["lock.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"owner": 3, "since": "x"}', b"\xff\xfe"])
async def test_one_that_cannot_be_read_is_somebodys_and_can_be_ended(kept: Kept, content: bytes) -> None:
    kept.file.parent.mkdir()
    kept.file.write_bytes(content)
    kept.age(100)
    place = kept.place()
    assert not await place.create(ME)
    seen = await place.look()
    assert seen is not None
    assert (seen.holder.owner, seen.holder.token, seen.stale) == ("somebody", "", True)
    assert await place.clear("")
    assert await place.create(ME)


async def test_words_of_strangers_are_made_safe(kept: Kept) -> None:
    kept.file.parent.mkdir()
    kept.file.write_text(json.dumps({"owner": "eva\x1b[31m@nas", "procedure": "p\n1", "token": "t"}))
    seen = await kept.place().look()
    assert seen is not None
    assert "\x1b" not in seen.holder.owner
    assert seen.holder.procedure == "p 1"


async def test_a_home_that_cannot_be_written_is_no_place(tmp_path: Path) -> None:
    (tmp_path / ".tierdeck").write_text("a file where the folder should be")
    place = FilePlace(LocalFiles(tmp_path), "mark")
    with pytest.raises(ReachError, match=r"lock\.json on mark cannot be used"):
        await place.create(ME)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoPlace, match="cannot be written"):
        await FilePlace(LocalFiles(tmp_path / "gone"), "mark").create(ME)


def test_the_home_is_that_of_who_comes_by_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from backends.cluster.tables import Node

    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_of(Node(name="mark", address="h")) == tmp_path
    assert home_of(Node.model_validate({"name": "mark", "address": "h", "ssh": {"user": "nobody-here"}})) == tmp_path


# -- holding one -------------------------------------------------------------------------------------------------------


def alive(holder: Holder) -> bool:
    return False


def leasing_of(
    kept: Kept, holder: Holder, *, died: Callable[[Holder], bool] = alive, take_over: bool = False
) -> AbstractAsyncContextManager[Lease]:
    return leasing.leasing([kept.place()], [], holder, died=died, take_over=take_over)


async def test_held_renewed_and_given_back(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "HEARTBEAT", 0.05)
    async with leasing_of(kept, ME) as lease:
        kept.age(100)
        await until(lambda: time.time() - kept.file.stat().st_mtime < 50, "a sign of life")
        await lease.confirm()
        with pytest.raises(ProcedureError, match=r"ops@desk:7 has held mark for \d s with procedure .*-aaaa; one proc"):
            async with leasing_of(kept, OTHER):
                pass
        assert lease.place.where == "~/.tierdeck/lock.json on mark"
    assert not kept.file.exists()
    with pytest.raises(ZeroDivisionError):
        async with leasing_of(kept, OTHER):
            raise ZeroDivisionError
    assert not kept.file.exists()


async def test_one_that_is_not_renewed_is_taken_over_only_if_a_person_says_so(kept: Kept) -> None:
    await kept.place().create(OTHER)
    with pytest.raises(ProcedureError, match=r"Follow it on nas: tierdeck procedures attach .*-bbbb"):
        async with leasing_of(kept, ME, take_over=True):
            pass
    kept.age(75)
    with pytest.raises(ProcedureError, match=r"last sign of life 7\d s ago.*no longer renews it.*--take-over"):
        async with leasing_of(kept, ME):
            pass
    async with leasing_of(kept, ME, take_over=True) as lease:
        await lease.confirm()
        assert await kept.place().token() == "t1"


async def test_one_whose_runner_has_died_here_gives_way_at_once(kept: Kept) -> None:
    await kept.place().create(OTHER)
    async with leasing_of(kept, ME, died=lambda holder: holder == OTHER):
        assert await kept.place().token() == "t1"


async def test_one_that_was_taken_over_is_no_longer_ours(kept: Kept) -> None:
    async with leasing_of(kept, ME) as lease:
        await kept.place().clear("t1")
        await kept.place().create(OTHER)
        with pytest.raises(ProcedureError, match=r"eva@nas:8 took mark over \d s ago; nothing more is done here"):
            await lease.confirm()
    assert await kept.place().token() == "t2"


async def test_one_that_was_removed_by_hand_is_taken_anew(kept: Kept) -> None:
    async with leasing_of(kept, ME) as lease:
        kept.file.unlink()
        await lease.confirm()
        assert await kept.place().token() == "t1"


@dataclass
class Fake:
    """A place that fails, or that somebody else has."""

    error: ReachError | None = None
    seen: Seen | None = None
    held: str | None = None
    where: str = "somewhere"

    async def look(self) -> Seen | None:
        if self.error:
            raise self.error
        return self.seen

    async def create(self, holder: Holder) -> bool:
        if self.error:
            raise self.error
        if self.held is None and self.seen is None:
            self.held = holder.token
        return self.held == holder.token

    async def token(self) -> str | None:
        return self.held

    async def beat(self, token: str) -> bool:
        return self.held == token

    async def clear(self, token: str) -> bool:
        self.held, self.seen = None, None
        return True


async def take(*where: Place, elsewhere: tuple[Place, ...] = (), take_over: bool = False) -> str:
    async with leasing.leasing(where, elsewhere, ME, died=alive, take_over=take_over) as lease:
        return str([*where, *elsewhere].index(lease.place))


async def test_the_next_place_serves_where_the_first_cannot() -> None:
    no = Fake(NoPlace("no SFTP."))
    assert await take(Fake(), Fake()) == "0"
    assert await take(no, Fake()) == "1"
    with pytest.raises(ProcedureError, match="no SFTP"):
        await take(no, no)
    with pytest.raises(ProcedureError, match="no ssh"):
        await take()


async def test_who_could_only_use_the_second_place_is_seen_too() -> None:
    first, second = Fake(), Fake(seen=Seen(OTHER, 5.0, 2.0))
    with pytest.raises(ProcedureError, match="eva@nas:8 has held mark"):
        await take(first, second)
    assert first.held is None
    assert await take(Fake(), Fake(ReachError("Docker is down."))) == "0"
    assert await take(Fake(), Fake(seen=Seen(OTHER, 500.0, 200.0)), take_over=True) == "0"


async def test_while_a_node_is_out_of_reach_its_lease_is_kept_elsewhere() -> None:
    down = Fake(SshError("mark does not answer."))
    assert await take(down, elsewhere=(Fake(),)) == "1"
    with pytest.raises(SshError, match="does not answer"):
        await take(down)


async def test_once_the_node_is_back_its_lease_is_taken_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "AGAIN", 0.01)
    monkeypatch.setattr(leasing, "HEARTBEAT", 0.02)
    own, away = Fake(SshError("mark does not answer.")), Fake()
    async with leasing.leasing((own,), (away,), ME, died=alive) as lease:
        await lease.confirm()
        assert (own.held, away.held) == (None, ME.token)
        own.error = None
        await until(lambda: own.held == ME.token, "the lease on the node")
        await lease.confirm()
        own.held = OTHER.token
        own.seen = Seen(OTHER, 3.0, 1.0)
        with pytest.raises(ProcedureError, match="eva@nas:8 took mark over"):
            await lease.confirm()
        own.held, own.seen = ME.token, None
    assert (own.held, away.held) == (None, None)


async def test_who_was_quicker_on_the_node_itself_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "AGAIN", 0.01)
    own, away = Fake(SshError("mark does not answer.")), Fake()
    async with leasing.leasing((own,), (away,), ME, died=alive) as lease:
        own.error, own.seen, own.held = None, Seen(OTHER, 3.0, 1.0), OTHER.token
        assert isinstance(lease, leasing.AwayLease)
        await until(lambda: lease.refusal is not None, "the refusal")
        with pytest.raises(ProcedureError, match="eva@nas:8 has held mark for 3 s"):
            await lease.confirm()
    assert (own.held, away.held) == (OTHER.token, None)


def test_the_kernel_of_this_machine_tells_whether_a_runner_has_died(tmp_path: Path) -> None:
    mine = holder_for("mark", "ops@here:1", "20261121-100000-cccc")
    assert not has_died(tmp_path, mine, ours="p")  # no journal of it here
    with journals.create(tmp_path, mine.procedure) as journal:
        assert not has_died(tmp_path, mine, ours="p")
        assert has_died(tmp_path, mine, ours=mine.procedure)
        os.write(journal._fd, b"x")
    assert has_died(tmp_path, mine, ours="p")
    assert not has_died(tmp_path, replace(mine, host="elsewhere"), ours=mine.procedure)
    assert not has_died(tmp_path, replace(mine, procedure="../../etc"), ours="p")
    assert mine.token != holder_for("mark", "ops@here:1", mine.procedure).token
