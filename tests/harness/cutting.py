# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs modules that are cut at a chosen command: killed, disconnected, or held there for a while.

    run = start("redis_slot_migrate", options, Cut(rf"^{source.port} MIGRATE", "kill after"))
    assert run.was_killed()

A pattern is searched in `PORT COMMAND ARGUMENTS`, the port being that of the server which is to
get the command. Each run is a process of its own, forked from a server that has loaded Ansible.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from ansible.module_utils import basic

from ansible_collections.keyslot.redis.plugins.module_utils._errors import LostConnection
from ansible_collections.keyslot.redis.plugins.module_utils._resp import Command
from ansible_collections.keyslot.redis.plugins.module_utils._server import Server
from tests.harness.ansible import result_of, start_module

ROOT = Path(__file__).resolve().parents[2]
COLLECTIONS = Path(sys.prefix) / "collections"
MODULES = "ansible_collections.keyslot.redis.plugins.modules"
UTILS = "ansible_collections.keyslot.redis.plugins.module_utils"
KILLED = 86
LOADED_ONCE = basic.AnsibleModule  # for all runs, which fork from here
SECONDS = 240.0

Action = Literal["kill before", "kill sent", "kill after", "lose", "lose one", "hold"]


@dataclass(frozen=True)
class Cut:
    """What happens at the n-th command that fits the pattern.

    kill before, kill after: the process ends before it is sent, or when it has been answered;
    what stands before it in its pipeline has been answered, what stands after it is not sent.
    kill sent: SIGKILL as soon as it has been sent, with what stands before it in its pipeline.
    lose: its pipeline is sent and carried out, the connection ends, and with it the replies.
    lose one: the same, but what stands after it in its pipeline is not sent; then it is held.
    hold: its pipeline is not sent until `Run.go()`.
    """

    pattern: str
    action: Action
    nth: int = 1


class Run:
    """A module under way in a process of its own.

    When it is held or has ended, `trace` are the commands that it sent to all servers, in order
    and as a pattern sees them, and `written` the files that it opened for writing.
    """

    def __init__(
        self,
        module: str,
        options: Mapping[str, Any],
        cuts: Sequence[Cut],
        constants: Mapping[str, Any],
    ) -> None:
        self.trace: list[str] = []
        self.written: list[str] = []
        self._cuts = cuts
        self._seen = [0] * len(cuts)
        self._connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("forkserver")
        _start_server()
        self._process = context.Process(
            target=_child,
            args=(theirs, module, dict(options), tuple(cuts), dict(constants)),
            daemon=True,
        )
        self._process.start()
        theirs.close()

    def wait_held(self) -> str:
        """Waits until it is held; the command. AssertionError: it ended before."""
        kind, value = self._next()
        assert kind == "held", f"never held: {value}"
        return value

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def held_or_result(self) -> str | dict[str, Any]:
        """Waits until it is held or has ended; the command, or the module's result."""
        kind, value = self._next()
        assert kind in ("held", "result"), f"{kind} {value}"
        return value

    def kill(self) -> None:
        """SIGKILL, now, and waits for its end; its trace is lost."""
        self._process.kill()
        self._process.join()

    def go(self) -> None:
        """Lets it go on."""
        self._connection.send("go")

    def result(self) -> dict[str, Any]:
        """Waits for its end; the module's result. AssertionError: it was killed, or crashed, or
        one of its cuts was never due."""
        kind, value = self._next()
        self._process.join()
        assert kind == "result", f"no result: {kind} {value}"
        never = [cut for cut, seen in zip(self._cuts, self._seen, strict=True) if seen < cut.nth]
        assert not never, f"never came to {never}: {value}"
        return value

    def was_killed(self) -> bool:
        """Waits for its end; whether a cut killed it."""
        kind, value = self._next()
        self._process.join()
        assert kind == "killed", f"not killed: {value}"
        return self._process.exitcode in (KILLED, -signal.SIGKILL)

    def ended(self, held: Callable[[], None] = lambda: None) -> dict[str, Any] | None:
        """Waits for its end; the module's result, None if it was killed. Whenever it is held, it
        goes on when `held` has been called."""
        kind, value = self._next()
        while kind == "held":
            held()
            self.go()
            kind, value = self._next()
        self._process.join()
        assert kind in ("result", "killed", "died"), f"{kind}: {value}"
        return value if kind == "result" else None

    @property
    def under_way(self) -> bool:
        """Whether its process lives."""
        return self._process.is_alive()

    def _next(self) -> tuple[str, Any]:
        if not self._connection.poll(SECONDS):
            self._process.kill()
            raise AssertionError(f"nothing happened for {SECONDS:g} s")
        try:
            kind, value, self.trace, self.written, self._seen = self._connection.recv()
        except (EOFError, OSError):  # killed, perhaps in the midst of telling
            return "died", None
        return kind, value


