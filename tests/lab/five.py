"""A host with five containers that deadlock when they start together, reached over SSH or stood on; no LiteLLM."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tomli_w

from backends.reach.docker_words import timestamp
from tests.lab.engine import LLAMACPP, DockerEngine, container
from tests.lab.models import tiny_gguf
from tests.lab.process import free_port, serves, wait_until
from tests.lab.servers import OpenSsh

NAMES = ("mark-i", "mark-ii", "mark-iii", "mark-iv", "mark-v")


@dataclass(frozen=True, slots=True)
class Five:
    """The host: `over_ssh` and `here` are its cluster.toml as two consoles have it, `home` where its lease lies."""

    engine: DockerEngine
    ssh: OpenSsh
    home: Path
    ports: Mapping[str, int]
    over_ssh: Path
    here: Path
    lock: float
    gap: float

    def config(self, way: str) -> Path:
        """By the name of the way: "ssh" or "here"."""
        return self.over_ssh if way == "ssh" else self.here

    def serves(self, name: str) -> bool:
        """Whether one serves."""
        return serves(f"http://127.0.0.1:{self.ports[name]}/health")

    def stop(self) -> None:
        """Stop all of them, and be sure that they have no restart policy; their logs are gone too."""
        self.engine.docker("update", "--restart", "no", *NAMES)
        self.engine.docker("kill", *self.running()) if self.running() else None

    def running(self) -> list[str]:
        """Those that run."""
        return self.engine.docker("ps", "--format", "{{.Names}}").split()

    def alone(self, name: str) -> float:
        """Seconds from `docker start` of one to its first good answer, looked for as often as can be."""
        began = time.monotonic()
        self.engine.docker("start", name)
        wait_until(partial(self.serves, name), 60, f"{name} serves")
        return time.monotonic() - began

    def events(self, since: float, until: float) -> list[tuple[float, str, str]]:
        """What Docker itself logged of the five: moment, action, name."""
        raw = self.engine.docker(
            "events", "--since", f"{since:.6f}", "--until", f"{until:.6f}", "--filter", "type=container",
            "--format", "{{json .}}",
        )  # fmt: skip
        found = [json.loads(line) for line in raw.splitlines()]
        named = [(e["timeNano"] / 1e9, str(e["Action"]), str(e["Actor"]["Attributes"]["name"])) for e in found]
        return [event for event in named if event[2] in self.ports]

    def initialised(self, name: str, since: float) -> float:
        """When the "driver" of one was free again: the moment of its first word, by Docker's own clock."""
        done = self.engine._docker("logs", "-t", "--since", f"{since:.6f}", name)
        stamp, _, words = min((done.stdout + done.stderr).decode().splitlines()).partition(" ")
        assert "deadlock" not in words
        at = timestamp(stamp)
        assert at is not None
        return at


@contextmanager
def start_five(directory: Path, *, lock: float = 1.0, gap: float = 0.5) -> Iterator[Five]:
    """Start the host; none of the five runs yet."""
    directory.mkdir(parents=True, exist_ok=True)
    ports = {name: free_port() for name in NAMES}
    with ExitStack() as stack:
        ssh = stack.enter_context(OpenSsh(directory / "ssh"))
        engine = stack.enter_context(DockerEngine(directory / "docker"))
        engine.image(LLAMACPP)
        engine.put(tiny_gguf(directory / "tiny.gguf"), "tiny.gguf")
        for name, port in ports.items():
            container(engine, name, port, lock=lock, start=False)
        paths = {way: directory / f"{way}.toml" for way in ("ssh", "here")}
        for way, path in paths.items():
            path.write_text(tomli_w.dumps(inventory(ports, engine, ssh if way == "ssh" else None, gap)))
        yield Five(engine, ssh, ssh.home, ports, paths["ssh"], paths["here"], lock, gap)


def inventory(
    ports: Mapping[str, int], engine: DockerEngine, ssh: OpenSsh | None, gap: float, order: Sequence[str] = NAMES
) -> dict[str, object]:
    """What cluster.toml says of the host."""
    mark: dict[str, object] = {
        "name": "mark",
        "address": "127.0.0.1",
        "docker": {"socket": str(engine.socket)},
        "queue": {"order": list(order), "gap": f"{gap:g}s", "ready_timeout": "30s"},
    }
    if ssh is not None:
        login = {"user": ssh.user, "port": ssh.port, "key": str(ssh.key), "known_hosts": str(ssh.known_hosts)}
        mark["ssh"] = login
    endpoints = [
        {
            "name": f"remote/{name}",
            "tier": "REMOTE",
            "node": "mark",
            "engine": "llama.cpp",
            "url": f"http://127.0.0.1:{port}",
            "container": name,
        }
        for name, port in ports.items()
    ]
    return {"version": 1, "name": "five", "nodes": [mark], "tiers": [{"name": "REMOTE"}], "endpoints": endpoints}
