# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters that aborted moves, failovers and slips of the hand have left out of order.

Each state of STATES is made by plain commands from a healthy cluster whose data is known, so that
it can be seen what a repair has done with it. Run as a program it shows what the engines' own
command line tools do:

    python -m tests.harness.broken [ENGINE ...]
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import redis

from tests.harness import data, engines
from tests.harness.cluster import Cluster
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.views import asking, end_cached_sockets, epoch, me, owner_told_by, wait_until

KEYS = 12
FORGOTTEN = "f" * 40


@dataclass(frozen=True)
class Scene:
    """The owner of some slots that hold keys, two more primaries, and all data as it was."""

    cluster: Cluster
    owner: Node
    taker: Node
    other: Node
    slots: tuple[int, ...]
    before: data.Digest

    @property
    def slot(self) -> int:
        return self.slots[0]

    @property
    def tag(self) -> bytes:
        """Makes a key name of the first slot."""
        return b"{%s}" % data.tag_for_slot(self.slot)


def scene(cluster: Cluster, slots: int = 1) -> Scene:
    """The owner has the lowest epoch of the three, the other the highest: who would win by it."""
    owner, taker, other = sorted(cluster.primaries(), key=epoch)
    owners = cluster.slot_owners()
    chosen = tuple(slot for slot, node in enumerate(owners) if node is owner)[:slots]
    for slot in chosen:
        data.seed_slot(cluster, slot, KEYS)
    owner.call("SET", b"{%s}double" % data.tag_for_slot(chosen[0]), "v")
    return Scene(cluster, owner, taker, other, chosen, data.digest(cluster))


# Telling and asking nodes


def setslot(node: Node, slot: int, *words: str) -> None:
    node.call("CLUSTER", "SETSLOT", slot, *words)


def count(node: Node, slot: int) -> int:
    return int(node.call("CLUSTER", "COUNTKEYSINSLOT", slot))


def edit_nodes_conf(node: Node, edit: Callable[[str], str]) -> None:
    """Stops the node, edits its nodes.conf line by line, and starts it again."""
    node.stop()
    path = node.folder / "nodes.conf"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(map(edit, lines)) + "\n", encoding="utf-8")
    node.spawn()
    node.wait_ready()


# Steps of which the states are made


def give_keys(stage: Scene, giver: Node, holder: Node, keys: int, slot: int | None = None) -> None:
    """Some keys go from a node that owns or imports the slot to one that imports it then."""
    number = stage.slot if slot is None else slot
    setslot(holder, number, "IMPORTING", stage.owner.id)
    if giver is stage.owner:
        setslot(giver, number, "MIGRATING", holder.id)
    found = giver.call("CLUSTER", "GETKEYSINSLOT", number, KEYS + 1)
    names = [name for name in found if not name.endswith(b"}double")][:keys]
    giver.call("MIGRATE", holder.host, holder.port, "", 0, 1000, "KEYS", *names)
    end_cached_sockets(stage.cluster.primaries())


def open_towards(stage: Scene, node: Node, keys: int = 4, slot: int | None = None) -> None:
    """A move to the node that was aborted half-way."""
    give_keys(stage, stage.owner, node, keys, slot)


def lend(stage: Scene, node: Node, keys: int = 4) -> None:
    """Keys on a node that imports the slot, while the owner knows of no move."""
    open_towards(stage, node, keys)
    setslot(stage.owner, stage.slot, "STABLE")


def hide(stage: Scene, node: Node, keys: int = 4) -> None:
    """Keys on a node that does not own the slot and has no marker."""
    lend(stage, node, keys)
    setslot(node, stage.slot, "STABLE")


def uncover(stage: Scene) -> None:
    """The owner lets go of the slot, and keeps its keys."""
    for node in stage.cluster.primaries():
        node.call("CLUSTER", "DELSLOTS", stage.slot)


# The states


def moving(stage: Scene) -> None:
    open_towards(stage, stage.taker)


def moving_with_all_keys_gone(stage: Scene) -> None:
    stage.owner.call("DEL", stage.tag + b"double")
    open_towards(stage, stage.taker, KEYS)
    asking(stage.taker, "SET", stage.tag + b"double", "v")


def migrating_alone(stage: Scene) -> None:
    setslot(stage.owner, stage.slot, "MIGRATING", stage.taker.id)


def migrating_with_hidden_keys(stage: Scene) -> None:
    open_towards(stage, stage.taker)
    setslot(stage.taker, stage.slot, "STABLE")


def importing_alone(stage: Scene) -> None:
    setslot(stage.taker, stage.slot, "IMPORTING", stage.owner.id)


def importing_with_keys(stage: Scene) -> None:
    lend(stage, stage.taker)


