# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""The classic protocol: IMPORTING on the target, MIGRATING on the source, the keys, the commit.

Every step may be the last one that this process takes. What is left then is an open slot whose
keys stand on one of the two nodes each; calling `move` again goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
import typing as t

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    KeyslotError,
    LostConnection,
    ReplyError,
    Stopped,
    Unreachable,
)
from ansible_collections.keyslot.redis.plugins.module_utils._lane import Lane, Movement, Pace
from ansible_collections.keyslot.redis.plugins.module_utils._movers._busy_keys import (
    settle_busy_keys,
)
from ansible_collections.keyslot.redis.plugins.module_utils._movers._emptied import (
    kept_as_primary,
)
from ansible_collections.keyslot.redis.plugins.module_utils._plan import Move
from ansible_collections.keyslot.redis.plugins.module_utils._repair import let_old_news_pass
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Command, Reply
from ansible_collections.keyslot.redis.plugins.module_utils._server import (
    Server,
    by_database,
    in_databases,
    text,
)
from ansible_collections.keyslot.redis.plugins.module_utils._slots import format_slots, from_ranges
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Topology,
    parse_info,
    parse_view,
)

METHOD = "classic"

# Few slots are open at once: while one is, a failover of the source can make a Redis target
# answer CLUSTERDOWN, and a client whose map lacks the target fails on ASK.
SLOTS_AT_ONCE = 16
# For each slot that it gets, a Redis target sends its whole map to every node: 64 at once are a
# tenth faster, and were seen to hold clients up for over 30 ms.
EMPTY_SLOTS_AT_ONCE = 24
KEYS_AT_ONCE = 2000
# What MIGRATE carries of small keys on a fast network; the pace finds out what is true here.
KEYS_A_SECOND = 50000
# Slots with more keys than this are looked at while they move.
MANY_KEYS = 10000
# A burst of MIGRATEs must not keep the source from its pings even if each one times out.
MIN_MIGRATE_TIMEOUT = 0.5
ATTEMPTS = 5
NEW_CLIENT_PATIENCE = 5.0  # seconds
EPOCH_PAUSE = 0.05
PASSING_PAUSE = 1.0  # a node that comes back says CLUSTERDOWN for two seconds
PASSING = ("CLUSTERDOWN", "LOADING", "BUSY ", "TRYAGAIN", "MASTERDOWN", "pending trim job")
NOT_PRIMARY = ("SETSLOT only with masters", "SETSLOT only with primaries")

PROBE_KEY = b"keyslot-permission-probe"
_SETSLOT: Command = ("CLUSTER", "SETSLOT", 16384, "STABLE")
_INFO: Command = ("CLUSTER", "INFO")

Key = tuple[int, bytes, int]  # database, name, estimated bytes


class _Uncertain(KeyslotError):
    """A MIGRATE ended so that its keys may stand on both sides, or be on their way."""


@dataclasses.dataclass
class _Paces:
    """What is sent at once: keys and bytes to MIGRATE, questions about keys, slots to SETSLOT."""

    keys: Pace
    bytes: Pace
    sizes: Pace
    slots: Pace


def unfit(cluster: Cluster, topology: Topology, move: Move) -> str | None:
    """The classic protocol works between all versions whose dumps the target can read."""
    return None


def probes(movement: Movement, gives: bool, takes: bool) -> list[Command]:
    """Harmless forms: where permitted, each is refused for another reason or does nothing."""
    if gives:
        return [
            ("PING",),
            _SETSLOT,
            ("CLUSTER", "COUNTKEYSINSLOT", 0),
            ("CLUSTER", "GETKEYSINSLOT", 0, 0),
            ("MIGRATE", "127.0.0.1", 1, "", 0, 1, "KEYS", PROBE_KEY),
            *([("MEMORY", "USAGE", PROBE_KEY)] if movement.big_key_bytes else []),
        ]
    # In this order: whoever waits for late keys looks for connections whose last command is this.
    takes_keys: list[Command] = [("PING",), ("SELECT", 0), ("RESTORE-ASKING", PROBE_KEY, 0, b"")]
    return [*takes_keys, _SETSLOT] if takes else [_SETSLOT]


