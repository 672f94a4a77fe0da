"""Configurations for other monitors: Prometheus, Gatus and Homepage, as YAML for this inventory.

Keys after the manuals: Prometheus "Configuration" (scrape_config), Gatus README (endpoints), Homepage "Services" and
its prometheusmetric widget. Secrets are left to files and environment variables of those programs.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import urlsplit

from backends.cluster.engines import ENGINES
from backends.cluster.inventory import Inventory
from backends.cluster.outside import address, health, key_variable, outward, reachable
from backends.cluster.tables import Check, Endpoint
from backends.yaml import yaml

KEYS: Final = "/etc/prometheus/keys"
"""Where Prometheus finds the keys of endpoints, one file each."""


def prometheus(inventory: Inventory, watch: str) -> str:
    """Scrape configuration: `tierdeck watch --metrics` at `watch`, and every engine that has metrics of its own."""
    jobs: list[dict[str, Any]] = [
        {
            "job_name": "tierdeck",
            "scrape_interval": "15s",
            "static_configs": [{"targets": [watch], "labels": {"cluster": inventory.name}}],
        }
    ]
    for endpoint in reachable(inventory):
        if endpoint.metrics_url is not None or ENGINES[endpoint.engine].metrics:
            jobs.append(_job(inventory, endpoint))
    return yaml({"scrape_configs": jobs})


def _job(inventory: Inventory, endpoint: Endpoint) -> dict[str, Any]:
    parts = urlsplit(address(inventory, endpoint, endpoint.metrics_url))
    path = parts.path if endpoint.metrics_url is not None else f"{parts.path}/metrics"
    labels = {"endpoint": endpoint.name, "tier": endpoint.tier, "engine": endpoint.engine}
    job: dict[str, Any] = {
        "job_name": f"tierdeck {endpoint.name}",
        "scrape_interval": "15s",
        "scheme": parts.scheme,
        "metrics_path": path or "/metrics",
        "static_configs": [{"targets": [parts.netloc], "labels": labels}],
    }
    if endpoint.api_key is not None and endpoint.metrics_url is None:
        job["authorization"] = {"credentials_file": f"{KEYS}/{file_name(endpoint.name)}"}
    return job


def file_name(name: str) -> str:
    """A name that can be a file's."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def gatus(inventory: Inventory) -> str:
    """Gatus endpoints, a group for each tier: the same health calls and limits, and those checks it can make, too."""
    engines = [_gatus(inventory, endpoint) for endpoint in reachable(inventory)]
    checks = [_gatus_check(inventory, check, url) for check in inventory.checks if (url := outward(inventory, check))]
    return yaml({"endpoints": [*engines, *checks]})


def _gatus_check(inventory: Inventory, check: Check, url: str) -> dict[str, Any]:
    return {
        "name": check.name,
        "group": check.tier,
        "url": url,
        "interval": f"{max(10, round(inventory.interval(check.lamp)))}s",
        "client": {"timeout": f"{max(1, round(inventory.timeout(check.lamp)))}s"},
        "conditions": ["[CONNECTED] == true"] if check.kind == "tcp" else ["[STATUS] >= 200", "[STATUS] < 300"],
    }


def _gatus(inventory: Inventory, endpoint: Endpoint) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": endpoint.name,
        "group": endpoint.tier,
        "url": health(inventory, endpoint),
        "interval": f"{max(10, round(inventory.interval(endpoint)))}s",
        "client": {"timeout": f"{max(1, round(inventory.timeout(endpoint)))}s"},
        "conditions": ["[STATUS] == 200", f"[RESPONSE_TIME] < {round(inventory.slow(endpoint) * 1000)}"],
    }
    variable = key_variable(endpoint)
    if variable is not None:
        told["headers"] = {"Authorization": f"Bearer ${{{variable}}}"}
    return told


def homepage(inventory: Inventory, server: str) -> str:
    """Homepage's services.yaml: the cluster as a widget over the Prometheus at `server`, then each endpoint."""
    whole = {
        "description": "tierdeck",
        "widget": {
            "type": "prometheusmetric",
            "url": server,
            "refreshInterval": 10000,
            "metrics": [
                {"label": label, "query": query, "format": {"type": "number"}}
                for label, query in (
                    ("Endpoints up", "sum(tierdeck_endpoint_up)"),
                    ("of", "count(tierdeck_endpoint_up)"),
                    ("Tokens/s", "sum(tierdeck_endpoint_tokens_per_second)"),
                    ("Waiting", "sum(tierdeck_endpoint_requests_waiting)"),
                )
            ],
        },
    }
    rows: list[dict[str, Any]] = [{inventory.name: whole}]
    rows += [
        {
            endpoint.name: {
                "href": address(inventory, endpoint),
                "description": f"{endpoint.tier}, {endpoint.engine}",
                "siteMonitor": health(inventory, endpoint),
            }
        }
        for endpoint in reachable(inventory)
    ]
    rows += [{check.name: _homepage_check(inventory, check, server)} for check in inventory.checks]
    return yaml([{"Language models": rows}])


def _homepage_check(inventory: Inventory, check: Check, server: str) -> dict[str, Any]:
    """A page is asked by Homepage itself, all else through the watch's metrics."""
    told: dict[str, Any] = {"description": f"{check.tier}, {check.kind}"}
    url = outward(inventory, check)
    if check.kind == "http" and url:
        return {"href": url, **told, "siteMonitor": url}
    query = f"tierdeck_endpoint_up{{endpoint={json.dumps(check.name, ensure_ascii=False)}}}"
    metrics = [{"label": "up", "query": query, "format": {"type": "number"}}]
    return told | {"widget": {"type": "prometheusmetric", "url": server, "refreshInterval": 10000, "metrics": metrics}}
