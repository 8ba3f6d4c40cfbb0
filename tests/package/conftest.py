# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as users get it: built into a tarball, and installed from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.package.tools import ROOT, run


@pytest.fixture(scope="session")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    run(folder, "ansible-galaxy", "collection", "build", "--output-path", str(folder), str(ROOT))
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="session")
def installed(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of collections that holds this one and nothing else."""
    folder = tmp_path_factory.mktemp("collections")
    install = ("ansible-galaxy", "collection", "install", "--offline")
    run(folder, *install, "--collections-path", str(folder), str(tarball))
    return folder
