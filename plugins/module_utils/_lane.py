# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""What a mover is given for one lane, the way from one primary to another, and what it tells."""

from __future__ import annotations

import functools
import threading
import time
import typing as t
from contextlib import contextmanager
from dataclasses import dataclass, field

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import KeyslotError
from ansible_collections.keyslot.redis.plugins.module_utils._plan import Move
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Command, Reply
from ansible_collections.keyslot.redis.plugins.module_utils._server import Server
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology

# Seconds that clients wait besides a step, on a machine with work for all of its processors.
BESIDES = 0.0015


@dataclass(frozen=True)
class Movement:
    """The movement options, as users give them."""

    method: str = "auto"
    max_pause_ms: float = 10
    batch_size: int = 100
    big_key_bytes: int = 16777216
    on_busy_key: str = "fail"
    wait_timeout: float = 60
    max_seconds: float = 0
    progress_interval: float = 5


class Tally:
    """What has been moved, by all lanes together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.longest_pause = 0.0
        self.warnings: list[str] = []

    def pause(self, seconds: float) -> None:
        """A step of ours held a server up for so long."""
        with self._lock:
            self.longest_pause = max(self.longest_pause, seconds)

    def warn(self, message: str) -> None:
        with self._lock:
            if message not in self.warnings:
                self.warnings.append(message)


class Pace:
    """How much to send at once: a little more after each short pause, half after a long one.

    (Additive increase, multiplicative decrease.) `limit`, in seconds, is how long clients may have
    to wait. The step itself gets less of it: they wait for a processor and for other steps, too.
    """

    def __init__(self, limit: float, start: int, most: int) -> None:
        self.limit = max(limit / 4, limit - BESIDES)
        self.most = most
        self.size = min(start, most)
        self._step = max(1, start // 2)

    def took(self, seconds: float, amount: int) -> None:
        """Learns from a step of `amount` that held the server up for `seconds`."""
        if seconds > self.limit:
            self.size = max(1, min(self.size, amount) // 2)
        elif seconds < self.limit / 2 and amount >= self.size:
            self.size = min(self.most, self.size + self._step)


@dataclass
class Donor:
    """What all lanes of one source share: who commits, and how many slots it still owns."""

    slots_left: int
    lock: threading.Lock = field(default_factory=threading.Lock)


class Taker:
    """What all lanes to one target share: while one waits for late keys there, none begins a slot,
    because lanes from the same host can't be told apart."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._waiting = 0

    @contextmanager
    def waiting(self) -> t.Iterator[None]:
        with self._free:
            self._waiting += 1
        try:
            yield
        finally:
            with self._free:
                self._waiting -= 1
                self._free.notify_all()

    def wait_until_free(self) -> None:
        with self._free:
            self._free.wait_for(lambda: self._waiting == 0)


class Busy:
    """The nodes that take part in a job of which they can carry only one at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._nodes: set[str] = set()

    @contextmanager
    def holding(self, *node_ids: str) -> t.Iterator[None]:
        """Waits until none of them is busy; they are until the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._nodes.isdisjoint(node_ids))
            self._nodes.update(node_ids)
        try:
            yield
        finally:
            with self._changed:
                self._nodes.difference_update(node_ids)
                self._changed.notify_all()


class Bystanders:
    """The primaries that take no part in a move, and are told of its end beside the lanes, many
    slots at once. They would learn it by gossip, too."""

    AT_ONCE = 64
    PAUSE = 0.1  # seconds, in which slots gather

    def __init__(self, cluster: Cluster, topology: Topology, tally: Tally) -> None:
        self._cluster = cluster
        self._topology = topology
        self._tally = tally
        self._changed = threading.Condition()
        self._waiting: dict[str, list[Command]] = {}
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="bystanders")

    def __enter__(self) -> Bystanders:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Returns when all have been told."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def tell(self, move: Move, slots: t.Iterable[int]) -> None:
        """Has all but the source and the target of the move told who owns the slots now."""
        commands: list[Command] = [("CLUSTER", "SETSLOT", s, "NODE", move.target) for s in slots]
        with self._changed:
            for line in self._topology.primaries:
                if line.id in self._topology.reports and line.id not in (move.source, move.target):
                    self._waiting.setdefault(line.id, []).extend(commands)
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                self._changed.wait_for(lambda: self._ended, self.PAUSE)
                waiting, self._waiting = self._waiting, {}
                if not waiting:
                    return
            answers = self._cluster.each(waiting, functools.partial(self._tell, waiting))
            for node_id, error in answers.items():
                if error:
                    name = self._topology.name(node_id)
                    self._tally.warn(f"{name} could not be told of new owners: {error}")

    def _tell(self, waiting: t.Mapping[str, list[Command]], node_id: str) -> KeyslotError | None:
        server, commands = self._cluster.server(node_id), waiting[node_id]
        for start in range(0, len(commands), self.AT_ONCE):
            for reply in server.scatter(commands[start : start + self.AT_ONCE]):
                if isinstance(reply, KeyslotError):
                    return reply
        return None


