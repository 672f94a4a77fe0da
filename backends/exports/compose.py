"""What runs on a node as a Compose file: the same images, volumes and arguments, started by nobody but the queue.

Keys after the Compose specification. Environments are not taken over, since they may hold secrets.
"""

from __future__ import annotations

from typing import Any, Final

from backends.cluster.inventory import Inventory
from backends.cluster.reading import Workload
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Endpoint
from backends.errors import ProcedureError
from backends.yaml import yaml

_ASK: Final = "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=3)"
_HEALTH: Final = {
    "llama.cpp": ("curl", "-fsS", "http://127.0.0.1:{port}/health"),
    "vllm": ("python3", "-c", _ASK, "http://127.0.0.1:{port}/health"),
    "sglang": ("python3", "-c", _ASK, "http://127.0.0.1:{port}/health"),
    "litellm": ("python3", "-c", _ASK, "http://127.0.0.1:{port}/health/liveliness"),
    "ollama": ("ollama", "ls"),
}
"""What proves that an engine is well, by a program that its usual image has."""

_PORTS: Final = {"llama.cpp": 8080, "vllm": 8000, "sglang": 30000, "litellm": 4000, "ollama": 11434}
"""Where engines listen in their usual images if nothing is said."""


def compose(inventory: Inventory, snapshot: ClusterSnapshot, node: str) -> tuple[str, list[str]]:
    """The containers of `node` that the inventory names, and what a person must know of them.

    ProcedureError where none of them is there.
    """
    known = {workload.name: workload for workload in snapshot.nodes[node].workloads}
    named = [e for e in inventory.endpoints if e.node == node and e.container in known]
    if not named:
        raise ProcedureError(
            f"No container that cluster.toml names is on {node}.", "Name it: container = ... of its endpoint."
        )
    services = {e.container or "": _service(e, known[e.container or ""]) for e in named}
    volumes = {
        source: {"external": True}
        for e in named
        for source, _ in _mounts(known[e.container or ""])
        if not source.startswith(("/", "."))
    }
    advice = [
        "Environments are not taken over: write what a container needs into NAME.env beside the file, mode 0600.",
        f"restart is no: tierdeck queue run {node} starts them one after the other, and at boot what "
        f"tierdeck queue boot {node} installs.",
        "Each listens inside on the port that its usual image has; correct ports and healthcheck where yours differs.",
    ]
    blotted = [name for name, service in services.items() if any("***" in word for word in service.get("command", []))]
    if blotted:
        advice.append(f"Secrets in the arguments of {', '.join(blotted)} are ***: move them into its .env file.")
    text = yaml({"name": inventory.name.lower(), "services": services} | ({"volumes": volumes} if volumes else {}))
    return text, advice


def _service(endpoint: Endpoint, workload: Workload) -> dict[str, Any]:
    port = _PORTS.get(endpoint.engine)
    told: dict[str, Any] = {
        "image": workload.image,
        "container_name": workload.name,
        "restart": "no",
        "env_file": [{"path": f"{workload.name}.env", "required": False}],
    }
    if workload.arguments:
        told["command"] = list(workload.arguments)
    if port and workload.ports:
        told["ports"] = [f"{published}:{port}" for published in workload.ports[:1]]
    if workload.mounts:
        told["volumes"] = [f"{source}:{target}" for source, target in _mounts(workload)]
    if workload.gpu:
        devices = [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
        told["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    if endpoint.engine in _HEALTH:
        test = ["CMD", *(word.format(port=port) for word in _HEALTH[endpoint.engine])]
        told["healthcheck"] = {
            "test": test, "interval": "30s", "timeout": "5s", "retries": 3, "start_period": "10m",
        }  # fmt: skip
    return told | {"labels": {"tierdeck.tier": endpoint.tier}}


def _mounts(workload: Workload) -> list[tuple[str, str]]:
    return [(source, target) for source, _, target in (each.rpartition(":") for each in workload.mounts) if source]
