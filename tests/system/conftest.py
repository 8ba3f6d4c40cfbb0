# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engines on which the system tests run, and a row for each in the summary of `make test`.

KEYSLOT_ENGINES names them. `all` is every one; empty or `auto` is the embedded ones and Redis 7.0,
of which those that cannot be had are told in the summary. One that was named has to be there.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests import summary
from tests.harness import engines
from tests.harness.engines import Engine, EngineUnavailable

# The build for tests with TLS: another one of the same version stands for it in all others.
SAME = {"valkey-9.1-tls": "valkey-9.1"}
# Versions between others: those beside them stand for them in most tests.
BETWEEN = {"valkey-8.1": "valkey-9.1", "redis-8.0": "redis-7.0"}
AUTO = (*engines.EMBEDDED, "redis-7.0")
# Files whose tests share a cluster an engine.
SHARING = (
    "test_acl",
    "test_atomic",
    "test_bad_input",
    "test_bad_options",
    "test_fix",
    "test_harness",
    "test_invariants",
    "test_inventory",
    "test_lock",
    "test_plan",
    "test_progress",
    "test_report",
    "test_secrets",
    "test_surroundings",
    "test_tls",
    "test_traps",
)
# Files that begin first, so that no process waits at the end for one that is long.
LONG = ("test_crash_points", "test_workflows")
_counts: dict[str, Counter[str]] = {}


@functools.lru_cache(maxsize=1)
def _chosen() -> tuple[list[str], dict[str, EngineUnavailable]]:
    """The engines to run on, and those of the default list that cannot be had."""
    words = os.environ.get("KEYSLOT_ENGINES", "").split()
    if words == ["all"]:
        return list(engines.NAMES), {}
    if words and words != ["auto"]:
        unknown = [word for word in words if word not in engines.NAMES]
        if unknown:
            known = ", ".join(engines.NAMES)
            raise pytest.UsageError(f"KEYSLOT_ENGINES: {', '.join(unknown)} is none of {known}")
        return words, {}
    found = engines.fetch(AUTO)
    missing = {name: why for name, why in found.items() if isinstance(why, EngineUnavailable)}
    # With none at all the tests are to fail, not to vanish.
    return [name for name in AUTO if name not in missing] or [AUTO[0]], missing


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`engine` is each chosen one; with `method` beside it, each with the ways to move slots that
    it has; `able` are those that move slots themselves, `unable` the others. The marker `family`
    leaves only those of Redis or of Valkey, `stand_for_all` only those that it names, if any of
    them is chosen; in the rest, those of SAME, and without `every_engine` those of BETWEEN, leave
    it to those that stand for them."""
    family = metafunc.definition.get_closest_marker("family")
    standing = metafunc.definition.get_closest_marker("stand_for_all")
    names = [name for name in _chosen()[0] if not family or name.startswith(family.args[0])]
    stood_for = SAME if metafunc.definition.get_closest_marker("every_engine") else SAME | BETWEEN
    if standing:
        names = [name for name in names if name in standing.args] or names
    else:
        names = [name for name in names if stood_for.get(name) not in names]
    lists = {
        "engine": names,
        "able": [name for name in names if name in engines.ATOMIC],
        "unable": [name for name in names if name not in engines.ATOMIC],
    }
    if {"engine", "method"} <= set(metafunc.fixturenames):
        cases = [(name, method) for name in lists.pop("engine") for method in _methods(name)]
        metafunc.parametrize(("engine", "method"), cases, indirect=["engine"], scope="session")
    for fixture, found in lists.items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, found, indirect=True, scope="session")


def _methods(name: str) -> tuple[str, ...]:
    return ("auto", "atomic", "classic") if name in engines.ATOMIC else ("auto", "classic")


def _get(name: str) -> Engine:
    """The test fails if it cannot be had."""
    try:
        return engines.get(name)
    except EngineUnavailable as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each chosen engine in turn."""
    return _get(request.param)


@pytest.fixture(scope="session")
def able(request: pytest.FixtureRequest) -> Engine:
    """Each chosen engine that moves slots itself."""
    return _get(request.param)


@pytest.fixture(scope="session")
def unable(request: pytest.FixtureRequest) -> Engine:
    """Each chosen engine that does not."""
    return _get(request.param)


@pytest.fixture(scope="session")
def mixed(request: pytest.FixtureRequest) -> tuple[Engine, Engine]:
    """A new engine and an old one."""
    new, old = request.param
    return _get(new), _get(old)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)


def engine_of(nodeid: str) -> str | None:
    """The engine in the brackets of a test's name."""
    words = nodeid.partition("[")[2]
    found = [name for name in engines.NAMES if name in words]
    return max(found, key=len, default=None)


class Scheduling(LoadScopeScheduling):
    """Tests that share a cluster stay together, and in order, when several processes share the
    tests."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return f"{path} {engine_of(nodeid)}" if Path(path).stem in SHARING else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = engine_of(report.nodeid)
    if name and (report.when == "call" or not report.passed):
        _counts.setdefault(name, Counter())[report.outcome] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Only where `make` has said where the summary is, and once for all processes."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    if not os.environ.get("KEYSLOT_SUMMARY") or not _counts:
        return
    for name, counts in _counts.items():
        ran = summary.PASSED if counts["passed"] else summary.NOT_AVAILABLE
        result = summary.FAILED if counts["failed"] else ran
        told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items()))
        summary.record("system", name, result, told)
    for name, why in _chosen()[1].items():
        if name not in _counts:
            summary.record("system", name, summary.NOT_AVAILABLE, str(why).splitlines()[-1])
