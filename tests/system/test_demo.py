# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo: does it tell its story, notice what is wrong, and leave nothing behind?"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests import demo
from tests.harness.clients import LiveClients
from tests.harness.cluster import Cluster
from tests.harness.data import Digest

pytestmark = [pytest.mark.system, pytest.mark.slow]
REPO = Path(__file__).resolve().parents[2]
KEYS = 3000


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the servers' folders lie: in memory, as without the test."""
    base = demo.IN_MEMORY if os.access(demo.IN_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="keyslot-demo-", dir=base) as made:
        yield Path(made)


def start(folder: Path) -> subprocess.Popen[str]:
    """The demo with few keys; its servers' folders lie in this one."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.demo", "--keys", str(KEYS)],
        cwd=REPO,
        env={**os.environ, "KEYSLOT_FOLDERS": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left_in(folder: Path) -> list[str]:
    """Processes that work in this folder, or name it, and what lies in it."""
    found = [path.name for path in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in f"{line}{(process / 'cwd').readlink()}":
                found.append(line)
    return found


def test_tells_its_story(folder: Path) -> None:
    process = start(folder)
    told, _errors = process.communicate(timeout=280)
    assert process.returncode == 0, told
    assert "\033" not in told
    assert max(map(len, told.splitlines())) < 80, told
    assert "one of 16,384 slots" in told
    assert f"{KEYS:,} keys written" in told
    for name in ("add_node", "remove_node"):
        assert told.count(f"$ ansible-playbook keyslot.redis.{name}") == 2, told
    assert len(re.findall(r"^  Plan: 4,096 slots with [\d,]+ keys", told, re.M)) == 2, told
    assert len(re.findall(r"^  Moved 4,096 slots with [\d,]+ keys in", told, re.M)) == 2, told
    assert "changed nothing" in told
    shares = [int(count.replace(",", "")) for count in re.findall(r"([\d,]+) slots +\d", told)]
    assert shares[:7] == [5461, 5462, 5461, 4096, 4096, 4096, 4096], told
    assert sorted(shares[7:]) == [5461, 5461, 5462], told
    assert told.count("not in the cluster") == 2
    assert re.search(r"Client: +[\d,]+ operations, 0 errors\.", told), told
    assert re.search(r"Waits: +longest \d+ ms", told), told
    assert re.search(r"Writes: +[1-9][\d,]* acknowledged writes verified, 0 lost\.", told), told
    assert f"{KEYS:,} verified by type, value and expiry, 0 differences." in told
    assert "Everything was as promised." in told
    assert not left_in(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_midst_it_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    process = start(folder)
    assert process.stdout is not None
    commands = 0
    for line in process.stdout:
        commands += "$ ansible-playbook" in line
        if commands == 2:
            break
    time.sleep(5)
    process.send_signal(number)
    told, _errors = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Interrupted." in told
    assert "Traceback" not in told
    assert not left_in(folder)


def test_says_what_is_not_as_promised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lost key, a changed one, an extra one, a lost write, a client's error, an open slot."""
    noted: Digest = {b"a": ("string:1", -1), b"b": ("string:2", -1), b"c": ("string:3", -1)}
    now: Digest = {b"a": ("string:1", -1), b"b": ("string:9", -1), b"x": ("string:4", -1)}
    monkeypatch.setattr(demo, "digest", lambda _cluster: now)
    clients = SimpleNamespace(
        latencies=[0.001],
        errors=Counter({"ConnectionError: gone": 2}),
        operations=1,
        writes=1,
        lost=lambda: ["lost b'k'"],
    )
    cluster = cast(Cluster, SimpleNamespace(problems=lambda: ["the open slot [1->-x]"]))
    story = demo.Story(cluster, cast(LiveClients, clients), {})
    demo.prove(story, noted)
    told = capsys.readouterr().out
    for text in ("missing b'c'", "changed b'b'", "extra b'x'", "lost b'k'", "gone", "[1->-x]"):
        assert any(text in complaint for complaint in story.broken), (text, story.broken)
    assert told.count("NOT AS PROMISED") == len(story.broken) == 6
    assert "2 errors" in told
    assert "3 differences" in told
    assert "no slot is left open" not in told
