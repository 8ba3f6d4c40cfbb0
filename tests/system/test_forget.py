# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node is not removed while keys could get lost with it, nor where it would come back.

N is a new primary without slots, R its replica; S owns the slot in question, O is a third primary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from tests.harness import data
from tests.harness.ansible import Play, run_playbook
from tests.harness.broken import setslot
from tests.harness.cluster import Cluster
from tests.harness.cutting import Cut, run, start
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.refusal import assert_same, told
from tests.harness.views import end_cached_sockets, me, replica_of, wait_until

pytestmark = pytest.mark.system

FORGET = "redis_cluster_forget"
FIX = "redis_cluster_fix"
SLOT = 0
KEYS = 20


@dataclass(frozen=True)
class Stage:
    """All keys as they were before anything was done to their slot."""

    cluster: Cluster
    new: Node
    replica: Node
    source: Node
    other: Node
    before: data.Digest

    def options(self, **more: Any) -> dict[str, Any]:
        entry = {"login_host": self.other.host, "login_port": self.other.port}
        return {**entry, "command_timeout": 5, "wait_timeout": 25, **more}

    def assert_whole(self, members: int) -> None:
        self.cluster.wait_healthy(members=members)
        assert data.compare(self.before, data.digest(self.cluster)) == []


@pytest.fixture
def stage(engine: Engine) -> Iterator[Stage]:
    slots = ["0-5460", "5461-10922", "10923-16383", ""]
    with Cluster.start(engine, 4, 1, slots=slots) as cluster:
        source, other, _third, new = cluster.nodes[:4]
        data.seed_slot(cluster, SLOT, KEYS)
        before = data.digest(cluster)
        yield Stage(cluster, new, replica_of(cluster, new), source, other, before)


