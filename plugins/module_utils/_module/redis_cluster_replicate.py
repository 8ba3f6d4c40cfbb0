# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""redis_cluster_replicate: a node follows a primary."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._lock import at_work
from ansible_collections.keyslot.redis.plugins.module_utils._membership import (
    check_can_replicate,
    check_may_replicate,
    choose_primary,
    replicate,
)
from ansible_collections.keyslot.redis.plugins.module_utils._module._common import (
    Params,
    find_or_joining,
    run_module,
)
from ansible_collections.keyslot.redis.plugins.module_utils._preflight import check_cluster
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology


def run(module: AnsibleModule) -> None:
    """One run of the module."""

    def body(cluster: Cluster, params: Params) -> dict[str, t.Any]:
        return follow(cluster, params, module.check_mode)

    run_module(module, body)


def follow(cluster: Cluster, params: Params, check_mode: bool) -> dict[str, t.Any]:
    """The result."""
    warnings: list[str] = []
    topology, node_id, primary = _look(cluster, params, check_mode)
    changes = topology.lines[node_id].primary_id != primary
    if not check_mode and changes:
        with at_work(cluster, topology, warnings.append):
            topology, node_id, primary = _look(cluster, params, check_mode)
            changes = topology.lines[node_id].primary_id != primary
            replicate(cluster, topology, node_id, primary, params["wait_timeout"])
    elif not check_mode:
        # A run that was killed may not have waited for it.
        replicate(cluster, topology, node_id, primary, params["wait_timeout"])
    return {"changed": changes, "node": node_id, "primary": primary, "warnings": warnings}


def _look(cluster: Cluster, params: Params, check_mode: bool) -> tuple[Topology, str, str]:
    """The cluster, the node, and the primary that it may follow."""
    topology = cluster.observe_agreed()
    node_id, topology = find_or_joining(cluster, params["node"], topology, check_mode)
    followed = topology.lines[node_id].primary_id
    if params["primary"] != "auto":
        primary = cluster.find(params["primary"], topology)
        topology.require_primary(primary, "primary")
    else:
        primary = followed or choose_primary(topology, node_id)
    check_can_replicate(topology, node_id, primary)
    check_cluster(topology)
    if followed != primary and node_id not in topology.joining:
        check_may_replicate(cluster, topology, node_id)
    return topology, node_id, primary
