"""A Docker Engine of our own: its data, socket, bridge and control groups belong to it alone and go with it."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.lab.cache import root_tar
from tests.lab.process import Kept, LabError

IMAGE = Path(__file__).with_name("image")
TINY, LLAMACPP, ROOT = "tierdeck-lab/tiny", "tierdeck-lab/llamacpp", "tierdeck-lab/root"
VOLUME = "models-vol"
HOOK = "nvidia-container-runtime-hook"
MAX_ENGINES = 200
PRIVATE_MOUNTS = 'mkdir -p /run/containerd && mount -t tmpfs tmpfs /run/containerd && exec "$@"'
"""Our mounts go with the last process, and a containerd of the system is not seen."""
IDLE = 'CMD ["/bin/sh", "-c", "trap exit TERM; while :; do sleep 1 & wait $!; done"]'


class DockerEngine(Kept):
    """A dockerd that publishes ports on one address and accepts `--gpus` through a hook that does nothing."""

    def __init__(self, directory: Path, *, gpus: bool = True, address: str = "127.0.0.1", netns: str = "") -> None:
        """`directory` gets the log; without `gpus` who asks for one is refused in Docker's own words.

        With `netns`, a network namespace that has `address`, it and its containers live there.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.link = self.cgroup = ""
        self.folder = Path()
        self._gpus = gpus
        self._address = address
        self._netns = netns
        super().__init__([], directory / "dockerd.log")
        inside = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []  # `ip netns exec` hides the control groups
        self.wrap = [*inside, "unshare", "--mount", "sh", "-c", PRIVATE_MOUNTS, "sh"]

    @property
    def socket(self) -> Path:
        """Where the API is served."""
        return self.folder / "docker.sock"

    def start(self) -> None:
        """Starts dockerd, which does not serve yet: `ready` waits."""
        if not self.leftovers:
            self._settle()
        hook = self.folder / "bin" / HOOK
        if self._gpus:
            hook.write_text("#!/bin/sh\nexec cat >/dev/null\n")
            hook.chmod(0o755)
        else:
            hook.unlink(missing_ok=True)
        super().start()

    def _settle(self) -> None:
        """Makes the bridge and a folder whose path is short enough for the sockets in it."""
        self.link = make_bridge(self._netns)
        self.folder = Path(tempfile.mkdtemp(prefix="tierdeck-docker-"))
        self.cgroup = self.folder.name
        self.leftovers = {"link": self.link, "cgroup": self.cgroup, "folder": str(self.folder)}
        (self.folder / "bin").mkdir()
        config = self.folder / "daemon.json"
        config.write_text(json.dumps(self._settings(), indent=2))
        self._command = ["dockerd", "--config-file", config]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"
        self._env = {**clean, "PATH": path, "DOCKER_CONFIG": str(self.folder / "client"), "DOCKER_BUILDKIT": "0"}

    def ready(self) -> None:
        """Waits until the API answers."""
        self.wait_until(lambda: self._docker("version").returncode == 0, 30, "dockerd answers")

    def restart(self, *, gpus: bool | None = None) -> None:
        """As `systemctl restart docker`: stops what runs, starts again, and restart policies act; also after `kill`."""
        self._gpus = self._gpus if gpus is None else gpus
        if self.running:
            self.end(limit=40)
        self.start()
        self.ready()

    def kill(self) -> None:
        """The daemon dies at once; its containers run on, with no way in."""
        self.end("KILL")

    def close(self) -> None:
        """Kills everything, and containers, images and volumes are gone; the log stays."""
        super().close()
        self.leftovers = {}

    def docker(self, *args: str | Path, given: bytes = b"", limit: float = 60) -> str:
        """Runs the docker command on this engine and returns what it prints; LabError with its words when it fails."""
        done = self._docker(*args, given=given, limit=limit)
        if done.returncode:
            raise LabError(f"docker {args[0]}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode(errors="replace").strip()

    def image(self, name: str) -> str:
        """Makes sure that the image is there, TINY in 0.1 s or LLAMACPP in 2 to 3, and returns its name."""
        if not self.docker("images", "-q", name):
            if name == TINY:
                self.docker("import", "--change", IDLE, "-", TINY, given=busybox_tar())
            else:
                self.docker("import", root_tar(), ROOT)
                self.docker("build", "-q", "-t", LLAMACPP, IMAGE)
        return name

    def put(self, source: Path, name: str, volume: str = VOLUME) -> None:
        """Copies a file, holes kept, into a named volume, which is made when it is not there."""
        self.docker("volume", "create", volume)
        folder = self.docker("volume", "inspect", "--format", "{{.Mountpoint}}", volume)
        subprocess.run(["cp", "--sparse=always", source, Path(folder) / name], check=True, timeout=60)

    def _docker(self, *args: str | Path, given: bytes = b"", limit: float = 60) -> "subprocess.CompletedProcess[bytes]":
        command = ["docker", "-H", f"unix://{self.socket}", *args]
        return subprocess.run(command, input=given, capture_output=True, timeout=limit, env=self._env, check=False)

    def _settings(self) -> Mapping[str, object]:
        return {
            "hosts": [f"unix://{self.socket}"],
            "data-root": str(self.folder / "data"),
            "exec-root": str(self.folder / "exec"),
            "pidfile": str(self.folder / "dockerd.pid"),
            "bridge": self.link,
            "cgroup-parent": f"/{self.cgroup}",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "ip": self._address,
            "iptables": False,
            "ip-forward": False,
            "ip-masq": False,
        }


def make_bridge(netns: str = "") -> str:
    """Makes a bridge with a network of its own: each engine has one, so that several run side by side."""
    ip = ["ip", *(["-n", netns] if netns else [])]
    for number in range(MAX_ENGINES):
        name = f"tdlab{number}"
        made = subprocess.run(
            [*ip, "link", "add", name, "type", "bridge"], capture_output=True, timeout=10, check=False
        )
        if made.returncode == 0:
            subprocess.run([*ip, "address", "add", f"10.213.{number}.1/24", "dev", name], check=True, timeout=10)
            subprocess.run([*ip, "link", "set", name, "up"], check=True, timeout=10)
            return name
    raise LabError(f"no bridge could be made: {made.stderr.decode(errors='replace').strip()}")


def busybox_tar() -> bytes:
    """A root file system that is one static program under all its names."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=10).stdout.split()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(busybox, "bin/busybox", recursive=False)
        for applet in sorted(set(applets) - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return packed.getvalue()


def container(
    engine: DockerEngine,
    name: str,
    port: int,
    *,
    model: str = "tiny.gguf",
    gpus: bool = True,
    volume: str = VOLUME,
    restart: str = "no",
    env: Mapping[str, str] | None = None,
    lock: float = 0.0,
    start: bool = True,
) -> str:
    """Creates a llama.cpp container as people do, published on a port of loopback, and starts it; returns its id.

    `model` is a file in the volume, `env` that of image/llama_server.py. With `lock` it initialises its "driver" for
    that many seconds, and containers that do so together hang for ever.
    """
    settings = {"MODEL_PATH": f"/models/{model}", "MODEL_ALIAS": name, **(env or {})}
    if lock:
        settings |= {"LOCK_FILE": "/models/.driver", "LOCK_SECONDS": str(lock)}
    options = [
        "--name",
        name,
        "--restart",
        restart,
        "-v",
        f"{volume}:/models",
        "-p",
        f"{port}:8000",
        "--stop-timeout",
        "1",
    ]
    options += ["--gpus", "all"] if gpus else []
    for key, value in settings.items():
        options += ["-e", f"{key}={value}"]
    identity = engine.docker("create", *options, engine.image(LLAMACPP))
    if start:
        engine.docker("start", name)
    return identity
