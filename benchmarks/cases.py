# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be measured: a function a case; it adds its parts, as they go into the JSON file.

A part is added before its runs, so that a case that is interrupted leaves what it has measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from ansible_collections.keyslot.redis.plugins.module_utils._plan import BalanceGoal
from ansible_collections.keyslot.redis.plugins.module_utils._topology import parse_view
from benchmarks import joining, tools
from benchmarks.compare import Options, Row, Way, compare, say, warm_up
from benchmarks.world import Setup, StateError, World, to_ranges
from tests.harness.ansible import COLLECTIONS
from tests.harness.cluster import SLOTS, range_text

Part = dict[str, Any]

KEYS = 600_000
FRONTIER_KEYS = 300_000
MEMORY_KEYS = 5_000_000
# "As by default" is said by leaving the option out, and this is what it is then.
DEFAULT_PAUSE_MS = 10
PIPELINES = (10, 100, 1000)
PAUSES_MS = (1, 2, 5, 10, 20, 50)
# The tools' default way takes some 20 s on engines with an atomic one.
SLOW_RUNS = 2
# The engine of the vendor's tool that can be told to migrate atomically.
VALKEY, REDIS = "valkey-9.1-tls", "redis-8.6"
PLAN_NODES = 1000
# So many keys, moved so gently, take about a minute.
PROGRESS_KEYS, SLOW_PAUSE_MS = 8_000_000, 0.5


@dataclass(frozen=True)
class Case:
    """A case: what `--list` says of it, and what it does."""

    about: str
    run: Callable[[Options, list[Part]], None]


# Ways


def _ours(method: str, pause_ms: int = DEFAULT_PAUSE_MS) -> Way:
    chosen = {} if pause_ms == DEFAULT_PAUSE_MS else {"max_pause_ms": pause_ms}
    name = f"ours, max_pause_ms {pause_ms}"
    if method == "auto":
        return Way("ours (auto: atomic)", tools.rebalance(**chosen), True)
    return Way(name, tools.rebalance(method=method, **chosen), True)


def _playbook(**variables: Any) -> Way:
    name = "ours, by ansible-playbook"
    return Way(name, tools.rebalance_playbook(**variables), True, most=3, idle=False)


def _vendor(world: World, pipeline: int = PIPELINES[0], suffix: str = "", **how: Any) -> Way:
    name = tools.vendor_name(world.engine.family)
    flags = () if pipeline == PIPELINES[0] else ("--cluster-pipeline", str(pipeline))
    label = f"{name}, pipeline {pipeline}{suffix or ('' if flags else ' (default)')}"
    return Way(label, tools.vendor_rebalance(*flags), False, **how)


def _best_vendor(world: World, notes: list[str]) -> list[Way]:
    """The vendor's tool as by default and, if it is another one, with its best pipeline."""
    seconds = {}
    for pipeline in PIPELINES:
        seconds[pipeline] = warm_up(world, _vendor(world, pipeline))
        say(f"  to find the best pipeline: {pipeline}: {seconds[pipeline]:.2f} s")
    best = min(seconds, key=lambda pipeline: seconds[pipeline])
    told = ", ".join(f"{pipeline}: {value:.2f} s" for pipeline, value in seconds.items())
    notes.append(
        f"One run with each --cluster-pipeline, without a client, to find the best: {told}."
    )
    default = _vendor(world)
    return [default] if best == PIPELINES[0] else [default, _vendor(world, best, " (its best)")]


# Comparisons


def _comparison(
    parts: list[Part],
    title: str,
    setup: Setup,
    options: Options,
    make_ways: Callable[[World, list[str]], Sequence[Way]],
    limits_ms: Sequence[int] = (DEFAULT_PAUSE_MS,),
) -> None:
    """All ways on one cluster; make_ways may add notes."""
    setup = setup if options.keys is None or not setup.keys else replace(setup, keys=options.keys)
    notes: list[str] = []
    say(f"{title}: starting {setup.engine} with {setup.keys:,} keys")
    with World(setup) as world:
        ways = make_ways(world, notes)
        notes += [
            f"{way.name}: at most {way.most} runs, since it is slow."
            for way in ways
            if way.idle and way.most and way.most < options.repeats
        ]
        rows = [Row(way) for way in ways]
        parts.append(
            {
                "title": title,
                "engine": f"{world.engine.family.capitalize()} {world.engine.version}",
                "setup": asdict(setup),
                "limits_ms": list(limits_ms),
                "notes": notes,
                "rows": [row.stored() for row in rows],
            }
        )
        compare(world, rows, options)


