"""Deployments rendered for Kubernetes: plain manifests, and values that the charts' documented schemas know."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from backends.cluster.deploying import Spec
from backends.cluster.tables import Node
from backends.errors import ProcedureError
from backends.exports.charts import app_template, vllm_chart
from backends.exports.manifests import manifests
from backends.exports.pods import FETCH, FETCH_REPOSITORY, advice, pod
from backends.reach.kubernetes import shapes
from tests.kubernetes.double import Double
from tests.kubernetes.store import KINDS
from tui import cli

NODE = Node(name="gpu-1", address="10.0.0.2", gpus="nvidia", kubernetes={"cluster": "home", "node": "k-1"})
LLAMA = {
    "version": 1, "name": "coder", "node": "gpu-1", "preset": "llama.cpp", "port": 3011,
    "image": "images.example/ggml-org/llama.cpp:server-cuda-b9000", "model": "https://models.example/a/coder.gguf",
    "sha256": "0" * 64, "context": 8192,
}  # fmt: skip
VLLM = {
    "version": 1, "name": "Big_One", "node": "gpu-1", "preset": "vllm", "port": 3012, "context": 16384,
    "image": "vllm/vllm-openai:v0.32.0", "model": "hf:Qwen/Qwen2.5-7B@a09a354", "gpus": [0, 1], "offload": "16GiB",
    "api_key": "env:KEY", "token": "env:HF", "arguments": ["--enable-prefix-caching"],
}  # fmt: skip

ENGINE_SPEC = {"enableEngine", "startupProbe", "strategy", "vllmApiKey", "modelSpec"}
MODEL_SPEC = {
    "affinity", "env", "initContainer", "lmcacheConfig", "modelURL", "name", "nodeSelectorTerms", "pvcAccessMode",
    "pvcStorage", "replicaCount", "repository", "requestCPU", "requestGPU", "requestGPUType", "requestMemory",
    "storageClass", "tag", "vllmConfig",
}  # fmt: skip
"""Keys of vllm-project/production-stack helm/values.schema.json that are used here, read in November 2026."""
INIT_CONTAINER = {"args", "command", "env", "extraVolumeMounts", "image", "mountPvcStorage", "name", "resources"}
VLLM_CONFIG = {"extraArgs", "gpuMemoryUtilization", "maxModelLen", "tensorParallelSize"}
CONTAINER = {"args", "command", "env", "image", "probes", "resources"}
"""Keys of a container in bjw-s-labs common 5, whose schema allows no others than its own; as those below."""
CONTROLLER = {"type", "replicas", "strategy", "pod", "containers", "initContainers", "job"}
POD = {"affinity", "labels", "nodeSelector"}
CLAIM = {"type", "accessMode", "size", "retain", "storageClass", "advancedMounts"}


def spec(base: dict[str, Any], **changed: Any) -> Spec:
    return Spec.model_validate({k: v for k, v in {**base, **changed}.items() if v is not None})


def parts(text: str) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def test_plain_manifests() -> None:
    found = parts(manifests(spec(LLAMA), NODE, namespace="llm", storage="20Gi", storage_class="local-path"))
    assert list(found) == ["PersistentVolumeClaim", "Job", "Deployment", "Service"]
    assert all(each["metadata"]["namespace"] == "llm" for each in found.values())
    claim = found["PersistentVolumeClaim"]["spec"]
    assert (claim["resources"]["requests"]["storage"], claim["storageClassName"]) == ("20Gi", "local-path")
    outer = found["Deployment"]["spec"]
    inner = outer["template"]["spec"]
    (engine,) = inner["containers"]
    assert (outer["replicas"], outer["strategy"]["type"]) == (1, "Recreate")
    assert engine["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert inner["nodeSelector"] == {"kubernetes.io/hostname": "k-1"}
    assert engine["startupProbe"]["httpGet"] == {"path": "/health", "port": 8080}
    assert engine["startupProbe"]["failureThreshold"] * engine["startupProbe"]["periodSeconds"] == 1800
    assert "--ctx-size" in engine["args"]
    assert engine["args"][engine["args"].index("--model") + 1] == "/models/coder.gguf"
    assert found["Service"]["spec"]["selector"].items() <= outer["template"]["metadata"]["labels"].items()
    (fetch,) = found["Job"]["spec"]["template"]["spec"]["containers"]
    told = {e["name"]: e["value"] for e in fetch["env"]}
    assert (told["URL"], told["SHA256"]) == (LLAMA["model"], "0" * 64)
    for each in (*inner["containers"], *inner["initContainers"], fetch):
        (mount,) = [m for m in each["volumeMounts"] if m["name"] == "models"]
        assert mount["mountPath"] == "/models"


def test_on_demand_has_no_replicas_and_is_spread() -> None:
    found = parts(manifests(spec(LLAMA, on_demand=True), NODE, namespace="llm", storage="20Gi"))["Deployment"]["spec"]
    inner = found["template"]["spec"]
    assert found["replicas"] == 0
    assert "nodeSelector" not in inner
    assert "podAntiAffinity" in inner["affinity"]


def test_secrets_are_references_and_never_values() -> None:
    text = manifests(spec(VLLM), NODE, namespace="llm", storage="20Gi")
    found = parts(text)
    inner = found["Deployment"]["spec"]["template"]["spec"]
    assert {"name": "key", "secret": {"secretName": "big-one-key"}} in inner["volumes"]
    (fetch,) = found["Job"]["spec"]["template"]["spec"]["containers"]
    token = {"secretKeyRef": {"name": "big-one-token", "key": "token"}}
    assert {"name": "HF_TOKEN", "valueFrom": token} in fetch["env"]
    assert "env:KEY" not in text
    assert "env:HF" not in text
    said = "\n".join(advice(spec(VLLM), pod(spec(VLLM), NODE), "llm"))
    assert "create secret generic big-one-key" in said
    assert "create secret generic big-one-token" in said


async def test_a_rendered_deployment_is_seen_as_a_workload_and_starts(double: Double) -> None:
    found = parts(manifests(spec(VLLM), NODE, namespace="llm", storage="20Gi"))["Deployment"]
    what = shapes.controller(found, "deployment")
    assert (what.name, what.gpus, what.checked, what.replicas) == ("llm/big-one", {"nvidia.com/gpu": 2}, True, 1)
    assert "big-one-models:/models" in what.mounts
    assert what.labels == {"kubernetes.io/hostname": "k-1"}
    double.add_node("k-1", 2)
    double.store.create(KINDS["deployments"], "llm", {**found, "status": {}})
    double.controllers.reconcile()
    assert double.pod_of("big-one")["spec"]["nodeName"] == "k-1"


def test_values_of_the_vllm_chart() -> None:
    found = yaml.safe_load(vllm_chart(spec(VLLM), NODE, storage="50Gi"))["servingEngineSpec"]
    assert set(found) <= ENGINE_SPEC
    (model,) = found["modelSpec"]
    assert set(model) <= MODEL_SPEC
    assert set(model["initContainer"]) <= INIT_CONTAINER
    assert set(model["vllmConfig"]) <= VLLM_CONFIG
    assert (model["repository"], model["tag"], model["requestGPU"]) == ("vllm/vllm-openai", "v0.32.0", 2)
    assert model["modelURL"] == "/data/Qwen2.5-7B"
    assert model["vllmConfig"] == {
        "gpuMemoryUtilization": 0.9, "maxModelLen": 16384, "tensorParallelSize": 2,
        "extraArgs": ["--served-model-name", "Big_One", "--enable-prefix-caching"],
    }  # fmt: skip
    assert model["lmcacheConfig"] == {"enabled": True, "cpuOffloadingBufferSize": "17.2"}
    assert {"name": "FOLDER", "value": "/data"} in model["initContainer"]["env"]
    assert found["vllmApiKey"] == {"secretName": "big-one-key", "secretKey": "api_key"}
    with pytest.raises(ProcedureError, match=r"served by llama\.cpp, and that chart serves vLLM only"):
        vllm_chart(spec(LLAMA), NODE, storage="1Gi")
    with pytest.raises(ProcedureError, match="wants an image as repository and tag"):
        vllm_chart(spec(VLLM, image="vllm/vllm-openai@sha256:abc"), NODE, storage="1Gi")


@pytest.mark.parametrize("base", [LLAMA, VLLM], ids=["llama.cpp", "vllm"])
def test_values_of_the_app_template(base: dict[str, Any]) -> None:
    made = spec(base)
    found = yaml.safe_load(app_template(made, NODE, storage="50Gi", storage_class="fast"))
    name = pod(made, NODE).name
    assert set(found) == {"controllers", "service", "persistence"}
    assert set(found["controllers"]) == {name, "fetch"}
    for controller in found["controllers"].values():
        assert set(controller) <= CONTROLLER
        assert set(controller.get("pod", {})) <= POD
        for container in (*controller["containers"].values(), *controller.get("initContainers", {}).values()):
            assert set(container) <= CONTAINER
    assert found["controllers"]["fetch"]["type"] == "job"
    assert set(found["persistence"]["models"]) <= CLAIM
    assert set(found["persistence"]["models"]["advancedMounts"]) == {name, "fetch"}
    assert found["service"][name]["controller"] == name
    probe = found["controllers"][name]["containers"]["engine"]["probes"]["startup"]
    assert set(probe) == {"enabled", "custom", "spec"}


def fetched(folder: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script, run by a real shell, with a `curl` and an `hf` of our own."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name, body in {
        "curl": 'cat > "$LOG"; for last; do :; done; out=""; for w; do [ "$p" = --output ] && out="$w"; p="$w"; done\n'
        'printf "%s" "$CONTENT" > "$out"',
        "hf": 'echo "$@" > "$LOG"; mkdir -p "$FOLDER/$FILE"; : > "$FOLDER/$FILE/model.safetensors"',
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(stat.S_IRWXU)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "LOG": str(folder / "log"), "FOLDER": str(folder)}
    return subprocess.run(
        ["/bin/sh", "-c", script], env={**environment, **variables}, capture_output=True, text=True, timeout=10
    )


def test_a_file_is_moved_into_place_only_if_its_checksum_is_right(tmp_path: Path) -> None:
    good = hashlib.sha256(b"model").hexdigest()
    told = {"FILE": "a b.gguf", "URL": "https://x/$(touch hacked)", "CONTENT": "model"}
    done = fetched(tmp_path, FETCH, SHA256="1" * 64, **told)
    assert done.returncode == 65
    assert "wrong checksum: a b.gguf" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "tools"]
    done = fetched(tmp_path, FETCH, SHA256=good, TOKEN="t0k", **told)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a b.gguf").read_text() == "model"
    assert (tmp_path / "log").read_text() == 'header = "Authorization: Bearer t0k"\n'
    (tmp_path / "log").unlink()
    assert "is there" in fetched(tmp_path, FETCH, SHA256=good, **told).stdout
    assert not (tmp_path / "log").exists()


def test_a_repository_is_fetched_at_its_revision_once(tmp_path: Path) -> None:
    told = {"FILE": "Qwen", "REPOSITORY": "Qwen/Qwen", "REVISION": "abc"}
    assert fetched(tmp_path, FETCH_REPOSITORY, **told).returncode == 0
    assert (tmp_path / "log").read_text() == f"download Qwen/Qwen --revision abc --local-dir {tmp_path}/Qwen\n"
    (tmp_path / "log").unlink()
    assert fetched(tmp_path, FETCH_REPOSITORY, **told).returncode == 0
    assert not (tmp_path / "log").exists()


def test_what_a_cluster_cannot_fetch_is_told() -> None:
    made = spec(LLAMA, model="ssh:nas:/srv/a.gguf", sha256=None)
    found = parts(manifests(made, NODE, namespace="llm", storage="1Gi"))
    assert "Job" not in found
    assert "copy it into the claim coder-models as a.gguf" in "\n".join(advice(made, pod(made, NODE), "llm"))
    with pytest.raises(ProcedureError, match="does not have"):
        pod(spec(LLAMA, model="hf:a/b@c"), NODE)


@pytest.mark.parametrize("what", ["kubernetes", "app-template"])
def test_the_verb(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = tmp_path / "cluster.toml"
    cluster.write_text(
        'version = 1\nname = "x"\n[[nodes]]\nname = "gpu-1"\naddress = "10.0.0.2"\ngpus = "nvidia"\n'
        '[[tiers]]\nname = "T"\n'
    )
    monkeypatch.setenv("TIERDECK_STATE", str(tmp_path / "state"))
    path = tmp_path / "coder.toml"
    path.write_text("".join(f"{k} = {v!r}\n" for k, v in LLAMA.items()))

    def run(*more: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["--cluster", str(cluster), "export", what, str(path), *more])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    code, out, _ = run("--namespace", "llm", "--storage", "7Gi")
    assert code == 0
    assert "7Gi" in out
    assert list(yaml.safe_load_all(out))
    assert run("--storage", "many")[2] == 'tierdeck: "many" is no size of a volume: 100Gi is one.\n'
    assert '"Not_One" is no namespace' in run("--namespace", "Not_One")[2]
    path.write_text(path.read_text().replace("gpu-1", "gpu-2"))
    code, _, err = run()
    assert (code, 'there is no node "gpu-2". Known: gpu-1.' in err) == (1, True)
