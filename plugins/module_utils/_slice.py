# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This module util is **PRIVATE** to the collection: it can change in breaking ways at any time.

"""What the action plugin and the module say to each other, pure: a run in slices.

The action tells the module by an environment variable that it is one slice of a longer run; the
module tells the action by a sealed text what it has done.
"""

from __future__ import annotations

import json
import os
import typing as t
import zlib
from dataclasses import asdict, dataclass

VARIABLE = "KEYSLOT_SLICE"
# The field of a slice's result that carries the sealed text.
FIELD = "keyslot_slice"
# First of 256 characters that stand for bytes. They are nobody's: no password has them.
_SEAL = 0xE000


@dataclass(frozen=True)
class Slice:
    """One module execution of a longer run.

    `token` is the run's own. The `first` slice plans, and moves only if it can do all in its time;
    the `last` one may not leave anything running. `age` is how long the run has lasted. Between
    two slices the process `keeper` keeps others off, for `keep` seconds at most.
    """

    token: str
    first: bool = False
    last: bool = False
    age: float = 0.0
    keep: float = 5.0
    keeper: str = ""

    def to_text(self) -> str:
        return json.dumps(asdict(self))


def current() -> Slice | None:
    """The slice that this process is, if it is one."""
    told = os.environ.get(VARIABLE)
    return Slice(**json.loads(told)) if told else None


def seal(value: t.Any) -> str:
    """JSON data as a text in which Ansible finds no password to mask, be it `1` or `ok`."""
    packed = zlib.compress(json.dumps(value).encode("utf-8"), 9)
    return "".join(chr(_SEAL + byte) for byte in packed)


def unseal(text: str) -> t.Any:
    """The data again."""
    return json.loads(zlib.decompress(bytes(ord(character) - _SEAL for character in text)))
