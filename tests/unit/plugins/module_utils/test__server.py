# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import socket
import threading
import typing as t
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    LostConnection,
    ReplyError,
    Unreachable,
)
from ansible_collections.keyslot.redis.plugins.module_utils._server import (
    Command,
    Login,
    Server,
    _hint,
    _name,
    by_database,
    in_databases,
    text,
    to_map,
)

quick = settings(deadline=None, max_examples=60)
SECRET = "s3cret"


def test_in_database_0_alone_nothing_is_selected() -> None:
    commands: list[Command] = [("PING",), ("DBSIZE",)]
    assert in_databases([0], commands) == commands
    assert by_database([0], ["a", "b"]) == [["a", "b"]]


def test_commands_are_given_once_in_each_database() -> None:
    assert in_databases([0, 3], [("PING",), ("DBSIZE",)]) == [
        ("SELECT", 0),
        ("PING",),
        ("DBSIZE",),
        ("SELECT", 3),
        ("PING",),
        ("DBSIZE",),
        ("SELECT", 0),
    ]


def test_another_database_alone_is_selected_and_left_again() -> None:
    assert in_databases([5], [("PING",)]) == [("SELECT", 5), ("PING",), ("SELECT", 0)]


@quick
@given(
    st.lists(st.integers(0, 15), min_size=1, max_size=5, unique=True),
    st.lists(st.text("abc", min_size=1), max_size=5),
)
def test_replies_come_back_by_database(databases: list[int], words: list[str]) -> None:
    replies: list[t.Any] = []
    selected = 0
    for command in in_databases(databases, [(word,) for word in words]):
        if command[0] == "SELECT":
            selected = int(command[1])
            replies.append(b"OK")
        else:
            replies.append((selected, command[0]))
    assert selected == 0
    assert by_database(databases, replies) == [
        [(database, word) for word in words] for database in databases
    ]


@pytest.mark.parametrize(
    "reply",
    [
        [b"cluster-node-timeout", b"15000", "used", 7, b"none", None],
        {b"cluster-node-timeout": b"15000", "used": 7, b"none": None},
    ],
)
def test_maps_of_both_protocols_are_one(reply: t.Any) -> None:
    assert to_map(reply) == {"cluster-node-timeout": "15000", "used": 7, "none": None}


def test_an_empty_map() -> None:
    assert to_map([]) == to_map({}) == {}


def test_bytes_that_are_no_text_survive() -> None:
    assert text(b"k\xff") == "k\\xff"
    assert text("k\xff") == "k\xff"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("PING",), "PING"),
        (("CLUSTER", "SETSLOT", 5, "NODE", "id"), "CLUSTER SETSLOT"),
        (("CONFIG", "SET", "requirepass", SECRET), "CONFIG SET"),
        (("CLIENT", "LIST"), "CLIENT LIST"),
        (("FUNCTION", "RESTORE", SECRET), "FUNCTION RESTORE"),
        (("AUTH", SECRET), "AUTH"),
        (("AUTH", "user", SECRET), "AUTH"),
        (("HELLO", 2, "AUTH", "user", SECRET), "HELLO"),
        (("ACL", "SETUSER", "user", f">{SECRET}"), "ACL"),
        (("MIGRATE", "host", 1, "", 0, 5, "AUTH2", "user", SECRET, "KEYS", "k"), "MIGRATE"),
        (("DEL", SECRET.encode()), "DEL"),
        (("GET", SECRET), "GET"),
    ],
)
def test_a_command_is_named_without_its_secrets(command: Command, name: str) -> None:
    assert _name(command) == name


def test_a_login_does_not_show_its_password() -> None:
    assert SECRET not in repr(Login("user", SECRET))
    assert SECRET not in str(Login(password=SECRET))


@pytest.mark.parametrize(
    ("login", "words"),
    [
        (Login(), []),
        (Login("user", None), ["AUTH2", "user", ""]),
        (Login("user", ""), ["AUTH2", "user", ""]),
        (Login(None, SECRET), ["AUTH", SECRET]),
        (Login("", SECRET), ["AUTH", SECRET]),
        (Login("user", SECRET), ["AUTH2", "user", SECRET]),
    ],
)
def test_migrate_logs_in_as_we_do(login: Login, words: list[str]) -> None:
    assert login.migrate_auth == words


