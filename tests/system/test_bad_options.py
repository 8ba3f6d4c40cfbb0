# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What users get wrong in the options; no engine has a say in it, so one cluster will do.

Each time the module fails, quotes what was asked, says what to do, and changes nothing anywhere.
What clusters can be unfit for: test_bad_input.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness import engines
from tests.harness.ansible import COLLECTIONS, run_playbook
from tests.harness.cluster import Cluster, parse_nodes
from tests.harness.cutting import run_module
from tests.harness.node import Node
from tests.harness.refusal import (
    FORGET,
    INFO,
    MEET,
    MIGRATE,
    REBALANCE,
    REPLICATE,
    Options,
    asked,
    assert_refused,
    login,
    told,
    wishes,
)

pytestmark = [pytest.mark.system, pytest.mark.stand_for_all("valkey-9.1", "redis-7.0")]

PASSWORD = "secret-4711"
NOBODY = "f" * 40
CLOSED = "127.0.0.1:1"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster.start(engines.get(engines.EMBEDDED[0]), 3, 1, spare=1, password=PASSWORD) as made:
        yield made
        made.assert_healthy(members=6)


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> dict[str, Node]:
    """`a`, `b` and `c` are the primaries in the order of their slots, `ra` is a replica of a."""
    a, b, c, ra, *_others = cluster.nodes
    return {"a": a, "b": b, "c": c, "ra": ra, "spare": cluster.spares[0]}


# Who is meant


@pytest.mark.parametrize("reference", [NOBODY, "f" * 8, CLOSED])
@pytest.mark.parametrize(
    ("module", "options"),
    [
        (MIGRATE, {"slots": ["0"], "target": "?"}),
        (REBALANCE, {"drain": ["?"]}),
        (REPLICATE, {"node": "?", "primary": "auto"}),
    ],
)
def test_unknown_node_is_named_and_the_known_ones_are_listed(
    cluster: Cluster, nodes: dict[str, Node], module: str, options: Options, reference: str
) -> None:
    filled = json.loads(json.dumps(options).replace("?", reference))
    assert_refused(cluster, module, filled, f"'{reference}'", *(n.address for n in cluster.nodes))


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (MIGRATE, {"moves": [{"slots": ["0"], "target": "abc"}]}),
        (REBALANCE, {"weights": [{"node": "abc", "weight": 1}]}),
        (REPLICATE, {"node": "abc", "primary": "auto"}),
        (FORGET, {"node": "abc"}),
    ],
)
def test_name_too_short_for_a_node_says_how_to_name_one(
    cluster: Cluster, module: str, options: Options
) -> None:
    assert_refused(cluster, module, options, "'abc' names no node", "host:port", "8 characters")


def test_forgetting_a_prefix_of_nobody_is_no_silent_success(cluster: Cluster) -> None:
    assert_refused(cluster, FORGET, {"node": "f" * 8}, "'ffffffff'", "the cluster's nodes are")


@pytest.mark.parametrize("address", ["db1:x", "db1:70000", ":6379"])
def test_bad_address_of_a_node_is_told_from_an_unknown_one(cluster: Cluster, address: str) -> None:
    words = (f"'{address}' is not an address", "host:port")
    assert_refused(cluster, FORGET, {"node": address}, *words)
    assert_refused(cluster, MEET, {"nodes": [address]}, *words)


# Slots and plans


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ("one of", "required", "moves", "slots")),
        ({"target": NOBODY}, ("required together", "slots", "target")),
        ({"slots": ["0"]}, ("required together", "slots", "target")),
        ({"slots": ["0"], "target": NOBODY, "moves": []}, ("mutually exclusive", "moves|slots")),
        ({"moves": [], "source": NOBODY}, ("mutually exclusive", "moves|source")),
        ({"moves": [{"slots": ["0"]}]}, ("missing required", "target", "moves")),
    ],
)
def test_slots_and_moves_exclude_each_other_and_one_is_needed(
    cluster: Cluster, options: Options, words: tuple[str, ...]
) -> None:
    assert_refused(cluster, MIGRATE, options, *words)


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        (["16384"], ("'16384' is out of range", "0 to 16383")),
        (["16000-16384"], ("'16000-16384' is out of range", "0 to 16383")),
        (["-1"], ("'-1'", "neither a slot nor a range")),
        (["9-5"], ("'9-5' is a reversed range", "'5-9'")),
        (["five"], ("'five'", "neither a slot nor a range")),
        (["0-3,7"], ("'0-3,7'", "neither a slot nor a range")),
        (["0-3", " ", "x"], ("'x'", "neither a slot nor a range")),
        ([], ("no slots were given",)),
        ([""], ("no slots were given",)),
        (["0-3", "3"], ("slot 3 is named twice", "'3'")),
        (["7", "7"], ("slot 7 is named twice",)),
    ],
)
def test_slots_that_are_none_are_quoted(
    cluster: Cluster, nodes: dict[str, Node], slots: list[str], words: tuple[str, ...]
) -> None:
    target = nodes["b"].id
    assert_refused(cluster, MIGRATE, {"slots": slots, "target": target}, *words)


