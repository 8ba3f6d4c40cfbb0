# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots that the engine itself moves (Redis 8.4 and later, Valkey 9 and later), and what goes wrong
with them: who dies, who interferes, what is denied, and when the classic way is taken instead.

S is the source of a move, T its target, O another primary. A job is held by a snapshot that sleeps
at each key (`rdb-key-save-delay`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.harness import broken, data, engines
from tests.harness.clients import LiveClients
from tests.harness.cluster import Cluster
from tests.harness.cutting import Cut, Run, run, start
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.shared import SharedCluster, followed
from tests.harness.views import asking, jobs, me, replica_of, under_way, wait_until

pytestmark = [pytest.mark.system, pytest.mark.every_engine]

# A cluster of the second is joined by a node of the first.
MIXED = (
    ("valkey-9.1", "redis-7.0"),
    ("valkey-9.1", "valkey-8.1"),
    ("redis-8.6", "redis-7.0"),
)
OPTION = "cluster-allow-replica-migration"
COMMAND = {"redis": "cluster|migration", "valkey": "cluster|migrateslots"}
START = r"CLUSTER (MIGRATION IMPORT (?!16384)\d+ |MIGRATESLOTS SLOTSRANGE \d+ \d+ .*NODE \w{40})"
LOOK = r"CLUSTER (MIGRATION STATUS|GETSLOTMIGRATIONS)"
CHANGING = re.compile(
    rf"^\d+ ({START}|CLUSTER SETSLOT (?!16384)\d+ |CLUSTER (CANCEL|MIGRATION CANCEL)|CONFIG SET)"
)
HELD_FOR_EVER = 2_000_000_000  # microseconds a key


def pairs() -> list[tuple[str, str]]:
    """The mixed clusters of the chosen engines; by default, of what can be had."""
    words = os.environ.get("KEYSLOT_ENGINES", "").split()
    if words in ([], ["auto"]):
        old = engines.fetch(["redis-7.0"])["redis-7.0"]
        return [MIXED[0]] if isinstance(old, Engine) else []
    chosen = engines.ATOMIC if words == ["all"] else words
    names = {name.removesuffix("-tls"): name for name in reversed(chosen)}
    return [(names[new], old) for new, old in MIXED if new in names]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mixed" in metafunc.fixturenames:
        ids = [f"{new} beside {old}" for new, old in pairs()]
        metafunc.parametrize("mixed", pairs(), indirect=True, scope="session", ids=ids)


# Clusters


def calmed(cluster: Cluster) -> bool:
    """Whether it is as it was made, once no job is held any more and all have ended."""
    for node in cluster.nodes:
        node.call("CONFIG", "SET", "rdb-key-save-delay", 0)
    wait_until(lambda: under_way(cluster) == [], "the end of all jobs")
    return followed(cluster)


@pytest.fixture(scope="module")
def shared(able: Engine) -> Iterator[SharedCluster]:
    made = SharedCluster(lambda: Cluster.start(able, 3, 1), calmed)
    yield made
    made.close()


@pytest.fixture
def cluster(shared: SharedCluster) -> Cluster:
    return shared.get()


# A scene: what is to move, and what was there before


@dataclass(frozen=True)
class Scene:
    """Slots of S, with keys, that are to go to T."""

    cluster: Cluster
    source: Node
    target: Node
    other: Node
    slots: tuple[int, ...]
    before: data.Digest

    @property
    def family(self) -> str:
        return self.cluster.engine.family

    @property
    def asked(self) -> Node:
        """The node that is told to start a job, and knows how it goes."""
        return self.target if self.family == "redis" else self.source


def scene(cluster: Cluster, slots: int = 20, keys: int = 50, value_bytes: int = 32) -> Scene:
    """S has the most slots."""
    owners = cluster.slot_owners()
    counts = {node: owners.count(node) for node in cluster.primaries()}
    source, other, target = sorted(counts, key=lambda node: -counts[node])[:3]
    mine = tuple(slot for slot, owner in enumerate(owners) if owner is source)[:slots]
    for slot in mine:
        data.seed_slot(cluster, slot, keys, value_bytes=value_bytes)
    return Scene(cluster, source, target, other, mine, data.digest(cluster))


def connection(node: Node) -> dict[str, Any]:
    options: dict[str, Any] = {"login_host": node.host, "login_port": node.port}
    if node.password:
        options["login_password"] = node.password
    if node.tls:
        options |= {
            "tls": True,
            "ca_certs": str(node.tls.ca),
            "client_cert_file": str(node.tls.client_cert),
            "client_key_file": str(node.tls.client_key),
        }
    return {**options, "command_timeout": 10}


def goal(stage: Scene, **more: Any) -> dict[str, Any]:
    """Options that bring the slots to T; the run enters the cluster at O."""
    fixed = {"wait_timeout": 25, "progress_interval": 0, "target": stage.target.id}
    return {**connection(stage.other), **fixed, "slots": texts(stage.slots), **more}


def texts(slots: tuple[int, ...]) -> list[str]:
    return [str(slot) for slot in slots]


def migrate(stage: Scene, *cuts: Cut, **more: Any) -> Run:
    return start("redis_slot_migrate", goal(stage, **more), *cuts)


@contextlib.contextmanager
def slow_snapshots(node: Node, micros: int = 5000) -> Iterator[None]:
    """A job that starts in here sleeps at each key, even when this has ended."""
    node.call("CONFIG", "SET", "rdb-key-save-delay", micros)
    try:
        yield
    finally:
        with contextlib.suppress(redis.RedisError, OSError):
            node.call("CONFIG", "SET", "rdb-key-save-delay", 0)


@contextlib.contextmanager
def in_mid_job(stage: Scene, *cuts: Cut, micros: int = 5000, **more: Any) -> Iterator[Run]:
    """A run whose job is held in its snapshot when the block begins."""
    with slow_snapshots(stage.source, micros):
        attempt = migrate(stage, *cuts, **more)
        wait_until(lambda: under_way(stage.cluster) != [], "a job under way")
        time.sleep(0.3)
        assert under_way(stage.cluster) != [], "the job was too short for this test"
        yield attempt


def wake_children(node: Node) -> None:
    """Ends the snapshot that sleeps for ever: Redis forks no other one before."""
    for pid in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split():
        os.kill(int(pid), signal.SIGKILL)


def start_by_hand(stage: Scene, target: Node | None = None) -> None:
    """A job for all slots of the scene."""
    taker = target or stage.target
    ranges = [edge for slot in stage.slots for edge in (slot, slot)]
    if stage.slots == tuple(range(stage.slots[0], stage.slots[-1] + 1)):
        ranges = [stage.slots[0], stage.slots[-1]]
    if stage.family == "redis":
        taker.call("CLUSTER", "MIGRATION", "IMPORT", *ranges)
    else:
        stage.source.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *ranges, "NODE", taker.id)


