#!/usr/bin/python
# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_cluster_fix
short_description: Close open slots and assign slots that nobody serves in a Redis or Valkey cluster
version_added: 1.0.0
description:
  - Makes sure that no slot is left open, that all nodes agree on who owns what, and that no node holds keys of slots which
    are not its own.
  - A move that was begun is finished. Keys on a node that does not own their slot are brought to the one that does. Marks
    that mean nothing any more are cleared. A node that names another owner is told who it is.
  - No key is deleted unless the same key with the same value is kept on the owner of its slot. See O(on_busy_key) for keys
    whose values differ.
  - Nothing is changed while somebody else moves slots, nor where a node that may hold keys of such a slot can't be reached.
  - A run that was stopped or killed leaves nothing that the next run does not finish.
options:
  on_uncovered:
    description:
      - What to do about slots that nobody serves.
      - With V(fail) they are named, and nothing is changed.
      - With V(assign) each goes to the node that holds keys of it, to the one with the most keys if several do. Those of which
        nobody holds a key are given to the primaries with the fewest slots, so that the shares become as even as they can.
      - Keys that were on a node which is gone are not brought back by that.
    type: str
    choices:
      - fail
      - assign
    default: fail
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
      - RV(repairs) and RV(moves) are then the plan, and RV(slots_moved) is V(0).
      - Redis 8.4 and later does not tell, without a change, of which slots it holds keys that it does not own. Their number is
        shown all the same.
  diff_mode:
    support: full
  idempotent:
    support: full
notes:
  - "Here O(on_busy_key=replace) keeps the value that clients see, which is that on the owner of the slot."
  - The classic way is taken, whatever O(method) is, because the servers' own migration refuses slots that are open.
seealso:
  - module: keyslot.redis.redis_cluster_info
  - ref: ansible_collections.keyslot.redis.docsite.fix
    description: What it does about each state, beside what the servers' own tools do.
author:
  - keyslot.redis contributors (@keyslot)
"""

EXAMPLES = r"""
- name: Show what is wrong, and what would be done about it
  keyslot.redis.redis_cluster_fix:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
  check_mode: true
  diff: true

- name: Close what an aborted move has left open
  keyslot.redis.redis_cluster_fix:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
  register: fixed

- name: Show what was done
  ansible.builtin.debug:
    msg: "{{ fixed.repairs | map(attribute='message') | list }}"

- name: Give the slots of a node that is lost to the others
  keyslot.redis.redis_cluster_fix:
    login_host: 10.0.0.1
    login_password: "{{ redis_password }}"
    on_uncovered: assign
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
repairs:
  description:
    - What was put right. In check mode, what would be. Empty if all is well.
  type: list
  elements: dict
  returned: success and failure
  sample:
    - kind: finish
      node: "292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f"
      slots:
        - "42"
      message: "slots 42 are on their way from 10.0.0.1:6379 (07c37dfe) to 10.0.0.4:6379 (292f8b36): they go there."
  contains:
    kind:
      description:
        - V(assign) gives slots that nobody serves to the node.
        - V(agree) tells the node who owns the slots.
        - V(clear) clears marks of the node that mean nothing any more.
        - V(collect) brings keys, which the node holds and clients can't see, to the owner of their slots.
        - V(finish) finishes a move to the node.
      type: str
    node:
      description: Id of the node.
      type: str
    slots:
      description: The slots, each entry a slot or a range. Can be empty for V(collect) in check mode.
      type: list
      elements: str
    message:
      description: What was found, and what is done about it, in one sentence.
      type: str
moves:
  description:
    - What was moved. In check mode, the plan.
    - For keys that are brought to the owner of their slots, the source is the node that held them.
  type: list
  elements: dict
  returned: success and failure
  sample:
    - source: "07c37dfeb235213a872192d90877d0cd55635b91"
      target: "292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f"
      slots:
        - "42"
      slot_count: 1
      key_count: 61
      method: classic
      elapsed: 0.021
  contains:
    source:
      description: Id of the node that the slots or keys move away from.
      type: str
    target:
      description: Id of the node that they move to.
      type: str
    slots:
      description: The slots, each entry a slot or a range.
      type: list
      elements: str
    slot_count:
      description: Number of slots.
      type: int
    key_count:
      description: Number of keys. An estimate in check mode.
      type: int
    method:
      description: Always V(classic).
      type: str
    elapsed:
      description: How long it took, in seconds. V(0) in check mode.
      type: float
slots_moved:
  description:
    - Number of slots in RV(moves) that are done. V(0) in check mode.
  type: int
  returned: success and failure
  sample: 1
slots_left:
  description:
    - Number of slots in the plan's moves that are still to be done.
    - V(null) if the run failed before there was a plan.
  type: int
  returned: success and failure
  sample: 0
keys_moved:
  description:
    - Number of keys that were moved.
  type: int
  returned: success and failure
  sample: 61
longest_pause_ms:
  description:
    - The longest time that one step held up the clients of a node, in milliseconds.
  type: float
  returned: success and failure
  sample: 1.9
elapsed:
  description:
    - How long the run took, in seconds.
  type: float
  returned: success and failure
  sample: 0.874
diff:
  description:
    - Before, the slots of the nodes, one line for each node with its ranges and counts, and a line for each problem.
      After, the slots of the nodes, and a line for each repair.
  type: dict
  returned: success and failure, in diff mode
  sample:
    before: |
      10.0.0.1:6379 (07c37dfe): 8192 slots, 9981 keys: 0-8191
      10.0.0.4:6379 (292f8b36): 8192 slots, 10044 keys: 8192-16383
      10.0.0.1:6379 (07c37dfe) is migrating slots 42 to 10.0.0.4:6379 (292f8b36).
    after: |
      10.0.0.1:6379 (07c37dfe): 8191 slots, 9920 keys: 0-41 43-8191
      10.0.0.4:6379 (292f8b36): 8193 slots, 10105 keys: 42 8192-16383
      finish: slots 42 are on their way from 10.0.0.1:6379 (07c37dfe) to 10.0.0.4:6379 (292f8b36): they go there.
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
from ansible_collections.keyslot.redis.plugins.module_utils._module.redis_cluster_fix import run


def main() -> None:
    spec = (
        connection_argspec()
        .merge(movement_argspec())
        .merge(
            ArgumentSpec(
                argument_spec={
                    "on_uncovered": {
                        "type": "str",
                        "choices": ["fail", "assign"],
                        "default": "fail",
                    },
                },
            )
        )
    )
    module = AnsibleModule(supports_check_mode=True, **spec.to_kwargs())
    run(module)


if __name__ == "__main__":
    main()