def move_half(stage: Stage) -> None:
    """A move of the slot from S to N that was aborted half-way."""
    setslot(stage.new, SLOT, "IMPORTING", stage.source.id)
    setslot(stage.source, SLOT, "MIGRATING", stage.new.id)
    names = stage.source.call("CLUSTER", "GETKEYSINSLOT", SLOT, KEYS // 2)
    stage.source.call("MIGRATE", stage.new.host, stage.new.port, "", 0, 1000, "KEYS", *names)
    end_cached_sockets(stage.cluster.primaries())
    assert stage.new.call("WAIT", 1, 15_000) == 1


def die(stage: Stage, node: Node) -> None:
    """The node is killed, and all who are left know it."""
    node_id = node.id
    node.kill()

    def told() -> bool:
        return all(
            any(line.id == node_id and "fail" in line.flags for line in lines)
            for lines in stage.cluster.views().values()
        )

    wait_until(told, f"{node.address} counts as dead")


def listed_by(stage: Stage, node_id: str) -> list[str]:
    texts = stage.cluster.nodes_text()
    return [n.address for n in stage.cluster.nodes if n.running and node_id in texts[n.address]]


def forget(stage: Stage, node_id: str, **more: Any) -> dict[str, Any]:
    """The result of a removal that has to succeed."""
    result = run(FORGET, stage.options(node=node_id, **more))
    assert not result.get("failed"), result["msg"]
    return result


def assert_refused(stage: Stage, module: str, *words: str, **more: Any) -> str:
    """It changes nothing and says so with these words; its message."""
    before = told(stage.cluster)
    for check in (True, False):
        result = run(module, stage.options(_ansible_check_mode=check, **more))
        assert result.get("failed"), result
        for word in (*words, "Nothing was changed"):
            assert word in result["msg"], result["msg"]
    assert_same(before, told(stage.cluster))
    return str(result["msg"])


def play_removal(stage: Stage, *node_ids: str) -> Play:
    entry = {"keyslot_login_host": stage.other.host, "keyslot_login_port": stage.other.port}
    return run_playbook("remove_node", {**entry, "remove_node_nodes": list(node_ids)})


def assert_play_refused(stage: Stage, node_id: str, *words: str) -> None:
    play = play_removal(stage, node_id)
    assert play.code != 0, play.output
    assert [word for word in words if word not in play.output] == [], play.output


# Keys


@pytest.mark.parametrize("reset", ["none", "soft"])
def test_node_to_which_a_slot_is_half_moved_stays(stage: Stage, reset: str) -> None:
    move_half(stage)
    words = (stage.new.address, "keyslot.redis.redis_cluster_fix")
    assert "FLUSHALL" not in assert_refused(stage, FORGET, *words, node=stage.new.id, reset=reset)
    assert_play_refused(stage, stage.new.id, *words)
    assert not run(FIX, stage.options()).get("failed")
    stage.assert_whole(members=8)


def test_node_that_has_opened_a_slot_stays_though_it_has_no_keys_yet(stage: Stage) -> None:
    setslot(stage.new, SLOT, "IMPORTING", stage.source.id)
    setslot(stage.source, SLOT, "MIGRATING", stage.new.id)
    words = (f"slot {SLOT} is open", stage.new.address, "keyslot.redis.redis_cluster_fix")
    assert_refused(stage, FORGET, *words, node=stage.new.id, reset="none")
    assert_play_refused(stage, stage.new.id, *words)
    # The repair ends the move; then the node is drained as any other.
    assert not run(FIX, stage.options()).get("failed")
    play = play_removal(stage, stage.new.id)
    assert play.code == 0, play.output
    stage.assert_whole(members=7)


@pytest.mark.family("redis")
def test_last_copy_of_keys_that_went_to_a_node_which_died_is_kept(stage: Stage) -> None:
    """N dies with half of the slot; R alone has those keys."""
    move_half(stage)
    new_id, replica = stage.new.id, stage.replica
    die(stage, stage.new)
    words = (stage.new.address, replica.address, "CLUSTER FAILOVER TAKEOVER")
    assert_refused(stage, FORGET, *words, node=new_id)
    assert_refused(stage, FORGET, *words, node=replica.id)
    again = {"node": replica.id, "primary": stage.other.id}
    assert_refused(stage, "redis_cluster_replicate", *words, **again)
    assert_play_refused(stage, new_id, *words)
    # What the messages say, one after the other, until all is well.
    replica.call("CLUSTER", "FAILOVER", "TAKEOVER")
    wait_until(lambda: "master" in me(replica).flags, "the replica has taken over")
    assert_refused(stage, FORGET, f"slot {SLOT} is open", "redis_cluster_fix", node=new_id)
    told = run(FIX, stage.options())
    assert f"CLUSTER FORGET {new_id} on each other node" in told["msg"]
    for node in stage.cluster.members():
        with contextlib.suppress(redis.ResponseError):
            node.call("CLUSTER", "FORGET", new_id)
    assert not run(FIX, stage.options()).get("failed")
    stage.assert_whole(members=7)


def test_replica_that_did_not_take_over_from_a_dead_owner_stays_as_it_is(stage: Stage) -> None:
    """The cluster still calls its state ok where it needs no full coverage."""
    heir = replica_of(stage.cluster, stage.source)
    heir.call("CONFIG", "SET", "cluster-replica-no-failover", "yes")
    for node in stage.cluster.members():
        node.call("CONFIG", "SET", "cluster-require-full-coverage", "no")
    wait_until(lambda: heir.call("DBSIZE") == KEYS, "it has all keys")
    die(stage, stage.source)
    words = (stage.source.address, heir.address, f"holds {KEYS} keys", "CLUSTER FAILOVER TAKEOVER")
    assert_refused(stage, FORGET, *words, node=heir.id)
    again = {"node": heir.id, "primary": stage.other.id}
    assert_refused(stage, "redis_cluster_replicate", *words, **again)
    heir.call("CLUSTER", "FAILOVER", "TAKEOVER")
    stage.assert_whole(members=7)


@pytest.mark.family("valkey")
def test_node_that_died_goes_when_its_replica_has_taken_over_the_open_slot(stage: Stage) -> None:
    """Valkey lets the replica of a primary without slots take over while it imports some."""
    move_half(stage)
    new_id, replica = stage.new.id, stage.replica
    die(stage, stage.new)
    wait_until(lambda: "master" in me(replica).flags, "the replica has taken over")
    wait_until(lambda: replica.id in me(stage.source).open[0], "S knows")
    assert forget(stage, new_id)["changed"]
    assert not run(FIX, stage.options()).get("failed")
    stage.assert_whole(members=7)


def test_slot_of_a_dead_node_without_replica_is_given_up_by_hand_alone(stage: Stage) -> None:
    move_half(stage)
    forget(stage, stage.replica.id)
    new_id = stage.new.id
    die(stage, stage.new)
    words = (f"slot {SLOT} is open", stage.new.address, "redis_cluster_fix")
    assert_refused(stage, FORGET, *words, node=new_id)
    for node in stage.cluster.members():
        node.call("CLUSTER", "FORGET", new_id)
    assert not run(FIX, stage.options()).get("failed")
    stage.cluster.wait_healthy(members=6)
    assert len(data.compare(stage.before, data.digest(stage.cluster))) == KEYS // 2


@pytest.mark.parametrize("reset", ["none", "soft"])
def test_keys_that_clients_cannot_see_are_brought_home_first(stage: Stage, reset: str) -> None:
    move_half(stage)
    for node in (stage.source, stage.new):
        setslot(node, SLOT, "STABLE")
    words = (stage.new.address, f"holds {KEYS // 2} keys", "keyslot.redis.redis_cluster_fix")
    assert "FLUSHALL" not in assert_refused(stage, FORGET, *words, node=stage.new.id, reset=reset)
    assert not run(FIX, stage.options()).get("failed")
    assert forget(stage, stage.new.id)["changed"]
    stage.assert_whole(members=7)


def test_mark_that_a_killed_drain_has_left_over_keeps_no_node(stage: Stage) -> None:
    """N has given its only slot away, and was not told so when the run was killed."""
    there = {"slots": [str(SLOT)], "method": "classic", "progress_interval": 0}
    to_new = start("redis_slot_migrate", stage.options(**there, target=stage.new.id)).result()
    assert to_new["slots_moved"] == 1, to_new
    cut = Cut(rf"^{stage.source.port} CLUSTER SETSLOT {SLOT} NODE", "kill after")
    back = {**there, "target": stage.source.id}
    assert start("redis_slot_migrate", stage.options(**back), cut).was_killed()
    end_cached_sockets(stage.cluster.primaries())
    wait_until(lambda: me(stage.new).slots == (), "gossip tells N")
    assert len(me(stage.new).open) == (stage.cluster.engine.family == "redis")
    assert forget(stage, stage.new.id)["changed"]
    stage.assert_whole(members=7)


# Others who still know the node


def test_member_that_lives_and_cannot_be_told_keeps_the_node(stage: Stage) -> None:
    deaf = stage.source
    mapped = [{"announced": deaf.address, "reachable": f"{deaf.host}:1"}]
    words = (stage.new.address, deaf.address, "see it alive", "address_map")
    assert_refused(stage, FORGET, *words, node=stage.new.id, address_map=mapped)
    assert stage.new in stage.cluster.members()
    assert "warnings" not in forget(stage, stage.new.id)
    stage.assert_whole(members=7)


def test_dead_member_brings_the_node_back_and_the_next_run_ends_that(stage: Stage) -> None:
    dead = replica_of(stage.cluster, stage.source)
    die(stage, dead)
    warning = str(forget(stage, stage.new.id)["warnings"])
    assert stage.new.address in warning
    assert dead.address in warning
    dead.spawn()
    dead.wait_ready()
    wait_until(lambda: dead in stage.cluster.members(), "the others know that it is back")
    assert "warnings" not in forget(stage, stage.new.id)
    assert listed_by(stage, stage.new.id) == [stage.new.address]
    stage.assert_whole(members=7)


def test_dead_nodes_are_removed_one_after_the_other(stage: Stage) -> None:
    """N and R have died together, as on a host of theirs."""
    ids = [stage.new.id, stage.replica.id]
    die(stage, stage.new)
    die(stage, stage.replica)
    warned = [str(forget(stage, node_id).get("warnings")) for node_id in ids]
    assert [stage.replica.address in warned[0], stage.new.address in warned[1]] == [True, False]
    assert [listed_by(stage, node_id) for node_id in ids] == [[], []]
    stage.assert_whole(members=6)


def test_dead_nodes_are_removed_together(stage: Stage) -> None:
    ids = [stage.new.id, stage.replica.id]
    die(stage, stage.new)
    die(stage, stage.replica)
    play = play_removal(stage, *ids)
    assert play.code == 0, play.output
    assert [listed_by(stage, node_id) for node_id in ids] == [[], []]
    stage.assert_whole(members=6)