def cancel_by_hand(stage: Scene) -> None:
    if stage.family == "redis":
        assert stage.target.call("CLUSTER", "MIGRATION", "CANCEL", "ALL") == 1
    else:
        stage.source.call("CLUSTER", "CANCELSLOTMIGRATIONS")


# What the servers say


def wait_until_copied(stage: Scene) -> None:
    """Until S's replica has all that S has."""
    copy = replica_of(stage.cluster, stage.source)

    def same() -> bool:
        told = [node.info("replication")["master_repl_offset"] for node in (stage.source, copy)]
        return told[0] == told[1]

    wait_until(same, "the replica has everything")


# What is to be true


def assert_success(result: dict[str, Any], *methods: str, finished: bool = True) -> None:
    assert not result.get("failed"), result["msg"]
    assert result["finished"] is finished
    assert {move["method"] for move in result["moves"]} == set(methods)


def assert_failed(result: dict[str, Any], *words: str) -> None:
    assert result.get("failed"), result
    for word in words:
        assert word in result["msg"], result["msg"]
    assert not result.get("finished")


def assert_whole(stage: Scene) -> None:
    """All agree, nothing is open or under way, and the keys are what they were."""
    stage.cluster.wait_healthy()
    wait_until(lambda: under_way(stage.cluster) == [], "the end of all jobs")
    assert data.compare(stage.before, data.digest(stage.cluster)) == []


def assert_owned_by(stage: Scene, node: Node) -> None:
    owners = stage.cluster.slot_owners()
    assert {owners[slot] for slot in stage.slots} == {node}


def assert_moved(stage: Scene) -> None:
    assert_whole(stage)
    assert_owned_by(stage, stage.target)


def changes(trace: list[str]) -> list[str]:
    """The commands that change something; a probe for a permission does not."""
    return [line for line in trace if CHANGING.match(line)]


def starts(trace: list[str]) -> list[str]:
    return [line for line in trace if re.match(rf"^\d+ {START}", line)]


# Which way is taken


