# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are cut after their n-th command, for every n, and are run again.

Killed: SIGKILL as soon as the command is sent. Lost: it was carried out, its reply and what stands
after it in its pipeline are lost. By default each n is cut in one of these ways, in turn; with
KEYSLOT_CRASH_POINTS=all in both. After each cut a cluster client finds every key, and the next run
reaches the goal.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis.cluster import RedisCluster

from tests.harness import data
from tests.harness.ansible import playbook_command, playbook_environment, run_playbook
from tests.harness.cluster import Cluster
from tests.harness.cutting import Action, Cut, Run, run, start
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.views import end_cached_sockets, me

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

ALL = os.environ.get("KEYSLOT_CRASH_POINTS") == "all"
WAYS: tuple[Action, Action] = ("kill sent", "lose one")
SHARES = ("0-8190", "8191-16380", "16381-16383")
SLOTS = range(16381, 16384)
NODES = 5
KEYS = 7  # a slot, of different types
OPTION = "cluster-allow-replica-migration"
# Waits that are there for the sake of clients, of which there are none here.
QUIET = {"_membership.QUIET_SECONDS": 0.02}
# How long a cut run may wait for nodes, if it has the time to.
IMPATIENT = 0.3
LIBRARY = "#!lua name=mylib\nredis.register_function('f', function() return 1 end)"
# Commands that change nothing, and forms of others that are there to be refused. What does not
# look like one of these counts as a change.
READING = re.compile(
    r"^\d+ (CLUSTER (NODES|INFO|MYID|SLOTS|COUNTKEYSINSLOT|GETKEYSINSLOT|SLOT-STATS)|INFO|PING"
    r"|CONFIG GET|COMMAND INFO|CLIENT|SELECT|ASKING|EXISTS|DUMP|PTTL|TYPE|MEMORY USAGE|MULTI|EXEC"
    r"|CLUSTER (MIGRATION STATUS|GETSLOTMIGRATIONS)|FUNCTION (LIST|DUMP)|ACL (DRYRUN|WHOAMI))\b"
    r"|SETSLOT 16384|IMPORT 16384|MIGRATE 127\.0\.0\.1 1 |-probe|0{40}|RESTORE  "
)


def ways(n: int) -> tuple[Action, ...]:
    return WAYS if ALL else (WAYS[n % 2],)


def changes(trace: list[str]) -> list[str]:
    return [line for line in trace if not READING.search(line)]


def cut_points(trace: list[str], nodes: int) -> range:
    """Every command to the last change, and one look at all nodes after it; what comes then are
    looks at the same state again."""
    last = max(index for index, line in enumerate(trace) if not READING.search(line))
    return range(1, min(len(trace), last + 1 + 4 * nodes) + 1)


def connection(node: Node) -> dict[str, Any]:
    return {"login_host": node.host, "login_port": node.port, "command_timeout": 5}


def assert_success(result: dict[str, Any] | None) -> dict[str, Any]:
    assert result is not None, "it was killed"
    assert not result.get("failed"), result["msg"]
    return result


# Slots


@dataclass
class Stage:
    """S owns three slots, with keys, and nothing else; T and O own the rest. S and T have a
    replica each."""

    cluster: Cluster
    source: Node
    target: Node
    other: Node
    before: data.Digest
    client: RedisCluster
    cuts: int = 0
    trace: list[str] = field(default_factory=list)

    def run(self, way: str, *cuts: Cut) -> Run:
        options = {
            **connection(self.other),
            "slots": [f"{SLOTS[0]}-{SLOTS[-1]}"],
            "target": self.target.id,
            "method": way,
            "batch_size": 4,
            "wait_timeout": 25,
            "progress_interval": 0,
        }
        return start("redis_slot_migrate", options, *cuts)

    def turn(self) -> None:
        self.source, self.target = self.target, self.source

    def assert_readable(self) -> None:
        missing = [name for name in self.before if not self.client.exists(name)]
        assert missing == []

    def assert_owned(self) -> None:
        """All agree, nothing is open, no key is lost, changed or doubled."""
        self.cluster.wait_healthy(members=NODES)
        assert data.compare(self.before, data.digest(self.cluster)) == []
        owners = self.cluster.slot_owners()
        assert {owners[slot] for slot in SLOTS} == {self.target}

    def assert_moved(self) -> None:
        """And the emptied S is a primary still, with its replica."""
        self.assert_owned()
        assert "master" in me(self.source).flags, self.told()
        assert self.followed() == sorted((self.source.id, self.target.id)), self.told()

    def told(self) -> str:
        views = "\n".join(f"{at}:\n{text}" for at, text in self.cluster.nodes_text().items())
        trace = "\n".join(changes(self.trace))
        return f"from {self.source.address} to {self.target.address}\n{trace}\n{views}"

    def followed(self) -> list[str]:
        return sorted(me(node).primary_id for node in self.cluster.replicas())

    def reattach(self) -> None:
        """On Valkey the replica of a primary that gets its first slot may turn to the source: it
        has the slot by replication before it has the new epoch by gossip."""
        alone = {self.source.id, self.target.id}.difference(self.followed())
        if alone:
            both = [n for n in self.cluster.replicas() if me(n).primary_id == self.target.id]
            both[0].call("CLUSTER", "REPLICATE", alone.pop())
            self.cluster.wait_healthy(members=NODES)

    def end_cached_sockets(self) -> None:
        """As S does itself 10 s after its last MIGRATE: a run that finds a connection by which keys
        came waits for its end."""
        self.source.call("PING")
        end_cached_sockets([self.target])

    def mend_option(self) -> None:
        """What a run killed inside its guard leaves switched off is named, and put back by hand."""
        off = [n for n in self.cluster.members() if n.call("CONFIG", "GET", OPTION)[1] == b"no"]
        if off:
            told = run("redis_cluster_info", connection(self.other))["problems"]
            named = {problem["node"] for problem in told if OPTION in problem["message"]}
            assert named == {node.id for node in off}
        for node in off:
            node.call("CONFIG", "SET", OPTION, "yes")


