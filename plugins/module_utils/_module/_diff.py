# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Who owns what before and after some moves, as text for a diff; pure."""

from __future__ import annotations

import typing as t

from ansible_collections.keyslot.redis.plugins.module_utils._plan import Move, Owners, apply
from ansible_collections.keyslot.redis.plugins.module_utils._slots import format_slots
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology


def diff_of(
    topology: Topology,
    moves: t.Sequence[Move],
    key_counts: t.Mapping[int, int],
    assigned: t.Mapping[int, str] | None = None,
) -> dict[str, str]:
    """`before` as the nodes told it, `after` with the keys that the slots of the moves held.

    `assigned` is slot -> the node that gets it, where nobody serves it.
    """
    keys = {node_id: report.key_count for node_id, report in topology.reports.items()}
    keys.update(dict.fromkeys(topology.joining, 0))
    before = _map_text(topology, topology.owners, keys)
    for move in moves:
        moved = sum(key_counts[slot] for slot in move.slots)
        keys[move.source] = max(0, keys.get(move.source, 0) - moved)
        keys[move.target] = keys.get(move.target, 0) + moved
    after = apply(topology.owners, moves)
    for slot, owner in (assigned or {}).items():
        after[slot] = after[slot] or owner
    return {"before": before, "after": _map_text(topology, after, keys)}


def _map_text(topology: Topology, owners: Owners, keys: t.Mapping[str, int]) -> str:
    """One line a primary: its address, its id, how many slots and keys it has, and which slots."""
    slots: dict[str, list[int]] = {line.id: [] for line in topology.primaries}
    for slot, owner in enumerate(owners):
        if owner is not None:
            slots.setdefault(owner, []).append(slot)
    lines = []
    for node_id, found in slots.items():
        told = f"{keys[node_id]} keys" if node_id in keys else "keys not known"
        counts = f"{topology.name(node_id)}: {len(found)} slots, {told}"
        lines.append(f"{counts}: {' '.join(format_slots(found))}" if found else counts)
    return "\n".join(sorted(lines)) + "\n"
