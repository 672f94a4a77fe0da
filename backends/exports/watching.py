"""A systemd unit that keeps `tierdeck watch` running; quoting after systemd.syntax(7)."""

from __future__ import annotations

from backends.errors import ProcedureError
from backends.exports.boot import systemd_word

SECRETS = "/etc/tierdeck/watch.env"
"""Where the unit finds the variables that env: references name (NAME=value, 0600)."""


def watch_unit(program: str, cluster: str, user: str, *, state: str = "", metrics: str = "") -> str:
    """The unit; a wrong inventory is not tried again, everything else is."""
    for value in (program, cluster, user, state, metrics):
        if any(ord(c) < 32 or ord(c) == 127 for c in value):
            raise ProcedureError(f"No unit can be written with {value!r} in it.", "Rename what is called so.")
    if set(program) & set("\"'\\"):
        raise ProcedureError(f"systemd runs no program with a quote or backslash in its path: {program}", "Move it.")
    words = [program, "watch", "--cluster", cluster, *(["--metrics", metrics] if metrics else [])]
    command = " ".join([systemd_word(words[0]), *(systemd_word(word.replace("$", "$$")) for word in words[1:])])
    lines = [
        "[Unit]",
        "Description=tierdeck watch",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        "Type=exec",
        f"User={user.replace('%', '%%')}",
        *([f"Environment={systemd_word(f'TIERDECK_STATE={state}')}"] if state else []),
        f"EnvironmentFile=-{SECRETS}",
        f"ExecStart={command}",
        "Restart=on-failure",
        "RestartSec=10",
        "RestartPreventExitStatus=2",
        "TimeoutStopSec=30",
        "UMask=0077",
        "ProtectSystem=full",
        "ProtectControlGroups=yes",
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"
