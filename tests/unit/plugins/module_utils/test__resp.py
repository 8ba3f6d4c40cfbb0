# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import io
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.keyslot.redis.plugins.module_utils._resp import (
    ErrorText,
    Malformed,
    Reader,
    pack,
)

replies = st.recursive(
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=40)),
    lambda children: st.lists(children, max_size=5),
    max_leaves=20,
)


def written(reply: t.Any) -> bytes:
    """A reply as a server writes it."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n" % len(reply) + b"".join(written(item) for item in reply)


def reader(stream: bytes, chunk: int = 1 << 16) -> Reader:
    """Reads a stream that arrives in chunks of so many bytes."""
    source = io.BytesIO(stream)
    return Reader(lambda size: source.read(min(chunk, size)))


@given(st.lists(replies, max_size=5), st.integers(1, 9))
def test_replies_come_back_however_the_stream_is_cut(sent: list[t.Any], chunk: int) -> None:
    found = reader(b"".join(written(reply) for reply in sent), chunk)
    assert [found.read() for _reply in sent] == sent
    with pytest.raises(EOFError):
        found.read()


@given(st.lists(st.lists(st.one_of(st.binary(), st.text(), st.integers()), min_size=1), max_size=4))
def test_commands_are_packed_as_arrays_of_words(commands: list[list[t.Any]]) -> None:
    words = [[w if isinstance(w, bytes) else str(w).encode() for w in c] for c in commands]
    found = reader(pack(commands))
    assert [found.read() for _command in commands] == words


def test_an_error_is_told_from_a_status_and_loses_its_err() -> None:
    found = reader(
        b"-ERR Unknown node x\r\n-NOPERM no\r\n+OK\r\n*2\r\n+OK\r\n-ASK 1 h:2\r\n*-1\r\n"
    )
    told = [found.read() for _reply in range(5)]
    assert told == ["Unknown node x", "NOPERM no", b"OK", [b"OK", "ASK 1 h:2"], None]
    assert [isinstance(reply, ErrorText) for reply in told] == [True, True, False, False, False]


def test_a_large_value_is_read_in_pieces() -> None:
    value = b"\r\n$5\r\n" * 100_000
    assert reader(written(value) + b":1\r\n", 1000).read() == value


@pytest.mark.parametrize("stream", [b"HTTP/1.1 400\r\n", b"%1\r\n+a\r\n+b\r\n", b"\r\n"])
def test_what_is_no_reply_is_refused(stream: bytes) -> None:
    with pytest.raises(Malformed):
        reader(stream).read()


@pytest.mark.parametrize("stream", [b"", b"$5\r\nab", b"*2\r\n:1\r\n", b":12\r"])
def test_a_stream_that_ends_within_a_reply_says_so(stream: bytes) -> None:
    with pytest.raises(EOFError):
        reader(stream).read()


@st.composite
def noise(draw: st.DrawFn) -> bytes:
    """Pieces of replies in any order, and bytes that are none."""
    pieces = st.one_of(
        replies.map(written),
        st.binary(max_size=12),
        st.sampled_from(
            [b"$", b"*", b":", b"+", b"-", b"%", b"_", b"\r", b"\n", b"\r\n", b"*1\r\n"]
        ),
        st.builds(lambda kind, size: kind + b"%d\r\n" % size, st.sampled_from([b"$", b"*"]), big),
    )
    return b"".join(draw(st.lists(pieces, max_size=12)))


big = st.one_of(st.integers(-(10**20), 10**20), st.integers(-3, 9))


@given(noise(), st.integers(1, 40))
def test_whatever_arrives_is_read_or_malformed_or_ends(stream: bytes, chunk: int) -> None:
    never = object()
    with pytest.raises((Malformed, EOFError)):
        list(iter(reader(stream, chunk).read, never))


@pytest.mark.parametrize(
    "stream",
    [
        b":one\r\n",
        b":1_0\r\n",
        b": 1\r\n",
        b"$five\r\n",
        b"*\r\n",
        b"$3\r\nabcde\r\n",
        b"$99999999999\r\n",
        b"*1\r\n" * 5000,
        b"\r\n",
        b"%1\r\n+a\r\n+b\r\n",
    ],
)
def test_what_is_no_reply_is_malformed(stream: bytes) -> None:
    with pytest.raises(Malformed):
        reader(stream).read()
