# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One round: slots move under live clients, a fault strikes, and the next runs end what was begun.

Servers write each command to disk before they answer, so that a restart alone loses nothing.
"""

from __future__ import annotations

import ast
import contextlib
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from tests.chaos.faults import Fault, Scene, replica_of
from tests.harness import data
from tests.harness.clients import LiveClients
from tests.harness.cluster import Cluster
from tests.harness.cutting import Run, start
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.views import end_cached_sockets, me

NODE_TIMEOUT_MS = 2000
SETTLE_SECONDS = 20.0
SLOTS = 500
RESTING_KEYS = 3000
CLIENTS: dict[str, Any] = {"writers": 2, "readers": 1, "rate": 600, "keys": 900, "timeout": 1.5}
ATTEMPTS = 6
# So long a snapshot of one of the engine's own jobs sleeps at each key, in microseconds.
SNAPSHOT_DELAY = 4000
SPARE_SHARE = 0.1
OPTION = "cluster-allow-replica-migration"
CONFIG: dict[str, str | int] = {
    "appendonly": "yes",
    "appendfsync": "always",
    # Replicas stay where they are: else the next round would find another cluster.
    "cluster-migration-barrier": 9,
}


@dataclass
class Round:
    """What came of a round.

    `met`: a run was under way when the fault came; `first`: how it ended; `refusals`: failures of
    the runs after it; `lost`: acknowledged writes, `lost_moving` those of slots that were to move;
    `conflicts`: keys with two values, settled by hand; `turned`: drained primaries that became
    replicas; `damage`: what must not be.
    """

    engine: str
    fault: str
    way: str
    goal: str
    moment: float
    met: bool = False
    first: str = ""
    refusals: list[str] = field(default_factory=list)
    finished: bool = False
    writes: int = 0
    lost: int = 0
    lost_moving: int = 0
    stale: int = 0
    conflicts: int = 0
    turned: int = 0
    option_off: int = 0
    open_slots: int = 0
    damage: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Goal:
    """What a run is to do; nodes stand for their shards, whoever is the primary there."""

    name: str
    module: str
    source: Node
    target: Node
    slots: tuple[int, ...]


class World:
    """3 primaries with a replica each, and 2 without slots and replicas; made anew when a round
    has left it out of order."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._cluster: Cluster | None = None
        self.shards: list[tuple[Node, ...]] = []

    @property
    def cluster(self) -> Cluster:
        if self._cluster is None:
            self._cluster = Cluster.start(
                self.engine, 3, 1, spare=2, node_timeout_ms=NODE_TIMEOUT_MS, config=CONFIG
            )
            first = self._cluster.nodes[0]
            for node in self._cluster.spares:
                node.call("CLUSTER", "MEET", first.host, first.port)
            self._cluster.wait_healthy(members=8)
            nodes = self._cluster.nodes
            self.shards = [(nodes[index], nodes[index + 3]) for index in range(3)]
            self.shards += [(node,) for node in self._cluster.spares]
        return self._cluster

    def close(self) -> None:
        if self._cluster:
            self._cluster.close()
        self._cluster = None

    def primary(self, node: Node) -> Node:
        """The primary of this node's shard."""
        shard = next(shard for shard in self.shards if node in shard)
        for member in shard:
            with contextlib.suppress(redis.RedisError, OSError):
                if member.running and "master" in me(member).flags:
                    return member
        return node

    def clear(self) -> None:
        """No keys, and every setting as at the start."""
        for node in self.cluster.all_nodes():
            node.call("CONFIG", "SET", "rdb-key-save-delay", SNAPSHOT_DELAY)
            node.call("CONFIG", "SET", OPTION, "yes")
            node.call("CONFIG", "SET", "maxmemory", 0)
            if "master" in me(node).flags:
                node.call("FLUSHALL")


def make_goal(world: World, kind: str) -> Goal:
    """`migrate`: from the shard with most slots to the one with fewest of those with replicas;
    `rebalance`: the two others are filled, or drained if they are full."""
    cluster = world.cluster
    owners = cluster.slot_owners()
    shards = [world.primary(shard[0]) for shard in world.shards]
    held = {node: [slot for slot, owner in enumerate(owners) if owner is node] for node in shards}
    ordered = sorted(shards[:3], key=lambda node: -len(held[node]))
    if kind == "migrate":
        return Goal(
            kind, "redis_slot_migrate", ordered[0], ordered[2], (*held[ordered[0]][:SLOTS],)
        )
    spares = shards[3:]
    if any(held[node] for node in spares):
        moving = [slot for node in spares for slot in held[node]]
        return Goal("drain", "redis_cluster_rebalance", spares[0], ordered[2], tuple(moving))
    moving = [slot for node in ordered for slot in held[node][:SLOTS]]
    return Goal("fill", "redis_cluster_rebalance", ordered[0], spares[0], tuple(moving))