def move(lane: Lane) -> None:
    """Moves the lane's slots in batches, those found open first, then the empty ones."""
    limit = lane.movement.max_pause_ms / 1000
    paces = _Paces(
        keys=Pace(limit, max(1, int(limit * KEYS_A_SECOND / 2)), 5000),
        bytes=Pace(limit, 256 * 1024, 16 * 1024 * 1024),
        sizes=Pace(limit, 200, 2000),
        slots=Pace(limit, 16, EMPTY_SLOTS_AT_ONCE),
    )
    let_old_news_pass(lane.cluster, lane.topology, [lane.move.target], [lane.move.source])
    for batch in _batches(lane, paces.slots):
        lane.taker.wait_until_free()
        if lane.shall_stop():
            return
        _move_batch(lane, paces, batch)


def _batches(lane: Lane, pace: Pace) -> t.Iterator[list[int]]:
    counts = lane.key_counts
    order = sorted(lane.move.slots, key=lambda s: (s not in lane.adopted, counts[s] > 0, s))
    batch: list[int] = []
    keys = 0
    for slot in order:
        most = min(pace.size, SLOTS_AT_ONCE if counts[slot] else EMPTY_SLOTS_AT_ONCE)
        changes = bool(batch) and bool(counts[slot]) != bool(counts[batch[0]])
        if batch and (changes or len(batch) >= most or keys + counts[slot] > KEYS_AT_ONCE):
            yield batch
            batch, keys = [], 0
        batch.append(slot)
        keys += counts[slot]
    if batch:
        yield batch


def _move_batch(lane: Lane, paces: _Paces, batch: list[int]) -> None:
    """One batch to its end; after a lost connection it looks again and goes on, a few times."""
    slots = batch
    lost: KeyslotError | None = None
    for attempt in range(ATTEMPTS):
        try:
            if attempt:
                slots = [slot for slot in slots if slot not in lane.slots_done]
                with lane.taker.waiting():
                    wait_for_late_restores(lane)
            if attempt or lane.adopted.intersection(slots):
                slots = _resume(lane, slots)
            unmoved = _move_once(lane, paces, slots) if slots else None
        except (LostConnection, Unreachable, _Uncertain) as exc:
            lost = exc
        except ReplyError as exc:
            if not _will_pass(exc):
                raise
            lost = exc
            time.sleep(PASSING_PAUSE)
        else:
            if unmoved:
                raise Stopped(unmoved)
            return
    reason = str(lost).rstrip(".")
    raise Stopped(
        f"slots {', '.join(format_slots(slots))} are left open from {lane.name} after {ATTEMPTS} "
        f"attempts: {reason}. Run it again when both nodes answer."
    )


def _move_once(lane: Lane, paces: _Paces, slots: list[int]) -> str | None:
    """Returns what is to be said of slots that can't be moved, or None."""
    keys, untouched = _load_keys(lane, paces, slots)
    fit = [slot for slot in slots if slot not in untouched]
    stuck: dict[int, str] = {}
    if fit:
        _open(lane, paces, fit)
        search = {slot for slot in fit if lane.key_counts[slot] > MANY_KEYS}
        while fit:
            known = {slot: keys.get(slot, []) for slot in fit}
            stuck.update(_drain(lane, paces, known, search))
            fit = [slot for slot in fit if slot not in stuck]
            fit = _commit(lane, paces, fit) if fit else []
            keys, search = {}, set(fit)
    return " ".join([*untouched.values(), *_left_open(lane, stuck)]) or None


