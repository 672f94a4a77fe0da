"""A Grafana dashboard over the metrics of `tierdeck watch`: health, tokens/s, queue depth, VRAM, latency.

Fields after Grafana's "Dashboard JSON model", schema version 39 (Grafana 10 and 11); an import asks for the
data source.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

SOURCE: Final = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}

_UP: Final = [
    {"type": "value", "options": {"0": {"text": "not serving", "color": "red"}, "1": {"text": "up", "color": "green"}}}
]


def grafana(cluster: str) -> str:
    """The dashboard of a cluster as JSON, ready to be imported."""
    panels = [
        _panel(1, "state-timeline", "Health", "tierdeck_endpoint_up", "{{endpoint}}", (0, 0, 24, 9), mappings=_UP),
        _panel(2, "timeseries", "Tokens per second", "tierdeck_endpoint_tokens_per_second", "{{endpoint}}",
               (0, 9, 12, 8)),
        _panel(3, "timeseries", "Queue depth", "tierdeck_endpoint_requests_waiting", "{{endpoint}}", (12, 9, 12, 8)),
        _panel(4, "timeseries", "VRAM in use", "tierdeck_gpu_memory_used_bytes", "{{node}} {{gpu}}", (0, 17, 12, 8),
               unit="bytes"),
        _panel(5, "timeseries", "VRAM share", "tierdeck_gpu_memory_used_bytes / tierdeck_gpu_memory_total_bytes",
               "{{node}} {{gpu}}", (12, 17, 12, 8), unit="percentunit"),
        _panel(6, "timeseries", "Latency of the health call", "tierdeck_endpoint_latency_seconds", "{{endpoint}}",
               (0, 25, 12, 8), unit="s"),
        _panel(7, "timeseries", "Tasks that nobody serves", "1 - tierdeck_task_served", "{{task}}", (12, 25, 12, 8)),
    ]  # fmt: skip
    dashboard = {
        "__inputs": [{"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource", "pluginId": "prometheus"}],
        "uid": f"tierdeck-{hashlib.sha256(cluster.encode()).hexdigest()[:8]}",
        "title": f"tierdeck: {cluster}",
        "tags": ["tierdeck"],
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-6h", "to": "now"},
        "editable": True,
        "panels": panels,
    }
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


def _panel(
    number: int, kind: str, title: str, query: str, legend: str, place: tuple[int, int, int, int], *,
    unit: str = "short", mappings: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    x, y, width, height = place
    return {
        "id": number,
        "type": kind,
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "targets": [{"refId": "A", "expr": query, "legendFormat": legend, "datasource": SOURCE}],
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "mappings": mappings or []}, "overrides": []},
        "options": {},
    }
