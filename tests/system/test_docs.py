# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command on the pages of the documentation and in the READMEs works as it stands there.

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
from tests.harness.node import Node
from tests.harness.views import wait_until

pytestmark = [pytest.mark.system, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs/docsite/rst"
BIN = Path(sys.executable).parent
BLOCK = re.compile(
    r"^\.\. code-block:: (?P<language>bash|yaml)\n(?: +:caption: (?P<file>\S+)\n)?\n"
    r"(?P<text>(?:(?: {4}.*)?\n)+)",
    re.MULTILINE,
)
FENCE = re.compile(r"^```(?P<language>bash|yaml)\n(?P<text>.+?)^```", re.MULTILINE | re.DOTALL)
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


def fences(path: str, starting: str = "") -> list[str]:
    """The blocks of a page of Markdown that stand under a heading, or all."""
    text = (ROOT / path).read_text(encoding="utf-8")
    under = text.partition(f"\n## {starting}\n")[2].partition("\n## ")[0] if starting else text
    return [match["text"] for match in FENCE.finditer(under)]


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
    text = text.replace(
        "keyslot_login_host=10.0.0.1",
        f"keyslot_login_host=127.0.0.1 -e keyslot_login_port={port}",
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
        ("nodes", 5, [3276] + [3277] * 4),
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
        commands = [
            line for block in blocks("fix")[:-1] for line in block.text.splitlines() if line
        ]
        assert len(commands) == 4
        for number, state in ((0, broken.moving), (2, broken.uncovered_with_keys)):
            stage = broken.scene(cluster)
            state(stage)
            look, repair = (translated(text, cluster) for text in commands[number : number + 2])
            assert "| CHANGED =>" in run(look, tmp_path)
            assert cluster.problems() != []
            assert "| CHANGED =>" in run(repair, tmp_path)
            cluster.wait_healthy()
            assert compare(stage.before, digest(cluster)) == []
            for node in cluster.primaries():
                node.call("FLUSHALL")


def test_lost_primary_is_given_up_as_the_page_on_repairs_says(tmp_path: Path) -> None:
    """Its loop of redis-cli is done here as it stands: one FORGET for each other node."""
    _id, loop, look, repair = blocks("fix")[-1].text.strip().splitlines()
    assert "cluster forget $lost" in loop
    with Cluster.start(engines.get("valkey-9.1"), 3, 0, spare=1, node_timeout_ms=1000) as cluster:
        lost = cluster.nodes[2]
        lost.kill()
        wait_until(lambda: says_fail(cluster.nodes[0]), "its death")
        refused = run(f"{translated(repair, cluster)} || true", tmp_path)
        assert f"CLUSTER FORGET {lost.id}" in refused
        for node in cluster.nodes[:2]:
            node.call("CLUSTER", "FORGET", lost.id)
        for command in (look, repair):
            assert "| CHANGED =>" in run(translated(command, cluster), tmp_path)
        cluster.wait_healthy(members=2)


def says_fail(node: Node) -> bool:
    return node.info("cluster-state")["cluster_state"] == "fail"


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
    assert re.search(r"^\+127.0.0.1:\d+ \(\w{8}\): 4096 slots, 2[3-7]\d\d keys: ", told, re.M)
    assert not list(tmp_path.glob("cluster.*"))


@pytest.mark.parametrize("page", ["inventory", "report"])
def test_pages_that_go_on_from_getting_started_work_when_pasted(page: str, tmp_path: Path) -> None:
    with Cluster.start(engines.get("valkey-9.1"), 3, 0, spare=1) as cluster:
        first = cluster.nodes[0]
        script = f"member={first.address}\nspare={cluster.spares[0].address}\n"
        for block in blocks(page):
            if block.language == "bash":
                script += block.text
        told = run(script, tmp_path)
        if page == "report":
            made = {path.name for path in tmp_path.iterdir()}
            assert made == {"cluster.html", "before.html", "before.json", "after.html"}
            after = (tmp_path / "after.html").read_text(encoding="utf-8")
            assert "4,096 slots changed from one shard to another." in after
            return
        assert told.count("@keyslot_primaries:") == 3
        assert '"keyslot_node_slots"' in told
        assert "0-5460" in told
        assert list((tmp_path / "inventory-cache").iterdir())
        for number, block in enumerate(b for b in blocks(page) if b.language == "yaml"):
            text = block.text.replace("redis1.example.com", first.host)
            file = tmp_path / f"{number}.redis_cluster.yml"
            file.write_text(f"{text}login_port: {first.port}\n", encoding="utf-8")
            listing = f"REDIS_PASSWORD= ansible-inventory -i {file} --list"
            if "hostnames:" in text:
                # One machine has all nodes here.
                file.write_text(file.read_text().replace("_node_host\n", "_node_id\n"))
            assert first.id in run(listing, tmp_path)


def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    """But for the installation, which stands for this checkout, and those in sections of their own.
    The password is what stands there."""
    with Cluster.start(engines.get("valkey-9.1"), 3, 1, spare=1, password="...") as cluster:
        seed(cluster, KEYS)
        before = digest(cluster)
        (first_use,) = fences("README.md", "First use")
        script = first_use.replace("ansible-galaxy collection install keyslot.redis\n", "")
        assert script != first_use
        told = run("export REDISCLI_AUTH=...\n" + translated(script, cluster), tmp_path)
        assert re.search(r"^\+127\.0\.0\.1:\d+ \(\w{8}\): 4096 slots, \d+ keys: ", told, re.M)
        assert shares(cluster) == [4096] * 4
        (play,) = fences("README.md", "In a playbook")
        (tmp_path / "play.yml").write_text(translated(play, cluster), encoding="utf-8")
        told = run("ansible-playbook play.yml -e redis_password=...", tmp_path)
        assert "changed=0" in told
        assert "failed=0" in told
        adhoc, _by_short_name = fences("README.md", "Ad hoc")
        assert '"problems": []' in run(translated(adhoc, cluster), tmp_path)
        cluster.assert_healthy()
        assert compare(before, digest(cluster)) == []


def test_the_plays_in_the_readmes_of_the_roles_work(tmp_path: Path) -> None:
    report = tmp_path / "cluster.html"
    with Cluster.start(engines.get("valkey-9.1"), 3, 1, spare=1, password="...") as cluster:
        seed(cluster, KEYS)
        before = digest(cluster)
        for role, expected in (
            ("report", [4096] * 4),
            ("add_node", [4096] * 4),
            ("rebalance", [4096] * 4),
            ("remove_node", [5461, 5461, 5462]),
        ):
            (play,) = fences(f"roles/{role}/README.md")
            text = translated(play, cluster).replace("/srv/reports/cluster.html", str(report))
            (tmp_path / f"{role}.yml").write_text(text, encoding="utf-8")
            told = run(f"ansible-playbook {role}.yml -e redis_password=...", tmp_path)
            assert "failed=0" in told
            assert shares(cluster) == expected
        assert "4,096 slots changed" in report.read_text(encoding="utf-8")
        cluster.assert_healthy()
        assert compare(before, digest(cluster)) == []
