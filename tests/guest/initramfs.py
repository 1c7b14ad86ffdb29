# SPDX-License-Identifier: BSD-3-Clause
"""Builds initial RAM file systems without root: a cpio writer and what goes into it."""

import lzma
import re
import stat
import subprocess
from pathlib import Path

import stubs
from apt import run

LIB = "usr/lib/x86_64-linux-gnu"
# Programs of the guest, from the trixie root; busybox has the rest.
PROGRAMS = """
    usr/bin/busybox usr/bin/fio usr/sbin/nvme usr/bin/dd usr/bin/lsblk usr/bin/lspci usr/bin/setpci
    usr/bin/kmod usr/bin/flock usr/bin/dash usr/bin/bash usr/bin/stty
    usr/sbin/sfdisk usr/sbin/sgdisk usr/sbin/parted usr/sbin/mke2fs usr/sbin/e2fsck
    usr/sbin/blkid usr/sbin/blkdiscard usr/sbin/losetup usr/sbin/blockdev usr/bin/rdma
""".split()
# Not busybox-static: its applets run each other rather than the programs above.
LINKS = {"bin/busybox": "../usr/bin/busybox", "bin/sh": "../usr/bin/bash",
         "bin/bash": "../usr/bin/bash",
         "usr/sbin/modprobe": "../bin/kmod", "usr/sbin/rmmod": "../bin/kmod",
         "usr/sbin/insmod": "../bin/kmod", "usr/sbin/lsmod": "../bin/kmod",
         "usr/sbin/modinfo": "../bin/kmod", "usr/sbin/mkfs.ext4": "mke2fs",
         "usr/sbin/fsck.ext4": "e2fsck"}
DATA = ["etc/mke2fs.conf"]
# Kernel modules of the guest; what they depend on comes along. Not every kernel has all.
MODULES = """
    virtio_pci virtio_net virtio_blk virtio_scsi virtio_rng e1000 vfio-pci vfio_iommu_type1
    nvme nvme-core nvme-fabrics nvme-tcp nvme-rdma nvme-loop nvmet nvmet-tcp nvmet-rdma
    nvme-auth nvme-keyring dh_generic hmac sha256_generic sha512_generic tls
    loop brd null_blk ext4 crc32c_generic crc32c_intel crc32_generic crct10dif_generic crc-t10dif
    rdma_rxe ib_uverbs rdma_ucm dummy
    9p 9pnet_virtio overlay configfs dm-mod sd_mod
""".split()


class Cpio:
    """An uncompressed "newc" archive; every file belongs to root."""

    def __init__(self):
        self.data = bytearray()
        self.made = set()
        self.inode = 0

    def _entry(self, name: str, mode: int, body: bytes = b"", device=(0, 0)) -> None:
        self.inode += 1
        raw = name.encode() + b"\0"
        fields = [self.inode, mode, 0, 0, 1, 0, len(body), 0, 0, *device, len(raw), 0]
        self.data += b"070701" + b"".join(b"%08X" % f for f in fields) + raw
        self.data += bytes(-len(self.data) % 4) + body
        self.data += bytes(-len(self.data) % 4)
        self.made.add(name)

    def folder(self, name: str) -> None:
        """A folder and those above it, once."""
        parts = Path(name).parts
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path not in self.made:
                self._entry(path, stat.S_IFDIR | 0o755)

    def file(self, name: str, body: bytes, mode: int = 0o644) -> None:
        """A regular file, with the folders it needs. An absolute name is taken from /."""
        name = name.lstrip("/")
        if name not in self.made:
            self.folder(str(Path(name).parent))
            self._entry(name, stat.S_IFREG | mode, body)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self.folder(str(Path(name).parent))
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def console(self) -> None:
        """What the kernel opens before init runs."""
        self.folder("dev")
        self._entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))

    def bytes(self) -> bytes:
        """The finished archive. Several, one after the other, are a valid initramfs."""
        done = Cpio()
        done.data = bytearray(self.data)
        done._entry("TRAILER!!!", 0)
        return bytes(done.data) + bytes(-len(done.data) % 512)


def library_path(root: Path) -> str:
    """Where a root made by cache.py keeps its shared libraries."""
    return ":".join(str(root / LIB / sub) for sub in ("", "ceph", "systemd"))