def options(world: World, goal: Goal, way: str, **more: Any) -> dict[str, Any]:
    """What a playbook would say, with the node ids of this moment; any living node is the entry."""
    entries = [node for node in world.cluster.all_nodes() if node.running]
    common = {
        "login_host": entries[0].host,
        "login_port": entries[0].port,
        "startup_nodes": [node.address for node in entries],
        "connect_timeout": 2,
        "command_timeout": 4,
        "wait_timeout": 15,
        "method": way,
        "progress_interval": 0,
        # Slow enough for a fault to meet it.
        "max_pause_ms": 1,
        "batch_size": 4,
        **more,
    }
    if goal.name == "migrate":
        slots = [str(slot) for slot in goal.slots]
        return {**common, "slots": slots, "target": world.primary(goal.target).id}
    spares = [shard[0].id for shard in world.shards[3:]]
    if goal.name == "drain":
        return {**common, "drain": spares, "drain_only": True}
    weights = [{"node": node, "weight": SPARE_SHARE} for node in spares]
    return {**common, "weights": weights, "threshold": 0}


def play(
    world: World, fault: Fault, way: str, kind: str, moment: float, rng: random.Random, move: bool
) -> Round:
    """One round; without `move` the fault alone."""
    began = time.monotonic()
    cluster = world.cluster
    world.clear()
    goal = make_goal(world, kind)
    data.seed(cluster, RESTING_KEYS, seed=rng.randrange(1000))
    resting = data.digest(cluster)
    told = Round(world.engine.name, fault.name, way if move else "no mover", goal.name, moment)
    with LiveClients(
        cluster, slots=_slots_for_clients(goal), seed=rng.randrange(999), **CLIENTS
    ) as clients:
        attempt = start(goal.module, options(world, goal, way)) if move else None
        time.sleep(moment)
        bystander = world.primary(world.shards[_bystander(world, goal)][0])
        told.met = attempt is not None and attempt.under_way
        fault.strike(Scene(cluster, goal.source, goal.target, bystander, rng, attempt))
        told.first = _end(attempt, told) if attempt else "no mover"
        _start_what_crashed(cluster)
        settle(cluster)
        if move:
            _finish(world, goal, way, told)
        settle(cluster)
        time.sleep(0.3)
    told.writes = clients.writes
    _count(world, goal, clients, resting, told)
    told.seconds = time.monotonic() - began
    _mend(world, told)
    return told