def test_auto_is_atomic_where_all_have_it(cluster: Cluster) -> None:
    stage = scene(cluster)
    attempt = migrate(stage)
    result = attempt.result()
    assert_success(result, "atomic")
    assert result["slots_moved"] == len(stage.slots)
    assert len(starts(attempt.trace)) == 1
    assert [line for line in attempt.trace if " MIGRATE " in line] == []
    assert_moved(stage)


def test_classic_is_classic_where_it_is_asked_for(cluster: Cluster) -> None:
    stage = scene(cluster)
    attempt = migrate(stage, method="classic")
    assert_success(attempt.result(), "classic")
    assert starts(attempt.trace) == []
    assert_moved(stage)


def test_check_mode_tells_the_way_and_starts_nothing(cluster: Cluster) -> None:
    stage = scene(cluster)
    attempt = migrate(stage, _ansible_check_mode=True)
    result = attempt.result()
    assert [move["method"] for move in result["moves"]] == ["atomic"]
    assert (result["changed"], result["slots_moved"]) == (True, 0)
    assert changes(attempt.trace) == []
    assert_owned_by(stage, stage.source)


def test_it_works_with_a_password_and_with_tls_where_the_engine_has_it(able: Engine) -> None:
    with Cluster.start(able, 3, 0, password="sesame", tls=able.tls) as cluster:
        stage = scene(cluster)
        assert_success(migrate(stage).result(), "atomic")
        assert_moved(stage)


def joined(cluster: Cluster, engine: Engine, count: int) -> Node:
    """A node of another engine, known to all as a primary without slots."""
    node = cluster.start_node(engine)
    for member in cluster.members():
        member.call("CLUSTER", "MEET", node.host, node.port)
    cluster.wait_healthy(members=count)
    return node


def primaries_told_of(node: Node, cluster: Cluster) -> set[str]:
    """Whom the members take for the primary of a replica."""
    lines = itertools.chain(*cluster.views().values())
    return {line.primary_id for line in lines if line.id == node.id}


def test_in_a_mixed_cluster_keys_move_to_the_new_node_the_classic_way(
    mixed: tuple[Engine, Engine],
) -> None:
    new, old = mixed
    with Cluster.start(old, 3, 0) as cluster:
        node = joined(cluster, new, 4)
        known = scene(cluster)
        stage = Scene(cluster, known.source, node, known.other, known.slots, known.before)
        refused = migrate(stage, method="atomic")
        assert_failed(refused.result(), known.source.address, old.version, "has no CLUSTER")
        assert changes(refused.trace) == []
        assert_success(migrate(stage).result(), "classic")
        assert_moved(stage)
        back = migrate(stage, target=known.source.id)
        assert_failed(back.result(), known.source.address, "can't read")
        assert changes(back.trace) == []
        assert_moved(stage)


def test_a_slot_on_its_way_to_an_older_node_is_brought_home(mixed: tuple[Engine, Engine]) -> None:
    """Another tool opens it, fails, and leaves it open; a client writes a key there meanwhile."""
    new, old = mixed
    with Cluster.start(new, 3, 0) as cluster:
        stage = scene(cluster, 1)
        slot, node = stage.slots[0], joined(cluster, old, 4)
        node.call("CLUSTER", "SETSLOT", slot, "IMPORTING", stage.source.id)
        stage.source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", node.id)
        keys = stage.source.call("CLUSTER", "GETKEYSINSLOT", slot, 5)
        with pytest.raises(redis.ResponseError):
            stage.source.call("MIGRATE", node.host, node.port, "", 0, 5000, "KEYS", *keys)
        late = b"{%s}late" % data.tag_for_slot(slot)
        assert asking(node, "SET", late, "v") == b"OK"
        refused = migrate(stage)
        assert_failed(refused.result(), f"slot {slot} is open", "redis_cluster_fix")
        options = connection(stage.other)
        told = run("redis_cluster_fix", {**options, "_ansible_check_mode": True})
        assert not told.get("failed"), told
        result = run("redis_cluster_fix", options)
        assert not result.get("failed"), result
        cluster.wait_healthy()
        assert_owned_by(stage, stage.source)
        after = data.digest(cluster)
        assert after.pop(late.decode() if late.decode() in after else late)
        assert data.compare(stage.before, after) == []


