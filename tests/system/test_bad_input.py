# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters, nodes and users that are not fit for what is asked; engine by engine.

Each time the module fails, says in a few words what was asked, what was found and what to do, and
every node's CLUSTER NODES is as before (owners, roles, open slots, members). What is wrong with
the options alone: test_bad_options.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from tests.harness import processes
from tests.harness.cluster import Cluster
from tests.harness.cutting import run_module
from tests.harness.data import tag_for_slot
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.refusal import (
    FORGET,
    INFO,
    MEET,
    MIGRATE,
    REBALANCE,
    REPLICATE,
    Options,
    asked,
    assert_refused,
    login,
    told,
    wishes,
)
from tests.harness.views import owner_told_by, wait_until

pytestmark = [pytest.mark.system, pytest.mark.stand_for_all("valkey-9.1", "redis-7.0")]

PASSWORD = "secret-4711"


# One healthy cluster for all rows that need nothing else


@pytest.fixture(scope="module")
def cluster(engine: Engine) -> Iterator[Cluster]:
    with Cluster.start(engine, 3, 1, spare=1, password=PASSWORD) as made:
        yield made
        made.assert_healthy(members=6)


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> dict[str, Node]:
    """`a`, `b` and `c` are the primaries in the order of their slots, `ra` is a replica of a."""
    a, b, c, ra, *_others = cluster.nodes
    return {"a": a, "b": b, "c": c, "ra": ra, "spare": cluster.spares[0]}


