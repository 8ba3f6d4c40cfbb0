# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the JSON file to tables, as text and as reStructuredText; all figures come from the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import mean, median
from typing import Any

from benchmarks.histogram import Histogram, total

BEGIN, END = ".. results begin", ".. results end"
# Made by `python -m benchmarks plot`.
PICTURE = """.. image:: images/frontier.svg
  :alt: Time of a run against the p99 of a client beside it; lower left is better"""
PARTS = ("moving", "staying")
PERCENTILES = ("50", "99", "99.9", "100")
KIB_PER_MIB = 1024
MOST_TEXT = 150

Part = Mapping[str, Any]
Run = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A title, headings, and lines of cells that can be printed."""

    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]


def cell(value: Any) -> str:
    """A figure with some three digits; nothing where there is none."""
    if value is None:
        return ""
    if isinstance(value, float):
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        text = f"{value:,.{digits}f}"
        return text.lstrip("-") if float(text.replace(",", "")) == 0 else text
    return f"{value:,}" if isinstance(value, int) else " ".join(str(value).split())[:MOST_TEXT]


# Figures


def good(row: Mapping[str, Any]) -> list[Run]:
    """The runs that succeeded."""
    return [run for run in row["runs"] if not run["error"]]


def pooled(runs: Sequence[Run], window: str, parts: Sequence[str] = PARTS) -> Histogram:
    """The latencies of all runs in one; window: `window` or `idle`."""
    return total(Histogram.read(run[window].get(part, {})) for run in runs for part in parts)


def median_of(runs: Sequence[Run], name: str) -> float | None:
    """The median of a figure over the runs that have it."""
    found = [float(run[name]) for run in runs if run[name] is not None]
    return median(found) if found else None


def _cpu(runs: Sequence[Run]) -> float | None:
    """Seconds of the servers' processors that a run took, less those of its idle window."""
    found = [run["server_cpu"] for run in runs if len(run.get("server_cpu", ())) == 2]
    return median(window - alone for window, alone in found) if found else None