def _left_open(lane: Lane, stuck: t.Mapping[int, str]) -> list[str]:
    """One sentence for all slots that have the same reason."""
    slots: dict[str, list[int]] = {}
    for slot, reason in stuck.items():
        slots.setdefault(reason, []).append(slot)
    return [
        f"Slots {', '.join(format_slots(found))} are left open from {lane.name}, and the next run "
        f"goes on with them: {reason}"
        for reason, found in slots.items()
    ]


# --- looking ------------------------------------------------------------------------------------


def _ask(lane: Lane, commands: t.Sequence[Command]) -> list[list[Reply]]:
    """The source's replies to the commands in each of the lane's databases."""
    pipeline = in_databases(lane.databases, commands)
    return by_database(lane.databases, lane.step(lane.source, pipeline))


def _load_keys(
    lane: Lane, paces: _Paces, slots: list[int]
) -> tuple[dict[int, list[Key]], dict[int, str]]:
    """The keys of the slots that have few enough, with sizes, and what to say of slots that hold
    one which is too big. A key that comes later is found before the commit."""
    keys: dict[int, list[Key]] = {}
    wanted = [slot for slot in slots if 0 < lane.key_counts[slot] <= MANY_KEYS]
    if wanted:
        commands = [("CLUSTER", "GETKEYSINSLOT", slot, MANY_KEYS) for slot in wanted]
        for database, replies in zip(lane.databases, _ask(lane, commands)):
            names = [name for reply in replies for name in _checked(reply)]
            sized = iter(_with_sizes(lane, paces, database, names))
            for slot, reply in zip(wanted, replies):
                keys.setdefault(slot, []).extend(itertools.islice(sized, len(reply)))
    messages = {slot: _too_big(lane, slot, found) for slot, found in keys.items()}
    return keys, {s: f"{text} Its slot was not touched." for s, text in messages.items() if text}


def _with_sizes(lane: Lane, paces: _Paces, database: int, names: list[bytes]) -> list[Key]:
    """MEMORY USAGE of each key; it samples 5 elements, so it estimates. 0 for one that is gone."""
    if not lane.movement.big_key_bytes:
        return [(database, name, 0) for name in names]
    found: list[Key] = []
    while len(found) < len(names):
        part = names[len(found) : len(found) + paces.sizes.size]
        asked: list[Command] = [("MEMORY", "USAGE", name) for name in part]
        # A source that does not own the slot answers whoever is ASKING.
        asked = [c for command in asked for c in (("ASKING",), command)] if lane.stray else asked
        replies = lane.step(lane.source, in_databases([database], asked), (paces.sizes, len(part)))
        sizes = by_database([database], replies)[0]
        for name, size in zip(part, sizes[1::2] if lane.stray else sizes):
            if isinstance(size, ReplyError) and size.code == "MOVED":
                raise _owners_changed(lane, size.text.split()[1], size)
            if isinstance(size, ReplyError) and size.code != "ASK":
                raise size
            found.append((database, name, size if isinstance(size, int) else 0))
    return found


def _too_big(lane: Lane, slot: int, keys: list[Key]) -> str | None:
    limit = lane.movement.big_key_bytes
    size, name = max(((size, name) for _db, name, size in keys), default=(0, b""))
    if not limit or size <= limit:
        return None
    return (
        f"the key '{text(name)[:100]}' in slot {slot} is estimated at {size} bytes, over "
        f"big_key_bytes ({limit}): one MIGRATE of it would hold up both nodes. Split or delete "
        "it, or raise big_key_bytes."
    )


# --- opening ------------------------------------------------------------------------------------


