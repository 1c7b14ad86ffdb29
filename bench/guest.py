# SPDX-License-Identifier: BSD-3-Clause
"""What a Linux guest's own drivers cost beside the I/O: messages to the service and interrupts. The guest is emulated, so its
speed says nothing."""
import json

import measure as m
from row import Row, Run
from setups import null, service

KERNEL, QEMU = "6.12", "backports"
may_build = False  # --guest


def there():
    """Skipped unless what the guest boots from is in the cache: making it takes minutes and a mirror."""
    if not may_build and not (m.cache.folder() / f"initramfs-{KERNEL}").is_dir():
        raise m.Skipped("no guest kernel is cached: --guest makes one")
    try:
        m.cache.kernel(KERNEL)
        m.cache.qemu(QEMU)
    except m.cache.CacheError as missing:
        raise m.Skipped(str(missing)) from missing


class Disk:
    """A disk in the guest, and how one run of fio on it is counted."""

    def __init__(self, snap, vm, path, stats, ctrl, kicks):
        self.snap, self.vm, self.path, self.stats, self.ctrl, self.kicks = snap, vm, path, stats, ctrl, kicks
        self.left = {}  # depth: interrupts per I/O of runs whose kicks were taken

    def counters(self):
        got = self.snap.rpc(self.stats, ctrl_id=self.ctrl)
        return got["read_io_count"], got[self.kicks], got["interrupts"]

    def fio(self, depth, seconds):
        before = self.counters()
        out = self.vm.check(f"fio --name=bench --filename={self.path} --direct=1 --ioengine=libaio --rw=randread --bs=4k --iodepth={depth} "
                            f"--time_based --runtime={max(1, round(seconds))} --output-format=json", timeout=60)
        error = json.loads(out[out.index("{"):])["jobs"][0]["error"]
        ios, kicks, interrupts = (now - then for now, then in zip(self.counters(), before))
        if error or not ios:
            raise m.BenchError(f"fio in the guest made {ios} I/Os, error {error}")
        return kicks / ios, interrupts / ios

    def kicks_per_io(self, depth, seconds):
        kicks, interrupts = self.fio(depth, seconds)
        self.left.setdefault(depth, []).append(interrupts)
        return Run(kicks)

    def interrupts_per_io(self, depth, seconds):
        left = self.left.get(depth)
        return Run(left.pop(0) if left else self.fio(depth, seconds)[1])


def in_guest(seconds):
    """A Linux guest (TCG) with fio on an NVMe and a virtio-blk disk: doorbell messages or kicks, and interrupts, per I/O."""
    there()
    from vm import VM, GuestError, vfio_user, vhost_user_blk
    with service() as snap:
        null(snap)
        ctrl = snap.nvme_disk("Disk")
        snap.rpc("bdev_null_create", name="Second", block_size=512, num_blocks=m.BLOCKS)
        vblk, vblk_socket = m.vblk_disk(snap, "Second", num_queues=2)
        try:
            with VM(kernel=KERNEL, qemu=QEMU, name="bench",
                    devices=[vfio_user(snap.vfio_socket()), vhost_user_blk(vblk_socket, num_queues=2)]) as vm:
                vm.wait("test -b /dev/nvme0n1 && test -b /dev/vda")
                for name, disk, kicks in (
                        ("NVMe, shadow doorbells", Disk(snap, vm, "/dev/nvme0n1", "nvme_controller_dbg_io_stats_get", ctrl,
                                                        "doorbell_messages"), "doorbell messages"),
                        ("virtio-blk", Disk(snap, vm, "/dev/vda", "virtio_blk_controller_dbg_io_stats_get", vblk, "kicks"), "kicks")):
                    for depth in (1, 32):
                        for what, count in ((kicks, disk.kicks_per_io), ("interrupts", disk.interrupts_per_io)):
                            yield Row(f"Linux guest, {name}, depth {depth}: {what}", "per I/O", 0,
                                      {"ours": lambda count=count, depth=depth: count(depth, seconds)}, better="less")
        except GuestError as failed:
            raise m.BenchError(str(failed)) from failed
