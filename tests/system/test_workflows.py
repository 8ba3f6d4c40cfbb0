# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What users do with the collection, on running clusters whose clients must not notice.

Each test is the life story of one cluster. `unharmed` is what all of them claim. Those in which
slots move are told once for each `method` that the engine has.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.harness.ansible import Play, run_playbook
from tests.harness.clients import LiveClients
from tests.harness.cluster import SLOTS, Cluster, count_slots, parse_nodes, parse_ranges
from tests.harness.cutting import run_module
from tests.harness.data import Digest, compare, digest, seed, slot_of, tag_for_slot
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.views import wait_until

pytestmark = [pytest.mark.system, pytest.mark.every_engine, pytest.mark.timeout(600)]

Options = dict[str, Any]
KEYS = 1500
LIVE_KEY = re.compile(rb"\{[0-9a-f]+\}live:")
UNEVEN = ("0-5999", "6000-11499", "11500-16383", "")
# What a survey sends for fields that were left empty.
UNANSWERED = dict.fromkeys(
    (
        "keyslot_hosts",
        "keyslot_login_user",
        "keyslot_login_password",
        "keyslot_startup_nodes",
        "keyslot_address_map",
        "keyslot_tls",
        "keyslot_ca_certs",
        "keyslot_wait_timeout",
        "keyslot_max_pause_ms",
        "keyslot_max_seconds",
        "keyslot_method",
    ),
    "",
)


# What holds always


@contextlib.contextmanager
def unharmed(cluster: Cluster, members: int, leaves: bool = False) -> Iterator[None]:
    """Clients read and write while this lasts; after it none has seen an error, no acknowledged
    write and no other key is lost or changed, and so many members are in perfect order.

    Where a primary `leaves`, a client that has slept through its last seconds asks it once more.
    """
    before = resting(cluster)
    with LiveClients(cluster, rate=200, keys=800) as clients:
        yield
        wait_until(lambda: clients.operations > 50, "50 operations")
    errors = clients.errors
    if leaves and errors.total() == 1:
        errors.pop("ClusterDownError: Hash slot not served", None)
    assert errors == Counter()
    assert clients.lost() == []
    cluster.wait_healthy(members=members)
    assert compare(before, resting(cluster)) == []
    assert replica_migration_off(cluster) == []
    cluster.referee_check()


def resting(cluster: Cluster) -> Digest:
    """The keys that no client of ours writes to."""
    return {name: found for name, found in digest(cluster).items() if not LIVE_KEY.match(name)}


def replica_migration_off(cluster: Cluster) -> list[Node]:
    """Members where a run has left the option switched off."""
    option = "cluster-allow-replica-migration"
    return [node for node in cluster.members() if b"no" in node.call("CONFIG", "GET", option)]


# Running things


def login(cluster: Cluster) -> dict[str, Any]:
    """The module options that enter the cluster by its first node."""
    node = cluster.nodes[0]
    return {"login_host": node.host, "login_port": node.port}


def play(name: str, cluster: Cluster, variables: Mapping[str, Any], *words: str) -> Play:
    """A playbook that has to succeed."""
    entry = {f"keyslot_{key}": value for key, value in login(cluster).items()}
    done = run_playbook(name, {**entry, **variables}, *words)
    assert done.code == 0, done.output
    return done


def module(name: str, cluster: Cluster, *, check: bool = False, **options: Any) -> dict[str, Any]:
    """The result of a module, which may have failed."""
    return run_module(name, {**login(cluster), **options}, check=check)


def succeed(name: str, cluster: Cluster, *, check: bool = False, **options: Any) -> dict[str, Any]:
    """The result of a module that has to succeed."""
    result = module(name, cluster, check=check, **options)
    assert not result.get("failed"), result
    return result


def outline(moves: list[dict[str, Any]]) -> list[tuple[str, str, str, list[str]]]:
    """The way, source, target and slots of moves, in an order that can be compared."""
    return sorted((move["method"], move["source"], move["target"], move["slots"]) for move in moves)


def way(engine: Engine, method: str) -> str:
    """The way that slots are to go by this method."""
    if method == "auto":
        return "atomic" if engine.atomic else "classic"
    return method


def ways(*done: Play) -> set[str]:
    """The ways that slots went."""
    return {move["method"] for play in done for move in play.moves()}


def mover(done: Play) -> dict[str, Any]:
    """The result of a playbook's one task that moves slots."""
    (result,) = [result for _name, result in done.results if "slots_moved" in result]
    return result