def _classic_ways(world: World, notes: list[str]) -> list[Way]:
    return [
        _ours("classic"),
        _ours("classic", 2),
        *_best_vendor(world, notes),
        _playbook(keyslot_method="classic"),
    ]


def _classic_case(options: Options, parts: list[Part], replicas: int) -> None:
    setup = Setup("redis-7.0", KEYS, replicas=replicas)
    title = "Classic, with a replica each" if replicas else "Classic"
    _comparison(parts, title, setup, options, _classic_ways, (2, DEFAULT_PAUSE_MS))


def classic(options: Options, parts: list[Part]) -> None:
    _classic_case(options, parts, 0)


def classic_replicas(options: Options, parts: list[Part]) -> None:
    _classic_case(options, parts, 1)


def empty(options: Options, parts: list[Part]) -> None:
    def ways(world: World, _notes: list[str]) -> list[Way]:
        return [_ours("classic"), _vendor(world)]

    _comparison(parts, "Empty slots", Setup("redis-7.0", 0), options, ways)


def atomic(options: Options, parts: list[Part]) -> None:
    def ways(world: World, _notes: list[str]) -> list[Way]:
        slow = replace(_ours("classic"), name="ours (classic)", most=SLOW_RUNS)
        found = [_ours("auto"), _vendor(world, most=SLOW_RUNS), slow, _playbook()]
        if world.engine.family == "valkey":
            tool = tools.vendor_rebalance("--cluster-use-atomic-slot-migration")
            found.insert(2, Way("valkey-cli, atomic", tool, False))
        return found

    for name, engine in (("Valkey", VALKEY), ("Redis", REDIS)):
        _comparison(parts, f"Atomic, {name}", Setup(engine, KEYS), options, ways)


def values(options: Options, parts: list[Part]) -> None:
    def ways(world: World, _notes: list[str]) -> list[Way]:
        return [_ours("classic"), _vendor(world), _vendor(world, 100)]

    strings = Setup("redis-7.0", 30_000, value_bytes=10_000)
    hashes = Setup("redis-7.0", 6_000, value_bytes=20, fields=1000)
    _comparison(parts, "Strings of 10 KB", strings, options, ways)
    _comparison(parts, "Hashes of 1,000 fields", hashes, options, ways)


def frontier(options: Options, parts: list[Part]) -> None:
    def ways(world: World, _notes: list[str]) -> list[Way]:
        found = [_ours("classic", pause_ms) for pause_ms in PAUSES_MS]
        return found + [_vendor(world, pipeline) for pipeline in PIPELINES]

    _comparison(parts, "Frontier", Setup("redis-7.0", FRONTIER_KEYS), options, ways)


def progress(options: Options, parts: list[Part]) -> None:
    def ways(world: World, _notes: list[str]) -> list[Way]:
        slow = {"keyslot_method": "classic", "keyslot_max_pause_ms": SLOW_PAUSE_MS}
        return [
            replace(_playbook(**slow, keyslot_progress_interval=seconds), name=name, most=None)
            for name, seconds in (("a line every 5 s", 5), ("no progress shown", 0))
        ]

    _comparison(parts, "Progress", Setup("redis-7.0", PROGRESS_KEYS), options, ways)


# Tables of their own


def _table(
    title: str, engine: str, columns: Sequence[str], lines: Sequence[Sequence[Any]], **more: Any
) -> Part:
    return {
        "title": title,
        "engine": engine,
        "columns": list(columns),
        "lines": [list(line) for line in lines],
        "notes": [],
        **more,
    }