def _reference(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds of the first vendor's row."""
    theirs = [row for row in rows if not row["ours"]]
    return median_of(good(theirs[0]), "seconds") if theirs else None


# Tables


def tables(part: Part) -> Iterator[Table]:
    """The tables of one part of a case."""
    title = f"{part['title']} ({part['engine']})"
    if "columns" in part:
        yield Table(title, part["columns"], [[*map(cell, line)] for line in part["lines"]])
    else:
        yield _speed(title, part["rows"])
        if any(run["idle"] for row in part["rows"] for run in good(row)):
            yield _latency(title, part["rows"], part["limits_ms"])


def _speed(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    reference = _reference(rows)
    lines = []
    for row in rows:
        runs = good(row)
        seconds = median_of(runs, "seconds")
        bounds = [run["seconds"] for run in runs]
        peak = median_of(runs, "peak_kb")
        failed = [run["error"] for run in row["runs"] if run["error"]]
        lines.append(
            [
                row["way"],
                f"{len(runs)}, {len(failed)} failed: {failed[0]}" if failed else len(runs),
                seconds,
                f"{cell(min(bounds))} to {cell(max(bounds))}" if bounds else None,
                median_of(runs, "elapsed"),
                reference / seconds if reference and seconds else None,
                median_of(runs, "longest_pause_ms"),
                peak / KIB_PER_MIB if peak else None,
                _cpu(runs),
            ]
        )
    columns = [
        "way",
        "runs",
        "whole process, s",
        "least to most, s",
        "module's elapsed, s",
        "times faster",
        "longest pause told, ms",
        "peak memory, MiB",
        "servers' CPU, s",
    ]
    return Table(f"{title}: time", columns, [[*map(cell, line)] for line in lines])


def _latency(title: str, rows: Sequence[Mapping[str, Any]], limits_ms: Sequence[int]) -> Table:
    lines: list[list[Any]] = []
    measured = [(row["way"], runs) for row in rows if (runs := [r for r in good(row) if r["idle"]])]
    for way, runs in measured:
        for part in PARTS:
            lines.append([way, part, *_less_idle(runs, part, limits_ms)])
    everything = [*chain.from_iterable(runs for _way, runs in measured)]
    for part in PARTS:
        idle = pooled(everything, "idle", [part])
        percentiles = [idle.percentile(percent) for percent in PERCENTILES]
        over = [idle.over(limit) / len(everything) for limit in limits_ms] if everything else []
        lines.append(["idle (as it was, not less anything)", part, len(idle), *percentiles, *over])
    columns = [
        "way",
        "slots",
        "operations",
        *("p50, ms", "p99, ms", "p99.9, ms", "max, ms"),
        *(f"over {limit} ms, a run" for limit in limits_ms),
        "extra in all, ms a run",
    ]
    lines = [line + [None] * (len(columns) - len(line)) for line in lines]
    return Table(f"{title}: latency, less idle", columns, [[*map(cell, line)] for line in lines])


def _less_idle(runs: Sequence[Run], part: str, limits_ms: Sequence[int]) -> list[Any]:
    """Figures of the window, each less that of the idle window of the same length."""
    window, alone = pooled(runs, "window", [part]), pooled(runs, "idle", [part])
    return [
        len(window),
        *(window.percentile(percent) - alone.percentile(percent) for percent in PERCENTILES),
        *((window.over(limit) - alone.over(limit)) / len(runs) for limit in limits_ms),
        (window.total() - len(window) * alone.mean()) / len(runs),
    ]


# As text


def as_text(table: Table) -> str:
    """For a terminal: the first column to the left, figures to the right."""
    grid = [list(table.columns), *map(list, table.lines)]
    widths = [max(len(line[index]) for line in grid) for index in range(len(table.columns))]
    words = [any(line[i][:1].isalpha() for line in table.lines) for i in range(len(widths))]
    rows = []
    for line in grid:
        cells = zip(line, widths, words, strict=True)
        texts = (text.ljust(width) if left else text.rjust(width) for text, width, left in cells)
        rows.append("  ".join(texts).rstrip())
    rows.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([table.title, "", *rows, ""])


def text_report(results: Mapping[str, Any]) -> str:
    """All tables and notes."""
    found = [_about(results), ""]
    for name, case in results["cases"].items():
        found += [f"== {name}: {case['about']}", ""]
        for part in case["parts"]:
            found += [as_text(table) for table in tables(part)]
            found += [*(f"* {note}" for note in notes(part)), ""]
        found += [f"not all of it was measured: {case['error']}", ""] if case["error"] else []
    return "\n".join(found)


def notes(part: Part) -> list[str]:
    """What a reader of the part's tables has to know."""
    found = list(part["notes"])
    runs = [(row["way"], run) for row in part.get("rows", ()) for run in row["runs"]]
    errors = [f"{way}: {run['client']['errors']}" for way, run in runs if _client_errors(run)]
    found += [f"Errors that the client saw: {'; '.join(errors)}."] if errors else []
    late = [run["client"]["sent_late_p99_ms"] for _way, run in runs if "client" in run]
    if late:
        found.append(
            f"The client itself sent 99 of 100 operations at most {cell(mean(late))} ms late."
        )
    return found


def _client_errors(run: Run) -> bool:
    return bool(run.get("client", {}).get("errors"))


def _about(results: Mapping[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    tools = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{results['started']}: {machine['cores']} cores ({machine['processor']}), "
        f"{machine['memory_mib']:,} MiB of memory, Linux {machine['kernel']}; {tools}. "
        f"Client: {results['options']['rate']:g} operations a second."
    )


# As reStructuredText


def as_rst(table: Table) -> str:
    """A list-table."""
    lines = [f".. list-table:: {table.title}", "  :header-rows: 1", ""]
    for row in [table.columns, *table.lines]:
        lines += [f"  {'*' if index == 0 else ' '} - {text}" for index, text in enumerate(row)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def rst_report(results: Mapping[str, Any]) -> str:
    """What stands between BEGIN and END in the documentation."""
    found = [_about(results), ""]
    for name, case in results["cases"].items():
        found += [name, "~" * len(name), ""]
        found += [PICTURE, ""] if name == "frontier" else []
        for part in case["parts"]:
            found += [as_rst(table) for table in tables(part)]
            found += [f"* {note}\n" for note in notes(part)]
        found += [f"Not all of it was measured: {case['error']}", ""] if case["error"] else []
    return "\n".join(found)


def put_into(page: str, text: str) -> str:
    """The page with the text between the two markers. ValueError: it lacks them."""
    before, begin, rest = page.partition(f"{BEGIN}\n")
    _old, end, after = rest.partition(f"{END}\n")
    if not (begin and end):
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n{text.rstrip()}\n\n{end}{after}"
