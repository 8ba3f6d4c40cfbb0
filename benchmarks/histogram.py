# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Latencies as counts, so that all of them fit into a JSON file and can be pooled afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

UNIT_MS = 0.01


@dataclass(frozen=True)
class Histogram:
    """How many operations took how many units of UNIT_MS."""

    counts: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Histogram:
        return cls(Counter(round(value * 1000 / UNIT_MS) for value in seconds))

    @classmethod
    def read(cls, stored: Mapping[str, int]) -> Histogram:
        """From what stored() gave."""
        return cls(Counter({int(units): count for units, count in stored.items()}))

    def stored(self) -> dict[str, int]:
        """For JSON: units of UNIT_MS -> operations."""
        return {str(units): count for units, count in sorted(self.counts.items())}

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts)

    def __len__(self) -> int:
        return self.counts.total()

    def percentile(self, percent: str) -> float:
        """ms that so many percent ("99.9") did not exceed (nearest rank); 0 if there are none.

        The percent is text, since 99.9 has no exact float.
        """
        rank = max(1, ceil(len(self) * Fraction(percent) / 100))
        for units, count in sorted(self.counts.items()):
            rank -= count
            if rank <= 0:
                return units * UNIT_MS
        return 0.0

    def over(self, limit_ms: float) -> int:
        """How many took longer than the limit."""
        return sum(count for units, count in self.counts.items() if units * UNIT_MS > limit_ms)

    def total(self) -> float:
        """ms of all operations together."""
        return sum(units * count for units, count in self.counts.items()) * UNIT_MS

    def mean(self) -> float:
        """ms of an average operation; 0 if there are none."""
        return self.total() / len(self) if len(self) else 0.0


def total(parts: Iterable[Histogram]) -> Histogram:
    """All of them in one."""
    return sum(parts, Histogram())
