"""What serves in a cluster, and by which addresses: workloads joined with their Services and Ingresses. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.reach.kubernetes.fields import each, table
from backends.reach.kubernetes.shapes import Controller, controller


@dataclass(frozen=True, slots=True)
class Door:
    """A port of a Service: its address for the API's service proxy, and those that lead to it from `outside`.

    `target` is the container's port behind it.
    """

    url: str
    target: int
    outside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Serving:
    """A workload with the doors that lead to it."""

    what: Controller
    doors: tuple[Door, ...]


def serving(
    data: Mapping[str, Any], kind: str, services: Iterable[Mapping[str, Any]], ingresses: Sequence[Mapping[str, Any]]
) -> Serving:
    """A Deployment or StatefulSet (`kind` in lower case) with the Services that select its pods."""
    what, template = controller(data, kind), table(table(data, "spec"), "template")
    labels = table(table(template, "metadata"), "labels")
    ports = {
        str(port.get("name")): int(port.get("containerPort") or 0)
        for container in each(table(template, "spec"), "containers")
        for port in each(container, "ports")
    }
    doors: list[Door] = []
    for service in services:
        meta, selector = table(service, "metadata"), table(table(service, "spec"), "selector")
        if selector and meta.get("namespace") == what.namespace and selector.items() <= labels.items():
            doors += _doors(service, ports, ingresses)
    return Serving(what, tuple(doors))


def _doors(
    service: Mapping[str, Any], ports: Mapping[str, int], ingresses: Sequence[Mapping[str, Any]]
) -> Iterator[Door]:
    meta, spec = table(service, "metadata"), table(service, "spec")
    name, namespace = str(meta.get("name")), str(meta.get("namespace"))
    for port in each(spec, "ports"):
        if port.get("protocol", "TCP") != "TCP":
            continue
        number = int(port.get("port") or 0)
        wanted = port.get("targetPort", number)
        target = ports.get(wanted, number) if isinstance(wanted, str) else int(wanted)
        secure = port.get("appProtocol") == "https" or port.get("name") == "https"
        scheme = "https" if secure else "http"
        ways = [*_routed(ingresses, namespace, name, port), *_published(service, port, scheme)]
        yield Door(f"{scheme}://{name}.{namespace}:{number}", target, tuple(dict.fromkeys(ways)))


def _routed(
    ingresses: Iterable[Mapping[str, Any]], namespace: str, service: str, port: Mapping[str, Any]
) -> Iterator[str]:
    """The addresses of Ingresses that pass everything on; behind a longer path an engine's own routes are not found."""
    for ingress in ingresses:
        if table(ingress, "metadata").get("namespace") != namespace:
            continue
        spec = table(ingress, "spec")
        secure = {host for entry in each(spec, "tls") for host in entry.get("hosts") or ()}
        for rule in each(spec, "rules"):
            host = str(rule.get("host") or "")
            for path in each(table(rule, "http"), "paths"):
                backend = table(table(path, "backend"), "service")
                meant = table(backend, "port")
                same = meant.get("number") == port.get("port") or (meant.get("name") or "") == port.get("name")
                whole = path.get("path") in (None, "", "/") and path.get("pathType") != "Exact"
                if host and "*" not in host and whole and backend.get("name") == service and same:
                    yield f"{'https' if host in secure else 'http'}://{host}"


def _published(service: Mapping[str, Any], port: Mapping[str, Any], scheme: str) -> Iterator[str]:
    """A load balancer's addresses, the Service's own outer ones, and the port of its nodes, with `NODE` for any."""
    spec, balancer = table(service, "spec"), table(table(service, "status"), "loadBalancer")
    hosts = [str(entry.get("ip") or entry.get("hostname") or "") for entry in each(balancer, "ingress")]
    hosts += [str(address) for address in spec.get("externalIPs") or ()]
    yield from (f"{scheme}://{_bracketed(host)}:{port.get('port')}" for host in hosts if host)
    if isinstance(port.get("nodePort"), int):
        yield f"{scheme}://NODE:{port['nodePort']}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
