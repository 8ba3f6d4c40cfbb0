# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The users of docs/docsite/rst/security.rst: their rights are enough, and each one is needed.

The rules are read out of that page, so that what it says is what is tested.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import redis

from tests.harness import data
from tests.harness.ansible import ROOT, run_playbook
from tests.harness.cluster import Cluster
from tests.harness.cutting import run
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.refusal import (
    FIX,
    FORGET,
    INFO,
    MEET,
    MIGRATE,
    REBALANCE,
    REPLICATE,
    asked,
    assert_refused,
    login,
)

pytestmark = [
    pytest.mark.system,
    pytest.mark.stand_for_all("redis-6.2", "redis-7.0", "valkey-9.1", "redis-8.6"),
]

PAGE = ROOT / "docs" / "docsite" / "rst" / "security.rst"
ADMIN = "admin-0815"
PASSWORD = "user-4711"
# Rights for what does not happen in a run that goes well: nothing misses them before.
LATER = """
+client|id +client|list +cluster|bumpepoch
+cluster|cancelslotmigrations
+watch +asking +exists +type +pttl +dump +get +lrange +smembers +hgetall +zrange +del
"""
# Without it the run goes on, by a default.
OPTIONAL = ["+config|get"]
LOCK = ["+client|list", "+client|setname", "+multi", "+exec", "+ping"]


def rule_sets() -> dict[str, list[str]]:
    """User name -> rules, from the page; PASSWORD stands for the password."""
    lines = re.findall(r"^ +ACL SETUSER (\S+) (.+)$", PAGE.read_text(encoding="utf-8"), re.M)
    sets = {name: shlex.split(rules) for name, rules in lines}
    assert all(rules[:3] == ["reset", "on", ">PASSWORD"] for rules in sets.values())
    return sets


SETS = rule_sets()


def rights(name: str) -> list[str]:
    return SETS[name][3:]


def members_set(engine: Engine) -> str:
    return "keyslot-members" if engine.release >= (7, 0) else "keyslot-members-6.2"


def atomic_set(engine: Engine) -> str | None:
    """The rule set of the engine's own way; None where it has none."""
    least = {"redis": (8, 4), "valkey": (9, 0)}
    return f"keyslot-atomic-{engine.family}" if engine.release >= least[engine.family] else None


@pytest.fixture(scope="module")
def cluster(engine: Engine) -> Iterator[Cluster]:
    with Cluster.start(engine, 3, 1, password=ADMIN) as made:
        data.seed(made, 500)
        yield made


@contextlib.contextmanager
def user(
    cluster: Cluster, name: str, rules: Sequence[str], password: str = PASSWORD
) -> Iterator[dict[str, Any]]:
    """A user with these rules alone on every node; the options to log in as that user."""
    servers = [*cluster.nodes, *cluster.spares]
    for node in servers:
        node.call("ACL", "SETUSER", name, "reset", "on", f">{password}", *rules)
    try:
        yield {"login_user": name, "login_password": password}
    finally:
        for node in servers:
            node.call("ACL", "DELUSER", name)


