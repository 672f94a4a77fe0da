"""Finds out whether a deployment can be, and plans it: nothing is made, started or written for that."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from backends.cluster.deploying import Spec
from backends.cluster.files import FOLDER, Loaded, load
from backends.cluster.fold import fitted
from backends.cluster.inventory import Inventory
from backends.cluster.presets import bind_of, gpus_of, refuse_apple
from backends.cluster.reading import ModelInfo
from backends.cluster.snapshot import ClusterSnapshot
from backends.cluster.tables import Node
from backends.declaring import declarable
from backends.errors import Inadvisable, ProcedureError, ReachError, TierdeckError
from backends.gateway.compare import compare
from backends.gateway.render import render
from backends.library import Found
from backends.memory.advice import Gpu
from backends.memory.load import Load, llama_load, vllm_load
from backends.memory.settings import Settings
from backends.procedures.copying import SPARE
from backends.procedures.declaring import plan_declared
from backends.procedures.deploy import Site, fragment_name, fragments, plan_deploy, with_gateway
from backends.procedures.gateway import digest
from backends.procedures.plan import Plan
from backends.procedures.pushing import groups_of, plan_push
from backends.reach.docker_store import DockerStore
from backends.reach.knock import knock
from backends.reach.kubernetes.runtime import KubernetesRuntime
from backends.reach.model_files import ModelFile, ModelFiles
from backends.reach.runtime import Runtime, Shell
from backends.reach.whole_file import WholeFile

DESKTOP: Final = "Docker Desktop"
"""How Docker's virtual machine of Windows and macOS calls its operating system."""

_GIB: Final = 1 << 30
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the outside: a node's Docker, shell, cluster, a model's files and header, the gateway's file."""

    runtime: Callable[[str], Awaitable[Runtime]]
    shell: Callable[[str], Shell]
    files: Callable[[str, str | None], AbstractAsyncContextManager[ModelFiles]]
    find: Callable[[str], Awaitable[Found]]
    gateway: Callable[[], Awaitable[WholeFile]]
    declares: Callable[[str], KubernetesRuntime]


@dataclass(slots=True)
class _Report:
    """What was seen, and what a person should know before a yes."""

    why: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    force: bool = False

    def refuse(self, message: str, cure: str, consequence: str) -> None:
        """Refuse, or where it is forced say what will happen."""
        if not self.force:
            raise Inadvisable(message, cure, consequence)
        self.warnings.append(f"{message} Forced: {consequence}")


async def prepare(
    spec: Spec,
    loaded: Loaded,
    snapshot: ClusterSnapshot,
    asked: Asked,
    *,
    force: bool = False,
    on_failure: Literal["hold", "rollback"] = "hold",
) -> Plan:
    """The plan of a deployment; ProcedureError, with the figures, where it cannot be or would not fit."""
    inventory, told = loaded.inventory, _Report(force=force)
    node = _node(spec, inventory)
    refuse_apple(spec, node)
    site = _files(spec, loaded, told)
    found = await (_declared if node.declares else _contained)(spec, inventory, snapshot, asked, site, told)
    push = await _push(spec, loaded, snapshot, asked, told) if spec.gateway else None
    plan = found(why=told.why, warnings=told.warnings, on_failure=on_failure)
    return with_gateway(plan, push) if push else plan


async def _contained(
    spec: Spec, inventory: Inventory, snapshot: ClusterSnapshot, asked: Asked, site: Site, told: _Report
) -> Callable[..., Plan]:
    """What plans a container of Docker, after a look at its node."""
    node, store = inventory.node_named[spec.node], DockerStore(await asked.runtime(spec.node))
    site = await _docker(site, spec, node, snapshot, store, told)
    await _port(spec, node, inventory, snapshot, told)
    listed = await _model(spec, asked, told)
    site = replace(site, size=sum(file.size for file in listed))
    await _disk(spec, node, store, asked, site.size, told)
    await _memory(spec, node, snapshot, asked, listed, told)
    _guarded(spec, told)
    return partial(plan_deploy, spec, inventory, site)


