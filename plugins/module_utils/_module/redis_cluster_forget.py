# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""redis_cluster_forget: no node knows a node any more."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    Ambiguous,
    OptionError,
)
from ansible_collections.keyslot.redis.plugins.module_utils._lock import at_work
from ansible_collections.keyslot.redis.plugins.module_utils._membership import (
    check_can_forget,
    comes_back,
    forget,
    planned_homes,
)
from ansible_collections.keyslot.redis.plugins.module_utils._module._common import (
    Params,
    run_module,
)
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Topology,
    split_address,
)

ID_LENGTH = 40


def run(module: AnsibleModule) -> None:
    """One run of the module."""

    def body(cluster: Cluster, params: Params) -> dict[str, t.Any]:
        return remove(cluster, params, module.check_mode)

    run_module(module, body)


def remove(cluster: Cluster, params: Params, check_mode: bool) -> dict[str, t.Any]:
    """The result."""
    warnings: list[str] = []
    topology, node_id = _look(cluster, params)
    if node_id is None:
        return _unknown()
    if check_mode:
        homes, told = planned_homes(topology, node_id), len(topology.without([node_id]).reports)
    else:
        with at_work(cluster, topology, warnings.append):
            topology, node_id = _look(cluster, params)
            if node_id is None:
                return _unknown()
            reset, seconds = params["reset"], params["wait_timeout"]
            homes, told = forget(cluster, topology, node_id, reset, seconds)
    warnings += comes_back(topology, node_id, params["reset"])
    return {
        "changed": True,
        "id": node_id,
        "role": "primary" if topology.lines[node_id].is_primary else "replica",
        "slot_count": 0,
        "replicas_moved": [{"node": n, "primary": p} for n, p in homes.items()],
        "forgotten_by": told,
        "warnings": warnings,
    }


def _unknown() -> dict[str, t.Any]:
    return {
        "changed": False,
        "id": None,
        "role": None,
        "slot_count": None,
        "replicas_moved": [],
        "forgotten_by": 0,
    }


def _look(cluster: Cluster, params: Params) -> tuple[Topology, str | None]:
    """The cluster, and the node, which may go; None for one that nobody knows."""
    topology = cluster.observe()
    node_id = _find(cluster, topology, params["node"])
    if node_id is not None:
        check_can_forget(cluster, topology, node_id, params["reset"])
    return topology, node_id


def _find(cluster: Cluster, topology: Topology, reference: str) -> str | None:
    """None for a full id or an address that nobody knows; raises OptionError for a bad prefix."""
    try:
        return cluster.find(reference, topology)
    except Ambiguous:
        raise
    except OptionError:
        if ":" in reference:
            split_address(reference)
        elif len(reference.strip()) != ID_LENGTH:
            raise
        return None
