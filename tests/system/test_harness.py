# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The harness itself: does it start, see, tell and clean up what it says it does?"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import data, engines
from tests.harness.clients import LiveClients
from tests.harness.cluster import Cluster
from tests.harness.views import wait_until

pytestmark = [pytest.mark.system, pytest.mark.every_engine]
REPO = Path(__file__).resolve().parents[2]
CHILD = """
import sys, time
from tests.harness import engines
from tests.harness.cluster import Cluster
cluster = Cluster.start(engines.get(sys.argv[1]), 1, 1)
print(cluster.root, *(node.pid for node in cluster.all_nodes()), flush=True)
if sys.argv[2] == "error":
    raise RuntimeError("it ends so")
time.sleep(600 if sys.argv[2] == "sleep" else 0)
"""


@pytest.fixture(scope="module", params=engines.EMBEDDED)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """3 primaries, 3 replicas, a spare, with a password."""
    with Cluster.start(engines.get(request.param), 3, 1, spare=1, password="pass-1") as made:
        yield made


def alive(pid: int) -> bool:
    """Whether this process exists and is no zombie."""
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2][0]
        return state != "Z"
    return False


def test_starts_healthy_and_leaves_the_spare_alone(cluster: Cluster) -> None:
    cluster.assert_healthy()
    assert len(cluster.primaries()) == len(cluster.replicas()) == 3
    assert cluster.spares[0] not in cluster.members()
    assert list(cluster.ownership().values()) == [["0-5460"], ["5461-10922"], ["10923-16383"]]
    assert "[OK] All 16384 slots covered" in (cluster.referee_check() or "")
    assert cluster.nodes[0].cli("DBSIZE").strip() == "0"
    with pytest.raises(ValueError, match="TLS"):
        Cluster.start(cluster.engine, tls=True)


def test_monitor_and_commands(cluster: Cluster) -> None:
    node = cluster.primaries()[0]
    with node.monitor() as lines, node.commands() as commands:
        node.call("GET", b"{%s}" % data.tag_for_slot(1))
        node.call("CLUSTER", "COUNTKEYSINSLOT", 1)
    assert any('"GET"' in line for line in lines)
    assert "CLUSTER COUNTKEYSINSLOT 1" in commands


def test_open_slot_is_not_healthy(cluster: Cluster) -> None:
    source, target = cluster.primaries()[:2]
    target.call("CLUSTER", "SETSLOT", 1, "IMPORTING", source.id)
    with pytest.raises(AssertionError, match=f"{target.address} has the open slot"):
        cluster.assert_healthy()
    target.call("CLUSTER", "SETSLOT", 1, "STABLE")
    cluster.wait_healthy()


def test_kill_pause_restart(cluster: Cluster) -> None:
    node = cluster.replicas()[0]
    before, pid = node.id, node.pid
    node.kill()
    assert not alive(pid)
    assert node not in cluster.members()
    node.restart()
    cluster.wait_healthy()
    assert (node.id, node in cluster.replicas()) == (before, True)
    node.pause()
    assert node not in cluster.members()
    node.resume()
    cluster.wait_healthy()


def test_digest_tells_every_difference(cluster: Cluster) -> None:
    names = data.seed(cluster, 2000) | data.seed_slot(cluster, 7, 20)
    before = data.digest(cluster)
    assert before.keys() == names
    assert b"" in names
    assert data.compare(before, data.digest(cluster)) == []
    with cluster.seed_client() as client:
        changed, lost, fresh = (b"{%s}:%d" % (data.tag_for_slot(7), n) for n in (4, 1, 99))
        client.rpush(changed, b"more")
        client.delete(lost)
        client.set(fresh, b"", px=data.HOUR_MS)
        client.persist(b"{%s}:0" % data.tag_for_slot(7))
    found = data.compare(before, data.digest(cluster))
    texts = ["changed", "expiry of", "extra", "missing"]
    assert sorted(line.split(" b'")[0] for line in found) == texts


def test_digest_finds_a_key_on_two_primaries(cluster: Cluster) -> None:
    source, target = cluster.primaries()[:2]
    key = b"{%s}twice" % data.tag_for_slot(3)
    source.call("SET", key, "here")
    target.call("CLUSTER", "SETSLOT", 3, "IMPORTING", source.id)
    with target.client() as client:
        assert data.pipe(client, [("ASKING",), ("SET", key, "there")])[1] == b"OK"
    with pytest.raises(AssertionError, match="twice"):
        data.digest(cluster)
    with target.client() as client:
        data.pipe(client, [("ASKING",), ("DEL", key)])
    target.call("CLUSTER", "SETSLOT", 3, "STABLE")
    cluster.wait_healthy()


def test_live_clients_detect_a_lost_write(cluster: Cluster) -> None:
    with LiveClients(cluster, rate=2000, keys=200, slots=["0-99", "16000"]) as clients:
        wait_until(lambda: clients.operations > 200, "200 operations")
    assert (clients.errors, clients.lost()) == ({}, [])
    assert len(clients.latencies) == clients.operations
    key = next(key for worker in clients._writers for key in worker.keys if key.acknowledged)
    with cluster.seed_client() as client:
        client.delete(key.name)
    assert [repr(key.name) in line for line in clients.lost()] == [True]


def test_live_clients_follow_ask_to_a_node_without_slots(cluster: Cluster) -> None:
    """A classic move by hand to the spare, which the clients' map cannot know."""
    source, target = cluster.primaries()[0], cluster.spares[0]
    target.call("CLUSTER", "MEET", source.host, source.port)
    cluster.wait_healthy(members=7)
    with LiveClients(cluster, slots=["100"], keys=50) as clients:
        target.call("CLUSTER", "SETSLOT", 100, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", 100, "MIGRATING", target.id)
        while keys := source.call("CLUSTER", "GETKEYSINSLOT", 100, 10):
            words = (target.host, target.port, "", 0, 1000, "AUTH", "pass-1", "KEYS")
            source.call("MIGRATE", *words, *keys)
            time.sleep(0.05)
        for node in (target, *cluster.primaries()):
            node.call("CLUSTER", "SETSLOT", 100, "NODE", target.id)
        time.sleep(0.2)
    cluster.wait_healthy()
    assert (clients.errors, clients.lost()) == ({}, [])
    assert "cmdstat_asking" in target.info("commandstats")
    assert cluster.ownership()[target.id] == ["100"]
    assert target in cluster.primaries()


@pytest.mark.parametrize("way", ["exit", "error", "sleep"])
def test_nothing_is_left_behind(way: str) -> None:
    """After a plain end without close(), and after the SIGKILL of the process that used it."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, engines.EMBEDDED[0], way],
        cwd=REPO,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    root, *words = child.stdout.readline().split()
    pids = [int(word) for word in words]
    assert len(pids) == 2
    if way == "sleep":
        assert all(alive(pid) for pid in pids)
        os.kill(child.pid, signal.SIGKILL)
    assert child.wait(60) == {"exit": 0, "error": 1, "sleep": -signal.SIGKILL}[way]
    child.stdout.close()
    wait_until(lambda: not any(alive(pid) for pid in pids), "their end")
    if way == "sleep":
        with Cluster.start(engines.get(engines.EMBEDDED[0]), 1, 0):
            pass
    assert not Path(root).exists()
