# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""redis_cluster_fix: every state of tests/harness/broken.py is mended, wherever a run is cut.

The owner is the node that owns the slot in question, the taker one that takes part in a move of
it, the other a third primary. The data is known before the state is made.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from tests.harness import broken, data
from tests.harness.broken import State
from tests.harness.cluster import Cluster, count_slots
from tests.harness.cutting import Cut, Run, start
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.shared import SharedCluster
from tests.harness.views import (
    asking,
    end_cached_sockets,
    me,
    owner_told_by,
    tool_at_work,
    wait_until,
)
from tests.harness.walled import Forwarder

pytestmark = [
    pytest.mark.system,
    pytest.mark.stand_for_all("redis-6.2", "redis-8.6", "valkey-9.1"),
]

FIX = "redis_cluster_fix"
INFO = "redis_cluster_info"
BY_NAME = {state.name: state for state in broken.STATES}
CHANGING = re.compile(
    r"^\d+ (CLUSTER (SETSLOT (?!16384)|BUMPEPOCH|ADDSLOTS|DELSLOTS (?!16384)|RESET|FORGET)"
    r"|MIGRATE (?!127.0.0.1 1 )|RESTORE(?!\S* keyslot-permission)|DEL|SET|CONFIG SET|FLUSH)"
)
# A run is cut at each third command of those that change something; at each one if this is set.
EACH = 1 if os.environ.get("KEYSLOT_EVERY_CUT") else 3
# Crash points are tried out on these.
CUT_STATES = (
    "migrating_with_hidden_keys",
    "third_node_hides_keys",
    "uncovered_with_keys_on_two",
    "two_owners",
    "keys_on_two_and_one_imports",
)


@pytest.fixture(scope="module")
def shared(engine: Engine) -> Iterator[SharedCluster]:
    made = SharedCluster(lambda: Cluster.start(engine, 3, 1))
    yield made
    made.close()


@pytest.fixture
def cluster(shared: SharedCluster) -> Cluster:
    return shared.get()


@pytest.fixture
def unspoilt(shared: SharedCluster) -> Cluster:
    """Of nodes that have seen no other test: see SharedCluster.get."""
    return shared.get(fresh=True)


def made(cluster: Cluster, name: str) -> tuple[State, broken.Scene]:
    """The state, on this cluster; a test of a state that the engine does not know is none."""
    state = BY_NAME[name]
    if not state.fits(cluster.engine):
        pytest.skip(f"{cluster.engine.name} does not come into this state")
    stage = broken.scene(cluster)
    state.make(stage)
    if name == "uncovered":
        stage = replace(stage, before={})
    return state, stage


def options(stage: broken.Scene, **more: Any) -> dict[str, Any]:
    entry = stage.other
    fixed = {"login_host": entry.host, "login_port": entry.port, "command_timeout": 5}
    return {**fixed, "wait_timeout": 25, "progress_interval": 0, **more}


def fix(stage: broken.Scene, *cuts: Cut, **more: Any) -> Run:
    return start(FIX, options(stage, **more), *cuts)


def changes(trace: list[str]) -> list[str]:
    return [line for line in trace if CHANGING.match(line)]


def kinds(result: dict[str, Any]) -> set[str]:
    return {repair["kind"] for repair in result["repairs"]}


def assert_success(result: dict[str, Any]) -> None:
    assert not result.get("failed"), result["msg"]
    assert result["finished"] is True


def assert_refused(attempt: Run, *words: str) -> str:
    """It failed before it changed anything, and says so with these words; its message."""
    result = attempt.result()
    assert result.get("failed"), result
    for word in words:
        assert word in result["msg"], result["msg"]
    assert changes(attempt.trace) == []
    assert (result["changed"], result["finished"], result["moves"]) == (False, False, [])
    assert result["repairs"] == []
    return str(result["msg"])


def assert_mended(stage: broken.Scene) -> None:
    """All agree, no slot is open, each key is there once, at the owner, with its value."""
    stage.cluster.wait_healthy()
    assert data.compare(stage.before, data.digest(stage.cluster)) == []


def assert_nothing_to_do(stage: broken.Scene) -> None:
    again = fix(stage)
    result = again.result()
    assert_success(result)
    assert (result["changed"], result["repairs"], result["moves"]) == (False, [], [])
    assert changes(again.trace) == []


# Each state


