# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several ways to fill an empty primary, in turn on one cluster, each beside the same client.

One run of a way:

1. the client starts, and the way runs: the window of the run is its whole process, start-up
   included;
2. all slots are brought back, outside of the measurement and without a client;
3. the client alone, for as long as the window was: the idle window, which is subtracted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.histogram import Histogram
from benchmarks.load import Load, Samples
from benchmarks.tools import Ran, Tool
from benchmarks.world import StateError, World

# The client's first operations, and the last answers of a window.
WARM_UP_SECONDS = 0.5
TAIL_SECONDS = 0.3
MAX_ROUNDS = 12


@dataclass(frozen=True)
class Options:
    """What the command line says. Sizes that are None are those of the case."""

    repeats: int = 3
    min_samples: int = 3000
    rate: float = 1000.0
    keys: int | None = None
    nodes: tuple[int, ...] = (10, 30, 100)


@dataclass(frozen=True)
class Way:
    """One row of a table. ours: not the vendor's. most: at most so many runs.

    idle: whether it is worth an idle window and more runs for the sake of samples.
    """

    name: str
    tool: Tool
    ours: bool
    most: int | None = None
    idle: bool = True


@dataclass
class Row:
    """The runs of a way."""

    way: Way
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return sum(
            sum(count for part in run["window"].values() for count in part.values())
            for run in self.runs
        )

    def wants_more(self, options: Options) -> bool:
        """Whether its runs or their samples are too few."""
        done = len(self.runs)
        most = self.way.most or MAX_ROUNDS
        few_samples = self.way.idle and self.samples < options.min_samples
        failed = done and self.runs[-1]["error"]
        return done < min(options.repeats, most) or bool(few_samples and done < most and not failed)

    def stored(self) -> dict[str, Any]:
        """For the JSON file; later runs show in it, too."""
        return {"way": self.way.name, "ours": self.way.ours, "runs": self.runs}


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def compare(world: World, rows: Sequence[Row], options: Options) -> None:
    """Run all ways in turn, there and back again, and add the runs to their rows: what gets faster
    or slower with time is none of theirs."""
    say("  one run that does not count")
    warm_up(world, rows[0].way)
    order = 1
    while todo := [row for row in rows if row.wants_more(options)]:
        for row in todo[::order]:
            figures, spoiled = run(world, row.way, options)
            row.runs.append(figures)
            tell(row)
            if spoiled:
                world.start_again()
        order = -order


def warm_up(world: World, way: Way) -> float:
    """Run it without a client and bring the slots back; its seconds. StateError: it failed."""
    ran = way.tool(world.cluster)
    if ran.error:
        raise StateError(ran.error)
    world.restore()
    return ran.seconds


def run(world: World, way: Way, options: Options) -> tuple[dict[str, Any], bool]:
    """One measured run, and whether it left the cluster in a state that is of no more use."""
    world.settle()
    ran, samples, cpu = _beside_a_client(world, options, lambda: way.tool(world.cluster))
    figures: dict[str, Any] = {
        "seconds": round(ran.seconds, 4),
        "elapsed": ran.elapsed,
        "longest_pause_ms": ran.longest_pause_ms,
        "keys_moved": ran.keys_moved,
        "peak_kb": ran.peak_kb,
        "slots_moved": 0,
        "error": ran.error,
        "server_cpu": [cpu],
        "client": _client(samples, ran),
        "window": {},
        "idle": {},
    }
    try:
        moved = world.moved()
        figures["slots_moved"] = len(moved)
        if not ran.error and len(moved) != world.to_move:
            figures["error"] = f"{len(moved)} slots moved, not {world.to_move}"
        figures["window"] = _split(samples, ran, moved)
        world.restore()
    except StateError as failure:
        figures["error"] = ran.error or str(failure)
        return figures, True
    if way.idle:
        alone, samples, cpu = _beside_a_client(world, options, lambda: _nothing(ran.seconds))
        figures["idle"] = _split(samples, alone, moved)
        figures["server_cpu"].append(cpu)
    return figures, False


def _beside_a_client(
    world: World, options: Options, action: Callable[[], Ran]
) -> tuple[Ran, Samples, float]:
    """What the action gives, what a client saw that ran all the while, and the servers' CPU."""
    with Load(world.load_settings(options.rate)) as load:
        time.sleep(WARM_UP_SECONDS)
        before = world.server_cpu()
        ran = action()
        time.sleep(TAIL_SECONDS)
        cpu = world.server_cpu() - before
        return ran, load.stop(), round(cpu, 3)


def _nothing(seconds: float) -> Ran:
    began = time.monotonic()
    time.sleep(seconds)
    return Ran(began, seconds)


def _client(samples: Samples, ran: Ran) -> dict[str, Any]:
    late = Histogram.of(samples.lateness(ran.began, ran.ended))
    return {
        "errors": dict(samples.errors),
        "redirects": samples.redirects,
        "sent_late_p99_ms": late.percentile("99"),
        "niceness": samples.niceness,
    }


def _split(samples: Samples, ran: Ran, moved: frozenset[int]) -> dict[str, dict[str, int]]:
    """Latencies over slots that the run moved, and over those that stayed."""
    parts: dict[str, list[float]] = {"moving": [], "staying": []}
    for slot, latency in samples.window(ran.began, ran.ended):
        parts["moving" if slot in moved else "staying"].append(latency)
    return {name: Histogram.of(values).stored() for name, values in parts.items()}


def tell(row: Row) -> None:
    last = row.runs[-1]
    own = f", {last['elapsed']:.2f} s by its own account" if last["elapsed"] else ""
    failed = f", FAILED: {last['error']}" if last["error"] else ""
    say(f"  {row.way.name}, run {len(row.runs)}: {last['seconds']:.2f} s{own}{failed}")
