#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What guests boot from: a newer QEMU, kernels, initial RAM file systems.

Built once into ${OPENSNAP_CACHE:-${XDG_CACHE_HOME:-~/.cache}/opensnap}/guest, without root.
Several callers at once are safe: the first builds, the others wait for it.
"""

import argparse
import hashlib
import platform
import re
import shutil
import struct
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib")]

import component  # noqa: E402  (needs the path above)
import initramfs  # noqa: E402
import stubs  # noqa: E402
from apt import Apt, AptError, run, unpack  # noqa: E402
from component import CacheError, say  # noqa: E402

ROOT_PACKAGES = """
    base-files bash dash busybox coreutils kmod qemu-system-x86 qemu-system-common qemu-utils
    seabios qemu-block-extra libblkio1
    fio nvme-cli fdisk gdisk parted e2fsprogs util-linux pciutils iproute2
""".split()
# Name in tests -> the suite whose default kernel it is.
KERNELS = {"6.1": "bookworm", "6.12": "trixie", "backports": "trixie-backports"}
UNUSED_MODULES = ("sound", "drivers/gpu", "drivers/media", "drivers/net/wireless", "drivers/iio",
                  "drivers/staging", "drivers/usb", "drivers/input", "drivers/hwmon")
# Recipes: a component is rebuilt when one of these files or its inputs change.
SOURCES = {
    "root": ("apt.py",),
    "kernel": ("apt.py",),
    "initramfs": ("initramfs.py", "stubs.py", "image/init", "image/agent"),
}


@dataclass
class Kernel:
    """A kernel ready for -kernel, and the initramfs that fits it."""

    vmlinux: Path
    initramfs: Path
    version: str


def folder() -> Path:
    """The cache folder; it may not exist yet."""
    return component.folder("guest")


def _recipe(kind: str, *words: str) -> str:
    digest = hashlib.sha256(" ".join(words).encode())
    for name in SOURCES[kind]:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def _component(name: str, recipe: str, build) -> Path:
    return component.component(folder(), name, recipe, build, AptError)


def _apt(suite: str) -> Apt:
    suites = [suite] if suite == "bookworm" else ["trixie", "trixie-backports"]
    return Apt(folder() / f"apt-{suites[0]}", suites)


def root() -> Path:
    """A trixie file tree: QEMU with vfio-user-pci, its tools with libblkio, the guests' programs."""

    if platform.machine() != "x86_64":
        raise CacheError(f"guests are x86-64 and so must the host be, not {platform.machine()}")

    def build(scratch: Path) -> None:
        apt = _apt("trixie")
        say("downloading QEMU and the guests' programs (about 80 MB)")
        debs = apt.fetch(ROOT_PACKAGES, "trixie-backports")
        say(f"unpacking {len(debs)} packages")
        for deb in debs:
            unpack(deb, scratch)
        for dull in ("usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/icons"):
            shutil.rmtree(scratch / dull, ignore_errors=True)
        apt.clean()

    return _component("root", _recipe("root", *ROOT_PACKAGES), build)


def tool(name: str) -> tuple:
    """(argv, environment) of a program of the root, such as qemu-io with its libblkio driver."""
    tree = root()
    argv = [*initramfs.loader(tree), str(tree / "usr/bin" / name)]
    return argv, {"QEMU_MODULE_DIR": str(tree / initramfs.LIB / "qemu")}


def qemu(which: str) -> tuple:
    """(argv, environment) of "system" or "backports" QEMU."""
    if which == "system":
        if found := shutil.which("qemu-system-x86_64"):
            return [found], {}
        raise CacheError("no qemu-system-x86_64 (scripts/deps.sh guest)")
    argv, environment = tool("qemu-system-x86_64")
    for folder_of_firmware in ("qemu", "seabios"):
        argv += ["-L", str(root() / "usr/share" / folder_of_firmware)]
    return argv, environment


@lru_cache
def qemu_version(which: str) -> tuple:
    """(major, minor) of that QEMU."""
    argv, environment = qemu(which)
    shown = run(["env", *(f"{k}={v}" for k, v in environment.items()), *argv, "--version"])
    return tuple(int(n) for n in re.search(r"version (\d+)\.(\d+)", shown).groups())


