# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nodes tell of themselves and of the cluster, and waiting until they do."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tests.harness import data
from tests.harness.cluster import Cluster, Line, parse_nodes
from tests.harness.node import Node

# What the engines call a job that is over.
OVER = ("completed", "canceled", "success", "failed", "cancelled")


def me(node: Node) -> Line:
    """A node's own line."""
    lines = parse_nodes(node.call("CLUSTER", "NODES").decode())
    return next(line for line in lines if "myself" in line.flags)


def epoch(node: Node) -> int:
    return int(node.info("cluster-state")["cluster_my_epoch"])


def owner_told_by(node: Node, slot: int) -> str:
    """The id of a slot's owner as one node sees it; empty if it names none."""
    for line in parse_nodes(node.call("CLUSTER", "NODES").decode()):
        if any(first <= slot <= last for first, last in line.slots):
            return line.id
    return ""


def replica_of(cluster: Cluster, node: Node) -> Node:
    return next(other for other in cluster.replicas() if me(other).primary_id == node.id)


def asking(node: Node, *command: Any) -> Any:
    """The answer of a node that imports the slot."""
    with node.client() as client:
        return data.pipe(client, [("ASKING",), command])[1]


def jobs(node: Node) -> list[dict[str, str]]:
    """All jobs that a node remembers; none on an engine that has no such thing."""
    if not node.engine.atomic:
        return []
    words = ("MIGRATION", "STATUS", "ALL")
    status = words if node.engine.family == "redis" else ("GETSLOTMIGRATIONS",)
    found = []
    for told in node.call("CLUSTER", *status):
        fields = [item.decode() if isinstance(item, bytes) else str(item) for item in told]
        found.append(dict(zip(fields[::2], fields[1::2], strict=True)))
    return found


def under_way(cluster: Cluster) -> list[str]:
    """The jobs that may still move something, as the primaries tell them."""
    return [
        f"{node.address} {job['operation']} {job['state']}"
        for node in cluster.primaries()
        for job in jobs(node)
        if job["state"] not in OVER or (job["state"] == "failed" and waits_to_retry(job))
    ]


def waits_to_retry(job: dict[str, str]) -> bool:
    """Redis tries a failed import for ever."""
    return job["operation"] == "import"


def end_cached_sockets(nodes: Iterable[Node]) -> None:
    """What a source does 10 s after its last MIGRATE: it keeps its connection to the target for so
    long, and a run that finds one waits, because it can't be told from one on which keys arrive."""
    for node in nodes:
        for line in node.call("CLIENT", "LIST").decode().splitlines():
            fields = dict(word.partition("=")[::2] for word in line.split(" "))
            if fields["cmd"] == "restore-asking":
                node.call("CLIENT", "KILL", "ID", fields["id"])


@contextlib.contextmanager
def tool_at_work(source: Node, target: Node, slot: int) -> Iterator[list[bytes]]:
    """Somebody else who moves a slot key by key, as redis-cli does; the names that have moved."""
    stop = threading.Event()
    moved: list[bytes] = []

    def work() -> None:
        with source.client() as client:
            while not stop.wait(0.03):
                names = client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1)
                if not names:
                    return
                address = (target.host, target.port)
                client.execute_command("MIGRATE", *address, "", 0, 1000, "KEYS", names[0])
                moved.append(names[0])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(lambda: len(moved) > 2, "the tool moves")
        yield moved
    finally:
        stop.set()
        thread.join()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
