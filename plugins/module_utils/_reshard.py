# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Carries out a goal: prepare, move in lanes, verify, report."""

from __future__ import annotations

import functools
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ansible_collections.keyslot.redis.plugins.module_utils import _slice
from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster, told_ok
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    KeyslotError,
    NotThisWay,
    Stopped,
)
from ansible_collections.keyslot.redis.plugins.module_utils._estimate import seconds_of
from ansible_collections.keyslot.redis.plugins.module_utils._lane import (
    Busy,
    Bystanders,
    Donor,
    Lane,
    Movement,
    Taker,
    Tally,
)
from ansible_collections.keyslot.redis.plugins.module_utils._lock import Lock, at_work
from ansible_collections.keyslot.redis.plugins.module_utils._movers import classic
from ansible_collections.keyslot.redis.plugins.module_utils._plan import Move
from ansible_collections.keyslot.redis.plugins.module_utils._preflight import check_nodes
from ansible_collections.keyslot.redis.plugins.module_utils._prepare import (
    MakeGoal,
    Part,
    Plan,
    Prepared,
    prepare,
    something_to_do,
)
from ansible_collections.keyslot.redis.plugins.module_utils._repair import (
    clear_on_replicas,
    databases_of,
)
from ansible_collections.keyslot.redis.plugins.module_utils._slots import format_slots
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology
from ansible_collections.keyslot.redis.plugins.module_utils._verdicts import Opened

MAX_LANES = 16
DEFAULT_NODE_TIMEOUT_MS = 15000


@dataclass
class Outcome:
    """What a run did, or in check mode would do, and the error that ended it early, if any.

    `estimate` and `moving` are the seconds that it would take and took to move; `fell_back` says
    that the engine's own way was tried in vain, `keeper` who keeps the run's place for the next
    slice.
    """

    before: Topology
    plan: Plan
    lanes: list[Lane] = field(default_factory=list)
    opened: Opened = field(default_factory=Opened)
    cleared: int = 0
    elapsed: float = 0.0
    tally: Tally = field(default_factory=Tally)
    error: KeyslotError | None = None
    estimate: float = 0.0
    moving: float = 0.0
    fell_back: bool = False
    keeper: str = ""

    @property
    def slots_left(self) -> set[int]:
        """Slots of the plan that have not moved, or not all of their way."""
        planned = {(m.source, m.target, slot) for m in self.plan.moves for slot in m.slots}
        done = {(la.move.source, la.move.target, s) for la in self.lanes for s in la.slots_done}
        return {slot for _source, _target, slot in planned - done}


def reshard(cluster: Cluster, make_goal: MakeGoal, movement: Movement, check_mode: bool) -> Outcome:
    """Reaches the goal, or says in the outcome how far it came.

    Raises KeyslotError as long as nothing has been moved.
    """
    started = time.monotonic()
    tally = Tally()
    topology = cluster.observe_agreed()
    if check_mode or not something_to_do(*make_goal(topology)):
        outcome = _planned(prepare(cluster, make_goal, movement, True, topology), tally)
    else:
        with at_work(cluster, topology, tally.warn) as lock:
            # Only now is it sure that nobody else changes what is planned for.
            outcome = _planned(prepare(cluster, make_goal, movement, False), tally)
            _carry_out(cluster, outcome, movement, started, lock)
    outcome.elapsed = time.monotonic() - started
    return outcome


def _planned(prepared: Prepared, tally: Tally) -> Outcome:
    for warning in prepared.plan.warnings:
        tally.warn(warning)
    return Outcome(
        prepared.topology,
        prepared.plan,
        opened=prepared.opened,
        cleared=prepared.cleared,
        tally=tally,
    )


def _carry_out(
    cluster: Cluster, outcome: Outcome, movement: Movement, started: float, lock: Lock
) -> None:
    """All of the plan. A slice does what it can in its time, nothing if it is the first of many,
    and has its place kept for the next one."""
    part = _slice.current()
    if part and not part.last:
        started = time.monotonic()
    outcome.estimate = _estimate(outcome, movement)
    waits = part and part.first and outcome.estimate > movement.max_seconds
    if outcome.plan.moves and not waits:
        outcome.error = _execute(cluster, outcome, movement, started, lock)
    if outcome.slots_left and not outcome.error:
        outcome.error = lock.error
        if part and not part.last and not outcome.error:
            outcome.keeper = lock.leave_keeper(part.keep)


