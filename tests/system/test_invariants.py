# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each invariant of a run (docs: design §4), broken on purpose on real servers.

S is the source of a move, T its target, O another primary. A run that is "cut" is killed, loses a
reply, or is held at a chosen command while the test does its worst (tests/harness/cutting.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis

from tests.harness import data, engines
from tests.harness.cluster import Cluster, parse_nodes
from tests.harness.cutting import Cut, Run, run, start
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.shared import SharedCluster, followed
from tests.harness.views import (
    asking,
    end_cached_sockets,
    epoch,
    me,
    owner_told_by,
    replica_of,
    tool_at_work,
    wait_until,
)

pytestmark = [pytest.mark.system, pytest.mark.every_engine]

SLOTS_AT_ONCE = 16
OPTION = "cluster-allow-replica-migration"
SMALL = ("0-8190", "8191-16380", "16381-16383")
PROBES = ("SETSLOT 16384", "MIGRATE 127.0.0.1 1 ", "permission-probe", "0" * 40)
CHANGING = re.compile(
    r"^\d+ (CLUSTER (SETSLOT|BUMPEPOCH|ADDSLOTS|DELSLOTS|MEET|FORGET|RESET|REPLICATE"
    r"|MIGRATESLOTS|MIGRATION (IMPORT|CANCEL))"
    r"|MIGRATE|RESTORE|DEL|SET|CONFIG SET|FLUSH\w+|FUNCTION (RESTORE|FLUSH)) ?"
)
TOLD = ("moves", "slots_moved", "slots_left", "keys_moved", "finished", "msg")


# Clusters


def small_as_made(cluster: Cluster) -> bool:
    return followed(cluster) and [" ".join(r) for r in cluster.ownership().values()] == [*SMALL]


@pytest.fixture(scope="module")
def shared(engine: Engine) -> Iterator[SharedCluster]:
    made = SharedCluster(lambda: Cluster.start(engine, 3, 1))
    yield made
    made.close()


@pytest.fixture
def cluster(shared: SharedCluster) -> Cluster:
    """3 primaries with about a third of the slots and a replica each, no keys."""
    return shared.get()


@pytest.fixture
def unspoilt(shared: SharedCluster) -> Cluster:
    """The same, of nodes that have seen no other test: see SharedCluster.get."""
    return shared.get(fresh=True)


@pytest.fixture(scope="module")
def shared_small(engine: Engine) -> Iterator[SharedCluster]:
    made = SharedCluster(lambda: Cluster.start(engine, 3, 1, slots=SMALL), small_as_made)
    yield made
    made.close()


@pytest.fixture
def small(shared_small: SharedCluster) -> Cluster:
    """The same, but one of the primaries owns three slots only."""
    return shared_small.get()


# A scene: what is to move, and what is known of it


@dataclass(frozen=True)
class Scene:
    """Slots of S that hold keys and are to go to T, and what was there before."""

    cluster: Cluster
    source: Node
    target: Node
    other: Node
    slots: tuple[int, ...]
    names: frozenset[bytes]
    before: data.Digest

    @property
    def slot(self) -> int:
        return self.slots[0]

    @property
    def tag(self) -> bytes:
        """Makes a key name of the first slot."""
        return b"{%s}" % data.tag_for_slot(self.slot)

    def with_keys(self) -> Scene:
        """The same with what is there now as what was there before."""
        before = data.digest(self.cluster)
        return replace(self, names=frozenset(before), before=before)


def scene(cluster: Cluster, slots: int = 3, keys: int = 20) -> Scene:
    """S has the most slots."""
    owners = cluster.slot_owners()
    counts = {node: owners.count(node) for node in cluster.primaries()}
    source, other, target = sorted(counts, key=lambda node: -counts[node])
    chosen = tuple(slot for slot, owner in enumerate(owners) if owner is source)[:slots]
    for slot in chosen:
        data.seed_slot(cluster, slot, keys)
    empty = Scene(cluster, source, target, other, chosen, frozenset(), {})
    end_cached_sockets(empty.cluster.primaries())
    return empty.with_keys()


def connection(node: Node) -> dict[str, Any]:
    return {"login_host": node.host, "login_port": node.port, "command_timeout": 5}


def movement(stage: Scene, **more: Any) -> dict[str, Any]:
    """Options of a mover that enters the cluster at O."""
    fixed = {"method": "classic", "wait_timeout": 25, "progress_interval": 0}
    return {**connection(stage.other), **fixed, **more}


def goal(stage: Scene, **more: Any) -> dict[str, Any]:
    """Options that bring the slots to T."""
    slots = [str(slot) for slot in stage.slots]
    return movement(stage, slots=slots, target=stage.target.id, **more)


def migrate(stage: Scene, *cuts: Cut, **more: Any) -> Run:
    return start("redis_slot_migrate", goal(stage, **more), *cuts)


def on(node: Node, words: str) -> str:
    """The pattern of a command to this node."""
    return rf"^{node.port} {words}"


def setslot(node: Node, kind: str) -> str:
    return on(node, rf"CLUSTER SETSLOT \d+ {kind} ")


def moving(stage: Scene) -> str:
    """MIGRATE on S (but not the probe for the permission)."""
    return on(stage.source, rf"MIGRATE \S+ {stage.target.port} ")


# What the servers say


def markers(*nodes: Node) -> list[str]:
    """Open slots on these nodes."""
    return [text for node in nodes for text in me(node).open]


def set_config(node: Node, **settings: str | int) -> None:
    for name, value in settings.items():
        node.call("CONFIG", "SET", name.replace("_", "-"), value)


def open_by_hand(stage: Scene, slot: int) -> None:
    stage.target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", stage.source.id)
    stage.source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", stage.target.id)


def close_by_hand(stage: Scene, *slots: int) -> None:
    for node in stage.cluster.primaries():
        for slot in slots:
            node.call("CLUSTER", "SETSLOT", slot, "STABLE")


# What is to be true


def assert_readable(stage: Scene) -> None:
    """A cluster client finds every key, wherever the run was killed."""
    with stage.cluster.seed_client() as client:
        missing = [name for name in stage.names if not client.exists(name)]
    assert missing == []


def assert_whole(stage: Scene) -> None:
    """All agree, no slot is open, and the keys are what they were."""
    stage.cluster.wait_healthy()
    assert data.compare(stage.before, data.digest(stage.cluster)) == []


def assert_moved(stage: Scene) -> None:
    assert_whole(stage)
    owners = stage.cluster.slot_owners()
    assert {owners[slot] for slot in stage.slots} == {stage.target}


def assert_success(result: dict[str, Any], finished: bool = True) -> None:
    assert not result.get("failed"), result["msg"]
    assert result["finished"] is finished


def changes(trace: list[str]) -> list[str]:
    """The commands that change something; a probe for a permission does not."""
    found = [line for line in trace if CHANGING.match(line)]
    return [line for line in found if not any(probe in line for probe in PROBES)]


def assert_refused(attempt: Run, *words: str) -> str:
    """The run failed before it changed anything, and says so with these words; its message."""
    result = attempt.result()
    assert result.get("failed"), result
    for word in words:
        assert word in result["msg"], result["msg"]
    assert changes(attempt.trace) == []
    assert_failure_tells(result)
    assert (result["changed"], result["slots_moved"], result["moves"]) == (False, 0, [])
    return str(result["msg"])


def assert_failure_tells(result: dict[str, Any]) -> None:
    """A failed mover says what was done, what was not, and why."""
    assert result["failed"]
    assert [name for name in TOLD if name not in result] == []
    assert result["finished"] is False
    assert len(result["msg"].split()) > 5


# 4.1, 4.2, 4.4: the order of the commands


def test_commands_come_in_the_order_of_the_protocol(cluster: Cluster) -> None:
    stage = scene(cluster)
    attempt = migrate(stage)
    assert_success(attempt.result())
    source, target, other = stage.source, stage.target, stage.other
    stages = (
        setslot(target, "IMPORTING"),
        setslot(source, "MIGRATING"),
        moving(stage),
        setslot(target, "NODE"),
        setslot(source, "NODE"),
        setslot(other, "NODE"),
    )
    for slot in stage.slots:
        tag = data.tag_for_slot(slot).decode()
        mine = [
            line for line in attempt.trace if f"SETSLOT {slot} " in line or f"{{{tag}}}:" in line
        ]
        first = [next(i for i, line in enumerate(mine) if re.match(p, line)) for p in stages]
        assert first == sorted(first), mine
    assert_moved(stage)


def test_servers_see_no_transaction_and_no_replace(cluster: Cluster) -> None:
    stage = scene(cluster)
    with stage.source.commands() as at_source, stage.target.commands() as at_target:
        assert_success(migrate(stage).result())
    for seen, node in ((at_source, "source"), (at_target, "target")):
        words = [word for word in ("MULTI", "EXEC") for line in seen if line == word]
        setslots = [index for index, line in enumerate(seen) if " SETSLOT " in line.upper()]
        assert setslots, node
        # A transaction may serve to name a connection; a SETSLOT within one kills a Valkey primary.
        if words:
            inside = between_multi_and_setname(seen)
            assert not inside.intersection(setslots), seen
    migrates = [line for line in at_source if line.upper().startswith("MIGRATE ")]
    assert len(migrates) >= 2
    assert [line for line in migrates if " REPLACE" in line.upper()] == []
    assert [line for line in at_target if line.upper().endswith(" REPLACE")] == []
    assert_moved(stage)


def between_multi_and_setname(seen: list[str]) -> set[int]:
    """Indexes of the commands from each MULTI to the CLIENT SETNAME that ends it."""
    found: set[int] = set()
    inside = False
    for index, line in enumerate(seen):
        inside = inside or line.upper() == "MULTI"
        if inside:
            found.add(index)
        if line.upper().startswith("CLIENT SETNAME"):
            inside = False
    return found


def test_commit_asks_again_before_it_gives_the_slot_away(cluster: Cluster) -> None:
    """MIGRATING and the count on S, then IMPORTING and NODE on T, then T's epoch above S's."""
    stage = scene(cluster, slots=1)
    stage.source.call("CLUSTER", "BUMPEPOCH")
    attempt = migrate(stage)
    assert_success(attempt.result())
    last = max(i for i, line in enumerate(attempt.trace) if re.match(moving(stage), line))
    commit = [line for line in attempt.trace[last:] if "SETSLOT" in line or "COUNTKEYS" in line]
    slot, source, target = stage.slot, stage.source.port, stage.target.port
    assert [line.rsplit(" ", 1)[0] for line in commit[:4]] == [
        f"{source} CLUSTER SETSLOT {slot} MIGRATING",
        f"{source} CLUSTER COUNTKEYSINSLOT",
        f"{target} CLUSTER SETSLOT {slot} IMPORTING",
        f"{target} CLUSTER SETSLOT {slot} NODE",
    ]
    assert epoch(stage.target) > epoch(stage.source)
    assert_moved(stage)


def test_migrate_timeout_is_at_most_half_the_node_timeout(cluster: Cluster) -> None:
    stage = scene(cluster, slots=4)
    attempt = migrate(stage, batch_size=7)
    assert_success(attempt.result())
    found = [int(line.split()[5]) for line in attempt.trace if re.match(moving(stage), line)]
    assert len(found) > 4
    assert 0 < max(found) <= cluster.node_timeout_ms / 2


def test_few_slots_are_open_at_once(cluster: Cluster) -> None:
    stage = scene(cluster, slots=40, keys=1)
    attempt = migrate(stage)
    assert_success(attempt.result())
    is_open: set[str] = set()
    most = 0
    for line in attempt.trace:
        words = line.split()
        if re.match(setslot(stage.source, "MIGRATING"), line):
            is_open.add(words[3])
        elif re.match(setslot(stage.source, "NODE"), line):
            is_open.discard(words[3])
        most = max(most, len(is_open))
    assert 1 < most <= SLOTS_AT_ONCE
    assert is_open == set()
    assert_moved(stage)


# 4.8, 4.9: killed after each stage, the next run finishes


def stage_cut(stage: Scene, name: str) -> Cut:
    """Kills the run right after (or, with all keys moved, before) this step."""
    if name == "all keys":
        return Cut(setslot(stage.target, "IMPORTING"), "kill before", len(stage.slots) + 1)
    pattern = {
        "importing": setslot(stage.target, "IMPORTING"),
        "migrating": setslot(stage.source, "MIGRATING"),
        "some keys": moving(stage),
        "node on target": setslot(stage.target, "NODE"),
        "node on source": setslot(stage.source, "NODE"),
    }[name]
    return Cut(pattern, "kill after")


KILLS = ("importing", "migrating", "some keys", "all keys", "node on target", "node on source")


@pytest.mark.parametrize("step", KILLS)
def test_killed_after_a_step_the_next_run_finishes(cluster: Cluster, step: str) -> None:
    stage = scene(cluster)
    killed = migrate(stage, stage_cut(stage, step), batch_size=5)
    assert killed.was_killed()
    assert_readable(stage)
    if step != "some keys":
        end_cached_sockets(stage.cluster.primaries())
    assert_success(migrate(stage).result())
    assert_moved(stage)
    again = migrate(stage)
    assert again.result()["changed"] is False
    assert changes(again.trace) == []


def test_killed_after_any_command_the_next_run_finishes(cluster: Cluster) -> None:
    stage = scene(cluster)
    whole = migrate(stage, batch_size=8)
    assert_success(whole.result())
    first = next(i for i, line in enumerate(whole.trace) if " IMPORTING " in line)
    last = max(i for i, line in enumerate(whole.trace) if " NODE " in line)
    for number in range(first + 2, last + 2, max(1, (last - first) // 6)):
        back = replace(stage, source=stage.target, target=stage.source)
        stage = back
        assert migrate(stage, Cut("", "kill after", number), batch_size=8).was_killed()
        assert_readable(stage)
        end_cached_sockets(stage.cluster.primaries())
        assert_success(migrate(stage).result())
        assert_moved(stage)


@pytest.mark.parametrize("step", ["some keys", "node on target"])
def test_killed_run_is_finished_by_a_drain(cluster: Cluster, step: str) -> None:
    stage = scene(cluster)
    assert migrate(stage, stage_cut(stage, step), batch_size=5).was_killed()
    end_cached_sockets(stage.cluster.primaries())
    options = movement(stage, drain=[stage.source.id], drain_only=True, max_slots=3)
    assert_success(run("redis_cluster_rebalance", options), finished=False)
    assert_moved(stage)


def test_open_slot_is_finished_before_threshold_and_cap_are_asked(cluster: Cluster) -> None:
    """T is within the threshold of its share, and yet its open slot is finished, and only that."""
    stage = scene(cluster)
    assert migrate(stage, stage_cut(stage, "some keys"), batch_size=5).was_killed()
    end_cached_sockets(stage.cluster.primaries())
    owned = cluster.ownership()
    weights = [{"node": stage.target.id, "weight": 1.01}]
    options = movement(stage, weights=weights, threshold=5, max_slots=1)
    attempt = start("redis_cluster_rebalance", options)
    assert_success(attempt.result())
    assert_moved(stage)
    assert cluster.ownership() != owned
    touched = {line.split()[3] for line in changes(attempt.trace) if "SETSLOT" in line}
    assert touched == {str(slot) for slot in stage.slots}


def test_state_lives_in_the_cluster_alone(cluster: Cluster) -> None:
    """A run writes no file, killed or not, and another process goes on from what it finds."""
    stage = scene(cluster)
    killed = migrate(stage, stage_cut(stage, "some keys"), batch_size=5)
    assert killed.was_killed()
    end_cached_sockets(stage.cluster.primaries())
    resumed = migrate(stage)
    assert_success(resumed.result())
    assert killed.written + resumed.written == []
    assert_moved(stage)


# 4.11: lost replies


@pytest.mark.parametrize("step", ["importing", "migrating", "node on target"])
def test_lost_reply_is_looked_into(cluster: Cluster, step: str) -> None:
    """The command was carried out and its reply was lost: the same run goes on, nothing is lost."""
    stage = scene(cluster, keys=0 if step == "node on target" else 20)
    attempt = migrate(stage, replace(stage_cut(stage, step), action="lose"))
    assert_success(attempt.result())
    assert_moved(stage)


def test_after_a_lost_migrate_the_target_is_asked_who_still_sends(cluster: Cluster) -> None:
    stage = scene(cluster, slots=1)
    attempt = migrate(stage, Cut(moving(stage), "lose"), batch_size=5)
    assert_success(attempt.result())
    sent = [i for i, line in enumerate(attempt.trace) if re.match(moving(stage), line)]
    between = attempt.trace[sent[0] + 1 : sent[1]]
    assert any(re.match(on(stage.target, "CLIENT LIST"), line) for line in between), between
    assert_moved(stage)


# 4.2: the marker that is gone before the commit


@pytest.mark.parametrize("moment", ["before the count", "right before NODE"])
def test_marker_gone_before_the_commit_loses_nothing(cluster: Cluster, moment: str) -> None:
    stage = scene(cluster)
    stage.source.call("CLUSTER", "BUMPEPOCH")
    cut = Cut(setslot(stage.source, "MIGRATING"), "hold", len(stage.slots) + 1)
    if moment == "right before NODE":
        cut = Cut(setslot(stage.target, "NODE"), "hold")
    attempt = migrate(stage, cut)
    attempt.wait_held()
    for slot in stage.slots:
        stage.target.call("CLUSTER", "SETSLOT", slot, "STABLE")
    assert markers(stage.target) == []
    attempt.go()
    assert_success(attempt.result())
    assert epoch(stage.target) > epoch(stage.source)
    # Gossip would give the slots back within a node timeout.
    time.sleep(1.5)
    assert_moved(stage)


# 4.4: keys on both sides


def put_on_both(stage: Scene, same: bool) -> list[bytes]:
    """Opens the slot; a string, a set, a hash and a key that expires stand on both sides then."""
    tag = stage.tag
    words = [b"member-%d" % number for number in range(40)]
    fields = [word for name in words for word in (name, name.upper())]
    backward = [word for name in reversed(words) for word in (name, name.upper())]
    extra = [] if same else [b"more", b"more"]
    stage.source.call("SET", tag + b"string", "v")
    stage.source.call("SADD", tag + b"set", *words)
    stage.source.call("HSET", tag + b"hash", *fields)
    stage.source.call("SET", tag + b"expiring", "v", "PX", 3_600_000)
    open_by_hand(stage, stage.slot)
    asking(stage.target, "SET", tag + b"string", "v" if same else "w")
    asking(stage.target, "SADD", tag + b"set", *reversed(words), *extra[:1])
    asking(stage.target, "HSET", tag + b"hash", *backward, *extra)
    asking(stage.target, "SET", tag + b"expiring", "v", "PX", 3_600_000 if same else 99_000)
    return [tag + name for name in (b"string", b"set", b"hash", b"expiring")]


def with_doubles(stage: Scene, same: bool) -> Scene:
    """The scene with these keys; S's are the ones that count."""
    put_on_both(stage, same)
    with stage.source.client() as client:
        kinds = {n: client.type(n) for n in client.scan_iter(count=1000)}
        before = data._read(client, kinds, 0, stage.cluster.engine.release >= (7, 0))
    return replace(stage, names=frozenset(before), before=before)


def test_equal_values_on_both_sides_are_settled(cluster: Cluster) -> None:
    stage = with_doubles(scene(cluster, slots=1), same=True)
    with stage.source.commands() as seen:
        attempt = migrate(stage)
        assert_success(attempt.result())
    migrates = [line for line in seen if line.upper().startswith("MIGRATE")]
    assert migrates
    assert [line for line in migrates if "REPLACE" in line] == []
    assert_moved(stage)


def test_a_write_that_comes_while_its_key_is_settled_stays(cluster: Cluster) -> None:
    """The copies are equal; then the client deletes its key, and is sent to T to write it anew."""
    stage = with_doubles(scene(cluster, slots=1), same=True)
    name = stage.tag + b"string"
    deletes = Cut(rf"^{stage.target.port} DEL {re.escape(name.decode())}", "hold")
    attempt = migrate(stage, deletes)
    attempt.wait_held()
    with cluster.seed_client() as client:
        assert client.delete(name) == 1
        client.set(name, "newer")
    attempt.go()
    assert_success(attempt.result())
    cluster.wait_healthy()
    assert stage.target.call("GET", name) == b"newer"


@pytest.mark.parametrize("kind", ["string", "set", "hash", "expiring"])
def test_different_values_on_both_sides_are_named(cluster: Cluster, kind: str) -> None:
    stage = scene(cluster, slots=1)
    doubles = put_on_both(stage, same=True)
    name = stage.tag + kind.encode()
    change = {
        "string": ("APPEND", name, "x"),
        "set": ("SADD", name, "more"),
        "hash": ("HSET", name, "more", "more"),
        "expiring": ("PERSIST", name),
    }[kind]
    asking(stage.target, *change)
    result = migrate(stage).result()
    assert_failure_tells(result)
    assert name.decode() in result["msg"]
    assert "on_busy_key" in result["msg"]
    assert len(markers(stage.source, stage.target)) == 2
    assert asking(stage.target, "EXISTS", name) == 1
    with stage.source.client() as client:
        assert client.exists(name) == 1
        held = {bytes(key) for key in client.scan_iter(count=1000)}
    there = {n for n in {*stage.names, *doubles} - held if asking(stage.target, "EXISTS", n)}
    assert held | there == {*stage.names, *doubles}
    for node in cluster.primaries():
        node.call("FLUSHALL")
    close_by_hand(stage, stage.slot)


def test_on_busy_key_replace_keeps_the_source_without_replace(cluster: Cluster) -> None:
    stage = with_doubles(scene(cluster, slots=1), same=False)
    assert_failure_tells(migrate(stage).result())
    end_cached_sockets(stage.cluster.primaries())
    with stage.source.commands() as seen:
        attempt = migrate(stage, on_busy_key="replace")
        assert_success(attempt.result())
    migrates = [line for line in seen if line.upper().startswith("MIGRATE ")]
    assert migrates
    assert [line for line in migrates if " REPLACE" in line.upper()] == []
    assert_moved(stage)


# 4.4: a target that freezes


def test_late_restore_never_brings_an_old_value_back(cluster: Cluster) -> None:
    """T freezes for longer than the MIGRATE timeout, v2 is written at S, T wakes with v1 in its
    buffers."""
    stage = scene(cluster, slots=1, keys=1)
    name = stage.tag + b"versioned"
    stage.source.call("SET", name, "v1")
    attempt = migrate(stage, Cut(moving(stage), "hold"))
    attempt.wait_held()
    stage.target.pause()
    try:
        attempt.go()
        time.sleep(cluster.node_timeout_ms / 2000 + 0.1)
        assert stage.source.call("SET", name, "v2") is not None
        assert stage.source.call("GET", name) == b"v2"
    finally:
        stage.target.resume()
    # The old RESTORE has come: v1 stands at T, and clients still read v2 at S.
    result = attempt.result()
    assert_failure_tells(result)
    assert "versioned" in result["msg"]
    assert stage.source.call("GET", name) == b"v2"
    assert asking(stage.target, "GET", name) == b"v1"
    end_cached_sockets(stage.cluster.primaries())
    again = migrate(stage, on_busy_key="replace")
    assert_success(again.result())
    trace = attempt.trace + again.trace
    assert [line for line in trace if "MIGRATE" in line and " REPLACE" in line] == []
    cluster.wait_healthy()
    assert stage.target.call("GET", name) == b"v2"
    assert_moved(stage.with_keys())
    assert stage.names < frozenset(data.digest(cluster))


# 4.5, 4.7: failovers with a slot open


def fail_over(cluster: Cluster, node: Node) -> Node:
    """Kills a primary, when its replica has everything; the replica, when it has taken over."""
    replica = replica_of(cluster, node)
    assert node.call("WAIT", 1, 15_000) == 1
    node.kill()
    wait_until(lambda: bool(me(replica).slots), f"{replica} takes over")
    others = [other for other in cluster.members() if other is not replica]
    slot = me(replica).slots[0][0]
    wait_until(
        lambda: sum(owner_told_by(other, slot) == replica.id for other in others) >= 2,
        "the others know it",
    )
    return replica


def test_source_fails_over_with_a_slot_open(unspoilt: Cluster) -> None:
    stage = scene(unspoilt, keys=15)
    old = stage.source.id
    assert migrate(stage, stage_cut(stage, "some keys"), batch_size=5).was_killed()
    end_cached_sockets(stage.cluster.primaries())
    assert stage.target.call("WAIT", 1, 15_000) == 1
    promoted = fail_over(unspoilt, stage.source)
    if unspoilt.engine.family == "redis":
        # It ignores gossip about the slot that it imports: what is to be healed here.
        assert owner_told_by(stage.target, stage.slot) == old
    assert_success(migrate(stage).result())
    assert markers(promoted, stage.target, stage.other) == []
    stage.source.restart()
    assert_moved(stage)


def test_target_fails_over_with_a_slot_open(unspoilt: Cluster) -> None:
    """On Redis the promoted T has no marker, and S still sends to the dead one: while that is down
    the slot is named and nothing changes; when it is back, as a replica, the run finishes."""
    stage = scene(unspoilt, keys=15)
    assert migrate(stage, stage_cut(stage, "some keys"), batch_size=5).was_killed()
    end_cached_sockets(stage.cluster.primaries())
    old, promoted = stage.target, fail_over(unspoilt, stage.target)
    stage = replace(stage, target=promoted)
    if unspoilt.engine.family == "redis":
        message = assert_refused(migrate(stage), "is open", "redis_cluster_fix")
        assert any(f"slot {slot} " in message for slot in stage.slots)
    old.restart()
    wait_until(lambda: me(old).primary_id == promoted.id, "the old T follows", 60)
    wait_until(lambda: old.info("replication").get("master_link_status") == "up", "its link")
    assert_success(migrate(stage).result())
    assert_moved(stage)


@pytest.mark.family("redis")
def test_killed_while_it_tells_the_target_of_a_failover_the_keys_stay_in_sight(
    unspoilt: Cluster,
) -> None:
    """T goes on naming the dead S, and is told the new owner; T's mark has to outlive that."""
    stage = scene(unspoilt, keys=15)
    assert migrate(stage, stage_cut(stage, "some keys"), batch_size=5).was_killed()
    end_cached_sockets(stage.cluster.primaries())
    assert stage.target.call("WAIT", 1, 15_000) == 1
    promoted = fail_over(unspoilt, stage.source)
    held = stage.target.call("CLUSTER", "COUNTKEYSINSLOT", stage.slot)
    assert held
    told = Cut(on(stage.target, rf"CLUSTER SETSLOT {stage.slot} (NODE|STABLE)"), "kill after")
    assert migrate(stage, told).was_killed()
    assert stage.target.call("CLUSTER", "COUNTKEYSINSLOT", stage.slot) == held
    assert_success(migrate(stage, method="auto").result())
    assert markers(promoted, stage.target, stage.other) == []
    stage.source.restart()
    assert_moved(stage)


@pytest.mark.family("redis")
def test_source_that_fails_over_after_the_count_loses_no_write(unspoilt: Cluster) -> None:
    """The new owner knows of no move, and takes writes. A late claim would delete them."""
    stage = scene(unspoilt, slots=1)
    again = Cut(setslot(stage.target, "IMPORTING"), "hold", 2)
    attempt = migrate(stage, again, wait_timeout=5)
    attempt.wait_held()
    promoted = fail_over(unspoilt, stage.source)
    names = [stage.tag + b"new:%d" % number for number in range(20)]
    for name in names:
        promoted.call("SET", name, "v")
    attempt.go()
    assert attempt.result()["failed"]
    time.sleep(2)
    assert promoted.call("EXISTS", *names) == len(names)
    assert owner_told_by(promoted, stage.slot) == promoted.id
    stage.source.restart()
    wait_until(lambda: me(stage.source).primary_id == promoted.id, "the old S follows")
    assert_success(migrate(stage).result())
    unspoilt.wait_healthy()
    found = data.digest(unspoilt)
    assert set(names) < set(found)
    assert data.compare(stage.before, {n: found[n] for n in stage.before if n in found}) == []


def test_source_that_has_become_a_replica_is_told_as_such(unspoilt: Cluster) -> None:
    stage = scene(unspoilt, slots=1)
    attempt = migrate(stage, Cut(on(stage.source, "MEMORY USAGE"), "hold"))
    attempt.wait_held()
    heir = replica_of(unspoilt, stage.source)
    heir.call("CLUSTER", "FAILOVER")
    wait_until(lambda: me(stage.source).primary_id == heir.id, "S follows")
    attempt.go()
    result = attempt.result()
    assert result["failed"]
    assert "MOVED" in result["msg"]
    assert "The owners have changed under the run" in result["msg"]
    assert_success(migrate(stage).result())
    unspoilt.wait_healthy()
    assert data.compare(stage.before, data.digest(unspoilt)) == []


def test_last_slot_is_counted_within_the_guard(small: Cluster) -> None:
    """CONFIG SET on a replica that stands still takes long: the count would be old by then."""
    stage = drained(small)
    attempt = start("redis_cluster_rebalance", drain_options(stage))
    assert_success(attempt.result())
    order = [
        line
        for line in attempt.trace
        if re.search(r"CONFIG SET cluster-allow-replica-migration no|COUNTKEYSINSLOT", line)
    ]
    assert re.search("COUNTKEYSINSLOT", order[-1])
    assert any("CONFIG SET" in line for line in order)
    give_back(stage)


# 4.3, 4.9: markers that a run finds


@pytest.mark.family("valkey-8.1")
def test_source_that_has_not_heard_of_its_loss_takes_no_writes(engine: Engine) -> None:
    """Without its mark it would serve the slot again, and delete what it took when it hears."""
    with Cluster.start(engine, 3, 0, node_timeout_ms=30000) as cluster:
        stage = scene(cluster, slots=1)
        stage.source.call("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -2)
        assert migrate(stage, Cut(setslot(stage.source, "NODE"), "kill before")).was_killed()
        time.sleep(0.5)
        assert owner_told_by(stage.source, stage.slot) == stage.source.id
        migrate(stage, wait_timeout=5).result()
        with pytest.raises((redis.exceptions.MovedError, redis.exceptions.AskError)):
            stage.source.call("SET", stage.tag + b"new", "v")
        stage.source.call("DEBUG", "DROP-CLUSTER-PACKET-FILTER", -1)
        assert_success(migrate(stage).result())
        assert_moved(stage)


def test_stale_migrating_marker_on_a_node_that_is_no_owner(cluster: Cluster) -> None:
    """What a death between NODE on T and NODE on S leaves behind. Valkey clears it by itself."""
    stage = scene(cluster)
    slot = cluster.slot_owners().index(stage.source, stage.slots[-1] + 1)
    open_by_hand(stage, slot)
    stage.target.call("CLUSTER", "SETSLOT", slot, "NODE", stage.target.id)
    wait_until(lambda: owner_told_by(stage.source, slot) == stage.target.id, "gossip")
    if cluster.engine.family == "redis":
        assert markers(stage.source) == [f"[{slot}->-{stage.target.id}]"]
    assert_success(migrate(stage).result())
    assert_moved(stage)


def test_importing_marker_without_keys_is_cleared(cluster: Cluster) -> None:
    stage = scene(cluster)
    slot = cluster.slot_owners().index(stage.source, stage.slots[-1] + 1)
    stage.other.call("CLUSTER", "SETSLOT", slot, "IMPORTING", stage.source.id)
    result = migrate(stage).result()
    assert_success(result)
    assert markers(*cluster.primaries()) == []
    assert_moved(stage)


def test_importing_marker_with_keys_and_of_no_goal_is_named_and_stays(cluster: Cluster) -> None:
    stage = scene(cluster)
    slot = cluster.slot_owners().index(stage.source, stage.slots[-1] + 1)
    key = b"{%s}foreign" % data.tag_for_slot(slot)
    stage.other.call("CLUSTER", "SETSLOT", slot, "IMPORTING", stage.source.id)
    assert asking(stage.other, "SET", key, "v") == b"OK"
    assert_refused(migrate(stage), f"slot {slot} ", "redis_cluster_fix", stage.other.address)
    assert markers(stage.other) == [f"[{slot}-<-{stage.source.id}]"]
    assert asking(stage.other, "GET", key) == b"v"
    stage.other.call("CLUSTER", "SETSLOT", slot, "IMPORTING", stage.source.id)
    asking(stage.other, "DEL", key)
    close_by_hand(stage, slot)


def test_open_slot_of_another_goal_is_named_and_stays(cluster: Cluster) -> None:
    """S is sending it to O; this run would have it at T."""
    stage = scene(cluster)
    elsewhere = replace(stage, target=stage.other, other=stage.target)
    assert migrate(elsewhere, stage_cut(elsewhere, "some keys"), batch_size=5).was_killed()
    before = markers(stage.source, stage.other)
    assert_refused(migrate(stage), "is open", "redis_cluster_fix", stage.other.address)
    assert markers(stage.source, stage.other) == before
    end_cached_sockets(elsewhere.cluster.primaries())
    assert_success(migrate(elsewhere).result())
    assert_moved(elsewhere)


def test_marker_that_hides_keys_is_refused_and_never_made_stable(cluster: Cluster) -> None:
    """Keys that nobody sees, on a node that has a marker and does not own the slot."""
    stage = scene(cluster)
    slot = cluster.slot_owners().index(stage.source, stage.slots[-1] + 1)
    open_by_hand(stage, slot)
    stage.target.call("CLUSTER", "SETSLOT", slot, "NODE", stage.target.id)
    wait_until(lambda: owner_told_by(stage.source, slot) == stage.target.id, "gossip")
    if cluster.engine.family == "valkey":
        # There the marker of a former owner is gone by now: the one that imports does it.
        stage.source.call("CLUSTER", "SETSLOT", slot, "IMPORTING", stage.target.id)
    stage.source.call("DEBUG", "POPULATE", 3, b"{%s}hidden" % data.tag_for_slot(slot))
    before = markers(stage.source)
    assert before
    attempt = migrate(stage)
    result = attempt.result()
    assert_failure_tells(result)
    assert f"slot {slot}" in result["msg"]
    assert "redis_cluster_fix" in result["msg"]
    assert [line for line in changes(attempt.trace) if "STABLE" in line or "NODE" in line] == []
    assert set(before) <= set(markers(stage.source))
    stage.source.call("CLUSTER", "SETSLOT", slot, "IMPORTING", stage.target.id)
    assert stage.source.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 3
    assert_failure_tells(migrate(stage).result())
    assert stage.source.call("CLUSTER", "COUNTKEYSINSLOT", slot) == 3
    stage.source.call("FLUSHALL")
    close_by_hand(stage, slot)


# 4.6, 4.7, 4.9: refused before anything is changed


def test_node_that_would_give_and_take_is_refused(cluster: Cluster) -> None:
    stage = scene(cluster)
    theirs = cluster.slot_owners().index(stage.target)
    moves = [
        {"slots": [str(stage.slot)], "target": stage.target.id},
        {"slots": [str(theirs)], "target": stage.other.id},
    ]
    attempt = start("redis_slot_migrate", movement(stage, moves=moves))
    assert_refused(attempt, "give and take", stage.target.address)
    assert_whole(stage)


def test_an_entry_that_dies_in_mid_run_is_needed_no_more(cluster: Cluster) -> None:
    """The others are known by then, without startup_nodes."""
    stage = scene(cluster)
    entry = replica_of(cluster, stage.other)
    first = Cut(rf"^{stage.source.port} MIGRATE", "hold")
    attempt = migrate(stage, first, **connection(entry))
    attempt.wait_held()
    entry.kill()
    attempt.go()
    assert_success(attempt.result())
    entry.restart()
    # A Valkey replica starts with the markers that it had when it last wrote its nodes.conf.
    assert_success(migrate(stage).result())
    assert_moved(stage)


def test_somebody_else_who_moves_the_slot_is_noticed(cluster: Cluster) -> None:
    """A tool that moves key by key, as redis-cli does; ours names the slot and touches nothing."""
    stage = scene(cluster, slots=1, keys=200)
    open_by_hand(stage, stage.slot)
    with tool_at_work(stage.source, stage.target, stage.slot) as moved:
        at_start = len(moved)
        assert_refused(migrate(stage), "somebody else", f"slot {stage.slot} ")
        assert at_start < len(moved) < 200
    assert_readable(stage)
    end_cached_sockets(stage.cluster.primaries())
    assert_success(migrate(stage).result())
    assert_moved(stage)


@pytest.mark.parametrize("whose", ["source", "target"])
def test_replica_without_a_link_is_refused(cluster: Cluster, whose: str) -> None:
    stage = scene(cluster)
    primary = stage.source if whose == "source" else stage.target
    replica = replica_of(cluster, primary)
    set_config(replica, masteruser="nobody", masterauth="wrong")
    try:
        replica.call("CLIENT", "KILL", "TYPE", "master")
        wait_until(lambda: replica.info("replication")["master_link_status"] == "down", "link down")
        assert_refused(migrate(stage), replica.address, "not in step")
    finally:
        set_config(replica, masteruser="", masterauth="")
    assert_whole(stage)


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
def test_target_without_memory_is_refused(cluster: Cluster, policy: str) -> None:
    stage = scene(cluster, keys=300)
    used = int(stage.target.info("memory")["used_memory"])
    set_config(stage.target, maxmemory_policy=policy, maxmemory=used + 20_000)
    try:
        assert_refused(migrate(stage), stage.target.address, "maxmemory")
    finally:
        set_config(stage.target, maxmemory=0, maxmemory_policy="noeviction")
    assert_whole(stage)


def test_missing_permission_is_named(cluster: Cluster) -> None:
    stage = scene(cluster)
    for node in cluster.members():
        rules = ("on", ">pw", "~*", "&*", "+@all", "-migrate")
        node.call("ACL", "SETUSER", "limited", *rules)
    try:
        attempt = migrate(stage, login_user="limited", login_password="pw")
        assert_refused(attempt, "migrate", "grant", stage.source.address)
    finally:
        for node in cluster.members():
            node.call("ACL", "DELUSER", "limited")
    assert_whole(stage)


def test_older_target_is_refused(engine: Engine) -> None:
    """A node of Redis 6.2 in a cluster of a newer server can't read its keys."""
    newer = engine if engine.name != "redis-6.2" else engines.get("valkey-9.1")
    with Cluster.start(newer, 2, 0) as cluster:
        cluster.engine = engines.get("redis-6.2")
        old = cluster.start_node()
        cluster.engine = newer
        cluster.nodes[0].call("CLUSTER", "MEET", old.host, old.port)
        cluster.wait_healthy(members=3)
        source = cluster.nodes[0]
        names = data.seed_slot(cluster, 0, 20)
        before = data.digest(cluster)
        stage = Scene(cluster, source, old, cluster.nodes[1], (0,), frozenset(names), before)
        assert_refused(migrate(stage), old.address, "can't read", "6.2")
        assert_whole(stage)


# 4.7: frozen replicas of T (on Valkey SETSLOT waits for them)


def test_frozen_replica_of_the_target_is_refused_up_front(cluster: Cluster) -> None:
    stage = scene(cluster)
    replica = replica_of(cluster, stage.target)
    replica.pause()
    try:
        assert_refused(migrate(stage, command_timeout=1), replica.address, "can't be reached")
    finally:
        replica.resume()
    assert_whole(stage)


def test_replica_of_the_target_that_freezes_and_wakes_in_mid_run(cluster: Cluster) -> None:
    stage = scene(cluster)
    replica = replica_of(cluster, stage.target)
    attempt = migrate(stage, Cut(setslot(stage.target, "IMPORTING"), "hold"))
    attempt.wait_held()
    stage.target.call("CONFIG", "RESETSTAT")
    replica.pause()
    try:
        attempt.go()
        if cluster.engine.family == "valkey":
            refused = "errorstat_NOREPLICAS"
            wait_until(lambda: refused in stage.target.info("errorstats"), "NOREPLICAS")
        else:
            time.sleep(1)
    finally:
        replica.resume()
    assert_success(attempt.result())
    assert_moved(stage)


# 4.12: big keys


def test_big_key_in_a_big_slot_is_met_named_and_resumed(cluster: Cluster) -> None:
    stage = scene(cluster, slots=1, keys=0)
    with stage.source.client() as client:
        commands = [("SET", stage.tag + b"%d" % number, "v") for number in range(10_050)]
        data.pipe(client, commands)
        client.set(stage.tag + b"whale", b"w" * 300_000)
    stage = stage.with_keys()
    result = migrate(stage, big_key_bytes=200_000).result()
    assert_failure_tells(result)
    assert "whale" in result["msg"]
    assert "big_key_bytes" in result["msg"]
    assert "left open" in result["msg"]
    assert (result["slots_moved"], result["slots_left"]) == (0, 1)
    assert stage.source.call("EXISTS", stage.tag + b"whale") == 1
    assert len(markers(stage.source, stage.target)) == 2
    at_target = stage.target.call("CLUSTER", "COUNTKEYSINSLOT", stage.slot)
    assert at_target == result["keys_moved"]
    end_cached_sockets(stage.cluster.primaries())
    assert_success(migrate(stage).result())
    assert_moved(stage)


def test_big_key_is_named_before_its_slot_is_touched(cluster: Cluster) -> None:
    """The other slots move."""
    stage = scene(cluster)
    stage.source.call("SET", stage.tag + b"whale", b"w" * 300_000)
    stage = stage.with_keys()
    result = migrate(stage, big_key_bytes=200_000).result()
    assert_failure_tells(result)
    assert "whale" in result["msg"]
    assert "not touched" in result["msg"]
    assert (result["slots_moved"], result["slots_left"]) == (2, 1)
    assert [move["slot_count"] for move in result["moves"]] == [2]
    assert result["changed"] is True
    assert_whole(stage)
    assert cluster.slot_owners()[stage.slot] is stage.source


# 4.14: the last slot


def drained(cluster: Cluster) -> Scene:
    """S owns three slots, all it has."""
    ordered = [cluster.node(owner) for owner in cluster.ownership()]
    source = ordered[2]
    slots = (16381, 16382, 16383)
    for slot in slots:
        data.seed_slot(cluster, slot, 20)
    return Scene(cluster, source, ordered[0], ordered[1], slots, frozenset(), {}).with_keys()


def drain_options(stage: Scene) -> dict[str, Any]:
    return movement(stage, drain=[stage.source.id], drain_only=True)


def option_values(cluster: Cluster) -> set[bytes]:
    return {node.call("CONFIG", "GET", OPTION)[1] for node in cluster.members()}


def full_copies(cluster: Cluster) -> int:
    return sum(int(node.info("stats")["sync_full"]) for node in cluster.members())


def give_back(stage: Scene) -> None:
    back = replace(stage, source=stage.target, target=stage.source)
    assert_success(migrate(back).result())
    assert_moved(back)


def test_drained_primary_stays_an_empty_primary(small: Cluster) -> None:
    stage = drained(small)
    replica = replica_of(small, stage.source)
    copies = full_copies(small)
    assert_success(run("redis_cluster_rebalance", drain_options(stage)))
    assert option_values(small) == {b"yes"}
    time.sleep(2)
    assert_whole(stage)
    assert "master" in me(stage.source).flags
    assert me(stage.source).slots == ()
    assert me(replica).primary_id == stage.source.id
    assert full_copies(small) == copies
    give_back(stage)


def test_killed_inside_the_guard_info_names_the_nodes(small: Cluster) -> None:
    stage = drained(small)
    replica = replica_of(small, stage.source)
    # The last of its slots goes alone, within the guard.
    cut = Cut(on(stage.source, rf"CONFIG SET {OPTION} no"), "kill after")
    killed = start("redis_cluster_rebalance", drain_options(stage), cut)
    assert killed.was_killed()
    told = run("redis_cluster_info", connection(stage.other))["problems"]
    named = {problem["node"] for problem in told if OPTION in problem["message"]}
    off = {n for n in (stage.source, replica) if n.call("CONFIG", "GET", OPTION)[1] == b"no"}
    assert stage.source in off
    assert named == {node.id for node in off}
    end_cached_sockets(stage.cluster.primaries())
    assert_success(run("redis_cluster_rebalance", drain_options(stage)))
    assert_whole(stage)
    assert "master" in me(stage.source).flags
    for node in off:
        node.call("CONFIG", "SET", OPTION, "yes")
    give_back(stage)


# 4.15: removal


def test_removal_killed_between_reset_and_forget_is_finished(small: Cluster) -> None:
    stage = drained(small)
    assert_success(run("redis_cluster_rebalance", drain_options(stage)))
    gone = stage.source.id
    options = {**connection(stage.other), "node": gone, "wait_timeout": 25}
    killed = start(
        "redis_cluster_forget",
        options,
        Cut(on(stage.source, "CLUSTER RESET (SOFT|HARD)"), "kill after"),
    )
    assert killed.was_killed()
    assert [line for line in changes(killed.trace) if "FORGET" in line] == []
    assert len(parse_nodes(stage.source.call("CLUSTER", "NODES").decode())) == 1
    rest = [node for node in small.all_nodes() if node is not stage.source]
    assert all(gone in node.call("CLUSTER", "NODES").decode() for node in rest)
    # An entry in handshake is no member, and keeps nobody from anything.
    stage.target.call("CLUSTER", "MEET", "127.0.0.1", 1)
    attempt = start("redis_cluster_forget", options)
    result = attempt.result()
    assert not result.get("failed"), result["msg"]
    assert result["forgotten_by"] == 5
    assert not any(gone in node.call("CLUSTER", "NODES").decode() for node in rest)
    replicas = [me(node).primary_id for node in small.replicas()]
    assert gone not in replicas
    assert len(replicas) == 3
    again = run("redis_cluster_forget", options)
    assert (again.get("failed"), again["changed"]) == (None, False)
    assert_whole(stage)


def test_removal_resets_before_it_forgets(small: Cluster) -> None:
    stage = drained(small)
    assert_success(run("redis_cluster_rebalance", drain_options(stage)))
    options = {**connection(stage.other), "node": stage.source.id, "wait_timeout": 25}
    attempt = start("redis_cluster_forget", options)
    assert attempt.result()["changed"] is True
    verbs = [line.split()[2] for line in changes(attempt.trace) if " CLUSTER " in line]
    assert verbs.index("REPLICATE") < verbs.index("RESET") < verbs.index("FORGET")
    assert "RESET" not in verbs[verbs.index("FORGET") :]


def test_entry_in_handshake_does_not_count(cluster: Cluster) -> None:
    stage = scene(cluster)
    for node in (stage.source, stage.other):
        node.call("CLUSTER", "MEET", "127.0.0.1", 1)
    told = run("redis_cluster_info", connection(stage.other))
    assert len(told["nodes"]) == 6
    assert told["agreed"] is True
    assert_success(migrate(stage).result())
    wait_until(lambda: b"handshake" not in stage.other.call("CLUSTER", "NODES"), "its end")
    assert_moved(stage)
