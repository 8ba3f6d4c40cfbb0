# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nodes tell of themselves and of the cluster, and waiting until they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.harness import data
from tests.harness.cluster import Cluster, Line, parse_nodes
from tests.harness.node import Node


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


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
