# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Redis or Valkey cluster of many processes on loopback, for tests, demo and benchmarks.

    with Cluster.start(engines.get("valkey-9.1"), primaries=3, replicas=1, spare=1) as cluster:
        cluster.assert_healthy()

It is formed by plain commands, so that it does not lean on what it is there to judge. Nothing
stays behind when the block ends, nor when the process that runs it is killed.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry

from tests.harness import processes
from tests.harness.engines import Engine
from tests.harness.node import BindFailed, Node, Tls

SLOTS = 16384
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Line:
    """One line of CLUSTER NODES."""

    id: str
    address: str
    flags: frozenset[str]
    primary_id: str
    epoch: int
    connected: bool
    slots: Ranges
    open: tuple[str, ...]

    @property
    def known(self) -> bool:
        """Whether it is a member; an entry in handshake is not yet one."""
        return "handshake" not in self.flags


def parse_nodes(text: str) -> list[Line]:
    """The lines of a CLUSTER NODES answer."""
    lines = []
    for row in text.splitlines():
        words = row.split()
        if len(words) < 8:
            continue
        lines.append(
            Line(
                id=words[0],
                address=words[1].split(",")[0].split("@")[0],
                flags=frozenset(words[2].split(",")),
                primary_id=words[3],
                epoch=int(words[6]),
                connected=words[7] == "connected",
                slots=tuple(parse_ranges(word for word in words[8:] if word[0] != "[")),
                open=tuple(word for word in words[8:] if word[0] == "["),
            )
        )
    return lines


def parse_ranges(words: Iterable[str]) -> list[tuple[int, int]]:
    """`0-99`, `200` … as pairs of first and last slot."""
    pairs = []
    for word in words:
        first, _dash, last = word.partition("-")
        pairs.append((int(first), int(last or first)))
    return pairs


def range_text(ranges: Ranges) -> list[str]:
    """Pairs as the engines write them: `0-99`, `200`."""
    return [f"{first}-{last}" if first != last else str(first) for first, last in ranges]


def count_slots(ranges: Iterable[tuple[int, int]]) -> int:
    """How many slots these ranges hold."""
    return sum(last - first + 1 for first, last in ranges)


def even_slots(primaries: int) -> list[Ranges]:
    """All slots in equal shares, in order."""
    edges = [round(index * SLOTS / primaries) for index in range(primaries + 1)]
    return [((low, high - 1),) for low, high in pairwise(edges)]


