# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from ansible_collections.keyslot.redis.plugins.module_utils._cluster import Cluster
from ansible_collections.keyslot.redis.plugins.module_utils._errors import (
    LostConnection,
    Unreachable,
)


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
