"""Servers that run beside the containers: OpenSSH, llama.cpp without Docker, and the LiteLLM proxy."""

import getpass
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.lab.cache import cache, llama_python
from tests.lab.process import Kept, free_port, listens, serves

LLAMA_SERVER = Path(__file__).with_name("image") / "llama_server.py"


class OpenSsh(Kept):
    """An OpenSSH server, on loopback by default, with a host key and a user's key made for it; it runs as us.

    Its sessions have a `home` of their own: leases lie there, and no start-up file of ours is cut in its midst.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        address: str = "127.0.0.1",
        netns: str = "",
        max_sessions: int = 10,
        permit_root: str = "prohibit-password",
        sftp: bool = True,
        session_env: Mapping[str, str] | None = None,
    ) -> None:
        """`session_env` is set in every session; `port` 0 takes a free one; `netns` has the address, if it is said."""
        self.home = directory / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self.address = address
        self.port = port or free_port()
        self.user = getpass.getuser()
        self.key = make_key(directory / "id_ed25519")
        self.known_hosts = directory / "known_hosts"
        host_key = make_key(directory / "host_key")
        kind, public, _ = host_key.with_suffix(".pub").read_text().split()
        self.known_hosts.write_text(f"[{self.address}]:{self.port} {kind} {public}\n")
        env = {"HOME": str(self.home), **(session_env or {})}
        settings = [
            f"ListenAddress {self.address}:{self.port}",
            f"HostKey {host_key}",
            f"AuthorizedKeysFile {self.key.with_suffix('.pub')}",
            f"MaxSessions {max_sessions}",
            "MaxStartups 100",
            f"PermitRootLogin {permit_root}",
            "PasswordAuthentication no",
            "StrictModes no",
            "PidFile none",
            "AllowStreamLocalForwarding yes",
            "SetEnv " + " ".join(f"{name}={value}" for name, value in env.items()),
        ]
        if sftp:
            settings.append(f"Subsystem sftp internal-sftp -d {self.home}")
        config = directory / "sshd_config"
        config.write_text("\n".join(settings) + "\n")
        Path("/run/sshd").mkdir(exist_ok=True)
        super().__init__(["/usr/sbin/sshd", "-D", "-e", "-f", config], directory / "sshd.log")
        self.wrap = ["ip", "netns", "exec", netns] if netns else []

    def ready(self) -> None:
        """Waits until it listens."""
        self.wait_until(lambda: listens(self.address, self.port), 10, "sshd listens")


def make_key(path: Path) -> Path:
    """Makes an ed25519 key without a passphrase, and its public half beside it."""
    if not path.exists():
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)]
        subprocess.run(command, check=True, timeout=10)
    return path


class LlamaServer(Kept):
    """llama.cpp's own server as a plain process; the environment is that of image/llama_server.py."""

    def __init__(self, model: Path, log: Path, *, port: int = 0, env: Mapping[str, str] | None = None) -> None:
        port = port or free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = {"HOST": "127.0.0.1", "PORT": str(port), "MODEL_PATH": str(model), **(env or {})}
        super().__init__([llama_python(), "-u", LLAMA_SERVER], log, env={**os.environ, **settings})

    def ready(self, limit: float = 60) -> None:
        """Waits until the model is loaded; who wants to see it load calls `start` and `close` instead of `with`."""
        self.wait_until(lambda: serves(f"{self.url}/health"), limit, "llama.cpp serves")


class LiteLlm(Kept):
    """The LiteLLM proxy on loopback, its key in its environment alone; some 15 s pass from start to ready."""

    def __init__(self, directory: Path, config: str, master_key: str, *, port: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "config.yaml"
        path.write_text(config)
        port = port or free_port()
        self.url = f"http://127.0.0.1:{port}"
        programs = cache() / "litellm/bin"
        program: list[str | Path] = [programs / "python", programs / "litellm", "--config", path]
        command = [*program, "--host", "127.0.0.1", "--port", str(port)]
        env = {**os.environ, "LITELLM_MASTER_KEY": master_key, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        super().__init__(command, directory / "litellm.log", env=env)

    def ready(self, limit: float = 120) -> None:
        """Waits until it says that it lives."""
        self.wait_until(lambda: serves(f"{self.url}/health/liveliness"), limit, "LiteLLM lives")
