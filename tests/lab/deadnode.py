"""A node in a network namespace of its own, with sshd, xrdp and dockerd, that can be made to die in five ways.

It stands for a Windows machine with Docker Desktop: what only a logon starts is started by its session's script.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import tomli_w

from tests.lab.desk import PORT as RDP_PORT
from tests.lab.desk import USER, Desk
from tests.lab.engine import LLAMACPP, DockerEngine, container
from tests.lab.models import tiny_gguf
from tests.lab.process import Kept, LabError, free_port, listens, serves, wait_until
from tests.lab.servers import OpenSsh

NAMES = ("mark-i", "mark-ii", "mark-iii")
PASSWORD = "MARK_RDP_PASSWORD"
DEVICE = "lan0"
MAX_NODES = 100
FAULTS = ("kill_containers", "kill_docker", "log_off", "sleep", "quit_docker_desktop")
PROGRAMS = Path(__file__).with_name("node")
OWN_BOOT = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
"""The node's id of its boot is its own, seen by whoever comes by SSH."""
ONLY_AT_LOGON = "Docker Desktop is not running: it starts when somebody logs on"


class Lan(Kept):
    """A network namespace, a cable from here to it, and the card at its end that hears magic packets."""

    def __init__(self, folder: Path) -> None:
        """`folder` goes with it."""
        number = _free_number()
        self.netns = f"tdnode{number}"
        self.cable = f"{self.netns}h"
        self.ours, self.address = f"10.214.{number}.1", f"10.214.{number}.2"
        self.mac = f"02:74:64:00:00:{number:02x}"
        card = [sys.executable, "-I", "-S", str(PROGRAMS / "card.py"), DEVICE, self.mac, f"{self.address}/24"]
        super().__init__(["ip", "netns", "exec", self.netns, *card], folder / "card.log")
        # The kernel ends a namespace in its own time, and the cable with it; the next node may want its name at once.
        self.leftovers = {"link": self.cable, "netns": self.netns, "folder": str(folder)}

    def start(self) -> None:
        """Starts the card, and plugs the cable in."""
        super().start()
        peer = ["peer", "name", DEVICE, "address", self.mac, "netns", self.netns]
        _ip("link", "add", self.cable, "type", "veth", *peer)
        _ip("address", "add", f"{self.ours}/24", "dev", self.cable)
        _ip("link", "set", self.cable, "up")
        _ip("-n", self.netns, "link", "set", "lo", "up")
        _ip("-n", self.netns, "link", "set", DEVICE, "up")
        self.wake()

    def sleep(self) -> None:
        """The node answers nothing any more, not even who it is; what runs on it stands still for the outside."""
        _ip("-n", self.netns, "address", "flush", "dev", DEVICE)

    def wake(self) -> None:
        """By hand, what the card does."""
        _ip("-n", self.netns, "address", "replace", f"{self.address}/24", "dev", DEVICE)