# Looking


def slot_counts(cluster: Cluster) -> dict[Node, int]:
    """How many slots each owner has."""
    return {
        cluster.node(node_id): count_slots(parse_ranges(ranges))
        for node_id, ranges in cluster.ownership().items()
    }


def primary_of(cluster: Cluster, replica: Node) -> Node:
    """Whom the replica follows, by its own word."""
    (line,) = [line for line in cluster.views()[replica] if line.id == replica.id]
    return cluster.node(line.primary_id)


def full_syncs(nodes: list[Node]) -> dict[Node, int]:
    """How many replicas each has given a full copy so far."""
    return {node: int(node.info("stats")["sync_full"]) for node in nodes}


def growth(before: Mapping[Node, int], nodes: list[Node]) -> dict[Node, int]:
    """By how much full_syncs() has grown, where it has."""
    grown = {node: count - before[node] for node, count in full_syncs(nodes).items()}
    return {node: count for node, count in grown.items() if count}


def assert_on_its_own(node: Node) -> None:
    """It was reset: a primary that knows nobody and holds nothing."""
    (line,) = parse_nodes(node.call("CLUSTER", "NODES").decode())
    assert line.flags == {"myself", "master"}
    assert line.slots == ()
    assert node.call("DBSIZE") == 0


def assert_stays_unknown(cluster: Cluster, *node_ids: str) -> None:
    """No member lists these ids, for longer than gossip takes to bring one back."""
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        listed = {line.id for lines in cluster.views().values() for line in lines}
        assert listed.isdisjoint(node_ids)


# The stories


