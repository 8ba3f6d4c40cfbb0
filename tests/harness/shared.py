# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One cluster for many tests."""

from __future__ import annotations

from collections.abc import Callable

import redis

from tests.harness.cluster import Cluster
from tests.harness.views import me

NODES = 6


def followed(cluster: Cluster) -> bool:
    """Whether three primaries own slots and have one replica each."""
    owners = sorted(cluster.ownership())
    return len(owners) == 3 and sorted(me(node).primary_id for node in cluster.replicas()) == owners


class SharedCluster:
    """Three primaries with a replica each, without keys; made anew when a test has left them out of
    order.

    `make` starts the cluster, `fits` says whether it is as it was made, besides being healthy.
    """

    def __init__(self, make: Callable[[], Cluster], fits: Callable[[Cluster], bool] = followed):
        self._make = make
        self._fits = fits
        self._cluster: Cluster | None = None

    def get(self, fresh: bool = False) -> Cluster:
        """fresh: of new nodes, for tests in which an old owner comes back. A Redis 7.0 that has
        seen an owner claim its slot no more goes on to yield that slot to anyone, even when it
        owns it itself (redis #12564): such marks of earlier tests can't be seen."""
        if self._cluster and (fresh or not self._usable(self._cluster)):
            self.close()
        if self._cluster is None:
            self._cluster = self._make()
        return self._cluster

    def _usable(self, cluster: Cluster) -> bool:
        try:
            if len(cluster.members()) != NODES:
                return False
            cluster.wait_healthy(members=NODES)
            fits = self._fits(cluster)
            for node in cluster.primaries():
                node.call("FLUSHALL")
            return fits
        except (AssertionError, redis.RedisError, OSError):
            return False

    def close(self) -> None:
        if self._cluster:
            self._cluster.close()
        self._cluster = None
