# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Carries out a goal: observe, settle what is open, plan, check, move in lanes, verify, report."""

from __future__ import annotations

import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster, told_ok
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    KeyslotError,
    Refused,
    Stopped,
)
from ansible_collections.keyslot.redis.plugins.module_utils._lane import (
    Donor,
    Lane,
    Movement,
    Mover,
    Taker,
    Tally,
)
from ansible_collections.keyslot.redis.plugins.module_utils._movers import classic
from ansible_collections.keyslot.redis.plugins.module_utils._plan import (
    Goal,
    Move,
    apply,
    cap_moves,
    check_one_way,
    merge_moves,
    plan_size,
)
from ansible_collections.keyslot.redis.plugins.module_utils._preflight import (
    check_cluster,
    check_memory,
    check_nodes,
)
from ansible_collections.keyslot.redis.plugins.module_utils._repair import (
    Opened,
    check_nobody_moves,
    clear_stale,
    count_keys,
    databases_of,
    sort_open_slots,
    thaw_importers,
)
from ansible_collections.keyslot.redis.plugins.module_utils._slots import format_slots
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology

MAX_LANES = 16
DEFAULT_NODE_TIMEOUT_MS = 15000

MakeGoal = t.Callable[[Topology], tuple[Goal, Topology]]


@dataclass(frozen=True)
class Plan:
    """What this run is to move.

    `adopted` finish open slots and come first; `left_out` counts the slots beyond `max_slots`;
    `key_counts` is slot -> keys.
    """

    adopted: t.Sequence[Move]
    fresh: t.Sequence[Move]
    left_out: int
    key_counts: t.Mapping[int, int]

    @property
    def moves(self) -> list[Move]:
        return merge_moves(
            (move.source, move.target, slot)
            for move in (*self.adopted, *self.fresh)
            for slot in move.slots
        )


@dataclass
class Outcome:
    """What a run did, or in check mode would do, and the error that ended it early, if any."""

    before: Topology
    plan: Plan
    lanes: list[Lane] = field(default_factory=list)
    cleared: int = 0
    elapsed: float = 0.0
    tally: Tally = field(default_factory=Tally)
    error: KeyslotError | None = None


def reshard(cluster: Cluster, make_goal: MakeGoal, movement: Movement, check_mode: bool) -> Outcome:
    """Reaches the goal, or says in the outcome how far it came.

    `make_goal` gets what was observed and may add nodes to it that are about to join (check mode).
    Raises KeyslotError as long as nothing has been changed.
    """
    started = time.monotonic()
    goal, topology = make_goal(cluster.observe())
    opened = sort_open_slots(cluster, topology, goal)
    cleared = 0
    if not check_mode:
        topology, cleared = _settle(cluster, topology, opened, movement)
        goal, topology = make_goal(topology)
    if not (check_mode and (opened.finish or opened.stale)):
        check_cluster(topology)
    plan = make_plan(cluster, topology, goal, opened, movement)
    check_memory(topology, plan.moves, plan.key_counts)
    outcome = Outcome(topology, plan, cleared=cleared)
    if not check_mode and plan.moves:
        _execute(cluster, outcome, movement, started)
    outcome.elapsed = time.monotonic() - started
    return outcome


def _settle(
    cluster: Cluster, topology: Topology, opened: Opened, movement: Movement
) -> tuple[Topology, int]:
    """Clears stale markers and heals what the open slots of the goal have put out of order."""
    if not (opened.finish or opened.stale):
        return topology, 0
    check_nobody_moves(cluster, topology, opened.finish)
    clear_stale(cluster, topology, opened.stale)
    if opened.stale:
        topology = cluster.observe()
    topology = thaw_importers(cluster, topology, opened.finish, opened.stale, movement.wait_timeout)
    return topology, len(opened.stale)


def make_plan(
    cluster: Cluster, topology: Topology, goal: Goal, opened: Opened, movement: Movement
) -> Plan:
    """Open slots of the goal first, before threshold and caps are asked.

    Raises Refused where a node that is concerned is not fit for it.
    """
    adopted = merge_moves(opened.finish)
    fresh = goal.moves(apply(topology.owners, adopted))
    wanted = plan_size(fresh)
    if goal.max_slots:
        fresh = cap_moves(fresh, max(0, goal.max_slots - plan_size(adopted)))
    check_one_way([*adopted, *fresh], topology.name)
    check_nodes(cluster, topology, [*adopted, *fresh], movement)
    slots: dict[str, list[int]] = {}
    for move in (*adopted, *fresh):
        slots.setdefault(move.source, []).extend(move.slots)
    counts: dict[int, int] = {}
    for found in cluster.each(
        slots, lambda node_id: count_keys(cluster, topology, node_id, slots[node_id])
    ).values():
        if isinstance(found, KeyslotError):
            raise found
        counts.update(found)
    return Plan(adopted, fresh, wanted - plan_size(fresh), counts)


