"""The API double says what a real 1.35 API server says: the recorded requests, asked of it in their order."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.kubernetes.controllers import Times
from tests.kubernetes.double import ADMIN, VIEWER, Double, serving

RECORDED = Path(__file__).parents[1] / "fixtures/recorded/kubernetes.jsonl"


def lines() -> list[dict[str, Any]]:
    return [found for line in RECORDED.read_text().splitlines() if "request" in (found := json.loads(line))]


def token(number: int, line: dict[str, Any]) -> str:
    """Who asked, which the recording tells by its answers."""
    message = str(line["answer"].get("message", ""))
    if line["status"] == 401:
        return "wrong"
    return "" if "system:anonymous" in message else VIEWER if "viewer" in message else ADMIN


def strange(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:
    """What the double says and the real server does not, or in another type."""
    if type(ours) is not type(theirs) and ours is not None and theirs is not None:
        yield f"{place}: {type(ours).__name__}, really {type(theirs).__name__}"
    elif isinstance(ours, dict):
        for key, value in ours.items():
            if key not in theirs:
                yield f"{place}.{key}: not there really"
            else:
                yield from strange(value, theirs[key], f"{place}.{key}")
    elif isinstance(ours, list) and theirs:
        for item in ours:
            yield from strange(item, likest(item, theirs), f"{place}[]")


def likest(item: Any, others: list[Any]) -> Any:
    """The one of the others to compare with: of the same type or reason, if they have any."""
    same = [o for o in others if isinstance(o, dict) and isinstance(item, dict)
            and all(o.get(k) == item.get(k) for k in ("type", "reason") if k in item)]  # fmt: skip
    return (same or others)[0]


async def test_the_double_says_what_a_real_server_says() -> None:
    double = Double()
    double.controllers.times = Times(0.0, 0.0, 0.0)
    for name in ("gpu-node-1", "gpu-node-2"):
        double.add_node(name, 8, **{"nvidia.com/gpu.product": "NVIDIA-H200"})
    found: list[str] = []
    async with serving(double), aiohttp.ClientSession() as session:
        for number, line in enumerate(lines()):
            method, _, path = line["request"].partition(" ")
            who = token(number, line)
            headers = {"Authorization": f"Bearer {who}"} if who else {}
            if line["body"] is not None:
                headers["Content-Type"] = "application/json" if method == "POST" else "application/merge-patch+json"
            body = None if line["body"] is None else json.dumps(line["body"])
            theirs, deadline = line["answer"], time.monotonic() + 5
            while True:
                async with session.request(method, f"{double.url}{path}", data=body, headers=headers) as answer:
                    ours = await answer.json()
                    status = answer.status
                settled = method != "GET" or counted(ours) == counted(theirs)
                if settled or time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.01)
            where = f"{line['request']}: "
            assert (status, settled) == (line["status"], True), where
            if "message" in theirs:
                assert ours["message"] == theirs["message"], where
                assert {k: v for k, v in ours.items() if k != "metadata"} == {
                    k: v for k, v in theirs.items() if k != "metadata"
                }
            found += [where + words for words in strange(ours, theirs) if "terminating" not in words]
    assert not found, "\n".join(found)


def counted(answer: dict[str, Any]) -> Any:
    """What has to be as it was when the real server was asked: replicas, and pods with their phases."""
    if "items" in answer and answer["kind"] == "PodList":
        return [(i["status"]["phase"], bool(i["status"].get("containerStatuses"))) for i in answer["items"]]
    return answer.get("status", {}).get("readyReplicas") if isinstance(answer.get("status"), dict) else None


def test_the_recording_covers_what_is_held_to_it() -> None:
    assert {line["status"] for line in lines()} == {200, 201, 401, 403, 404, 422}