@pytest.fixture(scope="module")
def small(request: pytest.FixtureRequest) -> Iterator[Callable[[Engine], Cluster]]:
    """One cluster an engine for both ways to move slots."""
    made: dict[str, Cluster] = {}

    def get(engine: Engine) -> Cluster:
        if engine.name not in made:
            made[engine.name] = Cluster.start(
                engine, 3, 0, slots=SHARES, spare=2, config={"cluster-migration-barrier": 9}
            )
            for replica, primary in zip(made[engine.name].spares, (0, 2), strict=True):
                follow(made[engine.name], replica, made[engine.name].nodes[primary])
        cluster = made[engine.name]
        for node in cluster.primaries():
            node.call("FLUSHALL")
        cluster.wait_healthy(members=NODES)
        return cluster

    yield get
    for cluster in made.values():
        cluster.close()


def follow(cluster: Cluster, replica: Node, primary: Node) -> None:
    replica.call("CLUSTER", "MEET", primary.host, primary.port)
    deadline = time.monotonic() + 20
    while primary.id.encode() not in replica.call("CLUSTER", "NODES"):
        assert time.monotonic() < deadline, "they do not meet"
        time.sleep(0.02)
    replica.call("CLUSTER", "REPLICATE", primary.id)


def stage_of(cluster: Cluster) -> Stage:
    ordered = [cluster.node(owner) for owner in cluster.ownership()]
    for slot in SLOTS:
        data.seed_slot(cluster, slot, KEYS)
    before = data.digest(cluster)
    return Stage(cluster, ordered[2], ordered[0], ordered[1], before, cluster.seed_client())


def cut_everywhere(stage: Stage, way: str) -> None:
    """There, and back again."""
    whole = stage.run(way)
    assert_success(whole.result())
    for n in (0, *cut_points(whole.trace, NODES)):
        go_back(stage, way)
        for action in ways(n) if n else ():
            cut_once(stage, way, Cut("", action, n))
    assert stage.cuts > 80


def go_back(stage: Stage, way: str) -> None:
    if stage.cluster.slot_owners()[SLOTS[0]] is stage.target:
        stage.turn()
        assert_success(stage.run(way).result())
        stage.assert_owned()
        stage.turn()
        stage.reattach()


def cut_once(stage: Stage, way: str, cut: Cut) -> None:
    """One run that is cut, and, unless that changed nothing, another one to the end."""
    attempt = stage.run(way, cut)
    result = attempt.ended(stage.end_cached_sockets)
    stage.trace = attempt.trace
    if len(attempt.trace) < cut.nth:
        assert_success(result)  # it had less to do than the first one
    else:
        stage.cuts += 1
    stage.assert_readable()
    failed = result is None or result.get("failed")
    if failed and not changes(attempt.trace):
        return
    if failed:
        assert result is None or (result["finished"], bool(result["msg"])) == (False, True)
        stage.end_cached_sockets()
        assert_success(stage.run(way).result())
    else:
        assert result is not None
        assert (result["finished"], result["slots_moved"]) == (True, len(SLOTS))
    stage.assert_moved()
    stage.mend_option()
    go_back(stage, way)