def _setslot(
    lane: Lane,
    paces: _Paces,
    server: Server,
    slots: list[int],
    words: t.Sequence[str],
    then: t.Sequence[Command] = (),
) -> tuple[dict[int, ReplyError], list[Reply]]:
    """SETSLOT of every slot on one node: the errors that stay, and the replies to what follows.

    In one pipeline, unless the node waits for its replicas: such a Valkey primary refuses with
    NOREPLICAS while one does not answer, and has not done it then. It is told again until it has.
    """
    if server.ways == 1:
        commands = [*_setslots(slots, *words), *then]
        replies = lane.step(server, commands, (paces.slots, len(slots)))
        return _errors(slots, replies), replies[len(slots) :]
    deadline = time.monotonic() + lane.movement.wait_timeout
    errors: dict[int, ReplyError] = {}
    todo = slots
    while todo:
        answers = _errors(todo, server.scatter(_setslots(todo, *words)))
        todo = _without_replicas(answers)
        if todo and time.monotonic() > deadline:
            raise Stopped(f"{answers[todo[0]]}: a replica of {server.address} does not answer.")
        errors.update((slot, error) for slot, error in answers.items() if slot not in todo)
    return errors, lane.step(server, then) if then else []


def _setslots(slots: t.Sequence[int], *words: str) -> list[Command]:
    return [("CLUSTER", "SETSLOT", slot, *words) for slot in slots]


def _errors(slots: t.Sequence[int], replies: t.Sequence[Reply]) -> dict[int, ReplyError]:
    return {slot: r for slot, r in zip(slots, replies) if isinstance(r, ReplyError)}


def _without_replicas(errors: t.Mapping[int, ReplyError]) -> list[int]:
    return [slot for slot, error in errors.items() if error.code == "NOREPLICAS"]


def _open(lane: Lane, paces: _Paces, slots: list[int]) -> None:
    """The target first: else the source would send clients to a node that sends them back. Of empty
    slots it alone, because the count before the commit marks them on the source."""
    if lane.stray:
        _mark_strays(lane, paces, slots)
        return
    importing, migrating = ("IMPORTING", lane.move.source), ("MIGRATING", lane.move.target)
    _no_errors(lane, _setslot(lane, paces, lane.target, slots, importing)[0])
    if any(lane.key_counts[slot] for slot in slots):
        _no_errors(lane, _setslot(lane, paces, lane.source, slots, migrating)[0])


def _mark_strays(lane: Lane, paces: _Paces, slots: list[int]) -> None:
    """The source imports the slots, of all nodes from the owner: so it keeps its keys, counts them
    and can send them; a Valkey node takes over what it imports from one that does not claim it."""
    by_owner: dict[str, list[int]] = {}
    for slot in slots:
        by_owner.setdefault(lane.topology.owners[slot] or "", []).append(slot)
    for owner, found in by_owner.items():
        marker = ("IMPORTING", owner)
        _no_errors(lane, _setslot(lane, paces, lane.source, found, marker)[0])


def _no_errors(lane: Lane, errors: t.Mapping[int, ReplyError]) -> None:
    for slot, error in errors.items():
        if _will_pass(error):
            raise error
        raise _owners_changed(lane, slot, error)


def _owners_changed(lane: Lane, slot: int | str, error: ReplyError) -> Stopped:
    return Stopped(
        f"slot {slot} can't move from {lane.name}: {error}. The owners have changed under the "
        "run; run it again, it goes on from what it finds."
    )


def _will_pass(error: ReplyError) -> bool:
    """Whether the server says no for a while only, as one does that has just been started."""
    return any(word in error.text for word in PASSING)


def _checked(reply: Reply) -> Reply:
    if isinstance(reply, ReplyError):
        raise reply
    return reply


# --- the keys -----------------------------------------------------------------------------------


def _drain(
    lane: Lane, paces: _Paces, waiting: dict[int, list[Key]], search: set[int]
) -> dict[int, str]:
    """Moves the open slots' known keys, and in the slots to search all others too; returns why,
    for slots that have to stay open. The count before the commit finds what is left."""
    stuck: dict[int, str] = {}
    unfound: dict[int, set[tuple[int, bytes]]] = {}
    while waiting:
        for slot in [slot for slot, left in waiting.items() if not left]:
            waiting[slot] = _next_keys(lane, paces, slot) if slot in search else []
            message = _too_big(lane, slot, waiting[slot])
            message = message or _unfound(lane, slot, waiting[slot], unfound.get(slot, ()))
            if message:
                stuck[slot] = message
            if message or not waiting[slot]:
                del waiting[slot]
        if waiting:
            stuck.update(_migrate_burst(lane, paces, waiting, unfound))
    return stuck


