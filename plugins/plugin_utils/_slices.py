# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This plugin util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""A long run in slices, so that its progress can be shown between them.

Knows neither Ansible nor a server: it is given what runs a slice, what shows a line, and a clock.
The first slice plans, once. All others carry out that plan. What they moved is read from what they
have sealed: in their results core masks whatever looks like the password, numbers too.
"""

from __future__ import annotations

import math
import secrets
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.keyslot.redis.plugins.module_utils._argspec import (
    connection_argspec,
    movement_argspec,
)
from ansible_collections.keyslot.redis.plugins.module_utils._slice import FIELD, Slice, unseal
from ansible_collections.keyslot.redis.plugins.module_utils._slots import (
    format_slots,
    parse_slots,
)

Result = dict[str, t.Any]
# Runs a module with these arguments as this slice.
Execute = t.Callable[[str, Result, Slice], Result]

DEFAULT_INTERVAL = 5.0
# The modules whose plan is all that they are to do, and the one that carries plans out.
PLANNERS = ("redis_slot_migrate", "redis_cluster_rebalance")
CARRIER = "redis_slot_migrate"
# A slice is so many times as long as what it costs beside moving; the first ones are shorter.
LENGTH_TO_COST, GROWTH = 40, 1.5
# On a run of hours a line need not come every few seconds.
LINES, LONGEST = 100, 60.0
# Until the cost of an execution has been seen.
USUAL_COST = 1.0
LEAST_KEEP, KEEP_TO_COST = 5.0, 3
MOST_MOVES_SHOWN, MOST_LANES_SHOWN = 10, 4
SLOT_IN_KEYS = 10  # the work of one slot, in keys
KEPT = {*connection_argspec().argument_spec, *movement_argspec().argument_spec}


def number(args: t.Mapping[str, t.Any], name: str, default: float) -> float | None:
    """An option; None for anything but a number from 0 on, about which the module is to speak."""
    told = args.get(name)
    try:
        value = default if told is None else float(told)
    except (TypeError, ValueError):
        return None
    return value if 0 <= value < math.inf else None


def wants_slices(args: t.Mapping[str, t.Any]) -> bool:
    """Whether there can be anything to show."""
    interval = number(args, "progress_interval", DEFAULT_INTERVAL)
    limit = number(args, "max_seconds", 0)
    if not interval or limit is None:
        return False
    return not limit or limit > interval + USUAL_COST


def run(
    module: str,
    args: Result,
    execute: Execute,
    show: t.Callable[[str], None],
    alive: t.Callable[[], bool],
    clock: t.Callable[[], float] = time.monotonic,
) -> Result:
    """The result of the module, as if it had run in one piece; `alive` tells whether anybody still
    waits for it."""
    sliced = Sliced(module, args, clock())
    while True:
        part, seconds = sliced.next_slice(clock())
        began = clock()
        result = execute(sliced.module, {**sliced.args, "max_seconds": seconds}, part)
        sliced.add(result, clock() - began, clock())
        if sliced.over:
            for line in sliced.last_lines(clock()):
                show(line)
            return sliced.result(clock())
        if not alive():
            return {**sliced.result(clock()), "failed": True, "msg": "the run was cancelled."}
        for line in sliced.lines(clock()):
            show(line)


@dataclass
class Plan:
    """What the first slice planned."""

    moves: list[Result]
    names: dict[str, str]
    bytes: int
    seconds: float

    @property
    def slots(self) -> int:
        return sum(move["slot_count"] for move in self.moves)

    @property
    def keys(self) -> int:
        return sum(move["key_count"] for move in self.moves)

    def as_option(self, done: t.Collection[int]) -> list[Result]:
        """For the option `moves`. The sources are guards: a slot that is found elsewhere than on
        its source or its target stops the run, and so does one that has moved and is not there any
        more, because its source is the target by now."""
        wanted = []
        for move in self.moves:
            parts: dict[str, list[int]] = {move["source"]: [], move["target"]: []}
            for slot in parse_slots(move["slots"]):
                parts[move["target" if slot in done else "source"]].append(slot)
            wanted += [
                {"slots": format_slots(slots), "source": source, "target": move["target"]}
                for source, slots in parts.items()
                if slots
            ]
        return wanted


@dataclass
class Sliced:
    """A run: what it was asked for, how far it is, and what its slices have cost."""

    module: str
    args: Result
    started: float
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    plan: Plan = field(default_factory=lambda: Plan([], {}, 0, 0.0))
    results: list[Result] = field(default_factory=list)
    told: list[Result] = field(default_factory=list)
    over: bool = False
    announced: bool = False
    _length: float = 0.0
    _costs: list[float] = field(default_factory=list)
    _last: bool = False
    _moving_since: float = 0.0

    def __post_init__(self) -> None:
        self.interval = number(self.args, "progress_interval", DEFAULT_INTERVAL) or 0.0
        self.limit = number(self.args, "max_seconds", 0) or 0.0

    # How long

    @property
    def cost(self) -> float:
        """Seconds that a slice takes beside moving."""
        return sum(self._costs) / len(self._costs) if self._costs else USUAL_COST

    def next_slice(self, now: float) -> tuple[Slice, float]:
        """The next one, and the seconds that it has."""
        age = now - self.started
        self._length = self._next_length(age)
        left = self.limit - age
        self._last = bool(self.limit) and left <= self._length + self.cost
        part = Slice(
            token=self.token,
            first=not self.results,
            last=self._last,
            age=age,
            keep=max(LEAST_KEEP, KEEP_TO_COST * self.cost) if self._costs else LEAST_KEEP,
            keeper=self.told[-1]["keeper"] if self.told else "",
        )
        if part.first:
            self._moving_since = now
        return part, max(left, 0.1) if self._last else self._length

    def _next_length(self, age: float) -> float:
        if not self.told:
            return self.interval
        last = self.told[-1]
        if last["moving"] and not last["slots_moved"] and not last["keys_moved"]:
            # Whatever it waits for: in the end one slice is long enough to wait in vain.
            return 2 * self._length
        slices = sum(1 for told in self.told if told["moving"])
        # While a job of the engine goes on, the time between two slices costs nothing.
        least = 0.0 if last["going"] else LENGTH_TO_COST * self.cost
        growing = min(least, self.interval * GROWTH**slices)
        return max(self.interval, growing, min(LONGEST, age / LINES))

    # What a slice did

    def add(self, result: Result, took: float, now: float) -> None:
        """Learns from a slice's result."""
        sealed = result.pop(FIELD, None)
        self.results.append(result)
        if sealed is None:  # it failed before it had planned
            self.over = True
            return
        told = unseal(sealed)
        if self.told:
            _add_gone(told, self.told[-1]["going"])
        self.told.append(told)
        self._costs.append(max(0.0, took - told["moving"]))
        failed = bool(result.get("failed"))
        self.over = failed or self._last or not told["todo"]
        if "plan" in told:
            self.plan = Plan(**told["plan"])
            if not told["moving"]:
                self._moving_since = now
            self._go_on()
        if "moves" in self.args and self.plan.moves:
            done = {slot for move in self.moves() for slot in parse_slots(move["slots"])}
            self.args["moves"] = self.plan.as_option(done.difference(parse_slots(told["todo"])))
        if told["fell_back"]:
            self.args["method"] = "classic"

    def _go_on(self) -> None:
        """From now on the plan is carried out: no threshold is asked again, no cap counted anew."""
        name = self.module.rpartition(".")
        self.args = dict(self.args)
        if name[2] in PLANNERS:
            self.module = f"{name[0]}{name[1]}{CARRIER}"
            self.args = {name: value for name, value in self.args.items() if name in KEPT}
            self.args["moves"] = []

    # The result

    def result(self, now: float) -> Result:
        """Of the same form as that of one run."""
        merged = dict(self.results[-1])
        _restore_limit(self.results[0], self.limit)
        if "invocation" in self.results[0]:
            merged["invocation"] = self.results[0]["invocation"]
        if len(self.results) == 1:
            return merged
        for name, value in merged.items():
            if isinstance(value, list) and name != "moves":
                merged[name] = _united(result.get(name) for result in self.results)
        for name in ("warnings", "deprecations"):
            found = _united(result.get(name) for result in self.results)
            merged.update({name: found} if found else {})
        diffs = [result["diff"] for result in self.results if isinstance(result.get("diff"), dict)]
        if diffs:
            merged["diff"] = {**diffs[-1], "before": diffs[0].get("before")}
        first, last = self.told[0], self.told[-1]
        beyond = first["slots_left"] - len(parse_slots(first["todo"]))
        left = len(parse_slots(last["todo"])) + beyond
        merged.update(
            changed=bool(self._sum("slots_moved")) or any(r.get("changed") for r in self.results),
            finished=left == 0 and not merged.get("failed"),
            moves=self.moves(),
            slots_moved=self._sum("slots_moved"),
            slots_left=left,
            keys_moved=self._sum("keys_moved"),
            longest_pause_ms=max(told["longest_pause_ms"] for told in self.told),
            elapsed=round(now - self.started, 3),
        )
        if merged["changed"] and isinstance(merged.get("msg"), str):
            merged["msg"] = merged["msg"].replace("Nothing was", "Nothing more was")
        return merged

    def _sum(self, name: str) -> int:
        return sum(told[name] for told in self.told)

    def moves(self) -> list[Result]:
        """What was moved from where to where, all slices together."""
        merged: dict[tuple[str, str, str], Result] = {}
        for move in (move for told in self.told for move in told["moves"]):
            way = (move["source"], move["target"], move["method"])
            if way not in merged:
                merged[way] = dict(move)
                continue
            known = merged[way]
            slots = {*parse_slots(known["slots"]), *parse_slots(move["slots"])}
            known["slots"] = format_slots(slots)
            for name in ("slot_count", "key_count"):
                known[name] += move[name]
            known["elapsed"] = round(known["elapsed"] + move["elapsed"], 3)
        return list(merged.values())

    # What is shown

    def lines(self, now: float) -> list[str]:
        """After a slice that was not the last one."""
        if self.announced:
            return [self._progress(now)]
        self.announced = True
        moved = self._sum("slots_moved") or self._sum("keys_moved")
        left = self._left(now) if moved else self.plan.seconds
        lines = announcement(self.plan, left)
        return [*lines, self._progress(now)] if moved else lines

    def last_lines(self, now: float) -> list[str]:
        """After the last one; nothing if nothing has been shown before."""
        return [self._progress(now)] if self.announced and self.told else []

    def _work(self, slots: int, keys: int) -> int:
        return keys + SLOT_IN_KEYS * slots

    def _left(self, now: float) -> float:
        """Seconds that the rest takes at this rate."""
        done = self._work(self._sum("slots_moved"), self._sum("keys_moved"))
        todo = self._work(self.plan.slots, self.plan.keys) - done
        return max(0.0, todo * (now - self._moving_since) / done) if done else self.plan.seconds

    def _progress(self, now: float) -> str:
        slots, keys = self._sum("slots_moved"), self._sum("keys_moved")
        seconds = max(now - self._moving_since, 0.001)
        work, whole = self._work(slots, keys), self._work(self.plan.slots, self.plan.keys)
        told = [
            f"{slots} of {self.plan.slots} slots",
            f"{keys} of {max(keys, self.plan.keys)} keys ({100 * work // max(1, whole)} %)",
            f"{round(keys / seconds)} keys/s",
        ]
        if not self.told[-1]["todo"]:
            return f"{', '.join(told)}, done in {span(seconds)}"
        told.append(f"about {span(self._left(now))} left")
        return f"{', '.join(told)}; {self._lanes()}"

    def _lanes(self) -> str:
        """Which ways slots are taking, those that are not yet done first."""
        done: dict[tuple[str, str], int] = {}
        for move in self.moves():
            way = (move["source"], move["target"])
            done[way] = done.get(way, 0) + move["slot_count"]
        todo: dict[tuple[str, str], int] = {}
        for move in self.plan.moves:
            way = (move["source"], move["target"])
            todo[way] = todo.get(way, 0) + move["slot_count"]
        names = {node: name.partition(" ")[0] for node, name in self.plan.names.items()}
        told = [
            f"{names.get(way[0], way[0])} to {names.get(way[1], way[1])}: "
            f"{done.get(way, 0)} of {count}"
            for way, count in sorted(todo.items(), key=lambda item: done.get(item[0], 0) >= item[1])
        ]
        return _some(told, MOST_LANES_SHOWN, ", ")