def test_bad_slots_within_moves_are_refused_too(cluster: Cluster, nodes: dict[str, Node]) -> None:
    moves = [{"slots": ["9-5"], "target": nodes["b"].id}]
    assert_refused(cluster, MIGRATE, {"moves": moves}, "'9-5' is a reversed range")


def test_target_that_is_the_source_is_refused(cluster: Cluster, nodes: dict[str, Node]) -> None:
    options = {"slots": ["0"], "target": nodes["a"].id, "source": nodes["a"].address}
    assert_refused(cluster, MIGRATE, options, nodes["a"].address, "both the source and the target")


def test_slots_on_neither_source_nor_target_stop_the_run_before_it_moves_any(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    """Slots 5000 to 5460 are with the source indeed."""
    a, b, c = nodes["a"], nodes["b"], nodes["c"]
    options = {"slots": ["5000-5470"], "target": c.id, "source": a.id}
    words = ("slots 5461-5470", a.address, c.address, f"{b.address} ({b.id[:8]})'s")
    assert_refused(cluster, MIGRATE, options, *words, "Nothing was moved", "new plan")


def test_plan_that_contradicts_the_cluster_is_refused_as_a_whole(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    a, b, c = nodes["a"], nodes["b"], nodes["c"]
    moves = [
        {"slots": ["0-9"], "source": a.id, "target": c.id},
        {"slots": ["20-29"], "source": b.id, "target": c.id},
    ]
    words = ("slots 20-29", b.address, f"{a.address} ({a.id[:8]})'s", "new plan")
    assert_refused(cluster, MIGRATE, {"moves": moves}, *words)


def test_moves_that_name_a_slot_twice_are_refused(cluster: Cluster, nodes: dict[str, Node]) -> None:
    moves = [
        {"slots": ["0-9"], "target": nodes["b"].id},
        {"slots": ["9"], "target": nodes["c"].id},
    ]
    assert_refused(cluster, MIGRATE, {"moves": moves}, "slot 9 stands in two of the moves")


def test_moves_whose_donor_also_takes_are_refused(cluster: Cluster, nodes: dict[str, Node]) -> None:
    moves = [
        {"slots": ["0"], "target": nodes["b"].id},
        {"slots": ["6000"], "target": nodes["c"].id},
    ]
    words = (nodes["b"].address, "give and take", "two runs")
    assert_refused(cluster, MIGRATE, {"moves": moves}, *words)


# Weights, drains and numbers


@pytest.mark.parametrize("weight", [0, -1, math.inf, -math.inf, math.nan, "nan"])
def test_weight_has_to_be_a_number_above_zero(
    cluster: Cluster, nodes: dict[str, Node], weight: float | str
) -> None:
    name = nodes["b"].address
    options = {"weights": [{"node": name, "weight": weight}]}
    words = (f"the weight of '{name}'", "above 0", f"not {float(weight):g}", "drain")
    assert_refused(cluster, REBALANCE, options, *words)


def test_weight_that_is_text_is_refused(cluster: Cluster, nodes: dict[str, Node]) -> None:
    options = {"weights": [{"node": nodes["b"].id, "weight": "much"}]}
    assert_refused(cluster, REBALANCE, options, "'weight'", "'weights'", "float")


def test_weight_written_nan_in_yaml_is_refused(
    cluster: Cluster, nodes: dict[str, Node], tmp_path: Path
) -> None:
    a = nodes["a"]
    playbook = tmp_path / "nan.yml"
    playbook.write_text(
        "- hosts: localhost\n"
        "  gather_facts: false\n"
        "  tasks:\n"
        "    - keyslot.redis.redis_cluster_rebalance:\n"
        f"        login_host: {a.host}\n"
        f"        login_port: {a.port}\n"
        f"        login_password: {PASSWORD}\n"
        f"        weights: [{{node: '{a.id}', weight: .nan}}]\n",
        encoding="utf-8",
    )
    before = told(cluster)
    play = run_playbook(str(playbook), {})
    assert play.code != 0, play.output
    assert f"the weight of '{a.id}' must be a number above 0, not nan" in play.output
    assert PASSWORD not in play.output
    assert told(cluster) == before


def test_weight_of_a_replica_is_refused_and_its_primary_named(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    options = {"weights": [{"node": nodes["ra"].id, "weight": 2}]}
    words = (nodes["ra"].address, "is a replica", f"its primary {nodes['a'].address}")
    assert_refused(cluster, REBALANCE, options, *words)


def test_drain_of_a_replica_is_refused_and_its_primary_left_alone(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    words = (nodes["ra"].address, "is a replica", "leave it out")
    result = assert_refused(cluster, REBALANCE, {"drain": [nodes["ra"].address]}, *words)
    assert nodes["a"].address not in result["msg"]


@pytest.mark.parametrize("drain_only", [False, True])
def test_draining_every_primary_is_refused(
    cluster: Cluster, nodes: dict[str, Node], drain_only: bool
) -> None:
    options = {"drain": [nodes[name].id for name in "abc"], "drain_only": drain_only}
    assert_refused(cluster, REBALANCE, options, "every primary", "drained", "leave one")


def test_node_with_two_weights_or_a_weight_and_a_drain_is_refused(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    a = nodes["a"]
    by_id, by_address = {"node": a.id, "weight": 2}, {"node": a.address, "weight": 3}
    assert_refused(cluster, REBALANCE, {"weights": [by_id, by_address]}, a.address, "two weights")
    options = {"weights": [by_id], "drain": [a.address]}
    assert_refused(cluster, REBALANCE, options, a.address, "has a weight", "to be drained")


@pytest.mark.parametrize(
    "options", [{"threshold": -1}, {"threshold": math.nan}, {"threshold": math.inf}]
)
def test_threshold_has_to_be_a_number_from_zero_on(cluster: Cluster, options: Options) -> None:
    message = assert_refused(cluster, REBALANCE, options, f"{options['threshold']:g}")["msg"]
    assert message.startswith("threshold ")
    assert "max_slots" not in message


def test_max_slots_below_zero_is_refused(cluster: Cluster) -> None:
    assert_refused(cluster, REBALANCE, {"max_slots": -7}, "max_slots can't be below 0: it is -7.")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_pause_ms", 0),
        ("max_pause_ms", math.nan),
        ("batch_size", 0),
        ("big_key_bytes", -1),
        ("wait_timeout", -1),
        ("max_seconds", -1),
        ("connect_timeout", 0),
        ("command_timeout", -1),
    ],
)
def test_movement_and_connection_numbers_have_to_make_sense(
    cluster: Cluster, nodes: dict[str, Node], option: str, value: float
) -> None:
    options = {"slots": ["0"], "target": nodes["b"].id, option: value}
    assert_refused(cluster, MIGRATE, options, option, f"{value:g}")


# Members


@pytest.mark.parametrize(
    ("nodes_option", "words"),
    [
        ([], ("no nodes were given", "host:port")),
        (["", " "], ("no nodes were given", "host:port")),
        (["db1"], ("'db1' is not an address", "host:port")),
        (["no-such-host.invalid:1"], ("no-such-host.invalid", "no known host name")),
        ([CLOSED], (f"'{CLOSED}'", "refused", "Nothing was changed")),
        (["SPARE@x"], ("bus port", "host:port@bus_port")),
        (["SPARE@99999"], ("bus port", "host:port@bus_port")),
        (["SPARE", "localhost:PORT"], ("'SPARE' are the same node",)),
        (["SPARE", CLOSED], (f"'{CLOSED}'", "refused", "Nothing was changed")),
    ],
)
def test_node_that_cannot_be_met_keeps_all_from_being_met(
    cluster: Cluster, nodes: dict[str, Node], nodes_option: list[str], words: tuple[str, ...]
) -> None:
    spare = nodes["spare"]

    def filled(text: str) -> str:
        return text.replace("SPARE", spare.address).replace("PORT", str(spare.port))

    options = {"nodes": [filled(text) for text in nodes_option]}
    assert_refused(cluster, MEET, options, *map(filled, words))
    assert len(parse_nodes(cluster.nodes_text()[spare.address])) == 1


# Getting in


def test_unreachable_entries_are_all_named_with_the_reason(cluster: Cluster) -> None:
    options = {"login_host": "127.0.0.1", "login_port": 1, "startup_nodes": ["127.0.0.1:2"]}
    words = ("127.0.0.1:1", "127.0.0.1:2", "refused", "login_host", "startup_nodes")
    assert_refused(cluster, INFO, options, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"login_port": "redis"}, ("login_port", "int", "redis")),
        ({"login_host": "127.0.0.1:7000"}, ("'127.0.0.1:7000'", "login_host and login_port")),
        ({"login_host": "[::1]"}, ("'[::1]'", "login_host and login_port")),
        ({"login_port": 70000}, ("login_port must be from 1 to 65535, not 70000.",)),
        ({"login_port": 0}, ("login_port must be from 1 to 65535, not 0.",)),
        ({"login_host": "no-such-host.invalid"}, ("no-such-host.invalid", "login_host")),
        ({"startup_nodes": ["db1"]}, ("'db1' is not an address", "host:port")),
        (
            {"address_map": [{"announced": "db1:1", "reachable": "db2"}]},
            ("'db2' is not an address", "host:port"),
        ),
        ({"tls": True, "command_timeout": 1}, ("no connection", "TLS")),
        ({"client_key_file": "/key"}, ("client_cert_file", "client_key_file")),
    ],
)
def test_bad_connection_option_is_named(
    cluster: Cluster, options: Options, words: tuple[str, ...]
) -> None:
    assert_refused(cluster, INFO, options, *words)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"__init__.py": "raise ImportError('no redis here')"}, ("there is none",)),
        (
            {"__init__.py": "__version__ = '3.5.3'", "connection.py": "", "exceptions.py": ""},
            ("this is 3.5.3",),
        ),
    ],
    ids=["missing", "too old"],
)
@pytest.mark.parametrize("module", [INFO, MIGRATE])
def test_redis_py_that_is_missing_or_too_old_is_told_with_the_interpreter(
    cluster: Cluster,
    nodes: dict[str, Node],
    tmp_path: Path,
    module: str,
    files: dict[str, str],
    words: tuple[str, ...],
) -> None:
    package = tmp_path / "redis"
    package.mkdir()
    for name, text in files.items():
        (package / name).write_text(text, encoding="ascii")
    options = {**login(nodes["a"]), **wishes(nodes["b"], nodes["spare"])[module]}
    before = told(cluster)
    path = f"{tmp_path}:{COLLECTIONS}"
    result = run_module(module, options, env={"PYTHONPATH": path})
    assert result["failed"] is True
    for word in ("redis-py 4.3 or later", *words, "install", "python"):
        assert word in result["msg"]
    assert ("slots_moved" in result) is (module == MIGRATE)
    assert told(cluster) == before


