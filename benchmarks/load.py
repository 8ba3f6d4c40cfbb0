# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An open-loop client of a cluster, in a process of its own.

It sends at times that are drawn beforehand (exponential gaps), whether or not earlier answers have
come, and counts each latency from the scheduled time: a server that stalls for 50 ms shows in
every operation that was due in these 50 ms, not in one. MOVED and ASK are followed, and their
round trips count. Each node has one connection for reads and one for writes, so that a node that
holds back writes only holds back writes only.

    python -m benchmarks.load < settings.json
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import select
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from binascii import crc_hqx
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from tests.harness.cluster import SLOTS

UNANSWERED = -1.0
LAST_ANSWERS_SECONDS = 2.0
FIELD = b"field:0"


@dataclass(frozen=True)
class Settings:
    """What the client does.

    owners: (first slot, last slot, host, port). rate: operations a second. writes: share of them
    that write. keys: that many were seeded; at most `used` of them are asked for. hashes: the keys
    are hashes, not strings.
    """

    owners: Sequence[tuple[int, int, str, int]]
    rate: float
    keys: int
    value_bytes: int
    writes: float = 0.5
    hashes: bool = False
    used: int = 20_000
    seed: int = 1


@dataclass(frozen=True)
class Samples:
    """What happened: an entry an operation in each array, ordered by `due`.

    due: time.monotonic() at which it was to be sent. latency: seconds from then to its answer.
    sent_late: seconds from then to its sending: the client's own share of the latency.
    """

    due: array[float]
    latency: array[float]
    sent_late: array[float]
    slot: array[int]
    errors: Counter[str]
    redirects: int
    niceness: int

    def window(self, start: float, end: float) -> Iterator[tuple[int, float]]:
        """(slot, latency) of what was due from start to end and was answered."""
        for index in range(bisect_left(self.due, start), bisect_left(self.due, end)):
            if self.latency[index] != UNANSWERED:
                yield self.slot[index], self.latency[index]

    def lateness(self, start: float, end: float) -> array[float]:
        """Seconds by which the client itself was late, for what was due from start to end."""
        return self.sent_late[bisect_left(self.due, start) : bisect_left(self.due, end)]


def key_name(number: int) -> bytes:
    """The name of a key by its number."""
    return b"key:%d" % number


def slot_of(name: bytes) -> int:
    """The slot of a name without a hash tag."""
    return crc_hqx(name, 0) % SLOTS


def encode(*words: bytes) -> bytes:
    """A command as it is sent."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"".join(parts)


def take_answers(buffer: bytearray) -> Iterator[bytes]:
    """Remove whole answers (lines and bulk strings) from the buffer, the first line of each."""
    start = 0
    while (end := buffer.find(b"\r\n", start)) >= 0:
        line = bytes(buffer[start:end])
        after = end + 2
        if line[:1] == b"$" and line != b"$-1":
            after += int(line[1:]) + 2
            if after > len(buffer):
                break
        start = after
        yield line
    del buffer[:start]


# Here, in the benchmark


class Load:
    """The client, running for as long as a `with` block lasts, or until stop()."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __enter__(self) -> Load:
        self._folder = tempfile.TemporaryDirectory(prefix="keyslot-load-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", self._folder.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(self.settings)).encode() + b"\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the client did not start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def stop(self) -> Samples:
        """End the client; what it saw. RuntimeError: it failed."""
        self._process.communicate(timeout=60)
        if self._process.returncode:
            raise RuntimeError(f"the client ended with exit code {self._process.returncode}")
        facts = json.loads((Path(self._folder.name) / "facts.json").read_text(encoding="utf-8"))
        return Samples(
            due=array("d", self._column("due")),
            latency=array("d", self._column("latency")),
            sent_late=array("d", self._column("sent_late")),
            slot=array("H", self._column("slot")),
            errors=Counter(facts["errors"]),
            redirects=facts["redirects"],
            niceness=facts["niceness"],
        )

    def _column(self, name: str) -> bytes:
        return (Path(self._folder.name) / name).read_bytes()


# In the client's own process


@dataclass(eq=False)
class _Connection:
    """Whose answers are waited for, oldest first; None is the answer to ASKING."""

    sock: socket.socket
    waiting: deque[int | None] = field(default_factory=deque)
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, data: bytes) -> None:
        self.unsent += data
        self.flush()

    def flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            del self.unsent[: self.sock.send(self.unsent)]


