# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Who belongs to the cluster, and who follows whom: meet, replicate, forget."""

from __future__ import annotations

import math
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import (
    Cluster,
    resolve,
    told_ok,
)
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    KeyslotError,
    LostConnection,
    NotConverged,
    OptionError,
    Refused,
    ReplyError,
    Unreachable,
)
from ansible_collections.keyslot.redis.plugins.module_utils._preflight import (
    check_allowed,
    check_cluster,
)
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Command, Reply
from ansible_collections.keyslot.redis.plugins.module_utils._server import Server, to_map
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Report,
    Topology,
    format_address,
    split_address,
    version_tuple,
)

MEET_AGAIN_SECONDS = 1.5
STAYS_SECONDS = 2.5
FORGET_AGAIN_SECONDS = 0.1
QUIET_SECONDS = 2.0
NOBODY = "0" * 40
MOST_QUIET_SECONDS = 15.0


@dataclass(frozen=True)
class Newcomer:
    """A node that is to join: how the members shall dial it, and how we do.

    `libraries` are the functions that it still lacks, as FUNCTION DUMP gives them, or None.
    """

    reference: str
    host: str
    port: int
    bus_port: int
    server: Server
    report: Report
    libraries: bytes | None = None

    @property
    def id(self) -> str:
        return self.report.id

    @property
    def was_member(self) -> bool:
        """Of any cluster, under the id that it has. Only a hard reset takes its epoch away."""
        return self.report.cluster_info.get("cluster_current_epoch", "0") != "0"


# --- meet ---------------------------------------------------------------------------------------


def find_newcomers(
    cluster: Cluster, topology: Topology, references: t.Sequence[str]
) -> list[Newcomer]:
    """The nodes at the given `host:port` or `host:port@bus_port`, members among them.

    Raises Refused for a node that holds keys or belongs to another cluster.
    """
    found: list[Newcomer] = []
    for reference in references:
        newcomer = _look_at(cluster, reference)
        twice = [other.reference for other in found if other.id == newcomer.id]
        if twice:
            raise OptionError(f"'{reference}' and '{twice[0]}' are the same node.")
        if not is_member(topology, newcomer):
            _check_empty(topology, newcomer)
        found.append(newcomer)
    _check_others(topology, found)
    return [
        newcomer if is_member(topology, newcomer) else _with_libraries(cluster, topology, newcomer)
        for newcomer in found
    ]


def _check_others(topology: Topology, newcomers: t.Sequence[Newcomer]) -> None:
    """The cluster is in order. Of newcomers only what they serve: a run that was killed may have
    left them half-known, and what they say changes from one moment to the next."""
    check_cluster(topology.without([n.id for n in newcomers if not topology.slots.get(n.id)]))


def _look_at(cluster: Cluster, reference: str) -> Newcomer:
    address, at, bus = reference.strip().partition("@")
    host, port = split_address(address)
    if at and not (bus.isdigit() and 0 < int(bus) < 65536):
        raise OptionError(f"'{reference}' has no bus port after the @: give host:port@bus_port.")
    addresses = resolve(address)
    if not addresses:
        raise OptionError(f"'{host}' of '{reference}' is no address and no known host name.")
    server = cluster.dial(address)
    try:
        report = server.report()
    except (Unreachable, LostConnection) as exc:
        raise Unreachable(
            f"'{reference}' can't join: {exc} Nothing was changed: see that it runs, can be "
            "reached from here and takes the cluster's login, or correct its address."
        ) from None
    # Of several addresses of a name the one at which it has answered.
    reached = format_address(server.peer, port)
    return Newcomer(
        reference=reference,
        host=split_address(reached if reached in addresses else addresses[0])[0],
        port=port,
        bus_port=int(bus or report.view.me.bus_port or port + 10000),
        server=server,
        report=report,
    )