def choose_mover(lane: Lane) -> Mover:
    """The first way that can be taken here."""
    if lane.movement.method == "atomic":
        raise Refused(
            f"atomic migration was asked for, but {lane.name} can only move slots the classic way. "
            "Nothing was changed: set method to 'auto' or 'classic'."
        )
    return classic


def _execute(cluster: Cluster, outcome: Outcome, movement: Movement, started: float) -> None:
    """Runs the lanes, all at once, and waits until all nodes know the new owners.

    Slots that were found open go first: whoever waits for late keys of an earlier run on a target
    must not wait for those of this run.
    """
    donors, takers = _shared(outcome)
    done_at = started + movement.max_seconds if movement.max_seconds else None
    adopted = frozenset(slot for move in outcome.plan.adopted for slot in move.slots)
    for moves in (outcome.plan.adopted, outcome.plan.fresh):
        lanes = [
            Lane(
                cluster=cluster,
                topology=outcome.before,
                move=move,
                movement=movement,
                tally=outcome.tally,
                donor=donors[move.source],
                taker=takers[move.target],
                key_counts=outcome.plan.key_counts,
                adopted=adopted,
                databases=databases_of(cluster, outcome.before, move.source),
                bystanders=_bystanders(outcome.before, move),
                node_timeout=_node_timeout(outcome.before, move),
                done_at=done_at,
            )
            for move in moves
        ]
        outcome.lanes += lanes
        outcome.error = _run_lanes(lanes)
        if outcome.error:
            return
    try:
        _wait_for_owners(cluster, outcome, movement)
    except KeyslotError as exc:
        outcome.error = exc


def _shared(outcome: Outcome) -> tuple[dict[str, Donor], dict[str, Taker]]:
    moves = outcome.plan.moves
    donors = {move.source: Donor(len(outcome.before.slots[move.source])) for move in moves}
    return donors, {move.target: Taker() for move in moves}


def _bystanders(topology: Topology, move: Move) -> list[str]:
    others = (line.id for line in topology.primaries if line.id in topology.reports)
    return [node_id for node_id in others if node_id not in (move.source, move.target)]


def _node_timeout(topology: Topology, move: Move) -> float:
    """Seconds; the shorter one of source and target."""
    reports = (topology.reports[move.source], topology.reports[move.target])
    told = (r.config.get("cluster-node-timeout", DEFAULT_NODE_TIMEOUT_MS) for r in reports)
    return min(int(value) for value in told) / 1000


def _run_lanes(lanes: t.Sequence[Lane]) -> KeyslotError | None:
    """Returns the first lane's error; the other lanes then end at the next slot's boundary."""
    if not lanes:
        return None
    errors: list[KeyslotError] = []

    def run(lane: Lane) -> None:
        began = time.monotonic()
        try:
            choose_mover(lane).move(lane)
        except KeyslotError as exc:
            errors.append(exc)
            for other in lanes:
                other.halted.set()
        finally:
            lane.elapsed = time.monotonic() - began

    with ThreadPoolExecutor(min(len(lanes), MAX_LANES), thread_name_prefix="lane") as threads:
        list(threads.map(run, lanes))
    return errors[0] if errors else None


def _wait_for_owners(cluster: Cluster, outcome: Outcome, movement: Movement) -> None:
    """Until every node that can be asked says that the targets own what they were given."""
    given = {slot: lane.move.target for lane in outcome.lanes for slot in lane.slots_done}

    def still_wrong(topology: Topology) -> str | None:
        lost = [slot for slot, target in given.items() if topology.owners[slot] != target]
        if lost:
            return f"slots {', '.join(format_slots(lost))} are not with their new owners"
        return told_ok(topology)

    after = cluster.wait(movement.wait_timeout, still_wrong, "agreement on the new owners")
    still_open = sorted({marker.slot for marker in after.open_slots}.intersection(given))
    if still_open:
        raise Stopped(
            f"slots {', '.join(format_slots(still_open))} have moved, but are still marked as "
            "open. Run it again, or keyslot.redis.redis_cluster_fix."
        )