class _Client:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.random = random.Random(settings.seed)
        self.owners: list[tuple[str, int]] = [("", 0)] * SLOTS
        for first, last, host, port in settings.owners:
            self.owners[first : last + 1] = [(host, port)] * (last - first + 1)
        numbers = self.random.sample(range(settings.keys), min(settings.used, settings.keys))
        self.keys = [(name, slot_of(name)) for name in map(key_name, numbers)]
        self.value = self.random.randbytes(settings.value_bytes)
        self.connections: dict[tuple[str, int, bool], _Connection] = {}
        self.due, self.latency, self.sent_late = array("d"), array("d"), array("d")
        self.slot = array("H")
        # index -> what may have to be sent again: (command, whether it writes)
        self.commands: dict[int, tuple[bytes, bool]] = {}
        self.errors: Counter[str] = Counter()
        self.redirects = 0

    def connection(self, host: str, port: int, writes: bool) -> _Connection:
        if (host, port, writes) not in self.connections:
            sock = socket.create_connection((host, port), timeout=10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self.connections[host, port, writes] = _Connection(sock)
        return self.connections[host, port, writes]

    def run(self) -> None:
        """Work until standard input ends, then wait a little for the last answers."""
        for host, port in set(self.owners):
            for writes in (False, True):
                self.connection(host, port, writes)
        print("ready", flush=True)
        stdin = sys.stdin.fileno()
        due = time.monotonic()
        while True:
            while due <= time.monotonic():
                self.issue(due)
                due += self.random.expovariate(self.settings.rate)
            if self.wait(max(0.0, due - time.monotonic()), stdin):
                break
        deadline = time.monotonic() + LAST_ANSWERS_SECONDS
        while self.commands and time.monotonic() < deadline:
            self.wait(0.05)
        if self.commands:
            self.errors["no answer"] += len(self.commands)

    def issue(self, due: float) -> None:
        """Send the operation that was due then."""
        name, slot = self.random.choice(self.keys)
        writes = self.random.random() < self.settings.writes
        words: list[bytes]
        if self.settings.hashes:
            words = [b"HSET" if writes else b"HGET", name, FIELD]
        else:
            words = [b"SET" if writes else b"GET", name]
        command = encode(*words, self.value) if writes else encode(*words)
        index = len(self.due)
        self.commands[index] = command, writes
        connection = self.connection(*self.owners[slot], writes)
        connection.waiting.append(index)
        connection.send(command)
        self.due.append(due)
        self.latency.append(UNANSWERED)
        self.sent_late.append(time.monotonic() - due)
        self.slot.append(slot)

    def wait(self, seconds: float, stdin: int | None = None) -> bool:
        """Handle what comes, and send what could not be sent; whether stdin can be read."""
        by_number = {connection.fileno(): connection for connection in self.connections.values()}
        unsent = [number for number, connection in by_number.items() if connection.unsent]
        watched = [*by_number] if stdin is None else [*by_number, stdin]
        readable, sendable, _none = select.select(watched, unsent, [], seconds)
        for number in sendable:
            by_number[number].flush()
        for number in readable:
            if number != stdin:
                self.receive(by_number[number])
        return stdin in readable

    def receive(self, connection: _Connection) -> None:
        data = connection.sock.recv(1 << 20)
        now = time.monotonic()
        if not data:
            raise ConnectionError("a server closed a connection")
        connection.received += data
        for line in take_answers(connection.received):
            index = connection.waiting.popleft()
            if index is None:
                continue
            if line.startswith((b"-MOVED ", b"-ASK ")):
                self.follow(index, line.decode())
                continue
            del self.commands[index]
            if line[:1] == b"-":
                self.errors[line.decode(errors="replace")[1:80]] += 1
            else:
                self.latency[index] = now - self.due[index]

    def follow(self, index: int, line: str) -> None:
        """Send it again, to where the answer points."""
        kind, slot, address = line.split()[:3]
        host, _colon, port = address.rpartition(":")
        command, writes = self.commands[index]
        connection = self.connection(host, int(port), writes)
        self.redirects += 1
        if kind == "-MOVED":
            self.owners[int(slot)] = host, int(port)
        else:
            connection.waiting.append(None)
            command = encode(b"ASKING") + command
        connection.waiting.append(index)
        connection.send(command)


def _raise_priority() -> int:
    """So that the client does not wait for a processor, where that is allowed; its niceness."""
    with contextlib.suppress(PermissionError):
        return os.nice(-10)
    return os.nice(0)


def main(folder: Path) -> None:
    settings = Settings(**json.loads(sys.stdin.readline()))
    niceness = _raise_priority()
    client = _Client(settings)
    gc.freeze()
    gc.disable()
    client.run()
    for name in ("due", "latency", "sent_late", "slot"):
        (folder / name).write_bytes(getattr(client, name).tobytes())
    facts = {"errors": client.errors, "redirects": client.redirects, "niceness": niceness}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
