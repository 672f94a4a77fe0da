"""The desktop service of a lab node: xrdp with a user of its own, whose logon starts what only comes with one."""

import os
import secrets
import subprocess
from pathlib import Path

from tests.lab.process import Kept, listens

PORT = 3389
UID = 64_321
USER = "ops"
DISPLAYS = range(200, 210)
OWN_FILES = """\
for name in passwd shadow group; do mount --bind "$0/$name" "/etc/$name" || exit 1; done
mkdir -p /tmp/.X11-unix /run/xrdp
mount -t tmpfs -o mode=1777 tmpfs /tmp/.X11-unix && mount -t tmpfs tmpfs /run/xrdp && exec "$@"
"""
"""The machine's users, X sockets and xrdp sockets stay as they are: all of it lies in a mount namespace."""


class Desk(Kept):
    """xrdp and its session manager in a network namespace; who logs on runs `startwm.sh`, once until he logs off."""

    def __init__(self, folder: Path, netns: str, address: str, at_logon: Path) -> None:
        """`folder` must be open to everybody, and is short-lived; `at_logon` is run by each new session."""
        self.folder = folder
        self.address = address
        self._netns = Path("/run/netns", netns)
        self.password = secrets.token_urlsafe(12)
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._write_users()
        self._write_settings(at_logon)
        self.new_certificate()
        both = 'xrdp-sesman --nodaemon -c "$0/sesman.ini" & exec xrdp --nodaemon -c "$0/xrdp.ini"'
        super().__init__(["sh", "-c", both, str(folder)], folder / "desk.log")
        self.wrap = ["ip", "netns", "exec", netns, "sh", "-c", OWN_FILES, str(folder)]

    def ready(self) -> None:
        """Waits until it listens."""
        self.wait_until(lambda: listens(self.address, PORT), 15, "xrdp listens")

    def close(self) -> None:
        """Ends the sessions, too; nobody is logged on any more."""
        super().close()
        for number in DISPLAYS:
            Path(f"/tmp/.X{number}-lock").unlink(missing_ok=True)

    def new_certificate(self) -> None:
        """Another certificate, as after an installation; shown from the next start on."""
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mark"]
        files = ["-keyout", str(self.folder / "key.pem"), "-out", str(self.folder / "cert.pem")]
        subprocess.run([*made, *files], check=True, capture_output=True, timeout=30)

    def logged_on(self) -> bool:
        """Whether a session of the user runs here, held by a client or not."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                sleeps = process.stat().st_uid == UID and (process / "exe").resolve().name == "sleep"
                if sleeps and (process / "ns/net").stat().st_ino == self._netns.stat().st_ino:
                    return True
            except OSError:  # gone while we looked
                continue
        return False

    def _write_users(self) -> None:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        os.chown(home, UID, UID)
        hashing = ["openssl", "passwd", "-6", "-stdin"]
        made = subprocess.run(hashing, input=self.password, capture_output=True, text=True, check=True, timeout=10)
        hashed = made.stdout.strip()
        lines = {
            "passwd": f"{USER}:x:{UID}:{UID}::{home}:/bin/sh",
            "shadow": f"{USER}:{hashed}:19000:0:99999:7:::",
            "group": f"{USER}:x:{UID}:",
        }
        for name, line in lines.items():
            (self.folder / name).write_text(Path("/etc", name).read_text() + line + "\n")
        (self.folder / "shadow").chmod(0o600)

    def _write_settings(self, at_logon: Path) -> None:
        start = self.folder / "startwm.sh"
        start.write_text(f"#!/bin/sh\n{at_logon}\nexec sleep infinity\n")
        start.chmod(0o755)
        log = {"LogFile": self.folder / "xrdp.log", "EnableSyslog": "false"}
        own = {"certificate": self.folder / "cert.pem", "key_file": self.folder / "key.pem", "autorun": "Xorg"}
        sesman = {"DefaultWindowManager": start, "EnableUserWindowManager": "false", "ReconnectScript": "/bin/true"}
        sesman |= {"X11DisplayOffset": DISPLAYS.start, **log, "LogFile": self.folder / "sesman.log"}
        for name, values in (("xrdp.ini", {**own, **log}), ("sesman.ini", sesman)):
            lines = Path("/etc/xrdp", name).read_text().splitlines()
            keys = (line.partition("=")[0] for line in lines)
            told = [f"{key}={values[key]}" if key in values else line for key, line in zip(keys, lines, strict=True)]
            (self.folder / name).write_text("\n".join(told) + "\n")
