#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Builds the tree for aarch64 into build-aarch64, and a wrapper for each program that runs it by qemu-user.

build-aarch64/emulated/NAME is such a wrapper: with BUILD_DIR set to that directory the Python tests drive emulated programs;
unit tests are run by meson, whose cross file names the emulator. The arm64 libraries are unpacked below the test cache:
nothing of this machine changes. Exit code 77: a tool is missing."""

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "tests" / "guest"), str(ROOT / "tests" / "lib")]

import component  # noqa: E402  (needs the path above)
from apt import Apt, AptError, run, unpack  # noqa: E402
from component import CacheError  # noqa: E402

BUILD = ROOT / "build-aarch64"
EMULATED = BUILD / "emulated"
EMULATOR = "qemu-aarch64-static"
TOOLS = ("aarch64-linux-gnu-gcc", EMULATOR)
# What the selection of "make test" runs; all programs are built with --all.
PROGRAMS = ("src/emu/snap_emu", "src/service/snap_service", "src/service/snap_service_crash_points", "src/target/snap_target",
            "tools/snap_perf", "tools/snap_host", "tools/snap_rpc")
SLOW = ("virtio_crash_points_recovery", "virtio_hostile", "virtio_queue", "journal")  # under the emulator


class Arm64(Apt):
    """The private apt for packages of the other architecture."""

    def _options(self, release):
        return [*super()._options(release), "-o", "APT::Architectures=arm64", "-o", "APT::Architecture=arm64"]


def sysroot():
    """Headers and libraries of the distribution that this machine runs, for arm64."""
    if platform.machine() != "x86_64":
        raise CacheError(f"cross-building starts from x86-64, and this machine is {platform.machine()}")
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "bookworm")
    packages = [p for p in run([ROOT / "scripts/deps.sh", "--list", "build"]).split() if p.endswith("-dev")]
    home = component.folder("portability")
    recipe = hashlib.sha256(" ".join([suite, *packages]).encode() + Path(__file__).read_bytes()).hexdigest()[:16]

    def build(scratch):
        apt = Arm64(home / f"apt-{suite}-arm64", [suite])
        for deb in apt.fetch(packages, suite):
            unpack(deb, scratch)
        shutil.rmtree(scratch / "usr/share/doc", ignore_errors=True)
        apt.clean()

    return component.component(home, "sysroot-arm64", recipe, build, AptError)


def configure(root):
    """meson setup, again when the sysroot has moved."""
    constants = BUILD / "sysroot.ini"
    text = f"[constants]\nsysroot = '{root}'\n"
    if constants.exists() and constants.read_text() == text and (BUILD / "build.ninja").exists():
        return 0
    BUILD.mkdir(exist_ok=True)
    constants.write_text(text)
    again = ["--wipe"] if (BUILD / "meson-private" / "coredata.dat").exists() else []
    return subprocess.run(["meson", "setup", *again, BUILD, ROOT, "--cross-file", constants, "--cross-file",
                           HERE / "aarch64.ini"], check=False).returncode


def unit_tests(everything):
    """{name: program} of the unit tests; without everything not those that take long, nor builds with a rule left out."""
    found = json.loads(run(["meson", "introspect", BUILD, "--tests"]))
    return {t["name"]: str(Path(t["cmd"][0]).relative_to(BUILD)) for t in found
            if everything or ("_no_" not in t["name"] and t["name"] not in SLOW)}


def wrap(root):
    """A wrapper keeps its pid when it becomes the emulator: tests kill what they have started."""
    EMULATED.mkdir(exist_ok=True)
    for program in (*BUILD.glob("src/**/*"), *BUILD.glob("tools/*")):
        if program.name.startswith(("snap_", "nvmeof_")) and not program.name.endswith("_test") and program.is_file() \
                and not program.parent.name.endswith(".p"):
            wrapper = EMULATED / program.name
            wrapper.write_text(f'#!/bin/sh\nexec {EMULATOR} -L {root} {program} "$@"\n')
            wrapper.chmod(0o755)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="all programs, not only those that make test runs")
    args = parser.parse_args()
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        print(f"aarch64.py: no {', '.join(missing)} (scripts/deps.sh test)", file=sys.stderr)
        return 77
    try:
        root = sysroot()
    except (CacheError, AptError) as failed:
        print(f"aarch64.py: {failed}", file=sys.stderr)
        return 77
    if code := configure(root):
        return code
    tests = unit_tests(args.all)
    targets = [] if args.all else [*tests.values(), *PROGRAMS]
    if code := subprocess.run(["ninja", "-C", BUILD, *targets], check=False).returncode:
        return code
    wrap(root)
    (EMULATED / "unit_tests").write_text("\n".join(tests))
    return 0


if __name__ == "__main__":
    sys.exit(main())
