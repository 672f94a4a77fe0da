"""What differs between two states of an object, and what we applied of one: pure rules, in tables."""

from __future__ import annotations

from typing import Any

import pytest

from backends.reach.kubernetes.changes import differences, marked, owned

BASE: dict[str, Any] = {
    "apiVersion": "apps/v1", "kind": "Deployment", "status": {"replicas": 1},
    "metadata": {"name": "coder", "namespace": "llm", "uid": "1", "resourceVersion": "7", "generation": 2,
                 "annotations": {"deployment.kubernetes.io/revision": "3"}, "managedFields": [{"manager": "x"}]},
    "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "engine", "image": "a:1"}]}}},
}  # fmt: skip


def changed(**spec: Any) -> dict[str, Any]:
    return {**BASE, "metadata": {**BASE["metadata"], "uid": "2"}, "status": {}, "spec": {**BASE["spec"], **spec}}


@pytest.mark.parametrize(
    ("after", "lines"),
    [
        (changed(), ()),
        (changed(replicas=0), ("spec.replicas: 1 -> 0",)),
        (changed(paused=True), ("+ spec.paused: true",)),
        (
            changed(template={"spec": {"containers": [{"name": "engine", "image": "a:2", "args": ["-x"]}]}}),
            (
                "spec.template.spec.containers[engine].image: a:1 -> a:2",
                '+ spec.template.spec.containers[engine].args: ["-x"]',
            ),
        ),
        (
            changed(template={"spec": {}}),
            (
                "- spec.template.spec.containers[engine].name: engine",
                "- spec.template.spec.containers[engine].image: a:1",
                "+ spec.template.spec: {}",
            ),
        ),
        (marked(changed(), "token"), ()),
    ],
)
def test_differences(after: dict[str, Any], lines: tuple[str, ...]) -> None:
    assert differences(BASE, after) == lines


def test_what_an_object_says_cannot_write_on_the_screen() -> None:
    assert "\x1b" not in "".join(differences(BASE, changed(evil="\x1b[31mred")))


def test_only_what_we_applied_is_ours() -> None:
    found = changed()
    found["metadata"]["labels"] = {"app": "coder", "team": "theirs"}
    found["metadata"]["finalizers"] = ["ours", "theirs"]
    fields = {
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {'v:"ours"': {}}},
        "f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"engine"}': {".": {}, "f:image": {}}}}}},
    }
    found["metadata"]["managedFields"] = [
        {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        {"manager": "tierdeck", "operation": "Update", "subresource": "scale", "fieldsV1": {"f:spec": {"f:x": {}}}},
        {"manager": "tierdeck", "operation": "Apply", "fieldsV1": fields},
    ]
    assert owned(found, "tierdeck") == {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "coder", "namespace": "llm", "labels": {"app": "coder"}, "finalizers": ["ours"]},
        "spec": {"template": {"spec": {"containers": [{"name": "engine", "image": "a:1"}]}}},
    }  # fmt: skip
    assert owned(found, "nobody") == {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "coder", "namespace": "llm"},
    }  # fmt: skip
