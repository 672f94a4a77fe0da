"""`python -m tests.lab up`: the lab's cluster by hand, held until Ctrl+C or SIGTERM."""

import argparse
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path

from tests.lab.cache import missing
from tests.lab.cluster import LabCluster, start_cluster

PARTS = ("docker", "sshd", "llamacpp", "litellm")


def write_env(cluster: LabCluster, path: Path) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("verb", choices=["up"])
    parser.add_argument("--lock", type=float, default=0.0, help="seconds of CUDA start-up that must not overlap")
    options = parser.parse_args()
    if reasons := list(filter(None, map(missing, PARTS))):
        sys.exit("\n".join(reasons))
    with tempfile.TemporaryDirectory(prefix="tierdeck-lab-") as directory:
        try:
            up(Path(directory), options.lock)
        except KeyboardInterrupt:
            print("stopping", file=sys.stderr)


if __name__ == "__main__":
    main()
