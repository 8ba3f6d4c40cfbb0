# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots go back and forth fifty times in one process: nothing is left over, there or here."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.harness import data
from tests.harness.ansible import environment
from tests.harness.cluster import Cluster
from tests.harness.engines import Engine
from tests.harness.node import Node

pytestmark = [pytest.mark.system, pytest.mark.stand_for_all("valkey-9.1", "redis-7.0", "redis-8.6")]

ATOMIC = {"redis": (8, 4), "valkey": (9, 0)}
WARM_UP, ROUNDS = 5, 50
# Buffers of a few connections, and what jemalloc keeps; one leaked copy of the data is far more.
NOISE_BYTES = 1 << 20
# Runs the module once for each line of options, and tells what this process holds after it.
RUNNER = """
import contextlib, gc, importlib, io, json, os, sys, threading
from ansible.module_utils import basic
modules = "ansible_collections.keyslot.redis.plugins.modules"
module = importlib.import_module(f"{modules}.redis_slot_migrate")
lines = sys.stdin  # before each run takes its place
for line in lines:
    basic._ANSIBLE_ARGS = None
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": json.loads(line)}).encode()
    sys.stdin, output = io.TextIOWrapper(io.BytesIO(arguments)), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        module.main()
    gc.collect()
    held = {"descriptors": len(os.listdir("/proc/self/fd")), "threads": threading.active_count()}
    print(json.dumps({**held, "result": json.loads(output.getvalue())}), flush=True)
"""


def methods(engine: Engine) -> list[str]:
    return ["classic", "atomic"] if engine.release >= ATOMIC[engine.family] else ["classic"]


def run_all(options: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the runner tells after each of these runs, all in one process."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input="".join(json.dumps(item) + "\n" for item in options),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environment(),
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == len(options), done.stderr
    for item in told:
        assert item["result"].get("slots_moved") == 50, item["result"].get("msg")
    return told


def held(node: Node) -> dict[str, int]:
    """What a server holds, clients other than ours among it."""
    node.call("MEMORY", "PURGE")
    told = {**node.info("memory"), **node.info("clients")}
    names = ("used_memory", "connected_clients", "blocked_clients")
    return {name: int(told[name]) for name in names}


def settles(node: Node, clients: int) -> bool:
    """Whether it comes to have no more clients: MIGRATE keeps connections for 10 s."""
    deadline = time.monotonic() + 30
    while held(node)["connected_clients"] > clients:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def test_fifty_moves_there_and_back_leave_nothing(engine: Engine) -> None:
    with Cluster.start(engine, 2, 0) as cluster:
        data.seed(cluster, 1000)
        for slot in range(0, 50, 5):
            data.seed_slot(cluster, slot, 20, seed=slot, value_bytes=1000)
        first, second = cluster.nodes
        before = data.digest(cluster)
        for method in methods(engine):
            common = {
                "login_host": first.host,
                "login_port": first.port,
                "slots": ["0-49"],
                "method": method,
            }
            both = [{**common, "target": node.id} for node in (second, first)]
            run_all(both * WARM_UP)
            at_first = {node: held(node) for node in cluster.nodes}
            told = run_all(both * ROUNDS)
            for node in cluster.nodes:
                now = held(node)
                grown = now["used_memory"] - at_first[node]["used_memory"]
                assert grown < NOISE_BYTES, f"{method}: {node.address} grew by {grown} bytes"
                assert now["blocked_clients"] == 0, method
                assert settles(node, at_first[node]["connected_clients"]), method
            settled = told[2 * WARM_UP]
            for name in ("descriptors", "threads"):
                assert told[-1][name] <= settled[name], f"{method}: {name}"
            cluster.wait_healthy(members=2)
            assert data.compare(before, data.digest(cluster)) == []