def test_a_target_with_an_old_replica_takes_nothing_the_atomic_way(
    mixed: tuple[Engine, Engine],
) -> None:
    """Valkey takes them the classic way; of Redis, such a replica never gets in step."""
    new, old = mixed
    with Cluster.start(new, 3, 0) as cluster:
        stage = scene(cluster, 5)
        node = joined(cluster, old, 4)
        node.call("CLUSTER", "REPLICATE", stage.target.id)
        wait_until(lambda: primaries_told_of(node, cluster) == {stage.target.id}, "all know it")
        in_step = new.family == old.family == "valkey"
        if in_step:
            wait_until(lambda: node.info("replication")["master_link_status"] == "up", "its link")
        attempt = migrate(stage)
        if in_step:
            assert_success(attempt.result(), "classic")
            assert_moved(stage)
        else:
            assert_failed(attempt.result(), node.address, "not in step")
            assert changes(attempt.trace) == []
            assert_owned_by(stage, stage.source)


@pytest.mark.family("valkey")
def test_with_several_databases_the_classic_way_moves_the_keys_of_all(able: Engine) -> None:
    """Valkey's own way can put a write that comes meanwhile into another database."""
    with Cluster.start(able, 3, 0, databases=4) as cluster:
        stage = scene(cluster)
        held = {label.partition(b"]")[0] for label in stage.before if label.startswith(b"[db")}
        assert held == {b"[db 1", b"[db 2", b"[db 3"}
        refused = migrate(stage, method="atomic").result()
        assert refused["failed"]
        assert "several databases" in refused["msg"]
        with LiveClients(cluster, rate=1500, keys=300) as clients:
            done = migrate(stage, method="auto").result()
        assert_success(done, "classic")
        assert "several databases" in str(done["warnings"])
        assert clients.lost() == []
        after = data.digest(cluster)
        assert data.compare(stage.before, {n: after[n] for n in stage.before if n in after}) == []
        assert_owned_by(stage, stage.target)


@pytest.mark.family("valkey")
def test_databases_that_the_user_may_not_see_are_not_left_behind(able: Engine) -> None:
    with Cluster.start(able, 3, 0, databases=4) as cluster:
        stage = scene(cluster)
        with mover(cluster, "-config|get", "resetdbs", "db=0"):
            for method in ("auto", "classic"):
                refused = migrate(stage, **LOGIN, method=method)
                assert_failed(refused.result(), "NOPERM", "alldbs")
                assert changes(refused.trace) == []
        assert_whole(stage)


def test_target_that_hides_keys_of_the_slots_is_refused(able: Engine) -> None:
    """Redis would delete them, and Valkey 9.1 would crash; a repair brings them home first."""
    with Cluster.start(able, 3, 0) as cluster:
        state = broken.scene(cluster)
        broken.hide(state, state.taker, 5)
        goal = {**connection(state.other), "slots": [str(state.slot)], "target": state.taker.id}
        refused = start("redis_slot_migrate", goal)
        assert_failed(refused.result(), state.taker.address, "holds 5 keys", "redis_cluster_fix")
        assert changes(refused.trace) == []
        assert_success(run("redis_cluster_fix", connection(state.other)), "classic")
        assert_success(run("redis_slot_migrate", goal), "atomic")
        wait_until(lambda: data.compare(state.before, data.digest(cluster)) == [], "all keys")


# Death in mid-job


def test_a_run_killed_as_it_started_a_job_is_finished_by_the_next(cluster: Cluster) -> None:
    stage = scene(cluster)
    with slow_snapshots(stage.source):
        assert migrate(stage, Cut(START, "kill after")).was_killed()
        assert under_way(cluster) != []
        assert_adopted(stage)


def test_a_run_killed_while_it_watched_a_job_is_finished_by_the_next(cluster: Cluster) -> None:
    stage = scene(cluster)
    with slow_snapshots(stage.source):
        started = Cut(rf"^{stage.asked.port} {LOOK}", "kill after", 6)
        assert migrate(stage, started).was_killed()
        assert under_way(cluster) != []
        assert_adopted(stage)


def assert_adopted(stage: Scene) -> None:
    """The next run waits for the job and starts none; its second run changes nothing."""
    following = migrate(stage)
    assert_success(following.result(), "atomic")
    assert starts(following.trace) == []
    assert_moved(stage)
    again = migrate(stage).result()
    assert_success(again)
    assert again["changed"] is False


def test_after_the_death_of_the_source_the_next_run_takes_from_its_replica(
    cluster: Cluster,
) -> None:
    stage = scene(cluster)
    wait_until_copied(stage)
    heir = replica_of(cluster, stage.source)
    with in_mid_job(stage, wait_timeout=4) as attempt:
        stage.source.kill()
        result = attempt.result()
    wait_until(lambda: "master" in me(heir).flags, "the replica has taken over")
    assert_failed(result, stage.source.address)
    stage.source.restart()
    assert_next_run_ends_it(stage)


