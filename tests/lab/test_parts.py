"""Each real part does what the other lab tests rely on."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path

import aiodocker
import asyncssh
import pytest

from tests.lab.parts import (
    TINY,
    DockerEngine,
    LabCluster,
    LabError,
    LlamaServer,
    OpenSsh,
    container,
    free_port,
    http_status,
    require,
    serves,
    sparse_gguf,
    tiny_gguf,
    wait_until,
)
from tests.lab.process import OPENER, Kept

PROMPT = [{"role": "user", "content": "hello"}]


def post(url: str, body: object, key: str = "") -> str:
    """The answer to a JSON request, all of it."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with OPENER.open(request, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3moe", "gemma3"])
def test_llama_cpp_serves_each_architecture(arch: str, tmp_path: Path) -> None:
    require("llamacpp")
    model = tiny_gguf(tmp_path / "m.gguf", arch)
    assert 100_000 < model.stat().st_size < 600_000
    with LlamaServer(model, tmp_path / "log") as server:
        body = {"messages": PROMPT, "max_tokens": 4, "ignore_eos": True}
        answer = json.loads(post(f"{server.url}/v1/chat/completions", body))
        assert answer["usage"]["completion_tokens"] == 4
        for route in ("/v1/models", "/props", "/slots", "/metrics"):
            assert http_status(f"{server.url}{route}") == 200, route


def test_a_sparse_model_takes_its_time_to_load(tmp_path: Path) -> None:
    require("llamacpp")
    model = sparse_gguf(tmp_path / "large.gguf", layers=4)
    assert model.stat().st_size > 500_000_000
    assert model.stat().st_blocks * 512 < 10_000_000
    with contextlib.closing(LlamaServer(model, tmp_path / "log")) as server:
        server.start()
        server.wait_until(lambda: http_status(f"{server.url}/health") == 503, 10, "it says that it loads")
        server.ready()


def test_an_api_key_is_asked_for(lab_model: Path, tmp_path: Path) -> None:
    with LlamaServer(lab_model, tmp_path / "log", env={"API_KEY": "secret", "MODEL_ALIAS": "mark-i"}) as server:
        assert http_status(f"{server.url}/v1/models") == 401


def test_a_model_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    require("llamacpp")
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model")
    with pytest.raises(LabError, match="exited with 1"), LlamaServer(bad, tmp_path / "log"):
        pass


def test_containers_serve_and_stream(lab_cluster: LabCluster) -> None:
    body = {"messages": PROMPT, "max_tokens": 4, "stream": True}
    for name in lab_cluster.ports:
        chunks = post(f"{lab_cluster.url(name)}/v1/chat/completions", body).split("\n\n")
        assert chunks[0].startswith("data: {")
        assert "data: [DONE]" in chunks
        config = json.loads(lab_cluster.engine.docker("inspect", name))[0]["HostConfig"]
        assert config["DeviceRequests"][0]["Capabilities"] == [["gpu"]]
        assert config["RestartPolicy"]["Name"] == "no"
        assert config["Binds"] == ["models-vol:/models"]


def test_litellm_answers_through_a_container(lab_cluster: LabCluster) -> None:
    body = {"model": "remote/mark-ii", "messages": PROMPT, "max_tokens": 4, "ignore_eos": True}
    answer = post(f"{lab_cluster.litellm.url}/v1/chat/completions", body, lab_cluster.env["LITELLM_KEY"])
    assert json.loads(answer)["usage"]["completion_tokens"] == 4


def test_the_cluster_heals(lab_cluster: LabCluster) -> None:
    lab_cluster.engine.docker("kill", "mark-i")
    lab_cluster.engine.docker("pause", "mark-ii")
    lab_cluster.ssh.end()
    assert not lab_cluster.healthy("mark-i")
    assert not lab_cluster.healthy("mark-ii")
    lab_cluster.heal()
    assert all(map(lab_cluster.healthy, lab_cluster.ports))
    assert lab_cluster.ssh.running


def test_a_container_stops_when_told(lab_cluster: LabCluster) -> None:
    lab_cluster.engine.docker("stop", "-t", "30", "mark-iii", limit=10)
    assert lab_cluster.engine.docker("inspect", "-f", "{{.State.ExitCode}}", "mark-iii") == "0"


def test_two_that_start_together_deadlock_and_one_by_one_they_serve(lab_docker: DockerEngine, lab_model: Path) -> None:
    lab_docker.put(lab_model, "tiny.gguf")
    ports = {name: free_port() for name in ("dead-a", "dead-b")}
    health = {name: f"http://127.0.0.1:{port}/health" for name, port in ports.items()}
    for name, port in ports.items():
        container(lab_docker, name, port, lock=1.0, start=False)
    try:
        lab_docker.docker("start", *ports)
        wait_until(lambda: all("deadlock" in lab_docker.docker("logs", name) for name in ports), 10, "both hang")
        assert [http_status(url, limit=0.5) for url in health.values()] == [0, 0]
        lab_docker.docker("kill", *ports)
        for name in ports:
            lab_docker.docker("start", name)
            wait_until(partial(serves, health[name]), 20, f"{name} serves")
    finally:
        lab_docker.docker("rm", "-f", *ports)