def _payload(bzimage: bytes) -> bytes:
    """The compressed ELF inside a bzImage (Linux x86 boot protocol, payload_offset/length)."""
    setup_sectors = bzimage[0x1f1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    return bzimage[start:start + length - 4]  # the last four bytes are the unpacked size


def _unpack_kernel(bzimage: Path, target: Path) -> None:
    """QEMU starts the ELF kernel by PVH: no decompressor, no real mode, seconds saved."""
    payload = target.with_suffix(".packed")
    payload.write_bytes(_payload(bzimage.read_bytes()))
    tool = ["xz", "-dkf", "-S", ".packed", "-c"]
    if payload.read_bytes().startswith(b"\x28\xb5\x2f\xfd"):
        tool = ["zstd", "-dqf", "-c"]
    run(["sh", "-c", '"$@" >"$0"', target, *tool, payload])
    payload.unlink()
    if not target.read_bytes().startswith(b"\x7fELF"):
        raise AptError(f"{bzimage.name} holds no ELF kernel")


def _kernel_packages(apt: Apt, suite: str) -> list:
    """The packages that hold the suite's default kernel: one, or several since 7.x."""
    todo, seen = ["linux-image-amd64"], []
    while todo:
        package = todo.pop()
        seen.append(package)
        for name in apt.depends(package, suite):
            wanted = name.startswith(("linux-image-", "linux-binary-", "linux-modules-"))
            if wanted and name not in seen + todo:
                todo.append(name)
    return seen[1:]


def _build_kernel(suite: str, scratch: Path) -> None:
    apt = _apt(suite)
    tree = scratch / "tree"
    for package in _kernel_packages(apt, suite):
        say(f"downloading {package}")
        unpack(apt.fetch_only(package, suite), tree)
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")
    images = [*tree.glob("boot/vmlinuz-*"), *tree.glob("lib/modules/*/vmlinuz")]
    if len(images) != 1:
        raise AptError(f"expected one kernel image in {suite}, found {len(images)}")
    version = next(tree.glob("lib/modules/*")).name
    for unused in UNUSED_MODULES:
        shutil.rmtree(tree / "lib/modules" / version / "kernel" / unused, ignore_errors=True)
    _unpack_kernel(images[0], scratch / "vmlinux")
    (scratch / "version").write_text(version)
    run(["depmod", "-b", tree, version])
    apt.clean()


def _build_initramfs(kernel: Path, scratch: Path) -> None:
    version = (kernel / "version").read_text()
    work = scratch / "work"
    common = initramfs.base(root(), HERE / "image", work)
    own = initramfs.modules(kernel / "tree", version, work)
    (scratch / "initramfs").write_bytes(common + own)
    shutil.rmtree(work)


def kernel(name: str) -> Kernel:
    """The named kernel ("6.1", "6.12", "backports") with the full test initramfs."""
    if name not in KERNELS:
        raise CacheError(f"no kernel '{name}': there are {', '.join(KERNELS)}")
    suite = KERNELS[name]
    root()
    image = _component(f"kernel-{name}", _recipe("kernel", suite, *UNUSED_MODULES),
                       lambda scratch: _build_kernel(suite, scratch))
    inputs = [(part / "stamp").read_text() for part in (image, root())]
    ram = _component(f"initramfs-{name}", _recipe("initramfs", *inputs, str(stubs.possible())),
                     lambda scratch: _build_initramfs(image, scratch))
    return Kernel(image / "vmlinux", ram / "initramfs", (image / "version").read_text())


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", action="store_true", help="print the cache folder and stop")
    parser.add_argument("kernels", nargs="*", metavar="KERNEL",
                        help=f"which kernels, of {' '.join(KERNELS)}; default all")
    args = parser.parse_args()
    if args.where:
        print(folder())
        return 0
    try:
        print(f"root {root()}")
        for name in args.kernels or KERNELS:
            made = kernel(name)
            print(f"kernel {name} {made.version} {made.vmlinux} {made.initramfs}")
    except CacheError as failed:
        print(f"cache.py: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
