# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This documentation fragment is **PRIVATE** to the collection: it can change in breaking ways at
# any time.

from __future__ import annotations


class ModuleDocFragment:
    # Keep in step with connection_argspec() in module_utils/_argspec.py.
    DOCUMENTATION = r"""
requirements:
  - python >= 3.9
  - redis >= 4.3 (the Python package)
options:
  login_host:
    description:
      - Host name or IP address of any node of the cluster. All other nodes are discovered from it.
    type: str
    default: localhost
  login_port:
    description:
      - TCP port of O(login_host). With O(tls=true), its TLS port.
    type: int
    default: 6379
  startup_nodes:
    description:
      - More nodes of the cluster, each as C(host:port). They are tried in turn when O(login_host) cannot be reached.
      - An IPv6 address stands in brackets, as in C([2001:db8::1]:6379).
    type: list
    elements: str
    default: []
  login_user:
    description:
      - Name of the ACL user to log in as, on every node.
      - If it is not set, the user C(default) logs in.
    type: str
  login_password:
    description:
      - Password of O(login_user), on every node.
      - If it is not set, it is taken from the environment variable E(REDISCLI_AUTH) of the host that the module runs on.
        Prefer the variable for ad-hoc commands, because Ansible itself prints what stands in C(-a) when a task fails.
    type: str
  tls:
    description:
      - Whether to use TLS for the connections to the nodes.
      - A node that announces a host name is connected to, and its certificate is checked, by that name.
    type: bool
    default: false
  validate_certs:
    description:
      - Whether the certificates of the nodes must be valid. Only used with O(tls=true).
    type: bool
    default: true
  check_hostname:
    description:
      - Whether the certificate of a node must match the host name or IP address that it is connected to by.
      - Only used with O(tls=true) and O(validate_certs=true).
    type: bool
    default: true
  ca_certs:
    description:
      - Path of a file of CA certificates that the certificates of the nodes are checked with.
      - If it is not set, the CA certificates of the host that the module runs on are used.
    type: path
  client_cert_file:
    description:
      - Path of the client certificate, for servers that ask for one.
    type: path
  client_key_file:
    description:
      - Path of the private key of O(client_cert_file). It can be left out if that file holds the key as well.
    type: path
  address_map:
    description:
      - Where to connect to nodes whose announced addresses cannot be reached from where the module runs, for example
        because of NAT or mapped ports.
      - It is used for the connections of the module only. What the nodes tell each other stays as they announce it.
    type: list
    elements: dict
    default: []
    suboptions:
      announced:
        description:
          - The address that the node announces, as C(host:port).
        type: str
        required: true
      reachable:
        description:
          - The address to connect to instead, as C(host:port).
        type: str
        required: true
  connect_timeout:
    description:
      - How long to wait for a connection to a node, in seconds.
    type: float
    default: 5
  command_timeout:
    description:
      - How long to wait for the answer to one command, in seconds.
    type: float
    default: 60
notes:
  - The module connects to the nodes of the cluster itself. The host that it runs on has to reach every one of them, not
    only O(login_host).
  - Run it once for a cluster, not once for each of its hosts. Use C(run_once) or a play for one host.
  - A node can be named by its full id, by the first 8 or more characters of its id if only one node's id begins so, or by
    C(host:port). Quote ids in YAML, since some of them would be read as numbers.
"""
