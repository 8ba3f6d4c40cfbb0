# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command on the pages of the documentation works as it stands there.

A page's files are written and its commands run, in order, in one folder. Only the addresses are
others: 10.0.0.1 to 10.0.0.3 are the primaries of a real cluster, from 10.0.0.4 on spare servers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import broken, engines
from tests.harness.cluster import Cluster, count_slots, parse_ranges
from tests.harness.data import compare, digest, seed

pytestmark = [pytest.mark.system, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs/docsite/rst"
BIN = Path(sys.executable).parent
BLOCK = re.compile(
    r"^\.\. code-block:: (?P<language>bash|yaml)\n(?: +:caption: (?P<file>\S+)\n)?\n"
    r"(?P<text>(?:(?: {4}.*)?\n)+)",
    re.MULTILINE,
)
KEYS = 3000


@dataclass(frozen=True)
class Block:
    language: str
    file: str | None
    text: str


def blocks(page: str) -> list[Block]:
    found = BLOCK.finditer((PAGES / f"{page}.rst").read_text(encoding="utf-8") + "\n")
    return [
        Block(match["language"], match["file"], re.sub(r"^ {4}", "", match["text"], flags=re.M))
        for match in found
    ]


def translated(text: str, cluster: Cluster) -> str:
    """The text with the addresses of this cluster, whose nodes have a port of their own each."""
    nodes = [*cluster.nodes[:3], *cluster.spares]
    text = re.sub(r"10\.0\.0\.(\d):6379", lambda m: nodes[int(m[1]) - 1].address, text)
    text = re.sub(
        r"db\.example\.com:700(\d)", lambda m: f"localhost:{nodes[int(m[1]) - 1].port}", text
    )
    text = text.replace("db.example.com", "localhost").replace("7001", str(nodes[0].port))
    port = nodes[0].port
    text = re.sub(
        r"( *)((?:keyslot_)?login_)host: 10\.0\.0\.1",
        rf"\1\2host: 127.0.0.1\n\1\2port: {port}",
        text,
    )
    text = re.sub(r"login_host=10\.0\.0\.1", rf"login_host=127.0.0.1 login_port={port}", text)
    assert "10.0.0." not in text
    return text


def run(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PYTHON"))},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": str(Path(sys.prefix) / "collections"),
            "ANSIBLE_NOCOLOR": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}"
    return done.stdout


def shares(cluster: Cluster) -> list[int]:
    """The numbers of slots of the primaries that have some, in order."""
    owned = (parse_ranges(ranges) for ranges in cluster.ownership().values())
    return sorted(count for count in map(count_slots, owned) if count)


@pytest.mark.parametrize(
    ("page", "spares", "expected"),
    [
        ("nodes", 3, [3276] + [3277] * 4),
        ("slots", 0, [4096, 4096, 8192]),
        ("nat", 1, [4096] * 4),
    ],
)
def test_every_command_of_the_page_works(
    page: str, spares: int, expected: list[int], tmp_path: Path
) -> None:
    with Cluster.start(engines.get("valkey-9.1"), 3, 1, spare=spares) as cluster:
        seed(cluster, KEYS)
        before = digest(cluster)
        ran = 0
        for block in blocks(page):
            text = translated(block.text, cluster)
            if block.language == "yaml":
                assert block.file, f"a file of the page {page} has no name: {block.text}"
                (tmp_path / block.file).write_text(text, encoding="utf-8")
                continue
            told = run(text, tmp_path)
            assert "failed=0" in told or "| CHANGED =>" in told, told
            ran += 1
        assert ran
        cluster.assert_healthy()
        assert shares(cluster) == expected
        assert compare(before, digest(cluster)) == []


def test_every_command_of_the_page_on_repairs_works(tmp_path: Path) -> None:
    """Each pair of a look and a repair in a state of its own."""
    with Cluster.start(engines.get("valkey-9.1"), 3, 1) as cluster:
        commands = [line for block in blocks("fix") for line in block.text.splitlines() if line]
        assert len(commands) == 4
        for number, state in ((0, broken.moving), (2, broken.uncovered_with_keys)):
            stage = broken.scene(cluster)
            state(stage)
            look, repair = (translated(text, cluster) for text in commands[number : number + 2])
            assert "| CHANGED =>" in run(look, tmp_path)
            assert cluster.problems() != []
            assert "| CHANGED =>" in run(repair, tmp_path)
            cluster.wait_healthy(20)
            assert compare(stage.before, digest(cluster)) == []
            for node in cluster.primaries():
                node.call("FLUSHALL")


def test_getting_started_works_when_pasted(tmp_path: Path) -> None:
    """In a folder with nothing in it but what stands for the checkout's .venv."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    script = "".join(block.text for block in blocks("getting_started"))
    assert "make venv\n" in script
    told = run(
        script.replace("make venv\n", f"export PYTHONPATH={ROOT}\n")
        + "while [ -e cluster.pid ]; do sleep 0.1; done\n",
        tmp_path,
    )
    assert '"problems": []' in told
    recaps = re.findall(r"changed=(\d+).*failed=0", told)
    assert [int(changed) > 0 for changed in recaps] == [True, True, True]
    assert "+127.0.0.1:" in told, "no diff was shown"
    assert not list(tmp_path.glob("cluster.*"))
