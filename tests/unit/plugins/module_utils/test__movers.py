# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from types import SimpleNamespace

import pytest

from ansible_collections.keyslot.redis.plugins.module_utils._lane import Busy, Donor, Movement
from ansible_collections.keyslot.redis.plugins.module_utils._movers import (
    _jobs,
    redis_atomic,
    valkey_atomic,
)
from ansible_collections.keyslot.redis.plugins.module_utils._movers._jobs import (
    Job,
    parse_ranges,
    ranges_of,
)
from ansible_collections.keyslot.redis.plugins.module_utils._server import to_map

AT_RISK = "Unpaused before migration completed (migration may have succeeded with lost writes)"
LOST = "Connection lost to target. Check CLUSTER GETSLOTMIGRATIONS on the target"
NO_LOGIN = "Failed to AUTH to target node: WRONGPASS invalid username-password pair"
DENIED = "Received error during handshake to target: -NOPERM no permissions"
S, T = "5" * 40, "7" * 40
REDIS_TOLD: dict[str, t.Any] = {
    "id": "a" * 40,
    "slots": "0-10 20",
    "source": S,
    "dest": T,
    "operation": "import",
    "state": "failed",
    "last_error": "Sync buffer drain timeout",
    "retries": 3,
    "create_time": 1795226446443,
    "start_time": 1795226446443,
    "end_time": -1,
    "write_pause_ms": 0,
}
VALKEY_TOLD: dict[str, t.Any] = {
    "name": "b" * 40,
    "operation": "EXPORT",
    "slot_ranges": "0-10 20",
    "target_node": T,
    "source_node": S,
    "create_time": 1795226463,
    "last_update_time": 1795226463,
    "last_ack_time": 1795226463,
    "state": "snapshotting",
    "message": "",
    "cow_size": 0,
    "remaining_repl_size": 77,
}


def flat(told: dict[str, t.Any]) -> list[t.Any]:
    """A map as RESP2 tells it."""
    return [
        word.encode() if isinstance(word, str) else word for pair in told.items() for word in pair
    ]


def as_bytes(told: dict[str, t.Any]) -> dict[bytes, t.Any]:
    """A map as RESP3 tells it."""
    words = iter(flat(told))
    return dict(zip(words, words))


SHAPES = pytest.mark.parametrize("shape", [flat, as_bytes, dict], ids=["RESP2", "RESP3", "decoded"])


@SHAPES
def test_a_map_is_read_in_every_shape(shape: t.Callable[[dict[str, t.Any]], t.Any]) -> None:
    assert to_map(shape(REDIS_TOLD)) == REDIS_TOLD


@SHAPES
def test_redis_jobs_are_read_in_every_shape(shape: t.Callable[[dict[str, t.Any]], t.Any]) -> None:
    given = dict(REDIS_TOLD, operation="migrate")
    newer = dict(REDIS_TOLD, id="c" * 40, state="completed", create_time=1795226446444)
    first, second = redis_atomic.jobs_of([shape(REDIS_TOLD), shape(given), shape(newer)])
    assert (first.id, first.over, first.done, first.hopeless) == ("c" * 40, True, True, False)
    assert (second.id, second.over, second.done, second.hopeless) == ("a" * 40, False, False, True)
    assert (second.source, second.target) == (S, T)
    assert second.slots == {*range(11), 20}


@SHAPES
def test_valkey_jobs_are_read_in_every_shape(shape: t.Callable[[dict[str, t.Any]], t.Any]) -> None:
    taken = dict(VALKEY_TOLD, operation="IMPORT")
    (job,) = valkey_atomic.jobs_of([shape(taken), shape(VALKEY_TOLD)])
    assert (job.id, job.source, job.target) == ("b" * 40, S, T)
    assert (job.over, job.done, job.slots) == (False, False, {*range(11), 20})


def test_valkey_jobs_may_lack_the_source_and_a_message() -> None:
    """Entries that a replica took over do."""
    known = ("name", "operation", "slot_ranges", "target_node", "state")
    (job,) = valkey_atomic.jobs_of([flat({key: VALKEY_TOLD[key] for key in known})])
    assert (job.source, job.message) == ("", "")


@pytest.mark.parametrize("state", ["success", "failed", "cancelled"])
def test_valkey_jobs_end_in_three_states(state: str) -> None:
    (job,) = valkey_atomic.jobs_of([flat(dict(VALKEY_TOLD, state=state))])
    assert (job.over, job.done) == (True, state == "success")


