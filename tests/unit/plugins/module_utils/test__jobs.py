# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a job of the engine is waited for. The jobs themselves: tests/system/test_atomic.py."""

from __future__ import annotations

import itertools
import typing as t
from types import SimpleNamespace

import pytest

from ansible_collections.keyslot.redis.plugins.module_utils._errors import Stopped
from ansible_collections.keyslot.redis.plugins.module_utils._movers import _jobs
from ansible_collections.keyslot.redis.plugins.module_utils._movers._jobs import Engine, Job

RUNNING = Job("1", "S", "T", frozenset({5}), "waiting-to-pause", False, False, "")
DONE = Job("1", "S", "T", frozenset({5}), "success", True, True, "")
CANCELLED = Job("1", "S", "T", frozenset({5}), "cancelled", True, False, "")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes by in sleeps alone, and at once."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(_jobs, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now[0]))


def waited(lefts: t.Iterable[int], wait_timeout: float) -> Job | None:
    """How a job ends whose remaining bytes are these; it is done when there are none left. Bytes
    arrive all the time."""
    told = iter(lefts)
    cancelled: list[Job] = []
    arrived = itertools.count()

    def look(_lane: object) -> list[Job]:
        left = next(told)
        job = CANCELLED if cancelled else DONE
        return [Job(**{**vars(RUNNING), "left": left}) if left and not cancelled else job]

    target = SimpleNamespace(call=lambda *_words: b"arrived:%d" % next(arrived))
    lane: t.Any = SimpleNamespace(
        movement=SimpleNamespace(wait_timeout=wait_timeout),
        target=target,
        name="S to T",
        leaves_jobs=False,
        is_late=lambda: False,
    )

    def cancel(_lane: object, job: Job) -> None:
        cancelled.append(job)

    unused: t.Any = None
    engine = Engine(unused, look, cancel, unused, unused, "arrived", last_slot_alone=False)
    return _jobs._wait(engine, lane, "1", [5], may_leave=False)[0]


def test_a_target_that_catches_up_slowly_is_waited_for() -> None:
    ended = waited([90, 95, 80, 85, 70, 60, 55, 50, 45, 30, 25, 20, 15, 10, 5, 0], 0.2)
    assert ended == DONE


def test_a_target_that_never_catches_up_is_given_up_with_what_to_do() -> None:
    with pytest.raises(Stopped, match="raise slot-migration-max-failover-repl-bytes"):
        waited(itertools.cycle([90, 95, 100]), 0.2)
