# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection against the vendors' tools.

    python -m benchmarks run [CASE ...] [--json FILE]     measure, print tables, keep all figures
    python -m benchmarks show FILE                        print the tables of a file
    python -m benchmarks rst FILE [--into PAGE]           the tables as reStructuredText
    python -m benchmarks plot FILE PICTURE                the frontier as SVG

Exit code 1: a case could not be measured, or a run of ours failed. 130: interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import plot, report
from benchmarks.cases import CASES
from benchmarks.compare import Options, say
from tests.harness import processes
from tests.harness.engines import EngineUnavailable

# The servers write their map to disk at each change of owner; here it may stay in memory.
IN_MEMORY = "/dev/shm"


def measure(names: Sequence[str], options: Options, path: Path) -> int:
    """Run the cases, writing the file after each one; the exit code."""
    results: dict[str, Any] = {
        "started": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "versions": {"Python": platform.python_version(), **_packages()},
        "options": asdict(options),
        "cases": {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    failed = interrupted = False
    for name in names:
        say(f"{name}: {CASES[name].about}")
        began = time.monotonic()
        case: dict[str, Any] = {"about": CASES[name].about, "parts": [], "error": ""}
        try:
            CASES[name].run(options, case["parts"])
        except KeyboardInterrupt:
            interrupted = True
            case["error"] = "interrupted"
        except (EngineUnavailable, RuntimeError, AssertionError) as error:
            case["error"] = str(error)
            say(f"  not measured: {error}")
        case["seconds"] = round(time.monotonic() - began, 1)
        results["cases"][name] = case
        failed = failed or bool(case["error"]) or any(map(has_failed, case["parts"]))
        path.write_text(json.dumps(results, indent=1), encoding="utf-8")
        say(f"{name}: took {case['seconds']:.0f} s")
        if interrupted:
            break
    print(report.text_report(results))
    print(f"All figures: {path}")
    return 130 if interrupted else int(failed)


def has_failed(part: report.Part) -> bool:
    """Whether one of our runs failed; a vendor's tool that fails is a finding."""
    return any(run["error"] for row in part.get("rows", ()) if row["ours"] for run in row["runs"])


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    memory = Path("/proc/meminfo").read_text(encoding="ascii")
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor[1] if processor else platform.machine(),
        "memory_mib": int(memory.split("MemTotal:")[1].split()[0]) // 1024,
        "kernel": platform.release().partition("-")[0],
    }


def _packages() -> dict[str, str]:
    return {name: version(name) for name in ("ansible-core", "redis")}


def _parser() -> argparse.ArgumentParser:
    cases = "\n".join(f"  {name:<17} {case.about}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"cases:\n{cases}",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure")
    run.add_argument("cases", nargs="*", metavar="CASE", help="default: all")
    defaults = Options()
    run.add_argument("--json", type=Path, default=Path(".build/benchmarks.json"))
    run.add_argument("--keys", type=int, help="instead of the case's own number")
    run.add_argument("--repeats", type=int, default=defaults.repeats)
    run.add_argument("--rate", type=float, default=defaults.rate, help="operations a second")
    run.add_argument("--min-samples", type=int, default=defaults.min_samples)
    run.add_argument("--nodes", type=int, nargs="+", default=defaults.nodes)
    show = commands.add_parser("show", help="print the tables of a file")
    rst = commands.add_parser("rst", help="the tables as reStructuredText")
    rst.add_argument("--into", type=Path, metavar="PAGE", help="put them between its markers")
    picture = commands.add_parser("plot", help="the frontier as SVG")
    for command in (show, rst, picture):
        command.add_argument("file", type=Path)
    picture.add_argument("picture", type=Path)
    return parser


def main(arguments: Sequence[str]) -> int:
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.command == "run":
        unknown = sorted(set(chosen.cases) - set(CASES))
        if unknown:
            parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
        options = Options(
            chosen.repeats, chosen.min_samples, chosen.rate, chosen.keys, tuple(chosen.nodes)
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if os.access(IN_MEMORY, os.W_OK):
            os.environ.setdefault(processes.FOLDERS_VARIABLE, IN_MEMORY)
        return measure(chosen.cases or list(CASES), options, chosen.json)
    results = json.loads(chosen.file.read_text(encoding="utf-8"))
    if chosen.command == "show":
        print(report.text_report(results))
    elif chosen.command == "plot":
        picture = plot.frontier(results["cases"]["frontier"]["parts"][0])
        chosen.picture.write_text(picture, encoding="utf-8")
    elif chosen.into:
        page = chosen.into.read_text(encoding="utf-8")
        new = report.put_into(page, report.rst_report(results))
        chosen.into.write_text(new, encoding="utf-8")
    else:
        print(report.rst_report(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