@pytest.mark.stand_for_all("redis-7.0", "valkey-9.1")
def test_a_classic_run_is_cut_after_each_of_its_commands(
    engine: Engine, small: Callable[[Engine], Cluster]
) -> None:
    stage = stage_of(small(engine))
    cut_everywhere(stage, "classic")
    print(f"{engine.name}, classic: {stage.cuts} cuts")


def test_an_atomic_run_is_cut_after_each_of_its_commands(
    able: Engine, small: Callable[[Engine], Cluster]
) -> None:
    """Its jobs are slowed down, so that the next run meets them under way."""
    stage = stage_of(small(able))
    for node in stage.cluster.nodes:
        node.call("CONFIG", "SET", "rdb-key-save-delay", 1000)
    cut_everywhere(stage, "atomic")
    for node in stage.cluster.nodes:
        node.call("CONFIG", "SET", "rdb-key-save-delay", 0)
    print(f"{able.name}, atomic: {stage.cuts} cuts")


# Members


@pytest.fixture
def joiners(engine: Engine) -> Iterator[Cluster]:
    """3 primaries with keys and a function library, and 8 nodes that are to join."""
    with Cluster.start(engine, 3, 0, spare=8) as cluster:
        data.seed(cluster, 100)
        if engine.release >= (7, 0):
            for node in cluster.nodes:
                node.call("FUNCTION", "LOAD", LIBRARY)
        yield cluster


def meet(cluster: Cluster, nodes: list[Node], *cuts: Cut, wait: float = 25) -> Run:
    addresses = [node.address for node in nodes]
    options = {**connection(cluster.nodes[0]), "nodes": addresses, "wait_timeout": wait}
    return start("redis_cluster_meet", options, *cuts)


def forget(cluster: Cluster, node_id: str, *cuts: Cut) -> Run:
    options = {**connection(cluster.nodes[0]), "node": node_id, "wait_timeout": 25}
    return start("redis_cluster_forget", options, *cuts, constants=QUIET)


def replicate(cluster: Cluster, node: Node, primary: Node, *cuts: Cut) -> Run:
    options = {**connection(cluster.nodes[0]), "node": node.id, "primary": primary.id}
    return start("redis_cluster_replicate", {**options, "wait_timeout": 25}, *cuts)


def cut(attempt: Run) -> None:
    """It ends by its cut, or as well as it can."""
    result = attempt.ended()
    assert result is None or len(result.get("msg", "a result without a message").split()) > 3


def leave(node: Node) -> None:
    """The node forgets all, and is another one when it comes again: the old id is banned."""
    node.call("CLUSTER", "RESET", "HARD")
    if node.engine.release >= (7, 0):
        node.call("FUNCTION", "FLUSH")


def assert_gone(cluster: Cluster, ids: list[str]) -> None:
    for address, text in cluster.nodes_text().items():
        if cluster.node(address) in cluster.nodes:
            assert [node_id for node_id in ids if node_id in text] == [], address


class Points:
    """The n-th command, for every n, each in its ways; `at` cuts runs until one has changed
    something, which is what the next run then finds."""

    def __init__(self, whole: Run, nodes: int) -> None:
        points = cut_points(whole.trace, nodes)
        self._left = [(n, action) for n in points for action in ways(n)]
        self.cuts = len(self._left)

    def __bool__(self) -> bool:
        return bool(self._left)

    def at(self, begin: Callable[[Cut], Run]) -> None:
        while self._left:
            n, action = self._left.pop(0)
            attempt = begin(Cut("", action, n))
            cut(attempt)
            if changes(attempt.trace):
                return


@pytest.mark.stand_for_all("redis-6.2", "valkey-9.1")
def test_meet_and_forget_are_cut_after_each_of_their_commands(joiners: Cluster) -> None:
    cluster, spares = joiners, joiners.spares
    before = data.digest(cluster)
    whole = meet(cluster, spares[:1])
    assert assert_success(whole.result())["changed"]
    meeting = Points(whole, 4)
    whole = forget(cluster, spares[0].id)
    assert assert_success(whole.result())["changed"]
    forgetting = Points(whole, 4)
    leave(spares[0])
    while meeting or forgetting:
        for node in spares:
            meeting.at(lambda cut, node=node: meet(cluster, [node], cut, wait=IMPATIENT))
        assert_success(meet(cluster, spares).result())
        cluster.wait_healthy(members=3 + len(spares))
        ids = [node.id for node in spares]
        for node_id in ids:
            forgetting.at(lambda cut, node_id=node_id: forget(cluster, node_id, cut))
            assert_success(forget(cluster, node_id).result())
        assert_gone(cluster, ids)
        cluster.wait_healthy(members=3)
        assert data.compare(before, data.digest(cluster)) == []
        for node in spares:
            leave(node)
    assert min(meeting.cuts, forgetting.cuts) > 30
    print(f"{cluster.engine.name}: {meeting.cuts} cuts of meet, {forgetting.cuts} of forget")


