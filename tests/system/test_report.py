# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page that keyslot.redis.report writes of real clusters, whole and broken ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.harness.ansible import Play, run_playbook
from tests.harness.cluster import Cluster
from tests.harness.cutting import run_module
from tests.harness.data import seed
from tests.harness.engines import Engine

pytestmark = [pytest.mark.system, pytest.mark.stand_for_all("valkey-9.1")]

MARKUP = "<script>alert(1)</script>\" onload='x' & </style>"
HOSTILE = f"{MARKUP} {{{{ 1234 * 5678 }}}}"


@pytest.fixture(scope="module")
def cluster(engine: Engine) -> Iterator[Cluster]:
    with Cluster.start(engine, 3, 1) as made:
        seed(made, 300)
        yield made
        made.assert_healthy()


def play(cluster: Cluster, variables: dict[str, Any], *words: str) -> Play:
    node = next(node for node in cluster.nodes if node.running)
    entry = {"keyslot_login_host": node.host, "keyslot_login_port": node.port}
    return run_playbook("report", {**entry, **variables}, *words)


def written(cluster: Cluster, path: Path, **variables: Any) -> ElementTree.Element:
    """The page of a run that has to succeed; it has to be well-formed and need nothing else."""
    done = play(cluster, {"report_path": str(path), **variables})
    assert done.code == 0, done.output
    assert "WARNING" not in done.output
    source = path.read_text(encoding="utf-8")
    page = ElementTree.fromstring(source)
    assert re.findall(r"\w+://|@import|javascript:", source) == []
    assert set(re.findall(r"url\(([^)]*)\)", source)) <= {"#hatch-1", "#hatch-2"}
    for element in page.iter():
        assert element.tag not in ("script", "link", "img", "iframe", "object", "use", "base")
        for name in element.attrib:
            assert name not in ("src", "href", "srcset", "action")
            assert not name.startswith("on")
    return page


def text(page: ElementTree.Element) -> str:
    return " ".join(" ".join(page.itertext()).split())


def cells(page: ElementTree.Element, table: str, column: int) -> list[str]:
    """What stands in a column of a table, where a row has one."""
    rows = page.findall(f".//table[@class='{table}']/tbody/tr")
    found = [[" ".join("".join(c.itertext()).split()) for c in row.findall("td")] for row in rows]
    return [row[column] for row in found]


def info(cluster: Cluster) -> dict[str, Any]:
    node = next(node for node in cluster.nodes if node.running)
    return run_module("redis_cluster_info", {"login_host": node.host, "login_port": node.port})


def test_page_shows_every_node_and_no_problem(cluster: Cluster, tmp_path: Path) -> None:
    page = written(cluster, tmp_path / "page.html")
    told = text(page)
    for node in cluster.nodes:
        assert node.id in told
        assert node.address in told
    for ranges in cluster.ownership().values():
        assert ", ".join(ranges) in told
    assert "None was found." in told
    assert "16,384 slots in 3 shards, from 5,461 to 5,462 a shard." in told
    assert len(page.findall(".//path[@class='fill']")) == 3
    assert sorted(cells(page, "shards", 1)) == ["primary"] * 3 + ["replica"] * 3
    assert "What has changed" not in told


def test_page_can_be_read_without_seeing_it(cluster: Cluster, tmp_path: Path) -> None:
    page = written(cluster, tmp_path / "page.html")
    assert page.get("lang") == "en"
    assert [len(page.findall(f".//h{level}")) for level in (1, 2)] == [1, 4]
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in page.iter():
        for name in element.get("aria-labelledby", "").split():
            assert name in ids
    for table in page.findall(".//table"):
        assert table.find("caption") is not None
        assert all(cell.get("scope") for cell in table.iter("th"))
    for picture in page.iter("svg"):
        spoken = picture.get("role") == "img" and picture.find("title") is not None
        assert spoken or picture.get("aria-hidden") == "true"


@pytest.mark.stand_for_all("valkey-9.1", "redis-7.0")
def test_keys_and_memory_are_those_of_the_servers(cluster: Cluster, tmp_path: Path) -> None:
    page = written(cluster, tmp_path / "page.html")
    shown = [int(cell.split()[0].replace(",", "")) for cell in cells(page, "balance", 1)]
    assert sorted(shown) == sorted(node.call("DBSIZE") for node in cluster.primaries())
    assert all(re.match(r"\d+\.\d [KM]iB ", cell) for cell in cells(page, "balance", 2))


