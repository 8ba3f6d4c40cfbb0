# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The progress of long moves, as people see it, and what becomes of a move that runs in slices:
in playbooks, ad hoc, and under ansible-runner, which is what AWX runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import ansible_runner
import pytest

from ansible_collections.keyslot.redis.plugins.module_utils._slots import parse_slots
from tests.harness import data
from tests.harness.ansible import COLLECTIONS, ROOT, SECONDS, environment
from tests.harness.cluster import Cluster
from tests.harness.cutting import run
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.refusal import MIGRATE, login
from tests.harness.views import me, owner_told_by, wait_until

pytestmark = [pytest.mark.system, pytest.mark.stand_for_all("valkey-9.1", "redis-8.6")]

SLOTS, KEYS = 40, 250  # so many keys in each
BIN = Path(sys.executable).parent
MARK = "KEYSLOT_TEST_MARK"
LINE = r"^\[localhost\]{item} redis_slot_migrate: "
# A key at a time, and a line after a tenth of a second: long enough on any machine.
SLOW = {"method": "classic", "progress_interval": 0.1, "batch_size": 1, "max_pause_ms": 0.2}
EVENT_BYTES = 700_000
LINE_OF_EVENT = re.compile(r"\[localhost\] redis_slot_migrate: ")


@pytest.fixture(scope="module")
def shared(engine: Engine) -> Iterator[Cluster]:
    with Cluster.start(engine, 3, 0, slots=["0-8191", "8192-16383", ""]) as made:
        for slot in range(SLOTS):
            data.seed_slot(made, slot, KEYS, seed=slot)
        yield made


@pytest.fixture
def cluster(shared: Cluster) -> Cluster:
    """3 primaries, the third one without slots; slots with keys, all on one node."""
    shared.wait_healthy()
    owners = {node.id for node in shared.slot_owners()[:SLOTS] if node}
    if len(owners) > 1:
        back = {"slots": [f"0-{SLOTS - 1}"], "target": shared.nodes[0].id}
        assert run(MIGRATE, {**login(shared.nodes[2]), **back})["finished"]
        shared.wait_healthy()
    return shared


def other(cluster: Cluster) -> Node:
    """The node to which the slots can go."""
    owner = cluster.slot_owners()[0]
    return next(node for node in cluster.nodes[:2] if node is not owner)


def wish(cluster: Cluster, **more: Any) -> dict[str, Any]:
    fixed = {"slots": [f"0-{SLOTS - 1}"], "target": other(cluster).id}
    where = {name: value for name, value in login(cluster.nodes[2]).items() if value is not None}
    return {**where, **fixed, **SLOW, **more}


def task(options: Mapping[str, Any], **keywords: Any) -> dict[str, Any]:
    return {"name": "Move", "keyslot.redis.redis_slot_migrate": dict(options), **keywords}


class Runs:
    """Processes of Ansible, and all that come of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.results = folder / "results.jsonl"

    def env(self, **more: str) -> dict[str, str]:
        callbacks = ROOT / "tests/harness/callbacks"
        return environment(
            ANSIBLE_CALLBACK_PLUGINS=str(callbacks),
            ANSIBLE_CALLBACKS_ENABLED="keyslot_results",
            KEYSLOT_RESULTS=str(self.results),
            **{MARK: self.mark, **more},
        )

    def playbook(self, *tasks: Mapping[str, Any], **play: Any) -> Path:
        path = self.folder / "play.yml"
        whole = {"hosts": "localhost", "gather_facts": False, **play, "tasks": list(tasks)}
        path.write_text(json.dumps([whole]), encoding="utf-8")
        return path

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(BIN / words[0]), *words[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env(**env),
            start_new_session=True,
        )

    def play(self, *tasks: Mapping[str, Any], words: tuple[str, ...] = ()) -> tuple[str, str]:
        """Output and errors of a play that ends well."""
        process = self.start("ansible-playbook", str(self.playbook(*tasks)), *words)
        output, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, output + errors
        return output, errors

    def told(self) -> list[dict[str, Any]]:
        """The results of the tasks so far."""
        lines = self.results.read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["result"] for line in lines]

    def living(self) -> list[str]:
        """The processes that have come of these, by their command lines."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().decode().replace("\0", " "))
        return found


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    yield made
    wait_until(lambda: made.living() == [], "the end of all processes", SECONDS)


