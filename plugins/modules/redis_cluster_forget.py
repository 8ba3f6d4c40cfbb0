#!/usr/bin/python
# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_cluster_forget
short_description: Remove a node from a Redis or Valkey cluster
version_added: 1.0.0
description:
  - Makes all nodes of the cluster forget a node, and the node forget the cluster, so that it does not come back.
  - It returns when no node knows it any more.
  - A node that owns slots is refused before anything is changed. Drain it first, with
    M(keyslot.redis.redis_cluster_rebalance).
  - A node is refused as well while a slot is on its way to it or from it, or while it holds keys that clients can't see. Repair
    that first, with M(keyslot.redis.redis_cluster_fix).
  - Replicas of the node are given to other primaries first.
  - It works for a node that is down as well.
options:
  node:
    description:
      - The node, by its id or as C(host:port).
      - If it is a full id or C(host:port) and no node knows it, there is nothing to do.
    type: str
    required: true
  reset:
    description:
      - What to do with the removed node itself, if it can be reached.
      - V(none) leaves it as it is. Unless it is stopped, it can come back to the cluster after a minute.
      - V(soft) makes it a cluster of its own and keeps its id. A replica loses its data.
      - V(hard) gives it a new id as well.
    type: str
    choices:
      - none
      - soft
      - hard
    default: soft
  wait_timeout:
    description:
      - How long to wait until no node knows the node any more, in seconds.
    type: float
    default: 60
notes:
  - O(login_host) has to be a node that stays. O(startup_nodes) do not make up for it, they are asked only where it does not
    answer; and the node by which the cluster was entered is not removed.
  - On Valkey 8.1 and later, a node that was down when it was removed comes back if it is ever started with its old
    C(nodes.conf). The module warns of it.
  - Another member that is down and comes back later brings the node back. The module warns of that, too. Another member that
    lives has to be reachable.
extends_documentation_fragment:
  - keyslot.redis._attributes
  - keyslot.redis._attributes.actiongroup_redis_cluster
  - keyslot.redis._connection
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
seealso:
  - module: keyslot.redis.redis_cluster_rebalance
  - module: keyslot.redis.redis_cluster_meet
author:
  - keyslot.redis contributors (@keyslot)
"""

EXAMPLES = r"""
- name: Take all slots from a node
  keyslot.redis.redis_cluster_rebalance:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    drain:
      - 10.0.0.3:6379
    drain_only: true

- name: Remove the node from the cluster
  keyslot.redis.redis_cluster_forget:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    node: 10.0.0.3:6379

- name: Remove a node that is down
  keyslot.redis.redis_cluster_forget:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    node: "67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1"
"""

RETURN = r"""
id:
  description:
    - Id of the node. V(null) if no node knows it.
  type: str
  returned: success, and failure because the node owns slots
  sample: "67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1"
role:
  description:
    - What the node is or was, V(primary) or V(replica). V(null) if no node knows it.
  type: str
  returned: success, and failure because the node owns slots
  sample: primary
slot_count:
  description:
    - Number of slots that the node owns. V(null) if no node knows it.
  type: int
  returned: success, and failure because the node owns slots
  sample: 0
replicas_moved:
  description:
    - Replicas of the node that were given to other primaries. In check mode, those that would be.
  type: list
  elements: dict
  returned: success
  sample:
    - node: "292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f"
      primary: "07c37dfeb235213a872192d90877d0cd55635b91"
  contains:
    node:
      description: Id of the replica.
      type: str
    primary:
      description: Id of its new primary.
      type: str
forgotten_by:
  description:
    - Number of nodes that were told to forget it. In check mode, of those that would be.
  type: int
  returned: success
  sample: 5
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils._argspec import (
    ArgumentSpec,
    connection_argspec,
)
from ansible_collections.keyslot.redis.plugins.module_utils._module.redis_cluster_forget import run


def main() -> None:
    spec = connection_argspec().merge(
        ArgumentSpec(
            argument_spec={
                "node": {"type": "str", "required": True},
                "reset": {
                    "type": "str",
                    "choices": ["none", "soft", "hard"],
                    "default": "soft",
                },
                "wait_timeout": {"type": "float", "default": 60.0},
            },
        )
    )
    module = AnsibleModule(supports_check_mode=True, **spec.to_kwargs())
    run(module)


if __name__ == "__main__":
    main()
