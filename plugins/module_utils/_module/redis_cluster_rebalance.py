# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""redis_cluster_rebalance: each primary owns its share."""

from __future__ import annotations

import math

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    OptionError,
)
from ansible_collections.keyslot.redis.plugins.module_utils._module._common import (
    Params,
    find_or_joining,
)
from ansible_collections.keyslot.redis.plugins.module_utils._module._movers import run_mover
from ansible_collections.keyslot.redis.plugins.module_utils._plan import BalanceGoal, check_weight
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology


def run(module: AnsibleModule) -> None:
    """One run of the module."""
    run_mover(module, make_goal)


def make_goal(
    cluster: Cluster, params: Params, topology: Topology, check_mode: bool
) -> tuple[BalanceGoal, Topology]:
    """The goal of the options. Raises OptionError."""
    for name in ("threshold", "max_slots"):
        if not math.isfinite(params[name]):
            raise OptionError(f"{name} must be a finite number, not {params[name]:g}.")
        if params[name] < 0:
            raise OptionError(f"{name} can't be below 0: it is {params[name]:g}.")
    named: dict[str, float] = {}
    for item in params["weights"]:
        weight = check_weight(item["weight"], f"'{item['node']}'")
        node_id, topology = find_or_joining(cluster, item["node"], topology, check_mode)
        topology.require_primary(node_id, "node with a weight")
        if node_id in named:
            raise OptionError(f"{topology.name(node_id)} has two weights: give it one.")
        named[node_id] = weight
    drain = frozenset(
        topology.require_primary(
            cluster.find(reference, topology),
            "node to drain",
            "it owns no slots, and need not be drained; leave it out",
        )
        for reference in params["drain"]
    )
    both = drain & named.keys()
    if both:
        raise OptionError(f"{topology.name(min(both))} has a weight, and is to be drained.")
    takes_part = {
        line.id: 1.0
        for line in topology.primaries
        if line.id not in drain
        and (topology.slots.get(line.id) or params["use_empty_primaries"])
        and (line.id in topology.reports or topology.slots.get(line.id))
    }
    goal = BalanceGoal(
        weights={**takes_part, **named},
        drain=drain,
        drain_only=params["drain_only"],
        threshold=params["threshold"],
        max_slots=params["max_slots"],
    )
    return goal, topology
