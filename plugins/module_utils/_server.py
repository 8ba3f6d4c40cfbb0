# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""One server: a connection, and the few ways of speaking that the rest needs.

The only file that imports redis. It uses redis-py's connections and not its client: nothing is
sent twice, nothing is put into MULTI (a SETSLOT in there kills a Valkey primary that has a
replica), and the bytes come back as they are.
"""

from __future__ import annotations

import inspect
import socket
import sys
import threading
import time
import traceback
import typing as t
from contextlib import contextmanager
from dataclasses import dataclass, field

from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    LostConnection,
    Refused,
    ReplyError,
    Unreachable,
)
from ansible_collections.keyslot.redis.plugins.module_utils._topology import (
    Report,
    format_address,
    parse_info,
    parse_view,
    version_tuple,
)

try:
    import redis
    import redis.connection
    import redis.exceptions
except ImportError:
    REDIS_IMPORT_ERROR: str | None = traceback.format_exc()
else:
    REDIS_IMPORT_ERROR = None

MIN_REDIS_PY = "4.3"
_WITH_SUBCOMMANDS = ("CLUSTER", "CONFIG", "CLIENT", "FUNCTION", "MEMORY")
SETSLOT_WAYS = 16

Command = t.Sequence[t.Union[str, bytes, int]]
Reply = t.Any

# redis-py cuts these off the reply when it turns them into exceptions of its own.
_CODES = {
    "AskError": "ASK",
    "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "ExecAbortError": "EXECABORT",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}


def missing_library() -> str | None:
    """Why redis-py can't be used here, or None."""
    if REDIS_IMPORT_ERROR is not None:
        found = "there is none"
    elif version_tuple(redis.__version__) < version_tuple(MIN_REDIS_PY):
        found = f"this is {redis.__version__}"
    else:
        return None
    return (
        f"redis-py {MIN_REDIS_PY} or later is needed where the module runs; {found}: install the "
        f"package 'redis' for {sys.executable} on {socket.gethostname()}, or set "
        "ansible_python_interpreter to a Python that has it."
    )


@dataclass(frozen=True)
class Login:
    """How we log in to every server; timeouts in seconds."""

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    validate_certs: bool = True
    check_hostname: bool = True
    ca_certs: str | None = None
    client_cert_file: str | None = None
    client_key_file: str | None = None
    connect_timeout: float = 5.0
    command_timeout: float = 60.0

    @property
    def migrate_auth(self) -> list[str]:
        """The words with which MIGRATE logs in to its target."""
        if not self.password:
            return []
        return ["AUTH2", self.user, self.password] if self.user else ["AUTH", self.password]


def _connection_options(login: Login) -> dict[str, t.Any]:
    options: dict[str, t.Any] = {
        "username": login.user or None,
        "password": login.password or None,
        "socket_timeout": login.command_timeout,
        "socket_connect_timeout": login.connect_timeout,
        "socket_keepalive": True,
    }
    base = getattr(redis.connection, "AbstractConnection", redis.connection.Connection)
    known = inspect.signature(base.__init__).parameters
    # One round trip less each, and replies of one shape, whatever redis-py prefers.
    quiet = (
        {"driver_info": None} if "driver_info" in known else {"lib_name": None, "lib_version": None}
    )
    options.update((name, value) for name, value in quiet.items() if name in known)
    if "protocol" in known:
        options["protocol"] = 2
    if login.tls:
        options.update(
            ssl_cert_reqs="required" if login.validate_certs else "none",
            ssl_check_hostname=login.validate_certs and login.check_hostname,
            ssl_ca_certs=login.ca_certs,
            ssl_certfile=login.client_cert_file,
            ssl_keyfile=login.client_key_file,
        )
    return options


