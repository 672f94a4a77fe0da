"""A real control plane: etcd, the API server, the controllers and the scheduler of Kubernetes, as plain processes."""

from __future__ import annotations

import ssl
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.kubernetes.pki import Authority
from tests.lab.cache import cache
from tests.lab.process import Kept, free_port, serves

ADMIN, VIEWER = "admin-token", "viewer-token"
ADDRESS = "10.211.7.1"
"""Where pods and kubelets are: not loopback, to which no API server proxies."""


class ControlPlane:
    """What a cluster's first machine runs; its nodes are played by kubelets.py."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.etcd, self.port = free_port(), free_port()
        self.authority = Authority(folder)
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """Where the API server listens, by TLS."""
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, folder: Path, token: str = ADMIN, user: dict[str, Any] | None = None) -> Path:
        """A kubeconfig that leads here, by a token or as `user` says."""
        cluster = {"server": self.url, "certificate-authority": str(self.authority.path)}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "home",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user or {"token": token}}],
            "contexts": [{"name": "home", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_Address(self.folder / "address.log"))
            stack.enter_context(self._etcd())
            self.api = stack.enter_context(self._api())
            config = self.kubeconfig(self.folder)
            programs: tuple[tuple[str, ...], ...] = (
                ("kube-controller-manager", "--service-account-private-key-file", str(self._account_key),
                 "--controllers", "*,-nodelifecycle,-bootstrapsigner,-tokencleaner,-csrsigning"),
                ("kube-scheduler",),
            )  # fmt: skip
            for program, *options in programs:
                own = ["--leader-elect=false", "--port=0", "--secure-port", str(free_port())]
                given = ["--kubeconfig", str(config), "--cert-dir", str(self.folder / program), *own, *options]
                stack.enter_context(Kept([binary(program), *given], self.folder / f"{program}.log"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def restart_api(self) -> None:
        """What an upgrade of the API server is to those who watch."""
        self.api.end("KILL")
        self.api.start()
        self.api.ready()

    def _etcd(self) -> Kept:
        client, peer = f"http://127.0.0.1:{self.etcd}", f"http://127.0.0.1:{free_port()}"
        command: list[str | Path] = [
            "/usr/bin/etcd", "--data-dir", self.folder / "etcd", "--listen-client-urls", client,
            "--advertise-client-urls", client, "--listen-peer-urls", peer,
            "--initial-cluster", f"default={peer}", "--initial-advertise-peer-urls", peer,
        ]  # fmt: skip
        return _Serving(command, self.folder / "etcd.log", f"{client}/health")

    def _api(self) -> Kept:
        certificate, key = self.authority.pair("kube-apiserver", host="127.0.0.1")
        account, self._account_key = self.authority.pair("accounts")
        tokens = self.folder / "tokens.csv"
        tokens.write_text(f'{ADMIN},admin,1,"system:masters"\n{VIEWER},viewer,2\n')
        command: list[str | Path] = [
            binary("kube-apiserver"), "--etcd-servers", f"http://127.0.0.1:{self.etcd}",
            "--secure-port", str(self.port), "--bind-address", "127.0.0.1", "--advertise-address", ADDRESS,
            "--tls-cert-file", certificate, "--tls-private-key-file", key,
            "--client-ca-file", self.authority.path, "--token-auth-file", tokens,
            "--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.212.0.0/24",
            "--service-account-issuer", "https://kubernetes.default.svc",
            "--service-account-key-file", account, "--service-account-signing-key-file", self._account_key,
            "--kubelet-preferred-address-types", "InternalIP",
        ]  # fmt: skip
        return _Serving(command, self.folder / "kube-apiserver.log", f"{self.url}/readyz", self.authority.path)


class _Serving(Kept):
    """A server that says when it is ready."""

    def __init__(self, command: list[str | Path], log: Path, url: str, authority: Path | None = None) -> None:
        super().__init__(command, log)
        self._url, self._authority = url, authority

    def ready(self) -> None:
        self.wait_until(self._serves, 60, f"{self.name} is ready")

    def _serves(self) -> bool:
        if self._authority is None:
            return serves(self._url)
        trust = ssl.create_default_context(cafile=self._authority)
        try:
            with urllib.request.urlopen(self._url, timeout=2, context=trust) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def binary(program: str) -> Path:
    """What kubernetes.sh built."""
    return cache() / "kubernetes" / program


class _Address(Kept):
    """The address of the pods, on a device that goes with it."""

    def __init__(self, log: Path) -> None:
        add = f"ip link add tdk0 type veth peer name tdk1 && ip addr add {ADDRESS}/24 dev tdk0 && ip link set tdk0 up"
        super().__init__(["sh", "-c", f"{add} && ip link set tdk1 up && exec sleep infinity"], log)
        self.leftovers = {"link": "tdk0"}

    def ready(self) -> None:
        self.wait_until(lambda: is_up(), 10, "the link is up")


def is_up() -> bool:
    """Whether both ends of the link are."""
    state = Path("/sys/class/net/tdk1/operstate")
    return state.exists() and state.read_text() == "up\n"