@pytest.mark.parametrize("action", WAYS)
def test_removal_of_a_primary_cut_as_its_replica_gets_another_one(
    joiners: Cluster, action: Action
) -> None:
    gone, replica = joiners.spares[:2]
    assert_success(meet(joiners, [gone, replica]).result())
    assert_success(replicate(joiners, replica, gone).result())
    gone_id = gone.id
    cut(forget(joiners, gone_id, Cut("CLUSTER REPLICATE (?!0{40})", action)))
    assert_success(forget(joiners, gone_id).result())
    assert_gone(joiners, [gone_id])
    joiners.wait_healthy(members=4)
    assert me(replica).primary_id in {node.id for node in joiners.nodes}


@pytest.mark.stand_for_all("redis-6.2", "valkey-9.1")
def test_replicate_is_cut_after_each_of_its_commands(joiners: Cluster) -> None:
    """The node follows one primary, then another one, and so on."""
    node = joiners.spares[0]
    assert_success(meet(joiners, [node]).result())
    whole = replicate(joiners, node, joiners.nodes[0])
    assert_success(whole.result())
    primaries = itertools.cycle((joiners.nodes[1], joiners.nodes[2], joiners.nodes[0]))
    cuts = 0
    primary = next(primaries)
    for n in cut_points(whole.trace, 4):
        for action in ways(n):
            attempt = replicate(joiners, node, primary, Cut("", action, n))
            cut(attempt)
            cuts += 1
            if changes(attempt.trace):
                assert_success(replicate(joiners, node, primary).result())
                joiners.wait_healthy(members=4)
                assert me(node).primary_id == primary.id
                primary = next(primaries)
    assert cuts > 20
    print(f"{joiners.engine.name}, replicate: {cuts} cuts")


# Roles


@dataclass(frozen=True)
class Moment:
    """After so many tasks have told their results, and so many seconds more."""

    results: int
    seconds: float


# The roles have five and six tasks, and not all of them run.
MOMENTS = (
    Moment(0, 0.5),
    Moment(1, 0.0),
    Moment(1, 0.7),
    Moment(2, 0.0),
    Moment(2, 0.8),
    Moment(3, 0.0),
    Moment(3, 0.5),
)


def descendants(pid: int) -> list[int]:
    """The process and all that it has started, in whatever group or session they are."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            told = Path(f"/proc/{parent}/task/{parent}/children").read_text()
            found += map(int, told.split())
    return found


def play_and_kill(name: str, variables: dict[str, Any], moment: Moment, results: Path) -> bool:
    """Runs a playbook and kills it with all its processes; whether it was still under way."""
    results.write_text("")
    process = subprocess.Popen(
        playbook_command(name, variables),
        env=playbook_environment(str(results)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and len(results.read_text().splitlines()) < moment.results:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment.seconds)
    under_way = process.poll() is None
    for pid in descendants(process.pid) if under_way else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    return under_way


@pytest.mark.stand_for_all("valkey-9.1")
def test_roles_are_killed_between_and_within_their_tasks(engine: Engine, tmp_path: Path) -> None:
    """A node is added by one role and removed by the other one, both killed on the way."""
    with Cluster.start(engine, 3, 0, spare=1) as cluster:
        data.seed(cluster, 3000)
        before = data.digest(cluster)
        node = cluster.spares[0]
        entry = {"keyslot_login_host": "127.0.0.1", "keyslot_login_port": cluster.nodes[0].port}
        # Slow enough to be met under way.
        common = {**entry, "keyslot_max_pause_ms": 1, "keyslot_batch_size": 2}
        add = {**common, "add_node_nodes": node.address}
        remove = {**common, "remove_node_nodes": node.address}
        killed = 0
        for moment in MOMENTS if ALL else MOMENTS[::3]:
            for name, variables in (("add_node", add), ("remove_node", remove)):
                killed += play_and_kill(name, variables, moment, tmp_path / "results")
                with cluster.seed_client() as client:
                    assert [key for key in before if not client.exists(key)] == []
                done = run_playbook(name, variables)
                assert done.code == 0, done.output
                cluster.wait_healthy(members=4 if name == "add_node" else 3)
                assert data.compare(before, data.digest(cluster)) == []
            assert node.id not in cluster.ownership()
            leave(node)
        assert killed >= 3
        print(f"{engine.name}, roles: {killed} killed")
