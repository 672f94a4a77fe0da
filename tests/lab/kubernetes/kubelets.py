"""The nodes of the control plane: their kubelets are played, since containers and GPUs are not what is tried here.

A pod that the real scheduler gave to a node is said to run, then to be ready; one that is to end is gone. What the API
asks of a kubelet, the logs of its pods and the fill of their volumes, is answered by TLS. Claims get volumes. All else
is done by real controllers.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web

from tests.kubernetes.controllers import GPU, Times
from tests.kubernetes.double import pods_of
from tests.lab.kubernetes.control import ADDRESS, ADMIN, ControlPlane

PODS, NODES, CLAIMS = "/api/v1/pods", "/api/v1/nodes", "/api/v1/persistentvolumeclaims"
APPS = "/apis/apps/v1/namespaces/llm"


class Nodes:
    """Nodes, and what happens to the pods on them; `times`, `broken` and `started` as in the API double."""

    def __init__(self, plane: ControlPlane, session: aiohttp.ClientSession) -> None:
        self.plane = plane
        self.times = Times()
        self.broken: dict[str, str] = {}
        self.started: list[tuple[str, str]] = []
        self.logs: dict[str, list[str]] = {}
        """By a pod's label `app`, or its job."""
        self.summary: dict[str, Any] = {}
        """What every kubelet counts of the volumes of its pods."""
        self.port = 0
        self._session = session
        self._pods: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the API, as admin ---------------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, data: Any = None, *, kind: str = "application/json") -> dict[str, Any]:
        """One request; AssertionError with the API's words where it is refused."""
        headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": kind}
        text = None if data is None else json.dumps(data)
        async with self._session.request(method, self.plane.url + path, data=text, headers=headers) as answer:
            body: dict[str, Any] = await answer.json()
            assert answer.status < 400, (method, path, body.get("message"))
            return body

    async def patch(self, path: str, data: Any) -> dict[str, Any]:
        """A merge patch."""
        return await self.ask("PATCH", path, data, kind="application/merge-patch+json")

    async def all(self, path: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        items: list[dict[str, Any]] = (await self.ask("GET", path))["items"]
        return items

    async def add_node(self, name: str, gpus: int = 8) -> None:
        """A node that is ready and stays so."""
        amounts = {"cpu": "8", "memory": "64Gi", "pods": "5000"} | ({GPU: str(gpus)} if gpus else {})
        await self.ask("POST", NODES, {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
        status = {
            "capacity": amounts, "allocatable": amounts, "addresses": [{"type": "InternalIP", "address": ADDRESS}],
            "conditions": [_condition("Ready", "True", "KubeletReady", "kubelet is posting ready status")],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
        }  # fmt: skip
        await self.patch(f"{NODES}/{name}/status", {"status": status})
        await self.patch(f"{NODES}/{name}", {"spec": {"taints": None}})

    async def add_deployment(
        self, name: str, replicas: int = 0, gpus: int = 1, *, port: int = 8000, **spec: Any
    ) -> None:
        """As the double's, with a Service in front of it."""
        data = {"metadata": {"name": name}, "spec": {"replicas": replicas, **pods_of(name, gpus, port, **spec)}}
        await self.ask("POST", f"{APPS}/deployments", data)
        service = {"selector": {"app": name}, "ports": [{"port": port}]}
        await self.ask("POST", "/api/v1/namespaces/llm/services", {"metadata": {"name": name}, "spec": service})

    async def deployment(self, name: str) -> dict[str, Any]:
        """As it is now."""
        return await self.ask("GET", f"{APPS}/deployments/{name}")

    async def swept(self) -> None:
        """Remove nodes and the namespace, and make it anew; by the API's own namespace controller."""
        for node in await self.all(NODES):
            await self.ask("DELETE", f"{NODES}/{node['metadata']['name']}")
        spaces = "/api/v1/namespaces"
        if "llm" in {each["metadata"]["name"] for each in await self.all(spaces)}:
            await self.ask("DELETE", f"{spaces}/llm")
            async with asyncio.timeout(60):
                while "llm" in {each["metadata"]["name"] for each in await self.all(spaces)}:
                    await asyncio.sleep(0.1)
        for volume in await self.all("/api/v1/persistentvolumes"):
            await self.ask("DELETE", f"/api/v1/persistentvolumes/{volume['metadata']['name']}")
        await self.ask("POST", spaces, {"metadata": {"name": "llm"}})
        account = "/api/v1/namespaces/llm/serviceaccounts"
        async with asyncio.timeout(60):  # pods are refused until it is there
            while not any(each.get("secrets") for each in await self.all(account)):
                await asyncio.sleep(0.1)
        self.started.clear()

    # -- the kubelets --------------------------------------------------------------------------------------------------

    async def watch(self, path: str, seen: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Every object of a list, and whatever comes to it; begun anew when the API goes away."""
        while True:
            try:
                listed = await self.ask("GET", path)
                for item in listed["items"]:
                    await seen(item)
                asked = f"{path}?watch=1&resourceVersion={listed['metadata']['resourceVersion']}"
                headers = {"Authorization": f"Bearer {ADMIN}"}
                async with self._session.get(self.plane.url + asked, headers=headers) as answer:
                    async for line in answer.content:
                        event = json.loads(line)
                        if event["type"] in ("ADDED", "MODIFIED"):
                            await seen(event["object"])
            except (aiohttp.ClientError, ConnectionError, AssertionError):
                await asyncio.sleep(0.2)

    async def pod_seen(self, pod: dict[str, Any]) -> None:
        """Begin its life, or its end."""
        uid, ends = pod["metadata"]["uid"], "deletionTimestamp" in pod["metadata"]
        if not pod["spec"].get("nodeName"):
            return
        if ends and not uid.endswith("-ends") and f"{uid}-ends" not in self._pods:
            if (life := self._pods.get(uid)) is not None:
                life.cancel()
            self._pods[f"{uid}-ends"] = self._spawn(self._end(pod))
        elif not ends and uid not in self._pods:
            self._pods[uid] = self._spawn(self._live(pod))

    async def claim_seen(self, claim: dict[str, Any]) -> None:
        """Give a new claim a volume, as a provisioner does."""
        meta, spec = claim["metadata"], claim["spec"]
        if claim["status"].get("phase") != "Pending" or spec.get("volumeName"):
            return
        about = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta["namespace"]}
        volume = {
            "capacity": spec["resources"]["requests"], "accessModes": spec["accessModes"],
            "storageClassName": spec.get("storageClassName", ""), "hostPath": {"path": f"/var/{meta['uid']}"},
            "persistentVolumeReclaimPolicy": "Delete", "claimRef": {**about, "name": meta["name"], "uid": meta["uid"]},
        }  # fmt: skip
        with_name = {"metadata": {"name": f"pv-{meta['uid']}"}, "spec": volume}
        try:
            await self.ask("POST", "/api/v1/persistentvolumes", with_name)
        except AssertionError as error:
            if "already exists" not in str(error):
                raise

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _live(self, pod: dict[str, Any]) -> None:
        name = _app(pod)
        fault = self.broken.get(name, "")
        if fault == "pull":
            await self._says(pod, "Pending", {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}})
            return
        await self._says(pod, "Pending", {"waiting": {"reason": "ContainerCreating"}})
        await asyncio.sleep(self.times.start)
        self.started.append(("running", name))
        running = {"running": {"startedAt": _now()}}
        await self._says(pod, "Running", running)
        if fault == "hang":
            return
        await asyncio.sleep(self.times.ready)
        if pod["spec"]["restartPolicy"] == "Always":
            await self._says(pod, "Running", running, ready=True)
            self.started.append(("ready", name))
            return
        code = 1 if fault else 0
        ended = {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": _now()}}
        await self._says(pod, "Failed" if code else "Succeeded", ended)

    async def _says(self, pod: dict[str, Any], phase: str, state: dict[str, Any], *, ready: bool = False) -> None:
        main = pod["spec"]["containers"][0]
        own = {"name": main["name"], "state": state, "ready": ready, "restartCount": 0, "image": main["image"],
               "imageID": main["image"], "containerID": f"played://{pod['metadata']['uid']}"}  # fmt: skip
        word = "True" if ready else "False"
        told = {"phase": phase, "podIP": ADDRESS, "podIPs": [{"ip": ADDRESS}], "hostIP": ADDRESS, "startTime": _now(),
                "containerStatuses": [own],
                "conditions": [_condition(kind, word) for kind in ("Ready", "ContainersReady")]
                + [_condition("PodScheduled", "True"), _condition("Initialized", "True")]}  # fmt: skip
        await self.patch(f"{_path(pod)}/status", {"status": told})

    async def _end(self, pod: dict[str, Any]) -> None:
        await asyncio.sleep(self.times.stop)
        now = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        self.started.append(("gone", _app(pod)))
        try:
            await self.ask("DELETE", _path(pod), now)
        except AssertionError as error:
            if "not found" not in str(error):  # the namespace's end was quicker
                raise

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        pod = await self.ask("GET", f"/api/v1/namespaces/{request.match_info['ns']}/pods/{request.match_info['pod']}")
        lines = self.logs.get(_app(pod), [])
        if request.query.get("timestamps"):
            lines = [f"{_now()} {line}" for line in lines]
        return web.Response(text="".join(f"{line}\n" for line in lines))

    async def _summary(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.summary)

    @asynccontextmanager
    async def serving(self, secure: ssl.SSLContext) -> AsyncIterator[None]:
        """Everything that the nodes do, until it is left."""
        application = web.Application()
        application.router.add_get("/containerLogs/{ns}/{pod}/{container}", self._logs)
        application.router.add_get("/stats/summary", self._summary)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, ADDRESS, 0, ssl_context=secure).start()
        self.port = runner.addresses[0][1]
        self._spawn(self.watch(PODS, self.pod_seen))
        self._spawn(self.watch(CLAIMS, self.claim_seen))
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await runner.cleanup()


def _app(pod: dict[str, Any]) -> str:
    labels = pod["metadata"].get("labels", {})
    return str(labels.get("app") or labels.get("app.kubernetes.io/name") or labels.get("job-name") or "")


def _path(pod: dict[str, Any]) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, Any]:
    said = {"type": kind, "status": status, "lastTransitionTime": _now()}
    return said | ({"reason": reason, "message": message} if reason else {})


@asynccontextmanager
async def playing(plane: ControlPlane) -> AsyncIterator[Nodes]:
    """Nodes of a plane, in the namespace `llm`; what a test leaves there is removed by `swept`."""
    trust = ssl.create_default_context(cafile=plane.authority.path)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session:
        nodes = Nodes(plane, session)
        async with nodes.serving(plane.authority.server(ADDRESS)):
            yield nodes
