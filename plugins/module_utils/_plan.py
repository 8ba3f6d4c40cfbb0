# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Goal and owners to moves, pure.

A goal says two things: which open slots it would finish, and which moves remain once they are
finished. Both goals hold the same promises: the fewest slots move, no node gives and takes, the
same input gives the same plan, and a plan made half-way through another one ends where that would.
"""

from __future__ import annotations

import heapq
import math
import typing as t
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from ansible_collections.keyslot.redis.plugins.module_utils._errors import OptionError
from ansible_collections.keyslot.redis.plugins.module_utils._slots import (
    format_slots,
    to_ranges,
)


@dataclass(frozen=True)
class Move:
    """Slots (sorted) that go from one primary to another; both are ids."""

    source: str
    target: str
    slots: tuple[int, ...]


Owners = t.Sequence[t.Optional[str]]


class Goal(t.Protocol):
    """What a run is to reach."""

    @property
    def max_slots(self) -> int:
        """How many slots may move in one run; 0 = no cap."""

    @property
    def mends(self) -> bool:
        """Whether open slots that lead nowhere are mended, and not refused."""

    def finishes(self, slot: int, source: str, target: str, owners: Owners) -> bool:
        """Whether a move of the slot from source to target leads towards the goal."""

    def moves(self, owners: Owners) -> list[Move]:
        """What is left to move; raises OptionError where the goal can't be reached."""


def merge_moves(pairs: t.Iterable[tuple[str, str, int]]) -> list[Move]:
    """One move for each (source, target), in the order in which the pairs first appear."""
    slots: dict[tuple[str, str], list[int]] = {}
    for source, target, slot in pairs:
        slots.setdefault((source, target), []).append(slot)
    return [Move(*pair, tuple(sorted(found))) for pair, found in slots.items()]


def apply(owners: Owners, moves: t.Iterable[Move]) -> list[str | None]:
    """The owners after the moves."""
    after = list(owners)
    for move in moves:
        for slot in move.slots:
            after[slot] = move.target
    return after


def check_one_way(moves: t.Iterable[Move], name: t.Callable[[str], str]) -> None:
    """Raises OptionError if a node gives and takes: its own epoch bump can make it reject the
    other's claim (engine comment in Valkey's clusterUpdateSlotsConfigWith; redis #2969)."""
    moves = list(moves)
    both = {move.source for move in moves} & {move.target for move in moves}
    if both:
        who = ", ".join(name(node_id) for node_id in sorted(both))
        raise OptionError(f"{who} would give and take slots in one run: make it two runs.")


def one_way(moves: t.Iterable[Move]) -> list[list[Move]]:
    """The moves in turns, in none of which a node gives and takes."""
    turns: list[list[Move]] = []
    for move in moves:
        fits = (
            turn
            for turn in turns
            if move.source not in {other.target for other in turn}
            and move.target not in {other.source for other in turn}
        )
        turn = next(fits, None)
        if turn is None:
            turns.append(turn := [])
        turn.append(move)
    return turns


@dataclass(frozen=True)
class AssignGoal:
    """Named slots belong to named targets.

    `targets` is slot -> id, `sources` slot -> the only other id that may own it now.
    """

    targets: t.Mapping[int, str]
    sources: t.Mapping[int, str]
    name: t.Callable[[str], str] = str
    max_slots: int = 0
    mends: bool = False

    def finishes(self, slot: int, source: str, target: str, owners: Owners) -> bool:
        return self.targets.get(slot) == target and self.sources.get(slot, source) == source

    def moves(self, owners: Owners) -> list[Move]:
        self._check_sources(owners)
        pairs = [
            (owner, target, slot)
            for slot, target in self.targets.items()
            for owner in (owners[slot],)
            if owner is not None and owner != target
        ]
        return merge_moves(pairs)

    def _check_sources(self, owners: Owners) -> None:
        strangers: dict[tuple[str, str, str], list[int]] = {}
        for slot, target in self.targets.items():
            owner, source = owners[slot], self.sources.get(slot)
            if owner is not None and source is not None and owner not in (source, target):
                strangers.setdefault((source, target, owner), []).append(slot)
        for (source, target, owner), slots in strangers.items():
            if source == target:
                raise OptionError(
                    f"slots {', '.join(format_slots(slots))} had moved to {self.name(target)}, but "
                    f"they are {self.name(owner)}'s by now: another run has begun in between. "
                    "Nothing was moved since: see that it has ended, then run this one again."
                )
            raise OptionError(
                f"slots {', '.join(format_slots(slots))} should go from {self.name(source)} to "
                f"{self.name(target)}, but they are {self.name(owner)}'s. Nothing was moved: "
                "make a new plan, or leave the source out."
            )