def test_target_that_is_a_replica_is_refused_and_its_primary_named(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    words = (nodes["ra"].address, "is a replica", f"its primary {nodes['a'].address}")
    for check in (False, True):
        options = {"slots": ["6000"], "target": nodes["ra"].id}
        assert_refused(cluster, MIGRATE, options, *words, check=check)


# Members


def test_meeting_a_node_that_is_not_empty_is_refused(cluster: Cluster) -> None:
    node = cluster.start_node(cluster_require_full_coverage="no")
    slot = 12345
    key = b"{%s}left" % tag_for_slot(slot)
    try:
        node.call("CLUSTER", "ADDSLOTS", slot)
        until_set(node, key)
        words = (f"'{node.address}'", "belongs to another cluster", "owns slots", "CLUSTER RESET")
        assert_refused(cluster, MEET, {"nodes": [node.address]}, *words)
        node.call("CLUSTER", "DELSLOTS", slot)
        assert node.call("DBSIZE") == 1
        reasons = (f"'{node.address}'", "holds 1 keys", "FLUSHALL")
        assert_refused(cluster, MEET, {"nodes": [node.address]}, *reasons)
    finally:
        node.stop()


def until_set(node: Node, key: bytes) -> None:
    """SET, as soon as the node serves the slot that it was just given."""
    deadline = time.monotonic() + 30
    while True:
        try:
            node.call("SET", key, "1")
            return
        except redis.ResponseError:
            assert time.monotonic() < deadline, "the node does not serve its slot"
            time.sleep(0.02)


def test_meeting_a_member_of_another_cluster_is_refused(cluster: Cluster) -> None:
    with Cluster.start(cluster.engine, 1, 1, password=PASSWORD) as other:
        before = told(other)
        for node in other.nodes:
            words = (f"'{node.address}'", "belongs to another cluster", "CLUSTER RESET")
            assert_refused(cluster, MEET, {"nodes": [node.address]}, *words)
        assert told(other) == before


@pytest.mark.parametrize("primary", ["b", "auto"])
def test_replicating_a_node_with_slots_is_refused(
    cluster: Cluster, nodes: dict[str, Node], primary: str
) -> None:
    options = {"node": nodes["a"].id, "primary": nodes["b"].id if primary == "b" else primary}
    words = (nodes["a"].address, "owns 5461 slots", "redis_cluster_rebalance")
    assert_refused(cluster, REPLICATE, options, *words)


def test_primary_to_replicate_that_is_a_replica_is_refused_and_its_primary_named(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    options = {"node": cluster.nodes[4].id, "primary": nodes["ra"].id}
    words = (nodes["ra"].address, "is a replica", f"its primary {nodes['a'].address}")
    assert_refused(cluster, REPLICATE, options, *words)


def test_forgetting_a_node_with_slots_is_refused_with_its_facts(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    node = nodes["b"]
    for check in (False, True):
        words = (node.address, "owns 5462 slots", "redis_cluster_rebalance")
        result = assert_refused(cluster, FORGET, {"node": node.id}, *words, check=check)
        assert (result["id"], result["role"]) == (node.id, "primary")
        assert result["slot_count"] == 5462


def test_forgetting_the_entry_node_is_refused_and_another_one_named(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    replica = nodes["ra"]
    options = {**login(replica), "node": replica.id}
    words = (replica.address, "entered", "login_host")
    result = assert_refused(cluster, FORGET, options, *words)
    named = re.findall(r"127\.0\.0\.1:\d+", result["msg"])[-1]
    assert named in {node.address for node in cluster.nodes} - {replica.address}


# Getting in


@pytest.mark.parametrize("module", [INFO, MIGRATE, FORGET])
def test_wrong_password_is_told(cluster: Cluster, nodes: dict[str, Node], module: str) -> None:
    options = {**wishes(nodes["b"], nodes["spare"])[module], "login_password": "wrong-0815"}
    words = (nodes["a"].address, "refused the login", "login_user and login_password")
    result = assert_refused(cluster, module, options, *words)
    assert "wrong-0815" not in json.dumps(result)


def test_missing_password_and_unknown_user_are_told(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    words = (nodes["a"].address, "refused the login", "login_user and login_password")
    assert_refused(cluster, INFO, {"login_password": None}, *words, env={"REDISCLI_AUTH": ""})
    assert_refused(cluster, INFO, {"login_user": "eve"}, *words)


@contextlib.contextmanager
def standalone(engine: Engine) -> Iterator[Node]:
    """A server that is not in cluster mode."""
    folder = processes.Folder()
    node = Node(engine, folder.path, processes.claim_port(), PASSWORD)
    node.write_config({"port": node.port, "bind": node.host, "save": "", "requirepass": PASSWORD})
    node.spawn()
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(redis.RedisError, OSError):
                node.call("PING")
                break
            assert time.monotonic() < deadline, node.log()
            time.sleep(0.02)
        yield node
    finally:
        node.stop()
        processes.release_port(node.port)
        folder.remove()


def test_server_that_is_not_in_cluster_mode_is_named_with_the_setting(cluster: Cluster) -> None:
    with standalone(cluster.engine) as node:
        words = (node.address, "not in cluster mode", "cluster-enabled yes")
        assert_refused(cluster, INFO, login(node), *words)
        assert_refused(cluster, MEET, {"nodes": [node.address]}, *words)


# Permissions

USER = "limited"
SUBCOMMANDS = {
    "cluster": ("nodes", "info", "myid", "setslot", "countkeysinslot", "getkeysinslot", "meet"),
    "memory": ("usage", "doctor"),
}


def everything_but(engine: Engine, right: str) -> list[str]:
    """ACL rules; Redis 6.2 can take away a command, and give subcommands, but not the reverse."""
    command, _bar, word = right.partition("|")
    if not word or engine.release >= (7, 0):
        return ["+@all", f"-{right}"]
    kept = [f"+{command}|{other}" for other in SUBCOMMANDS[command] if other != word]
    return ["+@all", f"-{command}", *kept]


@contextlib.contextmanager
def user(cluster: Cluster, rules: list[str]) -> Iterator[Options]:
    """A user with these rules on every node; the options to log in as that user."""
    servers = [*cluster.nodes, *cluster.spares]
    for node in servers:
        node.call("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", "&*", *rules)
    try:
        yield {"login_user": USER, "login_password": PASSWORD}
    finally:
        for node in servers:
            node.call("ACL", "DELUSER", USER)


@pytest.mark.parametrize(
    "right",
    [
        "cluster|setslot",
        "cluster|countkeysinslot",
        "cluster|getkeysinslot",
        "migrate",
        "restore-asking",
        "memory|usage",
    ],
)
def test_right_that_a_move_lacks_is_named_before_anything_is_touched(
    cluster: Cluster, nodes: dict[str, Node], right: str
) -> None:
    with user(cluster, ["~*", *everything_but(cluster.engine, right)]) as who:
        options = {**who, "slots": ["0"], "target": nodes["b"].id, "method": "classic"}
        assert_refused(cluster, MIGRATE, options, "may not run", f"+{right}", "Nothing was changed")


def test_user_who_may_not_touch_all_keys_is_refused(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    with user(cluster, ["~app:*", "+@all"]) as who:
        options = {**who, "slots": ["0"], "target": nodes["b"].id, "method": "classic"}
        assert_refused(cluster, MIGRATE, options, "may not run", "all keys (~*)")


@pytest.mark.parametrize("right", ["cluster|nodes", "info"])
@pytest.mark.parametrize("module", [INFO, REBALANCE])
def test_user_who_may_not_look_is_told_what_to_grant(
    cluster: Cluster, module: str, right: str
) -> None:
    with user(cluster, ["~*", *everything_but(cluster.engine, right)]) as who:
        assert_refused(cluster, module, who, "may not run", f"+{right}")


def test_user_who_may_not_meet_is_told_what_to_grant(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    with user(cluster, ["~*", *everything_but(cluster.engine, "cluster|meet")]) as who:
        options = {**who, "nodes": [nodes["spare"].address]}
        assert_refused(cluster, MEET, options, "may not run", "CLUSTER MEET", "+cluster|meet")


# Clusters in the middle of something


@contextlib.contextmanager
def open_slot(slot: int, source: Node, target: Node) -> Iterator[None]:
    """The slot is on its way from one node to the other, as after a run that was killed."""
    target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    try:
        yield
    finally:
        for node in (target, source):
            node.call("CLUSTER", "SETSLOT", slot, "STABLE")


@pytest.mark.parametrize("slots", [["77"], ["78"]], ids=["the same slot", "another slot"])
def test_slot_open_towards_someone_else_stops_a_move(
    cluster: Cluster, nodes: dict[str, Node], slots: list[str]
) -> None:
    a, b, c = nodes["a"], nodes["b"], nodes["c"]
    with open_slot(77, a, c):
        for check in (False, True):
            options = {"slots": slots, "target": b.id}
            words = ("slot 77 is open", a.address, c.address, "redis_cluster_fix")
            assert_refused(cluster, MIGRATE, options, *words, check=check)


def test_open_slot_that_balance_would_not_move_stops_a_rebalance(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    with open_slot(77, nodes["a"], nodes["c"]):
        options = {"weights": [{"node": nodes["b"].id, "weight": 3}]}
        words = ("slot 77 is open", nodes["c"].address, "redis_cluster_fix")
        assert_refused(cluster, REBALANCE, options, *words)


@contextlib.contextmanager
def disagreement(slot: int, bystander: Node, wrong_owner: Node, owner: Node) -> Iterator[None]:
    """A bystander takes a slot for someone else's, whatever gossip tells it meanwhile."""
    ended = threading.Event()

    def insist() -> None:
        # So many at once that it has some waiting even when this process gets no time.
        with bystander.client() as client:
            line = client.connection_pool.get_connection()
            told = line.pack_command("CLUSTER", "SETSLOT", slot, "NODE", wrong_owner.id)
            while not ended.is_set():
                line.send_packed_command(told * 500)
            line.disconnect()

    thread = threading.Thread(target=insist)
    thread.start()
    try:
        wait_until(lambda: owner_told_by(bystander, slot) == wrong_owner.id, "it disagrees")
        yield
    finally:
        ended.set()
        thread.join()
        bystander.call("CLUSTER", "SETSLOT", slot, "NODE", owner.id)


@pytest.mark.parametrize("module", [MIGRATE, REBALANCE, MEET, REPLICATE])
def test_nodes_that_disagree_are_named_with_what_they_say(
    cluster: Cluster, nodes: dict[str, Node], module: str
) -> None:
    a, b, c = nodes["a"], nodes["b"], nodes["c"]
    options = {
        **wishes(b, nodes["spare"])[module],
        **({"node": nodes["ra"].id, "primary": c.id} if module == REPLICATE else {}),
    }
    before = told(cluster)
    with disagreement(16000, bystander=b, wrong_owner=a, owner=c):
        result = asked(cluster, module, options)
    # A Valkey primary has its replica say so, too, and gossip may just have put itself right.
    tellers = [f"{node.address} ({node.id[:8]})" for node in (b, cluster.nodes[4])]
    assert any(f"{name} says that slots 16000 are" in result["msg"] for name in tellers)
    for word in (a.address, c.address):
        assert word in result["msg"]
    assert "redis_cluster_fix" in result["msg"]
    cluster.wait_healthy(members=6)
    assert told(cluster) == before


# Clusters that are broken; each has its own


@pytest.fixture(scope="module")
def gap(engine: Engine) -> Iterator[Cluster]:
    """Slots 100 to 199 are nobody's; the third primary has none."""
    shares = ["0-99 200-8191", "8192-16383", ""]
    with Cluster.start(engine, 3, 0, spare=1, slots=shares) as made:
        yield made


@pytest.mark.parametrize("module", [MIGRATE, REBALANCE, MEET, REPLICATE, FORGET])
def test_unassigned_slots_are_named_by_every_module_that_changes_something(
    gap: Cluster, module: str
) -> None:
    options = wishes(gap.nodes[2 if module in (REPLICATE, FORGET) else 1], gap.spares[0])[module]
    words = ("100-199", "served by nobody", "redis_cluster_fix")
    assert_refused(gap, module, options, *words)


TWINS = ("deadbeef" + "0" * 32, "deadbeef" + "1" * 32)


@pytest.fixture(scope="module")
def odd(engine: Engine) -> Iterator[Cluster]:
    """Four primaries: one with all slots, two whose ids begin alike, and one that is dead."""
    with Cluster.start(engine, 2, 0, spare=2, slots=["0-16383", ""]) as made:
        owner = made.nodes[0]
        for node, node_id in zip(made.spares, TWINS, strict=True):
            old = node.id
            node.stop()
            path = node.folder / "nodes.conf"
            path.write_text(path.read_text("ascii").replace(old, node_id), encoding="ascii")
            node.spawn()
            node.wait_ready()
            owner.call("CLUSTER", "MEET", node.host, node.port)
        made.wait_healthy(members=4)
        made.nodes[1].kill()
        yield made


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (MIGRATE, {"slots": ["0"], "target": "?"}),
        (REBALANCE, {"weights": [{"node": "?", "weight": 1}]}),
        (REPLICATE, {"node": "?", "primary": "auto"}),
        (FORGET, {"node": "?"}),
    ],
)
def test_ambiguous_id_prefix_is_refused_with_all_that_it_may_mean(
    odd: Cluster, module: str, options: Options
) -> None:
    filled = json.loads(json.dumps(options).replace("?", "deadBEEF"))
    assert_refused(odd, module, filled, "'deadBEEF' is ambiguous", *TWINS)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (MIGRATE, {"slots": ["0-9"], "target": "?"}),
        (REBALANCE, {"weights": [{"node": "?", "weight": 1}]}),
        (REPLICATE, {"node": TWINS[0], "primary": "?"}),
    ],
)
def test_target_that_is_down_is_named_with_the_reason(
    odd: Cluster, module: str, options: Options
) -> None:
    dead = odd.nodes[1]
    for check in (False, True):
        filled = json.loads(json.dumps(options).replace("?", dead.address))
        words = (dead.address, "can't be reached", "refused", "Nothing was changed")
        assert_refused(odd, module, filled, *words, check=check)


@pytest.fixture(scope="module")
def dying(engine: Engine) -> Iterator[Cluster]:
    """The third primary is dead; the others would notice after half a minute."""
    with Cluster.start(engine, 3, 0, spare=1, node_timeout_ms=30000) as made:
        made.nodes[2].kill()
        yield made


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (MIGRATE, {"slots": ["16000"], "target": "?"}),
        (REBALANCE, {"weights": [{"node": "?", "weight": 2}]}),
    ],
)
def test_source_that_is_down_is_named_even_before_the_cluster_knows(
    dying: Cluster, module: str, options: Options
) -> None:
    filled = json.loads(json.dumps(options).replace("?", dying.nodes[1].address))
    words = (dying.nodes[2].address, "can't be reached", "refused", "Nothing was changed")
    assert_refused(dying, module, filled, *words)


@pytest.fixture(scope="module")
def down(dying: Cluster) -> Cluster:
    """The same, when the cluster has noticed and says that its state is fail."""
    living = dying.nodes[:2]
    for node in living:
        node.call("CONFIG", "SET", "cluster-node-timeout", 500)
    deadline = time.monotonic() + 20
    while any(node.info("cluster-state")["cluster_state"] != "fail" for node in living):
        assert time.monotonic() < deadline, "the cluster does not notice that a node is dead"
        time.sleep(0.05)
    return dying


@pytest.mark.parametrize("module", [MIGRATE, REBALANCE, MEET])
def test_cluster_that_is_down_is_refused_with_the_dead_node(down: Cluster, module: str) -> None:
    dead = down.nodes[2]
    words = ("slots 10923-16383", "can't be reached", dead.address, f"CLUSTER FORGET {dead.id}")
    options = wishes(down.nodes[1], down.spares[0])[module]
    assert_refused(down, module, options, *words)


def test_dead_node_keeps_nobody_from_looking(down: Cluster) -> None:
    """Bad news is what the info module is for: it must not fail."""
    result = run_module(INFO, login(down.nodes[0]))
    assert not result.get("failed"), result
    assert result["state"] == "fail"
    assert {problem["kind"] for problem in result["problems"]} == {"unreachable", "state"}
    assert [node["reachable"] for node in result["nodes"]].count(False) == 1
