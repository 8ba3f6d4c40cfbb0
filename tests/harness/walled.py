# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A network that is not plain, without any rights: ports that are mapped, hosts that are out of
reach, names with several addresses, lines that are slow.

    with Forwarder(node.port, delay=0.1) as mapped:
        run_walled("redis_cluster_info", options, ports=[mapped.port])
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from tests.harness.ansible import ROOT, environment, result_of
from tests.harness.node import Node

# What runs in the module's own process before the module does.
_WALL = """
import json, runpy, socket, sys
wall = json.loads(sys.argv[1])
real = socket.getaddrinfo
def look_up(host, port, *more, **rest):
    addresses = wall["names"].get(host, [host])
    return [item for address in addresses for item in real(address, port, *more, **rest)]
socket.getaddrinfo = look_up
def guard(event, arguments):
    if event == "socket.connect" and wall["ports"] is not None:
        if arguments[1][1] not in wall["ports"]:
            raise ConnectionRefusedError(111, "refused by the wall")
sys.addaudithook(guard)
module = sys.argv.pop()
sys.argv = [module]
runpy.run_path(module, run_name="__main__")
"""


def run_walled(
    module: str,
    options: Mapping[str, Any],
    *,
    ports: Sequence[int] | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """The result of a module that can dial these ports alone (default: all), and for which each
    of these host names has these addresses."""
    wall = json.dumps({"ports": ports, "names": dict(names or {})})
    process = subprocess.Popen(
        [sys.executable, "-c", _WALL, wall, str(ROOT / "plugins" / "modules" / f"{module}.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": dict(options)}))
    process.stdin.close()
    process.stdin = None
    return result_of(process)


class Forwarder:
    """Listens, and passes everything on to a port of 127.0.0.1, `delay` seconds later each way."""

    def __init__(
        self, port: int, *, listen: tuple[str, int] = ("127.0.0.1", 0), delay: float = 0
    ) -> None:
        self._to = port
        self._delay = delay
        self._listener = socket.create_server(listen)
        self._sockets: list[socket.socket] = []
        host, self.port = self._listener.getsockname()[:2]
        self.address = f"{host}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Forwarder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end_connections()

    def lead_to(self, port: int) -> None:
        """Ends all connections; the next ones lead to that port."""
        self._to = port
        self._end_connections()

    def _end_connections(self) -> None:
        while self._sockets:
            end = self._sockets.pop()
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _next(self) -> int:
        """The port to which the next connection is passed on."""
        return self._to

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _address = self._listener.accept()
                theirs = socket.create_connection(("127.0.0.1", self._next()))
                self._sockets += [ours, theirs]
                for pair in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(65536):
                time.sleep(self._delay)
                target.sendall(received)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Balancer(Forwarder):
    """Passes each connection on to the next one of the nodes, as a service of Kubernetes does."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        super().__init__(nodes[0].port)
        self._ports = [node.port for node in nodes]
        self._turn = 0

    def begin_with(self, node: Node) -> None:
        self._turn = self._ports.index(node.port)

    def _next(self) -> int:
        self._turn += 1
        return self._ports[(self._turn - 1) % len(self._ports)]
