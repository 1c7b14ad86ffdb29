# SPDX-License-Identifier: BSD-3-Clause
"""The Linux kernel's NVMe/TCP host, in a guest, on our own target: discovery, several queues, a file system, digests,
namespaces that come, grow and go, two paths with ANA, a target that is killed."""

import json
import os
import time

import packets
import pytest
from conftest import available
from fio import finished
from target import Target
from vm import HOST_FROM_GUEST, VM

NQN = "nqn.2024-01.io.opensnap:target"
KERNELS = {"linux-6.1": ("system", "6.1"), "linux-new": ("backports", "backports")}
SIZE_MB = 64
SLOW_SECONDS = 30  # a disconnect takes about one

FIO = ("fio --name=verify --filename={path} --rw=randrw --bsrange=4k-256k --iodepth=32 --numjobs=1 --ioengine=libaio --direct=1 "
       "--size={size}M --verify=crc32c --verify_fatal=1 --verify_backlog=256 --randseed={seed} --output-format=json")


class Chain:
    """A snap_target with two listeners and two namespaces, and a guest that connects to it."""

    def __init__(self, folder, qemu, kernel):
        self.target = Target(folder)
        self.image = folder / "disk.img"
        with open(self.image, "wb") as file:
            file.truncate(SIZE_MB << 20)
        rpc = self.target.rpc
        rpc("nvmf_create_transport", trtype="TCP", in_capsule_data_size=8192)
        rpc("bdev_malloc_create", name="Memory", num_blocks=SIZE_MB << 8, block_size=4096)
        rpc("bdev_aio_create", name="File", filename=str(self.image), block_size=512)
        rpc("nvmf_create_subsystem", nqn=NQN, allow_any_host=True, ana_reporting=True, serial_number="TARGET1")
        for bdev in ("Memory", "File"):
            rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": bdev})
        for _ in range(2):
            rpc("nvmf_subsystem_add_listener", nqn=NQN, listen_address=self.address("0"))
        self.ports = [a["trsvcid"] for a in self.subsystem()["listen_addresses"]]
        self.record = folder / "net.pcap"
        self.vm = VM(name="host", qemu=qemu, kernel=kernel, network=True, modules=("nvme-tcp",),
                     args=packets.record(self.record)).start_vm()
        self.path = None

    @staticmethod
    def address(port):
        return {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port}

    def subsystem(self):
        return next(s for s in self.target.rpc("nvmf_get_subsystems") if s["nqn"] == NQN)

    def controllers(self):
        return self.target.rpc("nvmf_subsystem_get_controllers", nqn=NQN)

    def connect(self, *more, port=0):
        self.vm.check(f"nvme connect -t tcp -a {HOST_FROM_GUEST} -s {self.ports[port]} -n {NQN} {' '.join(more)}", timeout=60)

    def disconnect(self):
        begin = time.monotonic()
        self.vm.run(f"nvme disconnect -n {NQN}", timeout=150)
        if time.monotonic() - begin > SLOW_SECONDS:
            self.explain_slowness()
        deadline = time.monotonic() + 20
        while self.controllers():
            assert time.monotonic() < deadline, "a controller is left behind"
            time.sleep(0.1)

    def explain_slowness(self):
        """Linux waits for an admin command for a minute when it is not answered while it disconnects. Ours to mend if it was sent."""
        ports = {int(p) for p in self.ports}
        words = packets.last_words(self.record, ports)
        assert not packets.unanswered(self.record, ports, SLOW_SECONDS / 2), words
        print(f"the guest waited for a command that it had not sent:\n{words}\n{self.vm.run('dmesg -c')[1]}")

    def disk(self, nsid=1):
        """Path of a namespace: kernels count disks, not NSIDs."""
        return self.vm.wait(f"for d in /dev/nvme*n*; do grep -qx {nsid} /sys/block/${{d#/dev/}}/nsid && echo $d; done | "
                            "head -1 | grep nvme").strip()

    def fio(self, nsid=1, seed=1, size=SIZE_MB // 2, runtime=0, path=None):
        command = FIO.format(path=path or self.disk(nsid), size=size, seed=seed)
        return self.vm.start(command + (f" --time_based --runtime={runtime}" if runtime else ""))

    def stop(self):
        self.vm.stop()
        self.target.stop()
        self.record.unlink(missing_ok=True)


def complaints(vm):
    return vm.run(r"dmesg -c | grep -iE 'I/O error|nvme.* timeout|EXT4-fs error|Buffer I/O|data digest error'")[1]


@pytest.fixture(scope="module", params=KERNELS)
def chain(request, tmp_path_factory):
    qemu, kernel = KERNELS[request.param]
    available(kernel, qemu)
    made = Chain(tmp_path_factory.mktemp("target"), qemu, kernel)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def connected(chain):
    chain.connect("-i", "2")
    yield chain
    chain.disconnect()


def test_the_guest_discovers_the_subsystem(chain):
    found = json.loads(chain.vm.check(f"nvme discover -t tcp -a {HOST_FROM_GUEST} -s {chain.ports[0]} -o json"))["records"]
    assert sorted(r["trsvcid"] for r in found if r["subnqn"] == NQN) == sorted(chain.ports)
    assert {(r["trtype"], r["adrfam"], r["traddr"]) for r in found} == {("tcp", "ipv4", "127.0.0.1")}


@pytest.mark.parametrize("digests", [(), ("-g", "-G")], ids=["plain", "digests"])
def test_a_file_system_on_several_queues(chain, digests):
    chain.connect("-i", "2", *digests)
    [c] = chain.controllers()
    assert c["num_io_qpairs"] == 2
    vm, disk = chain.vm, chain.disk(1)
    assert vm.check(f"cat /sys/block/{os.path.basename(disk)}/size").strip() == str(SIZE_MB << 11)
    vm.check(f"mkfs.ext4 -q {disk} && mkdir -p /mnt/t && mount -t ext4 {disk} /mnt/t", timeout=90)
    assert finished(chain.fio(seed=3, size=16, path="/mnt/t/data")) > 0
    vm.check(f"umount /mnt/t && fsck.ext4 -fn {disk}", timeout=90)
    assert finished(chain.fio(nsid=2, seed=4)) > 0
    assert complaints(vm) == ""
    chain.disconnect()


def test_zeroes_and_discard(connected):
    vm = connected.vm
    for nsid in (1, 2):
        disk = connected.disk(nsid)
        vm.check(f"dd if=/dev/urandom of={disk} bs=1M count=8 oflag=direct 2>/dev/null", timeout=60)
        vm.check(f"blkdiscard -z -o 0 -l 1048576 {disk}")
        vm.check(f"dd if={disk} bs=1M count=1 iflag=direct 2>/dev/null | cmp -n 1048576 - /dev/zero")
        before = connected.image.stat().st_blocks
        vm.check(f"blkdiscard -o 4194304 -l 2097152 {disk}")
        assert nsid == 1 or before - connected.image.stat().st_blocks >= 3 << 10
        vm.check(f"! dd if={disk} bs=1M skip=1 count=1 iflag=direct 2>/dev/null | cmp -s -n 1048576 - /dev/zero")
    assert complaints(vm) == ""


def test_a_write_that_outlasts_the_keep_alive_timeout(chain):
    """The guest disconnects while it waits for it, and is not left alone with its shutdown."""
    vm, rpc = chain.vm, chain.target.rpc
    latency = {"avg_read_latency": 0, "p99_read_latency": 0, "avg_write_latency": 8000000, "p99_write_latency": 8000000}
    rpc("bdev_malloc_create", name="Base", num_blocks=8192, block_size=512)
    rpc("bdev_delay_create", name="Slow", base_bdev_name="Base", **latency)
    rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "Slow", "nsid": 7})
    chain.connect("-i", "2", "-k", "2")
    job = vm.start(f"dd if=/dev/zero of={chain.disk(7)} bs=4k count=1 oflag=direct")
    vm.wait("grep -q ' 1$' /sys/class/nvme/nvme*/nvme*/inflight")
    chain.disconnect()
    assert job.result(60)[0] == 0
    assert complaints(vm) == ""
    rpc("nvmf_subsystem_remove_ns", nqn=NQN, nsid=7)
    rpc("bdev_delay_delete", name="Slow")
    rpc("bdev_malloc_delete", name="Base")


