# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Everything that is checked before anything is changed. Each check raises Refused."""

from __future__ import annotations

import typing as t

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster, told_ok
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    KeyslotError,
    Refused,
    ReplyError,
)
from ansible_collections.keyslot.redis.plugins.module_utils._estimate import bytes_of
from ansible_collections.keyslot.redis.plugins.module_utils._plan import Move
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Command
from ansible_collections.keyslot.redis.plugins.module_utils._server import Server
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Topology,
)
from ansible_collections.keyslot.redis.plugins.module_utils._verdicts import check_owners_answer

Probes = t.Callable[[bool, bool], t.Sequence[Command]]


def check_cluster(topology: Topology) -> None:
    """All slots are served, all nodes tell the same map, and each says that the state is ok."""
    if topology.uncovered:
        raise Refused(
            f"slots {', '.join(topology.uncovered)} are served by nobody. Nothing was changed: "
            "assign them first, keyslot.redis.redis_cluster_fix does it."
        )
    wrong = told_ok(topology)
    if wrong:
        dead = [line.id for line in topology.lines.values() if "fail" in line.flags]
        lost = (slot for node in dead for slot in topology.slots.get(node, ()))
        check_owners_answer(topology, lost)
        missing = ", ".join(topology.name(node_id) for node_id in sorted(topology.missing))
        unreachable = f" (these can't be reached: {missing})" if missing else ""
        raise Refused(
            f"the cluster is not in order: {wrong}{unreachable}. Nothing was changed: wait until "
            "its nodes agree, or repair it with keyslot.redis.redis_cluster_fix."
        )


def check_nodes(
    cluster: Cluster, topology: Topology, moves: t.Sequence[Move], probes: Probes
) -> None:
    """Versions and permissions fit.

    `probes` are the commands that a node must let us run: for one that gives, one that takes.
    """
    for move in moves:
        _check_versions(topology, move)
    _check_addresses(topology, moves)
    _check_ports(cluster, topology, moves)
    _check_permissions(cluster, topology, moves, probes)


def check_present(topology: Topology, moves: t.Iterable[Move]) -> None:
    """The nodes concerned and their replicas answer, and the replicas are in step."""
    concerned = {node for move in moves for node in (move.source, move.target)}
    for node_id in sorted(concerned - set(topology.joining)):
        family = [node_id, *sorted(line.id for line in topology.replicas_of(node_id))]
        for member in family:
            if member in topology.missing:
                raise Refused(
                    f"{topology.name(member)} can't be reached: {topology.missing[member]} Nothing "
                    f"was changed: {_remedy(topology, member, node_id)}"
                )
            if not topology.reports[member].link_up:
                raise Refused(
                    f"the replica {topology.name(member)} is not in step with its primary "
                    f"{topology.name(node_id)}. Nothing was changed: wait until its link is up."
                )


def _remedy(topology: Topology, member: str, primary: str) -> str:
    if not topology.lines[member].flags & {"fail", "fail?", "noaddr"}:
        return (
            "the other nodes see it alive; make it reachable from here, or say in address_map "
            "where it is."
        )
    if member == primary:
        return "bring it back, or let its replica take over, and run it again."
    return "bring the replica back, or remove it with keyslot.redis.redis_cluster_forget."


def _check_versions(topology: Topology, move: Move) -> None:
    if move.target in topology.joining:
        return
    source, target = topology.reports[move.source], topology.reports[move.target]
    if not target.reads_dumps_of(source):
        raise Refused(
            f"{topology.name(move.target)} runs {target.family} {target.version}, which can't read "
            f"keys of {source.family} {source.version} ({topology.name(move.source)}). Nothing was "
            "changed: move slots to nodes of the same or a later version."
        )


def check_memory(
    topology: Topology, moves: t.Sequence[Move], key_counts: t.Mapping[int, int]
) -> None:
    """An estimate by the source's bytes a key; a target without `maxmemory` takes everything."""
    needed: dict[str, float] = {}
    for move in moves:
        size = bytes_of(topology, move, key_counts)
        needed[move.target] = needed.get(move.target, 0) + size
    for target, size in needed.items():
        if target in topology.joining:
            continue
        report = topology.reports[target]
        limit, used = report.number("maxmemory"), report.number("used_memory")
        if limit and size > limit - used:
            raise Refused(
                f"{topology.name(target)} would take about {int(size)} bytes, but has room for "
                f"{max(0, limit - used)} (maxmemory {limit}, {used} used). Nothing was changed: "
                "raise its maxmemory, or give it fewer slots."
            )


def _check_permissions(
    cluster: Cluster, topology: Topology, moves: t.Sequence[Move], probes: Probes
) -> None:
    sources = {move.source for move in moves}
    targets = {move.target for move in moves}
    asked = [line.id for line in topology.primaries if line.id in topology.reports]
    check_allowed(
        cluster,
        {
            topology.name(node_id): (
                cluster.server(node_id),
                probes(node_id in sources, node_id in targets),
            )
            for node_id in asked
        },
    )


def check_allowed(
    cluster: Cluster, asked: t.Mapping[str, tuple[Server, t.Sequence[Command]]]
) -> None:
    """Each server, under the name it has in messages, lets us run the commands, which are harmless
    forms of those that are to come: refused for another reason where they are permitted."""

    def refused(name: str) -> list[ReplyError]:
        server, commands = asked[name]
        replies = server.pipeline(commands) if commands else []
        errors = [reply for reply in replies if isinstance(reply, ReplyError)]
        return [error for error in errors if error.grant or "unknown command" in error.text]

    for name, found in cluster.each(asked, refused).items():
        if isinstance(found, KeyslotError):
            told = str(found).rstrip(".")
            raise Refused(f"{told}. Nothing was changed: look at that node, then run it again.")
        unknown = [reply for reply in found if not reply.grant]
        if unknown:
            raise Refused(
                f"{name} does not know the command {unknown[0].command}. Nothing was changed: a "
                "command that is renamed or disabled (rename-command) needs its own name back."
            )
        if found:
            commands = ", ".join(dict.fromkeys(reply.command for reply in found))
            grants = " ".join(dict.fromkeys(reply.grant for reply in found))
            raise Refused(
                f"the user '{found[0].user}' may not run {commands} on {name}. Nothing was "
                f"changed: grant it {grants}, on every node."
            )


def _check_addresses(topology: Topology, moves: t.Sequence[Move]) -> None:
    """Nodes that dial each other find the right one."""
    concerned = {node_id for move in moves for node_id in (move.source, move.target)}
    for address, ids in topology.shared_addresses.items():
        if concerned.intersection(ids):
            names = " and ".join(map(topology.name, ids))
            raise Refused(
                f"{names} announce the same address {address}, so that keys could go to the wrong "
                "one. Nothing was changed: correct their cluster-announce settings."
            )


def _check_ports(cluster: Cluster, topology: Topology, moves: t.Sequence[Move]) -> None:
    """MIGRATE dials its target by the port that we are told, and speaks TLS if the cluster does."""
    for move in moves:
        if move.source in topology.joining or cluster.login.tls:
            continue
        if topology.reports[move.source].config.get("tls-cluster") == "yes":
            raise Refused(
                f"{topology.name(move.source)} speaks TLS to the other nodes (tls-cluster), but a "
                "connection without TLS is told their plain ports, by which it can't move keys. "
                "Nothing was changed: set tls to true, and login_port to a TLS port."
            )
