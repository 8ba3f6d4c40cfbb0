# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""From a goal to a plan that can be carried out: settle what is open, plan, choose a way, check."""

from __future__ import annotations

import functools
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import KeyslotError, Refused
from ansible_collections.keyslot.redis.plugins.module_utils._lane import Movement, Mover
from ansible_collections.keyslot.redis.plugins.module_utils._movers import (
    classic,
    redis_atomic,
    valkey_atomic,
)
from ansible_collections.keyslot.redis.plugins.module_utils._movers._jobs import Job
from ansible_collections.keyslot.redis.plugins.module_utils._plan import (
    Goal,
    Move,
    apply,
    cap_moves,
    check_one_way,
    merge_moves,
    one_way,
    plan_size,
)
from ansible_collections.keyslot.redis.plugins.module_utils._preflight import (
    check_cluster,
    check_memory,
    check_nodes,
    check_present,
)
from ansible_collections.keyslot.redis.plugins.module_utils._repair import (
    check_nobody_moves,
    clear_on_replicas,
    clear_stale,
    count_keys,
    sort_open_slots,
    thaw_importers,
)
from ansible_collections.keyslot.redis.plugins.module_utils._slots import format_slots
from ansible_collections.keyslot.redis.plugins.module_utils._stray_keys import keys_in_the_way
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Topology,
    version_tuple,
)
from ansible_collections.keyslot.redis.plugins.module_utils._verdicts import Opened

MakeGoal = t.Callable[[Topology], tuple[Goal, Topology]]

# The engines' own ways: who has it, what is asked for its jobs, how the answer is read.
_ATOMIC = (
    ("redis", (8, 4), redis_atomic, redis_atomic.STATUS, redis_atomic.jobs_of),
    ("valkey", (9, 0), valkey_atomic, valkey_atomic.STATUS, valkey_atomic.jobs_of),
)
_ACTIVE = (*redis_atomic.ACTIVE, *valkey_atomic.ACTIVE)


@dataclass(frozen=True)
class Part:
    """Moves that one mover makes, all at once."""

    mover: Mover
    moves: t.Sequence[Move]


@dataclass(frozen=True)
class Plan:
    """What this run is to move.

    `running` are the engine's own jobs, found under way; `strays` bring keys to where their slots
    are, `adopted` finish open slots, in turns; `fresh` is the rest. They are carried out in this
    order. `left_out` counts the slots beyond `max_slots`; `key_counts` is slot -> keys; `warnings`
    say why a better way was not taken.
    """

    running: Part | None
    strays: Part
    adopted: tuple[Part, ...]
    fresh: Part
    left_out: int
    key_counts: t.Mapping[int, int]
    warnings: tuple[str, ...] = ()

    @property
    def parts(self) -> list[Part]:
        parts = (self.running, self.strays, *self.adopted, self.fresh)
        return [part for part in parts if part and part.moves]

    @property
    def found_open(self) -> frozenset[int]:
        parts = (self.strays, *self.adopted)
        return frozenset(slot for part in parts for move in part.moves for slot in move.slots)

    @property
    def moves(self) -> list[Move]:
        return merge_moves(
            (move.source, move.target, slot)
            for part in self.parts
            for move in part.moves
            for slot in move.slots
        )


@dataclass(frozen=True)
class Prepared:
    """The cluster as the plan found it, the open slots that there were, and how many stale markers
    were cleared for it."""

    topology: Topology
    plan: Plan
    opened: Opened
    cleared: int


def something_to_do(goal: Goal, topology: Topology) -> bool:
    """Whether a run would change anything, as far as the map of slots tells."""
    under_way = topology.open_slots or topology.left_on_replicas
    return bool(under_way or goal.moves(topology.owners))


