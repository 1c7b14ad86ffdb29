# SPDX-License-Identifier: BSD-3-Clause
"""A namespace is detached while its disk does not answer: what is in flight is not cancelled, what comes meanwhile waits, and
after 2 s the controller runs on with it."""
import struct
import threading

import pytest
from nvme import FLUSH, READ, WRITE, pattern, sqe
from snap import RpcError

NQN = "nqn.2024-01.io.opensnap:wire0"
BLOCKS = 2048
ATTACHED_LIST = 2
LATE_US = 3000000
DETACHED = "INVALID_FIELD"


@pytest.fixture
def late(snap):
    """Namespace 2 of the function, whose writes take 3 s from the moment when a test says so. late(us)."""
    snap.rpc("bdev_malloc_create", name="Slow0", block_size=512, num_blocks=BLOCKS)
    snap.rpc("bdev_delay_create", base_bdev_name="Slow0", name="Slow",
             **{f"{kind}_latency": 0 for kind in ("avg_read", "p99_read", "avg_write", "p99_write")})
    snap.rpc("nvme_namespace_create", nqn=NQN, bdev_name="Slow", nsid=2)
    snap.rpc("nvme_controller_attach_ns", ctrl_id="Wire0", nsid=2)

    def late(us):
        for kind in ("p99_write", "avg_write"):
            snap.rpc("bdev_delay_update_latency", delay_bdev_name="Slow", latency_type=kind, latency_us=us)

    yield late
    snap.rpc("nvme_namespace_destroy", nqn=NQN, nsid=2)
    snap.rpc("bdev_delay_delete", name="Slow")
    snap.rpc("bdev_malloc_delete", name="Slow0")


class Detach(threading.Thread):
    """The RPC; its error, or None."""

    def __init__(self, snap):
        super().__init__(daemon=True)
        self.snap, self.error = snap, None
        self.start()

    def run(self):
        try:
            self.snap.rpc("nvme_controller_detach_ns", ctrl_id="Wire0", nsid=2)
        except RpcError as e:
            self.error = e

    def end(self):
        self.join(30)
        assert not self.is_alive()
        return self.error


def attached(n):
    return [nsid for nsid in struct.unpack("<1024I", n.identify(ATTACHED_LIST)) if nsid]


def test_a_disk_that_does_not_answer_stays(snap, nvme, late, neighbour):
    q, at = nvme.io[1], nvme.memory.alloc(8 * 4096)
    nvme.memory.write(at, pattern(1, 512))
    late(LATE_US)
    write = q.submit(nvme.rw(WRITE, 8, 1, at, nsid=2))
    # A command behind it is over: the write has been accepted, with the latency of that moment.
    assert q.run(nvme.rw(READ, 9, 1, at + 4096, nsid=2)).status == "SUCCESS"
    late(0)
    both = [Detach(snap), Detach(snap)]     # one waits for the disk, the other is refused at once
    while all(d.is_alive() for d in both):
        both[0].join(0.01)
    refused, detach = sorted(both, key=Detach.is_alive)
    assert refused.error.code == -16 and "namespace 2 is being detached" in refused.error.message
    waits = [q.submit(nvme.rw(WRITE, 16, 1, at, nsid=2)), q.submit(nvme.rw(READ, 9, 1, at + 4096, nsid=2)),
             q.submit(sqe(FLUSH, nsid=0xffffffff))]
    assert q.run(nvme.rw(READ, 0, 1, at + 8192)).status == "SUCCESS"        # of another namespace
    assert attached(nvme) == [1, 2]
    assert not set(waits) & set(q.done) and write not in q.done and detach.is_alive()
    error = detach.end()
    assert error.code == -110 and "1 commands of namespace 2 are still in flight after 2000 ms" in error.message
    for cid in waits:
        assert q.wait(cid).status == "SUCCESS"
    assert write not in q.done or q.done[write].status == "SUCCESS"
    assert q.wait(write).status == "SUCCESS"        # late, not cancelled
    for lba in (8, 16):
        assert q.run(nvme.rw(READ, lba, 1, at + 12288, nsid=2)).status == "SUCCESS"
        assert nvme.memory.read(at + 12288, 512) == pattern(1, 512)
    assert Detach(snap).end() is None and attached(nvme) == [1]
    assert q.run(nvme.rw(READ, 8, 1, at, nsid=2)).status == DETACHED


def test_what_comes_before_the_last_command_is_over_is_for_nobody(snap, nvme, late, neighbour):
    q, at = nvme.io[1], nvme.memory.alloc(4096)
    late(500000)
    write = q.submit(nvme.rw(WRITE, 8, 1, at, nsid=2))
    late(0)
    assert q.run(nvme.rw(READ, 9, 1, at, nsid=2)).status == "SUCCESS"
    detach = Detach(snap)
    late_ones = []
    while detach.is_alive():
        late_ones.append(q.submit(nvme.rw(READ, 9, 1, at, nsid=2)))
        detach.join(0.02)
    assert detach.end() is None and q.wait(write).status == "SUCCESS"
    statuses = [q.wait(cid).status for cid in late_ones]
    assert set(statuses) <= {"SUCCESS", DETACHED} and statuses[-1] == DETACHED
