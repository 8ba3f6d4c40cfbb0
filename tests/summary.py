# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a test run did, as one table: a row for each stage, engine, ansible-core and Python.

python -m tests.summary run STAGE WHAT [--] COMMAND…     runs a command, records its row
python -m tests.summary record STAGE WHAT RESULT DETAIL  records a row
python -m tests.summary show [--strict]                  prints the table; fails if a row failed
                                                         (strict: or was not available)
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

PASSED = "passed"
FAILED = "failed"
NOT_AVAILABLE = "not available"
RESULTS = (PASSED, FAILED, NOT_AVAILABLE)

_HEADINGS = ("stage", "what", "result", "counts and seconds")
_DEFAULT_FILE = ".build/summary.jsonl"
_PYTEST_CLOSING = re.compile(r"^=* ?((?:\d+ [a-z]+(?:, )?)+|no tests ran) in [\d.]+s\b")
_PYTEST_NOTHING_COLLECTED = 5
_ANSIBLE_TEST_NOTHING_RAN = "WARNING: All targets skipped."


def _file() -> Path:
    return Path(os.environ.get("KEYSLOT_SUMMARY") or _DEFAULT_FILE)


def record(stage: str, what: str, result: str, detail: str = "") -> None:
    """Append a row. One write, so that stages which run at once don't mix their rows."""
    if result not in RESULTS:
        raise ValueError(f"the result is one of {', '.join(RESULTS)}, not '{result}'")
    row = json.dumps({"stage": stage, "what": what, "result": result, "detail": detail})
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(row + "\n")


def run(stage: str, what: str, command: list[str]) -> int:
    """Run a command with its output passed on as it comes; return its exit code.

    Where pytest or ansible-test found no test, nothing failed, but the row is not available.
    """
    started = time.monotonic()
    counts = ""
    nothing_ran = False
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            nothing_ran = nothing_ran or line.strip() == _ANSIBLE_TEST_NOTHING_RAN
            closing = _PYTEST_CLOSING.match(line)
            if closing:
                counts += f"{' + ' if counts else ''}{closing.group(1)}"
    seconds = f"{time.monotonic() - started:.0f} s"
    detail = f"{counts}, {seconds}" if counts else seconds
    if process.returncode == _PYTEST_NOTHING_COLLECTED and counts == "no tests ran":
        nothing_ran, process.returncode = True, 0
    if nothing_ran and not process.returncode:
        record(stage, what, NOT_AVAILABLE, "no tests")
        return 0
    record(stage, what, FAILED if process.returncode else PASSED, detail)
    return process.returncode


def show(strict: bool) -> int:
    """Print the table; return 0 if every row is good, else 1."""
    path = _file()
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    if not rows:
        print("Nothing ran.")
        return 1
    rows.sort(key=lambda row: row["stage"])
    cells = [_HEADINGS] + [
        (row["stage"], row["what"], row["result"], row["detail"]) for row in rows
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADINGS))]
    cells.insert(1, tuple("-" * width for width in widths))
    print()
    for row in cells:
        print(" | ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print()
    bad = {FAILED, NOT_AVAILABLE} if strict else {FAILED}
    found = [f"{row['stage']} ({row['what']})" for row in rows if row["result"] in bad]
    if found:
        print(f"Not good: {', '.join(found)}.")
    return 1 if found else 0


def main(arguments: list[str]) -> int:
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb == "run" and len(rest) > 2:
        stage, what, *command = rest
        return run(stage, what, command[1:] if command[0] == "--" else command)
    if verb == "record" and len(rest) in (3, 4):
        record(*rest)
        return 0
    if verb == "show" and rest in ([], ["--strict"]):
        return show(strict=bool(rest))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
