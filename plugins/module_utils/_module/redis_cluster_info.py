# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""redis_cluster_info: what the cluster is like; changes nothing."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import KeyslotError
from ansible_collections.keyslot.redis.plugins.module_utils._module._common import (
    Params,
    run_module,
)
from ansible_collections.keyslot.redis.plugins.module_utils._server import text, to_map
from ansible_collections.keyslot.redis.plugins.module_utils._slots import format_slots
from ansible_collections.keyslot.redis.plugins.module_utils._stray_keys import keys_outside
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Line,
    Topology,
    version_tuple,
)

FULLEST = 10


def run(module: AnsibleModule) -> None:
    """One run of the module."""
    run_module(module, lambda cluster, params: describe(cluster, params, count_keys=True))


def describe(cluster: Cluster, params: Params, count_keys: bool = False) -> dict[str, t.Any]:
    """The result; with `count_keys` keys outside the nodes' slots are among the problems."""
    topology = cluster.observe()
    gather = params["gather"]
    outside = keys_outside(cluster, topology) if count_keys else {}
    strays = {node: keys for node, keys in outside.items() if isinstance(keys, int)}
    fullest = _fullest_slots(cluster, topology) if "slot_stats" in gather else {}
    reports = topology.reports.values()
    lowest = min(reports, key=lambda report: version_tuple(report.version))
    return {
        "changed": False,
        "engine": topology.reports[topology.entry].family,
        "version": lowest.version,
        "state": "ok" if all(report.state_ok for report in reports) else "fail",
        "agreed": topology.agreed,
        "problems": [
            {"kind": p.kind, "node": p.node, "slots": list(p.slots), "message": p.message}
            for p in topology.problems(strays)
        ],
        "nodes": [
            {**_node(topology, line, gather), "slot_stats": fullest.get(line.id)}
            for line in sorted(topology.lines.values(), key=lambda n: (n.host, n.port, n.id))
        ],
        "open_slots": [
            {"slot": m.slot, "node": m.node, "kind": m.kind, "peer": m.peer}
            for m in topology.open_slots
        ],
        "uncovered_slots": topology.uncovered,
        "warnings": [
            f"Keys of {topology.name(node)} outside its slots can't be looked for: {error}"
            for node, error in outside.items()
            if isinstance(error, KeyslotError)
        ],
    }


def _node(topology: Topology, line: Line, gather: t.Sequence[str]) -> dict[str, t.Any]:
    report = topology.reports.get(line.id)
    slots = topology.slots.get(line.id, [])
    return {
        "id": line.id,
        "host": line.host,
        "port": line.port,
        "hostname": line.hostname,
        "role": "primary" if line.is_primary else "replica",
        "primary_id": line.primary_id,
        "slots": format_slots(slots),
        "slot_count": len(slots),
        "flags": sorted(line.flags - {"myself"}),
        "reachable": report is not None,
        "version": report.version if report else None,
        "key_count": report.key_count if report and "keys" in gather else None,
        "used_memory": report.number("used_memory") if report and "memory" in gather else None,
    }


def _fullest_slots(cluster: Cluster, topology: Topology) -> dict[str, list[dict[str, t.Any]]]:
    """The slots with the most keys of each primary; nothing from engines that do not count."""
    asked = [line.id for line in topology.primaries if line.id in topology.reports]
    command = ("CLUSTER", "SLOT-STATS", "ORDERBY", "KEY-COUNT", "LIMIT", FULLEST, "DESC")
    found = {}
    for node_id, replies in cluster.tell(asked, [command]).items():
        if not isinstance(replies, KeyslotError) and not isinstance(replies[0], KeyslotError):
            found[node_id] = [
                {"slot": slot, **{text(k).replace("-", "_"): v for k, v in to_map(stats).items()}}
                for slot, stats in replies[0]
            ]
    return found
