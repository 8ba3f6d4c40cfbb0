# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: redis_cluster
short_description: The nodes of a Redis or Valkey cluster as hosts
version_added: 1.0.0
description:
  - Asks a running Redis or Valkey cluster for its nodes and makes each of them a host. It never changes anything in the cluster.
  - Its configuration is a YAML file whose name ends with C(redis_cluster.yml) or C(redis_cluster.yaml).
  - A host is named after the host name that its node announces, or else its address, and its port, as in C(10.0.0.1_6379); colons
    become dashes, since C(--limit) takes patterns apart at colons. O(hostnames) gives other names.
  - All nodes are in the group C(keyslot_nodes), primaries in C(keyslot_primaries), replicas in C(keyslot_replicas). A primary
    and its replicas are in one group C(keyslot_shard_0123abcd), named after the first 8 characters of the primary's id.
  - The variable C(ansible_host) is the address that the node announces. The others are those that
    M(keyslot.redis.redis_cluster_info) returns for a node, C(keyslot_node_id), C(keyslot_node_host), C(keyslot_node_port),
    C(keyslot_node_hostname), C(keyslot_node_role), C(keyslot_node_primary_id), C(keyslot_node_slots), C(keyslot_node_slot_count),
    C(keyslot_node_flags), C(keyslot_node_reachable) and C(keyslot_node_version), and C(keyslot_node_primary), the name of the host
    that is the primary of a replica.
  - The connection options are those of the modules. What they say of the module holds here for the controller. Their values can
    be Jinja2 templates, which know extra variables and lookups.
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices:
      - keyslot.redis.redis_cluster
  hostnames:
    description:
      - Jinja2 expressions for the name of a host, such as V(keyslot_node_hostname). They know the variables of the host; the first
        one that gives text that is not empty counts. If none does, the host has the name that it has without this option.
      - No two nodes can have the same name.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - keyslot.redis._connection
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
seealso:
  - module: keyslot.redis.redis_cluster_info
author:
  - keyslot.redis contributors (@keyslot)
"""

EXAMPLES = r"""
# The least: a file redis_cluster.yml. The password can also come from the environment variable REDISCLI_AUTH.
plugin: keyslot.redis.redis_cluster
login_host: 10.0.0.1
login_password: "{{ lookup('ansible.builtin.env', 'REDIS_PASSWORD') }}"

---
# One node a machine: hosts are named after machines. Nodes are grouped by version, and those that do not answer by themselves.
plugin: keyslot.redis.redis_cluster
login_host: 10.0.0.1
startup_nodes:
  - 10.0.0.2:6379
hostnames:
  - keyslot_node_hostname
  - keyslot_node_host
keyed_groups:
  - key: keyslot_node_version
    prefix: redis
groups:
  redis_down: not keyslot_node_reachable
compose:
  ansible_user: "'admin'"

