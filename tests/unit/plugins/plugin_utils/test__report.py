# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import typing as t
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.keyslot.redis.plugins.filter.report_data import report_data
from ansible_collections.keyslot.redis.plugins.module_utils import _topology
from ansible_collections.keyslot.redis.plugins.module_utils._slots import SLOT_COUNT
from ansible_collections.keyslot.redis.plugins.plugin_utils._report import (
    CELL_HEIGHT,
    CELL_WIDTH,
    COLUMNS,
    REMEDIES,
    label,
    make_report,
    outline,
    size,
)

TEMPLATE = Path(__file__).parents[4] / "roles" / "report" / "templates" / "report.html.j2"
quick = settings(deadline=None, max_examples=200)
slot_ranges = st.tuples(st.integers(0, SLOT_COUNT - 1), st.integers(0, SLOT_COUNT - 1)).map(
    lambda pair: (min(pair), max(pair))
)


def node(
    name: str, slots: t.Sequence[str] = (), primary: str | None = None, **more: t.Any
) -> t.Any:
    held = sum(
        int(last or first) - int(first) + 1
        for first, _dash, last in (item.partition("-") for item in slots)
    )
    return {
        "id": name * 40,
        "host": f"10.0.0.{ord(name)}",
        "port": 6379,
        "hostname": "",
        "role": "replica" if primary else "primary",
        "primary_id": primary and primary * 40,
        "slots": list(slots),
        "slot_count": held,
        "flags": ["slave" if primary else "master"],
        "reachable": True,
        "version": "9.1.0",
        "key_count": 2 * held,
        "used_memory": 1024 * 1024,
        **more,
    }


def result(*nodes: t.Any, **more: t.Any) -> t.Any:
    return {
        "engine": "valkey",
        "version": "9.1.0",
        "state": "ok",
        "agreed": True,
        "problems": [],
        "nodes": list(nodes),
        "open_slots": [],
        "uncovered_slots": [],
        **more,
    }


HALVES = result(node("a", ["0-8191"]), node("b", ["8192-16383"]), node("r", primary="a"))


def area(path: str) -> int:
    """How many cells an SVG path of ours encloses."""
    total = 0.0
    for part in path.strip("z").split("z"):
        points = []
        x = y = 0.0
        for step, first, second in re.findall(r"([MHVv])(\d+)(?: (\d+))?", part):
            if step == "M":
                x, y = float(first), float(second)
            elif step == "H":
                x = float(first)
            elif step == "V":
                y = float(first)
            else:
                y += float(first)
            points.append((x, y))
        total += abs(
            sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, [*points[1:], points[0]]))
        )
    return round(total / 2 / CELL_WIDTH / CELL_HEIGHT)


@quick
@given(slot_ranges)
def test_outline_encloses_as_many_cells_as_there_are_slots(slots: tuple[int, int]) -> None:
    assert area(outline(slots)) == slots[1] - slots[0] + 1


@quick
@given(slot_ranges)
def test_label_stands_on_a_slot_of_its_range_and_fits(slots: tuple[int, int]) -> None:
    found = label(slots, "12")
    column, row = found["x"] / CELL_WIDTH, found["y"] / CELL_HEIGHT
    # On the line between two rows both are the shard's; one that is just above the line is.
    assert slots[0] <= int(row - 0.01) * COLUMNS + int(column - 0.01) <= slots[1]
    assert 0 < found["size"] <= 40
    assert found["size"] * len("12") <= (slots[1] - slots[0] + 1) * CELL_WIDTH


def test_every_kind_of_problem_has_a_remedy() -> None:
    source = Path(_topology.__file__).read_text(encoding="utf-8")
    kinds = set(re.findall(r'Problem\(\s*"(\w+)"', source))
    assert len(kinds) > 4
    kinds |= {
        f"{role}{way}_slot" for role in ("", "replica_") for way in ("migrating", "importing")
    }
    assert kinds == set(REMEDIES)


def test_problem_of_an_unknown_kind_has_a_remedy_too() -> None:
    strange = {"kind": "strange", "node": "", "slots": [], "message": "Strange."}
    (shown,) = make_report({**HALVES, "problems": [strange]})["problems"]
    assert shown["message"] == "Strange."
    assert "redis_cluster_info" in shown["remedy"]


def test_replicas_stand_with_their_primary() -> None:
    report = make_report(HALVES)
    assert [[n["id"][0] for n in s["nodes"]] for s in report["shards"]] == [["a", "r"], ["b"]]
    assert [s["number"] for s in report["shards"]] == ["1", "2"]
    assert report["moved"] is None
    assert len(report["maps"]) == 1


def test_a_replica_whose_primary_nobody_knows_is_still_shown() -> None:
    report = make_report(result(*HALVES["nodes"], node("x", primary="q")))
    assert [n["id"][0] for s in report["shards"] for n in s["nodes"]] == ["a", "r", "b", "x"]


def test_bars_are_in_proportion_to_the_largest_and_show_the_even_share() -> None:
    uneven = result(node("a", ["0-4095"]), node("b", ["4096-16383"]))
    rows = make_report(uneven)["balance"]
    slots = [row["cells"][0][0] for row in rows]
    assert [cell["text"] for cell in slots] == ["4,096", "12,288"]
    assert [cell["length"] for cell in slots] == [33.33, 100.0]
    assert [cell["even"] for cell in slots] == [66.67, 66.67]
    assert [cell["off"] for cell in slots] == ["-50.0 %", "+50.0 %"]


