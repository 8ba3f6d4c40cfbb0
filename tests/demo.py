# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node joins and leaves a running cluster while a client works on it; then everything is checked.

    python -m tests.demo [--keys N]

Exit code 0: all was as promised. 1: something was not, and is named. 130: interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import shlex
import signal
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness import engines, processes
from tests.harness.ansible import NAMESPACE, Play, run_playbook
from tests.harness.clients import LiveClients
from tests.harness.cluster import SLOTS, Cluster, count_slots, parse_ranges, range_text
from tests.harness.data import Digest, compare, digest, seed
from tests.harness.node import Node

ENGINE = "valkey-9.1"
PRIMARIES = 3
KEYS = 100_000
CLIENT_KEYS = 1000
CLIENT_RATE = 300
# As redis-py has them by default. Needed where a client with an old map asks a server that has
# just been removed: the answer is CLUSTERDOWN, and the client fetches a new map.
CLIENT_RETRIES = 3
# The servers write their map to disk at each change of owner; here it may stay in memory.
IN_MEMORY = "/dev/shm"
WIDTH = 79
CELLS = 32
PLAN_TASKS = {
    "add_node": "Give the new primaries their share of the slots",
    "remove_node": "Move the slots of the nodes to other primaries",
}


@dataclass
class Story:
    """What is printed, and what turned out not to be as promised."""

    cluster: Cluster
    clients: LiveClients
    names: dict[Node, str]
    broken: list[str] = field(default_factory=list)

    def expect(self, truth: object, complaint: str) -> None:
        """Note and print the complaint unless it is true."""
        if not truth:
            self.broken.append(complaint)
            say(f"NOT AS PROMISED: {complaint}", style="31")


# Printing


def say(text: str = "", indent: str = "  ", style: str = "") -> None:
    """Print wrapped text; `style` is an ANSI colour for a terminal that wants it."""
    text = textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
    if style and sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        text = f"\033[{style}m{text}\033[0m"
    print(text, flush=True)


def heading(text: str) -> None:
    say()
    say(text, indent="", style="1")


def command(name: str, variables: Mapping[str, str], *words: str) -> None:
    """Print what a user would type, a few words to a line."""
    parts = [f"ansible-playbook {NAMESPACE}.{name}"]
    parts += [f"-e {shlex.quote(f'{key}={value}')}" for key, value in variables.items()]
    say()
    print("  $ " + " \\\n      ".join([*parts, *words]))
    say()


def draw_map(cluster: Cluster, names: Mapping[Node, str]) -> dict[Node, int]:
    """Print who owns what, a line a node; the number of slots of each."""
    owned: dict[Node, list[str]] = {
        cluster.node(node_id): ranges for node_id, ranges in cluster.ownership().items()
    }
    members = cluster.primaries()
    edge = SLOTS // CELLS
    for node, name in names.items():
        if node not in members:
            print(f"  {name} {node.address:<15} {'not in the cluster':>{CELLS // 2 + 10}}")
            continue
        pairs = parse_ranges(owned.get(node, []))
        part = ""
        for cell in range(CELLS):
            low, high = cell * edge, (cell + 1) * edge - 1
            mine = (min(last, high) - max(first, low) + 1 for first, last in pairs)
            part += "#" if sum(max(0, count) for count in mine) * 2 > edge else "."
        keys = int(node.call("DBSIZE"))
        print(f"  {name} {node.address:<15} {part} {count_slots(pairs):>6,} slots {keys:>7,} keys")
    sys.stdout.flush()
    return {node: count_slots(parse_ranges(ranges)) for node, ranges in owned.items()}


# The playbooks


def moves_of(play: Play, name: str) -> dict[str, Any]:
    """The result of the task that moves slots; empty if it did not run."""
    return next((result for task, result in play.results if task.endswith(PLAN_TASKS[name])), {})


def tell_plan(story: Story, moved: Mapping[str, Any]) -> None:
    by_id = {node.id: name for node, name in story.names.items()}
    moves = sorted(moved.get("moves", ()), key=lambda move: (by_id[move["source"]], move["slots"]))
    ways = ", ".join(
        f"{move['slot_count']:,} from {by_id[move['source']]} to {by_id[move['target']]}"
        for move in moves
    )
    slots = sum(move["slot_count"] for move in moves)
    keys = sum(move["key_count"] for move in moves)
    say(f"Plan: {slots:,} slots with {keys:,} keys are to move: {ways}.")


