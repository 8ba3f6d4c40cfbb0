#!/usr/bin/python
# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_cluster_meet
short_description: Make servers members of a Redis or Valkey cluster
version_added: 1.0.0
description:
  - Makes one or more servers members of the cluster, as primaries without slots.
  - It returns when every node knows every other node and the state of each new node is ok.
  - A server that holds keys, or belongs to another cluster, is refused before anything is changed.
  - Function libraries are copied to a new node, where the engine has them.
options:
  nodes:
    description:
      - The servers, each as C(host:port) or C(host:port@bus_port), as the other nodes shall connect to them.
      - The bus port is needed only if it is not the port plus 10000.
      - Servers that are members already are left as they are.
    type: list
    elements: str
    required: true
  wait_timeout:
    description:
      - How long to wait until all nodes know each other, in seconds.
    type: float
    default: 60
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
  - module: keyslot.redis.redis_cluster_replicate
  - module: keyslot.redis.redis_cluster_rebalance
  - module: keyslot.redis.redis_cluster_forget
author:
  - keyslot.redis contributors (@keyslot)
"""

EXAMPLES = r"""
- name: Add two servers to the cluster
  keyslot.redis.redis_cluster_meet:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    nodes:
      - 10.0.0.4:6379
      - 10.0.0.5:6379

- name: Add a server whose bus port is not the port plus 10000
  keyslot.redis.redis_cluster_meet:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    nodes:
      - 10.0.0.6:6379@7379
"""

RETURN = r"""
joined:
  description:
    - The servers that became members. In check mode, those that would.
  type: list
  elements: dict
  returned: success
  sample:
    - node: 10.0.0.4:6379
      id: "292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f"
  contains:
    node:
      description: The server, as in O(nodes).
      type: str
    id:
      description: Id of the node.
      type: str
already_members:
  description:
    - The servers that were members already.
  type: list
  elements: dict
  returned: success
  sample: []
  contains:
    node:
      description: The server, as in O(nodes).
      type: str
    id:
      description: Id of the node.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils._argspec import (
    ArgumentSpec,
    connection_argspec,
)
from ansible_collections.keyslot.redis.plugins.module_utils._module.redis_cluster_meet import run


def main() -> None:
    spec = connection_argspec().merge(
        ArgumentSpec(
            argument_spec={
                "nodes": {"type": "list", "elements": "str", "required": True},
                "wait_timeout": {"type": "float", "default": 60.0},
            },
        )
    )
    module = AnsibleModule(supports_check_mode=True, **spec.to_kwargs())
    run(module)


if __name__ == "__main__":
    main()