def loader(root: Path) -> list:
    """Starts a program of the root outside of it."""
    return [str(root / LIB / "ld-linux-x86-64.so.2"), "--library-path", library_path(root)]


def libraries(root: Path, program: Path, first: Path) -> list:
    """Shared libraries a program of the root needs, as its loader finds them, first in first."""
    loader_file, option, path = loader(root)
    found = run([loader_file, option, f"{first}:{path}", "--list", program])
    return [Path(p) for p in re.findall(r"=> (/\S+)", found)]


def add_stubs(cpio: Cpio, root: Path, scratch: Path) -> Path:
    """Replaces fio's heavy libraries; returns a folder to look in before the root's own."""
    folder = scratch / "stubs"
    folder.mkdir(parents=True)
    for name in stubs.STUBBED if stubs.possible() else ():
        stubs.make(root / "usr/bin/fio", root / LIB / name, folder / name)
        cpio.file(f"{LIB}/{name}", (folder / name).read_bytes(), 0o755)
    return folder


def add_programs(cpio: Cpio, root: Path, first: Path) -> None:
    """Programs and their libraries; all libraries land in the loader's default folder."""
    for link in ("sbin", "lib", "lib64"):
        cpio.link(link, f"usr/{link}")
    cpio.folder("usr/sbin")
    cpio.folder("usr/lib64")
    loader_file = root / LIB / "ld-linux-x86-64.so.2"
    cpio.file("usr/lib64/ld-linux-x86-64.so.2", loader_file.read_bytes(), 0o755)
    for name in PROGRAMS:
        cpio.file(name, (root / name).read_bytes(), 0o755)
        for lib in libraries(root, root / name, first):
            cpio.file(f"{LIB}/{lib.name}", lib.read_bytes(), 0o755)
    for name, target in LINKS.items():
        cpio.link(name, target)
    for name in DATA:
        cpio.file(name, (root / name).read_bytes())


def base(root: Path, image: Path, scratch: Path) -> bytes:
    """The part that all kernels share: programs, init, the command agent."""
    cpio = Cpio()
    cpio.console()
    add_programs(cpio, root, add_stubs(cpio, root, scratch))
    cpio.file("init", (image / "init").read_bytes(), 0o755)
    cpio.file("agent", (image / "agent").read_bytes())
    cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    cpio.file("etc/group", b"root:x:0:\n")
    host = b"6f70656e-736e-4170-8000-000000000001\n"
    cpio.file("etc/nvme/hostid", host)
    cpio.file("etc/nvme/hostnqn", b"nqn.2014-08.org.nvmexpress:uuid:" + host)
    for folder in ("root", "mnt", "tmp"):
        cpio.folder(folder)
    return cpio.bytes()


def module_files(tree: Path, version: str) -> list:
    """Wanted modules and their dependencies, relative to lib/modules/VERSION."""
    folder = tree / "lib/modules" / version
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[name] = rest.split()
    by_name = {re.sub(r"\.ko.*$", "", Path(f).name).replace("-", "_"): f for f in needs}
    chosen = set()
    for module in MODULES:
        if first := by_name.get(module.replace("-", "_")):
            chosen |= {first, *needs[first]}
    return sorted(chosen)


def _unpacked(path: Path) -> bytes:
    body = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(body)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq"], input=body, capture_output=True, check=True).stdout
    return body


def modules(tree: Path, version: str, scratch: Path) -> bytes:
    """The part of one kernel: its modules, uncompressed, with their indexes."""
    source = tree / "lib/modules" / version
    target = scratch / "lib/modules" / version
    for name in module_files(tree, version):
        plain = target / re.sub(r"\.(xz|zst)$", "", name)
        plain.parent.mkdir(parents=True, exist_ok=True)
        plain.write_bytes(_unpacked(source / name))
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (source / name).exists():
            (target / name).write_bytes((source / name).read_bytes())
    run(["depmod", "-b", scratch, version])
    cpio = Cpio()
    for path in sorted(p for p in target.rglob("*") if p.is_file()):
        cpio.file(f"usr/lib/modules/{version}/{path.relative_to(target)}", path.read_bytes())
    return cpio.bytes()
