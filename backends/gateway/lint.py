"""Checks a person's own LiteLLM configuration against LiteLLM's ways and against the cluster; `--fix` mends it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from ruamel.yaml.nodes import Node, ScalarNode

from backends.cluster.inventory import Inventory
from backends.cluster.outside import address
from backends.cluster.reading import ModelInfo
from backends.cluster.tables import Endpoint
from backends.errors import GatewayError
from backends.gateway.document import Document, Entry, data, edited, line, read, said, scalars
from backends.gateway.findings import Finding
from backends.gateway.limits import limits
from backends.gateway.providers import OLLAMA, OPENAI_LIKE, PROVIDERS
from backends.gateway.render import PREFIX, embeds, label_of
from backends.text import plain

SECRET: Final = re.compile(r"(?:api_?key|master_key|salt_key|password|secret|access_token|webhook_url)$", re.IGNORECASE)
"""Keys whose values are secrets."""

_SUSPECT: Final = re.compile(r"key|passw|secret|token|://[^/@]*@", re.IGNORECASE)
_HARMLESS: Final = re.compile(
    r"|none|null|na|n/a|empty|ollama|lm-?studio|anything|(?:fake|dummy|not?-|sk-no-|sk-x+$).*", re.IGNORECASE
)
_IN_ADDRESS: Final = re.compile(r"://[^/:@\s]*:([^/@\s]+)@")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def lint(
    text: str, inventory: Inventory, served: Mapping[str, Sequence[ModelInfo]], *, name: str = "config.yaml"
) -> tuple[Finding, ...]:
    """All that is wrong with a configuration, in the order of its lines; GatewayError where it cannot be read.

    `served` are the models that each endpoint names, where it answers; of what does not answer nothing is said.
    """
    document = read(text, name)
    data(text, name)
    findings = [*_nothing(document), *_duplicates(document), *_secrets(document), *limits(document)]
    for entry in document.entries:
        findings += _entry(document, entry, inventory, served)
    return tuple(sorted(findings, key=lambda f: (f.line, f.rule)))


def mended(text: str, findings: Iterable[Finding], name: str) -> str:
    """The text with everything mended that can be; comments, order and all other bytes stay; it can still be read."""
    fixed = edited(text, (edit for finding in findings for edit in finding.edits))
    data(fixed, name)
    return fixed


def masked(text: str) -> str:
    """A configuration as it may be shown: its plaintext secrets as ***; of a file that is no YAML, whole lines."""
    try:
        root = read(text, "the configuration").root
    except GatewayError:
        return "\n".join("***" if _SUSPECT.search(row) else row for row in text.split("\n"))
    hidden = {secret for key, node in scalars(root) if (secret := _secret(key, node))}
    for secret in sorted(hidden, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secret(key: str, node: ScalarNode) -> str:
    """The plaintext secret that a value is, or has in it; "" where there is none."""
    value = said(node)
    if value.startswith("os.environ/"):
        return ""
    if SECRET.search(key) and not _HARMLESS.fullmatch(value):
        return value
    found = _IN_ADDRESS.search(value)
    return found[1] if found else ""


def _nothing(document: Document) -> Iterator[Finding]:
    if not document.entries and not document.table("general_settings").get("store_model_in_db"):
        yield Finding(
            "no-models", "error", line(document.tables.get("model_list")), "It names no models.",
            "The gateway starts, and answers every prompt with an error.", "tierdeck gateway render writes the list.",
        )  # fmt: skip


def _secrets(document: Document) -> Iterator[Finding]:
    for key, node in scalars(document.root):
        if _secret(key, node):
            yield Finding(
                "plaintext-key", "error", line(node), f"{key} stands here in plain text.",
                "Whoever reads the file, a backup or its history has it.",
                f"Put it into the gateway's environment and write {key}: os.environ/NAME; then change the key.",
            )  # fmt: skip
    if "master_key" not in document.table("general_settings") and "include" not in document.tables:
        yield Finding(
            "no-master-key", "warning", line(document.tables.get("general_settings")),
            "general_settings names no master_key.",
            "Without one, here or as LITELLM_MASTER_KEY, everybody may use every model, and change the gateway.",
            "master_key: os.environ/LITELLM_MASTER_KEY",
        )  # fmt: skip


def _duplicates(document: Document) -> Iterator[Finding]:
    seen: dict[tuple[str, str, str], int] = {}
    for entry in document.entries:
        same = (entry.group, said(entry.params.get("model")), said(entry.params.get("api_base")).rstrip("/"))
        first = seen.setdefault(same, entry.line)
        if first != entry.line:
            yield Finding(
                "duplicate", "warning", entry.line, f"{entry.group} is the same deployment as on line {first}.",
                "It gets twice the share of the requests, and a retry asks again what just failed.",
                "Remove one of the two.",
            )  # fmt: skip


def _entry(
    document: Document, entry: Entry, inventory: Inventory, served: Mapping[str, Sequence[ModelInfo]]
) -> Iterator[Finding]:
    model = entry.params.get("model")
    if entry.name is None or not isinstance(model, ScalarNode):
        yield Finding(
            "incomplete", "error", entry.line, "A model without model_name or litellm_params.model.",
            "LiteLLM does not start with it, or leaves it out.", "Name both.",
        )  # fmt: skip
        return
    base = entry.params.get("api_base")
    if not isinstance(base, ScalarNode) or said(base).startswith("os.environ/"):
        return
    endpoint = endpoint_at(inventory, said(base))
    yield from _prefix(document, entry, model, base, endpoint)
    yield from _base(document, entry, model, base, endpoint)
    yield from _served(inventory, entry, model, base, endpoint, served)


def provider_of(entry: Entry) -> str:
    """The provider that LiteLLM asks a deployment by; "" where it can tell none."""
    told = said(entry.params.get("custom_llm_provider"))
    before, stroke, _ = said(entry.params.get("model")).partition("/")
    return told or (before if stroke and before in PROVIDERS else "")


def endpoint_at(inventory: Inventory, base: str) -> Endpoint | None:
    """The endpoint of the cluster that an api_base leads to, as the gateway sees it."""
    parts = urlsplit(base if "://" in base else f"http://{base}")
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    gateway = inventory.gateway_endpoint
    for endpoint in inventory.endpoints:
        there = urlsplit(address(inventory, endpoint))
        node = inventory.node_named.get(endpoint.node or "")
        hosts = {there.hostname, urlsplit(endpoint.url).hostname, node.address if node else None, endpoint.node}
        beside = gateway is None or gateway.node == endpoint.node
        if port == there.port and (host in hosts or (host in _LOOPBACK and beside)) and endpoint.engine != "litellm":
            return endpoint
    return None


def _wanted(said_base: str, endpoint: Endpoint | None) -> str:
    """The provider that fits what stands behind an api_base."""
    if endpoint is not None and endpoint.engine in PREFIX:
        return PREFIX[endpoint.engine]
    return "ollama_chat" if ":11434" in said_base else "openai"


def _prefix(
    document: Document, entry: Entry, model: ScalarNode, base: ScalarNode, endpoint: Endpoint | None
) -> Iterator[Finding]:
    provider, name = provider_of(entry), said(model)
    wanted = _wanted(said(base), endpoint)
    if wanted == "ollama_chat" and embeds(name):
        wanted = "ollama"
    if not provider:
        yield Finding(
            "no-prefix", "error", line(model), f"{entry.group}: model {plain(name)} names no provider.",
            "LiteLLM does not know how to ask it, and answers every prompt with an error.",
            f"model: {wanted}/{plain(name)}", document.replaced(model, f"{wanted}/{name}"),
        )  # fmt: skip
    elif provider in OLLAMA and endpoint is not None and endpoint.engine not in ("ollama", "http"):
        rest = name.partition("/")[2]
        edits = document.replaced(model, f"{wanted}/{rest}") if name.startswith(f"{provider}/") else ()
        yield Finding(
            "wrong-prefix", "error", line(model),
            f"{entry.group}: {provider}/ for {endpoint.name}, which is {endpoint.engine}.",
            "Only Ollama has the routes that LiteLLM asks then; the answers are 404.",
            f"model: {wanted}/{plain(rest)}", edits,
        )  # fmt: skip


def _base(
    document: Document, entry: Entry, model: ScalarNode, base: ScalarNode, endpoint: Endpoint | None
) -> Iterator[Finding]:
    value = said(base)
    provider = provider_of(entry) or _wanted(value, endpoint)
    if endpoint is not None and endpoint.engine not in ("ollama", "http") and provider in OLLAMA:
        provider = PREFIX[endpoint.engine]
    whole = value if "://" in value else f"http://{value}"
    parts = urlsplit(whole)
    path = parts.path.rstrip("/")
    if provider in OPENAI_LIKE:
        cut = re.sub(r"/(?:chat/)?completions$|/embeddings$", "", path)
        own = endpoint is not None and endpoint.engine != "http"
        path = f"{cut.removesuffix('/api')}/v1" if not cut or (own and not cut.endswith("/v1")) else cut
        why = f"LiteLLM asks {provider}/ at api_base + /chat/completions; without /v1 the answer is 404."
    elif provider in OLLAMA:
        path, why = "", "LiteLLM adds /api/chat for Ollama itself; with a path before it the answer is 404."
    else:
        return
    right = parts._replace(path=path).geturl()
    if "://" not in value or right.rstrip("/") != value.rstrip("/"):
        why = why if "://" in value else "Without http:// it is no address to LiteLLM."
        yield Finding(
            "api-base", "error", line(base), f"{entry.group}: api_base {plain(value)} is not where {provider}/ asks.",
            why, f"api_base: {plain(right)}", document.replaced(base, right),
        )  # fmt: skip


def _served(
    inventory: Inventory,
    entry: Entry,
    model: ScalarNode,
    base: Node,
    endpoint: Endpoint | None,
    served: Mapping[str, Sequence[ModelInfo]],
) -> Iterator[Finding]:
    if endpoint is None:
        if _ours(inventory, said(base)):
            yield Finding(
                "no-endpoint", "warning", line(base),
                f"{entry.group}: no endpoint of {inventory.name} is at {plain(said(base))}.",
                "It was moved or stopped, or nobody watches it: its requests fail, or are not seen.",
                "Correct the address, remove the model, or add the endpoint to cluster.toml.",
            )  # fmt: skip
        return
    names = [info.name for info in served.get(endpoint.name, ())]
    provider = provider_of(entry)
    asked = said(model).removeprefix(f"{provider}/")
    if not names or endpoint.engine == "http" or (endpoint.engine == "llama.cpp" and len(names) == 1):
        return
    known = {form for each in names for form in (each, label_of(each), each.removesuffix(":latest"))}
    if asked not in known and asked.removesuffix(":latest") not in known:
        near = get_close_matches(asked, sorted(known), n=1, cutoff=0.5)
        yield Finding(
            "not-served", "error", line(model), f"{entry.group}: {endpoint.name} does not serve {plain(asked)}.",
            "Every request for it fails, and is retried, before a fallback is tried.",
            f'Did you mean "{near[0]}"?' if near else f"It serves {', '.join(sorted(names)[:8])}.",
        )  # fmt: skip


def _ours(inventory: Inventory, base: str) -> bool:
    """Whether an address is of this network: a private one, or a node's."""
    host = urlsplit(base if "://" in base else f"http://{base}").hostname or ""
    if any(host in (node.address, node.name) for node in inventory.nodes) or host in _LOOPBACK:
        return True
    try:
        return ip_address(host).is_private
    except ValueError:
        return False
