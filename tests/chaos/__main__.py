# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Round after round of faults, and a table of what came of them.

    python -m tests.chaos --engines redis-7.0 valkey-9.1 --seconds 300 --seed 1 --baseline

Without names the engines are those of KEYSLOT_ENGINES, as for the tests.
Exit code 1: a write was lost beyond what the same fault loses without us, a slot was left open, or
something else was damaged. The seed decides what happens in which order; when exactly a process
gets the processor is not ours to say.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.chaos import tally
from tests.chaos.faults import BY_NAME, FAULTS, Fault
from tests.chaos.rounds import Round, World, play
from tests.harness import engines

KINDS = ("migrate", "rebalance")
LONGEST_MOMENT = 1.6


def deck(
    rng: random.Random, faults: Sequence[Fault], ways: Sequence[str]
) -> Iterator[tuple[Fault, str, str]]:
    """Every fault in every way, shuffled, for ever; faults that need a replica where there is
    one."""
    while True:
        cards = [(fault, way) for fault in faults for way in ways]
        rng.shuffle(cards)
        for fault, way in cards:
            yield fault, way, "migrate" if fault.heirs else rng.choice(KINDS)


def run_engine(
    name: str, seconds: float, seed: int, faults: Sequence[Fault], baseline: bool
) -> Iterator[Round]:
    """Rounds on one engine until the time is up; `baseline`: faults that lose also without us."""
    engine = engines.get(name)
    ways = ("classic", "atomic") if engine.atomic else ("classic",)
    rng = random.Random(f"{name} {seed}")
    world = World(engine)
    number = 0
    deadline = time.monotonic() + seconds
    try:
        for fault, way, kind in deck(rng, faults, ways):
            moment = rng.uniform(0.05, LONGEST_MOMENT)
            inner = rng.randrange(10**6)
            for move in (True, False) if baseline and fault.loses else (True,):
                done = play(world, fault, way, kind, moment, random.Random(inner), move)
                number += 1
                print(tally.line(number, done), flush=True)
                yield done
            if time.monotonic() > deadline:
                return
    finally:
        world.close()


def chosen() -> list[str]:
    """KEYSLOT_ENGINES: names, or `all`, or `auto`, which is the embedded ones."""
    words = os.environ.get("KEYSLOT_ENGINES", "").split() or ["auto"]
    lists = {"all": engines.NAMES, "auto": engines.EMBEDDED}
    return [name for word in words for name in lists.get(word, (word,))]


def main(words: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--engines", nargs="+", choices=engines.NAMES)
    parser.add_argument("--seconds", type=float, default=300, help="for each engine")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", help="names, separated by ';' (default: all)")
    parser.add_argument("--baseline", action="store_true", help="the same faults without us, too")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(words)
    faults = [BY_NAME[name] for name in given.faults.split(";")] if given.faults else FAULTS
    rounds: list[Round] = []
    for name in given.engines or chosen():
        for done in run_engine(name, given.seconds, given.seed, faults, given.baseline):
            rounds.append(done)
            if given.json:
                given.json.parent.mkdir(parents=True, exist_ok=True)
                told = [asdict(item) for item in rounds]
                given.json.write_text(json.dumps(told, indent=1) + "\n")
    print(tally.table(rounds))
    wrong = tally.wrongs(rounds)
    print("\n".join(["", *wrong]) if wrong else "\nNothing was lost, and nothing left open.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