def is_member(topology: Topology, newcomer: Newcomer) -> bool:
    """A node that was reset is still listed by the others, but lists none of them."""
    return newcomer.id in topology.lines and len(newcomer.report.view.lines) > 1


def _check_empty(topology: Topology, newcomer: Newcomer) -> None:
    report = newcomer.report
    strangers = set(report.view.lines) - {newcomer.id} - set(topology.lines)
    if strangers or report.view.me.slots_text:
        others = ", ".join(sorted(node_id[:8] for node_id in strangers)[:5])
        what = f"knows other nodes ({others})" if strangers else "owns slots"
        raise Refused(
            f"'{newcomer.reference}' ({newcomer.id[:8]}) belongs to another cluster: it {what}. "
            "Nothing was changed: if it is to be taken out of there, run CLUSTER RESET on it."
        )
    if report.key_count:
        raise Refused(
            f"'{newcomer.reference}' ({newcomer.id[:8]}) holds {report.key_count} keys. Nothing "
            "was changed: if they are not needed, run FLUSHALL on it."
        )


def _with_libraries(cluster: Cluster, topology: Topology, newcomer: Newcomer) -> Newcomer:
    """Functions belong to nodes, not to slots, and no one else brings them to a new primary."""
    member = cluster.server(topology.entry)
    theirs, dump = member.pipeline([("FUNCTION", "LIST", "WITHCODE"), ("FUNCTION", "DUMP")])
    if isinstance(theirs, ReplyError) or isinstance(dump, ReplyError) or not theirs:
        return newcomer
    ours = newcomer.server.call("FUNCTION", "LIST", "WITHCODE")
    if _functions(ours) == _functions(theirs):
        return newcomer
    if ours:
        raise Refused(
            f"'{newcomer.reference}' has other function libraries than the cluster. Nothing was "
            "changed: run FUNCTION FLUSH on it if they are not needed."
        )
    return replace(newcomer, libraries=dump)


def _functions(libraries: t.Sequence[Reply]) -> set[tuple[str, str]]:
    """Name and code of each library; the order in which a node lists them is its own."""
    maps = map(to_map, libraries)
    return {(library["library_name"], library["library_code"]) for library in maps}


def meet(
    cluster: Cluster, topology: Topology, newcomers: t.Sequence[Newcomer], wait_timeout: float
) -> Topology:
    """Makes them members and waits until every node knows every node and each one's state is ok.

    Raises NotConverged after `wait_timeout` seconds.
    """
    members = [i for i in topology.reports if i not in {newcomer.id for newcomer in newcomers}]
    entry = members[0] if members else topology.entry
    for newcomer in newcomers:
        if newcomer.libraries is not None:
            newcomer.server.call("FUNCTION", "RESTORE", newcomer.libraries)
    asked: dict[str, float] = {}
    # From Redis 7.2 on, who was told to forget a node tells the others so for 60 s, at least once a
    # second; who hears it drops the node again (CLUSTERMSG_EXT_TYPE_FORGOTTEN_NODE).
    stays = STAYS_SECONDS if any(newcomer.was_member for newcomer in newcomers) else 0.0
    hint = " (a node that was removed is kept away by the others for 60 s)" if stays else ""
    # Of members that were met before nobody has to wait for anything.
    good_since = -math.inf

    def still_wrong(seen: Topology) -> str | None:
        nonlocal good_since
        wrong = not_met(seen)
        if wrong:
            good_since = math.inf
            return f"{wrong}{hint}"
        now = time.monotonic()
        good_since = min(good_since, now)
        if now - good_since < stays:
            return f"all nodes know each other, but only just{hint}"
        return None

    def not_met(seen: Topology) -> str | None:
        wrong = [_not_joined(seen, newcomer) for newcomer in newcomers]
        for newcomer, reason in zip(newcomers, wrong):
            told = [entry] if reason else _strangers(seen, newcomer)
            # It is only queued, and dropped without a word when the handshake fails.
            if told and time.monotonic() - asked.get(newcomer.id, -math.inf) > MEET_AGAIN_SECONDS:
                _introduce(cluster, told, newcomer)
                asked[newcomer.id] = time.monotonic()
        return next(filter(None, wrong), None) or told_ok(seen) or _not_linked(seen)

    return cluster.wait(wait_timeout, still_wrong, "the meeting of all nodes")


