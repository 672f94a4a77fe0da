"""`tierdeck init --kubernetes`: what serves in a cluster becomes endpoints, with engine, address and way."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from backends.cluster.files import parse
from backends.discovery.clusters import FoundCluster, look_into, opened
from backends.discovery.draft import draft
from backends.discovery.look import Found
from backends.engines.http import Http
from backends.errors import RuntimeFailure
from backends.reach.kubernetes.serving import serving
from tests.kubernetes.double import VIEWER, Double
from tests.kubernetes.store import KINDS, KUBESCAPE, TRIVY

DESK = Found("desk", "10.0.0.9", "linux")


async def vllm(request: web.Request) -> web.StreamResponse:
    if request.path.endswith("/v1/models"):
        return web.json_response({"object": "list", "data": [{"id": "q", "object": "model", "owned_by": "vllm"}]})
    return web.Response(text="")


def add_service(double: Double, name: str, port: int = 80, target: Any = 8000, **spec: Any) -> None:
    ports = [{"port": port, "targetPort": target, "protocol": "TCP", **spec.pop("more", {})}]
    spec = {"selector": {"app": name}, "ports": ports, **spec}
    double.store.create(KINDS["services"], "llm", {"metadata": {"name": name}, "spec": spec})


def add_ingress(double: Double, host: str, service: str, path: str = "/", **more: Any) -> None:
    backend = {"service": {"name": service, "port": {"number": 80}}}
    rule = {"host": host, "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend}]}}
    data = {"metadata": {"name": f"{service}-{host}"}, "spec": {"rules": [rule], **more}}
    double.store.create(KINDS["ingresses"], "llm", data)


async def looked(double: Double, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str = "admin-token") -> Any:
    monkeypatch.setenv("KUBECONFIG", str(double.kubeconfig(folder, token)))
    async with Http() as http, opened("", ["llm"]) as clusters:
        return await look_into(clusters, http, "", ["llm"])


@asynccontextmanager
async def outside() -> AsyncIterator[int]:
    """The same engine at a port of this machine, as a load balancer would have it."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", vllm)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_a_service_is_asked_through_the_api(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 1)
    double.add_deployment("batch", 0)
    add_service(double, "coder")
    double.services["coder:80"] = vllm
    found = await looked(double, tmp_path, monkeypatch)
    (endpoint,) = found.services
    assert (endpoint.name, endpoint.engine, endpoint.url) == ("home/coder", "vllm", "http://coder.llm:80")
    assert (endpoint.proxied, endpoint.node, endpoint.workload) == (True, "gpu-1", "llm/coder")
    assert found.remarks == ("llm/batch has no Service, so it is no endpoint.",)
    assert [(n.name, n.gpus, n.queue) for n in found.nodes] == [("gpu-1", "nvidia", ("llm/coder",))]
    assert not [method for method, _ in double.requests if method != "GET"]
    text = draft(DESK, (), found)
    inventory = parse(text, tmp_path / "cluster.toml").inventory
    assert inventory.endpoint_named["home/coder"].via == "kubernetes"
    assert inventory.node_named["gpu-1"].kubernetes is not None
    assert tomllib.loads(text)["clusters"] == [{"name": "home", "namespaces": ["llm"]}]


async def test_what_leads_there_from_outside_is_preferred(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 1)
    async with outside() as port:
        add_service(double, "coder", port, externalIPs=["127.0.0.1"], type="LoadBalancer")
        double.services[f"coder:{port}"] = vllm
        found = await looked(double, tmp_path, monkeypatch)
    (endpoint,) = found.services
    assert (endpoint.url, endpoint.proxied) == (f"http://127.0.0.1:{port}", False)
    assert 'via = "kubernetes"' not in draft(DESK, (), found)


async def test_what_is_stopped_is_known_by_its_image(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 0)
    double.add_deployment("web", 0, 0)
    double.deployment("web")["spec"]["template"]["spec"]["containers"][0]["image"] = "nginx:1"
    add_service(double, "coder", 8000, "http")
    add_service(double, "web")
    found = await looked(double, tmp_path, monkeypatch)
    (endpoint,) = found.services
    assert (endpoint.name, endpoint.engine, endpoint.running, endpoint.proxied) == ("home/coder", "vllm", False, True)
    assert "# on_demand = true" in draft(DESK, (), found)