@dataclass(eq=False, repr=False)
class Cluster:
    """A running cluster. `nodes` were joined at the start, `spares` are started and alone.

    Membership is read from the servers, never remembered: a spare that a test joins counts in
    primaries(), assert_healthy() and the like, and a node that was forgotten does not.
    """

    engine: Engine
    password: str | None = None
    tls: Tls | None = None
    node_timeout_ms: int = 3000
    databases: int | None = None
    config: Mapping[str, str | int] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    spares: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._folder = processes.Folder()
        self.root = self._folder.path
        self._owner = os.getpid()
        self._all: list[Node] = []
        self._closed = False
        _living.add(self)

    # Start and end

    @classmethod
    def start(
        cls,
        engine: Engine,
        primaries: int = 3,
        replicas: int = 1,
        *,
        spare: int = 0,
        node_timeout_ms: int = 3000,
        config: Mapping[str, str | int] | None = None,
        password: str | None = None,
        tls: bool = False,
        databases: int | None = None,
        slots: Sequence[str] | None = None,
    ) -> Cluster:
        """Start and form a cluster with `replicas` a primary, and wait until it is healthy.

        slots: one text a primary, such as "0-99 200"; default is equal shares. Slots left out
        stay uncovered (then the cluster is only waited for until all nodes agree).
        ValueError: the engine cannot do what is asked. RuntimeError: a server does not start.
        AssertionError: not healthy after 60 s.
        """
        _check(engine, tls, databases)
        shares = (
            [tuple(parse_ranges(text.replace(",", " ").split())) for text in slots]
            if slots is not None
            else even_slots(primaries)
        )
        if len(shares) != primaries:
            raise ValueError(f"slots has {len(shares)} entries for {primaries} primaries")
        cluster = cls(engine, password, None, node_timeout_ms, databases, dict(config or {}))
        try:
            cluster.tls = make_certificates(cluster.root) if tls else None
            started = cluster._start_nodes(primaries * (1 + replicas) + spare, {})
            split = len(started) - spare
            cluster.nodes, cluster.spares = started[:split], started[split:]
            cluster._form(primaries, shares)
        except BaseException:
            cluster.close()
            raise
        return cluster

    def start_node(self, engine: Engine | None = None, **config: str | int) -> Node:
        """Start one more server in cluster mode, joined to nothing, in neither list.

        engine: another one than the cluster's. Directives are keywords with _ for -.
        """
        extra = {key.replace("_", "-"): value for key, value in config.items()}
        return self._start_nodes(1, extra, engine)[0]

    def add_spare(self, **config: str | int) -> Node:
        """Like start_node, and put it among the spares."""
        node = self.start_node(None, **config)
        self.spares.append(node)
        return node

    def close(self) -> None:
        """End all servers and remove their folders; twice does no harm."""
        if self._closed or os.getpid() != self._owner:
            return
        processes.end([node.process for node in self._all if node.process])
        self._closed = True
        for node in self._all:
            node._down()
            processes.release_port(node.port)
        self._folder.remove()
        _living.discard(self)

    def __repr__(self) -> str:
        return f"<Cluster of {self.engine.name}: {self._all}>"

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start_nodes(
        self, count: int, extra: Mapping[str, str | int], engine: Engine | None = None
    ) -> list[Node]:
        """Start servers side by side; one that finds its port taken gets another."""
        nodes = [self._new_node(extra, engine) for _number in range(count)]
        for index, node in enumerate(nodes):
            nodes[index] = self._ready(node, extra)
        return nodes

    def _ready(self, node: Node, extra: Mapping[str, str | int], attempts: int = 5) -> Node:
        """Wait for a spawned node; the node that replaced it if its port was taken."""
        try:
            node.wait_ready()
            return node
        except BindFailed:
            if not attempts:
                raise
        self._all.remove(node)
        processes.release_port(node.port)
        return self._ready(self._new_node(extra, node.engine), extra, attempts - 1)

    def _new_node(self, extra: Mapping[str, str | int], engine: Engine | None) -> Node:
        """Write a node's configuration and spawn it."""
        port = processes.claim_port()
        folder = self.root / str(port)
        folder.mkdir(exist_ok=True)
        node = Node(engine or self.engine, folder, port, self.password, self.tls)
        self._all.append(node)
        node.write_config({**self._settings(node), **self.config, **extra})
        node.spawn()
        return node

    def _settings(self, node: Node) -> dict[str, str | int]:
        """The directives of every server; `config` may replace any."""
        settings: dict[str, str | int] = {
            "port": 0 if self.tls else node.port,
            "bind": node.host,
            "dir": str(node.folder),
            "logfile": "server.log",
            "save": "",
            "appendonly": "no",
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": self.node_timeout_ms,
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": 0,
        }
        if node.engine.release >= (7, 0):
            settings["enable-debug-command"] = "yes"
        if self.password:
            settings |= {"requirepass": self.password, "masterauth": self.password}
        if self.databases:
            settings["cluster-databases"] = self.databases
        if self.tls:
            settings |= {
                "tls-port": node.port,
                "tls-ca-cert-file": str(self.tls.ca),
                "tls-cert-file": str(self.tls.server_cert),
                "tls-key-file": str(self.tls.server_key),
                "tls-cluster": "yes",
                "tls-replication": "yes",
            }
        return settings

    # Forming

    def _form(self, primaries: int, shares: Sequence[Ranges]) -> None:
        """Give out slots, introduce everyone to everyone, attach replicas, wait."""
        leaders, followers = self.nodes[:primaries], self.nodes[primaries:]
        for epoch, (node, ranges) in enumerate(zip(leaders, shares, strict=True), 1):
            self._add_slots(node, ranges)
            node.call("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for index, node in enumerate(self.nodes):
            for other in self.nodes[index + 1 :]:
                node.call("CLUSTER", "MEET", other.host, other.port)
        deadline = time.monotonic() + 60
        for index, node in enumerate(followers):
            _replicate(node, leaders[index % primaries], deadline)
        covered = sum(map(count_slots, shares)) == SLOTS
        self.wait_healthy(60, covered, len(self.nodes))

    def _add_slots(self, node: Node, ranges: Ranges) -> None:
        if not ranges:
            return
        if self.engine.release >= (7, 0):
            node.call("CLUSTER", "ADDSLOTSRANGE", *(edge for pair in ranges for edge in pair))
        else:
            slots = (slot for first, last in ranges for slot in range(first, last + 1))
            node.call("CLUSTER", "ADDSLOTS", *slots)

    # What the servers say

    def all_nodes(self) -> list[Node]:
        """Every server ever started here, running or not, member or not."""
        return list(self._all)

    def views(self) -> dict[Node, list[Line]]:
        """CLUSTER NODES of every member that runs (a paused node does not)."""
        told = {node: parse_nodes(_nodes_text(node)) for node in self._all if node.running}
        mine = {node: _myself(lines) for node, lines in told.items()}
        owners = [node for node, line in mine.items() if line.slots]
        if not owners:
            return {node: lines for node, lines in told.items() if node in self.nodes}
        listed = {line.id for node in owners for line in told[node] if line.known}
        return {node: lines for node, lines in told.items() if mine[node].id in listed}

    def members(self) -> list[Node]:
        """The running nodes that a slot owner lists (or that own slots)."""
        return list(self.views())

    def primaries(self) -> list[Node]:
        """The running members that say they are primaries, empty ones too."""
        return [node for node, lines in self.views().items() if "master" in _myself(lines).flags]

    def replicas(self) -> list[Node]:
        """The running members that say they are replicas."""
        return [node for node, lines in self.views().items() if "slave" in _myself(lines).flags]

    def node(self, id_or_address: str) -> Node:
        """The node of this id or `host:port`. KeyError: there is none."""
        for node in self._all:
            if id_or_address in (node.address, node.id):
                return node
        raise KeyError(id_or_address)

    def nodes_text(self) -> dict[str, str]:
        """CLUSTER NODES of every running node, spares too, by address."""
        return {node.address: _nodes_text(node) for node in self._all if node.running}

    def ownership(self) -> dict[str, list[str]]:
        """Node id -> its slot ranges (`["0-99", "200"]`), lowest slot first.

        AssertionError: members disagree.
        """
        ordered = sorted(self._owners().items(), key=lambda item: item[1])
        return {owner: range_text(ranges) for owner, ranges in ordered}

    def slot_owners(self) -> list[Node | None]:
        """The owner of each of the 16,384 slots. AssertionError: members disagree."""
        by_id = {node.id: node for node in self._all}
        owners: list[Node | None] = [None] * SLOTS
        for owner, ranges in self._owners().items():
            for first, last in ranges:
                owners[first : last + 1] = [by_id.get(owner)] * (last - first + 1)
        return owners

    def _owners(self) -> dict[str, Ranges]:
        views = self.views()
        assert views, "no member runs"
        told = {
            node: {line.id: line.slots for line in lines if line.slots and line.known}
            for node, lines in views.items()
        }
        first = next(iter(told))
        for node, owners in told.items():
            assert owners == told[first], (
                f"{first.address} says {told[first]}, {node.address} says {owners}"
            )
        return told[first]

    # Health

    def problems(self, covered: bool = True, members: int | None = None) -> list[str]:
        """What keeps this cluster from being healthy, a line each; [] if nothing does.

        covered: also that all slots are served and the members' state is ok.
        members: also that so many members run (a node just met is none until an owner lists it).
        """
        try:
            views = self.views()
            found = _disagreements(views)
            running = {_myself(lines).id for lines in views.values()}
            for node, lines in views.items():
                found += _view_problems(node, lines, running)
                found += _own_problems(node, covered)
            if covered and views:
                lines = next(iter(views.values()))
                count = sum(count_slots(line.slots) for line in lines if line.known)
                found += [f"{count} slots covered"] if count != SLOTS else []
        except (redis.RedisError, OSError) as error:
            return [f"cannot ask: {error}"]
        if members is not None and members != len(views):
            found.append(f"{len(views)} members run, not {members}")
        return found if views else ["no member runs"]

    def assert_healthy(self, members: int | None = None) -> None:
        """All members agree, say ok, serve 16,384 slots, have no open slot, links are up."""
        found = self.problems(members=members)
        assert not found, "\n".join([f"{self.engine.name} is not healthy:", *found])

    def wait_healthy(
        self, timeout: float = 60, covered: bool = True, members: int | None = None
    ) -> float:
        """Wait until there are no problems(); the seconds it took. AssertionError: timeout."""
        began = time.monotonic()
        while found := self.problems(covered, members):
            if time.monotonic() - began > timeout:
                text = "\n".join([f"{self.engine.name}: not healthy in {timeout} s:", *found])
                raise AssertionError(text)
            time.sleep(0.02)
        return time.monotonic() - began

    def referee_check(self) -> str | None:
        """What `redis-cli --cluster check` prints; None without a redis-cli.

        AssertionError: it does not find everything in order.
        """
        node = self.members()[0]
        try:
            done = node.run_cli("--cluster", "check", node.address)
        except RuntimeError:
            return None
        text = done.stdout + done.stderr
        assert done.returncode == 0, text
        assert "[OK] All 16384 slots covered" in text, text
        for complaint in ("[ERR]", "[WARNING]"):
            assert complaint not in text, text
        return text

    def seed_client(self, **options: Any) -> RedisCluster:
        """A new cluster client that starts from all members: no retries but for redirects, RESP2.

        Keywords go to redis-py's RedisCluster.
        """
        members = self.members()
        defaults: dict[str, Any] = {
            "startup_nodes": [ClusterNode(node.host, node.port) for node in members],
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": 30,
            **members[0].connection_options(),
        }
        return AskingCluster(**{**defaults, **options})


class AskingCluster(RedisCluster):
    """redis-py's cluster client, which also follows ASK to a node that is not in its map.

    The map comes from CLUSTER SLOTS, where a node that has just joined and owns no slot yet is
    missing; redis-py itself fails there with an AttributeError.
    """

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> ClusterNode | None:
        """The known node, or a new one made from its `host:port` name."""
        known = super().get_node(host, port, node_name)
        if known is not None or not node_name:
            return known
        strangers = self.__dict__.setdefault("_strangers", {})
        if node_name not in strangers:
            name_host, _colon, name_port = node_name.rpartition(":")
            strangers[node_name] = ClusterNode(name_host, int(name_port))
        return strangers[node_name]


def _check(engine: Engine, tls: bool, databases: int | None) -> None:
    """ValueError if this engine cannot do it."""
    if tls and not engine.tls:
        raise ValueError(f"{engine.name} is built without TLS")
    if databases and (engine.family != "valkey" or engine.release < (9, 0)):
        raise ValueError(f"{engine.name} has one database in cluster mode")


def _replicate(node: Node, primary: Node, deadline: float) -> None:
    """Make node a replica as soon as it knows the primary."""
    while True:
        try:
            node.call("CLUSTER", "REPLICATE", primary._id)
            return
        except redis.ResponseError as error:
            if "Unknown node" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _nodes_text(node: Node) -> str:
    return str(node.call("CLUSTER", "NODES"), "utf-8", "replace")


def _myself(lines: list[Line]) -> Line:
    return next(line for line in lines if "myself" in line.flags)


def _disagreements(views: Mapping[Node, list[Line]]) -> list[str]:
    """Who sees other members, roles or owners than the first one does."""
    found: list[str] = []
    reference: dict[str, tuple[str, Ranges]] = {}
    first = None
    for node, lines in views.items():
        told = {line.id: (line.primary_id, line.slots) for line in lines if line.known}
        if first is None:
            first, reference = node, told
        for key in sorted(told.keys() | reference.keys()):
            if told.get(key) != reference.get(key):
                found.append(
                    f"{first.address} says of {key}: {reference.get(key)}; "
                    f"{node.address}: {told.get(key)}"
                )
    return found


def _view_problems(node: Node, lines: list[Line], running: set[str]) -> list[str]:
    """Open slots on the node, and what it thinks is wrong with members that run."""
    found = []
    for line in lines:
        if not line.known:
            found.append(f"{node.address} is still shaking hands with {line.address}")
        elif line.id in running and "myself" not in line.flags:
            bad = sorted(flag for flag in line.flags if flag in ("fail", "fail?", "noaddr"))
            bad += [] if line.connected else ["disconnected"]
            found += [f"{node.address} says {line.address} is {','.join(bad)}"] if bad else []
        found += [f"{node.address} has the open slot {text}" for text in line.open]
    return found


def _own_problems(node: Node, covered: bool) -> list[str]:
    """The node's own state, and its link if it is a replica."""
    found = []
    state = node.info("cluster-state").get("cluster_state")
    if covered and state != "ok":
        found.append(f"{node.address} says cluster_state:{state}")
    replication = node.info("replication")
    if replication.get("role") == "slave" and replication.get("master_link_status") != "up":
        found.append(f"{node.address} has no link to its primary")
    return found


def make_certificates(folder: Path) -> Tls:
    """A CA, a server and a client certificate, by the openssl tool. RuntimeError: it failed."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = folder / "tls"
    files.mkdir()
    (files / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n", encoding="ascii")
    _openssl(
        files,
        ["req", "-x509", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt", *curve],
    )
    for name in ("server", "client"):
        request = ["-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"]
        _openssl(files, ["req", *curve, *request])
        _openssl(
            files,
            f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial".split()
            + f"-extfile names -days 30 -out {name}.crt".split(),
        )
    return Tls(
        files / "ca.crt",
        files / "server.crt",
        files / "server.key",
        files / "client.crt",
        files / "client.key",
    )


def _openssl(folder: Path, words: list[str]) -> None:
    done = subprocess.run(
        ["openssl", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"openssl {words[0]}: {done.stderr}")


_living: weakref.WeakSet[Cluster] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for cluster in list(_living):
        cluster.close()