def _introduce(cluster: Cluster, node_ids: t.Sequence[str], newcomer: Newcomer) -> None:
    """Has these nodes meet the newcomer. Raises what the first one answers, if it is an error."""
    address = (newcomer.host, newcomer.port, newcomer.bus_port)
    answers = cluster.tell(node_ids, [("CLUSTER", "MEET", *address)])
    first = answers[node_ids[0]]
    error = first if isinstance(first, KeyslotError) else first[0]
    if isinstance(error, KeyslotError):
        raise error


def _strangers(seen: Topology, newcomer: Newcomer) -> list[str]:
    """The nodes that do not know it. One that was told to forget it does not listen to what others
    say of it for 60 s, but meets it when it is told to."""
    return [
        report.id
        for report in seen.reports.values()
        if newcomer.id not in report.view.lines and report.id in seen.lines
    ]


def _not_joined(seen: Topology, newcomer: Newcomer) -> str | None:
    """Whether the newcomer and the others know each other in name."""
    if newcomer.id not in seen.reports:
        return f"'{newcomer.reference}' is not yet known to the members"
    if len(seen.reports[newcomer.id].view.lines) == 1:
        return f"'{newcomer.reference}' does not yet know the members"
    return None


def _not_linked(seen: Topology) -> str | None:
    """Every node that answers knows every other such node and is connected to it."""
    for report in seen.reports.values():
        for other in seen.reports:
            line = report.view.lines.get(other)
            if line is None or "noaddr" in line.flags:
                return f"{seen.name(report.id)} does not know {seen.name(other)}"
            if not line.linked and other != report.id:
                return f"{seen.name(report.id)} has no link to {seen.name(other)}"
    return None


def check_may_meet(cluster: Cluster, topology: Topology, newcomers: t.Sequence[Newcomer]) -> None:
    """Raises Refused where a member may not be told to meet, or a newcomer not be given
    functions."""
    probe: Command = ("CLUSTER", "MEET", "permission-probe", 1)
    entry = cluster.server(topology.entry)
    asked: dict[str, tuple[Server, list[Command]]] = {entry.address: (entry, [probe])}
    for newcomer in newcomers:
        if newcomer.libraries is not None:
            asked[newcomer.reference] = (newcomer.server, [("FUNCTION", "RESTORE", b"")])
    check_allowed(cluster, asked)


# --- replicate ----------------------------------------------------------------------------------


def choose_primary(topology: Topology, node_id: str, without: t.Collection[str] = ()) -> str:
    """The primary with slots that has the fewest replicas; of equal ones first those on another
    host. Raises Refused if there is none."""
    host = topology.lines[node_id].host
    candidates = [
        line
        for line in topology.primaries
        if line.id in topology.reports and topology.slots[line.id]
        if line.id != node_id and line.id not in without
    ]
    if not candidates:
        raise Refused(f"no primary with slots is there that {topology.name(node_id)} could follow.")
    return min(candidates, key=lambda p: (len(topology.replicas_of(p.id)), p.host == host, p.id)).id


