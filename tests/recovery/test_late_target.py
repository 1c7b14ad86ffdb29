# SPDX-License-Identifier: BSD-3-Clause
"""Our own target executes writes late, on a delay bdev, after the connection that brought them or the whole service has
died. It holds the next association of the host until they are over, so what the host writes later stays."""
import os
import time
from contextlib import contextmanager

import pytest
from host import RecoverySnap
from raw_host import Queue
from target import Target
from tcp_proxy import TcpProxy
from test_remote_fence import BESIDE, BLOCKS, LBA, NEW, OLD, TOPOLOGY, NvmeHost, VblkHost, hosts_on, wait, wait_ended

NQN = "nqn.2026-01.org.example:late"
LATE_US = 2500000
VERY_LATE_US = 8000000      # the counter-proof needs a restart and a reconnection within it
DISK_BLOCKS = 8192
KINDS = ("avg_read", "p99_read", "avg_write", "p99_write")


class LateTarget(Target):
    """Two namespaces that can be late: 1 on memory, 2 on a file."""

    def __init__(self, tmpdir, program="snap_target"):
        self.program = program
        super().__init__(tmpdir)
        self.image = self.tmpdir / "late.img"
        self.image.write_bytes(bytes(DISK_BLOCKS * 512))
        self.rpc("bdev_malloc_create", name="Base1", block_size=512, num_blocks=DISK_BLOCKS)
        self.rpc("bdev_aio_create", name="Base2", filename=str(self.image), block_size=512)
        self.rpc("nvmf_create_transport", trtype="TCP")
        self.rpc("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
        for n in (1, 2):
            self.rpc("bdev_delay_create", base_bdev_name=f"Base{n}", name=f"Late{n}",
                     **{f"{kind}_latency": 0 for kind in KINDS})
            self.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": f"Late{n}"})
        self.rpc("nvmf_subsystem_add_listener", nqn=NQN,
                 listen_address={"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": "0"})
        [subsystem] = self.rpc("nvmf_get_subsystems", nqn=NQN)
        self.port = subsystem["listen_addresses"][0]["trsvcid"]

    def _spawn(self, name, args, log):
        return super()._spawn(self.program, args, log)

    def write_latency(self, us):
        """For writes that come from now on."""
        for n in (1, 2):
            for kind in ("p99_write", "avg_write"):
                self.rpc("bdev_delay_update_latency", delay_bdev_name=f"Late{n}", latency_type=kind, latency_us=us)

    def held(self):
        """Of each namespace, how many writes are accepted and not done."""
        return [self.rpc("bdev_get_bdevs", name=f"Late{n}")[0]["driver_specific"]["delay"]["held"] for n in (1, 2)]


class ReadingNvmeHost(NvmeHost):
    def content(self, lba=LBA, blocks=BLOCKS):
        return set(self.nvme.read(lba, blocks))


class ReadingVblkHost(VblkHost):
    def content(self, lba=LBA, blocks=BLOCKS):
        return set(self.disk.read(lba, blocks))


@contextmanager
def late_disks(tmp_path, target_program="snap_target"):
    with LateTarget(tmp_path / "target", target_program) as target, TcpProxy(target.port) as proxy, \
            RecoverySnap(tmp_path / "snap", None, TOPOLOGY) as snap:
        with hosts_on(snap, proxy.port, NQN, (ReadingNvmeHost, ReadingVblkHost)) as hosts:
            yield target, proxy, snap, hosts


def overtaken(target, proxy, snap, hosts, how, late_us=LATE_US):
    """One round; what is wrong."""
    found = []
    target.write_latency(late_us)
    old = [h.write(LBA, OLD * 512 * BLOCKS) for h in hosts]
    wait(lambda: target.held() == [1, 1], "the target has accepted both writes")
    target.write_latency(0)     # whatever comes later overtakes them, if it is let in
    if how == "cut":
        assert proxy.cut()
    else:
        snap.kill_service()
        snap.start_service()
    wait_ended(hosts, old, "the writes are sent again and completed")
    if target.held() != [0, 0]:
        found.append("sent again and completed while the first copy was still to come")
    new = [h.write(LBA, NEW * 512 * BLOCKS) for h in hosts]
    beside = [h.write(LBA + BLOCKS, BESIDE * 512) for h in hosts]
    wait_ended(hosts, beside, "a write beside completes")
    wait_ended(hosts, new, "newer writes complete")
    if target.held() != [0, 0]:
        found.append("a newer write completed while the old one was still to come")
    wait(lambda: target.held() == [0, 0], "the late writes are over")
    time.sleep(0.1)
    for name, h in zip(("NVMe", "virtio-blk"), hosts):
        if h.content() != {NEW[0]}:
            found.append(f"{name}: the older write is back")
        if h.content(LBA + BLOCKS, 1) != {BESIDE[0]}:
            found.append(f"{name}: the write beside is lost")
    return found


@pytest.mark.parametrize("how", ["kill", "cut"])
def test_newer_writes_stay(tmp_path, how):
    with late_disks(tmp_path) as (target, proxy, snap, hosts):
        for name in ("Remoten1", "Remoten2"):
            [bdev] = snap.rpc("bdev_get_bdevs", name=name)
            assert bdev["driver_specific"]["nvme"][0]["fence"] == "confirmed"
        for _ in range(2):
            assert overtaken(target, proxy, snap, hosts, how) == []
        with open(target.image, "rb") as f:     # what the host is told is on the medium
            assert set(os.pread(f.fileno(), BLOCKS * 512, LBA * 512)) == {NEW[0]}


def connect_late(target):
    """A host leaves a write behind and comes back, beside another host. Returns (the write was still held when the same host
    got its answer, the other host had to wait)."""
    host, other = (bytes(range(16)), "nqn.2026-01.org.example:host"), (bytes(16 * [7]), "nqn.2026-01.org.example:other")
    queues = []

    def queue(*args, **kw):
        queues.append(Queue(target.port, NQN, *args, **kw))
        queues[-1].connect()
        return queues[-1]

    try:
        admin = queue(host)
        cntlid = admin.connected()
        admin.enable()
        io = queue(host, qid=1, cntlid=cntlid)
        assert io.connected() == cntlid
        target.write_latency(LATE_US)
        io.write(LBA, OLD * 512)
        wait(lambda: target.held() == [1, 0], "the target has accepted the write")
        for q in (io, admin):
            q.close()
        again, beside = queue(host), queue(other)
        waited = beside.connected(1) is None
        while True:
            held = target.held()[0]     # before the answer is looked for: it may end between the two
            if again.connected(0.02) is not None:
                return target.held()[0] > 0, waited
            assert held or again.connected(10) is not None, "no answer after the end of the write"
            if not held:
                return False, waited
    finally:
        for q in queues:
            q.close()


def test_connect_is_answered_when_the_old_writes_are_over(tmp_path):
    with LateTarget(tmp_path) as target:
        for _ in range(2):
            assert connect_late(target) == (False, False)


def test_a_command_that_hangs_ends_with_its_connection_or_when_errors_are_cleared(tmp_path):
    host = (bytes(range(16)), "nqn.2026-01.org.example:host")
    with LateTarget(tmp_path) as target:
        target.rpc("bdev_error_create", base_name="Base1")
        nsid = target.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "EE_Base1"})
        for end in ("close", "clear"):
            target.rpc("bdev_error_inject_error", name="EE_Base1", io_type="write", error_type="pending")
            admin = Queue(target.port, NQN, host)
            admin.connect()
            cntlid = admin.connected()
            admin.enable()
            io = Queue(target.port, NQN, host, 1, cntlid)
            io.connect()
            assert io.connected() == cntlid
            hangs, done = io.write(LBA, OLD * 512, nsid), io.write(LBA + 1, NEW * 512, nsid)
            assert io.answer()[:2] == (done, 0) and io.answer(0.3) is None
            if end == "clear":
                target.rpc("bdev_error_inject_error", name="EE_Base1", io_type="clear", error_type="failure")
                cid, status, _ = io.answer()
                assert cid == hangs and status
            io.close()
            admin.close()
            wait(lambda: target.rpc("nvmf_subsystem_get_controllers", nqn=NQN) == [], "the controller is gone")


# ---- the counter-proof ----

@pytest.mark.parametrize("how", ["kill", "cut"])
def test_without_the_fence_of_the_target_late_writes_are_found_out(tmp_path, how):
    with late_disks(tmp_path, "snap_target_no_fence") as parts:
        found = overtaken(*parts, how, VERY_LATE_US)
        assert any("the older write is back" in f for f in found), f"not found out: {found}"


def test_without_the_fence_of_the_target_connect_is_answered_too_early(tmp_path):
    with LateTarget(tmp_path, "snap_target_no_fence") as target:
        assert connect_late(target) == (True, False)