def progress(errors: str, item: str = "") -> list[str]:
    pattern = LINE.replace("{item}", re.escape(item))
    return re.findall(rf"{pattern}(.*)$", errors, re.M)


def assert_told(lines: list[str]) -> None:
    """First what will happen, then how far it is, then that it is done."""
    announced = rf"{SLOTS} slots with {SLOTS * KEYS} keys, about .*B, are to move; about .*:"
    assert re.fullmatch(announced, lines[0]), lines
    assert re.fullmatch(rf"\S+:\d+ \(.*\) to \S+:\d+ \(.*\): {SLOTS} slots .*", lines[1]), lines
    percent = [int(found) for found in re.findall(r"keys \((\d+) %\)", "\n".join(lines))]
    assert percent == sorted(percent)
    assert len(percent) >= 2
    assert ", done in " in lines[-1]
    assert all("keys/s, about" in line for line in lines[2:-1])


def assert_moved(cluster: Cluster, target: Node, result: Mapping[str, Any] | None = None) -> None:
    cluster.wait_healthy()
    assert set(cluster.slot_owners()[:SLOTS]) == {target}
    if result is not None:
        names = ("changed", "finished", "slots_moved", "slots_left", "keys_moved")
        told = [result[name] for name in names]
        assert told == [True, True, SLOTS, 0, SLOTS * KEYS]


# Where people see it


def test_a_playbook_shows_what_will_happen_and_how_far_it_is(cluster: Cluster, runs: Runs) -> None:
    target = other(cluster)
    before = data.digest(cluster)
    output, errors = runs.play(task(wish(cluster)), words=("--diff",))
    assert_told(progress(errors))
    assert "slots with" not in output
    (result,) = runs.told()
    assert_moved(cluster, target, result)
    (move,) = result["moves"]
    assert (move["slots"], move["key_count"]) == ([f"0-{SLOTS - 1}"], SLOTS * KEYS)
    assert result["diff"]["before"] != result["diff"]["after"]
    assert "keyslot_slice" not in json.dumps(result)
    assert data.compare(before, data.digest(cluster)) == []


def test_a_long_repair_shows_it_too(cluster: Cluster, runs: Runs) -> None:
    target, source = other(cluster), cluster.slot_owners()[0]
    assert source is not None
    for slot in range(SLOTS):
        target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    before = data.digest(cluster)
    options = {**login(cluster.nodes[2]), **SLOW}
    wanted = {name: value for name, value in options.items() if value is not None}
    repair = {"name": "Repair", "keyslot.redis.redis_cluster_fix": wanted}
    _output, errors = runs.play(repair, {**repair, "name": "Repair once more"})
    assert len(re.findall(r"redis_cluster_fix: .*keys/s", errors)) >= 2, errors
    first, second = runs.told()
    assert_moved(cluster, target, first)
    # Each slice tells of the slots that it has finished.
    assert {told["kind"] for told in first["repairs"]} == {"finish"}
    finished = [slot for told in first["repairs"] for slot in parse_slots(told["slots"])]
    assert sorted(finished) == list(range(SLOTS))
    assert (second["changed"], second["repairs"]) == (False, [])
    assert data.compare(before, data.digest(cluster)) == []


def test_ad_hoc_shows_it_too(cluster: Cluster, runs: Runs) -> None:
    target = other(cluster)
    words = " ".join(f"{name}={value}" for name, value in wish(cluster, slots="0-39").items())
    process = runs.start(
        "ansible", "localhost", "-m", "keyslot.redis.redis_slot_migrate", "-a", words
    )
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output + errors
    assert_told(progress(errors))
    assert_moved(cluster, target)


@pytest.mark.stand_for_all("redis-6.2")
def test_ad_hoc_by_the_short_name_shows_it_too(cluster: Cluster, runs: Runs) -> None:
    """As the README says: two variables, and the collection installed."""
    target = other(cluster)
    plugins = COLLECTIONS / "ansible_collections/keyslot/redis/plugins"
    places = {
        "ANSIBLE_LIBRARY": str(plugins / "modules"),
        "ANSIBLE_ACTION_PLUGINS": str(plugins / "action"),
    }
    words = " ".join(f"{name}={value}" for name, value in wish(cluster, slots="0-39").items())
    process = runs.start("ansible", "localhost", "-m", MIGRATE, "-a", words, **places)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output + errors
    assert_told(progress(errors))
    assert_moved(cluster, target)


