# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This plugin util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""What the report shows, pure: from results of redis_cluster_info to texts and shapes."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass
from functools import cached_property

from ansible_collections.keyslot.redis.plugins.module_utils._slots import (
    SLOT_COUNT,
    Range,
    from_ranges,
    parse_slots,
    to_ranges,
)
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    format_address,
)

Dict = dict[str, t.Any]

# The map of slots: 64 rows of 256, in units of its picture.
COLUMNS = 256
CELL_WIDTH, CELL_HEIGHT = 4, 12
MIN_LABELLED = 4

# Far from each other for neighbours, however many there are (the golden angle).
FIRST_HUE, HUE_STEP, TONES = 210, 137.508, 3

MEASURES = {"slot_count": "Slots", "key_count": "Keys", "used_memory": "Memory"}

_FIX = "Run keyslot.redis.redis_cluster_fix."
_RESUME = (
    "If a run that moves slots is at work, let it end. If one was stopped, run it again: it goes "
    "on from here. Otherwise run keyslot.redis.redis_cluster_fix."
)
_LEFT_OVER = (
    "The replica has kept a marker of its primary. It does no harm there, but would be taken up "
    f"again in a failover. {_FIX}"
)
REMEDIES = {
    "unreachable": (
        "Start the server again, or mend the network or the login to it. If it is gone for good, "
        "remove it with the playbook keyslot.redis.remove_node; if it still owns slots, first see "
        "what keyslot.redis.redis_cluster_fix says."
    ),
    "state": (
        "Look first at nodes that can't be reached and at slots that nobody serves: the node "
        "refuses clients until these are back."
    ),
    "disagreement": (
        "If slots have just moved, wait some seconds and look again. If it stays, run "
        "keyslot.redis.redis_cluster_fix."
    ),
    "address": (
        "Correct cluster-announce-ip and cluster-announce-port of the nodes that share it: keys "
        "could be sent to the wrong one."
    ),
    "uncovered": (
        "Bring back the node that served them; its keys come back with it. If it is lost, run "
        "keyslot.redis.redis_cluster_fix with on_uncovered=assign: the slots are served again, "
        "without the keys that were lost."
    ),
    "stray_keys": (
        "Run keyslot.redis.redis_cluster_fix: it brings them to the owners of their slots. Do not "
        "restart the node before, many versions delete such keys then."
    ),
    "migrating_slot": _RESUME,
    "importing_slot": _RESUME,
    "replica_migrating_slot": _LEFT_OVER,
    "replica_importing_slot": _LEFT_OVER,
    "link": (
        "Look at the log of the replica. It needs the network and the password (masterauth) to "
        "reach its primary."
    ),
    "config": (
        "If no run that drains a node is at work, set it back there: CONFIG SET "
        "cluster-allow-replica-migration yes."
    ),
}
UNKNOWN_REMEDY = "Look at the node's log, and at the result of keyslot.redis.redis_cluster_info."


@dataclass(frozen=True)
class Shard:
    """A primary (None if only its replicas are known) and its replicas, as nodes of a result."""

    id: str
    primary: Dict | None
    replicas: tuple[Dict, ...]

    @property
    def nodes(self) -> tuple[Dict, ...]:
        return (self.primary, *self.replicas) if self.primary else self.replicas

    @cached_property
    def slots(self) -> list[int]:
        return parse_slots(self.primary["slots"]) if self.primary else []

    def measure(self, name: str) -> int | None:
        return self.primary.get(name) if self.primary else None

    @property
    def order(self) -> tuple[int, str, int, str]:
        first = self.nodes[0]
        return (self.slots[0] if self.slots else SLOT_COUNT, first["host"], first["port"], self.id)


def make_report(after: Dict, before: Dict | None = None) -> Dict:
    """All that the page shows of one result, or of two. Raises KeyError, TypeError or OptionError
    for what is no result of redis_cluster_info."""
    after = _printable(after)
    now = _shards(after)
    then: dict[str, Shard] = {}
    if before is not None:
        before = _printable(before)
        then = _renamed(_shards(before), now, after)
    everyone = sorted(now.values(), key=lambda shard: shard.order)
    everyone += sorted(
        (shard for key, shard in then.items() if key not in now), key=lambda shard: shard.order
    )
    looks = {shard.id: _look(index) for index, shard in enumerate(everyone)}
    results = [(before, then), (after, now)] if before is not None else [(after, now)]
    return {
        "summary": _summary(results, looks),
        "problems": [
            {**problem, "remedy": REMEDIES.get(problem["kind"], UNKNOWN_REMEDY)}
            for problem in after["problems"]
        ],
        "solved": _solved(after, before),
        "remarks": _remarks(after, now),
        "moved": _moved(then, now) if before is not None else None,
        "maps": [_map(result, shards, looks) for result, shards in results],
        "measures": list(MEASURES.values()),
        "balance": _balance(everyone, then if before is not None else None, now, looks),
        "shards": [{**looks[shard.id], **_members(shard, shard.id in now)} for shard in everyone],
        "versions": _versions(after),
    }


