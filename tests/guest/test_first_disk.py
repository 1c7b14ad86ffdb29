# SPDX-License-Identifier: BSD-3-Clause
"""A Linux guest on disks of ours: NVMe/TCP from a kernel target with and without digests, and a file.

One pair of guests for the whole module: booting is what costs.
"""

import json
import random
import threading
import time

import late
import pytest
from conftest import available
from fio import finished
from nvmet import Namespace, NvmetTarget
from snap import Snap
from vm import VM, vfio_user

NQN = "nqn.2026-01.org.opensnap:guest"
SIZE_MB = 96
KILLS = 10

# 4 KiB writes travel in the capsule, larger ones by R2T: the target takes 16 KiB inline.
FIO = ("fio --name={name} --filename={path} --rw=randrw --bsrange=4k-128k --iodepth=32 --ioengine=libaio "
       "--direct=1 --size={size}M --verify=crc32c --verify_fatal=1 --verify_backlog=256 "
       "--randseed={seed} --output-format=json")


class FirstDisk:
    """The whole chain: target guest, our two processes, guest with three namespaces on one controller."""

    def __init__(self, folder):
        self.late_image = folder / "late.img"
        self.target = NvmetTarget(namespaces=[Namespace(nsid=1, size_mb=SIZE_MB),
                                              Namespace(nsid=2, size_mb=SIZE_MB)], image=str(self.late_image))
        self.snap = self.vm = None
        self.folder = folder

    def start(self):
        with open(self.late_image, "wb") as file:
            file.truncate(late.SIZE_MB << 20)
        self.target.start()
        self.target.serve_image(late.NQN, (1, 2))
        self.snap = Snap(self.folder)
        rpc = self.snap.rpc
        self.attach("Plain", digests=False)
        self.attach("Digest", digests=True)
        image = self.folder / "disk.img"
        with open(image, "wb") as file:
            file.truncate(SIZE_MB << 20)
        rpc("bdev_aio_create", name="File0", filename=str(image), block_size=512)
        rpc("nvme_subsystem_create", nqn=NQN)
        for nsid, bdev in ((1, "Plainn1"), (2, "Digestn2"), (3, "File0")):
            rpc("nvme_namespace_create", nqn=NQN, nsid=nsid, bdev_name=bdev)
        rpc("nvme_controller_create", nqn=NQN, pf_id=0, ctrl_id="NVMeCtrl1", num_queues=4, suspended=True)
        for nsid in (1, 2, 3):
            rpc("nvme_controller_attach_ns", ctrl_id="NVMeCtrl1", nsid=nsid)
        rpc("nvme_controller_resume", ctrl_id="NVMeCtrl1")
        self.vm = VM(devices=[vfio_user(self.snap.vfio_socket())]).start_vm()
        self.vm.wait("test -b /dev/nvme0n3")
        return self

    def attach(self, name, digests):
        self.snap.rpc("bdev_nvme_attach_controller", name=name, trtype="tcp", adrfam="ipv4",
                      traddr=self.target.addr, trsvcid=str(self.target.port), subnqn=self.target.nqn,
                      hdgst=digests, ddgst=digests)

    def stop(self):
        for part in (self.vm, self.snap, self.target):
            if part:
                part.stop()

    def dev(self, nsid):
        """The guest's name for a namespace: names are given in the order of probing, which is any."""
        return self.vm.wait(f"grep -lx {nsid} /sys/block/nvme0n*/nsid", timeout=60).strip().split("/")[3]

    def fio(self, disk, runtime=0, seed=1, size=SIZE_MB // 2):
        """Starts fio with verify on a disk of the guest; result by finished()."""
        command = FIO.format(name=disk, path=f"/dev/{disk}", size=size, seed=seed)
        if runtime:
            command += f" --time_based --runtime={runtime}"
        return self.vm.start(command)

    def counters(self):
        return self.snap.rpc("nvme_controller_dbg_io_stats_get", ctrl_id="NVMeCtrl1")


def kernel_complaints(vm):
    return vm.run(r"dmesg | grep -iE 'nvme.*(timeout|reset|error|abort)|I/O error' | grep -v 'Shutdown timeout'")[1]


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    available()
    chain = FirstDisk(tmp_path_factory.mktemp("disk"))
    try:
        yield chain.start()
    finally:
        chain.stop()


def test_the_guest_sees_the_disks_with_their_identity(disk):
    listing = json.loads(disk.vm.check("nvme list -o json"))
    assert len(listing["Devices"]) >= 1
    sizes = disk.vm.check("lsblk -bdno NAME,SIZE").split()
    for name in ("nvme0n1", "nvme0n2", "nvme0n3"):
        assert sizes[sizes.index(name) + 1] == str(SIZE_MB << 20)
    wwids = {disk.vm.check(f"cat /sys/block/nvme0n{n}/wwid").strip() for n in (1, 2, 3)}
    assert len(wwids) == 3
    listed = {ns["uuid"] for ns in disk.snap.rpc("nvme_namespace_list", nqn=NQN)}
    assert {w.removeprefix("uuid.") for w in wwids} == listed


def test_the_guest_partitions_formats_mounts_and_verifies_files(disk):
    for n in (1, 3):
        name = disk.dev(n)
        disk.vm.check(f"echo 'label: gpt\n,,' | sfdisk -q /dev/{name}", timeout=60)
        disk.vm.wait(f"test -b /dev/{name}p1")
        disk.vm.check(f"mkfs.ext4 -q /dev/{name}p1 && mkdir -p /mnt/{n} && mount -t ext4 /dev/{name}p1 /mnt/{n}", timeout=90)
        job = disk.vm.start(FIO.format(name=name, path=f"/mnt/{n}/data", size=24, seed=n))
        assert finished(job) > 0
        disk.vm.check(f"umount /mnt/{n} && fsck.ext4 -fn /dev/{name}p1 && mount -t ext4 /dev/{name}p1 /mnt/{n} && umount /mnt/{n}",
                      timeout=90)


def test_raw_verify_on_all_disks_uses_no_bounce_buffer(disk):
    before = disk.counters()
    jobs = [disk.fio(disk.dev(n), seed=n) for n in (1, 2, 3)]
    ios = sum(finished(job) for job in jobs)
    after = disk.counters()
    messages = after["doorbell_messages"] - before["doorbell_messages"]
    print(f"\n{ios} I/Os, {messages} trapped doorbell messages: {messages / ios:.3f} per I/O (goal < 0.1), "
          f"{after['interrupts'] - before['interrupts']} interrupts")
    assert after["bounce_bytes"] == 0
    assert messages < ios


def test_discard_and_write_zeroes_read_back_as_zeroes(disk):
    for n in (1, 3):
        path = f"/dev/{disk.dev(n)}"
        disk.vm.check(f"dd if=/dev/urandom of={path} bs=1M count=4 oflag=direct 2>/dev/null")
        disk.vm.check(f"blkdiscard -z -o 0 -l 1048576 {path}")
        disk.vm.check(f"dd if={path} bs=1M count=1 iflag=direct 2>/dev/null | cmp -n 1048576 - /dev/zero")
        disk.vm.check(f"blkdiscard -o 1048576 -l 1048576 {path}")


def test_the_guest_does_not_notice_that_the_service_is_killed(disk):
    seconds = KILLS * 4 + 10
    jobs = [disk.fio(disk.dev(n), runtime=seconds, seed=40 + n, size=32) for n in (1, 2, 3)]
    dice = random.Random(7)
    for kill in range(KILLS):
        time.sleep(dice.uniform(1, 3))
        disk.snap.kill_service()
        time.sleep(dice.uniform(0, 1))
        disk.snap.start_service()
        found = disk.counters()["recovery"]
        print(f"\nkill {kill + 1}: adopted with {found['records']} records: {found}")
        assert found["adopted"]
    ios = sum(finished(job, timeout=seconds + 120) for job in jobs)
    print(f"{ios} I/Os verified over {KILLS} kills")
    assert kernel_complaints(disk.vm) == ""


def test_the_target_goes_away_and_comes_back_without_an_error(disk):
    jobs = [disk.fio(disk.dev(n), runtime=20, seed=60 + n, size=32) for n in (1, 2)]
    time.sleep(3)
    disk.target.unlink()
    for _ in range(3):  # and the service dies meanwhile, again and again, with the same commands in its hands
        time.sleep(1)
        disk.snap.kill_service()
        disk.snap.start_service()
    time.sleep(2)
    disk.target.link()
    for job in jobs:
        finished(job)
    assert kernel_complaints(disk.vm) == ""


def test_namespaces_come_and_go_while_the_guest_runs(disk):
    disk.snap.rpc("nvme_controller_detach_ns", ctrl_id="NVMeCtrl1", nsid=3)
    disk.vm.wait("! grep -lx 3 /sys/block/nvme0n*/nsid")
    disk.snap.rpc("nvme_controller_attach_ns", ctrl_id="NVMeCtrl1", nsid=3)
    assert disk.dev(3)


def test_the_guest_reboots_while_the_service_is_alive(disk):
    disk.vm.reset()
    disk.vm.wait("test -b /dev/nvme0n3")
    finished(disk.fio(disk.dev(3), seed=80, size=16))


def test_the_guest_reboots_while_the_service_is_dead(disk):
    disk.snap.kill_service()
    # The firmware waits for the disk to become ready, as long as CAP.TO says.
    later = threading.Timer(8, disk.snap.start_service)
    later.start()
    disk.vm.reset(timeout=120)
    later.join()
    disk.vm.wait("test -b /dev/nvme0n3", timeout=60)
    finished(disk.fio(disk.dev(3), seed=81, size=16))
    finished(disk.fio(disk.dev(1), seed=82, size=16))


def test_a_function_level_reset_in_the_guest_is_survived(disk):
    pci = disk.vm.check("basename $(readlink -f /sys/class/nvme/nvme0/device)").strip()
    for dead in (False, True):
        if dead:
            disk.snap.kill_service()
            reset = disk.vm.start(f"echo 1 >/sys/bus/pci/devices/{pci}/reset")
            time.sleep(1)
            disk.snap.start_service()
            reset.result(90)
        else:
            disk.vm.check(f"echo 1 >/sys/bus/pci/devices/{pci}/reset", timeout=90)
        disk.vm.wait("test -b /dev/nvme0n3", timeout=60)
        finished(disk.fio(disk.dev(3), seed=90 + dead, size=16))


# ---- the target alone, with services and hosts of our own ----

def test_newer_writes_stay_when_the_kernel_target_is_late(disk, tmp_path):
    with late.services(disk.target, tmp_path, ("kill", "cut")) as lates:
        for one in lates:
            [bdev] = one.snap.rpc("bdev_get_bdevs", name="Remoten1")
            assert bdev["driver_specific"]["nvme"][0]["fence"] == "time"
        assert late.overtaken(disk.target, disk.late_image, lates) == []


def test_without_the_remote_fence_late_writes_of_the_kernel_target_are_found_out(disk, tmp_path):
    with late.services(disk.target, tmp_path, ("kill", "cut"), "snap_service_no_remote_fence") as lates:
        found = late.overtaken(disk.target, disk.late_image, lates)
    for how in ("kill", "cut"):
        assert f"{how}: the older write is back" in found, found
        assert f"{how}: a newer write completed while the old one was still to come" in found
