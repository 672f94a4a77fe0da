"""A first cluster.toml from what was found: text for a person to go on writing in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import tomli_w

from backends.cluster.engines import ENGINES
from backends.discovery.clusters import FoundCluster, FoundNode, FoundService
from backends.discovery.hosts import SshHost
from backends.discovery.look import Found, FoundEngine
from backends.text import plain

SCHEMA: Final = "tierdeck.init/1"

_HEAD: Final = """\
# cluster.toml: what your cluster is made of. `tierdeck init` wrote it once; from now on it is yours.
# `tierdeck schema` explains every key, `tierdeck doctor` checks what stands here.

# The version of this format, and the cluster's name, shown in the header.
version = 1
name = "home"

# What holds for every endpoint: how often it is asked, and how long it may take.
[defaults]
interval = "5s"
timeout = "3s"
"""

_NO_ENGINE: Final = """\
# No engine was found listening here. Take the # away from these lines, and say which and where:
# [[endpoints]]
# name = "local/ollama"
# tier = "LOCAL"
# node = {node}
# engine = "ollama"                    # {engines}
# url = "http://localhost:11434"       # localhost means the endpoint's node
"""

_ELSEWHERE: Final = """\
# What answers on {name}: take the # away, and say which engine and at which port.
# [[endpoints]]
# name = {endpoint}
# tier = {tier}
# node = {node}
# engine = "llama.cpp"
# url = "http://localhost:8080"
"""


def draft(found: Found, hosts: Sequence[SshHost] = (), cluster: FoundCluster | None = None) -> str:
    """The text of a cluster.toml with this machine, the picked `hosts` and a Kubernetes `cluster`.

    `backends.cluster.files.parse` takes it.
    """
    placed = {node.name: node for node in cluster.nodes} if cluster else {}
    hosts = [host for host in hosts if host.name.lower() != found.name and host.name not in placed]
    services = cluster.services if cluster else ()
    tiers = tier_names(found, hosts)
    blocks = [_HEAD, *([_cluster(cluster)] if cluster else []), _here(found, cluster), *map(_host, hosts)]
    blocks += [_placed(cluster, node) for node in placed.values() if cluster and node.name != found.name]
    blocks += _tiers([*tiers.values()], cluster, [*found.engines, *services])
    blocks += [_endpoint(found, engine) for engine in found.engines]
    blocks += [_service(cluster, service) for service in services if cluster]
    engines: list[FoundEngine | FoundService] = [*found.engines, *services]
    if not engines:
        blocks.append(_NO_ENGINE.format(node=_value(found.name), engines=", ".join(ENGINES)))
    blocks += [_elsewhere(host, tiers[host.name]) for host in hosts]
    gateway = next((engine for engine in engines if engine.engine == "litellm"), None)
    if gateway:
        blocks.append(
            "# The LiteLLM proxy in front of the others.\n"
            f"[gateway]\nendpoint = {_value(gateway.name)}\n"
            '# config = "/srv/litellm/config.yaml"  # where its configuration lies\n'
        )
    return "\n".join(blocks)


def tier_names(found: Found, hosts: Iterable[SshHost]) -> dict[str, str]:
    """The tier of this machine (by its name) and of each host: LOCAL, and the host's name in capitals."""
    names, taken = {found.name: "LOCAL"}, {"LOCAL", "GATEWAY"}
    for host in hosts:
        name, number = host.name.upper(), 2
        while name in taken:
            name, number = f"{host.name.upper()}-{number}", number + 1
        taken.add(name)
        names[host.name] = name
    return names


def as_json(
    found: Found, hosts: Sequence[SshHost], picked: Sequence[SshHost], cluster: FoundCluster | None = None
) -> dict[str, Any]:
    """What was found, as `tierdeck init --json` prints it; None is "not known"."""
    return {
        "schema": SCHEMA,
        "node": {
            "name": found.name,
            "address": found.address,
            "os": found.os,
            "gpu_kind": found.gpu_kind,
            "gpus": [
                {"index": gpu.index, "name": gpu.name, "memory_total_mib": gpu.memory_total_mib} for gpu in found.gpus
            ],
            "queue": list(found.queue),
        },
        "endpoints": [
            {
                "name": engine.name,
                "engine": engine.engine,
                "url": engine.url,
                "container": engine.container or None,
                "running": engine.running,
                "needs_key": engine.locked,
                "public": engine.public,
            }
            for engine in found.engines
        ],
        "hosts": [
            {"name": h.name, "address": h.address, "user": h.user, "port": h.port, "picked": h in picked} for h in hosts
        ],
        "kubernetes": asdict(cluster) if cluster else None,
        "remarks": [plain(remark, 500) for remark in found.remarks],
    }


def described(engine: FoundEngine) -> str:
    """An engine in a few words, for comments and narration."""
    title = ENGINES[engine.engine].title
    if not engine.container:
        return f"{title}, listening at port {engine.port}"
    state = "" if engine.running else ", stopped now"
    return plain(f"{title} in the container {engine.container} ({engine.image}){state}", 110)


def gpu_words(found: Found) -> str:
    """The GPUs in a few words."""
    return plain(
        ", ".join(
            f"{gpu.name} ({gpu.memory_total_mib:.0f} MiB)" if gpu.memory_total_mib else gpu.name for gpu in found.gpus
        )
        or "no GPU that could be read",
        110,
    )


def service_words(service: FoundService) -> str:
    """An engine of a cluster in a few words, for comments and narration."""
    way = "through the API" if service.proxied else f"at {service.url}"
    state = way if service.running else "stopped now"
    return plain(f"{ENGINES[service.engine].title} in {service.workload} ({service.image}), {state}", 110)


