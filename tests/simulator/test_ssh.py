"""The SSH double, asked by asyncssh."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import aiodocker
import asyncssh
import httpx
import pytest

from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.llamacpp import LlamaCpp
from tests.simulator.conftest import ready, until

QUERY = "nvidia-smi --query-gpu=index,uuid,name,memory.total,memory.used --format=csv,noheader,nounits"


def connect(sim: SimulatedCluster, node: str, **options: Any) -> Any:
    ssh = sim.nodes[node].ssh
    assert ssh is not None
    wanted = {
        "username": "ops",
        "client_keys": [str(sim.directory / "id_ed25519")],
        "known_hosts": str(sim.directory / "known_hosts"),
        "connect_timeout": 5,
        "agent_path": None,
        "config": None,
    }
    return asyncssh.connect("127.0.0.1", ssh.port, **(wanted | options))


async def test_commands(sim: SimulatedCluster) -> None:
    async with connect(sim, "mark") as ssh:
        line = (await ssh.run(QUERY, check=True)).stdout
        index, uuid, name, total, used = line.strip().split(", ")
        assert (index, name, total) == ("0", "NVIDIA GeForce RTX 3090", "24576")
        assert uuid.startswith("GPU-")
        assert int(used) == pytest.approx(23718, abs=20)
        apps = (await ssh.run("nvidia-smi --query-compute-apps=pid,used_memory,gpu_uuid --format=csv,noheader")).stdout
        pid = apps.split(",")[0]
        cgroup = (await ssh.run(f"cat /proc/{pid}/cgroup", check=True)).stdout
        assert sim.nodes["mark"].container("mark-i").id in cgroup
        assert (await ssh.run("hostname")).stdout == "mark\n"
        assert float((await ssh.run("date +%s.%N")).stdout) > 1.7e9
        missing = await ssh.run("kubectl get pods")
        assert missing.exit_status == 127
        assert "command not found" in missing.stderr
    assert sim.nodes["mark"].commands.ran[0] == QUERY


async def test_nvidia_smi_streams_until_the_client_leaves(sim: SimulatedCluster) -> None:
    async with connect(sim, "mark") as ssh:
        async with ssh.create_process(QUERY + " -l 2") as process:
            lines = [await process.stdout.readline() for _ in range(3)]
        assert all(line.startswith("0, GPU-") for line in lines)
        assert (await ssh.run("true")).exit_status == 0


async def test_nvidia_smi_faults(sim: SimulatedCluster) -> None:
    host = sim.nodes["mark"].host
    async with connect(sim, "mark") as ssh:
        host.gpus[0].unreadable.add("memory.used")
        assert "[N/A]" in (await ssh.run(QUERY)).stdout
        host.nvml_error = "Failed to initialize NVML: Driver/library version mismatch"
        broken = await ssh.run(QUERY)
        assert (broken.exit_status, broken.stdout) == (18, host.nvml_error + "\n")
        host.nvml_error = ""
        host.lose_gpu(0)
        assert "GPU is lost" in (await ssh.run(QUERY)).stdout
        assert "Xid" in (await ssh.run("dmesg")).stdout


async def test_systemd_service(sim: SimulatedCluster) -> None:
    endpoint = sim.endpoints["local/ollama"]
    async with connect(sim, "desk") as ssh:
        assert (await ssh.run("systemctl is-active ollama")).stdout == "active\n"
        endpoint.service.crash()
        await until(lambda: endpoint.service.state == "failed")
        assert (await ssh.run("systemctl is-active ollama")).exit_status == 3
        assert (await ssh.run("sudo -n systemctl restart ollama")).exit_status == 0
        await ready(endpoint)
        shown = (await ssh.run("systemctl show ollama -p ActiveState,MainPID")).stdout
        assert shown.startswith("ActiveState=active\n")
        assert "Listening" in (await ssh.run("journalctl -u ollama -n 1 -o cat --no-pager")).stdout
        assert (await ssh.run("systemctl is-active nonsense")).exit_status == 4


async def test_forward_to_the_docker_socket(sim: SimulatedCluster) -> None:
    with tempfile.TemporaryDirectory() as folder:
        local = str(Path(folder) / "s")
        async with connect(sim, "mark") as ssh:
            listener = await ssh.forward_local_path(local, "/var/run/docker.sock")
            async with aiodocker.Docker(f"unix://{local}") as docker:
                assert len(await docker.containers.list()) == 5
                log = await (await docker.containers.get("mark-iv")).log(stdout=True)
                assert any("Application startup complete" in line for line in log)
            listener.close()
            await listener.wait_closed()


async def test_dial_stdio(sim: SimulatedCluster) -> None:
    async with connect(sim, "mark") as ssh, ssh.create_process("docker system dial-stdio", encoding=None) as process:
        process.stdin.write(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(process.stdout.read(), 5)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.endswith(b"OK")


async def test_forward_to_an_endpoint(sim: SimulatedCluster) -> None:
    port = sim.endpoints["remote/mark-i"].server.port
    async with connect(sim, "mark") as ssh:
        listener = await ssh.forward_local_port("127.0.0.1", 0, "localhost", port)
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{listener.get_port()}/health")
        assert answer.json() == {"status": "ok"}
        listener.close()


async def test_exclusive_create_over_sftp(sim: SimulatedCluster) -> None:
    async with connect(sim, "mark") as ssh, ssh.start_sftp_client() as sftp:
        async with sftp.open("/lock", "x") as file:
            await file.write("mine")
        with pytest.raises(asyncssh.SFTPError):
            await sftp.open("/lock", "x")
        assert (await ssh.run("cat /lock")).stdout == "mine"
    assert (sim.directory / "nodes" / "mark" / "lock").read_text() == "mine"


async def test_session_limit(sim: SimulatedCluster) -> None:
    ssh_server = sim.nodes["mark"].ssh
    assert ssh_server is not None
    ssh_server.max_sessions = 2
    async with connect(sim, "mark") as ssh:
        async with ssh.create_process(QUERY + " -l 2"), ssh.create_process(QUERY + " -l 2"):
            with pytest.raises(asyncssh.ChannelOpenError):
                await ssh.run("true")
        assert (await ssh.run("true")).exit_status == 0


async def test_refused_hanging_and_swallowing(sim: SimulatedCluster) -> None:
    ssh_server = sim.nodes["mark"].ssh
    assert ssh_server is not None
    await ssh_server.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect(sim, "mark")
    for trouble in (ssh_server.hang, ssh_server.swallow):
        await trouble()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connect(sim, "mark"), 0.1)
    await ssh_server.heal()
    async with connect(sim, "mark") as ssh:
        assert (await ssh.run("true")).exit_status == 0


async def test_denied_changed_key_and_unknown_user(sim: SimulatedCluster) -> None:
    ssh_server = sim.nodes["mark"].ssh
    assert ssh_server is not None
    with pytest.raises(asyncssh.PermissionDenied):
        await connect(sim, "mark", username="nobody")
    ssh_server.denying = True
    with pytest.raises(asyncssh.PermissionDenied):
        await connect(sim, "mark")
    await ssh_server.change_host_key()
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await connect(sim, "mark")
    await ssh_server.heal()
    async with connect(sim, "mark"):
        pass


async def test_dropped_connections(sim: SimulatedCluster) -> None:
    ssh_server = sim.nodes["mark"].ssh
    assert ssh_server is not None
    async with connect(sim, "mark") as ssh:
        async with ssh.create_process(QUERY + " -l 2") as process:
            await process.stdout.readline()
            await ssh_server.drop()
            await asyncio.wait_for(process.wait_closed(), 5)
            assert process.exit_status is None
        await asyncio.wait_for(ssh.wait_closed(), 5)


async def test_password(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path, speed=100)
    sim.add_node("box", password="tell nobody")
    async with sim:
        assert sim.secrets == {"SIM_PASSWORD_BOX": "tell nobody"}
        assert "tell nobody" not in sim.inventory
        async with connect(sim, "box", client_keys=None, password="tell nobody"):
            pass
        with pytest.raises(asyncssh.PermissionDenied):
            await connect(sim, "box", client_keys=None, password="wrong")


async def test_a_dark_machine_leaves_its_clients_in_the_dark(sim: SimulatedCluster) -> None:
    ssh = await connect(sim, "mark", keepalive_interval=0.1, keepalive_count_max=2)
    async with ssh, ssh.create_process(QUERY + " -l 2") as process:
        await process.stdout.readline()
        await sim.nodes["mark"].power_off()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait_closed(), 0.05)
        await asyncio.wait_for(ssh.wait_closed(), 5)  # only its own keepalive tells it
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(connect(sim, "mark"), 0.1)
    await sim.nodes["mark"].power_on()
    async with connect(sim, "mark") as ssh:
        assert (await ssh.run("true")).exit_status == 0


async def test_a_slow_line(sim: SimulatedCluster) -> None:
    server = sim.nodes["mark"].ssh
    assert server is not None
    async with connect(sim, "mark") as ssh:
        server.relay.lag = 0.05
        begun = asyncio.get_running_loop().time()
        await ssh.run("true")
        assert asyncio.get_running_loop().time() - begun >= 0.1


async def test_a_fenced_endpoint_opens_on_its_node_only(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path, speed=100)
    sim.add_node("box", docker=False)
    endpoint = sim.add_endpoint("a", LlamaCpp(sim.world, models=["m"]), node="box", fence="refuse", via="ssh")
    async with sim, httpx.AsyncClient() as client, connect(sim, "box") as ssh:
        assert f":{endpoint.server.port}" in sim.inventory
        with pytest.raises(httpx.ConnectError):
            await client.get(endpoint.server.url + "/health")
        listener = await ssh.forward_local_port("127.0.0.1", 0, "localhost", endpoint.server.port)
        answer = await client.get(f"http://127.0.0.1:{listener.get_port()}/health")
        assert answer.json() == {"status": "ok"}
        listener.close()


async def test_no_forwarding_of_sockets(sim: SimulatedCluster) -> None:
    server = sim.nodes["mark"].ssh
    assert server is not None
    server.forwards_sockets = False
    async with connect(sim, "mark") as ssh:
        with pytest.raises(asyncssh.ChannelOpenError):
            await ssh.open_unix_connection("/var/run/docker.sock")


async def test_what_the_shell_helps_with(sim: SimulatedCluster) -> None:
    async with connect(sim, "mark") as ssh:
        pid = sim.nodes["mark"].host.gpus[0].processes()[0].pid
        found = (await ssh.run(f"grep -sH '' /proc/{pid}/cgroup /proc/1/cgroup")).stdout
        assert found.startswith(f"/proc/{pid}/cgroup:0::/system.slice/docker-")
        assert (await ssh.run("test -e /var/run/docker.sock")).exit_status == 0
        assert (await ssh.run("test -e /nowhere")).exit_status == 1
        assert (await ssh.run("systemctl is-active docker")).stdout == "active\n"
        assert (await ssh.run("systemctl restart docker")).exit_status == 0
        assert (await ssh.run("cat /proc/uptime /nowhere")).exit_status == 1


async def test_other_vendors(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path, speed=100)
    sim.add_node("amd", gpus=[sim.gpu(0, "Radeon RX 7900 XTX", 24560)], vendor="amd")
    sim.add_node("mac", gpus=[sim.gpu(0, "Apple M4 Max", 49152)], vendor="apple", os="macos", docker=False)
    async with sim:
        async with connect(sim, "amd") as ssh:
            cards = json.loads((await ssh.run("rocm-smi --showmeminfo vram --showuse --json")).stdout)
            assert int(cards["card0"]["VRAM Total Memory (B)"]) == 24560 * 2**20
            assert (await ssh.run("nvidia-smi")).exit_status == 127
        async with connect(sim, "mac") as ssh:
            assert (await ssh.run("sysctl -n iogpu.wired_limit_mb")).stdout == "49152\n"
            assert "In use system memory" in (await ssh.run("ioreg -r -d 1 -w 0 -c IOAccelerator")).stdout
            assert (await ssh.run("uname -sm")).stdout == "Darwin arm64\n"
            assert (await ssh.run("systemctl status")).exit_status == 127
