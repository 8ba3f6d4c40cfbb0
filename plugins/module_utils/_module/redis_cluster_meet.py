# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""redis_cluster_meet: nodes join the cluster."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import OptionError
from ansible_collections.keyslot.redis.plugins.module_utils._lock import at_work
from ansible_collections.keyslot.redis.plugins.module_utils._membership import (
    Newcomer,
    check_may_meet,
    find_newcomers,
    is_member,
    meet,
)
from ansible_collections.keyslot.redis.plugins.module_utils._module._common import (
    Params,
    run_module,
)
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology


def run(module: AnsibleModule) -> None:
    """One run of the module."""

    def body(cluster: Cluster, params: Params) -> dict[str, t.Any]:
        return join(cluster, params, module.check_mode)

    run_module(module, body)


def join(cluster: Cluster, params: Params, check_mode: bool) -> dict[str, t.Any]:
    """The result."""
    references = [item for item in params["nodes"] if item.strip()]
    if not references:
        raise OptionError("no nodes were given: name some, as host:port.")
    warnings: list[str] = []
    topology, members, joining = _look(cluster, references)
    if not check_mode and joining:
        with at_work(cluster, topology, warnings.append):
            topology, members, joining = _look(cluster, references)
            meet(cluster, topology, [*members, *joining], params["wait_timeout"])
    elif not check_mode:
        # A run that was killed may have left them half-known.
        meet(cluster, topology, members, params["wait_timeout"])
    return {
        "changed": bool(joining),
        "joined": [{"node": n.reference, "id": n.id} for n in joining],
        "already_members": [{"node": n.reference, "id": n.id} for n in members],
        "warnings": warnings,
    }


def _look(
    cluster: Cluster, references: t.Sequence[str]
) -> tuple[Topology, list[Newcomer], list[Newcomer]]:
    """The cluster, those of the nodes that are members, and those that may join."""
    topology = cluster.observe()
    newcomers = find_newcomers(cluster, topology, references)
    members = [n for n in newcomers if is_member(topology, n)]
    joining = [n for n in newcomers if n not in members]
    if joining:
        check_may_meet(cluster, topology, joining)
    return topology, members, joining