def _unfound(
    lane: Lane, slot: int, listed: list[Key], unfound: t.Collection[tuple[int, bytes]]
) -> str | None:
    """What to say of a key that is listed again, though MIGRATE did not find it."""
    name = next((name for db, name, _size in listed if (db, name) in unfound), None)
    if name is None:
        return None
    return (
        f"{lane.topology.name(lane.move.source)} lists the key '{text(name)[:100]}' in slot "
        f"{slot}, and MIGRATE does not find it there: it has expired, but is kept (is import-mode "
        "on there?). See to it that it is deleted, then run it again."
    )


def _next_keys(lane: Lane, paces: _Paces, slot: int) -> list[Key]:
    """Some more keys of the slot in the first database that has any."""
    amount = max(lane.movement.batch_size, paces.keys.size)
    replies = _ask(lane, [("CLUSTER", "GETKEYSINSLOT", slot, amount)])
    for database, (names,) in zip(lane.databases, replies):
        if _checked(names):
            return _with_sizes(lane, paces, database, names)
    return []


def _migrate_burst(
    lane: Lane,
    paces: _Paces,
    waiting: dict[int, list[Key]],
    unfound: dict[int, set[tuple[int, bytes]]],
) -> dict[int, str]:
    """One pipeline of MIGRATEs, at most one a slot, as much as the paces allow.

    Takes what it sent out of `waiting`, and puts what was not found last into `unfound`; returns
    why, for slots that have to stay open.
    """
    burst = _next_burst(lane, paces, waiting)
    timeout = max(1, int(lane.node_timeout * 1000 / 2 / len(burst)))
    replies = _send_burst(lane, paces, burst, timeout)
    stuck: dict[int, str] = {}
    for (slot, part), reply in zip(burst, replies):
        waiting[slot] = waiting[slot][len(part) :]
        if reply == b"NOKEY":
            unfound[slot] = {(db, name) for db, name, _size in part}
        message = _take_reply(lane, slot, part, reply)
        if message:
            stuck[slot] = message
            del waiting[slot]
    return stuck


def _next_burst(
    lane: Lane, paces: _Paces, waiting: dict[int, list[Key]]
) -> list[tuple[int, list[Key]]]:
    most = max(1, int(lane.node_timeout / 2 / MIN_MIGRATE_TIMEOUT))
    keys_left, bytes_left = paces.keys.size, paces.bytes.size
    burst: list[tuple[int, list[Key]]] = []
    for slot, keys in waiting.items():
        part = _fitting(lane, keys, keys_left, bytes_left)
        if burst and (not part or len(burst) >= most):
            break
        part = part or keys[:1]
        burst.append((slot, part))
        keys_left -= len(part)
        bytes_left -= _bytes(part)
        if keys_left <= 0 or bytes_left <= 0:
            break
    return burst


def _bytes(keys: list[Key]) -> int:
    return sum(size for _db, _name, size in keys)


def _fitting(lane: Lane, keys: list[Key], most_keys: int, most_bytes: int) -> list[Key]:
    """The first keys, of one database, that fit into one MIGRATE."""
    part: list[Key] = []
    for key in keys[: min(lane.movement.batch_size, most_keys)]:
        most_bytes -= key[2]
        if most_bytes < 0 or key[0] != keys[0][0]:
            break
        part.append(key)
    return part


