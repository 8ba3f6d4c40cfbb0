# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import itertools
import math
import typing as t
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ansible_collections.keyslot.redis.plugins.module_utils._errors import OptionError
from ansible_collections.keyslot.redis.plugins.module_utils._plan import (
    AssignGoal,
    BalanceGoal,
    Move,
    apply,
    cap_moves,
    check_one_way,
    check_weight,
    merge_moves,
    plan_size,
)
from ansible_collections.keyslot.redis.plugins.module_utils._slots import SLOT_COUNT, to_ranges

Owners = list[t.Optional[str]]
thorough = settings(deadline=None, max_examples=60)
quick = settings(deadline=None, max_examples=30)

NODES = "abcdefg"
WEIGHTS = [1.0, 1.0, 1.0, 2.0, 0.5, 3.0, 1e-9, 1e9, 0.1, 1 / 3, 7.25]


@st.composite
def owner_maps(draw: st.DrawFn, nodes: str) -> Owners:
    """Owners in runs of slots; some slots may be nobody's."""
    runs = draw(
        st.lists(
            st.tuples(st.sampled_from([*nodes, None]), st.integers(1, 12)), min_size=1, max_size=14
        )
    )
    return [owner for owner, length in runs for _slot in range(length)]


@st.composite
def cases(draw: st.DrawFn, **fixed: t.Any) -> tuple[Owners, BalanceGoal]:
    """A map of slots and a goal; one node may be neither weighted nor drained."""
    nodes = NODES[: draw(st.integers(2, len(NODES)))]
    owners = draw(owner_maps(nodes))
    roles = [
        draw(st.sampled_from(["takes part", "takes part", "drain", "none"])) for _node in nodes
    ]
    roles[draw(st.integers(0, len(nodes) - 1))] = "takes part"
    goal = BalanceGoal(
        weights={
            node: draw(st.sampled_from(WEIGHTS))
            for node, role in zip(nodes, roles)
            if role == "takes part"
        },
        drain=frozenset(node for node, role in zip(nodes, roles) if role == "drain"),
        drain_only=fixed.get("drain_only", draw(st.booleans())),
        threshold=fixed.get("threshold", 0.0),
    )
    return owners, goal


def counts_of(owners: t.Iterable[str | None]) -> Counter[str]:
    return Counter(owner for owner in owners if owner is not None)


def range_count(owners: Owners) -> int:
    slots: dict[str, list[int]] = {}
    for slot, owner in enumerate(owners):
        if owner is not None:
            slots.setdefault(owner, []).append(slot)
    return sum(len(to_ranges(found)) for found in slots.values())


def first_slots(moves: t.Sequence[Move], count: int) -> list[Move]:
    """As far as a run has come that was killed after so many slots."""
    return cap_moves(moves, count)


def final_counts(owners: Owners, goal: BalanceGoal) -> dict[str, int]:
    after = counts_of(apply(owners, goal.moves(owners)))
    return {node: after[node] for node in {*goal.weights, *goal.drain}}


# Shares


@thorough
@given(cases())
def test_shares_add_up_to_what_there_is(case: tuple[Owners, BalanceGoal]) -> None:
    owners, goal = case
    counts = counts_of(owners)
    there = sum(counts[node] for node in {*goal.weights, *goal.drain})
    shares = goal.shares(owners)
    assert shares.keys() == goal.weights.keys()
    assert sum(shares.values()) == there
    assert min(shares.values()) >= 0


@thorough
@given(cases(drain_only=False))
def test_no_share_is_a_whole_slot_away_from_the_fair_one(case: tuple[Owners, BalanceGoal]) -> None:
    owners, goal = case
    shares = goal.shares(owners)
    total, whole = sum(shares.values()), math.fsum(goal.weights.values())
    for node, share in shares.items():
        assert abs(share - total * goal.weights[node] / whole) < 1 + 1e-6


