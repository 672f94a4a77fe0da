"""A deployment as Kubernetes has it, from the same rules by which Docker's container is made: one pod, its parts named.

Fields after the Kubernetes API reference (core/v1, apps/v1, batch/v1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from backends.cluster.deploying import Spec
from backends.cluster.engines import ENGINES
from backends.cluster.inventory import Inventory
from backends.cluster.presets import KEY_FILE, LONG_START_S, MODELS, PORTS, body, gpus_of
from backends.cluster.tables import Node
from backends.errors import ProcedureError

FETCHER: Final = "curlimages/curl:8.17.0"
"""The image that fetches a file from an address: curl and a shell."""

WRONG: Final = 65
"""The exit code for a wrong checksum: fetching it again does not help."""

_TELL: Final = """set -eu
target="$FOLDER/$FILE"
tell() { while sleep 2 > /dev/null 2>&1; do echo "progress $(du -sk "$1" 2> /dev/null | cut -f 1) KiB"; done; }
"""

FETCH: Final = f"""{_TELL}matches() {{ [ -z "$SHA256" ] || echo "$SHA256  $1" | sha256sum -c -; }}
if [ -e "$target" ] && matches "$target"; then echo "$FILE is there"; exit 0; fi
tell "$target.part" & trap "kill $!" EXIT
{{ [ -z "${{TOKEN:-}}" ] || printf 'header = "Authorization: Bearer %s"\\n' "$TOKEN"; }} |
  curl --config - --fail --location --retry 5 --continue-at - --silent --show-error --output "$target.part" "$URL"
if ! matches "$target.part"; then rm -f "$target.part"; echo "wrong checksum: $FILE" >&2; exit {WRONG}; fi
mv "$target.part" "$target"
"""
"""The script of the job that fetches a file: resumed where it broke off, and moved into place only once it is whole."""

FETCH_REPOSITORY: Final = f"""{_TELL}if [ -e "$target/.whole" ]; then echo "$FILE is there"; exit 0; fi
tell "$target" & trap "kill $!" EXIT
hf download "$REPOSITORY" --revision "$REVISION" --local-dir "$target"
touch "$target/.whole"
"""
"""The same for a repository of Hugging Face at a pinned revision, by the library's own command."""

AWAIT: Final = 'until [ -e "$FOLDER/$FILE" ]; do echo "waiting for $FILE"; sleep 5; done'
"""What the pod waits for before its engine starts."""

VLLM_MEMORY: Final = 8 << 10
"""MiB of RAM that a vLLM is given without LMCache; that takes its size for each worker (max_local_cpu_size)."""

PART_OF: Final = {"app.kubernetes.io/part-of": "tierdeck"}
"""The label by which models of ours know each other, to be spread over nodes."""

_PROBE_S: Final = 10


@dataclass(frozen=True, slots=True)
class Fetch:
    """How the model gets into the volume: an image with its script, variables, and the one that holds a token."""

    image: str
    script: str
    variables: Mapping[str, str]
    token: str


@dataclass(frozen=True, slots=True)
class Pod:
    """What all renderings share; `gpus` is a resource and its number, `host` the node it is bound to ("" for none)."""

    name: str
    image: str
    command: tuple[str, ...]
    arguments: tuple[str, ...]
    variables: Mapping[str, str]
    port: int
    health: str
    gpus: Mapping[str, int]
    host: str
    replicas: int
    file: str
    fetch: Fetch | None
    secret: str
    shared_memory: int
    claim: str
    """The claim on the volume that holds the model."""
    published: int
    """The port of its Service."""
    memory: int
    """The RAM it asks for, in MiB; 0 where that is not known."""

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its pods; the first alone selects them."""
        return {"app.kubernetes.io/name": self.name, **PART_OF}

    def probe(self, *, startup: bool = False) -> dict[str, Any]:
        """Its health call as a probe; a startup probe gives a large model the time it takes to load."""
        failures = math.ceil(LONG_START_S * 3 / _PROBE_S) if startup else 3
        get = {"path": self.health, "port": self.port}
        return {"httpGet": get, "periodSeconds": _PROBE_S, "timeoutSeconds": 5, "failureThreshold": failures}


def pod(spec: Spec, node: Node) -> Pod:
    """A deployment's pod; ProcedureError where a cluster cannot have it."""
    told = body(spec, node, spec.name)
    named = node.kubernetes.node or node.name if node.kubernetes else node.name
    name = _label(spec.name)
    return Pod(
        name=name,
        image=spec.image,
        command=tuple(told.get("Entrypoint", ())),
        arguments=tuple(told["Cmd"]),
        variables=dict(pair.split("=", 1) for pair in told["Env"]),
        port=PORTS[spec.preset],
        health=ENGINES[spec.preset].health,
        gpus=_gpus(spec, node),
        host="" if spec.on_demand else named,
        replicas=0 if spec.on_demand else 1,
        file=spec.file,
        fetch=_fetch(spec),
        secret=f"{name}-key" if spec.api_key else "",
        shared_memory=int(told["HostConfig"].get("ShmSize", 0)),
        claim=_label(spec.volume_name),
        published=spec.port,
        memory=_memory(spec, node),
    )


