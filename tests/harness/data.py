# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data of every type for a test cluster, and proof that none of it was lost or changed."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis
from redis.crc import key_slot

from tests.harness.cluster import SLOTS, Cluster
from tests.harness.node import Node

Digest = dict[bytes, tuple[str, int]]
Command = tuple[Any, ...]
BATCH = 1000
BATCH_BYTES = 1 << 20
HOUR_MS = 3_600_000
GONE = -2
# Type -> the command that reads a whole value, and what follows the key in it.
_READERS: dict[bytes, tuple[Any, ...]] = {
    b"string": ("GET",),
    b"list": ("LRANGE", 0, -1),
    b"set": ("SMEMBERS",),
    b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    b"hash": ("HGETALL",),
    b"stream": ("XRANGE", "-", "+"),
}


def slot_of(key: bytes) -> int:
    """The slot of a key, hash tag minded."""
    return int(key_slot(key))


@functools.lru_cache(maxsize=1)
def _tags() -> tuple[bytes, ...]:
    """A short hash tag for each slot."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < SLOTS:
        tag = b"%x" % number
        found.setdefault(key_slot(tag), tag)
        number += 1
    return tuple(found[slot] for slot in range(SLOTS))


def tag_for_slot(slot: int) -> bytes:
    """A short text whose slot this is; `{text}` in a key name puts the key there."""
    return _tags()[slot]


# Making data


def seed(cluster: Cluster, keys: int = 2000, seed: int = 1, value_bytes: int = 32) -> set[bytes]:
    """Write so many keys of all types straight to their owners; their names as in digest().

    The same arguments give the same names and values. A tenth of the keys live for hours only.
    With several databases the keys are spread over all of them. value_bytes is the length of a
    string value; elements of other types have fixed, small sizes.
    """
    names = (_name(number) for number in range(keys))
    return _write(cluster, names, random.Random(seed), value_bytes)


def seed_slot(
    cluster: Cluster, slot: int, keys: int, seed: int = 1, value_bytes: int = 32
) -> set[bytes]:
    """Like seed(), with all keys in one slot, by hash tag."""
    tag = tag_for_slot(slot)
    names = (b"{%s}:%d" % (tag, number) for number in range(keys))
    return _write(cluster, names, random.Random(seed), value_bytes)


def _name(number: int) -> bytes:
    """Plain, tagged and binary key names, the empty name among them."""
    if number == 0:
        return b""
    patterns = (
        b"key:%d",
        b"{user:%d}:cart" if number % 8 == 1 else b"{user:shared}:%d",
        b"bin\x00 \r\n\xff\xfe:%d",
        b"{}:empty tag:%d",
        b"\xd0\xba\xd0\xbb\xd1\x8e\xd1\x87 'quoted' \"%d\"",
    )
    return patterns[number % 8 if number % 8 < len(patterns) else 0] % number


def _write(
    cluster: Cluster, names: Iterable[bytes], rng: random.Random, value_bytes: int
) -> set[bytes]:
    """Write a key for each name, in batches a node and database."""
    owners = cluster.slot_owners()
    databases = cluster.databases or 1
    batches: dict[tuple[Node, int], list[Command]] = {}
    written = set()
    for number, name in enumerate(names):
        node, database = owners[key_slot(name)], number % databases
        if node is None:
            raise ValueError(f"slot {key_slot(name)} of {name!r} has no owner")
        batch = batches.setdefault((node, database), [])
        batch += _commands(number, name, rng, value_bytes)
        written.add(_label(name, database))
    for (node, database), commands in batches.items():
        with node.client(db=database) as client:
            for answer in pipe(client, commands):
                if isinstance(answer, Exception):
                    raise answer
    return written


def _commands(number: int, name: bytes, rng: random.Random, value_bytes: int) -> Iterator[Command]:
    """What makes the key of this number."""
    yield _value_command(number, name, rng, value_bytes)
    if number // 10 % 10 == number % 10:
        yield ("PEXPIRE", name, HOUR_MS * 2 + rng.randrange(46 * HOUR_MS))


def _value_command(number: int, name: bytes, rng: random.Random, value_bytes: int) -> Command:
    """The one command that writes the value; each type and encoding in turn."""
    words = [b"%x" % rng.getrandbits(48) for _number in range(4)]
    if number % 100 == 51:
        return ("PFADD", name, *words)
    if number % 1000 == 7:
        return ("HSET", name, *(b"f%d" % field for field in range(1400)))
    if number % 50 == 20:
        return ("SET", name, b"")
    kind = number % 10
    if kind == 4:
        return ("RPUSH", name, *words, b"", b"\x00\xff")
    if kind == 5:
        return ("SADD", name, *words, b"with space\n")
    if kind == 6:
        return ("SADD", name, *(rng.getrandbits(31) for _number in range(5)))
    if kind == 7:
        return ("HSET", name, *words, b"", b"\x00")
    if kind == 8:
        return ("ZADD", name, 1, words[0], -2.5, words[1], "inf", words[2])
    if kind == 9:
        return ("XADD", name, f"{number + 1}-1", *words)
    return ("SET", name, rng.getrandbits(8 * value_bytes).to_bytes(value_bytes, "big"))


# Reading it back


def digest(cluster: Cluster) -> Digest:
    """Every key of the cluster, read from the primaries: name -> (type and hash, expiry).

    Expiry is in ms since 1970, -1 for none. In databases above 0 a name is led by `[db N]`.
    AssertionError: members disagree, or a key stands on two primaries or on one that does not
    own its slot.
    """
    owners = cluster.slot_owners()
    result: Digest = {}
    places: dict[bytes, str] = {}
    for node in cluster.primaries():
        for database in range(cluster.databases or 1):
            with node.client(db=database) as client:
                kinds = _scan(client)
                labels = [_label(name, database) for name in kinds]
                twice = [label for label in labels if label in places]
                assert not twice, f"{twice[:5]} on {node.address} and {places[twice[0]]}"
                strays = [name for name in kinds if owners[key_slot(name)] is not node]
                assert not strays, f"{strays[:5]} on {node.address}, which isn't their owner"
                places.update(dict.fromkeys(labels, node.address))
                absolute = cluster.engine.release >= (7, 0)
                result.update(_read(client, kinds, database, absolute))
    return result


def _scan(client: redis.Redis) -> dict[bytes, bytes]:
    """All keys of a node's database and their types; another type than ours is an error."""
    kinds: dict[bytes, bytes] = {}
    for kind in _READERS:
        kinds.update(dict.fromkeys(client.scan_iter(count=BATCH, _type=kind.decode()), kind))
    if len(kinds) == client.dbsize():
        return kinds
    unknown = [name for name in client.scan_iter(count=BATCH) if name not in kinds]
    for name, kind in zip(unknown, pipe(client, [("TYPE", name) for name in unknown]), strict=True):
        assert kind in (b"none", *_READERS), f"{name!r} is of type {kind!r}"
        if kind != b"none":
            kinds[name] = kind
    return kinds


