# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make docs` appends this to the conf.py that antsibull-docs writes.

Ansible's own documentation is linked without being fetched: its labels that the generated pages
use are written into an inventory of Sphinx's format (version 2), so the build needs no network.
"""

import pathlib
import shutil
import zlib

_LABELS = {
    "action_plugins": "plugins/action.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
    "common_return_values": "reference_appendices/common_return_values.html",
}
_INVENTORY = pathlib.Path(__file__).with_name("ansible.inv")
_INVENTORY.write_bytes(
    b"# Sphinx inventory version 2\n# Project: Ansible\n# Version: devel\n"
    b"# The remainder of this file is compressed using zlib.\n"
    + zlib.compress(
        "".join(
            f"{label} std:label -1 {page}#{label.replace('_', '-')} {label.replace('_', ' ')}\n"
            for label, page in _LABELS.items()
        ).encode()
    )
)
intersphinx_mapping = {
    "ansible": ("https://docs.ansible.com/projects/ansible/devel/", str(_INVENTORY))
}
# Of Ansible's documentation, by the text that all cached inventories share.
suppress_warnings = ["ref.envvar"]

# antsibull-docs takes the pages alone.
shutil.copytree(
    pathlib.Path(__file__).parents[2] / "docs" / "docsite" / "rst" / "images",
    pathlib.Path(__file__).with_name("rst") / "docsite" / "images",
    dirs_exist_ok=True,
)