@dataclass(frozen=True)
class BalanceGoal:
    """Each primary owns its share.

    `weights`: id -> weight of each primary that takes part; `drain`: ids that give all they have.
    `threshold` is in percent of a fair share. With `drain_only` only what the drained nodes hold
    moves.
    """

    weights: t.Mapping[str, float]
    drain: frozenset[str] = frozenset()
    drain_only: bool = False
    threshold: float = 2.0
    max_slots: int = 0
    mends: bool = False

    def finishes(self, slot: int, source: str, target: str, owners: Owners) -> bool:
        counts = Counter(owners)
        shares = self.shares(owners)
        gives = counts[source] > shares.get(source, 0) and source in {*self.weights, *self.drain}
        return gives and target in shares and counts[target] < shares[target]

    def shares(self, owners: Owners) -> dict[str, int]:
        """Slots that each participant shall own in the end."""
        counts = Counter(owner for owner in owners if owner is not None)
        held = {node: counts[node] for node in self.weights}
        to_give = sum(counts[node] for node in self.drain)
        if self.drain_only:
            return _fill(held, self.weights, to_give)
        return _divide(held, self.weights, sum(held.values()) + to_give)

    def moves(self, owners: Owners) -> list[Move]:
        if not self.weights:
            raise OptionError(
                "every primary that has slots would be drained: leave one, or name an empty one in "
                "weights, to take the slots."
            )
        counts = Counter(owner for owner in owners if owner is not None)
        shares = {**dict.fromkeys(self.drain, 0), **self.shares(owners)}
        if not self._is_off(counts):
            return []
        surplus = {node: counts[node] - share for node, share in shares.items()}
        return _transfer(owners, surplus)

    def _is_off(self, counts: t.Mapping[str, int]) -> bool:
        """Whether a node is so far off that slots shall move."""
        if any(counts[node] for node in self.drain) or self.drain_only:
            return True
        total = sum(counts[node] for node in self.weights)
        fair = _fair_shares(self.weights, total)
        limit = Fraction(self.threshold) / 100
        return any(abs(counts[node] - share) > share * limit for node, share in fair.items())


@dataclass(frozen=True)
class FixGoal:
    """No slot is open; none moves but to where it is on its way.

    `importers` is slot -> ids of the nodes that import it.
    """

    importers: t.Mapping[int, t.Collection[str]]
    max_slots: int = 0
    mends: bool = True

    def finishes(self, slot: int, source: str, target: str, owners: Owners) -> bool:
        return target in self.importers.get(slot, ())

    def moves(self, owners: Owners) -> list[Move]:
        return []


def check_weight(weight: float, of: str = "a node") -> float:
    """The weight again; raises OptionError unless it is a finite number above 0."""
    if not math.isfinite(weight) or weight <= 0:
        raise OptionError(
            f"the weight of {of} must be a number above 0, not {weight:g}: to empty a node, "
            "name it in drain."
        )
    return weight


def _fair_shares(weights: t.Mapping[str, float], total: int) -> dict[str, Fraction]:
    exact = {node: Fraction(weight) for node, weight in weights.items()}
    whole = sum(exact.values())
    return {node: total * weight / whole for node, weight in exact.items()}