def _add_gone(told: Result, going: t.Sequence[Result]) -> None:
    """What the engine was moving when the slice before ended, and had done when this one looked:
    neither is it to do any more, nor did this slice count it."""
    seen = {*parse_slots(told["todo"])}
    seen.update(slot for move in told["moves"] for slot in parse_slots(move["slots"]))
    for move in going:
        slots = parse_slots(move["slots"])
        if seen.isdisjoint(slots):
            told["moves"] = [*told["moves"], move]
            told["slots_moved"] += len(slots)
            told["keys_moved"] += move["key_count"]


def announcement(plan: Plan, seconds: float) -> list[str]:
    """What is going to happen, before it does."""
    size = f", about {amount(plan.bytes)}" if plan.bytes else ""
    first = f"{plan.slots} slots with {plan.keys} keys{size}, are to move; about {span(seconds)}:"
    moves = [
        f"{plan.names.get(move['source'], move['source'])} to "
        f"{plan.names.get(move['target'], move['target'])}: {move['slot_count']} slots "
        f"{_some(move['slots'], MOST_LANES_SHOWN, ' ')}, {move['key_count']} keys, {move['method']}"
        for move in plan.moves[:MOST_MOVES_SHOWN]
    ]
    more = len(plan.moves) - MOST_MOVES_SHOWN
    return [first, *moves, *([f"and {more} more"] if more > 0 else [])]


def _some(texts: t.Sequence[str], most: int, between: str) -> str:
    more = len(texts) - most
    return between.join(texts[:most]) + (f"{between}and {more} more" if more > 0 else "")


def span(seconds: float) -> str:
    """So many seconds, for people."""
    whole = max(1, round(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def amount(size: float) -> str:
    """So many bytes, for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _united(lists: t.Iterable[t.Any]) -> list[t.Any]:
    found: list[t.Any] = []
    for item in (item for told in lists if isinstance(told, list) for item in told):
        if item not in found:
            found.append(item)
    return found


def _restore_limit(result: Result, limit: float) -> None:
    """The result shows the user's own option, not the slice's."""
    args = result.get("invocation", {}).get("module_args")
    if isinstance(args, dict) and "max_seconds" in args:
        args["max_seconds"] = limit
