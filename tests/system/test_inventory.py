# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory plugin under ansible-inventory, on a cluster with a password."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.ansible import environment
from tests.harness.cluster import Cluster, parse_nodes
from tests.harness.engines import Engine
from tests.harness.node import Node

pytestmark = [pytest.mark.system, pytest.mark.stand_for_all("redis-7.0")]

PASSWORD = "secret-4711"
PLUGIN = "keyslot.redis.redis_cluster"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cluster(engine: Engine) -> Iterator[Cluster]:
    with Cluster.start(engine, 3, 1, password=PASSWORD) as made:
        yield made
        made.assert_healthy(members=6)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs ansible-inventory on a configuration, whose file can have another name."""

    def run_inventory(
        config: dict[str, Any] | str,
        *words: str,
        name: str = "redis_cluster.yml",
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        file = tmp_path / name
        file.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
        program = Path(sys.executable).with_name("ansible-inventory")
        return subprocess.run(
            [str(program), "--inventory", str(file), "--list", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=environment(ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED="true", **env),
        )

    return run_inventory


def config(cluster: Cluster, **more: Any) -> dict[str, Any]:
    """A configuration that enters the cluster by its first node."""
    node = cluster.nodes[0]
    login = {"login_host": node.host, "login_port": node.port, "login_password": PASSWORD}
    return {"plugin": PLUGIN, **login, **more}


def listed(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a run lists; it has to succeed without a warning, and not to tell the password."""
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return json.loads(done.stdout, object_hook=_plain)


def _plain(found: dict[str, Any]) -> Any:
    """As Ansible reads its own lists: text that must not be taken for a template is marked."""
    return found.get("__ansible_unsafe", found)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """Why a run fails, in one line; without a traceback and without the password."""
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return " ".join(done.stderr.split())


def names(nodes: list[Node]) -> list[str]:
    return sorted(f"{node.host}_{node.port}" for node in nodes)


def hosts(told: dict[str, Any], group: str) -> list[str]:
    return sorted(told[group]["hosts"])


@pytest.mark.stand_for_all("valkey-9.1", "redis-7.0")
def test_nodes_are_hosts_grouped_by_role_and_shard(cluster: Cluster, run: Run) -> None:
    told = listed(run(config(cluster)))
    primaries, replicas = cluster.primaries(), cluster.replicas()
    assert hosts(told, "keyslot_nodes") == names(cluster.nodes)
    assert hosts(told, "keyslot_primaries") == names(primaries)
    assert hosts(told, "keyslot_replicas") == names(replicas)
    for primary in primaries:
        followers = [
            replica
            for replica in replicas
            for line in parse_nodes(replica.call("CLUSTER", "NODES").decode())
            if line.id == replica.id and line.primary_id == primary.id
        ]
        assert len(followers) == 1
        assert hosts(told, f"keyslot_shard_{primary.id[:8]}") == names([primary, *followers])


@pytest.mark.stand_for_all("valkey-9.1", "redis-7.0")
def test_host_variables_say_what_the_servers_say(cluster: Cluster, run: Run) -> None:
    hostvars = listed(run(config(cluster)))["_meta"]["hostvars"]
    owned = cluster.ownership()
    by_id = {node.id: node for node in cluster.nodes}
    assert len(hostvars) == len(by_id)
    for name, told in hostvars.items():
        node = by_id[told["keyslot_node_id"]]
        (line,) = [
            line
            for line in parse_nodes(node.call("CLUSTER", "NODES").decode())
            if line.id == node.id
        ]
        assert name == f"{node.host}_{node.port}"
        assert told["ansible_host"] == told["keyslot_node_host"] == node.host
        assert told["keyslot_node_port"] == node.port
        assert told["keyslot_node_slots"] == owned.get(node.id, [])
        assert told["keyslot_node_reachable"] is True
        if "slave" in line.flags:
            primary = by_id[line.primary_id]
            assert told["keyslot_node_role"] == "replica"
            assert told["keyslot_node_primary_id"] == primary.id
            assert told["keyslot_node_primary"] == f"{primary.host}_{primary.port}"
        else:
            assert told["keyslot_node_role"] == "primary"
            assert told["keyslot_node_slot_count"] > 5000
            assert told["keyslot_node_primary"] is None


def test_password_comes_from_the_environment(cluster: Cluster, run: Run) -> None:
    options = config(cluster)
    del options["login_password"]
    told = listed(run(options, REDISCLI_AUTH=PASSWORD))
    assert hosts(told, "keyslot_nodes") == names(cluster.nodes)


def test_options_can_be_templates_of_any_type(cluster: Cluster, run: Run) -> None:
    first, second = cluster.nodes[:2]
    options = config(
        cluster,
        login_port="{{ closed_port }}",
        login_password="{{ lookup('ansible.builtin.env', 'HIDDEN') }}",
        startup_nodes="{{ [first, second] }}",
        connect_timeout="{{ 1.5 * 2 }}",
    )
    variables = {"closed_port": 1, "first": first.address, "second": second.address}
    told = listed(run(options, "--extra-vars", json.dumps(variables), HIDDEN=PASSWORD))
    assert hosts(told, "keyslot_nodes") == names(cluster.nodes)


