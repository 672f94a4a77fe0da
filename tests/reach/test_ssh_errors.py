from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import asyncssh
import pytest

from backends.reach.ssh_errors import Attempt, Target, dropped, explain

TARGET = Target(node="mark", host="10.0.10.20", port=22, user="ops", known_hosts=Path("/h/known_hosts"))


@pytest.mark.parametrize(
    ("error", "attempt", "says", "advises"),
    [
        (socket.gaierror(-2, "Name or service not known"), Attempt(), "host name 10.0.10.20 is not found", "DNS"),
        (OSError(errno.ECONNREFUSED, "refused"), Attempt(), "10.0.10.20:22 refuses SSH", "start sshd"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] Connect call failed"),
            Attempt(),
            "refuses SSH",
            "start sshd",
        ),
        (OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH)), Attempt(), "No route to host", "network"),
        (OSError(errno.ETIMEDOUT, "timed out"), Attempt(), "did not answer within 10 s", "firewall"),
        (TimeoutError(), Attempt(), "did not answer within 10 s", "firewall"),
        (TimeoutError(), Attempt(connected=True), "takes connections", "half dead"),
        (asyncssh.ConnectionLost("Login timeout expired"), Attempt(connected=True), "takes connections", "half"),
        (asyncssh.ConnectionLost("Connection lost"), Attempt(connected=True), "closed the connection", "fail2ban"),
        (asyncssh.DisconnectError(2, "Too many authentication failures"), Attempt(connected=True), "denies ops", "key"),
        (asyncssh.PermissionDenied("no"), Attempt(tried=("an agent",)), "(tried: an agent)", "ssh-copy-id"),
        (asyncssh.HostKeyNotVerifiable("Host key is not trusted for host x"), Attempt(offered="k S"), "unknown (k S)",
         "ssh-keyscan -p 22 10.0.10.20 >> /h/known_hosts"),
        (asyncssh.HostKeyNotVerifiable("Host CA key is not trusted"), Attempt(), "certificate", "@cert-authority"),
        (asyncssh.KeyExchangeFailed("No matching host key algorithm found"), Attempt(keys_known=True), "CHANGED",
         "ssh-keygen -R '10.0.10.20'"),
        (asyncssh.KeyExchangeFailed("No matching kex"), Attempt(connected=True), "No matching kex", "ssh -v"),
        (ValueError("odd"), Attempt(), "cannot be set up: odd", "cluster.toml"),
    ],
)  # fmt: skip
def test_every_failure_says_what_happened_and_what_to_do(
    error: Exception, attempt: Attempt, says: str, advises: str
) -> None:
    told = explain(error, TARGET, attempt, 10)
    assert told.message.startswith("mark: ")
    assert says in told.message
    assert advises in told.advice


def test_server_text_cannot_write_on_the_screen() -> None:
    told = explain(asyncssh.DisconnectError(11, "\x1b]0;x\x07bye\x1b[2J\nmore"), TARGET, Attempt(connected=True), 10)
    assert told.message.endswith("failed: bye.")
    assert "\x1b" not in str(dropped(TARGET, asyncssh.ConnectionLost("\x1b[31mred")))


def test_addresses_of_version_6_and_other_ports_are_written_as_ssh_has_them() -> None:
    target = Target(node="m", host="fd00::1", port=2222, user="o", known_hosts=Path("k"))
    assert (target.place, target.known_as) == ("[fd00::1]:2222", "[fd00::1]:2222")
    assert TARGET.known_as == "10.0.10.20"
