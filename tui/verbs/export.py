"""`tierdeck export`: what tierdeck writes for other programs, printed; nothing is changed anywhere."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Final

from backends.errors import ProcedureError, ReachError
from tui.verbs.opening import Opened, known_node, open_cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.exports.boot import Rendered

SCHEMA: Final = "tierdeck.boot-unit/1"
TEXT_SCHEMA: Final = "tierdeck.export/1"

_RENDERED: Final = ("kubernetes", "vllm-chart", "app-template", "llm-d")


def run(arguments: argparse.Namespace) -> int:
    """Print what is asked for; what to do with it goes to standard error."""
    if arguments.what == "boot-unit":
        return _boot_unit(arguments)
    opened = open_cluster(arguments)
    deployment = dict.fromkeys(_RENDERED, _deployment)
    made = {"watch-unit": _watch_unit, "compose": _compose, "caddy": _proxy, "traefik": _proxy, "open-webui": _webui}
    text, advice = (made | deployment).get(arguments.what, _monitor)(opened, arguments)
    if getattr(arguments, "json", False):
        print(json.dumps({"schema": TEXT_SCHEMA, "what": arguments.what, "text": text}, ensure_ascii=False))
    else:
        print(text, end="")
        print("\n".join(advice), file=sys.stderr)
    return 0


def _deployment(opened: Opened, arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """A deployment for Kubernetes, and what is left to do."""
    from pathlib import Path

    from backends.cluster.deploying import load_spec
    from backends.exports.charts import app_template, vllm_chart
    from backends.exports.manifests import manifests
    from backends.exports.pods import advice, pod, refuse_words
    from backends.exports.routed import llm_d, remarks

    spec = load_spec(Path(arguments.spec))
    node = opened.loaded.inventory.node_named.get(spec.node)
    if node is None:
        names = ", ".join(opened.loaded.inventory.node_named) or "none"
        raise ProcedureError(f'{arguments.spec}: there is no node "{spec.node}".', f"Known: {names}.")
    namespace, storage, of_class = arguments.namespace, arguments.storage, arguments.storage_class
    refuse_words(namespace, storage)
    left = [*remarks(spec, node), *advice(spec, pod(spec, node), namespace)]
    match arguments.what:
        case "kubernetes":
            left.append("Look first, then apply: kubectl diff -f -; kubectl apply --server-side -f -")
            return manifests(spec, node, namespace=namespace, storage=storage, storage_class=of_class), left
        case "vllm-chart":
            left.append(f"helm -n {namespace} upgrade --install NAME vllm/vllm-stack -f FILE")
            return vllm_chart(spec, node, storage=storage, storage_class=of_class), left
        case "llm-d":
            left.append(
                f"Its pool is chosen by labels: helm -n {namespace} upgrade --install NAME inferencepool -f FILE"
            )
            return llm_d(spec, node), left
        case _:
            left.append(f"helm -n {namespace} upgrade --install {spec.name} bjw-s/app-template -f FILE")
            return app_template(spec, node, storage=storage, storage_class=of_class), left


def _watch_unit(opened: Opened, arguments: argparse.Namespace) -> tuple[str, list[str]]:
    from getpass import getuser
    from pathlib import Path

    from backends.exports.watching import SECRETS, watch_unit

    program = arguments.program or str(Path(sys.executable).parent / "tierdeck")
    state = os.environ.get("TIERDECK_STATE", "")
    cluster = str(opened.loaded.path.absolute())
    text = watch_unit(program, cluster, getuser(), state=state, metrics=arguments.metrics or "")
    variables = [r.partition(":")[2] for r in opened.loaded.inventory.alerts.to if r.startswith("env:")]
    advice = [
        "Install it on this machine:",
        "  tierdeck export watch-unit | sudo tee /etc/systemd/system/tierdeck-watch.service >/dev/null",
        "  sudo systemctl enable --now tierdeck-watch",
    ]
    if variables:
        advice.append(f"Write {', '.join(f'{name}=...' for name in variables)} into {SECRETS} (mode 0600) first.")
    return text, advice


def _compose(opened: Opened, arguments: argparse.Namespace) -> tuple[str, list[str]]:
    from backends.exports.compose import compose
    from backends.world import survey

    known_node(opened, arguments.node)
    snapshot = asyncio.run(survey(opened.loaded, opened.here, opened.state_dir))
    state = snapshot.nodes[arguments.node]
    trouble = state.workloads_trouble or state.reach_trouble
    if trouble is not None:
        raise ReachError(trouble.message, trouble.advice)
    return compose(opened.loaded.inventory, snapshot, arguments.node)


def _proxy(opened: Opened, arguments: argparse.Namespace) -> tuple[str, list[str]]:
    from backends.exports.proxies import KEY, PRIVATE, caddy, engines, path_of, traefik

    inventory = opened.loaded.inventory
    allowed = _networks(arguments.allow) or PRIVATE
    open_ones = [e for e in engines(inventory) if e.api_key is None]
    advice = [f"{e.name}: {path_of(e)}/" for e in engines(inventory)]
    if open_ones:
        advice.append(
            f"Give the proxy a key in {KEY}; without one it lets nobody to {', '.join(e.name for e in open_ones)}."
        )
        advice.append("Let those engines listen where only the proxy reaches them.")
    if arguments.what == "caddy":
        return caddy(inventory, arguments.listen, allowed), [*advice, "Check it: caddy validate --adapter caddyfile"]
    return traefik(inventory, allowed), [*advice, "A file of Traefik's file provider."]


def _networks(words: Sequence[str]) -> list[str]:
    from ipaddress import ip_network

    try:
        return [str(ip_network(word, strict=False)) for word in words]
    except ValueError as error:
        raise ProcedureError(f"--allow: {error}.", "An address or a network, such as 10.0.10.0/24.") from None


def _webui(opened: Opened, arguments: argparse.Namespace) -> tuple[str, list[str]]:
    from backends.exports.webui import open_webui

    text = open_webui(opened.loaded.inventory)
    advice = ["Name the image, with its version: OPEN_WEBUI_IMAGE=... docker compose up -d"]
    advice += ["After its first start Open WebUI keeps these settings in its volume: change them in its own pages."]
    if text.count("${") > 1:
        advice.append("Compose reads the keys from the environment of who starts it, and starts nothing without them.")
    return text, advice


def _monitor(opened: Opened, arguments: argparse.Namespace) -> tuple[str, list[str]]:
    from backends.cluster.outside import key_variable, outward, reachable
    from backends.exports.grafana import grafana
    from backends.exports.monitors import KEYS, gatus, homepage, prometheus

    inventory = opened.loaded.inventory
    keyed = [e for e in reachable(inventory) if e.api_key is not None]
    hidden = [e.name for e in inventory.endpoints if e.via is not None]
    advice = [f"Left out, since only SSH leads there: {', '.join(hidden)}."] if hidden else []
    match arguments.what:
        case "prometheus":
            advice.append(f"It reads `tierdeck watch --metrics {arguments.watch}`; a part of prometheus.yml.")
            if keyed:
                advice.append(f"Write the keys of {', '.join(e.name for e in keyed)} into files under {KEYS}.")
            return prometheus(inventory, arguments.watch), advice
        case "gatus":
            unseen = [check.name for check in inventory.checks if outward(inventory, check) is None]
            if unseen:
                advice.append(f"Left out, since only tierdeck can look at them: {', '.join(unseen)}.")
            if keyed:
                advice.append(f"Give Gatus these variables: {', '.join(key_variable(e) or '' for e in keyed)}.")
            return gatus(inventory), advice
        case "homepage":
            return homepage(inventory, arguments.server), [*advice, "A part of Homepage's services.yaml."]
        case _:
            return grafana(inventory.name), ["Import it: Dashboards, New, Import; choose your Prometheus."]


def _boot_unit(arguments: argparse.Namespace) -> int:
    """Print a node's boot starter; how it is installed goes to standard error."""
    opened = open_cluster(arguments)
    names = opened.loaded.inventory.node_named
    if arguments.node not in names:
        raise ProcedureError(f'There is no node "{arguments.node}".', f"Known: {', '.join(names) or 'none'}.")
    rendered = asyncio.run(_rendered(opened, arguments.node, arguments.program or ""))
    if getattr(arguments, "json", False):
        found = {
            "schema": SCHEMA,
            "node": arguments.node,
            "os": names[arguments.node].os,
            "file": rendered.file,
            "text": rendered.text,
            "install": list(rendered.install),
            "remark": rendered.remark,
        }
        print(json.dumps(found, ensure_ascii=False))
        return 0
    print(rendered.text, end="")
    print("\n".join(["Install it on that machine:", *(f"  {line}" for line in rendered.install)]), file=sys.stderr)
    print(rendered.remark, file=sys.stderr)
    return 0


async def _rendered(opened: Opened, node: str, program: str) -> Rendered:
    from backends.exports.boot import render
    from backends.procedures.boot import starter_for
    from backends.procedures.boot_machine import look
    from tui.verbs.boot import cluster_of, program_of, reached

    inventory = opened.loaded.inventory
    async with reached(opened) as outside:
        machine = await look(
            outside.shell(node),
            inventory.node_named[node],
            program=program or program_of(opened, node),
            cluster=cluster_of(opened, node),
        )
    return render(starter_for(inventory, node, machine))
