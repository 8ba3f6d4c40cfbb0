# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Keys that stand on both sides of an open slot, left by a MIGRATE whose end nobody saw."""

from __future__ import annotations

import typing as t

from ansible_collections.keyslot.redis.plugins.module_utils._errors import ReplyError
from ansible_collections.keyslot.redis.plugins.module_utils._lane import Lane
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Command, Reply
from ansible_collections.keyslot.redis.plugins.module_utils._server import (
    Server,
    by_database,
    in_databases,
    text,
)

# Expiry is carried over as a remaining time, so it drifts by the time of the transfer.
TTL_SLACK_MS = 5000

_READ: dict[bytes, t.Callable[[bytes], list[Command]]] = {
    b"string": lambda key: [("GET", key)],
    b"list": lambda key: [("LRANGE", key, 0, -1)],
    b"set": lambda key: [("SMEMBERS", key)],
    b"hash": lambda key: [("HGETALL", key)],
    b"zset": lambda key: [("ZRANGE", key, 0, -1, "WITHSCORES")],
}


def settle_busy_keys(lane: Lane, slot: int, database: int, names: list[bytes]) -> str | None:
    """Makes way for those of the keys that stand on both sides.

    Equal values: the copy that clients do not see is deleted, which is the target's; the next
    MIGRATE moves the source's. In a stray lane it is the source's, and the key is done with.
    Different ones: the same with `on_busy_key: replace`; else returns what to say of the key.
    REPLACE is never used: a RESTORE that comes late would bring an old value back.
    """
    try:
        return _settle(lane, slot, database, names)
    except ReplyError as exc:
        if not exc.grant:
            raise
        return f"{exc}."


def _settle(lane: Lane, slot: int, database: int, names: list[bytes]) -> str | None:
    ids = (
        (lane.move.target, lane.move.source) if lane.stray else (lane.move.source, lane.move.target)
    )
    seen, hidden = map(lane.cluster.server, ids)
    # WATCH is its connection's: this one is no other thread's.
    own = hidden.beside()
    try:
        for name in names:
            if not all(_exists(server, database, name) for server in (seen, own)):
                continue
            _watch(own, database, name)
            if lane.movement.on_busy_key != "replace" and not _equal(seen, own, database, name):
                names_of = " and ".join(map(lane.topology.name, ids))
                return (
                    f"the key '{text(name)[:100]}' in slot {slot} stands on both {names_of} with "
                    "different values. Look at both (ASKING before the read on the second), "
                    "delete the wrong one, or set on_busy_key to 'replace' to keep the first "
                    "one's; then run it again."
                )
            if _exists(seen, database, name):
                _delete(own, database, name)
    finally:
        own.close()
    return None


def _watch(server: Server, database: int, name: bytes) -> None:
    reply = _query(server, database, [("WATCH", name)])[0]
    if isinstance(reply, ReplyError):
        raise reply


def _query(server: Server, database: int, commands: list[Command]) -> list[Reply]:
    """With ASKING before each, which an owner does not mind."""
    asking = [c for command in commands for c in (("ASKING",), command)]
    replies = by_database([database], server.pipeline(in_databases([database], asking)))[0]
    for reply in replies:
        if isinstance(reply, ReplyError) and reply.grant:
            raise reply
    return replies[1::2]


def _exists(server: Server, database: int, name: bytes) -> bool:
    """A key that is gone from an open slot answers ASK, or TRYAGAIN."""
    reply = _query(server, database, [("EXISTS", name)])[0]
    if isinstance(reply, ReplyError) and reply.code not in ("ASK", "TRYAGAIN"):
        raise reply
    return reply == 1


def _equal(one: Server, other: Server, database: int, name: bytes) -> bool:
    """Whether both hold the same value and the same expiry."""
    questions: list[Command] = [("DUMP", name), ("PTTL", name), ("TYPE", name)]
    dumps, ttls, types = zip(*(_query(server, database, questions) for server in (one, other)))
    if any(isinstance(reply, ReplyError) for reply in (*dumps, *ttls, *types)):
        return False
    if (ttls[0] < 0) != (ttls[1] < 0) or abs(ttls[0] - ttls[1]) > TTL_SLACK_MS:
        return False
    if dumps[0] == dumps[1]:
        return True
    # Hash tables have no fixed order: the dump of a set differs after it was moved.
    read = _READ.get(types[0])
    if types[0] != types[1] or read is None:
        return False
    values = [_query(server, database, read(name))[0] for server in (one, other)]
    return _canonical(types[0], values[0]) == _canonical(types[1], values[1])


def _canonical(kind: bytes, value: Reply) -> object:
    if isinstance(value, ReplyError):
        return value
    if kind == b"set":
        return set(value)
    if kind == b"hash":
        return value if isinstance(value, dict) else dict(zip(value[::2], value[1::2]))
    return value


def _delete(server: Server, database: int, name: bytes) -> None:
    """DEL with ASKING, within the open slot, unless the key has changed since it was watched: a
    client that has deleted it on the source is sent here to write it anew. What is left then is
    busy again at the next MIGRATE."""
    commands: list[Command] = [("ASKING",), ("MULTI",), ("DEL", name), ("EXEC",)]
    replies = server.pipeline(in_databases([database], commands))
    for reply in by_database([database], replies)[0]:
        if isinstance(reply, ReplyError):
            raise reply