def idle(options: Options, parts: list[Part]) -> None:
    with World(Setup("valkey-9.1", 0)) as world:
        entry = world.cluster.nodes[0]
        words = f"login_host={entry.host} login_port={entry.port}"
        commands = {
            "ansible -m ping": ["-m", "ansible.builtin.ping"],
            "ansible -m redis_cluster_rebalance": [
                *("-m", "keyslot.redis.redis_cluster_rebalance", "-a", words)
            ],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for repeat in range(options.repeats + 1):
            for name, arguments in commands.items():
                took = _ansible_seconds(arguments)
                say(f"  {name}: {took:.2f} s{'' if repeat else ', which does not count'}")
                seconds[name] += [took] if repeat else []
    ping = median(seconds["ansible -m ping"])
    lines = [
        [name, len(took), median(took), min(took), max(took), median(took) / ping]
        for name, took in seconds.items()
    ]
    columns = ["command", "runs", "median, s", "least, s", "most, s", "times as long"]
    engine = f"Valkey {world.engine.version}"
    parts.append(_table("Nothing to do", engine, columns, lines, raw=seconds))


def _ansible_seconds(arguments: Sequence[str]) -> float:
    """One `ansible localhost`, as a user runs it: no settings but where the collection is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    command = [str(Path(sys.executable).with_name("ansible")), "localhost", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=folder,
            env={**kept, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return seconds


def plan(options: Options, parts: list[Part]) -> None:
    names = [f"{number:040x}" for number in range(PLAN_NODES + 1)]
    owners = [names[slot * PLAN_NODES // SLOTS] for slot in range(SLOTS)]
    old, new = names[:-1], names[-1]
    joins = BalanceGoal(dict.fromkeys(names, 1.0))
    leaves = BalanceGoal(dict.fromkeys(old[1:], 1.0), frozenset(old[:1]), drain_only=True)
    skewed = BalanceGoal({name: 1.0 + number % 7 for number, name in enumerate(old)})
    told = _nodes_text(old, owners)
    jobs: dict[str, Callable[[], object]] = {
        f"{new[-3:]} joins {PLAN_NODES:,} nodes": lambda: joins.moves(owners),
        f"one of {PLAN_NODES:,} nodes is drained": lambda: leaves.moves(owners),
        f"{PLAN_NODES:,} nodes get seven different weights": lambda: skewed.moves(owners),
        f"CLUSTER NODES of {PLAN_NODES:,} nodes, one answer read": lambda: parse_view(told).owners,
    }
    lines = []
    for name, job in jobs.items():
        seconds = []
        for _repeat in range(options.repeats):
            began = time.monotonic()
            job()
            seconds.append(time.monotonic() - began)
        lines.append([name, len(seconds), median(seconds), min(seconds), max(seconds)])
        say(f"  {name}: {median(seconds):.3f} s")
    columns = ["task", "runs", "median, s", "least, s", "most, s"]
    parts.append(_table("Planning", "no server", columns, lines))


def _nodes_text(names: Sequence[str], owners: Sequence[str]) -> str:
    held: dict[str, list[int]] = {name: [] for name in names}
    for slot, name in enumerate(owners):
        held[name].append(slot)
    lines = []
    for number, (name, slots) in enumerate(held.items()):
        flags = "myself,master" if number == 0 else "master"
        address = f"10.0.{number // 250}.{number % 250}:6379@16379"
        ranges = " ".join(range_text(to_ranges(slots)))
        lines.append(f"{name} {address} {flags} - 0 0 {number} connected {ranges}")
    return "\n".join(lines)


def memory(options: Options, parts: list[Part]) -> None:
    large = options.keys or MEMORY_KEYS
    peaks: dict[tuple[str, int], float] = {}
    raw = []
    with World(Setup("valkey-9.1", 0, value_bytes=32)) as world:
        for keys in (large // 10, large):
            say(f"  writing {keys:,} keys")
            world.seed(keys)
            for method in ("atomic", "classic"):
                ran = tools.rebalance(method=method)(world.cluster)
                say(f"  {method}: {ran.seconds:.2f} s, {(ran.peak_kb or 0) / 1024:.1f} MiB")
                if ran.error:
                    raise StateError(ran.error)
                peaks[method, keys] = (ran.peak_kb or 0) / 1024
                raw.append({"method": method, "keys": keys, **asdict(ran)})
                world.restore()
    lines = [
        [method, peaks[method, large // 10], peaks[method, large]]
        for method in ("atomic", "classic")
    ]
    columns = ["method", f"MiB at {large // 10:,} keys", f"MiB at {large:,} keys"]
    engine = f"Valkey {world.engine.version}"
    parts.append(_table("Most memory of the module", engine, columns, lines, raw=raw))


def nodes(options: Options, parts: list[Part]) -> None:
    for count in options.nodes:
        parts.append(_table("A node joins and leaves", *joining.measure(VALKEY, count, options)))


CASES = {
    "classic": Case("SETSLOT and MIGRATE, Redis 7.0", classic),
    "classic-replicas": Case("the same with a replica each", classic_replicas),
    "empty": Case("slots without keys, Redis 7.0", empty),
    "atomic": Case("the engines' own migration, Valkey 9.1 and Redis 8.6", atomic),
    "values": Case("long strings and hashes, Redis 7.0", values),
    "progress": Case("a move of a minute, with its progress shown and without", progress),
    "idle": Case("nothing to do, against ansible -m ping", idle),
    "plan": Case("planning for 1,000 nodes, no server", plan),
    "memory": Case("memory of the module, few keys and many", memory),
    "nodes": Case("a node joins and leaves 10, 30 and 100 others", nodes),
    "frontier": Case("time against p99 for several max_pause_ms, Redis 7.0", frontier),
}