def _read(client: redis.Redis, kinds: dict[bytes, bytes], database: int, absolute: bool) -> Digest:
    """The values of these keys in canonical form; a key that has expired since is left out."""
    names = list(kinds)
    values = pipe(client, (_reader(kinds[name], name) for name in names))
    expiries = _expiries(client, names, absolute)
    found = {}
    for name, value, expiry in zip(names, values, expiries, strict=True):
        if isinstance(value, Exception) or isinstance(expiry, Exception):
            raise AssertionError(f"cannot read {name!r}: {value!r}, {expiry!r}")
        if expiry != GONE:
            found[_label(name, database)] = (_hash(kinds[name], value), expiry)
    return found


def _expiries(client: redis.Redis, names: list[bytes], absolute: bool) -> list[Any]:
    """When these keys expire, in ms since 1970; -1 never, -2 gone, an exception for an error.

    absolute: the engine has PEXPIRETIME; without it the answers are some ms off.
    """
    if absolute:
        return pipe(client, [("PEXPIRETIME", name) for name in names])
    found: list[Any] = []
    for start in range(0, len(names), BATCH):
        now_ms = _now_ms(client)
        lives = pipe(client, [("PTTL", name) for name in names[start : start + BATCH]])
        found += [now_ms + n if isinstance(n, int) and n >= 0 else n for n in lives]
    return found


def _reader(kind: bytes, name: bytes) -> Command:
    verb, *rest = _READERS[kind]
    return (verb, name, *rest)


def _hash(kind: bytes, value: Any) -> str:
    """`type:hash` of a value; the order of sets and hashes does not count."""
    if kind == b"set":
        value = sorted(value)
    elif kind == b"hash":
        value = sorted(zip(value[::2], value[1::2], strict=True))
    mark = hashlib.blake2b(repr(value).encode(), digest_size=12).hexdigest()
    return f"{kind.decode()}:{mark}"


def _now_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000


def _label(name: bytes, database: int) -> bytes:
    return b"[db %d]%s" % (database, name) if database else name


def compare(before: Digest, after: Digest, ttl_slack_ms: int = 2000) -> list[str]:
    """The differences, a line each, for `assert compare(before, after) == []`."""
    found = [f"missing {name!r}" for name in before if name not in after]
    found += [f"extra {name!r}" for name in after if name not in before]
    for name, (value, expiry) in before.items():
        if name not in after:
            continue
        now_value, now_expiry = after[name]
        if value != now_value:
            found.append(f"changed {name!r}: {value} is now {now_value}")
        lasting = (expiry < 0) != (now_expiry < 0)
        if lasting or abs(expiry - now_expiry) > ttl_slack_ms:
            found.append(f"expiry of {name!r}: {expiry} is now {now_expiry}")
    return found


# The wire


def pipe(client: redis.Redis, commands: Iterable[Command]) -> list[Any]:
    """Send many commands in batches, no transaction; raw answers, an error as an exception.

    Several times as fast as redis-py's own pipeline, which is what 100,000 keys need.
    """
    connection = client.connection_pool.get_connection()
    answers: list[Any] = []
    try:
        batch: list[bytes] = []
        size = 0
        for command in commands:
            batch.append(_pack(command))
            size += len(batch[-1])
            if len(batch) == BATCH or size > BATCH_BYTES:
                answers += _exchange(connection, batch)
                batch, size = [], 0
        answers += _exchange(connection, batch)
    except BaseException:
        connection.disconnect()
        raise
    finally:
        client.connection_pool.release(connection)
    return answers


def _exchange(connection: Any, batch: Sequence[bytes]) -> Iterator[Any]:
    if batch:
        connection.send_packed_command([b"".join(batch)])
    for _command in batch:
        try:
            yield connection.read_response(disable_decoding=True)
        except redis.ResponseError as error:
            yield error


def _pack(command: Command) -> bytes:
    parts = [b"*%d\r\n" % len(command)]
    for word in command:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(raw), raw))
    return b"".join(parts)
