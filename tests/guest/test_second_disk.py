# SPDX-License-Identifier: BSD-3-Clause
"""Linux guests with virtio-blk disks of ours: vhost-user-blk-pci of two QEMUs, remote and local storage behind it.

One chain per QEMU for the whole module, on one target: booting is what costs.
"""

import random
import threading
import time

import pytest
from conftest import available
from fio import finished
from nvmet import Namespace, NvmetTarget
from snap import Snap
from vblk import vblk_disk
from vm import VM, vhost_user_blk

SIZE_MB = 64
KILLS = 5
CHAINS = {"qemu-7.2-linux-6.1": ("system", "6.1"), "qemu-new-linux-new": ("backports", "backports")}
TOPOLOGY = {"VIRTIO_BLK_EMULATION_NUM_PF": 4, "VIRTIO_BLK_EMULATION_NUM_VF": 0}
PACKED_BIT = 34  # VIRTIO_F_RING_PACKED
READ_ONLY_BYTES = bytes(range(256)) * (SIZE_MB << 12)

FIO = ("fio --name={name} --filename={path} --rw=randrw --bsrange=4k-128k --iodepth=32 --ioengine=libaio "
       "--direct=1 --size={size}M --verify=crc32c --verify_fatal=1 --verify_backlog=256 "
       "--randseed={seed} --output-format=json")


