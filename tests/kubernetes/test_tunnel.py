"""An API that only a node sees: through that node's SSH connection, with the certificate still of its own name."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.cluster.inventory import Inventory
from backends.errors import ReachError
from backends.reach.reaches import Reaches
from backends.secrets import Secrets
from tests.kubernetes.double import Double, serving
from tests.kubernetes.pki import Authority
from tests.reach.conftest import Server, keys, own_home, server

__all__ = ["keys", "own_home", "server"]


async def test_through_a_nodes_ssh_connection(server: Server, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server.trust()
    async with serving(Double(), authority.server("127.0.0.1")) as double:
        double.add_node("gpu-1", 1)
        double.add_deployment("coder", 1)
        path = double.kubeconfig(tmp_path, **{"certificate-authority": str(authority.path)})
        seen_by_the_node = server.node().model_dump(exclude_unset=True)
        inventory = Inventory.model_validate(
            {
                "version": 1,
                "name": "x",
                "clusters": [{"name": "home", "kubeconfig": str(path), "namespaces": ["llm"], "via": "mark"}],
                "nodes": [seen_by_the_node, {"name": "gpu-1", "address": "10.0.0.2", "kubernetes": "home"}],
                "tiers": [{"name": "T"}],
            }
        )
        async with Reaches(inventory, None, Secrets()) as reaches:
            runtime = reaches["gpu-1"].kubernetes()
            assert runtime is not None
            assert [w.name for w in await runtime.workloads()] == ["llm/coder"]
            assert server.logins == 1
        await server.close()
        async with Reaches(inventory, None, Secrets()) as reaches:
            runtime = reaches["gpu-1"].kubernetes()
            assert runtime is not None
            with pytest.raises(ReachError, match="mark"):
                await runtime.version()