@pytest.mark.parametrize("how", ["failover", "death"])
def test_after_a_takeover_by_the_targets_replica_the_slots_go_to_that(
    cluster: Cluster, how: str
) -> None:
    stage = scene(cluster)
    heir = replica_of(cluster, stage.target)
    with in_mid_job(stage, wait_timeout=6) as attempt:
        if how == "death":
            stage.target.kill()
        else:
            heir.call("CLUSTER", "FAILOVER")
        wait_until(lambda: "master" in me(heir).flags, "the replica has taken over")
        result = attempt.result()
    if how == "death":
        stage.target.restart()
    cluster.wait_healthy()
    assert_failed(result, stage.target.address)
    assert_whole(stage)
    assert_owned_by(stage, stage.source)
    assert_failed(migrate(stage).result(), stage.target.address, "replica", heir.address)
    following = replace(stage, target=heir)
    assert_success(migrate(following).result(), "atomic")
    assert_moved(following)


def test_after_the_death_of_the_target_the_next_run_ends_it(cluster: Cluster) -> None:
    stage = scene(cluster)
    with in_mid_job(stage, wait_timeout=6) as attempt:
        stage.target.kill()
        stage.target.restart()
        result = attempt.result()
    if result.get("failed"):
        assert stage.target.address in result["msg"]
    assert_next_run_ends_it(stage)


def assert_next_run_ends_it(stage: Scene) -> None:
    stage.cluster.wait_healthy()
    if stage.cluster.slot_owners()[stage.slots[0]] is not stage.target:
        assert_success(migrate(stage).result(), "atomic")
    assert_moved(stage)


# Others interfere


def test_a_job_cancelled_by_hand_stops_the_run_which_says_so(cluster: Cluster) -> None:
    stage = scene(cluster)
    with in_mid_job(stage) as attempt:
        cancel_by_hand(stage)
        result = attempt.result()
    assert_failed(result, "cancel", stage.source.address, stage.target.address)
    assert starts(attempt.trace)[1:] == []
    assert under_way(cluster) == []
    assert_owned_by(stage, stage.source)
    assert_next_run_ends_it(stage)


def test_a_flush_in_mid_job_does_not_keep_it_from_its_goal(cluster: Cluster) -> None:
    stage = scene(cluster)
    with in_mid_job(stage) as attempt:
        stage.source.call("FLUSHALL")
        assert_success(attempt.result(), "atomic")
    cluster.wait_healthy()
    assert_owned_by(stage, stage.target)
    assert data.digest(cluster) == {}


def test_after_a_failover_of_the_source_in_mid_job_the_next_run_ends_it(cluster: Cluster) -> None:
    stage = scene(cluster)
    heir = replica_of(cluster, stage.source)
    with in_mid_job(stage, wait_timeout=6) as attempt:
        heir.call("CLUSTER", "FAILOVER")
        wait_until(lambda: "master" in me(heir).flags, "the replica has taken over")
        result = attempt.result()
    if result.get("failed"):
        assert stage.source.address in result["msg"]
    assert_next_run_ends_it(stage)


def test_somebody_elses_job_is_refused_and_left_alone(cluster: Cluster) -> None:
    stage = scene(cluster)
    with slow_snapshots(stage.source):
        start_by_hand(stage, stage.other)
        refused = migrate(stage)
        result = refused.result()
        assert under_way(cluster) != []
    names = (stage.source.address, stage.other.address, "Nothing was changed")
    assert_failed(result, *names, f"{stage.slots[0]}-{stage.slots[-1]}")
    assert changes(refused.trace) == []
    wait_until(lambda: under_way(cluster) == [], "the end of the job")
    assert_whole(stage)
    assert_owned_by(stage, stage.other)


def test_somebody_elses_job_of_the_same_goal_is_adopted(cluster: Cluster) -> None:
    stage = scene(cluster)
    with slow_snapshots(stage.source):
        start_by_hand(stage)
        assert_adopted(stage)


@contextlib.contextmanager
def failing_imports(stage: Scene, target: Node) -> Iterator[None]:
    """An import by hand for the scene's slots, which fails and is tried again for ever."""
    target.call("DEBUG", "ASM-FAILPOINT", "import-main-channel", "connecting")
    try:
        start_by_hand(stage, target)
        wait_until(lambda: any(int(job["retries"]) > 3 for job in jobs(target)), "retries")
        yield
    finally:
        target.call("DEBUG", "ASM-FAILPOINT", "", "")


