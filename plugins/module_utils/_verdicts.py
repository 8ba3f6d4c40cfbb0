# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""What is to be done about slots that are open, disputed or served by nobody, pure.

A move knows its goal: it finishes what leads there, clears what means nothing, and refuses the
rest. A repair has no goal but order, so it has an answer for everything.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.keyslot.redis.plugins.module_utils._errors import Refused
from ansible_collections.keyslot.redis.plugins.module_utils._plan import Goal, spread
from ansible_collections.keyslot.redis.plugins.module_utils._slots import format_slots
from ansible_collections.keyslot.redis.plugins.module_utils._topology import OpenSlot, Topology

Held = t.Mapping[str, t.Mapping[int, int]]  # node -> slot -> keys


@dataclass(frozen=True)
class Opened:
    """Open slots, sorted.

    `finish` are (source, target, slot) that lead to the goal; `strays` are (node, where to, slot)
    of nodes that hold keys of a slot which is neither theirs nor on its way to them; `stale`
    markers mean nothing any more: they stand on nodes that hold no keys of the slot, as far as
    they let us see, or on an owner whose slot is on its way to nobody.
    """

    finish: tuple[tuple[str, str, int], ...] = ()
    strays: tuple[tuple[str, str, int], ...] = ()
    stale: tuple[OpenSlot, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.finish or self.strays or self.stale)


def sort_markers(topology: Topology, goal: Goal, held: Held) -> Opened:
    """Raises Refused for a slot that is neither of the goal nor stale, unless the goal mends it."""
    markers: dict[int, list[OpenSlot]] = {}
    for marker in topology.open_slots:
        markers.setdefault(marker.slot, []).append(marker)
    owners = list(topology.owners)
    finish: list[tuple[str, str, int]] = []
    strays: list[tuple[str, str, int]] = []
    stale: list[OpenSlot] = []
    for slot, found in sorted(markers.items()):
        target = _target(topology, goal, found, held, owners)
        if target is not None:
            finish.append((owners[slot] or "", target, slot))
            owners[slot] = target
        owner = topology.owners[slot]
        rest = [m for m in found if m.node not in (owner, target)]
        full = {m.node for m in rest if m.kind == "importing" and held[m.node][slot]}
        idle = [m for m in found if m.node == owner] if target is None else []
        if (full or idle) and not goal.mends:
            raise Refused(_foreign(topology, slot, found, held))
        for marker in idle:
            _check_peer(topology, marker)
        strays += [(node, target or owner or "", slot) for node in sorted(full)]
        stale += [m for m in (*rest, *idle) if m.node not in full]
    return Opened(tuple(finish), tuple(strays), tuple(stale))


def _target(
    topology: Topology,
    goal: Goal,
    markers: list[OpenSlot],
    held: Held,
    owners: list[str | None],
) -> str | None:
    """Where the slot is on its way to, if the goal would have it there."""
    slot = markers[0].slot
    owner = owners[slot]
    heading = [m.peer for m in markers if m.node == owner and m.kind == "migrating"]
    if not heading and not goal.mends:
        heading = [m.node for m in markers if m.kind == "importing" and held[m.node][slot]]
    if owner is None or len(heading) != 1 or heading[0] not in topology.reports:
        return None
    # A target that failed over is a replica now, and the keys are with its primary.
    target = topology.lines[heading[0]].primary_id or heading[0]
    fits = target in topology.reports and goal.finishes(slot, owner, target, owners)
    return target if fits else None


def _foreign(topology: Topology, slot: int, markers: list[OpenSlot], held: Held) -> str:
    told = []
    for marker in markers:
        way = "to" if marker.kind == "migrating" else "from"
        keys = ""
        if marker.kind == "importing":
            keys = f" and holds {held[marker.node][slot]} keys of it"
        told.append(
            f"{topology.name(marker.node)} is {marker.kind} it {way} "
            f"{topology.name(marker.peer)}{keys}"
        )
    return (
        f"slot {slot} is open, and not on the way to where this run would have it: "
        f"{'; '.join(told)}. Nothing was changed: let the run that opened it finish, run that one "
        "again, or repair it with keyslot.redis.redis_cluster_fix."
    )


def _check_peer(topology: Topology, marker: OpenSlot) -> None:
    """Keys may be where a slot is on its way to. A node that others have forgotten has no role
    and no address."""
    peer = topology.lines.get(marker.peer)
    if marker.kind == "migrating" and marker.peer in topology.missing and peer and peer.is_primary:
        raise Refused(
            f"slot {marker.slot} is on its way from {topology.name(marker.node)} to "
            f"{topology.name(marker.peer)}, which can't be reached and may hold keys of it: "
            f"{topology.missing[marker.peer]} Nothing was changed: bring that node back, or give "
            f"its keys up, with CLUSTER FORGET {marker.peer} on each other node; then run it again."
        )