async def _declared(
    spec: Spec, inventory: Inventory, snapshot: ClusterSnapshot, asked: Asked, site: Site, told: _Report
) -> Callable[..., Plan]:
    """What plans a deployment that is declared, after a look at its cluster."""
    listed = await _listed(spec, asked, told)
    site = replace(site, size=sum(file.size for file in listed))
    parts = await declarable(spec, inventory, site, asked.declares(spec.node), told)
    await _memory(spec, inventory.node_named[spec.node], snapshot, asked, listed, told)
    _dated(spec, told)
    return partial(plan_declared, spec, inventory, site, parts)


def _node(spec: Spec, inventory: Inventory) -> Node:
    node = inventory.node_named.get(spec.node)
    if node is None:
        near = difflib.get_close_matches(spec.node, inventory.node_named, n=1, cutoff=0.5)
        known = f'Did you mean "{near[0]}"?' if near else f"Known: {', '.join(inventory.node_named) or 'none'}."
        raise ProcedureError(f'There is no node "{spec.node}".', known)
    if spec.endpoint in inventory.endpoint_named:
        raise ProcedureError(
            f"The inventory has an endpoint {spec.endpoint} already.",
            f"Choose another name; what was deployed is taken back with: tierdeck procedures rollback ID, or remove "
            f"{FOLDER}/{fragment_name(spec)}.",
        )
    return node


def _files(spec: Spec, loaded: Loaded, told: _Report) -> Site:
    """The file of cluster.d as it is; the whole cluster is read once as it will be."""
    folder = loaded.path.absolute().parent / FOLDER
    path = folder / fragment_name(spec)
    before = path.read_text(encoding="utf-8") if path.exists() else None
    for _, text in fragments(spec, loaded.inventory)[:-1]:
        load(loaded.path, with_files={path.name: text})
    _coming(spec, loaded)
    return Site(str(loaded.path.absolute()), secrets.token_hex(8), before, alone=not folder.exists())


def _coming(spec: Spec, loaded: Loaded) -> Inventory:
    """The inventory as it will be; InventoryError where the deployment does not fit into it."""
    _, text = fragments(spec, loaded.inventory)[-1]
    return load(loaded.path, with_files={fragment_name(spec): text}).inventory


async def _docker(
    site: Site, spec: Spec, node: Node, snapshot: ClusterSnapshot, store: DockerStore, told: _Report
) -> Site:
    """The site, with whether image, GPUs and volume are there; what is in the way is refused."""
    taken = await store.container(spec.name)
    if taken is not None:
        image, state = taken["Config"]["Image"], taken["State"]["Status"]
        raise ProcedureError(
            f"{spec.node} has a container {spec.name} already ({image}, {state}).",
            f"Choose another name, or remove it: docker rm -f {spec.name}",
        )
    image = await store.image(spec.image) is not None
    told.why.append(f"image {spec.image}: {'there' if image else 'not there, to be fetched'}")
    if spec.helper and await store.image(spec.helper) is None:
        raise ProcedureError(f"{spec.node} has no image {spec.helper}, named as helper.", f"docker pull {spec.helper}")
    volume = await store.volume(spec.volume_name) is not None
    if volume:
        names = [
            (await store.container(id) or {}).get("Name", id)[1:] for id, _ in await store.holders(spec.volume_name)
        ]
        used = f", used by {', '.join(names)}" if names else ""
        told.why.append(f"volume {spec.volume_name}: there{used}")
        told.warnings.append(f"The volume {spec.volume_name} is there already{used}: what is in it stays.")
    workloads = snapshot.nodes[spec.node].workloads
    gpus = any(w.gpu and w.running for w in workloads)
    if gpus_of(spec, node) != "none":
        info = await store.info()
        known = "nvidia" in (info.get("Runtimes") or {})
        seen = "a GPU container runs there" if gpus else "nvidia runtime" if known else "to be tried"
        told.why.append(f"GPUs in containers: {seen}")
    return replace(site, image=image, volume=volume, gpus=gpus)


