# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ansible_collections.keyslot.redis.plugins.module_utils._argspec import (
    ArgumentSpec,
    connection_argspec,
    movement_argspec,
)

PLAYBOOKS = Path(__file__).parents[4] / "playbooks"


def test_merge_keeps_everything_and_changes_neither() -> None:
    first = ArgumentSpec(
        argument_spec={"a": {"type": "str"}},
        mutually_exclusive=[["a", "b"]],
        required_together=[["a", "c"]],
        required_by={"a": ["b"]},
    )
    second = ArgumentSpec(
        argument_spec={"b": {"type": "int"}},
        mutually_exclusive=[["b", "c"]],
        required_one_of=[["a", "b"]],
        required_by={"a": ["c"], "b": ["a"]},
    )
    assert first.merge(second).to_kwargs() == {
        "argument_spec": {"a": {"type": "str"}, "b": {"type": "int"}},
        "mutually_exclusive": [["a", "b"], ["b", "c"]],
        "required_together": [["a", "c"]],
        "required_one_of": [["a", "b"]],
        "required_by": {"a": ["b", "c"], "b": ["a"]},
    }
    assert first.argument_spec == {"a": {"type": "str"}}
    assert first.required_by == {"a": ["b"]}
    assert second.required_by == {"a": ["c"], "b": ["a"]}


def test_merge_refuses_an_option_of_both() -> None:
    with pytest.raises(ValueError, match="wait_timeout"):
        movement_argspec().merge(ArgumentSpec(argument_spec={"wait_timeout": {"type": "float"}}))


def test_each_call_makes_a_new_specification() -> None:
    connection_argspec().argument_spec["login_port"]["default"] = 1
    assert connection_argspec().argument_spec["login_port"]["default"] == 6379


def test_connection_and_movement_go_together() -> None:
    names = connection_argspec().merge(movement_argspec()).argument_spec
    assert len(names) == len(connection_argspec().argument_spec) + len(
        movement_argspec().argument_spec
    )


def test_only_the_password_is_hidden() -> None:
    spec = connection_argspec().merge(movement_argspec()).argument_spec
    assert [name for name, option in spec.items() if option.get("no_log")] == ["login_password"]


@pytest.mark.parametrize("name", ["add_node", "remove_node", "rebalance"])
def test_playbooks_offer_every_connection_and_movement_option(name: str) -> None:
    text = (PLAYBOOKS / f"{name}.yml").read_text(encoding="utf-8")
    offered = set(re.findall(r"keyslot_(\w+)", text)) - {"hosts"}
    assert offered == {
        *connection_argspec().argument_spec,
        *movement_argspec().argument_spec,
    }


def test_the_playbook_of_the_report_offers_every_connection_option() -> None:
    text = (PLAYBOOKS / "report.yml").read_text(encoding="utf-8")
    offered = set(re.findall(r"keyslot_(\w+)", text)) - {"hosts"}
    assert offered == set(connection_argspec().argument_spec)


def test_every_connection_and_movement_option_is_a_known_name() -> None:
    """Of those that stand in a list there: a playbook refuses variables of other names."""
    text = (PLAYBOOKS / "tasks" / "check_names.yml").read_text(encoding="utf-8")
    listed = re.search(r"__keyslot_options:\n((?: +- \w+\n)+)", text)
    assert listed
    assert listed[1].split()[1::2] == [
        *connection_argspec().argument_spec,
        *movement_argspec().argument_spec,
    ]