def _migrate(lane: Lane, keys: list[Key], timeout: int) -> list[t.Any]:
    """MIGRATE without REPLACE, always: with it, a RESTORE that comes late brings back old values.
    The address is the one by which the source knows the target."""
    host, port = lane.topology.known_as(lane.move.target, lane.move.source)
    names = [name for _db, name, _size in keys]
    auth = lane.cluster.login.migrate_auth
    return ["MIGRATE", host, port, "", keys[0][0], timeout, *auth, "KEYS", *names]


def _send_burst(
    lane: Lane, paces: _Paces, burst: list[tuple[int, list[Key]]], timeout: int
) -> list[Reply]:
    """The reply to each MIGRATE; `timeout` in milliseconds."""
    pipeline: list[t.Sequence[t.Any]] = []
    for _slot, part in burst:
        pipeline += [("SELECT", part[0][0])] if len(lane.databases) > 1 else []
        pipeline.append(_migrate(lane, part, timeout))
    pipeline += [("SELECT", 0)] if len(lane.databases) > 1 else []
    keys = [key for _slot, part in burst for key in part]
    learn = ((paces.keys, len(keys)), (paces.bytes, max(1, _bytes(keys))))
    replies = lane.step(lane.source, pipeline, *learn)
    return replies[1:-1:2] if len(lane.databases) > 1 else replies


def _take_reply(lane: Lane, slot: int, part: list[Key], reply: Reply) -> str | None:
    """Returns why the slot has to stay open, or None."""
    if not isinstance(reply, ReplyError):
        lane.keys_moved += 0 if reply == b"NOKEY" else len(part)
        return None
    if reply.code == "IOERR" or _will_pass(reply):
        raise _Uncertain(f"{reply}.")
    if "BUSYKEY" in reply.text:
        names = [name for _db, name, _size in part]
        return settle_busy_keys(lane, slot, part[0][0], names)
    return f"{reply}. What has moved stays moved; run it again when the reason is gone."


# --- the commit ---------------------------------------------------------------------------------


def _commit(lane: Lane, paces: _Paces, slots: list[int]) -> list[int]:
    """Hands the slots over; returns those that hold keys again, to be drained once more.

    The source's very last slot goes alone: a Redis node turns into a replica of one that owns
    exactly what it has just lost.
    """
    if lane.stray:
        return _release(lane, paces, slots)
    with lane.donor.lock:
        may_take_last = len(slots) == lane.donor.slots_left
        with kept_as_primary(lane) if may_take_last else contextlib.nullcontext():
            counted = time.monotonic()
            left, theirs = _count_left(lane, paces, slots)
            ready = [slot for slot in slots if slot not in left]
            takes_last = len(ready) == lane.donor.slots_left
            for part in (ready[:-1], ready[-1:]) if takes_last else (ready,):
                _hand_over(lane, paces, part, theirs, counted)
    return left