# --- who owns what ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repair:
    """One thing that is put right: `kind` is what is done, `node` where; `message` says why."""

    kind: str
    node: str
    slots: tuple[int, ...]
    message: str


@dataclass(frozen=True)
class Ownership:
    """What has to be put right before open slots can be closed, in this order.

    `assigned` is uncovered slot -> its new owner. `drop` are (node, slot) where a node takes itself
    for the owner of what is another's, and holds keys of it. `bump` are owners whose epoch does not
    beat that of another node which someone takes for the owner. `tell` is node -> slots of which it
    names another owner, or none. `guards` are the markers that holders of keys have to have, lest
    the keys get lost: importing, from the owner.
    """

    assigned: t.Mapping[int, str] = field(default_factory=dict)
    drop: tuple[tuple[str, int], ...] = ()
    bump: tuple[str, ...] = ()
    tell: t.Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    guards: tuple[OpenSlot, ...] = ()
    repairs: tuple[Repair, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.assigned or self.drop or self.bump or self.tell or self.guards)


def concerned_slots(topology: Topology) -> set[int]:
    """Slots that are open, served by nobody, or of which a node names another owner."""
    found = {marker.slot for marker in topology.open_slots}
    found.update(slot for slot, owner in enumerate(topology.owners) if owner is None)
    return found | set(disputed_slots(topology))


def disputed_slots(topology: Topology) -> dict[int, set[str]]:
    """Slot -> the ids that nodes take for its owner, of slots on which they differ."""
    named: dict[int, set[str]] = {}
    for report in topology.reports.values():
        for slot, (told, owner) in enumerate(zip(report.view.owners, topology.owners)):
            if owner is not None and told != owner:
                named.setdefault(slot, set()).update([told] if told else ())
    return named


def plan_ownership(topology: Topology, held: Held, on_uncovered: str) -> Ownership:
    """`held` counts the keys of all concerned slots on all primaries that answer.

    Raises Refused where keys could be on a node that does not answer, and for slots that are
    served by nobody unless `on_uncovered` is `assign`.
    """
    check_owners_answer(topology, sorted(concerned_slots(topology)))
    if topology.uncovered:
        _check_may_assign(topology, on_uncovered)
    assigned, repairs = _assign(topology, held)
    disputed = disputed_slots(topology)
    primaries = [line.id for line in topology.primaries if line.id in topology.reports]
    owners = {slot: topology.owners[slot] or assigned[slot] for slot in (*disputed, *assigned)}
    tell: dict[str, list[int]] = {}
    drop: list[tuple[str, int]] = []
    for slot, owner in sorted(owners.items()):
        for node in primaries:
            told = topology.reports[node].view.owners[slot]
            if node == owner or told == owner:
                continue
            tell.setdefault(node, []).append(slot)
            if told == node and held[node].get(slot):
                drop.append((node, slot))
    bump = {owner for slot, owner in owners.items() if slot in assigned}
    bump.update(
        owners[slot]
        for slot, named in disputed.items()
        if any(_epoch(topology, node) >= _epoch(topology, owners[slot]) for node in named)
    )
    repairs += _agreements(topology, disputed)
    return Ownership(
        assigned=assigned,
        drop=tuple(drop),
        bump=tuple(sorted(bump)),
        tell={node: tuple(slots) for node, slots in tell.items()},
        guards=tuple(_guards(topology, held, {**dict(enumerate(topology.owners)), **owners}, tell)),
        repairs=tuple(repairs),
    )


def check_owners_answer(topology: Topology, slots: t.Iterable[int]) -> None:
    """Raises Refused if the owner of one of the slots does not."""
    lost: dict[str, list[int]] = {}
    for slot in slots:
        owner = topology.owners[slot]
        if owner in topology.missing:
            lost.setdefault(owner or "", []).append(slot)
    for node, found in lost.items():
        raise Refused(
            f"slots {', '.join(format_slots(found))} are {topology.name(node)}'s, which can't be "
            f"reached: {topology.missing[node]} Nothing was changed: bring it back, or let a "
            f"replica take over. To give its keys up instead, run CLUSTER FORGET {node} on each "
            "other node within a minute, then keyslot.redis.redis_cluster_fix with on_uncovered "
            "set to 'assign'."
        )


def _check_may_assign(topology: Topology, on_uncovered: str) -> None:
    ranges = ", ".join(topology.uncovered)
    if on_uncovered != "assign":
        raise Refused(
            f"slots {ranges} are served by nobody. Nothing was changed: set on_uncovered to "
            "'assign' to give them to nodes, those that hold keys of them first; check mode shows "
            "which."
        )
    for node in sorted(topology.missing):
        if topology.lines[node].is_primary:
            raise Refused(
                f"slots {ranges} are served by nobody, and {topology.name(node)}, which can't be "
                f"reached, may hold keys of them: {topology.missing[node]} Nothing was changed: "
                f"bring that node back, or give its keys up, with CLUSTER FORGET {node} on each "
                "other node; then run it again."
            )