def check_can_replicate(topology: Topology, node_id: str, primary: str) -> None:
    """Raises Refused for a node with slots, keys or replicas of its own."""
    name = topology.name(node_id)
    if node_id == primary:
        raise OptionError(f"{name} can't be a replica of itself: name another primary, or auto.")
    if node_id in topology.missing:
        raise Refused(
            f"{name} can't be reached: {topology.missing[node_id]} Nothing was changed: bring it "
            "back, or make it reachable from here."
        )
    if primary in topology.missing:
        raise Refused(
            f"the primary {topology.name(primary)} can't be reached: {topology.missing[primary]} "
            "Nothing was changed: bring it back, or name another one."
        )
    _check_no_last_copy(topology, node_id)
    if not topology.lines[node_id].is_primary or node_id in topology.joining:
        return
    slots = len(topology.slots[node_id])
    if slots:
        raise Refused(
            f"{name} owns {slots} slots. Nothing was changed: drain it first, with "
            "keyslot.redis.redis_cluster_rebalance."
        )
    keys = topology.reports[node_id].key_count
    if keys:
        raise Refused(
            f"{name} holds {keys} keys. Nothing was changed: bring them to the owners of their "
            "slots first, with keyslot.redis.redis_cluster_fix."
        )
    followers = topology.replicas_of(node_id)
    if followers:
        raise Refused(
            f"{name} has {len(followers)} replicas of its own. Nothing was changed: let them "
            "replicate another primary first."
        )


def check_may_replicate(cluster: Cluster, topology: Topology, node_id: str) -> None:
    """Raises Refused where the user may not."""
    probe: Command = ("CLUSTER", "REPLICATE", NOBODY)
    check_allowed(cluster, {topology.name(node_id): (cluster.server(node_id), [probe])})


def replicate(
    cluster: Cluster, topology: Topology, node_id: str, primary: str, wait_timeout: float
) -> Topology:
    """Makes the node a replica and waits until its link is up and every node knows it.

    Raises NotConverged after `wait_timeout` seconds.
    """
    if topology.lines[node_id].primary_id != primary:
        cluster.server(node_id).call("CLUSTER", "REPLICATE", primary)

    def still_wrong(seen: Topology) -> str | None:
        report = seen.reports.get(node_id)
        if report is None or report.view.me.primary_id != primary:
            return f"{seen.name(node_id)} does not yet follow {seen.name(primary)}"
        if not report.link_up:
            return f"{seen.name(node_id)} is not yet in step with {seen.name(primary)}"
        for other in seen.reports.values():
            line = other.view.lines.get(node_id)
            if line is None or line.primary_id != primary:
                return f"{seen.name(other.id)} does not know that {seen.name(node_id)} follows it"
        return None

    return cluster.wait(wait_timeout, still_wrong, "the replication")


# --- forget -------------------------------------------------------------------------------------


def check_can_forget(cluster: Cluster, topology: Topology, node_id: str, reset: str) -> None:
    """Raises Refused where it must not go; with its `id`, `role` and `slot_count` if only its slots
    stand in the way."""
    name = topology.name(node_id)
    line = topology.lines[node_id]
    report = topology.reports.get(node_id)
    if topology.entry == node_id:
        other = next((line for line in topology.lines.values() if line.id != node_id), None)
        instead = format_address(other.host, other.port) if other else "a member of the cluster"
        raise Refused(
            f"{name} is the node by which the cluster was entered, and is to be removed from it. "
            f"Nothing was changed: set login_host and login_port to another node, {instead}."
        )
    if report is None and reset != "none" and not _counts_as_dead(topology, node_id):
        raise Refused(
            f"{name} can't be reached from here ({topology.missing[node_id]}), but the other nodes "
            "see it alive: not reset, it would come back. Nothing was changed: make it reachable, "
            "stop it, or set reset to 'none'."
        )
    _check_others_told(topology, node_id)
    _check_may_forget(cluster, topology, node_id, reset)
    slots = len(topology.slots.get(node_id, ()))
    if slots:
        raise Refused(
            f"{name} owns {slots} slots. Nothing was changed: drain it first, with "
            "keyslot.redis.redis_cluster_rebalance.",
            id=node_id,
            role="primary" if line.is_primary else "replica",
            slot_count=slots,
        )
    _check_holds_nothing(topology, node_id)
    _check_no_way(topology, node_id)
    check_cluster(topology.without([node_id]))


