"""SGLang: /health, /get_model_info, OpenAI's routes and its own metrics."""

from __future__ import annotations

from typing import Any, ClassVar

from aiohttp import web

from backends.simulator.engines.base import Json
from backends.simulator.engines.openai import OpenAi
from backends.simulator.world import World


class SgLang(OpenAi):
    """SGLang; refuses until it is ready, /health_generate costs a token (counted as a request)."""

    kind: ClassVar[str] = "sglang"
    server: ClassVar[str] = "uvicorn"

    def __init__(self, world: World, **options: Any) -> None:
        super().__init__(world, **options)
        self.routes |= {
            "GET /health": self._empty,
            "GET /health_generate": self._generate,
            "GET /get_model_info": self._info,
            "GET /get_server_info": self._server_info,
            "GET /metrics": self._metrics,
        }

    async def _empty(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.text("", "")

    async def _generate(self, request: web.BaseRequest) -> web.StreamResponse:
        self.predicted_tokens += 1
        return self.text("", "")

    async def _info(self, request: web.BaseRequest) -> web.StreamResponse:
        path = f"/models/{self.models[0]}"
        return self.json({"model_path": path, "tokenizer_path": path, "is_generation": True})

    async def _server_info(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.json({"model_path": f"/models/{self.models[0]}", "version": "0.5.5", "status": "ready"})

    async def _metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        label = f'{{model_name="{self.models[0]}"}}'
        values = {
            "num_running_reqs": ("gauge", float(self.running)),
            "num_queue_reqs": ("gauge", float(self.waiting)),
            "token_usage": ("gauge", min(1.0, 0.07 * self.running)),
            "gen_throughput": ("gauge", self.tokens_per_second * self.running),
            "prompt_tokens_total": ("counter", float(self.prompt_tokens)),
            "generation_tokens_total": ("counter", float(self.predicted_tokens)),
        }
        lines = [
            f"# HELP sglang:{name} {name}\n# TYPE sglang:{name} {kind}\nsglang:{name}{label} {value}\n"
            for name, (kind, value) in values.items()
        ]
        return self.text("".join(lines), "text/plain; version=0.0.4; charset=utf-8")

    def model_card(self, model: str) -> Json:
        """One model."""
        card = {"id": model, "object": "model", "created": self.started, "owned_by": "sglang"}
        return card | {"root": model, "max_model_len": self.context}

    def boot_lines(self) -> list[str]:
        """The first line."""
        return ["[INFO] server_args=ServerArgs(port=30000)"]

    def load_lines(self, vram_mib: float) -> list[str]:
        """Loading."""
        return ["Load weight begin. avail mem=23.32 GB", f"Load weight end. mem usage={vram_mib / 1024:.2f} GB"]

    def ready_lines(self, port: int) -> list[str]:
        """It listens."""
        return ["The server is fired up and ready to roll!"]
