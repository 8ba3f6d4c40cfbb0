# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What users get: the tarball holds what it should, and works where nothing else is."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.package.tools import ROOT, run

MODULES = sorted(path.stem for path in ROOT.glob("plugins/modules/*.py"))
PLUGINS = [
    ("inventory", "redis_cluster", "hostnames"),
    ("filter", "keyslot", "encoding"),
    ("filter", "slot_ranges", "expand"),
    ("filter", "report_data", "before"),
]

WRITTEN_BY_THE_BUILD = {"MANIFEST.json", "FILES.json"}
FOLDERS = {"LICENSES", "changelogs", "docs", "meta", "playbooks", "plugins", "roles"}
FILES = {"CHANGELOG.md", "LICENSE", "README.md"}


@pytest.fixture(scope="module")
def names(tarball: Path) -> list[str]:
    with tarfile.open(tarball) as archive:
        return archive.getnames()


def test_its_name_is_that_of_the_release(tarball: Path) -> None:
    assert tarball.name == "keyslot-redis-1.0.0.tar.gz"


def test_top_level_is_what_users_need_and_nothing_else(names: list[str]) -> None:
    assert {name.split("/")[0] for name in names} == FOLDERS | FILES | WRITTEN_BY_THE_BUILD


def test_holds_the_licence(names: list[str]) -> None:
    assert {"LICENSE", "LICENSES/GPL-3.0-or-later.txt"} <= set(names)


@pytest.mark.parametrize("part", ["tests", "benchmarks", "__pycache__", "fragments"])
def test_holds_no_such_folder_at_any_depth(names: list[str], part: str) -> None:
    assert [name for name in names if part in name.split("/")] == []


def test_holds_nothing_of_the_benchmarks_but_their_page(names: list[str]) -> None:
    found = [name for name in names if "benchmarks" in name]
    assert found == ["docs/docsite/rst/benchmarks.rst"]


def test_holds_no_hidden_file(names: list[str]) -> None:
    assert [name for name in names if any(p.startswith(".") for p in name.split("/"))] == []


def test_every_plugin_role_and_playbook_is_in_it(names: list[str]) -> None:
    in_tree = {
        path.relative_to(ROOT).as_posix()
        for folder in ("plugins", "roles", "playbooks", "meta")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert in_tree <= set(names)


def test_installs_without_a_network(installed: Path) -> None:
    manifest = installed / "ansible_collections/keyslot/redis/MANIFEST.json"
    info = json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]
    assert (info["namespace"], info["name"], info["license"]) == (
        "keyslot",
        "redis",
        ["GPL-3.0-or-later"],
    )


def test_documentation_of_every_module_shows_from_the_installed_copy(installed: Path) -> None:
    names = [f"keyslot.redis.{name}" for name in MODULES]
    shown = json.loads(run(installed, "ansible-doc", "--json", "-t", "module", *names))
    assert sorted(shown) == names
    for name, parts in shown.items():
        assert parts["doc"]["filename"].startswith(str(installed)), name
        assert parts["doc"]["options"].get("login_host"), name
        assert parts["examples"], name
        assert parts["return"], name


@pytest.mark.parametrize(("kind", "name", "option"), PLUGINS)
def test_documentation_of_every_plugin_shows_from_the_installed_copy(
    installed: Path, kind: str, name: str, option: str
) -> None:
    full = f"keyslot.redis.{name}"
    parts = json.loads(run(installed, "ansible-doc", "--json", "-t", kind, full))[full]
    assert parts["doc"]["filename"].startswith(str(installed))
    assert parts["doc"]["options"].get(option)
    assert parts["examples"]


def test_no_inventory_or_filter_plugin_is_left_out_above() -> None:
    found = {
        (kind, path.stem)
        for kind in ("inventory", "filter")
        for path in ROOT.glob(f"plugins/{kind}/*.py")
    }
    assert found == {(kind, name) for kind, name, _option in PLUGINS}


def test_documentation_of_every_role_shows_from_the_installed_copy(installed: Path) -> None:
    names = sorted(f"keyslot.redis.{path.name}" for path in (ROOT / "roles").iterdir())
    shown = json.loads(run(installed, "ansible-doc", "--json", "-t", "role", *names))
    assert sorted(shown) == names
    assert all(role["entry_points"]["main"]["options"] for role in shown.values())
