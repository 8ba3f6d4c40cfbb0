# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Server processes, ports and folders that never outlive the harness.

* A child dies with us, even when we are killed: PDEATHSIG. The kernel sends it when the *thread*
  that forked ends, so one thread that never ends forks them all.
* A port is claimed by a lock that the kernel drops with us, so a stopped node keeps its port.
* A folder of a killed harness is removed by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import IO

# Client ports; the bus port lies 10,000 above. Both stay below the kernel's usual range for
# outgoing connections (from 32768), so that none of these ever takes a port of ours.
PORTS = range(20000, 22760)
BUS_OFFSET = 10000
_PREFIX = "keyslot-harness-"
# Where the folders of servers are made, if not among the temporary files.
FOLDERS_VARIABLE = "KEYSLOT_FOLDERS"
_STARTER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
os.getppid() == int(sys.argv[1]) or os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class _Starter:
    """The one thread that forks; made anew in a process that was itself forked."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.jobs: queue.SimpleQueue[tuple[list[str], Path, Future[subprocess.Popen[bytes]]]]
        self.jobs = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="keyslot-starter", daemon=True).start()

    def _serve(self) -> None:
        while True:
            argv, folder, answer = self.jobs.get()
            try:
                with open(folder / "output.txt", "ab") as output:
                    process = subprocess.Popen(
                        argv,
                        cwd=folder,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                answer.set_result(process)
            except BaseException as error:  # it belongs to the caller, the thread lives on
                answer.set_exception(error)


_starter: _Starter | None = None
_starter_lock = threading.Lock()


def spawn(argv: Iterable[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a program in `folder` (its output: output.txt there) that dies with this process."""
    global _starter
    with _starter_lock:
        if _starter is None or _starter.pid != os.getpid():
            _starter = _Starter()
    answer: Future[subprocess.Popen[bytes]] = Future()
    wrapped = [sys.executable, "-I", "-S", "-c", _STARTER, str(os.getpid()), *argv]
    _starter.jobs.put((wrapped, folder, answer))
    return answer.result()


def end(processes: Iterable[subprocess.Popen[bytes]], patience: float = 3.0) -> None:
    """Terminate these processes, paused ones too; after `patience` seconds kill them."""
    living = [process for process in processes if process.poll() is None]
    for process in living:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + patience
    for process in living:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
    for process in living:
        process.wait()


# Ports

_claimed: set[int] = set()
_claims: tuple[int, IO[bytes]] | None = None
_claims_lock = threading.Lock()


def claim_port() -> int:
    """A client port that is free together with its bus port and is ours until released.

    RuntimeError: there is none left.
    """
    offset = random.SystemRandom().randrange(len(PORTS))
    with _claims_lock:
        for step in range(len(PORTS)):
            port = PORTS[(offset + step) % len(PORTS)]
            if port in _claimed or not _lock_port(port):
                continue
            if _is_free(port) and _is_free(port + BUS_OFFSET):
                _claimed.add(port)
                return port
            _unlock_port(port)
    raise RuntimeError(f"no free port from {PORTS[0]} to {PORTS[-1]}")


def release_port(port: int) -> None:
    """Let others have this port."""
    with _claims_lock:
        if port in _claimed:
            _claimed.discard(port)
            _unlock_port(port)


def _claims_file() -> IO[bytes]:
    """The file whose byte n is locked by whoever has port n; opened once a process."""
    global _claims
    if _claims is None or _claims[0] != os.getpid():
        path = Path(tempfile.gettempdir()) / f"keyslot-ports-{os.getuid()}"
        _claims = (os.getpid(), open(path, "ab"))  # noqa: SIM115
    return _claims[1]


def _lock_port(port: int) -> bool:
    with contextlib.suppress(OSError):
        fcntl.lockf(_claims_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        return True
    return False


def _unlock_port(port: int) -> None:
    fcntl.lockf(_claims_file(), fcntl.LOCK_UN, 1, port)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


# Folders


class Folder:
    """A temporary folder, locked while its maker lives; others' dead folders are swept."""

    def __init__(self) -> None:
        base = Path(os.environ.get(FOLDERS_VARIABLE) or tempfile.gettempdir())
        _sweep(base)
        new = Path(tempfile.mkdtemp(prefix=f"new-{_PREFIX}", dir=base))
        self._lock = open(new / ".lock", "w", encoding="ascii")  # noqa: SIM115
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = base / new.name.removeprefix("new-")
        new.rename(self.path)

    def remove(self) -> None:
        """Delete the folder and all in it; twice does no harm."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _sweep(base: Path) -> None:
    """Remove the folders of harnesses that were killed."""
    for lock_path in base.glob(f"{_PREFIX}*/.lock"):
        with contextlib.suppress(OSError), open(lock_path, "r+", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock_path.parent, ignore_errors=True)
