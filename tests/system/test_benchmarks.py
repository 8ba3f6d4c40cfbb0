# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark: does its client see what servers do, and do its tables say what was measured?"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import plot, report, tools
from benchmarks.compare import Options, Row, Way, compare
from benchmarks.histogram import Histogram, total
from benchmarks.load import Load, Samples, key_name, slot_of, take_answers
from benchmarks.world import Setup, StateError, World
from tests.harness.data import slot_of as slot_by_redis_py

KEYS = 3000
PAUSE = 0.05
# What the kernel may take to stop a process.
STOPPED_AFTER = 0.005


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """3 primaries with keys and an empty one."""
    with World(Setup("valkey-9.1", KEYS)) as made:
        yield made


# The client


def window(samples: Samples) -> list[tuple[float, int, float]]:
    """(due, slot, latency) of each operation."""
    return list(zip(samples.due, samples.slot, samples.latency, strict=True))


@pytest.mark.system
def test_a_stall_shows_in_every_operation_that_was_due_in_it(world: World) -> None:
    stalled = world.cluster.nodes[1]
    with Load(world.load_settings(1000)) as load:
        time.sleep(0.3)
        stalled.pause()
        paused_at = time.monotonic()
        time.sleep(PAUSE)
        resumed_at = time.monotonic()
        stalled.resume()
        time.sleep(0.3)
        samples = load.stop()
    operations = window(samples)
    waits = [
        (latency, resumed_at - due)
        for due, slot, latency in operations
        if world.home[slot] is stalled and paused_at + STOPPED_AFTER < due < resumed_at
    ]
    # A third of 1,000 a second; a client that waits for answers would have sent one or two.
    assert len(waits) >= 5
    assert all(latency >= rest for latency, rest in waits)
    assert max(latency for latency, _rest in waits) >= PAUSE / 2
    assert not samples.errors
    assert all(latency > 0 for _due, _slot, latency in operations)


@pytest.mark.system
def test_the_schedule_does_not_wait_for_a_stalled_server(world: World) -> None:
    with Load(world.load_settings(1000)) as load:
        time.sleep(0.2)
        for node in world.cluster.nodes:
            node.pause()
        paused_at = time.monotonic()
        time.sleep(0.3)
        resumed_at = time.monotonic()
        for node in world.cluster.nodes:
            node.resume()
        samples = load.stop()
    due = [due for due in samples.due if paused_at <= due < resumed_at]
    assert 150 <= len(due) <= 1000 * (resumed_at - paused_at) * 2
    assert not samples.errors


@pytest.mark.system
@pytest.mark.parametrize("method", ["classic", "atomic"])
def test_redirects_are_followed_and_their_time_counts(world: World, method: str) -> None:
    with Load(world.load_settings(500)) as load:
        ran = tools.rebalance(method=method)(world.cluster)
        moved = world.moved()
        time.sleep(0.5)
        samples = load.stop()
    world.restore()
    assert ran.error == ""
    assert len(moved) == world.to_move == 4096
    assert samples.redirects > 0
    assert not samples.errors
    assert {slot for _due, slot, _latency in window(samples)} & moved


def test_slots_are_those_of_the_engines() -> None:
    names = [key_name(number) for number in range(100)]
    assert [slot_of(name) for name in names] == [slot_by_redis_py(name) for name in names]


def test_answers_are_taken_when_they_are_whole() -> None:
    buffer = bytearray()
    stream = b"+OK\r\n$5\r\na\r\nbc\r\n$-1\r\n:3\r\n-MOVED 7 127.0.0.1:1\r\n$0\r\n\r\n"
    found = []
    for number in range(len(stream)):
        buffer += stream[number : number + 1]
        found += take_answers(buffer)
    assert found == [b"+OK", b"$5", b"$-1", b":3", b"-MOVED 7 127.0.0.1:1", b"$0"]
    assert not buffer


# The comparison


