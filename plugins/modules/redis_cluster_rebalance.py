#!/usr/bin/python
# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_cluster_rebalance
short_description: Give each primary of a Redis or Valkey cluster its share of the slots
version_added: 1.0.0
description:
  - Moves slots with their keys so that each primary owns its share, by as few moves as possible. No node both gives and
    takes.
  - Clients can go on reading and writing meanwhile.
  - A run that was stopped or killed leaves nothing that the next run with the same options does not finish.
options:
  weights:
    description:
      - Weights of primaries. A primary with the weight 2 gets twice as many slots as one with the weight 1.
      - Primaries that are not named have the weight 1.
      - A primary without slots that is named here takes part.
    type: list
    elements: dict
    default: []
    suboptions:
      node:
        description:
          - The primary, by its id or as C(host:port).
        type: str
        required: true
      weight:
        description:
          - Its weight, greater than 0. To take all slots from a node, use O(drain).
        type: float
        required: true
  drain:
    description:
      - Primaries that shall give all their slots to others, each by its id or as C(host:port).
    type: list
    elements: str
    default: []
  drain_only:
    description:
      - If V(true), only the slots of the nodes in O(drain) move, to where they make the shares most even.
      - If V(false), the slots are evened out over all other primaries.
    type: bool
    default: false
  use_empty_primaries:
    description:
      - Whether primaries without slots that are not named in O(weights) get their share, too.
    type: bool
    default: false
  threshold:
    description:
      - By how many percent of its fair share a node may be off. If no node is off by more, nothing moves. If any node is, all
        get their exact share.
      - V(0) always makes all shares exact.
    type: float
    default: 2
  max_slots:
    description:
      - The largest number of slots to move in this run. The next run goes on from there.
      - V(0) means no limit.
    type: int
    default: 0
extends_documentation_fragment:
  - keyslot.redis._attributes
  - keyslot.redis._attributes.actiongroup_redis_cluster
  - keyslot.redis._attributes.mover
  - keyslot.redis._connection
  - keyslot.redis._movement
attributes:
  check_mode:
    support: full
    details:
      - RV(moves) is then the plan, and RV(slots_moved) is V(0).
  diff_mode:
    support: full
  idempotent:
    support: full
seealso:
  - module: keyslot.redis.redis_slot_migrate
  - module: keyslot.redis.redis_cluster_info
author:
  - keyslot.redis contributors (@keyslot)
"""

EXAMPLES = r"""
- name: Even out the slots
  keyslot.redis.redis_cluster_rebalance:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"

- name: Fill a new node, and give a bigger node twice as much
  keyslot.redis.redis_cluster_rebalance:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    weights:
      - node: 10.0.0.4:6379
        weight: 1
      - node: "07c37dfeb235213a872192d90877d0cd55635b91"
        weight: 2

- name: Empty a node and leave the others as they are
  keyslot.redis.redis_cluster_rebalance:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    drain:
      - 10.0.0.3:6379
    drain_only: true

- name: Use all primaries, and move 500 slots at most
  keyslot.redis.redis_cluster_rebalance:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    use_empty_primaries: true
    max_slots: 500

- name: Plan only, and save the plan for a review
  keyslot.redis.redis_cluster_rebalance:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
  check_mode: true
  diff: true
  register: plan
"""

RETURN = r"""
changed:
  description:
    - Whether something in the cluster was changed. In check mode, whether something would be changed.
  type: bool
  returned: success and failure
  sample: true
finished:
  description:
    - Whether nothing is left to do. V(false) after a failure, and if O(max_seconds) or O(max_slots) ended the run early.
    - In check mode V(false) if anything would move.
  type: bool
  returned: success and failure
  sample: true
moves:
  description:
    - What was moved. In check mode, the plan.
    - It can be passed to the option O(keyslot.redis.redis_slot_migrate#module:moves) as it is.
  type: list
  elements: dict
  returned: success and failure
  sample:
    - source: "07c37dfeb235213a872192d90877d0cd55635b91"
      target: "292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f"
      slots:
        - "0-1364"
      slot_count: 1365
      key_count: 83201
      method: atomic
      elapsed: 2.317
  contains:
    source:
      description: Id of the node that the slots move away from.
      type: str
    target:
      description: Id of the node that the slots move to.
      type: str
    slots:
      description: The slots, each entry a slot or a range.
      type: list
      elements: str
    slot_count:
      description: Number of slots.
      type: int
    key_count:
      description: Number of keys in these slots. An estimate in check mode, and where the server itself moves them.
      type: int
    method:
      description: How the slots are moved, V(atomic) or V(classic).
      type: str
    elapsed:
      description: How long it took, in seconds. V(0) in check mode.
      type: float
slots_moved:
  description:
    - Number of slots that were moved. V(0) in check mode.
  type: int
  returned: success and failure
  sample: 1365
slots_left:
  description:
    - Number of slots of the plan that are still to be moved.
    - V(null) if the run failed before there was a plan.
  type: int
  returned: success and failure
  sample: 0
keys_moved:
  description:
    - Number of keys that were moved. An estimate where the server itself moves them.
  type: int
  returned: success and failure
  sample: 83201
longest_pause_ms:
  description:
    - The longest time that one step held up the clients of a node, in milliseconds.
  type: float
  returned: success and failure
  sample: 6.4
elapsed:
  description:
    - How long the run took, in seconds.
  type: float
  returned: success and failure
  sample: 2.914
diff:
  description:
    - What each primary has before and after, one line for each with its numbers of slots and keys and its ranges.
    - The keys after are those before, less those in slots that leave, plus those in slots that come, as they were counted for the plan.
  type: dict
  returned: success and failure, in diff mode
  sample:
    before: |
      10.0.0.1:6379 (07c37dfe): 5461 slots, 6659 keys: 0-5460
      10.0.0.4:6379 (292f8b36): 0 slots, 0 keys
    after: |
      10.0.0.1:6379 (07c37dfe): 4096 slots, 4994 keys: 1365-5460
      10.0.0.4:6379 (292f8b36): 1365 slots, 1665 keys: 0-1364
  contains:
    before:
      description: The lines before the run.
      type: str
    after:
      description: The lines after the run. In check mode, as the plan would leave them.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils._argspec import (
    ArgumentSpec,
    connection_argspec,
    movement_argspec,
)
from ansible_collections.keyslot.redis.plugins.module_utils._module.redis_cluster_rebalance import (
    run,
)


def main() -> None:
    spec = (
        connection_argspec()
        .merge(movement_argspec())
        .merge(
            ArgumentSpec(
                argument_spec={
                    "weights": {
                        "type": "list",
                        "elements": "dict",
                        "default": [],
                        "options": {
                            "node": {"type": "str", "required": True},
                            "weight": {"type": "float", "required": True},
                        },
                    },
                    "drain": {"type": "list", "elements": "str", "default": []},
                    "drain_only": {"type": "bool", "default": False},
                    "use_empty_primaries": {"type": "bool", "default": False},
                    "threshold": {"type": "float", "default": 2.0},
                    "max_slots": {"type": "int", "default": 0},
                },
            )
        )
    )
    module = AnsibleModule(supports_check_mode=True, **spec.to_kwargs())
    run(module)


if __name__ == "__main__":
    main()