@pytest.mark.parametrize("name", BY_NAME)
def test_state_is_mended_as_check_mode_said(cluster: Cluster, name: str) -> None:
    state, stage = made(cluster, name)
    wish = dict(state.options)
    if state.refused == "on_uncovered":
        assert_refused(fix(stage), state.refused)
    views = cluster.nodes_text()
    planned = fix(stage, _ansible_check_mode=True, _ansible_diff=True, **wish)
    plan = planned.result()
    assert changes(planned.trace) == []
    assert [text.count("[") for text in cluster.nodes_text().values()] == [
        text.count("[") for text in views.values()
    ]
    done = fix(stage, _ansible_diff=True, **wish).result()
    assert_success(done)
    assert kinds(done) == state.kinds, (plan["repairs"], done["repairs"])
    assert done["changed"] is plan["changed"] is True
    assert all(repair["message"] in done["diff"]["after"] for repair in done["repairs"])
    if not hides(cluster.engine):
        keys = ("kind", "node", "slots")
        assert [[r[k] for k in keys] for r in plan["repairs"]] == [
            [r[k] for k in keys] for r in done["repairs"]
        ]
        assert [(m["source"], m["target"], m["slots"]) for m in plan["moves"]] == [
            (m["source"], m["target"], m["slots"]) for m in done["moves"]
        ]
        assert plan["diff"]["after"] == done["diff"]["after"]
    forget_by_hand(cluster, broken.FORGOTTEN)
    assert_mended(stage)
    if state.ends_at:
        assert cluster.slot_owners()[stage.slot] is getattr(stage, state.ends_at)
    assert_nothing_to_do(stage)


def hides(engine: Engine) -> bool:
    """Whether nodes do not tell of keys outside their slots, so that check mode can't."""
    return engine.family == "redis" and engine.release >= (8, 4)


@pytest.mark.parametrize("name", ["different_on_both_sides", "different_beside"])
def test_key_with_two_values_is_named_and_both_stay(cluster: Cluster, name: str) -> None:
    _state, stage = made(cluster, name)
    result = fix(stage).result()
    assert result["failed"], result
    for word in ("double", "on_busy_key", stage.owner.address, stage.taker.address):
        assert word in result["msg"], result["msg"]
    assert asking(stage.owner, "GET", stage.tag + b"double") == b"v"
    assert asking(stage.taker, "GET", stage.tag + b"double") == b"w"
    end_cached_sockets(cluster.primaries())
    assert_success(fix(stage, on_busy_key="replace").result())
    assert_mended(stage)


def test_slots_without_keys_are_shared_out_evenly(cluster: Cluster) -> None:
    stage = broken.scene(cluster)
    first, last = max(me(stage.taker).slots, key=lambda pair: pair[1] - pair[0])
    gone = list(range(first, min(last, first + 900)))
    for node in cluster.primaries():
        node.call("CLUSTER", "DELSLOTS", *gone)
    before = [count_slots(me(node).slots) for node in cluster.primaries()]
    result = fix(stage, on_uncovered="assign").result()
    assert_success(result)
    assert kinds(result) == {"assign"}
    assert all("fewest slots" in repair["message"] for repair in result["repairs"])
    assert_mended(stage)
    after = [count_slots(me(node).slots) for node in cluster.primaries()]
    assert max(after) - min(after) <= max(1, max(before) - min(after))
    assert len(result["repairs"]) == sum(a != b for a, b in zip(after, before, strict=True))
    assert all(len(repair["slots"]) == 1 for repair in result["repairs"])


def test_interrupted_moves_in_both_directions_are_finished(cluster: Cluster) -> None:
    stage = broken.scene(cluster)
    back = replace(stage, owner=stage.taker, taker=stage.owner)
    slot = me(stage.taker).slots[0][0]
    back = replace(back, slots=(slot,))
    data.seed_slot(cluster, slot, 8)
    stage = replace(stage, before=data.digest(cluster))
    broken.open_towards(stage, stage.taker)
    broken.open_towards(back, back.taker)
    result = fix(stage).result()
    assert_success(result)
    assert [move["slot_count"] for move in result["moves"]] == [1, 1]
    assert_mended(stage)
    owners = cluster.slot_owners()
    assert (owners[stage.slot], owners[slot]) == (stage.taker, stage.owner)


def keys_on_two(stage: broken.Scene) -> None:
    broken.hide(stage, stage.taker, 4)
    broken.uncover(stage)


def keys_on_two_and_one_imports(stage: broken.Scene) -> None:
    keys_on_two(stage)
    broken.setslot(stage.taker, stage.slot, "IMPORTING", stage.owner.id)