def _estimate(outcome: Outcome, movement: Movement) -> float:
    plan, pause, size = outcome.plan, movement.max_pause_ms, movement.batch_size
    moves = [(move, part.mover.METHOD) for part in plan.parts for move in part.moves]
    return seconds_of(outcome.before, moves, plan.key_counts, pause, size)


def _execute(
    cluster: Cluster, outcome: Outcome, movement: Movement, started: float, lock: Lock
) -> KeyslotError | None:
    """Runs the plan's parts in turn, and waits until all nodes know the new owners.

    What was found under way goes first: open slots keep the engine from jobs, its jobs keep
    SETSLOT off, and whoever waits for late keys of an earlier run must not wait for those of this.
    """
    began = time.monotonic()
    try:
        error = _run_parts(cluster, outcome, movement, started, lock)
    finally:
        outcome.moving = time.monotonic() - began
    return error or _agree(cluster, outcome, movement)


def _run_parts(
    cluster: Cluster, outcome: Outcome, movement: Movement, started: float, lock: Lock
) -> KeyslotError | None:
    with Bystanders(cluster, outcome.before, outcome.tally) as bystanders:
        make_lane = _lane_maker(cluster, outcome, movement, started, bystanders, lock)
        error = _wait_for_late_keys(outcome.plan, make_lane)
        if error:
            return error
        for part in outcome.plan.parts:
            if part in outcome.plan.adopted[1:]:
                # Nodes change their parts as giver and taker: the last turn has to be settled.
                error = _agree(cluster, outcome, movement)
                if error:
                    return error
            lanes = [make_lane(part, move) for move in part.moves]
            outcome.lanes += lanes
            error, given_up = _run_lanes(part, lanes)
            if given_up and not error:
                error = _finish_classic(outcome, make_lane, given_up)
            if error:
                return error
    return None


def _wait_for_late_keys(
    plan: Plan, make_lane: t.Callable[[Part, Move], Lane]
) -> KeyslotError | None:
    """Before this run sends any: its own can't be told from those of an earlier one."""
    try:
        for part in (plan.strays, *plan.adopted):
            for move in part.moves:
                classic.wait_for_late_restores(make_lane(part, move))
    except KeyslotError as exc:
        return exc
    return None


def _agree(cluster: Cluster, outcome: Outcome, movement: Movement) -> KeyslotError | None:
    try:
        _wait_for_owners(cluster, outcome, movement)
    except KeyslotError as exc:
        return exc
    return None


def _lane_maker(
    cluster: Cluster,
    outcome: Outcome,
    movement: Movement,
    started: float,
    bystanders: Bystanders,
    lock: Lock,
) -> t.Callable[[Part, Move], Lane]:
    topology, plan = outcome.before, outcome.plan
    donors = {move.source: Donor(len(topology.slots[move.source])) for move in plan.moves}
    takers = {move.target: Taker() for move in plan.moves}
    busy = Busy()
    done_at = started + movement.max_seconds if movement.max_seconds else None
    part_of_run = _slice.current()

    def make(part: Part, move: Move) -> Lane:
        return Lane(
            cluster=cluster,
            topology=topology,
            move=move,
            movement=movement,
            tally=outcome.tally,
            donor=donors[move.source],
            taker=takers[move.target],
            busy=busy,
            key_counts=plan.key_counts,
            adopted=plan.found_open,
            databases=databases_of(cluster, topology, move.source),
            bystanders=bystanders,
            node_timeout=_node_timeout(topology, move),
            method=part.mover.METHOD,
            stray=part is plan.strays,
            done_at=done_at,
            leaves_jobs=bool(part_of_run and not part_of_run.last),
            unlocked=lock.lost,
        )

    return make


def _finish_classic(
    outcome: Outcome,
    make_lane: t.Callable[[Part, Move], Lane],
    given_up: t.Sequence[tuple[Lane, NotThisWay]],
) -> KeyslotError | None:
    """What the engine's own way could not do, slot by slot, with a warning that says why."""
    lane, reason = given_up[0]
    if lane.movement.method == "atomic":
        return Stopped(f"{reason} Run it again, or set method to 'auto' or 'classic'.")
    moves = [Move(la.move.source, la.move.target, la.slots_left) for la, _reason in given_up]
    try:
        probes = functools.partial(classic.probes, lane.movement)
        check_nodes(lane.cluster, lane.topology, moves, probes)
    except KeyslotError as exc:
        return Stopped(f"{reason} The classic way can't be taken either: {exc}")
    outcome.fell_back = True
    for _lane, why in given_up:
        outcome.tally.warn(f"{why} The rest was moved the classic way.")
    part = Part(classic, moves)
    lanes = [make_lane(part, move) for move in moves]
    outcome.lanes += lanes
    return _run_lanes(part, lanes)[0]


