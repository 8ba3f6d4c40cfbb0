# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Two runs at once: one works, the other is told who is at work.

Each run bears a name on a connection of its own to every primary, set by test-and-set: CLIENT LIST
and CLIENT SETNAME in one MULTI. No key, no file; the names go with the connections, that is, with
the process. The primary with the lowest id is asked first, alone, so that of two runs which start
in the same instant exactly one goes on. A primary that joins or is promoted later bears no name,
and need not: a second run asks all primaries, and one that knows is enough.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
import select
import signal
import socket
import threading
import time
import typing as t
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ansible_collections.keyslot.redis.plugins.module_utils import _slice
from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    KeyslotError,
    Refused,
    ReplyError,
    Stopped,
)
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Command, Reply
from ansible_collections.keyslot.redis.plugins.module_utils._server import Login, Server, text
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology

# More often than any `timeout` by which a server closes idle connections.
PING_SECONDS = 0.5
# A run that was cancelled between two slices may be kept so long; then its cluster is free.
KEEPER_PATIENCE = 6.0
PAUSE = 0.3
READY_SECONDS = 5.0

_LIST: Command = ("CLIENT", "LIST")
_NAME = re.compile(
    r"keyslot:(?P<host>[^:]*):(?P<pid>\d+):(?P<since>\d+):(?P<token>[0-9a-f]+)(?P<keeps>:keeper)?"
)


@dataclass(frozen=True)
class Holder:
    """Who bears a name on a node: a run, or the process that keeps its place between slices."""

    host: str
    pid: int
    since: int
    token: str
    keeps: bool
    address: str

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.pid} on the host '{self.host}', since {since}"


@dataclass(frozen=True)
class _Answer:
    """What one node said: who is there beside us, or which rights we lack to ask."""

    holders: t.Sequence[Holder] = ()
    denied: t.Sequence[ReplyError] = ()


def holders(client_list: str) -> list[Holder]:
    """The runs in a CLIENT LIST reply."""
    found = []
    for line in client_list.splitlines():
        fields = dict(part.partition("=")[::2] for part in line.split(" "))
        name = _NAME.fullmatch(fields.get("name", ""))
        if name:
            found.append(
                Holder(
                    host=name["host"],
                    pid=int(name["pid"]),
                    since=int(name["since"]),
                    token=name["token"],
                    keeps=bool(name["keeps"]),
                    address=fields.get("addr", ""),
                )
            )
    return found


