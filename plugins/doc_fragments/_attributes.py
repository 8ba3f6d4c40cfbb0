# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This documentation fragment is **PRIVATE** to the collection: it can change in breaking ways at
# any time.

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying target.
  diff_mode:
    description: Will return details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
  idempotent:
    description:
      - When run twice in a row outside check mode, with the same arguments, the second invocation indicates no change.
      - This assumes that the system controlled/queried by the module has not changed in a relevant way.
"""

    # The fragments below are used together with the standard fragment.

    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This module does not modify state.
  diff_mode:
    support: N/A
    details:
      - This module does not modify state.
  idempotent:
    support: full
    details:
      - This module does not modify state.
"""

    MOVER = r"""
options: {}
attributes:
  action:
    description: Has a corresponding action plugin, so that a part of the work is done on the controller.
    support: full
    details:
      - It runs the module in slices and shows the progress between them, see O(progress_interval). Other runs are kept off
        between the slices, too.
      - Called by its short name, from a folder that E(ANSIBLE_LIBRARY) names, the module has no action plugin and shows no
        progress. With E(ANSIBLE_ACTION_PLUGINS) naming the folder of that, M(keyslot.redis.redis_slot_migrate) shows it, too;
        M(keyslot.redis.redis_cluster_rebalance) and M(keyslot.redis.redis_cluster_fix) show it by their full names alone.
  async:
    description: Supports being used with the C(async) keyword.
    support: partial
    details:
      - The module then runs in one piece, and no progress is shown.
"""

    ACTIONGROUP_REDIS_CLUSTER = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/keyslot.redis.redis_cluster) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - keyslot.redis.redis_cluster
"""
