"""The cluster.toml of one node of a Kubernetes cluster, as the tests here have it."""

from __future__ import annotations

from pathlib import Path

CODER = """[[endpoints]]
name = "t/coder"
tier = "T"
node = "gpu-1"
engine = "vllm"
url = "http://coder.llm:8000"
via = "kubernetes"
container = "llm/coder"
"""
"""An endpoint that is asked through the API's proxy."""


def cluster_toml(kubeconfig: Path, queue: str, more: str = "", *, top: str = "", gpus: str = "none") -> str:
    """A node whose `queue` is told as TOML; `top` stands before all tables, `more` after them."""
    return f"""version = 1
name = "lab"
{top}
[[clusters]]
name = "home"
kubeconfig = "{kubeconfig}"
namespaces = ["llm"]

[[nodes]]
name = "gpu-1"
address = "10.0.0.2"
gpus = "{gpus}"
kubernetes = "home"
queue = {queue}

[[tiers]]
name = "T"

{more}"""