async def _port(spec: Spec, node: Node, inventory: Inventory, snapshot: ClusterSnapshot, told: _Report) -> None:
    """Whether the port is free, and else who holds it."""
    for workload in snapshot.nodes[spec.node].workloads:
        if spec.port in workload.ports and workload.running:
            raise ProcedureError(
                f"Port {spec.port} of {spec.node} is held by the container {workload.name}.", "Choose another port."
            )
        if spec.port in workload.ports:
            told.warnings.append(f"{workload.name}, stopped now, publishes port {spec.port} too: one of both can run.")
    for endpoint in inventory.endpoints:
        if endpoint.node == spec.node and urlsplit(endpoint.url).port == spec.port:
            told.refuse(
                f"Port {spec.port} of {spec.node} belongs to the endpoint {endpoint.name}.",
                "Choose another port.",
                "only one of both can run.",
            )
    if (await knock(node.address, spec.port)).kind == "open":
        raise ProcedureError(
            f"Something unknown listens at {node.address}:{spec.port} already.",
            f"See what it is, on {spec.node}: ss -ltnp | grep {spec.port}; or choose another port.",
        )
    told.why.append(f"port {spec.port}: free")


async def _model(spec: Spec, asked: Asked, told: _Report) -> Sequence[ModelFile]:
    if spec.model is None:
        return ()
    async with asked.files(spec.model, spec.token) as files:
        listed = await files.files()
    size = sum(file.size for file in listed)
    many = f"{len(listed)} files, " if len(listed) > 1 else ""
    told.why.append(f"model {spec.model}: {many}{size / 1e9:.2f} GB")
    if spec.sha256 and len(listed) > 1:
        raise ProcedureError(f"sha256 is that of one file, and {spec.model} has {len(listed)}.", "Leave it out.")
    if spec.model.startswith(("http:", "https:")) and not spec.sha256:
        told.warnings.append("No sha256 is given, and an address tells none: the copy is compared with nothing.")
    return listed


async def _listed(spec: Spec, asked: Asked, told: _Report) -> Sequence[ModelFile]:
    """The files of a model that is fetched by others than us: they may reach what we cannot."""
    try:
        return await _model(spec, asked, told)
    except ReachError as error:
        told.warnings.append(f"How large its model is is not known from here: {error.message}")
        return ()


async def _disk(spec: Spec, node: Node, store: DockerStore, asked: Asked, size: int, told: _Report) -> None:
    """Whether the model fits onto the node's disk, as far as its shell can be asked; the copy itself asks again."""
    root = (await store.info()).get("DockerRootDir")
    if node.os != "linux" or not size or not isinstance(root, str):
        return
    try:
        done = await asked.shell(spec.node).run(["df", "-Pk", root], timeout=15.0)
        fields = done.stdout.splitlines()[-1].split() if done.status == 0 and done.stdout else []
    except (ReachError, TimeoutError):
        return
    if len(fields) < 4 or not fields[3].isdecimal():
        return
    free = int(fields[3]) * 1024
    told.why.append(f"disk of {root}: {free / 1e9:.1f} GB free")
    if free < size + SPARE:
        raise ProcedureError(
            f"The model has {size / 1e9:.2f} GB, and {spec.node} has {free / 1e9:.2f} GB free at {root}.",
            "Free disk space: docker system df",
        )


async def _memory(
    spec: Spec, node: Node, snapshot: ClusterSnapshot, asked: Asked, listed: Sequence[ModelFile], told: _Report
) -> None:
    """Whether it fits onto the GPUs it gets, beside what they hold now."""
    if gpus_of(spec, node) == "none" or spec.model is None:
        return
    gpus = _free(spec, node, snapshot)
    if not gpus:
        told.warnings.append(f"The GPU memory of {spec.node} is not known, so whether it fits is not either.")
        return
    try:
        found = await asked.find(_header(spec, listed))
        load = _load(spec, found, gpus)
    except TierdeckError as error:
        told.warnings.append(f"How much GPU memory it takes is not known: {error.message}")
        return
    figures = "; ".join(
        f"{gpu.name} needs {load.needs.get(gpu.name, 0) / _GIB:.1f} of {gpu.capacity / _GIB:.1f} GiB free"
        for gpu in gpus
    )
    told.why.append(f"GPU memory: {figures}")
    if load.fits is False:
        told.refuse(
            f"It does not fit: {figures}.",
            " ".join(load.advice),
            "it will run out of memory as it starts, or push others out; then the plan offers to take all back.",
        )


