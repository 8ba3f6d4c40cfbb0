# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.keyslot.redis.plugins.module_utils._errors import OptionError
from ansible_collections.keyslot.redis.plugins.module_utils._slots import (
    SLOT_COUNT,
    format_ranges,
    format_slots,
    from_ranges,
    key_slot,
    parse_slots,
    to_ranges,
)

quick = settings(deadline=None, max_examples=100)
slot_sets = st.one_of(
    st.sets(st.integers(0, SLOT_COUNT - 1), max_size=60),
    st.sets(st.integers(0, 40)),
    st.tuples(st.integers(0, SLOT_COUNT - 1), st.integers(0, 3000)).map(
        lambda pair: set(range(pair[0], min(SLOT_COUNT, sum(pair))))
    ),
)


@quick
@given(slot_sets)
def test_slots_survive_a_round_trip_through_text(slots: set[int]) -> None:
    assert parse_slots(format_slots(slots)) == sorted(slots)


@quick
@given(slot_sets)
def test_slots_survive_a_round_trip_through_ranges(slots: set[int]) -> None:
    assert from_ranges(to_ranges(slots)) == sorted(slots)


@quick
@given(slot_sets)
def test_ranges_are_sorted_and_as_few_as_can_be(slots: set[int]) -> None:
    ranges = to_ranges(slots)
    assert all(first <= last for first, last in ranges)
    assert all(left[1] + 1 < right[0] for left, right in zip(ranges, ranges[1:]))


@quick
@given(slot_sets, st.randoms(use_true_random=False))
def test_order_of_the_texts_does_not_matter(slots: set[int], random: t.Any) -> None:
    texts = format_slots(slots)
    random.shuffle(texts)
    assert parse_slots(texts) == sorted(slots)


@pytest.mark.parametrize(
    ("texts", "slots"),
    [
        ([], []),
        (["0"], [0]),
        (["16383"], [16383]),
        (["0-16383"], list(range(SLOT_COUNT))),
        (["7-7"], [7]),
        (["200", "0-2"], [0, 1, 2, 200]),
        (["0-2", "3-4"], [0, 1, 2, 3, 4]),
        ([" 5 ", "7-8\n"], [5, 7, 8]),
        (["00005"], [5]),
    ],
)
def test_good_text(texts: list[str], slots: list[int]) -> None:
    assert parse_slots(texts) == slots


def test_plain_numbers_as_yaml_gives_them_are_slots() -> None:
    assert parse_slots(t.cast("list[str]", [5, 3])) == [3, 5]


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["16384"], "'16384' is out of range"),
        (["99999"], "out of range"),
        (["0-16384"], "out of range"),
        (["16384-0"], "out of range"),
        (["9-5"], "did you mean '5-9'"),
        (["5", "5"], "slot 5 is named twice"),
        (["0-9", "9-12"], "slot 9 is named twice"),
        (["0-9", "3"], "slot 3 is named twice"),
    ],
)
def test_bad_numbers_are_refused_with_the_reason(texts: list[str], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        parse_slots(texts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-",
        "-1",
        "1-",
        "-1-5",
        "--5",
        "1--5",
        "1-2-3",
        "0 - 9",
        "0,9",
        "0-9,20",
        "0..9",
        "0x10",
        "1e3",
        "1.0",
        "+5",
        "1_000",
        "all",
        "[42->-abc]",
        "5\x00",
        "5\n6",
        "123456",
        "\u0661\u0662",
        "\uff15",
        "\u00b2",
        "5\u20137",
    ],
)
def test_junk_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="neither a slot nor a range"):
        parse_slots([text])


@pytest.mark.parametrize("junk", [-1, 1.5, None, True, ["5"]])
def test_what_is_no_text_is_refused_like_junk(junk: t.Any) -> None:
    with pytest.raises(OptionError, match="neither a slot nor a range"):
        parse_slots([junk])


@quick
@given(st.text(max_size=12))
def test_no_text_at_all_raises_anything_but_an_option_error(text: str) -> None:
    try:
        slots = parse_slots([text])
    except OptionError:
        return
    assert slots
    assert 0 <= slots[0] <= slots[-1] < SLOT_COUNT


def test_format_keeps_given_ranges_as_they_are() -> None:
    assert format_ranges([(5, 9), (0, 0), (1, 2)]) == ["5-9", "0", "1-2"]


def test_format_sorts_and_merges_slots() -> None:
    assert format_slots([9, 0, 1, 2, 8, 200]) == ["0-2", "8-9", "200"]


# CLUSTER KEYSLOT of Redis 7.0 and Valkey 9.1 answers the same.
@pytest.mark.parametrize(
    ("key", "slot"),
    [
        (b"123456789", 0x31C3),
        (b"foo", 12182),
        (b"bar", 5061),
        (b"", 0),
        (b"{}", 15257),
        (b"{user1000}.following", 3443),
        (b"{user1000}.followers", 3443),
        (b"user1000", 3443),
        (b"foo{}{bar}", 8363),
        (b"foo{{bar}}zap", 4015),
        (b"{bar", 4015),
        (b"foo{bar}{zap}", 5061),
        (b"foo{bar", 15278),
        (b"foo}bar{", 11073),
        (b"\x00\xff\x80", 4727),
        (b"{\x00\xff\x80}\n", 4727),
    ],
)
def test_key_slot_of_known_keys(key: bytes, slot: int) -> None:
    assert key_slot(key) == slot


@quick
@given(st.binary(max_size=40))
def test_every_key_has_a_slot(key: bytes) -> None:
    assert 0 <= key_slot(key) < SLOT_COUNT


@quick
@given(st.binary(min_size=1), st.binary(), st.binary())
def test_keys_of_one_tag_share_a_slot(tag: bytes, before: bytes, after: bytes) -> None:
    tag = tag.replace(b"}", b"") or b"x"
    before = before.replace(b"{", b"")
    assert key_slot(before + b"{" + tag + b"}" + after) == key_slot(b"{" + tag + b"}")
