# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Valkey 9 and later: CLUSTER MIGRATESLOTS, sent to the node that gives.

It answers OK and no id; a job is not tried again; cancelling ends all exports of a node. Snapshots
of one source wait for each other, so one job a source. (Valkey cluster_migrateslots.c)
"""

from __future__ import annotations

import typing as t

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import ReplyError, Stopped
from ansible_collections.keyslot.redis.plugins.module_utils._lane import Lane, Movement
from ansible_collections.keyslot.redis.plugins.module_utils._movers._jobs import (
    Engine,
    Job,
    lacking,
    move_in_jobs,
    parse_ranges,
    ranges_of,
)
from ansible_collections.keyslot.redis.plugins.module_utils._plan import Move
from ansible_collections.keyslot.redis.plugins.module_utils._repair import databases_of
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Command, Reply
from ansible_collections.keyslot.redis.plugins.module_utils._server import to_map
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology

METHOD = "atomic"
STATUS: Command = ("CLUSTER", "GETSLOTMIGRATIONS")
# Above 0 while a job is under way.
ACTIVE = ("mem_cluster_slot_import", "mem_cluster_slot_export")
# Refused for the node's name where it is permitted.
PROBE: Command = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", 0, 0, "NODE", "permission-probe")
NONE_LEFT = "No migrations ongoing"
AT_RISK = ("may have succeeded",)
CHANGED = ("no longer owned", "failover occurred", "out of memory", "OOM")
DENIED = (
    "NOPERM",
    "NOAUTH",
    "WRONGPASS",
    "AUTH",
    "unknown subcommand",
    "unknown command",
    "module",
)


def unfit(cluster: Cluster, topology: Topology, move: Move) -> str | None:
    """Why it can't be taken here, or None.

    With several databases a write that comes while a job runs can end in another database of the
    target, whichever the snapshot was at (seen on 9.1.2).
    """
    if len(databases_of(cluster, topology, move.source)) > 1:
        name = topology.name(move.source)
        return f"{name} has several databases, whose writes its atomic migration can mix up"
    return lacking(cluster, topology, move, "valkey", "cluster|migrateslots", [PROBE, STATUS])


def probes(movement: Movement, gives: bool, takes: bool) -> list[Command]:
    """The source is asked to export; nobody else is told anything."""
    return [PROBE, STATUS] if gives else []


def move(lane: Lane) -> None:
    """Moves the lane's slots. Raises KeyslotError; NotThisWay if another mover may do it."""
    move_in_jobs(_ENGINE, lane)


def jobs_of(reply: Reply) -> list[Job]:
    """The export jobs of a GETSLOTMIGRATIONS reply, newest first."""
    told = [to_map(item) for item in reply]
    return [_job(item) for item in told if item["operation"] == "EXPORT"]


def _job(told: t.Mapping[str, t.Any]) -> Job:
    state = told["state"]
    return Job(
        id=told["name"],
        source=told.get("source_node", ""),
        target=told["target_node"],
        slots=parse_ranges(told["slot_ranges"]),
        state=state,
        over=state in ("success", "failed", "cancelled"),
        done=state == "success",
        message=told.get("message", ""),
        progress=(state, told.get("remaining_repl_size"), told.get("cow_size")),
        left=int(told.get("remaining_repl_size", 0)) if state == "waiting-to-pause" else None,
    )


def _start(lane: Lane, slots: t.Sequence[int]) -> str:
    """The id of the new job: the newest for these slots."""
    before = {job.id for job in _look(lane)}
    lane.source.call(
        "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *ranges_of(slots), "NODE", lane.move.target
    )
    for job in _look(lane):
        if job.id not in before and job.slots == set(slots):
            return job.id
    raise Stopped(f"{lane.name}: the source took the job, but does not list it. Run it again.")


def _look(lane: Lane) -> list[Job]:
    jobs = jobs_of(lane.source.call(*STATUS))
    return [job for job in jobs if job.target == lane.move.target]


def _cancel(lane: Lane, job: Job) -> None:
    """All exports of the source: there is no other, one job a source runs at a time."""
    reply = lane.source.pipeline([("CLUSTER", "CANCELSLOTMIGRATIONS")])[0]
    if isinstance(reply, ReplyError) and NONE_LEFT not in reply.text:
        raise reply


def _verdict(job: Job) -> str:
    if any(words in job.message for words in (*AT_RISK, *CHANGED)) or job.state == "cancelled":
        return "stop"
    return "other way" if any(word in job.message for word in DENIED) else "again"


def _alone(lane: Lane) -> t.Sequence[str]:
    return (lane.move.source,)


_ENGINE = Engine(
    _start,
    _look,
    _cancel,
    _verdict,
    _alone,
    "total_net_cluster_slot_import_bytes",
    last_slot_alone=False,
)
