# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.keyslot.redis.plugins.module_utils._errors import Refused
from ansible_collections.keyslot.redis.plugins.module_utils._plan import (
    AssignGoal,
    FixGoal,
    Move,
    one_way,
    spread,
)
from ansible_collections.keyslot.redis.plugins.module_utils._slots import SLOT_COUNT
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    OpenSlot,
    Report,
    Topology,
    parse_view,
)
from ansible_collections.keyslot.redis.plugins.module_utils._verdicts import (
    Ownership,
    concerned_slots,
    describe_opened,
    plan_ownership,
    sort_markers,
)

quick = settings(deadline=None, max_examples=60)

A, B, C = ("a" * 40, "b" * 40, "c" * 40)
IDS = (A, B, C)
FORGOTTEN = "f" * 40
SLOTS = {A: "0-99", B: "100-199", C: "200-16383"}
EPOCHS = {A: 1, B: 2, C: 3}


def line(node: str, slots: str, *, flags: str = "master", epoch: int, marks: str = "") -> str:
    words = [node, f"10.0.0.{'abcdf'.index(node[0])}:6379@16379", flags, "-", "0", "0", str(epoch)]
    return " ".join([*words, "connected", *slots.split(), *marks.split()])


def cluster(
    marks: t.Mapping[str, str] | None = None,
    claims: t.Mapping[str, str] | None = None,
    told: t.Mapping[str, t.Mapping[str, str]] | None = None,
    dead: t.Collection[str] = (),
) -> Topology:
    """Three primaries; `marks` and `claims` are what a node says of itself, `told` what one says
    of the others, `dead` do not answer."""
    claims = {**SLOTS, **(claims or {})}
    reports = {}
    for node in IDS:
        if node in dead:
            continue
        seen = {**claims, **(told or {}).get(node, {}), node: claims[node]}
        rows = [
            line(
                other,
                seen[other],
                epoch=EPOCHS[other],
                flags="myself,master" if other == node else "master",
                marks=(marks or {}).get(node, "") if other == node else "",
            )
            for other in IDS
        ]
        reports[node] = Report(parse_view("\n".join(rows)), {"cluster_state": "ok"}, {}, {})
    missing = dict.fromkeys(dead, "it does not answer.")
    return Topology(reports, missing, next(iter(reports)))


def fix_goal(topology: Topology) -> FixGoal:
    importers: dict[int, set[str]] = {}
    for marker in topology.open_slots:
        if marker.kind == "importing":
            importers.setdefault(marker.slot, set()).add(marker.node)
    return FixGoal(importers)


def held(**counts: t.Mapping[int, int]) -> dict[str, t.Mapping[int, int]]:
    """`a={0: 3}`: node A holds three keys of slot 0."""
    empty = dict.fromkeys(range(SLOT_COUNT), 0)
    return {node: {**empty, **counts.get(node[0], {})} for node in IDS}


# Markers


def test_a_move_that_both_know_of_is_finished() -> None:
    topology = cluster({A: f"[0->-{B}]", B: f"[0-<-{A}]"})
    opened = sort_markers(topology, fix_goal(topology), held())
    assert (opened.finish, opened.strays, opened.stale) == (((A, B, 0),), (), ())


def test_a_move_that_the_target_does_not_know_of_is_given_up() -> None:
    topology = cluster({A: f"[0->-{B}]"})
    opened = sort_markers(topology, fix_goal(topology), held())
    assert opened.stale == (OpenSlot(0, A, "migrating", B),)
    assert (opened.finish, opened.strays) == ((), ())


def test_keys_of_an_importer_go_to_the_owner() -> None:
    topology = cluster({B: f"[0-<-{A}]", C: f"[0-<-{A}]"})
    opened = sort_markers(topology, fix_goal(topology), held(b={0: 3}))
    assert opened.strays == ((B, A, 0),)
    assert opened.stale == (OpenSlot(0, C, "importing", A),)


