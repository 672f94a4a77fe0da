"""Plans a deployment: from what was found out about a node to its steps, the texts of cluster.d, and warnings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pydantic import JsonValue

from backends.cluster.deploying import Spec
from backends.cluster.inventory import Inventory
from backends.cluster.presets import MODELS, bind_of, body, gpus_of
from backends.cluster.reading import Workload
from backends.cluster.tables import Node
from backends.cluster.words import KUBERNETES
from backends.exports.pods import namespace_of, pod
from backends.procedures import deployed
from backends.procedures.copying import Copy
from backends.procedures.fragment import Fragment
from backends.procedures.ollama import Ollama
from backends.procedures.plan import Danger, Plan, Step
from backends.procedures.startup import start_step
from backends.procedures.trouble import call

COPY_LIMIT: Final = 86_400.0
"""Seconds a copy may take in all; a line that carries nothing ends it long before."""

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_HEAD: Final = "# Written by `tierdeck deploy`; what stands in cluster.toml counts more.\n"


@dataclass(frozen=True, slots=True)
class Site:
    """What a deployment finds: the files as cluster.d has them, and what is on the node already.

    `deployment` is the token by which its maker knows again what it made; `image` and `gpus` say that they are there
    for certain.
    """

    cluster: str
    deployment: str
    before: str | None = None
    alone: bool = False
    image: bool = True
    gpus: bool = False
    volume: bool = False
    size: int = 0


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a deployment is found: its workload as its runtime names it, its address, the way there, its model."""

    workload: str
    url: str
    via: str | None
    model: str


def plan_deploy(
    spec: Spec,
    inventory: Inventory,
    site: Site,
    *,
    why: Sequence[str] = (),
    warnings: Sequence[str] = (),
    on_failure: Literal["hold", "rollback"] = "hold",
) -> Plan:
    """What would be done on the node, every call of it.

    ProcedureError where the node's GPUs cannot be had by a container.
    """
    node = inventory.node_named[spec.node]
    told = body(spec, node, site.deployment)
    steps = [*_before(spec, told, site), *_copied(spec, site), _made(spec, told, site)]
    filled = [given(spec, site)] if spec.preset == "ollama" else []
    steps += served(spec, inventory, site, [_started(spec, node, told), *filled])
    return Plan(
        kind="deploy",
        node=spec.node,
        title=f"Deploy {spec.name} on {spec.node}: {spec.preset}, {spec.file or spec.pull} at port {spec.port}",
        steps=tuple(steps),
        warnings=tuple(warnings),
        targets=(spec.name,),
        why=tuple(why),
        reversible=True,
        on_failure=on_failure,
    )


def served(spec: Spec, inventory: Inventory, site: Site, started: Sequence[Step]) -> list[Step]:
    """From what stands still to what serves: its place in the queue, what `started` does, one prompt, the router."""
    steps: list[Step] = []
    texts = fragments(spec, inventory)
    before, alone = site.before, site.alone
    for label, text in texts[:-1]:
        steps.append(_written(spec, site, label, text, before, alone, texts[-1][1]))
        before, alone = text, False
    steps += started
    if spec.tasks != ("embed",):
        asked = deployed.Question(spec.endpoint, spec.prompt)
        label = f"ask {spec.endpoint} one prompt"
        steps.append(Step("ask_once", label, deployed.to_json(asked), 660.0, command=f"prompt: {spec.prompt}"))
    return [*steps, _written(spec, site, *texts[-1], before, alone)]


def whereabouts(spec: Spec, inventory: Inventory) -> Whereabouts:
    """Where a deployment is found once it is there, by what its node runs things with."""
    node = inventory.node_named[spec.node]
    if node.declares:
        made, namespace = pod(spec, node), namespace_of(spec, inventory)
        url = f"http://{made.name}.{namespace}:{spec.port}"
        return Whereabouts(f"{namespace}/{made.name}", url, KUBERNETES, f"volume:{made.claim}/{spec.file}")
    bind = bind_of(spec)
    host = bind if bind not in (*_LOOPBACK, "0.0.0.0", "::") else "localhost"
    via = "ssh" if bind in _LOOPBACK and node.ssh is not None else None
    return Whereabouts(spec.name, f"http://{host}:{spec.port}", via, f"volume:{spec.volume_name}/{spec.file}")