@pytest.mark.family("redis")
def test_a_failing_import_of_another_goal_is_named_and_left_alone(cluster: Cluster) -> None:
    stage = scene(cluster)
    with failing_imports(stage, stage.other):
        refused = migrate(stage)
        assert_failed(refused.result(), stage.other.address, "Nothing was changed", "cancel")
        assert changes(refused.trace) == []
        assert under_way(cluster) != []
        stage.other.call("CLUSTER", "MIGRATION", "CANCEL", "ALL")
        assert_success(migrate(stage).result(), "atomic")
    assert_moved(stage)


@pytest.mark.family("redis")
def test_a_failing_import_of_the_same_goal_is_not_waited_for(cluster: Cluster) -> None:
    """It is cancelled, and its slots go the classic way if that may be."""
    stage = scene(cluster)
    with failing_imports(stage, stage.target):
        assert_failed(migrate(stage, method="atomic").result(), "set method to", "failed")
        assert under_way(cluster) == []
        assert_owned_by(stage, stage.source)
    with failing_imports(stage, stage.target):
        result = migrate(stage).result()
    assert "classic" in str(result["warnings"])
    assert_success(result, "classic")
    assert_moved(stage)


# Limits of time


def test_max_seconds_cancels_the_job_and_leaves_nothing_behind(cluster: Cluster) -> None:
    stage = scene(cluster)
    with in_mid_job(stage, micros=20_000, max_seconds=5) as attempt:
        result = attempt.result()
    assert_success(result, finished=False)
    assert (result["slots_moved"], result["slots_left"]) == (0, len(stage.slots))
    assert len(starts(attempt.trace)) == 1
    assert under_way(cluster) == []
    assert_whole(stage)
    assert_owned_by(stage, stage.source)
    assert_next_run_ends_it(stage)


def test_max_seconds_starts_no_further_job(cluster: Cluster) -> None:
    stage = scene(cluster)
    attempt = migrate(stage, max_seconds=0.001)
    assert_success(attempt.result(), finished=False)
    assert starts(attempt.trace) == []
    assert_owned_by(stage, stage.source)


def test_a_job_without_progress_is_cancelled_and_reported(cluster: Cluster) -> None:
    stage = scene(cluster)
    with in_mid_job(stage, micros=HELD_FOR_EVER, wait_timeout=3) as attempt:
        result = attempt.result()
    wake_children(stage.source)
    assert_failed(result, "no progress for 3 s", stage.source.address, stage.target.address)
    assert under_way(cluster) == []
    assert_whole(stage)
    assert_owned_by(stage, stage.source)
    assert_next_run_ends_it(stage)


def test_a_slow_job_that_gets_on_is_not_given_up(cluster: Cluster) -> None:
    """The snapshot takes three times as long as the run waits for a job that stands still."""
    stage = scene(cluster, value_bytes=2000)
    with slow_snapshots(stage.source, micros=6000):
        result = migrate(stage, wait_timeout=2).result()
    assert_success(result, "atomic")
    assert result["elapsed"] > 5
    assert_moved(stage)


# When the atomic way can't be taken


@pytest.mark.family("valkey")
def test_where_the_source_cannot_log_in_the_classic_way_is_taken(able: Engine) -> None:
    with Cluster.start(able, 3, 0, password="sesame") as cluster:
        stage = scene(cluster, 5)
        stage.source.call("CONFIG", "SET", "primaryauth", "wrong")
        result = migrate(stage).result()
        assert_success(result, "classic")
        told = str(result["warnings"])
        assert "AUTH" in told
        assert "classic" in told
        assert "sesame" not in str(result)
        assert_moved(stage)


def test_where_the_job_fails_again_and_again_the_classic_way_is_taken(able: Engine) -> None:
    """The snapshot stands still for longer than `repl-timeout`, so the nodes hang up."""
    with Cluster.start(able, 3, 0, config={"repl-timeout": 2}) as cluster:
        stage = scene(cluster, 5)
        with slow_snapshots(stage.source, micros=3_500_000):
            result = migrate(stage).result()
        wake_children(stage.source)
        assert_success(result, "classic")
        assert "classic" in str(result["warnings"])
        assert_moved(stage)


LOGIN = {"login_user": "mover", "login_password": "sesame"}


@contextlib.contextmanager
def mover(cluster: Cluster, *rules: str) -> Iterator[None]:
    """A user who may do everything but for these rules."""
    for node in cluster.nodes:
        node.call("ACL", "SETUSER", "mover", "on", ">sesame", "~*", "+@all", *rules)
    try:
        yield
    finally:
        for node in cluster.nodes:
            node.call("ACL", "DELUSER", "mover")