@thorough
@given(cases(drain_only=True))
def test_filling_takes_nothing_from_those_who_stay(case: tuple[Owners, BalanceGoal]) -> None:
    owners, goal = case
    counts = counts_of(owners)
    assert all(share >= counts[node] for node, share in goal.shares(owners).items())


@quick
@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([1.0, 2.0, 0.5, 3.0])), min_size=1)
    .filter(lambda nodes: len(nodes) <= 4)
    .map(lambda nodes: nodes[:4]),
    st.integers(0, 6),
)
def test_filling_makes_the_shares_as_even_as_filling_can(
    nodes: list[tuple[int, float]], drained: int
) -> None:
    names = NODES[: len(nodes)]
    weights = {name: weight for name, (_held, weight) in zip(names, nodes)}
    owners = [name for name, (held, _weight) in zip(names, nodes) for _slot in range(held)]
    goal = BalanceGoal(weights, frozenset("z"), drain_only=True)

    def loads(given: t.Iterable[int]) -> list[float]:
        """Each slot's load on its owner: comparing these compares the fullest node first."""
        return sorted(
            ((held + more) / weight for (held, weight), more in zip(nodes, given)), reverse=True
        )

    shares = goal.shares([*owners, *"z" * drained])
    ours = [shares[name] - held for name, (held, _weight) in zip(names, nodes)]
    others = (
        given
        for given in itertools.product(range(drained + 1), repeat=len(nodes))
        if sum(given) == drained
    )
    assert loads(ours)[0] == min(loads(given)[0] for given in others)


def test_filling_evens_out_also_below_the_fullest_node() -> None:
    owners = [*"a" * 10, *"b" * 2, *"z" * 6]
    shares = BalanceGoal({"a": 1, "b": 1, "c": 1}, frozenset("z"), True).shares(owners)
    assert shares == {"a": 10, "b": 4, "c": 4}


def test_equal_remainders_stay_where_the_slots_are() -> None:
    owners = [*"a" * 5, *"b" * 6, *"c" * 6]
    goal = BalanceGoal(dict.fromkeys("abc", 1.0), threshold=0)
    assert goal.shares(owners) == {"a": 5, "b": 6, "c": 6}
    assert goal.moves(owners) == []


def test_equal_remainders_of_equal_holders_go_by_id() -> None:
    assert BalanceGoal(dict.fromkeys("cab", 1.0)).shares([*"z" * 4, *"aabbcc"]) == {
        "a": 2,
        "b": 2,
        "c": 2,
    }
    drained = BalanceGoal(dict.fromkeys("cab", 1.0), frozenset("z"))
    assert drained.shares([*"z" * 5, *"aabbcc"]) == {"a": 4, "b": 4, "c": 3}


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({"a": 1e-9, "b": 1e9}, {"a": 0, "b": SLOT_COUNT}),
        ({"a": 1e-9, "b": 1e-9}, {"a": 8192, "b": 8192}),
        ({"a": 1e9, "b": 1e9}, {"a": 8192, "b": 8192}),
        ({"a": 5e-324, "b": 5e-324}, {"a": 8192, "b": 8192}),
        ({"a": 1.7e308, "b": 1.7e308}, {"a": 8192, "b": 8192}),
        ({"a": 3, "b": 1}, {"a": 12288, "b": 4096}),
        ({"a": 1.5, "b": 0.5}, {"a": 12288, "b": 4096}),
    ],
)
def test_weights_may_be_as_extreme_as_numbers_are(
    weights: dict[str, float], shares: dict[str, int]
) -> None:
    owners = ["a"] * SLOT_COUNT
    goal = BalanceGoal(weights, threshold=0)
    assert goal.shares(owners) == shares
    assert counts_of(apply(owners, goal.moves(owners))) == +Counter(shares)


@pytest.mark.parametrize("weight", [0, -1, -1e-9, math.nan, math.inf, -math.inf])
def test_a_weight_is_a_number_above_0(weight: float) -> None:
    with pytest.raises(OptionError, match="name it in drain"):
        check_weight(weight)


