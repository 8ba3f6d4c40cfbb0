# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that work on a cluster while it is reshaped, and know what they were promised.

Every key belongs to one writer, which gives it growing versions, so that "the last acknowledged
version" is well defined. A write without an answer may or may not have been executed, even
later: its key is written no more (a fresh key of the same slot takes its place) and may hold any
version from the last acknowledged to the last tried one.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from tests.harness.cluster import SLOTS, Cluster, parse_ranges
from tests.harness.data import pipe, slot_of, tag_for_slot
from tests.harness.node import Node
from tests.harness.views import wait_until

# What redis-py raises where its map of the cluster is behind; nothing has been sent then.
_MAP_ERRORS = (AttributeError, KeyError, IndexError, redis.exceptions.SlotNotCoveredError)
_PAUSE_AFTER_ERROR = 0.01


@dataclass(eq=False)
class _Key:
    """One key and what is known of it."""

    tag: bytes
    number: int
    generation: int = 0
    acknowledged: int = 0
    attempted: int = 0

    @property
    def name(self) -> bytes:
        return b"{%s}live:%d:%d" % (self.tag, self.number, self.generation)


@dataclass(eq=False)
class _Worker:
    """One thread, its client and its own records (so that threads share no list)."""

    client: RedisCluster
    work: Callable[[_Worker], None]
    rng: random.Random
    keys: list[_Key] = field(default_factory=list)
    samples: list[tuple[float, float]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    thread: threading.Thread | None = None


class LiveClients:
    """Writers and readers in threads, from the start of a `with` block until stop() or its end.

    slots: ranges such as ["0-99"], default all; `keys` keys are spread evenly over them.
    rate: operations a second of all threads together, default as fast as they can.
    value_bytes: least length of a value. timeout: seconds a client waits for an answer.
    retries: how often redis-py itself tries again after an error; applications have 3 by default.
    With TLS each new connection costs redis-py some 80 ms, which shows in the first latencies.
    """

    def __init__(
        self,
        cluster: Cluster,
        writers: int = 2,
        readers: int = 1,
        rate: float | None = None,
        *,
        slots: Sequence[str] | None = None,
        keys: int = 1000,
        value_bytes: int = 0,
        timeout: float = 30.0,
        retries: int = 0,
        seed: int = 1,
    ) -> None:
        self.cluster = cluster
        self.stale: list[str] = []
        self._padding = b" " * value_bytes
        self._gap = (writers + readers) / rate if rate else 0.0
        self._stop = threading.Event()
        self._retired: list[_Key] = []
        self._workers = [
            _Worker(
                cluster.seed_client(
                    socket_timeout=timeout,
                    socket_connect_timeout=timeout,
                    retry=Retry(NoBackoff(), retries),
                ),
                self._write if index < writers else self._read,
                random.Random(seed * 1000 + index),
            )
            for index in range(writers + readers)
        ]
        self._writers = self._workers[:writers]
        for number, slot in enumerate(_spread(slots, keys)):
            self._writers[number % writers].keys.append(_Key(tag_for_slot(slot), number))

    # Life

    def start(self) -> LiveClients:
        """Start the threads and wait until each has done something."""
        for worker in self._workers:
            worker.thread = threading.Thread(target=self._run, args=(worker,), daemon=True)
            worker.thread.start()
        wait_until(lambda: all(w.samples or w.errors for w in self._workers), "clients", 60)
        return self

    def stop(self) -> None:
        """End the threads, each after the operation it is at; twice does no harm."""
        self._stop.set()
        for worker in self._workers:
            if worker.thread:
                worker.thread.join()
            with contextlib.suppress(redis.RedisError, OSError):
                worker.client.close()

    def __enter__(self) -> LiveClients:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Results

    @property
    def operations(self) -> int:
        """How many operations succeeded so far."""
        return sum(len(worker.samples) for worker in self._workers)

    @property
    def writes(self) -> int:
        """How many of them were writes."""
        return sum(len(worker.samples) for worker in self._writers)

    @property
    def errors(self) -> Counter[str]:
        """What failed for good, by text; MOVED, ASK and TRYAGAIN are followed and don't count."""
        return sum((worker.errors for worker in self._workers), Counter())

    @property
    def samples(self) -> list[tuple[float, float]]:
        """(start by time.monotonic(), seconds) of every operation that succeeded, in order."""
        return sorted(sample for worker in self._workers for sample in list(worker.samples))

    @property
    def latencies(self) -> list[float]:
        """Seconds of every operation that succeeded."""
        return [seconds for _start, seconds in self.samples]

    def between(self, start: float, end: float) -> list[float]:
        """Latencies of the operations that began or ended from start to end (monotonic)."""
        return [took for began, took in self.samples if began <= end and began + took >= start]

    def verify(self, cluster: Cluster | None = None) -> list[str]:
        """Read all keys from their owners: acknowledged writes that are lost, a line each.

        Call it after stop(). AssertionError: the members disagree about owners.
        """
        owners = (cluster or self.cluster).slot_owners()
        by_owner: dict[Node | None, list[_Key]] = {}
        live = [key for writer in self._writers for key in writer.keys]
        for key in live + self._retired:
            if key.attempted:
                by_owner.setdefault(owners[slot_of(key.name)], []).append(key)
        lost = [f"{key.name!r}: its slot has no owner" for key in by_owner.pop(None, [])]
        for node, keys in by_owner.items():
            assert node is not None
            with node.client() as client:
                values = pipe(client, [("GET", key.name) for key in keys])
            pairs = zip(keys, values, strict=True)
            lost += [text for key, value in pairs if (text := _loss(node, key, value))]
        return lost

    def lost(self) -> list[str]:
        """Reads that were older than promised while it ran, and what verify() finds now."""
        return self.stale + self.verify()

    # Work

    def _run(self, worker: _Worker) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            worker.work(worker)
            if self._gap:
                due = max(due + self._gap, time.monotonic() - 1)
                self._stop.wait(max(0.0, due - time.monotonic()))

    def _write(self, worker: _Worker) -> None:
        index = worker.rng.randrange(len(worker.keys))
        key = worker.keys[index]
        key.attempted += 1
        value = b"%d%s" % (key.attempted, self._padding)
        if self._do(worker, lambda: worker.client.set(key.name, value)):
            key.acknowledged = key.attempted
            return
        self._retired.append(key)
        worker.keys[index] = _Key(key.tag, key.number, key.generation + 1)

    def _read(self, worker: _Worker) -> None:
        keys = worker.rng.choice(self._writers).keys
        key = keys[worker.rng.randrange(len(keys))]
        promised = key.acknowledged
        answer: list[Any] = []
        if self._do(worker, lambda: answer.append(worker.client.get(key.name))):
            found = _version(answer[0])
            if found < promised:
                self.stale.append(f"read {key.name!r}: version {found}, promised {promised}")

    def _do(self, worker: _Worker, action: Callable[[], Any]) -> bool:
        """Do and record one operation; once more, with a new map, where redis-py was lost."""
        began = time.monotonic()
        try:
            try:
                action()
            except _MAP_ERRORS:
                worker.client.nodes_manager.initialize()
                action()
        except Exception as error:  # whatever it is, it belongs into the record
            worker.errors[f"{type(error).__name__}: {error}"] += 1
            self._stop.wait(_PAUSE_AFTER_ERROR)
            return False
        worker.samples.append((began, time.monotonic() - began))
        return True


def _spread(slots: Sequence[str] | None, keys: int) -> list[int]:
    """`keys` slots, evenly taken from these ranges; some more than once if there are fewer."""
    ranges = parse_ranges(slots) if slots is not None else [(0, SLOTS - 1)]
    chosen = [slot for first, last in ranges for slot in range(first, last + 1)]
    if keys <= len(chosen):
        return [chosen[index * len(chosen) // keys] for index in range(keys)]
    return [chosen[index % len(chosen)] for index in range(keys)]


def _version(value: bytes | None) -> int:
    return int(value) if value else 0


def _loss(node: Node, key: _Key, value: Any) -> str:
    """What is wrong with the value of a key on its owner; empty if nothing is."""
    if isinstance(value, Exception):
        return f"{key.name!r} on {node.address}: {value}"
    found = _version(value)
    if key.acknowledged <= found <= key.attempted:
        return ""
    return (
        f"{key.name!r} on {node.address}: version {found}, "
        f"acknowledged {key.acknowledged}, last tried {key.attempted}"
    )
