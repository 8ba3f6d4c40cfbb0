# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The installed tarball at work on a real cluster, with nothing of the checkout in sight."""

from __future__ import annotations

from pathlib import Path

from tests.harness import engines
from tests.harness.cluster import SLOTS, Cluster, count_slots, parse_ranges
from tests.harness.data import compare, digest, seed
from tests.package.tools import ROOT, run


def test_adds_a_node_and_moves_slots_from_anywhere(installed: Path, tmp_path: Path) -> None:
    assert ROOT not in tmp_path.parents
    with Cluster.start(engines.get("valkey-9.1"), 3, 0, spare=1) as cluster:
        seed(cluster, 500)
        before = digest(cluster)
        first, new = cluster.nodes[0], cluster.spares[0]

        variables = f"keyslot_login_port={first.port} add_node_nodes={new.address}"
        words = ("ansible-playbook", "keyslot.redis.add_node", "--extra-vars", variables)
        told = run(installed, *words, "-vv", cwd=tmp_path)
        assert str(installed) in told
        assert str(ROOT) not in told.replace(str(ROOT / ".venv"), "")
        assert count_slots(parse_ranges(cluster.ownership()[new.id])) == SLOTS // 4

        options = f"login_port={first.port} slots=0-99,200 target={new.address}"
        adhoc = ("ansible", "localhost", "-m", "keyslot.redis.redis_slot_migrate", "-a", options)
        assert "| CHANGED =>" in run(installed, *adhoc, cwd=tmp_path)
        assert {"0-99", "200"} <= set(cluster.ownership()[new.id])
        assert "| SUCCESS =>" in run(installed, *adhoc, cwd=tmp_path)

        cluster.wait_healthy(members=4)
        assert compare(before, digest(cluster)) == []
