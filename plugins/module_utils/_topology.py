# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""What the servers say of the cluster, pure: reply texts to nodes, owners, open slots, problems."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass, field, replace
from functools import cached_property

from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    Ambiguous,
    OptionError,
)
from ansible_collections.keyslot.redis.plugins.module_utils._slots import (
    SLOT_COUNT,
    Range,
    format_slots,
    from_ranges,
)

MIN_PREFIX = 8

_SLOTS_TEXT = re.compile(r"[0-9]+(-[0-9]+)?\Z")
_HEX = re.compile(r"[0-9a-fA-F]+")
_MARKER = re.compile(r"\[([0-9]+)(->-|-<-)([^\]]+)\]\Z")


@dataclass(frozen=True)
class Line:
    """One line of CLUSTER NODES: what one node says of one node.

    `migrating` and `importing` are slot -> peer id; only a node's own line carries them.
    """

    id: str
    host: str
    port: int
    bus_port: int
    hostname: str
    flags: frozenset[str]
    primary_id: str | None
    epoch: int
    linked: bool
    slots_text: tuple[str, ...]
    migrating: t.Mapping[int, str]
    importing: t.Mapping[int, str]

    @property
    def is_primary(self) -> bool:
        return "master" in self.flags

    @property
    def is_member(self) -> bool:
        """False for a handshake under way, which carries a made-up id."""
        return "handshake" not in self.flags

    @cached_property
    def ranges(self) -> tuple[Range, ...]:
        pairs = (text.partition("-") for text in self.slots_text)
        return tuple((int(first), int(last or first)) for first, _dash, last in pairs)


def _parse_address(text: str) -> tuple[str, int, int, str]:
    """(host, port, bus port, hostname) of `host:port@bus,hostname,…`; missing parts are empty."""
    address, *extras = text.split(",")
    hostname = extras[0] if extras and "=" not in extras[0] else ""
    address, _at, bus = address.partition("@")
    host, _colon, port = address.rpartition(":")
    return host.strip("[]"), int(port or 0), int(bus or 0), hostname


def parse_line(text: str) -> Line:
    """One line of CLUSTER NODES. Unknown flags and further fields of later versions are let be.

    Raises ValueError for what is no such line, and for slots beyond the last one.
    """
    node_id, address, flags, primary_id, _ping, _pong, epoch, link, *slots = text.split()
    host, port, bus_port, hostname = _parse_address(address)
    markers: dict[str, dict[int, str]] = {"->-": {}, "-<-": {}}
    for found in filter(None, map(_MARKER.match, slots)):
        markers[found[2]][int(found[1])] = found[3]
    slots_text = tuple(item for item in slots if _SLOTS_TEXT.match(item))
    told = [int(end) for item in slots_text for end in item.split("-")]
    last = max([*told, *markers["->-"], *markers["-<-"]], default=0)
    if last >= SLOT_COUNT:
        raise ValueError(f"slot {last} is beyond the last one, {SLOT_COUNT - 1}")
    return Line(
        id=node_id,
        host=host,
        port=port,
        bus_port=bus_port,
        hostname=hostname,
        flags=frozenset(flags.split(",")),
        primary_id=None if primary_id == "-" else primary_id,
        epoch=int(epoch),
        linked=link == "connected",
        slots_text=slots_text,
        migrating=markers["->-"],
        importing=markers["-<-"],
    )


@dataclass(frozen=True)
class View:
    """CLUSTER NODES of one node: its own id and what it says of each member."""

    id: str
    lines: t.Mapping[str, Line]

    @property
    def me(self) -> Line:
        return self.lines[self.id]

    @cached_property
    def map(self) -> frozenset[tuple[str, tuple[str, ...]]]:
        """Who owns what, comparable between nodes."""
        return frozenset(
            (line.id, line.slots_text) for line in self.lines.values() if line.slots_text
        )

    @cached_property
    def owners(self) -> list[str | None]:
        """The owner's id of each of the 16,384 slots."""
        owners: list[str | None] = [None] * SLOT_COUNT
        for line in self.lines.values():
            for slot in from_ranges(line.ranges):
                owners[slot] = line.id
        return owners


def parse_view(text: str) -> View:
    """A whole CLUSTER NODES reply. Raises ValueError for anything else."""
    lines = [parse_line(line) for line in text.split("\n") if line.strip()]
    me = next((line for line in lines if "myself" in line.flags), None)
    if me is None:
        raise ValueError("no line is the node's own")
    return View(id=me.id, lines={line.id: line for line in lines if line.is_member})


