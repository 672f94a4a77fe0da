"""Deployments as people write them: every mistake in one line with file, line and nearest word."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.cluster.deploying import Spec, load_spec
from backends.errors import InventoryError

GOOD = """\
version = 1
name = "coder"
node = "mark"
preset = "llama.cpp"
image = "ggml-org/llama.cpp:server-cuda-b11549"
port = 3014
model = "/srv/models/qwen2.5-coder-7b-q4_k_m.gguf"
context = 8192
api_key = "env:CODER_KEY"
tasks = ["code"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "coder.toml"
    path.write_text(text)
    return path


def test_what_a_good_one_says(tmp_path: Path) -> None:
    spec = load_spec(written(tmp_path, GOOD))
    assert (spec.endpoint, spec.volume_name, spec.file) == (
        "mark/coder",
        "coder-models",
        "qwen2.5-coder-7b-q4_k_m.gguf",
    )
    assert (spec.context, spec.tasks, spec.gpus) == (8192, ("code",), None)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("context = 8192", "contxt = 8192", 8, 'unknown key "contxt" at the top level. Did you mean "context"?'),
        ('name = "coder"', "", 1, '"name" is missing at the top level.'),
        ('"llama.cpp"', '"lama.cpp"', 4, "Did you mean \"llama.cpp\"?"),
        ("port = 3014", "port = 70000", 6, "less than or equal to 65535"),
        ('"env:CODER_KEY"', '"sk-1234"', 9, "never the secret itself"),
        ('name = "coder"', 'name = "my coder"', 2, "a name that Docker takes"),
        ('"/srv/models/qwen2.5-coder-7b-q4_k_m.gguf"', '"hf:org/repo"', 7, "at a pinned revision"),
        ('"/srv/models/qwen2.5-coder-7b-q4_k_m.gguf"', '"ssh:nas"', 7, "a file of another node"),
        ("context = 8192", 'environment = { HF_TOKEN = "x" }', 8, "no secrets here: HF_TOKEN"),
        ("context = 8192", 'sha256 = "abc"', 8, "the 64 hexadecimal digits"),
        ("context = 8192", "offload = 3", 8, 'a size such as "24GiB"'),
        ("context = 8192", 'offload = "16GiB"', 8, "offload is for vllm"),
        ("context = 8192", 'pull = "qwen2.5:7b"', 8, "only an Ollama pulls its models itself"),
        ('"llama.cpp"', '"vllm"', 7, "vLLM serves a folder of safetensors"),
        ('"llama.cpp"', '"ollama"', 9, "Ollama asks for no key"),
        ('api_key = "env:CODER_KEY"\n', "", 0, ""),
        ("version = 1", "version = ", 1, "not valid TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_a_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    path = written(tmp_path, GOOD.replace(old, new, 1))
    if not line:
        assert load_spec(path).api_key is None
        return
    with pytest.raises(InventoryError) as caught:
        load_spec(path)
    assert str(caught.value).startswith(f"{path}, line {line}: "), caught.value
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"coder\.toml: no such file\. Name a file"):
        load_spec(tmp_path / "coder.toml")


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("/srv/a b.gguf", "a b.gguf"),
        ("ssh:nas:/srv/models/a.gguf", "a.gguf"),
        ("ssh:desk:C:/models/a.gguf", "a.gguf"),
        ("https://host/models/a%20b.gguf?download=true", "a b.gguf"),
        ("hf:org/repo-7b@0123abcd", "repo-7b"),
        ("models/a.gguf", "a.gguf"),
    ],
)
def test_the_name_in_the_volume(model: str, file: str) -> None:
    spec = Spec(version=1, name="a1", node="n", preset="llama.cpp", image="i:1", port=1, model=model)
    assert spec.file == file