def start(
    module: str,
    options: Mapping[str, Any],
    *cuts: Cut,
    constants: Mapping[str, Any] | None = None,
) -> Run:
    """Starts a module (its options as a task gives them) with these cuts.

    constants: `_membership.QUIET_SECONDS` … of module_utils, that have another value in this run.
    """
    return Run(module, options, cuts, constants or {})


def run(module: str, options: Mapping[str, Any], *cuts: Cut) -> dict[str, Any]:
    """The result of a module."""
    return start(module, options, *cuts).result()


def run_module(
    module: str,
    options: Mapping[str, Any],
    *,
    check: bool = False,
    diff: bool = False,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The result of a module that nobody cuts, `failed` among it if it failed.

    A forked run is quicker than a new process, which alone has an environment of its own.
    """
    if env is not None:
        return result_of(start_module(module, options, check=check, diff=diff, env=env))
    return run(module, {**options, "_ansible_check_mode": check, "_ansible_diff": diff})


def _start_server() -> None:
    """The server that forks the runs has this file loaded, and does not import it anew for each."""
    old = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(COLLECTIONS)])
    try:
        multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, "pytest"])
        forkserver.ensure_running()
    finally:
        if old is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = old


# In the child


def _child(
    parent: Connection,
    module: str,
    options: Mapping[str, Any],
    cuts: Sequence[Cut],
    constants: Mapping[str, Any],
) -> None:
    """Runs the module's main() with its arguments on standard input, as Ansible does."""
    for path, constant in constants.items():
        file, _dot, name = path.rpartition(".")
        setattr(importlib.import_module(f"{UTILS}.{file}"), name, constant)
    cutter = _Cutter(parent, cuts)
    cutter.install()
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": dict(options)}).encode()
    sys.stdin = io.TextIOWrapper(io.BytesIO(arguments))
    sys.argv = [module]
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            importlib.import_module(f"{MODULES}.{module}").main()
        cutter.tell("result", json.loads(output.getvalue()))
    except BaseException:
        cutter.tell("crashed", traceback.format_exc() + output.getvalue())
        os._exit(1)


class _Cutter:
    """Stands in for Server._send, through which every command goes."""

    def __init__(self, parent: Connection, cuts: Sequence[Cut]) -> None:
        self._parent = parent
        self._cuts = cuts
        self._seen = [0] * len(cuts)
        self._trace: list[str] = []
        self._written: list[str] = []
        self._lock = threading.RLock()
        self._send = Server._send

    def install(self) -> None:
        """All servers of this process send through us from now on."""

        def send(server: Server, commands: Sequence[Command]) -> None:
            self._intercept(server, commands)

        Server._send = send  # type: ignore[assignment, method-assign]
        sys.addaudithook(self._audit)

    def tell(self, kind: str, value: Any) -> None:
        with self._lock:
            self._parent.send((kind, value, self._trace, self._written, self._seen))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _mode, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and "__pycache__" not in str(path):
                self._written.append(str(path))

    def _intercept(self, server: Server, commands: Sequence[Command]) -> None:
        with self._lock:
            cut, index = self._due(server, commands)
            last = len(commands)
            if cut and cut.action not in ("lose", "hold"):
                last = index + (cut.action != "kill before")
            self._trace += [_line(server, command) for command in commands[:last]]
            if cut and cut.action == "hold":
                self.tell("held", _line(server, commands[index]))
                self._parent.recv()
        if cut is None or cut.action == "hold":
            self._send(server, commands)
        elif cut.action == "lose":
            self._send(server, commands)
            time.sleep(0.3)
            self._lose(server)
        elif cut.action == "lose one":
            self._send(server, commands[:last])
            server._receive(commands[:last])
            self.tell("held", self._trace[-1])
            self._parent.recv()
            self._lose(server)
        elif cut.action == "kill sent":
            self._send(server, commands[:last])
            self.tell("killed", None)
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            self._die(server, commands[:last])

    @staticmethod
    def _lose(server: Server) -> None:
        server.close()
        raise LostConnection(f"the connection to {server.address} was lost: the test cut it")

    def _die(self, server: Server, commands: Sequence[Command]) -> None:
        with self._lock:
            if commands:
                self._send(server, commands)
                server._receive(commands)
            self.tell("killed", None)
            os._exit(KILLED)

    def _due(self, server: Server, commands: Sequence[Command]) -> tuple[Cut | None, int]:
        """The first cut that is due in these commands, and the index of its command."""
        for index, command in enumerate(commands):
            line = _line(server, command)
            for number, cut in enumerate(self._cuts):
                if re.search(cut.pattern, line):
                    self._seen[number] += 1
                    if self._seen[number] == cut.nth:
                        return cut, index
        return None, 0


def _line(server: Server, command: Command) -> str:
    words = (
        word.decode(errors="backslashreplace") if isinstance(word, bytes) else str(word)
        for word in command
    )
    return f"{server.port} {' '.join(words)}"
