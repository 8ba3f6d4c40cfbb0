# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The password is in no output, result, diff, log or process list, whatever it looks like.

Each password holds a mark that stands nowhere else, so that a part of it or an escaped form is
found too. Passwords such as `1` can't be searched for: there it counts that runs go well.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness import data
from tests.harness.ansible import ROOT, environment, run_playbook
from tests.harness.cluster import Cluster
from tests.harness.cutting import run_module
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.refusal import FORGET, INFO, MEET, MIGRATE, REBALANCE, REPLICATE

pytestmark = [
    pytest.mark.system,
    pytest.mark.stand_for_all("redis-6.2", "redis-7.0", "valkey-9.1", "redis-8.6"),
]

MARK = "Zq4711xK"
PASSWORDS = {
    "plain": f"{MARK}",
    "awkward": f'it\'s "{MARK}" {{{{ x }}}} $HOME \\n пароль-é€{MARK}ß',
}
SHORT = ["1", "0", "ok", "redis", "true", "slots"]
USER = "mover"
# Runs a module whose calls of syslog go to a file.
SYSLOG = """
import runpy, sys, syslog
from ansible.module_utils import basic
basic.has_journal = False
log = open(sys.argv[1], "a", encoding="utf-8")
syslog.syslog = lambda *words: print(*words, file=log, flush=True)
module = sys.argv.pop()
sys.argv = [module]
runpy.run_path(module, run_name="__main__")
"""
PLAY = """
- name: Everything, with a password
  hosts: localhost
  gather_facts: false
  vars_files:
    - secret.yml
  module_defaults:
    group/keyslot.redis.redis_cluster:
      login_host: 127.0.0.1
      login_port: "{{ port }}"
      login_user: "{{ user }}"
      login_password: "{{ secret }}"
  tasks:
    - name: Look
      keyslot.redis.redis_cluster_info:
    - name: Move there
      keyslot.redis.redis_slot_migrate:
        slots: ["0-9"]
        target: "{{ targets[0] }}"
        method: "{{ method }}"
    - name: Move back
      keyslot.redis.redis_slot_migrate:
        slots: ["0-9"]
        target: "{{ targets[1] }}"
        method: "{{ method }}"
    - name: Even out
      keyslot.redis.redis_cluster_rebalance:
        threshold: 0
    - name: Fail for the target
      keyslot.redis.redis_slot_migrate:
        slots: ["0-9"]
        target: "{{ 'f' * 40 }}"
      ignore_errors: true
    - name: Fail for the address
      keyslot.redis.redis_cluster_info:
        login_port: 1
      ignore_errors: true
    - name: Fail for the login
      keyslot.redis.redis_cluster_info:
        login_user: nobody
      ignore_errors: true
    - name: Fail for an option
      keyslot.redis.redis_slot_migrate:
        slots: ["none"]
        target: "{{ targets[0] }}"
        batch_size: many
      ignore_errors: true
"""
TASKS = re.findall(r"^    - name: (.+)$", PLAY, re.M)


@pytest.fixture(scope="module")
def cluster(engine: Engine) -> Iterator[Cluster]:
    with Cluster.start(engine, 3, 0, spare=1) as made:
        data.seed(made, 300)
        yield made


@contextlib.contextmanager
def user(cluster: Cluster, password: str) -> Iterator[dict[str, Any]]:
    """A user with this password and all rights; the default user may not move keys."""
    for node in cluster.all_nodes():
        node.call("ACL", "SETUSER", USER, "reset", "on", f">{password}", "~*", "&*", "+@all")
    try:
        yield {"login_user": USER, "login_password": password}
    finally:
        for node in cluster.all_nodes():
            node.call("ACL", "DELUSER", USER)


def at(node: Node) -> dict[str, Any]:
    return {"login_host": node.host, "login_port": node.port}


def method_of(engine: Engine) -> str:
    return "classic" if engine.release < (8, 4) else "auto"