def test_what_was_not_gathered_is_not_known_and_not_nothing() -> None:
    plain = result(node("a", ["0-16383"], key_count=None, used_memory=None))
    (row,) = make_report(plain)["balance"]
    assert [cells[0]["text"] for cells in row["cells"]] == ["16,384", "not known", "not known"]
    assert [cells[0]["even"] for cells in row["cells"][1:]] == [None, None]


def test_moved_joined_and_left_are_told() -> None:
    after = result(node("a", ["0-8191"]), node("c", ["8192-16383"]), node("r", primary="a"))
    report = make_report(after, HALVES)
    assert report["moved"] == {
        "slots": "8,192 slots",
        "joined": ["10.0.0.99:6379"],
        "left": ["10.0.0.98:6379"],
    }
    assert [(s["number"], s["present"]) for s in report["shards"]] == [
        ("1", True),
        ("2", True),
        ("3", False),
    ]
    assert [[a["number"] for a in m["areas"]] for m in report["maps"]] == [["1", "3"], ["1", "2"]]


def test_a_failover_is_no_move_of_slots() -> None:
    after = result(node("r", ["0-8191"]), node("b", ["8192-16383"]), node("a", primary="r"))
    report = make_report(after, HALVES)
    assert report["moved"] == {"slots": "0 slots", "joined": [], "left": []}
    assert [[a["number"] for a in m["areas"]] for m in report["maps"]] == [["1", "2"], ["1", "2"]]


def test_a_drained_primary_that_became_a_replica_is_no_failover() -> None:
    after = result(node("a", ["0-16383"]), node("b", primary="a"), node("r", primary="a"))
    report = make_report(after, HALVES)
    assert report["moved"]["slots"] == "8,192 slots"
    assert report["moved"]["left"] == ["10.0.0.98:6379"]


def test_solved_problems_are_told() -> None:
    gone = {"kind": "link", "node": "", "slots": [], "message": "Gone."}
    stays = {"kind": "link", "node": "", "slots": [], "message": "Stays."}
    report = make_report({**HALVES, "problems": [stays]}, {**HALVES, "problems": [stays, gone]})
    assert report["solved"] == ["Gone."]


def test_open_and_uncovered_slots_are_on_the_map_and_in_its_text() -> None:
    marker = {"slot": 42, "node": "a" * 40, "kind": "migrating", "peer": "b" * 40}
    broken = result(
        node("a", ["0-8191"]),
        node("b", ["8192-16000"]),
        open_slots=[marker, {**marker, "kind": "importing"}],
        uncovered_slots=["16001-16383"],
    )
    (drawn,) = make_report(broken)["maps"]
    assert [area(mark["path"]) for mark in drawn["open"]] == [1]
    assert [area(mark["path"]) for mark in drawn["uncovered"]] == [383]
    assert drawn["text"].endswith("383 served by nobody, 1 open.")
    assert sum(area(item["path"]) for item in drawn["areas"]) == 16001


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("a", ["0-16383"])], "No shard has a replica"),
        ([*HALVES["nodes"]], "Without a replica that answers: 10.0.0.98:6379."),
        ([*HALVES["nodes"], node("e")], "Primaries without slots: 10.0.0.101:6379."),
        ([*HALVES["nodes"], node("s", primary="b", version="9.0.1")], "9.0.1, 9.1.0"),
        (
            [*HALVES["nodes"], node("s", primary="b", host="10.0.0.98", port=6380)],
            "On the same host as all of their replicas: 10.0.0.98:6379.",
        ),
    ],
)
def test_what_is_worth_knowing(nodes: t.Any, words: str) -> None:
    assert words in " ".join(make_report(result(*nodes))["remarks"])


def test_control_characters_do_not_reach_the_page() -> None:
    hostile = result(node("a", ["0-16383"], hostname="x\x00\x1b[31m\n\u202ey"))
    (shard,) = make_report(hostile)["shards"]
    assert shard["nodes"][0]["hostname"] == "x\ufffd\ufffd[31m\ufffd\ufffdy"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "not known"),
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (3 * 1024**5, "3.0 PiB"),
    ],
)
def test_sizes(number: int | None, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize("junk", [{}, [], "text", {"nodes": 5}, {"nodes": [{}]}, {"nodes": [5]}])
def test_what_is_no_result_is_refused(junk: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match="redis_cluster_info"):
        report_data(junk)
    with pytest.raises(AnsibleFilterError, match="redis_cluster_info"):
        report_data(HALVES, before=junk)


def test_the_template_escapes_whatever_it_prints() -> None:
    source = re.sub(r"{#.*?#}", "", TEMPLATE.read_text(encoding="utf-8"), flags=re.DOTALL)
    printed = re.findall(r"{{(.*?)}}", source)
    macros = re.findall(r"{% macro (\w+)\(", source)
    assert len(printed) > 60
    unescaped = [
        item
        for item in printed
        if not item.strip().endswith("| e") and item.strip().partition("(")[0] not in macros
    ]
    # Only words of the template itself.
    assert all(
        re.fullmatch(r" '[ ,\w]*' if [\w. |<=]+ else '[ ,\w]*' ", item) for item in unescaped
    )
