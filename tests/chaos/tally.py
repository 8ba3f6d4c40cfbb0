# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pure: what rounds add up to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from tests.chaos.faults import BY_NAME
from tests.chaos.rounds import Round, reasons

NO_MOVER = "no mover"


def line(number: int, done: Round) -> str:
    """One round as it ends."""
    told = f"{number:4} {done.engine} {done.way} {done.goal}, {done.moment:.2f} s: {done.fault}"
    what = [("" if done.met or done.way == NO_MOVER else "(too late) ") + done.first[:90]]
    if done.way != NO_MOVER:
        what.append(f"{len(done.refusals)} refusals" if done.finished else "NOT FINISHED")
    what += [f"{done.lost} of {done.writes} lost"] if done.lost else []
    what += [f"{done.open_slots} OPEN"] if done.open_slots else []
    what += [f"DAMAGE {text}" for text in done.damage]
    return f"{told} -> {'; '.join(what)} ({done.seconds:.1f} s)"


COLUMNS = (
    # A run was under way when the fault came; it finished in spite of it; so did a later one, if
    # need be; a later one first refused or failed.
    ("rounds", len),
    ("met", lambda mine: sum(r.met for r in mine)),
    ("at once", lambda mine: sum(r.first == "finished" for r in mine)),
    ("finished", lambda mine: sum(r.finished for r in mine)),
    ("refused", lambda mine: sum(bool(r.refusals) for r in mine)),
    ("lost", lambda mine: sum(r.lost for r in mine)),
    ("open", lambda mine: sum(r.open_slots for r in mine)),
)


def table(rounds: Sequence[Round]) -> str:
    """Fault by fault; `without us` are the writes that the same fault lost without a mover."""
    names = "".join(f"{name:>9}" for name, _count in COLUMNS)
    rows = [f"{'fault':50} {'way':8}{names}  without us"]
    rows.append("-" * len(rows[0]))
    for fault in BY_NAME:
        for way in ("classic", "atomic"):
            mine = [r for r in rounds if (r.fault, r.way) == (fault, way)]
            if mine:
                alone = [r for r in rounds if (r.fault, r.way) == (fault, NO_MOVER)]
                told = f"{sum(r.lost for r in alone)} lost in {len(alone)}" if alone else "-"
                counts = "".join(f"{count(mine):9}" for _name, count in COLUMNS)
                rows.append(f"{fault:50} {way:8}{counts}  {told}")
    counted: Counter[str] = Counter()
    for item in rounds:
        counted.update(reasons(item))
    rows += ["", "Why runs stopped or refused, after the fault and when they were run again:"]
    rows += [f"{number:5}  {text}" for text, number in counted.most_common()]
    moved = [r for r in rounds if r.way != NO_MOVER]
    rows += ["", f"{len(rounds)} rounds, {len(moved)} of them with a mover;"]
    rows[-1] += (
        f" {sum(r.writes for r in rounds)} acknowledged writes,"
        f" {sum(r.stale for r in moved)} reads older than promised"
        f" ({sum(r.stale for r in rounds if r.way == NO_MOVER)} without a mover),"
        f" {sum(r.conflicts for r in moved)} keys with two values settled by hand,"
        f" {sum(r.turned for r in moved)} drained primaries that became replicas,"
        f" {sum(r.option_off for r in moved)} nodes with the option left off."
    )
    rows += [
        f"Without a mover, {r.fault}: {text}"
        for r in rounds
        for text in r.damage
        if r.way == NO_MOVER
    ]
    return "\n".join(rows)


def wrongs(rounds: Sequence[Round]) -> list[str]:
    """What must not be, a line each."""
    found = []
    for item in rounds:
        if item.way == NO_MOVER:
            continue
        where = f"{item.engine}, {item.way} {item.goal}, {item.fault}"
        found += [f"{where}: {text}" for text in item.damage]
        if item.open_slots:
            found.append(f"{where}: {item.open_slots} slots left open")
        if not item.finished:
            found.append(f"{where}: never finished: {item.refusals[-1:]}")
    for fault in BY_NAME.values():
        mine = [r for r in rounds if r.fault == fault.name and r.way != NO_MOVER]
        alone = [r for r in rounds if r.fault == fault.name and r.way == NO_MOVER]
        lost = sum(r.lost for r in mine)
        if lost > _allowed(len(mine), alone) and (alone or not fault.loses):
            found.append(f"{fault.name}: {lost} writes lost in {len(mine)} rounds")
    return found


def _allowed(rounds: int, alone: Sequence[Round]) -> float:
    """What so many rounds may lose, three standard deviations above what was lost without us."""
    expected = rounds * sum(r.lost for r in alone) / max(1, len(alone))
    return expected + 3 * math.sqrt(expected)
