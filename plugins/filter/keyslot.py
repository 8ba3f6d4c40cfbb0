# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: keyslot
short_description: The slot of a key in a Redis or Valkey cluster
version_added: 1.0.0
description:
  - Calculates the slot of a key as the servers do, without asking one.
  - If the key holds a hash tag, such as C({user1000}) in C({user1000}.followers), only the tag counts.
options:
  _input:
    description:
      - The key, as text, as bytes, or as a whole number, which stands for its digits.
    type: raw
    required: true
  encoding:
    description:
      - How a key that is given as text is turned into bytes.
    type: str
    default: utf-8
seealso:
  - plugin: keyslot.redis.slot_ranges
    plugin_type: filter
author:
  - keyslot.redis contributors (@keyslot)
"""

EXAMPLES = r"""
- name: Show the slot of a key
  ansible.builtin.debug:
    msg: "{{ 'foo' | keyslot.redis.keyslot }}"
    # 12182

- name: Show that keys with one hash tag share a slot
  ansible.builtin.debug:
    msg: "{{ ['{user1000}.following', '{user1000}.followers'] | map('keyslot.redis.keyslot') | unique }}"
    # [3443]

- name: Move the slot of a key
  keyslot.redis.redis_slot_migrate:
    login_host: 10.0.0.1
    slots:
      - "{{ 'cart:4711' | keyslot.redis.keyslot }}"
    target: 10.0.0.4:6379
"""

RETURN = r"""
_value:
  description:
    - The slot, from 0 to 16383.
  type: int
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.keyslot.redis.plugins.module_utils._slots import key_slot


def keyslot(key: t.Any, encoding: str = "utf-8") -> int:
    """The slot of a key. Raises AnsibleFilterError if it can be no key."""
    if isinstance(key, bytes):
        return key_slot(key)
    if not isinstance(key, (str, int)) or isinstance(key, bool):
        raise AnsibleFilterError(
            f"keyslot.redis.keyslot takes a key as text, bytes or a whole number, not {key!r}. "
            "Quote a key that YAML reads as something else; for a list use map."
        )
    try:
        return key_slot(str(key).encode(encoding))
    except (LookupError, UnicodeError) as exc:
        raise AnsibleFilterError(
            f"keyslot.redis.keyslot can't turn the key {key!r} into bytes: {exc}. Name the "
            "encoding in which clients write it."
        ) from exc


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"keyslot": keyslot}
