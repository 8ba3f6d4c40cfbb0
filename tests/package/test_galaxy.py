# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Galaxy and the builders of execution environments make of the tarball."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.package.tools import ROOT, run

TOOLS = Path(os.environ.get("KEYSLOT_TOOLS", ROOT / ".cache/venvs/tools/bin"))


def test_galaxy_imports_it_and_has_nothing_to_say(tarball: Path, tmp_path: Path) -> None:
    settings = tmp_path / "galaxy-importer.cfg"
    settings.write_text("[galaxy-importer]\nCHECK_REQUIRED_TAGS = True\nRUN_FLAKE8 = False\n")
    command = f"GALAXY_IMPORTER_CONFIG={settings} PATH={TOOLS}:$PATH python -m galaxy_importer.main"
    told = run(tmp_path, "/bin/sh", "-c", f"{command} {tarball} 2>&1")
    assert "Importer processing completed successfully" in told
    assert [line for line in told.splitlines() if "WARNING" in line or "ERROR" in line] == []
    result = json.loads((tmp_path / "importer_result.json").read_text(encoding="utf-8"))
    assert result["requires_ansible"] == ">=2.16.0"
    kinds = {content["content_type"] for content in result["contents"]}
    assert {"module", "role", "playbook"} <= kinds


def test_an_execution_environment_gets_redis_py(installed: Path, tmp_path: Path) -> None:
    builder = str(TOOLS / "ansible-builder")
    python = tmp_path / "python.txt"
    system = tmp_path / "system.txt"
    writing = ("--write-pip", str(python), "--write-bindep", str(system))
    run(tmp_path, builder, "introspect", *writing, str(installed))
    assert python.read_text().strip() == "redis>=4.3  # from collection keyslot.redis"
    assert not system.exists()
