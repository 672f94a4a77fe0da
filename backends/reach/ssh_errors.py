"""What a failed SSH connection means, in words: what happened, and what to do next."""

from __future__ import annotations

import errno
import re
import socket
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from backends.errors import SshError
from backends.reach.streams import first_words


@dataclass(frozen=True, slots=True)
class Target:
    """Where a node's SSH server is, who logs in there, and with what."""

    node: str
    host: str
    port: int
    user: str
    known_hosts: Path
    key: Path | None = None
    password: bool = False

    @property
    def place(self) -> str:
        """Address and port, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def known_as(self) -> str:
        """How known_hosts names the server."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"

    @property
    def keyscan(self) -> str:
        """The command that writes the server's keys into known_hosts."""
        return f"ssh-keyscan -p {self.port} {self.host} >> {self.known_hosts}"


@dataclass(slots=True)
class Attempt:
    """How far one attempt to connect came, for telling a dead machine from a mute server and a changed key."""

    connected: bool = False
    keys_known: bool = False
    offered: str = ""
    tried: tuple[str, ...] = ()
    locked_key: bool = False


def explain(error: Exception, target: Target, attempt: Attempt, limit: float) -> SshError:
    """The SshError for an attempt to connect that ended with `error`, after at most `limit` seconds."""
    node = target.node
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return _host_key(error, target, attempt)
    if isinstance(error, asyncssh.KeyExchangeFailed) and "host key" in str(error) and attempt.keys_known:
        return _changed(target, "a key of another kind than known_hosts has")
    if isinstance(error, asyncssh.PermissionDenied) or "authentication failures" in str(error):
        return _denied(target, attempt)
    if isinstance(error, TimeoutError) or "Login timeout" in str(error):
        return _timed_out(target, attempt, limit)
    if isinstance(error, asyncssh.ConnectionLost | ConnectionResetError) and attempt.connected:
        return SshError(
            f"{node}: {target.place} closed the connection before the login ({first_words(str(error))}).",
            "Too many connections at once (MaxStartups), a ban (fail2ban), or no SSH server at that port? "
            f"Look at sshd's log on {node}.",
        )
    if isinstance(error, asyncssh.Error):
        return SshError(
            f"{node}: SSH to {target.place} failed: {first_words(error.reason)}.",
            f"Try `ssh -v -p {target.port} {target.user}@{target.host}`.",
        )
    if isinstance(error, OSError):
        return _unreachable(error, target, limit)
    return SshError(f"{node}: SSH cannot be set up: {first_words(str(error))}.", "Check `ssh` in cluster.toml.")


def dropped(target: Target, error: Exception | None) -> SshError:
    """The SshError for a connection that was there and is gone."""
    words = first_words(str(error)) if error else "closed by the other side"
    return SshError(
        f"{target.node}: the SSH connection was dropped ({words or type(error).__name__}).",
        "It is opened anew at the next use.",
    )


def refused_session(target: Target, error: asyncssh.ChannelOpenError) -> SshError:
    """The SshError for a session that the server did not open."""
    return SshError(
        f"{target.node}: the SSH server opens no further session: {first_words(error.reason)}.",
        "Too many sessions on one connection? Raise MaxSessions in sshd_config (10 by default).",
    )


def no_session(target: Target, in_use: int | None, limit: float) -> SshError:
    """The SshError for a command not begun on an open connection; `in_use` is how many sessions of ours were busy."""
    if in_use:
        return SshError(
            f"{target.node}: all {in_use} SSH sessions are in use.",
            "Close a log or shell of that node and try again.",
        )
    return SshError(
        f"{target.node}: no session within {limit:g} s on an open SSH connection.",
        "The machine is overloaded, or the line is dead; the latter is noticed within half a minute.",
    )


def _host_key(error: asyncssh.HostKeyNotVerifiable, target: Target, attempt: Attempt) -> SshError:
    reason = str(error)
    if "revoked" in reason:
        return SshError(
            f"{target.node}: the host key of {target.place} is marked as revoked in {target.known_hosts}.",
            "Do not log in there before you know why.",
            kind="host_key",
        )
    if attempt.keys_known and attempt.offered:
        return _changed(target, attempt.offered)
    if not attempt.offered:
        return SshError(
            f"{target.node}: the host certificate of {target.place} is not trusted: {first_words(reason)}.",
            f"Add its authority as a @cert-authority line to {target.known_hosts}.",
            kind="host_key",
        )
    return SshError(
        f"{target.node}: the host key of {target.place} is unknown ({attempt.offered}).",
        f"Compare the fingerprint with the node's own (there: ssh-keygen -lf on its host key), then: {target.keyscan}",
        kind="host_key",
    )


def _changed(target: Target, offered: str) -> SshError:
    return SshError(
        f"{target.node}: the host key of {target.place} has CHANGED ({offered}): "
        "a man in the middle, or the machine was installed anew.",
        f"Only if you know why: ssh-keygen -R '{target.known_as}' -f {target.known_hosts}, then: {target.keyscan}",
        kind="host_key",
    )


def _denied(target: Target, attempt: Attempt) -> SshError:
    tried = ", ".join(attempt.tried) or "no key: none was found in ~/.ssh, and no agent runs"
    if attempt.locked_key:
        return SshError(
            f"{target.node}: {target.place} denies {target.user}; the key {target.key} is locked with a passphrase.",
            f"Unlock it once in your agent: ssh-add {target.key}",
            kind="denied",
        )
    return SshError(
        f"{target.node}: {target.place} denies {target.user} (tried: {tried}).",
        f"Is the user right (ssh = {{ user = ... }})? Else put your public key there: "
        f"ssh-copy-id -p {target.port} {target.user}@{target.host}",
        kind="denied",
    )


def _timed_out(target: Target, attempt: Attempt, limit: float) -> SshError:
    if attempt.connected:
        return SshError(
            f"{target.node}: {target.place} takes connections, but its SSH server said nothing useful for {limit:g} s.",
            "The machine is overloaded or half dead, or something else listens there.",
        )
    return SshError(
        f"{target.node}: {target.place} did not answer within {limit:g} s.",
        "Is the machine on, and does a firewall drop the port?",
    )


def _unreachable(error: OSError, target: Target, limit: float) -> SshError:
    if isinstance(error, socket.gaierror):
        return SshError(
            f"{target.node}: the host name {target.host} is not found ({error.strerror}).",
            "Check the node's address in cluster.toml, and DNS.",
        )
    match = re.search(r"\[Errno (\d+)\]", str(error))  # several addresses: asyncio puts all errors into one text
    number = error.errno or (int(match[1]) if match else 0)
    if number == errno.ECONNREFUSED:
        return SshError(
            f"{target.node}: {target.place} refuses SSH.",
            "The machine is on, but no SSH server listens at that port: start sshd, or correct the port.",
        )
    if number == errno.ETIMEDOUT:
        return _timed_out(target, Attempt(), limit)
    words = first_words(error.strerror or str(error))
    return SshError(
        f"{target.node}: {target.place} cannot be reached by SSH: {words}.",
        "Is the machine on, and is this machine on the same network?",
    )