def test_constructed_groups_and_variables(cluster: Cluster, run: Run) -> None:
    options = config(
        cluster,
        compose={"shown": "keyslot_node_role ~ '@' ~ ansible_host"},
        groups={"holders": "keyslot_node_slot_count > 0"},
        keyed_groups=[{"key": "keyslot_node_version", "prefix": "version"}],
        strict=True,
    )
    told = listed(run(options))
    assert hosts(told, "holders") == names(cluster.primaries())
    (version,) = {
        node.info("server").get("valkey_version") or node.info("server")["redis_version"]
        for node in cluster.nodes
    }
    assert hosts(told, f"version_{version.replace('.', '_')}") == names(cluster.nodes)
    shown = {told["_meta"]["hostvars"][name]["shown"] for name in names(cluster.nodes)}
    assert shown == {"primary@127.0.0.1", "replica@127.0.0.1"}


def test_strict_names_an_expression_that_fails(cluster: Cluster, run: Run) -> None:
    wrong = config(cluster, compose={"shown": "no_such_variable"})
    assert hosts(listed(run(wrong)), "keyslot_nodes") == names(cluster.nodes)
    assert "shown" in refusal(run({**wrong, "strict": True}))


def test_hostnames_give_other_names(cluster: Cluster, run: Run) -> None:
    told = listed(run(config(cluster, hostnames=["keyslot_node_hostname", "keyslot_node_id"])))
    assert hosts(told, "keyslot_nodes") == sorted(node.id for node in cluster.nodes)


def test_one_name_for_two_nodes_is_refused(cluster: Cluster, run: Run) -> None:
    why = refusal(run(config(cluster, hostnames=["keyslot_node_host"])))
    assert "the name '127.0.0.1' stands for two nodes" in why
    assert "keyslot_node_port" in why


def test_cache_answers_until_it_is_flushed(cluster: Cluster, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    options = config(
        cluster,
        cache=True,
        cache_plugin="ansible.builtin.jsonfile",
        cache_connection=str(folder),
        groups={"holders": "keyslot_node_slot_count > 0"},
    )
    first = listed(run(options))
    (kept,) = folder.iterdir()
    assert PASSWORD not in kept.read_text()
    # Nobody answers at port 1: what comes now comes from the cache.
    deaf = {**options, "login_port": 1}
    assert listed(run(deaf)) == first
    assert "127.0.0.1:1" in refusal(run(deaf, "--flush-cache"))


def test_an_announced_host_name_is_the_name_of_the_host(engine: Engine, run: Run) -> None:
    if engine.release < (7, 0):
        pytest.skip("announces no host names")
    setting = {"cluster-announce-hostname": "shop-1.example.com"}
    with Cluster.start(engine, 3, 0, config=setting) as cluster:
        options = config(cluster)
        del options["login_password"]
        told = listed(run(options))["_meta"]["hostvars"]
        assert sorted(told) == sorted(f"shop-1.example.com_{node.port}" for node in cluster.nodes)
        assert {variables["ansible_host"] for variables in told.values()} == {"127.0.0.1"}


@pytest.mark.stand_for_all("valkey-9.1", "redis-7.0")
def test_a_node_that_is_down_stays_and_says_so(engine: Engine, run: Run) -> None:
    with Cluster.start(engine, 3, 0) as cluster:
        options = config(cluster)
        del options["login_password"]
        lost = cluster.nodes[2]
        lost_id = lost.id
        lost.kill()
        hostvars = listed(run(options))["_meta"]["hostvars"]
        reachable = {
            told["keyslot_node_id"]: told["keyslot_node_reachable"] for told in hostvars.values()
        }
        assert reachable.pop(lost_id) is False
        assert list(reachable.values()) == [True, True]


@pytest.mark.parametrize("name", ["redis_cluster.yaml", "shop.redis_cluster.yml"])
def test_names_of_files(cluster: Cluster, run: Run, name: str) -> None:
    assert hosts(listed(run(config(cluster), name=name)), "keyslot_nodes") == names(cluster.nodes)


def test_a_file_of_another_name_is_not_taken(cluster: Cluster, run: Run) -> None:
    assert "redis.yml" in refusal(run(config(cluster), name="redis.yml"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"login_password": "no"}, ["127.0.0.1", "password"]),
        ({"login_port": 1}, ["127.0.0.1:1", "login_host"]),
        ({"login_port": "six"}, ["login_port"]),
        ({"login_port": 99999}, ["login_port must be from 1 to 65535, not 99999."]),
        ({"login_host": "{{ no_such_variable }}"}, ["no_such_variable"]),
        ({"startup_nodes": ["nowhere"]}, ["'nowhere' is not an address"]),
        ({"address_map": [{"announced": "10.0.0.1:6379"}]}, ["reachable", "address_map"]),
        ({"client_key_file": "/key"}, ["client_cert_file"]),
        ({"connect_timeout": 0}, ["connect_timeout must be a number of seconds above 0"]),
        ({"hostnames": ["no_such_variable"]}, ["'no_such_variable' in hostnames"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_is_wrong_is_said_in_one_sentence(
    cluster: Cluster, run: Run, wrong: dict[str, Any], words: list[str]
) -> None:
    why = refusal(run({**config(cluster), **wrong}))
    for word in words:
        assert word in why
