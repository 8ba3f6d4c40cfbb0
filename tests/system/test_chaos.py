# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A short piece of what `make chaos` does, and that its count tells what went wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.chaos import tally
from tests.chaos.__main__ import run_engine
from tests.chaos.faults import FAULTS
from tests.chaos.rounds import Round, conflicts
from tests.harness.engines import Engine

pytestmark = pytest.mark.system

SECONDS = 20
SEED = 7
GOOD = Round("redis-7.0", "connections cut", "classic", "migrate", 0.5, finished=True)
TAKEOVER = replace(GOOD, fault="source killed, its replica takes over")
ALONE = replace(TAKEOVER, way=tally.NO_MOVER, finished=False)


def test_faults_at_random_moments_lose_nothing_and_leave_nothing_open(engine: Engine) -> None:
    rounds = list(run_engine(engine.name, SECONDS, SEED, FAULTS, baseline=False))
    print(tally.table(rounds))
    assert tally.wrongs(rounds) == []
    assert sum(done.writes for done in rounds) > 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"lost": 1},
        {"open_slots": 1},
        {"finished": False},
        {"damage": ["resting key: missing"]},
    ],
)
def test_each_wrong_of_a_round_is_told(wrong: dict[str, Any]) -> None:
    assert tally.wrongs([GOOD]) == []
    assert len(tally.wrongs([GOOD, replace(GOOD, **wrong)])) == 1


def test_a_takeover_may_lose_what_it_loses_without_us_and_no_more() -> None:
    alone = [replace(ALONE, lost=lost) for lost in (0, 3, 1, 0)]
    assert tally.wrongs([*alone, *[replace(TAKEOVER, lost=2)] * 4]) == []
    assert len(tally.wrongs([*alone, *[replace(TAKEOVER, lost=20)] * 4])) == 1
    assert len(tally.wrongs([ALONE, replace(TAKEOVER, lost=1)])) == 1


def test_the_table_has_a_row_for_each_fault_and_way() -> None:
    rounds = [GOOD, replace(GOOD, way="atomic"), TAKEOVER, replace(ALONE, lost=3)]
    rows = [row for row in tally.table(rounds).splitlines() if "killed" in row or "cut" in row]
    assert len(rows) == 3
    assert "3 lost in 1" in rows[0]


def test_a_key_with_two_values_is_read_out_of_the_message_that_names_it() -> None:
    message = (
        "Slots 7 are left open from 127.0.0.1:1 (aaaaaaaa) to 127.0.0.1:2 (bbbbbbbb), and the next "
        "run goes on with them: the key '{2b}live:4:0' in slot 7 stands on both 127.0.0.1:1 "
        "(aaaaaaaa) and 127.0.0.1:2 (bbbbbbbb) with different values. Look at both."
    )
    assert conflicts(message) == [("{2b}live:4:0", "127.0.0.1:1", "127.0.0.1:2")]
    assert conflicts("slot 7 is open") == []
