# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.keyslot.redis.plugins.module_utils._lane import Pace, Tally

quick = settings(deadline=None, max_examples=100)


@quick
@given(
    st.integers(1, 1000),
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1200))),
)
def test_pace_stays_between_one_and_the_most(
    start: int, most: int, steps: list[tuple[float, int]]
) -> None:
    pace = Pace(0.01, start, most)
    for seconds, amount in steps:
        assert 1 <= pace.size <= most
        pace.took(seconds, amount)
    assert 1 <= pace.size <= most


def test_a_long_pause_halves_what_was_sent() -> None:
    pace = Pace(0.01, 80, 100)
    pace.took(0.011, 80)
    assert pace.size == 40
    pace.took(0.011, 10)
    assert pace.size == 5


def test_short_pauses_bring_the_pace_back_to_the_most() -> None:
    pace = Pace(0.01, 12, 100)
    pace.took(1.0, 2)
    sizes = []
    for _step in range(30):
        pace.took(0.001, pace.size)
        sizes.append(pace.size)
    assert sizes == sorted(sizes)
    assert sizes[:3] == [7, 13, 19]
    assert sizes[-1] == 100


def test_a_pause_near_the_limit_changes_nothing() -> None:
    pace = Pace(0.01, 50, 100)
    for seconds in (0.005, 0.007, 0.0085):
        pace.took(seconds, 50)
    assert pace.size == 50


def test_a_step_gets_less_than_what_clients_may_have_to_wait() -> None:
    for most_seconds, step in ((0.01, 0.0085), (0.002, 0.0005), (0.001, 0.00025)):
        pace = Pace(most_seconds, 50, 100)
        pace.took(step, 50)
        assert pace.size == 50
        pace.took(step * 1.01, 50)
        assert pace.size == 25


def test_a_short_pause_of_less_than_the_pace_teaches_nothing() -> None:
    pace = Pace(0.01, 50, 100)
    pace.took(0.0, 49)
    assert pace.size == 50


def test_a_small_pace_still_grows_and_one_stays_one() -> None:
    pace = Pace(0.01, 1, 3)
    pace.took(1.0, 1)
    assert pace.size == 1
    pace.took(0.0, 1)
    assert pace.size == 2


def test_tally_keeps_the_longest_pause_and_each_warning_once() -> None:
    tally = Tally()
    for seconds in (0.1, 0.3, 0.2):
        tally.pause(seconds)
    for message in ("one", "two", "one"):
        tally.warn(message)
    assert tally.longest_pause == 0.3
    assert tally.warnings == ["one", "two"]
