# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes each task's result as a line of JSON to the file that KEYSLOT_RESULTS names."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: keyslot_results
type: notification
short_description: Task results as lines of JSON
description: For the project's own tests.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "keyslot_results"
    CALLBACK_NEEDS_ENABLED = True

    def _write(self, result: Any, **more: Any) -> None:
        told = {"task": result._task.get_name(), **more, "result": result._result}
        with open(os.environ["KEYSLOT_RESULTS"], "a", encoding="utf-8") as lines:
            lines.write(json.dumps(told, default=str) + "\n")

    def v2_runner_on_ok(self, result: Any) -> None:
        self._write(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._write(result, failed=True, ignored=ignore_errors)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._write(result, skipped=True)
