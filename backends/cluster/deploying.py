"""What a person wants deployed: one model, served by one container of one node, in a TOML file of its own.

The attribute docstrings here are the manual of that file, as those of the tables are of cluster.toml.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, ValidationError

from backends.cluster.fields import Duration, Mib, Reference
from backends.cluster.lines import line_of
from backends.cluster.tables import Table
from backends.cluster.words import Task
from backends.cluster.written import explain, mistake, plain_place, read

Preset = Literal["llama.cpp", "ollama", "vllm", "litellm"]

_CONTAINER: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_SECRET: Final = re.compile(r"key|token|passw|secret|credential", re.IGNORECASE)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_HUB: Final = re.compile(r"hf:[\w.-]+/[\w.-]+@[\w./-]+")


def _container(value: str) -> str:
    if not _CONTAINER.fullmatch(value):
        raise ValueError("a name that Docker takes: letters, digits, and . _ - after the first")
    return value


def _source(value: str) -> str:
    if value.startswith("hf:") and not _HUB.fullmatch(value):
        raise ValueError('a repository at a pinned revision, such as "hf:ORGANISATION/REPOSITORY@REVISION"')
    if value.startswith("ssh:") and value.count(":") < 2:
        raise ValueError('a file of another node, such as "ssh:nas:/srv/models/model.gguf"')
    if not value.strip():
        raise ValueError('a path, "ssh:NODE:PATH", an address, or "hf:ORGANISATION/REPOSITORY@REVISION"')
    return value


def _sha256(value: str) -> str:
    if not _SHA256.fullmatch(value.lower()):
        raise ValueError("the 64 hexadecimal digits of a SHA-256")
    return value.lower()


def _without_secrets(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if _SECRET.search(name):
            raise ValueError(
                f"no secrets here: {name} would stand in the environment for all to read; use api_key or token, "
                "as references"
            )
    return value


ContainerName = Annotated[str, AfterValidator(_container)]
ModelSource = Annotated[str, AfterValidator(_source)]
Sha256 = Annotated[str, AfterValidator(_sha256)]
Variables = Annotated[dict[str, str], AfterValidator(_without_secrets)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Spec(Table):
    """One model, served by one container."""

    version: Literal[1]
    """The version of this file's format: 1."""
    name: ContainerName
    """The name of the container, and of the deployment."""
    node: str
    """The node it is to run on."""
    preset: Preset
    """What serves it: llama.cpp, ollama, vllm, litellm."""
    image: str
    """The image, with the tag or digest you want to keep; `latest` is somebody else's decision."""
    port: Port
    """The port of the node at which it will answer."""
    model: ModelSource | None = None
    """The model: a path of this machine, ssh:NODE:PATH, an address, or hf:ORGANISATION/REPOSITORY@REVISION. For litellm
    its config.yaml."""
    pull: str | None = None
    """ollama: the model it is to pull itself, instead of a file."""
    sha256: Sha256 | None = None
    """The SHA-256 of the model's file."""
    token: Reference | None = None
    """A reference to the token that the source of the model wants (Hugging Face, or an address)."""
    volume: ContainerName | None = None
    """The volume the model is copied into; NAME-models if nothing is said."""
    namespace: str | None = None
    """Kubernetes: the namespace it goes to; the first of its cluster's table if nothing is said, else default."""
    storage: str | None = None
    """Kubernetes: the size of its volume, such as "100Gi"; the model's with some room if nothing is said."""
    storage_class: str | None = None
    """Kubernetes: the storage class of its volume; the cluster's default if nothing is said."""
    helper: str | None = None
    """The image by which files get into the volume; it needs a shell. The same image if nothing is said."""
    bind: str | None = None
    """The address of the node it listens at: all of them with an api_key, loopback without one, if nothing is said."""
    context: Annotated[int, Field(gt=0)] | None = None
    """Its context in tokens; what the model was trained for if nothing is said."""
    gpu_layers: Annotated[int, Field(ge=0)] | None = None
    """llama.cpp: how many layers go to the GPU; all of them if nothing is said."""
    parallel: Annotated[int, Field(ge=1, le=256)] = 1
    """llama.cpp, ollama: how many prompts are answered side by side."""
    gpus: Literal["all", "none"] | tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """The GPUs it gets: "all", "none", or numbers as in [0, 1]; all that the node has if nothing is said."""
    utilisation: Annotated[float, Field(gt=0, le=1)] = 0.9
    """vllm: the share of each GPU's memory it takes."""
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] | None = None
    """vllm: over how many GPUs the model is split; over all it gets if nothing is said."""
    offload: Mib | None = None
    """vllm: how much RAM keeps its cache beyond the GPU's, through LMCache, such as "16GiB"."""
    keep_alive: Duration | None = None
    """ollama: how long a model stays loaded; its own 5 minutes if nothing is said."""
    api_key: Reference | None = None
    """A reference to the key it is to ask for; it gets it as a file, not in its environment."""
    environment: Variables = Field(default_factory=dict)
    """Further variables of its environment; no secrets."""
    arguments: tuple[str, ...] = ()
    """Further arguments, after those of the preset."""
    tier: str | None = None
    """The tier of its endpoint; the node's first if nothing is said."""
    tasks: tuple[Task, ...] = ()
    """The tasks it is to serve; chat if nothing is said."""
    on_demand: bool = False
    """Started when wanted, by `tierdeck up`, and not with the node's queue."""
    idle: Duration | None = None
    """on_demand: how long without work until `tierdeck watch` stops it; never if nothing is said."""
    gateway: bool = False
    """Whether LiteLLM is to serve it, too: what is rendered then takes the place of the gateway's file."""
    prompt: str = "Say one word."
    """What it is asked once to see that it answers."""

    @property
    def endpoint(self) -> str:
        """The name of its endpoint."""
        return f"{self.node}/{self.name}"

    @property
    def volume_name(self) -> str:
        """The volume the model is copied into."""
        return self.volume or f"{self.name}-models"

    @property
    def file(self) -> str:
        """The model's name in the volume: of its file, or of its repository's folder; "" without one."""
        if self.model is None:
            return ""
        if self.model.startswith("hf:"):
            return self.model[3:].partition("@")[0].rpartition("/")[2]
        path = urlsplit(self.model).path if "://" in self.model else self.model.rpartition(":")[2]
        return unquote(posixpath.basename(path.replace("\\", "/")))

    def mistakes(self) -> Iterator[tuple[str, str]]:
        """What does not fit together, as (the key, what is wrong)."""
        if self.preset == "ollama":
            if (self.model is None) == (self.pull is None):
                yield "preset", "an Ollama needs either model, a GGUF file, or pull, the name of a model"
        elif self.pull is not None:
            yield "pull", "only an Ollama pulls its models itself; say model"
        elif self.model is None:
            yield "preset", f"{self.preset} needs model: the file or repository it is to serve"
        if self.preset == "vllm" and self.model is not None and self.model.endswith(".gguf"):
            yield "model", "vLLM serves a folder of safetensors; a GGUF file is for llama.cpp or ollama"
        if self.preset == "litellm" and self.api_key is None:
            yield "preset", "LiteLLM does not start without a master key; say api_key, a reference to it"
        if self.preset == "ollama" and self.api_key is not None:
            yield "api_key", "Ollama asks for no key; keep it on loopback, or behind a proxy"
        for key in ("utilisation", "tensor_parallel", "offload"):
            if key in self.model_fields_set and self.preset != "vllm":
                yield key, f"{key} is for vllm"
        if self.gateway and self.preset == "litellm":
            yield "gateway", "gateway is for engines; a LiteLLM is one itself"
        if self.idle is not None and not self.on_demand:
            yield "idle", "idle is for what is on_demand"
        if self.keep_alive is not None and self.preset != "ollama":
            yield "keep_alive", "keep_alive is for ollama"
        if self.gpu_layers is not None and self.preset != "llama.cpp":
            yield "gpu_layers", "gpu_layers is for llama.cpp"


def load_spec(path: Path) -> Spec:
    """Read a deployment; InventoryError with file, line, expectation and nearest valid word."""
    source = read(path, advice="Name a file, or write one by answering: tierdeck deploy FILE --new")
    try:
        spec = Spec.model_validate(source.data)
    except ValidationError as error:
        first = min(
            error.errors(include_url=False), key=lambda e: (line_of(source.lines, e["loc"]) or 0, -len(e["loc"]))
        )
        raise explain(source, plain_place(first["loc"]), dict(first), Spec) from None
    for key, wrong in spec.mistakes():
        raise mistake(source, line_of(source.lines, (key,)) or 1, f"{wrong}.")
    return spec
