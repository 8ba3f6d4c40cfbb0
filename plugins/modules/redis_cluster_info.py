#!/usr/bin/python
# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_cluster_info
short_description: Show the nodes, slots and problems of a Redis or Valkey cluster
version_added: 1.0.0
description:
  - Asks every node of a Redis or Valkey cluster and puts the answers together.
  - It never changes anything in the cluster.
  - It also counts whether a node holds keys outside its slots, which clients can't see. That needs the permission for
    C(CLUSTER COUNTKEYSINSLOT); without it there is a warning. With that for C(MULTI) and C(EXEC) all is counted at one
    moment; without it, keys that clients write and delete meanwhile can be mistaken for such keys, or hide them.
options:
  gather:
    description:
      - What to ask the nodes for in addition.
      - V(keys) counts the keys of each node.
      - V(memory) reads the memory that each node uses.
      - V(slot_stats) reads what the server itself counts for each slot, where it does (Valkey 8.0 and later, Redis 8.2 and
        later).
    type: list
    elements: str
    choices:
      - keys
      - memory
      - slot_stats
    default: []
extends_documentation_fragment:
  - keyslot.redis._attributes
  - keyslot.redis._attributes.actiongroup_redis_cluster
  - keyslot.redis._attributes.info_module
  - keyslot.redis._connection
seealso:
  - module: keyslot.redis.redis_cluster_rebalance
author:
  - keyslot.redis contributors (@keyslot)
"""

EXAMPLES = r"""
- name: Look at the cluster
  keyslot.redis.redis_cluster_info:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
  register: cluster

- name: Stop if something is wrong
  ansible.builtin.assert:
    that: cluster.problems | length == 0
    fail_msg: "{{ cluster.problems | map(attribute='message') | join(' ') }}"

- name: Count the keys and the memory of each node
  keyslot.redis.redis_cluster_info:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    gather:
      - keys
      - memory
  register: cluster

- name: Show the primaries
  ansible.builtin.debug:
    msg: "{{ item.host }}:{{ item.port }} holds {{ item.slot_count }} slots and {{ item.key_count }} keys"
  loop: "{{ cluster.nodes | selectattr('role', 'eq', 'primary') }}"
  loop_control:
    label: "{{ item.id }}"
"""

RETURN = r"""
engine:
  description:
    - The software of the nodes.
  type: str
  returned: success
  sample: valkey
version:
  description:
    - The lowest version among the nodes.
  type: str
  returned: success
  sample: 9.1.0
state:
  description:
    - State of the cluster as its nodes tell it, V(ok) or V(fail).
  type: str
  returned: success
  sample: ok
agreed:
  description:
    - Whether all nodes tell the same map of slots.
  type: bool
  returned: success
  sample: true
problems:
  description:
    - What is not as it should be, the gravest first. Empty if all is well.
  type: list
  elements: dict
  returned: success
  sample:
    - kind: migrating_slot
      node: "07c37dfeb235213a872192d90877d0cd55635b91"
      slots:
        - "42"
      message: 10.0.0.1:6379 (07c37dfe) is migrating slots 42 to 10.0.0.2:6379 (67ed2db8).
  contains:
    kind:
      description:
        - What kind of problem it is, V(unreachable), V(state), V(disagreement), V(uncovered), V(migrating_slot),
          V(importing_slot), V(replica_migrating_slot), V(replica_importing_slot), V(stray_keys), V(link), V(address) or
          V(config).
      type: str
    node:
      description: Id of the node that has the problem. Empty if it is the whole cluster's.
      type: str
    slots:
      description: The slots it is about, each entry a slot or a range. Can be empty.
      type: list
      elements: str
    message:
      description: The problem in one sentence.
      type: str
nodes:
  description:
    - All nodes of the cluster.
  type: list
  elements: dict
  returned: success
  sample:
    - id: "07c37dfeb235213a872192d90877d0cd55635b91"
      host: 10.0.0.1
      port: 6379
      hostname: ""
      role: primary
      primary_id: null
      slots:
        - "0-5460"
      slot_count: 5461
      flags:
        - master
      reachable: true
      version: 9.1.0
      key_count: null
      used_memory: null
      slot_stats: null
  contains:
    id:
      description: Id of the node.
      type: str
    host:
      description: IP address that the node announces.
      type: str
    port:
      description: Port that the node announces.
      type: int
    hostname:
      description: Host name that the node announces. Empty if it announces none.
      type: str
    role:
      description: Either V(primary) or V(replica).
      type: str
    primary_id:
      description: Id of the node's primary. V(null) for a primary.
      type: str
    slots:
      description: The slots it owns, each entry a slot or a range.
      type: list
      elements: str
    slot_count:
      description: Number of slots it owns.
      type: int
    flags:
      description: The flags that C(CLUSTER NODES) shows for the node.
      type: list
      elements: str
    reachable:
      description: Whether the module could ask the node itself.
      type: bool
    version:
      description: Version of the node's software. V(null) if it could not be asked.
      type: str
    key_count:
      description: Number of keys of the node. V(null) unless O(gather) contains V(keys).
      type: int
    used_memory:
      description: Memory that the node uses, in bytes. V(null) unless O(gather) contains V(memory).
      type: int
    slot_stats:
      description:
        - The up to ten slots of the node that hold the most keys, each with C(slot), C(key_count) and
          what else the server counts.
        - V(null) unless O(gather) contains V(slot_stats), and where the server does not count.
      type: list
      elements: dict
open_slots:
  description:
    - Slots that a node has marked as being moved.
  type: list
  elements: dict
  returned: success
  sample:
    - slot: 42
      node: "07c37dfeb235213a872192d90877d0cd55635b91"
      kind: migrating
      peer: "67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1"
  contains:
    slot:
      description: The slot.
      type: int
    node:
      description: Id of the node that has marked it.
      type: str
    kind:
      description: Either V(migrating), away from the node, or V(importing), to the node.
      type: str
    peer:
      description: Id of the other node.
      type: str
uncovered_slots:
  description:
    - Slots that no node serves, each entry a slot or a range.
  type: list
  elements: str
  returned: success
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils._argspec import (
    ArgumentSpec,
    connection_argspec,
)
from ansible_collections.keyslot.redis.plugins.module_utils._module.redis_cluster_info import run


def main() -> None:
    spec = connection_argspec().merge(
        ArgumentSpec(
            argument_spec={
                "gather": {
                    "type": "list",
                    "elements": "str",
                    "choices": ["keys", "memory", "slot_stats"],
                    "default": [],
                },
            },
        )
    )
    module = AnsibleModule(supports_check_mode=True, **spec.to_kwargs())
    run(module)


if __name__ == "__main__":
    main()