def _memory(spec: Spec, node: Node) -> int:
    """What vLLM takes beside what it keeps for each of its workers; other engines' is not known before they run."""
    if spec.preset != "vllm":
        return 0
    return VLLM_MEMORY + int((spec.offload or 0) * max(1, sum(_gpus(spec, node).values())))


def _label(name: str) -> str:
    """A name as Kubernetes takes it: small letters, digits and -."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")


def namespace_of(spec: Spec, inventory: Inventory) -> str:
    """The namespace a deployment goes to."""
    table = inventory.node_named[spec.node].kubernetes
    clusters = {each.name: each.namespaces for each in inventory.clusters}
    named = clusters.get(table.cluster, ()) if table else ()
    return spec.namespace or next(iter(named), "default")


def _gpus(spec: Spec, node: Node) -> dict[str, int]:
    chosen = gpus_of(spec, node)
    if chosen == "none":
        return {}
    count = len(chosen) if isinstance(chosen, tuple) else spec.tensor_parallel or 1
    return {"amd.com/gpu" if node.gpus == "amd" else "nvidia.com/gpu": count}


def _fetch(spec: Spec) -> Fetch | None:
    """How a cluster gets the model by itself; None where only a person can bring it."""
    model = spec.model or ""
    where = {"FOLDER": MODELS, "FILE": spec.file}
    if model.startswith("hf:"):
        if spec.preset != "vllm" and spec.helper is None:
            raise ProcedureError(
                f"{spec.name}: {model} is fetched by Hugging Face's own command, which the image of {spec.preset} "
                "does not have.",
                'Name an image that has `hf`: helper = "..."; or give the address of its file.',
            )
        repository, _, revision = model[3:].partition("@")
        variables = {**where, "REPOSITORY": repository, "REVISION": revision}
        return Fetch(spec.helper or spec.image, FETCH_REPOSITORY, variables, "HF_TOKEN")
    if model.startswith(("http://", "https://")):
        variables = {**where, "URL": model, "SHA256": spec.sha256 or ""}
        return Fetch(spec.helper or FETCHER, FETCH, variables, "TOKEN")
    return None


def refuse_words(namespace: str, storage: str) -> None:
    """ProcedureError for a namespace or a size that no cluster takes."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", namespace):
        raise ProcedureError(f'"{namespace}" is no namespace: small letters, digits and - are.')
    if not re.fullmatch(r"[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)", storage):
        raise ProcedureError(f'"{storage}" is no size of a volume: 100Gi is one.')


def advice(spec: Spec, made: Pod, namespace: str) -> list[str]:
    """What is left for a person to do, or to know."""
    found = []
    secret = f"kubectl -n {namespace} create secret generic"
    if made.secret:
        found.append(f"Make its key first: {secret} {made.secret} --from-file=api_key")
    if spec.token:
        found.append(f"And the token of its source: {secret} {made.name}-token --from-file=token")
    if made.fetch is None and spec.model:
        found.append(
            f"The cluster cannot fetch {spec.model}: copy it into the claim {made.claim} as {made.file} yourself "
            "(kubectl cp), its pod waits for it."
        )
    if made.fetch is not None and "URL" in made.fetch.variables and not spec.sha256:
        found.append("No checksum is known of that file: name its sha256 to have it verified.")
    if spec.pull:
        pull = f"kubectl -n {namespace} exec deploy/{made.name} -- ollama pull {spec.pull}"
        found.append(f"Have it pull its model once it runs: {pull}")
    if made.gpus and not isinstance(spec.gpus, tuple):
        name, count = next(iter(made.gpus.items()))
        found.append(f"It asks for {count} {name}; say gpus = [0, 1, ...] or tensor_parallel for more.")
    return found


def fetching(made: Pod, token: str) -> dict[str, Any]:
    """The container that fetches the model; `token` names the secret that holds the source's token ("" for none)."""
    assert made.fetch is not None
    secret = {"secretKeyRef": {"name": token, "key": "token"}}
    variables: list[dict[str, Any]] = [{"name": k, "value": v} for k, v in made.fetch.variables.items()]
    variables += [{"name": made.fetch.token, "valueFrom": secret}] if token else []
    return {"image": made.fetch.image, "command": ["/bin/sh", "-c", made.fetch.script], "env": variables}


def spread() -> dict[str, Any]:
    """An affinity by which models prefer nodes that have none of ours yet."""
    term = {"labelSelector": {"matchLabels": dict(PART_OF)}, "topologyKey": "kubernetes.io/hostname"}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


KEY_FOLDER: Final = KEY_FILE.rpartition("/")[0]
"""Where the secret with its key is mounted."""