def with_gateway(plan: Plan, push: Plan) -> Plan:
    """A deployment that ends with the push of a gateway's file: one plan, taken back as one."""
    return replace(
        plan,
        title=f"{plan.title}; then the gateway",
        steps=(*plan.steps, *push.steps),
        blast=push.blast,
        warnings=(*plan.warnings, *push.warnings),
        targets=(*plan.targets, *push.targets),
        beside=(push.node,),
    )


def fragments(spec: Spec, inventory: Inventory) -> list[tuple[str, str]]:
    """The texts that the file of cluster.d has one after the other, each with the step's label: queue, then all."""
    node, where = inventory.node_named[spec.node], whereabouts(spec, inventory)
    queued = not spec.on_demand and gpus_of(spec, node) != "none"
    queue: dict[str, Any] = {"queue": {spec.node: [where.workload]}} if queued else {}
    first = [(f"join the start queue of {spec.node}", _written_out({"joins": queue}))] if queued else []
    tasks = spec.tasks or ("chat",)
    router = {task: [spec.endpoint] for task in tasks if task in inventory.router} if spec.preset != "litellm" else {}
    joins = queue | ({"router": router} if router else {})
    whole: dict[str, Any] = {"joins": joins} if joins else {}
    tier = tier_of(spec, inventory)
    if tier not in inventory.endpoints_of:
        whole["tiers"] = [{"name": tier}]
    whole["endpoints"] = [_endpoint(spec, where, tier)]
    if spec.model and spec.preset != "litellm":
        told = {"name": spec.name, "file": where.model, "context": spec.context}
        told |= {"gpu_layers": spec.gpu_layers, "on_demand": spec.on_demand or None}
        whole["models"] = [{key: value for key, value in told.items() if value is not None}]
    return [*first, ("add it to the inventory and the router", _written_out(whole))]