def importing_from_a_third_node(stage: Scene) -> None:
    """The marker names another node than the owner. Valkey's taker would take the slot over at the
    next news of that node, which is why it is made last."""
    lend(stage, stage.taker)
    setslot(stage.taker, stage.slot, "IMPORTING", stage.other.id)


def towards_different_nodes(stage: Scene) -> None:
    lend(stage, stage.other)
    setslot(stage.owner, stage.slot, "MIGRATING", stage.taker.id)


def third_node_hides_keys(stage: Scene) -> None:
    hide(stage, stage.other, 3)
    open_towards(stage, stage.taker)


def two_migrating(stage: Scene) -> None:
    """What a death between NODE on the target and NODE on the source leaves on Redis, and then the
    next move begins."""
    setslot(stage.other, stage.slot, "IMPORTING", stage.owner.id)
    setslot(stage.owner, stage.slot, "MIGRATING", stage.other.id)
    names = stage.owner.call("CLUSTER", "GETKEYSINSLOT", stage.slot, KEYS + 1)
    address = (stage.other.host, stage.other.port)
    stage.owner.call("MIGRATE", *address, "", 0, 1000, "KEYS", *names)
    setslot(stage.other, stage.slot, "NODE", stage.other.id)
    told = (stage.owner, stage.taker)
    wait_until(
        lambda: all(owner_told_by(node, stage.slot) == stage.other.id for node in told), "gossip"
    )
    setslot(stage.other, stage.slot, "MIGRATING", stage.taker.id)
    end_cached_sockets(stage.cluster.primaries())


def several_importing(stage: Scene) -> None:
    lend(stage, stage.taker)
    setslot(stage.other, stage.slot, "IMPORTING", stage.owner.id)


def several_importing_with_keys(stage: Scene) -> None:
    lend(stage, stage.taker)
    lend(stage, stage.other, 3)


def migrating_and_several_importing_with_keys(stage: Scene) -> None:
    lend(stage, stage.other, 3)
    open_towards(stage, stage.taker)


def same_on_both_sides(stage: Scene) -> None:
    open_towards(stage, stage.taker)
    asking(stage.taker, "SET", stage.tag + b"double", "v")


def different_on_both_sides(stage: Scene) -> None:
    open_towards(stage, stage.taker)
    asking(stage.taker, "SET", stage.tag + b"double", "w")


def same_beside(stage: Scene) -> None:
    lend(stage, stage.taker)
    asking(stage.taker, "SET", stage.tag + b"double", "v")


def different_beside(stage: Scene) -> None:
    lend(stage, stage.taker)
    asking(stage.taker, "SET", stage.tag + b"double", "w")


def hidden_keys(stage: Scene) -> None:
    hide(stage, stage.taker)


def phantom_after_a_restart(stage: Scene) -> None:
    """The node finds keys of a slot that is another's when it starts, and marks it as importing."""
    hide(stage, stage.taker)
    restart_with_data(stage, stage.taker, lambda line: line)
    assert me(stage.taker).open != ()


def uncovered(stage: Scene) -> None:
    stage.owner.call("FLUSHALL")
    uncover(stage)


def uncovered_with_keys(stage: Scene) -> None:
    uncover(stage)


def uncovered_with_keys_on_two(stage: Scene) -> None:
    hide(stage, stage.taker, 4)
    uncover(stage)


def uncovered_and_importing(stage: Scene) -> None:
    """DELSLOTS clears the mark."""
    lend(stage, stage.taker, KEYS - 1)
    uncover(stage)
    setslot(stage.taker, stage.slot, "IMPORTING", stage.owner.id)


def one_names_another_owner(stage: Scene) -> None:
    """It does not listen, because it imports. (A Valkey node would take the slot over, and the
    owner would delete its keys.)"""
    outbid(stage)
    setslot(stage.taker, stage.slot, "IMPORTING", stage.owner.id)
    setslot(stage.taker, stage.slot, "NODE", stage.other.id)


def two_owners(stage: Scene) -> None:
    """A node with keys takes itself for the owner, and does not listen, because it imports."""
    lend(stage, stage.other)
    victim = stage.owner.id

    def edit(line: str) -> str:
        words = line.split(" ")
        if words[0] == victim:
            return " ".join(filter(None, (_without(word, stage.slot) for word in words)))
        return f"{line} {stage.slot}" if "myself" in line else line

    outbid(stage)
    restart_with_data(stage, stage.other, edit)
    for node in (stage.owner, stage.other):
        assert owner_told_by(node, stage.slot) == node.id


