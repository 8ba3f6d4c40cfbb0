# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Traps of the engines that runs meet: markers that come home, keys that have expired, servers that
let nobody write, or answer nobody, for a while.

S is the source of a move, T its target, O another primary.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from tests.harness import data
from tests.harness.cluster import Cluster, parse_nodes
from tests.harness.cutting import Cut, Run, run, run_module, start
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.views import end_cached_sockets, owner_told_by, under_way, wait_until

pytestmark = pytest.mark.system

SLOTS = range(3)
BUSY_SECONDS = 1.5


@dataclass(frozen=True)
class Stage:
    """S owns three slots with keys that are to go to T."""

    cluster: Cluster
    source: Node
    target: Node
    other: Node
    before: data.Digest

    def run(self, *cuts: Cut, back: bool = False, slots: str = "0-2", **more: Any) -> Run:
        """Brings the slots to T, or back to S."""
        options = {
            "login_host": self.other.host,
            "login_port": self.other.port,
            "slots": [slots],
            "target": (self.source if back else self.target).id,
            "method": "classic",
            "command_timeout": 5,
            "wait_timeout": 25,
            "progress_interval": 0,
            **more,
        }
        return start("redis_slot_migrate", options, *cuts)

    def assert_owned_by(self, node: Node) -> None:
        self.cluster.wait_healthy()
        assert data.compare(self.before, data.digest(self.cluster)) == []
        owners = self.cluster.slot_owners()
        assert {owners[slot] for slot in SLOTS} == {node}


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[dict[str, Cluster]]:
    """A cluster an engine, made when it is first asked for."""
    made: dict[str, Cluster] = {}
    yield made
    for item in made.values():
        item.close()


@pytest.fixture
def stage(engine: Engine, cluster: dict[str, Cluster]) -> Stage:
    return stage_on(engine, cluster)


def stage_on(engine: Engine, made: dict[str, Cluster]) -> Stage:
    if engine.name not in made:
        made[engine.name] = Cluster.start(engine, 3, 0)
    cluster = made[engine.name]
    for node in cluster.nodes:
        node.call("FLUSHALL")
    cluster.wait_healthy()
    owners = cluster.slot_owners()
    source = owners[0]
    assert source is not None
    target, other = (node for node in cluster.nodes if node is not source)
    for slot in SLOTS:
        data.seed_slot(cluster, slot, 10)
    return Stage(cluster, source, target, other, data.digest(cluster))


def markers(node: Node) -> tuple[str, ...]:
    lines = parse_nodes(node.call("CLUSTER", "NODES").decode())
    return next(line for line in lines if "myself" in line.flags).open


def assert_success(attempt: Run, keys: int | None = None) -> dict[str, Any]:
    result = attempt.result()
    assert not result.get("failed"), result["msg"]
    assert result["finished"] is True
    if keys is not None:
        assert result["keys_moved"] == keys
    return result


def killed_after_node_on_target(stage: Stage) -> None:
    """T owns the first slot, and S, which hears so by gossip, has its marker still (on Redis)."""
    attempt = stage.run(Cut(rf"^{stage.target.port} CLUSTER SETSLOT 0 NODE ", "kill sent"))
    assert attempt.was_killed()
    wait_until(lambda: owner_told_by(stage.source, 0) == stage.target.id, "S hears of it")
    end_cached_sockets([stage.source, stage.target])


@pytest.mark.parametrize("way", ["classic", "auto"])
def test_a_slot_comes_home_to_a_node_that_still_has_its_old_marker(stage: Stage, way: str) -> None:
    """An absent key would loop between the two: ASK to T, MOVED to S. Redis 8.6 refuses its own
    migrations on a node with a marker."""
    killed_after_node_on_target(stage)
    if stage.cluster.engine.family == "redis":
        assert f"[0->-{stage.target.id}]" in markers(stage.source)
    # The two other slots are open towards T; they are finished first, then all go home.
    assert_success(stage.run())
    stage.assert_owned_by(stage.target)
    end_cached_sockets([stage.source, stage.target])
    assert_success(stage.run(back=True, method=way))
    stage.assert_owned_by(stage.source)
    absent = b"{%s}absent" % data.tag_for_slot(0)
    assert stage.source.call("GET", absent) is None


def test_a_marker_that_came_home_by_other_hands_is_named_and_then_finished(stage: Stage) -> None:
    """Somebody gives the slot back to S, whose marker towards T stands: S owns the slot and sends
    clients to T, which knows nothing of it."""
    slot = 0
    stage.source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", stage.target.id)
    elsewhere = stage.run(slots="1", target=stage.other.id).result()
    assert elsewhere["failed"]
    assert "slot 0 is open" in elsewhere["msg"]
    assert "redis_cluster_fix" in elsewhere["msg"]
    assert markers(stage.source) == (f"[0->-{stage.target.id}]",)
    assert_success(stage.run())
    stage.assert_owned_by(stage.target)
    assert_success(stage.run(back=True))