def _node_timeout(topology: Topology, move: Move) -> float:
    """Seconds; the shorter one of source and target."""
    reports = (topology.reports[move.source], topology.reports[move.target])
    told = (r.config.get("cluster-node-timeout", DEFAULT_NODE_TIMEOUT_MS) for r in reports)
    return min(int(value) for value in told) / 1000


def _run_lanes(
    part: Part, lanes: t.Sequence[Lane]
) -> tuple[KeyslotError | None, list[tuple[Lane, NotThisWay]]]:
    """Returns the first lane's error, after which the other lanes end at the next slot's boundary,
    and the lanes that another mover has to finish. What is no KeyslotError is raised, when they
    have ended."""
    errors: list[KeyslotError] = []
    given_up: list[tuple[Lane, NotThisWay]] = []

    def run(lane: Lane) -> None:
        began = time.monotonic()
        try:
            part.mover.move(lane)
        except NotThisWay as exc:
            given_up.append((lane, exc))
        except Exception as exc:
            for other in lanes:
                other.halted.set()
            if not isinstance(exc, KeyslotError):
                raise
            errors.append(exc)
        finally:
            lane.elapsed = time.monotonic() - began

    with ThreadPoolExecutor(min(len(lanes), MAX_LANES), thread_name_prefix="lane") as threads:
        list(threads.map(run, lanes))
    return (errors[0] if errors else None), given_up


def _take_back(cluster: Cluster, topology: Topology, lost: t.Mapping[int, str]) -> list[int]:
    """Gives the slots that nobody serves to their targets once more; returns those.

    Redis 7.0.13 to 7.2.3: an owner can still bear the mark that its predecessor claims the slot no
    more. It then yields to any late claim of an old owner, which does not want it (redis #12564),
    and deletes its keys (clusterUpdateSlotsConfigWith in cluster.c).
    """
    taken = []
    for slot, target in lost.items():
        reached = target in topology.reports and topology.lines[target].is_primary
        if topology.owners[slot] is None and reached:
            cluster.server(target).call("CLUSTER", "SETSLOT", slot, "NODE", target)
            taken.append(slot)
    return taken


def _wait_for_owners(cluster: Cluster, outcome: Outcome, movement: Movement) -> None:
    """Until every node that can be asked says that the targets own what they were given.

    Raises NotConverged after `wait_timeout` seconds, Stopped for slots that are open still, or that
    had keys and were lost in between.
    """
    lanes = [lane for lane in outcome.lanes if not lane.stray]
    given = {slot: lane.move.target for lane in lanes for slot in lane.slots_done}
    taken_back: set[int] = set()

    def still_wrong(topology: Topology) -> str | None:
        lost = {slot: node for slot, node in given.items() if topology.owners[slot] != node}
        taken_back.update(_take_back(cluster, topology, lost))
        if lost:
            return f"slots {', '.join(format_slots(lost))} are not with their new owners"
        wrong = told_ok(topology)
        if not wrong and clear_on_replicas(cluster, topology):
            return "replicas still have markers of slots that have moved"
        return wrong

    after = cluster.wait(movement.wait_timeout, still_wrong, "agreement on the new owners")
    still_open = sorted({marker.slot for marker in after.open_slots}.intersection(given))
    if still_open:
        raise Stopped(
            f"slots {', '.join(format_slots(still_open))} have moved, but are still marked as "
            "open. Run it again, or keyslot.redis.redis_cluster_fix."
        )
    at_risk = [slot for slot in taken_back if outcome.plan.key_counts[slot]]
    if at_risk:
        raise Stopped(
            f"slots {', '.join(format_slots(at_risk))} have moved, but their new owner has lost "
            "them in between to a late message of an old one. They have been given back to it; "
            "their keys may be gone, because Redis 7.0.13 to 7.2.3 deletes them then. Compare "
            "them with a backup, and update Redis."
        )
