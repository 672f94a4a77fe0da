"""Watches: dropped, outdated, refused and silent ones; nothing is asked again that is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.errors import RuntimeFailure
from backends.reach.kubernetes import kept as module
from backends.reach.kubernetes.api import KubernetesApi
from backends.reach.kubernetes.kept import Kept
from tests.kubernetes.double import Double
from tests.kubernetes.store import KINDS
from tests.reach.conftest import until

PATH = "/apis/apps/v1/namespaces/llm/deployments"


def replicas(item: Mapping[str, Any]) -> int | None:
    count = item["spec"].get("replicas", 1)
    return None if count == 99 else count


@asynccontextmanager
async def watching(api: KubernetesApi, path: str = PATH) -> AsyncIterator[Kept[int]]:
    made = Kept(api, path, replicas)
    task = asyncio.create_task(made.run())
    try:
        async with asyncio.timeout(5):
            await made.told()
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def scale(double: Double, name: str, count: int) -> None:
    item = double.deployment(name)
    item["spec"]["replicas"] = count
    double.store.touch(KINDS["deployments"], item)


def lists(double: Double) -> int:
    return sum("watch=" not in path and PATH in path for _, path in double.requests)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHORTEST", 0.01)


async def test_changes_arrive_by_themselves(double: Double, api: KubernetesApi) -> None:
    double.add_deployment("coder")
    async with watching(api) as kept:
        assert kept.objects == {"llm/coder": 0}
        scale(double, "coder", 3)
        await until(lambda: kept.objects == {"llm/coder": 3})
        double.add_deployment("other")
        await until(lambda: "llm/other" in kept.objects)
        scale(double, "other", 99)
        await until(lambda: "llm/other" not in kept.objects)
        double.store.delete(KINDS["deployments"], "llm", "coder")
        await until(lambda: not kept.objects)
    assert lists(double) == 1


async def test_a_dropped_watch_goes_on_where_it_was(double: Double, api: KubernetesApi) -> None:
    double.add_deployment("coder")
    async with watching(api) as kept:
        for count in range(1, 6):
            await until(lambda: bool(double.store.watchers))
            double.store.drop()
            scale(double, "coder", count)
            await until(lambda count=count: kept.objects == {"llm/coder": count})
        assert kept.trouble is None
    assert lists(double) == 1


async def test_where_its_version_is_gone_the_list_is_read_again(double: Double, api: KubernetesApi) -> None:
    double.add_deployment("coder")
    async with watching(api) as kept:
        await until(lambda: bool(double.store.watchers))
        scale_silently(double, "coder", 7)
        double.store.compact()
        double.store.drop()
        await until(lambda: kept.objects == {"llm/coder": 7})
        assert kept.lists == 2
        assert kept.trouble is None


def scale_silently(double: Double, name: str, count: int) -> None:
    """A change that no watch tells of: it happened while nobody listened."""
    watchers, double.store.watchers = double.store.watchers, []
    scale(double, name, count)
    double.store.watchers = watchers


async def test_a_turn_that_ends_is_followed_by_the_next(
    double: Double, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN", 0.05)
    double.add_deployment("coder")
    async with watching(api) as kept:
        await until(lambda: sum("watch=" in path for _, path in double.requests) > 4)
        scale(double, "coder", 2)
        await until(lambda: kept.objects == {"llm/coder": 2})
    assert lists(double) == 1


async def test_a_silent_connection_is_taken_for_dead(
    double: Double, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.1)
    double.add_deployment("coder")
    async with watching(api) as kept:
        begun = time.monotonic()
        await until(lambda: sum("watch=" in path for _, path in double.requests) > 2)
        assert time.monotonic() - begun < 4
        scale(double, "coder", 2)
        await until(lambda: kept.objects == {"llm/coder": 2})


async def test_what_we_may_not_see_is_told_and_seen_once_we_may(double: Double, api: KubernetesApi) -> None:
    double.add_deployment("coder")
    double.forbidden.add(("list", "deployments"))
    async with watching(api) as kept:
        assert isinstance(kept.trouble, RuntimeFailure)
        assert kept.trouble.message == "home: may not: list deployments.apps in llm."
        double.forbidden.clear()
        await until(lambda: kept.objects == {"llm/coder": 0})
        assert kept.trouble is None


async def test_an_api_that_is_away_is_told_and_found_again(double: Double, api: KubernetesApi) -> None:
    double.add_deployment("coder")
    async with watching(api) as kept:
        await until(lambda: bool(double.store.watchers))
        double.html = True
        double.store.drop()
        await until(lambda: kept.trouble is not None)
        assert kept.objects == {"llm/coder": 0}
        double.html = False
        scale(double, "coder", 1)
        await until(lambda: kept.trouble is None and kept.objects == {"llm/coder": 1})
    assert lists(double) == 1


async def test_a_list_that_outdates_between_its_pages_begins_anew(double: Double, api: KubernetesApi) -> None:
    for number in range(250):
        item = {"metadata": {"name": f"d{number:03}", "namespace": "llm"}, "spec": {"replicas": number % 9}}
        double.store.create(KINDS["deployments"], "llm", item)
    compacted = False
    get = api.get

    async def getting(path: str, params: Any = None) -> dict[str, Any]:
        nonlocal compacted
        page = await get(path, params)
        if not compacted:
            compacted = True
            double.store.touch(KINDS["deployments"], double.deployment("d000"))
            double.store.compact()
        return page

    api.get = getting  # type: ignore[method-assign]
    async with watching(api) as kept:
        await until(lambda: len(kept.objects) == 250)
        assert kept.lists == 1


async def test_what_cannot_be_read_is_told_and_not_passed_over(double: Double, api: KubernetesApi) -> None:
    double.add_deployment("coder")
    async with watching(api) as kept:
        await until(lambda: bool(double.store.watchers))
        strange = {"metadata": {"name": "strange", "namespace": "llm"}}
        double.store.put(KINDS["deployments"], "llm", strange, "ADDED")
        await until(lambda: kept.trouble is not None)
        assert "llm/strange cannot be read" in str(kept.trouble)
        double.store.delete(KINDS["deployments"], "llm", "strange")
        double.store.compact()
        await until(lambda: kept.trouble is None and kept.objects == {"llm/coder": 0})