@pytest.mark.parametrize("weight", [1e-9, 1, 1e9, 5e-324])
def test_any_number_above_0_is_a_weight(weight: float) -> None:
    assert check_weight(weight) == weight


# Moves


@thorough
@given(cases())
def test_moves_bring_each_node_to_its_share(case: tuple[Owners, BalanceGoal]) -> None:
    owners, goal = case
    after = counts_of(apply(owners, goal.moves(owners)))
    assert {node: after[node] for node in goal.weights} == goal.shares(owners)
    assert not any(after[node] for node in goal.drain)


@thorough
@given(cases())
def test_the_fewest_slots_move(case: tuple[Owners, BalanceGoal]) -> None:
    owners, goal = case
    counts = counts_of(owners)
    shares = {**dict.fromkeys(goal.drain, 0), **goal.shares(owners)}
    surplus = sum(max(0, counts[node] - share) for node, share in shares.items())
    assert plan_size(goal.moves(owners)) == surplus


@thorough
@given(cases(drain_only=False))
def test_no_other_fair_shares_would_move_fewer_slots(case: tuple[Owners, BalanceGoal]) -> None:
    """Among equal weights anybody may have the odd slots, so those who have them keep them."""
    owners, goal = case
    goal = BalanceGoal(dict.fromkeys(goal.weights, 1.0), goal.drain, threshold=0)
    counts = counts_of(owners)
    total = sum(counts[node] for node in {*goal.weights, *goal.drain})
    low, odd = divmod(total, len(goal.weights))
    fewest = min(
        sum(max(0, counts[n] - low - (n in lucky)) for n in goal.weights)
        for lucky in itertools.combinations(goal.weights, odd)
    )
    drained = sum(counts[node] for node in goal.drain)
    assert plan_size(goal.moves(owners)) == fewest + drained


@thorough
@given(cases())
def test_no_node_gives_and_takes(case: tuple[Owners, BalanceGoal]) -> None:
    owners, goal = case
    moves = goal.moves(owners)
    check_one_way(moves, str)
    assert not {move.target for move in moves} & goal.drain


@thorough
@given(cases())
def test_moves_are_well_formed(case: tuple[Owners, BalanceGoal]) -> None:
    owners, goal = case
    moves = goal.moves(owners)
    slots = [slot for move in moves for slot in move.slots]
    assert len(slots) == len(set(slots))
    assert len({(move.source, move.target) for move in moves}) == len(moves)
    for move in moves:
        assert move.slots
        assert list(move.slots) == sorted(move.slots)
        assert {owners[slot] for slot in move.slots} == {move.source}


@thorough
@given(cases(), st.randoms(use_true_random=False))
def test_the_same_input_gives_the_same_plan(
    case: tuple[Owners, BalanceGoal], random: t.Any
) -> None:
    owners, goal = case
    items = list(goal.weights.items())
    random.shuffle(items)
    drain = list(goal.drain)
    random.shuffle(drain)
    again = BalanceGoal(dict(items), frozenset(drain), goal.drain_only, goal.threshold)
    assert goal.moves(owners) == again.moves(list(owners))


def test_the_order_of_the_options_does_not_matter() -> None:
    owners = [*"a" * 4, *"b" * 4, *"z" * 4]
    plans = {
        tuple(BalanceGoal(dict.fromkeys(names, 1.0), threshold=0).moves(owners))
        for names in itertools.permutations("abcdz")
    }
    assert len(plans) == 1


@thorough
@given(cases(), st.data())
def test_a_plan_from_half_way_ends_with_the_same_counts(
    case: tuple[Owners, BalanceGoal], data: st.DataObject
) -> None:
    owners, goal = case
    moves = goal.moves(owners)
    done = data.draw(st.integers(0, plan_size(moves)))
    half_way = apply(owners, first_slots(moves, done))
    assert final_counts(half_way, goal) == final_counts(owners, goal)
    assert plan_size(goal.moves(half_way)) == plan_size(moves) - done


