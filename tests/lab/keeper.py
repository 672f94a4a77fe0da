"""Keeps one process and all it starts: they end when whoever holds the keeper's standard input lets go, even by dying.

Usage: keeper.py LOG [--link NAME] [--netns NAME] [--cgroup NAME] [--folder PATH] -- COMMAND...
It reads the lines `start`, `TERM` and `KILL`, answers `pid N` and `exit STATUS`, and at the end of its input kills
every descendant (it is their subreaper, so none escapes), then removes the network link, the network
namespace, the control groups and the folder.
"""

import argparse
import contextlib
import ctypes
import errno
import os
import select
import shutil
import signal
import time
from pathlib import Path

LIBC = ctypes.CDLL(None)
PR_SET_CHILD_SUBREAPER = 36
MNT_DETACH = 2
CGROUPS = Path("/sys/fs/cgroup")
SWEEP_LIMIT = 10.0


def children() -> list[int]:
    """The direct children of this process, adopted ones included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # gone while we looked
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(stat.parent.name))
    return found


def say(line: str) -> None:
    """Tells the holder; when it has died there is nobody to tell, and sweeping goes on."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, line.encode() + b"\n")


class Keeper:
    """One command that can be started again, and its descendants."""

    def __init__(self, command: list[str], log: str) -> None:
        self.command = command
        self.log = log
        self.pid = 0

    def obey(self, word: str) -> None:
        """Does what a line of input says; a signal for a process that is gone is nothing."""
        if word == "start" and not self.pid:
            self.pid = self.spawn()
            say(f"pid {self.pid}")
        elif word in ("TERM", "KILL") and self.pid:
            os.kill(self.pid, signal.Signals["SIG" + word])

    def spawn(self) -> int:
        """Starts the command in a session of its own, with its output in the log and nothing as its input."""
        return os.posix_spawnp(
            self.command[0],
            self.command,
            os.environ,
            setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )

    def reap(self) -> bool:
        """Collects who has ended, says so of the command itself, and returns whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self.pid:
                self.pid = 0
                say(f"exit {os.waitstatus_to_exitcode(status)}")

    def sweep(self) -> None:
        """Kills every descendant: those of the dead become our children and die in the next round."""
        deadline = time.monotonic() + SWEEP_LIMIT
        while self.reap() and time.monotonic() < deadline:
            for pid in children():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        if left := children():
            raise SystemExit(f"still there after {SWEEP_LIMIT:g} s: {left}")


def remove_folder(folder: str) -> None:
    """Unmounts what is mounted in the folder, the last mount first, and removes it."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        point = line.split()[1]
        if point.startswith(f"{folder}/"):
            LIBC.umount2(point.encode(), MNT_DETACH)
    shutil.rmtree(folder)


def remove_cgroups(name: str) -> None:
    """Removes the control groups of this name, innermost first, as soon as the kernel has emptied them."""
    tops = [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")]
    deadline = time.monotonic() + SWEEP_LIMIT
    for group in sorted((group for top in tops for group in top.glob("**/")), reverse=True):
        while group.exists():
            try:
                group.rmdir()
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def main() -> None:
    """Keeps the command until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("log")
    parser.add_argument("--link", default="")
    parser.add_argument("--netns", default="")
    parser.add_argument("--cgroup", default="")
    parser.add_argument("--folder", default="")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    awake, bell = os.pipe()
    os.set_blocking(bell, False)
    signal.set_wakeup_fd(bell)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    keeper = Keeper(options.command, options.log)
    while True:
        ready, _, _ = select.select([0, awake], [], [])
        if awake in ready:
            os.read(awake, 4096)
            keeper.reap()
        if 0 in ready:
            lines = os.read(0, 4096)
            if not lines:
                break
            for word in lines.decode().split():
                keeper.obey(word)
    keeper.sweep()
    if options.link:
        os.spawnlp(os.P_WAIT, "ip", "ip", "link", "delete", options.link)
    if options.netns:
        os.spawnlp(os.P_WAIT, "ip", "ip", "netns", "delete", options.netns)
    if options.cgroup:
        remove_cgroups(options.cgroup)
    if options.folder:
        remove_folder(options.folder)


if __name__ == "__main__":
    main()
