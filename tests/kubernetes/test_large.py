"""A cluster of 5,000 pods: read in pages, kept as far as they matter, within limits of time and memory."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import pytest

from backends.reach.kubernetes import cluster as module
from backends.reach.kubernetes.api import PAGE, KubernetesApi
from tests.kubernetes.double import Double
from tests.kubernetes.store import KINDS
from tests.kubernetes.test_seen import runtime_of
from tests.kubernetes.test_words import recorded

PODS = 5000

DEADLINE = 400.0
"""Seconds for the first look on a machine that does much else."""

CPU = 40.0
"""Seconds of work for the first look, the double's own in the same process and the counting of memory counted in."""

KEPT = 2 * 2**20
"""Bytes that may stay, connections and what the double counts included; the pods alone, were all kept, are 3 MiB."""

PEAK = 32 * 2**20
"""Bytes that may be in use at any moment, the double's pages counted in; the whole list as objects is 100 MiB."""


def fill(double: Double) -> None:
    """So many pods of Deployments that ask for no GPU, as a real server describes them, and events about them."""
    (real, *_) = recorded("GET /api/v1/namespaces/default/pods?labelSelector=app%3Dcoder")["items"]
    for container in real["spec"]["containers"]:
        container.pop("resources", None)
    text = json.dumps(real)
    for number in range(PODS):
        item = json.loads(text)
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"web{number}-5d4f6b7c8", "controller": True}
        meta = {"name": f"web{number}-5d4f6b7c8-x7k9p", "namespace": "llm", "resourceVersion": "1"}
        item["metadata"] |= {**meta, "ownerReferences": [owner], "labels": {"pod-template-hash": "5d4f6b7c8"}}
        double.store.objects["pods"][f"llm/{meta['name']}"] = item
        about = {"kind": "Pod", "namespace": "llm", "name": meta["name"]}
        told = {"metadata": {"name": f"e{number}", "namespace": "llm"}, "involvedObject": about, "reason": "Pulled"}
        double.store.objects["events"][f"llm/e{number}"] = told


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST", DEADLINE)


@asynccontextmanager
async def ticking() -> AsyncIterator[list[float]]:
    """How late a tick of 10 ms came, at the latest."""
    latest = [0.0]

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            latest[0] = max(latest[0], time.monotonic() - before - 0.01)

    task = asyncio.create_task(tick())
    try:
        yield latest
    finally:
        task.cancel()


async def test_five_thousand_pods(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 2)
    fill(double)
    await api.get("/version")  # the library is imported now
    cluster, runtime = runtime_of(api)
    tracemalloc.start()
    begun = time.process_time()
    try:
        async with asyncio.timeout(DEADLINE), ticking() as late:
            assert [w.name for w in await runtime.workloads()] == ["llm/coder"]
            await cluster._asides.told()
        took = time.process_time() - begun
        _, peak = tracemalloc.get_traced_memory()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await cluster.close()
    print(json.dumps({"cpu": took, "kept": after, "peak": peak, "late": late[0]}))
    assert sum(len(each.objects) for each in cluster._pods) == 2
    pages = [parse_qs(urlsplit(path).query) for _, path in double.requests if "/pods?limit" in path]
    assert len(pages) == PODS // PAGE + 1
    assert all(page["limit"] == [str(PAGE)] for page in pages)
    assert all("continue" in page for page in pages[1:])
    assert took < CPU
    assert after < KEPT
    assert peak < PEAK


async def test_a_change_among_them_is_no_new_list(double: Double, api: KubernetesApi) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 1)
    fill(double)
    cluster, runtime = runtime_of(api)
    assert [w.state for w in await runtime.workloads()] != ["exited"]
    asked = len(double.requests)
    item = double.deployment("coder")
    item["spec"]["replicas"] = 0
    double.store.touch(KINDS["deployments"], item)
    double.controllers.reconcile()
    async with asyncio.timeout(DEADLINE):
        while (await runtime.workloads())[0].state != "exited":
            await asyncio.sleep(0.01)
    assert not [path for _, path in double.requests[asked:] if "limit=" in path and "/pods" in path]
    await cluster.close()
