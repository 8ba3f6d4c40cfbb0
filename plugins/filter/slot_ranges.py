# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: slot_ranges
short_description: From slots to ranges of slots, and back
version_added: 1.0.0
description:
  - Writes slots as the modules of this collection take and return them, sorted, each entry a slot or a range.
  - With O(expand=true) it goes the other way, from ranges to single slots.
options:
  _input:
    description:
      - The slots, in any order. Each entry is a slot, as a number or as text, or a range such as C(0-99).
      - Slots that are named twice count once.
    type: list
    elements: raw
    required: true
  expand:
    description:
      - Whether to return every single slot as a number.
    type: bool
    default: false
seealso:
  - plugin: keyslot.redis.keyslot
    plugin_type: filter
author:
  - keyslot.redis contributors (@keyslot)
"""

EXAMPLES = r"""
- name: Write slots as ranges
  ansible.builtin.debug:
    msg: "{{ [200, 2, 1, 0] | keyslot.redis.slot_ranges }}"
    # ["0-2", "200"]

- name: Write ranges as slots
  ansible.builtin.debug:
    msg: "{{ ['0-2', '200'] | keyslot.redis.slot_ranges(expand=true) }}"
    # [0, 1, 2, 200]

- name: Move the slots of some keys
  keyslot.redis.redis_slot_migrate:
    login_host: 10.0.0.1
    slots: "{{ ['cart:1', 'cart:2'] | map('keyslot.redis.keyslot') | keyslot.redis.slot_ranges }}"
    target: 10.0.0.4:6379
"""

RETURN = r"""
_value:
  description:
    - A list of text, each entry a slot or a range. With O(expand=true) a list of numbers.
  type: list
  elements: raw
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.keyslot.redis.plugins.module_utils._errors import OptionError
from ansible_collections.keyslot.redis.plugins.module_utils._slots import format_slots, parse_slots


def slot_ranges(slots: t.Iterable[t.Any], expand: bool = False) -> list[str] | list[int]:
    """Slots and ranges as ranges, or as slots. Raises AnsibleFilterError if some are neither."""
    if isinstance(slots, (str, bytes, t.Mapping)) or not isinstance(slots, t.Iterable):
        raise AnsibleFilterError(
            f"keyslot.redis.slot_ranges takes a list of slots and ranges, not {slots!r}. Put a "
            "single one into a list, as in ['0-99']."
        )
    try:
        found = {slot for item in slots for slot in parse_slots([item])}
    except OptionError as exc:
        raise AnsibleFilterError(f"keyslot.redis.slot_ranges: {exc}") from exc
    return sorted(found) if expand else format_slots(found)


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"slot_ranges": slot_ranges}
