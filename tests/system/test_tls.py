# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters that speak nothing but TLS and want client certificates, and what goes wrong there.

Whatever is wrong, it fails within connect_timeout and says which option to look at.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import data, processes
from tests.harness.ansible import ROOT, run_playbook
from tests.harness.cluster import Cluster, make_certificates
from tests.harness.cutting import run
from tests.harness.engines import Engine
from tests.harness.node import Node, Tls
from tests.harness.refusal import FORGET, INFO, MEET, MIGRATE, REBALANCE, REPLICATE

pytestmark = [
    pytest.mark.system,
    pytest.mark.stand_for_all("redis-7.0", "redis-8.6", "valkey-9.1-tls"),
]

PASSWORD = "behind-tls-4711"
COMMAND_TIMEOUT = 30
ATOMIC = {"redis": (8, 4), "valkey": (9, 0)}


@pytest.fixture(scope="module")
def cluster(engine: Engine) -> Iterator[Cluster]:
    if not engine.tls:
        pytest.skip(f"{engine.name} is built without TLS")
    with Cluster.start(engine, 3, 1, spare=1, tls=True, password=PASSWORD) as made:
        data.seed(made, 500)
        yield made


@pytest.fixture
def other(tmp_path: Path) -> Tls:
    """Certificates of another CA."""
    return make_certificates(tmp_path)


def files(tls: Tls) -> dict[str, Any]:
    return {
        "ca_certs": str(tls.ca),
        "client_cert_file": str(tls.client_cert),
        "client_key_file": str(tls.client_key),
    }


def options(cluster: Cluster, **changed: Any) -> dict[str, Any]:
    """Those that lead to the cluster, with changes; None leaves an option out."""
    assert cluster.tls is not None
    right = {
        "login_host": "127.0.0.1",
        "login_port": cluster.nodes[0].port,
        "login_password": PASSWORD,
        "tls": True,
        **files(cluster.tls),
        "connect_timeout": 10,
        "command_timeout": COMMAND_TIMEOUT,
    }
    return {name: value for name, value in {**right, **changed}.items() if value is not None}


def failure(cluster: Cluster, **changed: Any) -> str:
    """The message of redis_cluster_info, which has to come before a command would time out."""
    began = time.monotonic()
    result = run(INFO, options(cluster, **changed))
    assert time.monotonic() - began < COMMAND_TIMEOUT / 2
    assert result.get("failed"), result
    assert PASSWORD not in str(result)
    assert "Traceback" not in str(result)
    return str(result["msg"])


