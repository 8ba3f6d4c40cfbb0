# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: report_data
short_description: What the role keyslot.redis.report shows
version_added: 1.0.0
description:
  - This filter is PRIVATE to the role P(keyslot.redis.report#role). It can change in breaking ways at any time.
  - It turns one or two results of M(keyslot.redis.redis_cluster_info) into the texts and shapes of the report.
options:
  _input:
    description:
      - A result of M(keyslot.redis.redis_cluster_info).
    type: dict
    required: true
  before:
    description:
      - An earlier result to compare with.
    type: dict
author:
  - keyslot.redis contributors (@keyslot)
"""

EXAMPLES = r"""
- name: Show what is worth knowing of the cluster
  ansible.builtin.debug:
    msg: "{{ (cluster | keyslot.redis.report_data).remarks }}"
"""

RETURN = r"""
_value:
  description:
    - Texts and shapes for the role's template.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError

from ansible_collections.keyslot.redis.plugins.module_utils._errors import OptionError
from ansible_collections.keyslot.redis.plugins.plugin_utils._report import make_report


def report_data(
    result: dict[str, t.Any], before: dict[str, t.Any] | None = None
) -> dict[str, t.Any]:
    """See make_report. Raises AnsibleFilterError for what is no result of redis_cluster_info."""
    try:
        return make_report(result, before)
    except (AttributeError, KeyError, OptionError, TypeError) as exc:
        raise AnsibleFilterError(
            "the report needs results of keyslot.redis.redis_cluster_info; at least one of these "
            f"is something else ({type(exc).__name__}: {exc})."
        ) from exc


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"report_data": report_data}
