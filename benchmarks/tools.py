# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of a tool: the collection's modules and playbooks, and the vendor's command line tool."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.ansible import result_of, run_playbook, start_module
from tests.harness.cluster import Cluster
from tests.harness.node import Node

REBALANCE = "redis_cluster_rebalance"
POLL_SECONDS = 0.02
# After so long a vendor's tool is ended, and its row says so.
VENDOR_SECONDS = 300


@dataclass(frozen=True)
class Ran:
    """A finished process.

    began: time.monotonic(). seconds: of the whole process. elapsed, longest_pause_ms, keys_moved:
    what our module says of itself. peak_kb: the most memory that it held. error: "" if it
    succeeded.
    """

    began: float
    seconds: float
    error: str = ""
    elapsed: float | None = None
    longest_pause_ms: float | None = None
    keys_moved: int | None = None
    peak_kb: int | None = None

    @property
    def ended(self) -> float:
        return self.began + self.seconds


Tool = Callable[[Cluster], Ran]


class _Peak:
    """The most memory of a process, by its VmHWM while it lives.

    Not ru_maxrss: that of a child starts with what its parent held when it forked.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.kb = 0
        self._status = Path(f"/proc/{process.pid}/status")
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while text := self._read():
            self.kb = int(text.split("VmHWM:")[1].split()[0])
            time.sleep(POLL_SECONDS)

    def _read(self) -> str:
        """Empty when the process is gone, or a zombie, which has no memory."""
        try:
            text = self._status.read_text(encoding="ascii", errors="replace")
        except OSError:
            return ""
        return text if "VmHWM:" in text else ""

    def ended(self) -> int:
        self._thread.join()
        return self.kb


# Ours


def login(node: Node) -> dict[str, Any]:
    """The options that lead to this node."""
    return {"login_host": node.host, "login_port": node.port}


def module(name: str, cluster: Cluster, **options: Any) -> Ran:
    """Run a module as a process of its own."""
    began = time.monotonic()
    process = start_module(name, {**login(cluster.nodes[0]), **options})
    peak = _Peak(process)
    result = result_of(process)
    return Ran(
        began,
        time.monotonic() - began,
        str(result["msg"]) if result.get("failed") else "",
        result.get("elapsed"),
        result.get("longest_pause_ms"),
        result.get("keys_moved"),
        peak.ended(),
    )


def playbook(name: str, cluster: Cluster, **variables: Any) -> Ran:
    """Run a playbook of the collection; `elapsed` is that of the module that moved slots."""
    entry = {f"keyslot_{key}": value for key, value in login(cluster.nodes[0]).items()}
    began = time.monotonic()
    play = run_playbook(name, {**entry, **variables})
    seconds = time.monotonic() - began
    told = next((result for _task, result in play.results if "slots_moved" in result), {})
    # The task that has failed is the last one.
    why = str(play.results[-1][1].get("msg")) if play.results else play.output[-500:]
    return Ran(
        began,
        seconds,
        why if play.code else "",
        told.get("elapsed"),
        told.get("longest_pause_ms"),
        told.get("keys_moved"),
    )


def rebalance(**options: Any) -> Tool:
    """Our module fills the empty primary."""
    return lambda cluster: module(REBALANCE, cluster, use_empty_primaries=True, **options)


def rebalance_playbook(**variables: Any) -> Tool:
    """The same by ansible-playbook."""
    return lambda cluster: playbook(
        "rebalance", cluster, rebalance_use_empty_primaries=True, **variables
    )


# Theirs


def vendor(cluster: Cluster, *words: str, seconds: float = VENDOR_SECONDS) -> Ran:
    """Run redis-cli or valkey-cli --cluster as a process of its own, its output thrown away."""
    assert cluster.engine.cli is not None
    began = time.monotonic()
    process = subprocess.Popen(
        [*cluster.engine.cli, "--cluster", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    peak = _Peak(process)
    try:
        output, _none = process.communicate(timeout=seconds)
        error = f"exit code {process.returncode}: {output[-300:]}" if process.returncode else ""
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        error = f"ended after {seconds:.0f} s"
    return Ran(began, time.monotonic() - began, error, peak_kb=peak.ended())


def vendor_rebalance(*flags: str) -> Tool:
    """The vendor's tool fills the empty primary."""
    return lambda cluster: vendor(
        cluster,
        "rebalance",
        cluster.nodes[0].address,
        "--cluster-use-empty-masters",
        *flags,
    )


def vendor_name(family: str) -> str:
    """`redis-cli` or `valkey-cli`."""
    return f"{family}-cli"