def outbid(stage: Scene) -> None:
    """The owner gets the highest epoch, and the others hear of it: of two equal ones the engine
    could raise the other's, and then the owner would delete its keys."""

    def heard() -> bool:
        stage.owner.call("CLUSTER", "BUMPEPOCH")
        highest = epoch(stage.owner)
        others = (stage.taker, stage.other)
        told = [int(node.info("cluster-state")["cluster_current_epoch"]) for node in others]
        return highest > max(map(epoch, others)) and min(told) >= highest

    wait_until(heard, "the owner's epoch is the highest")


def _without(word: str, slot: int) -> str:
    """A word of nodes.conf without its first slot, if that is the slot."""
    if word.startswith(f"{slot}-"):
        return word.replace(f"{slot}-", f"{slot + 1}-", 1)
    return "" if word == str(slot) else word


def names_a_forgotten_node(stage: Scene) -> None:
    marker = f"[{stage.slot}->-{FORGOTTEN}]"
    restart_with_data(
        stage, stage.owner, lambda line: f"{line} {marker}" if "myself" in line else line
    )
    assert me(stage.owner).open == (marker,)


def left_on_a_replica(stage: Scene) -> None:
    marker = f"[{stage.slot}-<-{stage.owner.id}]"
    copy = next(node for node in stage.cluster.replicas() if follows(node, stage.taker))
    edit_nodes_conf(copy, lambda line: f"{line} {marker}" if "myself" in line else line)
    wait_until(lambda: linked(copy), "its link")
    assert me(copy).open == (marker,)


def follows(node: Node, primary: Node) -> bool:
    return me(node).primary_id == primary.id


def linked(copy: Node) -> bool:
    return copy.info("replication")["master_link_status"] == "up"


def restart_with_data(stage: Scene, node: Node, edit: Callable[[str], str]) -> None:
    """Restarts a primary, which keeps its keys, with an edited nodes.conf."""
    node.call("SAVE")
    edit_nodes_conf(node, edit)
    (node.folder / "dump.rdb").unlink()
    links = [copy for copy in stage.cluster.replicas() if follows(copy, node)]
    wait_until(lambda: all(map(linked, links)), "their links")
    # Until then it says that the cluster is down, and others may still call it back.
    time.sleep(2.5)


# Which there are


def always(_engine: Engine) -> bool:
    return True


def is_redis(engine: Engine) -> bool:
    return engine.family == "redis"


def is_valkey(engine: Engine) -> bool:
    return engine.family == "valkey"


def keeps_keys_in_a_restart(engine: Engine) -> bool:
    """Others delete keys of slots that are not theirs when they start."""
    return is_redis(engine) and engine.release < (8, 4)


@dataclass(frozen=True)
class State:
    """A state, who has it, the node that owns the slot when it is mended (a field of Scene; empty:
    any), the kinds of repairs that it needs, and the options without which it is refused."""

    make: Callable[[Scene], None]
    told: str
    ends_at: str
    kinds: frozenset[str]
    fits: Callable[[Engine], bool] = always
    options: tuple[tuple[str, str], ...] = ()
    refused: str = ""

    @property
    def name(self) -> str:
        return self.make.__name__


ASSIGN = (("on_uncovered", "assign"),)
REPLACE = (("on_busy_key", "replace"),)


def _state(
    make: Callable[[Scene], None], told: str, ends_at: str, kinds: str, **more: Any
) -> State:
    return State(make, told, ends_at, frozenset(kinds.split()), **more)


