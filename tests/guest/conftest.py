# SPDX-License-Identifier: BSD-3-Clause
"""Fixtures of the guest tests: a boot() that skips when this machine cannot boot guests."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for path in (HERE, HERE.parent / "lib"):
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))

import cache  # noqa: E402  (needs the path above)
from nvmet import NvmetTarget  # noqa: E402
from require import require  # noqa: E402
from vm import VM  # noqa: E402


def available(kernel: str = "6.12", qemu: str = "backports") -> None:
    """Skips (or fails, see require) unless the kernel and QEMU are there or can be built."""
    try:
        cache.kernel(kernel)
        cache.qemu(qemu)
    except cache.CacheError as missing:
        require(False, str(missing))


@pytest.fixture
def boot():
    """boot(kernel=..., qemu=..., ...) -> a running VM, stopped after the test."""
    yield from _running(VM)


@pytest.fixture
def nvmet():
    """nvmet(namespaces=..., ...) -> a running NvmetTarget, stopped after the test."""
    yield from _running(NvmetTarget)


def _running(kind):
    made = []

    def start(**settings):
        available(settings.get("kernel", kind.kernel), settings.get("qemu", kind.qemu))
        one = kind(**settings)
        made.append(one)
        return one.__enter__()

    yield start
    for one in reversed(made):
        one.stop()
