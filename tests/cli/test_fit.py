"""`tierdeck fit`, as people and scripts run it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from backends.figures import Figures, Observation, Overhead
from backends.memory.settings import Settings
from backends.memory.spoken import Buffers, Spoken
from tests.cli.driving import tierdeck
from tests.memory.gguf_files import write
from tests.memory.models import Size, metadata, tensors

LARGE = Size(layers=28, embd=3584, heads=28, kv_heads=4, head=128, ff=18944, vocab=152064, context=32768)
NUMBER = {"type": "number", "minimum": 0}
DEVICE = {
    "type": "object",
    "required": ["name", "weights_mib", "kv_mib", "compute_mib"],
    "additionalProperties": False,
    "properties": {
        "name": {"pattern": r"^(GPU\d+|CPU)$"},
        "weights_mib": NUMBER,
        "kv_mib": NUMBER,
        "compute_mib": NUMBER,
    },
}
MODEL = {
    "type": "object",
    "required": ["file", "arch", "parameters", "devices", "certainty", "upper_mib"],
    "additionalProperties": False,
    "properties": {
        "file": {"type": "string"},
        "arch": {"type": "string"},
        "parameters": {"type": "integer"},
        "devices": {"type": "array", "items": DEVICE, "minItems": 1},
        "certainty": {"enum": ["header", "bound", "dry run", "observed"]},
        "upper_mib": NUMBER,
    },
}
SCHEMA = {
    "type": "object",
    "required": ["schema", "models", "fits", "advice"],
    "additionalProperties": False,
    "properties": {
        "schema": {"const": "tierdeck.fit/1"},
        "models": {"type": "array", "items": MODEL},
        "fits": {"type": ["boolean", "null"]},
        "advice": {"type": "array", "items": {"type": "string"}},
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of seven billion parameters that takes no room on the disk."""
    path = tmp_path_factory.mktemp("models") / "qwen.gguf"
    return str(write(path, metadata("qwen2", LARGE), tensors("qwen2", LARGE)))


async def fit(*words: str, home: Path) -> dict[str, Any]:
    done = await tierdeck("fit", *words, "--json", env={"XDG_CONFIG_HOME": str(home)})
    assert (done.code, done.err) == (0, "")
    found: dict[str, Any] = json.loads(done.out)
    jsonschema.validate(found, SCHEMA)
    return found


async def test_without_gpus_nothing_is_said_to_fit(model: str, tmp_path: Path) -> None:
    found = await fit(model, home=tmp_path)
    assert (found["fits"], found["advice"]) == (None, [])
    (only,) = found["models"]
    assert (only["file"], only["arch"], only["parameters"]) == (model, "qwen2", 7_615_616_512)
    assert [device["name"] for device in only["devices"]] == ["GPU0", "CPU"]
    taken = sum(value for device in only["devices"] for key, value in device.items() if key != "name")
    assert only["upper_mib"] > taken


async def test_on_the_cpu_everything_stands_under_cpu(model: str, tmp_path: Path) -> None:
    found = await fit(model, "--gpu-layers", "0", "--ctx", "4096", "--gpu", "24GiB", home=tmp_path)
    (device,) = found["models"][0]["devices"]
    assert (device["name"], device["kv_mib"], found["fits"]) == ("CPU", 224.0, True)


async def test_all_its_flags(model: str, tmp_path: Path) -> None:
    words = "--ctx 8192 --parallel 2 --unified --batch 1024 --ubatch 256 --cache-type-k q8_0 --cache-type-v q8_0"
    more = "--flash-attn on --gpu-layers all --tensor-split 3,1 --cpu-moe 0 --gpu 24GiB --gpu 8192MiB"
    found = await fit(model, *words.split(), *more.split(), home=tmp_path)
    first, second, cpu = found["models"][0]["devices"]
    assert (first["name"], second["name"], cpu["kv_mib"]) == ("GPU0", "GPU1", 0)
    assert first["kv_mib"] + second["kv_mib"] == pytest.approx(238.0)
    assert first["weights_mib"] > 2 * second["weights_mib"]
    assert found["fits"] is True


