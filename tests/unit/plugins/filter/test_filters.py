# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.keyslot.redis.plugins.filter.keyslot import keyslot
from ansible_collections.keyslot.redis.plugins.filter.slot_ranges import slot_ranges


# CLUSTER KEYSLOT of Redis 7.0 and Valkey 9.1 answers the same.
@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("foo", 12182),
        (b"foo", 12182),
        ("{user1000}.following", 3443),
        ("foo{}{bar}", 8363),
        ("foo{{bar}}zap", 4015),
        (b"\x00\xff\x80", 4727),
        (123456789, 0x31C3),
        ("", 0),
    ],
)
def test_slot_of_a_key(key: t.Any, slot: int) -> None:
    assert keyslot(key) == slot


def test_encoding_says_which_bytes_text_stands_for() -> None:
    assert keyslot("\x00\xff\x80", encoding="latin-1") == keyslot(b"\x00\xff\x80")
    assert keyslot("\u00e4") == keyslot("\u00e4".encode())
    assert keyslot("\u00e4") != keyslot("\u00e4", encoding="latin-1")


@pytest.mark.parametrize("junk", [None, True, 1.5, ["foo"], {"foo": 1}])
def test_what_can_be_no_key_is_refused(junk: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match="takes a key as text"):
        keyslot(junk)


def test_text_that_an_encoding_lacks_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="can't turn the key"):
        keyslot("\u20ac", encoding="latin-1")
    with pytest.raises(AnsibleFilterError, match="no-such"):
        keyslot("a", encoding="no-such")


def test_slots_become_ranges_and_ranges_slots() -> None:
    assert slot_ranges([200, 2, 1, 0]) == ["0-2", "200"]
    assert slot_ranges(["0-2", "200"], expand=True) == [0, 1, 2, 200]
    assert slot_ranges([]) == slot_ranges([], expand=True) == []


def test_mixed_and_repeated_entries_count_once() -> None:
    assert slot_ranges(["5-9", 7, "10", 10, "3-5"]) == ["3-10"]
    assert slot_ranges(slot for slot in (1, 2)) == ["1-2"]


@pytest.mark.parametrize("junk", ["0-9", b"0-9", 5, None, {"0-9": 1}])
def test_what_is_no_list_is_refused(junk: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match="takes a list"):
        slot_ranges(junk)


@pytest.mark.parametrize("entry", [16384, "9-5", "all", None, -1])
def test_what_is_no_slot_is_refused(entry: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match=str(entry)):
        slot_ranges([0, entry])