@pytest.mark.family("valkey")
@pytest.mark.parametrize("make", [keys_on_two, keys_on_two_and_one_imports])
def test_late_message_from_before_it_owned_the_slot_costs_no_key(
    engine: Engine, make: Callable[[broken.Scene], None]
) -> None:
    """A primary that imports a slot makes it its own when it reads that the owner does not claim
    it; the owner deletes its keys then. Here the owner's messages arrive late."""
    with Cluster.start(engine, 3, 0) as cluster:
        stage = broken.scene(cluster)
        make(stage)
        with Forwarder(stage.taker.port + 10000, delay=0.2) as late:
            stage.taker.call("CONFIG", "SET", "cluster-announce-bus-port", late.port)
            wait_until(lambda: reaches(stage.owner, stage.taker, late.port), "the way by the delay")
            attempt = fix(
                stage,
                Cut(rf"^{stage.owner.port} CLUSTER SETSLOT {stage.slot} NODE", "hold"),
                on_uncovered="assign",
            )
            attempt.wait_held()
            tell_all_nodes_what_it_owns(stage.owner)
            attempt.go()
            assert_success(attempt.result())
            assert_mended(stage)


def reaches(node: Node, other: Node, bus_port: int) -> bool:
    text = node.call("CLUSTER", "NODES").decode()
    lines = [line for line in text.splitlines() if line.startswith(other.id)]
    return f"@{bus_port}" in lines[0] and " connected" in lines[0]


def tell_all_nodes_what_it_owns(node: Node) -> None:
    node.call("CLUSTER", "SETSLOT", me(node).slots[0][0], "NODE", node.id)


# Killed anywhere


@pytest.mark.parametrize("name", CUT_STATES)
def test_killed_after_any_command_the_next_run_finishes(cluster: Cluster, name: str) -> None:
    """The same state again and again, cut at other commands of the run."""
    wish, stage = made_to_be_cut(cluster, name)
    number = 0
    while True:
        number += EACH
        if not ended_by_the_cut(fix(stage, Cut(of(stage), "kill after", number), **wish)):
            break
        assert_every_key_is_somewhere(stage)
        end_cached_sockets(cluster.primaries())
        assert_success(fix(stage, **wish).result())
        assert_mended(stage)
        for node in cluster.primaries():
            node.call("FLUSHALL")
        wish, stage = made_to_be_cut(cluster, name)
    assert number > EACH
    assert_mended(stage)


def made_to_be_cut(cluster: Cluster, name: str) -> tuple[dict[str, str], broken.Scene]:
    """The options with which it is mended, and the scene."""
    if name == keys_on_two_and_one_imports.__name__:
        stage = broken.scene(cluster)
        keys_on_two_and_one_imports(stage)
        return {"on_uncovered": "assign"}, stage
    state, stage = made(cluster, name)
    return dict(state.options), stage


def test_killed_again_and_again_it_gets_there(cluster: Cluster) -> None:
    """Each run is killed a few commands after the place where the last one was."""
    state, stage = made(cluster, "third_node_hides_keys")
    wish = dict(state.options)
    for number in range(2, 30):
        end_cached_sockets(cluster.primaries())
        if not ended_by_the_cut(fix(stage, Cut(of(stage), "kill after", number), **wish)):
            break
        assert_every_key_is_somewhere(stage)
    assert number > 2
    assert_mended(stage)


def of(stage: broken.Scene) -> str:
    """The pattern of commands that change something about the slot: where nodes hide keys, others
    are opened and closed to look into them."""
    return (
        rf"CLUSTER (SETSLOT {stage.slot} |DELSLOTS {stage.slot}$|BUMPEPOCH)"
        r"|MIGRATE (?!127.0.0.1 1 )| DEL "
    )


def ended_by_the_cut(attempt: Run) -> bool:
    result = attempt.ended()
    if result is not None:
        assert_success(result)
    return result is None


def assert_every_key_is_somewhere(stage: broken.Scene) -> None:
    """On a primary: keys that it hides are counted in its total."""
    names = set()
    for node in stage.cluster.primaries():
        with node.client() as client:
            names |= set(client.scan_iter(count=1000))
    total = sum(int(node.call("DBSIZE")) for node in stage.cluster.primaries())
    missing = set(stage.before) - names
    assert not missing or hides(stage.cluster.engine), missing
    assert total >= len(stage.before)