def sign(cluster: Cluster, name: str, *words: str, names: str = "IP:127.0.0.1") -> Path:
    """A further certificate for the servers' key by the cluster's CA."""
    assert cluster.tls is not None
    folder = cluster.tls.ca.parent
    (folder / f"{name}.names").write_text(f"subjectAltName={names}\n", encoding="ascii")
    command = ["openssl", "x509", "-req", "-in", "server.csr", "-CAcreateserial"]
    command += ["-CA", "ca.crt", "-CAkey", "ca.key", "-extfile", f"{name}.names"]
    command += ["-out", f"{name}.crt", *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / f"{name}.crt"


@contextlib.contextmanager
def certificate(cluster: Cluster, path: Path, nodes: list[Node]) -> Iterator[None]:
    """These nodes show that certificate for a while."""
    assert cluster.tls is not None
    for node in nodes:
        node.call("CONFIG", "SET", "tls-cert-file", str(path))
    try:
        yield
    finally:
        for node in nodes:
            node.call("CONFIG", "SET", "tls-cert-file", str(cluster.tls.server_cert))


# What works


def test_the_variables_and_the_play_of_the_page_lead_to_the_cluster(
    cluster: Cluster, tmp_path: Path
) -> None:
    """With the user of the page, whose rights are those of the line there."""
    assert cluster.tls is not None
    page = (ROOT / "docs/docsite/rst/security.rst").read_text(encoding="utf-8")
    (rule,) = re.findall(r"    ACL SETUSER (keyslot-classic .+)", page)
    section = page.partition("\nTLS\n---\n")[2]
    texts = re.findall(r":caption: \S+\n\n((?:(?: {4}.*)?\n)+)", section)
    for node in [*cluster.nodes, *cluster.spares]:
        node.call("ACL", "SETUSER", *rule.replace("PASSWORD", PASSWORD).split())
    for old, new in (
        ("db1.example.com", "127.0.0.1"),
        ("6379", str(cluster.nodes[0].port)),
        ("/etc/pki/redis/ca.pem", str(cluster.tls.ca)),
        ("/etc/pki/redis/ansible.pem", str(cluster.tls.client_cert)),
        ("/etc/pki/redis/ansible.key", str(cluster.tls.client_key)),
    ):
        texts = [text.replace(old, new) for text in texts]
        assert all(new in text for text in texts)
    variables, play = (yaml.safe_load(textwrap.dedent(text)) for text in texts)
    env = {"REDISCLI_AUTH": PASSWORD}
    done = run_playbook("rebalance", variables, "--check", "--diff", env=env)
    assert done.code == 0, done.output
    file = tmp_path / "play.yml"
    file.write_text(yaml.safe_dump(play), encoding="utf-8")
    done = run_playbook(str(file), {}, env=env)
    assert done.code == 0, done.output
    assert not done.changed


def methods(engine: Engine) -> list[str]:
    return ["classic", "atomic"] if engine.release >= ATOMIC[engine.family] else ["classic"]


def test_slots_move_by_every_method_of_the_engine(cluster: Cluster) -> None:
    source, target = cluster.nodes[0], cluster.nodes[1]
    before = data.digest(cluster)
    for method in methods(cluster.engine):
        for giver, taker in ((source, target), (target, source)):
            wish = {"slots": ["0-99"], "target": taker.id, "source": giver.id, "method": method}
            result = run(MIGRATE, options(cluster, **wish))
            assert result.get("slots_moved") == 100, result
            assert {move["method"] for move in result["moves"]} == {method}
            cluster.wait_healthy()
    assert data.compare(before, data.digest(cluster)) == []


def test_node_joins_takes_its_share_gives_it_back_and_leaves(cluster: Cluster) -> None:
    spare = cluster.spares[0]
    before = data.digest(cluster)
    assert run(MEET, options(cluster, nodes=[spare.address]))["changed"]
    weights = [{"node": spare.address, "weight": 1}]
    assert run(REBALANCE, options(cluster, weights=weights))["slots_moved"] == 4096
    assert run(REBALANCE, options(cluster, drain=[spare.address]))["slots_left"] == 0
    primary = cluster.nodes[0].address
    assert run(REPLICATE, options(cluster, node=spare.address, primary=primary))["changed"]
    assert run(FORGET, options(cluster, node=spare.address))["changed"]
    cluster.wait_healthy(members=6)
    assert data.compare(before, data.digest(cluster)) == []


def test_certificate_and_key_may_stand_in_one_file(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.tls is not None
    both = tmp_path / "client.pem"
    both.write_text(cluster.tls.client_cert.read_text() + cluster.tls.client_key.read_text())
    both.chmod(0o600)
    changed = {"client_cert_file": str(both), "client_key_file": None}
    assert run(INFO, options(cluster, **changed))["state"] == "ok"


def test_unchecked_certificates_need_no_ca(cluster: Cluster) -> None:
    result = run(INFO, options(cluster, validate_certs=False, ca_certs=None))
    assert result["state"] == "ok"


# Names


def test_certificate_for_host_names_wants_them_announced_or_unchecked(cluster: Cluster) -> None:
    """The servers' certificate serves `localhost` and no address."""
    path = sign(cluster, "named", names="DNS:localhost")
    with certificate(cluster, path, cluster.nodes):
        assert "check_hostname" in failure(cluster)
        told = run(INFO, options(cluster, login_host="localhost"))
        lost = [node for node in told["nodes"] if not node["reachable"]]
        assert len(lost) == 5
        for problem in told["problems"]:
            assert "cluster-announce-hostname" in problem["message"]
        told = run(INFO, options(cluster, check_hostname=False))
        assert all(node["reachable"] for node in told["nodes"])

        announce(cluster, "localhost")
        try:
            told = run(INFO, options(cluster, login_host="localhost"))
            assert all(node["reachable"] for node in told["nodes"]), told["problems"]
            assert {node["hostname"] for node in told["nodes"]} == {"localhost"}
            wish = {"slots": ["0"], "target": f"localhost:{cluster.nodes[1].port}"}
            move = options(cluster, login_host="localhost", **wish)
            assert run(MIGRATE, move)["slots_moved"] == 1
            back = {"slots": ["0"], "target": f"localhost:{cluster.nodes[0].port}"}
            assert run(MIGRATE, options(cluster, login_host="localhost", **back))["finished"]
        finally:
            announce(cluster, "")


def announce(cluster: Cluster, name: str) -> None:
    """All nodes announce this host name, and know it of each other."""
    for node in cluster.nodes:
        node.call("CONFIG", "SET", "cluster-announce-hostname", name)
    members = [node.address for node in cluster.nodes]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        texts = [text for address, text in cluster.nodes_text().items() if address in members]
        lines = [line.split()[1] for text in texts for line in text.splitlines()]
        if all(line.partition(",")[2].partition(",")[0] == name for line in lines):
            return
        time.sleep(0.05)
    raise AssertionError(f"{name!r} is not known to all: {cluster.nodes_text()}")


# What is wrong with certificates


def test_no_client_certificate(cluster: Cluster) -> None:
    message = failure(cluster, client_cert_file=None, client_key_file=None)
    assert "client_cert_file" in message


def test_client_certificate_of_another_ca(cluster: Cluster, other: Tls) -> None:
    ours = {**files(other), "ca_certs": options(cluster)["ca_certs"]}
    assert "client_cert_file" in failure(cluster, **ours)


@pytest.mark.parametrize("known", [True, False])
def test_wrong_ca_and_none(cluster: Cluster, other: Tls, known: bool) -> None:
    message = failure(cluster, ca_certs=str(other.ca) if known else None)
    assert "Set ca_certs to the CA" in message


def test_expired_certificate_of_one_node_is_told_of_that_node(cluster: Cluster) -> None:
    expired = sign(cluster, "expired", "-days", "-1")
    victim = cluster.nodes[1]
    with certificate(cluster, expired, [victim]):
        told = run(INFO, options(cluster))
        (problem,) = told["problems"]
        assert problem["node"] == victim.id
        assert "expired" in problem["message"]
        assert "Give that node a new certificate" in problem["message"]
        assert "expired" in failure(cluster, login_port=victim.port)
    cluster.wait_healthy(members=6)


@pytest.mark.parametrize("name", ["ca_certs", "client_cert_file", "client_key_file"])
def test_missing_file_is_named(cluster: Cluster, name: str) -> None:
    message = failure(cluster, **{name: "/nonexistent/file.pem"})
    assert message.startswith(f"{name} can't be read")
    assert "/nonexistent/file.pem" in message


def test_key_of_another_certificate(cluster: Cluster, other: Tls) -> None:
    assert "client_key_file" in failure(cluster, client_key_file=str(other.client_key))


# The wrong language


def test_tls_against_a_plain_port(cluster: Cluster) -> None:
    with Cluster.start(cluster.engine, 1, 0) as plain:
        message = failure(cluster, login_port=plain.nodes[0].port)
    assert "set tls to false" in message


def test_tls_against_a_port_that_never_answers(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = failure(cluster, login_port=silent.getsockname()[1], connect_timeout=2)
    assert "set tls to false" in message


@pytest.mark.parametrize("password", [PASSWORD, None])
def test_plain_against_a_tls_port(cluster: Cluster, password: str | None) -> None:
    """With a password the login is what fails, without one the first command."""
    assert "set tls to true" in failure(cluster, tls=False, login_password=password)


def test_plain_port_of_a_cluster_that_speaks_tls_inside_is_refused(cluster: Cluster) -> None:
    """A plain connection is told plain ports, and MIGRATE would use them with TLS."""
    ports = {node: processes.claim_port() for node in cluster.nodes}
    try:
        for node, port in ports.items():
            node.call("CONFIG", "SET", "port", port)
        plain = options(cluster, tls=False, login_port=ports[cluster.nodes[0]])
        deadline = time.monotonic() + 20
        while not all(node["reachable"] for node in run(INFO, plain)["nodes"]):
            assert time.monotonic() < deadline, run(INFO, plain)["problems"]
        before = cluster.ownership()
        wishes: list[tuple[str, dict[str, Any]]] = [
            (MIGRATE, {"slots": ["0"], "target": cluster.nodes[1].id, "method": "classic"}),
            (MEET, {"nodes": [cluster.spares[0].address]}),
        ]
        for module, wish in wishes:
            result = run(module, {**plain, **wish})
            assert result.get("failed"), result
            assert "set tls to true" in result["msg"]
        assert cluster.ownership() == before
    finally:
        for node, port in ports.items():
            node.call("CONFIG", "SET", "port", 0)
            processes.release_port(port)
    cluster.wait_healthy(members=6)
