# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""redis_slot_migrate: named slots to named nodes."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils import _slice
from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import OptionError
from ansible_collections.keyslot.redis.plugins.module_utils._module._common import Params
from ansible_collections.keyslot.redis.plugins.module_utils._module._movers import run_mover
from ansible_collections.keyslot.redis.plugins.module_utils._plan import AssignGoal
from ansible_collections.keyslot.redis.plugins.module_utils._slots import parse_slots
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Topology


def run(module: AnsibleModule) -> None:
    """One run of the module."""
    run_mover(module, make_goal)


def make_goal(
    cluster: Cluster, params: Params, topology: Topology, check_mode: bool
) -> tuple[AssignGoal, Topology]:
    """The goal of `slots` and `target`, or of `moves`. Raises OptionError."""
    wanted = params["moves"]
    if wanted is None:
        wanted = [{name: params[name] for name in ("slots", "target", "source")}]
    targets: dict[int, str] = {}
    sources: dict[int, str] = {}
    for move in wanted:
        target = topology.require_primary(cluster.find(move["target"], topology), "target")
        source = cluster.find(move["source"], topology) if move.get("source") else None
        # A slice says so of what the slices before it have moved: it has to be there still.
        if source == target and not _slice.current():
            raise OptionError(f"{topology.name(target)} is both the source and the target.")
        slots = parse_slots([item for item in move["slots"] if item.strip()])
        if not slots:
            raise OptionError("no slots were given: name some, such as '0-99'.")
        twice = targets.keys() & set(slots)
        if twice:
            raise OptionError(f"slot {min(twice)} stands in two of the moves.")
        targets.update(dict.fromkeys(slots, target))
        if source is not None:
            sources.update(dict.fromkeys(slots, source))
    return AssignGoal(targets, sources, topology.name), topology
