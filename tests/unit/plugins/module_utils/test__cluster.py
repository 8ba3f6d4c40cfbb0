# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    KeyslotError,
    LostConnection,
    OptionError,
    Refused,
    Unreachable,
)
from ansible_collections.keyslot.redis.plugins.module_utils._module._common import connect
from ansible_collections.keyslot.redis.plugins.module_utils._server import Login
from ansible_collections.keyslot.redis.plugins.module_utils._topology import Report, parse_view

ADVICE = "See that one of them runs"
NO_CONNECTION = Unreachable("no connection to a:1: Connection refused.")
NO_LOGIN = Unreachable("b:1 refused the login: WRONGPASS. Check login_user and login_password.")
HUNG_UP = LostConnection(
    "the connection to a:1 was lost during CLUSTER NODES: Connection closed by server. "
    "If that port speaks TLS, set tls to true."
)


def timed_out(why: str) -> Unreachable:
    """As redis-py and we tell it: the reason is left in the context alone."""
    try:
        try:
            raise TimeoutError(why)
        except TimeoutError:
            raise Unreachable("no connection to a:1: Timeout connecting to server.") from None
    except Unreachable as exc:
        return exc


class Closed:
    """A server that can't be asked."""

    def __init__(self, exc: KeyslotError) -> None:
        self.exc = exc

    def report(self) -> t.NoReturn:
        raise self.exc

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(
    ("errors", "advised"),
    [
        ([NO_CONNECTION], True),
        ([timed_out("timed out")], True),
        ([timed_out("_ssl.c:999: The handshake operation timed out")], False),
        ([NO_LOGIN], False),
        ([HUNG_UP], False),
        ([NO_LOGIN, NO_CONNECTION], True),
    ],
    ids=str,
)
def test_addresses_are_to_be_checked_where_a_connection_failed(
    monkeypatch: pytest.MonkeyPatch, errors: list[KeyslotError], advised: bool
) -> None:
    told = {f"{number}:1": error for number, error in enumerate(errors)}
    login = Login(user=None, password=None)
    with Cluster(list(told), login, {}) as cluster:
        monkeypatch.setattr(cluster, "dial", lambda address: Closed(told[address]))
        with pytest.raises(Unreachable) as caught:
            cluster.observe()
    for error in errors:
        assert str(error) in str(caught.value)
    assert (ADVICE in str(caught.value)) is advised


@pytest.mark.parametrize("port", [0, -1, 65536, 99999])
def test_a_login_port_that_is_none_is_named_with_its_option(port: int) -> None:
    options = {
        "connect_timeout": 1.0,
        "command_timeout": 1.0,
        "login_user": None,
        "login_password": None,
        "tls": False,
        "validate_certs": True,
        "check_hostname": True,
        "ca_certs": None,
        "client_cert_file": None,
        "client_key_file": None,
        "login_host": "localhost",
        "login_port": port,
        "startup_nodes": [],
        "address_map": [],
    }
    with pytest.raises(OptionError) as caught:
        connect(options)
    assert str(caught.value) == f"login_port must be from 1 to 65535, not {port}."


class Lost:
    """A server whose connection ends for all threads that ask it."""

    def __init__(self, threads: int) -> None:
        self._together = Barrier(threads)

    def report(self) -> t.Any:
        self._together.wait(10)
        raise LostConnection("it ended")

    def close(self) -> None:
        pass


def test_threads_that_lose_the_same_entry_at_once_try_the_other_entries() -> None:
    with Cluster([], t.cast(t.Any, None), {}) as cluster:
        cluster._servers["a"] = t.cast(t.Any, Lost(2))
        with ThreadPoolExecutor(2) as threads:
            attempts = [threads.submit(cluster.observe) for _thread in range(2)]
        assert [type(attempt.exception()) for attempt in attempts] == [Unreachable, Unreachable]


def test_when_the_entry_is_gone_the_other_known_nodes_are_asked_at_once() -> None:
    """Where the network is gone, each of them takes as long as a command may."""
    others = Lost(2)
    with Cluster([], t.cast(t.Any, None), {}) as cluster:
        known = {"a": Closed(NO_CONNECTION), "b": others, "c": others}
        cluster._servers.update(t.cast(t.Any, known))
        with pytest.raises(Unreachable, match="no node of the cluster could be asked"):
            cluster.observe()
        assert cluster._servers == {}


class Fine:
    """A server that answers as node c, and knows another one."""

    def report(self) -> Report:
        row = "127.0.0.1:1@2 {flags} - 0 0 1 connected"
        rows = [f"c {row.format(flags='myself,master')}", f"a {row.format(flags='master')}"]
        return Report(parse_view("\n".join(rows)), {}, {}, {})

    def close(self) -> None:
        """Nothing is open."""


def test_when_the_entry_is_gone_a_busy_node_does_not_stand_in_the_way_of_another() -> None:
    busy = Refused("b:1 answered 'BUSY' to CLUSTER NODES")
    with Cluster([], t.cast(t.Any, None), {}) as cluster:
        known = {"a": Closed(NO_CONNECTION), "b": Closed(busy), "c": Fine()}
        cluster._servers.update(t.cast(t.Any, known))
        assert cluster._ask_entry().id == "c"