def test_a_slot_that_its_new_owner_has_lost_to_late_news_is_taken_back(stage: Stage) -> None:
    """As Redis 7.0.15 does when it yields to a claim of the old owner, who has given the slot up:
    each of the two names the other one."""
    slot = "100"
    attempt = stage.run(
        Cut(rf"^{stage.other.port} CLUSTER SETSLOT {slot} NODE ", "hold"), slots=slot
    )
    attempt.wait_held()
    stage.target.call("CLUSTER", "SETSLOT", slot, "NODE", stage.source.id)
    attempt.go()
    assert_success(attempt, 0)
    stage.cluster.wait_healthy()
    assert stage.cluster.slot_owners()[int(slot)] is stage.target


def test_a_slot_with_keys_that_its_new_owner_has_lost_is_taken_back_and_named(
    stage: Stage,
) -> None:
    """The engine deletes its keys then, so that success would be a lie."""
    slot = "1"
    attempt = stage.run(
        Cut(rf"^{stage.other.port} CLUSTER SETSLOT {slot} NODE ", "hold"), slots=slot
    )
    attempt.wait_held()
    stage.target.call("CLUSTER", "DELSLOTS", slot)
    attempt.go()
    result = attempt.result()
    assert result["failed"]
    assert (result["slots_moved"], result["finished"]) == (1, False)
    for words in ("slots 1 ", "given back", "keys may be gone"):
        assert words in result["msg"]
    stage.cluster.wait_healthy()
    assert stage.cluster.slot_owners()[int(slot)] is stage.target
    assert_success(stage.run(slots=slot))
    assert_success(stage.run(slots=slot, back=True))


def test_keys_that_have_all_expired_are_no_obstacle(stage: Stage) -> None:
    """Such a batch answers NOKEY; a count still has them until somebody looks."""
    for node in (stage.source, stage.target):
        node.call("DEBUG", "SET-ACTIVE-EXPIRE", 0)
    try:
        tag = data.tag_for_slot(1)
        with stage.source.client() as client:
            data.pipe(
                client, [("SET", b"{%s}gone:%d" % (tag, n), "v", "PX", 1) for n in range(250)]
            )
        time.sleep(0.05)
        assert stage.source.call("CLUSTER", "COUNTKEYSINSLOT", 1) == 260
        assert_success(stage.run(batch_size=20))
        stage.assert_owned_by(stage.target)
        assert stage.source.call("DBSIZE") == 0
    finally:
        for node in (stage.source, stage.target):
            node.call("DEBUG", "SET-ACTIVE-EXPIRE", 1)
    assert_success(stage.run(back=True))


def test_a_run_waits_out_a_pause_of_all_writes(stage: Stage) -> None:
    attempt = stage.run(Cut(rf"^{stage.source.port} MIGRATE \S+ {stage.target.port} ", "hold"))
    attempt.wait_held()
    stage.source.call("CLIENT", "PAUSE", 1500, "WRITE")
    paused = time.monotonic()
    attempt.go()
    assert_success(attempt, 30)
    assert time.monotonic() - paused > 1
    stage.assert_owned_by(stage.target)
    assert_success(stage.run(back=True))


def test_a_pause_of_all_writes_in_an_atomic_move_ends_well(
    able: Engine, cluster: dict[str, Cluster]
) -> None:
    """Redis cancels its job for it: that run says so, and the next one brings it to its end."""
    stage = stage_on(able, cluster)
    stage.source.call("CONFIG", "SET", "rdb-key-save-delay", 50_000)
    try:
        attempt = stage.run(method="atomic")
        wait_until(lambda: under_way(stage.cluster) != [], "a job under way")
        stage.source.call("CLIENT", "PAUSE", 1000, "WRITE")
        result = attempt.result()
    finally:
        stage.source.call("CONFIG", "SET", "rdb-key-save-delay", 0)
    if result.get("failed"):
        assert "canceled" in result["msg"]
        stage.assert_owned_by(stage.source)
        assert_success(stage.run(method="atomic"))
    stage.assert_owned_by(stage.target)
    assert_success(stage.run(back=True, method="auto"))


def test_a_target_that_is_busy_with_a_script_is_waited_for_or_named(stage: Stage) -> None:
    """It answers nothing but BUSY, to MIGRATE and to us."""
    old = stage.cluster.engine.release < (7, 0)
    option = "lua-time-limit" if old else "busy-reply-threshold"
    stage.target.call("CONFIG", "SET", option, 100)
    attempt = stage.run(Cut(rf"^{stage.source.port} MIGRATE \S+ {stage.target.port} ", "hold"))
    attempt.wait_held()
    script = threading.Thread(target=run_script, args=(stage.target,))
    script.start()
    try:
        wait_until(lambda: is_busy(stage.target), "it is busy")
        attempt.go()
        time.sleep(BUSY_SECONDS)
    finally:
        stage.target.call("SCRIPT", "KILL")
    result = attempt.result()
    script.join()
    stage.target.call("CONFIG", "SET", option, 5000)
    if result.get("failed"):
        assert stage.target.address in result["msg"]
        assert "BUSY" in result["msg"]
        with stage.cluster.seed_client() as client:
            assert [name for name in stage.before if not client.exists(name)] == []
        end_cached_sockets([stage.source, stage.target])
        assert_success(stage.run())
    stage.assert_owned_by(stage.target)
    assert_success(stage.run(back=True))