def _assign(topology: Topology, held: Held) -> tuple[dict[int, str], list[Repair]]:
    """Who gets a slot that nobody serves: the node with the most keys of it; of those without
    keys, each node so many that the shares become as even as they can."""
    counts = {
        line.id: len(topology.slots.get(line.id, ()))
        for line in topology.primaries
        if line.id in topology.reports
    }
    given: dict[tuple[str, str], list[int]] = {}
    empty: list[int] = []
    for slot, owner in enumerate(topology.owners):
        if owner is not None:
            continue
        keys = {node: held[node][slot] for node in counts if held[node].get(slot)}
        if not keys:
            empty.append(slot)
            continue
        node = min(keys, key=lambda n: (-keys[n], counts[n], n))
        most = "holds their keys" if len(keys) == 1 else "holds the most of their keys"
        given.setdefault((node, most), []).append(slot)
        counts[node] += 1
    for node, slots in spread(counts, empty).items():
        given[node, "has the fewest slots, and nobody holds keys of them"] = slots
    assigned = {slot: node for (node, _why), slots in given.items() for slot in slots}
    repairs = []
    for (node, why), slots in given.items():
        told = (
            f"slots {', '.join(format_slots(slots))} are served by nobody: {topology.name(node)} "
            f"gets them, because it {why}."
        )
        repairs.append(Repair("assign", node, tuple(slots), told))
    return assigned, repairs


def _epoch(topology: Topology, node: str) -> int:
    """The highest epoch that anyone knows of a node."""
    lines = (report.view.lines.get(node) for report in topology.reports.values())
    return max((line.epoch for line in lines if line), default=0)


def _agreements(
    topology: Topology, disputed: t.Mapping[int, t.Collection[str]]
) -> t.Iterator[Repair]:
    slots: dict[tuple[str, str], list[int]] = {}
    for slot in sorted(disputed):
        owner = topology.owners[slot] or ""
        for report in topology.reports.values():
            if report.view.owners[slot] != owner:
                slots.setdefault((report.id, owner), []).append(slot)
    for (node, owner), found in slots.items():
        told = (
            f"{topology.name(node)} gives slots {', '.join(format_slots(found))} another owner "
            f"than {topology.name(owner)}, which has them by the highest epoch: it is told so."
        )
        yield Repair("agree", node, tuple(found), told)


def _guards(
    topology: Topology,
    held: Held,
    owners: t.Mapping[int, str | None],
    tell: t.Mapping[str, t.Collection[int]],
) -> t.Iterator[OpenSlot]:
    """Markers that are lacking, or will be when the node has been told of the owner, or that name
    another node than the owner: a Valkey node takes a slot over when the one that it imports from
    does not claim it."""
    for node, counts in held.items():
        importing = topology.reports[node].view.me.importing
        for slot, keys in sorted(counts.items()):
            owner = owners[slot]
            marked = importing.get(slot) == owner and slot not in tell.get(node, ())
            if keys and owner not in (None, node) and not marked:
                yield OpenSlot(slot, node, "importing", owner or "")


# --- in words -----------------------------------------------------------------------------------


def describe_opened(topology: Topology, opened: Opened) -> list[Repair]:
    """What is done about open slots, those of one kind on one node together."""
    slots: dict[tuple[str, str, str], list[int]] = {}
    for source, target, slot in opened.finish:
        way = f"{topology.name(source)} to {topology.name(target)}"
        slots.setdefault(("finish", target, f"on their way from {way}: they go there"), []).append(
            slot
        )
    for node, target, slot in opened.strays:
        why = (
            f"{topology.name(node)}'s no more, which holds keys of them: the keys go to "
            f"{topology.name(target)}"
        )
        slots.setdefault(("collect", node, why), []).append(slot)
    for marker in opened.stale:
        way = "to" if marker.kind == "migrating" else "from"
        why = (
            f"marked as {marker.kind} {way} {topology.name(marker.peer)} on "
            f"{topology.name(marker.node)}, with no keys there that are to move: the mark goes"
        )
        slots.setdefault(("clear", marker.node, why), []).append(marker.slot)
    return [
        Repair(kind, node, tuple(sorted(set(found))), _sentence(found, why))
        for (kind, node, why), found in slots.items()
    ]


def _sentence(slots: t.Sequence[int], why: str) -> str:
    return f"slots {', '.join(format_slots(set(slots)))} are {why}."