class DeadNode:
    """The node; its five faults are `kill_containers`, `kill_docker`, `log_off`, `sleep` and `quit_docker_desktop`."""

    def __init__(self, folder: Path, lan: Lan, engine: DockerEngine, ssh: OpenSsh, desk: Desk, nas: OpenSsh) -> None:
        self.folder = folder
        self.lan, self.engine, self.ssh, self.desk, self.nas = lan, engine, ssh, desk, nas
        self.ports = {name: free_port() for name in NAMES}
        self.config = folder / "cluster.toml"
        self.boot_id = folder / "boot_id"
        self.docker_needs_logon = False
        self.at_logon: tuple[str, ...] = ()
        self.restarting = 0.0
        """Seconds that the last restart of Docker took."""
        self._lock = threading.RLock()

    @property
    def env(self) -> Mapping[str, str]:
        """What cluster.toml refers to: it belongs in the environment of who reads it."""
        return {PASSWORD: self.desk.password}

    def serves(self, name: str) -> bool:
        """Whether the container of this name serves, as seen from here."""
        return serves(f"http://{self.lan.address}:{self.ports[name]}/health")

    def ssh_answers(self) -> bool:
        """Whether its SSH port takes connections."""
        return listens(self.lan.address, self.ssh.port)

    def rdp_answers(self) -> bool:
        """Whether its desktop service takes connections."""
        return listens(self.lan.address, RDP_PORT)

    def docker_answers(self) -> bool:
        """Whether its Docker answers, asked on the node itself."""
        return self.engine._docker("version").returncode == 0

    def whole(self) -> bool:
        """Whether all of it answers and serves."""
        return self.ssh_answers() and self.docker_answers() and all(map(self.serves, self.ports))

    def kill_containers(self) -> None:
        """(a) The containers are killed; Docker and SSH answer."""
        self.engine.docker("kill", *self.engine.docker("ps", "--format", "{{.Names}}").split())

    def kill_docker(self) -> None:
        """(b) dockerd is killed; SSH answers, and the inventory's restart command brings Docker back."""
        with self._lock:
            self.engine.kill()

    def log_off(self) -> None:
        """(c) Nobody is logged on: SSH and Docker are down, RDP answers, and a logon brings both back."""
        with self._lock:
            self.docker_needs_logon, self.at_logon = True, ("ssh", "docker")
            self.ssh.close()  # with the connections it has open
            self.engine.end(limit=40)
            self._nobody()

    def sleep(self) -> None:
        """(d) Every packet falls into a hole until the card hears its magic packet."""
        self.lan.sleep()

    def quit_docker_desktop(self) -> None:
        """(e) SSH answers, Docker is down, and only a logon brings it back: the restart command is refused."""
        with self._lock:
            self.docker_needs_logon, self.at_logon = True, ("docker",)
            self.engine.end(limit=40)
            self._nobody()

    def reboot(self) -> None:
        """All of it goes down, and comes back as another boot."""
        with self._lock:
            time.sleep(0.3)  # whoever asked for it by SSH is told that it begins
            self.ssh.close()
            self.engine.end(limit=40)
            self._nobody()
            time.sleep(1.5)
            self.boot_id.write_text(f"{uuid.uuid4()}\n")
            self._start("ssh")
            self._start("docker")

    def heal(self) -> None:
        """Undoes every fault by hand, one container after the other; nobody is logged on afterwards."""
        with self._lock:
            self.docker_needs_logon, self.at_logon = False, ()
            self.lan.wake()
            self._start("ssh")
            self._start("docker")
            self._nobody()
            for name in self.ports:
                if not self.serves(name):
                    self.engine.docker("stop", "--time", "0", name)
                    self.engine.docker("start", name)
                    wait_until(partial(self.serves, name), 30, f"{name} serves")

    def manage(self) -> None:
        """The node's service manager: does what `service.sh` asks, until told to end; for a thread."""
        with open(self.folder / "requests", "r+b", buffering=0) as requests:  # a writer itself, and so without an end
            while (asked := requests.readline().decode().split()) != ["end"]:
                status, words = self._serve(asked[1:])
                answer = self.folder / "answers" / asked[0]
                fresh = answer.with_suffix(".new")
                fresh.write_text(f"{status} {words}\n")
                fresh.rename(answer)

    def _serve(self, asked: list[str]) -> tuple[int, str]:
        with self._lock:
            try:
                if asked == ["logon"]:
                    for part in self.at_logon:
                        self._start(part)
                    return 0, ""
                if asked == ["restart", "docker"]:
                    if self.docker_needs_logon:
                        return 1, ONLY_AT_LOGON
                    began = time.monotonic()
                    self.engine.restart()
                    self.restarting = time.monotonic() - began
                    return 0, ""
                if asked == ["reboot"]:
                    threading.Thread(target=self.reboot, name="reboot").start()
                    return 0, ""
                return 1, f"no such service: {' '.join(asked)}"
            except LabError as error:
                return 1, str(error)

    def _start(self, part: str) -> None:
        kept: Kept = self.engine if part == "docker" else self.ssh
        if not kept.running:
            kept.start()
            kept.ready()

    def _nobody(self) -> None:
        """Ends every desktop session."""
        self.desk.close()
        self.desk.start()
        self.desk.ready()


