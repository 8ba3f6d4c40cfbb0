# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One connection to one real server, and what is left of it when something breaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    LostConnection,
    ReplyError,
)
from ansible_collections.keyslot.redis.plugins.module_utils._server import Login, Server
from tests.harness.cluster import Cluster
from tests.harness.engines import Engine


@pytest.fixture
def server(engine: Engine) -> Iterator[Server]:
    with Cluster.start(engine, 3, 0) as cluster:
        made = Server(cluster.nodes[0].host, cluster.nodes[0].port, Login())
        yield made
        made.close()


def echo(server: Server, first: int) -> None:
    """Eight commands over all ways; each reply has to be that of its own command."""
    words = [str(number).encode() for number in range(first, first + 8)]
    assert server.scatter([("ECHO", word) for word in words]) == words


def test_a_way_that_is_lost_leaves_no_reply_for_later_commands(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ways = 4
    echo(server, 0)

    def lose(_commands: object) -> None:
        raise LostConnection("cut by the test")

    with monkeypatch.context() as broken:
        broken.setattr(server._others[1], "_receive", lose)
        with pytest.raises(LostConnection):
            echo(server, 100)
    echo(server, 200)


def test_an_error_reply_stands_in_its_place_and_the_connection_goes_on(server: Server) -> None:
    first, error, last = server.pipeline([("ECHO", "a"), ("CLUSTER", "NONSENSE"), ("ECHO", "b")])
    assert (first, last) == (b"a", b"b")
    assert isinstance(error, ReplyError)
    assert server.call("ECHO", "c") == b"c"