def test_a_rebalance_shows_it_and_counts_its_cap_over_all_slices(
    cluster: Cluster, runs: Runs
) -> None:
    target = other(cluster)
    source = cluster.slot_owners()[0]
    assert source is not None
    owned = cluster.slot_owners().count(source)
    options = {name: v for name, v in wish(cluster).items() if name not in ("slots", "target")}
    options |= {"drain": [source.id], "drain_only": True, "max_slots": SLOTS - 5}
    where = {name: options.pop(name) for name in login(source) if name in options}
    defaults = {"group/keyslot.redis.redis_cluster": where}
    module = {"name": "Drain", "keyslot.redis.redis_cluster_rebalance": options}
    _output, errors = runs.play({**module, "module_defaults": defaults})
    assert f"redis_cluster_rebalance: {SLOTS - 5} slots with " in errors
    (result,) = runs.told()
    assert (result["slots_moved"], result["finished"]) == (SLOTS - 5, False)
    assert result["slots_left"] == owned - SLOTS + 5
    cluster.wait_healthy()
    assert cluster.slot_owners()[:SLOTS].count(target) == SLOTS - 5
    assert cluster.slot_owners().count(source) == owned - SLOTS + 5


# Where nothing is shown


@pytest.mark.stand_for_all("redis-6.2")
def test_it_is_silent_where_it_is_told_to_be(cluster: Cluster, runs: Runs) -> None:
    """With no interval, under no_log, in check mode, and in the background: in one piece."""
    there, back = other(cluster), next(n for n in cluster.nodes[:2] if n is not other(cluster))
    quick = {"batch_size": 100}
    _output, errors = runs.play(
        task(wish(cluster), check_mode=True),
        task(wish(cluster, progress_interval=0, **quick)),
        task(wish(cluster, target=back.id), no_log=True),
        task(wish(cluster, target=there.id), **{"async": 250, "poll": 1}),
    )
    assert progress(errors) == []
    checked, quiet, _unseen, background = runs.told()
    assert (checked["slots_moved"], checked["moves"][0]["slot_count"]) == (0, SLOTS)
    assert quiet["slots_moved"] == SLOTS
    assert background["slots_moved"] == SLOTS
    assert_moved(cluster, there)


@pytest.mark.stand_for_all("redis-6.2")
def test_a_short_move_says_nothing(cluster: Cluster, runs: Runs) -> None:
    target = other(cluster)
    _output, errors = runs.play(task(wish(cluster, batch_size=100, progress_interval=60)))
    assert progress(errors) == []
    assert_moved(cluster, target, runs.told()[0])


@pytest.mark.stand_for_all("redis-6.2")
def test_no_password_misleads_it_or_is_shown(cluster: Cluster, runs: Runs) -> None:
    """Core masks numbers and words that look like one, and the label of an item names none."""
    passwords = ["1", "0", "ok", "redis", "s3cr3t-4711"]
    rules = [f">{password}" for password in passwords]
    for node in cluster.nodes:
        node.call("ACL", "SETUSER", "mover", "reset", "on", *rules, "~*", "&*", "+@all")
    targets = [other(cluster), next(n for n in cluster.nodes[:2] if n is not other(cluster))]
    tasks = []
    for number, password in enumerate(passwords):
        who = {"login_user": "mover", "login_password": "{{ item.secret }}"}
        options = wish(cluster, target=targets[number % 2].id, **who)
        tasks.append(task(options, loop=[{"secret": password, "to": "there"}]))
    _output, errors = runs.play(*tasks)
    assert len(re.findall("are to move", errors)) == len(passwords)
    assert len(re.findall(", done in ", errors)) == len(passwords)
    assert "s3cr3t" not in errors
    assert "(item={'secret': '********', 'to': 'there'})" in errors
    assert_moved(cluster, targets[0])
    for node in cluster.nodes:
        node.call("ACL", "DELUSER", "mover")


# How long, and with whom


