# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Redis 8.4 and later: CLUSTER MIGRATION, sent to the node that takes.

One task a node, whether it gives or takes. A failed task is tried again every second for ever, so
giving up means to cancel it, on the target. (Redis cluster_asm.c)
"""

from __future__ import annotations

import typing as t
from contextlib import suppress

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import KeyslotError
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
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Command, Reply
from ansible_collections.keyslot.redis.plugins.module_utils._server import text, to_map
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology

METHOD = "atomic"
STATUS: Command = ("CLUSTER", "MIGRATION", "STATUS", "ALL")
# Above 0 while a task is under way.
ACTIVE = ("cluster_slot_migration_active_tasks",)
# Refused for its slot number where it is permitted.
PROBE: Command = ("CLUSTER", "MIGRATION", "IMPORT", 16384, 16384)
RETRIES = 3
# A slot can't come back before its old keys are trimmed, and a node carries one task.
BUSY = ("already in progress", "trim", "overlapping import")
DENIED = ("NOPERM", "NOAUTH", "WRONGPASS", "AUTH", "unknown subcommand", "not allowed by module")


def unfit(cluster: Cluster, topology: Topology, move: Move) -> str | None:
    """Why it can't be taken here, or None."""
    return lacking(cluster, topology, move, "redis", "cluster|migration", [PROBE])


def probes(movement: Movement, gives: bool, takes: bool) -> list[Command]:
    """The target is asked to import; nobody else is told anything."""
    return [PROBE] if takes else []


def move(lane: Lane) -> None:
    """Moves the lane's slots. Raises KeyslotError; NotThisWay if another mover may do it."""
    move_in_jobs(_ENGINE, lane)


def jobs_of(reply: Reply) -> list[Job]:
    """The import tasks of a STATUS reply, newest first."""
    jobs = [_job(to_map(item)) for item in reply]
    found = sorted(jobs, key=lambda job: job[0], reverse=True)
    return [job for _created, operation, job in found if operation == "import"]


def _job(told: t.Mapping[str, t.Any]) -> tuple[int, str, Job]:
    state, retries = told["state"], int(told["retries"])
    job = Job(
        id=told["id"],
        source=told["source"],
        target=told["dest"],
        slots=parse_ranges(told["slots"]),
        state=state,
        over=state in ("completed", "canceled"),
        done=state == "completed",
        message=told["last_error"],
        progress=(state, retries),
        hopeless=state == "failed" and retries >= RETRIES,
    )
    return int(told["create_time"]), told["operation"], job


def _start(lane: Lane, slots: t.Sequence[int]) -> str:
    return text(lane.target.call("CLUSTER", "MIGRATION", "IMPORT", *ranges_of(slots)))


def _look(lane: Lane) -> list[Job]:
    """All of the target's: after a failover of the source it takes from the new owner."""
    return jobs_of(lane.target.call(*STATUS))


def _cancel(lane: Lane, job: Job) -> None:
    """On the target: cancelled on the source alone, the target would begin anew. Then on the
    source, which else keeps SETSLOT off until it notices."""
    command = ("CLUSTER", "MIGRATION", "CANCEL", "ID", job.id)
    if lane.target.call(*command):
        with suppress(KeyslotError):
            lane.source.call(*command)


def _verdict(job: Job) -> str:
    if any(word in job.message for word in BUSY):
        return "wait"
    if any(word in job.message for word in DENIED) or job.state == "failed":
        return "other way"
    # Cancelled by somebody, or by the engine because the cluster changed; refused for its state.
    return "again" if "flush" in job.message.lower() else "stop"


def _alone(lane: Lane) -> t.Sequence[str]:
    return (lane.move.source, lane.move.target)


# A node that has just lost all its slots to one that owns nothing else becomes its replica,
# whatever cluster-allow-replica-migration says.
_ENGINE = Engine(
    _start, _look, _cancel, _verdict, _alone, "total_net_repl_input_bytes", last_slot_alone=True
)
