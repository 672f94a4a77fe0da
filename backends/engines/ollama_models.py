"""What Ollama says of a model without loading it: its header by /api/show, or its blob's place in a registry."""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backends.engines.http import Http
from backends.engines.ollama import tagged
from backends.engines.target import ProbeFailure, Target
from backends.errors import ReachError
from backends.memory.headers import Header, HeaderError, Tensor, Value
from backends.memory.quants import KINDS, Kind
from backends.text import plain

CONTEXT: Final = 4096
"""Tokens of context that Ollama takes where nobody says otherwise (OLLAMA_CONTEXT_LENGTH; GPUs of 24 GB and more
get 32768 or 262144 in newer versions)."""

_LIMIT, _MOST = 20.0, 8 << 20
_NAMED = {kind.name: kind for kind in KINDS.values()}
_WEIGHTS = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class _Tensor(BaseModel):
    model_config = ConfigDict(str_max_length=1000)
    name: str
    type: str
    shape: list[int] = Field(min_length=1, max_length=4)


class _Shown(BaseModel):
    model_info: dict[str, Any]
    tensors: list[_Tensor] | None = None


class _Layer(BaseModel):
    media_type: str = Field(alias="mediaType")
    digest: str


class _Manifest(BaseModel):
    layers: list[_Layer]


async def show(http: Http, target: Target, model: str) -> Header | None:
    """The header of a model that an Ollama has, None where it has none of that name; ReachError where it is silent."""
    body = json.dumps({"model": tagged(model)}).encode()
    try:
        answer = await http.post(
            f"{target.url}/api/show", body, timeout=_LIMIT, headers=target.headers, limit=_MOST, via=target.via
        )
    except ProbeFailure as failure:
        raise ReachError(f"Ollama at {target.url}: {failure.evidence}.") from None
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise ReachError(f"Ollama at {target.url} answers {answer.status} to /api/show.")
    try:
        shown = _Shown.model_validate_json(answer.body)
    except ValidationError:
        raise ReachError(f"Ollama at {target.url} answers /api/show in a way that makes no sense.") from None
    if not shown.tensors:
        raise ReachError(f"Ollama at {target.url} does not tell the tensors of {model}.", "Versions since 0.5.5 do.")
    return Header(dict(_values(shown.model_info)), tuple(map(_tensor, shown.tensors)), {}, len(answer.body))


def _values(said: dict[str, Any]) -> list[tuple[str, Value]]:
    found: list[tuple[str, Value]] = []
    for key, value in said.items():
        if isinstance(value, list):
            value = tuple(value)
        if isinstance(value, str | int | float | bool | tuple):
            found.append((key, value))
    return found


def _tensor(said: _Tensor) -> Tensor:
    kind: Kind | None = _NAMED.get(said.type.upper())
    if kind is None:
        raise HeaderError(f"its tensor {said.name[:80]!r} has the type {plain(said.type)}, which is not known here.")
    tensor = Tensor(said.name, tuple(said.shape), kind)
    if min(said.shape) < 1 or tensor.elements >= 1 << 50:
        raise HeaderError(f"its tensor {said.name[:80]!r} has the impossible dimensions {said.shape}.")
    return tensor


def is_registry_name(name: str) -> bool:
    """Whether it names a model with its registry, as Ollama writes that: HOST/NAMESPACE/MODEL[:TAG]."""
    host, _, rest = name.partition("/")
    return rest.count("/") == 1 and ("." in host or ":" in host or host == "localhost") and not host.startswith(".")


async def blob_address(http: Http, name: str) -> str:
    """Where the weights of a model that is not pulled can be read; ReachError where its registry does not say."""
    host, _, rest = name.partition("/")
    path, _, tag = rest.partition(":")
    here = urlsplit(f"//{host}").hostname in ("localhost", "127.0.0.1", "::1")
    base = f"{'http' if here else 'https'}://{host}/v2/{quote(path)}"
    accepted = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
    try:
        answer = await http.get(f"{base}/manifests/{quote(tag or 'latest')}", timeout=_LIMIT, headers=accepted)
    except ProbeFailure as failure:
        raise ReachError(f"The registry {host}: {failure.evidence}.") from None
    if answer.status != 200:
        raise ReachError(f"The registry {host} answers {answer.status} for {path}:{tag or 'latest'}.")
    try:
        layers = _Manifest.model_validate_json(answer.body).layers
    except ValidationError:
        raise ReachError(f"The registry {host} answers with a manifest that makes no sense.") from None
    found = [layer.digest for layer in layers if layer.media_type == _WEIGHTS and _DIGEST.fullmatch(layer.digest)]
    if not found:
        raise ReachError(f"{name} has no weights in the GGUF format, as far as its manifest says.")
    return f"{base}/blobs/{found[0]}"