def test_without_the_hook_a_gpu_is_refused_in_dockers_words(tmp_path: Path) -> None:
    require("docker")
    with DockerEngine(tmp_path / "docker", gpus=False) as engine:
        image = engine.image(TINY)
        engine.docker("create", "--name", "wants-gpu", "--gpus", "all", image)
        with pytest.raises(LabError, match="could not select device driver"):
            engine.docker("start", "wants-gpu")
        engine.restart(gpus=True)
        engine.docker("start", "wants-gpu")
        assert engine.docker("ps", "--format", "{{.Names}}") == "wants-gpu"


def test_an_engine_dies_and_comes_back_with_its_policies(tmp_path: Path) -> None:
    require("docker")
    with DockerEngine(tmp_path / "docker") as engine:
        image = engine.image(TINY)
        for name, policy in (("stays-down", "no"), ("comes-back", "always")):
            engine.docker("run", "-d", "--name", name, "--restart", policy, image)
        engine.kill()
        with pytest.raises(LabError, match="Is the docker daemon running"):
            engine.docker("ps")
        engine.restart()
        assert engine.docker("ps", "--format", "{{.Names}}") == "comes-back"


def test_engines_run_side_by_side_and_leave_nothing(tmp_path: Path, lab_docker: DockerEngine) -> None:
    with DockerEngine(tmp_path / "docker") as engine:
        engine.docker("run", "-d", "--name", "only-here", engine.image(TINY))
        assert "only-here" not in lab_docker.docker("ps", "-a", "--format", "{{.Names}}")
        pid = int(engine.docker("inspect", "-f", "{{.State.Pid}}", "only-here"))
        dockerd, cgroup, bridge = engine.pid, engine.cgroup, socket.if_nametoindex(engine.link)
        assert alive(pid)
    assert not alive(pid)
    assert not alive(dockerd)
    assert bridge not in (index for index, _ in socket.if_nameindex())
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{cgroup}"))
    assert not engine.folder.exists()


async def test_the_docker_socket_is_forwarded_by_ssh(
    lab_docker: DockerEngine, lab_sshd: OpenSsh, tmp_path: Path
) -> None:
    local = tmp_path / "forwarded.sock"
    async with (
        asyncio.timeout(20),
        asyncssh.connect(
            lab_sshd.address,
            lab_sshd.port,
            username=lab_sshd.user,
            client_keys=[str(lab_sshd.key)],
            known_hosts=str(lab_sshd.known_hosts),
            config=None,
        ) as connection,
    ):
        async with await connection.forward_local_path(str(local), str(lab_docker.socket)):
            docker = aiodocker.Docker(url=f"unix://{local}")
            try:
                assert (await docker.version())["ApiVersion"] == "1.41"
            finally:
                await docker.close()
        assert (await connection.run("echo over ssh", check=True)).stdout == "over ssh\n"


def test_sshd_can_be_lost_and_found(lab_sshd: OpenSsh) -> None:
    lab_sshd.end("KILL")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((lab_sshd.address, lab_sshd.port), 5)
    lab_sshd.start()
    lab_sshd.ready()


def test_what_a_process_started_goes_with_it(tmp_path: Path) -> None:
    """Also what has left its session and its parent, as containers and their shims do."""
    pids = tmp_path / "pids"
    script = f"setsid sh -c 'setsid sleep 60 & echo $! >{pids}; exec sleep 60' & exec sleep 60"
    with Kept(["sh", "-c", script], tmp_path / "log") as kept:
        wait_until(lambda: pids.exists() and pids.read_text().strip(), 10, "the grandchild runs")
        grandchild = int(pids.read_text())
        kept.end("KILL")
        assert alive(grandchild)
    assert not alive(grandchild)


def test_a_killed_test_run_leaves_no_process(tmp_path: Path) -> None:
    log, pid_file = tmp_path / "log", tmp_path / "pid"
    program = f"""
import pathlib, signal
from tests.lab.process import Kept
kept = Kept(["sleep", "60"], pathlib.Path({str(log)!r}))
kept.start()
pathlib.Path({str(pid_file)!r}).write_text(str(kept.pid))
signal.pause()
"""
    run = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until(lambda: pid_file.exists() and pid_file.read_text(), 10, "the process runs")
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait(10)
    pid = int(pid_file.read_text())
    wait_until(lambda: not alive(pid), 10, "it ends with its owner")


def test_a_missing_part_skips_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERDECK_LAB_CACHE", str(tmp_path))
    monkeypatch.delenv("TIERDECK_LAB", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"setup\.sh"):
        require("litellm")
    monkeypatch.setenv("TIERDECK_LAB", "required")
    with pytest.raises(pytest.fail.Exception, match="required"):
        require("litellm")
