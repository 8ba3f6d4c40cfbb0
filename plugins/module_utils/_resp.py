# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Pure: commands to bytes, and bytes to replies (RESP2).

A run asks for the size of each key that it moves. redis-py takes more than twice as long for such
a command and its reply, and it is this process that would set the pace.
"""

from __future__ import annotations

import functools
import typing as t

Command = t.Sequence[t.Union[str, bytes, int]]
Reply = t.Any

CHUNK = 1 << 16
# A value has at most 512 MiB (proto-max-bulk-len); no reply that we ask for has arrays in so many.
MOST_BYTES = 1 << 32
MOST_DEPTH = 64
MOST_DIGITS = 20


class Malformed(ValueError):
    """What arrived is no reply."""


class ErrorText(str):
    """An error reply, without the `ERR` that says nothing."""


def pack(commands: t.Sequence[Command]) -> bytes:
    """The commands as a server reads them, each an array of words."""
    parts = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for word in command:
            if isinstance(word, bytes):
                parts.append(b"$%d\r\n%b\r\n" % (len(word), word))
            else:
                parts.append(_packed(word))
    return b"".join(parts)


@functools.lru_cache(maxsize=1024)
def _packed(word: str | int) -> bytes:
    encoded = str(word).encode()
    return b"$%d\r\n%b\r\n" % (len(encoded), encoded)


def _number(text: bytes, most: int | None = None) -> int:
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or len(digits) > MOST_DIGITS or (most and int(text) > most):
        raise Malformed(f"a reply with the number {text[:20]!r}")
    return int(text)


class Reader:
    """Replies from a stream. `receive` returns some more bytes, at most as many as it is asked for,
    and none at the stream's end."""

    def __init__(self, receive: t.Callable[[int], bytes]) -> None:
        self._receive = receive
        self._buffer = b""
        self._at = 0
        self._depth = 0

    def read(self) -> Reply:
        """The next reply: bytes, an int, None, a list of replies, or an ErrorText.

        Raises EOFError when the stream ends, Malformed, and what `receive` raises.
        """
        end = self._buffer.find(b"\r\n", self._at)
        if end < 0:
            end = self._next_end()
        kind, rest = self._buffer[self._at : self._at + 1], self._buffer[self._at + 1 : end]
        self._at = end + 2
        if kind == b":":
            return _number(rest)
        if kind == b"$":
            size = _number(rest, MOST_BYTES)
            return None if size < 0 else self._bulk(size)
        if kind == b"+":
            return rest
        if kind == b"*":
            size = _number(rest, MOST_BYTES)
            return None if size < 0 else self._array(size)
        if kind == b"-":
            text = rest.decode("utf-8", "backslashreplace")
            return ErrorText(text[4:] if text.startswith("ERR ") else text)
        raise Malformed(f"a reply that begins with {kind + rest[:20]!r}")

    def _array(self, size: int) -> list[Reply]:
        if self._depth == MOST_DEPTH:
            raise Malformed(f"a reply in more than {MOST_DEPTH} arrays")
        self._depth += 1
        items = [self.read() for _item in range(size)]
        self._depth -= 1
        return items

    def _next_end(self) -> int:
        """Where the line ends that is not all here yet."""
        while True:
            searched = max(len(self._buffer) - self._at - 1, 0)
            self._buffer, self._at = self._buffer[self._at :] + self._some(), 0
            end = self._buffer.find(b"\r\n", searched)
            if end >= 0:
                return end

    def _bulk(self, size: int) -> bytes:
        end = self._at + size
        if len(self._buffer) < end + 2:
            parts = [self._buffer[self._at :]]
            missing = size + 2 - len(parts[0])
            while missing > 0:
                parts.append(self._some())
                missing -= len(parts[-1])
            self._buffer, self._at, end = b"".join(parts), 0, size
        found = self._buffer[self._at : end]
        if self._buffer[end : end + 2] != b"\r\n":
            raise Malformed(f"{size} bytes and then {self._buffer[end : end + 2]!r}")
        self._at = end + 2
        return found

    def _some(self) -> bytes:
        chunk = self._receive(CHUNK)
        if not chunk:
            raise EOFError("closed by server")
        return chunk
