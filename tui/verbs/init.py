"""`tierdeck init`: writes a first cluster.toml by looking at this machine; nothing is loaded, started or changed."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backends.errors import TierdeckError
from tui.arguments import USAGE

if TYPE_CHECKING:
    from backends.discovery.clusters import FoundCluster
    from backends.discovery.hosts import SshHost
    from backends.discovery.look import Found, Machine

SSH_CONFIG: Final = "~/.ssh/config"
TRIES: Final = 3
"""How often an answer that is none is asked for again."""


def run(arguments: argparse.Namespace) -> int:
    """Look, ask which hosts belong to the cluster, and write; exit 1 where a file stands there already."""
    from backends.discovery.look import this_machine

    return first(arguments, this_machine(), Path(SSH_CONFIG).expanduser(), _ask if sys.stdin.isatty() else None)


def first(
    arguments: argparse.Namespace,
    machine: AbstractAsyncContextManager[Machine],
    ssh_config: Path,
    ask: Callable[[str], str] | None,
) -> int:
    """`run` with the machine, the file of hosts and the way to ask a person passed in; `ask` is None without one."""
    from backends.discovery.draft import as_json, draft
    from backends.discovery.hosts import read_hosts

    hosts = read_hosts(ssh_config)
    picked, wrong = _named(arguments.host, hosts)
    if wrong is not None:
        _say(f"tierdeck: {ssh_config} has no host {wrong!r}.{_nearest(wrong, hosts)}")
        return USAGE
    if getattr(arguments, "json", False):
        found, cluster = asyncio.run(_look(machine, arguments))
        print(json.dumps(as_json(found, hosts, picked, cluster), ensure_ascii=False))
        return 0
    target = _target(arguments)
    if target is not None and os.path.lexists(target):
        raise _taken(target)
    _say("Looking at this machine; nothing is loaded, started or changed.")
    found, cluster = asyncio.run(_look(machine, arguments))
    _tell(found, cluster)
    if ask is not None and not arguments.yes and not picked:
        picked = _pick(hosts, ask)
    text = draft(found, picked, cluster)
    _check(text, target)
    if target is None:
        print(text, end="")
    else:
        _write(target, text)
        _say(f"Wrote {target}. Look it through, then: tierdeck doctor")
    return 0


async def _look(
    machine: AbstractAsyncContextManager[Machine], arguments: argparse.Namespace
) -> tuple[Found, FoundCluster | None]:
    """What this machine tells, and the Kubernetes cluster that was asked for."""
    from backends.discovery.look import look
    from backends.engines.http import Http

    async with machine as here, Http() as http:
        found = await look(here, http)
        if arguments.kubernetes is None:
            return found, None
        from backends.discovery.clusters import look_into, opened

        async with opened(arguments.kubernetes, arguments.namespace) as clusters:
            return found, await look_into(clusters, http, arguments.kubernetes, arguments.namespace)


def _target(arguments: argparse.Namespace) -> Path | None:
    """The file to write; None is standard output."""
    from tui.verbs.opening import cluster_path

    if arguments.output == "-":
        return None
    return Path(arguments.output).expanduser().absolute() if arguments.output else cluster_path(arguments)


def _named(names: Sequence[str], hosts: Sequence[SshHost]) -> tuple[list[SshHost], str | None]:
    """The hosts of those names, and the first name that is none."""
    known = {host.name: host for host in hosts}
    names = list(dict.fromkeys(names))
    return [known[name] for name in names if name in known], next((n for n in names if n not in known), None)


def _nearest(name: str, hosts: Sequence[SshHost]) -> str:
    names = [host.name for host in hosts]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else f" It names: {', '.join(names[:12]) or 'none'}."


def _tell(found: Found, cluster: FoundCluster | None) -> None:
    from backends.discovery.draft import described, gpu_words, service_words
    from backends.text import plain

    _say(f"  {found.name} at {found.address}: {gpu_words(found)}")
    for engine in found.engines:
        _say(f"  {engine.name}: {described(engine)}")
    for service in cluster.services if cluster else ():
        _say(f"  {service.name}: {service_words(service)}")
    if not found.engines and not (cluster and cluster.services):
        _say("  no engine found: the file has an example to fill in")
    for remark in (*found.remarks, *(cluster.remarks if cluster else ())):
        _say(f"  note: {plain(remark, 400)}")


def _pick(hosts: Sequence[SshHost], ask: Callable[[str], str]) -> list[SshHost]:
    """The hosts that the person picks, by number or name."""
    if not hosts:
        return []
    _say(f"Hosts of {SSH_CONFIG}:")
    for number, host in enumerate(hosts, 1):
        user = f"{host.user}@" if host.user else ""
        _say(f"  {number:>3}  {host.name}  ({user}{host.address})")
    known = {str(number): host for number, host in enumerate(hosts, 1)} | {host.name: host for host in hosts}
    for _ in range(TRIES):
        words = ask("Which belong to the cluster? Numbers (1 3), all, or Enter for none: ").replace(",", " ").split()
        if words == ["all"]:
            return list(hosts)
        if all(word in known for word in words):
            return list(dict.fromkeys(known[word] for word in words))
        _say(f"There is no {next(word for word in words if word not in known)!r} here.")
    _say("None was taken; add them to the file, or use --host NAME.")
    return []


def _ask(question: str) -> str:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline()


def _check(text: str, target: Path | None) -> None:
    """Let the reader of cluster.toml have a look before anything is written."""
    from backends.cluster.files import parse

    parse(text, target or Path("cluster.toml"))


def _write(target: Path, text: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(target):
            raise _taken(target) from None
        raise TierdeckError(
            f"{target} cannot be written: {error.strerror or error}.", "Name another file with --output FILE."
        ) from None


def _taken(target: Path) -> TierdeckError:
    return TierdeckError(
        f"{target} exists already, and tierdeck never writes over it.",
        "See what is found now with: tierdeck init --output -, or name another file with --output FILE.",
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr)
