# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

import pytest
from ansible.module_utils.common.parameters import remove_values

from ansible_collections.keyslot.redis.plugins.module_utils._slice import (
    FIELD,
    Slice,
    seal,
    unseal,
)
from ansible_collections.keyslot.redis.plugins.module_utils._slots import parse_slots
from ansible_collections.keyslot.redis.plugins.plugin_utils import _slices

A, B, C = "a1" * 20, "b1" * 20, "c1" * 20
NAMES = {A: "10.0.0.1:6379 (a1a1a1a1)", B: "10.0.0.2:6379 (b1b1b1b1)", C: "[::1]:6379 (c1c1c1c1)"}
COST = 0.5


class Cluster:
    """Stands in for Ansible, the module and its cluster: moves `rate` slots with ten keys each in
    a second, and keeps what it was asked for."""

    def __init__(self, slots: int = 1000, rate: float = 10, masks: t.Iterable[str] = ()) -> None:
        self.now = 1000.0
        self.rate = self.promised = rate
        self.masks = set(masks)
        self.left = {(A, C): list(range(slots // 2)), (B, C): list(range(slots // 2, slots))}
        self.beyond = 0
        self.asked: list[tuple[str, dict[str, t.Any], Slice]] = []
        self.shown: list[str] = []
        self.fails_at = 0
        self.in_job = 0
        self.fell_back = False
        self.stuck = False
        self.alive = True

    def clock(self) -> float:
        return self.now

    def show(self, line: str) -> None:
        self.shown.append(line)

    def run(
        self, module: str = "ns.coll.redis_cluster_rebalance", **args: t.Any
    ) -> dict[str, t.Any]:
        options = {"login_host": "db", "login_password": "s", "threshold": 3, **args}
        return _slices.run(module, options, self.execute, self.show, lambda: self.alive, self.clock)

    def execute(self, module: str, args: dict[str, t.Any], part: Slice) -> dict[str, t.Any]:
        self.asked.append((module, args, part))
        self.now += COST
        if len(self.asked) == self.fails_at:
            return {"failed": True, "changed": False, "msg": "it broke. Nothing was changed: look."}
        plan = [self._move(way, slots) for way, slots in self.left.items() if slots]
        todo = sum(len(slots) for slots in self.left.values())
        seconds, estimate = todo / self.rate, todo / self.promised
        waits = part.first and estimate > args["max_seconds"]
        moved = [] if waits else self._take(args["max_seconds"])
        moving = 0.0 if waits else min(seconds, args["max_seconds"])
        self.now += moving
        told: dict[str, t.Any] = {
            "changed": bool(moved),
            "finished": not self._todo() and not self.beyond,
            "moves": moved,
            "slots_moved": sum(move["slot_count"] for move in moved),
            "slots_left": self._todo() + self.beyond,
            "keys_moved": sum(move["key_count"] for move in moved),
            "longest_pause_ms": float(len(self.asked)),
            "elapsed": moving,
        }
        result = {**told, "invocation": {"module_args": dict(args)}, "warnings": ["mind the gap"]}
        result["diff"] = {
            "before": f"before {len(self.asked)}",
            "after": f"after {len(self.asked)}",
        }
        more = {
            "todo": [str(slot) for slots in self.left.values() for slot in slots],
            "going": self._going(),
            "moving": moving,
            "fell_back": self.fell_back,
            "keeper": f"{len(self.asked)}@host",
        }
        if part.first:
            more["plan"] = {"moves": plan, "names": NAMES, "bytes": 5000, "seconds": estimate}
        result[FIELD] = seal({**told, **more})
        return t.cast("dict[str, t.Any]", remove_values(result, self.masks))

    def _todo(self) -> int:
        return sum(len(slots) for slots in self.left.values())

    def _going(self) -> list[dict[str, t.Any]]:
        """A job that the engine will have done before it is asked again."""
        jobs = []
        for way, slots in self.left.items():
            going, self.left[way] = slots[: self.in_job], slots[self.in_job :]
            jobs += [self._move(way, going)] if going else []
        return jobs

    def _take(self, seconds: float) -> list[dict[str, t.Any]]:
        moved = []
        for way, slots in self.left.items():
            count = 0 if self.stuck else min(len(slots), int(seconds * self.rate / 2))
            taken, self.left[way] = slots[:count], slots[count:]
            if taken:
                moved.append(self._move(way, taken))
        return moved

    @staticmethod
    def _move(way: tuple[str, str], slots: list[int]) -> dict[str, t.Any]:
        return {
            "source": way[0],
            "target": way[1],
            "slots": [f"{slots[0]}-{slots[-1]}"],
            "slot_count": len(slots),
            "key_count": 10 * len(slots),
            "method": "classic",
            "elapsed": 1.0,
        }


def seconds_of(cluster: Cluster) -> list[float]:
    return [args["max_seconds"] for _module, args, _part in cluster.asked]


# Sealed texts


@pytest.mark.parametrize("password", ["1", "0", "ok", "redis", "e", "\\", "u", '"'])
def test_sealed_data_survives_the_mask_of_any_password(password: str) -> None:
    data = {"slots": ["0-1010"], "engine": "redis", "state": "ok", "count": 101, "ö": None}
    result = remove_values({"text": seal(data), "count": 101}, {password})
    assert unseal(json.loads(json.dumps(result))["text"]) == data


# One execution


def test_a_short_move_is_one_execution_and_shows_nothing() -> None:
    cluster = Cluster(slots=20)
    result = cluster.run()
    assert len(cluster.asked) == 1
    assert cluster.shown == []
    assert (result["slots_moved"], result["finished"]) == (20, True)
    assert FIELD not in result
    assert result["invocation"]["module_args"]["max_seconds"] == 0


def test_a_failure_before_there_is_a_plan_is_passed_on() -> None:
    cluster = Cluster()
    cluster.fails_at = 1
    assert cluster.run()["msg"] == "it broke. Nothing was changed: look."
    assert len(cluster.asked) == 1


@pytest.mark.parametrize(
    ("options", "wants"),
    [
        ({}, True),
        ({"progress_interval": 0}, False),
        ({"progress_interval": "0"}, False),
        ({"progress_interval": "2.5", "max_seconds": None}, True),
        ({"progress_interval": "often"}, False),
        ({"progress_interval": -1}, False),
        ({"max_seconds": "nan"}, False),
        ({"max_seconds": 5}, False),
        ({"max_seconds": 60}, True),
    ],
)
def test_slices_are_for_what_can_be_shown(options: dict[str, t.Any], wants: bool) -> None:
    assert _slices.wants_slices(options) is wants


# Many


def test_a_long_move_is_announced_before_anything_moves() -> None:
    cluster = Cluster(slots=1000, rate=10)
    cluster.run()
    assert cluster.shown[:3] == [
        "1000 slots with 10000 keys, about 4.9 KiB, are to move; about 100 s:",
        "10.0.0.1:6379 (a1a1a1a1) to [::1]:6379 (c1c1c1c1): 500 slots 0-499, 5000 keys, classic",
        "10.0.0.2:6379 (b1b1b1b1) to [::1]:6379 (c1c1c1c1): 500 slots 500-999, 5000 keys, classic",
    ]
    assert cluster.shown[3] == (
        "50 of 1000 slots, 500 of 10000 keys (5 %), 91 keys/s, about 104 s left; "
        "10.0.0.1:6379 to [::1]:6379: 25 of 500, 10.0.0.2:6379 to [::1]:6379: 25 of 500"
    )
    assert cluster.shown[-1].startswith("1000 of 1000 slots, 10000 of 10000 keys (100 %), ")


def test_a_move_that_takes_longer_than_planned_is_announced_then() -> None:
    cluster = Cluster(slots=100, rate=10)
    cluster.promised = 100
    assert cluster.run()["finished"]
    assert cluster.shown[0] == "100 slots with 1000 keys, about 4.9 KiB, are to move; about 6 s:"
    assert cluster.shown[3].startswith("50 of 100 slots, 500 of 1000 keys (50 %), ")


def test_all_later_slices_carry_out_the_first_ones_plan_and_ask_for_nothing_else() -> None:
    cluster = Cluster()
    cluster.run(max_slots=1000, drain=["x"], max_pause_ms=3, become_what="may")
    assert cluster.asked[0][0] == "ns.coll.redis_cluster_rebalance"
    targets = []
    for module, args, part in cluster.asked[1:]:
        assert module == "ns.coll.redis_slot_migrate"
        assert set(args) == {"login_host", "login_password", "max_pause_ms", "moves", "max_seconds"}
        assert not part.first
        targets.append({s: m["target"] for m in args["moves"] for s in parse_slots(m["slots"])})
    assert targets == [dict.fromkeys(range(1000), C)] * len(targets)
    assert len({part.token for _module, _args, part in cluster.asked}) == 1


def test_a_slot_that_has_moved_has_to_be_on_its_target_still_and_any_other_on_its_source() -> None:
    cluster = Cluster()
    cluster.run()
    moved = []
    for _module, args, _part in cluster.asked[1:]:
        sources = {s: m["source"] for m in args["moves"] for s in parse_slots(m["slots"])}
        moved.append({slot for slot, source in sources.items() if source == C})
        rest = sources.keys() - moved[-1]
        assert {slot: sources[slot] for slot in rest} == {s: A if s < 500 else B for s in rest}
    assert not moved[0]
    assert all(earlier < later for earlier, later in zip(moved, moved[1:]))


def test_slots_that_move_twice_on_the_same_way_are_told_once() -> None:
    cluster = Cluster()
    sliced = _slices.Sliced("redis_slot_migrate", {}, 0.0)
    sliced.told = [{"moves": [cluster._move((A, C), slots)]} for slots in ([0, 1, 2], [1, 2, 3])]
    assert [move["slots"] for move in sliced.moves()] == [["0-3"]]


def test_a_module_whose_plan_is_not_all_is_run_again_as_it_is() -> None:
    cluster = Cluster()
    cluster.run("keyslot.redis.redis_cluster_fix", on_uncovered="assign")
    for module, args, _part in cluster.asked:
        assert (module, args["on_uncovered"]) == ("keyslot.redis.redis_cluster_fix", "assign")


def test_the_short_name_stays_short() -> None:
    cluster = Cluster()
    cluster.run("redis_slot_migrate", slots=["0-999"], target=C)
    assert {module for module, _args, _part in cluster.asked} == {"redis_slot_migrate"}


def test_the_result_has_the_form_of_one_run() -> None:
    cluster = Cluster()
    result = cluster.run()
    assert len(cluster.asked) > 5
    assert result["moves"] == [
        {**Cluster._move((A, C), list(range(500))), "elapsed": len(cluster.asked) - 1.0},
        {**Cluster._move((B, C), list(range(500, 1000))), "elapsed": len(cluster.asked) - 1.0},
    ]
    told = {name: result[name] for name in ("slots_moved", "slots_left", "keys_moved", "finished")}
    assert told == {"slots_moved": 1000, "slots_left": 0, "keys_moved": 10000, "finished": True}
    assert result["changed"] is True
    assert result["elapsed"] == pytest.approx(cluster.now - 1000)
    assert result["longest_pause_ms"] == float(len(cluster.asked))
    assert result["diff"] == {"before": "before 1", "after": f"after {len(cluster.asked)}"}
    assert result["warnings"] == ["mind the gap"]
    assert result["invocation"]["module_args"]["threshold"] == 3
    assert FIELD not in result


@pytest.mark.parametrize("password", ["1", "0", "ok", "redis"])
def test_what_the_password_masks_is_not_reckoned_with(password: str) -> None:
    plain, masked = Cluster(), Cluster(masks=[password])
    expected = plain.run()
    result = masked.run()
    for name in ("moves", "slots_moved", "slots_left", "keys_moved", "elapsed", "changed"):
        assert result[name] == expected[name], name
    assert masked.shown == plain.shown
    assert [args["moves"] for _m, args, _p in masked.asked[1:]] == [
        args["moves"] for _m, args, _p in plain.asked[1:]
    ]


def test_a_cap_counts_over_all_slices() -> None:
    cluster = Cluster()
    cluster.beyond = 70
    result = cluster.run(max_slots=1000)
    assert (result["slots_moved"], result["slots_left"], result["finished"]) == (1000, 70, False)


def test_the_users_time_counts_over_all_slices_and_the_last_one_knows_it() -> None:
    cluster = Cluster()
    result = cluster.run(max_seconds="30")
    assert result["elapsed"] == pytest.approx(30 + COST, abs=0.1)
    assert result["finished"] is False
    assert result["slots_moved"] + result["slots_left"] == 1000
    assert [part.last for _module, _args, part in cluster.asked][-2:] == [False, True]
    assert result["invocation"]["module_args"]["max_seconds"] == 30


def test_a_failure_keeps_what_was_done_before() -> None:
    cluster = Cluster()
    cluster.fails_at = 4
    result = cluster.run()
    assert result["failed"] is True
    assert result["msg"] == "it broke. Nothing more was changed: look."
    assert 0 < result["slots_moved"] < 1000
    assert result["slots_left"] == 1000 - result["slots_moved"]
    assert (result["changed"], result["finished"]) == (True, False)
    assert len(cluster.asked) == 4


def test_nothing_is_begun_when_nobody_waits_for_it() -> None:
    cluster = Cluster()
    cluster.alive = False
    result = cluster.run()
    assert len(cluster.asked) == 1
    assert result["failed"] is True


def test_each_slice_is_told_who_keeps_its_place() -> None:
    cluster = Cluster()
    cluster.run()
    keepers = [part.keeper for _module, _args, part in cluster.asked]
    assert keepers == ["", *(f"{number}@host" for number in range(1, len(keepers)))]


def test_a_way_that_was_tried_in_vain_is_not_tried_again() -> None:
    cluster = Cluster()
    cluster.fell_back = True
    cluster.run()
    assert {args["method"] for _module, args, _part in cluster.asked[1:]} == {"classic"}


# How long


def test_slices_begin_with_the_interval_and_grow_until_they_cost_little() -> None:
    cluster = Cluster(slots=16000, rate=8)
    cluster.run(progress_interval=5)
    lengths = seconds_of(cluster)[1:]
    assert lengths[:5] == pytest.approx([5, 7.5, 11.25, 16.875, 20])
    assert max(lengths) <= 60
    assert len(cluster.asked) * COST < 0.05 * (cluster.now - 1000)


@pytest.mark.parametrize("interval", [5, 10, 30])
def test_a_minute_costs_at_most_five_percent(interval: int) -> None:
    whole, cluster = Cluster(slots=600), Cluster(slots=600)
    whole.run(progress_interval=100)
    cluster.run(progress_interval=interval)
    assert len(whole.asked) == 1
    assert len(cluster.asked) > 2
    assert cluster.now - 1000 < (whole.now - 1000) * 1.05


def test_while_the_engine_goes_on_by_itself_a_line_comes_every_interval() -> None:
    cluster = Cluster(slots=1000)
    cluster.in_job = 10
    cluster.run(progress_interval=5)
    assert set(seconds_of(cluster)) == {5}


def test_what_the_engine_did_between_two_slices_counts() -> None:
    cluster = Cluster(slots=1000)
    cluster.in_job = 10
    result = cluster.run(progress_interval=5)
    told = [result[name] for name in ("slots_moved", "keys_moved", "slots_left", "finished")]
    assert told == [1000, 10000, 0, True]
    assert [move["slots"] for move in result["moves"]] == [["0-499"], ["500-999"]]


def test_a_slice_that_moves_nothing_is_followed_by_a_longer_one() -> None:
    cluster = Cluster()
    cluster.stuck = True
    cluster.fails_at = 7
    cluster.run()
    assert seconds_of(cluster)[1:] == pytest.approx([5, 10, 20, 40, 80, 160])


# Texts


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "1 s"), (59.6, "60 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_spans(seconds: float, text: str) -> None:
    assert _slices.span(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(12, "12 bytes"), (2048, "2.0 KiB"), (12.3 * 2**20, "12.3 MiB")]
)
def test_amounts(size: float, text: str) -> None:
    assert _slices.amount(size) == text


def test_many_moves_are_not_all_named() -> None:
    moves = [{**Cluster._move((A, C), [slot]), "slots": [str(slot)]} for slot in range(50)]
    lines = _slices.announcement(_slices.Plan(moves, NAMES, 0, 1), 90)
    assert len(lines) == 12
    assert lines[-1] == "and 40 more"
    many = {**moves[0], "slots": [str(slot) for slot in range(0, 100, 2)]}
    assert "0 2 4 6 and 46 more" in _slices.announcement(_slices.Plan([many], NAMES, 0, 1), 9)[1]
