"""What is wrong with the way to a cluster is told of its node, as `status` and the console show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from backends.errors import ProcedureError
from backends.procedures.startup import plan_queue
from backends.world import survey
from tests.kubernetes.double import Double
from tests.kubernetes.pki import Authority
from tests.kubernetes.test_seen import inventory

Change = Callable[[Double, Path], object]
"""What somebody does to the cluster, or to the kubeconfig at that path."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """Something that is wrong, and what is said of it."""

    name: str
    change: Change
    words: str


def edited(part: str, *, user: bool = False, **told: object) -> Change:
    """The kubeconfig, with other values at its top, or in its user's entry."""

    def change(_: Double, path: Path) -> None:
        data = yaml.safe_load(path.read_text())
        if user:
            data["users"][0]["user"] = told
        else:
            data[part] = told["value"]
        path.write_text(yaml.safe_dump(data))

    return change


def expired(_: Double, path: Path) -> None:
    certificate, key = Authority(path.parent).pair("me", days=-3)
    edited("", user=True, **{"client-certificate": str(certificate), "client-key": str(key)})(_, path)


def closed(_: Double, path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    data["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    path.write_text(yaml.safe_dump(data))


PLUGIN = {"apiVersion": "client.authentication.k8s.io/v1", "command": "kubelogin-that-is-not-there"}

WRONG = [
    Wrong("missing", lambda _, path: path.unlink(), "home: there is no kubeconfig"),
    Wrong("broken", lambda _, path: path.write_text("a: b\n  c: ["), "line 2 is no valid kubeconfig: it is not YAML"),
    Wrong("plugin", edited("", user=True, exec=PLUGIN), "kubelogin-that-is-not-there, which is not there"),
    Wrong("expired", expired, "expired on"),
    Wrong("context", edited("current-context", value="hom"), 'has no context "hom". Did you mean "home"?'),
    Wrong("unreachable", closed, "refuses connections. Is it running"),
    Wrong("HTML", lambda double, _: setattr(double, "html", True), "a web page answers (status 200), not a Kubernetes"),
    Wrong("login", edited("", user=True, token="wrong"), "the API does not accept the login"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
async def test_it_is_named_and_nothing_is_planned(double: Double, tmp_path: Path, wrong: Wrong) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder")
    loaded = inventory(tmp_path, double)
    wrong.change(double, tmp_path / "kubeconfig")
    snapshot = await survey(loaded, None, tmp_path / "state")
    trouble = snapshot.nodes["gpu-1"].workloads_trouble or snapshot.nodes["gpu-1"].reach_trouble
    assert trouble is not None
    assert wrong.words in f"{trouble.message} {trouble.advice}"
    with pytest.raises(ProcedureError, match="What runs on gpu-1 is not known"):
        plan_queue(loaded.inventory, snapshot, "gpu-1")
    assert {method for method, _ in double.requests} <= {"GET"}
