# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster with data and an empty primary, which can be brought back to its first state."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random

from benchmarks import tools
from benchmarks.load import Settings, encode, key_name, slot_of
from tests.harness import engines
from tests.harness.cluster import SLOTS, Cluster, even_slots, range_text
from tests.harness.node import Node

BATCH = 2000
BATCH_BYTES = 1 << 20
CONVERGENCE_SECONDS = 60
# An engine deletes what an atomic migration left behind after it has said that it is done.
KEYS_SECONDS = 30

Owners = Sequence[Node | None]


class StateError(RuntimeError):
    """The cluster is not as it should be after a run; the text says how."""


@dataclass(frozen=True)
class Setup:
    """The cluster of a case: `primaries` with equal shares of slots and keys, and an empty one.

    keys: strings of value_bytes, or hashes with so many fields of value_bytes. replicas: a primary.
    """

    engine: str
    keys: int
    value_bytes: int = 200
    fields: int = 0
    primaries: int = 3
    replicas: int = 0
    node_timeout_ms: int = 5000


class World:
    """The cluster of a Setup, for as long as a `with` block lasts."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.engine = engines.get(setup.engine)
        self.keys = 0

    def __enter__(self) -> World:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.cluster.close()

    def start(self) -> None:
        shares = [" ".join(range_text(share)) for share in even_slots(self.setup.primaries)]
        self.cluster = Cluster.start(
            self.engine,
            self.setup.primaries + 1,
            self.setup.replicas,
            node_timeout_ms=self.setup.node_timeout_ms,
            slots=[*shares, ""],
        )
        try:
            self.home: Owners = self.cluster.slot_owners()
            self.seed(self.setup.keys)
        except BaseException:
            self.cluster.close()
            raise

    def start_again(self) -> None:
        """In place of a cluster that a tool has left in a state that is of no more use."""
        self.cluster.close()
        self.keys = 0
        self.start()

    @property
    def to_move(self) -> int:
        """How many slots the empty primary is to get."""
        return SLOTS // (self.setup.primaries + 1)

    def seed(self, keys: int) -> None:
        """Write keys until there are so many."""
        write_keys(self.cluster, range(self.keys, keys), self.setup.value_bytes, self.setup.fields)
        self.keys = keys

    def load_settings(self, rate: float) -> Settings:
        """For a client of this cluster; it only reads where there are no keys, to keep it so."""
        return Settings(
            owners=[
                (first, last, node.host, node.port)
                for node, ranges in by_owner(self.cluster.slot_owners()).items()
                for first, last in ranges
            ],
            rate=rate,
            keys=self.keys or SLOTS,
            value_bytes=self.setup.value_bytes,
            writes=0.5 if self.keys else 0.0,
            hashes=bool(self.setup.fields),
        )

    def moved(self) -> frozenset[int]:
        """The slots that are not where they were at first. StateError: members disagree."""
        self.settle()
        owners = self.cluster.slot_owners()
        return frozenset(slot for slot in range(SLOTS) if owners[slot] is not self.home[slot])

    def settle(self) -> None:
        """Wait until all is well, and no key is missing. StateError: it is not."""
        try:
            self.cluster.wait_healthy(CONVERGENCE_SECONDS)
        except AssertionError as error:
            raise StateError(str(error)) from error
        wait_for_keys(self.cluster, self.keys)

    def restore(self) -> None:
        """Bring every slot back, by our own module. StateError: it did not work."""
        self.settle()
        owners = self.cluster.slot_owners()
        routes: dict[tuple[str, str], list[int]] = {}
        for slot, (now, then) in enumerate(zip(owners, self.home, strict=True)):
            if now is not then and now and then:
                routes.setdefault((now.id, then.id), []).append(slot)
        moves = [
            {"source": source, "target": target, "slots": range_text(to_ranges(slots))}
            for (source, target), slots in routes.items()
        ]
        if moves:
            ran = tools.module("redis_slot_migrate", self.cluster, moves=moves, max_pause_ms=500)
            if ran.error:
                raise StateError(ran.error)
        if self.moved():
            raise StateError("not all slots came back")

    def server_cpu(self) -> float:
        """Seconds of processor time that all servers of the cluster have used."""
        facts = [node.info("cpu") for node in self.cluster.all_nodes() if node.running]
        return sum(float(fact["used_cpu_user"]) + float(fact["used_cpu_sys"]) for fact in facts)


def wait_for_keys(cluster: Cluster, keys: int) -> None:
    """Wait until the primaries hold so many keys. StateError: they do not."""
    deadline = time.monotonic() + KEYS_SECONDS
    while True:
        found = sum(int(node.call("DBSIZE")) for node in cluster.primaries())
        if found == keys:
            return
        if time.monotonic() > deadline:
            raise StateError(f"{found} keys are there, not {keys}")
        time.sleep(0.05)


def to_ranges(slots: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Pairs of first and last slot, of slots in order."""
    runs = groupby(enumerate(slots), lambda pair: pair[1] - pair[0])
    parts = ([slot for _index, slot in run] for _key, run in runs)
    return tuple((part[0], part[-1]) for part in parts)


def by_owner(owners: Owners) -> dict[Node, tuple[tuple[int, int], ...]]:
    """Each owner's ranges."""
    found: dict[Node, list[int]] = {}
    for slot, node in enumerate(owners):
        if node is not None:
            found.setdefault(node, []).append(slot)
    return {node: to_ranges(slots) for node, slots in found.items()}


def write_keys(cluster: Cluster, numbers: Iterable[int], value_bytes: int, fields: int) -> None:
    """Write the keys of these numbers straight to their owners: strings, or hashes with fields.

    Values are random, so that the servers cannot compress them.
    """
    owners = cluster.slot_owners()
    batches: dict[Node, list[bytes]] = {}
    sizes: dict[Node, int] = {}
    for name, command in _commands(numbers, value_bytes, fields):
        node = owners[slot_of(name)]
        assert node is not None
        batch = batches.setdefault(node, [])
        batch.append(command)
        sizes[node] = sizes.get(node, 0) + len(command)
        if len(batch) == BATCH or sizes[node] > BATCH_BYTES:
            _send(node, batch)
            sizes[node] = 0
    for node, batch in batches.items():
        _send(node, batch)


def _commands(
    numbers: Iterable[int], value_bytes: int, fields: int
) -> Iterator[tuple[bytes, bytes]]:
    random = Random(1)
    pool = random.randbytes(value_bytes + (1 << 16))
    for number in numbers:
        name = key_name(number)
        starts = (random.randrange(1 << 16) for _value in range(fields or 1))
        values = [pool[start : start + value_bytes] for start in starts]
        if fields:
            pairs = (word for n, value in enumerate(values) for word in (b"field:%d" % n, value))
            yield name, encode(b"HSET", name, *pairs)
        else:
            yield name, encode(b"SET", name, values[0])


def _send(node: Node, batch: list[bytes]) -> None:
    """Send commands and read their answers, which are one line each. RuntimeError: an error."""
    if not batch:
        return
    with socket.create_connection((node.host, node.port), timeout=60) as sock:
        sock.sendall(b"".join(batch))
        answers = b""
        while answers.count(b"\r\n") < len(batch):
            answers += sock.recv(1 << 16)
    if b"-" in answers:
        raise RuntimeError(f"{node.address}: {answers[:200]!r}")
    batch.clear()