def _slots_for_clients(goal: Goal) -> list[str]:
    """Half of the keys in slots that move, the others in all others."""
    rest = sorted(set(range(16384)).difference(goal.slots))
    step = max(1, len(rest) // max(1, len(goal.slots)))
    return [str(slot) for slot in (*goal.slots, *rest[::step])]


def _bystander(world: World, goal: Goal) -> int:
    taken = {world.primary(goal.source), world.primary(goal.target)}
    return next(n for n in range(3) if world.primary(world.shards[n][0]) not in taken)


def _end(attempt: Run, told: Round) -> str:
    """How the first run ended, in a word or in its message."""
    try:
        result = attempt.ended()
    except AssertionError as error:
        told.damage.append(f"the run crashed: {str(error)[-700:]}")
        return "crashed"
    if result is None:
        return "killed"
    return result["msg"] if result.get("failed") else "finished"


def settle(cluster: Cluster, seconds: float = SETTLE_SECONDS) -> bool:
    """Waits until nothing is wrong but for open slots; whether that came about."""
    deadline = time.monotonic() + seconds
    while True:
        found = [text for text in cluster.problems(members=8) if "open slot" not in text]
        if not found:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def _finish(world: World, goal: Goal, way: str, told: Round) -> None:
    """Runs it again until it is at its goal, doing what its failures ask for."""
    for _attempt in range(ATTEMPTS):
        attempt = start(goal.module, options(world, goal, way))
        told_now = _end(attempt, told)
        if told_now == "finished":
            told.finished = True
            return
        told.refusals.append(told_now)
        _start_what_crashed(world.cluster)
        if "stands on both" in told_now:
            told.conflicts += _settle_conflict(world, told_now)
        settle(world.cluster, 5)


OWN_CRASH = "!(isPausedActions(PAUSE_ACTION_REPLICA) && (!server.client_pause_in_transaction))"
# The name is in quotes, and may hold any but control characters.
_CONFLICT = re.compile(r"the key '(.*?)' in slot \d+ stands on both (\S+) .*? and (\S+) ", re.S)


def _settle_conflict(world: World, message: str) -> int:
    """Does by hand what the message asks for: both are looked at, and the older one is deleted."""
    found = conflicts(message)
    for name, *addresses in found:
        source, target = (world.cluster.node(address) for address in addresses)
        if _read(source, name, False) > _read(target, name, True):
            _ask(target, "DEL", name)
        else:
            source.call("DEL", name)
        end_cached_sockets([target])
    return len(found)


def conflicts(message: str) -> list[tuple[str, str, str]]:
    """Key, source and target of each conflict that it names."""
    return _CONFLICT.findall(message)


def _ask(node: Node, *words: str) -> Any:
    with node.client() as client:
        return data.pipe(client, [("ASKING",), words])[1]


def _read(node: Node, name: str, asking: bool) -> int:
    answer = _ask(node, "GET", name) if asking else node.call("GET", name)
    return int(answer) if isinstance(answer, bytes) and answer.strip().isdigit() else -1


# What came of it


def _count(
    world: World, goal: Goal, clients: LiveClients, resting: data.Digest, told: Round
) -> None:
    cluster = world.cluster
    told.stale = len(clients.stale)
    told.damage += [f"{n} is dead: {_end_of(n)}" for n in cluster.all_nodes() if not n.running]
    if told.damage:
        return
    told.open_slots = len(_open_slots(cluster))
    told.option_off = sum(
        node.call("CONFIG", "GET", OPTION)[1] == b"no" for node in cluster.all_nodes()
    )
    told.damage += [f"not healthy: {text}" for text in cluster.problems(members=8)]
    told.turned = sum("master" not in me(shard[0]).flags for shard in world.shards[3:])
    try:
        lost = clients.verify()
        after = data.digest(cluster)
    except AssertionError as error:
        told.damage.append(f"keys out of place: {error}")
        return
    moving = set(goal.slots)
    for text in lost:
        told.lost += 1
        told.lost_moving += data.slot_of(_name(text)) in moving
        print(f"  lost: {text}", flush=True)
    kept = {name: after[name] for name in resting if name in after}
    told.damage += [f"resting key: {text}" for text in data.compare(resting, kept)]


def _start_what_crashed(cluster: Cluster) -> None:
    """As an operator would, after this one error of the engine alone; any other death is damage.
    Redis 8.0.2 (server.c:3396) and 8.6.3 (server.c:3600) end by it when a primary that is paused
    for a failover by hand loses slots with keys to its replica, but keeps another one. 8.6.3 may go
    on to hang in its crash report."""
    for node in cluster.all_nodes():
        if not _answers(node) and OWN_CRASH in _end_of(node):
            print(f"  {node} died by itself: {OWN_CRASH}", flush=True)
            node.kill()
            node.restart()


def _answers(node: Node) -> bool:
    try:
        with node.client(socket_timeout=2, socket_connect_timeout=2) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False


def _end_of(node: Node) -> str:
    """The report of its last crash, or the end of its log."""
    _before, found, report = node.log().rpartition("BUG REPORT START")
    return report[:3000] if found else node.log()[-3000:]


def _name(text: str) -> bytes:
    return bytes(ast.literal_eval(text.split(" on ")[0]))


def _open_slots(cluster: Cluster) -> list[str]:
    return [text for node in cluster.all_nodes() if node.running for text in me(node).open]


def _mend(world: World, told: Round) -> None:
    """A primary that has become a replica is put back; a cluster out of order is thrown away."""
    for shard in world.shards[3:]:
        node = shard[0]
        if "master" not in me(node).flags:
            node.call("CLUSTER", "RESET", "SOFT")
            other = world.shards[0][0]
            node.call("CLUSTER", "MEET", other.host, other.port)
            told.refusals.append("(a drained primary had become a replica)")
    try:
        world.cluster.wait_healthy(members=8)
        assert all(replica_of(world.cluster, world.primary(s[0])) for s in world.shards[:3])
    except AssertionError:
        world.close()


def reasons(told: Round) -> Mapping[str, int]:
    """Why runs refused or failed, without addresses and numbers, and how often."""
    found: dict[str, int] = {}
    texts = told.refusals + (
        [] if told.first in ("finished", "killed", "no mover") else [told.first]
    )
    for text in texts:
        short = re.sub(r"\d+\.\d+\.\d+\.\d+:\d+( \(\w+\))?", "NODE", text)
        short = re.sub(r"'\{[^']*'", "KEY", short)
        short = re.sub(r"[0-9a-f]{40}|\b[\d,]+(-[\d,]+)?\b", "N", short)[:160]
        found[short] = found.get(short, 0) + 1
    return found