@pytest.mark.parametrize(
    ("text", "command", "rule"),
    [
        (
            "NOPERM this user has no permissions to run the 'cluster' command",
            "CLUSTER SETSLOT",
            "+cluster|setslot",
        ),
        (
            "NOPERM User mover has no permissions to run the 'migrate' command",
            "MIGRATE",
            "+migrate",
        ),
        ("NOPERM No permissions to access a key", "MIGRATE", "all keys (~*)"),
        (
            "NOPERM this user has no permissions to access one of the keys used as arguments",
            "GET",
            "all keys (~*)",
        ),
        ("NOPERM No permissions to access database", "SELECT", "alldbs"),
        ("ERR unknown command", "MIGRATE", ""),
    ],
)
def test_an_error_names_the_rule_that_the_user_lacks(text: str, command: str, rule: str) -> None:
    error = ReplyError(text, "10.0.0.1:6379", command, "mover")
    assert error.grant == rule
    assert (f"grant the user 'mover' {rule}" in str(error)) == bool(rule)


TLS = Login(tls=True)


@pytest.mark.parametrize(
    ("told", "login", "hint"),
    [
        ("Timeout connecting to server", TLS, "set tls to false"),
        ("Timeout connecting to server", Login(), ""),
        ("Error 111 connecting to x. Connection refused", TLS, ""),
        ("Connection closed by server.", Login(), "set tls to true"),
        ("certificate verify failed: certificate has expired", TLS, "new certificate"),
        ("CERTIFICATE_VERIFY_FAILED certificate verify failed: unable to get", TLS, "ca_certs"),
        ("IP address mismatch, certificate is not valid for '10.0.0.1'", TLS, "check_hostname"),
        ("EOF occurred in violation of protocol", TLS, "client_cert_file"),
    ],
)
def test_a_hint_says_what_to_do(told: str, login: Login, hint: str) -> None:
    assert hint in _hint(OSError(told), login)
    assert bool(_hint(OSError(told), login)) == bool(hint)


class Answering:
    """What answers at an address: `told` to CLUSTER NODES, OK to all else."""

    def __init__(self) -> None:
        self.told = b""
        self.heard: list[str] = []
        self.hangs_up = False
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.serve)

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self.socket.accept()[0]
                with connection:
                    while (data := connection.recv(65536)) and not self.hangs_up:
                        for command in data.split(b"*")[1:]:
                            self.heard.append(command.split()[2].decode())
                            asked = b"NODES" in command
                            connection.sendall(self.told if asked else b"+OK\r\n")


@pytest.fixture
def answering() -> Iterator[Answering]:
    made = Answering()
    made.thread.start()
    yield made
    made.socket.shutdown(socket.SHUT_RDWR)
    made.socket.close()
    made.thread.join()


@pytest.fixture
def server(answering: Answering) -> Iterator[Server]:
    """What speaks to it, and takes it for node a."""
    made = Server("127.0.0.1", answering.socket.getsockname()[1], Login())
    made.node_id = "a" * 40
    yield made
    made.close()


def nodes_of(node_id: str) -> bytes:
    text = f"{node_id} 127.0.0.1:1@2 myself,master - 0 0 1 connected\n".encode()
    return b"$%d\r\n%s\r\n" % (len(text), text)


def test_a_node_that_was_loading_is_asked_again_who_it_is(
    answering: Answering, server: Server
) -> None:
    """The address may have become another node's, which loads first of all."""
    answering.told = b"-LOADING Redis is loading the dataset in memory\r\n"
    assert server.pipeline([("PING",)]) == [b"OK"]
    answering.told = nodes_of("b" * 40)
    with pytest.raises(Unreachable, match="another node answers"):
        server.pipeline([("SET", "key", "value")])
    assert "SET" not in answering.heard


def test_a_node_that_has_said_who_it_is_is_not_asked_again(
    answering: Answering, server: Server
) -> None:
    answering.told = nodes_of("a" * 40)
    for _time in range(2):
        assert server.pipeline([("PING",)]) == [b"OK"]
    assert answering.heard.count("CLUSTER") == 1


def test_a_lost_connection_is_told_in_a_whole_sentence(
    answering: Answering, server: Server
) -> None:
    answering.told = nodes_of("a" * 40)
    server.pipeline([("PING",)])
    answering.hangs_up = True
    with pytest.raises(LostConnection, match=r"was lost during PING: closed by server\.$"):
        server.pipeline([("PING",)])
