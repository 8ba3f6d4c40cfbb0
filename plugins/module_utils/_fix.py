# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Repairs a cluster: first who owns what, then keys that stand beside, then slots that are open.

Each of these steps leaves, wherever it is cut off, what the next run finds and finishes.
"""

from __future__ import annotations

import time
import typing as t
from collections import Counter
from dataclasses import dataclass, field, replace

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster, told_ok
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    KeyslotError,
    NotConverged,
    ReplyError,
    Stopped,
)
from ansible_collections.keyslot.redis.plugins.module_utils._lane import Movement
from ansible_collections.keyslot.redis.plugins.module_utils._lock import at_work
from ansible_collections.keyslot.redis.plugins.module_utils._plan import FixGoal, Goal
from ansible_collections.keyslot.redis.plugins.module_utils._preflight import (
    check_allowed,
    check_cluster,
)
from ansible_collections.keyslot.redis.plugins.module_utils._prepare import MakeGoal, prepare
from ansible_collections.keyslot.redis.plugins.module_utils._repair import (
    check_nobody_moves,
    clear_on_replicas,
    let_old_news_pass,
)
from ansible_collections.keyslot.redis.plugins.module_utils._reshard import Outcome, reshard
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Command
from ansible_collections.keyslot.redis.plugins.module_utils._slots import format_slots
from ansible_collections.keyslot.redis.plugins.module_utils._stray_keys import (
    held_keys,
    keys_outside,
    locate,
)
from ansible_collections.keyslot.redis.plugins.module_utils._topology import OpenSlot, Topology
from ansible_collections.keyslot.redis.plugins.module_utils._verdicts import (
    Opened,
    Ownership,
    Repair,
    concerned_slots,
    describe_opened,
    plan_ownership,
)

PATIENCE = 3.0  # seconds that news may take to come round by itself
SLOTS_AT_ONCE = 64
# Owners that have just been made need longer than those that a lane finds: a late message of theirs
# costs keys, and a repair has time.
SETTLED_SECONDS = 2.0


@dataclass
class Fixed:
    """What was found and put right; in check mode, what would be."""

    before: Topology
    outcome: Outcome
    ownership: Ownership = field(default_factory=Ownership)
    repairs: list[Repair] = field(default_factory=list)


def fix(cluster: Cluster, on_uncovered: str, movement: Movement, check_mode: bool) -> Fixed:
    """Puts the cluster in order, or says in the outcome how far it came.

    Raises KeyslotError; its `details` tell what was put right before.
    """
    started = time.monotonic()
    topology = _when_settled(cluster)
    _check_nobody_works(cluster, topology)
    ownership, repairs = _plan_ownership(cluster, topology, on_uncovered, probe=False)
    # Everything is checked as if it had been done, before anything is.
    planned = prepare(cluster, _as_if(topology, ownership), movement, check_mode=True)
    repairs += describe_opened(planned.topology, planned.opened)
    repairs += _on_replicas(topology)
    if not repairs and not planned.plan.moves:
        check_cluster(topology)
    outcome = Outcome(topology, planned.plan, opened=planned.opened)
    if repairs and not check_mode:
        _check_allowed(cluster, topology, ownership)
        done = Fixed(topology, outcome)
        try:
            with at_work(cluster, topology, outcome.tally.warn):
                _repair(cluster, done, on_uncovered, movement)
        except KeyslotError as exc:
            raise _told(exc, done) from None
        done.outcome.elapsed = time.monotonic() - started
        return done
    outcome.elapsed = time.monotonic() - started
    return Fixed(topology, outcome, ownership, repairs)


def _told(exc: KeyslotError, done: Fixed) -> KeyslotError:
    """The error, which may say that nothing was changed, with what was put right before."""
    if not done.repairs:
        return exc
    told = str(exc).replace("Nothing was changed:", "Nothing more was changed:")
    return Stopped(told, **{**exc.details, "changed": True, "repairs": done.repairs})


def _repair(cluster: Cluster, done: Fixed, on_uncovered: str, movement: Movement) -> None:
    """All changes are made in here."""
    topology = cluster.observe()
    ownership, repairs = _plan_ownership(cluster, topology, on_uncovered, probe=True)
    done.ownership = ownership
    if ownership or repairs:
        _own(cluster, topology, ownership, movement.wait_timeout)
        done.repairs += repairs
        cluster.wait(movement.wait_timeout, told_ok, "agreement on the owners of all slots")
        _guard(cluster, topology, ownership.guards, movement.wait_timeout)
    done.outcome = reshard(cluster, _goal, movement, check_mode=False)
    done.repairs += describe_opened(done.outcome.before, _finished(done.outcome))
    if done.outcome.error is None and not _left(done.outcome):
        _wait_until_closed(cluster, movement.wait_timeout)
        done.repairs += _on_replicas(done.before)


def _when_settled(cluster: Cluster) -> Topology:
    """News of a move that has just ended may still be on their way."""
    try:
        return cluster.wait(PATIENCE, lambda t: None if t.agreed else "they differ", "agreement")
    except NotConverged:
        return cluster.observe()


def _check_nobody_works(cluster: Cluster, topology: Topology) -> None:
    """Raises Refused if the keys of an open slot move without us."""
    ways: set[tuple[str, str, int]] = set()
    for marker in topology.open_slots:
        peer = marker.peer if marker.kind == "migrating" else topology.owners[marker.slot]
        if peer and peer in topology.reports and peer != marker.node:
            ways |= {(marker.node, peer, marker.slot), (peer, marker.node, marker.slot)}
    check_nobody_moves(cluster, topology, sorted(ways))


# --- who owns what ------------------------------------------------------------------------------


def _plan_ownership(
    cluster: Cluster, topology: Topology, on_uncovered: str, probe: bool
) -> tuple[Ownership, list[Repair]]:
    """Without `probe` nothing is changed, and what a node hides stays hidden."""
    slots = concerned_slots(topology)
    unknown: list[Repair] = []
    for node, keys in keys_outside(cluster, topology).items():
        if isinstance(keys, KeyslotError):
            raise keys
        found = locate(cluster, topology, node, keys, probe)
        slots |= found
        if not found and not probe:
            told = (
                f"{topology.name(node)} holds {keys} keys outside its slots, and tells of which "
                "slots only while it is repaired: they go to the owners of these; slots that "
                "nobody serves go to it, if it holds keys of them."
            )
            unknown.append(Repair("collect", node, (), told))
    held = held_keys(cluster, topology, slots, probe)
    ownership = plan_ownership(topology, held, on_uncovered)
    return ownership, [*ownership.repairs, *unknown]


def _check_allowed(cluster: Cluster, topology: Topology, ownership: Ownership) -> None:
    """SETSLOT on all primaries, and what else is needed; refused for the slot where permitted."""
    commands: list[Command] = [("CLUSTER", "SETSLOT", 16384, "STABLE")]
    if ownership.drop:
        commands.append(("CLUSTER", "DELSLOTS", 16384))
    asked = [line.id for line in topology.primaries if line.id in topology.reports]
    check_allowed(cluster, {topology.name(n): (cluster.server(n), commands) for n in asked})


def _own(cluster: Cluster, topology: Topology, ownership: Ownership, timeout: float) -> None:
    """Whoever holds keys of what he takes for his own lets go of the slot first: a node that loses
    one deletes its keys. An owner's epoch is raised before it claims anything, and one owner is
    known to all before the next one's is raised: a replica can't be told, and believes the higher
    epoch."""
    deadline = time.monotonic() + timeout
    owners = replace(topology, assigned=ownership.assigned).owners
    _tell_all(cluster, _marks_in_the_way(topology, ownership), deadline)
    for node, slots in _by_node(ownership.drop).items():
        cluster.server(node).call("CLUSTER", "DELSLOTS", *slots)
    given = _by_node((owner, slot) for slot, owner in ownership.assigned.items())
    told = [(node, slot) for node, slots in ownership.tell.items() for slot in slots]
    for owner in ownership.bump:
        _raise_epoch(cluster, topology, owner, deadline)
        _tell_owner(cluster, owner, {owner: given.get(owner, [])}, deadline)
        of_this = _by_node((node, slot) for node, slot in told if owners[slot] == owner)
        _tell_owner(cluster, owner, of_this, deadline)
        if owner != ownership.bump[-1]:
            its_own = {slot for slot, owned_by in enumerate(owners) if owned_by == owner}
            cluster.wait(timeout, _not_yet(owner, its_own), "agreement on the new owner of slots")
    rest = _by_node((node, slot) for node, slot in told if owners[slot] not in ownership.bump)
    for node, slots in rest.items():
        for owner, found in _by_node((owners[slot] or "", slot) for slot in slots).items():
            _tell_owner(cluster, owner, {node: found}, deadline)


def _marks_in_the_way(topology: Topology, ownership: Ownership) -> dict[str, list[Command]]:
    """STABLE where a node that takes over what it imports is to be told of a new owner: it may hear
    late that this one did not own the slot. The mark is set again by _guard."""
    found: dict[str, list[Command]] = {}
    for node, slots in ownership.tell.items():
        report = topology.reports[node]
        marked = [slot for slot in slots if slot in report.view.me.importing]
        if marked and report.takes_over:
            found[node] = [("CLUSTER", "SETSLOT", slot, "STABLE") for slot in marked]
    return found


def _guard(
    cluster: Cluster, topology: Topology, wanted: t.Sequence[OpenSlot], timeout: float
) -> None:
    """Marks the slots of which nodes hold keys that are another's, when all know the owner."""
    guards: dict[str, list[Command]] = {}
    for guard in wanted:
        words = ("CLUSTER", "SETSLOT", guard.slot, "IMPORTING", guard.peer)
        guards.setdefault(guard.node, []).append(words)
    owners = {guard.peer for guard in wanted}
    let_old_news_pass(cluster, topology, guards, owners, SETTLED_SECONDS)
    _tell_all(cluster, guards, time.monotonic() + timeout)