@contextmanager
def start_dead_node(
    directory: Path, *, lock: float = 0.5, gap: float = 0.2, recover: str = "manual"
) -> Iterator[DeadNode]:
    """Starts the node, whole and well; `recover` is "manual" or the highest rung climbed unattended."""
    directory.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="tierdeck-node-"))
    folder.chmod(0o755)  # its user must get through
    with ExitStack() as stack:
        lan = stack.enter_context(Lan(folder))
        engine = stack.enter_context(DockerEngine(directory / "docker", address=lan.address, netns=lan.netns))
        (folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        ssh = OpenSsh(directory / "ssh", address=lan.address, netns=lan.netns)
        ssh.wrap += ["sh", "-c", OWN_BOOT, str(folder / "boot_id")]
        stack.enter_context(ssh)
        nas = stack.enter_context(OpenSsh(directory / "nas"))
        desk = stack.enter_context(Desk(folder / "desk", lan.netns, lan.address, folder / "service.sh logon"))
        node = DeadNode(folder, lan, engine, ssh, desk, nas)
        stack.enter_context(_managed(node))
        engine.image(LLAMACPP)
        engine.put(tiny_gguf(directory / "tiny.gguf"), "tiny.gguf")
        for name, port in node.ports.items():
            container(engine, name, port, lock=lock, start=False)
        node.config.write_text(tomli_w.dumps(inventory(node, gap, recover)))
        node.heal()
        yield node


@contextmanager
def _managed(node: DeadNode) -> Iterator[None]:
    shutil.copy(PROGRAMS / "service.sh", node.folder / "service.sh")
    (node.folder / "service.sh").chmod(0o755)
    (node.folder / "answers").mkdir(mode=0o777)
    requests = node.folder / "requests"
    os.mkfifo(requests)
    requests.chmod(0o666)
    manager = threading.Thread(target=node.manage, name="services", daemon=True)
    manager.start()
    try:
        yield
    finally:
        requests.write_text("end\n")
        manager.join(60)


def inventory(node: DeadNode, gap: float, recover: str) -> dict[str, object]:
    """What cluster.toml says: the node, and beside it one that keeps its lease while it is away."""

    def login(ssh: OpenSsh) -> dict[str, object]:
        return {"user": ssh.user, "port": ssh.port, "key": str(ssh.key), "known_hosts": str(ssh.known_hosts)}

    rdp = {"user": USER, "password": f"env:{PASSWORD}", "port": RDP_PORT}
    mark = {
        "name": "mark",
        "address": node.lan.address,
        "ssh": login(node.ssh),
        "docker": {"socket": str(node.engine.socket), "restart": f"{node.folder}/service.sh restart docker"},
        "wake": {"mac": node.lan.mac, "rdp": rdp},
        "reboot": f"{node.folder}/service.sh reboot",
        "queue": {"order": list(node.ports), "gap": f"{gap:g}s", "ready_timeout": "30s"},
        "recover": recover if recover == "manual" else {"auto": recover},
    }
    endpoints = [
        {
            "name": f"remote/{name}",
            "tier": "REMOTE",
            "node": "mark",
            "engine": "llama.cpp",
            "url": f"http://{node.lan.address}:{port}",
            "container": name,
        }
        for name, port in node.ports.items()
    ]
    nas = {"name": "nas", "address": "127.0.0.1", "ssh": login(node.nas), "docker": False}
    return {
        "version": 1,
        "name": "dead",
        "lock_host": "nas",
        "defaults": {"interval": "1s", "timeout": "2s"},
        "nodes": [mark, nas],
        "tiers": [{"name": "REMOTE"}],
        "endpoints": endpoints,
    }


def _free_number() -> int:
    """The number of a namespace that is ours from now on."""
    for number in range(1, MAX_NODES):
        with contextlib.suppress(LabError):
            _ip("netns", "add", f"tdnode{number}")
            return number
    raise LabError("no network namespace could be made")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise LabError(f"ip {' '.join(words)}: {done.stderr.strip()}")