def _release(lane: Lane, paces: _Paces, slots: list[int]) -> list[int]:
    """STABLE where no key is left; returns the slots that hold some."""
    _mark_strays(lane, paces, slots)
    replies = _ask(lane, [("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in slots])
    left = {slot for found in replies for slot, count in zip(slots, found) if _checked(count)}
    done = [slot for slot in slots if slot not in left]
    if done:
        _no_errors(lane, _setslot(lane, paces, lane.source, done, ("STABLE",))[0])
        lane.slots_done.extend(done)
    return sorted(left)


def _count_left(lane: Lane, paces: _Paces, slots: list[int]) -> tuple[list[int], int]:
    """The slots that still hold keys on the source, and its epoch.

    The marker is set again first: while it stands no key can come into being there, so that a
    zero stays zero; and it fails when the source is no longer the owner.
    """
    counts: list[Command] = [("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in slots]
    then = [*in_databases(lane.databases, counts), _INFO]
    marker = ("MIGRATING", lane.move.target)
    errors, replies = _setslot(lane, paces, lane.source, slots, marker, then)
    _no_errors(lane, errors)
    counted = by_database(lane.databases, replies[:-1])
    left = {slot for found in counted for slot, count in zip(slots, found) if _checked(count)}
    return sorted(left), _epochs(replies[-1]).own


def _hand_over(lane: Lane, paces: _Paces, slots: list[int], theirs: int, counted: float) -> None:
    """NODE on the target, whose epoch is above the source's, then on the source and the others."""
    todo = slots
    deadline = time.monotonic() + lane.movement.wait_timeout
    while todo:
        errors, heard = _claim(lane, paces, todo, theirs, counted)
        _outrank(lane, theirs, heard)
        todo = _without_replicas(errors) if time.monotonic() < deadline else []
        _no_errors(lane, {slot: e for slot, e in errors.items() if slot not in todo})
    if slots:
        given, _none = _setslot(lane, paces, lane.source, slots, ("NODE", lane.move.target))
        _no_errors(lane, {slot: e for slot, e in given.items() if not _is_replica_now(e)})
        _finish(lane, slots)


def _claim(
    lane: Lane, paces: _Paces, slots: list[int], theirs: int, counted: float
) -> tuple[dict[int, ReplyError], _Epochs]:
    """The target becomes the owner: the slots that it did not take, and its epochs then.

    Its marker is set again right before: without it NODE does not raise the epoch, gossip gives
    the slot back to the source and the target deletes the keys.
    """
    server, marker = lane.target, ("IMPORTING", lane.move.source)
    errors, replies = _setslot(lane, paces, server, slots, marker, [_INFO])
    _no_errors(lane, errors)
    _outrank(lane, theirs, _epochs(replies[0]))
    _check_age(lane, counted)
    nodes = _setslots(slots, "NODE", lane.move.target)
    if server.ways > 1:
        return _errors(slots, server.scatter(nodes)), _epochs(server.call(*_INFO))
    replies = lane.step(server, [*nodes, _INFO], (paces.slots, len(slots)))
    return _errors(slots, replies), _epochs(replies[-1])


def _check_age(lane: Lane, counted: float) -> None:
    """A replica of the source that has become the owner since the keys were `counted` has no marker
    on Redis: it would take writes, and delete them at our claim."""
    keeps_marks = lane.topology.reports[lane.move.source].passes_marks
    if not keeps_marks and time.monotonic() - counted > lane.node_timeout / 2:
        raise _Uncertain(f"{lane.name}: too much time went by since the keys left were counted.")


def _is_replica_now(error: ReplyError) -> bool:
    """An emptied source may have turned into the target's replica already (redis #9223)."""
    return any(words in error.text for words in NOT_PRIMARY)


def _finish(lane: Lane, slots: list[int]) -> None:
    lane.bystanders.tell(lane.move, slots)
    lane.donor.slots_left -= len(slots)
    lane.slots_done.extend(slots)


class _Epochs(t.NamedTuple):
    """A node's own epoch, and the highest one that it has heard of."""

    own: int
    highest: int


def _epochs(reply: Reply) -> _Epochs:
    told = parse_info(text(_checked(reply)))
    return _Epochs(int(told["cluster_my_epoch"]), int(told["cluster_current_epoch"]))


def _outrank(lane: Lane, theirs: int, heard: _Epochs) -> None:
    """Makes sure that the target's claim beats the source's, at `theirs`: raises its epoch, of
    which `heard` tells, unless it is high enough already."""
    _wait_for_epoch(lane, theirs, heard)
    for _try in range(3):
        if heard.own > theirs:
            return
        lane.target.call("CLUSTER", "BUMPEPOCH")
        heard = _epochs(lane.target.call(*_INFO))
    raise Stopped(
        f"{lane.name}: the target's epoch {heard.own} stays at or below the source's {theirs}, its "
        "claim may not hold. Look at CLUSTER NODES of both, then run it again."
    )


def _wait_for_epoch(lane: Lane, theirs: int, heard: _Epochs) -> None:
    """Until the target has heard of the source's epoch, which may just have been raised: it would
    else take an equal one, and of two equal ones the engine may raise the source's."""
    deadline = time.monotonic() + lane.movement.wait_timeout
    while not heard.highest >= theirs != heard.own:
        if time.monotonic() > deadline:
            raise Stopped(
                f"{lane.name}: the target has not heard of the source's epoch {theirs}; it has "
                f"{heard.own}. The slots are left open: run it again when the two hear each other."
            )
        time.sleep(EPOCH_PAUSE)
        heard = _epochs(lane.target.call(*_INFO))


# --- going on after a loss ----------------------------------------------------------------------


def _resume(lane: Lane, slots: list[int]) -> list[int]:
    """Once nothing of an earlier MIGRATE can arrive any more: returns the slots that are still the
    source's. Those that the target owns already are handed over to the end."""
    if lane.stray:
        return slots
    target = parse_view(text(lane.target.call("CLUSTER", "NODES")))
    owned = set(from_ranges(target.me.ranges)).intersection(slots)
    if owned:
        done = sorted(owned)
        told = parse_view(text(lane.source.call("CLUSTER", "NODES"))).owners
        theirs, ours = (_epochs(server.call(*_INFO)) for server in (lane.source, lane.target))
        with lane.donor.lock:
            # One that knows of it may follow the target by now, and have its epoch.
            if any(told[slot] != lane.move.target for slot in done):
                _outrank(lane, theirs.own, ours)
            takes_last = len(done) == lane.donor.slots_left
            with kept_as_primary(lane) if takes_last else contextlib.nullcontext():
                lane.source.pipeline(_setslots(done, "NODE", lane.move.target))
                _finish(lane, done)
    return [slot for slot in slots if slot not in owned]


def wait_for_late_restores(lane: Lane) -> None:
    """Before slots are adopted, and after a loss: until the target answers on a new connection and
    no connection by which the source sent keys is left there. A frozen target carries out what lies
    in its buffers when it wakes.

    Raises Stopped after `wait_timeout` seconds.
    """
    started = time.monotonic()
    reason = ""
    while time.monotonic() < started + lane.movement.wait_timeout:
        try:
            late = _late_clients(lane, strict=time.monotonic() < started + NEW_CLIENT_PATIENCE)
            if not late:
                return
            reason = f"connections by which keys arrive are still open there: {', '.join(late)}"
        except ReplyError as exc:
            if not _will_pass(exc):
                raise Stopped(
                    f"{lane.name} can't go on: {exc}. Its open slots are left as they are; run it "
                    "again when that is mended."
                ) from None
            reason = str(exc)
        except (LostConnection, Unreachable) as exc:
            reason = str(exc)
        time.sleep(0.1)
    told = reason.rstrip(".")
    raise Stopped(f"{lane.name} can't go on safely: {told}. Run it again when it answers.")


def _late_clients(lane: Lane, strict: bool) -> list[str]:
    """Addresses of the target's clients, older than our probe, that come from the source's host
    and have sent keys; with `strict` also of those that have sent nothing to tell them by."""
    login = dataclasses.replace(lane.cluster.login, command_timeout=2.0)
    probe = lane.target.beside(login)
    try:
        own_id, clients = probe.all_ok([("CLIENT", "ID"), ("CLIENT", "LIST")])
    finally:
        probe.close()
    lane.source.call("PING")
    known_as = lane.topology.known_as(lane.move.source, lane.move.target)[0]
    hosts = {lane.topology.lines[lane.move.source].host, known_as, lane.source.host}
    commands = ("restore-asking", "restore", *(("null", "auth", "select") if strict else ()))
    late = []
    for line in text(clients).splitlines():
        found = dict(part.partition("=")[::2] for part in line.split(" "))
        host = found.get("addr", "").rpartition(":")[0].strip("[]")
        older = int(found.get("id", 0)) < int(own_id)
        if older and host in hosts and found.get("cmd", "").lower() in commands:
            late.append(found["addr"])
    return late
