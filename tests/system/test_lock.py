# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two runs at once: one works, the other is told who, and nothing that ends stays in the way."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import data
from tests.harness.cluster import Cluster
from tests.harness.cutting import Cut, Run, run, start
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.refusal import FORGET, MEET, MIGRATE, REBALANCE, REPLICATE, assert_refused, login

pytestmark = pytest.mark.system

FIRST_CHANGE = Cut(r"SETSLOT \d+ IMPORTING ", "hold")
SLOTS = 40  # more than are open at once
AT_ONCE, ROUNDS = 4, 10


@pytest.fixture(scope="module")
def shared(engine: Engine) -> Iterator[Cluster]:
    with Cluster.start(engine, 3, 1, slots=["0-8191", "8192-16383", ""]) as made:
        for slot in range(SLOTS):
            data.seed_slot(made, slot, 5, seed=slot)
        yield made


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """3 primaries, the third one without slots, and a replica each; some keys."""
    shared.wait_healthy(members=6)
    return shared


def wish(cluster: Cluster, **more: Any) -> dict[str, Any]:
    """Options by which the slots go to where they are not."""
    source, target = cluster.nodes[0], cluster.nodes[1]
    if cluster.slot_owners()[0] is target:
        source, target = target, source
    fixed = {"slots": [f"0-{SLOTS - 1}"], "target": target.id, "method": "classic"}
    return {**login(cluster.nodes[2]), **fixed, "progress_interval": 0, **more}


def others_wish(cluster: Cluster) -> dict[str, Any]:
    """Options of a run that has another goal."""
    owner = cluster.slot_owners()[100]
    target = next(node for node in cluster.nodes[:2] if node is not owner)
    return {"slots": ["100"], "target": target.id, "method": "classic"}


def names(*nodes: Node) -> list[str]:
    """Names of runs on these nodes."""
    told = "".join(node.call("CLIENT", "LIST").decode() for node in nodes)
    return re.findall(r"name=(keyslot:\S+)", told)


def assert_no_name(cluster: Cluster) -> None:
    """Nearly at once: a server notices the end of a connection when it comes to it."""
    deadline = time.monotonic() + 20
    while told := names(*cluster.nodes):
        assert time.monotonic() < deadline, told
        time.sleep(0.02)


def holder_ids(node: Node) -> list[str]:
    lines = node.call("CLIENT", "LIST").decode().splitlines()
    return [line.split()[0].removeprefix("id=") for line in lines if "name=keyslot:" in line]


@contextlib.contextmanager
def at_work(cluster: Cluster) -> Iterator[Run]:
    """A run that is about to change something; what is left of it ends with the block."""
    run = start(MIGRATE, wish(cluster), FIRST_CHANGE)
    try:
        run.wait_held()
        yield run
    finally:
        run.kill()


def finish(run: Run) -> dict[str, Any]:
    run.go()
    result = run.result()
    assert result.get("finished"), result
    return result


# Who is told what


def test_a_second_run_is_told_who_is_at_work_and_changes_nothing(cluster: Cluster) -> None:
    with at_work(cluster) as worker:
        pid = str(worker.pid)
        words = (
            "another run is at work",
            f"process {pid} ",
            f"'{socket.gethostname()}'",
            "127.0.0.1:",
        )
        for options in (wish(cluster), others_wish(cluster)):
            assert_refused(cluster, MIGRATE, {**login(cluster.nodes[1]), **options}, *words)
        assert_refused(
            cluster,
            REBALANCE,
            {"threshold": 0, "weights": [{"node": cluster.nodes[0].id, "weight": 3}]},
            *words,
        )
        follower = {"node": cluster.replicas()[0].id, "primary": cluster.nodes[2].id}
        assert_refused(cluster, REPLICATE, follower, *words)
        assert_refused(cluster, FORGET, {"node": cluster.nodes[2].id}, *words)
        spare = cluster.start_node()
        assert_refused(cluster, MEET, {"nodes": [spare.address]}, *words)
        spare.stop()
        assert finish(worker)["slots_moved"] == SLOTS


def test_a_run_is_named_on_every_primary_and_on_no_replica(cluster: Cluster) -> None:
    with at_work(cluster) as worker:
        assert [len(names(node)) for node in cluster.primaries()] == [1, 1, 1]
        assert names(*cluster.replicas()) == []
        told = set(names(*cluster.primaries()))
        assert len(told) == 1
        assert re.fullmatch(rf"keyslot:[^:]+:{worker.pid}:\d{{10}}:[0-9a-f]+", told.pop())
        finish(worker)
        assert_no_name(cluster)