def test_namespaces_come_grow_and_go(connected):
    vm, rpc = connected.vm, connected.target.rpc
    rpc("bdev_malloc_create", name="Late", num_blocks=8192, block_size=512)
    assert rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "Late", "nsid": 7}) == 7
    late = connected.disk(7)
    vm.check(f"dd if=/dev/urandom of={late} bs=64k count=4 oflag=direct 2>/dev/null")
    with open(connected.image, "r+b") as file:
        file.truncate(2 * SIZE_MB << 20)
    rpc("bdev_aio_rescan", name="File")
    vm.wait(f"test $(cat /sys/block/{os.path.basename(connected.disk(2))}/size) = {2 * SIZE_MB << 11}")
    job = connected.fio(nsid=1, seed=9, runtime=4)
    assert rpc("nvmf_subsystem_remove_ns", nqn=NQN, nsid=7) is True
    vm.wait(f"! test -b {late}")
    rpc("bdev_malloc_delete", name="Late")
    assert finished(job) > 0
    assert complaints(vm) == ""


def test_two_paths_and_a_change_of_ana_state(chain):
    """What runs on the path that becomes inaccessible goes on on the other one."""
    chain.connect("-i", "2", port=0)
    chain.connect("-i", "2", port=1)
    if chain.vm.run("test -d /sys/class/nvme-subsystem/nvme-subsys0 && cat /sys/module/nvme_core/parameters/multipath")[1].strip() != "Y":
        pytest.skip("this kernel has no NVMe multipath")
    assert len(chain.controllers()) == 2
    states = "cat /sys/class/nvme-subsystem/nvme-subsys*/nvme*/nvme*c*n1/ana_state | sort | tr '\\n' ' '"
    chain.vm.wait(f"test \"$({states})\" = 'optimized optimized '")
    job = chain.fio(seed=11, runtime=12)
    for turn in range(4):
        time.sleep(2)
        for port, state in ((turn % 2, "inaccessible"), (1 - turn % 2, "optimized")):
            if state == "inaccessible":  # the other one first: there is always a way
                chain.target.rpc("nvmf_subsystem_listener_set_ana_state", nqn=NQN, ana_state="optimized",
                                 listen_address=chain.address(chain.ports[1 - port]))
            chain.target.rpc("nvmf_subsystem_listener_set_ana_state", nqn=NQN, ana_state=state,
                             listen_address=chain.address(chain.ports[port]))
        chain.vm.wait(f"test \"$({states})\" = 'inaccessible optimized '")
    assert finished(job) > 0
    assert complaints(chain.vm) == ""
    for port in chain.ports:
        chain.target.rpc("nvmf_subsystem_listener_set_ana_state", nqn=NQN, ana_state="optimized",
                         listen_address=chain.address(port))
    chain.disconnect()


def test_the_guest_survives_a_target_that_is_killed(chain):
    """The file's contents and the configuration are there again; the host connects again and sends again."""
    chain.connect("-i", "2", "--reconnect-delay=1", "--ctrl-loss-tmo=600")
    job = chain.fio(nsid=2, seed=13, runtime=15)
    for _ in range(2):
        time.sleep(3)
        chain.target.kill_target()
        time.sleep(0.5)
        chain.target.start_target()
        chain.vm.wait("! grep -L live /sys/class/nvme/nvme*/state | grep .", timeout=40)
    assert finished(job) > 0
    assert complaints(chain.vm) == ""
    chain.disconnect()
