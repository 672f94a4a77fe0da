"""Leases on real parts: by OpenSSH's SFTP from two machines, and as a container of a real Docker."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from backends.cluster.inventory import Inventory
from backends.errors import ProcedureError, ReachError
from backends.procedures import leasing
from backends.reach.lease import Holder
from backends.reach.lease_container import NAME, ContainerPlace
from backends.reach.lease_files import FILE, FilePlace, LocalFiles, SftpFiles
from backends.reach.nodes import NodeReach
from backends.reach.reaches import Reaches
from backends.secrets import Secrets
from tests.lab.cache import require
from tests.lab.engine import TINY, DockerEngine
from tests.lab.servers import OpenSsh

ME = Holder("ops@desk:7", "desk", "20261121-100000-aaaa", "mark", "t1")
OTHER = Holder("eva@nas:8", "nas", "20261121-100000-bbbb", "mark", "t2")


@pytest.fixture
def sshd(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[OpenSsh]:
    """With SFTP, or without it."""
    require("sshd")
    with OpenSsh(tmp_path / "ssh", sftp=getattr(request, "param", "") != "no sftp") as server:
        yield server


def inventory(sshd: OpenSsh, engine: DockerEngine | None = None, **more: object) -> Inventory:
    login = {"user": sshd.user, "port": sshd.port, "key": str(sshd.key), "known_hosts": str(sshd.known_hosts)}
    docker = {"socket": str(engine.socket)} if engine else False
    mark = {"name": "mark", "address": "127.0.0.1", "ssh": login, "docker": docker}
    return Inventory.model_validate({"version": 1, "name": "lab", "nodes": [mark], **more})


@pytest.fixture
async def machines(sshd: OpenSsh) -> AsyncIterator[list[NodeReach]]:
    """The node as two machines reach it."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(Reaches(inventory(sshd), None, Secrets())) for _ in range(2)]
        yield [reaches["mark"] for reaches in found]


async def test_two_machines_and_who_stands_on_the_node_race_for_it(machines: list[NodeReach], sshd: OpenSsh) -> None:
    files = [SftpFiles(reach._remote()[0]) for reach in machines]
    places = [*(FilePlace(file, "mark") for file in files), FilePlace(LocalFiles(sshd.home), "mark")]
    for turn in range(10):
        holders = [replace(ME, token=f"{turn}-{i}") for i in range(12)]
        won = await asyncio.gather(*(places[i % 3].create(holder) for i, holder in enumerate(holders)))
        assert won.count(True) == 1
        token = holders[won.index(True)].token
        assert [await place.token() for place in places] == [token] * 3
        ended = await asyncio.gather(*(place.clear(token) for place in places))
        assert ended.count(True) == 1
    assert list((sshd.home / ".tierdeck").iterdir()) == []


async def test_ages_are_by_the_nodes_clock(machines: list[NodeReach], sshd: OpenSsh) -> None:
    ours, theirs = (FilePlace(SftpFiles(reach._remote()[0]), "mark") for reach in machines)
    assert await ours.create(ME)
    os.utime(sshd.home / FILE, (time.time() - 70, time.time() - 70))
    seen = await theirs.look()
    assert seen is not None
    assert seen.holder == ME
    assert 68 <= seen.silent <= 75
    assert seen.stale
    assert await ours.beat("t1")
    again = await theirs.look()
    assert again is not None
    assert again.silent <= 2
    assert (sshd.home / FILE).stat().st_mode & 0o777 == 0o600


async def test_a_line_that_dropped_is_found_anew(machines: list[NodeReach], sshd: OpenSsh) -> None:
    place = FilePlace(SftpFiles(machines[0]._remote()[0]), "mark")
    assert await place.create(ME)
    await asyncio.to_thread(sshd.close)
    with pytest.raises(ReachError):
        await place.token()
    await asyncio.to_thread(sshd.start)
    await asyncio.to_thread(sshd.ready)
    assert await place.token() == "t1"
    assert await place.beat("t1")


@pytest.mark.parametrize("sshd", ["no sftp"], indirect=True)
async def test_without_sftp_and_docker_it_is_said(machines: list[NodeReach]) -> None:
    places = [FilePlace(SftpFiles(machines[0]._remote()[0]), "mark")]
    with pytest.raises(ProcedureError, match=r"mark: its SSH server offers no SFTP.*Subsystem sftp internal-sftp"):
        async with leasing.leasing(places, [], ME, died=lambda _: False):
            pass


@pytest.mark.parametrize("sshd", ["no sftp"], indirect=True)
async def test_without_sftp_a_container_is_the_lease(sshd: OpenSsh, lab_docker: DockerEngine) -> None:
    lab_docker.image(TINY)
    inv = inventory(sshd, lab_docker)
    async with Reaches(inv, None, Secrets()) as ours, Reaches(inv, None, Secrets()) as theirs:
        async with leasing.leasing(leasing.places(ours, inv, "mark"), [], ME, died=lambda _: False) as lease:
            assert lease.place.where == "the container tierdeck-lock on mark"
            await lease.confirm()
            await lease.beat()
            with pytest.raises(ProcedureError, match="ops@desk:7 has held mark"):
                async with leasing.leasing(leasing.places(theirs, inv, "mark"), [], OTHER, died=lambda _: False):
                    pass
            state = lab_docker.docker("inspect", "--format", "{{.State.Status}}", NAME)
            assert state == "created"
        async with leasing.leasing(leasing.places(theirs, inv, "mark"), [], OTHER, died=lambda _: False):
            pass
    assert NAME not in lab_docker.docker("ps", "-a", "--format", "{{.Names}}").split()


async def test_a_container_of_racers_one_wins_its_age_is_dockers_and_a_stale_one_gives_way_once(
    lab_docker: DockerEngine,
) -> None:
    lab_docker.image(TINY)
    mark = {"name": "mark", "address": "127.0.0.1", "docker": {"socket": str(lab_docker.socket)}}
    inv = Inventory.model_validate({"version": 1, "name": "lab", "nodes": [mark]})
    async with Reaches(inv, "mark", Secrets()) as reaches:
        places = [ContainerPlace(reaches["mark"]) for _ in range(20)]
        holders = [replace(ME, token=f"t{i}") for i in range(20)]
        assert await places[0].look() is None
        won = await asyncio.gather(*(place.create(h) for place, h in zip(places, holders, strict=True)))
        assert won.count(True) == 1
        token = holders[won.index(True)].token
        await asyncio.sleep(2.1)
        seen = await places[0].look()
        assert seen is not None
        assert (seen.holder.owner, seen.holder.token) == (ME.owner, token)
        assert 1 <= seen.silent <= 5
        assert await places[1].beat(token)
        again = await places[0].look()
        assert again is not None
        assert again.silent <= 1.5
        assert again.held >= 1
        assert not await places[0].beat("another")
        assert not await places[0].clear("another")
        ended = await asyncio.gather(*(place.clear(token) for place in places[:4]))
        assert ended.count(True) >= 1
        assert await places[0].token() is None