def _check_holds_nothing(topology: Topology, node_id: str) -> None:
    """No client sees keys of a node without slots, but they may be the moved half of an open one,
    even where no marker tells of it any more."""
    for copy in (node_id, *(line.id for line in topology.replicas_of(node_id))):
        _check_no_last_copy(topology, copy)
    report = topology.reports.get(node_id)
    if report and topology.lines[node_id].is_primary and report.key_count:
        raise Refused(
            f"{topology.name(node_id)} owns no slots, but holds {report.key_count} keys, and they "
            "would be lost with it. Nothing was changed: bring them to the owners of their slots "
            "first, with keyslot.redis.redis_cluster_fix."
        )


def _check_no_last_copy(topology: Topology, replica: str) -> None:
    """Raises Refused for a replica with keys of a primary that does not answer: it does not always
    take over by itself, and is emptied by a reset and by another primary."""
    primary = topology.lines[replica].primary_id
    keys = topology.reports[replica].key_count if replica in topology.reports else 0
    if keys and primary in topology.missing:
        raise Refused(
            f"{topology.name(replica)} is a replica of {topology.name(primary or '')}, which can't "
            f"be reached, and holds {keys} keys, perhaps the last copy of them. "
            "Nothing was changed: bring that primary back, or let the replica take its place, with "
            "CLUSTER FAILOVER TAKEOVER on it; then run keyslot.redis.redis_cluster_fix."
        )


def _check_no_way(topology: Topology, node_id: str) -> None:
    """Raises Refused while a slot is on its way to the node or from it: who forgets a node drops
    the markers that name it, and with them all trace of keys that have moved.

    Only an owner migrates, and only another node imports: what else says so is left over.
    """
    for marker in topology.open_slots:
        owns = topology.owners[marker.slot] == marker.node
        if node_id in (marker.node, marker.peer) and owns == (marker.kind == "migrating"):
            way = "to" if marker.kind == "migrating" else "from"
            raise Refused(
                f"slot {marker.slot} is open: {topology.name(marker.node)} is {marker.kind} it "
                f"{way} {topology.name(marker.peer)}, and without {topology.name(node_id)} keys of "
                "it could get lost. Nothing was changed: let the run that opened it finish, run "
                "that one again, or repair it with keyslot.redis.redis_cluster_fix."
            )


def _check_others_told(topology: Topology, node_id: str) -> None:
    """Raises Refused for a member that lives and can't be told: it would go on speaking of the
    node, which the others take back when their ban of 60 s is over."""
    for other, reason in sorted(topology.missing.items()):
        if other != node_id and not _counts_as_dead(topology, other):
            raise Refused(
                f"{topology.name(node_id)} is to be forgotten by all, but {topology.name(other)} "
                f"can't be reached from here ({reason}), and the other nodes see it alive: it "
                "would bring that node back. Nothing was changed: make it reachable, say in "
                "address_map where it is, or stop it."
            )


def _counts_as_dead(topology: Topology, node_id: str) -> bool:
    flags = topology.lines[node_id].flags
    return bool(flags & {"fail", "fail?", "noaddr"}) or "another node" in topology.missing[node_id]


def _check_may_forget(cluster: Cluster, topology: Topology, node_id: str, reset: str) -> None:
    """Raises Refused where the user may not do one of the steps."""
    asked: dict[str, tuple[Server, list[Command]]] = {}
    for other in topology.reports:
        probes: list[Command] = [("CLUSTER", "FORGET", NOBODY)]
        if other == node_id:
            probes = [] if reset == "none" else [("CLUSTER", "RESET", "permission-probe")]
        elif other in planned_homes(topology, node_id):
            probes.append(("CLUSTER", "REPLICATE", NOBODY))
        asked[topology.name(other)] = (cluster.server(other), probes)
    check_allowed(cluster, asked)