@pytest.mark.parametrize(
    "wrong", [{"login_port": 0}, {"login_port": 1}, {"batch_size": 0}, {"slots": ["0-"]}]
)
def test_mover_says_in_its_own_fields_that_it_has_moved_nothing(
    cluster: Cluster, nodes: dict[str, Node], wrong: Options
) -> None:
    result = asked(cluster, MIGRATE, {"slots": ["0"], "target": nodes["b"].id, **wrong})
    nothing = {"moves": [], "slots_moved": 0, "slots_left": None, "keys_moved": 0}
    assert result["finished"] is False
    assert {name: result[name] for name in nothing} == nothing


# Playbooks check what comes later before they change anything


def assert_play_refused(
    cluster: Cluster,
    name: str,
    variables: dict[str, Any],
    *words: str,
    by: dict[str, Any],
    args: Sequence[str] = (),
) -> None:
    """The playbook fails, and says so, and nothing has changed anywhere."""
    before = told(cluster)
    connection = {f"keyslot_{option}": value for option, value in by.items()}
    play = run_playbook(name, {**connection, **variables}, *args)
    assert play.code != 0, play.output
    assert [word for word in words if word not in play.output] == [], play.output
    assert told(cluster) == before


def test_node_of_the_login_is_not_drained_before_its_removal_is_refused(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    wish = {"remove_node_nodes": nodes["a"].address}
    words = ("entered", "login_host", "Nothing was changed")
    assert_play_refused(cluster, "remove_node", wish, *words, by=login(nodes["a"]))


def test_node_is_not_drained_where_the_right_to_forget_it_is_lacking(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    for node in cluster.nodes:
        node.call("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-cluster|forget")
    try:
        by = {**login(nodes["b"]), "login_user": "limited", "login_password": "pw"}
        wish = {"remove_node_nodes": nodes["a"].address}
        assert_play_refused(cluster, "remove_node", wish, "+cluster|forget", by=by)
    finally:
        for node in cluster.nodes:
            node.call("ACL", "DELUSER", "limited")


def test_node_is_not_drained_where_the_kind_of_reset_is_misspelt(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    wish = {"remove_node_nodes": nodes["a"].address, "remove_node_reset": "sotf"}
    assert_play_refused(cluster, "remove_node", wish, "reset", "soft", by=login(nodes["b"]))


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"add_node_primary": "127.0.0.1:9"}, ("127.0.0.1:9", "not the address of a node")),
        ({"add_node_primary": "RA"}, ("is a replica", "instead")),
        ({"add_node_weights": [{"node": "127.0.0.1:9", "weight": 2}]}, ("127.0.0.1:9", "address")),
        ({"add_node_rebalance": "flase"}, ("add_node_rebalance has to be true or false",)),
        ({"add_node_weights": {"127.0.0.1:9": 2}}, ("add_node_weights has to be a list of",)),
    ],
)
def test_server_does_not_join_where_what_comes_next_is_refused(
    cluster: Cluster, nodes: dict[str, Node], variables: dict[str, Any], words: tuple[str, ...]
) -> None:
    wish = {
        "add_node_nodes": nodes["spare"].address,
        **{name: nodes["ra"].address if v == "RA" else v for name, v in variables.items()},
    }
    assert_play_refused(cluster, "add_node", wish, *words, by=login(nodes["a"]))
    assert len(parse_nodes(cluster.nodes_text()[nodes["spare"].address])) == 1


