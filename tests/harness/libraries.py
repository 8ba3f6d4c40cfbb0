# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Older versions of redis-py, beside the one of the virtual environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.harness.engines import locked_cache

# What Debian 12 and Ubuntu 24.04 package; the newest one is the virtual environment's.
REDIS_PY = ("4.3.4", "5.0.8")


def redis_py(version: str) -> Path:
    """The folder to put on PYTHONPATH; installed into the cache when it is first asked for."""
    with locked_cache() as cache:
        folder = cache / f"redis-py-{version}"
        if not folder.is_dir():
            unfinished = cache / f".new-redis-py-{version}"
            shutil.rmtree(unfinished, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, "--target", str(unfinished), f"redis=={version}"], check=True)
            unfinished.rename(folder)
        return folder
