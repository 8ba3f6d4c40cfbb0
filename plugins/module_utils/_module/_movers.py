# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""What the movers share: a goal to a result, in success, failure and check mode alike."""

from __future__ import annotations

import dataclasses
import typing as t
from types import MappingProxyType

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils import _slice
from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import OptionError
from ansible_collections.keyslot.redis.plugins.module_utils._estimate import bytes_of
from ansible_collections.keyslot.redis.plugins.module_utils._lane import Lane, Movement
from ansible_collections.keyslot.redis.plugins.module_utils._lock import end_keeper
from ansible_collections.keyslot.redis.plugins.module_utils._module._common import (
    Params,
    run_module,
)
from ansible_collections.keyslot.redis.plugins.module_utils._module._diff import diff_of
from ansible_collections.keyslot.redis.plugins.module_utils._plan import Goal, Move, plan_size
from ansible_collections.keyslot.redis.plugins.module_utils._reshard import Outcome, reshard
from ansible_collections.keyslot.redis.plugins.module_utils._slots import format_slots
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology

# The result of a run that failed before it moved anything; what is left was not counted then.
_NOTHING_DONE: dict[str, t.Any] = {
    "changed": False,
    "finished": False,
    "moves": [],
    "slots_moved": 0,
    "slots_left": None,
    "keys_moved": 0,
    "longest_pause_ms": 0.0,
    "elapsed": 0.0,
}

GoalMaker = t.Callable[[Cluster, Params, Topology, bool], tuple[Goal, Topology]]


def run_mover(module: AnsibleModule, make_goal: GoalMaker) -> None:
    """One run of a mover. `make_goal` gets cluster, options, topology and whether it is check
    mode; it returns the goal, and the topology with nodes that are about to join."""

    def body(cluster: Cluster, params: Params, movement: Movement) -> dict[str, t.Any]:
        outcome = reshard(
            cluster,
            lambda topology: make_goal(cluster, params, topology, module.check_mode),
            movement,
            module.check_mode,
        )
        result = result_of(outcome, module.check_mode)
        if module._diff:
            moves = outcome.plan.moves if module.check_mode else moves_done(outcome)
            result["diff"] = diff_of(outcome.before, moves, outcome.plan.key_counts)
        return result

    run_moving(module, body)


def run_moving(
    module: AnsibleModule,
    body: t.Callable[[Cluster, Params, Movement], dict[str, t.Any]],
    more_undone: t.Mapping[str, t.Any] = MappingProxyType({}),
) -> None:
    """One run of any module that has movement options. If it fails before it has moved anything,
    the result says so in the fields of a mover, and in those of `more_undone`."""

    def run(cluster: Cluster, params: Params) -> dict[str, t.Any]:
        names = [item.name for item in dataclasses.fields(Movement)]
        movement = Movement(**{name: params[name] for name in names})
        try:
            _check(movement)
            return body(cluster, params, movement)
        finally:
            end_keeper()

    run_module(module, run, {**_NOTHING_DONE, **more_undone})


def _check(movement: Movement) -> None:
    """Raises OptionError for a number that makes no sense."""
    for name, least in (("max_pause_ms", 0.1), ("batch_size", 1)):
        if not getattr(movement, name) >= least:
            raise OptionError(f"{name} must be {least} or more, not {getattr(movement, name):g}.")
    for name in ("big_key_bytes", "wait_timeout", "max_seconds", "progress_interval"):
        if not getattr(movement, name) >= 0:
            raise OptionError(f"{name} can't be below 0: it is {getattr(movement, name):g}.")


def moves_done(outcome: Outcome) -> list[Move]:
    """What the lanes have moved."""
    return [
        Move(lane.move.source, lane.move.target, tuple(sorted(lane.slots_done)))
        for lane in outcome.lanes
        if lane.slots_done
    ]


def result_of(outcome: Outcome, check_mode: bool) -> dict[str, t.Any]:
    """The fields that all movers return, but for the diff."""
    planned = plan_size(outcome.plan.moves)
    moved = plan_size(moves_done(outcome))
    left = planned - moved + outcome.plan.left_out
    result: dict[str, t.Any] = {
        "changed": bool(planned if check_mode else moved or outcome.cleared or _keys(outcome)),
        "finished": left == 0 and outcome.error is None,
        "moves": _planned(outcome) if check_mode else _done(outcome),
        "slots_moved": moved,
        "slots_left": left,
        "keys_moved": _keys(outcome),
        "longest_pause_ms": round(outcome.tally.longest_pause * 1000, 3),
        "elapsed": round(outcome.elapsed, 3),
        "warnings": outcome.tally.warnings,
    }
    if outcome.error is not None:
        result.update(failed=True, msg=str(outcome.error))
    part = _slice.current()
    if part and not check_mode:
        result[_slice.FIELD] = _slice.seal(_told(outcome, result, part))
    return result


def _going(lane: Lane) -> dict[str, t.Any]:
    """What may be done before the next slice looks."""
    move = Move(lane.move.source, lane.move.target, lane.slots_going)
    return _entry(move, sum(lane.key_counts[slot] for slot in move.slots), lane.method, 0.0)


def _told(outcome: Outcome, result: t.Mapping[str, t.Any], part: _slice.Slice) -> dict[str, t.Any]:
    """What the action plugin goes on with; in the result itself core masks what looks like the
    password."""
    plan, topology = outcome.plan, outcome.before
    told: dict[str, t.Any] = {
        **{name: result[name] for name in _NOTHING_DONE},
        "todo": format_slots(outcome.slots_left),
        "going": [_going(lane) for lane in outcome.lanes if lane.slots_going],
        "moving": outcome.moving,
        "fell_back": outcome.fell_back,
        "keeper": outcome.keeper,
    }
    if part.first:
        sizes = (bytes_of(topology, move, plan.key_counts) for move in plan.moves)
        told["plan"] = {
            "moves": _planned(outcome),
            "names": {line.id: topology.name(line.id) for line in topology.primaries},
            "bytes": int(sum(sizes)),
            "seconds": outcome.estimate,
        }
    return told


def _keys(outcome: Outcome) -> int:
    return sum(lane.keys_moved for lane in outcome.lanes)


def _planned(outcome: Outcome) -> list[dict[str, t.Any]]:
    counts = outcome.plan.key_counts
    return [
        _entry(move, sum(counts[slot] for slot in move.slots), part.mover.METHOD, 0.0)
        for part in outcome.plan.parts
        for move in part.moves
    ]


def _done(outcome: Outcome) -> list[dict[str, t.Any]]:
    entries = []
    for lane in outcome.lanes:
        if lane.slots_done or lane.keys_moved:
            move = Move(lane.move.source, lane.move.target, tuple(lane.slots_done))
            entries.append(_entry(move, lane.keys_moved, lane.method, lane.elapsed))
    return entries


def _entry(move: Move, key_count: int, method: str, elapsed: float) -> dict[str, t.Any]:
    return {
        "source": move.source,
        "target": move.target,
        "slots": format_slots(move.slots),
        "slot_count": len(move.slots),
        "key_count": key_count,
        "method": method,
        "elapsed": round(elapsed, 3),
    }
