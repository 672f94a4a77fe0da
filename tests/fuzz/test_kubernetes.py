"""What a Kubernetes API lists, watches and refuses, mangled: read, or told in a sentence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from backends.reach.kubernetes import shapes
from backends.reach.kubernetes.kept import Kept
from backends.reach.kubernetes.refusals import refusal
from backends.reach.kubernetes.words import Seen, devices, workloads
from tests.fuzz.strategies import DEEP, bounded, grafts, json_of, said, tried

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "fixtures/recorded/kubernetes.jsonl").read_text().splitlines()[1:]
]
ANSWERS = {line["request"]: line["answer"] for line in RECORDED if line["status"] < 300}
PODS, NODES = ANSWERS["GET /api/v1/namespaces/default/pods?labelSelector=app%3Dbig"], ANSWERS["GET /api/v1/nodes"]
DEPLOYMENT = ANSWERS["GET /apis/apps/v1/namespaces/default/deployments/coder"]
CLAIM = ANSWERS["POST /api/v1/namespaces/default/persistentvolumeclaims"]
REFUSALS = [line["answer"] for line in RECORDED if line["status"] >= 400]
NODE = {**NODES["items"][0], "metadata": {"name": "gpu-node-1", "labels": {"gpu": "yes"}}}

KINDS: dict[str, tuple[Callable[[Any], object], Any]] = {
    "pod": (shapes.pod, PODS["items"][0]),
    "deployment": (lambda data: shapes.controller(data, "deployment"), DEPLOYMENT),
    "node": (shapes.host, NODE),
    "claim": (shapes.claim, CLAIM),
}


class Api:
    """Lists one page."""

    name = "home"

    def __init__(self, page: Any) -> None:
        self._page = page

    async def pages(self, path: str) -> AsyncIterator[Any]:
        yield self._page


def listed(kind: str, page: Any) -> Kept[Any]:
    """What is kept of a list; one of our errors where it cannot be read."""
    kept: Kept[Any] = Kept(Api(page), "/list", KINDS[kind][0])  # type: ignore[arg-type]
    asyncio.run(kept._list())
    return kept


def watched(kind: str, line: str) -> Kept[Any]:
    """What is kept after one line of a watch."""
    kept: Kept[Any] = Kept(Api({}), "/watch", KINDS[kind][0])  # type: ignore[arg-type]
    kept._take(line)
    return kept


def told(kind: str, found: dict[str, Any]) -> None:
    """Say in words what is known, where nothing else of the cluster is odd."""
    usual = {name: keep(item) for name, (keep, item) in KINDS.items()}
    (one,) = found.values() or [usual[kind]]
    whole: dict[str, Any] = usual | {kind: one}
    controller = whole["deployment"]
    seen = Seen(
        {controller.name: controller}, (whole["pod"],), {NODE["metadata"]["name"]: whole["node"]}, {"c": whole["claim"]}
    )
    for workload in workloads(seen, NODE["metadata"]["name"], {controller.name}):
        assert workload.error.isprintable()
    devices(seen, NODE["metadata"]["name"])


@pytest.mark.parametrize("kind", KINDS)
def test_any_value_may_be_odd(kind: str) -> None:
    for changed in grafts(KINDS[kind][1], every=29):
        item = json.loads(json.dumps(changed))
        said(lambda item=item: told(kind, listed(kind, {"items": [item]}).objects))


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_may_be_anything(kind: str) -> None:
    page = {"kind": "List", "metadata": {"resourceVersion": "7"}, "items": [KINDS[kind][1]]}

    @tried
    @given(json_of(page))
    def run(raw: bytes) -> None:
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            return  # no JSON is refused before
        said(partial(listed, kind, answer))

    run()


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_of_a_watch_may_be_anything(kind: str) -> None:
    @tried
    @given(json_of({"type": "MODIFIED", "object": KINDS[kind][1]}))
    def run(raw: bytes) -> None:
        said(partial(watched, kind, raw.decode("utf-8", "replace")))

    run()
    said(partial(watched, kind, "[" * DEEP))


def test_a_refusal_may_be_anything() -> None:
    for answer in REFUSALS:
        for changed in grafts(answer, every=3):
            for status in (401, 403, 409, 410, 422, 500):
                words = str(refusal("home", status, changed))
                assert words.isprintable()
                assert len(words) < 2000


def test_nor_does_it_take_for_ever() -> None:
    pod, deployment = KINDS["pod"][1], KINDS["deployment"][1]
    wordy = {**deployment["spec"], "template": {"spec": {"containers": [{"args": ["x"] * 10**5}]}}}
    for kind, item in (
        ("pod", {**pod, "status": {"conditions": [{"type": "PodScheduled", "message": "x, " * 10**5}] * 50}}),
        ("pod", {**pod, "spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "9" * 4000}}}]}}),
        ("deployment", {**deployment, "spec": wordy}),
        ("node", {**NODE, "status": {"capacity": {f"nvidia.com/mig-{n}": "1" for n in range(10**4)}}}),
    ):  # fmt: skip
        bounded(lambda kind=kind, item=item: said(lambda: told(kind, listed(kind, {"items": [item]}).objects)))
    bounded(lambda: refusal("home", 403, {"message": "may not " * 10**5}))