class SecondDisk:
    """The whole chain: our two processes, a guest with a remote, a local and a read-only disk, and a spare one to plug."""

    def __init__(self, folder, target, nsid, qemu, kernel):
        self.folder, self.target, self.nsid, self.qemu, self.kernel = folder, target, nsid, qemu, kernel
        self.snap = self.vm = None
        self.sockets = {}

    def start(self):
        self.start_server()
        disks = [self.device("remote"), self.device("local", packed=True), self.device("fixed")]
        self.vm = VM(qemu=self.qemu, kernel=self.kernel, modules=("virtio_blk",), devices=disks, ports=1,
                     name="guest2").start_vm()
        return self

    def start_server(self):
        self.snap = Snap(self.folder, topology=TOPOLOGY)
        self.snap.rpc("bdev_nvme_attach_controller", name="Remote", trtype="tcp", adrfam="ipv4",
                      traddr=self.target.addr, trsvcid=str(self.target.port), subnqn=self.target.nqn)
        self.controller("remote", 0, f"Remoten{self.nsid}")
        for pf, name in ((1, "local"), (2, "fixed"), (3, "spare")):
            self.image(name).write_bytes(READ_ONLY_BYTES if name == "fixed" else b"")
            with open(self.image(name), "r+b") as file:
                file.truncate(SIZE_MB << 20)
            self.snap.rpc("bdev_aio_create", name=name, filename=str(self.image(name)), block_size=512)
            self.controller(name, pf, name)

    def controller(self, name, pf, bdev):
        _, self.sockets[name] = vblk_disk(self.snap, bdev, pf, ctrl_id=name, vblk_id=name.upper(), num_queues=2,
                                          read_only=name == "fixed")

    def image(self, name):
        return self.folder / f"{name}.img"

    def device(self, name, **props):
        return vhost_user_blk(self.sockets[name], reconnect_ms=200, num_queues=2, **props)

    def stop(self):
        for part in (self.vm, self.snap):
            if part:
                part.stop()

    def dev(self, name):
        """The guest's name for a disk, by the serial it reads with GET_ID."""
        return self.vm.wait(f"grep -lx {name.upper()} /sys/block/vd*/serial", timeout=60).strip().split("/")[3]

    def fio(self, name, runtime=0, seed=1, size=SIZE_MB // 2, path=None):
        """Starts fio with verify on a disk of the guest, or a file; result by finished()."""
        command = FIO.format(name=name, path=path or f"/dev/{self.dev(name)}", size=size, seed=seed)
        if runtime:
            command += f" --time_based --runtime={runtime}"
        return self.vm.start(command)

    def counters(self, name):
        return self.snap.rpc("virtio_blk_controller_dbg_io_stats_get", ctrl_id=name)


def kernel_complaints(vm):
    """What the guest's kernel said about disks since it was last asked."""
    return vm.run(r"dmesg -c | grep -iE 'I/O error|blocked for more|virtio.*(fail|error|reset|timeout)|EXT4-fs error'")[1]


@pytest.fixture(scope="module")
def target():
    available()
    with NvmetTarget(namespaces=[Namespace(nsid=n + 1, size_mb=SIZE_MB) for n in range(len(CHAINS))]) as started:
        yield started


@pytest.fixture(scope="module", params=CHAINS)
def disk(request, target, tmp_path_factory):
    qemu, kernel = CHAINS[request.param]
    available(kernel, qemu)
    chain = SecondDisk(tmp_path_factory.mktemp("disk"), target, 1 + list(CHAINS).index(request.param), qemu, kernel)
    try:
        yield chain.start()
    finally:
        chain.stop()


def test_the_guest_sees_the_disks_as_they_are(disk):
    for name in ("remote", "local", "fixed"):
        block = f"/sys/block/{disk.dev(name)}"
        size, ro, queues, features = disk.vm.check(
            f"cat {block}/size {block}/ro; ls {block}/mq | wc -l; cat {block}/device/features").split()
        assert (int(size), int(ro), int(queues)) == (SIZE_MB << 11, name == "fixed", 2)
        assert features[PACKED_BIT] == ("1" if name == "local" else "0")


def test_both_queues_of_a_disk_work(disk):
    for name in ("remote", "local"):
        dev = disk.dev(name)
        device = disk.vm.check(f"basename $(readlink -f /sys/block/{dev}/device)").strip()

        def interrupts(queue):
            words = disk.vm.check(f"grep -w '{device}-req.{queue}' /proc/interrupts").split()
            return sum(int(w) for w in words[1:3])

        for queue in (0, 1):
            cpu = disk.vm.check(f"cat /sys/block/{dev}/mq/{queue}/cpu_list").strip()
            before = interrupts(queue)
            disk.vm.check(f"fio --name=q --filename=/dev/{dev} --rw=read --bs=4k --size=256k --direct=1 "
                          f"--cpus_allowed={cpu} --minimal >/dev/null", timeout=60)
            assert interrupts(queue) - before >= 10, f"{name}: queue {queue} is silent"


def test_the_guest_partitions_formats_mounts_and_verifies_files(disk):
    for n, name in enumerate(("remote", "local")):
        dev = disk.dev(name)
        disk.vm.check(f"echo 'label: gpt\n,,' | sfdisk -q /dev/{dev}", timeout=60)
        disk.vm.wait(f"test -b /dev/{dev}1")
        disk.vm.check(f"mkfs.ext4 -q /dev/{dev}1 && mkdir -p /mnt/{n} && mount -t ext4 /dev/{dev}1 /mnt/{n}", timeout=90)
        assert finished(disk.fio(name, seed=n, size=16, path=f"/mnt/{n}/data")) > 0
        disk.vm.check(f"umount /mnt/{n} && fsck.ext4 -fn /dev/{dev}1 && mount -t ext4 /dev/{dev}1 /mnt/{n} && umount /mnt/{n}",
                      timeout=90)
    assert kernel_complaints(disk.vm) == ""


def test_raw_verify_on_both_disks(disk):
    jobs = [disk.fio(name, seed=n + 10) for n, name in enumerate(("remote", "local"))]
    assert min(finished(job) for job in jobs) > 0
    assert kernel_complaints(disk.vm) == ""


def test_discard_and_write_zeroes_read_back_as_zeroes(disk):
    for name in ("remote", "local"):
        path = f"/dev/{disk.dev(name)}"
        disk.vm.check(f"dd if=/dev/urandom of={path} bs=1M count=16 oflag=direct 2>/dev/null", timeout=60)
        before = disk.image(name).stat().st_blocks if name == "local" else 0
        disk.vm.check(f"blkdiscard -z -o 0 -l 1048576 {path}")
        disk.vm.check(f"dd if={path} bs=1M count=1 iflag=direct 2>/dev/null | cmp -n 1048576 - /dev/zero")
        disk.vm.check(f"! dd if={path} bs=1M skip=1 count=1 iflag=direct 2>/dev/null | cmp -s -n 1048576 - /dev/zero")
        disk.vm.check(f"blkdiscard -o 4194304 -l 8388608 {path}")
        if name == "local":
            disk.vm.check(f"dd if={path} bs=1M skip=4 count=8 iflag=direct 2>/dev/null | cmp -n 8388608 - /dev/zero")
            given_back = (before - disk.image(name).stat().st_blocks) * 512
            assert given_back >= 7 << 20
    assert kernel_complaints(disk.vm) == ""


def test_a_read_only_disk_is_read_and_not_written(disk):
    path = f"/dev/{disk.dev('fixed')}"
    disk.vm.check(f"dd if={path} bs=1M skip=3 count=1 iflag=direct of=/run/fixed 2>/dev/null")
    assert disk.vm.check("od -An -tu1 -w256 -v /run/fixed | sort -u").split() == [str(n) for n in range(256)]
    status, words = disk.vm.run(f"dd if=/dev/zero of={path} bs=4k count=1 oflag=direct")
    assert status != 0 and ("not permitted" in words or "ead-only" in words), words
    assert disk.vm.run(f"blkdiscard -z -l 4096 {path}")[0] != 0
    assert disk.image("fixed").read_bytes() == READ_ONLY_BYTES


def test_a_disk_comes_and_goes_while_another_works(disk):
    job = disk.fio("remote", runtime=15, seed=20)
    for turn in range(2):
        ident = disk.vm.plug(disk.device("spare"))
        dev = disk.dev("spare")
        if turn:  # on the same socket again, with what it had
            disk.vm.check(f"dd if=/dev/{dev} bs=64k count=64 iflag=direct 2>/dev/null | cmp - /run/data")
        disk.vm.check(f"dd if=/dev/urandom of=/run/data bs=64k count=64 2>/dev/null && "
                      f"dd if=/run/data of=/dev/{dev} bs=64k oflag=direct 2>/dev/null", timeout=60)
        disk.vm.unplug(ident)
        disk.vm.wait(f"! test -b /dev/{dev}")
    assert finished(job) > 0
    assert kernel_complaints(disk.vm) == ""


def test_a_disk_that_grows_is_seen_to_grow(disk):
    dev = disk.dev("local")
    with open(disk.image("local"), "r+b") as file:
        file.truncate(2 * SIZE_MB << 20)
    disk.snap.rpc("bdev_aio_rescan", name="local")
    disk.vm.wait(f"test $(cat /sys/block/{dev}/size) = {2 * SIZE_MB << 11}")
    disk.vm.check(f"dd if=/dev/urandom of=/run/data bs=64k count=1 2>/dev/null && "
                  f"dd if=/run/data of=/dev/{dev} bs=64k seek={2 * SIZE_MB * 16 - 1} oflag=direct 2>/dev/null && "
                  f"dd if=/dev/{dev} bs=64k skip={2 * SIZE_MB * 16 - 1} iflag=direct 2>/dev/null | cmp - /run/data")
    assert kernel_complaints(disk.vm) == ""


def test_the_guest_does_not_notice_that_the_service_is_killed(disk):
    seconds = KILLS * 3 + 6
    jobs = [disk.fio(name, runtime=seconds, seed=n + 40) for n, name in enumerate(("remote", "local"))]
    time.sleep(3)
    dice = random.Random(7)
    records = 0
    for kill in range(KILLS):
        time.sleep(dice.uniform(1, 2))
        disk.snap.kill_service()
        time.sleep(dice.uniform(0, 1))
        disk.snap.start_service()
        for name in ("remote", "local"):
            found = disk.counters(name)["recovery"]
            records += found["records"]
            print(f"\nkill {kill + 1}: {name} adopted with {found}")
            assert found["adopted"]
    ios = [finished(job, timeout=seconds + 90) for job in jobs]
    print(f"{ios} I/Os verified over {KILLS} kills, {records} records taken over")
    assert records > 0
    assert kernel_complaints(disk.vm) == ""


def test_the_guest_does_not_notice_that_snap_emu_is_killed(disk):
    """The service ends with it. QEMU connects again, with the in-flight area it keeps."""
    jobs = [disk.fio(name, runtime=22, seed=n + 60) for n, name in enumerate(("remote", "local"))]
    time.sleep(3)
    for kill_service in (False, True, False):
        disk.snap.kill_emu()
        if kill_service:
            disk.snap.kill_service()
        else:
            disk.snap.end_service()
        time.sleep(0.5)
        disk.snap.start_emu()
        disk.snap.start_service()
        time.sleep(4)
    assert min(finished(job) for job in jobs) > 0
    assert kernel_complaints(disk.vm) == ""


def test_the_guest_reboots_while_the_service_is_alive(disk):
    disk.vm.reset()
    finished(disk.fio("remote", seed=80, size=16))
    disk.vm.reboot()
    finished(disk.fio("local", seed=81, size=16))


def test_the_guest_reboots_while_the_service_is_dead(disk):
    disk.snap.kill_service()
    later = threading.Timer(6, disk.snap.start_service)
    later.start()
    disk.vm.reset(timeout=120)
    later.join()
    for n, name in enumerate(("remote", "local")):
        finished(disk.fio(name, seed=82 + n, size=16))
    assert kernel_complaints(disk.vm) == ""
