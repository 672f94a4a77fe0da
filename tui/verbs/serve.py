"""`tierdeck serve`: the same console in a browser; loopback by default, with a token for everybody else."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import secrets
import signal
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from backends.errors import ReachError, TierdeckError
from tui.verbs.opening import cluster_path, open_cluster

if TYPE_CHECKING:
    from pydantic import SecretStr

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to end."""
    if find_spec("textual_serve") is None:
        raise TierdeckError("The browser console needs textual-serve.", "Install it: pip install 'tierdeck[serve]'")
    if not arguments.demo:
        open_cluster(arguments)  # what is wrong with it is said here, not in a browser
    return asyncio.run(_serve(arguments))


async def _serve(arguments: argparse.Namespace) -> int:
    from tui.serving import Browsers, Door

    public = _public(arguments.public_url)
    token = await _token(arguments, public)
    names = frozenset() if not is_loopback(arguments.host) and public is None else LOOPBACK | {public or "localhost"}
    browsers = Browsers(_argv(arguments), Door(names, token), title="tierdeck")
    try:
        runner, port = await browsers.listen(arguments.host, arguments.port)
    except OSError as error:
        raise ReachError(
            f"{arguments.host}:{arguments.port} cannot be listened on: {os.strerror(error.errno or 0)}.",
            "Choose another with --port; 0 takes any that is free.",
        ) from None
    try:
        print(f"tierdeck: {_address(arguments, port, token)} (Ctrl+C ends it)", file=sys.stderr, flush=True)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, ended.set)
        await ended.wait()
    finally:
        await runner.cleanup()
    return 0


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _token(arguments: argparse.Namespace, public: str | None) -> SecretStr | None:
    """What visitors must know: the referenced secret, or a new one wherever others than this machine reach us."""
    from pydantic import SecretStr

    from backends.secrets import Secrets
    from tui.serving import SHORTEST

    if arguments.token is None:
        return None if is_loopback(arguments.host) and public is None else SecretStr(secrets.token_urlsafe(24))
    token = await Secrets().resolve(arguments.token, polling=False)
    if len(token.get_secret_value()) < SHORTEST:
        raise TierdeckError(f"The token is shorter than {SHORTEST} characters.", "Anybody could guess it: take more.")
    os.environ.pop(arguments.token.partition(":")[2], None)  # the consoles that we start need not know it
    return token


def _public(url: str | None) -> str | None:
    if url is None:
        return None
    host = urlsplit(url).hostname
    if not host:
        raise TierdeckError(f'--public-url: "{url}" is no address.', "For example: https://deck.home.example")
    return host


def _address(arguments: argparse.Namespace, port: int, token: SecretStr | None) -> str:
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    address = (arguments.public_url or f"http://{host}:{port}").rstrip("/") + "/"
    if token is None:
        return f"the console is at {address}"
    if arguments.token is not None:
        return f"the console is at {address}?token=... (the token of {arguments.token})"
    return f"the console is at {address}?token={token.get_secret_value()}"


def _argv(arguments: argparse.Namespace) -> list[str]:
    words = [sys.executable, "-m", "tui.cli"]
    words += ["demo"] if arguments.demo else ["--cluster", str(cluster_path(arguments))]
    words += ["--read-only"] if getattr(arguments, "read_only", False) else []
    return words + (["--ascii"] if getattr(arguments, "ascii", False) else [])
