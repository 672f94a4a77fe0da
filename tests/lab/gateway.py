"""LiteLLM's proxy in a container, with its file in a folder or a volume, before llama.cpp, on a node with SSH."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from tests.lab.cache import cache
from tests.lab.engine import TINY, DockerEngine
from tests.lab.process import free_port, serves, wait_until
from tests.lab.servers import LlamaServer, OpenSsh
from tests.procedures.test_process import ROOT

KEY = "sk-lab-0000"
VOLUME = "gateway-conf"
FORMER = b"# by hand \xc3\xa9\r\nmodel_list: []\nlitellm_settings: {drop_params: true}\n"


@dataclass(frozen=True, slots=True)
class LabGateway:
    """The running gateway; `file` is what it reads at its start."""

    cluster: Path
    file: Path
    engine: DockerEngine
    llama: LlamaServer
    url: str
    env: dict[str, str]

    def tierdeck(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run the command line on it."""
        argv = [sys.executable, "-m", "tui.cli", *words]
        return subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=300, check=False)

    async def reset(self) -> None:
        """The former file, and the gateway running with it."""
        self.file.write_bytes(FORMER)
        await asyncio.to_thread(self.restart)

    def restart(self) -> None:
        """Restart it by hand."""
        self.engine.docker("restart", "-t", "2", "litellm")
        wait_until(self.ready, 120, "LiteLLM lives")

    def ready(self) -> bool:
        """Whether it lives."""
        return serves(f"{self.url}/health/liveliness")


@contextmanager
def start_gateway(directory: Path, model: Path, *, volume: bool) -> Iterator[LabGateway]:
    """Starts all of it; the interpreter and LiteLLM come from this machine, read only."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with ExitStack() as stack:
        llama = stack.enter_context(LlamaServer(model, directory / "llama.log"))
        ssh = stack.enter_context(OpenSsh(directory / "ssh"))
        engine = stack.enter_context(DockerEngine(directory / "docker"))
        engine.image(TINY)
        if volume:
            engine.docker("volume", "create", VOLUME)
            folder = Path(engine.docker("volume", "inspect", "--format", "{{.Mountpoint}}", VOLUME))
        else:
            folder = directory / "conf"
            folder.mkdir()
        file = folder / "config.yaml"
        file.write_bytes(FORMER)
        _create(engine, port, VOLUME if volume else str(folder))
        place = f"volume:{VOLUME}/config.yaml" if volume else f"ssh:gate:{file}"
        cluster = directory / "cluster.toml"
        cluster.write_text(tomli_w.dumps(_inventory(engine, ssh, llama, port, place)))
        env = {
            **os.environ, "PYTHONPATH": str(ROOT), "TIERDECK_CLUSTER": str(cluster), "LAB_KEY": KEY,
            "TIERDECK_STATE": str(directory / "state"), "XDG_RUNTIME_DIR": str(engine.folder),
        }  # fmt: skip
        yield LabGateway(cluster, file, engine, llama, f"http://127.0.0.1:{port}", env)


def _create(engine: DockerEngine, port: int, conf: str) -> None:
    program = cache() / "litellm"
    python = (program / "bin/python").resolve()
    mounts = {"/usr", "/lib", "/lib64", "/etc", str(program)}
    if not str(python).startswith("/usr/"):
        mounts.add(str(python.parents[1]))
    options = [word for path in sorted(mounts) for word in ("-v", f"{path}:{path}:ro")]
    environment = {"LITELLM_MASTER_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": "/tmp"}
    options += [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
    command = [program / "bin/python", program / "bin/litellm", "--config", "/conf/config.yaml"]
    engine.docker(
        "create", "--name", "litellm", "--network", "host", "--tmpfs", "/tmp", "-v", f"{conf}:/conf", *options, TINY,
        *map(str, command), "--host", "127.0.0.1", "--port", str(port),
    )  # fmt: skip
    engine.docker("start", "litellm")


def _inventory(engine: DockerEngine, ssh: OpenSsh, llama: LlamaServer, port: int, place: str) -> dict[str, object]:
    login = {"user": ssh.user, "port": ssh.port, "key": str(ssh.key), "known_hosts": str(ssh.known_hosts)}
    docker = {"socket": str(engine.socket)}
    return {
        "version": 1,
        "name": "lab",
        "defaults": {"timeout": "10s", "slow": "10s"},
        "nodes": [{"name": "gate", "address": ssh.address, "ssh": login, "docker": docker}],
        "tiers": [{"name": "A"}, {"name": "GATEWAY"}],
        "endpoints": [
            {
                "name": "a/llama", "tier": "A", "node": "gate", "engine": "llama.cpp", "url": llama.url,
                "tasks": ["chat", "code"], "model": "tiny",
            },
            {
                "name": "gateway/litellm", "tier": "GATEWAY", "node": "gate", "engine": "litellm",
                "url": f"http://127.0.0.1:{port}", "container": "litellm", "api_key": "env:LAB_KEY",
            },
        ],
        "gateway": {"endpoint": "gateway/litellm", "config": place},
    }  # fmt: skip