def _printable(value: t.Any) -> t.Any:
    """The same with a sign in the place of each control character: servers choose their names."""
    if isinstance(value, str):
        return "".join(char if char.isprintable() else "\ufffd" for char in value)
    if isinstance(value, t.Mapping):
        return {str(key): _printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    return value


def _shards(result: Dict) -> dict[str, Shard]:
    members: dict[str, list[Dict]] = {}
    for node in result["nodes"]:
        members.setdefault(node["primary_id"] or node["id"], []).append(node)
    return {
        key: Shard(
            key,
            next((node for node in nodes if node["id"] == key), None),
            tuple(node for node in nodes if node["id"] != key),
        )
        for key, nodes in members.items()
    }


def _renamed(then: dict[str, Shard], now: dict[str, Shard], after: Dict) -> dict[str, Shard]:
    """The earlier shards under the ids of today: after a failover a replica is the primary."""
    followed = {node["id"]: node["primary_id"] for node in after["nodes"]}
    found = {}
    for key, shard in then.items():
        heir = followed.get(key)
        new = heir if key not in now and heir and heir not in then else key
        found[new] = Shard(new, shard.primary, shard.replicas)
    return found


def _look(index: int) -> Dict:
    """A shard's number and colour. Neighbours differ in tone as well as in hue."""
    return {
        "number": str(index + 1),
        "hue": round((FIRST_HUE + index * HUE_STEP) % 360),
        "tone": index % TONES,
    }


def _name(node: Dict) -> str:
    return format_address(node["hostname"] or node["host"], node["port"])


# Texts


def count(number: int | None) -> str:
    """`5,461`"""
    return "not known" if number is None else f"{number:,}"


def size(number: int | None) -> str:
    """`1.2 GiB`"""
    if number is None:
        return "not known"
    amount, unit = float(number), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"


def plural(number: int, what: str) -> str:
    """`1 node`, `2 nodes`"""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _total(shards: t.Iterable[Shard], name: str) -> int | None:
    values = [shard.measure(name) for shard in shards if shard.primary]
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _summary(
    results: t.Sequence[tuple[Dict, dict[str, Shard]]], looks: dict[str, Dict]
) -> list[Dict]:
    """Rows of (term, value of each result, whether the last one is bad)."""
    columns = [_facts(result, shards, looks) for result, shards in results]
    return [
        {
            "term": term,
            "values": [column[term][0] for column in columns],
            "bad": columns[-1][term][1],
        }
        for term in columns[0]
    ]


def _facts(
    result: Dict, shards: dict[str, Shard], looks: dict[str, Dict]
) -> dict[str, tuple[str, bool]]:
    nodes = result["nodes"]
    down = sum(not node["reachable"] for node in nodes)
    uncovered = len(parse_slots(result["uncovered_slots"]))
    opened = len({item["slot"] for item in result["open_slots"]})
    problems = len(result["problems"])
    answering = (
        f"{len(nodes) - down:,} of {len(nodes):,} answer" if down else f"all {len(nodes):,} answer"
    )
    return {
        "State": (result["state"], result["state"] != "ok"),
        "Problems": (count(problems) if problems else "none", problems > 0),
        "Nodes agree": ("yes" if result["agreed"] else "no", not result["agreed"]),
        "Nodes": (answering, down > 0),
        "Shards": (count(len(shards)), False),
        "Slots without a node": (count(uncovered) if uncovered else "none", uncovered > 0),
        "Open slots": (count(opened) if opened else "none", opened > 0),
        "Keys": (count(_total(shards.values(), "key_count")), False),
        "Memory of primaries": (size(_total(shards.values(), "used_memory")), False),
        "Farthest from an even share": (_farthest(shards, looks), False),
    }


def _farthest(shards: dict[str, Shard], looks: dict[str, Dict]) -> str:
    """`10.0 % (shard 11)`, of the shards that have slots."""
    holders = [shard for shard in shards.values() if shard.slots]
    if not holders:
        return "not known"
    even = sum(len(shard.slots) for shard in holders) / len(holders)
    worst = max(holders, key=lambda shard: abs(len(shard.slots) - even))
    told = f"{abs(len(worst.slots) - even) / even * 100:.1f} %"
    return told if told == "0.0 %" else f"{told} (shard {looks[worst.id]['number']})"


def _solved(after: Dict, before: Dict | None) -> list[str]:
    """Problems of the earlier result that are none any more."""
    if before is None:
        return []
    left = {problem["message"] for problem in after["problems"]}
    return [p["message"] for p in before["problems"] if p["message"] not in left]


def _remarks(result: Dict, shards: dict[str, Shard]) -> list[str]:
    """What is no problem, and yet worth knowing."""
    found = []
    holders = [shard for shard in shards.values() if shard.slots]
    alone = [shard for shard in holders if not any(r["reachable"] for r in shard.replicas)]
    if holders and len(alone) == len(holders):
        found.append("No shard has a replica that answers: a node that is lost takes its keys.")
    elif alone:
        names = ", ".join(_name(shard.nodes[0]) for shard in alone)
        found.append(f"Without a replica that answers: {names}.")
    empty = [shard for shard in shards.values() if shard.primary and not shard.slots]
    if empty:
        found.append(f"Primaries without slots: {', '.join(_name(s.nodes[0]) for s in empty)}.")
    if len({node["host"] for node in result["nodes"]}) > 1:
        together = [
            shard
            for shard in holders
            if shard.replicas and len({node["host"] for node in shard.nodes}) == 1
        ]
        if together:
            names = ", ".join(_name(shard.nodes[0]) for shard in together)
            found.append(f"On the same host as all of their replicas: {names}.")
    versions = [row["version"] for row in _versions(result) if row["version"] != "not known"]
    if len(versions) > 1:
        found.append(f"The nodes run different versions: {', '.join(versions)}.")
    return found


def _versions(result: Dict) -> list[Dict]:
    names: dict[str, list[str]] = {}
    for node in result["nodes"]:
        names.setdefault(node["version"] or "not known", []).append(_name(node))
    return [
        {"version": version, "nodes": plural(len(found), "node")}
        for version, found in sorted(names.items())
    ]


def _moved(then: dict[str, Shard], now: dict[str, Shard]) -> Dict:
    """How many slots have another owner, and which shards are new or gone."""
    owner = {slot: key for key, shard in now.items() for slot in shard.slots}
    changed = sum(
        slot in owner and owner[slot] != key for key, shard in then.items() for slot in shard.slots
    )
    return {
        "slots": plural(changed, "slot"),
        "joined": [_name(shard.nodes[0]) for key, shard in now.items() if key not in then],
        "left": [_name(shard.nodes[0]) for key, shard in then.items() if key not in now],
    }


def _members(shard: Shard, present: bool) -> Dict:
    return {
        "present": present,
        "slots": list(shard.primary["slots"]) if shard.primary and present else [],
        "slot_count": plural(len(shard.slots) if present else 0, "slot"),
        "nodes": [
            {
                "address": format_address(node["host"], node["port"]),
                "hostname": node["hostname"],
                "id": node["id"],
                "role": node["role"],
                "version": node["version"] or "not known",
                "state": _state(node) if present else "has left",
                "bad": present and _state(node) != "answers",
            }
            for node in shard.nodes
        ],
    }


def _state(node: Dict) -> str:
    if not node["reachable"]:
        return "does not answer"
    return "answers, but failed for others" if "fail" in node["flags"] else "answers"


# Bars


def _balance(
    everyone: list[Shard],
    then: dict[str, Shard] | None,
    now: dict[str, Shard],
    looks: dict[str, Dict],
) -> list[Dict]:
    """For each shard a cell per measure: text, length of the bar and of the even share in %."""
    sides = [now] if then is None else [then, now]
    scale = {}
    for name in MEASURES:
        values = [s.measure(name) for side in sides for s in side.values()]
        scale[name] = max((value for value in values if value is not None), default=0) or 1
    rows = []
    for shard in everyone:
        if not any(side.get(shard.id) and side[shard.id].primary for side in sides):
            continue
        cells = [[_bar(side, shard.id, name, scale[name]) for side in sides] for name in MEASURES]
        rows.append({**looks[shard.id], "name": _name(shard.nodes[0]), "cells": cells})
    return rows


def _bar(side: dict[str, Shard], key: str, name: str, longest: int) -> Dict:
    shard = side.get(key)
    if shard is None:
        return {"text": "not a member", "off": "", "length": 0, "even": None}
    value = shard.measure(name)
    known = [s.measure(name) or 0 for s in side.values() if s.slots]
    even = sum(known) / len(known) if known else 0
    return {
        "text": size(value) if name == "used_memory" else count(value),
        "off": _off(value, even),
        "length": round((value or 0) / longest * 100, 2),
        "even": round(even / longest * 100, 2) if value is not None else None,
    }


def _off(value: int | None, even: float) -> str:
    if value is None or not even:
        return ""
    percent = round((value - even) / even * 100, 1)
    return f"{percent:+.1f} %" if percent else "even"


# The map


def _map(result: Dict, shards: dict[str, Shard], looks: dict[str, Dict]) -> Dict:
    areas = []
    for shard in sorted(shards.values(), key=lambda s: int(looks[s.id]["number"])):
        if shard.slots:
            ranges = to_ranges(shard.slots)
            areas.append(
                {
                    **looks[shard.id],
                    "name": _name(shard.nodes[0]),
                    "slots": plural(len(shard.slots), "slot"),
                    "path": "".join(outline(item) for item in ranges),
                    "labels": [
                        label(item, looks[shard.id]["number"])
                        for item in ranges
                        if item[1] - item[0] + 1 >= MIN_LABELLED
                    ],
                }
            )
    uncovered = to_ranges(parse_slots(result["uncovered_slots"]))
    opened = to_ranges({item["slot"] for item in result["open_slots"]})
    return {
        "areas": areas,
        "uncovered": _marks(uncovered),
        "open": _marks(opened),
        "text": _map_text(shards, uncovered, opened),
    }


def _map_text(
    shards: dict[str, Shard], uncovered: t.Sequence[Range], opened: t.Sequence[Range]
) -> str:
    """The picture in words."""
    held = [len(shard.slots) for shard in shards.values() if shard.slots]
    words = [f"{plural(sum(held), 'slot')} in {plural(len(held), 'shard')}"]
    if held:
        words.append(f"from {min(held):,} to {max(held):,} a shard")
    for ranges, what in ((uncovered, "served by nobody"), (opened, "open")):
        if ranges:
            words.append(f"{len(from_ranges(ranges)):,} {what}")
    return f"{', '.join(words)}."


def _marks(ranges: t.Sequence[Range]) -> list[Dict]:
    return [{"path": outline(item), **_middle(item[0])} for item in ranges]


def _middle(slot: int) -> Dict:
    row, column = divmod(slot, COLUMNS)
    return {
        "x": round(column * CELL_WIDTH + CELL_WIDTH / 2, 1),
        "y": round(row * CELL_HEIGHT + CELL_HEIGHT / 2, 1),
    }


def outline(slots: Range) -> str:
    """The line around a range of slots as an SVG path: slots run from left to right in rows."""
    top, left = divmod(slots[0], COLUMNS)
    bottom, right = divmod(slots[1], COLUMNS)
    x0, x1, end = left * CELL_WIDTH, (right + 1) * CELL_WIDTH, COLUMNS * CELL_WIDTH
    y0, y1 = top * CELL_HEIGHT, bottom * CELL_HEIGHT
    if top == bottom:
        return f"M{x0} {y0}H{x1}v{CELL_HEIGHT}H{x0}z"
    if bottom == top + 1 and x1 <= x0:
        return f"M{x0} {y0}H{end}v{CELL_HEIGHT}H{x0}zM0 {y1}H{x1}v{CELL_HEIGHT}H0z"
    return f"M{x0} {y0}H{end}V{y1}H{x1}v{CELL_HEIGHT}H0V{y0 + CELL_HEIGHT}H{x0}z"


def label(slots: Range, text: str) -> Dict:
    """The middle of the largest rectangle within a range, and how large the text can be there."""
    top, left = divmod(slots[0], COLUMNS)
    bottom, right = divmod(slots[1], COLUMNS)
    first_full = top + (left > 0)
    last_full = bottom - (right < COLUMNS - 1)
    if top == bottom:
        low, high, row, rows = left, right + 1, top, 1
    elif first_full <= last_full:
        low, high, row, rows = 0, COLUMNS, first_full, last_full - first_full + 1
    elif COLUMNS - left >= right + 1:
        low, high, row, rows = left, COLUMNS, top, 1
    else:
        low, high, row, rows = 0, right + 1, bottom, 1
    width, height = (high - low) * CELL_WIDTH, rows * CELL_HEIGHT
    return {
        "x": round((low + high) / 2 * CELL_WIDTH, 1),
        "y": round((row + rows / 2) * CELL_HEIGHT, 1),
        "size": round(min(height * 0.85, width / len(text), 40), 1),
        "text": text,
    }