def rows_of(world: World, ways: list[Way], options: Options) -> list[dict[str, Any]]:
    """The rows of these ways, as they are stored."""
    rows = [Row(way) for way in ways]
    stored = [row.stored() for row in rows]
    compare(world, rows, options)
    return stored


def a_way(name: str, ours: bool, **how: Any) -> Way:
    return Way(name, tools.rebalance(), ours, **how)


@pytest.mark.system
def test_ways_take_turns_and_each_starts_from_the_same_state(world: World) -> None:
    seen = []

    def tool(name: str) -> tools.Tool:
        def run(cluster: Any) -> tools.Ran:
            seen.append((name, cluster.slot_owners() == world.home))
            return tools.rebalance()(cluster)

        return run

    ways = [Way("a", tool("a"), True), Way("b", tool("b"), False, most=1, idle=False)]
    rows = rows_of(world, ways, Options(repeats=2, min_samples=1, rate=200))
    assert seen == [("a", True), ("a", True), ("b", True), ("a", True)]
    assert [len(row["runs"]) for row in rows] == [2, 1]
    for run in rows[0]["runs"]:
        assert run["slots_moved"] == 4096
        assert run["seconds"] > run["elapsed"] > 0
        assert run["peak_kb"] > 10_000
        assert run["window"].keys() == run["idle"].keys() == {"moving", "staying"}
    assert world.cluster.slot_owners() == world.home


@pytest.mark.system
def test_runs_go_on_until_there_are_enough_samples(world: World) -> None:
    rows = rows_of(world, [a_way("a", True)], Options(repeats=1, min_samples=400, rate=200))
    counts = [len(report.pooled([run], "window")) for run in rows[0]["runs"]]
    assert sum(counts) >= 400 > sum(counts[:-1])


@pytest.mark.system
def test_a_run_that_did_not_move_all_slots_is_told_as_failed(world: World) -> None:
    few = Way("few", tools.rebalance(max_slots=5), True)
    (row,) = rows_of(world, [few], Options(repeats=1, min_samples=1, rate=200))
    assert row["runs"][0]["error"] == "5 slots moved, not 4096"
    assert "1 failed: 5 slots moved" in report.text_report(results([row]))


@pytest.mark.system
def test_a_missing_key_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.world.KEYS_SECONDS", 0.0)
    name = key_name(0)
    node = world.home[slot_of(name)]
    assert node is not None
    value = node.call("GET", name)
    node.call("DEL", name)
    with pytest.raises(StateError, match=f"{KEYS - 1} keys are there, not {KEYS}"):
        world.settle()
    node.call("SET", name, value)
    world.settle()


# Figures


def test_percentiles_are_by_nearest_rank() -> None:
    hundred = Histogram.of(number / 1000 for number in range(1, 101))
    assert [hundred.percentile(p) for p in ("50", "99", "99.9", "100")] == [50, 99, 100, 100]
    thousand = Histogram.of(number / 1000 for number in range(1, 1001))
    assert thousand.percentile("99.9") == 999
    assert Histogram().percentile("99") == 0


def test_histograms_add_up_and_survive_json() -> None:
    one, two = Histogram.of([0.001, 0.002]), Histogram.of([0.002, 0.030])
    both = Histogram.read(json.loads(json.dumps(total([one, two]).stored())))
    assert both.counts == Counter({100: 1, 200: 2, 3000: 1})
    assert (len(both), both.over(2), both.over(1.99)) == (4, 1, 3)
    assert both.total() == pytest.approx(35)
    assert both.mean() == pytest.approx(8.75)


def a_run(
    seconds: float, window: list[float], idle: list[float], error: str = "", cpu: float = 2.0
) -> dict[str, Any]:
    """A run whose operations, in ms, were all over slots that moved."""
    parts = {
        name: {"moving": Histogram.of(ms / 1000 for ms in values).stored(), "staying": {}}
        for name, values in (("window", window), ("idle", idle))
    }
    figures = dict.fromkeys(("elapsed", "longest_pause_ms", "peak_kb"))
    client = {"errors": {}, "sent_late_p99_ms": 0.1}
    told = {"seconds": seconds, "error": error, "server_cpu": [cpu, 0.5], "client": client}
    return {**figures, **told, **parts}