def run(story: Story, name: str, variables: Mapping[str, str]) -> None:
    """The plan, then the run."""
    command(name, variables, "--check")
    before = story.cluster.ownership()
    planned = play_of(story, name, variables, "--check")
    plan = moves_of(planned, name)
    tell_plan(story, plan)
    story.expect(story.cluster.ownership() == before, "--check changed the owners of slots")

    command(name, variables)
    began = time.monotonic()
    done = play_of(story, name, variables)
    seconds = time.monotonic() - began
    moved = moves_of(done, name)
    say(
        f"Moved {moved.get('slots_moved', 0):,} slots with {moved.get('keys_moved', 0):,} keys "
        f"in {moved.get('elapsed', 0):.1f} s. The whole playbook took {seconds:.1f} s."
    )
    as_planned = routes(moved) == routes(plan)
    story.expect(as_planned and moved.get("slots_left") == 0, "the moves were not those planned")
    say()


def run_again(story: Story, name: str, variables: Mapping[str, str]) -> None:
    """A second run, which has nothing left to do."""
    began = time.monotonic()
    again = play_of(story, name, variables)
    story.expect(not again.changed, "the second run changed something")
    if not again.changed:
        say(f"The same run again: changed nothing, {time.monotonic() - began:.1f} s.")


def play_of(story: Story, name: str, variables: Mapping[str, str], *words: str) -> Play:
    """One run of a playbook; its output is shown if it failed."""
    play = run_playbook(name, variables, *words)
    if play.code:
        print(play.output)
    story.expect(play.code == 0, f"{name} {' '.join(words)} ended with exit code {play.code}")
    return play