def test_before_and_after_stand_side_by_side(engine: Engine, tmp_path: Path) -> None:
    with Cluster.start(engine, 3, 0, spare=1) as cluster:
        kept = tmp_path / "before.json"
        written(cluster, tmp_path / "before.html", report_save=str(kept))
        node, new = cluster.nodes[0], cluster.spares[0]
        entry = {"keyslot_login_host": node.host, "keyslot_login_port": node.port}
        added = run_playbook("add_node", {**entry, "add_node_nodes": new.address})
        assert added.code == 0, added.output

        page = written(
            cluster, tmp_path / "after.html", report_before=str(kept), report_save=str(kept)
        )
        told = text(page)
        assert "4,096 slots changed from one shard to another." in told
        assert f"New shards: {new.address}." in told
        assert len(page.findall(".//svg[@role='img']")) == 2
        assert "before 5,461" in told
        assert "after 4,096" in told
        assert len(json.loads(kept.read_text())["nodes"]) == 4

        # A result that someone has registered does as well as a file.
        again = written(cluster, tmp_path / "again.html", report_before=info(cluster))
        assert "0 slots changed from one shard to another." in text(again)


@pytest.mark.stand_for_all("valkey-9.1", "redis-7.0")
def test_every_problem_is_there_with_its_remedy(engine: Engine, tmp_path: Path) -> None:
    with Cluster.start(engine, 3, 1, slots=["0-5460", "5461-10922", "10923-16380"]) as cluster:
        source, target = cluster.nodes[:2]
        target.call("CLUSTER", "SETSLOT", 42, "IMPORTING", source.id)
        source.call("CLUSTER", "SETSLOT", 42, "MIGRATING", target.id)
        cluster.nodes[5].kill()
        problems = info(cluster)["problems"]
        assert {"unreachable", "state", "uncovered", "migrating_slot", "importing_slot"} <= {
            problem["kind"] for problem in problems
        }
        page = written(cluster, tmp_path / "page.html")
        shown = [" ".join("".join(item.itertext()).split()) for item in page.iter("li")]
        for problem in problems:
            (item,) = [item for item in shown if item.startswith(problem["message"])]
            assert "What to do:" in item
            assert ", ".join(problem["slots"]) in item
        assert "3 served by nobody, 1 open." in text(page)
        assert len(page.findall(".//path[@class='uncovered']")) == 1
        assert len(page.findall(".//path[@class='open']")) == 1
        assert cells(page, "shards", 2).count("does not answer \u25b2") == 1


def test_what_servers_say_is_text_and_nothing_else(cluster: Cluster, tmp_path: Path) -> None:
    earlier = info(cluster)
    problem = {"kind": HOSTILE, "node": "", "slots": [HOSTILE], "message": f"{HOSTILE} gone"}
    earlier["problems"] = [problem]
    earlier["seen_at"] = HOSTILE
    stranger = {**earlier["nodes"][0], "id": "f" * 40, "primary_id": None, "role": "primary"}
    stranger |= {"hostname": HOSTILE, "host": HOSTILE, "version": HOSTILE, "slots": []}
    earlier["nodes"].append({**stranger, "slot_count": 0})
    kept = tmp_path / "before.json"
    kept.write_text(json.dumps(earlier))
    page = written(cluster, tmp_path / "page.html", report_before=str(kept), report_title=MARKUP)
    told = text(page)
    assert told.count("<script>alert(1)</script>") > 4
    assert "{{ 1234 * 5678 }}" in told
    assert str(1234 * 5678) not in told
    policy = page.find(".//meta[@http-equiv='Content-Security-Policy']")
    assert policy is not None
    assert "default-src 'none'" in policy.get("content", "")


def test_nothing_is_written_in_check_mode(cluster: Cluster, tmp_path: Path) -> None:
    path, kept = tmp_path / "page.html", tmp_path / "kept.json"
    done = play(cluster, {"report_path": str(path), "report_save": str(kept)}, "--check")
    assert done.code == 0, done.output
    assert f"Would write: {path}." in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "report_path has to be the absolute path"),
        ({"report_path": "page.html"}, "report_path has to be the absolute path"),
        ({"report_path": "/tmp/x.html", "report_save": "x.json"}, "so has report_save"),
        ({"report_path": "/tmp/x.html", "report_before": "/no/such/file"}, "/no/such/file"),
        ({"report_path": "/tmp/x.html", "report_before": {"nodes": [5]}}, "is something else"),
    ],
)
def test_what_is_wrong_is_said(cluster: Cluster, variables: dict[str, Any], words: str) -> None:
    done = play(cluster, variables)
    assert done.code != 0
    assert words in " ".join(done.output.split())
    assert not Path("/tmp/x.html").exists()


def test_fields_that_a_survey_left_empty_count_as_not_set(cluster: Cluster, tmp_path: Path) -> None:
    empty = dict.fromkeys(("report_before", "report_save", "report_title", "keyslot_tls"), "")
    page = written(cluster, tmp_path / "page.html", **empty)
    assert page.findtext(".//h1") == "Cluster of 6 nodes"
