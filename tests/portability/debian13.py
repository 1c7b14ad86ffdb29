#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Builds and tests the tree with Debian 13's compilers and libraries, in a Debian 13 file tree of its own.

The packages are those of "scripts/deps.sh build", so their list is tested too. They are unpacked below the test cache and
entered by chroot, in a user namespace when not root: nothing of this machine changes. The build directories are
build-debian13/gcc and build-debian13/clang. Ends with a table and the line "N passed, M failed", as tests/run does."""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "tests" / "guest"), str(ROOT / "tests" / "lib")]

import component  # noqa: E402  (needs the path above)
from apt import Apt, AptError, run, unpack  # noqa: E402
from component import CacheError  # noqa: E402

SUITE = "trixie"
# What any Debian has, and the second compiler and pytest of the group "test".
BASE = "base-files bash dash coreutils sed grep findutils gawk mount procps clang python3-pytest python3-pytest-xdist".split()
LINKS = {"cc": "gcc", "awk": "gawk"}  # packages' scripts make these; they do not run here
SUITES = {"gcc": ("unit", "rpc", "wire"), "clang": ("unit",)}
ENTER = """
tree=$1 source=$2
shift 2
mount --bind "$source" "$tree/src"
mount --rbind /dev "$tree/dev"
mount --rbind /proc "$tree/proc"
mount -t tmpfs tmpfs "$tree/tmp"
exec chroot "$tree" "$@"
"""


def root():
    """The file tree, made on first use (about 90 MB to download)."""
    if platform.machine() != "x86_64":
        raise CacheError(f"the private apt fetches x86-64 packages, and this machine is {platform.machine()}")
    packages = BASE + run([ROOT / "scripts/deps.sh", "--list", "build"]).split()
    home = component.folder("portability")
    recipe = hashlib.sha256(" ".join(packages).encode() + Path(__file__).read_bytes()).hexdigest()[:16]

    def build(scratch):
        apt = Apt(home / f"apt-{SUITE}", [SUITE])
        for deb in apt.fetch(packages, SUITE):
            unpack(deb, scratch)
        for dull in ("doc", "locale", "man"):
            shutil.rmtree(scratch / "usr/share" / dull, ignore_errors=True)
        for link, name in LINKS.items():
            (scratch / "usr/bin" / link).symlink_to(name)
        for place in ("src", "dev", "proc", "tmp"):
            (scratch / place).mkdir(exist_ok=True)
        apt.clean()

    return component.component(home, "debian13", recipe, build, AptError)


def inside(tree, *argv, **env):
    """Runs argv in the tree, which sees our source as /src. Returns (exit code, what it printed)."""
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    env = {"PATH": "/usr/bin:/usr/sbin", "HOME": "/tmp", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
           "JOBS": os.environ.get("JOBS", ""), **env}
    lines = []
    with subprocess.Popen([*unshare, "sh", "-ec", ENTER, "sh", tree, ROOT, *argv], env=env, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)
    return process.returncode, "".join(lines)


def check(tree, compiler):
    """Builds with one compiler, warnings being errors, and runs its suites. Yields rows: what, passed, failed, seconds."""
    where = f"/src/build-debian13/{compiler}"
    print(f"\n=== {compiler}", flush=True)
    start = time.monotonic()
    inside(tree, "sh", "-c", f"echo Debian $(cat /etc/debian_version); {compiler} --version")
    code, _ = inside(tree, "/src/scripts/build.sh", where, CC=compiler)
    yield f"{compiler}: build", int(code == 0), int(code != 0), time.monotonic() - start
    for suite in () if code else SUITES[compiler]:
        start = time.monotonic()
        code, text = inside(tree, "python3", "/src/tests/run", "--suite", suite, BUILD_DIR=where)
        counts = re.findall(r"^(\d+) passed, (\d+) failed$", text, re.M)
        passed, failed = map(int, counts[-1]) if counts else (0, 1)
        yield f"{compiler}: {suite}", passed, max(failed, int(code != 0)), time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("compilers", nargs="*", metavar="COMPILER", help="of gcc, clang; default both")
    args = parser.parse_args()
    for compiler in args.compilers:
        if compiler not in SUITES:
            parser.error(f"no compiler '{compiler}': there are {', '.join(SUITES)}")
    try:
        tree = root()
    except (CacheError, AptError) as missing:
        print(f"debian13.py: {missing}", file=sys.stderr)
        return 1
    rows = [row for compiler in args.compilers or SUITES for row in check(tree, compiler)]
    print(f"\n{'Debian 13':<16}{'passed':>8}{'failed':>8}{'seconds':>9}")
    for name, passed, failed, seconds in rows:
        print(f"{name:<16}{passed:>8}{failed:>8}{seconds:>9.0f}")
    passed, failed = (sum(row[i] for row in rows) for i in (1, 2))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
