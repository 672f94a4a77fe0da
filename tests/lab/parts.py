"""Everything that can be started, under one name."""

from tests.lab.cache import missing, require
from tests.lab.cluster import LabCluster, start_cluster
from tests.lab.deadnode import DeadNode, start_dead_node
from tests.lab.engine import LLAMACPP, TINY, VOLUME, DockerEngine, container
from tests.lab.models import LARGE, SHAPES, Shape, sparse_gguf, tiny_gguf
from tests.lab.process import LabError, free_port, http_status, serves, wait_until
from tests.lab.servers import LiteLlm, LlamaServer, OpenSsh

__all__ = [
    "LARGE",
    "LLAMACPP",
    "SHAPES",
    "TINY",
    "VOLUME",
    "DeadNode",
    "DockerEngine",
    "LabCluster",
    "LabError",
    "LiteLlm",
    "LlamaServer",
    "OpenSsh",
    "Shape",
    "container",
    "free_port",
    "http_status",
    "missing",
    "require",
    "serves",
    "sparse_gguf",
    "start_cluster",
    "start_dead_node",
    "tiny_gguf",
    "wait_until",
]
