# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Keys on nodes that do not own their slots: how many there are, and of which slots.

Clients can't see them. Redis from 8.4 on does not tell of them either, but by its total, unless
the node imports the slot.
"""

from __future__ import annotations

import typing as t

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    KeyslotError,
    ReplyError,
)
from ansible_collections.keyslot.redis.plugins.module_utils._repair import count_keys
from ansible_collections.keyslot.redis.plugins.module_utils._resp import (
    Command,
    Reply,
)
from ansible_collections.keyslot.redis.plugins.module_utils._server import (
    Server,
    by_database,
    in_databases,
    text,
)
from ansible_collections.keyslot.redis.plugins.module_utils._slots import SLOT_COUNT
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Report,
    Topology,
    keys_by_database,
    parse_info,
)

PROBE_AT_ONCE = 256
# While the engine moves slots, or deletes what has moved, it holds keys outside its slots.
_MOVING = (
    "cluster_slot_migration_active_tasks",
    "cluster_slot_migration_active_trim_running",
    "mem_cluster_slot_import",
    "mem_cluster_slot_export",
)


def keys_outside(
    cluster: Cluster, topology: Topology, nodes: t.Collection[str] | None = None
) -> dict[str, int | KeyslotError]:
    """Node -> how many keys it holds besides those of slots that it owns or imports, of those
    nodes (else of all primaries) that hold such keys, or do not let us ask.

    Looks again where there are any: slots may have begun to come since the topology was read.
    """
    wanted = [line.id for line in topology.primaries] if nodes is None else nodes

    def look(node: str) -> int:
        return _outside(cluster, topology.reports[node])

    def look_again(node: str) -> int:
        return _outside(cluster, cluster.server(node).report())

    first = cluster.each([node for node in wanted if node in topology.reports], look)
    second = cluster.each([node for node, keys in first.items() if keys], look_again)
    return {node: keys for node, keys in second.items() if keys}


def keys_in_the_way(
    cluster: Cluster, topology: Topology, slots: t.Mapping[str, t.Sequence[int]]
) -> dict[str, int | KeyslotError]:
    """Node -> how many keys it holds of the slots that are to come to it, of those nodes that hold
    any, or do not let us ask. Where a node does not tell, all that it holds outside its slots."""
    reports = topology.reports
    asked = [node for node in slots if node in reports and reports[node].key_count]
    silent = [node for node in asked if reports[node].hides_keys]

    def look(node: str) -> int:
        return sum(count_keys(cluster, topology, node, slots[node]).values())

    counted = cluster.each([node for node in asked if node not in silent], look)
    told = {node: keys for node, keys in counted.items() if keys}
    return {**keys_outside(cluster, topology, silent), **told}


def _may_hide(report: Report) -> bool:
    if not report.key_count:
        return False
    told = {**report.info, **report.cluster_info}
    return not any(int(told.get(name, 0)) for name in _MOVING)


def _outside(cluster: Cluster, report: Report) -> int:
    """The total less the keys of the slots that are counted, of one moment: clients write."""
    if not _may_hide(report):
        return 0
    databases = sorted(report.databases)
    counts: list[Command] = [("CLUSTER", "COUNTKEYSINSLOT", s) for s in _counted(report)]
    asked: list[Command] = [("INFO", "keyspace"), *in_databases(databases, counts)]
    keyspace, *found = _at_once(cluster.server(report.id), asked)
    total = keys_by_database(parse_info(text(keyspace)))
    within = sum(sum(told) for told in by_database(databases, found))
    return max(0, sum(total.get(number, 0) for number in databases) - within)


def _at_once(server: Server, commands: list[Command]) -> list[Reply]:
    """The replies of one moment; where the user may not use MULTI or EXEC, of one after another."""
    ended = server.pipeline([("MULTI",), *commands, ("EXEC",)])[-1]
    if not isinstance(ended, ReplyError):
        return list(ended)
    server.close()  # a transaction that was refused may still be open
    return server.all_ok(commands)


def _counted(report: Report) -> list[int]:
    """Slots that the node owns or imports."""
    me = report.view.me
    return sorted(
        {s for s, owner in enumerate(report.view.owners) if owner == me.id} | {*me.importing}
    )


def held_keys(
    cluster: Cluster, topology: Topology, slots: t.Collection[int], probe: bool
) -> dict[str, dict[int, int]]:
    """Node -> slot -> keys, of the slots, on each primary that answers.

    With `probe` also on nodes that hide them, by letting them import the slot for a moment: where
    keys are found the marker stays, lest the keys get lost.
    """
    wanted = sorted(slots)
    asked = [line.id for line in topology.primaries if line.id in topology.reports]

    def look(node: str) -> dict[int, int]:
        return _held(cluster, topology, node, wanted, probe)

    found = cluster.each(asked, look)
    for answer in found.values():
        if isinstance(answer, KeyslotError):
            raise answer
    return t.cast("dict[str, dict[int, int]]", found)


def _held(
    cluster: Cluster, topology: Topology, node: str, slots: list[int], probe: bool
) -> dict[int, int]:
    report = topology.reports[node]
    open_ones = set(_counted(report)) if report.hides_keys else set(slots)
    held = count_keys(cluster, topology, node, [slot for slot in slots if slot in open_ones])
    rest = [slot for slot in slots if slot not in open_ones]
    if probe:
        for start in range(0, len(rest), PROBE_AT_ONCE):
            held.update(_probe(cluster, topology, node, rest[start : start + PROBE_AT_ONCE]))
    return held


def _probe(cluster: Cluster, topology: Topology, node: str, slots: list[int]) -> dict[int, int]:
    server = cluster.server(node)
    other = next((line.id for line in topology.primaries if line.id != node), None)
    if other is None:
        return {}
    owners = {slot: topology.owners[slot] for slot in slots}
    peers = {slot: owner if owner not in (None, node) else other for slot, owner in owners.items()}
    server.all_ok([("CLUSTER", "SETSLOT", s, "IMPORTING", peers[s] or other) for s in slots])
    counts = count_keys(cluster, topology, node, slots)
    marked = topology.reports[node].view.me.migrating
    empty = [slot for slot in slots if not counts[slot] and slot not in marked]
    server.all_ok([("CLUSTER", "SETSLOT", slot, "STABLE") for slot in empty])
    return counts


def locate(cluster: Cluster, topology: Topology, node: str, keys: int, probe: bool) -> set[int]:
    """The slots of which the node holds `keys` keys outside, as far as it lets us see."""
    counted = set(_counted(topology.reports[node]))
    others = [slot for slot in range(SLOT_COUNT) if slot not in counted]
    if not topology.reports[node].hides_keys:
        counts = count_keys(cluster, topology, node, others)
        return {slot for slot, count in counts.items() if count}
    found: dict[int, int] = {}
    for start in range(0, len(others) if probe else 0, PROBE_AT_ONCE):
        part = others[start : start + PROBE_AT_ONCE]
        counts = _probe(cluster, topology, node, part)
        found.update((slot, count) for slot, count in counts.items() if count)
        if sum(found.values()) >= keys:
            break
    return set(found)
