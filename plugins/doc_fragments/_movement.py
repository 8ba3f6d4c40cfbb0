# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This documentation fragment is **PRIVATE** to the collection: it can change in breaking ways at
# any time.

from __future__ import annotations


class ModuleDocFragment:
    # Keep in step with movement_argspec() in module_utils/_argspec.py.
    DOCUMENTATION = r"""
options:
  method:
    description:
      - How to move slots from one node to another.
      - V(auto) uses the atomic migration of the server where every node concerned has it, and the classic protocol
        elsewhere, also on Valkey with C(cluster-databases) above 1, whose atomic migration can lose writes there.
      - V(atomic) uses the atomic migration of the server (Redis 8.4 and later, Valkey 9.0 and later), and fails where it is
        not available.
      - V(classic) uses C(CLUSTER SETSLOT) and C(MIGRATE), which all versions have.
    type: str
    choices:
      - auto
      - atomic
      - classic
    default: auto
  max_pause_ms:
    description:
      - How long one step may hold up the clients of a node, in milliseconds of server time.
      - In the classic protocol, the number of keys in a step follows from it. Only a single key can take longer.
      - In atomic migration, it sizes the jobs as far as the server allows.
      - It never changes which method is used.
      - The least is V(0.1).
    type: float
    default: 10
  batch_size:
    description:
      - The largest number of keys in one C(MIGRATE) command of the classic protocol.
    type: int
    default: 100
  big_key_bytes:
    description:
      - The size of a key in bytes, as C(MEMORY USAGE) estimates it, above which the classic protocol does not move it. The
        servers stand still while one big key is moved, in bad cases for longer than the node timeout of the cluster.
      - The module fails and names the key before its slot is touched. A slot of more than 10,000 keys is checked while it
        is moved. If such a key is found then, the slot is left open, the failure names the key and the slot, and a later
        run goes on from there.
      - V(0) means no limit.
    type: int
    default: 16777216
  on_busy_key:
    description:
      - What to do about a key that exists on both nodes with different values. Equal values are settled without asking.
      - V(fail) stops and names the key.
      - V(replace) keeps the value of the node that the slot moves away from.
    type: str
    choices:
      - fail
      - replace
    default: fail
  wait_timeout:
    description:
      - How long to wait until all nodes agree on a change, in seconds.
      - Also for how long the server's own migration may make no progress before it is cancelled.
    type: float
    default: 60
  max_seconds:
    description:
      - After how many seconds to stop cleanly. The module then succeeds with RV(finished=false), and a later run goes on
        from there.
      - V(0) means no limit.
    type: float
    default: 0
  progress_interval:
    description:
      - How often to show the progress of a long run, in seconds. V(0) shows none.
      - A run that is estimated to take longer first shows what it is going to do. The lines go to the standard error of the
        controller. Between two of them the module ends and is started anew, which takes half a second or so; after the
        first ones the lines come so rarely that all of them together cost at most a few percent of the time.
      - Nothing is shown with C(async), with C(no_log), and in check mode.
    type: float
    default: 5
"""
