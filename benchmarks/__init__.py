# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures the collection and the vendors' tools on real clusters, in turn.

docs/docsite/rst/benchmarks.rst says how to run it and how to read it.
"""

import sys
from pathlib import Path

# Where the collection has its full name.
sys.path.append(str(Path(sys.prefix) / "collections"))
