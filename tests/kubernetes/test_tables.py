"""[[clusters]] and the nodes that belong to them: what they say, and what does not fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.cluster.files import parse
from backends.errors import InventoryError

TEXT = """version = 1
name = "x"

[[clusters]]
name = "home"
kubeconfig = "~/k3s.yaml"
namespaces = ["llm"]
via = "nas"

[[nodes]]
name = "nas"
address = "10.0.0.1"
ssh = { user = "ops" }

[[nodes]]
name = "gpu"
address = "10.0.0.2"
kubernetes = "home"
queue = { order = ["llm/coder"] }

[[tiers]]
name = "T"

[[endpoints]]
name = "t/coder"
tier = "T"
node = "gpu"
engine = "vllm"
url = "http://coder.llm:8000"
via = "kubernetes"
container = "llm/coder"
"""


def test_a_cluster_alone_is_the_node_of_that_name_in_it() -> None:
    inventory = parse(TEXT, Path("cluster.toml")).inventory
    node = inventory.node_named["gpu"]
    assert node.kubernetes is not None
    assert (node.kubernetes.cluster, node.kubernetes.node) == ("home", None)
    assert not inventory.runs_containers(node)
    text = TEXT.replace('kubernetes = "home"', 'kubernetes = { cluster = "home", node = "gpu-1" }\ndocker = {}')
    inventory = parse(text, Path("cluster.toml")).inventory
    assert inventory.node_named["gpu"].kubernetes is not None
    assert inventory.node_named["gpu"].kubernetes.node == "gpu-1"
    assert inventory.runs_containers(inventory.node_named["gpu"])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('kubernetes = "home"', 'kubernetes = "hom"', 'line 18: unknown cluster "hom". Did you mean "home"?'),
        ('kubernetes = "home"', "kubernetes = 3", 'nodes "gpu" kubernetes: expected a table in { }'),
        ('kubernetes = "home"', "", 'needs a node that says kubernetes = to go through: "kubernetes"'),
        ('via = "nas"', 'via = "gpu"', 'line 8: no node with ssh of this name: "gpu"'),
        (
            "coder.llm:8000",
            "10.0.0.2:8000",
            'expected a Service, http://NAME.NAMESPACE:PORT, not "http://10.0.0.2:8000"',
        ),
        ('via = "nas"', 'token = "secret"', 'clusters "home" token: expected a reference'),
        ('via = "nas"', 'client_key = "env:K"', 'client_certificate and client_key belong together in "home"'),
        ('via = "nas"', 'contxt = "a"', 'line 8: unknown key "contxt" in clusters "home". Did you mean "context"?'),
    ],
)
def test_mistakes(old: str, new: str, words: str) -> None:
    with pytest.raises(InventoryError) as caught:
        parse(TEXT.replace(old, new), Path("cluster.toml"))
    assert words in str(caught.value)
