"""The inventory as a type: what is looked up in it, and what is made of it."""

from __future__ import annotations

from backends.cluster.inventory import Inventory


def test_another_order_for_one_run_is_seen_by_all_that_look_nodes_up() -> None:
    nodes = [{"name": n, "address": "10.0.0.1", "queue": {"order": ["a", "b"]}} for n in ("mark", "nas")]
    inventory = Inventory.model_validate({"version": 1, "name": "x", "nodes": nodes, "tiers": [{"name": "T"}]})
    assert inventory.node_named["mark"].queue.order == ("a", "b")
    other = inventory.with_queue_order("mark", ("b", "a"))
    assert (other.nodes[0].queue.order, other.node_named["mark"].queue.order) == (("b", "a"), ("b", "a"))
    assert other.node_named["nas"] == inventory.node_named["nas"]
    assert inventory.node_named["mark"].queue.order == ("a", "b")