def _written_out(whole: Mapping[str, Any]) -> str:
    """Tables as TOML, one key a line; what JSON writes of words, numbers and lists is TOML too."""
    lines = [_HEAD.rstrip()]
    for name, tables in whole.items():
        if isinstance(tables, dict):
            found = [(f"[{name}.{inner}]", table) for inner, table in tables.items()]
        else:
            found = [(f"[[{name}]]", table) for table in tables]
        for header, table in found:
            lines += ["", header, *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def tier_of(spec: Spec, inventory: Inventory) -> str:
    """The tier of its endpoint: as it says, else that of the node's other endpoints, else one of its own."""
    if spec.tier:
        return spec.tier
    return next((e.tier for e in inventory.endpoints if e.node == spec.node), spec.node.upper())


def fragment_name(spec: Spec) -> str:
    """The file of cluster.d that a deployment writes."""
    return f"deploy-{spec.name}.toml"


def _endpoint(spec: Spec, where: Whereabouts, tier: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": spec.endpoint,
        "tier": tier,
        "node": spec.node,
        "engine": spec.preset,
        "url": where.url,
        "container": where.workload,
    }
    if where.via:
        told["via"] = where.via
    if spec.api_key:
        told["api_key"] = spec.api_key
    if spec.tasks:
        told["tasks"] = list(spec.tasks)
    if spec.preset in ("llama.cpp", "vllm"):  # an Ollama has none as it starts, and then only this one
        told["model"] = spec.name
    if spec.on_demand:
        told |= {"on_demand": True} | ({"idle": spec.idle} if spec.idle else {})
    return told


def _before(spec: Spec, told: Mapping[str, Any], site: Site) -> list[Step]:
    """The image, the GPUs, the volume."""
    steps = []
    if not site.image:
        arguments = deployed.to_json(deployed.Image(spec.node, spec.image))
        command = f"docker pull {spec.image}"
        steps.append(Step("have_image", f"fetch the image {spec.image}", arguments, 7200.0, Danger.CHANGES, command))
    host = told["HostConfig"]
    devices = {key: host[key] for key in ("DeviceRequests", "Devices", "GroupAdd", "SecurityOpt") if key in host}
    if devices and not site.gpus:
        trial = deployed.Trial(spec.node, spec.name, spec.image, site.deployment, devices)
        command = f"docker run --rm {_gpus(host)} --entrypoint /bin/true {spec.image}"
        label = f"try whether Docker on {spec.node} gives GPUs"
        steps.append(Step("try_gpus", label, deployed.to_json(trial), 120.0, Danger.CHANGES, command))
    if not site.volume:
        volume = deployed.Volume(spec.node, spec.volume_name, spec.name, site.deployment)
        command = f"docker volume create {spec.volume_name}"
        label = f"make the volume {spec.volume_name}"
        steps.append(Step("make_volume", label, deployed.to_json(volume), 60.0, Danger.CHANGES, command))
    return steps


def _copied(spec: Spec, site: Site) -> list[Step]:
    if spec.model is None:
        return []
    copy = Copy(
        spec.node, spec.model, spec.volume_name, spec.file, spec.helper or spec.image, spec.name, site.deployment,
        spec.token, spec.sha256,
    )  # fmt: skip
    size = f" ({site.size / 1e9:.2f} GB)" if site.size else ""
    command = f"{spec.model} -> {spec.volume_name}:{MODELS}/{spec.file}, in parts, through a helper without a network"
    label = f"copy {spec.file}{size} into {spec.volume_name}"
    return [Step("copy_model", label, copy.to_json(), COPY_LIMIT, Danger.CHANGES, command)]


def _made(spec: Spec, told: dict[str, Any], site: Site) -> Step:
    container = deployed.Container(spec.node, spec.name, site.deployment, told, spec.api_key)
    arguments: dict[str, JsonValue] = deployed.to_json(container)
    return Step(
        "make_container", f"make the container {spec.name}", arguments, 120.0, Danger.CHANGES, docker_run(told, spec)
    )


def _started(spec: Spec, node: Node, told: Mapping[str, Any]) -> Step:
    gpu = gpus_of(spec, node) != "none"
    step = start_step(node, Workload(spec.name, "docker", "created", gpu=gpu), last=True)
    return replace(step, label=f"{step.label}, through the start queue", command=call("docker", "start", spec.name))


def given(spec: Spec, site: Site) -> Step:
    """The model of a fresh Ollama."""
    file = f"{MODELS}/{spec.file}" if spec.model else ""
    model = spec.pull or spec.name
    told = Ollama(spec.node, spec.name, spec.endpoint, model, spec.volume_name, site.deployment, file)
    made = f"{file} linked among its blobs; POST /api/create {model}"
    label = f"create {model} from its file" if file else f"pull {model}"
    command = made if file else f"POST /api/pull {model}"
    return Step("ollama_model", label, deployed.to_json(told), COPY_LIMIT, Danger.CHANGES, command)


def _written(
    spec: Spec, site: Site, label: str, text: str, before: str | None, alone: bool, later: str | None = None
) -> Step:
    name = fragment_name(spec)
    told = Fragment(site.cluster, name, text, before, alone, later)
    lines = "; ".join(line for line in text.splitlines() if line and not line.startswith("#"))
    return Step("write_fragment", label, deployed.to_json(told), 30.0, Danger.CHANGES, f"cluster.d/{name}: {lines}")


def docker_run(told: Mapping[str, Any], spec: Spec) -> str:
    """The body for Docker as the command that people know."""
    host = told["HostConfig"]
    words = ["docker", "create", "--name", spec.name, "--restart", host["RestartPolicy"]["Name"]]
    words += [_gpus(host)] if _gpus(host) else []
    words += [word for device in host.get("Devices", ()) for word in ("--device", device["PathOnHost"])]
    words += [word for group in host.get("GroupAdd", ()) for word in ("--group-add", group)]
    for mount in host["Mounts"]:
        words += ["-v", f"{mount['Source']}:{mount['Target']}"]
    for inner, bindings in host["PortBindings"].items():
        words += ["-p", f"{bindings[0]['HostIp']}:{bindings[0]['HostPort']}:{inner.partition('/')[0]}"]
    words += [f"--shm-size={host['ShmSize']}"] if "ShmSize" in host else []
    words += [word for pair in told["Env"] for word in ("-e", pair)]
    words += [f"--label={name}={value}" for name, value in told["Labels"].items()]
    entry = told.get("Entrypoint") or []
    words += ["--entrypoint", entry[0]] if entry else []
    return shlex.join([*words, told["Image"], *entry[1:], *told["Cmd"]])


def _gpus(host: Mapping[str, Any]) -> str:
    for request in host.get("DeviceRequests", ()):
        ids = request.get("DeviceIDs")
        return f"--gpus=device={','.join(ids)}" if ids else "--gpus=all"
    return ""
