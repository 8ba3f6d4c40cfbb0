# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Draining a primary's last slot without turning it into a replica that pulls a full copy."""

from __future__ import annotations

import typing as t
from contextlib import contextmanager

from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    KeyslotError,
    NotConverged,
)
from ansible_collections.keyslot.redis.plugins.module_utils._lane import Lane
from ansible_collections.keyslot.redis.plugins.module_utils._server import text
from ansible_collections.keyslot.redis.plugins.module_utils._slots import from_ranges
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Topology,
    parse_view,
)

OPTION = "cluster-allow-replica-migration"


@contextmanager
def kept_as_primary(lane: Lane) -> t.Iterator[None]:
    """Within it the source stays an empty primary, and its replicas stay its own.

    The option is put back as soon as source and replicas know that the slots are gone; later it
    changes nothing any more. That holds for a target that took them when its reply was lost, too.
    Killed in here, the option stays off: redis_cluster_info names it.
    """
    family = [lane.move.source, *(n.id for n in lane.topology.replicas_of(lane.move.source))]
    reports = lane.topology.reports
    on = [node for node in family if node in reports and reports[node].config.get(OPTION) != "no"]
    changed = _set(lane, on, "no")
    try:
        try:
            yield
        finally:
            if changed and (not lane.donor.slots_left or _has_taken(lane)):
                _wait_until_known(lane, changed)
    finally:
        _set(lane, changed, "yes")


def _set(lane: Lane, node_ids: t.Sequence[str], value: str) -> list[str]:
    """Returns the nodes that took it; the others get a warning."""
    done = []
    for node_id, replies in lane.cluster.tell(node_ids, [("CONFIG", "SET", OPTION, value)]).items():
        error = replies if isinstance(replies, KeyslotError) else replies[0]
        if isinstance(error, KeyslotError):
            lane.tally.warn(
                f"{OPTION} could not be set to {value} on {lane.topology.name(node_id)}: {error}"
            )
        else:
            done.append(node_id)
    return done


def _has_taken(lane: Lane) -> bool:
    """Whether the target, as far as it can be asked, owns a slot that doesn't count as moved."""
    try:
        view = parse_view(text(lane.target.call("CLUSTER", "NODES")))
    except KeyslotError:
        return False
    return not set(from_ranges(view.me.ranges)).isdisjoint(lane.slots_left)


def _wait_until_known(lane: Lane, node_ids: t.Sequence[str]) -> None:
    """Until they know that the slots are gone, and the epoch that says so: Valkey's replicas have
    the former by replication, and would believe an older word of the source before the latter."""
    source, target = lane.move.source, lane.move.target

    def still_wrong(topology: Topology) -> str | None:
        taker = topology.reports.get(target)
        for node_id in node_ids:
            name, report = topology.name(node_id), topology.reports.get(node_id)
            if report is None:
                return f"{name} can't be asked about {topology.name(source)}"
            lines = report.view.lines
            if source in lines and lines[source].slots_text:
                return f"{name} still counts slots as {topology.name(source)}'s"
            if taker and target in lines and lines[target].epoch < taker.view.me.epoch:
                return f"{name} has not heard of the epoch of {topology.name(target)}"
        return None

    try:
        lane.cluster.wait(lane.movement.wait_timeout, still_wrong, "the end of the draining")
    except NotConverged as exc:
        lane.tally.warn(str(exc))
