# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stands in for the script with which ansible-test puts pip into a new virtual environment.

ansible-test downloads that script from a host of its own, which not every machine reaches. The
Makefile puts this file where ansible-test keeps the download, if nothing is there yet.
"""

from __future__ import annotations

import subprocess
import sys

subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
arguments = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.exit(
    subprocess.run([sys.executable, "-m", "pip", "install", *arguments], check=False).returncode
)