class Server:
    """A connection to one server, made when it is first needed, and anew after it was lost.

    Safe to use from several threads; a thread waits while another one's commands are answered.
    """

    def __init__(self, host: str, port: int, login: Login) -> None:
        self.host = host
        self.port = port
        self.login = login
        self.address = format_address(host, port)
        self.ways = 1
        self._connection: t.Any = None
        self._lock = threading.Lock()
        self._others: list[Server] = []
        self._ways_lock = threading.Lock()

    def close(self) -> None:
        """Ends the connection; the next command makes a new one."""
        for other in self._others:
            other.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def connect(self) -> None:
        """Raises Unreachable with the reason, in words, if no connection can be made."""
        if self._connection is not None:
            return
        tls = self.login.tls
        kind = redis.connection.SSLConnection if tls else redis.connection.Connection
        connection = kind(host=self.host, port=self.port, **_connection_options(self.login))
        try:
            connection.connect()
        except redis.exceptions.BusyLoadingError:
            raise Unreachable(f"{self.address} is loading its data set; try again later.") from None
        except (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError) as exc:
            raise Unreachable(self._login_refused(exc)) from None
        except (redis.exceptions.RedisError, OSError, ValueError) as exc:
            hint = " Does it speak TLS, and are the certificates right?" if tls else ""
            why = f"no connection to {self.address}: {exc}".rstrip(".")
            raise Unreachable(f"{why}.{hint}") from None
        self._connection = connection

    def _login_refused(self, exc: Exception) -> str:
        why = f"{self.address} refused the login: {exc}".rstrip(".")
        return f"{why}. Check login_user and login_password."

    def pipeline(self, commands: t.Sequence[Command]) -> list[Reply]:
        """The replies in order, a ReplyError in the place of each error reply.

        All are sent at once: the server carries them out in one go, while its clients wait.
        Raises Unreachable (nothing sent) or LostConnection (perhaps carried out).
        """
        with self._lock:
            self._send(commands)
            return self._receive(commands)

    def scatter(self, commands: t.Sequence[Command]) -> list[Reply]:
        """Like `pipeline`, for commands whose order does not matter, over `ways` connections.

        Valkey 8 and later answers SETSLOT when the replicas have it; only commands on different
        connections wait at the same time.
        """
        ways = min(self.ways, len(commands))
        if ways <= 1:
            return self.pipeline(commands)
        with self._ways_lock:
            while len(self._others) < ways:
                self._others.append(Server(self.host, self.port, self.login))
            used = self._others[:ways]
            try:
                return self._over(used, commands)
            except BaseException:
                # The others have replies to come that belong to no later command.
                for way in used:
                    way.close()
                raise

    @staticmethod
    def _over(used: t.Sequence[Server], commands: t.Sequence[Command]) -> list[Reply]:
        parts = [commands[number :: len(used)] for number in range(len(used))]
        for way, part in zip(used, parts):
            way._send(part)
        replies: list[Reply] = [None] * len(commands)
        for number, (way, part) in enumerate(zip(used, parts)):
            replies[number :: len(used)] = way._receive(part)
        return replies

    def _send(self, commands: t.Sequence[Command]) -> None:
        self.connect()
        with self._translated(commands):
            packed = self._connection.pack_commands(commands)
            self._connection.send_packed_command(packed, check_health=False)

    def _receive(self, commands: t.Sequence[Command]) -> list[Reply]:
        with self._translated(commands):
            return [self._read(command) for command in commands]

    @contextmanager
    def _translated(self, commands: t.Sequence[Command]) -> t.Iterator[None]:
        """redis-py's errors to ours; after any of them the connection can't be used again."""
        try:
            yield
        except redis.exceptions.AuthenticationError as exc:
            self.close()
            raise Unreachable(self._login_refused(exc)) from None
        except (redis.exceptions.RedisError, OSError) as exc:
            self.close()
            raise LostConnection(
                f"the connection to {self.address} was lost during {_name(commands[0])}: {exc}"
            ) from None
        except BaseException:
            self.close()
            raise

    def _read(self, command: Command) -> Reply:
        try:
            return self._connection.read_response()
        except redis.exceptions.ResponseError as exc:
            code = _CODES.get(type(exc).__name__, "")
            text = f"{code} {exc}" if code and not str(exc).startswith(code) else str(exc)
            return ReplyError(text, self.address, _name(command))

    def call(self, *command: str | bytes | int) -> Reply:
        """The reply to one command. Raises ReplyError too."""
        return self.all_ok([command])[0]

    def all_ok(self, commands: t.Sequence[Command]) -> list[Reply]:
        """The replies to all commands; raises the first ReplyError, when all have been read."""
        replies = self.pipeline(commands)
        for reply in replies:
            if isinstance(reply, ReplyError):
                raise reply
        return replies

    def report(self) -> Report:
        """What the server tells of itself and of the cluster, in one round trip.

        Raises Refused if it is not in cluster mode or does not let us ask.
        """
        nodes, cluster_info, info, config = self.pipeline(
            [
                ("CLUSTER", "NODES"),
                ("CLUSTER", "INFO"),
                ("INFO",),
                ("CONFIG", "GET", "cluster-*"),
            ]
        )
        for reply in (nodes, cluster_info, info):
            if isinstance(reply, ReplyError):
                raise self._unusable(reply)
        report = Report(
            view=parse_view(text(nodes)),
            cluster_info=parse_info(text(cluster_info)),
            info=parse_info(text(info)),
            config={} if isinstance(config, ReplyError) else to_map(config),
        )
        self.ways = SETSLOT_WAYS if report.setslot_waits else 1
        return report

    def _unusable(self, reply: ReplyError) -> Refused:
        if "cluster support disabled" in reply.text:
            return Refused(
                f"{self.address} is not in cluster mode: start it with 'cluster-enabled yes'."
            )
        if reply.code == "NOPERM":
            return Refused(
                f"the user may not run {reply.command} on {self.address} ({reply.text}): "
                "grant it +cluster|nodes +cluster|info +info."
            )
        return Refused(str(reply))

    def round_trip(self) -> float:
        """Seconds that the network takes, the best of three PINGs."""
        times = []
        for _try in range(3):
            started = time.monotonic()
            self.call("PING")
            times.append(time.monotonic() - started)
        return min(times)


def text(reply: bytes | str) -> str:
    """A reply as text; bytes that are no UTF-8 survive as escapes."""
    return reply if isinstance(reply, str) else reply.decode("utf-8", "backslashreplace")


def to_map(reply: t.Any) -> dict[str, t.Any]:
    """A map, or (RESP2) a flat list of names and values; texts are decoded."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2])
    return {text(k): text(v) if isinstance(v, (bytes, str)) else v for k, v in pairs}


def in_databases(databases: t.Sequence[int], commands: t.Sequence[Command]) -> list[Command]:
    """The commands once in each database; the connection is back in database 0 at the end."""
    if list(databases) == [0]:
        return list(commands)
    each = [c for database in databases for c in (("SELECT", database), *commands)]
    return [*each, ("SELECT", 0)]


def by_database(databases: t.Sequence[int], replies: list[Reply]) -> list[list[Reply]]:
    """The replies to `in_databases`, a list a database, without those to SELECT."""
    if list(databases) == [0]:
        return [replies]
    size = (len(replies) - 1) // len(databases)
    return [replies[i * size + 1 : (i + 1) * size] for i in range(len(databases))]


def _name(command: Command) -> str:
    """The command's name for messages, never an argument that could be a secret or a key."""
    words = [str(word) for word in command[:2]]
    return " ".join(words if words[0] in _WITH_SUBCOMMANDS else words[:1])