class ProcessList:
    """What /proc/*/cmdline shows while this lasts, to whoever may look."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ProcessList:
        self._watcher.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    self.seen.add((folder / "cmdline").read_bytes().decode(errors="replace"))
            time.sleep(0.05)


@pytest.mark.stand_for_all("valkey-9.1")
@pytest.mark.parametrize("kind", PASSWORDS)
def test_play_at_its_most_talkative_shows_nothing(
    cluster: Cluster, tmp_path: Path, kind: str
) -> None:
    password = PASSWORDS[kind]
    first, second = cluster.nodes[:2]
    (tmp_path / "play.yml").write_text(PLAY, encoding="utf-8")
    secrets = tmp_path / "secret.yml"
    # The form of a value that is not a template, as Ansible's own vault has it.
    text = json.dumps(password, ensure_ascii=False)
    secrets.write_text(f"secret: !unsafe {text}\n", encoding="utf-8")
    variables = {
        "port": first.port,
        "user": USER,
        "targets": [second.id, first.id],
        "method": method_of(cluster.engine),
    }
    with user(cluster, password), ProcessList() as processes:
        words = ("-vvvv", "--diff")
        play = run_playbook(str(tmp_path / "play.yml"), variables, *words)
        check = run_playbook(str(tmp_path / "play.yml"), variables, *words, "--check")
    for run in play, check:
        assert run.code == 0, run.output
        assert [name for name, _result in run.results] == TASKS
        assert run.output.count("...ignoring") == sum(task.startswith("Fail") for task in TASKS)
        assert MARK not in run.output
        assert MARK not in json.dumps(run.results)
    assert any("redis_slot_migrate" in line for line in processes.seen)
    assert not [line for line in processes.seen if MARK in line]


def test_password_from_the_environment_is_masked_as_well(cluster: Cluster) -> None:
    password = PASSWORDS["plain"]
    first, second = cluster.nodes[:2]
    with user(cluster, password):
        for target in second, first:
            wish = {**at(first), "login_user": USER, "slots": ["0"], "target": target.id}
            result = run_module(MIGRATE, wish, env={"REDISCLI_AUTH": password}, diff=True)
            assert result["slots_moved"] == 1
            assert MARK not in json.dumps(result)
        # A user name that holds it is shown as far as it is no secret.
        wish = {**at(first), "login_user": f"not {password}"}
        result = run_module(INFO, wish, env={"REDISCLI_AUTH": password})
        assert result["failed"]
        assert MARK not in json.dumps(result)


@pytest.mark.stand_for_all("redis-7.0", "valkey-9.1")
@pytest.mark.parametrize("kind", PASSWORDS)
def test_syslog_gets_the_invocation_without_it(cluster: Cluster, tmp_path: Path, kind: str) -> None:
    first, second, spare = cluster.nodes[0], cluster.nodes[1], cluster.spares[0]
    runs: list[tuple[str, dict[str, Any]]] = [
        (INFO, {}),
        (MIGRATE, {"slots": ["0"], "target": second.id}),
        (MIGRATE, {"slots": ["0"], "target": first.id}),
        (REBALANCE, {}),
        (MEET, {"nodes": [spare.address]}),
        (REPLICATE, {"node": spare.address, "primary": "auto"}),
        # With the id that it has the others would not have it back for a minute.
        (FORGET, {"node": spare.address, "reset": "hard"}),
        (FORGET, {"node": "nothing"}),
    ]
    log = tmp_path / "syslog"
    with user(cluster, PASSWORDS[kind]) as who:
        for module, options in runs:
            told = with_syslog(module, {**at(first), **who, **options}, log)
            assert MARK not in told
            assert json.loads(told).get("failed", False) == (options.get("node") == "nothing"), told
    text = log.read_text(encoding="utf-8")
    assert text.count("Invoked with") == len(runs)
    assert "login_password=NOT_LOGGING_PARAMETER" in text
    assert MARK not in text


def with_syslog(module: str, options: Mapping[str, Any], log: Path) -> str:
    """What a module prints; what it has syslog log goes to the file."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SYSLOG,
            str(log),
            str(ROOT / "plugins" / "modules" / f"{module}.py"),
        ],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": dict(options)}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(),
    )
    assert MARK not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.stand_for_all("redis-7.0")
@pytest.mark.parametrize("password", SHORT)
def test_password_that_is_part_of_every_answer_does_no_harm(
    cluster: Cluster, password: str
) -> None:
    """Core masks it wherever it stands in a result: what was done must not depend on that."""
    first, second = cluster.nodes[:2]
    before = data.digest(cluster)
    with user(cluster, password) as who:
        for target in second, first:
            wish = {**at(first), **who, "slots": ["0-9"], "target": target.id}
            result = run_module(MIGRATE, {**wish, "method": "classic"}, diff=True)
            assert not result.get("failed"), result
            assert cluster.ownership()[target.id][0].startswith("0-")
    assert data.compare(before, data.digest(cluster)) == []


# Errors that quote what was sent


def test_server_without_migrate_is_refused_before_a_password_is_sent(engine: Engine) -> None:
    """`unknown command` quotes the arguments, and cuts them: a mask would not find a part."""
    password = MARK + "long" * 40
    with Cluster.start(engine, 2, 0, config={"rename-command": 'MIGRATE ""'}) as cluster:
        data.seed_slot(cluster, 0, 3)
        source, target = cluster.nodes
        with user(cluster, password) as who:
            wish = {**at(source), **who, "slots": ["0"], "target": target.id}
            result = run_module(MIGRATE, {**wish, "method": "classic"})
        assert result.get("failed"), result
        assert "does not know the command MIGRATE" in result["msg"]
        assert "Nothing was changed" in result["msg"]
        assert MARK not in json.dumps(result)
        cluster.assert_healthy()


# What the engines keep


def quotes(lines: Sequence[str], mark: str = MARK) -> list[str]:
    return [line for line in lines if mark in line]


def test_server_keeps_it_out_of_monitor_slowlog_and_log(cluster: Cluster) -> None:
    """MIGRATE's password is taken out by all engines, from AUTH and AUTH2 alike."""
    password = PASSWORDS["plain"]
    source, target = cluster.nodes[:2]
    for node in (source, target):
        node.call("ACL", "LOG", "RESET")
    with user(cluster, password) as who, contextlib.ExitStack() as stack:
        watched = [stack.enter_context(node.monitor()) for node in (source, target)]
        logged = [stack.enter_context(node.commands()) for node in (source, target)]
        for goal in target, source:
            wish = {**at(source), **who, "slots": ["0-19"], "target": goal.id}
            result = run_module(MIGRATE, {**wish, "method": "classic"})
            assert result.get("keys_moved", 0) > 0, result
        stack.close()
        seen = [*watched[0], *watched[1], *logged[0], *logged[1]]
        assert any("migrate" in line.lower() and " KEYS" in line.replace('"', "") for line in seen)
        assert quotes(seen) == []
    for node in (source, target):
        assert MARK not in node.log()
        assert MARK not in str(node.call("ACL", "LOG"))
        assert MARK not in str(node.call("CLIENT", "LIST"))
