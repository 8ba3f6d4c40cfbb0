# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots that move while tens of thousands of SETs a second arrive for them."""

from __future__ import annotations

import time

import pytest

from tests.harness import data
from tests.harness.clients import LiveClients
from tests.harness.cluster import Cluster
from tests.harness.cutting import run_module
from tests.harness.engines import Engine
from tests.harness.flood import Meter, flood

pytestmark = [pytest.mark.system, pytest.mark.every_engine]

MOVING = 2048
# S gives all but 52 of its slots, T gets them.
SHARES = ["0-2099", "2100-9000", "9001-16383"]
# What is aimed at is 50,000 SET/s; a machine that is busy with other tests may give less.
LEAST_RATE = 5_000


def test_slots_move_under_a_flood_of_writes(engine: Engine, method: str) -> None:
    """In the way that was asked for, and no acknowledged write is lost."""
    way = "classic" if method == "auto" and not engine.atomic else method.replace("auto", "atomic")
    with Cluster.start(engine, 3, 1, slots=SHARES) as cluster:
        source, _other, target = cluster.nodes[:3]
        for slot in range(0, MOVING, 16):
            data.seed_slot(cluster, slot, 20)
        before = data.digest(cluster)
        options = {
            "login_host": source.host,
            "login_port": source.port,
            "slots": [f"0-{MOVING - 1}"],
            "target": target.id,
            "method": method,
            "progress_interval": 0,
        }
        with LiveClients(cluster, rate=300, slots=[f"0-{MOVING - 1}"]) as clients:
            with flood(cluster):
                meter = Meter(source)
                time.sleep(1)
                rate = meter.rate() * MOVING / 2100
                written = clients.writes
                result = run_module("redis_slot_migrate", options)
                after = Meter(target)
                time.sleep(1)
                went_on = after.rate()
            assert clients.writes > written
        took = result["elapsed"]
        print(f"{rate:,.0f} SET/s on {MOVING} slots, which moved in {took:.1f} s by {method}")
        assert not result.get("failed"), result["msg"]
        assert result["finished"] is True
        assert {move["method"] for move in result["moves"]} == {way}, result.get("warnings")
        assert result.get("warnings", []) == []
        assert min(rate, went_on) > LEAST_RATE
        cluster.wait_healthy()
        assert set(cluster.slot_owners()[:MOVING]) == {target}
        assert clients.lost() == []
        kept = data.digest(cluster)
        assert data.compare(before, {name: kept[name] for name in before if name in kept}) == []
        again = run_module("redis_slot_migrate", options)
        assert (again["changed"], again["moves"]) == (False, [])