@pytest.mark.parametrize("name", ["several_importing_with_keys", "uncovered_with_keys_on_two"])
@pytest.mark.parametrize("pattern", [r"MIGRATE (?!127.0.0.1 1 )", r"SETSLOT (?!16384)\d+ STABLE"])
def test_lost_replies_are_looked_into(cluster: Cluster, name: str, pattern: str) -> None:
    state, stage = made(cluster, name)
    wish = dict(state.options)
    result = fix(stage, Cut(pattern, "lose"), **wish).result()
    if result.get("failed"):
        assert "lost" in result["msg"], result["msg"]
        assert_every_key_is_somewhere(stage)
    end_cached_sockets(cluster.primaries())
    assert_success(fix(stage, **wish).result())
    assert_mended(stage)


# Failovers


def fail_over(cluster: Cluster, node: Node, slot: int) -> Node:
    """Kills a primary when its replica has everything; the replica, when it has taken over."""
    copy = next(other for other in cluster.replicas() if broken.follows(other, node))
    assert node.call("WAIT", 1, 15_000) == 1
    node.kill()
    wait_until(lambda: bool(me(copy).slots), f"{copy} takes over")
    others = [other for other in cluster.primaries() if other is not copy]
    at = me(copy).slots[0][1]
    wait_until(
        lambda: any(owner_told_by(other, at) == copy.id for other in others),
        "others know it",
    )
    return copy


def test_owner_fails_over_with_a_slot_open(unspoilt: Cluster) -> None:
    """On Redis the new owner knows of no move, and the taker goes on naming the dead one."""
    stage = broken.scene(unspoilt)
    broken.open_towards(stage, stage.taker)
    assert stage.taker.call("WAIT", 1, 15_000) == 1
    fail_over(unspoilt, stage.owner, stage.slot)
    assert_success(fix(stage).result())
    stage.owner.restart()
    assert_mended(stage)
    assert_nothing_to_do(stage)


def test_taker_fails_over_with_a_slot_open(unspoilt: Cluster) -> None:
    """On Redis its keys are hidden on the new one, and the owner names the dead one: refused until
    that is back."""
    stage = broken.scene(unspoilt)
    broken.open_towards(stage, stage.taker)
    assert stage.taker.call("WAIT", 1, 15_000) == 1
    old, promoted = stage.taker, fail_over(unspoilt, stage.taker, stage.slot)
    if unspoilt.engine.family == "redis":
        assert_refused(fix(stage), f"slot {stage.slot} ", old.address, "bring that node back")
    old.restart()
    wait_until(lambda: me(old).primary_id == promoted.id, "the old one follows")
    wait_until(lambda: old.info("replication").get("master_link_status") == "up", "its link")
    assert_success(fix(stage).result())
    assert_mended(stage)
    assert_nothing_to_do(stage)


# Refused


def forget_by_hand(cluster: Cluster, node_id: str) -> None:
    for node in cluster.members():
        with contextlib.suppress(redis.ResponseError):
            node.call("CLUSTER", "FORGET", node_id)


def test_dead_primary_may_hold_keys_of_slots_that_nobody_serves(engine: Engine) -> None:
    """A primary without a replica is lost; a slip of the hand takes another slot away."""
    with Cluster.start(engine, 3, 0) as cluster:
        stage = broken.scene(cluster)
        lost = stage.taker
        slots = [slot for slot, node in enumerate(cluster.slot_owners()) if node is lost]
        broken.uncover(stage)
        lost.kill()
        words = (lost.address, "may hold keys", f"CLUSTER FORGET {lost._id}")
        assert_refused(fix(stage, on_uncovered="assign"), *words)
        forget_by_hand(cluster, lost._id)
        assert_refused(fix(stage), "served by nobody", "on_uncovered")
        result = fix(stage, on_uncovered="assign").result()
        assert_success(result)
        cluster.wait_healthy(members=2)
        assert data.compare(stage.before, data.digest(cluster)) == []
        owners = cluster.slot_owners()
        assert owners[stage.slot] is stage.owner
        counts = [owners.count(node) for node in (stage.owner, stage.other)]
        assert max(counts) - min(counts) <= 1
        assert {owners[slot] for slot in slots} == {stage.owner, stage.other}
        assert_nothing_to_do(stage)


def test_slots_of_a_dead_owner_are_left_alone(engine: Engine) -> None:
    with Cluster.start(engine, 3, 0) as cluster:
        stage = broken.scene(cluster)
        broken.importing_alone(stage)
        stage.owner.kill()
        assert_refused(fix(stage), stage.owner.address, "can't be reached")


