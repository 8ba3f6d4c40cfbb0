# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.keyslot.redis.plugins.module_utils._estimate import bytes_of, seconds_of
from ansible_collections.keyslot.redis.plugins.module_utils._plan import Move

A, B, C = "a" * 40, "b" * 40, "c" * 40
COUNTS = dict.fromkeys(range(300), 1000)


class Told(SimpleNamespace):
    def number(self, name: str) -> int:
        return int(getattr(self, name))


def topology() -> Any:
    told = Told(used_memory_dataset=200_000_000, key_count=1_000_000)
    return SimpleNamespace(reports={A: told, B: told, C: Told(used_memory_dataset=0, key_count=0)})


def seconds(*moves: Move, method: str = "classic", pause: float = 10, size: int = 100) -> float:
    ways = [(move, method) for move in moves]
    return seconds_of(topology(), ways, COUNTS, pause, size)


ONE = Move(A, C, tuple(range(100)))
OTHER = Move(B, C, tuple(range(100, 200)))


def test_bytes_are_those_of_the_sources_keys() -> None:
    assert bytes_of(topology(), ONE, COUNTS) == pytest.approx(100 * 1000 * 200)
    assert bytes_of(topology(), Move(C, A, (0,)), COUNTS) == 0


def test_nothing_takes_no_time() -> None:
    assert seconds() == 0


def test_gentle_and_small_steps_take_longer_and_the_engine_less_long() -> None:
    usual = seconds(ONE)
    assert seconds(ONE, pause=0.2) > 1.5 * usual
    assert seconds(ONE, size=1) > 1.5 * usual
    assert seconds(ONE, method="atomic") < usual / 2


def test_moves_to_one_node_wait_for_each_other_and_others_do_not() -> None:
    assert seconds(ONE, OTHER) == pytest.approx(seconds(ONE) + seconds(OTHER))
    assert seconds(ONE, Move(B, "d" * 40, OTHER.slots)) == pytest.approx(seconds(ONE))