def routes(moved: Mapping[str, Any]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Source, target and slots of each move, in order."""
    return sorted(
        (
            move["source"],
            move["target"],
            tuple(range_text(tuple(sorted(parse_ranges(move["slots"]))))),
        )
        for move in moved.get("moves", ())
    )


# The parts of the story


def introduce(cluster: Cluster, keys: int) -> Digest:
    """Write the data; what it was."""
    began = time.monotonic()
    seed(cluster, keys)
    noted = digest(cluster)
    kinds = sorted({kind.partition(":")[0] for kind, _expiry in noted.values()})
    lasting = sum(expiry < 0 for _kind, expiry in noted.values())
    tagged = sum(re.search(rb"\{[^}]+\}", name) is not None for name in noted)
    binary = sum(not name.isascii() for name in noted)
    say(
        f"{len(noted):,} keys written and read back in {time.monotonic() - began:.1f} s: "
        f"{', '.join(kinds)}; {len(noted) - lasting:,} of them with an expiry, {tagged:,} with a "
        f"hash tag, {binary:,} with a binary name. A hash of each value is kept for the end."
    )
    return noted


def prove(story: Story, noted: Digest) -> None:
    """Compare everything with what was promised."""
    clients = story.clients
    waits = sorted(clients.latencies)
    errors = sum(clients.errors.values())
    lost = clients.lost()
    now = digest(story.cluster)
    own = {name: found for name, found in now.items() if b"}live:" not in name}
    differences = compare(noted, own)

    say(f"Client:  {clients.operations:,} operations, {errors:,} errors.")
    if waits:
        say(
            f"Waits:   longest {waits[-1] * 1000:.0f} ms, "
            f"99 of 100 below {waits[len(waits) * 99 // 100] * 1000:.1f} ms."
        )
    say(f"Writes:  {clients.writes:,} acknowledged writes verified, {len(lost):,} lost.")
    say(
        f"Keys:    {len(noted):,} verified by type, value and expiry, "
        f"{len(differences):,} differences."
    )
    story.expect(waits, "the client did nothing")
    for text, count in clients.errors.most_common(5):
        story.expect(False, f"the client saw {count} times: {text}")
    for what, found in (("lost write", lost), ("digest", differences)):
        for text in found[:5]:
            story.expect(False, f"{what}: {text}")
    healthy = story.cluster.problems()
    for text in healthy[:5]:
        story.expect(False, f"cluster: {text}")
    if not healthy:
        say("Cluster: all nodes agree, every slot is served, no slot is left open.")


def tell(keys: int) -> int:
    """The whole story; the exit code."""
    say("keyslot.redis: a node joins a running cluster, and leaves it again", "", "1")
    say()
    say(
        f"Each key of a Redis or Valkey cluster belongs to one of {SLOTS:,} slots, and each slot "
        "belongs to one server, a primary; to grow or shrink the cluster means to move slots, "
        "with the keys in them, while clients use them.",
        indent="",
    )
    heading("Set-up")
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        engine = engines.get(ENGINE)
        cluster = stack.enter_context(Cluster.start(engine, PRIMARIES, 0, spare=1))
        say(
            f"{engine.family.capitalize()} {engine.version}: {PRIMARIES} primaries and an empty "
            f"server, started in {time.monotonic() - began:.1f} s, files in {cluster.root.parent}."
        )
        noted = introduce(cluster, keys)
        clients = LiveClients(cluster, rate=CLIENT_RATE, keys=CLIENT_KEYS, retries=CLIENT_RETRIES)
        stack.enter_context(clients)
        say(
            f"A client now reads and writes {CLIENT_KEYS:,} keys of its own, in all parts of the "
            "cluster, until the end."
        )
        names = dict(zip([*cluster.nodes, *cluster.spares], "ABCDEFGH"))
        story = Story(cluster, clients, names)
        seconds = perform(story)

        heading("Proof")
        clients.stop()
        prove(story, noted)
        say()
        if story.broken:
            say(f"Not everything was as promised: {len(story.broken)} complaints above.", "", "31")
            return 1
        say(f"Everything was as promised. It took {seconds:.0f} s after the set-up.", "", "32")
    return 0


def perform(story: Story) -> float:
    """A node joins and leaves; the seconds it took."""
    began = time.monotonic()
    cluster, spare = story.cluster, story.cluster.spares[0]
    entry = cluster.nodes[0]
    login = {"keyslot_login_host": entry.host, "keyslot_login_port": str(entry.port)}
    name = story.names[spare]
    say()
    before = draw_map(cluster, story.names)
    heading(f"Server {name} joins: first what would be done, then the run itself")
    joining = {**login, "add_node_nodes": spare.address}
    run(story, "add_node", joining)
    between = draw_map(cluster, story.names)
    say()
    run_again(story, "add_node", joining)
    story.expect(is_even(between, len(before) + 1), "the slots are not shared out evenly")
    heading(f"Server {name} leaves")
    run(story, "remove_node", {**login, "remove_node_nodes": spare.address})
    after = draw_map(cluster, story.names)
    story.expect(is_even(after, len(before)), "the slots are not shared out evenly")
    story.expect(spare not in cluster.members(), f"{name} is still a member")
    return time.monotonic() - began


def is_even(counts: Mapping[Node, int], nodes: int) -> bool:
    """Whether so many nodes own all slots in shares that differ by one at most."""
    shares = counts.values()
    return len(counts) == nodes and sum(shares) == SLOTS and max(shares) - min(shares) <= 1


# Leaving nothing behind


@contextlib.contextmanager
def no_orphans() -> Iterator[None]:
    """Whatever was started within it and has lost its parent is ended, too.

    A module outlives the ansible-playbook that is interrupted. PR_SET_CHILD_SUBREAPER (36) gives
    such processes to us.
    """
    ctypes.CDLL(None).prctl(36, 1)
    try:
        yield
    finally:
        while children := _children():
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def _children() -> list[int]:
    texts = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            texts.append(path.read_text(encoding="ascii"))
    return [int(word) for word in " ".join(texts).split()]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo")
    parser.add_argument("--keys", type=int, default=KEYS, help=f"default {KEYS}")
    options = parser.parse_args(arguments)
    # A shell starts what it puts into the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if os.access(IN_MEMORY, os.W_OK):
        os.environ.setdefault(processes.FOLDERS_VARIABLE, IN_MEMORY)
    try:
        with no_orphans():
            return tell(options.keys)
    except KeyboardInterrupt:
        say()
        say("Interrupted. All servers have been ended.", "")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
