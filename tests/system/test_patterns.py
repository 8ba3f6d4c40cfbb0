# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The job templates of extensions/patterns: do the surveys fit the playbooks and the roles, and do
their answers, which are all text, do what they say?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import engines
from tests.harness.ansible import ROOT, run_playbook
from tests.harness.cluster import Cluster, count_slots, parse_ranges

pytestmark = pytest.mark.system
FOLDER = ROOT / "extensions/patterns/reshape_cluster"
PATTERN = json.loads((FOLDER / "meta/pattern.json").read_text(encoding="utf-8"))
TEMPLATES = PATTERN["aap_resources"]["controller_job_templates"]
ROLES = [Path(template["playbook"]).stem for template in TEMPLATES]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def questions(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {question["variable"]: question for question in template["survey"]["spec"]}


def answers(role: str, **given: str) -> dict[str, str]:
    """What a job template passes on: defaults, and empty text where nothing was answered."""
    asked = questions(TEMPLATES[ROLES.index(role)])
    assert given.keys() <= asked.keys()
    return {name: given.get(name, q.get("default", "")) for name, q in asked.items()}


def test_the_pattern_is_named_like_its_folder_and_has_one_primary_template() -> None:
    assert PATTERN["name"] == FOLDER.name
    assert len(PATTERN["title"]) <= 64
    assert not PATTERN["short_description"].endswith(".")
    assert [template.get("primary") for template in TEMPLATES].count(True) == 1
    assert (FOLDER / "README.md").is_file()
    playbooks = {path.name for path in FOLDER.glob("playbooks/*.yml")}
    metas = {f"{role}.meta.yml" for role in ROLES}
    assert playbooks == {template["playbook"] for template in TEMPLATES} | metas
    labels = set(PATTERN["aap_resources"]["controller_labels"])
    assert all(set(template["labels"]) <= labels for template in TEMPLATES)


def shape(found: dict[str, Any], needed: dict[str, type], others: dict[str, type]) -> None:
    """Each field that is needed is there, no other than these is, and all are of their types."""
    assert needed.keys() <= found.keys() <= needed.keys() | others.keys()
    for name, value in found.items():
        assert isinstance(value, {**needed, **others}[name]), name


def test_the_pattern_keeps_to_the_specification_of_patterns() -> None:
    """Schema 1.0.0 of Ansible patterns; ansible-lint knows that of the argument specs only."""
    texts = ("schema_version", "name", "title", "description", "short_description")
    shape(PATTERN, {**dict.fromkeys(texts, str), "aap_resources": dict}, {"tags": list})
    assert PATTERN["schema_version"] == "1.0.0"
    resources = PATTERN["aap_resources"]
    lists = {"controller_labels": list}
    shape(resources, {"controller_project": dict, "controller_job_templates": list}, lists)
    shape(resources["controller_project"], {"name": str, "description": str}, {})
    asked = ("ask_credential_on_launch", "ask_inventory_on_launch", "ask_verbosity_on_launch")
    more = {**dict.fromkeys(("primary", *asked), bool), "labels": list, "survey": dict}
    told = ("type", "question_name", "question_description", "variable")
    for template in TEMPLATES:
        shape(template, dict.fromkeys(("name", "description", "playbook"), str), more)
        assert len(template["name"]) <= 200
        shape(template["survey"], {"name": str, "description": str, "spec": list}, {})
        for question in template["survey"]["spec"]:
            needed = {**dict.fromkeys(told, str), "required": bool}
            shape(question, needed, {"choices": list, "default": str})
            kinds = ("text", "textarea", "password", "integer", "float", "multiplechoice")
            assert question["type"] in kinds
            assert ("choices" in question) == (question["type"] == "multiplechoice")
            assert re.fullmatch(r"[a-z0-9_]{1,64}", question["variable"])
            assert question["question_description"].endswith(".")


@pytest.mark.parametrize("template", TEMPLATES, ids=ROLES)
def test_the_survey_is_the_argument_spec_of_its_playbook(template: dict[str, Any]) -> None:
    role = Path(template["playbook"]).stem
    options = read(FOLDER / f"playbooks/{role}.meta.yml")["argument_specs"][role]["options"]
    asked = questions(template)
    assert list(options) == list(asked)
    for name, question in asked.items():
        required = question["required"] and "default" not in question
        assert options[name].get("required", False) == required, name
        default = options[name].get("default")
        assert json.dumps(default).strip('"') == question.get("default", "null"), name
        assert question.get("default", "") in [
            "",
            *question.get("choices", [question.get("default")]),
        ]


@pytest.mark.parametrize("template", TEMPLATES, ids=ROLES)
def test_the_survey_asks_for_every_variable_of_the_role(template: dict[str, Any]) -> None:
    role = Path(template["playbook"]).stem
    spec = read(ROOT / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    asked = questions(template)
    assert {name for name in asked if name.startswith(role)} == set(spec)
    for name in spec:
        assert asked[name]["required"] or not spec[name].get("required")
    playbook = (ROOT / f"playbooks/{role}.yml").read_text(encoding="utf-8")
    for name in asked.keys() - spec.keys():
        assert f"{name} " in playbook, name


@pytest.mark.parametrize("role", ROLES)
def test_what_has_to_be_answered_is_asked_for_before_anything_else(role: str) -> None:
    play = run_playbook(str(FOLDER / f"playbooks/{role}.yml"), {})
    assert play.code != 0
    assert [name for name, _result in play.results] == [
        "Check them against the argument spec of this playbook"
    ]
    required = [
        name for name, q in questions(TEMPLATES[ROLES.index(role)]).items() if q["required"]
    ]
    assert "keyslot_login_host" in required
    assert "missing required arguments" in play.output
    assert "keyslot_login_host" in play.output


def shares(cluster: Cluster) -> list[int]:
    owned = (parse_ranges(ranges) for ranges in cluster.ownership().values())
    return sorted(count for count in map(count_slots, owned) if count)


def test_answers_of_the_surveys_reshape_a_cluster() -> None:
    with Cluster.start(engines.get("valkey-9.1"), 3, 0, spare=2) as cluster:
        first = cluster.nodes[0]
        entry = {"keyslot_login_host": first.host, "keyslot_login_port": str(first.port)}
        new = "\n".join(node.address for node in cluster.spares)
        steps: list[tuple[str, dict[str, str], list[int]]] = [
            ("add_node", {"add_node_nodes": new}, [3276] + [3277] * 4),
            ("rebalance", {"rebalance_drain": new}, [5461, 5461, 5462]),
            ("remove_node", {"remove_node_nodes": new}, [5461, 5461, 5462]),
        ]
        for role, given, expected in steps:
            path = str(FOLDER / f"playbooks/{role}.yml")
            for changes in (True, False):
                play = run_playbook(path, answers(role, **entry, **given))
                assert play.code == 0, play.output
                assert play.changed == changes, play.output
                assert shares(cluster) == expected
        cluster.wait_healthy(members=3)