def test_a_primary_joins_and_another_one_leaves(engine: Engine, method: str) -> None:
    with Cluster.start(engine, 3, 1, spare=1) as cluster:
        seed(cluster, KEYS)
        new, leaving, orphan = cluster.spares[0], cluster.nodes[1], cluster.nodes[4]
        assert primary_of(cluster, orphan) is leaving

        owned = cluster.ownership()
        with unharmed(cluster, members=7):
            done = play("add_node", cluster, joining(new, method))
        assert ways(done) == {way(engine, method)}
        assert {move["target"] for move in done.moves()} == {new.id}
        assert {move["source"] for move in done.moves()} == set(owned)
        assert set(slot_counts(cluster).values()) == {SLOTS // 4}
        assert slot_counts(cluster)[new] == SLOTS // 4

        takers = [cluster.nodes[0], cluster.nodes[2], new]
        syncs = full_syncs([*takers, leaving, orphan])
        leaving_id = leaving.id
        with unharmed(cluster, members=6, leaves=True):
            done = play("remove_node", cluster, going(leaving, method))
        assert ways(done) == {way(engine, method)}
        assert {move["source"] for move in done.moves()} == {leaving_id}
        assert sorted(slot_counts(cluster).values()) == [5461, 5461, 5462]
        assert growth(syncs, [*takers, leaving, orphan]) == {primary_of(cluster, orphan): 1}
        assert_on_its_own(leaving)
        assert_stays_unknown(cluster, leaving_id)


def joining(node: Node, method: str) -> dict[str, Any]:
    return {"add_node_nodes": [node.address], "keyslot_method": method}


def going(node: Node, method: str) -> dict[str, Any]:
    return {"remove_node_nodes": [node.address], "keyslot_method": method}


@pytest.mark.stand_for_all("valkey-9.1")
def test_check_mode_foretells_who_joins_and_leaves_and_a_second_time_changes_nothing(
    engine: Engine,
) -> None:
    with Cluster.start(engine, 3, 0, spare=1) as cluster:
        seed(cluster, KEYS)
        new, leaving = cluster.spares[0], cluster.nodes[1]
        owned = cluster.ownership()
        add, remove = joining(new, "auto"), going(leaving, "auto")
        with unharmed(cluster, members=4):
            planned = play("add_node", cluster, add, "--check", "--diff")
            assert cluster.ownership() == owned
            assert new not in cluster.members()
            assert_on_its_own(new)
            done = play("add_node", cluster, add)
        assert outline(planned.moves()) == outline(done.moves())
        assert f"\n+{new.address}" in planned.output
        assert f": {SLOTS // 4} slots, " in planned.output
        assert not play("add_node", cluster, add).changed

        owned = cluster.ownership()
        with unharmed(cluster, members=3, leaves=True):
            planned = play("remove_node", cluster, remove, "--check", "--diff")
            assert cluster.ownership() == owned
            assert leaving in cluster.members()
            done = play("remove_node", cluster, remove)
        assert outline(planned.moves()) == outline(done.moves())
        assert f"\n-{leaving.address}" in planned.output
        assert f"\n+{leaving.address}" in planned.output
        assert not play("remove_node", cluster, remove).changed


@pytest.mark.stand_for_all("valkey-9.1")
def test_replicas_join_leave_and_die(engine: Engine) -> None:
    """With the variables as a survey gives them: lists as text, empty text for no answer."""
    with Cluster.start(engine, 3, 1, spare=3) as cluster:
        seed(cluster, KEYS)
        owned = cluster.ownership()
        first, second, third = cluster.spares
        auto = {
            **UNANSWERED,
            "add_node_nodes": f"{first.address}\n {second.address},\n",
            "add_node_primary": "auto",
            "add_node_rebalance": "",
            "add_node_weights": "",
        }
        named = {
            "add_node_nodes": third.address,
            "add_node_primary": cluster.nodes[0].id[:12],
        }
        with unharmed(cluster, members=9):
            planned = play("add_node", cluster, auto, "--check", "--diff")
            assert planned.changed
            assert len(cluster.members()) == 6
            done = [play("add_node", cluster, auto), play("add_node", cluster, named)]
        assert [play.moves() for play in (planned, *done)] == [[], [], []]
        assert cluster.ownership() == owned
        followed = [primary_of(cluster, node) for node in (first, second, third)]
        assert len(set(followed[:2])) == 2
        assert followed[2] is cluster.nodes[0]
        for node, primary in zip((first, second), followed):
            assert f"{node.address} of {primary.address}" in done[0].output
        assert not play("add_node", cluster, auto).changed
        assert not play("add_node", cluster, named).changed

        gone = [first.id, second.id]
        remove = {
            **UNANSWERED,
            "remove_node_nodes": f"\n{first.address},{second.id}\n",
            "remove_node_reset": "",
            "remove_node_weights": "",
        }
        with unharmed(cluster, members=7):
            done_once = play("remove_node", cluster, remove)
        assert done_once.moves() == []
        assert_on_its_own(first)
        assert_on_its_own(second)
        assert_stays_unknown(cluster, *gone)
        assert cluster.ownership() == owned
        assert not play("remove_node", cluster, remove).changed

        dead_id = third.id
        third.kill()
        wait_until(lambda: all_say_failed(cluster, dead_id), "all call the dead node dead", 30)
        with unharmed(cluster, members=6):
            result = succeed("redis_cluster_forget", cluster, node=dead_id)
        assert (result["changed"], result["forgotten_by"]) == (True, 6)
        remembers = engine.family == "valkey" and engine.release >= (8, 1)
        warned = ["nodes.conf" in str(told) for told in result.get("warnings", [])]
        assert warned == ([True] if remembers else [])
        assert_stays_unknown(cluster, dead_id)
        assert not succeed("redis_cluster_forget", cluster, node=dead_id)["changed"]


def all_say_failed(cluster: Cluster, node_id: str) -> bool:
    views = cluster.views().values()
    return all("fail" in line.flags for lines in views for line in lines if line.id == node_id)


def test_slots_are_shared_out_as_asked(engine: Engine, method: str) -> None:
    with Cluster.start(engine, 4, 1, slots=UNEVEN) as cluster:
        seed(cluster, KEYS)
        one, two, three, empty = cluster.nodes[:4]
        owned = cluster.ownership()

        def rebalance(**wish: Any) -> dict[str, Any]:
            return succeed("redis_cluster_rebalance", cluster, method=method, **wish)

        with unharmed(cluster, members=8):
            assert not rebalance(threshold=15)["changed"]
            assert cluster.ownership() == owned
            done = [rebalance(max_slots=300), rebalance(max_slots=300)]
        # 39 slots of `two` and 538 of `one` are above their share.
        assert [(told["slots_moved"], told["slots_left"]) for told in done] == [
            (300, 277),
            (277, 0),
        ]
        assert sorted(slot_counts(cluster).values()) == [5461, 5461, 5462]
        assert empty not in slot_counts(cluster)
        assert not rebalance(max_slots=300)["changed"]

        # A little to one, then a little to the empty one.
        heavy = [{"node": one.address, "weight": 1.1}]
        light = [{"node": node.address, "weight": 20} for node in (one, two, three)]
        with unharmed(cluster, members=8):
            done.append(rebalance(weights=heavy))
            assert slot_counts(cluster) == {one: 5814, two: 5285, three: 5285}
            assert not rebalance(weights=heavy)["changed"]
            done.append(rebalance(weights=light, use_empty_primaries=True))
            counts = slot_counts(cluster)
            assert counts.pop(empty) in (268, 269)
            assert set(counts.values()) <= {5371, 5372}
            assert not rebalance(weights=light, use_empty_primaries=True)["changed"]

        syncs = full_syncs(cluster.members())
        followers = {node: primary_of(cluster, node) for node in cluster.replicas()}
        with unharmed(cluster, members=8):
            done.append(rebalance(drain=[empty.id[:8]]))
            assert not rebalance(drain=[empty.address])["changed"]
        assert {move["method"] for told in done for move in told["moves"]} == {way(engine, method)}
        counts = slot_counts(cluster)
        assert set(counts) == {one, two, three}
        assert sum(counts.values()) == SLOTS
        assert set(counts.values()) == {5461, 5462}
        assert empty in cluster.primaries()
        assert {node: primary_of(cluster, node) for node in cluster.replicas()} == followers
        assert growth(syncs, cluster.members()) == {}


@pytest.mark.stand_for_all("redis-7.0")
def test_the_playbook_shares_out_what_check_mode_foretells(engine: Engine) -> None:
    with Cluster.start(engine, 4, 0, slots=UNEVEN) as cluster:
        seed(cluster, KEYS)
        one, two, three, empty = cluster.nodes
        owned = cluster.ownership()
        capped = {"rebalance_max_slots": 300}
        with unharmed(cluster, members=4):
            planned = play("rebalance", cluster, capped, "--check", "--diff")
            assert cluster.ownership() == owned
            assert "Slots that would move: 300, left to move: 277." in planned.output
            rounds = [play("rebalance", cluster, capped)]
            assert outline(planned.moves()) == outline(rounds[0].moves())
            while not mover(rounds[-1])["finished"]:
                assert len(rounds) < 4
                rounds.append(play("rebalance", cluster, capped))
        assert [mover(done)["slots_moved"] for done in rounds] == [300, 277]
        assert [mover(done)["slots_left"] for done in rounds] == [277, 0]
        assert sorted(slot_counts(cluster).values()) == [5461, 5461, 5462]
        assert not play("rebalance", cluster, capped).changed

        # As text, from a survey.
        heavy = {"rebalance_weights": f'[{{"node": "{one.address}", "weight": 1.1}}]'}
        drained = {"rebalance_drain": two.id[:8], "rebalance_use_empty_primaries": "true"}
        with unharmed(cluster, members=4):
            play("rebalance", cluster, heavy)
            assert slot_counts(cluster) == {one: 5814, two: 5285, three: 5285}
            play("rebalance", cluster, drained)
        assert set(slot_counts(cluster)) == {one, three, empty}
        assert two in cluster.primaries()


def test_named_slots_move_with_all_their_keys(engine: Engine, method: str) -> None:
    """In all databases, where the engine has several in a cluster and goes the classic way."""
    went = way(engine, method)
    several = went == "classic" and engine.family == "valkey" and engine.release >= (9, 0)
    databases = 4 if several else None
    with Cluster.start(engine, 3, 1, databases=databases) as cluster:
        names = seed(cluster, KEYS)
        used = {name[:6] for name in names if name.startswith(b"[db ")}
        assert used == {b"[db %d]" % number for number in range(1, databases or 1)}
        one, two, three = cluster.nodes[:3]

        named = ["0-99", "200", "5300-5460"]
        ours: Options = {"slots": named, "target": three.address, "method": method}
        with unharmed(cluster, members=6):
            refused = module("redis_slot_migrate", cluster, **ours, source=two.id)
            assert refused["failed"]
            assert two.address in refused["msg"]
            assert slot_counts(cluster)[one] == 5461
            done = succeed("redis_slot_migrate", cluster, **ours, source=one.id)
        assert outline(done["moves"]) == [(went, one.id, three.id, named)]
        assert (done["changed"], done["slots_moved"], done["finished"]) == (True, 262, True)
        assert cluster.ownership()[three.id] == [*named, "10923-16383"]
        again = succeed("redis_slot_migrate", cluster, **ours, source=one.id)
        assert (again["changed"], again["moves"]) == (False, [])

        plan = succeed("redis_cluster_rebalance", cluster, check=True, method=method)
        assert (plan["slots_moved"], plan["changed"]) == (0, True)
        planned: Options = {"moves": plan["moves"], "method": method}
        with unharmed(cluster, members=6):
            done = succeed("redis_slot_migrate", cluster, **planned)
        assert outline(done["moves"]) == outline(plan["moves"])
        assert {move["method"] for move in done["moves"]} == {went}
        assert not succeed("redis_slot_migrate", cluster, **planned)["changed"]
        assert not succeed("redis_cluster_rebalance", cluster, threshold=0)["changed"]

        big = big_key(three)
        slot = slot_of(big)
        moving: Options = {"slots": [str(slot)], "target": one.id, "method": method}
        owned = cluster.ownership()
        with unharmed(cluster, members=6):
            limited = module("redis_slot_migrate", cluster, **moving, big_key_bytes=100_000)
            if went == "classic":
                assert limited["failed"]
                assert big.decode() in limited["msg"]
                assert not limited["changed"]
                assert cluster.problems() == []
                assert cluster.ownership() == owned
                limited = succeed("redis_slot_migrate", cluster, **moving, big_key_bytes=0)
            assert not limited.get("failed"), limited
            assert limited["changed"]
        assert cluster.slot_owners()[slot] is one


@pytest.mark.stand_for_all("redis-6.2", "redis-7.0", "valkey-9.1")
def test_a_classic_move_that_runs_out_of_time_goes_on_in_the_next_run(engine: Engine) -> None:
    """Slowly, so that the time is over before the work is."""
    with Cluster.start(engine, 3, 1) as cluster:
        seed(cluster, KEYS)
        many: Options = {
            "slots": ["0-99", "1000-2899"],
            "target": cluster.nodes[1].id,
            "method": "classic",
        }
        limit, runs = 0.05, list[dict[str, Any]]()
        with unharmed(cluster, members=6):
            while not runs or not runs[-1]["finished"]:
                assert limit < 100
                slow: Options = {"max_seconds": limit, "batch_size": 1, "max_pause_ms": 1}
                runs.append(succeed("redis_slot_migrate", cluster, **many, **slow))
                cluster.assert_healthy()
                limit *= 4
        assert len(runs) > 1
        moved = list(itertools.accumulate(run["slots_moved"] for run in runs))
        assert moved[-1] == 2000
        assert [run["slots_left"] for run in runs] == [2000 - count for count in moved]
        assert not succeed("redis_slot_migrate", cluster, **many)["changed"]


def test_the_atomic_way_is_refused_where_the_engine_has_none(unable: Engine) -> None:
    """By every module that moves slots, in check mode too; a run that moves none needs no way."""
    with Cluster.start(unable, 3, 0) as cluster:
        seed(cluster, 300)
        one, two, _three = cluster.nodes
        command = "MIGRATION" if unable.family == "redis" else "MIGRATESLOTS"
        lack = f"({unable.family} {unable.version}) has no CLUSTER {command}"
        given: Options = {"slots": ["0-9"], "target": two.id}
        drained: Options = {"drain": [one.id]}
        with unharmed(cluster, members=3):
            for name, wish in (
                ("redis_slot_migrate", given),
                ("redis_cluster_rebalance", drained),
            ):
                for check in (False, True):
                    result = module(name, cluster, check=check, method="atomic", **wish)
                    assert result["failed"]
                    assert one.address in result["msg"]
                    assert lack in result["msg"]
                    assert "Nothing was changed" in result["msg"]
                    assert (result["changed"], result["moves"]) == (False, [])
            assert slot_counts(cluster)[one] == 5461
            done = succeed("redis_slot_migrate", cluster, **given)
            assert [move["method"] for move in done["moves"]] == ["classic"]
            assert done.get("warnings", []) == []
            again = succeed("redis_slot_migrate", cluster, method="atomic", **given)
            assert not again["changed"]


def big_key(owner: Node) -> bytes:
    """A string of 200,000 bytes on this primary, which nobody else writes to."""
    (line,) = [
        line
        for line in parse_nodes(owner.call("CLUSTER", "NODES").decode())
        if "myself" in line.flags
    ]
    name = b"{%s}big" % tag_for_slot(line.slots[-1][-1])
    owner.call("SET", name, b"x" * 200_000)
    return name