async def test_what_does_not_fit_gets_advice_that_fits(model: str, tmp_path: Path) -> None:
    found = await fit(model, "--gpu", "9GiB", home=tmp_path)
    assert found["fits"] is False
    context = next(line for line in found["advice"] if "--ctx-size" in line).split()[-1].rstrip(".")
    layers = next(line for line in found["advice"] if "--n-gpu-layers" in line).split()[-1].rstrip(".")
    assert (await fit(model, "--gpu", "9GiB", "--ctx", context, home=tmp_path))["fits"] is True
    assert (await fit(model, "--gpu", "9GiB", "--gpu-layers", layers, home=tmp_path))["fits"] is True
    assert (await fit(model, "--gpu", "9GiB", "--gpu-layers", str(int(layers) + 1), home=tmp_path))["fits"] is False


async def test_several_models_find_their_gpus(model: str, tmp_path: Path) -> None:
    found = await fit(model, model, "--ctx", "4096", "--gpu", "10GiB", "--gpu", "10GiB", home=tmp_path)
    assert found["fits"] is True
    assert [each["devices"][0]["name"] for each in found["models"]] == ["GPU0", "GPU1"]
    found = await fit(model, model, "--ctx", "4096", "--gpu", "10GiB", home=tmp_path)
    assert found["fits"] is False
    assert "without" in found["advice"][0]


async def test_a_person_reads_a_few_lines(model: str, tmp_path: Path) -> None:
    done = await tierdeck("fit", model, "--gpu", "24GiB", "--ctx", "8192", env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert done.code == 0
    assert "GPU0: fits: " in done.out
    assert "7.62 B parameters" in done.out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["/nowhere/x.gguf"], 1, "No such file"),
        (["{broken}"], 1, "not a GGUF file"),
        (["nonesuch:7b"], 1, "no file, no model of the inventory"),
        (["{broken}", "--gpu", "much"], 2, "no size of memory"),
        (["{broken}", "--gpu-layers", "some"], 2, "a number or all"),
        (["{broken}", "--cache-type-k", "q9"], 2, "invalid choice"),
        (["{broken}", "--flash-attn", "off", "--cache-type-v", "q8_0"], 2, "flash attention"),
        ([], 2, "Say which model"),
        (["--learned", "--forget"], 2, "not allowed with"),
        (["x", "--learned"], 2, "take no model"),
    ],
)
async def test_what_is_wrong_is_told(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"<html>not a model</html>")
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    done = await tierdeck("fit", *(word.format(broken=broken) for word in words), env=env)
    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err


