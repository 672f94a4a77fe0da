"""Open WebUI as a Compose service: before the gateway, or before the engines themselves where there is none.

Variables after Open WebUI's "Environment Variable Configuration"; keys stay in the environment of who starts it.
"""

from __future__ import annotations

from typing import Any

from backends.cluster.inventory import Inventory
from backends.cluster.outside import address, key_variable, reachable
from backends.cluster.tables import Endpoint
from backends.yaml import yaml


def open_webui(inventory: Inventory) -> str:
    """The service; its settings live in a volume, and win over these after the first start."""
    gateway = inventory.gateway_endpoint
    environment = _through(inventory, gateway) if gateway else _directly(inventory)
    service = {
        "image": "${OPEN_WEBUI_IMAGE:?name Open WebUI's image, with its version}",
        "container_name": "open-webui",
        "restart": "unless-stopped",
        "ports": ["3000:8080"],
        "volumes": ["open-webui:/app/backend/data"],
        "environment": environment,
    }
    return yaml({"services": {"open-webui": service}, "volumes": {"open-webui": {}}})


def _through(inventory: Inventory, gateway: Endpoint) -> dict[str, str]:
    """The gateway's groups carry the names of the tasks."""
    base, key = f"{address(inventory, gateway)}/v1", _key(gateway)
    told = {"OPENAI_API_BASE_URLS": base, "OPENAI_API_KEYS": key, "ENABLE_OLLAMA_API": "false"}
    tasks = inventory.assigned_tasks
    if "chat" in tasks:
        told["DEFAULT_MODELS"] = "chat"
    if "fast" in tasks:
        told["TASK_MODEL_EXTERNAL"] = "fast"
    if "embed" in tasks:
        told |= {
            "RAG_EMBEDDING_ENGINE": "openai", "RAG_OPENAI_API_BASE_URL": base, "RAG_OPENAI_API_KEY": key,
            "RAG_EMBEDDING_MODEL": "embed",
        }  # fmt: skip
    return told


def _directly(inventory: Inventory) -> dict[str, Any]:
    engines = [e for e in reachable(inventory) if e.engine not in ("http", "litellm")]
    ollamas = [e for e in engines if e.engine == "ollama"]
    others = [e for e in engines if e.engine != "ollama"]
    return {
        "ENABLE_OLLAMA_API": "true" if ollamas else "false",
        "OLLAMA_BASE_URLS": ";".join(address(inventory, e) for e in ollamas),
        "ENABLE_OPENAI_API": "true" if others else "false",
        "OPENAI_API_BASE_URLS": ";".join(f"{address(inventory, e)}/v1" for e in others),
        "OPENAI_API_KEYS": ";".join(_key(e) for e in others),
    }


def _key(endpoint: Endpoint) -> str:
    """A reference to its key, without which Compose starts nothing; "none" where it has none."""
    variable = key_variable(endpoint)
    return f"${{{variable}:?the key of {endpoint.name}}}" if variable else "none"