STATES = (
    _state(moving, "migrating and importing, some keys moved", "taker", "finish"),
    _state(moving_with_all_keys_gone, "the same, all keys moved", "taker", "finish"),
    _state(migrating_alone, "migrating alone, no key moved", "owner", "clear"),
    _state(
        migrating_with_hidden_keys,
        "migrating alone, some keys moved and hidden on the target",
        "taker",
        "finish",
    ),
    _state(importing_alone, "importing alone, no key there", "owner", "clear"),
    _state(importing_with_keys, "importing alone, with keys", "owner", "collect"),
    _state(
        importing_from_a_third_node,
        "importing with keys, from a node that is not the owner",
        "owner",
        "collect",
    ),
    _state(
        towards_different_nodes,
        "migrating to one node, another one imports and has keys",
        "owner",
        "clear collect",
    ),
    _state(
        third_node_hides_keys,
        "migrating and importing, keys hidden on a third node too",
        "taker",
        "finish collect",
    ),
    _state(
        two_migrating,
        "two nodes migrating, one of which has lost the slot",
        "other",
        "clear",
    ),
    _state(
        several_importing,
        "several nodes importing, one of them with keys",
        "owner",
        "clear collect",
    ),
    _state(
        several_importing_with_keys, "several nodes importing, all with keys", "owner", "collect"
    ),
    _state(
        migrating_and_several_importing_with_keys,
        "migrating, and several nodes importing with keys",
        "taker",
        "finish collect",
    ),
    _state(
        same_on_both_sides,
        "migrating and importing, a key on both sides, equal",
        "taker",
        "finish",
    ),
    _state(
        different_on_both_sides,
        "the same, with different values",
        "taker",
        "finish",
        options=REPLACE,
        refused="double",
    ),
    _state(same_beside, "importing alone, a key on both nodes, equal", "owner", "collect"),
    _state(
        different_beside,
        "the same, with different values",
        "owner",
        "collect",
        options=REPLACE,
        refused="double",
    ),
    _state(
        hidden_keys, "keys on a node that does not own their slot, no marker", "owner", "collect"
    ),
    _state(
        phantom_after_a_restart,
        "the same, after a restart of that node",
        "owner",
        "collect",
        fits=keeps_keys_in_a_restart,
    ),
    _state(
        uncovered,
        "served by nobody, no keys",
        "",
        "assign",
        options=ASSIGN,
        refused="on_uncovered",
    ),
    _state(
        uncovered_with_keys,
        "served by nobody, keys on one node",
        "owner",
        "assign",
        options=ASSIGN,
        refused="on_uncovered",
    ),
    _state(
        uncovered_with_keys_on_two,
        "served by nobody, keys on two nodes",
        "owner",
        "assign collect",
        options=ASSIGN,
        refused="on_uncovered",
    ),
    _state(
        uncovered_and_importing,
        "served by nobody, a node that imports it has most of the keys",
        "taker",
        "assign collect",
        options=ASSIGN,
        refused="on_uncovered",
    ),
    _state(
        one_names_another_owner,
        "a node names another owner, and imports",
        "owner",
        "agree clear",
        fits=is_redis,
    ),
    _state(
        two_owners,
        "two nodes take themselves for the owner, both with keys",
        "owner",
        "agree collect",
        fits=is_redis,
    ),
    _state(names_a_forgotten_node, "migrating to a node that nobody else knows", "owner", "clear"),
    _state(left_on_a_replica, "a marker on a replica alone", "owner", "clear", fits=is_valkey),
)


# What the engines' own tools do


def vendor_fix(stage: Scene) -> str:
    """What `redis-cli --cluster fix`, or valkey-cli's, says at its end; `yes` to all questions."""
    node = stage.cluster.members()[0]
    prefix = node.engine.cli or engines.referee()
    assert prefix, f"no command line tool for {node.engine.name}"
    done = subprocess.run(
        [*prefix, "--cluster", "fix", node.address],
        input="yes\n" * 50,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
    said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    bad = [line for line in said if re.search(r"ERR|rror|Sorry|WARNING|\*\*\*", line)]
    return f"exit {done.returncode}: {' / '.join((bad or said)[-3:])}"


def outcome(stage: Scene) -> str:
    """What has become of the cluster and its keys."""
    cluster = stage.cluster
    dead = [node for node in cluster.all_nodes() if not node.running]
    if dead:
        crash = [line for node in dead for line in node.log().splitlines() if "ASSERTION" in line]
        return f"{len(dead)} servers have ended: {' '.join(crash)[:200]}"
    found = [
        f"{node.port} has {' '.join(me(node).open)}"
        for node in cluster.primaries()
        if me(node).open
    ]
    try:
        cluster.wait_healthy(8)
    except AssertionError as error:
        found.append(str(error).splitlines()[-1])
    missing = len(stage.before) - readable(stage)
    found += [f"{missing} of {len(stage.before)} keys can't be read"] if missing else []
    roles = {stage.owner: "owner", stage.taker: "taker", stage.other: "other"}
    held = {roles[node]: count(node, stage.slot) for node in roles if node in cluster.primaries()}
    told = ", ".join(f"{role} {keys}" for role, keys in held.items() if keys)
    owner = next((roles[n] for n in roles if n.id == owner_told_by(stage.owner, stage.slot)), "")
    return f"slot at {owner or 'nobody'}, keys: {told}; {'; '.join(found) or 'in order'}"


def readable(stage: Scene) -> int:
    """How many of the keys a client finds."""
    found = 0
    with stage.cluster.seed_client() as client:
        for name in stage.before:
            with contextlib.suppress(redis.RedisError):
                found += client.exists(name)
    return found


def main(names: Iterable[str]) -> None:
    chosen = list(names)
    words = [word for word in chosen if word not in engines.NAMES]
    for name in [word for word in chosen if word in engines.NAMES] or [
        "redis-7.0",
        "valkey-9.1-tls",
    ]:
        engine = engines.get(name)
        for state in STATES:
            if not state.fits(engine) or (words and state.name not in words):
                continue
            with Cluster.start(engine, 3, 1) as cluster:
                stage = scene(cluster)
                state.make(stage)
                said = vendor_fix(stage)
                print(
                    f"{name} {engine.version} | {state.name} | {said} | {outcome(stage)}",
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1:])
