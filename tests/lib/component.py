# SPDX-License-Identifier: BSD-3-Clause
"""Folders that are expensive to make and kept between runs: ${OPENSNAP_CACHE:-${XDG_CACHE_HOME:-~/.cache}/opensnap}/ROOM.

Several callers at once are safe: the first builds, the others wait for it."""

import fcntl
import os
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path


class CacheError(Exception):
    """The cache cannot be built here; says why."""


def folder(room: str) -> Path:
    """Where a room keeps its components; it may not exist yet."""
    outer = os.environ.get("OPENSNAP_CACHE")
    if not outer:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        outer = f"{home}/opensnap"
    return Path(outer) / room


def say(text: str) -> None:
    """A progress line; on stderr, pytest shows it for a failing test."""
    print(f"test cache: {text}", file=sys.stderr, flush=True)


@contextmanager
def _locked(home: Path):
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another builder")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fresh(target: Path, recipe: str) -> bool:
    stamp = target / "stamp"
    return stamp.exists() and stamp.read_text() == recipe


def component(home: Path, name: str, recipe: str, build, *failures) -> Path:
    """Builds home/name by build(scratch folder) unless its stamp says it is current. failures: exceptions of build() that
    become CacheError, as OSError does."""
    target = home / name
    if _fresh(target, recipe):
        return target
    try:
        with _locked(home):
            if not _fresh(target, recipe):
                _rebuild(target, recipe, build)
    except (OSError, *failures) as failed:
        raise CacheError(f"cannot build {name}: {failed}") from failed
    return target


def _rebuild(target: Path, recipe: str, build) -> None:
    """Builds beside the target and then swaps: a torn build is never taken for a good one."""
    start = time.monotonic()
    say(f"building {target.name}")
    scratch, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    for leftover in (scratch, old):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch.mkdir(parents=True)
    build(scratch)
    (scratch / "stamp").write_text(recipe)
    if target.exists():
        target.rename(old)
    scratch.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    say(f"{target.name} done in {time.monotonic() - start:.0f} s")