@dataclass
class Lane:
    """One move under way.

    `key_counts` is slot -> keys when it was planned, `adopted` the slots that were found open,
    `databases` those to look into, `node_timeout` in seconds. In a `stray` lane the source does not
    own the slots: only keys move, to the node that does, or that the slots are on their way to.
    `slots_done` grows at each commit, `keys_moved` with each batch. `done_at` is a moment of the
    monotonic clock, after which no further slot is begun; nor once `unlocked` is set, because
    another run may be at work then. One slice of a longer run `leaves_jobs` of the engine running
    when its time is up: `slots_going` are those of the job that it left.
    """

    cluster: Cluster
    topology: Topology
    move: Move
    movement: Movement
    tally: Tally
    donor: Donor
    taker: Taker
    busy: Busy
    key_counts: t.Mapping[int, int]
    adopted: frozenset[int]
    databases: t.Sequence[int]
    bystanders: Bystanders
    node_timeout: float
    method: str = ""
    stray: bool = False
    done_at: float | None = None
    leaves_jobs: bool = False
    unlocked: threading.Event = field(default_factory=threading.Event)
    halted: threading.Event = field(default_factory=threading.Event)
    slots_going: tuple[int, ...] = ()
    slots_done: list[int] = field(default_factory=list)
    keys_moved: int = 0
    elapsed: float = 0.0
    round_trips: dict[str, float] = field(default_factory=dict)

    @property
    def slots_left(self) -> tuple[int, ...]:
        done = set(self.slots_done)
        return tuple(slot for slot in self.move.slots if slot not in done)

    @property
    def source(self) -> Server:
        return self.cluster.server(self.move.source)

    @property
    def target(self) -> Server:
        return self.cluster.server(self.move.target)

    @property
    def name(self) -> str:
        names = (self.topology.name(self.move.source), self.topology.name(self.move.target))
        return " to ".join(names)

    def shall_stop(self) -> bool:
        """Whether to begin no further slot: the time is up, another lane has failed, or another
        run may be at work."""
        return self.halted.is_set() or self.unlocked.is_set() or self.is_late()

    def is_late(self) -> bool:
        """Whether the time is up."""
        return self.done_at is not None and time.monotonic() >= self.done_at

    def step(
        self, server: Server, commands: t.Sequence[Command], *learn: tuple[Pace, int]
    ) -> list[Reply]:
        """A pipeline whose time on the server counts as a pause of its clients, the network's
        share taken off, and teaches each pace by the amount that was sent."""
        network = self._network(server)
        replies, seconds = server.timed(commands)
        held = max(0.0, seconds - network)
        self.tally.pause(held)
        for pace, amount in learn:
            pace.took(held, amount)
        return replies

    def _network(self, server: Server) -> float:
        if server.address not in self.round_trips:
            self.round_trips[server.address] = server.round_trip()
        return self.round_trips[server.address]


class Mover(t.Protocol):
    """One way to move slots. Each file of `_movers/` is one."""

    METHOD: str

    def unfit(self, cluster: Cluster, topology: Topology, move: Move) -> str | None:
        """Why this way can't be taken here, or None."""

    def probes(self, movement: Movement, gives: bool, takes: bool) -> list[Command]:
        """Harmless commands that show whether a node lets us do what is needed of it; both are
        False for the primaries that only look on."""

    def move(self, lane: Lane) -> None:
        """Moves the lane's slots, in their order; returns early when `lane.shall_stop()`.

        Whatever the cluster's state after a failure, calling it again finishes the job. Raises
        KeyslotError.
        """
