# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done to a cluster while slots move, and how it is undone."""

from __future__ import annotations

import contextlib
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from tests.harness.cluster import Cluster
from tests.harness.cutting import Run
from tests.harness.node import Node
from tests.harness.views import me

TAKEOVER_SECONDS = 20.0
# What a full disk and a server out of memory still have room for.
SPARE_BYTES = 20_000


@dataclass(frozen=True)
class Scene:
    """Who is who in this round: `run` is the mover under way, None in a round without one."""

    cluster: Cluster
    source: Node
    target: Node
    bystander: Node
    rng: random.Random
    run: Run | None


@dataclass(frozen=True)
class Fault:
    """`strike` returns when all servers run again. With `loses`, the engine's asynchronous
    replication may lose writes by itself; `heirs` are the parts that need a replica; `own` strikes
    at our process."""

    name: str
    strike: Callable[[Scene], None]
    loses: bool = False
    heirs: tuple[str, ...] = ()
    own: bool = False


def replica_of(cluster: Cluster, node: Node) -> Node | None:
    """A replica that follows this node."""
    for other in cluster.all_nodes():
        if other is not node and other.running and me(other).primary_id == node.id:
            return other
    return None


def _node(scene: Scene, part: str) -> Node:
    return {"source": scene.source, "target": scene.target, "bystander": scene.bystander}[part]


def _nothing(scene: Scene) -> None:
    pass


def _restart(part: str) -> Callable[[Scene], None]:
    """SIGKILL, and back with its data long before anybody takes over."""

    def strike(scene: Scene) -> None:
        node = _node(scene, part)
        node.kill()
        time.sleep(scene.rng.uniform(0, 0.4))
        node.spawn()
        node.wait_ready()

    return strike


def _take_over(part: str) -> Callable[[Scene], None]:
    """SIGKILL; it comes back when its replica has taken over."""

    def strike(scene: Scene) -> None:
        node = _node(scene, part)
        heir = replica_of(scene.cluster, node)
        node.kill()
        _wait_for(heir)
        node.restart()

    return strike


def _switch(part: str) -> Callable[[Scene], None]:
    """CLUSTER FAILOVER: the replica takes over when it has everything."""

    def strike(scene: Scene) -> None:
        heir = replica_of(scene.cluster, _node(scene, part))
        if heir:
            with contextlib.suppress(redis.ResponseError):
                heir.call("CLUSTER", "FAILOVER")
            _wait_for(heir)

    return strike


def _wait_for(heir: Node | None) -> None:
    """Until it is a primary; a manual failover may be refused or end in nothing."""
    deadline = time.monotonic() + TAKEOVER_SECONDS
    while heir and time.monotonic() < deadline:
        with contextlib.suppress(redis.RedisError, OSError):
            if "master" in me(heir).flags:
                return
        time.sleep(0.05)


def _freeze(part: str) -> Callable[[Scene], None]:
    """SIGSTOP for longer than the node timeout: a replica takes over where there is one."""

    def strike(scene: Scene) -> None:
        node = _node(scene, part)
        node.pause()
        time.sleep(scene.cluster.node_timeout_ms / 1000 * scene.rng.uniform(1.5, 2.5))
        node.resume()

    return strike


def _stall(part: str) -> Callable[[Scene], None]:
    """It stands still again and again, as one does whose disk is slow."""

    def strike(scene: Scene) -> None:
        node = _node(scene, part)
        for _time in range(4):
            node.pause()
            time.sleep(scene.rng.uniform(0.1, 0.5))
            node.resume()
            time.sleep(scene.rng.uniform(0.05, 0.3))

    return strike


def _cut_connections(scene: Scene) -> None:
    """All clients of all three nodes lose their connections, several times; replicas don't."""
    for _time in range(5):
        for node in (scene.source, scene.target, scene.bystander):
            node.call("CLIENT", "KILL", "TYPE", "normal")
        time.sleep(scene.rng.uniform(0.02, 0.3))


def _no_memory(scene: Scene) -> None:
    """The target refuses what needs memory, for two seconds."""
    used = int(scene.target.info("memory")["used_memory"])
    scene.target.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    scene.target.call("CONFIG", "SET", "maxmemory", used + SPARE_BYTES)
    time.sleep(2)
    scene.target.call("CONFIG", "SET", "maxmemory", 0)


def _disk_full(part: str) -> Callable[[Scene], None]:
    """None of the server's files may grow: the kernel ends it at its next write, of nodes.conf or
    of its log of writes. It comes back when there is room."""

    def strike(scene: Scene) -> None:
        node = _node(scene, part)
        _soft, hard = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (0, hard))
        deadline = time.monotonic() + 1
        while node.running and time.monotonic() < deadline:
            time.sleep(0.02)
        node.restart()

    return strike


def _kill_run(scene: Scene) -> None:
    if scene.run:
        scene.run.kill()


def _kill_run_and(strike: Callable[[Scene], None]) -> Callable[[Scene], None]:
    def both(scene: Scene) -> None:
        _kill_run(scene)
        strike(scene)

    return both


FAULTS = (
    Fault("none", _nothing),
    Fault("source killed and restarted", _restart("source")),
    Fault("target killed and restarted", _restart("target")),
    Fault("bystander killed and restarted", _restart("bystander")),
    Fault("source killed, its replica takes over", _take_over("source"), True, ("source",)),
    Fault("target killed, its replica takes over", _take_over("target"), True, ("target",)),
    Fault("source fails over by hand", _switch("source"), True, ("source",)),
    Fault("target fails over by hand", _switch("target"), True, ("target",)),
    Fault("source frozen past the node timeout", _freeze("source"), True, ("source",)),
    Fault("target frozen past the node timeout", _freeze("target"), True, ("target",)),
    Fault("source stalls again and again", _stall("source")),
    Fault("target stalls again and again", _stall("target")),
    Fault("connections cut", _cut_connections),
    Fault("target out of memory", _no_memory),
    Fault("source's disk full", _disk_full("source")),
    Fault("target's disk full", _disk_full("target")),
    Fault("our process killed", _kill_run, own=True),
    Fault(
        "our process killed, then the source fails over",
        _kill_run_and(_take_over("source")),
        True,
        ("source",),
        True,
    ),
    Fault(
        "our process killed, then the target fails over",
        _kill_run_and(_take_over("target")),
        True,
        ("target",),
        True,
    ),
)
BY_NAME = {fault.name: fault for fault in FAULTS}
