# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""redis_cluster_fix: no slot is open, and all nodes agree."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import KeyslotError
from ansible_collections.keyslot.redis.plugins.module_utils._fix import Fixed, fix
from ansible_collections.keyslot.redis.plugins.module_utils._lane import Movement
from ansible_collections.keyslot.redis.plugins.module_utils._module._common import Params
from ansible_collections.keyslot.redis.plugins.module_utils._module._diff import diff_of
from ansible_collections.keyslot.redis.plugins.module_utils._module._movers import (
    moves_done,
    result_of,
    run_moving,
)
from ansible_collections.keyslot.redis.plugins.module_utils._slots import format_slots
from ansible_collections.keyslot.redis.plugins.module_utils._verdicts import Repair


def run(module: AnsibleModule) -> None:
    """One run of the module."""

    def body(cluster: Cluster, params: Params, movement: Movement) -> dict[str, t.Any]:
        try:
            done = fix(cluster, params["on_uncovered"], movement, module.check_mode)
        except KeyslotError as exc:
            made = t.cast("list[Repair]", exc.details.get("repairs", []))
            exc.details["repairs"] = _entries(made)
            raise
        result = result_of(done.outcome, module.check_mode)
        result["repairs"] = _entries(done.repairs)
        result["changed"] = result["changed"] or bool(done.repairs)
        if module._diff:
            result["diff"] = _diff(done, module.check_mode)
        return result

    run_moving(module, body, {"repairs": []})


def _entries(repairs: t.Iterable[Repair]) -> list[dict[str, t.Any]]:
    return [
        {
            "kind": repair.kind,
            "node": repair.node,
            "slots": format_slots(repair.slots),
            "message": repair.message,
        }
        for repair in repairs
    ]


def _diff(done: Fixed, check_mode: bool) -> dict[str, str]:
    """The map of slots, and under it what was wrong; afterwards, what has been done about it."""
    moves = done.outcome.plan.moves if check_mode else moves_done(done.outcome)
    key_counts, assigned = done.outcome.plan.key_counts, done.ownership.assigned
    told = diff_of(done.before, moves, key_counts, assigned)
    wrong = [problem.message for problem in done.before.problems()]
    repaired = [f"{repair.kind}: {repair.message}" for repair in done.repairs]
    return {"before": told["before"] + _lines(wrong), "after": told["after"] + _lines(repaired)}


def _lines(texts: t.Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)
