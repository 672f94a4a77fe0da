"""What is kept of the API's objects: a few fields of each, frozen. Pure, and lenient about what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from backends.cluster.launch import launch
from backends.cluster.reading import Launch
from backends.reach.docker_words import MOST_WORDS, timestamp, without_secrets
from backends.reach.kubernetes.fields import each as _list
from backends.reach.kubernetes.fields import table as _dict
from backends.reach.kubernetes.quantities import quantity
from backends.text import plain

GPU: Final = re.compile(r"nvidia\.com/(gpu(\.shared)?|mig-[\w.-]+)|amd\.com/gpu|gpu\.intel\.com/[\w.-]+")
"""Resources that are GPUs or parts of them, shared by time-slicing or cut by MIG."""

STATEFUL: Final = "statefulset"
"""The word in the names of StatefulSets."""

HELD: Final = "tierdeck/held"
"""The annotation that says that we paused its rolling update; somebody else's pause is left alone."""

WANTED: Final = "tierdeck/replicas"
"""The annotation that remembers how many replicas a workload had before it was stopped, until it has them again."""

_STUCK: Final = frozenset(
    {"CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "CreateContainerError", "CreateContainerConfigError",
     "RunContainerError"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod: `owner` is its workload as NAMESPACE/NAME ("" for none), `node` "" until it is scheduled.

    `maker` is the ReplicaSet or StatefulSet that made it; `waiting` is what its main container waits for, as (reason,
    message); `unscheduled` the scheduler's words.
    """

    namespace: str
    name: str
    owner: str
    node: str
    phase: str
    created: float
    gpus: Mapping[str, int]
    ready: bool = False
    running: bool = False
    deleting: bool = False
    unscheduled: str = ""
    waiting: tuple[str, str] = ("", "")
    started_at: float | None = None
    restarts: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    container: str = ""
    container_id: str = ""
    digest: str = ""
    uid: str = ""
    maker: str = ""

    @property
    def stuck(self) -> bool:
        """Whether it waits for longer and longer to try again what failed; one made anew tries at once."""
        return self.waiting[0] in _STUCK and not self.deleting

    @property
    def holds(self) -> bool:
        """Whether its GPUs are taken on its node."""
        return bool(self.node) and self.phase not in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Controller:
    """A Deployment or StatefulSet; `failure` is why its pods may not be created, `checked` that a probe says ready.

    `wanted` is how many replicas it is to have again (0: as many as it has). `surges`: an update starts more pods than
    it is to have; `former` pods are of another template than the present; `paused`: its
    update goes no further; `held`: by us.
    """

    name: str
    kind: str
    namespace: str
    bare: str
    replicas: int
    selector: str
    gpus: Mapping[str, int]
    image: str
    arguments: tuple[str, ...]
    mounts: tuple[str, ...]
    ports: tuple[int, ...]
    launch: Launch | None
    labels: Mapping[str, str]
    terms: tuple[Mapping[str, Any], ...]
    checked: bool = False
    failure: str = ""
    wanted: int = 0
    surges: bool = False
    former: int = 0
    paused: bool = False
    held: bool = False

    @property
    def path(self) -> str:
        """Where the API has it."""
        return f"/apis/apps/v1/namespaces/{self.namespace}/{self.kind}s/{self.bare}"


@dataclass(frozen=True, slots=True)
class Host:
    """A node as the API has it; `why` tells why it is not ready. `memory` is what its pods may have, in bytes."""

    name: str
    labels: Mapping[str, str]
    ready: bool
    why: str
    cordoned: bool
    capacity: Mapping[str, int]
    allocatable: Mapping[str, int]
    memory: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim on a volume, by NAMESPACE/NAME."""

    name: str
    phase: str
    size: str


def pod(data: Mapping[str, Any]) -> Pod | None:
    """A pod that asks for GPUs, or belongs to a workload; None for the others."""
    meta, spec, status = _dict(data, "metadata"), _dict(data, "spec"), _dict(data, "status")
    gpus, owner = _gpus(spec), _owner(meta)
    if not gpus and not owner:
        return None
    main = _main(spec)
    own = next((s for s in _list(status, "containerStatuses") if s.get("name") == main.get("name")), {})
    state, last = _dict(own, "state"), _dict(_dict(own, "lastState"), "terminated")
    ended = _dict(state, "terminated") or last
    waiting = _waiting(status) or _dict(state, "waiting")
    conditions = {str(c.get("type")): c for c in _list(status, "conditions")}
    placed = conditions.get("PodScheduled", {})
    code = ended.get("exitCode")
    return Pod(
        namespace=str(meta.get("namespace", "")),
        name=str(meta.get("name", "")),
        owner=owner,
        node=str(spec.get("nodeName") or ""),
        phase=str(status.get("phase") or ""),
        created=timestamp(meta.get("creationTimestamp")) or 0.0,
        gpus=gpus,
        ready=conditions.get("Ready", {}).get("status") == "True",
        running="running" in state,
        deleting="deletionTimestamp" in meta,
        unscheduled=str(placed.get("message") or "") if placed.get("status") == "False" else "",
        waiting=(plain(str(waiting.get("reason") or "")), plain(str(waiting.get("message") or ""), 300)),
        started_at=timestamp(_dict(state, "running").get("startedAt")),
        restarts=int(own.get("restartCount") or 0),
        exit_code=code if isinstance(code, int) else None,
        oom_killed=ended.get("reason") == "OOMKilled",
        container=str(main.get("name") or ""),
        container_id=str(own.get("containerID") or "").rpartition("//")[2],
        digest=plain(str(own.get("imageID") or "")),
        uid=str(meta.get("uid") or ""),
        maker=str(_maker(meta).get("name") or ""),
    )


def _waiting(status: Mapping[str, Any]) -> dict[str, Any]:
    """What an init container waits for, where one does: it stands before all others."""
    waits = (_dict(_dict(each, "state"), "waiting") for each in _list(status, "initContainerStatuses"))
    return next((w for w in waits if w.get("reason") not in (None, "PodInitializing")), {})


def controller(data: Mapping[str, Any], kind: str) -> Controller:
    """A Deployment or StatefulSet (`kind` in lower case)."""
    meta, spec = _dict(data, "metadata"), _dict(data, "spec")
    inner = _dict(_dict(spec, "template"), "spec")
    main = _main(inner)
    namespace, bare = str(meta.get("namespace", "")), str(meta.get("name", ""))
    volumes = {str(v.get("name")): _dict(v, "persistentVolumeClaim").get("claimName") for v in _list(inner, "volumes")}
    mounts = {
        str(m.get("mountPath", "")): str(volumes.get(str(m.get("name"))) or m.get("name") or "")
        for m in _list(main, "volumeMounts")
    }
    words = [plain(str(word), 300) for part in ("command", "args") for word in (main.get(part) or ())][:MOST_WORDS]
    environment = {str(e.get("name")): plain(str(e.get("value") or ""), 300) for e in _list(main, "env")}
    notes, status = _dict(meta, "annotations"), _dict(data, "status")
    failed = next((c for c in _list(status, "conditions") if c.get("type") == "ReplicaFailure"), {})
    affinity = _dict(_dict(_dict(inner, "affinity"), "nodeAffinity"), "requiredDuringSchedulingIgnoredDuringExecution")
    replicas, wanted = spec.get("replicas"), str(notes.get(WANTED) or "")
    return Controller(
        name=f"{namespace}/{bare}" if kind != STATEFUL else f"{namespace}/{STATEFUL}/{bare}",
        kind=kind,
        namespace=namespace,
        bare=bare,
        replicas=replicas if isinstance(replicas, int) else 0,
        selector=",".join(f"{k}={v}" for k, v in _dict(_dict(spec, "selector"), "matchLabels").items()),
        gpus=_gpus(inner),
        image=plain(str(main.get("image") or ""), 200),
        arguments=without_secrets(words),
        mounts=tuple(sorted(f"{source}:{target}" for target, source in mounts.items())),
        ports=tuple(sorted({p["hostPort"] for p in _list(main, "ports") if isinstance(p.get("hostPort"), int)})),
        launch=launch(words, environment, mounts),
        labels={str(k): str(v) for k, v in _dict(inner, "nodeSelector").items()},
        terms=tuple(_list(affinity, "nodeSelectorTerms")),
        checked=any(main.get(probe) for probe in ("readinessProbe", "startupProbe")),
        failure=plain(str(failed.get("message") or ""), 400) if failed.get("status") == "True" else "",
        wanted=int(wanted) if wanted.isdecimal() and len(wanted) < 4 else 0,
        surges=kind != STATEFUL and _surges(_dict(spec, "strategy")),
        former=max(0, int(status.get("replicas") or 0) - int(status.get("updatedReplicas") or 0)),
        paused=spec.get("paused") is True,
        held=HELD in notes,
    )


def _surges(strategy: Mapping[str, Any]) -> bool:
    """Whether a Deployment's update may start more pods than it is to have; a quarter, rounded up, if not said."""
    surge = _dict(strategy, "rollingUpdate").get("maxSurge", "25%")
    return strategy.get("type") != "Recreate" and surge not in (0, "0", "0%")


def host(data: Mapping[str, Any]) -> Host:
    """A node."""
    meta, status = _dict(data, "metadata"), _dict(data, "status")
    ready = next((c for c in _list(status, "conditions") if c.get("type") == "Ready"), {})
    return Host(
        name=str(meta.get("name", "")),
        labels={str(k): str(v) for k, v in _dict(meta, "labels").items()},
        ready=ready.get("status") == "True",
        why=plain(str(ready.get("message") or ready.get("reason") or "its kubelet has said nothing yet")),
        cordoned=_dict(data, "spec").get("unschedulable") is True,
        capacity=_counted(_dict(status, "capacity")),
        allocatable=_counted(_dict(status, "allocatable")),
        memory=quantity(_dict(status, "allocatable").get("memory")),
    )


def address(data: Mapping[str, Any]) -> str:
    """A node's address within its network; its name where it tells none."""
    told = {str(a.get("type")): str(a.get("address")) for a in _list(_dict(data, "status"), "addresses")}
    return told.get("InternalIP") or told.get("Hostname") or str(_dict(data, "metadata").get("name", ""))


def claim(data: Mapping[str, Any]) -> Claim:
    """A claim on a volume."""
    meta, status = _dict(data, "metadata"), _dict(data, "status")
    asked = _dict(_dict(_dict(data, "spec"), "resources"), "requests").get("storage")
    size = _dict(status, "capacity").get("storage") or asked or "?"
    return Claim(
        f"{meta.get('namespace', '')}/{meta.get('name', '')}", str(status.get("phase") or "?"), plain(str(size))
    )


def parsed(name: str) -> tuple[str, str, str]:
    """Namespace, kind and name of a workload; empty where that is no name of one."""
    parts = name.split("/")
    if len(parts) == 3 and parts[1] == STATEFUL and all(parts):
        return parts[0], STATEFUL, parts[2]
    return (parts[0], "deployment", parts[1]) if len(parts) == 2 and all(parts) else ("", "", "")


def fits(what: Controller, node: Host) -> bool:
    """Whether its pods may run on a node, by labels, required affinity and the GPUs that there are."""
    if any(node.labels.get(key) != value for key, value in what.labels.items()):
        return False
    if what.terms and not any(_matches(term, node) for term in what.terms):
        return False
    return all(node.allocatable.get(name, 0) > 0 for name in what.gpus)


def _matches(term: Mapping[str, Any], node: Host) -> bool:
    expressions = [(node.labels, e) for e in _list(term, "matchExpressions")]
    expressions += [({"metadata.name": node.name}, e) for e in _list(term, "matchFields")]
    return bool(expressions) and all(_holds(labels, e) for labels, e in expressions)


def _holds(labels: Mapping[str, str], expression: Mapping[str, Any]) -> bool:
    value, values = labels.get(str(expression.get("key"))), [str(v) for v in expression.get("values") or ()]
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:  # Gt, Lt: the scheduler will tell
            return True


def _maker(meta: Mapping[str, Any]) -> dict[str, Any]:
    return next((o for o in _list(meta, "ownerReferences") if o.get("controller")), {})


def _owner(meta: Mapping[str, Any]) -> str:
    """The Deployment or StatefulSet that made a pod, by its ReplicaSet's name or its own."""
    owner = _maker(meta)
    name, namespace = str(owner.get("name") or ""), meta.get("namespace", "")
    if owner.get("kind") == "StatefulSet":
        return f"{namespace}/{STATEFUL}/{name}"
    turned = _dict(meta, "labels").get("pod-template-hash")
    if owner.get("kind") == "ReplicaSet" and turned and name.endswith(f"-{turned}"):
        return f"{namespace}/{name.removesuffix(f'-{turned}')}"
    return ""


def _main(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The container that asks for GPUs, else the first."""
    containers = _list(spec, "containers")
    return next((c for c in containers if _asks(c)), containers[0] if containers else {})


def _gpus(spec: Mapping[str, Any]) -> dict[str, int]:
    """What a pod takes: the sum over its containers, or what one init container takes alone, if that is more."""
    found: dict[str, int] = {}
    for each in _list(spec, "containers"):
        for name, count in _asks(each).items():
            found[name] = found.get(name, 0) + count
    for each in _list(spec, "initContainers"):
        for name, count in _asks(each).items():
            found[name] = max(found.get(name, 0), count)
    return found


def _asks(container: Mapping[str, Any]) -> dict[str, int]:
    resources = _dict(container, "resources")
    return _counted(_dict(resources, "requests") | _dict(resources, "limits"))


def _counted(amounts: Mapping[str, Any]) -> dict[str, int]:
    return dict(_gpu_counts(amounts))


def _gpu_counts(amounts: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for name, count in amounts.items():
        if GPU.fullmatch(name) and str(count).isdecimal() and int(count):
            yield name, int(count)