def forget(
    cluster: Cluster, topology: Topology, node_id: str, reset: str, wait_timeout: float
) -> tuple[dict[str, str], int]:
    """Re-homes its replicas, resets it, and makes every other node forget it.

    In this order: killed after the reset, the members still list it, and the next run finishes.
    Returns the replicas' new primaries, and how many nodes were told.
    """
    moved = planned_homes(topology, node_id)
    for replica, primary in moved.items():
        topology = replicate(cluster, topology, replica, primary, wait_timeout)
    if reset != "none" and node_id in topology.reports:
        _wait_until_quiet(cluster.server(node_id))
        cluster.server(node_id).call("CLUSTER", "RESET", reset.upper())
    others = [member for member in topology.reports if member != node_id]
    _forget_everywhere(cluster, topology, node_id, others, wait_timeout)
    return moved, len(others)


def _wait_until_quiet(server: Server) -> None:
    """Until the node has sent no client elsewhere for a while: as long as it answers MOVED,
    clients with an old map learn a better one; once it is reset they get an error."""
    started = time.monotonic()
    seen = None
    while time.monotonic() < started + MOST_QUIET_SECONDS:
        redirected = server.report().info.get("errorstat_MOVED", "")
        if redirected == seen:
            return
        seen = redirected
        time.sleep(QUIET_SECONDS)


def planned_homes(topology: Topology, node_id: str) -> dict[str, str]:
    """Replica -> new primary, for the node's replicas that can be reached."""
    homes: dict[str, str] = {}
    for line in sorted(topology.replicas_of(node_id), key=lambda line: line.id):
        if line.id in topology.reports:
            homes[line.id] = choose_primary(topology, line.id, without=[node_id])
    return homes


def _forget_everywhere(
    cluster: Cluster, topology: Topology, node_id: str, others: list[str], wait_timeout: float
) -> None:
    """Tells all nodes until none lists it: gossip of one that still does would bring it back."""
    deadline = time.monotonic() + wait_timeout
    while True:
        cluster.tell(others, [("CLUSTER", "FORGET", node_id)])
        views = cluster.each(others, lambda other: cluster.server(other).report().view)
        wrong = [
            f"{topology.name(other)} {view if isinstance(view, KeyslotError) else 'lists it'}"
            for other, view in views.items()
            if isinstance(view, KeyslotError) or node_id in view.lines
        ]
        if not wrong:
            return
        if time.monotonic() > deadline:
            raise NotConverged(
                f"{topology.name(node_id)} was not forgotten by all within {wait_timeout:g} s: "
                f"{'; '.join(wrong[:3]).rstrip('.')}. Run it again."
            )
        time.sleep(FORGET_AGAIN_SECONDS)


def comes_back(topology: Topology, node_id: str, reset: str) -> list[str]:
    """Warnings, where a forgotten node can come back."""
    found = (_by_itself(topology, node_id, reset), _by_others(topology, node_id))
    return [warning for warning in found if warning]


def _by_others(topology: Topology, node_id: str) -> str | None:
    names = " and ".join(topology.name(i) for i in sorted(topology.missing) if i != node_id)
    if not names:
        return None
    return (
        f"{topology.name(node_id)} could not be forgotten by {names}, which can't be reached: a "
        "node that comes back from there brings it back, too. Remove such a node as well, or run "
        "this again when it is there."
    )


def _by_itself(topology: Topology, node_id: str, reset: str) -> str | None:
    name = topology.name(node_id)
    if node_id in topology.reports:
        if reset != "none":
            return None
        return (
            f"{name} is alive and was not reset: after 60 s the others take it back, unless it is "
            "stopped before, and its nodes.conf is removed."
        )
    versions = [(r.family, version_tuple(r.version)) for r in topology.reports.values()]
    if any(family == "valkey" and version >= (8, 1) for family, version in versions):
        return (
            f"{name} could not be reset: should it ever be started again with its old nodes.conf, "
            "it comes back into the cluster. Remove that file first."
        )
    return None