def test_where_the_user_may_not_the_classic_way_is_taken(cluster: Cluster) -> None:
    stage = scene(cluster, 5)
    with mover(cluster, f"-{COMMAND[stage.family]}"):
        refused = migrate(stage, **LOGIN, method="atomic")
        assert_failed(refused.result(), "may not run", "Nothing was changed")
        assert changes(refused.trace) == []
        result = migrate(stage, **LOGIN).result()
    assert_success(result, "classic")
    assert "may not run" in str(result["warnings"])
    assert_moved(stage)


@pytest.mark.family("valkey")
def test_where_the_user_may_not_look_at_jobs_the_classic_way_is_taken(cluster: Cluster) -> None:
    stage = scene(cluster, 5)
    with mover(cluster, "-cluster|getslotmigrations"):
        refused = migrate(stage, **LOGIN, method="atomic")
        assert_failed(refused.result(), "may not run CLUSTER GETSLOTMIGRATIONS")
        assert changes(refused.trace) == []
        result = migrate(stage, **LOGIN).result()
        assert "may not run CLUSTER GETSLOTMIGRATIONS" in str(result["warnings"])
        assert_success(result, "classic")
    assert_moved(stage)


def shows_a_job(node: Node) -> bool:
    """By what the engine tells to whom may not ask for jobs."""
    told = node.call("CLUSTER", "INFO") + node.call("INFO", "memory")
    fields = rb"(?:cluster_slot_migration_active_tasks|mem_cluster_slot_export):[1-9]"
    return re.search(fields, told) is not None


def test_where_jobs_cannot_be_seen_the_run_stops_for_one_that_is_under_way(
    cluster: Cluster,
) -> None:
    """Else a marker on T would make it ignore that O gets the slots."""
    stage = scene(cluster)
    denied = {"redis": "-cluster|migration", "valkey": "-cluster|getslotmigrations"}
    with mover(cluster, denied[stage.family]), slow_snapshots(stage.source):
        start_by_hand(stage, stage.other)
        wait_until(lambda: shows_a_job(stage.source), "a job that the source tells all of")
        refused = migrate(stage, **LOGIN)
        assert_failed(refused.result(), "does not say which", "grant", "Nothing was changed")
        assert changes(refused.trace) == []
    wait_until(lambda: under_way(cluster) == [], "the end of the job")
    assert_whole(stage)
    assert_owned_by(stage, stage.other)


def test_a_right_lost_in_mid_job_is_named_and_the_next_run_adopts_the_job(
    cluster: Cluster,
) -> None:
    stage = scene(cluster)
    denied = {"redis": "cluster|migration", "valkey": "cluster|getslotmigrations"}[stage.family]
    with mover(cluster), in_mid_job(stage, **LOGIN) as attempt:
        for node in cluster.nodes:
            node.call("ACL", "SETUSER", "mover", f"-{denied}")
        assert_failed(attempt.result(), f"grant the user 'mover' +{denied}", stage.asked.address)
        assert under_way(cluster) != []
        assert_adopted(stage)


@pytest.mark.family("valkey")
def test_where_the_user_may_not_cancel_the_job_goes_on_and_the_run_says_so(
    cluster: Cluster,
) -> None:
    stage = scene(cluster)
    with mover(cluster, "-cluster|cancelslotmigrations"):
        with in_mid_job(stage, micros=12_000, max_seconds=5, **LOGIN) as attempt:
            assert_failed(attempt.result(), "user 'mover' +cluster|cancelslotmigrations")
            assert under_way(cluster) != []
        assert_adopted(stage)


def test_where_neither_way_can_be_taken_nothing_is_left_half_done(able: Engine) -> None:
    """Jobs fail because the snapshot stands still; the user may not MIGRATE."""
    with Cluster.start(able, 3, 0, config={"repl-timeout": 2}) as cluster:
        stage = scene(cluster, 5)
        with mover(cluster, "-migrate"), slow_snapshots(stage.source, micros=3_500_000):
            attempt = migrate(stage, **LOGIN)
            result = attempt.result()
        wake_children(stage.source)
        words = ("atomic migration", "The classic way can't be taken either", "may not run MIGRATE")
        assert_failed(result, *words, stage.source.address)
        assert [line for line in changes(attempt.trace) if "SETSLOT" in line] == []
        assert_whole(stage)
        assert_owned_by(stage, stage.source)


