# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Open slots that a run finds: count keys, clear stale markers, heal who names a dead owner."""

from __future__ import annotations

import time
import typing as t
from contextlib import suppress

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster, told_ok
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    LostConnection,
    Refused,
    ReplyError,
)
from ansible_collections.keyslot.redis.plugins.module_utils._plan import Goal
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Reply
from ansible_collections.keyslot.redis.plugins.module_utils._server import by_database, in_databases
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    OpenSlot,
    Report,
    Topology,
    version_tuple,
)
from ansible_collections.keyslot.redis.plugins.module_utils._verdicts import Opened, sort_markers

# Longer than TCP may hold a message of the cluster bus back (Nagle and delayed ACK: 40 to 200 ms).
OLD_NEWS_SECONDS = 0.25
WATCH_SECONDS = 0.5
WATCH_KEYS = 100


def databases_of(cluster: Cluster, topology: Topology, node_id: str) -> list[int]:
    """The databases of a node; more than one only on Valkey 9 and later (`cluster-databases`)."""
    report = topology.reports[node_id]
    told = report.config.get("cluster-databases")
    if told is not None:
        return list(range(int(told)))
    if report.family != "valkey" or version_tuple(report.version) < (9, 0):
        return [0]
    found = [0]
    while True:
        reply = cluster.server(node_id).pipeline([("SELECT", len(found)), ("SELECT", 0)])[0]
        if isinstance(reply, ReplyError):
            unused = "'select' command" in reply.text and not report.databases.keys() - {0}
            if "out of range" in reply.text or unused:
                return found
            raise reply  # keys of a database that we may not see would get lost
        found.append(len(found))