@thorough
@given(cases(), st.data())
def test_lanes_may_be_killed_each_at_its_own_slot(
    case: tuple[Owners, BalanceGoal], data: st.DataObject
) -> None:
    """Lanes run side by side, so any part of each move may be done."""
    owners, goal = case
    moves = goal.moves(owners)
    done = [
        Move(move.source, move.target, move.slots[: data.draw(st.integers(0, len(move.slots)))])
        for move in moves
    ]
    half_way = apply(owners, done)
    assert final_counts(half_way, goal) == final_counts(owners, goal)
    assert plan_size(goal.moves(half_way)) == plan_size(moves) - plan_size(done)


@thorough
@given(cases())
def test_a_second_run_moves_nothing(case: tuple[Owners, BalanceGoal]) -> None:
    owners, goal = case
    assert goal.moves(apply(owners, goal.moves(owners))) == []


@quick
@given(cases(), st.integers(1, 20))
def test_runs_with_a_cap_come_to_the_same_end(
    case: tuple[Owners, BalanceGoal], max_slots: int
) -> None:
    owners, goal = case
    now: Owners = list(owners)
    whole = plan_size(goal.moves(owners))
    for _run in range(-(-whole // max_slots)):
        moves = cap_moves(goal.moves(now), max_slots)
        assert 0 < plan_size(moves) <= max_slots
        now = apply(now, moves)
    assert goal.moves(now) == []
    assert counts_of(now) == counts_of(apply(owners, goal.moves(owners)))


@thorough
@given(cases())
def test_a_move_makes_at_most_one_range_more(case: tuple[Owners, BalanceGoal]) -> None:
    owners, goal = case
    moves = goal.moves(owners)
    assert range_count(apply(owners, moves)) <= range_count(owners) + len(moves)


@thorough
@given(cases())
def test_there_are_fewer_moves_than_nodes(case: tuple[Owners, BalanceGoal]) -> None:
    owners, goal = case
    moves = goal.moves(owners)
    assert not moves or len(moves) < len({*goal.weights, *goal.drain})


def test_what_touches_the_taker_goes_first() -> None:
    owners: Owners = [*"a" * 4, *"b" * 2, *"xx", *"a" * 2]
    moves = BalanceGoal({"a": 1, "b": 1}, threshold=0).moves(owners)
    assert moves == [Move("a", "b", (2, 3))]


def test_a_range_is_cut_at_the_end_that_touches_the_taker() -> None:
    owners: Owners = [*"b" * 2, *"a" * 8]
    assert BalanceGoal({"a": 1, "b": 1}, threshold=0).moves(owners) == [Move("a", "b", (2, 3, 4))]


def test_a_map_in_16384_pieces_is_planned_too() -> None:
    owners = ["ab"[slot % 2] for slot in range(SLOT_COUNT)]
    goal = BalanceGoal(dict.fromkeys("abcd", 1.0), threshold=0)
    assert final_counts(list(owners), goal) == dict.fromkeys("abcd", 4096)


def test_a_thousand_nodes_need_fewer_moves_than_nodes() -> None:
    nodes = [f"{number:040d}" for number in range(1000)]
    owners = [nodes[slot * 31 % 700] for slot in range(SLOT_COUNT)]
    moves = BalanceGoal(dict.fromkeys(nodes, 1.0), threshold=0).moves(owners)
    assert len(moves) < len(nodes)
    assert set(counts_of(apply(owners, moves)).values()) == {16, 17}


def test_drained_nodes_alone_give_when_drain_only() -> None:
    owners = [*"a" * 50, *"b" * 10, *"z" * 6]
    moves = BalanceGoal({"a": 1, "b": 1}, frozenset("z"), drain_only=True, threshold=0).moves(
        owners
    )
    assert {(move.source, move.target) for move in moves} == {("z", "b")}
    assert plan_size(moves) == 6


@thorough
@given(cases(drain_only=True))
def test_with_drain_only_nobody_else_gives(case: tuple[Owners, BalanceGoal]) -> None:
    owners, goal = case
    assert {move.source for move in goal.moves(owners)} <= goal.drain


def test_nobody_left_to_take_is_an_error() -> None:
    with pytest.raises(OptionError, match="leave one"):
        BalanceGoal({}, frozenset("ab")).moves([*"aabb"])


def test_an_empty_drained_node_leaves_the_threshold_in_force() -> None:
    owners = [*"a" * 101, *"b" * 99]
    assert BalanceGoal({"a": 1, "b": 1}, frozenset("z"), threshold=2).moves(owners) == []


# Threshold


@pytest.mark.parametrize(
    ("held", "threshold", "moved"),
    [
        ((102, 98), 2, 0),
        ((103, 97), 2, 3),
        ((102, 98), 1.99, 2),
        ((101, 99), 2, 0),
        ((101, 99), 1, 0),
        ((101, 99), 0, 1),
        ((101, 100), 0, 0),
        ((110, 90), 10, 0),
        ((111, 89), 10, 11),
        ((200, 0), 100, 0),
        ((200, 0), 99.9, 100),
        ((200, 0), 1e9, 0),
    ],
)
def test_moves_begin_just_over_the_threshold(
    held: tuple[int, int], threshold: float, moved: int
) -> None:
    owners = [*"a" * held[0], *"b" * held[1]]
    assert plan_size(BalanceGoal({"a": 1, "b": 1}, threshold=threshold).moves(owners)) == moved


def test_the_threshold_is_a_share_of_each_nodes_own_fair_share() -> None:
    owners = [*"a" * 995, *"b" * 105]
    weights = {"a": 10.0, "b": 1.0}
    assert plan_size(BalanceGoal(weights, threshold=5).moves(owners)) == 0
    assert plan_size(BalanceGoal(weights, threshold=4.9).moves(owners)) == 5


def test_one_node_over_the_threshold_makes_all_exact() -> None:
    owners = [*"a" * 130, *"b" * 71, *"c" * 99]
    moves = BalanceGoal(dict.fromkeys("abc", 1.0), threshold=10).moves(owners)
    assert set(counts_of(apply(owners, moves)).values()) == {100}


def test_a_node_to_drain_is_always_over_the_threshold() -> None:
    owners = [*"a" * 100, *"b" * 100, "z"]
    moves = BalanceGoal({"a": 1, "b": 1}, frozenset("z"), threshold=50).moves(owners)
    assert [(move.source, move.slots) for move in moves] == [("z", (200,))]


@thorough
@given(cases(drain_only=False))
def test_threshold_0_is_always_exact(case: tuple[Owners, BalanceGoal]) -> None:
    owners, goal = case
    after = counts_of(apply(owners, goal.moves(owners)))
    assert all(after[node] == share for node, share in goal.shares(owners).items())


@quick
@given(cases(drain_only=False), st.sampled_from([0.5, 2.0, 10.0, 50.0]))
def test_a_threshold_decides_whether_and_not_how(
    case: tuple[Owners, BalanceGoal], threshold: float
) -> None:
    owners, exact = case
    goal = BalanceGoal(exact.weights, exact.drain, threshold=threshold)
    moves = goal.moves(owners)
    assert moves in ([], exact.moves(owners))


# Open slots


@thorough
@given(cases(), st.data())
def test_open_slots_are_finished_only_where_one_may_give_and_the_other_take(
    case: tuple[Owners, BalanceGoal], data: st.DataObject
) -> None:
    owners, goal = case
    held = [slot for slot, owner in enumerate(owners) if owner is not None]
    assume(held)
    slot = data.draw(st.sampled_from(held))
    source = owners[slot]
    target = data.draw(st.sampled_from([node for node in NODES if node != source]))
    counts, shares = counts_of(owners), goal.shares(owners)
    gives = source in goal.drain or counts[source] > shares.get(source, counts[source])
    takes = target in shares and counts[target] < shares[target]
    assert goal.finishes(slot, source, target, owners) == (gives and takes)


@thorough
@given(cases(), st.data())
def test_finished_open_slots_cost_no_extra_move(
    case: tuple[Owners, BalanceGoal], data: st.DataObject
) -> None:
    """Adopted one after the other, as a run does, they are part of a plan of the same size, and
    still no node gives and takes."""
    owners, goal = case
    now: Owners = list(owners)
    pairs: list[tuple[str, str, int]] = []
    for _open in range(data.draw(st.integers(1, 6))):
        slot = data.draw(st.integers(0, len(now) - 1))
        source, target = now[slot], data.draw(st.sampled_from(NODES))
        taken = any(slot == other for _s, _t, other in pairs)
        if source and not taken and goal.finishes(slot, source, target, now):
            pairs.append((source, target, slot))
            now[slot] = target
    fresh = goal.moves(now)
    check_one_way([*merge_moves(pairs), *fresh], str)
    assert len(pairs) + plan_size(fresh) == plan_size(goal.moves(owners))
    assert final_counts(now, goal) == final_counts(owners, goal)


def test_an_open_slot_within_the_threshold_is_finished_all_the_same() -> None:
    owners = [*"a" * 101, *"b" * 99]
    goal = BalanceGoal({"a": 1, "b": 1}, threshold=2)
    assert goal.moves(owners) == []
    assert goal.finishes(0, "a", "b", owners)
    assert not goal.finishes(150, "b", "a", owners)


def test_a_node_that_has_its_share_takes_no_open_slot() -> None:
    owners = [*"a" * 6, *"b" * 4, *"c" * 2]
    goal = BalanceGoal(dict.fromkeys("abc", 1.0), threshold=0)
    assert not goal.finishes(0, "a", "b", owners)
    assert not goal.finishes(6, "b", "c", owners)
    assert goal.finishes(0, "a", "c", owners)


def test_a_node_outside_the_goal_neither_gives_nor_takes() -> None:
    owners = [*"a" * 4, *"x" * 90]
    goal = BalanceGoal({"a": 1, "b": 1}, threshold=0)
    assert not goal.finishes(10, "x", "b", owners)
    assert not goal.finishes(0, "a", "x", owners)
    assert plan_size(goal.moves(owners)) == 2


# Named slots to named nodes


def test_only_what_is_not_yet_there_moves() -> None:
    goal = AssignGoal(dict.fromkeys(range(4), "b"), {})
    assert goal.moves([*"abab"]) == [Move("a", "b", (0, 2))]
    assert goal.moves([*"bbbb"]) == []


def test_nobodys_slots_are_left_to_others() -> None:
    assert AssignGoal({0: "b", 1: "b"}, {}).moves([None, "a"]) == [Move("a", "b", (1,))]


def test_a_source_is_a_guard() -> None:
    goal = AssignGoal(dict.fromkeys(range(3), "b"), dict.fromkeys(range(3), "a"), "node {}".format)
    assert goal.moves([*"aba"]) == [Move("a", "b", (0, 2))]
    with pytest.raises(OptionError) as caught:
        goal.moves([*"acc"])
    assert "slots 1-2 should go from node a to node b, but they are node c's" in str(caught.value)
    assert "Nothing was moved" in str(caught.value)


def test_a_guarded_slot_that_is_nobodys_is_no_stranger() -> None:
    assert AssignGoal({0: "b"}, {0: "a"}).moves([None]) == []


def test_an_assignment_finishes_its_own_open_slots_only() -> None:
    goal = AssignGoal({1: "b", 2: "b"}, {2: "a"})
    owners = [*"aaaa"]
    assert goal.finishes(1, "a", "b", owners)
    assert goal.finishes(1, "c", "b", owners)
    assert goal.finishes(2, "a", "b", owners)
    assert not goal.finishes(1, "a", "c", owners)
    assert not goal.finishes(2, "c", "b", owners)
    assert not goal.finishes(3, "a", "b", owners)


@quick
@given(owner_maps("abc"), st.data())
def test_an_assignment_is_reached_from_anywhere_on_the_way(
    owners: Owners, data: st.DataObject
) -> None:
    goal = AssignGoal(
        data.draw(st.dictionaries(st.integers(0, len(owners) - 1), st.sampled_from("abcd"))), {}
    )
    moves = goal.moves(owners)
    half_way = apply(owners, first_slots(moves, data.draw(st.integers(0, plan_size(moves)))))
    after = apply(half_way, goal.moves(half_way))
    assert after == apply(owners, moves)
    assert all(after[slot] in (node, None) for slot, node in goal.targets.items())


def test_giving_and_taking_in_one_run_is_refused_by_name() -> None:
    moves = [Move("a", "b", (1,)), Move("b", "c", (2,)), Move("c", "d", (3,))]
    with pytest.raises(OptionError, match=r"^node b, node c would give and take.*two runs"):
        check_one_way(moves, "node {}".format)


def test_giving_to_many_and_taking_from_many_is_fine() -> None:
    check_one_way(iter([Move("a", "c", (1,)), Move("a", "d", (2,)), Move("b", "c", (3,))]), str)


# Lists of moves


def test_moves_of_one_way_are_one() -> None:
    assert merge_moves([("b", "a", 9), ("a", "c", 1), ("b", "a", 2)]) == [
        Move("b", "a", (2, 9)),
        Move("a", "c", (1,)),
    ]


def test_apply_leaves_its_input_alone() -> None:
    owners: Owners = [*"aaa", None]
    assert apply(owners, [Move("a", "b", (0, 2))]) == ["b", "a", "b", None]
    assert owners == [*"aaa", None]


@pytest.mark.parametrize(
    ("most", "capped"),
    [
        (0, []),
        (1, [Move("a", "b", (1,))]),
        (2, [Move("a", "b", (1, 2))]),
        (3, [Move("a", "b", (1, 2)), Move("c", "d", (5,))]),
        (4, [Move("a", "b", (1, 2)), Move("c", "d", (5, 6))]),
        (99, [Move("a", "b", (1, 2)), Move("c", "d", (5, 6))]),
    ],
)
def test_a_cap_cuts_the_plan_from_its_end(most: int, capped: list[Move]) -> None:
    moves = [Move("a", "b", (1, 2)), Move("c", "d", (5, 6))]
    assert cap_moves(moves, most) == capped
    assert plan_size(cap_moves(moves, most)) == min(most, 4)


def test_whole_ranges_go_as_long_as_they_fit() -> None:
    owners: Owners = [*"a" * 6, *"b" * 2, *"a" * 4]
    moves = BalanceGoal({"a": 1, "b": 1}, threshold=0).moves(owners)
    assert moves == [Move("a", "b", (8, 9, 10, 11))]


@pytest.mark.parametrize("max_slots", [1365, 500, 50])
def test_runs_with_a_cap_leave_few_ranges(max_slots: int) -> None:
    """What one run has begun, the next one goes on with, and cuts nothing else."""
    owners: Owners = [*"a" * 5462, *"b" * 5461, *"c" * 5461]
    goal = BalanceGoal(dict.fromkeys("abcd", 1.0), threshold=0)
    now = owners
    while moves := cap_moves(goal.moves(now), max_slots):
        now = apply(now, moves)
    assert range_count(now) <= 6


def test_killed_lanes_leave_few_ranges() -> None:
    owners: Owners = [*"a" * 5462, *"b" * 5461, *"c" * 5461]
    goal = BalanceGoal(dict.fromkeys("abcd", 1.0), threshold=0)
    moves = goal.moves(owners)
    half = [Move(m.source, m.target, m.slots[: len(m.slots) // 2]) for m in moves]
    half_way = apply(owners, half)
    assert apply(half_way, goal.moves(half_way)) == apply(owners, moves)