---
# The answer is kept for ten minutes.
plugin: keyslot.redis.redis_cluster
login_host: 10.0.0.1
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: /tmp/redis_cluster_inventory
cache_timeout: 600
"""

import typing as t

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.utils.unsafe_proxy import wrap_var

from ansible_collections.keyslot.redis.plugins.module_utils._argspec import connection_argspec
from ansible_collections.keyslot.redis.plugins.module_utils._errors import KeyslotError
from ansible_collections.keyslot.redis.plugins.module_utils._module._common import connect
from ansible_collections.keyslot.redis.plugins.module_utils._module.redis_cluster_info import (
    describe,
)
from ansible_collections.keyslot.redis.plugins.module_utils._server import missing_library
from ansible_collections.keyslot.redis.plugins.module_utils._topology import MIN_PREFIX

Node = dict[str, t.Any]

FILE_NAMES = ("redis_cluster.yml", "redis_cluster.yaml")
CONNECTION = connection_argspec()
# What redis_cluster_info returns for a node, but for what has to be gathered.
FIELDS = (
    "id",
    "host",
    "port",
    "hostname",
    "role",
    "primary_id",
    "slots",
    "slot_count",
    "flags",
    "reachable",
    "version",
)


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    NAME = "keyslot.redis.redis_cluster"

    def verify_file(self, path: str) -> bool:
        """Whether the file is there and its name is one of ours."""
        return super().verify_file(path) and path.endswith(FILE_NAMES)

    def set_options(
        self, task_keys: t.Any = None, var_options: t.Any = None, direct: t.Any = None
    ) -> None:
        """Takes templates in the connection options before they are checked for their types."""
        if direct:
            self.templar.available_variables = self._vars or {}
            direct = {
                name: self.templar.template(value) if name in CONNECTION.argument_spec else value
                for name, value in direct.items()
            }
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)

    def parse(self, inventory: t.Any, loader: t.Any, path: str, cache: bool = True) -> None:
        """Adds the nodes. Raises AnsibleParserError with a sentence of what is wrong."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        key = self.get_cache_key(path)
        nodes: list[Node] | None = None
        if cache and self.get_option("cache"):
            nodes = self._cache.get(key)
        if nodes is None:
            nodes = self._ask()
            if self.get_option("cache"):
                self._cache[key] = nodes
        self._populate(nodes)

    def _ask(self) -> list[Node]:
        """The nodes as redis_cluster_info returns them."""
        missing = missing_library()
        if missing:
            raise AnsibleParserError(missing)
        options = {name: self.get_option(name) for name in CONNECTION.argument_spec}
        given = {name: value for name, value in options.items() if value is not None}
        checked = ArgumentSpecValidator(**CONNECTION.to_kwargs()).validate(given)
        if checked.error_messages:
            raise AnsibleParserError("; ".join(checked.error_messages))
        try:
            with connect(checked.validated_parameters) as cluster:
                return describe(cluster, {"gather": []})["nodes"]
        except KeyslotError as exc:
            raise AnsibleParserError(str(exc)) from exc

    def _populate(self, nodes: list[Node]) -> None:
        names: dict[str, str] = {}
        for node in nodes:
            name = self._name(node)
            other = next((known for known, taken in names.items() if taken == name), None)
            if other:
                raise AnsibleParserError(
                    f"the name '{name}' stands for two nodes, {other} and {node['id']}: make the "
                    "expressions in hostnames tell them apart, by keyslot_node_port for example."
                )
            names[node["id"]] = name
        for node in nodes:
            self._add(names[node["id"]], node, names.get(node["primary_id"]))

    def _name(self, node: Node) -> str:
        for expression in self.get_option("hostnames"):
            try:
                name = self._compose(expression, _variables(node))
            except AnsibleError as exc:
                raise AnsibleParserError(
                    f"the expression '{expression}' in hostnames fails for the node "
                    f"{node['id']}: {exc}"
                ) from exc
            if name:
                return str(name)
        host = node["hostname"] or node["host"] or node["id"][:MIN_PREFIX]
        return f"{host.replace(':', '-')}_{node['port']}"

    def _add(self, name: str, node: Node, primary: str | None) -> None:
        shard = (node["primary_id"] or node["id"])[:MIN_PREFIX]
        groups = ("nodes", "primaries" if node["role"] == "primary" else "replicas")
        for group in (*groups, f"shard_{shard}"):
            self.inventory.add_host(name, self.inventory.add_group(f"keyslot_{group}"))
        variables = {
            **_variables(node),
            "keyslot_node_primary": _untrusted(primary),
            "ansible_host": _untrusted(node["host"] or node["hostname"]),
        }
        for key, value in variables.items():
            self.inventory.set_variable(name, key, value)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict)


def _variables(node: Node) -> dict[str, t.Any]:
    """The host's variables, never taken for templates: servers choose their names."""
    return {f"keyslot_node_{name}": _untrusted(node[name]) for name in FIELDS}


def _untrusted(value: t.Any) -> t.Any:
    """Marked where it could be a template. Each mark is an object of its own in the list that
    ansible-inventory prints, so plain text is left plain."""
    if isinstance(value, list):
        return [_untrusted(item) for item in value]
    return wrap_var(value) if isinstance(value, str) and "{" in value else value
