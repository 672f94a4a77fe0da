"""What is wrong with how containers were made, whoever made them: pure rules over what Docker's inspect tells.

No rule shows a secret: of an environment only the names are told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backends.cluster.reading import Workload

BIND_LIMIT: Final = 1_500_000_000
"""Bytes over which a model belongs into a volume under Docker Desktop: bind mounts are slow there, and loads fail."""

_SECRET: Final = re.compile(r"(^|_)(key|token|password|passwd|secret|credentials?)(_|$)|api_?key", re.IGNORECASE)
_NO_VALUE: Final = re.compile(r"(/|os\.environ/|\$\{?\w|(vault|azure-kv|keyring|pass|op|env|prompt):).*|", re.DOTALL)
_OURS: Final = "tierdeck-"
_EVERYWHERE: Final = ("", "0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Remark:
    """One finding: its rule, the node and container, what is wrong and why it matters, and the cure.

    `fix` is a command that cures it and endangers nothing; "" where a person has to decide.
    """

    rule: str
    node: str
    container: str
    message: str
    why: str
    cure: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A container as Docker inspects it, on an engine that is Docker Desktop's or not.

    `sizes` are the bytes of the files on its bind mounts, by path in the container, as far as they are known.
    """

    node: str
    inspected: Mapping[str, Any]
    desktop: bool = False
    sizes: Mapping[str, int | None] | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.inspected.get("Name") or "").removeprefix("/")

    @property
    def config(self) -> Mapping[str, Any]:
        """How its program is started."""
        return _dict(self.inspected.get("Config"))

    @property
    def host(self) -> Mapping[str, Any]:
        """What it gets of its host."""
        return _dict(self.inspected.get("HostConfig"))

    @property
    def image(self) -> str:
        """Its image."""
        return str(self.config.get("Image") or "")

    @property
    def words(self) -> list[str]:
        """Its command line."""
        return [str(word) for key in ("Entrypoint", "Cmd") for word in _list(self.config.get(key))]

    @property
    def environment(self) -> dict[str, str]:
        """Its environment; values may be secrets."""
        return dict(str(pair).partition("=")[::2] for pair in _list(self.config.get("Env")))

    @property
    def engine(self) -> str:
        """Which engine it seems to run; "" where it is none of those."""
        told = " ".join([self.image, *self.words]).lower()
        known = (("litellm", "litellm"), ("vllm", "vllm"), ("llama.cpp", "llama"), ("ollama", "ollama"))
        if "ollama" in told:
            return "ollama"
        return next((engine for engine, word in known if word in told), "")

    @property
    def gpu(self) -> bool:
        """Whether it was given GPUs in any way."""
        host = self.host
        devices = [str(_dict(each).get("PathOnHost")) for each in _list(host.get("Devices"))]
        held = any(each.startswith(("/dev/kfd", "/dev/dri", "/dev/nvidia")) for each in devices)
        return bool(host.get("DeviceRequests")) or host.get("Runtime") == "nvidia" or held

    @property
    def open_ports(self) -> list[str]:
        """The host's ports it is published at for everybody."""
        tables = _dict(self.host.get("PortBindings")).values()
        bindings = [_dict(each) for table in tables for each in _list(table)]
        return [str(b.get("HostPort") or "") for b in bindings if str(b.get("HostIp") or "") in _EVERYWHERE]


Rule = Callable[[Seen], Iterator[Remark]]


def lint(containers: Sequence[Seen]) -> list[Remark]:
    """All that is wrong, container by container; tierdeck's own helpers are left out."""
    return [remark for seen in containers if not seen.name.startswith(_OURS) for rule in RULES for remark in rule(seen)]


def scanned(node: str, workload: Workload) -> Iterator[Remark]:
    """What scanners found in a workload, where a person should look, or why their reports cannot be read."""
    for scan in workload.scans:
        image = scan.kind == "vulnerabilities"
        if scan.grave or scan.trouble:
            yield Remark(
                scan.kind, node, workload.name, f"{scan.words} (by {scan.scanner})",
                "Whoever reaches it may use what is known of its image." if image
                else "Whoever gets into it gets further than need be.",
                "Take an image that is mended." if image else "Its report names each check, and what to set.",
            )  # fmt: skip


