"""HorizontalPodAutoscalers in words: how many replicas of how many, and what is measured against what. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from backends.reach.kubernetes.fields import each, table
from backends.reach.kubernetes.quantities import quantity
from backends.reach.kubernetes.shapes import STATEFUL
from backends.text import plain

_SOURCES: Final = {
    "Pods": "pods", "Object": "object", "External": "external", "Resource": "resource",
    "ContainerResource": "containerResource",
}  # fmt: skip
_SPOKEN: Final = (("waiting", "waiting"), ("queue", "waiting"), ("running", "running"), ("tokens", "tokens/s"),
                  ("cache", "KV cache"))  # fmt: skip
"""What a metric is about, by a part of its name."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """What scales the workload `target` (NAMESPACE/NAME), in words."""

    target: str
    words: str


def scaling(data: Mapping[str, Any]) -> Scaling | None:
    """An autoscaler of a Deployment or StatefulSet; None for those of others."""
    meta, spec, status = table(data, "metadata"), table(data, "spec"), table(data, "status")
    target = table(spec, "scaleTargetRef")
    prefix = {"Deployment": "", "StatefulSet": f"{STATEFUL}/"}.get(str(target.get("kind")))
    if prefix is None:
        return None
    now, least, most = status.get("currentReplicas", 0), spec.get("minReplicas", 1), spec.get("maxReplicas")
    words = [f"{now} of {least}-{most}", *_measured(spec, status), *_stuck(status)]
    return Scaling(f"{meta.get('namespace', '')}/{prefix}{target.get('name', '')}", plain(", ".join(words), 300))


def _measured(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[str]:
    current = {_key(metric): metric for metric in each(status, "currentMetrics")}
    for metric in each(spec, "metrics"):
        source = _source(metric)
        target, now = table(source, "target"), table(_source(current.get(_key(metric), {})), "current")
        if target.get("type") == "Utilization":
            used, wanted = now.get("averageUtilization"), target.get("averageUtilization")
            yield f"{_name(metric)} {_share(used)} of {_share(wanted)}"
        else:
            field = "averageValue" if "averageValue" in target else "value"
            each_pod = " per pod" if field == "averageValue" else ""
            yield f"{_name(metric)} {_figure(now.get(field))} of {_figure(target.get(field))}{each_pod}"


def _source(metric: Mapping[str, Any]) -> dict[str, Any]:
    return table(metric, _SOURCES.get(str(metric.get("type")), ""))


def _key(metric: Mapping[str, Any]) -> tuple[str, str, str]:
    """What tells one metric of an autoscaler from its others."""
    source = _source(metric)
    named = str(source.get("name") or table(source, "metric").get("name"))
    return str(metric.get("type")), named, str(source.get("container") or "")


def _name(metric: Mapping[str, Any]) -> str:
    named = _key(metric)[1]
    return next((words for part, words in _SPOKEN if part in named.lower()), named)


def _figure(value: object) -> str:
    number = quantity(value) if value is not None else None
    return "?" if number is None else f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}"


def _share(value: object) -> str:
    return f"{value}%" if isinstance(value, int) else "?"


def _stuck(status: Mapping[str, Any]) -> Iterator[str]:
    """Why it does not scale, or no further."""
    for condition in each(status, "conditions"):
        kind, holds = condition.get("type"), condition.get("status")
        if kind in ("ScalingActive", "AbleToScale") and holds == "False":
            why = condition.get("reason") if kind == "AbleToScale" else condition.get("message")
            if condition.get("reason") != "ScalingDisabled":
                yield f"cannot scale: {why}"
        elif kind == "ScalingLimited" and holds == "True" and condition.get("reason") == "TooManyReplicas":
            yield "would have more"
