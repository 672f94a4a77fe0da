"""The clusters ready made: the three tiers with their gateway, and a great many endpoints."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from backends.simulator.catalogue import faults_of
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.containers import Restart, Spec
from backends.simulator.engines.litellm import Deployment, LiteLlm
from backends.simulator.engines.llamacpp import LlamaCpp
from backends.simulator.engines.ollama import Ollama, OllamaModel
from backends.simulator.engines.vllm import Vllm
from backends.simulator.engines.words import Prompt

LLAMA = "ggml-org/llama.cpp:server-cuda-b11549"
LLAMA_CPU = "ggml-org/llama.cpp:server-b11549"
VLLM = "vllm/vllm-openai:v0.32.0"
LITELLM = "berriai/litellm:v1.109.1"
GATEWAY_KEY = "sk-demo-0000"


def demo(
    directory: Path,
    *,
    speed: float = 1.0,
    rng: random.Random | None = None,
    tokens_per_second: float = 38.0,
    visitors: bool = False,
) -> SimulatedCluster:
    """The cluster of `tierdeck demo`: a desk, a box in the rack, a NAS, and LiteLLM in front of all.

    With `visitors` somebody asks one of the engines something every few seconds.
    """
    sim = SimulatedCluster(directory, name="lumina", speed=speed, rng=rng)
    _desk(sim, tokens_per_second)
    _mark(sim, tokens_per_second)
    _nas(sim, tokens_per_second)
    _gate(sim)
    sim.extra = {
        "defaults": {"interval": "2s", "timeout": "3s"},
        "router": {
            "code": ["remote/mark-iii", "nas/coder", "local/ollama"],
            "reason": ["local/ollama", "remote/mark-i"],
            "chat": ["local/ollama", "remote/mark-i", "remote/mark-iv", "gateway/litellm"],
            "vision": ["remote/mark-ii"],
            "fast": ["remote/mark-iv", "nas/coder"],
            "embed": ["local/ollama", "remote/mark-v"],
        },
        "gateway": {"endpoint": "gateway/litellm"},
    }
    sim.faults = faults_of(sim)
    if visitors:
        sim.background.append(lambda: _visit(sim))
    return sim


async def _visit(sim: SimulatedCluster) -> None:
    """Prompts from nowhere: the GPUs work, the counters move."""
    async with asyncio.TaskGroup() as group:
        while True:
            await sim.world.sleep(sim.world.rng.uniform(2.0, 7.0))
            chosen = sim.world.rng.choice([e for e in sim.endpoints.values() if e.engine.kind != "litellm"])
            if chosen.program.phase == "ready" and not chosen.engine.wedged and not chosen.engine.running:
                group.create_task(chosen.engine.gather(Prompt("", "a visitor's question", 40)))


def _desk(sim: SimulatedCluster, rate: float) -> None:
    gpu = sim.gpu(0, "NVIDIA GeForce RTX 5090", 32607, base_mib=640.0, max_watts=575.0)
    sim.add_node("desk", gpus=[gpu], docker=False, memory_mib=131072)
    library = [
        OllamaModel(
            "qwen2.5:32b",
            18926.0,
            20276.0,
            parameters="32.8B",
            width=5120,
            layers=64,
            heads=40,
            kv_heads=8,
            inner=27648,
            load_s=9.0,
        ),
        OllamaModel(
            "nomic-embed-text:latest",
            261.6,
            322.0,
            "nomic-bert",
            "137M",
            "F16",
            2048,
            768,
            layers=12,
            heads=12,
            kv_heads=12,
            inner=3072,
            words=30528,
            capabilities=("embedding",),
        ),
        OllamaModel(
            "llama3.1:8b",
            4693.0,
            6170.0,
            "llama",
            "8.0B",
            width=4096,
            layers=32,
            heads=32,
            kv_heads=8,
            inner=14336,
            words=128256,
            load_s=4.0,
        ),
    ]
    preload = ["qwen2.5:32b", "nomic-embed-text:latest"]
    engine = Ollama(sim.world, library=library, preload=preload, tokens_per_second=rate, latency_s=0.002)
    sim.add_endpoint(
        "local/ollama", engine, tier="LOCAL", node="desk", service="ollama", gpu=0, load_s=0.4,
        tasks=["chat", "reason", "embed"], model="qwen2.5:32b",
    )  # fmt: skip


def _mark(sim: SimulatedCluster, rate: float) -> None:
    gpu = sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576, base_mib=18.0)
    order = ["mark-v", "mark-iii", "mark-iv", "mark-ii", "mark-i"]
    sim.add_node("mark", gpus=[gpu], fields={"queue": {"order": order, "gap": "2s", "ready_timeout": "60s"}})
    llama = {
        "mark-i": ("qwen2.5-14b-instruct-q4_k_m.gguf", 9200.0, 7.0, ["chat", "reason"], False, False),
        "mark-ii": ("qwen2.5-vl-7b-instruct-q4_k_m.gguf", 5600.0, 5.0, ["vision"], True, False),
        "mark-iii": ("qwen2.5-coder-7b-instruct-q4_k_m.gguf", 4400.0, 4.0, ["code"], False, False),
        "mark-v": ("bge-m3-q8_0.gguf", 900.0, 2.0, ["embed"], False, True),
    }
    for name in ("mark-i", "mark-ii", "mark-iii", "mark-iv", "mark-v"):
        if name == "mark-iv":
            _mark_iv(sim, rate)
            continue
        model, vram, load, tasks, vision, embeddings = llama[name]
        engine = LlamaCpp(
            sim.world,
            models=[f"/models/{model}"],
            tokens_per_second=rate,
            vision=vision,
            embeddings=embeddings,
            latency_s=0.006,
        )
        policy: Restart = "unless-stopped" if name == "mark-i" else "no"
        spec = Spec(
            name, LLAMA, gpu=True, restart=policy, volumes={"models-vol": "/models"}, healthcheck=True,
            environment={"MODEL_PATH": f"/models/{model}"}, labels={"tierdeck.tier": "REMOTE"},
        )  # fmt: skip
        sim.add_endpoint(
            f"remote/{name}", engine, tier="REMOTE", node="mark", container=spec, gpu=0, vram_mib=vram,
            init_s=1.5, load_s=load, tasks=tasks,
        )  # fmt: skip


def _mark_iv(sim: SimulatedCluster, rate: float) -> None:
    engine = Vllm(sim.world, models=["qwen2.5-3b-instruct"], tokens_per_second=rate * 2, latency_s=0.006)
    spec = Spec(
        "mark-iv", VLLM, gpu=True, volumes={"models-vol": "/models"}, inner_port=8000,
        labels={"tierdeck.tier": "REMOTE"}, command=["--model", "/models/qwen2.5-3b-instruct"],
    )  # fmt: skip
    sim.add_endpoint(
        "remote/mark-iv", engine, tier="REMOTE", node="mark", container=spec, gpu=0, vram_mib=3600.0,
        init_s=2.0, load_s=8.0, tasks=["fast", "chat"],
    )  # fmt: skip


def _nas(sim: SimulatedCluster, rate: float) -> None:
    sim.add_node("nas", memory_mib=16384)
    model = "/models/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
    engine = LlamaCpp(sim.world, models=[model], tokens_per_second=rate / 4, slots=1, layers=28, latency_s=0.018)
    spec = Spec("coder", LLAMA_CPU, volumes={"/volume1/models": "/models"}, restart="unless-stopped")
    sim.add_endpoint("nas/coder", engine, tier="NAS", node="nas", container=spec, load_s=3.0, tasks=["code", "fast"])
    sim.add_container("nas", Spec("pihole", "pihole/pihole:2025.10.0", restart="always", inner_port=53))


def _gate(sim: SimulatedCluster) -> None:
    sim.add_node("gate", memory_mib=8192)
    behind = [("local/chat", "local/ollama", "qwen2.5:32b"), ("local/embed", "local/ollama", "nomic-embed-text")]
    behind += [(f"remote/{n}", f"remote/{n}", "") for n in ("mark-i", "mark-ii", "mark-iii", "mark-iv", "mark-v")]
    behind.append(("nas/coder", "nas/coder", ""))
    deployments = [
        Deployment(
            name,
            model or sim.endpoints[endpoint].engine.models[0],
            sim.endpoints[endpoint].server,
            "ollama_chat" if endpoint == "local/ollama" else "openai",
        )
        for name, endpoint, model in behind
    ]
    engine = LiteLlm(sim.world, deployments=deployments, api_key=GATEWAY_KEY, latency_s=0.009)
    spec = Spec("litellm", LITELLM, restart="unless-stopped", inner_port=4000)
    sim.add_endpoint(
        "gateway/litellm", engine, tier="GATEWAY", node="gate", container=spec, load_s=6.0, tasks=["chat"],
        model="local/chat",
    )  # fmt: skip


def many(
    directory: Path,
    *,
    nodes: int = 100,
    endpoints: int = 1000,
    speed: float = 1.0,
    rng: random.Random | None = None,
    gpus: int = 1,
    ssh: bool = True,
    containers: int = 0,
) -> SimulatedCluster:
    """A great many: GPUs and an SSH server a node, one port an endpoint: 1,210 open files as a rule."""
    sim = SimulatedCluster(directory, name="many", speed=speed, rng=rng)
    for n in range(nodes):
        name = f"n{n:03d}"
        cards = [sim.gpu(i, "NVIDIA GeForce RTX 3090", 24576) for i in range(gpus)]
        sim.add_node(name, gpus=cards, ssh=ssh, docker=n < containers)
    for n in range(endpoints):
        engine = LlamaCpp(sim.world, models=["/models/tiny.gguf"], slots=2)
        sim.add_endpoint(
            f"e{n:04d}", engine, tier=f"T{n % 4}", node=f"n{n % nodes:03d}", gpu=n // nodes % gpus,
            vram_mib=900.0, tasks=["chat"], container=f"c{n:04d}" if n < containers else None,
        )  # fmt: skip
    return sim
