# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan is what check mode shows and returns: it says what will be, it can be kept and carried out
later as it is, and it is refused where the cluster no longer fits it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.cluster import Cluster, count_slots, parse_ranges
from tests.harness.cutting import run_module
from tests.harness.data import seed
from tests.harness.engines import Engine

pytestmark = [pytest.mark.system, pytest.mark.stand_for_all("redis-7.0", "redis-8.6", "valkey-9.1")]

LINE = re.compile(r"(\S+) \([0-9a-f]{8}\): (\d+) slots, (\d+) keys(?:: ([-\d ]+))?")
Told = dict[str, tuple[int, int, list[str]]]


@pytest.fixture(scope="module")
def cluster(engine: Engine) -> Iterator[Cluster]:
    with Cluster.start(engine, 4, 0) as made:
        seed(made, 1000)
        yield made
        made.assert_healthy()


def run(cluster: Cluster, name: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
    node = cluster.nodes[0]
    entry = {"login_host": node.host, "login_port": node.port}
    return run_module(name, {**entry, **options}, check=check, diff=True)


def plan_to_double(cluster: Cluster, index: int) -> dict[str, Any]:
    """The plan that gives one node twice the share of the others."""
    weights = [{"node": cluster.nodes[index].address, "weight": 2}]
    plan = run(cluster, "redis_cluster_rebalance", check=True, weights=weights)
    assert plan["moves"], plan.get("msg")
    return plan


def told(text: str) -> Told:
    """The lines of one side of a diff: address -> slots, keys, ranges."""
    found = [LINE.fullmatch(line) for line in text.splitlines()]
    assert all(found), text
    return {m[1]: (int(m[2]), int(m[3]), (m[4] or "").split()) for m in found if m}


def seen(cluster: Cluster) -> Told:
    """The same as the servers say it."""
    owned = cluster.ownership()
    return {
        node.address: (
            count_slots(parse_ranges(owned.get(node.id, []))),
            node.call("DBSIZE"),
            owned.get(node.id, []),
        )
        for node in cluster.nodes
    }


def test_the_diff_of_a_plan_says_what_each_node_has_and_will_have(cluster: Cluster) -> None:
    plan = plan_to_double(cluster, 0)
    assert told(plan["diff"]["before"]) == seen(cluster)
    done = run(cluster, "redis_slot_migrate", moves=plan["moves"])
    assert told(plan["diff"]["after"]) == seen(cluster)
    assert done["diff"] == plan["diff"]
    again = run(cluster, "redis_slot_migrate", moves=plan["moves"])
    assert again["diff"]["before"] == again["diff"]["after"] == plan["diff"]["after"]


def test_a_kept_plan_is_carried_out_as_it_is_and_once(cluster: Cluster) -> None:
    plan = plan_to_double(cluster, 1)
    kept = json.loads(json.dumps(plan["moves"]))
    done = run(cluster, "redis_slot_migrate", moves=kept)
    same = ("source", "target", "slots", "key_count")
    assert [[m[name] for name in same] for m in done["moves"]] == [
        [m[name] for name in same] for m in plan["moves"]
    ]
    assert not run(cluster, "redis_slot_migrate", moves=kept)["changed"]


def test_a_kept_plan_that_was_carried_out_in_part_is_gone_on_with(cluster: Cluster) -> None:
    plan = plan_to_double(cluster, 3)
    slot = plan["moves"][0]["slots"][0].partition("-")[0]
    first = {**plan["moves"][0], "slots": [slot]}
    part = run(cluster, "redis_slot_migrate", moves=[first])
    rest = run(cluster, "redis_slot_migrate", moves=plan["moves"])
    assert (part["slots_moved"], rest["slots_moved"]) == (1, plan["slots_left"] - 1)
    assert rest["diff"]["after"] == plan["diff"]["after"]


def test_a_kept_plan_whose_slots_are_elsewhere_by_now_is_refused(cluster: Cluster) -> None:
    plan = plan_to_double(cluster, 2)
    slot = plan["moves"][0]["slots"][0].partition("-")[0]
    away = next(
        node
        for node in cluster.nodes
        if node.id not in {plan["moves"][0]["source"], plan["moves"][0]["target"]}
    )
    assert run(cluster, "redis_slot_migrate", slots=[slot], target=away.address)["changed"]
    owned = cluster.ownership()
    refused = run(cluster, "redis_slot_migrate", moves=plan["moves"])
    assert refused["failed"]
    assert not refused["changed"]
    for word in (f"slots {slot} should go", away.address, "Nothing was moved", "new plan"):
        assert word in refused["msg"]
    assert cluster.ownership() == owned


def test_a_kept_plan_whose_target_is_no_member_any_more_is_refused(cluster: Cluster) -> None:
    plan = plan_to_double(cluster, 0)
    for move in plan["moves"]:
        move["target"] = "f" * 40
    owned = cluster.ownership()
    refused = run(cluster, "redis_slot_migrate", moves=plan["moves"])
    assert refused["failed"]
    assert "f" * 40 in refused["msg"]
    assert cluster.ownership() == owned
