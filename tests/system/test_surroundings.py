# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks that are not plain: NAT, announced addresses, IPv6, odd ports, slow and dead nodes.

A module runs behind a wall where a test wants it to: it reaches the given ports alone, and knows
the given host names (its own process refuses all other connections, tests/harness/walled.py).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.harness import data, processes
from tests.harness.cluster import Cluster, parse_nodes
from tests.harness.cutting import Cut, run, start
from tests.harness.engines import Engine
from tests.harness.node import Node
from tests.harness.refusal import FORGET, INFO, MEET, MIGRATE, REBALANCE, REPLICATE, assert_refused
from tests.harness.views import me, wait_until
from tests.harness.walled import Balancer, Forwarder, run_walled

pytestmark = [pytest.mark.system, pytest.mark.stand_for_all("valkey-9.1", "redis-7.0")]

CLOSED = 1
ATOMIC = {"redis": (8, 4), "valkey": (9, 0)}


@pytest.fixture(scope="module")
def cluster(engine: Engine) -> Iterator[Cluster]:
    with Cluster.start(engine, 3, 1) as made:
        data.seed(made, 500)
        yield made


@pytest.fixture(autouse=True)
def _still_whole(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test leaves the shared cluster as it was."""
    yield
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").wait_healthy(members=6)


def at(entry: Node, /, **more: Any) -> dict[str, Any]:
    return {"login_host": "127.0.0.1", "login_port": entry.port, "connect_timeout": 2, **more}


def methods(engine: Engine) -> list[str]:
    return ["classic", "atomic"] if engine.release >= ATOMIC[engine.family] else ["classic"]


def done(module: str, options: Mapping[str, Any]) -> dict[str, Any]:
    result = run(module, options)
    assert not result.get("failed"), result["msg"]
    return result


def move_there_and_back(
    cluster: Cluster, options: Mapping[str, Any], there: str, back: str
) -> None:
    """Slots 0 to 19, of the first node, by each method; what it is called is up to the caller."""
    before = data.digest(cluster)
    for method in methods(cluster.engine):
        for target in there, back:
            wish = {**options, "slots": ["0-19"], "target": target, "method": method}
            assert done(MIGRATE, wish)["slots_moved"] == 20
    assert data.compare(before, data.digest(cluster)) == []


# NAT


@contextlib.contextmanager
def nat(cluster: Cluster) -> Iterator[tuple[dict[str, Any], dict[Node, str]]]:
    """Nodes are reached by mapped ports alone: the options for it, and node -> reachable."""
    with contextlib.ExitStack() as stack:
        reachable = {
            node: stack.enter_context(Forwarder(node.port)).address for node in cluster.all_nodes()
        }
        mapped = [
            {"announced": node.address, "reachable": address} for node, address in reachable.items()
        ]
        host, _colon, port = reachable[cluster.nodes[0]].rpartition(":")
        options = {"login_host": host, "login_port": int(port), "address_map": mapped}
        yield {**options, "connect_timeout": 2}, reachable


def test_everything_works_through_nat(cluster: Cluster) -> None:
    spare, target = cluster.add_spare(), cluster.nodes[1]
    before = data.digest(cluster)
    with nat(cluster) as (options, reachable):
        ports = [int(address.rpartition(":")[2]) for address in reachable.values()]

        def mapped(module: str, **wish: Any) -> dict[str, Any]:
            result = run_walled(module, {**options, **wish}, ports=ports)
            assert not result.get("failed"), result["msg"]
            return result

        told = mapped(INFO)
        assert all(node["reachable"] for node in told["nodes"])
        assert {node["port"] for node in told["nodes"]} == {node.port for node in cluster.nodes}
        # By the reachable address, the announced one, and the id.
        names = {"classic": reachable[target], "atomic": target.address}
        for method in methods(cluster.engine):
            assert mapped(MIGRATE, slots=["0-19"], target=names[method], method=method)["changed"]
            back = {"slots": ["0-19"], "target": cluster.nodes[0].id, "method": method}
            assert mapped(MIGRATE, **back)["finished"]
        assert mapped(MEET, nodes=[spare.address])["changed"]
        weights = [{"node": reachable[spare], "weight": 1}]
        assert mapped(REBALANCE, weights=weights)["slots_moved"] == 4096
        assert mapped(REBALANCE, drain=[reachable[spare]])["finished"]
        assert mapped(REPLICATE, node=reachable[spare], primary=target.address)["changed"]
        assert mapped(FORGET, node=reachable[spare])["changed"]
    cluster.wait_healthy(members=6)
    assert data.compare(before, data.digest(cluster)) == []


def test_nat_without_a_map_names_the_nodes_that_cannot_be_reached(cluster: Cluster) -> None:
    before = cluster.ownership()
    with nat(cluster) as (options, reachable):
        ports = [int(address.rpartition(":")[2]) for address in reachable.values()]
        bare = {**options, "address_map": []}
        told = run_walled(INFO, bare, ports=ports)
        assert sum(node["reachable"] for node in told["nodes"]) == 1
        assert len([p for p in told["problems"] if p["kind"] == "unreachable"]) == 5
        wish = {**bare, "slots": ["0"], "target": cluster.nodes[1].address}
        result = run_walled(MIGRATE, wish, ports=ports)
    assert result.get("failed"), result
    assert any(node.address in result["msg"] for node in cluster.nodes[1:])
    assert "Nothing was changed" in result["msg"]
    assert "address_map" in result["msg"]
    assert cluster.ownership() == before


# What nodes announce


def test_nodes_that_announce_another_ip(engine: Engine) -> None:
    """127.0.0.2 is not where they were met."""
    config = {"bind": "127.0.0.1 127.0.0.2", "cluster-announce-ip": "127.0.0.2"}
    with Cluster.start(engine, 3, 0, config=config) as cluster:
        data.seed(cluster, 300)
        first, second = cluster.nodes[:2]
        told = done(INFO, at(first))
        assert {node["host"] for node in told["nodes"]} == {"127.0.0.2"}
        names = [f"127.0.0.2:{node.port}" for node in (second, first)]
        move_there_and_back(cluster, at(first), *names)
        spare = cluster.add_spare()
        joined = done(MEET, at(first, nodes=[f"127.0.0.2:{spare.port}"]))
        assert joined["joined"][0]["id"] == spare.id
        assert done(FORGET, at(first, node=f"127.0.0.2:{spare.port}"))["changed"]
        cluster.wait_healthy(members=3)


def test_nodes_on_ipv6(engine: Engine) -> None:
    if not has_ipv6():
        pytest.skip("no IPv6 on this machine")
    config = {"bind": "127.0.0.1 ::1", "cluster-announce-ip": "::1"}
    with Cluster.start(engine, 3, 1, config=config) as cluster:
        data.seed(cluster, 300)
        first, second = cluster.nodes[:2]
        options = {**at(first), "login_host": "::1"}
        told = done(INFO, options)
        assert {node["host"] for node in told["nodes"]} == {"::1"}
        assert all(node["reachable"] for node in told["nodes"]), told["problems"]
        move_there_and_back(cluster, options, f"[::1]:{second.port}", f"::1:{first.port}")
        spare = cluster.add_spare()
        assert done(MEET, {**options, "nodes": [f"[::1]:{spare.port}"]})["changed"]
        follow = {"node": f"[::1]:{spare.port}", "primary": f"[::1]:{first.port}"}
        assert done(REPLICATE, {**options, **follow})["changed"]
        assert done(FORGET, {**options, "node": f"[::1]:{spare.port}"})["changed"]
        cluster.wait_healthy(members=6)


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize("told", [False, True], ids=["found out", "given"])
def test_node_with_a_bus_port_of_its_own_joins(cluster: Cluster, told: bool) -> None:
    if cluster.engine.release < (7, 0):
        pytest.skip("cluster-port came with 7.0")
    bus = processes.claim_port()
    try:
        node = cluster.start_node(cluster_port=bus)
        name = f"{node.address}@{bus}" if told else node.address
        first = cluster.nodes[0]
        assert done(MEET, at(first, nodes=[name]))["joined"] == [{"node": name, "id": node.id}]
        assert done(FORGET, at(first, node=node.id))["changed"]
        node.stop()
    finally:
        processes.release_port(bus)


def test_hostnames_are_shown_and_name_nodes(cluster: Cluster) -> None:
    if cluster.engine.release < (7, 0):
        pytest.skip("cluster-announce-hostname came with 7.0")
    first, second = cluster.nodes[:2]
    second.call("CONFIG", "SET", "cluster-announce-hostname", "second.example")
    try:
        wait_until(lambda: "second.example" in cluster.nodes_text()[first.address], "its name")
        told = done(INFO, at(first))
        assert [n["hostname"] for n in told["nodes"] if n["id"] == second.id] == ["second.example"]
        name = f"Second.Example:{second.port}"
        move_there_and_back(cluster, at(first), name, first.address)
    finally:
        second.call("CONFIG", "SET", "cluster-announce-hostname", "")


# Two at one address


@contextlib.contextmanager
def same_address(cluster: Cluster, liar: Node, other: Node) -> Iterator[None]:
    """One node announces the other one's client port, and every node believes it."""
    liar.call("CONFIG", "SET", "cluster-announce-port", other.port)

    def believed(port: int) -> bool:
        lines = [line for t in cluster.nodes_text().values() for line in parse_nodes(t)]
        told = [line.address for line in lines if line.id == liar.id and line.connected]
        return len(told) == len(cluster.nodes) and all(
            address.endswith(f":{port}") for address in told
        )

    try:
        wait_until(lambda: believed(other.port), "the false port")
        yield
    finally:
        liar.call("CONFIG", "SET", "cluster-announce-port", 0)
        wait_until(lambda: believed(liar.port), "its own port")


def test_two_members_at_one_address_are_both_named(engine: Engine) -> None:
    """Entered by the liar both can be asked, so that no name is right by chance."""
    with Cluster.start(engine, 3, 0) as cluster:
        liar, other, third = cluster.nodes
        entry = {"login_host": liar.host, "login_port": liar.port}
        slot = cluster.ownership()[third.id][0].partition("-")[0]
        wish = {**entry, "slots": [slot], "method": "classic"}
        both = (liar.id[:8], other.id[:8], other.address)
        with same_address(cluster, liar, other):
            told = done(INFO, entry)
            problems = [p["message"] for p in told["problems"] if p["kind"] == "address"]
            assert len(problems) == 1
            assert all(word in problems[0] for word in both)
            assert_refused(cluster, MIGRATE, {**wish, "target": other.address}, *both)
            assert_refused(cluster, FORGET, {**entry, "node": other.address}, *both)
            for target in liar, other:
                words = (*both, "Nothing was changed")
                assert_refused(cluster, MIGRATE, {**wish, "target": target.id}, *words)


def test_dead_node_at_the_address_of_a_living_one_is_no_doubt(cluster: Cluster) -> None:
    """A node that was reset hard has a new id at its old address; the old one is in the table."""
    first, spare = cluster.nodes[0], cluster.add_spare()
    assert done(MEET, at(first, nodes=[spare.address]))["changed"]
    old = spare.id
    spare.call("CLUSTER", "RESET", "HARD")
    assert done(MEET, at(first, nodes=[spare.address]))["changed"]
    assert spare.id != old
    told = done(INFO, at(first))
    assert {n["id"]: n["reachable"] for n in told["nodes"]}[old] is False
    wish = {"slots": ["0-9"], "target": spare.address, "method": "classic"}
    assert done(MIGRATE, at(first, **wish))["slots_moved"] == 10
    assert done(MIGRATE, at(first, **{**wish, "target": first.id}))["slots_moved"] == 10
    assert done(FORGET, at(first, node=spare.address))["id"] == spare.id
    assert done(FORGET, at(first, node=old))["id"] == old


# Names


def test_name_of_several_addresses_leads_to_the_one_that_answers(cluster: Cluster) -> None:
    first, spare = cluster.nodes[0], cluster.add_spare()
    names = {"many.example": ["127.0.0.9", "127.0.0.1"]}
    options = {**at(first), "login_host": "many.example"}
    assert run_walled(INFO, options, names=names)["state"] == "ok"
    target = f"many.example:{cluster.nodes[1].port}"
    move_there_and_back_walled(cluster, options, names, target)
    joined = run_walled(MEET, {**options, "nodes": [f"many.example:{spare.port}"]}, names=names)
    assert joined.get("changed"), joined
    assert done(FORGET, at(first, node=spare.address))["changed"]


def move_there_and_back_walled(
    cluster: Cluster, options: dict[str, Any], names: dict[str, list[str]], target: str
) -> None:
    for goal in target, cluster.nodes[0].id:
        wish = {**options, "slots": ["0-9"], "target": goal}
        result = run_walled(MIGRATE, wish, names=names)
        assert result.get("slots_moved") == 10, result


def test_name_of_several_members_is_ambiguous(engine: Engine) -> None:
    """Two nodes with one port on two addresses, as hosts have it, behind one name."""
    port = processes.claim_port()
    try:
        with Cluster.start(engine, 1, 0) as cluster:
            first = cluster.nodes[0]
            twins = [
                cluster.start_node(bind=f"127.0.0.1 {ip}", cluster_announce_ip=ip)
                for ip in ("127.0.0.2", "127.0.0.3")
            ]
            for twin in twins:
                twin.call("CONFIG", "SET", "cluster-announce-port", port)
            with contextlib.ExitStack() as stack:
                for twin, ip in zip(twins, ("127.0.0.2", "127.0.0.3"), strict=True):
                    stack.enter_context(Forwarder(twin.port, listen=(ip, port)))
                addresses = [f"127.0.0.2:{port}", f"127.0.0.3:{port}"]
                assert done(MEET, at(first, nodes=addresses))["changed"]
                names = {"twins.example": ["127.0.0.2", "127.0.0.3"]}
                wish = {"slots": ["0"], "target": f"twins.example:{port}"}
                result = run_walled(MIGRATE, {**at(first), **wish}, names=names)
                assert result.get("failed"), result
                for word in ("ambiguous", *(twin.id[:8] for twin in twins)):
                    assert word in result["msg"]
                wish["target"] = addresses[1]
                assert done(MIGRATE, at(first, **wish, method="classic"))["slots_moved"] == 1
    finally:
        processes.release_port(port)


def test_balancer_as_the_entry_leads_each_command_to_its_node(engine: Engine) -> None:
    """Each connection to it leads to another node: what is meant for one must not reach the next,
    even after the first connection is lost."""
    with Cluster.start(engine, 3, 1) as cluster, Balancer(cluster.nodes) as balancer:
        data.seed(cluster, 200)
        before = data.digest(cluster)
        options = {"login_host": "127.0.0.1", "login_port": balancer.port, "method": "classic"}
        for source, target in ((0, 1), (1, 0)):
            balancer.begin_with(cluster.nodes[target])
            wish = {"slots": ["0-19"], "target": cluster.nodes[target].id}
            lost = Cut(r"CLUSTER SETSLOT \d+ IMPORTING", "lose")
            result = start(MIGRATE, {**options, **wish}, lost).result()
            assert not result.get("failed"), result["msg"]
            assert result["slots_moved"] == 20, (source, target)
        cluster.wait_healthy()
        assert data.compare(before, data.digest(cluster)) == []


def test_target_that_came_back_with_another_ip_gets_its_keys(engine: Engine) -> None:
    """It still says its old one of itself; the others have heard the new one."""
    with Cluster.start(engine, 3, 0) as cluster:
        source, target, _other = cluster.nodes
        target.stop()
        config = target.folder / "server.conf"
        told = config.read_text(encoding="utf-8")
        there = "bind 127.0.0.9\nbind-source-addr 127.0.0.9"
        assert "bind 127.0.0.1\n" in told
        config.write_text(told.replace("bind 127.0.0.1", there, 1), encoding="utf-8")
        target.host = "127.0.0.9"
        target.spawn()
        target.wait_ready()
        cluster.wait_healthy()
        assert me(target).address == f"127.0.0.1:{target.port}"
        data.seed(cluster, 200)
        before = data.digest(cluster)
        moved = done(MIGRATE, at(source, slots=["0-19"], target=target.id, method="classic"))
        assert moved["slots_moved"] == 20
        assert data.compare(before, data.digest(cluster)) == []


def test_unknown_name_is_told(cluster: Cluster) -> None:
    result = run(INFO, {**at(cluster.nodes[0]), "login_host": "nowhere.invalid"})
    assert result.get("failed"), result
    assert "nowhere.invalid" in result["msg"]


# Entries, slow and dead nodes


def test_replica_as_the_entry(cluster: Cluster) -> None:
    replica, spare = cluster.replicas()[0], cluster.add_spare()
    options = at(replica)
    move_there_and_back(cluster, options, cluster.nodes[1].address, cluster.nodes[0].address)
    assert done(MEET, {**options, "nodes": [spare.address]})["changed"]
    assert done(FORGET, {**options, "node": spare.address})["changed"]


def test_entry_that_is_down_is_followed_by_the_next(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    options = {**at(node), "login_port": CLOSED, "startup_nodes": ["127.0.0.9:1", node.address]}
    assert done(INFO, options)["state"] == "ok"


def test_address_that_is_another_nodes_in_mid_run_is_not_spoken_to(cluster: Cluster) -> None:
    """As pods get addresses of others."""
    first, second, third = cluster.nodes[:3]
    with Forwarder(second.port) as mapped:
        mapping = [{"announced": second.address, "reachable": mapped.address}]
        wish = {"slots": ["0"], "target": second.id, "method": "classic"}
        hold = Cut(rf"^{first.port} CLUSTER SETSLOT 0 MIGRATING", "hold")
        attempt = start(MIGRATE, at(first, address_map=mapping, **wish), hold)
        attempt.wait_held()
        mapped.lead_to(third.port)
        attempt.go()
        result = attempt.result()
    assert result.get("failed"), result
    assert me(third).open == ()
    assert done(MIGRATE, at(first, **wish))["finished"]
    assert done(MIGRATE, at(first, **{**wish, "target": first.id}))["finished"]
    cluster.wait_healthy()


def test_slow_node_is_waited_for(cluster: Cluster) -> None:
    """A tenth of a second each way."""
    first, second = cluster.nodes[:2]
    with Forwarder(second.port, delay=0.1) as slow:
        mapped = [{"announced": second.address, "reachable": slow.address}]
        options = at(first, address_map=mapped)
        move_there_and_back(cluster, options, second.address, first.address)


def test_node_slower_than_the_command_timeout_is_named_and_nothing_changed(
    cluster: Cluster,
) -> None:
    second = cluster.nodes[1]
    with Forwarder(second.port, delay=3) as slow:
        mapped = [{"announced": second.address, "reachable": slow.address}]
        wish = {"slots": ["0"], "target": second.address, "command_timeout": 1}
        words = (second.address, "Nothing was changed")
        assert_refused(cluster, MIGRATE, {**wish, "address_map": mapped}, *words)


def test_dead_empty_primary_in_the_table_stands_in_nobodys_way(cluster: Cluster) -> None:
    first, second = cluster.nodes[:2]
    dead = cluster.start_node()
    assert done(MEET, at(first, nodes=[dead.address]))["changed"]
    dead.kill()
    wait_until(lambda: all(failed(text, dead) for text in texts(cluster)), "all call it dead")
    move_there_and_back(cluster, at(first), second.address, first.address)
    told = done(INFO, at(first))
    assert {n["id"]: n["reachable"] for n in told["nodes"]}[dead._id] is False
    assert done(FORGET, at(first, node=dead._id))["changed"]


def texts(cluster: Cluster) -> list[str]:
    told = cluster.nodes_text()
    return [told[node.address] for node in cluster.nodes]


def failed(text: str, node: Node) -> bool:
    return any(line.id == node._id and "fail" in line.flags for line in parse_nodes(text))
