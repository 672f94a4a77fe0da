"""Events of the API as notices of workloads: whose they are, and what they say. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from backends.cluster.noted import Notice
from backends.reach.docker_words import timestamp
from backends.reach.kubernetes.fields import table
from backends.reach.kubernetes.shapes import STATEFUL
from backends.text import plain

MOST: Final = 5
"""The latest notices of a workload that are told."""

_REPLICA_SET: Final = re.compile(r"(.+)-[a-z0-9]{1,10}")
_POD: Final = re.compile(r"(.+)-[a-z0-9]{1,10}-[a-z0-9]{5}")
_STATEFUL_POD: Final = re.compile(r"(.+)-\d{1,5}")


@dataclass(frozen=True, slots=True)
class Happening:
    """An event about the workload `owner` (NAMESPACE/NAME) or what it is made of."""

    owner: str
    notice: Notice


def happening(data: Mapping[str, Any], known: Container[str]) -> Happening | None:
    """An event about one of the `known` workloads, its autoscaler, ReplicaSets or pods; None for the others."""
    about = table(data, "involvedObject")
    names = _owners(str(about.get("kind")), str(about.get("namespace")), str(about.get("name")))
    owner = next((name for name in names if name in known), None)
    if owner is None:
        return None
    told = [table(data, "series").get("lastObservedTime")]
    told += [data.get(key) for key in ("lastTimestamp", "eventTime", "firstTimestamp")]
    at = next((found for each in told if each and (found := timestamp(each))), 0.0)
    reason, text = plain(str(data.get("reason") or "")), plain(str(data.get("message") or ""), 300)
    return Happening(owner, Notice(at, reason, text, data.get("type") == "Warning"))


def notices(owner: str, happenings: Iterable[Happening]) -> tuple[Notice, ...]:
    """What was said of a workload, newest first; what is said again and again stands once."""
    said = sorted((each.notice for each in happenings if each.owner == owner), key=lambda notice: notice.at)
    latest = {notice.words: notice for notice in said}
    return tuple(sorted(latest.values(), key=lambda notice: -notice.at)[:MOST])


def _owners(kind: str, namespace: str, name: str) -> Iterator[str]:
    """The workloads that something may belong to, by its kind and name."""
    if kind in ("Deployment", "HorizontalPodAutoscaler"):
        yield f"{namespace}/{name}"
    if kind in ("StatefulSet", "HorizontalPodAutoscaler"):
        yield f"{namespace}/{STATEFUL}/{name}"
    if (made := {"ReplicaSet": _REPLICA_SET, "Pod": _POD}.get(kind)) and (found := made.fullmatch(name)):
        yield f"{namespace}/{found[1]}"
    if kind == "Pod" and (found := _STATEFUL_POD.fullmatch(name)):
        yield f"{namespace}/{STATEFUL}/{found[1]}"
