"""vLLM: refuses until it is ready; /health stays 200 while it is wedged."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from aiohttp import web

from backends.simulator.engines.base import Answer, Json
from backends.simulator.engines.openai import OpenAi
from backends.simulator.engines.vllm_metrics import render
from backends.simulator.engines.words import Prompt
from backends.simulator.world import World

FINGERPRINT = "vllm-0.32.0-71fc631a"
OPEN_ROUTES = frozenset({"/health", "/ping", "/metrics", "/version", "/load"})


class Vllm(OpenAi):
    """vLLM 0.32, as recorded; the key guards /v1 only."""

    kind: ClassVar[str] = "vllm"
    server: ClassVar[str] = "uvicorn"

    def __init__(self, world: World, **options: Any) -> None:
        super().__init__(world, **options)
        self.finished = {"stop": 0, "length": 0, "abort": 0, "error": 0, "repetition": 0}
        self.sleeping = False
        self.ttft: list[float] = []
        self.routes |= {
            "GET /health": self._empty,
            "GET /ping": self._empty,
            "GET /version": self._version,
            "GET /metrics": self._metrics,
            "GET /load": self._load,
            "POST /tokenize": self._tokenize,
        }

    async def _empty(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.text("", "")

    async def _version(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.json({"version": "0.32.0"})

    async def _load(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.json({"server_load": self.running + self.waiting})

    async def _metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        return self.text(render(self), "text/plain; version=1.0.0; charset=utf-8")

    async def _tokenize(self, request: web.BaseRequest) -> web.StreamResponse:
        text = str((await self.body(request)).get("prompt", ""))
        tokens = [265 + i for i, _ in enumerate(text.split())]
        return self.json({"count": len(tokens), "max_model_len": self.context, "tokens": tokens, "token_strs": None})

    def model_card(self, model: str) -> Json:
        """One model of /v1/models."""
        permission = {
            "id": f"modelperm-{self.world.hex(16)}", "object": "model_permission", "created": self.started,
            "allow_create_engine": False, "allow_sampling": True, "allow_logprobs": True,
            "allow_search_indices": False, "allow_view": True, "allow_fine_tuning": False,
            "organization": "*", "group": None, "is_blocking": False,
        }  # fmt: skip
        return {
            "id": model, "object": "model", "created": int(time.time()), "owned_by": "vllm",
            "root": f"/models/{model}", "parent": None, "max_model_len": self.context,
            "permission": [permission],
        }  # fmt: skip

    def check(self, prompt: Prompt) -> None:
        """An unknown model and a prompt that is too long, in vLLM's words."""
        if prompt.model not in self.models:
            aliases = ", ".join(self.models)
            message = f"The model `{prompt.model}` does not exist. Valid aliases: {aliases}."
            error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
            raise Answer(self.json({"error": error}, 404))
        if prompt.tokens > self.context:
            message = (
                f"This model's maximum context length is {self.context} tokens. However, your prompt contains "
                f"{len(prompt.text)} characters. Please reduce the length of the input prompt. "
                f"(parameter=input_text, value={len(prompt.text)})"
            )
            error = {"message": message, "type": "BadRequestError", "param": "input_text", "code": 400}
            raise Answer(self.json({"error": error}, 400))

    def chunk(self, prompt: Prompt, ident: str, choices: list[Json]) -> Json:
        """The first chunk carries the prompt's fields."""
        chunk = super().chunk(prompt, ident, choices)
        if choices and "role" in choices[0]["delta"]:
            return chunk | {"prompt_token_ids": None, "prompt_text": None}
        return chunk

    def choice(self, delta: Json, finish: str | None = None) -> Json:
        """A choice; the last one says why it stopped."""
        if finish is not None:
            self.finished[finish] += 1
            last = {"finish_reason": finish, "stop_reason": None, "token_ids": None}
            return {"index": 0, "delta": {"content": ""}, "logprobs": None} | last
        choice = super().choice(delta)
        return choice if "role" in delta else choice | {"token_ids": None}

    def last_fields(self, prompt: Prompt) -> Json:
        """The usage chunk names the build."""
        return {"system_fingerprint": FINGERPRINT}

    def whole(self, prompt: Prompt, ident: str, text: str) -> Json:
        """A whole answer with vLLM's many empty fields."""
        self.finished[prompt.finish] += 1
        message = {
            "role": "assistant", "content": text, "refusal": None, "annotations": None, "audio": None,
            "function_call": None, "reasoning": None,
        }  # fmt: skip
        choice = {
            "index": 0, "message": message, "logprobs": None, "finish_reason": prompt.finish,
            "stop_reason": None, "token_ids": None, "routed_experts": None,
        }  # fmt: skip
        usage = self.usage(prompt) | {"prompt_tokens_details": None, "completion_tokens_details": None}
        return self.frame(prompt, ident) | {
            "choices": [choice], "service_tier": None, "system_fingerprint": FINGERPRINT, "usage": usage,
            "prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None,
            "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None,
        }  # fmt: skip

    def boot_lines(self) -> list[str]:
        """Before CUDA is touched."""
        return [
            _line("utils.py", 261, "vLLM API server version 0.32.0"),
            _line("model.py", 1510, f"Using max model len {self.context}"),
        ]

    def device_lines(self, gpu: str, memory_mib: float) -> list[str]:
        """CUDA is there."""
        return [_line("cuda.py", 328, "Using Flash Attention backend on V1 engine.")]

    def load_lines(self, vram_mib: float) -> list[str]:
        """Shards, then the cache."""
        weights = vram_mib * 0.7 / 1024
        shards = [
            f"Loading safetensors checkpoint shards:  {n * 25}% Completed | {n}/4 [00:0{n}<00:0{4 - n}]"
            for n in range(1, 5)
        ]
        return [
            _line("gpu_model_runner.py", 2602, f"Starting to load model {self.models[0]}..."),
            *shards,
            _line("default_loader.py", 267, "Loading weights took 6.31 seconds"),
            _line("gpu_model_runner.py", 2653, f"Model loading took {weights:.4f} GiB and 7.011842 seconds"),
            _line("gpu_worker.py", 298, f"Available KV cache memory: {vram_mib * 0.3 / 1024:.2f} GiB"),
            _line("kv_cache_utils.py", 1087, f"GPU KV cache size: {int(vram_mib * 9):,} tokens"),
            "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%|██████████| 67/67",
        ]

    def ready_lines(self, port: int) -> list[str]:
        """It listens."""
        return [
            "INFO:     Started server process [1]",
            "INFO:     Waiting for application startup.",
            "INFO:     Application startup complete.",
        ]


def _line(source: str, number: int, message: str) -> str:
    return f"INFO {time.strftime('%m-%d %H:%M:%S')} [{source}:{number}] {message}"