def _tell_owner(
    cluster: Cluster, owner: str, told: t.Mapping[str, t.Sequence[int]], deadline: float
) -> None:
    """Tells nodes of which slots it is the owner."""
    commands = {
        node: [("CLUSTER", "SETSLOT", slot, "NODE", owner) for slot in slots]
        for node, slots in told.items()
    }
    _tell_all(cluster, commands, deadline)


def _not_yet(owner: str, slots: t.Collection[int]) -> t.Callable[[Topology], str | None]:
    def still_wrong(topology: Topology) -> str | None:
        for report in topology.reports.values():
            if any(report.view.owners[slot] != owner for slot in slots):
                return (
                    f"{topology.name(report.id)} does not know yet what {topology.name(owner)} has"
                )
        return None

    return still_wrong


def _by_node(pairs: t.Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for node, slot in pairs:
        found.setdefault(node, []).append(slot)
    return found


def _raise_epoch(cluster: Cluster, topology: Topology, node: str, deadline: float) -> None:
    """Above that of every other primary that answers."""
    others = [line.id for line in topology.primaries if line.id in topology.reports]
    others.remove(node)
    server = cluster.server(node)
    while True:
        server.call("CLUSTER", "BUMPEPOCH")
        own = server.report().epoch
        told = cluster.each(others, lambda other: cluster.server(other).report().epoch).values()
        highest = max((epoch for epoch in told if isinstance(epoch, int)), default=0)
        if own > highest:
            return
        if time.monotonic() > deadline:
            raise Stopped(
                f"the epoch of {topology.name(node)} stays at {own}, that of another node is "
                f"{highest}: its claim to slots may not hold. Look at CLUSTER NODES of both, then "
                "run it again."
            )
        time.sleep(0.1)


def _tell_all(cluster: Cluster, told: t.Mapping[str, t.Sequence[Command]], deadline: float) -> None:
    """Raises the first error."""

    def tell(node: str) -> None:
        for start in range(0, len(told[node]), SLOTS_AT_ONCE):
            _tell(cluster, node, told[node][start : start + SLOTS_AT_ONCE], deadline)

    for answer in cluster.each(told, tell).values():
        if answer is not None:
            raise answer


def _tell(cluster: Cluster, node: str, commands: t.Sequence[Command], deadline: float) -> None:
    """Again and again where a replica does not answer: a Valkey primary has done nothing then."""
    while commands:
        again = []
        for command, reply in zip(commands, cluster.server(node).scatter(commands)):
            if isinstance(reply, ReplyError):
                if reply.code != "NOREPLICAS" or time.monotonic() > deadline:
                    raise reply
                again.append(command)
        commands = again


# --- the open slots -----------------------------------------------------------------------------


def _goal(topology: Topology) -> tuple[Goal, Topology]:
    """To an older node no slot can go on: what it has taken of it goes back."""
    importers: dict[int, set[str]] = {}
    reports = topology.reports
    for marker in topology.open_slots:
        owner = reports.get(topology.owners[marker.slot] or "")
        fits = owner is None or reports[marker.node].reads_dumps_of(owner)
        if marker.kind == "importing" and fits:
            importers.setdefault(marker.slot, set()).add(marker.node)
    return FixGoal(importers), topology


def _as_if(topology: Topology, ownership: Ownership) -> MakeGoal:
    """The goal as it will be when that has been put right."""

    def make_goal(_observed: Topology) -> tuple[Goal, Topology]:
        guarded = {(guard.node, guard.slot) for guard in ownership.guards}
        found = {(m.node, m.slot) for m in topology.open_slots if m.kind == "importing"}
        marked = tuple(g for g in ownership.guards if (g.node, g.slot) in guarded - found)
        return _goal(replace(topology, assigned=ownership.assigned, marked=marked))

    return make_goal


def _on_replicas(topology: Topology) -> list[Repair]:
    slots: dict[tuple[str, str], list[int]] = {}
    for marker in topology.left_on_replicas:
        slots.setdefault((marker.node, marker.kind), []).append(marker.slot)
    return [
        Repair(
            "clear",
            node,
            tuple(found),
            f"slots {', '.join(format_slots(found))} are marked as {kind} on the replica "
            f"{topology.name(node)}, and not on its primary: the mark goes.",
        )
        for (node, kind), found in slots.items()
    ]


def _finished(outcome: Outcome) -> Opened:
    """What has been done of that which was found open."""
    done = Counter(
        (lane.move.source, lane.move.target, slot)
        for lane in outcome.lanes
        for slot in lane.slots_done
    )
    return replace(
        outcome.opened,
        finish=tuple(way for way in outcome.opened.finish if done[way]),
        strays=tuple(way for way in outcome.opened.strays if done[way]),
    )


def _left(outcome: Outcome) -> bool:
    planned = sum(len(move.slots) for move in outcome.plan.moves)
    return planned > sum(len(lane.slots_done) for lane in outcome.lanes)


def _wait_until_closed(cluster: Cluster, timeout: float) -> None:
    def still_wrong(topology: Topology) -> str | None:
        if topology.open_slots:
            slots = format_slots({marker.slot for marker in topology.open_slots})
            return f"slots {', '.join(slots)} are open"
        if topology.left_on_replicas:
            clear_on_replicas(cluster, topology)
            return "replicas still have markers"
        return told_ok(topology)

    cluster.wait(timeout, still_wrong, "a cluster without open slots")