def test_an_open_slot_of_the_goal_is_finished_first_and_the_rest_is_atomic(
    cluster: Cluster,
) -> None:
    stage = scene(cluster)
    slot = stage.slots[0]
    stage.target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", stage.source.id)
    stage.source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", stage.target.id)
    result = migrate(stage).result()
    assert_success(result, "classic", "atomic")
    ways = {move["method"]: move["slot_count"] for move in result["moves"]}
    assert ways == {"classic": 1, "atomic": len(stage.slots) - 1}
    assert_moved(stage)


# Around a job


def test_slots_can_be_moved_back_at_once(cluster: Cluster) -> None:
    """Redis refuses to import a slot before the old keys of it are gone."""
    stage = scene(cluster, slots=40, keys=200)
    for target in (stage.target, stage.source, stage.target):
        assert_success(migrate(stage, target=target.id).result(), "atomic")
    assert_moved(stage)


@contextlib.contextmanager
def slow_trims(node: Node, micros: int) -> Iterator[None]:
    """Keys of slots that it has given away go one by one, each so late."""
    node.call("DEBUG", "ASM-TRIM-METHOD", "active", micros)
    try:
        yield
    finally:
        node.call("DEBUG", "ASM-TRIM-METHOD", "default")


def trims(node: Node) -> bool:
    return node.info("cluster-state")["cluster_slot_migration_active_trim_running"] != "0"


@pytest.mark.family("redis")
def test_slots_that_are_still_being_trimmed_come_back_when_that_is_done(cluster: Cluster) -> None:
    stage = scene(cluster)
    back = {"target": stage.source.id}
    with slow_trims(stage.source, 10_000):
        assert_success(migrate(stage).result(), "atomic")
        assert trims(stage.source)
        impatient = migrate(stage, **back, wait_timeout=2).result()
        assert_failed(impatient, "no progress for 2 s", stage.source.address)
        assert trims(stage.source)
        assert under_way(cluster) == []
        assert_owned_by(stage, stage.target)
        assert_success(migrate(stage, **back).result(), "atomic")
        assert not trims(stage.source)
    assert_whole(stage)
    assert_owned_by(stage, stage.source)


@pytest.mark.family("redis")
def test_slots_that_are_still_being_trimmed_do_not_come_back_the_classic_way(
    cluster: Cluster,
) -> None:
    stage = scene(cluster)
    back = {"target": stage.source.id, "method": "classic"}
    with slow_trims(stage.source, 10_000):
        assert_success(migrate(stage).result(), "atomic")
        refused = migrate(stage, **back, wait_timeout=2).result()
        assert_failed(refused, "pending trim", stage.source.address)
        assert trims(stage.source)
        assert_whole(stage)
        assert_owned_by(stage, stage.target)
        wait_until(lambda: not trims(stage.source), "the old keys are gone")
        assert_success(migrate(stage, **back).result(), "classic")
    assert_whole(stage)
    assert_owned_by(stage, stage.source)


def test_a_drained_primary_stays_one_and_keeps_its_replica(able: Engine) -> None:
    """All its slots go to a node that owned none: whoever is emptied by such a node follows it."""
    with Cluster.start(able, 4, 1, slots=["0-8190", "8191-16363", "16364-16383", ""]) as cluster:
        known = scene(cluster, 1, 1)
        source, target = cluster.nodes[2:4]
        slots = tuple(range(16364, 16384))
        for slot in slots:
            data.seed_slot(cluster, slot, 20)
        stage = Scene(cluster, source, target, known.other, slots, data.digest(cluster))
        copy = replica_of(cluster, source)
        full_copies = source.info("stats")["sync_full"]
        attempt = migrate(stage)
        assert_success(attempt.result(), "atomic")
        assert_moved(stage)
        time.sleep(2 * cluster.node_timeout_ms / 1000)
        assert "master" in me(source).flags
        assert me(source).slots == ()
        assert me(copy).primary_id == source.id
        assert source.info("stats")["sync_full"] == full_copies
        for node in (source, copy):
            assert node.call("CONFIG", "GET", OPTION)[1] == b"yes"
        if able.family == "redis":
            words = [line.split("IMPORT ")[1] for line in starts(attempt.trace)]
            assert words == ["16364 16382", "16383 16383"]


def test_a_job_is_asked_after_gently(cluster: Cluster) -> None:
    stage = scene(cluster)
    with slow_snapshots(stage.source), stage.asked.commands() as seen:
        result = migrate(stage).result()
    assert_success(result, "atomic")
    looks = [line for line in seen if re.match(LOOK, line, re.IGNORECASE)]
    assert result["elapsed"] > 2
    assert 3 <= len(looks) <= 35 + result["elapsed"] / 0.25
