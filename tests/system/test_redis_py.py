# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node's life with each version of redis-py that users may have where modules run.

All other tests run with the newest one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness import data
from tests.harness.ansible import COLLECTIONS
from tests.harness.cluster import Cluster
from tests.harness.cutting import run_module
from tests.harness.engines import Engine
from tests.harness.libraries import REDIS_PY, redis_py

pytestmark = pytest.mark.system


@pytest.fixture(params=REDIS_PY)
def library(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment in which modules find this version."""
    folder = redis_py(request.param)
    path = os.pathsep.join([str(folder), str(COLLECTIONS)])
    code = "import redis; print(redis.__version__, redis.__file__)"
    told = subprocess.check_output(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, text=True
    )
    assert told.split() == [request.param, str(Path(folder, "redis", "__init__.py"))]
    return {"PYTHONPATH": path}


def test_a_node_joins_takes_slots_and_leaves(engine: Engine, library: dict[str, str]) -> None:
    password = "a-näive-secret"
    with Cluster.start(engine, 3, 0, spare=1, password=password) as cluster:
        data.seed(cluster, 300)
        before = data.digest(cluster)
        spare, entry = cluster.spares[0], cluster.nodes[0]
        login = {"login_host": entry.host, "login_port": entry.port, "login_password": password}

        def succeed(module: str, **options: Any) -> dict[str, Any]:
            result = run_module(module, {**login, **options}, env=library)
            assert not result.get("failed"), result
            return result

        join_and_leave(succeed, spare.address)
        assert data.compare(before, data.digest(cluster)) == []
        cluster.wait_healthy(members=3)


def join_and_leave(succeed: Callable[..., dict[str, Any]], node: str) -> None:
    """A life of a primary, with the results that each step must have: it takes its slots the
    engine's own way where there is one, and gives them the classic way."""
    assert succeed("redis_cluster_meet", nodes=[node])["changed"]
    weights = [{"node": node, "weight": 1}]
    assert succeed("redis_cluster_rebalance", weights=weights)["slots_moved"] == 4096
    assert not succeed("redis_cluster_rebalance", weights=weights)["changed"]
    drained = succeed("redis_cluster_rebalance", drain=[node], drain_only=True, method="classic")
    assert drained["slots_moved"] == 4096
    assert succeed("redis_cluster_forget", node=node)["changed"]
    seen = succeed("redis_cluster_info", gather=["keys", "memory"])
    assert (seen["problems"], len(seen["nodes"])) == ([], 3)
