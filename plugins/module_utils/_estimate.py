# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""How much a plan is, and about how long it takes, pure. For people, and for one decision: whether
a run is long enough to be told about before it begins.

The rates are what two cores on loopback did (benchmarks); a real network is slower.
"""

from __future__ import annotations

import typing as t

from ansible_collections.keyslot.redis.plugins.module_utils._plan import Move
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology

BYTES_A_SECOND = 100e6
ATOMIC_KEY_SECONDS, ATOMIC_SLOT_SECONDS = 5e-6, 1e-4
KEY_SECONDS, COMMAND_SECONDS, SLOT_SECONDS = 20e-6, 20e-6, 2e-4
# What one step costs beside the time in which it holds the server up.
STEP_SECONDS = 2e-4


def bytes_of(topology: Topology, move: Move, key_counts: t.Mapping[int, int]) -> float:
    """By the source's bytes a key."""
    source = topology.reports[move.source]
    each = source.number("used_memory_dataset") / max(1, source.key_count)
    return each * sum(key_counts.get(slot, 0) for slot in move.slots)


def seconds_of(
    topology: Topology,
    moves: t.Iterable[tuple[Move, str]],
    key_counts: t.Mapping[int, int],
    max_pause_ms: float,
    batch_size: int,
) -> float:
    """Moves with their methods, side by side: as long as the node takes that has the most to do."""
    busy: dict[str, float] = {}
    for move, method in moves:
        keys = sum(key_counts.get(slot, 0) for slot in move.slots)
        seconds = bytes_of(topology, move, key_counts) / BYTES_A_SECOND
        if method == "atomic":
            seconds += keys * ATOMIC_KEY_SECONDS + len(move.slots) * ATOMIC_SLOT_SECONDS
        else:
            seconds += keys * (KEY_SECONDS + COMMAND_SECONDS / batch_size)
            seconds *= 1 + STEP_SECONDS / (max_pause_ms / 1000)
            seconds += len(move.slots) * SLOT_SECONDS
        for node in (move.source, move.target):
            busy[node] = busy.get(node, 0) + seconds
    return max(busy.values(), default=0)
