"""How far llama.cpp's router has loaded a model, by its own events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Annotated, Final

from pydantic import BaseModel, Field, ValidationError

from backends.cluster.words import Cause
from backends.engines.http import Http
from backends.engines.models import Lenient, Maybe, Words
from backends.engines.sse import Events, Overlong
from backends.engines.target import ProbeFailure, Target

ROUTE: Final = "/models/sse"
"""llama.cpp's router only; asking it neither loads a model nor keeps one awake."""


class _Progress(BaseModel):
    stages: Maybe[list[str]] = None
    current: Words = None
    value: Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False), Lenient] = None


class _Data(BaseModel):
    status: Words = None
    progress: Maybe[_Progress] = None


class _Event(BaseModel):
    model: Words = None
    data: Maybe[_Data] = None


async def shares(http: Http, target: Target) -> AsyncGenerator[float, None]:
    """The share of its model that a router has loaded, from 0 to 1, as it loads; ends where nothing more will come.

    ProbeFailure where it does not answer yet. Each of its stages counts the same (the events carry stages, the
    current one and its value from 0 to 1; ggml-org/llama.cpp, tools/server/server-models.cpp).
    """
    if target.engine != "llama.cpp":
        return
    async with http.stream(
        target.url + ROUTE,
        None,
        connect=target.timeout,
        timeout=target.timeout,
        headers=target.headers,
        via=target.via,
    ) as stream:
        if stream.status != 200:
            if stream.status == 503:
                raise ProbeFailure(Cause.LOADING, "503", status=503)
            return
        events = Events()
        async for chunk in stream.chunks:
            try:
                found = [_share(text, target.model) for _, text in events.feed(chunk)]
            except Overlong:
                return
            for share in found:
                if share is not None:
                    yield share


def _share(text: str, wanted: str | None) -> float | None:
    try:
        event = _Event.model_validate(json.loads(text))
    except (ValidationError, ValueError, RecursionError):
        return None
    progress = event.data.progress if event.data else None
    if progress is None or progress.value is None or wanted not in (None, event.model):
        return None
    stages = progress.stages or [""]
    done = stages.index(progress.current) if progress.current in stages else 0
    return min(1.0, (done + progress.value) / len(stages))