def count_keys(
    cluster: Cluster, topology: Topology, node_id: str, slots: t.Sequence[int]
) -> dict[int, int]:
    """Keys of each slot in all databases. Of a node that hides keys it means something only for
    slots that it owns or imports."""
    databases = databases_of(cluster, topology, node_id)
    counts = dict.fromkeys(slots, 0)
    server = cluster.server(node_id)
    for start in range(0, len(slots), 512):
        part = slots[start : start + 512]
        commands = [("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in part]
        replies = server.all_ok(in_databases(databases, commands))
        for answers in by_database(databases, replies):
            for slot, count in zip(part, answers):
                counts[slot] += count
    return counts


def sort_open_slots(cluster: Cluster, topology: Topology, goal: Goal) -> Opened:
    """Raises Refused for an open slot that is neither of the goal nor stale."""
    importing: dict[str, set[int]] = {}
    for marker in topology.open_slots:
        if marker.kind == "importing":
            importing.setdefault(marker.node, set()).add(marker.slot)
    held = {
        node: count_keys(cluster, topology, node, sorted(slots))
        for node, slots in importing.items()
    }
    return sort_markers(topology, goal, held)


def let_old_news_pass(
    cluster: Cluster,
    topology: Topology,
    importers: t.Collection[str],
    owners: t.Collection[str],
    seconds: float = OLD_NEWS_SECONDS,
) -> None:
    """Before nodes import slots: until they have read what the owners sent before they owned them.

    A Valkey primary takes over a slot that it imports, and the owner deletes its keys, when a
    message arrives in which the owner does not claim it (clusterUpdateSlotsConfigWith in
    cluster_legacy.c). Seen where slots went to and fro within 50 ms, and where a server got no
    processor for a while: two answers show that a server has been round its event loop. `seconds`
    is how long a message may be on its way; a later one is not kept off.
    """
    if not any(topology.reports[node].takes_over for node in importers):
        return
    for nodes, pause in ((owners, seconds), (importers, 0.0)):
        for node in nodes:
            server = cluster.server(node)
            with suppress(LostConnection):  # the next one goes by a new connection
                server.call("PING")
            server.call("PING")
            server.call("PING")
        time.sleep(pause)


def clear_stale(cluster: Cluster, topology: Topology, stale: t.Iterable[OpenSlot]) -> None:
    """STABLE for markers on nodes that hold no key of the slot, and on owners.

    A node that hides keys imports the slot first, to count them. One that has not heard yet that it
    lost the slot is told: without its marker it would take writes, and delete them when it hears.
    Raises Refused, and leaves the marker, where there are keys.
    """
    for marker in stale:
        server = cluster.server(marker.node)
        owner = topology.owners[marker.slot]
        if marker.node == owner:
            server.call("CLUSTER", "SETSLOT", marker.slot, "STABLE")
            continue
        report = topology.reports[marker.node]
        unaware = report.view.owners[marker.slot] == marker.node
        hides = report.hides_keys and not unaware
        if hides and marker.kind == "migrating" and owner is not None:
            server.call("CLUSTER", "SETSLOT", marker.slot, "IMPORTING", owner)
        keys = count_keys(cluster, topology, marker.node, [marker.slot])[marker.slot]
        if keys:
            raise Refused(
                f"{topology.name(marker.node)} holds {keys} keys of slot {marker.slot}, which is "
                f"{topology.name(owner or '')}'s, and clients can't see them. Nothing was moved: "
                "repair it with keyslot.redis.redis_cluster_fix, and do not restart that node."
            )
        if unaware and owner is not None:
            server.call("CLUSTER", "SETSLOT", marker.slot, "NODE", owner)
        # After NODE for replicas, to which Valkey passes it on (valkey #998).
        server.call("CLUSTER", "SETSLOT", marker.slot, "STABLE")


def clear_on_replicas(cluster: Cluster, topology: Topology) -> int:
    """STABLE for markers that only replicas still show; returns how many.

    Valkey 8 and later passes it on to them. A replica keeps the marker for ever when the new owner
    comes to it by SETSLOT before it comes by gossip (valkey #998). On a primary that has no marker
    it changes nothing; one that has set it since it was observed is let be.
    """
    slots: dict[str, set[int]] = {}
    for marker in topology.left_on_replicas:
        slots.setdefault(topology.lines[marker.node].primary_id or "", set()).add(marker.slot)
    for primary, found in slots.items():
        server = cluster.server(primary)
        me = server.report().view.me
        found -= {*me.importing, *me.migrating}
        server.scatter([("CLUSTER", "SETSLOT", slot, "STABLE") for slot in sorted(found)])
    return sum(map(len, slots.values()))


def check_nobody_moves(
    cluster: Cluster, topology: Topology, ways: t.Sequence[tuple[str, str, int]]
) -> None:
    """Raises Refused if keys of the open slots go to their targets while we only watch: somebody
    else is at work."""
    before = {
        (source, target, slot): _some_keys(cluster, source, slot) for source, target, slot in ways
    }
    if not any(before.values()):
        return
    time.sleep(WATCH_SECONDS)
    for (source, target, slot), names in before.items():
        gone = names - _some_keys(cluster, source, slot, most=10 * WATCH_KEYS)
        commands = [c for name in gone for c in (("ASKING",), ("EXISTS", name))]
        arrived: list[Reply] = cluster.server(target).pipeline(commands)[1::2] if commands else []
        if any(reply == 1 for reply in arrived):
            raise Refused(
                f"somebody else is moving slot {slot} from {topology.name(source)} to "
                f"{topology.name(target)} right now: {sum(r == 1 for r in arrived)} keys went "
                f"while we watched for {WATCH_SECONDS} s. Nothing was changed: let that run end."
            )


def _some_keys(cluster: Cluster, node_id: str, slot: int, most: int = WATCH_KEYS) -> set[bytes]:
    return set(cluster.server(node_id).call("CLUSTER", "GETKEYSINSLOT", slot, most))


def thaw_importers(
    cluster: Cluster,
    topology: Topology,
    finish: t.Sequence[tuple[str, str, int]],
    cleared: t.Sequence[OpenSlot],
    wait_timeout: float,
) -> Topology:
    """Heals targets that still name a dead owner for a slot which they import, or did until the
    marker was `cleared`.

    A Redis node ignores gossip about a slot that it imports: after a failover of the source it
    keeps the old owner and may say that the cluster is down. NODE tells it the news; its mark
    stays, without which its keys would be hidden if we died here.
    """
    frozen = [
        (source, target, slot)
        for source, target, slot in finish
        if topology.reports[target].view.owners[slot] != source
    ]
    healing = {(target, slot) for _source, target, slot in frozen}
    healing.update((marker.node, marker.slot) for marker in cleared)
    if told_ok(topology) is None or not _explained(topology, healing):
        return topology
    for source, target, slot in frozen:
        cluster.server(target).call("CLUSTER", "SETSLOT", slot, "NODE", source)
    cluster.wait(wait_timeout, told_ok, "agreement on the owners of the open slots")
    for source, target, slot in frozen:
        cluster.server(target).call("CLUSTER", "SETSLOT", slot, "IMPORTING", source)
    return cluster.observe()


def _explained(topology: Topology, healing: t.Collection[tuple[str, int]]) -> bool:
    """Whether nothing but these slots on these nodes is out of order."""
    for report in topology.reports.values():
        own = {slot for node_id, slot in healing if node_id == report.id}
        if not (report.state_ok or own) or _differing(topology, report) - own:
            return False
    return True


def _differing(topology: Topology, report: Report) -> set[int]:
    pairs = enumerate(zip(report.view.owners, topology.owners))
    return {slot for slot, (told, owner) in pairs if told != owner}
