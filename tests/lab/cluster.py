"""A cluster of real parts and its cluster.toml: llama.cpp in containers behind SSH, and LiteLLM in front."""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import tomli_w

from tests.lab.engine import LLAMACPP, DockerEngine, container
from tests.lab.models import tiny_gguf
from tests.lab.process import free_port, serves
from tests.lab.servers import LiteLlm, OpenSsh

NAMES = ("mark-i", "mark-ii", "mark-iii")
KEY = "LITELLM_KEY"


@dataclass(frozen=True, slots=True)
class LabCluster:
    """The running cluster; `env` holds what `config` refers to, and belongs in the environment of who reads it."""

    config: Path
    engine: DockerEngine
    ssh: OpenSsh
    litellm: LiteLlm
    ports: Mapping[str, int]
    env: Mapping[str, str] = field(repr=False)

    def url(self, name: str) -> str:
        """Where the container of this name serves."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def healthy(self, name: str) -> bool:
        """Whether the container of this name serves."""
        return serves(f"{self.url(name)}/health")

    def heal(self) -> None:
        """Undoes what a test has broken: starts what is down, the containers one after the other behind their gate."""
        for part in (self.ssh, self.engine, self.litellm):
            if not part.running:
                part.start()
        self.engine.ready()
        self.ssh.ready()
        broken = [name for name in self.ports if not self.healthy(name)]
        for name in broken:
            if self.engine.docker("inspect", "--format", "{{.State.Paused}}", name) == "true":
                self.engine.docker("unpause", name)
            self.engine.docker("stop", "--time", "0", name)
        for name in broken:
            self.engine.docker("start", name)
            self.engine.wait_until(partial(self.healthy, name), 30, f"{name} serves")
        self.litellm.ready()


@contextmanager
def start_cluster(directory: Path, *, lock: float = 0.0, gap: str = "1s") -> Iterator[LabCluster]:
    """Starts the whole cluster and writes cluster.toml; with `lock`, containers that start together deadlock."""
    directory.mkdir(parents=True, exist_ok=True)
    ports = {name: free_port() for name in NAMES}
    env = {KEY: f"sk-{secrets.token_hex(16)}"}
    litellm = LiteLlm(directory / "litellm", litellm_config(ports), env[KEY])
    with ExitStack() as stack:
        stack.callback(litellm.close)
        litellm.start()  # it takes longest, and needs the others only to answer
        ssh = stack.enter_context(OpenSsh(directory / "ssh"))
        engine = stack.enter_context(DockerEngine(directory / "docker"))
        engine.image(LLAMACPP)
        engine.put(tiny_gguf(directory / "tiny.gguf"), "tiny.gguf")
        for name, port in ports.items():
            container(engine, name, port, lock=lock, start=False)
        config = directory / "cluster.toml"
        config.write_text(tomli_w.dumps(inventory(ports, engine, ssh, litellm, gap)))
        cluster = LabCluster(config, engine, ssh, litellm, ports, env)
        cluster.heal()
        yield cluster


def litellm_config(ports: Mapping[str, int]) -> str:
    """The proxy's configuration, one model for each container: JSON, which is YAML too."""
    models = [
        {
            "model_name": f"remote/{name}",
            "litellm_params": {"model": f"openai/{name}", "api_base": f"http://127.0.0.1:{port}/v1", "api_key": "none"},
        }
        for name, port in ports.items()
    ]
    return json.dumps({"model_list": models}, indent=2)


def inventory(
    ports: Mapping[str, int], engine: DockerEngine, ssh: OpenSsh, litellm: LiteLlm, gap: str
) -> dict[str, object]:
    """What cluster.toml says of this cluster; no GPU is there to be read, though the containers ask for one."""
    login = {"user": ssh.user, "port": ssh.port, "key": str(ssh.key), "known_hosts": str(ssh.known_hosts)}
    mark = {
        "name": "mark",
        "address": ssh.address,
        "ssh": login,
        "docker": {"socket": str(engine.socket)},
        "queue": {"order": list(ports), "gap": gap, "ready_timeout": "60s"},
    }
    endpoints: list[dict[str, object]] = [
        {
            "name": f"remote/{name}",
            "tier": "REMOTE",
            "node": "mark",
            "engine": "llama.cpp",
            "url": f"http://127.0.0.1:{port}",
            "container": name,
            "tasks": ["chat", "code"],
        }
        for name, port in ports.items()
    ]
    gateway = {"name": "gateway/litellm", "tier": "GATEWAY", "node": "gate", "engine": "litellm", "url": litellm.url}
    return {
        "version": 1,
        "name": "lab",
        "defaults": {"interval": "2s", "timeout": "3s"},
        "nodes": [mark, {"name": "gate", "address": "127.0.0.1", "docker": False}],
        "tiers": [{"name": "REMOTE"}, {"name": "GATEWAY"}],
        "endpoints": [*endpoints, {**gateway, "api_key": f"env:{KEY}"}],
        "router": {"chat": [f"remote/{name}" for name in ports]},
    }
