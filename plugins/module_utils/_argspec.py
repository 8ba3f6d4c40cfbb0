# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""Argument specifications that merge. For each one here there is a documentation fragment."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible.module_utils.basic import env_fallback

Spec = dict[str, dict[str, t.Any]]
Groups = list[list[str]]


@dataclass(frozen=True)
class ArgumentSpec:
    """Options and the rules between them, as AnsibleModule takes them."""

    argument_spec: Spec = field(default_factory=dict)
    mutually_exclusive: Groups = field(default_factory=list)
    required_together: Groups = field(default_factory=list)
    required_one_of: Groups = field(default_factory=list)
    required_by: dict[str, list[str]] = field(default_factory=dict)

    def merge(self, other: ArgumentSpec) -> ArgumentSpec:
        """Both in one, a new object. Raises ValueError if an option is in both."""
        twice = sorted(self.argument_spec.keys() & other.argument_spec.keys())
        if twice:
            raise ValueError(f"Options specified twice: {', '.join(twice)}")
        required_by = {name: [*names] for name, names in self.required_by.items()}
        for name, names in other.required_by.items():
            required_by.setdefault(name, []).extend(names)
        return ArgumentSpec(
            argument_spec={**self.argument_spec, **other.argument_spec},
            mutually_exclusive=[*self.mutually_exclusive, *other.mutually_exclusive],
            required_together=[*self.required_together, *other.required_together],
            required_one_of=[*self.required_one_of, *other.required_one_of],
            required_by=required_by,
        )

    def to_kwargs(self) -> dict[str, t.Any]:
        """The keyword arguments of AnsibleModule."""
        return {
            "argument_spec": self.argument_spec,
            "mutually_exclusive": self.mutually_exclusive,
            "required_together": self.required_together,
            "required_one_of": self.required_one_of,
            "required_by": self.required_by,
        }


def connection_argspec() -> ArgumentSpec:
    """How to reach the cluster: doc fragment `_connection`."""
    return ArgumentSpec(
        argument_spec={
            "login_host": {"type": "str", "default": "localhost"},
            "login_port": {"type": "int", "default": 6379},
            "startup_nodes": {"type": "list", "elements": "str", "default": []},
            "login_user": {"type": "str"},
            "login_password": {
                "type": "str",
                "no_log": True,
                "fallback": (env_fallback, ["REDISCLI_AUTH"]),
            },
            "tls": {"type": "bool", "default": False},
            "validate_certs": {"type": "bool", "default": True},
            "check_hostname": {"type": "bool", "default": True},
            "ca_certs": {"type": "path"},
            "client_cert_file": {"type": "path"},
            "client_key_file": {"type": "path"},
            "address_map": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "announced": {"type": "str", "required": True},
                    "reachable": {"type": "str", "required": True},
                },
            },
            "connect_timeout": {"type": "float", "default": 5.0},
            "command_timeout": {"type": "float", "default": 60.0},
        },
        # The other way round is fine: a file may hold both the certificate and its key.
        required_by={"client_key_file": ["client_cert_file"]},
    )


def movement_argspec() -> ArgumentSpec:
    """How slots are moved: doc fragment `_movement`."""
    return ArgumentSpec(
        argument_spec={
            "method": {
                "type": "str",
                "choices": ["auto", "atomic", "classic"],
                "default": "auto",
            },
            "max_pause_ms": {"type": "float", "default": 10.0},
            "batch_size": {"type": "int", "default": 100},
            "big_key_bytes": {"type": "int", "default": 16777216, "no_log": False},
            "on_busy_key": {
                "type": "str",
                "choices": ["fail", "replace"],
                "default": "fail",
            },
            "wait_timeout": {"type": "float", "default": 60.0},
            "max_seconds": {"type": "float", "default": 0.0},
            "progress_interval": {"type": "float", "default": 5.0},
        },
    )