def done(cluster: Cluster, module: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a module that has to work without a warning."""
    result = run(module, {**login(cluster.nodes[0]), **options})
    assert not result.get("failed"), result["msg"]
    assert not result.get("warnings"), result["warnings"]
    return result


def method_of(name: str) -> str:
    return "atomic" if "atomic" in name else "classic"


def movers(engine: Engine) -> list[str]:
    return [name for name in ("keyslot-classic", atomic_set(engine)) if name]


# Enough


def test_user_for_info_can_look(cluster: Cluster) -> None:
    with user(cluster, "keyslot-info", rights("keyslot-info")) as who:
        result = done(cluster, INFO, {**who, "gather": ["keys", "memory"]})
    assert result["state"] == "ok"
    assert result["problems"] == []


def test_users_for_moves_can_move(cluster: Cluster) -> None:
    source, target = cluster.nodes[0], cluster.nodes[1]
    before = data.digest(cluster)
    for name in movers(cluster.engine):
        method = method_of(name)
        with user(cluster, name, rights(name)) as who:
            move = {**who, "slots": ["0-99"], "target": target.id, "method": method}
            assert done(cluster, MIGRATE, move)["slots_moved"] == 100
            cluster.wait_healthy()
            back = {**who, "threshold": 0, "method": method}
            assert done(cluster, REBALANCE, back)["slots_moved"] == 100
            cluster.wait_healthy()
    assert len(cluster.ownership()[source.id]) <= 2
    assert data.compare(before, data.digest(cluster)) == []


def test_user_for_repairs_can_repair(cluster: Cluster) -> None:
    """A key that stands beside, and a move that leads nowhere."""
    owner, taker = cluster.nodes[0], cluster.nodes[1]
    key = b"{%s}:stray" % data.tag_for_slot(0)
    taker.call("CLUSTER", "SETSLOT", 0, "IMPORTING", owner.id)
    with taker.client() as client:
        assert data.pipe(client, [("ASKING",), ("SET", key, "v")])[1] == b"OK"
    taker.call("CLUSTER", "SETSLOT", 0, "STABLE")
    owner.call("CLUSTER", "SETSLOT", 1, "MIGRATING", taker.id)
    with user(cluster, "keyslot-fix", rights("keyslot-fix")) as who:
        result = done(cluster, FIX, who)
    assert {repair["kind"] for repair in result["repairs"]} == {"collect", "clear"}
    assert owner.call("GET", key) == b"v"
    owner.call("DEL", key)
    cluster.wait_healthy()


def test_user_for_members_can_meet_replicate_and_forget(cluster: Cluster) -> None:
    name, spare = members_set(cluster.engine), cluster.add_spare()
    with functions(cluster), user(cluster, name, rights(name)) as who:
        assert done(cluster, MEET, {**who, "nodes": [spare.address]})["changed"]
        options = {**who, "node": spare.address, "primary": cluster.nodes[0].address}
        assert done(cluster, REPLICATE, options)["changed"]
        assert done(cluster, FORGET, {**who, "node": spare.address})["changed"]
    cluster.wait_healthy(members=6)


@pytest.mark.stand_for_all("valkey-9.1")
def test_roles_need_the_rights_of_the_members_and_those_of_the_way(cluster: Cluster) -> None:
    spare, owners = cluster.add_spare(), cluster.ownership().keys()
    both = [*rights("keyslot-classic"), *rights(members_set(cluster.engine))]
    with user(cluster, "keyslot-roles", both) as who:
        wish = {**login(cluster.nodes[0]), **who, "method": "classic"}
        options = {f"keyslot_{name}": value for name, value in wish.items()}
        joins = run_playbook("add_node", {**options, "add_node_nodes": spare.address})
        assert joins.code == 0, joins.output
        assert cluster.ownership().keys() == {*owners, spare.id}
        leaves = run_playbook("remove_node", {**options, "remove_node_nodes": spare.address})
        assert leaves.code == 0, leaves.output
    cluster.wait_healthy(members=6)
    assert cluster.ownership().keys() == owners


@contextlib.contextmanager
def functions(cluster: Cluster) -> Iterator[None]:
    """The cluster has a function library, where the engine can, which a new node lacks."""
    if cluster.engine.release < (7, 0):
        yield
        return
    code = "#!lua name=mine\nredis.register_function('mine', function() return 1 end)"
    primaries = cluster.primaries()
    for node in primaries:
        node.call("FUNCTION", "LOAD", code)
    try:
        yield
    finally:
        for node in [*primaries, *cluster.spares]:
            with contextlib.suppress(redis.ResponseError):
                node.call("FUNCTION", "FLUSH")


def test_user_without_a_password_moves_too(cluster: Cluster) -> None:
    """MIGRATE has to log in as that user even so: here the default user may do nothing."""
    everyone = [*cluster.nodes, *cluster.spares]
    name = "keyslot-classic"
    with user(cluster, name, [*rights(name), "nopass"]):
        for node in everyone:
            node.call("ACL", "SETUSER", "default", "-migrate", "-restore-asking")
        try:
            where = dict(login(cluster.nodes[0]))
            del where["login_password"]
            for target in cluster.nodes[1], cluster.nodes[0]:
                wish = {"login_user": name, "slots": ["0-9"], "target": target.id}
                result = run(MIGRATE, {**where, **wish, "method": "classic"})
                assert result.get("slots_moved") == 10, result
        finally:
            for node in everyone:
                node.call("ACL", "SETUSER", "default", "+@all")


# Needed


def without(rules: Sequence[str], right: str) -> list[str]:
    return [rule for rule in rules if rule != right]


def assert_needed(cluster: Cluster, name: str, module: str, options: Mapping[str, Any]) -> None:
    """Without any one of its rights the user is refused before anything is changed, and told."""
    for right in rights(name):
        of_the_lock = right in LOCK and (right != "+ping" or method_of(name) == "atomic")
        if right in LATER.split() or right in OPTIONAL or of_the_lock:
            continue
        with user(cluster, name, without(rights(name), right)) as who:
            words = (f"'{name}'", right)
            assert_refused(cluster, module, {**who, **options}, *words)


def test_each_right_to_look_is_named(cluster: Cluster) -> None:
    """But for the one to count keys: without it there is a warning; and for those to do so at one
    moment."""
    counting, *at_once = "+cluster|countkeysinslot", "+multi", "+exec"
    for right in rights("keyslot-info"):
        if right not in (counting, *at_once):
            with user(cluster, "keyslot-info", without(rights("keyslot-info"), right)) as who:
                assert_refused(cluster, INFO, who, "'keyslot-info'", right)
    with user(cluster, "keyslot-info", without(rights("keyslot-info"), counting)) as who:
        result = run(INFO, {**login(cluster.nodes[0]), **who})
    assert result["problems"] == []
    assert counting in str(result["warnings"])
    for right in at_once:
        with user(cluster, "keyslot-info", without(rights("keyslot-info"), right)) as who:
            result = run(INFO, {**login(cluster.nodes[0]), **who})
        assert (result["problems"], result.get("warnings", [])) == ([], [])


def test_each_right_to_move_is_named_before_anything_is_changed(cluster: Cluster) -> None:
    target = cluster.nodes[1].id
    for name in movers(cluster.engine):
        wish = {"slots": ["0-9"], "target": target, "method": method_of(name)}
        assert_needed(cluster, name, MIGRATE, wish)


def test_each_right_to_repair_is_named_before_anything_is_changed(cluster: Cluster) -> None:
    owner, taker = cluster.nodes[0], cluster.nodes[1]
    taker.call("CLUSTER", "SETSLOT", 0, "IMPORTING", owner.id)
    owner.call("CLUSTER", "SETSLOT", 0, "MIGRATING", taker.id)
    of_the_lock = [right for right in LOCK if right != "+ping"]
    later = [*LATER.split(), *OPTIONAL, *of_the_lock, "+cluster|delslots"]
    for right in rights("keyslot-fix"):
        if right not in later:
            with user(cluster, "keyslot-fix", without(rights("keyslot-fix"), right)) as who:
                assert_refused(cluster, FIX, who, "'keyslot-fix'", right)
    with user(cluster, "keyslot-fix", rights("keyslot-fix")) as who:
        done(cluster, FIX, who)
        back = {"slots": ["0"], "target": owner.id, "method": "classic"}
        done(cluster, MIGRATE, {**who, **back})


def test_each_right_to_change_members_is_named_before_anything_is_changed(
    cluster: Cluster,
) -> None:
    name, spare = members_set(cluster.engine), cluster.add_spare()
    looking = ["+cluster|nodes", "+cluster|info", "+info"]
    steps: list[tuple[str, dict[str, Any], list[str]]] = [
        (MEET, {"nodes": [spare.address]}, ["+cluster|meet"]),
        (REPLICATE, {"node": spare.id, "primary": "auto"}, ["+cluster|replicate"]),
        (FORGET, {"node": spare.id}, ["+cluster|forget", "+cluster|reset"]),
    ]
    if cluster.engine.release >= (7, 0):
        steps[0][2].append("+function|restore")
    with functions(cluster):
        for module, options, needed in steps:
            for right in [*looking, *needed]:
                with user(cluster, name, without(rights(name), right)) as who:
                    words = (f"'{name}'", right)
                    assert_refused(cluster, module, {**who, **options}, *words)
            with user(cluster, name, rights(name)) as who:
                done(cluster, module, {**who, **options})
            # A node just met learns the others' slots and primaries after their names, and a MEET
            # that was sent once more leaves the trace of a handshake for a while.
            cluster.wait_healthy()
    cluster.wait_healthy(members=6)


def test_forgetting_a_primary_needs_the_right_to_give_its_replicas_away(cluster: Cluster) -> None:
    name, spare, replica = members_set(cluster.engine), cluster.add_spare(), cluster.replicas()[0]
    old = f"127.0.0.1:{replica.info('replication')['master_port']}"
    done(cluster, MEET, {"nodes": [spare.address]})
    done(cluster, REPLICATE, {"node": replica.address, "primary": spare.address})
    try:
        with user(cluster, name, without(rights(name), "+cluster|replicate")) as who:
            words = ("+cluster|replicate", replica.address)
            assert_refused(cluster, FORGET, {**who, "node": spare.id}, *words)
    finally:
        done(cluster, REPLICATE, {"node": replica.address, "primary": old})
        done(cluster, FORGET, {"node": spare.id})
    cluster.wait_healthy(members=6)


def test_each_right_to_keep_other_runs_off_is_warned_of(cluster: Cluster) -> None:
    """Once, with its name; the run goes on."""
    targets = itertools.cycle([cluster.nodes[1].id, cluster.nodes[0].id])
    for name in movers(cluster.engine):
        classic = method_of(name) == "classic"
        for right in (right for right in LOCK if not (classic and right == "+ping")):
            wish = {"slots": ["0-9"], "target": next(targets), "method": method_of(name)}
            with user(cluster, name, without(rights(name), right)) as who:
                result = run(MIGRATE, {**login(cluster.nodes[0]), **who, **wish})
            assert result.get("slots_moved") == 10, result
            assert_warned(result, name, right)
    back = {"slots": ["0-9"], "target": cluster.nodes[0].id}
    assert run(MIGRATE, {**login(cluster.nodes[0]), **back})["finished"]


def test_each_right_to_keep_others_off_is_warned_of_when_members_change(cluster: Cluster) -> None:
    name, spare = members_set(cluster.engine), cluster.add_spare()
    steps: list[tuple[str, dict[str, Any]]] = [
        (MEET, {"nodes": [spare.address]}),
        (REPLICATE, {"node": spare.address, "primary": cluster.nodes[0].address}),
        (FORGET, {"node": spare.address}),
    ]
    for (module, options), right in zip(steps, ["+multi", "+client|list", "+client|setname"]):
        with user(cluster, name, without(rights(name), right)) as who:
            result = run(module, {**login(cluster.nodes[0]), **who, **options})
        assert result.get("changed"), result
        assert_warned(result, name, right)
    cluster.wait_healthy(members=6)


def assert_warned(result: dict[str, Any], name: str, right: str) -> None:
    (found,) = result["warnings"]
    warning = str(found)  # a text, or a map that core makes of it
    assert "Other runs can't be kept off" in warning
    assert name in warning
    assert f"grant it {right}, on every node" in warning


def test_moves_work_without_config_get(cluster: Cluster) -> None:
    for name in movers(cluster.engine):
        with user(cluster, name, without(rights(name), "+config|get")) as who:
            for target in cluster.nodes[1], cluster.nodes[0]:
                wish = {"slots": ["0-9"], "target": target.id, "method": method_of(name)}
                assert done(cluster, MIGRATE, {**who, **wish})["slots_moved"] == 10


# Needed after a loss


VALUES: dict[str, tuple[list[Any], str]] = {
    "string": (["SET", "abc"], "+get"),
    "list": (["RPUSH", "a", "b"], "+lrange"),
    "set": (["SADD", "a", "b", "c"], "+smembers"),
    "hash": (["HSET", "a", "b"], "+hgetall"),
    "zset": (["ZADD", 1, "a"], "+zrange"),
}


@contextlib.contextmanager
def busy_key(cluster: Cluster, kind: str) -> Iterator[tuple[Node, Node, int]]:
    """An open slot with a key that stands on both sides, with values that differ."""
    source, target, slot = cluster.nodes[0], cluster.nodes[1], 42
    key = b"{%s}:busy" % data.tag_for_slot(slot)
    verb, *words = VALUES[kind][0]
    other = [*words[:-1], "other"]
    source.call(verb, key, *words)
    target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    with target.client() as client:
        connection = client.connection_pool.get_connection()
        for command in (["ASKING"], [verb, key, *other]):
            connection.send_command(*command)
            connection.read_response()
        connection.disconnect()
    source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    try:
        yield source, target, slot
    finally:
        wish = {"slots": [str(slot)], "target": target.id, "on_busy_key": "replace"}
        finished = run(MIGRATE, {**login(source), **wish, "method": "classic"})
        assert finished["finished"], finished
        target.call("DEL", key)
        back = {"slots": [str(slot)], "target": source.id, "method": "classic"}
        assert run(MIGRATE, {**login(source), **back})["finished"]


@pytest.mark.parametrize("kind", VALUES)
def test_right_to_settle_a_key_on_both_sides_is_named(cluster: Cluster, kind: str) -> None:
    """It is no reason to say that the values differ."""
    name = "keyslot-classic"
    common = ["+asking", "+watch", "+exists", "+type", "+pttl", "+dump"] if kind == "string" else []
    with busy_key(cluster, kind) as (_source, target, slot):
        wish = {"slots": [str(slot)], "target": target.id, "method": "classic"}
        for right in [*common, VALUES[kind][1]]:
            with user(cluster, name, without(rights(name), right)) as who:
                message = asked(cluster, MIGRATE, {**who, **wish})["msg"]
            for word in (f"'{name}'", right, f"Slots {slot} are left open"):
                assert word in message, (right, message)
        with user(cluster, name, rights(name)) as who:
            assert "different values" in asked(cluster, MIGRATE, {**who, **wish})["msg"]
        for right in ("+del", "+multi", "+exec"):
            with user(cluster, name, without(rights(name), right)) as who:
                options = {**who, **wish, "on_busy_key": "replace"}
                message = asked(cluster, MIGRATE, options)["msg"]
                assert right in message, message
        with user(cluster, name, rights(name)) as who:
            options = {**login(cluster.nodes[0]), **who, **wish, "on_busy_key": "replace"}
            assert run(MIGRATE, options)["finished"]


@pytest.mark.parametrize("right", ["+client|list", "+client|id"])
def test_right_to_go_on_with_an_open_slot_is_named(cluster: Cluster, right: str) -> None:
    name, source, target = "keyslot-classic", cluster.nodes[0], cluster.nodes[1]
    target.call("CLUSTER", "SETSLOT", 43, "IMPORTING", source.id)
    source.call("CLUSTER", "SETSLOT", 43, "MIGRATING", target.id)
    wish = {"slots": ["43"], "target": target.id, "method": "classic"}
    with user(cluster, name, without(rights(name), right)) as who:
        message = asked(cluster, MIGRATE, {**who, **wish})["msg"]
        assert f"'{name}'" in message
        assert right in message
    with user(cluster, name, rights(name)) as who:
        done(cluster, MIGRATE, {**who, **wish})
        done(cluster, MIGRATE, {**who, **wish, "target": source.id})


# The nodes among themselves


def test_valkey_replication_user_of_the_page_carries_atomic_moves(cluster: Cluster) -> None:
    if atomic_set(cluster.engine) != "keyslot-atomic-valkey":
        pytest.skip("the source logs in as primaryuser on Valkey 9 and later alone")
    name = "keyslot-replication"
    source, target = cluster.nodes[0], cluster.nodes[1]
    wish = {"slots": ["0-9"], "method": "atomic"}
    with user(cluster, name, rights(name)):
        source.call("CONFIG", "SET", "primaryuser", name)
        source.call("CONFIG", "SET", "primaryauth", PASSWORD)
        try:
            target.call("ACL", "SETUSER", name, "-cluster|syncslots")
            result = run(MIGRATE, {**login(source), **wish, "target": target.id})
            assert result.get("failed"), result
            assert "NOPERM" in result["msg"]
            assert name in result["msg"]
            target.call("ACL", "SETUSER", name, "+cluster|syncslots")
            done(cluster, MIGRATE, {**wish, "target": target.id})
        finally:
            source.call("CONFIG", "SET", "primaryuser", "")
            source.call("CONFIG", "SET", "primaryauth", ADMIN)
    done(cluster, MIGRATE, {**wish, "target": source.id})


# Logging in


def test_wrong_password_is_told_as_such(cluster: Cluster) -> None:
    for who in (
        {"login_password": "wrong"},
        {"login_user": "nobody", "login_password": ADMIN},
        {"login_user": "default", "login_password": "wrong"},
    ):
        assert_refused(cluster, INFO, who, "refused the login", "login_password")


def test_no_password_where_one_is_required(cluster: Cluster) -> None:
    where = dict(login(cluster.nodes[0]))
    del where["login_password"]
    result = run(INFO, where)
    assert result.get("failed"), result
    assert "login_password" in result["msg"]


def test_user_who_is_unknown_to_one_node_alone(cluster: Cluster) -> None:
    """Users are each node's own: a replica that lacks it is named, and nothing is changed."""
    lacking = cluster.replicas()[0]
    with user(cluster, "keyslot-classic", rights("keyslot-classic")) as who:
        lacking.call("ACL", "DELUSER", "keyslot-classic")
        primary = next(
            node
            for node in cluster.nodes
            if str(node.port) == lacking.info("replication")["master_port"]
        )
        target = next(node for node in cluster.primaries() if node is not primary)
        slot = cluster.ownership()[primary.id][0].partition("-")[0]
        wish = {"slots": [slot], "target": target.id, "method": "classic"}
        assert_refused(cluster, MIGRATE, {**who, **wish}, lacking.address, "refused the login")


@pytest.mark.parametrize("password", ["1", "0", "ok", "redis", "two words", "a'b\"c", "pässwört€"])
def test_awkward_passwords_log_in_and_migrate(cluster: Cluster, password: str) -> None:
    with user(cluster, "awkward", rights("keyslot-classic"), password) as who:
        for target in cluster.nodes[1], cluster.nodes[0]:
            wish = {"slots": ["0-9"], "target": target.id, "method": "classic"}
            # Core masks numbers of the result that hold a password such as `1`.
            done(cluster, MIGRATE, {**who, **wish})
            assert set(cluster.slot_owners()[:10]) == {target}
