# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""What all modules share: a cluster from their options, and errors to failures."""

from __future__ import annotations

import dataclasses
import math
import re
import socket
import typing as t
from types import MappingProxyType

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    KeyslotError,
    OptionError,
)
from ansible_collections.keyslot.redis.plugins.module_utils._server import (
    REDIS_IMPORT_ERROR,
    Login,
    missing_library,
)
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Topology,
    format_address,
    split_address,
)

Params = t.Mapping[str, t.Any]


def connect(params: Params) -> Cluster:
    """The cluster of the connection options; nothing is dialled yet. Raises OptionError."""
    for name in ("connect_timeout", "command_timeout"):
        if not 0 < params[name] < math.inf:
            raise OptionError(f"{name} must be a number of seconds above 0, not {params[name]:g}.")
    for name in ("ca_certs", "client_cert_file", "client_key_file"):
        if params["tls"] and params[name]:
            _check_file(name, params[name])
    login = Login(
        user=params["login_user"],
        password=params["login_password"],
        tls=params["tls"],
        validate_certs=params["validate_certs"],
        check_hostname=params["check_hostname"],
        ca_certs=params["ca_certs"],
        client_cert_file=params["client_cert_file"],
        client_key_file=params["client_key_file"],
        connect_timeout=params["connect_timeout"],
        command_timeout=params["command_timeout"],
    )
    if re.search(r"^[^:]*:\d+$|\]", params["login_host"]):
        raise OptionError(
            f"login_host takes no port and no brackets: give '{params['login_host']}' as "
            "login_host and login_port."
        )
    if not 0 < params["login_port"] < 65536:
        raise OptionError(f"login_port must be from 1 to 65535, not {params['login_port']}.")
    first = format_address(params["login_host"], params["login_port"])
    entries = [first, *(format_address(*split_address(item)) for item in params["startup_nodes"])]
    address_map = {
        format_address(*split_address(item["announced"])): item["reachable"]
        for item in params["address_map"]
    }
    for reachable in address_map.values():
        split_address(reachable)
    return Cluster(entries, login, address_map)


def _check_file(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as exc:
        raise OptionError(
            f"{name} can't be read: {exc}. It is a file on {socket.gethostname()}, where the "
            "module runs."
        ) from None


def find_or_joining(
    cluster: Cluster, reference: str, topology: Topology, check_mode: bool
) -> tuple[str, Topology]:
    """A member's id; in check mode also that of an empty node which answers at `host:port`, so
    that a workflow that would first join it can show its plan."""
    try:
        return cluster.find(reference, topology), topology
    except OptionError:
        if not check_mode or ":" not in reference:
            raise
        try:
            report = cluster.dial(reference).report()
        except KeyslotError:
            report = None
        if report is None or report.key_count or len(report.view.lines) > 1:
            raise
    host, _colon, port = reference.rpartition(":")
    line = dataclasses.replace(report.view.me, host=host.strip("[]"), port=int(port))
    return line.id, dataclasses.replace(topology, joining={**topology.joining, line.id: line})


def run_module(
    module: AnsibleModule,
    body: t.Callable[[Cluster, Params], dict[str, t.Any]],
    nothing_done: t.Mapping[str, t.Any] = MappingProxyType({}),
) -> None:
    """Runs `body` and exits with the result it returns, or fails with the error it raises.

    A result with `msg` and `failed` fails the module too, with all that it says. `nothing_done`:
    fields of a failure for which the error itself has none.
    """
    missing = missing_library()
    if missing:
        module.fail_json(msg=missing, exception=REDIS_IMPORT_ERROR, **nothing_done)
    try:
        with connect(module.params) as cluster:
            result = body(cluster, module.params)
    except KeyslotError as exc:
        module.fail_json(msg=str(exc), **{**nothing_done, **exc.details})
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)