def binds(inspected: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The bind mounts of a container: where in the container, and what of the host."""
    mounts = [_dict(each) for each in _list(inspected.get("Mounts"))]
    return [(str(m.get("Destination")), str(m.get("Source"))) for m in mounts if m.get("Type") == "bind"]


def models(seen: Seen) -> list[str]:
    """The files in the container that its command line or environment names as models."""
    said = [*seen.words, *seen.environment.values()]
    return sorted({word for word in said if word.startswith("/") and word.endswith((".gguf", ".safetensors", ".bin"))})


def _bind_mount(seen: Seen) -> Iterator[Remark]:
    for path, size in (seen.sizes or {}).items() if seen.desktop else ():
        if size is not None and size > BIND_LIMIT:
            yield Remark(
                "bind-mount", seen.node, seen.name, f"{path} ({size / 1e9:.1f} GB) lies on a bind mount",
                "Docker Desktop reads those at a hundredth of a volume's speed, and large GPU loads fail on them.",
                "Copy it into a volume: tierdeck deploy does.",
            )  # fmt: skip


def _restart(seen: Seen) -> Iterator[Remark]:
    policy = str(_dict(seen.host.get("RestartPolicy")).get("Name") or "no")
    if seen.gpu and policy not in ("no", ""):
        yield Remark(
            "restart-policy", seen.node, seen.name, f"restart policy {policy}",
            "After a boot Docker starts its GPU containers at once, past the start queue; that can hang the driver.",
            "Let the queue start them.", f"tierdeck queue boot {seen.node}",
        )  # fmt: skip


def _no_key(seen: Seen) -> Iterator[Remark]:
    flags = {"--api-key", "--api-key-file"}
    keyed = any(word.partition("=")[0] in flags for word in seen.words)
    keyed = keyed or bool({"LLAMA_API_KEY", "LLAMA_ARG_API_KEY", "VLLM_API_KEY", "API_KEY"} & set(seen.environment))
    keyed = keyed or any("VLLM_API_KEY" in word for word in seen.words)
    if seen.engine in ("vllm", "llama.cpp") and seen.open_ports and not keyed:
        yield Remark(
            "no-key", seen.node, seen.name,
            f"{seen.engine} without an API key, open to all at port {', '.join(seen.open_ports)}",
            "Whoever reaches the machine can use the model, and read what others ask where it keeps logs.",
            "Give it a key as a file (api_key of a deployment), or publish it at 127.0.0.1 only.",
        )  # fmt: skip


def _master_key(seen: Seen) -> Iterator[Remark]:
    named = any("LITELLM_MASTER_KEY" in word for word in seen.words) or "LITELLM_MASTER_KEY" in seen.environment
    if seen.engine == "litellm" and not named:
        yield Remark(
            "no-master-key", seen.node, seen.name, "LiteLLM without a master key, as far as its container tells",
            "Without one everybody who reaches it is its administrator (newer ones refuse to start).",
            "Set LITELLM_MASTER_KEY from a 0600 file, or general_settings.master_key in its config.",
        )  # fmt: skip


def _plain_keys(seen: Seen) -> Iterator[Remark]:
    found = [n for n, value in seen.environment.items() if _SECRET.search(n) and not _NO_VALUE.fullmatch(value)]
    found = [name for name in found if not name.upper().endswith(("_FILE", "_PATH"))]
    if found:
        yield Remark(
            "plaintext-key", seen.node, seen.name, f"secrets in its environment: {', '.join(sorted(found))}",
            "Everybody who may use Docker reads them by `docker inspect`, and so does every process in it.",
            "Put each into a 0600 file that the entrypoint reads (export NAME=\"$(cat FILE)\"), and change the key.",
        )  # fmt: skip


def _latest(seen: Seen) -> Iterator[Remark]:
    tag = seen.image.rpartition(":")[2]
    if "@" not in seen.image and not seen.image.startswith("sha256:") and (tag in ("latest", seen.image) or "/" in tag):
        yield Remark(
            "latest", seen.node, seen.name, f"image {seen.image} without a version",
            "The next pull may bring another engine, and nobody can tell what ran when it worked.",
            "Name a tag with a version, or the digest.",
        )  # fmt: skip


def _healthcheck(seen: Seen) -> Iterator[Remark]:
    test = _list(_dict(seen.config.get("Healthcheck")).get("Test"))
    if seen.engine and (not test or test == ["NONE"]):
        yield Remark(
            "no-healthcheck", seen.node, seen.name, "no health check",
            "Docker calls it running while it still loads, or hangs.", "Give it one, as deployments do.",
        )  # fmt: skip


def _no_gpu(seen: Seen) -> Iterator[Remark]:
    told = f"{seen.image} {' '.join(seen.words)}".lower()
    wants = "cuda" in told or "rocm" in told or (seen.engine == "vllm" and "cpu" not in told)
    layers = re.search(r"(--n-gpu-layers|--gpu-layers|-ngl)[= ]0(\s|$)", " ".join(seen.words))
    if wants and not seen.gpu and not layers:
        yield Remark(
            "no-gpu", seen.node, seen.name, "made for a GPU, and given none",
            "It runs on the CPU without a word, or does not start.", "Create it with --gpus all (AMD: its devices).",
        )  # fmt: skip


RULES: Final[tuple[Rule, ...]] = (
    _bind_mount, _restart, _no_key, _master_key, _plain_keys, _latest, _healthcheck, _no_gpu,
)  # fmt: skip


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
