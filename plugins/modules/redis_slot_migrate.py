#!/usr/bin/python
# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_slot_migrate
short_description: Move slots between the nodes of a Redis or Valkey cluster
version_added: 1.0.0
description:
  - Makes sure that certain nodes own certain slots, and moves the slots with their keys where they do not.
  - Clients can go on reading and writing meanwhile.
  - A run that was stopped or killed leaves nothing that the next run with the same options does not finish.
  - Give either O(slots) and O(target), or O(moves).
options:
  slots:
    description:
      - The slots that O(target) shall own, each entry a slot or a range.
    type: list
    elements: str
  target:
    description:
      - The primary that shall own O(slots), by its id or as C(host:port).
    type: str
  source:
    description:
      - A guard. The module fails, before anything is changed, unless each of O(slots) is on this node or on O(target).
    type: str
  moves:
    description:
      - Several moves at once. This can be the RV(moves) that this module or M(keyslot.redis.redis_cluster_rebalance)
        returned in check mode, so that a plan can be saved, reviewed, and then carried out as it is.
    type: list
    elements: dict
    suboptions:
      slots:
        description:
          - The slots that the target shall own, each entry a slot or a range.
        type: list
        elements: str
        required: true
      target:
        description:
          - The primary that shall own them, by its id or as C(host:port).
        type: str
        required: true
      source:
        description:
          - A guard. The module fails, before anything is changed, unless each of the slots is on this node or on the target.
        type: str
      slot_count:
        description:
          - Ignored. Accepted so that a returned RV(moves) can be passed as it is.
        type: raw
      key_count:
        description:
          - Ignored. Accepted so that a returned RV(moves) can be passed as it is.
        type: raw
      method:
        description:
          - Ignored. Accepted so that a returned RV(moves) can be passed as it is. The option of the module that bears the
            same name decides.
        type: raw
      elapsed:
        description:
          - Ignored. Accepted so that a returned RV(moves) can be passed as it is.
        type: raw
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
  - module: keyslot.redis.redis_cluster_rebalance
  - module: keyslot.redis.redis_cluster_info
author:
  - keyslot.redis contributors (@keyslot)
"""

EXAMPLES = r"""
- name: Let one node own some slots
  keyslot.redis.redis_slot_migrate:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    slots:
      - "0-99"
      - "200"
    target: 10.0.0.2:6379

- name: Move slots only if they are where they are thought to be
  keyslot.redis.redis_slot_migrate:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    slots:
      - "0-99"
    source: "07c37dfeb235213a872192d90877d0cd55635b91"
    target: "67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1"

- name: Plan a rebalance, and change nothing
  keyslot.redis.redis_cluster_rebalance:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
  check_mode: true
  register: plan

- name: Carry out the plan as it is
  keyslot.redis.redis_slot_migrate:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    moves: "{{ plan.moves }}"

- name: Move slots for ten minutes at most, and gently
  keyslot.redis.redis_slot_migrate:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    slots:
      - "0-5460"
    target: 10.0.0.2:6379
    max_pause_ms: 3
    max_seconds: 600
  register: migration

- name: Show what is left for the next run
  ansible.builtin.debug:
    msg: "{{ migration.slots_left }} slots are left"
  when: not migration.finished
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
    - Whether nothing is left to do. V(false) after a failure, and if O(max_seconds) ended the run early.
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
from ansible_collections.keyslot.redis.plugins.module_utils._module.redis_slot_migrate import run


def main() -> None:
    spec = (
        connection_argspec()
        .merge(movement_argspec())
        .merge(
            ArgumentSpec(
                argument_spec={
                    "slots": {"type": "list", "elements": "str"},
                    "target": {"type": "str"},
                    "source": {"type": "str"},
                    "moves": {
                        "type": "list",
                        "elements": "dict",
                        "options": {
                            "slots": {"type": "list", "elements": "str", "required": True},
                            "target": {"type": "str", "required": True},
                            "source": {"type": "str"},
                            # Part of a returned plan; not used.
                            "slot_count": {"type": "raw"},
                            "key_count": {"type": "raw"},
                            "method": {"type": "raw"},
                            "elapsed": {"type": "raw"},
                        },
                    },
                },
                mutually_exclusive=[["moves", "slots"], ["moves", "target"], ["moves", "source"]],
                required_one_of=[["moves", "slots"]],
                required_together=[["slots", "target"]],
            )
        )
    )
    module = AnsibleModule(supports_check_mode=True, **spec.to_kwargs())
    run(module)


if __name__ == "__main__":
    main()