class Lock:
    """Our names on the primaries. `lost` is set when one of them is no longer sure."""

    def __init__(self, token: str, since: float, keeps: bool = False) -> None:
        self.token = token
        self.since = int(since)
        self.lost = threading.Event()
        self._why = ""
        self._keeps = keeps
        self._servers: list[Server] = []
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def error(self) -> KeyslotError | None:
        """Why the run must not go on, if it must not."""
        if not self.lost.is_set():
            return None
        return Stopped(
            f"the connection that keeps other runs off was lost: {self._why.rstrip('.')}. What has "
            "moved stays moved. Look whether that node is well and whether another run has begun, "
            "then run it again."
        )

    @property
    def _name(self) -> str:
        """CLIENT SETNAME takes printable ASCII without blanks."""
        host = re.sub(r"[^!-9;-~]", "-", socket.gethostname())[:64]
        kind = ":keeper" if self._keeps else ""
        return f"keyslot:{host}:{os.getpid()}:{self.since}:{self.token}{kind}"

    def ask(self, server: Server) -> _Answer:
        """Sets our name on a new connection; tells who was there before.

        Who finds the run's own token has a place already: any other name there came later, looked,
        and is about to go. Raises KeyslotError if the node can't be asked.
        """
        ours = Server(server.host, server.port, server.login)
        self._servers.append(ours)
        name: Command = ("CLIENT", "SETNAME", self._name)
        replies = ours.pipeline([("PING",), ("MULTI",), _LIST, name, ("EXEC",)])
        denied = [reply for reply in replies if _is_denied(reply)]
        listed = replies[-1][0] if isinstance(replies[-1], list) else None
        if denied and listed is None:
            return _Answer(denied=denied)
        earlier = True
        if listed is None:
            # A server that is out of memory queues nothing. In this order two that come in the
            # same instant may both see each other, but never both be blind.
            listed, earlier = ours.pipeline([name, _LIST])[1], False
        if not isinstance(listed, bytes):
            raise Refused(f"{listed}. Nothing was changed: run it again when that has passed.")
        found = holders(text(listed))
        others = [holder for holder in found if holder.token != self.token]
        own = [h for h in found if h.token == self.token and (earlier or h.pid != os.getpid())]
        return _Answer([] if own else others, denied)

    def watch(self) -> None:
        """From now on notices when a connection is lost, and keeps all of them from being idle."""
        for server in self._servers:
            thread = threading.Thread(target=self._ping, args=(server,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _ping(self, server: Server) -> None:
        """A thread for each: a node that stands still must not keep the others waiting."""
        while not self._ended.wait(PING_SECONDS):
            try:
                server.pipeline([("PING",)])
            except KeyslotError as exc:
                if not self._ended.is_set():
                    self._why = str(exc)
                    self.lost.set()
                return

    def release(self) -> None:
        """Ends our connections, and with them our names."""
        self._ended.set()
        self._close()
        for thread in self._threads:
            thread.join()
        self._close()  # one of them may just have connected again
        self._servers = []

    def _close(self) -> None:
        for server in self._servers:
            server.close()

    def leave_keeper(self, seconds: float) -> str:
        """Leaves a process behind that keeps our place for so long, for the next slice.

        Returns who it is, for `end_keeper`; nothing if it could not take our place.
        """
        places = [(server.host, server.port, server.login) for server in self._servers]
        ready, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            _keep(Lock(self.token, self.since, keeps=True), places, seconds, theirs)
        os.close(theirs)
        try:
            if select.select([ready], [], [], READY_SECONDS)[0] and os.read(ready, 1):
                return f"{pid}@{socket.gethostname()}"
        finally:
            os.close(ready)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return ""


def _is_denied(reply: Reply) -> bool:
    return isinstance(reply, ReplyError) and bool(reply.grant or "unknown command" in reply.text)


def _keep(
    lock: Lock, places: t.Sequence[tuple[str, int, Login]], seconds: float, ready: int
) -> t.NoReturn:
    """The life of a keeper: it shares nothing with the process that it was forked from, whose end
    Ansible waits for. It moves nothing, and ends in time whatever happens."""
    try:
        os.setsid()
        for kind in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT, signal.SIGHUP):
            signal.signal(kind, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds + READY_SECONDS)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        for descriptor in map(int, os.listdir("/dev/fd")):
            if descriptor > 2 and descriptor != ready:
                with suppress(OSError):
                    os.close(descriptor)
        for host, port, login in places:
            if lock.ask(Server(host, port, login)).holders:
                os._exit(1)
        lock.watch()
        os.write(ready, b"1")
        os.close(ready)
        lock.lost.wait(seconds)
    finally:
        os._exit(0)


def end_keeper() -> None:
    """Ends the process that the slice before this one has left on this host."""
    part = _slice.current()
    pid, _at, host = part.keeper.partition("@") if part else ("", "", "")
    if not pid or host != socket.gethostname() or pid in _ended_keepers:
        return
    _ended_keepers.add(pid)
    with suppress(ProcessLookupError, PermissionError):
        if os.getsid(int(pid)) == int(pid):
            os.kill(int(pid), signal.SIGTERM)


_ended_keepers: set[str] = set()


@functools.cache
def _token(pid: int) -> str:
    """The same for all of a process that is no slice."""
    return secrets.token_hex(8)


@contextmanager
def at_work(
    cluster: Cluster, topology: Topology, warn: t.Callable[[str], None]
) -> t.Iterator[Lock]:
    """In this block no other run works on the cluster, unless and until `lost` is set.

    Inside of another such block of the same run it is granted at once. Where ACL denies what it
    takes, there is a warning instead. Raises Refused if another run is at work.
    """
    part = _slice.current()
    token = part.token if part else _token(os.getpid())
    since = time.time() - (part.age if part else 0)
    lock = _take(cluster, topology, warn, token, since)
    try:
        end_keeper()
        yield lock
    finally:
        lock.release()


def _take(
    cluster: Cluster,
    topology: Topology,
    warn: t.Callable[[str], None],
    token: str,
    since: float,
) -> Lock:
    deadline = time.monotonic() + KEEPER_PATIENCE
    while True:
        lock = Lock(token, since)
        try:
            found = _ask_all(cluster, topology, lock, warn)
        except BaseException:
            lock.release()
            raise
        if not found:
            lock.watch()
            return lock
        lock.release()
        node_id, others = found
        time.sleep(PAUSE)
        staying = _who_stays(cluster, node_id, others)
        # A run between two slices comes back, or has been cancelled there.
        may_end = all(holder.keeps for holder in staying)
        if not may_end or time.monotonic() > deadline:
            raise _refused(topology, node_id, staying or others)


def _who_stays(cluster: Cluster, node_id: str, others: t.Sequence[Holder]) -> list[Holder]:
    """Without those that were about to go: a run that has just ended, or that came in the same
    instant and was refused like us."""
    now = {holder.token for holder in holders(text(cluster.server(node_id).call(*_LIST)))}
    return [holder for holder in others if holder.token in now]


def _ask_all(
    cluster: Cluster, topology: Topology, lock: Lock, warn: t.Callable[[str], None]
) -> tuple[str, t.Sequence[Holder]] | None:
    """The first node on which others are at work, and who they are."""
    ids = sorted(line.id for line in topology.primaries if line.id in topology.reports)
    denied: dict[str, t.Sequence[ReplyError]] = {}
    for group in (ids[:1], ids[1:]):
        answers = cluster.each(group, lambda node_id: lock.ask(cluster.server(node_id)))
        for node_id, answer in answers.items():
            if isinstance(answer, KeyslotError):
                raise answer
            if answer.holders:
                return node_id, answer.holders
            if answer.denied:
                denied[node_id] = answer.denied
    if denied:
        warn(_denied_text(topology, denied))
    return None


def _refused(topology: Topology, node_id: str, others: t.Sequence[Holder]) -> Refused:
    found = min(others, key=lambda holder: (holder.keeps, holder.since, holder.pid))
    return Refused(
        f"another run is at work on this cluster: {found} (connected to {topology.name(node_id)} "
        f"from {found.address}). Nothing was changed: run it again when that one has ended, or end "
        "it there; what is killed is not in the way."
    )


def _denied_text(topology: Topology, denied: t.Mapping[str, t.Sequence[ReplyError]]) -> str:
    node_id, errors = next(iter(denied.items()))
    commands = ", ".join(dict.fromkeys(error.command for error in errors))
    grants = " ".join(dict.fromkeys(error.grant for error in errors)).strip()
    remedy = f"grant it {grants}, on every node" if grants else "give that command its name back"
    return (
        f"Other runs can't be kept off: the user '{errors[0].user}' may not run {commands} on "
        f"{topology.name(node_id)}. See to it that no two runs work on this cluster at the same "
        f"time, or {remedy}."
    )
