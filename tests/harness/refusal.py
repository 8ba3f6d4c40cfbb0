# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For tests of what is refused: the module fails, says why in a few words, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.harness.cluster import Cluster, parse_nodes
from tests.harness.cutting import run_module
from tests.harness.node import Node

INFO = "redis_cluster_info"
MEET = "redis_cluster_meet"
REPLICATE = "redis_cluster_replicate"
FIX = "redis_cluster_fix"
FORGET = "redis_cluster_forget"
MIGRATE = "redis_slot_migrate"
REBALANCE = "redis_cluster_rebalance"

Options = Mapping[str, Any]
Told = dict[str, dict[str, Any]]


def told(cluster: Cluster) -> Told:
    """What every running node says of every node it lists: role, primary, slots, markers."""
    return {
        address: {
            line.id: (
                sorted(line.flags & {"master", "slave", "handshake"}),
                line.primary_id,
                line.slots,
                line.open,
            )
            for line in parse_nodes(text)
        }
        for address, text in cluster.nodes_text().items()
    }


def login(node: Node) -> dict[str, Any]:
    """The options that lead to this node."""
    return {
        "login_host": node.host,
        "login_port": node.port,
        "login_password": node.password,
    }


def asked(cluster: Cluster, module: str, options: Options, **how: Any) -> dict[str, Any]:
    """A failed result, `options` on top of those that lead to the first node that runs."""
    entry = next(node for node in cluster.nodes if node.running)
    result = run_module(module, {**login(entry), **options}, **how)
    assert result.get("failed") is True, result
    assert not result.get("changed"), result
    assert "Traceback" not in json.dumps(result)
    assert len(result["msg"]) < 900, result["msg"]
    if cluster.password:
        assert cluster.password not in json.dumps(result)
    return result


def assert_refused(
    cluster: Cluster, module: str, options: Options, *words: str, **how: Any
) -> dict[str, Any]:
    """The module fails, its message has all these words, and nothing has changed anywhere."""
    before = told(cluster)
    result = asked(cluster, module, options, **how)
    missing = [word for word in words if word not in result["msg"]]
    assert not missing, f"{missing} not in: {result['msg']}"
    assert_same(before, told(cluster))
    return result


def assert_same(before: Told, after: Told) -> None:
    """AssertionError: what which node tells of which has changed."""
    for teller, lines in before.items():
        for told_of in lines.keys() | after[teller].keys():
            was, now = lines.get(told_of), after[teller].get(told_of)
            assert was == now, f"{teller} said {was} of {told_of}, and says {now}"
    assert before.keys() == after.keys()


def wishes(primary: Node, spare: Node) -> dict[str, Options]:
    """For each module something that could be done if the cluster were fit for it."""
    return {
        INFO: {},
        MIGRATE: {"slots": ["0"], "target": primary.id},
        REBALANCE: {"weights": [{"node": primary.id, "weight": 2}]},
        MEET: {"nodes": [spare.address]},
        REPLICATE: {"node": primary.id, "primary": "auto"},
        FORGET: {"node": primary.id},
    }
