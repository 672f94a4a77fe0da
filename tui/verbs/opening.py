"""What every verb begins with: which cluster, and on which of its nodes we stand."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from backends.cluster.files import Loaded, load
from backends.errors import ProcedureError
from backends.paths import cluster_file, state_dir


@dataclass(frozen=True, slots=True)
class Opened:
    """A good inventory, the node we stand on (None: none of them), and the state directory."""

    loaded: Loaded
    here: str | None
    state_dir: Path


def cluster_path(arguments: argparse.Namespace) -> Path:
    """The cluster.toml that is meant."""
    return cluster_file(getattr(arguments, "cluster", None), os.environ)


def open_cluster(arguments: argparse.Namespace) -> Opened:
    """Read the inventory; InventoryError says what is wrong with it."""
    loaded = load(cluster_path(arguments))
    return Opened(loaded, where(loaded), state_dir(os.environ))


def known_node(opened: Opened, node: str) -> None:
    """ProcedureError where the inventory has no such node."""
    names = opened.loaded.inventory.node_named
    if node not in names:
        raise ProcedureError(f'There is no node "{node}".', f"Known: {', '.join(names) or 'none'}.")


def where(loaded: Loaded) -> str | None:
    """The node of the inventory that this machine is."""
    from backends.reach.local import addresses, hostname, which_node

    return which_node(loaded.inventory, hostname(), addresses())