@pytest.mark.parametrize("check", [True, False])
def test_replica_is_not_added_as_a_primary(
    cluster: Cluster, nodes: dict[str, Node], check: bool
) -> None:
    wish = {"add_node_nodes": nodes["ra"].address}
    words = (f"{nodes['ra'].address} as a replica of {nodes['a'].address}", "add_node_primary")
    args = ["--check"] if check else []
    assert_play_refused(cluster, "add_node", wish, *words, by=login(nodes["b"]), args=args)


@pytest.mark.parametrize(
    "weights",
    [
        {"127.0.0.1:9": 2},
        "127.0.0.1:9=2",
        [{"nod": "127.0.0.1:9", "weight": 2}],
        [{"node": "127.0.0.1:9"}],
    ],
)
def test_form_of_weights_is_told(cluster: Cluster, nodes: dict[str, Node], weights: Any) -> None:
    words = ("rebalance_weights has to be a list of {node, weight}",)
    wish = {"rebalance_weights": weights}
    assert_play_refused(cluster, "rebalance", wish, *words, by=login(nodes["a"]))


def test_form_of_weights_is_told_before_a_node_is_drained(
    cluster: Cluster, nodes: dict[str, Node]
) -> None:
    words = ("remove_node_weights has to be a list of {node, weight}",)
    wish = {"remove_node_nodes": nodes["a"].address, "remove_node_weights": "127.0.0.1:9=2"}
    assert_play_refused(cluster, "remove_node", wish, *words, by=login(nodes["b"]))


@pytest.mark.parametrize(
    "name",
    [
        "keyslot_max_slots",
        "rebalance_max_seconds",
        "keyslot_max_pause",
        "rebalance_max_slot",
        "add_node_threshold",
        "remove_node_max_slots",
    ],
)
def test_limit_under_a_wrong_name_is_refused(
    cluster: Cluster, nodes: dict[str, Node], name: str
) -> None:
    wish = {"rebalance_drain": nodes["a"].address, name: 5}
    words = (name, "keyslot_max_pause_ms", "README")
    prefixed = re.match(r"(add_node|remove_node)_", name)
    playbook = prefixed[1] if prefixed else "rebalance"
    assert_play_refused(cluster, playbook, wish, *words, by=login(nodes["b"]))
