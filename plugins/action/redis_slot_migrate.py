# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import typing as t

from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.common.parameters import remove_values
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ansible_collections.keyslot.redis.plugins.module_utils._slice import VARIABLE, Slice
from ansible_collections.keyslot.redis.plugins.plugin_utils import _slices

ITEM_LENGTH = 60

display = Display()


class ActionModule(ActionBase):
    """For all modules that move slots; meta/runtime.yml routes the others here."""

    _supports_check_mode = True
    _supports_async = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None
    ) -> dict[str, t.Any]:
        result = super().run(None, task_vars)
        variables = task_vars or {}
        if self._in_one_piece():
            wrap = self._task.async_val
            result.update(self._execute_module(task_vars=variables, wrap_async=wrap))
            return result
        parent = os.getppid()
        prefix = self._prefix(variables)
        result.update(
            _slices.run(
                self._task.action,
                dict(self._task.args),
                lambda module, args, part: self._execute_slice(variables, module, args, part),
                lambda line: display.display(f"{prefix}: {line}", stderr=True),
                # A worker outlives a run that was killed.
                lambda: os.getppid() == parent,
            )
        )
        return result

    def _in_one_piece(self) -> bool:
        task = self._task
        return bool(
            task.async_val or task.check_mode or task.no_log or not _slices.wants_slices(task.args)
        )

    def _execute_slice(
        self, variables: dict[str, t.Any], module: str, args: dict[str, t.Any], part: Slice
    ) -> dict[str, t.Any]:
        """One execution. Only its environment tells the module that it is a slice."""
        kept = self._task.environment
        given = kept if isinstance(kept, list) else [kept] if kept else []
        self._task.environment = [*given, {VARIABLE: part.to_text()}]
        try:
            return self._execute_module(module_name=module, module_args=args, task_vars=variables)
        except AnsibleConnectionFailure as exc:
            return {"unreachable": True, "msg": str(exc)}
        finally:
            self._task.environment = kept

    def _prefix(self, variables: dict[str, t.Any]) -> str:
        """Host, item of the loop, module. No secret: what is the password is not shown."""
        host = variables.get("inventory_hostname", "")
        name = self._task.action.rpartition(".")[2]
        return f"[{host}]{self._item(variables)} {name}"

    def _item(self, variables: dict[str, t.Any]) -> str:
        variable = variables.get("ansible_loop_var")
        if not variable or variable not in variables:
            return ""
        label = self._task.loop_control.label if self._task.loop_control else None
        item = self._templar.template(label) if label else variables[variable]
        password = self._task.args.get("login_password")
        shown = remove_values(str(item), {str(password)} if password else set())
        shown = shown if len(shown) <= ITEM_LENGTH else f"{shown[: ITEM_LENGTH - 1]}…"
        return f" (item={shown})"
