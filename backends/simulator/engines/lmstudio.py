"""LM Studio: its own list of models with their states beside OpenAI's routes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from aiohttp import web

from backends.simulator.engines.openai import OpenAi
from backends.simulator.world import World


class LmStudio(OpenAi):
    """LM Studio 0.3; `loaded` are the models in memory, the others load when a prompt names them."""

    kind: ClassVar[str] = "lmstudio"
    listens_early: ClassVar[bool] = True
    sse_type: ClassVar[str] = "text/event-stream"

    def __init__(self, world: World, *, loaded: Sequence[str] = (), **options: Any) -> None:
        super().__init__(world, **options)
        self.loaded = set(loaded)
        self.routes |= {"GET /api/v0/models": self._models}

    async def _models(self, request: web.BaseRequest) -> web.StreamResponse:
        data = [
            {
                "id": name, "object": "model", "type": "embeddings" if "embed" in name else "llm",
                "publisher": "lmstudio-community", "arch": "qwen2", "compatibility_type": "gguf",
                "quantization": "Q4_K_M", "state": "loaded" if name in self.loaded else "not-loaded",
                "max_context_length": self.context,
            }
            for name in self.models
        ]  # fmt: skip
        return self.json({"object": "list", "data": data})

    async def chat(self, request: web.BaseRequest) -> web.StreamResponse:
        """A prompt loads its model."""
        self.loaded.add(str((await self.body(request)).get("model", "")))
        return await super().chat(request)

    def no_route(self, request: web.BaseRequest) -> web.StreamResponse:
        """It answers 200 to what it does not know, with an error inside."""
        return self.json({"error": f"Unexpected endpoint or method. ({request.method} {request.path})"})
