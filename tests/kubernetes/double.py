"""An API server for the tests: what tierdeck asks of Kubernetes, answered as a real 1.35 does, on a real socket."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from tests.kubernetes.applying import apply, updated
from tests.kubernetes.controllers import GPU, Controllers, condition
from tests.kubernetes.store import KINDS, KUBESCAPE, TRIVY, Kind, Refused, Store, merged

ADMIN, VIEWER = "admin-token", "viewer-token"
VERSION = {"major": "1", "minor": "35", "gitVersion": "v1.35.6", "goVersion": "go1.27.3", "platform": "linux/amd64"}
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass
class Double:
    """What a test may turn, and what was asked."""

    store: Store = field(default_factory=Store)
    port: int = 0
    scheme: str = "http"
    tokens: dict[str, str] = field(default_factory=lambda: {ADMIN: "admin", VIEWER: "viewer"})
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """(verb, resource) that nobody may."""
    slow: float = 0.0
    html: bool = False
    admission: Callable[[dict[str, Any]], None] = lambda pod: None
    budgets: set[str] = field(default_factory=set)
    """Pods that may not be evicted."""
    invalid: str = ""
    """Why nothing is applied."""
    conflicts: int = 0
    """So many updates meet a change of somebody else's."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    reviews: list[tuple[str, str, str]] = field(default_factory=list)
    """Which rights were asked about: (namespace, verb, resource)."""
    services: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = field(default_factory=dict)
    """What answers behind the API's proxy: by a Service's NAME:PORT, a pod's, or a node's name."""
    logs: dict[str, list[str]] = field(default_factory=dict)
    installed: set[str] = field(default_factory=set)
    """The API groups of operators that are there."""

    def __post_init__(self) -> None:
        self.controllers = Controllers(self.store, says=self.logs)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    # -- what stands there ---------------------------------------------------------------------------------------------

    def add_node(self, name: str, gpus: int = 8, **labels: str) -> None:
        amounts = {"cpu": "8", "memory": "64Gi", "pods": "110"} | ({GPU: str(gpus)} if gpus else {})
        meta = {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}}
        said = [condition("Ready", "True", "KubeletReady", "kubelet is posting ready status")]
        del said[0]["lastProbeTime"]
        status = {"capacity": dict(amounts), "allocatable": dict(amounts), "conditions": said}
        self.store.create(KINDS["nodes"], "", {"metadata": meta, "spec": {}, "status": status})

    def add_deployment(
        self,
        name: str,
        replicas: int = 0,
        gpus: int = 1,
        *,
        kind: str = "deployments",
        namespace: str = "llm",
        **spec: Any,
    ) -> None:
        """A deployment of one container that asks for GPUs; `spec` adds to its pods'."""
        meta = {"name": name, "labels": {"app": name}, "generation": 1}
        data = {"metadata": meta, "spec": {"replicas": replicas, **pods_of(name, gpus, **spec)}}
        self.store.create(KINDS[kind], namespace, {**data, "status": {}})
        self.controllers.reconcile()

    def update(self, name: str, image: str, namespace: str = "llm") -> None:
        """Somebody changes the template of a Deployment."""
        item = copy.deepcopy(self.deployment(name, namespace))
        item["spec"]["template"]["spec"]["containers"][0]["image"] = image
        self.store.replace(KINDS["deployments"], namespace, name, item)
        self.controllers.reconcile()

    def add_pod(self, name: str, node: str, labels: dict[str, str], namespace: str = "monitoring") -> None:
        """A pod that runs on a node, of no Deployment."""
        container = {"name": "c", "image": "i", "ports": [{"name": "metrics", "containerPort": 9400}]}
        meta = {"name": name, "labels": labels}
        pod = {"metadata": meta, "spec": {"nodeName": node, "containers": [container]}, "status": {"phase": "Running"}}
        self.store.create(KINDS["pods"], namespace, pod)

    def deployment(self, name: str, namespace: str = "llm") -> dict[str, Any]:
        return self.store.get(KINDS["deployments"], namespace, name)

    def pod_of(self, name: str, namespace: str = "llm") -> dict[str, Any]:
        return self.controllers.pods_of(self.deployment(name, namespace))[0]

    def kubeconfig(self, folder: Path, token: str = ADMIN, **cluster: Any) -> Path:
        """A kubeconfig that leads here."""
        path = folder / "kubeconfig"
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "home",
            "clusters": [{"name": "c", "cluster": {"server": self.url, **cluster}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "home", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(config))
        return path

    # -- HTTP ----------------------------------------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        if self.slow:
            await asyncio.sleep(self.slow)
        if self.html:
            return web.Response(text="<!DOCTYPE html><html>Sign in</html>", content_type="text/html")
        try:
            return await self._answer(request)
        except Refused as refused:
            return web.json_response(refused.status, status=refused.code)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        user = self._user(request)
        parts = request.path.strip("/").split("/")
        if parts == ["version"]:
            return web.json_response(VERSION)
        if parts == ["apis"]:
            return web.json_response(self._groups())
        if parts[0] == "apis" and parts[1] in {TRIVY, KUBESCAPE} - self.installed:
            return web.Response(text="404 page not found\n", status=404)
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        if parts == ["selfsubjectaccessreviews"]:
            return await self._review(user, request)
        namespace = ""
        if parts[:1] == ["namespaces"] and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        if not parts or parts[0] not in KINDS:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        kind, name, sub = KINDS[parts[0]], parts[1] if len(parts) > 1 else "", "/".join(parts[2:])
        self._allow(user, request, kind, namespace, name, sub)
        if sub:
            return await self._sub(request, kind, namespace, name, sub)
        if request.method == "GET" and not name:
            if request.query.get("watch") in ("true", "1"):
                return await self._watch(request, kind, namespace)
            return web.json_response(self._list(request, kind, namespace))
        return await self._object(request, kind, namespace, name)

    def _groups(self) -> dict[str, Any]:
        names = {(k.group, k.version) for k in KINDS.values() if k.group not in {TRIVY, KUBESCAPE} - self.installed}
        groups = []
        for group, version in sorted(names - {("", "v1")}):
            told = {"groupVersion": f"{group}/{version}", "version": version}
            groups.append({"name": group, "versions": [told], "preferredVersion": told})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    def _user(self, request: web.Request) -> str:
        told = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not told:
            return "system:anonymous"
        if told not in self.tokens:
            raise Refused(401, "Unauthorized", "Unauthorized")
        return self.tokens[told]

    def _allow(self, user: str, request: web.Request, kind: Kind, namespace: str, name: str, sub: str) -> None:
        verb = _VERBS[request.method]
        if verb == "get" and not name:
            verb = "watch" if "watch" in request.query else "list"
        resource = f"{kind.plural}/{sub.partition('/')[0]}" if sub else kind.plural
        if self._may(user, verb, resource):
            return
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        whom = f'{kind.qualified} "{name}"' if name else kind.qualified
        group = f'in API group "{kind.group}"'
        message = f'{whom} is forbidden: User "{user}" cannot {verb} resource "{resource}" {group} {where}'
        details = Store.details(kind, name)
        if not name:
            del details["name"]
        raise Refused(403, "Forbidden", message, details)

    def _may(self, user: str, verb: str, resource: str) -> bool:
        reads = verb in ("get", "list", "watch") and resource in ("nodes", "pods", "events")
        return (user == "admin" or (user == "viewer" and reads)) and (verb, resource) not in self.forbidden

    async def _review(self, user: str, request: web.Request) -> web.Response:
        body = await request.json()
        asked = body["spec"]["resourceAttributes"]
        resource = "/".join(part for part in (asked["resource"], asked.get("subresource")) if part)
        self.reviews.append((asked["namespace"], asked["verb"], resource))
        if ("create", "selfsubjectaccessreviews") in self.forbidden:
            raise Refused(403, "Forbidden", "selfsubjectaccessreviews.authorization.k8s.io is forbidden")
        return web.json_response(body | {"status": {"allowed": self._may(user, asked["verb"], resource)}}, status=201)

    def _list(self, request: web.Request, kind: Kind, namespace: str) -> dict[str, Any]:
        items = self.store.all(kind.plural, namespace)
        if told := request.query.get("labelSelector"):
            selected = selector(told)
            items = [i for i in items if selected(i["metadata"].get("labels", {}))]
        if node := request.query.get("fieldSelector", "").removeprefix("spec.nodeName="):
            items = [i for i in items if i["spec"].get("nodeName") == node]
        version, start = self.store.version, 0
        if token := request.query.get("continue"):
            version, start = json.loads(base64.urlsafe_b64decode(token))
            if version < self.store.floor:
                raise Refused(410, "Expired", "The provided continue parameter is too old to display a consistent list")
        meta: dict[str, Any] = {"resourceVersion": str(version)}
        limit = int(request.query.get("limit", 0)) or len(items)
        if start + limit < len(items):
            meta["continue"] = base64.urlsafe_b64encode(json.dumps([version, start + limit]).encode()).decode()
            meta["remainingItemCount"] = len(items) - start - limit
        listed = [{k: v for k, v in i.items() if k not in ("kind", "apiVersion")} for i in items[start : start + limit]]
        return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": listed}

    async def _watch(self, request: web.Request, kind: Kind, namespace: str) -> web.StreamResponse:
        since, store = int(request.query.get("resourceVersion") or 0), self.store
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue()
        if since < store.floor:
            gone = Refused(410, "Expired", f"too old resource version: {since} ({store.floor})")
            await response.write(json.dumps({"type": "ERROR", "object": gone.status}).encode() + b"\n")
            return response
        for version, plural, event, item in store.history:
            if version > since and plural == kind.plural:
                queue.put_nowait((event, item))
        store.watchers.append((kind.plural, queue))
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 60))):
                while (told := await queue.get()) is not None:
                    event, item = told
                    if not namespace or item["metadata"].get("namespace") == namespace:
                        await response.write(json.dumps({"type": event, "object": item}).encode() + b"\n")
            if request.transport is not None:
                request.transport.abort()
        except TimeoutError:
            mark: dict[str, Any] = {"kind": kind.kind, "apiVersion": kind.api_version}
            mark["metadata"] = {"resourceVersion": str(store.version), "creationTimestamp": None}
            with suppress(ConnectionResetError):  # whoever watched may have gone
                await response.write(json.dumps({"type": "BOOKMARK", "object": mark}).encode() + b"\n")
        except ConnectionResetError:  # whoever watched has gone
            return response
        finally:
            store.watchers.remove((kind.plural, queue))
        return response

    async def _object(self, request: web.Request, kind: Kind, namespace: str, name: str) -> web.Response:
        store, dry = self.store, "dryRun" in request.query
        body = json.loads(await request.read() or b"{}")
        match request.method:
            case "POST":
                if kind.plural == "pods":
                    self._admit(body)
                if "resourceVersion" in body.get("metadata", {}):
                    raise Refused(400, "BadRequest", "resourceVersion should not be set on objects to be created")
                if kind.plural in ("deployments", "statefulsets"):
                    body["metadata"]["generation"] = 1
                    body.setdefault("status", {})
                if kind.plural == "persistentvolumeclaims":
                    body |= {"status": {"phase": "Pending"}}
                    body["spec"].setdefault("volumeMode", "Filesystem")
                made, status = store.create(kind, namespace, body, dry=dry), 201
            case "PATCH" if request.content_type == "application/apply-patch+yaml":
                if self.invalid:
                    raise Refused(422, "Invalid", f'{kind.kind} "{name}" is invalid: {self.invalid}')
                made, status = apply(store, kind, namespace, body, request.query)
            case "PUT" | "PATCH":
                old = store.get(kind, namespace, name)
                self._disturb(kind, old)
                new = merged(old, body) if request.method == "PATCH" else body
                if "resourceVersion" not in body.get("metadata", {}):
                    new["metadata"]["resourceVersion"] = store.get(kind, namespace, name)["metadata"]["resourceVersion"]
                if kind.plural == "deployments" and new["spec"].get("replicas", 1) < 0:
                    self._invalid(kind, name, new["spec"]["replicas"])
                if "managedFields" in old["metadata"]:
                    updated(old, new, kind, "python-httpx")
                made, status = new if dry else store.replace(kind, namespace, name, new), 200
            case "DELETE":
                return self._delete(kind, namespace, name, body)
            case _:
                made, status = store.get(kind, namespace, name), 200
        answer = copy.deepcopy(made)
        self.controllers.reconcile()
        return web.json_response(answer, status=status)

    def _disturb(self, kind: Kind, item: dict[str, Any]) -> None:
        """Somebody else changes it between the reading and the writing."""
        if self.conflicts:
            self.conflicts -= 1
            self.store.touch(kind, item)

    def _admit(self, pod: dict[str, Any]) -> None:
        self.admission(pod)
        if self.controllers.quota:
            name = pod.get("metadata", {}).get("name", "x")
            raise Refused(403, "Forbidden", f'pods "{name}" is forbidden: {self.controllers.quota}')

    @staticmethod
    def _invalid(kind: Kind, name: str, value: int) -> None:
        why = f"Invalid value: {value}: must be greater than or equal to 0"
        cause = {"reason": "FieldValueInvalid", "message": why, "field": "spec.replicas"}
        raise Refused(
            422, "Invalid", f'{kind.kind}.{kind.group} "{name}" is invalid: spec.replicas: {why}',
            {"name": name, "group": kind.group, "kind": kind.kind, "causes": [cause]},
        )  # fmt: skip

    def _delete(self, kind: Kind, namespace: str, name: str, body: dict[str, Any]) -> web.Response:
        item = self.store.get(kind, namespace, name)
        meta = item["metadata"]
        for key, told in (body.get("preconditions") or {}).items():
            if told != meta.get(key):
                message = f"Precondition failed: {key} in precondition: {told}, in object meta: {meta.get(key)}"
                raise Refused(409, "Conflict", message, Store.details(kind, name))
        if kind.plural == "pods":
            self.controllers.stop(item)
            return web.json_response(item)
        own = self.controllers.pods_of(item) if kind.plural in ("deployments", "statefulsets") else []
        self.store.delete(kind, namespace, name)
        for pod in own:
            self.controllers.stop(pod)
        group = {"group": kind.group} if kind.group else {}
        details = {"name": name, **group, "kind": kind.plural, "uid": meta["uid"]}
        ok = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return web.json_response(ok)

    async def _sub(self, request: web.Request, kind: Kind, namespace: str, name: str, sub: str) -> web.StreamResponse:
        if sub == "scale":
            return await self._scale(request, kind, namespace, name)
        if sub == "log":
            self.store.get(kind, namespace, name)
            return web.Response(text="".join(f"{line}\n" for line in self.logs.get(name, [])))
        if sub == "eviction" and name in self.budgets:
            raise Refused(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")
        if sub == "eviction":
            self.controllers.stop(self.store.get(kind, namespace, name))
            ok = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
            return web.json_response(ok, status=201)
        if sub.startswith("proxy") and name in self.services:
            return await self.services[name](request)
        if sub.startswith("proxy"):
            message = f'no endpoints available for service "{name}"'
            raise Refused(503, "ServiceUnavailable", message)
        raise Refused(404, "NotFound", "the server could not find the requested resource")

    async def _scale(self, request: web.Request, kind: Kind, namespace: str, name: str) -> web.Response:
        item = self.store.get(kind, namespace, name)
        if request.method != "GET":
            body = json.loads(await request.read())
            self._disturb(kind, item)
            told = body.get("metadata", {}).get("resourceVersion", item["metadata"]["resourceVersion"])
            replicas = (body.get("spec") or {}).get("replicas", 0)
            changed = merged(item, {"metadata": {"resourceVersion": told}, "spec": {"replicas": replicas}})
            if "managedFields" in item["metadata"]:
                updated(item, changed, kind, "python-httpx", "scale")
            item = self.store.replace(kind, namespace, name, changed)
        count = len(self.controllers.pods_of(item))
        if request.method != "GET":
            self.controllers.reconcile()
        meta = {k: item["metadata"][k] for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")}
        selector = ",".join(f"{k}={v}" for k, v in item["spec"]["selector"]["matchLabels"].items())
        spec = {"replicas": r} if (r := item["spec"].get("replicas", 1)) else {}
        scale = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec}
        return web.json_response(scale | {"status": {"replicas": count, "selector": selector}})


def selector(text: str) -> Callable[[dict[str, str]], bool]:
    """A label selector of equalities and `KEY in (A,B)`."""
    wanted = {}
    for key, equal, values in re.findall(r"([\w./-]+)(?:=([^,]*)| in \(([^)]*)\))(?:,|$)", text):
        wanted[key] = values.split(",") if values else [equal]
    return lambda labels: all(labels.get(key) in values for key, values in wanted.items())


def pods_of(name: str, gpus: int, port: int = 8000, **spec: Any) -> dict[str, Any]:
    """The selector and the template of a workload whose one container asks for GPUs."""
    probe = {"httpGet": {"path": "/health", "port": port, "scheme": "HTTP"}}
    container: dict[str, Any] = {"name": "vllm", "image": "vllm/vllm-openai:v0.32.0", "args": ["--model", "/models/m"]}
    container |= {"readinessProbe": probe, "ports": [{"containerPort": port, "protocol": "TCP"}]}
    if gpus:
        container["resources"] = {"limits": {GPU: str(gpus)}}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container], **spec}}
    return {"selector": {"matchLabels": {"app": name}}, "template": template}


@asynccontextmanager
async def serving(double: Double, secure: ssl.SSLContext | None = None) -> AsyncIterator[Double]:
    """The double on a port from the OS."""
    application = web.Application(client_max_size=1 << 24)
    application.router.add_route("*", "/{path:.*}", double.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=secure)
    await site.start()
    double.port = runner.addresses[0][1]
    double.scheme = "https" if secure else "http"
    try:
        yield double
    finally:
        double.store.drop()
        await double.controllers.close()
        await runner.cleanup()
