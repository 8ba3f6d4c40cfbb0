# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""More SETs than any test needs to have verified: pipelined, on all slots, through all redirects.

By a benchmark tool of the engines; where there is none, by the few lines of main().
"""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import redis

from tests.harness import engines, processes
from tests.harness.ansible import ROOT
from tests.harness.cluster import Cluster, Line, parse_nodes
from tests.harness.data import pipe, tag_for_slot
from tests.harness.node import Node

OURS = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.harness import flood
flood.main(sys.argv[2], int(sys.argv[3]))
"""
AT_ONCE = 64
BEGUN = 10_000
# Two keys of 100 bytes a slot, so that memory does not grow; ended by us, or with us.
WORDS = "--cluster -t set -n 2000000000 -r 2 -d 100 -c 16 -P 16 -q"


@contextlib.contextmanager
def flood(cluster: Cluster) -> Iterator[None]:
    """SETs on all slots while the block lasts, each primary gets its share whatever it owns.

    AssertionError: they have not begun after 30 s, or ended before the block did.
    """
    entry = cluster.nodes[0]
    tool = engines.load_generator(cluster.engine)
    argv = (
        [*tool, "-h", entry.host, "-p", str(entry.port), *WORDS.split()]
        if tool
        else [sys.executable, "-c", OURS, str(ROOT), entry.host, str(entry.port)]
    )
    folder = cluster.root / f"flood-{time.monotonic_ns()}"
    folder.mkdir()
    meter, deadline = Meter(entry), time.monotonic() + 30
    process = processes.spawn(argv, folder)
    try:
        while meter.count() < BEGUN and time.monotonic() < deadline:
            time.sleep(0.05)
        assert meter.count() >= BEGUN, (folder / "output.txt").read_text(encoding="utf-8")[-500:]
        yield
        told = (folder / "output.txt").read_text(encoding="utf-8", errors="replace")
        assert process.poll() is None, f"the load ended early: {told[-500:]}"
    finally:
        processes.end([process])


class Meter:
    """How many SETs a second a node carries out, from now on."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._since, self._before = time.monotonic(), self._sets()

    def count(self) -> int:
        """SETs since it was made."""
        return self._sets() - self._before

    def rate(self) -> float:
        return self.count() / (time.monotonic() - self._since)

    def _sets(self) -> int:
        told = self._node.info("commandstats").get("cmdstat_set", "calls=0")
        return int(told.split("calls=")[1].split(",")[0])


# The generator of our own


def main(host: str, port: int) -> None:
    """SETs without end, a thread a primary."""
    with redis.Redis(host, port) as client:
        lines = _lines(client)
    with ThreadPoolExecutor(len(lines)) as threads:
        list(threads.map(_write, [line.address for line in lines if line.slots]))


def _write(address: str) -> None:
    """SETs on the slots that this node owns, which is looked up again after each error."""
    host, _colon, told_port = address.rpartition(":")
    port = int(told_port)
    with redis.Redis(host, port) as client, socket.create_connection((host, port)) as stream:
        while True:
            (mine,) = [line for line in _lines(client) if "myself" in line.flags]
            sets = [_set(slot) for low, high in mine.slots for slot in range(low, high + 1)]
            for _batch in range(1000 if sets else 0):
                stream.sendall(b"".join(random.choices(sets, k=AT_ONCE)))
                told = b""
                while told.count(b"\r\n") < AT_ONCE:
                    told += stream.recv(1 << 16)
                if b"-" in told:
                    break
            time.sleep(0.001)


def _lines(client: redis.Redis) -> list[Line]:
    return parse_nodes(pipe(client, [("CLUSTER", "NODES")])[0].decode())


def _set(slot: int) -> bytes:
    key = b"key:{%s}" % tag_for_slot(slot)
    return b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$100\r\n%s\r\n" % (len(key), key, b"x" * 100)