def _cluster(cluster: FoundCluster) -> str:
    lines = ["# The Kubernetes cluster, by your kubeconfig; its nodes are below.", "[[clusters]]"]
    lines += _keys({"name": cluster.name} | ({"context": cluster.context} if cluster.context else {}))
    if cluster.namespaces:
        lines += _keys({"namespaces": list(cluster.namespaces)})
    else:
        lines.append('# namespaces = ["llm"]                # all if nothing is said')
    return "\n".join(lines) + "\n"


def _placed(cluster: FoundCluster, node: FoundNode) -> str:
    lines = [f"# A node of {cluster.name}.", "[[nodes]]"]
    lines += _keys({"name": node.name, "address": node.address, "gpus": node.gpus})
    return "\n".join([*lines, *_membership(cluster, node)]) + "\n"


def _membership(cluster: FoundCluster, node: FoundNode) -> Iterator[str]:
    yield from _keys({"kubernetes": cluster.name})
    if node.queue:
        yield "# Its GPU workloads are let in in this order, one after the other; change it as you like."
        yield f"queue = {{ order = {_value(list(node.queue))} }}"


def _service(cluster: FoundCluster, service: FoundService) -> str:
    lines = [f"# {service_words(service)}.", "[[endpoints]]"]
    tier = "GATEWAY" if service.engine == "litellm" else cluster.name.upper()
    keys = {"name": service.name, "tier": tier, "node": service.node, "engine": service.engine, "url": service.url}
    lines += _keys(keys | ({"via": "kubernetes"} if service.proxied else {}) | {"container": service.workload})
    return "\n".join([*lines, *_hints(service)]) + "\n"


def _here(found: Found, cluster: FoundCluster | None) -> str:
    lines = [f"# This machine: {gpu_words(found)}.", "[[nodes]]"]
    lines += _keys({"name": found.name, "address": found.address, "os": found.os})
    member = next((node for node in cluster.nodes if node.name == found.name), None) if cluster else None
    lines.append('# ssh = { user = "..." }               # how tierdeck on your other machines reaches this one')
    lines += _keys({"gpus": found.gpu_kind})
    if cluster and member:
        lines += _membership(cluster, member)
    elif found.queue:
        lines.append("# GPU containers are started in this order, one after the other; change it as you like.")
        lines.append(f"queue = {{ order = {_value(list(found.queue))} }}")
    return "\n".join(lines) + "\n"


def _host(host: SshHost) -> str:
    ssh = {"user": host.user, "port": host.port, "key": host.key}
    lines = [f"# {plain(host.name)}, from ~/.ssh/config; it was not looked at.", "[[nodes]]"]
    lines += _keys({"name": host.name, "address": host.address})
    lines.append('# os = "windows"                       # linux if nothing is said; or macos')
    if host.jump:
        lines.append(f"# {plain(host.jump, 60)} stands between; tierdeck goes to the address directly.")
    lines += _keys({"ssh": {key: value for key, value in ssh.items() if value is not None}})
    lines.append('# gpus = "nvidia"                      # or amd, apple; none if nothing is said')
    return "\n".join(lines) + "\n"


def _tiers(
    names: Sequence[str], cluster: FoundCluster | None, engines: Iterable[FoundEngine | FoundService]
) -> Iterator[str]:
    known = [*names, *([cluster.name.upper()] if cluster else [])]
    if any(engine.engine == "litellm" for engine in engines):
        known.append("GATEWAY")
    yield "# Tiers: endpoints that are judged together, in the order in which they are shown.\n" + "\n".join(
        f"[[tiers]]\nname = {_value(name)}\n" for name in dict.fromkeys(known)
    )


def _endpoint(found: Found, engine: FoundEngine) -> str:
    lines = [f"# {described(engine)}.", "[[endpoints]]"]
    lines += _keys(
        {
            "name": engine.name,
            "tier": "GATEWAY" if engine.engine == "litellm" else "LOCAL",
            "node": found.name,
            "engine": engine.engine,
            "url": engine.url,
        }
        | ({"container": engine.container} if engine.container else {})
    )
    if engine.maybe:
        lines.append(f"# container = {_value(engine.maybe)}    # if it runs in that one")
    elif engine.engine == "ollama" and not engine.container and found.os == "linux":
        lines.append('# service = "systemd:ollama"           # if it runs as that service')
    if not engine.public:
        lines.append('# via = "ssh"                          # it listens on loopback only: so other machines ask it')
    return "\n".join([*lines, *_hints(engine)]) + "\n"


def _hints(engine: FoundEngine | FoundService) -> Iterator[str]:
    """What a person may want to add to an endpoint."""
    if engine.locked:
        variable = "LITELLM_MASTER_KEY" if engine.engine == "litellm" else "NAME_OF_A_VARIABLE"
        yield f'# api_key = "env:{variable}"   # it wants a key: say where that is kept, never the key itself'
    if not engine.running:
        yield "# on_demand = true                     # if it is stopped on purpose as a rule"
    yield '# tasks = ["chat"]                     # of code, reason, chat, vision, fast, embed'


def _elsewhere(host: SshHost, tier: str) -> str:
    return _ELSEWHERE.format(
        name=plain(host.name), endpoint=_value(f"{host.name.lower()}/llama"), tier=_value(tier), node=_value(host.name)
    )


def _keys(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    """A value as TOML on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(_keys(value))} }}" if value else "{}"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")
