"""Models and settings drawn at random, of the shapes that llama.cpp accepts of each architecture."""

from __future__ import annotations

from random import Random

from backends.memory.settings import Settings
from tests.memory.models import BERTS, EXPERTS, Size

ARCHITECTURES = (
    "llama",
    "mistral3",
    "internlm2",
    "exaone",
    "minicpm",
    "ernie4_5",
    "mixtral",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
    "gemma2",
    "gemma3",
    "phi3",
    "deepseek2",
    "gpt-oss",
    "olmoe",
    "granite",
    "granitemoe",
    "command-r",
    "cohere2",
    "bert",
    "nomic-bert",
)
_HEADS_FILL_WIDTH = {"internlm2", "qwen2", "qwen2moe", "command-r", "cohere2", "phi3", "olmoe", *BERTS}
LITE = 27
"""DeepSeek's models of so many layers have no `attn_q_a`; llama.cpp tells them by this number."""
_MANY_HEADS = {"olmoe", *BERTS}
"""Those where every head has keys of its own."""


def draw_size(random: Random, arch: str) -> Size:
    """A shape that nobody chose; widths are multiples of 32, as quantised rows must be."""
    kv_heads = random.choice([1, 2, 3, 4, 5, 8])
    heads = kv_heads * random.choice([1, 2, 3, 4, 7, 8])
    head = random.choice([64, 64, 128, 128, 32, 80, 96, 112, 192, 256])
    if arch in _MANY_HEADS:
        kv_heads = heads
    if arch in _HEADS_FILL_WIDTH and heads * head % 32:
        head = 64
    experts = random.choice([4, 8, 32, 60, 64, 128])
    layers = random.choice([2, 3, 6, 7, 12, LITE if arch == "deepseek2" else 1])
    return Size(
        layers=layers,
        embd=heads * head if arch in _HEADS_FILL_WIDTH else 32 * random.randint(8, 160),
        heads=heads,
        kv_heads=kv_heads,
        head=head,
        ff=32 * random.randint(4, 96 if arch in EXPERTS else 480),
        vocab=random.randint(300, 160000),
        context=8192 if arch in BERTS else 40960,
        experts=experts,
        used=min(experts, random.choice([1, 2, 4, 6, 8])),
        shared=random.choice([0, 0, 1, 2]) if arch == "deepseek2" else 0,
        window=random.choice([100, 128, 512, 1024, 4096]),
        q_rank=0 if layers == LITE else random.choice([512, 1536]),
        kv_rank=random.choice([256, 512]),
        kind=random.choice(["Q8_0", "Q4_0", "F16"]),
        tied=random.random() < 0.3,
        bias=random.random() < 0.3,
    )


def draw_settings(random: Random, arch: str) -> Settings:
    """Settings that nobody chose, small enough to be measured in a second."""
    flash = random.random() < 0.6
    kinds = ["f16", "f16", "q8_0", "q4_0", "bf16", "f32", "q5_1", "iq4_nl", "q4_1", "q5_0"]
    key = random.choice(kinds if flash or arch != "deepseek2" else kinds[:2])
    value = random.choice([key, *kinds]) if flash else random.choice(["f16", "f16", "bf16", "f32"])
    parallel = random.choice([1, 1, 2, 4, 8] if arch in BERTS else [1, 1, 2, 3, 4, 5, 8])
    return Settings(
        context=random.choice([512, 1000, 2048, 4096, 8192, random.randint(256, 16000)]),
        parallel=parallel,
        unified=parallel > 1 and random.random() < 0.4,
        batch=random.choice([64, 512, 2048, random.randint(32, 4096)]),
        ubatch=random.choice([64, 128, 512, 512, 1024, random.randint(16, 2048)]),
        cache_k=key,
        cache_v=value if arch != "deepseek2" else key,
        flash=flash,
    )