def test_a_state_that_nobody_knows_is_no_end() -> None:
    (job,) = valkey_atomic.jobs_of([flat(dict(VALKEY_TOLD, state="dreaming"))])
    (task,) = redis_atomic.jobs_of([flat(dict(REDIS_TOLD, state="dreaming"))])
    assert (job.over, task.over, task.hopeless) == (False, False, False)


def test_a_job_that_ends_as_it_is_left_running_is_done_and_goes_on_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its slots would be counted twice, by this slice of a run and by the next one."""
    lane = SimpleNamespace(
        move=SimpleNamespace(slots=(1, 2, 3), source=S, target=T),
        movement=Movement(),
        busy=Busy(),
        donor=Donor(100),
        key_counts={1: 10, 2: 20, 3: 30},
        target=None,
        slots_done=[],
        slots_going=(),
        keys_moved=0,
        shall_stop=lambda: False,
    )
    owned: set[int] = set()

    def left_running(*_words: t.Any) -> None:
        lane.slots_going = (1, 2)
        owned.update(lane.slots_going)

    view = SimpleNamespace(me=SimpleNamespace(ranges=()))
    monkeypatch.setattr(_jobs, "_running", lambda *_words: None)
    monkeypatch.setattr(_jobs, "_run_job", left_running)
    monkeypatch.setattr(_jobs, "_view", lambda _server: view)
    monkeypatch.setattr(_jobs, "from_ranges", lambda _ranges: sorted(owned))
    engine = SimpleNamespace(alone=lambda _lane: (S,), last_slot_alone=False)
    _jobs.move_in_jobs(t.cast(t.Any, engine), t.cast(t.Any, lane))
    assert (lane.slots_done, lane.slots_going) == ([1, 2], ())
    assert (lane.keys_moved, lane.donor.slots_left) == (30, 98)


def ended(message: str, state: str) -> Job:
    return Job("a" * 40, S, T, frozenset({1}), state, True, False, message)


@pytest.mark.parametrize(
    ("message", "state", "verdict"),
    [
        # Data may be at risk, or the cluster is not what it was.
        (AT_RISK, "failed", "stop"),
        ("Slots are no longer owned by myself", "failed", "stop"),
        ("Slots are no longer owned by source node", "failed", "stop"),
        ("A failover occurred during slot import", "failed", "stop"),
        ("Ran out of memory (OOM) during slot import", "failed", "stop"),
        ("", "cancelled", "stop"),
        # Tried again, and if it goes on, the classic way.
        ("Unable to connect to target node: Connection refused", "failed", "again"),
        ("Failed to start snapshot", "failed", "again"),
        ("Failed to perform snapshot", "failed", "again"),
        ("Data was flushed", "failed", "again"),
        (LOST, "failed", "again"),
        ("Timed out after too long with no interaction", "failed", "again"),
        ("Timed out before streaming completed", "failed", "again"),
        ("Unpaused before failover completed", "failed", "again"),
        # It will not pass.
        (NO_LOGIN, "failed", "other way"),
        (DENIED, "failed", "other way"),
        ("ERR unknown subcommand 'MIGRATESLOTS'", "refused", "other way"),
    ],
)
def test_what_a_failure_on_valkey_means(message: str, state: str, verdict: str) -> None:
    assert valkey_atomic._verdict(ended(message, state)) == verdict


@pytest.mark.parametrize(
    ("message", "state", "verdict"),
    [
        ("Cancelled due to user request (state: accumulate-buffer)", "canceled", "stop"),
        ("Cancelled due to slots configuration updated", "canceled", "stop"),
        ("slot migration not allowed on replica.", "refused", "stop"),
        ("ERR slots belong to different source nodes", "refused", "stop"),
        ("ERR slot has no owner: 7", "refused", "stop"),
        ("Cancelled due to FLUSHALL (state: send-bulk-and-stream)", "canceled", "again"),
        ("ERR another ASM task is already in progress", "refused", "wait"),
        ("ERR overlapping import exists for slot range: 1-2", "refused", "wait"),
        ("Sync buffer drain timeout", "failed", "other way"),
        ("NOPERM this user has no permissions", "refused", "other way"),
        ("ERR unknown subcommand 'MIGRATION'", "refused", "other way"),
    ],
)
def test_what_a_failure_on_redis_means(message: str, state: str, verdict: str) -> None:
    assert redis_atomic._verdict(ended(message, state)) == verdict


def test_neighbours_are_one_range() -> None:
    """Redis 8.4.0 fails adjacent ranges of one task with a blocking delete."""
    assert ranges_of([11, 3, 1, 2, 12, 20]) == [1, 3, 11, 12, 20, 20]
    assert parse_ranges("1-3 11-12 20") == {1, 2, 3, 11, 12, 20}
