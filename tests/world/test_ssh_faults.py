"""SSH that fails in every way: the node says so and what to do, what is reached directly goes on, healing is seen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from backends import sources, world
from backends.cluster.files import load
from backends.cluster.reading import Trouble
from backends.cluster.snapshot import NodeState
from backends.cluster.words import Cause, Verdict
from backends.errors import SshError
from backends.reach import docker, nodes, ssh
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.httpfaults import HttpFault
from backends.simulator.ssh_server import SimSsh
from tests.world.watching import Watch, measuring, watching

INTERVAL = 0.05
HASTE = 10.0
"""By how much all limits on the way to a node are shortened, in proportion: what is told depends on who gives up first.
"""
CONNECT = ssh.CONNECT_LIMIT / HASTE


@pytest.fixture
async def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedCluster]:
    """One node with a GPU and two containers: one asked directly, one through SSH."""
    monkeypatch.setattr(ssh, "SshLink", partial(ssh.SshLink, connect_limit=CONNECT, keepalive=10.0 / HASTE))
    monkeypatch.setattr(nodes, "DockerRuntime", partial(docker.DockerRuntime, limit=docker.LIMIT / HASTE))
    monkeypatch.setattr(world, "LOOK_LIMIT", world.LOOK_LIMIT / HASTE)
    monkeypatch.setattr(sources, "MACHINE_BACKOFF", sources.MACHINE_BACKOFF / HASTE)
    monkeypatch.setattr(sources.GpuStream, "pause", sources.GPU_PAUSE / HASTE)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    sim = SimulatedCluster(tmp_path / "sim", speed=100.0)
    sim.extra = {"defaults": {"interval": f"{INTERVAL}s", "timeout": "1s", "down_after": 1, "up_after": 1}}
    sim.add_node("mark", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)])
    engines = [LlamaCpp(sim.world, models=["m"]) for _ in range(2)]
    sim.add_endpoint("direct", engines[0], node="mark", container="direct", gpu=0, vram_mib=4000)
    sim.add_endpoint(
        "tunnelled", engines[1], node="mark", container="tunnelled", gpu=0, vram_mib=4000, via="ssh", interval="400ms"
    )
    async with sim:
        yield sim


def server_of(sim: SimulatedCluster) -> SimSsh:
    server = sim.nodes["mark"].ssh
    assert server is not None
    return server


async def refuse(sim: SimulatedCluster) -> None:
    await server_of(sim).refuse()
    await server_of(sim).drop()


async def hang(sim: SimulatedCluster) -> None:
    await server_of(sim).hang()
    await server_of(sim).drop()


async def swallow(sim: SimulatedCluster) -> None:
    await server_of(sim).swallow()
    await server_of(sim).drop()


async def forget_the_key(sim: SimulatedCluster) -> None:
    (sim.directory / "known_hosts").write_text("")
    await server_of(sim).drop()


async def change_the_key(sim: SimulatedCluster) -> None:
    await server_of(sim).change_host_key()


async def deny(sim: SimulatedCluster) -> None:
    server_of(sim).denying = True
    await server_of(sim).drop()


@dataclass(frozen=True)
class Broken:
    """How SSH is broken, and what the node must say; {at}, {port}, {limit}, {known_hosts} are filled in."""

    name: str
    act: Callable[[SimulatedCluster], Awaitable[None]]
    message: str
    advice: str
    tunnelled: frozenset[Cause] = field(default=frozenset({Cause.UNREACHABLE}))


KEYSCAN = "ssh-keyscan -p {port} 127.0.0.1 >> {known_hosts}"
WAYS = (
    Broken("refused", refuse, "mark: {at} refuses SSH.", "no SSH server listens at that port: start sshd"),
    Broken("hangs before its banner", hang,
           "mark: {at} takes connections, but its SSH server said nothing useful for {limit} s",
           "overloaded or half dead", frozenset({Cause.UNREACHABLE, Cause.TIMEOUT})),
    Broken("without power", swallow, "mark: {at} did not answer within {limit} s", "Is the machine on",
           frozenset({Cause.UNREACHABLE, Cause.TIMEOUT})),
    Broken("unknown host key", forget_the_key, "the host key of {at} is unknown (ssh-ed25519 SHA256:", KEYSCAN),
    Broken("changed host key", change_the_key, "the host key of {at} has CHANGED (ssh-ed25519 SHA256:",
           "Only if you know why: ssh-keygen -R '[127.0.0.1]:{port}' -f {known_hosts}"),
    Broken("denied", deny, "mark: {at} denies ops (tried: ", "ssh-copy-id -p {port} ops@127.0.0.1"),
)  # fmt: skip


def is_well(node: NodeState) -> bool:
    return node.reach_trouble is None and node.gpus_trouble is None and node.workloads_trouble is None


async def healthy(watch: Watch) -> None:
    """Wait until all of it was read and is well."""

    def well() -> bool:
        node, ends = watch.node("mark"), watch.snapshot.endpoints.values()
        known = len(node.workloads) == 2 and len(node.gpus) == 1
        return known and is_well(node) and all(e.cause is Cause.OK for e in ends)

    await watch.until(well, "all is well")


def says(trouble: Trouble | None, way: Broken, sim: SimulatedCluster) -> None:
    """The trouble is told in the words that belong to it."""
    port = server_of(sim).port
    known_hosts = sim.directory / "known_hosts"
    words = {"at": f"127.0.0.1:{port}", "port": port, "limit": f"{CONNECT:g}", "known_hosts": known_hosts}
    assert trouble is not None
    assert way.message.format(**words) in trouble.message
    assert way.advice.format(**words) in trouble.advice


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
async def test_it_says_so_and_what_is_reached_directly_goes_on(
    way: Broken, sim: SimulatedCluster, tmp_path: Path
) -> None:
    known_hosts = (sim.directory / "known_hosts").read_text()
    port = sim.endpoints["direct"].server.port
    async with watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await healthy(watch)
        await way.act(sim)
        watch.forget()
        watch.nudge("mark")
        async with measuring(port, INTERVAL) as yardstick:
            await watch.until(lambda: watch.node("mark").reach_trouble, "the node is not reached")
            await watch.until(lambda: watch.endpoint("tunnelled").verdict is Verdict.DOWN, "what goes through SSH is")
            looked = await watch.world.look()
            await watch.until(lambda: yardstick.count >= 10, "ten rounds")
            read = watch.of("direct")
            assert len(read) >= 0.6 * yardstick.count
            assert {r.result.cause for r in read} == {Cause.OK}
        node = watch.node("mark")
        says(node.reach_trouble, way, sim)
        assert len(node.workloads) == 2, "the last that was known stays beside the trouble"
        assert len(node.gpus) == 1
        assert node.gpus_trouble is not None
        assert watch.endpoint("tunnelled").cause in way.tunnelled
        assert "SSH" in watch.endpoint("tunnelled").evidence
        says(looked.nodes["mark"].reach_trouble, way, sim)
        assert looked.endpoints["direct"].cause is Cause.OK

        (sim.directory / "known_hosts").write_text(known_hosts)
        await server_of(sim).heal()
        watch.forget()
        watch.nudge("mark")
        await healthy(watch)


async def test_a_drop_in_mid_stream_is_said_and_the_stream_is_opened_anew(
    sim: SimulatedCluster, tmp_path: Path
) -> None:
    async with watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await healthy(watch)
        logins = server_of(sim).logins
        await server_of(sim).drop()
        await watch.until(lambda: watch.node("mark").gpus_trouble, "the stream of GPU readings says so")
        trouble = watch.node("mark").gpus_trouble
        assert trouble is not None
        assert "mark: the SSH connection was dropped" in trouble.message
        assert "It is opened anew at the next use." in trouble.advice
        assert len(watch.node("mark").gpus) == 1
        watch.nudge("mark")
        await healthy(watch)
        assert server_of(sim).logins == logins + 1, "all share one connection, the new one too"


async def test_a_log_that_is_read_when_the_connection_drops_says_so(sim: SimulatedCluster, tmp_path: Path) -> None:
    async with watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await healthy(watch)
        async with watch.world.logs("mark", "direct") as lines:
            await anext(lines)
            await server_of(sim).drop()
            with pytest.raises(SshError, match="mark: the SSH connection was dropped"):
                async for _ in lines:
                    pass


async def test_a_machine_that_loses_its_power_without_a_word(sim: SimulatedCluster, tmp_path: Path) -> None:
    """Its connection looks alive for a while; what is said then is that the machine is not reached, nothing milder."""
    async with watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await healthy(watch)
        await sim.nodes["mark"].power_off()
        await watch.until(lambda: watch.node("mark").reach_trouble, "the node is not reached")
        await watch.until(lambda: watch.endpoint("direct").cause is Cause.TIMEOUT, "its endpoints are black holes")
        await sim.nodes["mark"].power_on()
        watch.nudge("mark")
        await healthy(watch)


async def test_docker_that_hangs_is_named_and_ssh_is_not_blamed(sim: SimulatedCluster, tmp_path: Path) -> None:
    engine = sim.nodes["mark"].docker
    assert engine is not None
    async with watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await healthy(watch)
        await engine.server.inflict(HttpFault("half_open"))
        watch.nudge("mark")
        await watch.until(lambda: watch.node("mark").workloads_trouble, "its containers are not known any more")
        node = watch.node("mark")
        assert node.workloads_trouble is not None
        assert node.workloads_trouble.message.startswith("Docker on mark did not answer within")
        assert (node.reach_trouble, node.gpus_trouble) == (None, None)
        await engine.server.heal()
        watch.nudge("mark")
        await healthy(watch)


async def test_docker_that_has_stopped_is_named(sim: SimulatedCluster, tmp_path: Path) -> None:
    async with watching(load(sim.inventory_path), tmp_path / "state") as watch:
        await healthy(watch)
        await sim.nodes["mark"].stop_docker()
        watch.nudge("mark")
        await watch.until(lambda: watch.node("mark").workloads_trouble, "its containers are not known any more")
        trouble = watch.node("mark").workloads_trouble
        assert trouble is not None
        assert trouble.message.endswith("refuses connections; its daemon has stopped.")
        assert "sudo systemctl start docker" in trouble.advice
        assert watch.node("mark").reach_trouble is None
