# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""All servers of a cluster together: find them, ask them at once, wait until they agree."""

from __future__ import annotations

import re
import socket
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    Ambiguous,
    KeyslotError,
    LostConnection,
    NotConverged,
    OptionError,
    Unreachable,
)
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Command
from ansible_collections.keyslot.redis.plugins.module_utils._server import Login, Server
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Line,
    Report,
    Topology,
    format_address,
    split_address,
)

T = t.TypeVar("T")

MAX_THREADS = 32
AGREE_SECONDS = 2.0
# In an error, or in what led to it (`_ssl.c: The handshake operation timed out`).
REACHED = re.compile(r"refused the login|loading its data set|ssl|set tls to true", re.IGNORECASE)


class Cluster:
    """The servers of one cluster, dialled when they are first needed.

    `entries` are addresses of members, tried in turn. `address_map` is announced -> reachable
    `host:port`, used wherever we dial.
    """

    def __init__(
        self, entries: t.Sequence[str], login: Login, address_map: t.Mapping[str, str]
    ) -> None:
        self.entries = entries
        self.login = login
        self.address_map = address_map
        self._servers: dict[str, Server] = {}
        self._answered: dict[str, Server] = {}
        self._dead: dict[str, str] = {}
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="keyslot")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections and threads."""
        self._threads.shutdown(wait=True)
        for server in {*self._servers.values(), *self._answered.values()}:
            server.close()

    def dial(self, address: str, hostname: str = "") -> Server:
        """A server by its announced `host:port`, not connected yet.

        With TLS it is dialled, and its certificate checked, by its announced hostname.
        """
        host, port = split_address(address)
        named = format_address(hostname, port) if hostname else ""
        for known in (named, format_address(host, port)):
            if known in self.address_map:
                return Server(*split_address(self.address_map[known]), self.login)
        return Server(hostname if hostname and self.login.tls else host, port, self.login)

    def server(self, node_id: str) -> Server:
        """The server of a member that has answered before, if not when it was asked last."""
        return self._servers.get(node_id) or self._answered[node_id]

    def observe(self) -> Topology:
        """Asks every member, all at once, one round trip each.

        Raises Unreachable if no entry answers, Refused if it is not in cluster mode.
        """
        entry = self._ask_entry()
        reports = {entry.id: entry}
        missing: dict[str, str] = {}
        asked = {entry.id}
        while True:
            lines = {
                line.id: line
                for report in reports.values()
                for line in report.view.lines.values()
                if line.id not in asked
            }
            if not lines:
                return Topology(reports, missing, entry.id)
            asked.update(lines)
            for node_id, answer in self.each(lines, self._asker(lines)).items():
                if isinstance(answer, Report):
                    reports[node_id] = answer
                else:
                    missing[node_id] = str(answer)

    def observe_agreed(self) -> Topology:
        """Like `observe`, with a moment for nodes that do not agree: a run that was killed as it
        gave slots away, or let a node join, ended before all had heard of it."""
        try:
            return self.wait(AGREE_SECONDS, told_ok, "agreement")
        except NotConverged:
            return self.observe()

    def _asker(self, lines: t.Mapping[str, Line]) -> t.Callable[[str], Report]:
        return lambda node_id: self._ask_member(lines[node_id])

    def _ask_entry(self) -> Report:
        # Several threads may observe at once: a copy, and no surprise if one is gone by now.
        known = dict(self._servers)

        def ask(node_id: str) -> Report:
            return self._same_node(known[node_id].report(), node_id)

        # The others at once: where the network is gone, each of them takes its full time.
        for asked in ([*known][:1], [*known][1:]):
            answers = self.each(asked, ask)
            for node_id, answer in answers.items():
                if isinstance(answer, (Unreachable, LostConnection)):
                    self._servers.pop(node_id, None)
            for answer in answers.values():
                # One that was reset knows itself alone.
                if isinstance(answer, Report) and (len(answer.view.lines) > 1 or len(known) == 1):
                    return answer
        reasons = []
        advice = ""
        for address in self.entries:
            server = self.dial(address)
            try:
                report = server.report()
            except (Unreachable, LostConnection) as exc:
                reasons.append(str(exc))
                if not was_reached(exc):
                    advice = (
                        " See that one of them runs, that its address is right, and that "
                        f"{socket.gethostname()} can reach it."
                    )
                continue
            server = self._at_own_address(server, report)
            server.node_id = report.id
            self._servers = {report.id: server, **self._servers}
            self._answered[report.id] = server
            return report
        raise Unreachable(
            "no node of the cluster could be asked (those are login_host with login_port, and "
            f"startup_nodes): {' '.join(reasons)}{advice}"
        )

    def _at_own_address(self, server: Server, report: Report) -> Server:
        """The entry at the address that it announces, if that leads to it: a balancer, or a name
        with several addresses, can lead to another node at the next connection."""
        me = report.view.me
        if not me.host or not me.port:
            return server
        own = self.dial(format_address(me.host, me.port), me.hostname)
        if own.address == server.address:
            return server
        try:
            self._same_node(own.report(), report.id)
        except KeyslotError:
            own.close()
            return server
        server.close()
        return own

    def _ask_member(self, line: Line) -> Report:
        if line.id in self._dead and "fail" in line.flags:
            raise Unreachable(self._dead[line.id])
        if not line.host or not line.port:
            raise Unreachable("its address is unknown to the others.")
        server = self._servers.get(line.id)
        if server is None:
            server = self.dial(format_address(line.host, line.port), line.hostname)
        try:
            report = self._same_node(server.report(), line.id)
        except KeyslotError as exc:
            if isinstance(exc, Unreachable):
                self._dead[line.id] = str(exc)
            self._servers.pop(line.id, None)
            raise
        self._dead.pop(line.id, None)
        server.node_id = line.id
        self._servers[line.id] = self._answered[line.id] = server
        return report

    @staticmethod
    def _same_node(report: Report, node_id: str) -> Report:
        if report.id != node_id:
            raise Unreachable(f"another node ({report.id}) answers at its address.")
        return report

    def each(
        self, node_ids: t.Iterable[str], ask: t.Callable[[str], T]
    ) -> dict[str, T | KeyslotError]:
        """What `ask` returns, or the KeyslotError that it raises, for each node; all at once."""

        def safely(node_id: str) -> T | KeyslotError:
            try:
                return ask(node_id)
            except KeyslotError as exc:
                return exc

        ids = list(node_ids)
        return dict(zip(ids, self._threads.map(safely, ids)))

    def tell(
        self, node_ids: t.Iterable[str], commands: t.Sequence[Command]
    ) -> dict[str, list[t.Any] | KeyslotError]:
        """The same commands, whose order must not matter, to each node at once."""
        return self.each(node_ids, lambda node_id: self.server(node_id).scatter(commands))

    def find(self, reference: str, topology: Topology) -> str:
        """The id of a member by id, id prefix or `host:port` (announced, reachable or resolved).

        Raises OptionError if there is none, or more than one.
        """
        aliases = {server.address: node_id for node_id, server in self._servers.items()}
        try:
            return topology.find(reference, aliases)
        except OptionError:
            known = [topology.at(item) or aliases.get(item) for item in resolve(reference)]
            found = sorted({node_id for node_id in known if node_id})
            if len(found) > 1:
                raise Ambiguous(
                    f"'{reference}' is ambiguous, its name has several addresses: "
                    f"{' and '.join(map(topology.name, found))}."
                ) from None
            if not found:
                raise
            return found[0]

    def wait(
        self, seconds: float, still_wrong: t.Callable[[Topology], str | None], what: str
    ) -> Topology:
        """Observes until `still_wrong` returns None; it returns what is not yet as it should be.

        Raises NotConverged with that text after so many seconds.
        """
        deadline = time.monotonic() + seconds
        pause = 0.02
        while True:
            topology = self.observe()
            wrong = still_wrong(topology)
            if wrong is None:
                return topology
            if time.monotonic() > deadline:
                raise NotConverged(f"{what} did not come about within {seconds:g} s: {wrong}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)


def resolve(reference: str) -> list[str]:
    """The `address:port` forms that a `name:port` stands for; none for anything else."""
    try:
        host, port = split_address(reference)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OptionError, OSError):
        return []
    return [format_address(str(item[4][0]), port) for item in found]


def was_reached(exc: BaseException | None) -> bool:
    """Whether a server was there, and refused the login or speaks another language."""
    while exc is not None:
        if REACHED.search(str(exc)):
            return True
        exc = exc.__context__
    return False


def told_ok(topology: Topology) -> str | None:
    """For Cluster.wait: None when all reachable members tell the same map, each with state ok."""
    wrong = topology.disagreements() if not topology.agreed else []
    wrong += [
        f"{topology.name(report.id)} says that the cluster's state is not ok"
        for report in topology.reports.values()
        if not report.state_ok
    ]
    return "; ".join(wrong[:3]) or None
