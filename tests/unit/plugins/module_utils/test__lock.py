# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.keyslot.redis.plugins.module_utils import _slice
from ansible_collections.keyslot.redis.plugins.module_utils._lock import Holder, holders

LINE = (
    "id={id} addr=10.0.0.9:{id} laddr=10.0.0.1:6379 fd=8 name={name} age=3 idle=0 flags=N cmd=ping"
)


def client_list(*names: str) -> str:
    return "".join(LINE.format(id=number, name=name) + "\n" for number, name in enumerate(names, 7))


def test_runs_are_told_from_other_clients() -> None:
    names = (
        "",
        "app",
        "keyslot:",
        "keyslot:web1:42:1795582544:0f",
        "keyslot:a:b:c:d",
        "x:keyslot:y",
    )
    assert holders(client_list(*names)) == [
        Holder("web1", 42, 1795582544, "0f", False, "10.0.0.9:10")
    ]


def test_a_process_that_keeps_a_place_is_told_from_a_run() -> None:
    (found,) = holders(client_list("keyslot:web1:42:1795582544:0f:keeper"))
    assert found.keeps


def test_a_holder_says_who_and_since_when() -> None:
    (found,) = holders(client_list("keyslot:web1:42:1795582544:0f"))
    assert str(found) == "process 42 on the host 'web1', since 2026-11-25 04:55:44 UTC"


@pytest.mark.parametrize(
    "text", ["", "\n", "no client list at all", "name=keyslot:a:1:2", "name=keyslot:a:b:2:3"]
)
def test_other_texts_name_nobody(text: str) -> None:
    assert holders(text) == []


def test_a_holder_without_an_address_is_one() -> None:
    (found,) = holders("name=keyslot:a:1:2:3")
    assert (found.pid, found.address) == (1, "")


def test_a_slice_is_what_its_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _slice.current() is None
    part = _slice.Slice("0f", first=True, keep=7.5, keeper="12@web1")
    monkeypatch.setenv(_slice.VARIABLE, part.to_text())
    assert _slice.current() == part
