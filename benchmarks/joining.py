# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node joins a cluster of many, gets its share of the slots, gives it back and leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import redis

from benchmarks import tools
from benchmarks.compare import Options, say
from benchmarks.world import StateError, wait_for_keys, write_keys
from tests.harness import engines
from tests.harness.cluster import SLOTS, Cluster
from tests.harness.node import Node

KEYS = 100_000
VALUE_BYTES = 200
NODE_TIMEOUT_MS = 15_000
# From so many primaries on one run a way has to do.
MANY = 100
READY_SECONDS = 60
STEPS = ("join", "fill", "drain", "remove")

Step = Callable[[Cluster, Node], tools.Ran]


class Failed(Exception):
    """A step went wrong; the text says how."""


@dataclass(frozen=True)
class Way:
    """How each of the STEPS is done; a playbook does two of them at once, the other is None."""

    name: str
    steps: dict[str, Step]


def _ours() -> Way:
    def weights(node: Node) -> list[dict[str, Any]]:
        return [{"node": node.address, "weight": 1}]

    return Way(
        "ours",
        {
            "join": lambda c, n: tools.module("redis_cluster_meet", c, nodes=[n.address]),
            "fill": lambda c, n: tools.module(tools.REBALANCE, c, weights=weights(n)),
            "drain": lambda c, n: tools.module(
                tools.REBALANCE, c, drain=[n.address], drain_only=True
            ),
            "remove": lambda c, n: tools.module("redis_cluster_forget", c, node=n.address),
        },
    )


def _playbooks() -> Way:
    return Way(
        "ours, by ansible-playbook",
        {
            "fill": lambda c, n: tools.playbook("add_node", c, add_node_nodes=n.address),
            "remove": lambda c, n: tools.playbook("remove_node", c, remove_node_nodes=n.address),
        },
    )


def _vendor(name: str, *flags: str) -> Way:
    def rebalance(cluster: Cluster, *words: str) -> tools.Ran:
        return tools.vendor(cluster, "rebalance", cluster.nodes[0].address, *words, *flags)

    return Way(
        name,
        {
            "join": _vendor_join,
            "fill": lambda c, n: rebalance(c, "--cluster-use-empty-masters"),
            "drain": lambda c, n: rebalance(c, "--cluster-weight", f"{n.id}=0"),
            "remove": lambda c, n: tools.vendor(c, "del-node", c.nodes[0].address, n.id),
        },
    )


def _vendor_join(cluster: Cluster, node: Node) -> tools.Ran:
    """add-node, and the wait without which a rebalance would fail: until all nodes know it and
    its own state is ok. A script would sleep here for longer."""
    ran = tools.vendor(cluster, "add-node", node.address, cluster.nodes[0].address)
    if not ran.error:
        deadline = time.monotonic() + READY_SECONDS
        while not _is_ready(cluster, node) and time.monotonic() < deadline:
            time.sleep(0.05)
    return tools.Ran(ran.began, time.monotonic() - ran.began, ran.error)


def _is_ready(cluster: Cluster, node: Node) -> bool:
    try:
        known = all(node.id in text for text in cluster.nodes_text().values())
        return known and node.info("cluster-state").get("cluster_state") == "ok"
    except redis.RedisError:
        return False


def measure(
    engine_name: str, primaries: int, options: Options
) -> tuple[str, list[str], list[list[Any]]]:
    """Engine, columns and lines of the table for so many primaries; each run on a fresh cluster."""
    engine = engines.get(engine_name)
    ways = [
        _ours(),
        _vendor("valkey-cli, default"),
        _vendor("valkey-cli, atomic", "--cluster-use-atomic-slot-migration"),
        _playbooks(),
    ]
    repeats = 1 if primaries >= MANY else options.repeats
    runs: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
    failures: dict[str, str] = {}
    for repeat in range(repeats):
        for way in ways:
            if way.name in failures:
                continue
            try:
                runs[way.name].append(_run(engine, primaries, way, options))
                seconds = sum(runs[way.name][-1].values())
                say(f"  {primaries} primaries, {way.name}, run {repeat + 1}: {seconds:.2f} s")
            except Failed as error:
                failures[way.name] = str(error)
                say(f"  {primaries} primaries, {way.name}: {error}")
    columns = ["primaries", "way", "runs", *(f"{step}, s" for step in STEPS), "all, s", "remark"]
    lines = [
        [
            primaries,
            name,
            len(found),
            *(median(run[step] for run in found) if _has(found, step) else None for step in STEPS),
            median(sum(run.values()) for run in found) if found else None,
            failures.get(name, ""),
        ]
        for name, found in runs.items()
    ]
    return f"Valkey {engine.version}", columns, lines


def _has(found: list[dict[str, float]], step: str) -> bool:
    return bool(found) and step in found[0]


def _run(engine: engines.Engine, primaries: int, way: Way, options: Options) -> dict[str, float]:
    """Seconds of each step. Failed: a step went wrong, or the cluster is not as it should be."""
    with Cluster.start(engine, primaries, 0, spare=1, node_timeout_ms=NODE_TIMEOUT_MS) as cluster:
        keys = options.keys or KEYS
        write_keys(cluster, range(keys), VALUE_BYTES, 0)
        spare = cluster.spares[0]
        seconds = {}
        for step, do in way.steps.items():
            ran = do(cluster, spare)
            if ran.error:
                raise Failed(f"{step}: {ran.error}")
            seconds[step] = ran.seconds
            _check(cluster, primaries, spare, step, keys)
        return seconds


def _check(cluster: Cluster, primaries: int, spare: Node, step: str, keys: int) -> None:
    """Failed: the step has not done what it was to do."""
    members = primaries + (step != "remove")
    try:
        cluster.wait_healthy(READY_SECONDS, members=members)
        owned = cluster.slot_owners().count(spare)
    except AssertionError as error:
        raise Failed(f"{step}: {error}") from error
    share = SLOTS // (primaries + 1)
    # valkey-cli rounds shares down, and its rounding adds up.
    wanted = range(share - primaries, share + primaries + 1) if step == "fill" else range(1)
    if owned not in wanted:
        raise Failed(f"{step}: the node has {owned} slots")
    try:
        wait_for_keys(cluster, keys)
    except StateError as error:
        raise Failed(f"{step}: {error}") from error