def test_keys_of_a_third_node_go_where_the_slot_is_on_its_way_to() -> None:
    topology = cluster({A: f"[0->-{B}]", B: f"[0-<-{A}]", C: f"[0-<-{A}]"})
    opened = sort_markers(topology, fix_goal(topology), held(b={0: 2}, c={0: 3}))
    assert opened.finish == ((A, B, 0),)
    assert opened.strays == ((C, B, 0),)


def test_both_markers_of_a_node_with_keys_stay_until_the_keys_have_gone() -> None:
    topology = cluster({B: f"[0->-{C}] [0-<-{A}]"})
    opened = sort_markers(topology, fix_goal(topology), held(b={0: 3}))
    assert opened.strays == ((B, A, 0),)
    assert opened.stale == ()


def test_movers_refuse_what_a_repair_mends() -> None:
    topology = cluster({A: f"[0->-{B}]"})
    with pytest.raises(Refused, match="redis_cluster_fix"):
        sort_markers(topology, AssignGoal({5: C}, {}), held())
    topology = cluster({B: f"[0-<-{A}]"})
    with pytest.raises(Refused, match="holds 3 keys"):
        sort_markers(topology, AssignGoal({5: C}, {}), held(b={0: 3}))


def test_a_dead_target_may_hold_keys_and_a_forgotten_one_does_not_count() -> None:
    topology = cluster({A: f"[0->-{B}]"}, dead=[B])
    with pytest.raises(Refused, match="may hold keys"):
        sort_markers(topology, fix_goal(topology), held())
    topology = cluster({A: f"[0->-{FORGOTTEN}]"})
    assert sort_markers(topology, fix_goal(topology), held()).stale != ()


marks = st.dictionaries(
    st.tuples(
        st.sampled_from(IDS), st.sampled_from((0, 100, 200)), st.sampled_from(["->-", "-<-"])
    ),
    st.sampled_from(IDS),
    max_size=8,
)
counts = st.fixed_dictionaries(
    {name: st.dictionaries(st.sampled_from((0, 100, 200)), st.integers(1, 9)) for name in "abc"}
)


@quick
@given(marks, counts)
def test_no_marker_of_a_node_with_keys_is_cleared_and_each_has_an_answer(
    marked: dict[tuple[str, int, str], str], keys: dict[str, dict[int, int]]
) -> None:
    by_node: dict[str, str] = {}
    for (node, slot, arrow), peer in marked.items():
        by_node[node] = f"{by_node.get(node, '')} [{slot}{arrow}{peer}]"
    topology = cluster(by_node)
    found = held(**keys)
    opened = sort_markers(topology, fix_goal(topology), found)
    for marker in opened.stale:
        importing = OpenSlot(marker.slot, marker.node, "importing", marker.peer)
        keeps = topology.owners[marker.slot] == marker.node
        assert keeps or marker.kind == "migrating" or not found[marker.node][marker.slot], importing
    answered = {slot for _s, _t, slot in (*opened.finish, *opened.strays)}
    answered |= {marker.slot for marker in opened.stale}
    assert answered == {marker.slot for marker in topology.open_slots}
    assert {r.kind for r in describe_opened(topology, opened)} <= {"finish", "collect", "clear"}


# Who owns what


def test_nothing_is_wrong_with_a_healthy_cluster() -> None:
    topology = cluster()
    assert concerned_slots(topology) == set()
    assert not plan_ownership(topology, held(), "fail")