def test_of_runs_that_start_in_the_same_instant_exactly_one_goes_on(cluster: Cluster) -> None:
    for _round in range(ROUNDS):
        options = wish(cluster)
        runs = [
            start(MIGRATE, options, Cut(" MULTI", "hold"), FIRST_CHANGE) for _n in range(AT_ONCE)
        ]
        try:
            for each in runs:
                each.wait_held()
            for each in runs:
                each.go()
            told = [each.held_or_result() for each in runs]
            winners = [each for each, found in zip(runs, told, strict=True) if "msg" not in found]
            refused = [found["msg"] for found in told if isinstance(found, dict)]
            assert len(winners) == 1, told
            assert all(f"process {winners[0].pid} " in message for message in refused), refused
            finish(winners[0])
        finally:
            for each in runs:
                each.kill()
        cluster.wait_healthy()


# What ends is not in the way


def test_a_killed_run_is_not_in_the_way(cluster: Cluster) -> None:
    with at_work(cluster) as worker:
        assert names(*cluster.primaries())
        worker.kill()
        assert run(MIGRATE, wish(cluster))["finished"]


def test_a_run_that_fails_leaves_no_name(cluster: Cluster) -> None:
    owner, key = cluster.slot_owners()[0], b"{%s}:big" % data.tag_for_slot(0)
    assert owner is not None
    owner.call("SET", key, b"x" * 3000)
    options = wish(cluster)
    result = run(MIGRATE, {**options, "big_key_bytes": 2000})
    assert "big_key_bytes" in result["msg"]
    assert_no_name(cluster)
    owner.call("DEL", key)
    assert run(MIGRATE, options)["finished"]


def test_a_run_that_loses_its_place_stops_at_the_next_slot_and_says_so(cluster: Cluster) -> None:
    options = wish(cluster)
    bystander, source = cluster.nodes[2], cluster.slot_owners()[0]
    assert source is not None
    with at_work(cluster) as worker:
        for client in holder_ids(bystander):
            bystander.call("CLIENT", "KILL", "ID", client)
        source.call("CLIENT", "PAUSE", 2500)
        worker.go()
        result = worker.result()
        assert result["failed"], result
        assert "the connection that keeps other runs off was lost" in result["msg"]
        assert bystander.address in result["msg"]
        assert 0 < result["slots_moved"] < SLOTS
        assert result["slots_left"] == SLOTS - result["slots_moved"]
        cluster.wait_healthy()
        again = run(MIGRATE, options)
        assert again["slots_moved"] == result["slots_left"]


def test_a_server_that_closes_idle_connections_does_not_end_a_run(cluster: Cluster) -> None:
    bystander, source = cluster.nodes[2], cluster.slot_owners()[0]
    assert source is not None
    with at_work(cluster) as worker:
        bystander.call("CONFIG", "SET", "timeout", 1)
        try:
            source.call("CLIENT", "PAUSE", 4000)
            worker.go()
            deadline = time.monotonic() + 3.5
            while time.monotonic() < deadline:
                assert len(names(bystander)) == 1
                time.sleep(0.2)
            assert worker.result()["finished"]
        finally:
            bystander.call("CONFIG", "SET", "timeout", 0)


# Who has nothing to do asks nobody


def asked_for_a_place(run: Run) -> bool:
    return any("CLIENT SETNAME" in line for line in run.trace)


def test_only_runs_that_change_something_take_a_place(cluster: Cluster) -> None:
    spare, where = cluster.start_node(), login(cluster.nodes[2])
    changing = {
        MIGRATE: wish(cluster),
        REBALANCE: {"threshold": 0, "weights": [{"node": cluster.nodes[0].id, "weight": 1.01}]},
        MEET: {"nodes": [spare.address]},
        REPLICATE: {"node": spare.address, "primary": cluster.nodes[0].id},
        FORGET: {"node": spare.address},
    }
    for module, options in changing.items():
        for check, changes in ((True, True), (False, True), (False, False)):
            attempt = start(module, {**where, **options, "_ansible_check_mode": check})
            result = attempt.result()
            assert result.get("changed") == changes, (module, result)
            assert asked_for_a_place(attempt) == (changes and not check), module
        cluster.wait_healthy()
    spare.stop()
    back = {"slots": ["0-8191"], "target": cluster.nodes[0].id}
    assert run(MIGRATE, {**where, **back})["finished"]