def test_the_users_time_counts_over_all_slices(cluster: Cluster, runs: Runs) -> None:
    target = cluster.nodes[2]
    options = wish(cluster, max_seconds=2, slots=["0-16383"], target=target.id)
    _output, errors = runs.play(task(options))
    assert f"16384 slots with {SLOTS * KEYS} keys" in errors
    (result,) = runs.told()
    assert (result["finished"], result["slots_left"] > 0) == (False, True)
    cluster.wait_healthy()
    assert cluster.slot_owners().count(target) == result["slots_moved"]
    assert result["slots_moved"] + result["slots_left"] == 16384
    give_back(cluster)


def gap_of(cluster: Cluster) -> bool:
    """Whether a run is between two slices: a process that keeps its place is seen."""
    return b":keeper" in cluster.nodes[2].call("CLIENT", "LIST")


def test_a_second_run_in_the_gap_between_two_slices_is_refused(
    cluster: Cluster, runs: Runs
) -> None:
    target = other(cluster)
    process = runs.start("ansible-playbook", str(runs.playbook(task(wish(cluster)))))
    wait_until(lambda: gap_of(cluster), "the gap after the planning", SECONDS)
    second = run(MIGRATE, wish(cluster, target=cluster.nodes[2].id))
    assert "another run is at work on this cluster" in second["msg"], second
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output + errors
    assert_moved(cluster, target, runs.told()[0])
    assert not gap_of(cluster)


def test_a_slice_that_finds_a_slot_elsewhere_stops(cluster: Cluster, runs: Runs) -> None:
    """Somebody gives a slot of the plan to a third node while the run is between two slices."""
    source, slot = cluster.slot_owners()[0], SLOTS - 1
    assert source is not None
    process = runs.start("ansible-playbook", str(runs.playbook(task(wish(cluster)))))
    wait_until(lambda: gap_of(cluster), "the gap after the planning", SECONDS)
    steal(cluster, source, cluster.nodes[2], slot)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2, output + errors
    (result,) = runs.told()
    assert f"slots {slot} should go from" in result["msg"]
    assert result["finished"] is False
    assert (result["slots_moved"], result["slots_left"]) == (0, SLOTS)
    assert not gap_of(cluster)


def test_a_slice_that_finds_a_slot_back_where_it_came_from_stops(
    cluster: Cluster, runs: Runs
) -> None:
    """As another run would leave it that began while the controller stood still."""
    source, target = cluster.slot_owners()[0], other(cluster)
    assert source is not None
    process = runs.start("ansible-playbook", str(runs.playbook(task(wish(cluster)))))
    wait_until(lambda: owner_told_by(target, 0) == target.id, "a slice that moves", SECONDS)
    wait_until(lambda: gap_of(cluster), "the gap after a slice", SECONDS)
    steal(cluster, target, source, 0)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 2, output + errors
    (result,) = runs.told()
    assert "slots 0 had moved to" in result["msg"]
    assert "another run has begun in between" in result["msg"]
    assert result["finished"] is False
    assert result["slots_moved"] > 0
    assert not gap_of(cluster)


def steal(cluster: Cluster, source: Node, target: Node, slot: int) -> None:
    """What another tool would do."""
    target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    names = source.call("CLUSTER", "GETKEYSINSLOT", slot, 10000)
    source.call("MIGRATE", target.host, target.port, "", 0, 5000, "KEYS", *names)
    for node in (target, *(n for n in cluster.nodes if n is not target)):
        node.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)


def test_a_job_of_the_engine_goes_on_between_slices(able: Engine, runs: Runs) -> None:
    with Cluster.start(able, 2, 0, slots=["0-16383", ""]) as cluster:
        source, target = cluster.nodes
        for slot in range(SLOTS):
            data.seed_slot(cluster, slot, 50, seed=slot)
        before = data.digest(cluster)
        source.call("CONFIG", "SET", "rdb-key-save-delay", 2000)
        options = {"slots": [f"0-{SLOTS - 1}"], "target": target.id, "method": "atomic"}
        where = {"login_host": source.host, "login_port": source.port, "progress_interval": 0.5}
        _output, errors = runs.play(task({**where, **options}))
        lines = progress(errors)
        assert "0 of 40 slots" in "\n".join(lines)
        assert ", done in " in lines[-1]
        (result,) = runs.told()
        assert (result["slots_moved"], result["keys_moved"]) == (SLOTS, SLOTS * 50)
        assert len(jobs(target if able.family == "redis" else source)) == 1
        cluster.wait_healthy()
        assert data.compare(before, data.digest(cluster)) == []


