"""The lab by hand, held until Ctrl+C or SIGTERM.

`python -m tests.lab up` starts the cluster, `python -m tests.lab dead` the node that can die: each line of its standard
input is a fault of DeadNode (kill_containers, kill_docker, log_off, sleep, quit_docker_desktop) or `heal`.
"""

import argparse
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path

from tests.lab.cache import missing
from tests.lab.cluster import LabCluster, start_cluster
from tests.lab.deadnode import FAULTS, DeadNode, start_dead_node
from tests.lab.process import LabError

PARTS = {"up": ("docker", "sshd", "llamacpp", "litellm"), "dead": ("docker", "sshd", "llamacpp", "rdp", "netns")}


def write_env(cluster: LabCluster | DeadNode, path: Path) -> None:
    """Writes what a shell must know to use the cluster, for its owner's eyes only."""
    env = {"TIERDECK_CLUSTER": str(cluster.config), **cluster.env}
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in env.items()]
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(lines)


def up(directory: Path, lock: float) -> None:
    """Starts the cluster, says where it is, and holds it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with start_cluster(directory, lock=lock) as cluster:
        env = directory / "env"
        write_env(cluster, env)
        print(f"cluster.toml  {cluster.config}\nenvironment   . {env}")
        print(f"docker        docker -H unix://{cluster.engine.socket}", flush=True)
        signal.pause()


def dead(directory: Path, lock: float, recover: str) -> None:
    """Starts the node that can die, says where it is, and does to it what is asked."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with start_dead_node(directory, lock=lock, recover=recover) as node:
        env = directory / "env"
        write_env(node, env)
        print(f"cluster.toml  {node.config}\nenvironment   . {env}", flush=True)
        for line in sys.stdin:
            if (word := line.strip()) in (*FAULTS, "heal"):
                try:
                    getattr(node, word)()
                    print(f"{word}: done", flush=True)
                except LabError as error:
                    print(f"{word}: {error}", flush=True)
            elif word:
                print(f"one of: {', '.join(FAULTS)}, heal", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("verb", choices=list(PARTS))
    parser.add_argument("--lock", type=float, default=0.0, help="seconds of CUDA start-up that must not overlap")
    parser.add_argument("--recover", default="manual", help="the highest rung climbed unattended (dead)")
    options = parser.parse_args()
    if reasons := list(filter(None, map(missing, PARTS[options.verb]))):
        sys.exit("\n".join(reasons))
    with tempfile.TemporaryDirectory(prefix="tierdeck-lab-") as directory:
        try:
            if options.verb == "up":
                up(Path(directory), options.lock)
            else:
                dead(Path(directory), options.lock, options.recover)
        except KeyboardInterrupt:
            print("stopping", file=sys.stderr)


if __name__ == "__main__":
    main()
