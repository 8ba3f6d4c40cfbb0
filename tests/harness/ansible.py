# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the collection's modules and playbooks as processes of their own, as Ansible does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = Path(sys.prefix) / "collections"
NAMESPACE = "keyslot.redis"
SECONDS = 300


@dataclass(frozen=True)
class Play:
    """One run of ansible-playbook: its exit code, its output, and the results of its tasks.

    `results` are (task name, result) in order, items of a loop within their task's `results`.
    """

    code: int
    output: str
    results: list[tuple[str, dict[str, Any]]]

    @property
    def changed(self) -> bool:
        return any(result.get("changed") for _name, result in self.results)

    def moves(self) -> list[dict[str, Any]]:
        """All moves that its tasks report, but for those that only check what comes later."""
        told = [result for name, result in self.results if " : Check " not in f" : {name}"]
        return [move for result in told for move in result.get("moves", ())]


def environment(**extra: str) -> dict[str, str]:
    """An environment in which Ansible finds this checkout's collection, and nothing else of the
    user's configuration."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return {
        **kept,
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_CONFIG": str(Path(__file__).with_name("ansible.cfg")),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "PYTHONPATH": str(COLLECTIONS),
        **extra,
    }


def start_module(
    name: str,
    options: Mapping[str, Any],
    *,
    check: bool = False,
    diff: bool = False,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Starts one module with its options, as a process that can be killed."""
    arguments = {**options, "_ansible_check_mode": check, "_ansible_diff": diff}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "plugins" / "modules" / f"{name}.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**(env or {})),
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
    process.stdin.close()
    process.stdin = None
    return process


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Waits for a module and returns its result; AssertionError if it printed none."""
    output, errors = process.communicate(timeout=SECONDS)
    assert output.lstrip().startswith("{"), f"no result: {output}{errors}"
    return json.loads(output)


def playbook_command(name: str, variables: Mapping[str, Any], *words: str) -> list[str]:
    """The words that run `keyslot.redis.NAME`, or a file, on localhost."""
    return [
        str(Path(sys.executable).with_name("ansible-playbook")),
        name if name.endswith(".yml") else f"{NAMESPACE}.{name}",
        "--inventory",
        "localhost,",
        "--connection",
        "local",
        "--extra-vars",
        json.dumps(dict(variables)),
        *words,
    ]


def playbook_environment(results: str, **extra: str) -> dict[str, str]:
    """An environment in which each task's result goes, as a line of JSON, into this file."""
    return environment(
        ANSIBLE_CALLBACK_PLUGINS=str(Path(__file__).with_name("callbacks")),
        ANSIBLE_CALLBACKS_ENABLED="keyslot_results",
        KEYSLOT_RESULTS=results,
        **extra,
    )


def run_playbook(
    name: str,
    variables: Mapping[str, Any],
    *words: str,
    env: Mapping[str, str] | None = None,
) -> Play:
    """Runs `keyslot.redis.NAME`, or a file, on localhost; `words` are further arguments, such as
    `--check`."""
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as lines:
        process = subprocess.run(
            playbook_command(name, variables, *words),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=playbook_environment(lines.name, **(env or {})),
        )
        told = [json.loads(line) for line in lines]
    results = [(item["task"], item["result"]) for item in told]
    return Play(process.returncode, process.stdout + process.stderr, results)
