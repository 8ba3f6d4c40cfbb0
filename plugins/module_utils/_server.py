# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""One server: a connection, and the few ways of speaking that the rest needs.

The only file that imports redis. redis-py connects, speaks TLS and logs in; what follows goes over
the connection's socket by `_resp.py`: nothing is sent twice, nothing is put into MULTI by itself (a
SETSLOT in there kills a Valkey primary that has a replica), and the bytes come back as they are.
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
    KeyslotError,
    LostConnection,
    Refused,
    ReplyError,
    Unreachable,
)
from ansible_collections.keyslot.redis.plugins.module_utils._resp import (
    Command,
    ErrorText,
    Malformed,
    Reader,
    Reply,
    pack,
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
_WITH_SUBCOMMANDS = ("CLUSTER", "COMMAND", "CONFIG", "CLIENT", "FUNCTION", "MEMORY")
SETSLOT_WAYS = 16


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
    def name(self) -> str:
        """The user who logs in."""
        return self.user or "default"

    @property
    def migrate_auth(self) -> list[str]:
        """The words with which MIGRATE logs in to its target."""
        if self.user:
            return ["AUTH2", self.user, self.password or ""]
        return ["AUTH", self.password] if self.password else []


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
        # redis-py gives the handshake the time of a command; a plain port never answers it.
        options.update(
            socket_timeout=login.connect_timeout,
            redis_connect_func=lambda connection: _log_in(connection, login.command_timeout),
            ssl_cert_reqs="required" if login.validate_certs else "none",
            ssl_check_hostname=login.validate_certs and login.check_hostname,
            ssl_ca_certs=login.ca_certs,
            ssl_certfile=login.client_cert_file,
            ssl_keyfile=login.client_key_file,
        )
    return options


def _log_in(connection: t.Any, timeout: float) -> None:
    connection._sock.settimeout(timeout)
    connection.on_connect()


# Part of an error's text -> what to do about it; the first that fits. A server that wants a client
# certificate (TLS 1.3) and one that does not speak our language just hang up.
_TLS_HINTS = (
    ("Connection refused", ""),
    (
        "mismatch, certificate is not valid",
        "Let the node announce a name that its certificate has (cluster-announce-hostname), "
        "connect by such a name, or set check_hostname to false.",
    ),
    ("certificate has expired", "Give that node a new certificate."),
    ("CERTIFICATE_VERIFY_FAILED", "Set ca_certs to the CA of the nodes' certificates."),
    ("KEY_VALUES_MISMATCH", "Set client_key_file to the key of client_cert_file."),
    (
        "WRONG_VERSION_NUMBER",
        "That is no TLS port: name the TLS port, or set tls to false.",
    ),
    ("imeout", "If that port does not speak TLS, name the TLS port, or set tls to false."),
    (
        "",
        "Set client_cert_file and client_key_file to a certificate that the node's CA has signed, "
        "and see that the port is its TLS port.",
    ),
)
_PLAIN_HINTS = (
    ("a reply that begins with", "That is no Redis server: check the port."),
    ("reset by peer", "If that port speaks TLS, set tls to true."),
    ("closed by server", "If that port speaks TLS, set tls to true."),
    ("", ""),
)


def _hint(exc: Exception, login: Login) -> str:
    """What to do about a connection that could not be made, or ended before the first answer."""
    hints = _TLS_HINTS if login.tls else _PLAIN_HINTS
    found = next(hint for part, hint in hints if part in str(exc))
    return f" {found}" if found else ""


class Server:
    """A connection to one server, made when it is first needed, and anew after it was lost.

    Safe to use from several threads; a thread waits while another one's commands are answered.
    Once its `node_id` is known, no other node is spoken to: an address can be another's later.
    """

    def __init__(self, host: str, port: int, login: Login) -> None:
        self.host = host
        self.port = port
        self.login = login
        self.address = format_address(host, port)
        self.ways = 1
        self.node_id = ""
        self._connection: t.Any = None
        self._reader: t.Any = None
        self._answered = False
        self._known = True
        self._sent_at = self._arrived_at = 0.0
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

    def beside(self, login: Login | None = None) -> Server:
        """One more connection to the same node, not made yet."""
        other = Server(self.host, self.port, login or self.login)
        other.node_id = self.node_id
        return other

    @property
    def peer(self) -> str:
        """The IP address that it was reached by; empty if there is no connection."""
        return self._connection._sock.getpeername()[0] if self._connection else ""

    def connect(self) -> None:
        """Raises Unreachable with the reason, in words, if no connection can be made."""
        if self._connection is None:
            self._open()
        if not self._known:
            self._check_identity()

    def _open(self) -> None:
        tls = self.login.tls
        kind = redis.connection.SSLConnection if tls else redis.connection.Connection
        connection = kind(host=self.host, port=self.port, **_connection_options(self.login))
        try:
            connection.connect()
        except redis.exceptions.BusyLoadingError:
            raise self._loading() from None
        except (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError) as exc:
            raise Unreachable(self._login_refused(exc)) from None
        except (redis.exceptions.RedisError, OSError, ValueError) as exc:
            # redis-py names the address once more.
            reason = str(exc).partition(f" connecting to {self.host}:{self.port}. ")[2] or str(exc)
            why = f"no connection to {self.address}: {reason}".rstrip(".")
            raise Unreachable(f"{why}.{_hint(exc, self.login)}") from None
        self._connection = connection
        self._reader = Reader(self._noting(connection._sock.recv))
        self._answered = False
        self._known = not self.node_id

    def _check_identity(self) -> None:
        """By CLUSTER NODES, which every user may run. A node that is loading does not answer it: it
        is asked again before the next command. Any other error shows at that one, too."""
        asked: list[Command] = [("CLUSTER", "NODES")]
        with self._translated(asked):
            self._connection._sock.sendall(pack(asked))
        (told,) = self._receive(asked)
        lines = [] if isinstance(told, ReplyError) else text(told).splitlines()
        mine = [line for line in lines if "myself" in line]
        if lines and not any(line.startswith(self.node_id) for line in mine):
            self.close()
            raise Unreachable(f"another node answers at {self.address}, not {self.node_id}.")
        self._known = not (isinstance(told, ReplyError) and told.code == "LOADING")

    def _loading(self) -> Unreachable:
        return Unreachable(f"{self.address} is loading its data set; try again later.")

    def _login_refused(self, exc: object) -> str:
        why = f"{self.address} refused the login: {exc}".rstrip(".?")
        return f"{why}. Check login_user and login_password, or REDISCLI_AUTH if that is not set."

    def pipeline(self, commands: t.Sequence[Command]) -> list[Reply]:
        """The replies in order, a ReplyError in the place of each error reply.

        All are sent at once: the server carries them out in one go, while its clients wait.
        Raises Unreachable (nothing sent) or LostConnection (perhaps carried out).
        """
        return self.timed(commands)[0]

    def timed(self, commands: t.Sequence[Command]) -> tuple[list[Reply], float]:
        """Like `pipeline`, with the seconds from the first byte sent to the last one received: what
        we need to pack and to read is no pause of the server."""
        with self._lock:
            self._send(commands)
            return self._receive(commands), self._arrived_at - self._sent_at

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
                self._others.append(self.beside())
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

    def _noting(self, receive: t.Callable[[int], bytes]) -> t.Callable[[int], bytes]:
        """`receive`, with a note of when something came."""

        def noting(most: int) -> bytes:
            chunk = receive(most)
            self._arrived_at = time.monotonic()
            return chunk

        return noting

    def _send(self, commands: t.Sequence[Command]) -> None:
        self.connect()
        packed = pack(commands)
        self._sent_at = time.monotonic()
        with self._translated(commands):
            self._connection._sock.sendall(packed)

    def _receive(self, commands: t.Sequence[Command]) -> list[Reply]:
        with self._translated(commands):
            return [self._read(command) for command in commands]

    @contextmanager
    def _translated(self, commands: t.Sequence[Command]) -> t.Iterator[None]:
        """Errors of the connection to ours; after any of them it can't be used again."""
        try:
            yield
        except (OSError, EOFError, Malformed) as exc:
            self.close()
            why = f"the connection to {self.address} was lost during {_name(commands[0])}: {exc}"
            hint = "" if self._answered else _hint(exc, self.login)
            raise LostConnection(f"{why.rstrip('.')}.{hint}") from None
        except BaseException:
            self.close()
            raise

    def _read(self, command: Command) -> Reply:
        reply = self._reader.read()
        self._answered = True
        if not isinstance(reply, ErrorText):
            return reply
        if reply.startswith("NOAUTH"):
            raise Unreachable(self._login_refused(reply))
        # What follows can be parts of a password.
        told = reply.partition(", with args beginning with")[0]
        return ReplyError(told, self.address, _name(command), self.login.name)

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
                ("CONFIG", "GET", "*cluster*"),
            ]
        )
        for reply in (nodes, cluster_info, info):
            if isinstance(reply, ReplyError):
                raise self._unusable(reply)
        try:
            view = parse_view(text(nodes))
        except ValueError as exc:
            raise Refused(
                f"{self.address} answers CLUSTER NODES with what is no list of nodes ({exc}): is a "
                "proxy there? Connect to the nodes themselves."
            ) from None
        report = Report(
            view=view,
            cluster_info=parse_info(text(cluster_info)),
            info=parse_info(text(info)),
            config={} if isinstance(config, ReplyError) else to_map(config),
        )
        self.ways = SETSLOT_WAYS if report.setslot_waits else 1
        return report

    def _unusable(self, reply: ReplyError) -> KeyslotError:
        if reply.code == "LOADING":
            return self._loading()
        if "cluster support disabled" in reply.text:
            return Refused(
                f"{self.address} is not in cluster mode: start it with 'cluster-enabled yes'."
            )
        if reply.code == "NOPERM":
            return Refused(
                f"the user '{reply.user}' may not run {reply.command} on {self.address}: "
                "grant it +cluster|nodes +cluster|info +info."
            )
        return Refused(str(reply))

    def round_trip(self) -> float:
        """Seconds that the network takes, the best of three PINGs."""
        return min(self.timed([("PING",)])[1] for _try in range(3))


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
    """The replies to `in_databases`, a list a database, without those to SELECT.

    Raises ReplyError for one that was refused: what follows it went to another database.
    """
    if list(databases) == [0]:
        return [replies]
    size = (len(replies) - 1) // len(databases)
    for reply in replies[::size]:
        if isinstance(reply, ReplyError):
            raise reply
    return [replies[i * size + 1 : (i + 1) * size] for i in range(len(databases))]


def _name(command: Command) -> str:
    """The command's name for messages, never an argument that could be a secret or a key."""
    words = [str(word) for word in command[:2]]
    return " ".join(words if words[0] in _WITH_SUBCOMMANDS else words[:1])
