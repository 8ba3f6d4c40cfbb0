# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Slots and keys, pure: range text to slots and back, key to slot."""

from __future__ import annotations

import binascii
import re
import typing as t

from ansible_collections.keyslot.redis.plugins.module_utils._errors import OptionError

SLOT_COUNT = 16384

Range = tuple[int, int]

_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?\Z", re.ASCII)


def key_slot(key: bytes) -> int:
    """The slot of a key: CRC16 (XMODEM) of its hash tag, or of the whole key without one."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOT_COUNT


def parse_slots(items: t.Iterable[str]) -> list[int]:
    """The slots of `["0-99", "200"]`, sorted.

    Raises OptionError for text that is no slot or range, a slot beyond 16383, a reversed range,
    or a slot that is named twice.
    """
    slots: set[int] = set()
    for item in items:
        text = str(item).strip()
        match = _RANGE.match(text)
        if not match:
            raise OptionError(f"'{text}' is neither a slot nor a range of slots such as '0-99'.")
        first = int(match.group(1))
        last = int(match.group(2) or first)
        if max(first, last) >= SLOT_COUNT:
            raise OptionError(f"'{text}' is out of range: slots go from 0 to {SLOT_COUNT - 1}.")
        if first > last:
            raise OptionError(f"'{text}' is a reversed range: did you mean '{last}-{first}'?")
        added = range(first, last + 1)
        twice = slots.intersection(added)
        if twice:
            raise OptionError(f"slot {min(twice)} is named twice (the second time in '{text}').")
        slots.update(added)
    return sorted(slots)


def to_ranges(slots: t.Iterable[int]) -> tuple[Range, ...]:
    """`(first, last)` pairs, sorted, neighbours merged."""
    ranges: list[Range] = []
    for slot in sorted(slots):
        if ranges and slot == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], slot)
        else:
            ranges.append((slot, slot))
    return tuple(ranges)


def from_ranges(ranges: t.Iterable[Range]) -> list[int]:
    """The slots of `(first, last)` pairs, in their order."""
    return [slot for first, last in ranges for slot in range(first, last + 1)]


def format_ranges(ranges: t.Iterable[Range]) -> list[str]:
    """`["0-99", "200"]` of `(first, last)` pairs."""
    return [str(first) if first == last else f"{first}-{last}" for first, last in ranges]


def format_slots(slots: t.Iterable[int]) -> list[str]:
    """`["0-99", "200"]` of slots in any order."""
    return format_ranges(to_ranges(slots))
