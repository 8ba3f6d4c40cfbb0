# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The three files that the README gives to an AWX project, with the collection installed beside
them as AWX and ansible-builder do it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from tests.harness import engines
from tests.harness.cluster import SLOTS, Cluster, count_slots, parse_ranges
from tests.package.tools import ROOT, run

TOOLS = Path(os.environ.get("KEYSLOT_TOOLS", ROOT / ".cache/venvs/tools/bin"))
FILE = re.compile(r"`([\w/-]+\.yml)`:\n\n```yaml\n(.+?)```", re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with these files."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## In AWX\n")[2].partition("\n## ")[0]
    for name, text in FILE.findall(section):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.yml")) == [
        "add_node.yml",
        "collections/requirements.yml",
        "execution-environment.yml",
    ]
    return tmp_path


def test_requirements_name_this_collection_in_this_version(project: Path, installed: Path) -> None:
    install = ("ansible-galaxy", "collection", "install", "--offline", "-p", str(installed))
    told = run(installed, *install, "-r", str(project / "collections/requirements.yml"))
    assert "All requested collections are already installed" in told


def test_builder_takes_the_definition_of_the_execution_environment(project: Path) -> None:
    context = project / "context"
    words = ("create", "--file", "execution-environment.yml", "--context", str(context))
    output = ("--output-filename", "Containerfile")
    run(project, str(TOOLS / "ansible-builder"), *words, *output, cwd=project)
    wanted = yaml.safe_load((context / "_build/requirements.yml").read_text(encoding="utf-8"))
    needed = yaml.safe_load((project / "collections/requirements.yml").read_text(encoding="utf-8"))
    assert wanted == needed
    assert "introspect" in (context / "Containerfile").read_text(encoding="utf-8")


def test_the_playbook_of_one_line_takes_what_a_survey_gives(project: Path, installed: Path) -> None:
    """All text; empty where nothing was answered."""
    with Cluster.start(engines.get("valkey-9.1"), 3, 0, spare=2) as cluster:
        survey = {
            "keyslot_login_host": cluster.nodes[0].host,
            "keyslot_login_port": str(cluster.nodes[0].port),
            "keyslot_login_password": "",
            "keyslot_max_seconds": "",
            "add_node_nodes": "\n".join(node.address for node in cluster.spares) + "\n",
            "add_node_primary": "",
            "add_node_rebalance": "true",
        }
        words = ("ansible-playbook", "add_node.yml", "--extra-vars", json.dumps(survey))
        for options, joined in ((["--check", "--diff"], 0), ([], 2)):
            told = run(installed, *words, *options, cwd=project)
            assert "changed=2" in told
            owned = cluster.ownership()
            shares = [count_slots(parse_ranges(owned.get(n.id, []))) for n in cluster.spares]
            assert [share in (SLOTS // 5, SLOTS // 5 + 1) for share in shares] == [joined > 0] * 2
        assert "changed=0" in run(installed, *words, cwd=project)
        cluster.wait_healthy(members=5)
