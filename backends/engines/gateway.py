"""Which of LiteLLM's model names leads to an endpoint, by the addresses that its /model/info tells."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel

from backends.cluster.tables import Endpoint
from backends.cluster.words import Cause
from backends.engines.ask import parsed
from backends.engines.chat import refused
from backends.engines.http import Http
from backends.engines.models import Maybe, Words, bounded
from backends.engines.target import ProbeFailure, Target
from backends.errors import ChatError


class _Parameters(BaseModel):
    api_base: Words = None
    model: Words = None


class _Deployment(BaseModel):
    model_name: str
    litellm_params: Maybe[_Parameters] = None


class _Info(BaseModel):
    data: list[Maybe[_Deployment]]


async def leading_to(http: Http, gateway: Target, behind: Target, endpoint: Endpoint) -> str:
    """The name to ask the gateway for, so that `endpoint` answers; ChatError where it has none."""
    try:
        answer = await http.get(
            f"{gateway.url}/model/info", headers=gateway.headers, timeout=gateway.timeout, via=gateway.via
        )
    except ProbeFailure as failure:
        words = f"No answer of the gateway: {failure.evidence}."
        raise ChatError(words, "Ask directly.", cause=failure.cause, sent=False) from failure
    info = parsed(answer, _Info) if answer.status == 200 else None
    if info is None:
        raise refused(answer, gateway, sent=False)
    there = {d.model_name: d.litellm_params for d in bounded(info.data)}
    bases = {_place(behind.url), _place(endpoint.url)}
    found = [name for name, p in there.items() if p and p.api_base and _place(p.api_base) in bases]
    wanted = endpoint.model or ""
    named = [n for n in found if (p := there[n]) and p.model and wanted and p.model.partition("/")[2] == wanted]
    same = [name for name in (endpoint.name, wanted) if name in there]
    if names := named or found or same:
        return names[0]
    words = f"The gateway has no model that leads to {endpoint.name}."
    raise ChatError(words, f"It has {', '.join(list(there)[:5]) or 'none'}.", cause=Cause.CONFIG, sent=False)


def _place(url: str) -> tuple[str, int | None]:
    """Host and port of an address, loopback under one name; of what is no address nothing that could be equal."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return url, None
    return "localhost" if parts.hostname in ("127.0.0.1", "::1") else parts.hostname or url, port