def prepare(
    cluster: Cluster,
    make_goal: MakeGoal,
    movement: Movement,
    check_mode: bool,
    topology: Topology | None = None,
) -> Prepared:
    """Observes (unless given what was observed), settles what is open, plans and checks; changes
    nothing else.

    `make_goal` gets what was observed and may add nodes to it that are about to join (check mode).
    Raises OptionError or Refused.
    """
    goal, topology = make_goal(topology or cluster.observe_agreed())
    running = _running_jobs(cluster, topology, goal)
    opened = sort_open_slots(cluster, topology, goal)
    # Raises for a goal that can't be reached, before anything is cleared for it.
    goal.moves(apply(topology.owners, _begun(running, opened)))
    cleared = 0
    if not check_mode:
        cleared = clear_on_replicas(cluster, topology)
    if not check_mode and opened:
        topology = _settle(cluster, topology, opened, movement)
        cleared += len(opened.stale)
        goal, topology = make_goal(topology)
    if not (check_mode and (opened or goal.mends)):
        check_cluster(topology)
    plan = _make_plan(cluster, topology, goal, movement, running, opened)
    check_memory(topology, plan.moves, plan.key_counts)
    return Prepared(topology, plan, opened, cleared)


def _begun(running: Part | None, opened: Opened) -> list[Move]:
    """Moves that were found under way, by jobs and by open slots."""
    return [*(running.moves if running else ()), *merge_moves(opened.finish)]


def _settle(cluster: Cluster, topology: Topology, opened: Opened, movement: Movement) -> Topology:
    """Clears stale markers and heals what the open slots of the goal have put out of order."""
    check_nobody_moves(cluster, topology, [*opened.finish, *opened.strays])
    clear_stale(cluster, topology, opened.stale)
    if opened.stale:
        topology = cluster.observe()
    return thaw_importers(cluster, topology, opened.finish, opened.stale, movement.wait_timeout)


def _running_jobs(cluster: Cluster, topology: Topology, goal: Goal) -> Part | None:
    """The engine's own migrations under way that lead to the goal.

    Raises Refused for any other: somebody else is at work.
    """
    for family, version, mover, status, read in _ATOMIC:
        asked = [
            node_id
            for node_id, report in topology.reports.items()
            if report.family == family
            and version_tuple(report.version) >= version
            and topology.lines[node_id].is_primary
        ]
        pairs = []
        owners = list(topology.owners)
        for node_id, replies in cluster.tell(asked, [status]).items():
            if isinstance(replies, KeyslotError):
                raise replies
            told = replies[0]
            if isinstance(told, KeyslotError):
                _check_idle(topology, node_id, told)
                continue
            for job in read(told):
                if not job.over:
                    pairs += _pairs(topology, goal, job, node_id, owners)
        if pairs:
            return Part(mover, merge_moves(pairs))
    return None


def _check_idle(topology: Topology, node_id: str, denied: KeyslotError) -> None:
    """Raises Refused for a node that does not tell its jobs, but has one. SETSLOT would be refused
    by one side only, and the marker on the other one makes Redis ignore who gets the slot."""
    report = topology.reports[node_id]
    told = {**report.info, **report.cluster_info}
    if any(int(told.get(name, 0)) for name in _ACTIVE):
        raise Refused(
            f"the engine is moving slots from or to {topology.name(node_id)}, and does not say "
            f"which: {denied}. Nothing was changed: grant that, or wait for its end."
        )


def _pairs(
    topology: Topology, goal: Goal, job: Job, node_id: str, owners: list[str | None]
) -> list[tuple[str, str, int]]:
    source = job.source or node_id
    pairs = []
    for slot in sorted(job.slots):
        if owners[slot] == job.target:
            continue  # it has just been taken over
        if owners[slot] != source or not goal.finishes(slot, source, job.target, owners):
            raise Refused(
                f"the engine is moving slots {', '.join(format_slots(job.slots))} from "
                f"{topology.name(source)} to {topology.name(job.target)} ({job.state}), which is "
                "not what this run is to do. Nothing was changed: wait for its end, run what "
                "started it again, or cancel it."
            )
        owners[slot] = job.target
        pairs.append((source, job.target, slot))
    return pairs