def jobs(node: Node) -> list[Any]:
    if node.engine.family == "redis":
        return list(node.call("CLUSTER", "MIGRATION", "STATUS", "ALL"))
    return list(node.call("CLUSTER", "GETSLOTMIGRATIONS"))


# Cancelled


@pytest.mark.stand_for_all("redis-6.2")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("when", ["within a slice", "between two"])
def test_a_cancelled_run_ends_within_a_slice(
    cluster: Cluster, runs: Runs, number: signal.Signals, when: str
) -> None:
    options = wish(cluster, slots=["0-16383"], target=cluster.nodes[2].id)
    process = runs.start("ansible-playbook", str(runs.playbook(task(options))))
    wait_until(lambda: gap_of(cluster), "the gap after the planning", SECONDS)
    wait_until(lambda: owns_something(cluster.nodes[2]), "a slice that moves", SECONDS)
    if when == "between two":
        wait_until(lambda: gap_of(cluster), "the gap after a slice", SECONDS)
    process.send_signal(number)
    process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    wait_until(lambda: runs.living() == [], "the end of all processes", SECONDS)
    owners = agreed(cluster)
    time.sleep(2)
    assert agreed(cluster) == owners
    assert 0 < owners.count(cluster.nodes[2]) < len(owners) // 2
    give_back(cluster)


def owns_something(node: Node) -> bool:
    return bool(me(node).slots)


def give_back(cluster: Cluster) -> None:
    """First on to where it was going, which finishes what was left open."""
    on = {"slots": ["0-16383"], "target": cluster.nodes[2].id}
    assert run(MIGRATE, {**login(cluster.nodes[2]), **on})["finished"]
    for slots, home in (("0-8191", cluster.nodes[0]), ("8192-16383", cluster.nodes[1])):
        options = {"slots": [slots], "target": home.id}
        assert run(MIGRATE, {**login(cluster.nodes[2]), **options})["finished"]


def agreed(cluster: Cluster) -> list[Node | None]:
    """Who owns the slots, as soon as all say the same."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return cluster.slot_owners()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


# As AWX does it


def job(runs: Runs, name: str, **more: Any) -> Any:
    """A job of ansible-runner with the playbook of `runs`, ended."""
    folder = runs.folder / name
    folder.mkdir()
    return ansible_runner.run(
        private_data_dir=str(folder),
        playbook=str(runs.folder / "play.yml"),
        inventory="localhost ansible_connection=local",
        envvars=runs.env(PATH=f"{BIN}:{os.environ['PATH']}"),
        quiet=True,
        settings={"pexpect_timeout": 1},
        **more,
    )


@pytest.mark.stand_for_all("redis-6.2")
def test_a_job_has_events_as_it_goes_and_a_cancelled_one_is_finished_by_the_next(
    cluster: Cluster, runs: Runs
) -> None:
    move = wish(cluster, slots=["0-16383"], target=cluster.nodes[2].id)
    runs.playbook(task(move))
    seen: list[dict[str, Any]] = []

    def cancel() -> bool:
        """In the midst of a slice that moves slots."""
        return any(" slots, " in event["stdout"] for event in seen) and not gap_of(cluster)

    cancelled = job(runs, "first", cancel_callback=cancel, event_handler=seen.append)
    assert cancelled.status == "canceled", cancelled.stdout.read()
    wait_until(lambda: runs.living() == [], "the end of all processes", SECONDS)
    owners = agreed(cluster)
    time.sleep(2)
    assert agreed(cluster) == owners
    assert 0 < owners.count(cluster.nodes[2]) < 16384
    second = job(runs, "second")
    assert second.status == "successful"
    events = list(second.events)
    assert max(len(json.dumps(event)) for event in events) < EVENT_BYTES / 10
    shown = [event for event in events if LINE_OF_EVENT.search(event["stdout"])]
    assert len(shown) >= 3
    assert {event["event"] for event in shown} == {"verbose"}
    times = [datetime.fromisoformat(event["created"]) for event in shown]
    assert times == sorted(times)
    assert (times[-1] - times[0]).total_seconds() > 0.5
    cluster.wait_healthy()
    assert set(cluster.slot_owners()) == {cluster.nodes[2]}
    give_back(cluster)