def _load(spec: Spec, found: Found, gpus: Sequence[Gpu]) -> Load:
    settings = Settings(context=spec.context or 0, parallel=spec.parallel, gpu_layers=spec.gpu_layers)
    if found.safetensors:
        return vllm_load(spec.name, found.header, settings, gpus)
    split = tuple(float(gpu.capacity) for gpu in gpus) if len(gpus) > 1 else ()
    return llama_load(spec.name, found.header, replace(settings, split=split), gpus)


def _header(spec: Spec, listed: Sequence[ModelFile]) -> str:
    """Where the header of the model is read: the file itself, or a folder's first file of weights."""
    model = spec.model or ""
    if model.startswith("hf:"):
        raise ReachError("the header of a repository is not read before it is copied.")
    weights = next((file.name for file in listed if file.name.endswith((".safetensors", ".gguf"))), "")
    return f"{model.rstrip('/')}/{weights}" if weights else str(Path(model).expanduser()) if ":" not in model else model


def _free(spec: Spec, node: Node, snapshot: ClusterSnapshot) -> list[Gpu]:
    """The GPUs it gets, with what is free on each now; by the inventory's figures where the driver gives none."""
    chosen = gpus_of(spec, node)
    read = [
        (gpu.index, gpu.memory_total_mib - gpu.memory_used_mib)
        for gpu in snapshot.nodes[spec.node].gpus
        if gpu.memory_total_mib and gpu.memory_used_mib is not None
    ]
    free = read or list(enumerate(node.vram))
    return [
        Gpu(f"GPU{index}", int(mib * _MIB)) for index, mib in free if not isinstance(chosen, tuple) or index in chosen
    ]


def _guarded(spec: Spec, told: _Report) -> None:
    """What a person should know of the way to it."""
    if bind_of(spec) in ("0.0.0.0", "::") and not spec.api_key:
        told.warnings.append(f"Whoever reaches port {spec.port} can use it: no api_key, and bound to all addresses.")
    if not spec.api_key and spec.bind is None:
        told.warnings.append("Without an api_key it listens on loopback only; say api_key, or bind = an address.")
    _dated(spec, told)


def _dated(spec: Spec, told: _Report) -> None:
    if "@" not in spec.image and spec.image.rpartition(":")[2] in ("latest", spec.image):
        told.warnings.append(f"The image {spec.image} names no version: tomorrow it may be another.")


async def _push(spec: Spec, loaded: Loaded, snapshot: ClusterSnapshot, asked: Asked, told: _Report) -> Plan | None:
    """The push of what will have to be rendered then; None where the gateway's file says it already.

    ProcedureError where the gateway would not serve the new endpoint.
    """
    inventory = _coming(spec, loaded)
    seen = fitted(snapshot, loaded.inventory, inventory)
    new = replace(seen.endpoints[spec.endpoint], models=(ModelInfo(spec.pull or spec.name),))
    seen = replace(seen, endpoints={**seen.endpoints, spec.endpoint: new})
    rendered = render(inventory, {name: state.models for name, state in seen.endpoints.items()})
    if not any(spec.endpoint in behind.endpoints for behind in groups_of(inventory, rendered.text).values()):
        why = next((remark for remark in rendered.remarks if remark.startswith(f"{spec.endpoint} ")), "")
        raise ProcedureError(
            f"The gateway would not serve it: {why or 'it is in no group.'}",
            "Give it an api_key, or an address that the gateway can reach (bind); or leave the gateway out.",
        )
    file = await asked.gateway()
    former = await file.read()
    if former == rendered.text.encode():
        told.why.append("gateway: its file says so already")
        return None
    changes = compare((former or b"").decode("utf-8", "replace"), rendered.text)
    told.why += [f"gateway: {change}" for change in changes]
    kept = digest(await file.kept())
    return plan_push(inventory, seen, rendered.text, former, rendered.remarks, name="what is rendered", kept=kept)
