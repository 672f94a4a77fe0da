"""The registry of models, and how containers say what they start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.cells import cell_len

from backends.cluster.fold import empty, fold_all
from backends.cluster.inventory import Inventory
from backends.cluster.launch import launch
from backends.cluster.reading import (
    EndpointReading,
    Instant,
    Launch,
    ModelInfo,
    Prediction,
    PredictionReading,
    ProbeResult,
    Reading,
    Workload,
    WorkloadReading,
)
from backends.cluster.registry import registry, registry_json, registry_text
from backends.cluster.words import Cause
from backends.simulator.cluster import SimulatedCluster
from backends.simulator.engines.openai import OpenAi
from tests.cli.driving import tierdeck
from tui.models import models_page

MOUNTS = {"/models": "models-vol", "/models/big": "/srv/big"}
NOW = Instant(1e9, 1e3)


@pytest.mark.parametrize(
    ("command", "environment", "found"),
    [
        (["nginx"], {"PATH": "/bin"}, None),
        (["llama-server", "-m", "/models/x.gguf", "-ngl", "28"], {}, Launch("volume:models-vol/x.gguf", 28)),
        (["--model=/models/big/x.gguf", "--ctx-size=8192"], {}, Launch("/srv/big/x.gguf", context=8192)),
        (["-fa", "-b", "512"], {"MODEL_PATH": "/opt/x.gguf"}, Launch("/opt/x.gguf", batch=512, flash=True)),
        (["--flash-attn", "off"], {"N_GPU_LAYERS": "99", "N_CTX": "no"}, Launch(None, 99, flash=False)),
        (["-c", "4096"], {"LLAMA_ARG_CTX_SIZE": "1"}, Launch(context=4096)),
        (["-c"], {}, Launch()),
    ],
)
def test_what_a_container_says(command: list[str], environment: dict[str, str], found: Launch | None) -> None:
    assert launch(command, environment, MOUNTS) == found


def cluster() -> Inventory:
    node = {"name": "mark", "address": "192.0.2.1"}
    common = {"tier": "T", "node": "mark", "url": "http://192.0.2.1:1"}
    return Inventory.model_validate(
        {
            "version": 1,
            "name": "c",
            "nodes": [node],
            "tiers": [{"name": "T"}],
            "endpoints": [
                {"name": "o", "engine": "ollama", **common},
                {"name": "l", "engine": "llama.cpp", "container": "box", "tasks": ["code"], **common},
                {"name": "g", "engine": "litellm", **common},
            ],
            "models": [
                {"name": "coder", "file": "volume:v/coder-q5_k_m.gguf", "gpu_layers": 7, "on_demand": True},
                {"name": "later", "file": "/srv/later-IQ4_XS.gguf", "context": 4096},
            ],
        }
    )


def test_every_model_once_with_all_that_is_known() -> None:
    inventory = cluster()
    said = {
        "o": (ModelInfo("qwen:7b", loaded=False, size_mib=4460.0, quantisation="Q4_K_M"),),
        "l": (ModelInfo("/models/coder-q5_k_m.gguf", loaded=True, context=8192),),
        "g": (ModelInfo("alias"),),
    }
    readings = [
        EndpointReading(name, NOW, ProbeResult(Cause.OK, "", 0.1, models), 5.0) for name, models in said.items()
    ]
    said_by_log = PredictionReading(NOW, (Prediction("l", "coder-q5_k_m.gguf", 6000.0, "observed"),))
    box = Workload("box", "docker", "running", launch=Launch("volume:v/coder-q5_k_m.gguf", 28, 8192, 512, True))
    snapshot = fold_all(
        inventory, empty(inventory, None), [*readings, WorkloadReading("mark", NOW, (box,)), said_by_log]
    )
    ollama, coder, later = registry(inventory, snapshot)
    assert (ollama.quantisation, ollama.file, ollama.loaded, ollama.on_demand) == (
        "Q4_K_M",
        "Ollama's store on mark",
        False,
        True,
    )
    assert (coder.quantisation, coder.gpu_layers, coder.batch, coder.flash_attn) == ("Q5_K_M", 28, 512, True)
    assert (coder.tasks, coder.on_demand, coder.node) == (("code",), True, "mark")
    assert (later.endpoint, later.quantisation, later.context) == (None, "IQ4_XS", 4096)
    assert (ollama.vram_by, coder.vram_mib, coder.vram_by) == (None, 6000.0, "observed")
    assert len(list(registry_text([ollama, coder, later]))) == 4
    assert registry_json(inventory, snapshot)["models"][1]["file"] == "volume:v/coder-q5_k_m.gguf"


async def test_the_verb_prints_what_one_look_finds(tmp_path: Path) -> None:
    sim = SimulatedCluster(tmp_path)
    sim.add_endpoint("web", OpenAi(sim.world, models=["some-q4_0"]))
    async with sim:
        done = await tierdeck("models", "--json", "--cluster", str(sim.inventory_path))
        assert done.code == 0
        found = json.loads(done.out)
        assert found["schema"] == "tierdeck.models/1"
        assert {row["endpoint"] for row in found["models"]} == {"web"}
        done = await tierdeck("models", "--cluster", str(sim.inventory_path))
        assert done.out.startswith("model ")


@pytest.mark.parametrize(("width", "table"), [(200, True), (120, False), (46, False)])
def test_its_page_shows_all_of_it_at_any_width(width: int, table: bool) -> None:
    inventory = cluster()
    models = (ModelInfo("/models/coder-q5_k_m.gguf", loaded=True, context=8192, size_mib=5000.0),)
    box = Workload("box", "docker", "running", launch=Launch("volume:v/coder-q5_k_m.gguf", 28, 8192, 512, True))
    readings: list[Reading] = [
        EndpointReading("l", NOW, ProbeResult(Cause.OK, "", 0.1, models), 5.0),
        PredictionReading(NOW, (Prediction("l", "coder-q5_k_m.gguf", 6144.0, "observed"),)),
        WorkloadReading("mark", NOW, (box,)),
    ]
    lines = models_page(inventory, fold_all(inventory, empty(inventory, None), readings), width)
    rows = ["".join(text for text, _ in each.spans) for each in lines]
    assert max(map(cell_len, rows)) <= width
    words = " ".join(" ".join(rows).split())
    assert words.startswith("model at quant") is table
    for each in ("coder-q5_k_m", "Q5_K_M", "8192", "28", "512", "code", "volume:v/coder-q5_k_m.gguf", "on demand"):
        assert each in words
    assert ("6.0 GiB on the GPU by its log" in words) is not table


def test_a_cluster_without_models_says_so() -> None:
    bare = Inventory.model_validate({"version": 1, "name": "c", "nodes": [], "tiers": [], "endpoints": []})
    (only,) = models_page(bare, empty(bare, None), 80)
    assert "names a model" in only.spans[0][0]
