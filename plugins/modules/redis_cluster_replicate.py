#!/usr/bin/python
# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_cluster_replicate
short_description: Make a node of a Redis or Valkey cluster a replica
version_added: 1.0.0
description:
  - Makes a node of the cluster a replica of a primary.
  - It returns when the node's link to its primary is up.
  - A node that owns slots or holds keys of its own is refused before anything is changed.
options:
  node:
    description:
      - The node that becomes a replica, by its id or as C(host:port).
      - It has to be a member of the cluster, see M(keyslot.redis.redis_cluster_meet). In check mode it can be an empty
        server at C(host:port) that is to join.
    type: str
    required: true
  primary:
    description:
      - The primary that O(node) replicates, by its id or as C(host:port).
      - V(auto) chooses the primary with the fewest replicas. A node that replicates any primary already is then left as it
        is.
    type: str
    required: true
  wait_timeout:
    description:
      - How long to wait until the link is up and all nodes agree, in seconds. The first synchronisation with the primary
        has to fit in.
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
  - module: keyslot.redis.redis_cluster_meet
author:
  - keyslot.redis contributors (@keyslot)
"""

EXAMPLES = r"""
- name: Make a node a replica of the primary that has the fewest
  keyslot.redis.redis_cluster_replicate:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    node: 10.0.0.5:6379
    primary: auto

- name: Make a node a replica of a certain primary
  keyslot.redis.redis_cluster_replicate:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    node: 10.0.0.5:6379
    primary: "07c37dfeb235213a872192d90877d0cd55635b91"
    wait_timeout: 600
"""

RETURN = r"""
node:
  description:
    - Id of the node.
  type: str
  returned: success
  sample: "292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f"
primary:
  description:
    - Id of its primary. In check mode, of the primary that it would have.
  type: str
  returned: success
  sample: "07c37dfeb235213a872192d90877d0cd55635b91"
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils._argspec import (
    ArgumentSpec,
    connection_argspec,
)
from ansible_collections.keyslot.redis.plugins.module_utils._module.redis_cluster_replicate import (
    run,
)


def main() -> None:
    spec = connection_argspec().merge(
        ArgumentSpec(
            argument_spec={
                "node": {"type": "str", "required": True},
                "primary": {"type": "str", "required": True},
                "wait_timeout": {"type": "float", "default": 60.0},
            },
        )
    )
    module = AnsibleModule(supports_check_mode=True, **spec.to_kwargs())
    run(module)


if __name__ == "__main__":
    main()