def a_row(name: str, ours: bool, *runs: dict[str, Any]) -> dict[str, Any]:
    return {"way": name, "ours": ours, "runs": list(runs)}


def results(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A file with one case of these rows."""
    part = {"title": "T", "engine": "E 1", "limits_ms": [10], "notes": ["a note"], "rows": rows}
    return {
        "started": "now",
        "machine": {"cores": 2, "processor": "P", "memory_mib": 1, "kernel": "K"},
        "versions": {"redis": "8"},
        "options": {"rate": 1000},
        "cases": {"classic": {"about": "A", "error": "", "parts": [part]}},
    }


OURS = a_row("ours", True, a_run(1.0, [1, 31], [1, 1]), a_run(3.0, [1, 1], [1, 1]))
THEIRS = a_row("theirs", False, a_run(6.0, [4, 4], [1, 1]), a_run(8.0, [4, 4], [1, 1], "broke"))


def by_heading(table: report.Table, line: int) -> dict[str, str]:
    return dict(zip(table.columns, table.lines[line], strict=True))


def test_times_are_medians_and_ratios_are_to_the_vendors_first_row() -> None:
    time_table, _latency = report.tables(results([OURS, THEIRS])["cases"]["classic"]["parts"][0])
    ours, theirs = by_heading(time_table, 0), by_heading(time_table, 1)
    assert (ours["runs"], ours["whole process, s"], ours["times faster"]) == ("2", "2.00", "3.00")
    assert ours["least to most, s"] == "1.00 to 3.00"
    assert ours["servers' CPU, s"] == "1.50"
    assert (theirs["runs"], theirs["times faster"]) == ("1, 1 failed: broke", "1.00")


def test_latencies_are_less_those_of_the_idle_windows() -> None:
    _time, table = report.tables(results([OURS, THEIRS])["cases"]["classic"]["parts"][0])
    ours = by_heading(table, 0)
    assert (ours["way"], ours["slots"], ours["operations"]) == ("ours", "moving", "4")
    assert (ours["p50, ms"], ours["max, ms"]) == ("0.00", "30.0")
    assert ours["over 10 ms, a run"] == "0.50"
    assert ours["extra in all, ms a run"] == "15.0"
    idle = by_heading(table, 4)
    assert (idle["operations"], idle["p99, ms"]) == ("6", "1.00")


def test_reports_hold_all_tables_and_notes() -> None:
    file = results([OURS, THEIRS])
    for text in (report.text_report(file), report.rst_report(file)):
        assert "T (E 1): time" in text
        assert "T (E 1): latency, less idle" in text
        assert "* a note" in text
    table = {"title": "S", "engine": "E", "columns": ["a", "b"], "lines": [["x", 1.5]], "notes": []}
    file["cases"]["classic"]["parts"] = [table]
    assert "  * - x\n    - 1.50\n" in report.rst_report(file)


def test_results_replace_what_stood_between_the_markers() -> None:
    page = f"head\n\n{report.BEGIN}\nold\n{report.END}\n\ntail\n"
    once = report.put_into(page, "new")
    assert once == f"head\n\n{report.BEGIN}\n\nnew\n\n{report.END}\n\ntail\n"
    assert report.put_into(once, "new") == once
    with pytest.raises(ValueError, match="no lines"):
        report.put_into("head", "new")


def test_the_picture_shows_a_point_for_each_way() -> None:
    part = results([OURS, THEIRS])["cases"]["classic"]["parts"][0]
    picture = plot.frontier(part)
    root = ElementTree.fromstring(picture)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"ours", "theirs", "the client alone"} <= set(texts)
    assert [point.p99 for point in plot.points(part["rows"])] == [31, 4]
    with pytest.raises(ValueError, match="no way"):
        plot.frontier({"rows": []})
