# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes 3000 keys, or checks that all of them are there with their values, and no other."""

from __future__ import annotations

import sys

import redis

COUNT = 3000


def main(verb: str, address: str) -> None:
    host, port = address.rsplit(":", 1)
    cluster = redis.RedisCluster(host=host, port=int(port))
    names = [f"key:{number}" for number in range(COUNT)]
    if verb == "write":
        for name in names:
            cluster.set(name, f"value of {name}")
    wrong = [name for name in names if cluster.get(name) != f"value of {name}".encode()]
    held = sum(cluster.dbsize(target_nodes=node) for node in cluster.get_primaries())
    if wrong or held != COUNT:
        sys.exit(f"{len(wrong)} of {COUNT} keys are missing or wrong; the primaries hold {held}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
