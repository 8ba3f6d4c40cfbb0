# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cluster for whoever is no Python test: starts it, says where it is, and waits for SIGTERM.

    python -m tests.harness.serve --primaries 3 --spare 1 --keys 10000 --state FILE --pid-file FILE

FILE appears when the cluster is healthy; it holds JSON: {"engine", "nodes", "spares"}, each node
as {"address", "id", "role"}. Both files are gone when it has ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.harness import engines
from tests.harness.cluster import Cluster
from tests.harness.data import seed
from tests.harness.node import Node


def _node(node: Node, role: str) -> dict[str, str]:
    return {"address": node.address, "id": node.id, "role": role}


def _state(cluster: Cluster) -> dict[str, object]:
    replicas = cluster.replicas()
    return {
        "engine": cluster.engine.name,
        "nodes": [
            _node(node, "replica" if node in replicas else "primary") for node in cluster.nodes
        ],
        "spares": [_node(node, "primary") for node in cluster.spares],
    }


@contextlib.contextmanager
def _written(path: Path, text: str) -> Iterator[None]:
    """The file holds the text, from one instant to the next, while this lasts."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.serve")
    parser.add_argument("--engine", default="valkey-9.1", choices=engines.NAMES)
    parser.add_argument("--primaries", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=0, help="for each primary")
    parser.add_argument("--spare", type=int, default=0, help="servers that are not joined")
    parser.add_argument("--keys", type=int, default=0, help="in the cluster at the start")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--pid-file", type=Path, required=True)
    options = parser.parse_args(arguments)

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with contextlib.ExitStack() as stack:
        stack.enter_context(_written(options.pid_file, f"{os.getpid()}\n"))
        cluster = stack.enter_context(
            Cluster.start(
                engines.get(options.engine),
                options.primaries,
                options.replicas,
                spare=options.spare,
            )
        )
        if options.keys:
            seed(cluster, options.keys)
        stack.enter_context(_written(options.state, json.dumps(_state(cluster), indent=2)))
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
