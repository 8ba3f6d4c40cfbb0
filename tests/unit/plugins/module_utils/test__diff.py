# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses

from ansible_collections.keyslot.redis.plugins.module_utils._module._diff import diff_of
from ansible_collections.keyslot.redis.plugins.module_utils._plan import Move
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Report,
    Topology,
    parse_line,
    parse_view,
)

A, B, NEW = "a" * 40, "b" * 40, "c" * 40
ROWS = {
    A: f"{A} 10.0.0.1:6379@16379 master - 0 0 1 connected 0-9999",
    B: f"{B} 10.0.0.2:6379@16379 master - 0 0 2 connected 10000-16383",
}


def report(node_id: str, **databases: str) -> Report:
    rows = [
        row.replace(" master", " myself,master") if other == node_id else row
        for other, row in ROWS.items()
    ]
    return Report(parse_view("\n".join(rows)), {"cluster_state": "ok"}, databases, {})


def topology(*reports: Report) -> Topology:
    return Topology(
        {r.id: r for r in reports}, dict.fromkeys({A, B} - {r.id for r in reports}, "down"), A
    )


def both() -> Topology:
    a = report(A, db0="keys=700,expires=0,avg_ttl=0", db3="keys=50,expires=0,avg_ttl=0")
    return topology(a, report(B, db0="keys=30,expires=0,avg_ttl=0"))


def test_a_node_a_line_with_slots_keys_and_ranges_before_and_after() -> None:
    moves = [Move(A, B, (*range(100), 500))]
    told = diff_of(both(), moves, {**dict.fromkeys(range(100), 2), 500: 7})
    assert told["before"].splitlines() == [
        "10.0.0.1:6379 (aaaaaaaa): 10000 slots, 750 keys: 0-9999",
        "10.0.0.2:6379 (bbbbbbbb): 6384 slots, 30 keys: 10000-16383",
    ]
    assert told["after"].splitlines() == [
        "10.0.0.1:6379 (aaaaaaaa): 9899 slots, 543 keys: 100-499 501-9999",
        "10.0.0.2:6379 (bbbbbbbb): 6485 slots, 237 keys: 0-99 500 10000-16383",
    ]


def test_without_moves_nothing_differs() -> None:
    told = diff_of(both(), [], {})
    assert told["before"] == told["after"]


def test_a_node_that_is_about_to_join_is_empty_before() -> None:
    line = parse_line(f"{NEW} 10.0.0.3:6379@16379 myself,master - 0 0 0 connected")
    joining = dataclasses.replace(both(), joining={NEW: line})
    told = diff_of(joining, [Move(B, NEW, (16383,))], {16383: 4})
    assert "10.0.0.3:6379 (cccccccc): 0 slots, 0 keys" in told["before"].splitlines()
    assert "10.0.0.3:6379 (cccccccc): 1 slots, 4 keys: 16383" in told["after"].splitlines()


def test_keys_of_a_node_that_does_not_answer_are_not_known() -> None:
    told = diff_of(topology(report(A)), [], {})
    assert "10.0.0.2:6379 (bbbbbbbb): 6384 slots, keys not known: 10000-16383" in told["after"]


def test_slots_that_were_filled_since_never_leave_less_than_nothing() -> None:
    told = diff_of(topology(report(A), report(B)), [Move(A, B, (0,))], {0: 5})
    assert "10.0.0.1:6379 (aaaaaaaa): 9999 slots, 0 keys: 1-9999" in told["after"]