def test_a_slot_that_nobody_serves_goes_to_who_holds_keys_of_it() -> None:
    topology = cluster(claims={A: "3-99"})
    with pytest.raises(Refused, match="on_uncovered"):
        plan_ownership(topology, held(), "fail")
    plan = plan_ownership(topology, held(b={0: 1, 1: 2}, c={1: 9}), "assign")
    assert plan.assigned == {0: B, 1: C, 2: A}
    assert [(guard.node, guard.slot, guard.peer) for guard in plan.guards] == [(B, 1, C)]
    assert plan.bump == (A, B, C)
    assert {node: set(slots) for node, slots in plan.tell.items()} == {
        A: {0, 1},
        B: {1, 2},
        C: {0, 2},
    }
    reasons = {repair.node: repair.message for repair in plan.repairs}
    assert "holds their keys" in reasons[B]
    assert "the most of their keys" in reasons[C]
    assert "fewest slots" in reasons[A]


def test_slots_are_not_given_away_while_a_primary_is_away() -> None:
    topology = cluster(claims={A: "3-99"}, told={A: {B: ""}}, dead=[B])
    with pytest.raises(Refused, match="CLUSTER FORGET"):
        plan_ownership(topology, held(), "assign")


def test_who_names_another_owner_is_told_and_the_owners_epoch_beats_that_ones() -> None:
    topology = cluster(told={C: {A: "1-99", B: "0 100-199"}})
    plan = plan_ownership(topology, held(), "fail")
    assert plan == Ownership(bump=(A,), tell={C: (0,)}, repairs=plan.repairs)
    (repair,) = plan.repairs
    assert (repair.kind, repair.node, repair.slots) == ("agree", C, (0,))


def test_who_takes_itself_for_the_owner_and_holds_keys_lets_go_first() -> None:
    """The claim of the highest epoch counts."""
    others = {A: {B: "101-199"}, B: {A: "0-99"}, C: {A: "0-99"}}
    topology = cluster(claims={A: "0-100"}, told=others)
    plan = plan_ownership(topology, held(a={100: 4}), "fail")
    assert plan.drop == ((A, 100),)
    assert plan.tell == {A: (100,)}
    assert [(guard.node, guard.slot, guard.peer) for guard in plan.guards] == [(A, 100, B)]
    without = plan_ownership(topology, held(), "fail")
    assert (without.drop, without.guards, without.tell) == ((), (), {A: (100,)})


def test_keys_that_nobody_sees_get_a_marker_from_the_owner() -> None:
    topology = cluster({B: f"[0-<-{C}] [1-<-{A}]"})
    plan = plan_ownership(topology, held(b={0: 1, 1: 1}, c={5: 2}), "fail")
    assert [(guard.node, guard.slot, guard.peer) for guard in plan.guards] == [(B, 0, A), (C, 5, A)]


def test_a_plan_as_if_it_was_done_has_the_owners_and_the_markers() -> None:
    topology = cluster(claims={A: "3-99"})
    marker = OpenSlot(1, B, "importing", A)
    later = Topology(topology.reports, {}, A, assigned={0: C}, marked=(marker,))
    assert later.owners[0] == C
    assert later.open_slots == [marker]


# Turns and shares


@quick
@given(st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(IDS)), max_size=6, unique=True))
def test_no_node_gives_and_takes_in_one_turn(ways: list[tuple[str, str]]) -> None:
    moves = [Move(a, b, (i,)) for i, (a, b) in enumerate(ways) if a != b]
    turns = one_way(moves)
    assert sorted(m.slots for turn in turns for m in turn) == sorted(m.slots for m in moves)
    for turn in turns:
        assert not {m.source for m in turn} & {m.target for m in turn}


@quick
@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=5),
    st.sets(st.integers(0, SLOT_COUNT - 1), max_size=80),
)
def test_slots_are_spread_as_evenly_as_they_can(owned: list[int], slots: set[int]) -> None:
    counts = {f"node {number}": count for number, count in enumerate(owned)}
    given_away = spread(counts, sorted(slots))
    assert sorted(slot for found in given_away.values() for slot in found) == sorted(slots)
    after = {node: count + len(given_away.get(node, ())) for node, count in counts.items()}
    for node in given_away:
        assert after[node] <= min(after.values()) + 1