async def test_this_machine_may_be_a_node_of_it(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.add_node("desk", 1)
    found = await looked(double, tmp_path, monkeypatch)
    inventory = parse(draft(DESK, (), found), tmp_path / "cluster.toml").inventory
    assert [node.name for node in inventory.nodes] == ["desk"]
    assert inventory.node_named["desk"].kubernetes is not None


async def test_what_may_not_be_seen_is_told(double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double.add_node("gpu-1", 8)
    double.add_deployment("coder", 1)
    add_service(double, "coder")
    double.forbidden |= {("list", "ingresses"), ("list", "nodes")}
    found = await looked(double, tmp_path, monkeypatch)
    assert [each.split(": ", 1)[1].split(". ")[0] for each in found.remarks[:2]] == [
        "may not: list ingresses.networking.k8s.io in llm", "may not: list nodes"
    ]  # fmt: skip
    with pytest.raises(RuntimeFailure, match="may not: list services in llm"):
        await looked(double, tmp_path, monkeypatch, VIEWER)


def test_the_verb_knows_the_option() -> None:
    from tui.arguments import parser

    told: argparse.Namespace = parser().parse_args(["init", "--kubernetes", "--namespace", "llm"])
    assert (told.kubernetes, told.namespace) == ("", ["llm"])
    assert parser().parse_args(["init"]).kubernetes is None
    assert parser().parse_args(["init", "--kubernetes", "admin@home"]).kubernetes == "admin@home"


def test_as_data() -> None:
    from backends.discovery.draft import as_json

    told = json.loads(json.dumps(as_json(DESK, (), (), FoundCluster("home"))))
    assert told["kubernetes"]["name"] == "home"
    assert as_json(DESK, (), ())["kubernetes"] is None


def workload(**labels: str) -> dict[str, Any]:
    container = {"name": "c", "image": "i", "ports": [{"name": "api", "containerPort": 8000}]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return {"metadata": {"name": "coder", "namespace": "llm"}, "spec": {"template": template}}


def service(**spec: Any) -> dict[str, Any]:
    spec = {"selector": {"app": "coder"}, "ports": [{"name": "http", "port": 80, "targetPort": "api"}], **spec}
    return {"metadata": {"name": "coder", "namespace": "llm"}, "spec": spec}


def ingress(backend: dict[str, Any], path: str | None = "/", host: str = "coder.lan", **spec: Any) -> dict[str, Any]:
    way = {"path": path, "pathType": "Prefix", "backend": {"service": {"name": "coder", "port": backend}}}
    return {"metadata": {"namespace": "llm"}, "spec": {"rules": [{"host": host, "http": {"paths": [way]}}], **spec}}


DOORS = [
    ("by its label", service(), [], ("http://coder.llm:80", 8000, ())),
    ("an ingress by number", service(), [ingress({"number": 80})], ("http://coder.llm:80", 8000, ("http://coder.lan",))),
    ("by name, with TLS", service(), [ingress({"name": "http"}, tls=[{"hosts": ["coder.lan"]}])],
     ("http://coder.llm:80", 8000, ("https://coder.lan",))),
    ("behind a path", service(), [ingress({"number": 80}, "/coder")], ("http://coder.llm:80", 8000, ())),
    ("for any host", service(), [ingress({"number": 80}, host="*.lan")], ("http://coder.llm:80", 8000, ())),
    ("to another port", service(), [ingress({"number": 81})], ("http://coder.llm:80", 8000, ())),
    ("a node's port", service(ports=[{"port": 80, "nodePort": 30080}]), [],
     ("http://coder.llm:80", 80, ("http://NODE:30080",))),
    ("TLS of its own", service(ports=[{"name": "https", "port": 443}]), [], ("https://coder.llm:443", 443, ())),
]  # fmt: skip


@pytest.mark.parametrize(("made", "ways", "door"), [row[1:] for row in DOORS], ids=[row[0] for row in DOORS])
def test_doors(made: dict[str, Any], ways: list[dict[str, Any]], door: tuple[object, ...]) -> None:
    (found,) = serving(workload(app="coder"), "deployment", [made], ways).doors
    assert (found.url, found.target, found.outside) == door


def test_what_leads_elsewhere_is_no_door() -> None:
    other = service(selector={"app": "other"})
    udp = service(ports=[{"port": 80, "protocol": "UDP"}])
    nowhere = service(selector={})
    assert serving(workload(app="coder"), "deployment", [other, udp, nowhere], []).doors == ()


async def test_the_double_tells_its_groups(double: Double, api: Any) -> None:
    names = {group["name"] for group in (await api.get("/apis"))["groups"]}
    assert "apps" in names
    assert not names & {TRIVY, KUBESCAPE}
