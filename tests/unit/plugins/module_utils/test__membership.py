# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.keyslot.redis.plugins.module_utils import _membership
from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import Refused
from ansible_collections.keyslot.redis.plugins.module_utils._membership import (
    Newcomer,
    find_newcomers,
)
from ansible_collections.keyslot.redis.plugins.module_utils._server import Login
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Report,
    Topology,
    parse_view,
)

MEMBER, NEWCOMER = "a" * 40, "b" * 40
SEED, NEW = "10.0.0.1:6379", "10.0.0.2:6379"
ROWS = {
    MEMBER: f"{MEMBER} {SEED}@16379 master - 0 0 1 connected",
    NEWCOMER: f"{NEWCOMER} {NEW}@16379 master - 0 0 2 connected",
}


def report(me: str, state: str, **slots: str) -> Report:
    """What a node says that knows both."""
    rows = [
        f"{row.replace('master', 'myself,master') if node == me else row} {slots.get(node[0], '')}"
        for node, row in ROWS.items()
    ]
    return Report(parse_view("\n".join(rows)), {"cluster_state": state}, {}, {})


def look(monkeypatch: pytest.MonkeyPatch, first: list[Report], then: Report) -> list[Newcomer]:
    """The cluster as it was seen first, and what the newcomer says when it is asked by itself."""
    cluster = Cluster([], Login(), {})
    topology = Topology({found.id: found for found in first}, {}, MEMBER)
    newcomer = Newcomer(NEW, "10.0.0.2", 6379, 16379, cluster.dial(NEW), then)
    monkeypatch.setattr(_membership, "_look_at", lambda _cluster, _reference: newcomer)
    return find_newcomers(cluster, topology, [NEW])


@pytest.mark.parametrize("first", ["ok", "fail"])
@pytest.mark.parametrize("then", ["ok", "fail"])
def test_what_a_half_known_newcomer_says_is_no_reason_to_refuse(
    monkeypatch: pytest.MonkeyPatch, first: str, then: str
) -> None:
    knows_slots = {"a": "0-16383"} if first == "ok" else {}
    seen = [report(MEMBER, "ok", a="0-16383"), report(NEWCOMER, first, **knows_slots)]
    found = look(monkeypatch, seen, report(NEWCOMER, then, a="0-16383"))
    assert [newcomer.id for newcomer in found] == [NEWCOMER]


def test_a_member_with_slots_that_is_not_in_order_is_a_reason_to_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots = {"a": "0-8191", "b": "8192-16383"}
    seen = [report(MEMBER, "ok", **slots), report(NEWCOMER, "fail", **slots)]
    with pytest.raises(Refused, match="says that the cluster's state is not ok"):
        look(monkeypatch, seen, report(NEWCOMER, "fail", **slots))