def _divide(
    held: t.Mapping[str, int], weights: t.Mapping[str, float], total: int
) -> dict[str, int]:
    """Whole shares by the largest remainder, which add up to `total`.

    Of equal remainders, the nodes that hold more than their whole part come first, so that the
    fewest slots move: and they still do so when half of the moves are done.
    """
    fair = _fair_shares(weights, total)
    shares = {node: math.floor(share) for node, share in fair.items()}
    order = sorted(fair, key=lambda n: (shares[n] - fair[n], held[n] <= shares[n], n))
    for node in order[: total - sum(shares.values())]:
        shares[node] += 1
    return shares


def _fill(held: t.Mapping[str, int], weights: t.Mapping[str, float], total: int) -> dict[str, int]:
    """`held` plus `total` more slots, each to the node that is then the least loaded."""
    shares = dict(held)
    heap = [((count + 1) / weights[node], node) for node, count in shares.items()]
    heapq.heapify(heap)
    for _slot in range(total):
        node = heap[0][1]
        shares[node] += 1
        heapq.heapreplace(heap, ((shares[node] + 1) / weights[node], node))
    return shares


def spread(held: t.Mapping[str, int], slots: t.Sequence[int]) -> dict[str, list[int]]:
    """The slots as runs of neighbours, so many a node that the counts get as even as they can."""
    after = _fill(held, dict.fromkeys(held, 1.0), len(slots))
    rest = iter(slots)
    given = {node: [next(rest) for _slot in range(after[node] - held[node])] for node in held}
    return {node: found for node, found in given.items() if found}


def _transfer(owners: Owners, surplus: t.Mapping[str, int]) -> list[Move]:
    """Moves that bring every surplus (slots above the share, below it negative) to 0.

    The largest donor gives to the neediest taker until one of the two is settled: at most as many
    moves as nodes.
    """
    slots: dict[str, set[int]] = {node: set() for node in surplus}
    for slot, owner in enumerate(owners):
        if owner in slots:
            slots[owner].add(slot)
    donors = sorted((node for node in surplus if surplus[node] > 0), key=lambda n: (-surplus[n], n))
    takers = sorted((node for node in surplus if surplus[node] < 0), key=lambda n: (surplus[n], n))
    left = dict(surplus)
    moves = []
    while donors and takers:
        donor, taker = donors[0], takers[0]
        count = min(left[donor], -left[taker])
        taken = _pick(slots[donor], slots[taker], count)
        slots[donor] -= taken
        slots[taker] |= taken
        moves.append(Move(donor, taker, tuple(sorted(taken))))
        left[donor] -= count
        left[taker] += count
        donors = donors if left[donor] else donors[1:]
        takers = takers if left[taker] else takers[1:]
    return moves


def _pick(given: set[int], held: set[int], count: int) -> set[int]:
    """`count` slots of `given` that keep both maps in few ranges: first what touches the taker's
    ranges, then the largest; whole ranges as long as they fit, at most one is cut."""
    picked: set[int] = set()
    by_size = sorted(to_ranges(given), key=lambda r: (r[0] - r[1], r[0]))
    for touching in (True, False):
        to_cut = None
        for first, last in by_size:
            if (first - 1 in held or last + 1 in held) == touching:
                if last - first < count - len(picked):
                    picked.update(range(first, last + 1))
                else:
                    to_cut = to_cut or (first, last)
        left = count - len(picked)
        if to_cut and left:
            start = to_cut[0] if to_cut[0] - 1 in held else to_cut[1] - left + 1
            picked.update(range(start, start + left))
    return picked


def cap_moves(moves: t.Iterable[Move], max_slots: int) -> list[Move]:
    """The first `max_slots` slots of the moves."""
    capped = []
    for move in moves:
        slots = move.slots[:max_slots]
        max_slots -= len(slots)
        if slots:
            capped.append(Move(move.source, move.target, slots))
    return capped


def plan_size(moves: t.Iterable[Move]) -> int:
    """Slots in all moves."""
    return sum(len(move.slots) for move in moves)