def parse_info(text: str) -> dict[str, str]:
    """`name:value` lines of INFO or CLUSTER INFO."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name: value.strip() for name, _colon, value in pairs}


def keys_by_database(info: t.Mapping[str, str]) -> dict[int, int]:
    """Database -> keys, of INFO, for those that hold any."""
    return {
        int(name[2:]): int(dict(part.partition("=")[::2] for part in value.split(","))["keys"])
        for name, value in info.items()
        if name.startswith("db") and name[2:].isdigit()
    }


@dataclass(frozen=True)
class Report:
    """What one server told about itself and the others in one round trip.

    `config` holds its `*cluster*` settings, empty where CONFIG GET is not permitted.
    """

    view: View
    cluster_info: t.Mapping[str, str]
    info: t.Mapping[str, str]
    config: t.Mapping[str, str]

    @property
    def id(self) -> str:
        return self.view.id

    @property
    def family(self) -> str:
        return "valkey" if "valkey_version" in self.info else "redis"

    @property
    def version(self) -> str:
        return self.info.get("valkey_version") or self.info.get("redis_version", "0")

    @property
    def state_ok(self) -> bool:
        return self.cluster_info.get("cluster_state") == "ok"

    @property
    def epoch(self) -> int:
        return int(self.cluster_info.get("cluster_my_epoch", 0))

    @property
    def link_up(self) -> bool:
        """True for a primary, and for a replica that is in step with its primary."""
        is_replica = self.info.get("role") == "slave"
        return not is_replica or self.info.get("master_link_status") == "up"

    @property
    def passes_marks(self) -> bool:
        """Whether its replicas are told of its open slots (valkey #445)."""
        return self.family == "valkey" and version_tuple(self.version) >= (8, 0)

    @property
    def setslot_waits(self) -> bool:
        """Whether SETSLOT is answered only when the replicas have it (valkey #445)."""
        return self.passes_marks and self.number("connected_slaves") > 0

    @property
    def hides_keys(self) -> bool:
        """Whether it counts no keys of slots that it neither owns nor imports."""
        return self.family == "redis" and version_tuple(self.version) >= (8, 4)

    def reads_dumps_of(self, other: Report) -> bool:
        """Whether keys can move from the other node to this one. A dump can be read by the same
        version and later ones. Valkey reads what Redis wrote up to 7.2, and Redis from 7.2 on what
        Valkey wrote before 9."""
        given, taken = version_tuple(other.version), version_tuple(self.version)
        if other.family == self.family:
            return taken >= given
        if self.family == "valkey":
            return given <= (7, 2)
        return given < (9, 0) and taken >= (7, 2)

    @property
    def takes_over(self) -> bool:
        """Whether it makes a slot its own that it imports from a node which does not claim it."""
        return self.family == "valkey" and version_tuple(self.version) >= (8, 0)

    @property
    def databases(self) -> dict[int, int]:
        """Keys per database that holds any."""
        return keys_by_database(self.info)

    @property
    def key_count(self) -> int:
        return sum(self.databases.values())

    def number(self, name: str) -> int:
        """A whole number of INFO, 0 where the engine does not tell it."""
        return int(self.info.get(name) or 0)


def version_tuple(text: str) -> tuple[int, int]:
    """(major, minor) of `7.0.15`, `9.1.0-rc2`, `255.255.255`."""
    major, minor, *_rest = [*re.findall(r"\d+", text.partition("-")[0]), "0", "0"]
    return int(major), int(minor)


@dataclass(frozen=True)
class OpenSlot:
    """A slot marker on `node`: `kind` is `migrating` (to peer) or `importing` (from peer)."""

    slot: int
    node: str
    kind: str
    peer: str


@dataclass(frozen=True)
class Problem:
    """Something an operator should know. `node` is an id or empty."""

    kind: str
    message: str
    node: str = ""
    slots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Topology:
    """All that the reachable members say, and `missing`: member id -> why it could not be asked.

    `reports` holds the reachable members by id. `entry` is the id of the node that was asked first.
    `joining` are nodes that are no members yet, `assigned` slots that are to get an owner (slot ->
    id) and `marked` markers that are to be set: for plans made as if that had been done.
    """

    reports: t.Mapping[str, Report]
    missing: t.Mapping[str, str]
    entry: str
    joining: t.Mapping[str, Line] = field(default_factory=dict)
    assigned: t.Mapping[int, str] = field(default_factory=dict)
    marked: tuple[OpenSlot, ...] = ()

    @cached_property
    def lines(self) -> dict[str, Line]:
        """The best line of each member: its own where it answers, else another node's."""
        lines: dict[str, Line] = dict(self.joining)
        for report in sorted(self.reports.values(), key=lambda report: report.id != self.entry):
            for line in report.view.lines.values():
                if line.id != report.id:
                    lines.setdefault(line.id, line)
        for report in self.reports.values():
            lines[report.id] = _own_line(report, lines.get(report.id, report.view.me))
        return lines

    def known_as(self, node_id: str, to: str) -> tuple[str, int]:
        """(host, port) by which one node knows another. What that one says of itself can be of the
        time before its last start: only the others learn a new address by themselves."""
        line = self.reports[to].view.lines.get(node_id)
        line = line if line and line.host and line.port else self.lines[node_id]
        return line.host, line.port

    def without(self, node_ids: t.Collection[str]) -> Topology:
        """What the other nodes say, as if these could not be asked."""
        kept = {i: report for i, report in self.reports.items() if i not in node_ids}
        left_out = {i: "left out." for i in node_ids if i in self.lines}
        entry = self.entry if self.entry in kept else min(kept, default=self.entry)
        return Topology(kept, {**self.missing, **left_out}, entry)

    @cached_property
    def agreed(self) -> bool:
        return len({report.view.map for report in self.reports.values()}) == 1

    @cached_property
    def owners(self) -> list[str | None]:
        """The owner of each slot: the claim of the highest epoch among the nodes' own lines, or,
        for slots of nodes that can't be asked, what the others say."""
        owners: list[str | None] = [None] * SLOT_COUNT
        epochs = [-1] * SLOT_COUNT
        told = (
            [self.reports[self.entry].view]
            if self.agreed
            else [r.view for r in self.reports.values()]
        )
        hearsay = [line for view in told for line in view.lines.values() if line.id in self.missing]
        for line in [*hearsay, *(self.lines[node_id] for node_id in self.reports)]:
            if not line.is_primary:
                continue
            for slot in from_ranges(line.ranges):
                if line.epoch > epochs[slot]:
                    owners[slot], epochs[slot] = line.id, line.epoch
        for slot, owner in self.assigned.items():
            owners[slot] = owner
        return owners

    @cached_property
    def slots(self) -> dict[str, list[int]]:
        """Sorted slots of each primary, empty ones included."""
        slots: dict[str, list[int]] = {line.id: [] for line in self.primaries}
        for slot, owner in enumerate(self.owners):
            if owner is not None:
                slots.setdefault(owner, []).append(slot)
        return slots

    @cached_property
    def primaries(self) -> list[Line]:
        return sorted((n for n in self.lines.values() if n.is_primary), key=lambda n: n.id)

    def replicas_of(self, node_id: str) -> list[Line]:
        return [line for line in self.lines.values() if line.primary_id == node_id]

    @cached_property
    def open_slots(self) -> list[OpenSlot]:
        """Markers of the primaries. Replicas of Valkey 8 and later show their primary's too,
        sometimes for ever (valkey #998); those are problems, not open slots. Who is told that a
        slot is its own imports it no more."""
        found = [marker for marker in self._markers() if self.lines[marker.node].is_primary]
        told = {("importing", node, slot) for slot, node in self.assigned.items()}
        return [*(m for m in found if (m.kind, m.node, m.slot) not in told), *self.marked]

    @cached_property
    def left_on_replicas(self) -> list[OpenSlot]:
        """Markers that replicas have kept while their primaries have none for the slot."""
        own = {(marker.node, marker.slot) for marker in self.open_slots}
        return [
            marker
            for marker in self._markers()
            for primary in (self.lines[marker.node].primary_id,)
            if primary in self.reports and (primary, marker.slot) not in own
        ]

    def _markers(self) -> t.Iterator[OpenSlot]:
        for node_id in sorted(self.reports):
            me = self.reports[node_id].view.me
            for kind, found in (("migrating", me.migrating), ("importing", me.importing)):
                for slot, peer in sorted(found.items()):
                    yield OpenSlot(slot, node_id, kind, peer)

    @cached_property
    def uncovered(self) -> list[str]:
        return format_slots(slot for slot, owner in enumerate(self.owners) if owner is None)

    def name(self, node_id: str) -> str:
        """`127.0.0.1:7001 (0123abcd)` for messages."""
        line = self.lines.get(node_id)
        if line is None:
            return f"{node_id[:MIN_PREFIX]} (unknown to the cluster)"
        return f"{format_address(line.host, line.port)} ({node_id[:MIN_PREFIX]})"

    def disagreements(self) -> list[str]:
        """One sentence for each node whose map differs from the common one (the owners above)."""
        found = []
        for report in self.reports.values():
            wrong: dict[tuple[str | None, str | None], list[int]] = {}
            for slot, (told, owner) in enumerate(zip(report.view.owners, self.owners)):
                if told != owner:
                    wrong.setdefault((told, owner), []).append(slot)
            for (told, owner), slots in wrong.items():
                found.append(
                    f"{self.name(report.id)} says that slots {', '.join(format_slots(slots)[:5])} "
                    f"are {self._whose(told)}, while they are {self._whose(owner)}"
                )
        return found

    def _whose(self, node_id: str | None) -> str:
        return f"{self.name(node_id)}'s" if node_id else "nobody's"

    def problems(self, strays: t.Mapping[str, int] | None = None) -> list[Problem]:
        """Everything that is not as it should be, the gravest first. `strays` is node -> keys that
        it holds outside its slots."""
        return [
            *self._state_problems(),
            *(Problem("disagreement", f"{text}.") for text in self.disagreements()),
            *self._slot_problems(),
            *(self._stray_problem(node_id, keys) for node_id, keys in (strays or {}).items()),
            *self._replica_problems(),
            *self._address_problems(),
            *self._config_problems(),
        ]

    def _state_problems(self) -> t.Iterator[Problem]:
        for node_id, reason in sorted(self.missing.items()):
            yield Problem(
                "unreachable", f"{self.name(node_id)} can't be reached: {reason}", node_id
            )
        for node_id, report in sorted(self.reports.items()):
            if not report.state_ok:
                state = report.cluster_info.get("cluster_state", "unknown")
                message = f"{self.name(node_id)} says that the cluster's state is {state}."
                yield Problem("state", message, node_id)

    def _slot_problems(self) -> t.Iterator[Problem]:
        if self.uncovered:
            message = f"slots {', '.join(self.uncovered[:5])} are served by nobody."
            yield Problem("uncovered", message, slots=tuple(self.uncovered))
        by_pair: dict[tuple[str, str, str], list[int]] = {}
        for marker in self._markers():
            role = "" if self.lines[marker.node].is_primary else "replica_"
            key = (f"{role}{marker.kind}", marker.node, marker.peer)
            by_pair.setdefault(key, []).append(marker.slot)
        for (kind, node_id, peer), slots in by_pair.items():
            ranges = format_slots(slots)
            way = "migrating" if kind.endswith("migrating") else "importing"
            who = f"the replica {self.name(node_id)}" if kind != way else self.name(node_id)
            message = (
                f"{who} is {way} slots {', '.join(ranges[:5])} "
                f"{'to' if way == 'migrating' else 'from'} {self.name(peer)}."
            )
            yield Problem(f"{kind}_slot", message, node_id, tuple(ranges))

    def _stray_problem(self, node_id: str, keys: int) -> Problem:
        message = (
            f"{self.name(node_id)} holds {keys} keys outside its slots, which clients can't see: "
            "repair it with keyslot.redis.redis_cluster_fix, and do not restart that node before."
        )
        return Problem("stray_keys", message, node_id)

    def _replica_problems(self) -> t.Iterator[Problem]:
        for node_id, report in sorted(self.reports.items()):
            if not report.link_up:
                yield Problem(
                    "link", f"the replica {self.name(node_id)} has lost its primary.", node_id
                )

    def _address_problems(self) -> t.Iterator[Problem]:
        for address, ids in sorted(self.shared_addresses.items()):
            names = " and ".join(map(self.name, ids))
            yield Problem("address", f"{names} announce the same address {address}.", ids[0])

    def _config_problems(self) -> t.Iterator[Problem]:
        """A run that was killed while it drained a primary can leave this switched off there."""
        name = "cluster-allow-replica-migration"
        values = {i: r.config[name] for i, r in sorted(self.reports.items()) if name in r.config}
        if len(set(values.values())) > 1:
            for node_id in [node_id for node_id, value in values.items() if value == "no"]:
                message = f"{self.name(node_id)} has {name} set to no, unlike other nodes."
                yield Problem("config", message, node_id)

    def find(self, reference: str, aliases: t.Mapping[str, str]) -> str:
        """The id of the node that is named by full id, unique id prefix (8 or more characters) or
        `host:port`. `aliases` are further `host:port` -> id that lead to a node.

        Raises OptionError for no node, or more than one.
        """
        reference = reference.strip()
        if reference in self.lines:
            return reference
        if ":" in reference:
            address = format_address(*split_address(reference))
            node_id = self.at(address) or aliases.get(address)
            if node_id:
                return node_id
            raise OptionError(f"'{reference}' is not the address of a node; {self._nodes_text()}")
        if len(reference) < MIN_PREFIX or not _HEX.fullmatch(reference):
            raise OptionError(
                f"'{reference}' names no node: give host:port, a full id, or at least "
                f"{MIN_PREFIX} characters of an id; {self._nodes_text()}"
            )
        hits = [node_id for node_id in self.lines if node_id.startswith(reference.lower())]
        if len(hits) > 1:
            raise Ambiguous(f"'{reference}' is ambiguous: {' and '.join(sorted(hits))} begin so.")
        if not hits:
            raise OptionError(f"no node's id begins with '{reference}'; {self._nodes_text()}")
        return hits[0]

    @cached_property
    def addresses(self) -> dict[str, list[str]]:
        """Announced `host:port`, by address and by hostname -> ids; of several nodes there only
        those that answer, if any does."""
        found: dict[str, list[str]] = {}
        for line in self.lines.values():
            for host in {line.hostname, line.host} - {""}:
                found.setdefault(format_address(host, line.port), []).append(line.id)
        return {
            address: [node_id for node_id in ids if node_id in self.reports] or ids
            for address, ids in found.items()
        }

    @cached_property
    def shared_addresses(self) -> dict[str, list[str]]:
        """IP `host:port` -> ids, where more than one node that answers announces it."""
        found: dict[str, list[str]] = {}
        for node_id in sorted(self.reports):
            line = self.lines[node_id]
            found.setdefault(format_address(line.host, line.port), []).append(node_id)
        return {address: ids for address, ids in found.items() if len(ids) > 1}

    def at(self, address: str) -> str | None:
        """The id of the node that announces this `host:port`. Raises OptionError if two do."""
        ids = self.addresses.get(address, [])
        if len(ids) > 1:
            raise Ambiguous(
                f"{' and '.join(sorted(ids))} both announce the address {address}: name one of "
                "them by its id, and correct their cluster-announce settings."
            )
        return ids[0] if ids else None

    def _nodes_text(self) -> str:
        names = sorted(self.name(node_id) for node_id in self.lines)
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        return f"the cluster's nodes are {', '.join(names[:10])}{more}."

    def require_primary(self, node_id: str, role: str, instead: str = "") -> str:
        """The id again; raises OptionError if the node is a replica. `instead` says what to do
        then, if not to name its primary."""
        line = self.lines[node_id]
        if line.is_primary:
            return node_id
        told = instead or f"name its primary {self.name(line.primary_id or '')} instead"
        raise OptionError(f"the {role} {self.name(node_id)} is a replica; {told}.")


def _own_line(report: Report, told: Line) -> Line:
    """A node's own line, with the host that others know (its own may be empty after a start)."""
    me = report.view.me
    if me.host and me.port:
        return me
    return replace(me, host=told.host or me.host, port=told.port or me.port)


def format_address(host: str, port: int) -> str:
    """`host:port` in lower case, IPv6 in brackets."""
    return f"[{host.lower()}]:{port}" if ":" in host else f"{host.lower()}:{port}"


def split_address(text: str) -> tuple[str, int]:
    """(host, port) of `10.0.0.1:6379`, `[::1]:6379`, `::1:6379` or `name:6379`.

    Raises OptionError for anything else.
    """
    host, _colon, port = text.strip().rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise OptionError(f"'{text}' is not an address: give host:port, IPv6 as [address]:port.")
    return host, int(port)
