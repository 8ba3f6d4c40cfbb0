# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.keyslot.redis.plugins.module_utils import _reshard
from ansible_collections.keyslot.redis.plugins.module_utils._errors import Stopped


class Mover:
    """The first lane fails once the others are at work; those go on until they are halted."""

    def __init__(self, failure: Exception, lanes: int) -> None:
        self.failure = failure
        self.all_at_work = threading.Barrier(lanes)

    def move(self, lane: Any) -> None:
        self.all_at_work.wait(10)
        if lane.first:
            raise self.failure
        lane.saw_halt = lane.halted.wait(10)


def lanes_of(number: int) -> list[Any]:
    return [
        SimpleNamespace(first=not index, halted=threading.Event(), saw_halt=False, elapsed=0.0)
        for index in range(number)
    ]


def test_a_lane_that_is_stopped_halts_the_others() -> None:
    lanes = lanes_of(3)
    failure = Stopped("a key is on both sides")
    part: Any = SimpleNamespace(mover=Mover(failure, 3))
    assert _reshard._run_lanes(part, lanes) == (failure, [])
    assert [lane.saw_halt for lane in lanes] == [False, True, True]


def test_a_defect_in_a_lane_halts_the_others_and_is_told() -> None:
    lanes = lanes_of(3)
    part: Any = SimpleNamespace(mover=Mover(KeyError("nobody"), 3))
    with pytest.raises(KeyError):
        _reshard._run_lanes(part, lanes)
    assert [lane.saw_halt for lane in lanes] == [False, True, True]