async def test_a_nodes_memory_comes_from_the_inventory(model: str, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.toml"
    cluster.write_text(
        'version = 1\nname = "c"\n[[nodes]]\nname = "desk"\naddress = "192.0.2.1"\nvram = ["7GiB"]\n'
        f'[[models]]\nname = "qwen"\nfile = "{model}"\ncontext = 2048\n'
    )
    found = await fit("qwen", "--node", "desk", "--cluster", str(cluster), home=tmp_path)
    assert found["fits"] is False
    assert found["models"][0]["devices"][0]["kv_mib"] == 112.0
    done = await tierdeck("fit", model, "--node", "rack", "--cluster", str(cluster))
    assert (done.code, "no node 'rack'" in done.err) == (2, True)


async def test_what_was_learned_is_used_listed_and_forgotten(model: str, tmp_path: Path) -> None:
    cluster, state = tmp_path / "cluster.toml", tmp_path / "state"
    cluster.write_text(
        'version = 1\nname = "c"\n[[nodes]]\nname = "desk"\naddress = "192.0.2.1"\nvram = ["24GiB"]\n'
        f'[[models]]\nname = "qwen"\nfile = "{model}"\ncontext = 2048\n'
    )
    said = Spoken(
        (Buffers("CPU_Mapped", 500.0), Buffers("CUDA0", 7000.0, 112.0, 304.0), Buffers("CUDA_Host", 0, 0, 8.0))
    )
    figures = Figures(state)
    figures.learn(Overhead("desk", "RTX 4090", "CUDA", "b11549"), "a@1", 300.0)
    figures.observe(Observation("desk", "box", "a" * 64, "a@1", model, Settings(context=2048), said))
    env = {"XDG_CONFIG_HOME": str(tmp_path), "TIERDECK_STATE": str(state)}

    async def told(*words: str) -> dict[str, Any]:
        done = await tierdeck("fit", *words, "--cluster", str(cluster), "--json", env=env)
        assert (done.code, done.err) == (0, "")
        found: dict[str, Any] = json.loads(done.out)
        return found

    found = await told("qwen", "--node", "desk")
    jsonschema.validate(found, SCHEMA)
    gpu = {"name": "GPU0", "weights_mib": 7000.0, "kv_mib": 112.0, "compute_mib": 304.0}
    cpu = {"name": "CPU", "weights_mib": 500.0, "kv_mib": 0, "compute_mib": 8.0}
    (only,) = found["models"]
    assert (only["certainty"], only["devices"], only["upper_mib"]) == (
        "observed",
        [gpu, cpu],
        7000 + 112 + 304 + 508 + 300,
    )
    assert found["advice"] == ["As box said when it started."]
    assert (await told("qwen", "--node", "desk", "--ctx", "4096"))["models"][0]["certainty"] == "header"
    assert (await told("qwen"))["models"][0]["certainty"] == "header"
    learned = await told("--learned")
    assert (learned["schema"], learned["overheads"][0]["mib"], learned["observed"][0]["container"]) == (
        "tierdeck.learned/1", 300.0, "box",
    )  # fmt: skip
    text = (await tierdeck("fit", "--learned", env=env)).out
    assert "desk  RTX 4090  CUDA  b11549  300 MiB (1 start)" in text
    assert "CUDA0       weights   7000.00  kv    112.00  compute    304.00  MiB" in text
    assert (await tierdeck("fit", "--forget", "--node", "rack", env=env)).out == "forgot 0 figures\n"
    assert (await tierdeck("fit", "--forget", env=env)).out == "forgot 2 figures\n"
    assert "nothing was learned yet" in (await tierdeck("fit", "--learned", env=env)).out


async def test_a_dry_run_of_llama_cpp_counts_more(model: str, tmp_path: Path) -> None:
    cluster, tool = tmp_path / "cluster.toml", tmp_path / "bin" / "llama-fit-params"
    cluster.write_text(
        'version = 1\nname = "c"\n[[nodes]]\nname = "desk"\naddress = "127.0.0.1"\nvram = ["24GiB"]\ndocker = false\n'
    )
    tool.parent.mkdir()
    rows = 'echo "I main: printing" >&2\necho "CUDA0 6956 112 304 "\necho "Host 545 0 32 "\n'
    tool.write_text(f'#!/bin/sh\n[ "$2" = "{model}" ] || exit 1\n{rows}')
    tool.chmod(0o755)
    env = {"XDG_CONFIG_HOME": str(tmp_path), "TIERDECK_STATE": str(tmp_path / "state")}
    words = ("fit", model, "--dry-run-on", "desk", "--ctx", "2048", "--cluster", str(cluster), "--json")
    done = await tierdeck(*words, env=env | {"PATH": f"{tool.parent}:{os.environ['PATH']}"})
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    jsonschema.validate(found, SCHEMA)
    (only,) = found["models"]
    assert (only["certainty"], found["fits"]) == ("dry run", True)
    assert only["devices"][0] == {"name": "GPU0", "weights_mib": 6956.0, "kv_mib": 112.0, "compute_mib": 304.0}
    assert only["upper_mib"] == 6956 + 112 + 304 + 545 + 32 + 2 * 3 + 555
    done = await tierdeck(*words, env=env)
    assert (done.code, "not on the PATH of desk" in done.err) == (1, True)
    done = await tierdeck("fit", model, "--dry-run-on", "rack", "--gpu", "24GiB", "--cluster", str(cluster), env=env)
    assert (done.code, 'no node "rack"' in done.err) == (1, True)
