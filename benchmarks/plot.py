# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The frontier as a picture: time of a run against the p99 of a client beside it, as SVG.

No background, and colours of middle brightness, so that it can be read on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.report import good, median_of, pooled

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 24, 56
TEXT, GRID = "#7d8590", "#7d859040"
OURS, THEIRS = "#2f9e77", "#e0703a"
STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Point:
    """A way: seconds of its whole process, and p99 in ms, as it was."""

    label: str
    ours: bool
    seconds: float
    p99: float


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from `low` to `high`, `start` and `end` in pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = log(value / self.low) / log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        found = (step * 10.0**power for power in range(-3, 5) for step in STEPS)
        return [value for value in found if self.low <= value <= self.high]


def points(rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    """A point for each row that has runs."""
    found = []
    for row in rows:
        runs = good(row)
        seconds = median_of(runs, "seconds")
        if seconds:
            label = row["way"].rpartition(", ")[2]
            p99 = pooled(runs, "window").percentile("99")
            found.append(Point(label, row["ours"], seconds, p99))
    return found


def frontier(part: Mapping[str, Any]) -> str:
    """The picture of the part of the `frontier` case. ValueError: nothing to draw."""
    found = points(part["rows"])
    if not found:
        raise ValueError("no way of this case has a run that succeeded")
    idle = pooled([run for row in part["rows"] for run in good(row)], "idle").percentile("99")
    x = Axis(*_bounds([point.seconds for point in found]), LEFT, WIDTH - RIGHT)
    y = Axis(*_bounds([*(point.p99 for point in found), idle]), HEIGHT - BOTTOM, TOP)
    theirs = next((row["way"].partition(",")[0] for row in part["rows"] if not row["ours"]), "")
    body = [
        *_grid(x, y),
        _line(LEFT, y.at(idle), WIDTH - RIGHT, y.at(idle), TEXT, ' stroke-dasharray="6 5"'),
        _text(WIDTH - RIGHT, y.at(idle) - 6, "the client alone", "end"),
        *_series([point for point in found if point.ours], x, y, OURS),
        *_series([point for point in found if not point.ours], x, y, THEIRS),
        *_legend((("keyslot.redis", OURS), (theirs, THEIRS))),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">'
    )
    title = (
        "<title>Time of a run against the p99 of a client beside it; lower left is better</title>"
    )
    return "\n".join([head, title, *body, "</svg>", ""])


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """From a little below the least to well above the most, and never a single point."""
    return max(min(values), 0.01) / 1.35, max(*values, 0.02) * 1.6


def _grid(x: Axis, y: Axis) -> Iterator[str]:
    for value in x.ticks():
        yield _line(x.at(value), TOP, x.at(value), HEIGHT - BOTTOM, GRID)
        yield _text(x.at(value), HEIGHT - BOTTOM + 20, f"{value:g}", "middle")
    for value in y.ticks():
        yield _line(LEFT, y.at(value), WIDTH - RIGHT, y.at(value), GRID)
        yield _text(LEFT - 8, y.at(value) + 4, f"{value:g}", "end")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "whole process, seconds", "middle")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f' transform="rotate(-90 16 {middle:.1f})"'
    yield _text(16, middle, "client's p99, ms", "middle", more=turned)


def _series(series: Sequence[Point], x: Axis, y: Axis, colour: str) -> Iterator[str]:
    places = [(x.at(point.seconds), y.at(point.p99)) for point in series]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    look = f'fill="none" stroke="{colour}" stroke-width="2" opacity="0.7"'
    yield f'<polyline points="{path}" {look}/>'
    for point, (px, py) in zip(series, places, strict=True):
        yield f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="{colour}"/>'
        yield _text(px + 9, py + (-8 if point.ours else 17), point.label, "start", colour)


def _legend(entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    for number, (name, colour) in enumerate(entries):
        top = TOP + 16 + 20 * number
        yield f'<circle cx="{WIDTH - RIGHT - 130}" cy="{top}" r="5" fill="{colour}"/>'
        yield _text(WIDTH - RIGHT - 118, top + 4, name, "start")


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = TEXT, more: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{more}>'
        f"{escape(text)}</text>"
    )