def test_somebody_else_at_work_is_noticed(cluster: Cluster) -> None:
    stage = broken.scene(cluster)
    with stage.owner.client() as client:
        data.pipe(client, [("SET", stage.tag + b"more:%d" % n, "v") for n in range(500)])
    stage = replace(stage, before=data.digest(cluster))
    broken.setslot(stage.taker, stage.slot, "IMPORTING", stage.owner.id)
    broken.setslot(stage.owner, stage.slot, "MIGRATING", stage.taker.id)
    with tool_at_work(stage.owner, stage.taker, stage.slot):
        assert_refused(fix(stage), "somebody else", f"slot {stage.slot} ")
    end_cached_sockets(cluster.primaries())
    assert_success(fix(stage).result())
    assert_mended(stage)


def owner_told_by_all(stage: broken.Scene) -> Node | None:
    with contextlib.suppress(AssertionError):
        return stage.cluster.slot_owners()[stage.slot]
    return None


def test_engines_own_migration_is_somebody_else(able: Engine) -> None:
    with Cluster.start(able, 3, 0) as cluster:
        stage = broken.scene(cluster)
        stage.owner.call("CONFIG", "SET", "rdb-key-save-delay", 300_000)
        if able.family == "redis":
            stage.taker.call("CLUSTER", "MIGRATION", "IMPORT", stage.slot, stage.slot)
        else:
            words = ("SLOTSRANGE", stage.slot, stage.slot, "NODE", stage.taker.id)
            stage.owner.call("CLUSTER", "MIGRATESLOTS", *words)
        assert_refused(fix(stage), "the engine is moving slots")
        stage.owner.call("CONFIG", "SET", "rdb-key-save-delay", 0)
        wait_until(lambda: owner_told_by_all(stage) is stage.taker, "the end of the job")
        assert_mended(stage)


def test_missing_permission_is_named_before_anything_is_changed(cluster: Cluster) -> None:
    stage = broken.scene(cluster)
    broken.moving(stage)
    for node in cluster.members():
        node.call("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-migrate")
    try:
        attempt = fix(stage, login_user="limited", login_password="pw")
        assert_refused(attempt, "migrate", "grant", stage.owner.address)
    finally:
        for node in cluster.members():
            node.call("ACL", "DELUSER", "limited")
    assert_success(fix(stage).result())
    assert_mended(stage)


# What redis_cluster_info says


def info(stage: broken.Scene) -> list[dict[str, Any]]:
    names = ("login_host", "login_port", "command_timeout")
    wish = {name: value for name, value in options(stage).items() if name in names}
    attempt = start(INFO, wish)
    result = attempt.result()
    assert not result.get("failed"), result
    assert changes(attempt.trace) == []
    return result["problems"]


def test_info_names_keys_outside_a_nodes_slots(cluster: Cluster) -> None:
    _state, stage = made(cluster, "hidden_keys")
    (problem,) = info(stage)
    assert (problem["kind"], problem["node"]) == ("stray_keys", stage.taker.id)
    assert "holds 4 keys outside its slots" in problem["message"]
    assert "redis_cluster_fix" in problem["message"]
    assert_success(fix(stage).result())
    assert info(stage) == []
    assert_mended(stage)


def test_info_takes_keys_of_an_open_slot_for_no_strays(cluster: Cluster) -> None:
    _state, stage = made(cluster, "moving")
    assert "stray_keys" not in {problem["kind"] for problem in info(stage)}
    assert_success(fix(stage).result())
    assert_mended(stage)


def test_info_sees_no_strays_under_live_writes(cluster: Cluster) -> None:
    stage = broken.scene(cluster)
    stop = threading.Event()
    written = itertools.count()

    def write() -> None:
        with stage.cluster.seed_client() as client:
            while not stop.is_set():
                number = next(written)
                client.set(f"live:{number % 500}", "v")
                client.delete(f"live:{(number + 250) % 500}")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _look in range(10):
            assert info(stage) == []
    finally:
        stop.set()
        thread.join()
    assert next(written) > 100


def test_info_names_strays_in_all_databases(engine: Engine) -> None:
    if engine.family != "valkey" or engine.release < (9, 0):
        pytest.skip("one database in cluster mode")
    with Cluster.start(engine, 3, 0, databases=3) as cluster:
        stage = broken.scene(cluster)
        broken.setslot(stage.taker, stage.slot, "IMPORTING", stage.owner.id)
        for database in (1, 2):
            with stage.taker.client(db=database) as client:
                data.pipe(client, [("ASKING",), ("SET", stage.tag + b"%d" % database, "v")])
        broken.setslot(stage.taker, stage.slot, "STABLE")
        (problem,) = info(stage)
        assert "holds 2 keys outside its slots" in problem["message"]
        assert_success(fix(stage).result())
        cluster.wait_healthy()
        assert len(data.digest(cluster)) == len(stage.before) + 2