@pytest.mark.family("valkey")
def test_an_expired_key_that_is_kept_stops_the_run_and_is_named(stage: Stage) -> None:
    """With import-mode a server lists it, and MIGRATE does not find it: it could be listed for
    ever."""
    name = f"{{{data.tag_for_slot(SLOTS[0]).decode()}}}expired"
    stage.source.call("CONFIG", "SET", "import-mode", "yes")
    try:
        stage.source.call("SET", name, "v", "PX", 1)
        time.sleep(0.1)
        result = stage.run(method="classic").result()
        assert result.get("failed"), result
        assert name in result["msg"]
        assert "import-mode" in result["msg"]
    finally:
        stage.source.call("CONFIG", "SET", "import-mode", "no")
    end_cached_sockets([stage.source, stage.target])
    assert_success(stage.run())
    stage.assert_owned_by(stage.target)
    assert_success(stage.run(back=True))


def is_busy(node: Node) -> bool:
    try:
        node.call("DBSIZE")
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


def run_script(node: Node) -> None:
    """A script without an end, until it is killed."""
    with node.client() as client, pytest.raises(redis.ResponseError, match="killed"):
        client.execute_command("EVAL", "while true do end", 0)


def test_a_right_switched_off_by_a_killed_run_is_named_with_its_nodes(stage: Stage) -> None:
    """And with what to do about it."""
    option = "cluster-allow-replica-migration"
    stage.other.call("CONFIG", "SET", option, "no")
    try:
        options = {"login_host": stage.source.host, "login_port": stage.source.port}
        told = run("redis_cluster_info", options)["problems"]
        found = [item for item in told if option in item["message"]]
        assert [item["node"] for item in found] == [stage.other.id]
    finally:
        stage.other.call("CONFIG", "SET", option, "yes")


def test_a_write_of_several_keys_in_an_open_slot_is_not_overtaken(stage: Stage) -> None:
    """Half of the keys have gone when a client writes old and new keys together. Whatever the
    engine answers, what it acknowledged is there at the end."""
    tag = data.tag_for_slot(0)
    names = [b"{%s}set:%d" % (tag, number) for number in range(8)]
    stage.source.call("MSET", *(word for name in names for word in (name, b"old")))
    cut = Cut(rf"^{stage.source.port} MIGRATE \S+ {stage.target.port} .*", "hold", 3)
    attempt = stage.run(cut, batch_size=4, max_pause_ms=0.1)
    attempt.wait_held()
    words = [word for name in names for word in (name, b"new")]
    acknowledged = written(stage, words)
    attempt.go()
    assert_success(attempt)
    stage.cluster.wait_healthy()
    found = stage.target.call("MGET", *names)
    assert set(found) == {b"new" if acknowledged else b"old"}
    stage.target.call("DEL", *names)
    stage.assert_owned_by(stage.target)
    assert_success(stage.run(back=True))


def written(stage: Stage, words: list[bytes]) -> bool:
    """Whether an MSET was acknowledged, ASK followed as clients do."""
    with stage.source.client() as client:
        answer = data.pipe(client, [("MSET", *words)])[0]
    if isinstance(answer, redis.exceptions.AskError):
        with stage.target.client() as client:
            answer = data.pipe(client, [("ASKING",), ("MSET", *words)])[1]
    assert answer == b"OK" or isinstance(answer, redis.exceptions.TryAgainError), answer
    return answer == b"OK"


def test_a_removed_node_is_no_member_while_the_others_still_drop_it(engine: Engine) -> None:
    """From Redis 7.2 on, and on Valkey, they tell each other for 60 s to forget it: it is known to
    all for an instant, again and again."""
    with Cluster.start(engine, 3, 0, spare=1) as made:
        node, spare = made.nodes[0], made.spares[0]
        options = {"login_host": node.host, "login_port": node.port, "wait_timeout": 10}
        join = {**options, "nodes": [spare.address]}
        assert run_module("redis_cluster_meet", join)["changed"]
        assert run_module("redis_cluster_forget", {**options, "node": spare.address})["changed"]
        result = run_module("redis_cluster_meet", join)
        if engine.name in ("redis-6.2", "redis-7.0"):
            assert result["changed"], result
            time.sleep(3)
            made.assert_healthy(members=4)
        else:
            assert result["failed"], result
            assert "kept away by the others for 60 s" in result["msg"]