def _make_plan(
    cluster: Cluster,
    topology: Topology,
    goal: Goal,
    movement: Movement,
    running: Part | None,
    opened: Opened,
) -> Plan:
    """What is under way first, before threshold and caps are asked.

    Raises Refused where a node that is concerned is not fit for its part.
    """
    begun = _begun(running, opened)
    fresh = goal.moves(apply(topology.owners, begun))
    wanted = plan_size(fresh)
    if goal.max_slots:
        fresh = cap_moves(fresh, max(0, goal.max_slots - plan_size(begun)))
    strays = merge_moves(opened.strays)
    if not goal.mends:
        check_one_way([*begun, *fresh], topology.name)
    check_present(topology, [*strays, *begun, *fresh])
    mover, warnings = _choose_mover(cluster, topology, fresh, movement)
    if mover is not classic:
        _check_nothing_hidden(cluster, topology, fresh)
    plan = Plan(
        running=running,
        strays=Part(classic, strays),
        adopted=tuple(Part(classic, turn) for turn in one_way(merge_moves(opened.finish))),
        fresh=Part(mover, fresh),
        left_out=wanted - plan_size(fresh),
        key_counts={},
        warnings=warnings,
    )
    for part in plan.parts:
        probes = functools.partial(part.mover.probes, movement)
        check_nodes(cluster, topology, part.moves, probes)
    return replace(plan, key_counts=_count_keys(cluster, topology, plan.moves))


def _check_nothing_hidden(cluster: Cluster, topology: Topology, moves: t.Sequence[Move]) -> None:
    """Before it takes slots by the engine's way Redis deletes what a target still holds of them,
    and Valkey 9.1 ends with an assertion (kvstore.c)."""
    slots: dict[str, list[int]] = {}
    for move in moves:
        slots.setdefault(move.target, []).extend(move.slots)
    for node_id, keys in keys_in_the_way(cluster, topology, slots).items():
        if isinstance(keys, KeyslotError):
            raise keys
        raise Refused(
            f"{topology.name(node_id)} holds {keys} keys outside its slots, which clients can't "
            "see, and could lose them when the engine moves slots to it. Nothing was moved: repair "
            "it with keyslot.redis.redis_cluster_fix, and do not restart that node."
        )


def _count_keys(cluster: Cluster, topology: Topology, moves: t.Sequence[Move]) -> dict[int, int]:
    slots: dict[str, list[int]] = {}
    for move in moves:
        slots.setdefault(move.source, []).extend(move.slots)
    counts: dict[int, int] = {}
    for found in cluster.each(
        slots, lambda node_id: count_keys(cluster, topology, node_id, slots[node_id])
    ).values():
        if isinstance(found, KeyslotError):
            raise found
        for slot, count in found.items():
            counts[slot] = counts.get(slot, 0) + count
    return counts


def _choose_mover(
    cluster: Cluster, topology: Topology, moves: t.Sequence[Move], movement: Movement
) -> tuple[Mover, tuple[str, ...]]:
    """One way for all lanes: an open slot on a node keeps the engine from moving any of its slots.

    Raises Refused if the engine's own way was asked for, but can't be taken.
    """
    if movement.method == "classic" or not moves:
        return classic, ()
    family = topology.reports[moves[0].source].family
    mover = next(entry[2] for entry in _ATOMIC if entry[0] == family)
    reasons = [
        reason for move in moves for reason in (mover.unfit(cluster, topology, move),) if reason
    ]
    if not reasons:
        return mover, ()
    if movement.method == "atomic":
        raise Refused(
            f"atomic migration was asked for, but {reasons[0]}. Nothing was changed: set method to "
            "'auto' or 'classic', or change that."
        )
    unexpected = [reason for reason in reasons if "has no CLUSTER" not in reason]
    return classic, tuple(f"The classic way is taken: {reason}." for reason in unexpected[:1])
