# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One real server of a test cluster: its process, its folder, and how to talk to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.harness import engines, processes

START_SECONDS = 60.0


class BindFailed(RuntimeError):
    """The server found its port or its bus port taken."""


@dataclass(frozen=True)
class Tls:
    """Certificate files of one cluster; the server's serves 127.0.0.1 and localhost."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path


@dataclass(eq=False, repr=False)
class Node:
    """A server in cluster mode. Made by Cluster.start and Cluster.start_node."""

    engine: engines.Engine
    folder: Path
    port: int
    password: str | None = None
    tls: Tls | None = None
    host: str = "127.0.0.1"
    process: subprocess.Popen[bytes] | None = None
    paused: bool = False
    _id: str = ""
    _admin: redis.Redis | None = None
    _log_start: int = 0

    def __repr__(self) -> str:
        return f"<{self.engine.name} on {self.address}>"

    # Who it is

    @property
    def address(self) -> str:
        """`host:port` of the client port."""
        return f"{self.host}:{self.port}"

    @property
    def id(self) -> str:
        """Its cluster id; asked anew while it runs (CLUSTER RESET HARD changes it)."""
        if self.running:
            self._id = str(self.call("CLUSTER", "MYID"), "ascii")
        return self._id

    @property
    def pid(self) -> int:
        """Its process id, that of the last process if it is down; 0 before the first start."""
        return self.process.pid if self.process else 0

    @property
    def running(self) -> bool:
        """Whether the process lives and is not paused."""
        return self.process is not None and self.process.poll() is None and not self.paused

    # Talking to it

    def connection_options(self) -> dict[str, Any]:
        """Keyword arguments with which redis-py logs in to any node of this cluster."""
        options: dict[str, Any] = {"password": self.password, "protocol": 2}
        if self.tls:
            options |= {
                "ssl": True,
                "ssl_ca_certs": str(self.tls.ca),
                "ssl_certfile": str(self.tls.client_cert),
                "ssl_keyfile": str(self.tls.client_key),
            }
        return options

    def client(self, decode: bool = False, **options: Any) -> redis.Redis:
        """A new redis-py client of this node: no retries, RESP2 unless `protocol` is given."""
        defaults = {
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": 30,
            **self.connection_options(),
        }
        return redis.Redis(
            host=self.host, port=self.port, decode_responses=decode, **{**defaults, **options}
        )

    def call(self, *words: str | int | bytes) -> Any:
        """One command on a connection that is kept; its answer, strings as bytes.

        ResponseError and ConnectionError are redis-py's; after 20 s TimeoutError.
        """
        if self._admin is None:
            self._admin = self.client(socket_timeout=20, socket_connect_timeout=20)
            self._admin.response_callbacks.clear()
        return self._admin.execute_command(*words)

    def info(self, section: str) -> dict[str, str]:
        """The fields of one section of INFO, or of CLUSTER INFO for `cluster-state`."""
        words = ("CLUSTER", "INFO") if section == "cluster-state" else ("INFO", section)
        lines = str(self.call(*words), "utf-8", "replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def cli(self, *words: str) -> str:
        """What redis-cli or valkey-cli prints for these words; the password isn't in its argv.

        RuntimeError: there is no such tool, or it ended with an error.
        """
        done = self.run_cli("-h", self.host, "-p", str(self.port), *words)
        if done.returncode:
            raise RuntimeError(f"{self.address} cli {words}: {done.stdout}{done.stderr}")
        return done.stdout

    def run_cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line tool with this cluster's password and TLS files (120 s)."""
        prefix = self.engine.cli or engines.referee()
        if prefix is None:
            raise RuntimeError(f"no command line tool for {self.engine.name}")
        flags: list[str] = []
        if self.tls:
            flags = ["--tls", "--cacert", str(self.tls.ca)]
            flags += ["--cert", str(self.tls.client_cert), "--key", str(self.tls.client_key)]
        login = {"REDISCLI_AUTH": self.password, "VALKEYCLI_AUTH": self.password}
        env = {**os.environ, **{key: value for key, value in login.items() if value}}
        return subprocess.run(
            [*prefix, *flags, *words],
            env=env,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )

    # Its life

    def write_config(self, settings: Mapping[str, str | int]) -> None:
        """Write the configuration file; an empty value is written as \"\"."""
        lines = [
            f"{key} {value if value != '' else chr(34) * 2}" for key, value in settings.items()
        ]
        path = self.folder / "server.conf"
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def spawn(self) -> None:
        """Start the process and return at once."""
        self._log_start = len(self._raw_log())
        argv = [*self.engine.server, str(self.folder / "server.conf")]
        self.process = processes.spawn(argv, self.folder)
        self.paused = False

    def wait_ready(self, timeout: float = START_SECONDS) -> None:
        """Wait until it answers PING. BindFailed, or RuntimeError with the end of its log."""
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(redis.RedisError, OSError):
                if self.call("PING") == b"PONG":
                    self._id = str(self.call("CLUSTER", "MYID"), "ascii")
                    return
            self._disconnect()
            dead = self.process is None or self.process.poll() is not None
            if dead or time.monotonic() > deadline:
                text = self._raw_log()[self._log_start :]
                kind = BindFailed if dead and "already in use" in text else RuntimeError
                raise kind(f"{self.engine.name} on {self.address} did not start: {text[-1500:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it by SIGTERM, by SIGKILL after 3 s."""
        if self.process:
            processes.end([self.process])
        self._down()

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self.process:
            self.process.kill()
            self.process.wait()
        self._down()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open, nothing is answered."""
        self._signal(signal.SIGSTOP)
        self.paused = True
        while self._state() not in "TZX":  # stopped, or dead
            time.sleep(0.001)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal(signal.SIGCONT)
        self.paused = False

    def restart(self) -> None:
        """Stop it if it runs, then start it with the same folder, port and configuration."""
        self.stop()
        self.spawn()
        self.wait_ready()

    def log(self) -> str:
        """Everything it has logged, and what it wrote to its standard output."""
        return self._raw_log()

    # What was asked of it

    @contextlib.contextmanager
    def monitor(self) -> Iterator[list[str]]:
        """Record the lines of MONITOR; complete when the block ends.

        The engines leave administrative commands (CLUSTER SETSLOT, CONFIG, …) out of MONITOR:
        use commands() for these.
        """
        lines: list[str] = []
        client = self.client(socket_timeout=30)
        connection = client.connection_pool.get_connection()
        connection.send_command("MONITOR")
        connection.read_response()
        marker = f"keyslot-monitor-{time.monotonic_ns()}"
        reader = threading.Thread(target=_read_lines, args=(connection, marker, lines), daemon=True)
        reader.start()
        try:
            yield lines
        finally:
            try:
                with self._unless_it_is_gone():
                    self.call("ECHO", marker)
                    reader.join(60)
                    assert not reader.is_alive(), "MONITOR has not come to its end"
            finally:
                connection.disconnect()
                client.close()

    @contextlib.contextmanager
    def commands(self) -> Iterator[list[str]]:
        """Record every command, administrative ones too, by way of SLOWLOG; oldest first.

        The list is filled when the block ends. Words over 128 bytes and commands of over 32
        words are shortened by the server; EXEC itself is not listed (MULTI is). Nothing is
        recorded if the server ends before the block does.
        """
        lines: list[str] = []
        old = {key: self.call("CONFIG", "GET", key)[1] for key in _SLOWLOG}
        self.call("SLOWLOG", "RESET")
        for key, value in _SLOWLOG.items():
            self.call("CONFIG", "SET", key, value)
        try:
            yield lines
        finally:
            with self._unless_it_is_gone():
                entries = self.call("SLOWLOG", "GET", _SLOWLOG["slowlog-max-len"])
                for key, value in old.items():
                    self.call("CONFIG", "SET", key, value)
                words = (
                    b" ".join(entry[3]).decode(errors="replace") for entry in reversed(entries)
                )
                lines += [line for line in words if not line.startswith("CONFIG SET slowlog")]

    # Inside

    @contextlib.contextmanager
    def _unless_it_is_gone(self) -> Iterator[None]:
        """An error counts as long as the server runs."""
        try:
            yield
        except (redis.RedisError, OSError):
            if self.running:
                raise

    def _signal(self, number: int) -> None:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"{self.address} does not run")
        self.process.send_signal(number)

    def _state(self) -> str:
        """T for a process that is stopped, S for one that waits, and so on."""
        stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[0]

    def _down(self) -> None:
        self.paused = False
        self._disconnect()

    def _disconnect(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _raw_log(self) -> str:
        text = ""
        for name in ("server.log", "output.txt"):
            with contextlib.suppress(OSError):
                text += (self.folder / name).read_text(encoding="utf-8", errors="replace")
        return text


_SLOWLOG = {"slowlog-max-len": 1_000_000, "slowlog-log-slower-than": 0}


def _read_lines(connection: Any, marker: str, lines: list[str]) -> None:
    """Collect what MONITOR sends until the marker comes or the connection ends."""
    while True:
        try:
            line = connection.read_response(disable_decoding=True, timeout=None)
        except (redis.TimeoutError, TimeoutError):
            continue
        except (redis.RedisError, OSError, ValueError, AttributeError):
            return
        text = line.decode(errors="replace")
        if marker in text:
            return
        lines.append(text)
