"""What a person can break in the demo, with the way to mend it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.simulator.engines.litellm import LiteLlm
from backends.simulator.engines.ollama import Ollama
from backends.simulator.httpfaults import HttpFault

if TYPE_CHECKING:
    from backends.simulator.cluster import SimEndpoint, SimulatedCluster
    from backends.simulator.node import SimNode

Act = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class Fault:
    """Something a person can break, and mend."""

    id: str
    label: str
    target: str
    apply: Act
    heal: Act
    active: bool = False


def faults_of(sim: SimulatedCluster) -> list[Fault]:
    """The catalogue, fitted to the demo's cluster."""
    mark, desk, nas = sim.nodes["mark"], sim.nodes["desk"], sim.nodes["nas"]
    iii, iv, i = (sim.endpoints[f"remote/mark-{n}"] for n in ("iii", "iv", "i"))
    coder, gateway = sim.endpoints["nas/coder"], sim.endpoints["gateway/litellm"]
    return [
        Fault("crash-mark-iii", "crash mark-iii", iii.name, _crash(iii), _started(iii)),
        Fault("hang-mark-i", "hang mark-i: it accepts and never answers", i.name,
              _http(i, HttpFault("half_open")), _healed(i)),
        Fault("wedge-mark-iv", "wedge mark-iv: healthy, has work, makes no token", iv.name,
              _wedge(iv, True), _wedge(iv, False)),
        Fault("oom-mark-ii", "mark-ii: out of memory on its next start", "remote/mark-ii",
              *_out_of_memory(sim.endpoints["remote/mark-ii"])),
        Fault("deadlock-mark", "start all of mark at once (CUDA deadlock)", "mark",
              _all_at_once(sim, mark), _all_ready(sim, mark)),
        Fault("docker-mark", "mark: Docker is down", "mark", mark.stop_docker, _docker_back(sim, mark)),
        Fault("docker-hangs-mark", "mark: Docker hangs", "mark", *_docker(mark, HttpFault("half_open"))),
        Fault("ssh-mark", "mark: SSH refuses", "mark", *_ssh_refuses(mark)),
        Fault("ssh-key-mark", "mark: another host key", "mark", *_host_key(mark)),
        Fault("power-mark", "mark: power off", "mark", mark.power_off, mark.power_on),
        Fault("cpu-desk", "desk: Ollama loses its GPU and goes on from the CPU", "desk",
              *_on_cpu(sim.endpoints["local/ollama"])),
        Fault("gpu-desk", "desk: the GPU falls off the bus", "desk", *_gpu_lost(desk)),
        Fault("nvml-mark", "mark: driver and library version mismatch", "mark", *_nvml(mark)),
        Fault("slow-nas", "NAS: slow", coder.name, _http(coder, HttpFault("slow", seconds=2.5)), _healed(coder)),
        Fault("power-nas", "nas: power off", "nas", nas.power_off, nas.power_on),
        Fault("limit-gateway", "gateway: rate limited", gateway.name,
              _http(gateway, HttpFault("status", status=429, retry_after=20)), _healed(gateway)),
        Fault("cooling-gateway", "gateway: 2 of 8 models cool down", gateway.name, *_cooling(gateway)),
    ]  # fmt: skip


def _crash(endpoint: SimEndpoint) -> Act:
    async def act() -> None:
        if endpoint.container is not None:
            endpoint.container.crash(139, "ggml_cuda_error: CUDA error: an illegal memory access was encountered")

    return act


def _started(endpoint: SimEndpoint) -> Act:
    async def act() -> None:
        endpoint.start(at_once=True)

    return act


def _http(endpoint: SimEndpoint, fault: HttpFault) -> Act:
    async def act() -> None:
        await endpoint.server.inflict(fault)

    return act


def _healed(endpoint: SimEndpoint) -> Act:
    return endpoint.server.heal


def _wedge(endpoint: SimEndpoint, wedged: bool) -> Act:
    async def act() -> None:
        endpoint.engine.wedged = wedged
        endpoint.engine.waiting = 3 if wedged else 0

    return act


def _out_of_memory(endpoint: SimEndpoint) -> tuple[Act, Act]:
    usual = endpoint.program.vram_mib

    async def act() -> None:
        endpoint.program.vram_mib = 48000.0
        await endpoint.stop()
        endpoint.start()

    async def heal() -> None:
        endpoint.program.vram_mib = usual
        await endpoint.stop()
        endpoint.start(at_once=True)

    return act, heal


def _endpoints(sim: SimulatedCluster, node: SimNode) -> list[SimEndpoint]:
    return [e for e in sim.endpoints.values() if e.node == node.name]


def _all_at_once(sim: SimulatedCluster, node: SimNode) -> Act:
    async def act() -> None:
        await asyncio.gather(*(e.stop() for e in _endpoints(sim, node)))
        await sim.world.sleep(1.5)
        for endpoint in _endpoints(sim, node):
            endpoint.start()

    return act


def _all_ready(sim: SimulatedCluster, node: SimNode) -> Act:
    """Whatever is not ready is started afresh, past its loading."""

    async def act() -> None:
        for endpoint in _endpoints(sim, node):
            if endpoint.program.phase != "ready":
                await endpoint.stop()
                endpoint.start(at_once=True)

    return act


def _docker_back(sim: SimulatedCluster, node: SimNode) -> Act:
    ready = _all_ready(sim, node)

    async def act() -> None:
        if node.docker is not None:
            await node.docker.server.open()
        await ready()

    return act


def _docker(node: SimNode, fault: HttpFault) -> tuple[Act, Act]:
    assert node.docker is not None
    server = node.docker.server

    async def act() -> None:
        await server.inflict(fault)

    return act, server.heal


def _ssh_refuses(node: SimNode) -> tuple[Act, Act]:
    async def act() -> None:
        assert node.ssh is not None
        await node.ssh.refuse()
        await node.ssh.drop()

    return act, _ssh_healed(node)


def _host_key(node: SimNode) -> tuple[Act, Act]:
    async def act() -> None:
        assert node.ssh is not None
        await node.ssh.change_host_key()

    return act, _ssh_healed(node)


def _ssh_healed(node: SimNode) -> Act:
    async def act() -> None:
        assert node.ssh is not None
        await node.ssh.heal()

    return act


def _gpu_lost(node: SimNode) -> tuple[Act, Act]:
    async def act() -> None:
        node.host.lose_gpu(0)

    async def heal() -> None:
        node.host.find_gpus()

    return act, heal


def _on_cpu(endpoint: SimEndpoint) -> tuple[Act, Act]:
    engine = endpoint.engine
    assert isinstance(engine, Ollama)

    async def act() -> None:
        await engine.move(None)

    async def heal() -> None:
        await engine.move(endpoint.program.device)

    return act, heal


def _nvml(node: SimNode) -> tuple[Act, Act]:
    async def act() -> None:
        node.host.nvml_error = (
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.95"
        )

    async def heal() -> None:
        node.host.nvml_error = ""

    return act, heal


def _cooling(gateway: SimEndpoint) -> tuple[Act, Act]:
    async def act() -> None:
        assert isinstance(gateway.engine, LiteLlm)
        gateway.engine.cooling = dict.fromkeys(gateway.engine.models[-2:], time.time() + 3600)

    async def heal() -> None:
        assert isinstance(gateway.engine, LiteLlm)
        gateway.engine.cooling.clear()

    return act, heal
