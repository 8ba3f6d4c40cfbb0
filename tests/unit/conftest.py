# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# So many examples for each property, in place of what the tests say themselves.
EXAMPLES = int(os.environ.get("KEYSLOT_FUZZ") or 0)

# A busy machine is no fault of the code.
settings.register_profile("unit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """KEYSLOT_FUZZ=100000 makes a search of an hour out of the properties."""
    for item in items if EXAMPLES else ():
        test = getattr(item, "obj", None)
        own = getattr(test, "_hypothesis_internal_use_settings", None)
        if own is not None:
            test._hypothesis_internal_use_settings = settings(own, max_examples=EXAMPLES)
            item.add_marker(pytest.mark.timeout(0))
