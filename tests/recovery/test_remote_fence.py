# SPDX-License-Identifier: BSD-3-Clause
"""A remote target executes writes late: after the connection that brought them, or the whole service, has died. What a host
has written since stays, on NVMe and virtio-blk functions."""
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from host import RecoverySnap
from nvme import Nvme, WRITE
from virtio_blk import OK, OUT, VirtioBlk

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))
from nvme_tcp_peer import NvmeTcpPeer, PeerNamespace  # noqa: E402

TOPOLOGY = {"NVME_EMULATION_NUM_PF": 1, "NVME_EMULATION_NUM_VF": 0, "VIRTIO_BLK_EMULATION_NUM_PF": 1,
            "VIRTIO_BLK_EMULATION_NUM_VF": 0}
TIME = 10   # 2 x KATO
LBA, BLOCKS = 64, 8
OLD, NEW, BESIDE = b"\xaa", b"\xbb", b"\xcc"


class NvmeHost:
    """write() submits; ended() looks whether it has completed, without an error."""

    def __init__(self, snap):
        self.nvme = Nvme(snap.vfio_socket(), io_queues=1)
        self.close = self.nvme.close

    def write(self, lba, data):
        buffer = self.nvme.memory.alloc(4096)
        self.nvme.memory.write(buffer, data)
        return self.nvme.io[1].submit(self.nvme.rw(WRITE, lba, len(data) // 512, buffer))

    def ended(self, cid):
        queue = self.nvme.io[1]
        queue.poll()
        assert not queue.unexpected
        assert cid not in queue.done or queue.done[cid].status == "SUCCESS", queue.done[cid]
        return cid in queue.done


class VblkHost:
    def __init__(self, snap):
        self.disk = VirtioBlk(snap.vhost_socket())
        self.close = self.disk.close
        self.chains, self.over = {}, set()      # chain: its request

    def write(self, lba, data):
        request = self.disk.make(OUT, lba, data)
        self.chains[self.disk.submit(request)] = request
        return request

    def ended(self, request):
        ring = self.disk.rings[0]
        ring.poll()
        assert not ring.unexpected
        for chain in list(ring.done):
            del ring.done[chain]
            assert self.chains[chain].status == OK
            self.over.add(self.chains.pop(chain))
        return request in self.over


@contextmanager
def hosts_on(snap, port, nqn, kinds):
    """A function of each kind on a namespace of its own at 127.0.0.1:port, and who uses it."""
    snap.rpc("bdev_nvme_attach_controller", name="Remote", trtype="TCP", traddr="127.0.0.1", adrfam="IPv4",
             trsvcid=str(port), subnqn=nqn)
    snap.nvme_disk(bdev="Remoten1")
    snap.rpc("virtio_blk_controller_create", pf_id=0, bdev="Remoten2", num_queues=1)
    snap.wait_listens(snap.vfio_socket())
    snap.wait_listens(snap.vhost_socket())
    hosts = []
    try:
        for kind in kinds:
            hosts.append(kind(snap))
        yield hosts
    finally:
        for h in hosts:
            h.close()


@contextmanager
def two_hosts(tmp_path, service="snap_service", **peer_options):
    spaces = [PeerNamespace(1, blocks=8192), PeerNamespace(2, blocks=8192)]
    with NvmeTcpPeer(namespaces=spaces, **peer_options) as peer, \
            RecoverySnap(tmp_path, {"snap_service": service}, TOPOLOGY) as snap:
        with hosts_on(snap, peer.port, peer.nqn, (NvmeHost, VblkHost)) as hosts:
            yield peer, snap, hosts


def wait(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def wait_ended(hosts, requests, what):
    wait(lambda: all([h.ended(r) for h, r in zip(hosts, requests)]), what, TIME + 30)


def content(peer, nsid, lba=LBA, blocks=BLOCKS):
    return set(bytes(peer.namespace(nsid).data[lba * 512:(lba + blocks) * 512]))


def leave_late_writes(peer, hosts):
    peer.catch(2)
    old = [h.write(LBA, OLD * 512 * BLOCKS) for h in hosts]
    wait(lambda: len(peer.late) == 2, "the target has both writes")
    return old


def die(snap):
    snap.kill_service()
    snap.start_service()


def lose(peer, snap, how):
    """Returns the earliest moment from which the time may be counted."""
    if how == "cut":
        now = time.monotonic()
        peer.cut(rst=True)
        return now
    snap.kill_service()
    now = time.monotonic()
    snap.start_service()
    return now


def overtaken(peer, snap, hosts, how):
    """One round; what is wrong."""
    found = []
    old = leave_late_writes(peer, hosts)
    lost = lose(peer, snap, how)
    wait_ended(hosts, old, "the writes are sent again and completed")
    new = [h.write(LBA, NEW * 512 * BLOCKS) for h in hosts]
    wait_ended(hosts, [h.write(LBA + BLOCKS, BESIDE * 512) for h in hosts], "a write beside does not wait")
    confirmed = peer.confirms
    if confirmed:
        wait_ended(hosts, new, "newer writes need not wait")
    time.sleep(0.5)
    early = [h.ended(r) for h, r in zip(hosts, new)]
    peer.execute_late()
    if not confirmed and any(early):
        found.append(f"did not wait: {early}")
    else:
        wait_ended(hosts, new, "the newer writes complete")
        if not confirmed and time.monotonic() - lost < TIME:
            found.append(f"waited for {time.monotonic() - lost:.1f} s only")
    for nsid in (1, 2):
        if content(peer, nsid) != {NEW[0]}:
            found.append(f"namespace {nsid}: the older write is back")
    return found


@pytest.mark.parametrize("how", ["kill", "cut"])
def test_a_newer_write_is_not_overtaken_by_a_late_one(tmp_path, how):
    with two_hosts(tmp_path) as (peer, snap, hosts):
        assert overtaken(peer, snap, hosts, how) == []
        assert snap.rpc("bdev_get_bdevs", name="Remoten1")[0]["driver_specific"]["nvme"][0]["fence"] == "time"
        assert peer.violations == []


@pytest.mark.parametrize("how", ["kill", "cut"])
def test_a_target_that_confirms_the_end_of_associations_is_not_waited_for(tmp_path, how):
    with two_hosts(tmp_path, confirms=True) as (peer, snap, hosts):
        for _ in range(3):
            assert overtaken(peer, snap, hosts, how) == []
        [bdev] = snap.rpc("bdev_get_bdevs", name="Remoten2")
        assert bdev["driver_specific"]["nvme"][0]["fence"] == "confirmed"
        assert peer.violations == []


def test_the_service_dies_again_and_again_with_the_same_record(tmp_path):
    """Each service has sent it: none of these may be late."""
    with two_hosts(tmp_path) as (peer, snap, hosts):
        old = leave_late_writes(peer, hosts)
        for _ in range(2):
            peer.catch(2)
            die(snap)
            wait(lambda: not peer.catching, "sent again, caught again")
        die(snap)
        last = time.monotonic()
        wait_ended(hosts, old, "the writes are sent again and completed")
        new = [h.write(LBA, NEW * 512 * BLOCKS) for h in hosts]
        time.sleep(0.5)
        assert not any(h.ended(r) for h, r in zip(hosts, new))
        assert peer.execute_late() == 6
        wait_ended(hosts, new, "the newer writes complete")
        assert time.monotonic() - last >= TIME - 5  # the service was connected a little before it answered
        assert content(peer, 1) == content(peer, 2) == {NEW[0]}


# ---- the counter-proof ----

@pytest.mark.parametrize("how", ["kill", "cut"])
def test_without_the_remote_fence_late_writes_are_found_out(tmp_path, how):
    with two_hosts(tmp_path, "snap_service_no_remote_fence") as (peer, snap, hosts):
        found = overtaken(peer, snap, hosts, how)
        assert any("the older write is back" in f for f in found), f"not found out: {found}"
