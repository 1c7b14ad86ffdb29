# SPDX-License-Identifier: BSD-3-Clause
"""Creating, deleting and abusing I/O queues: exact statuses, nothing used after it is gone."""
import time

import pytest
import vfio_user as v
from nvme import (ABORT, ASYNC_EVENT, CREATE_SQ, DELETE_CQ, DELETE_SQ, READ, SET_FEATURES, WRITE, Nvme, QueuePair, pattern, sqe)


@pytest.fixture
def n(path):
    with Nvme(path, io_queues=0) as x:
        granted = x.run_admin(SET_FEATURES, cdw10=7, cdw11=3 << 16 | 3).dw0
        x.beyond = max(granted & 0xffff, granted >> 16) + 2  # the first queue that was not granted
        yield x


def create_cq(n, qid=1, entries=16, vector=1, flags=3, at=None):
    return n.create_cq(qid, entries, vector, at, ok=False, flags=flags)[0].status


def create_sq(n, qid=1, cqid=1, entries=16, flags=1, at=None):
    pair = QueuePair(n, qid, max(entries, 2))
    cqe = n.run_admin(CREATE_SQ, ok=False, prp1=pair.sq if at is None else at, cdw10=(entries - 1 & 0xffff) << 16 | qid,
                      cdw11=cqid << 16 | flags)
    return cqe.status


def test_create_cq_statuses(n):
    assert create_cq(n, qid=0) == "QID_INVALID"
    assert create_cq(n, qid=n.beyond) == "QID_INVALID"
    assert create_cq(n, qid=0xffff) == "QID_INVALID"
    assert create_cq(n, entries=1) == "QUEUE_SIZE"  # 0's based 0
    mqes = n.reg64(0) & 0xffff
    assert n.run_admin(5, ok=False, prp1=n.page, cdw10=(mqes + 1 & 0xffff) << 16 | 1, cdw11=3).status == "QUEUE_SIZE" \
        or mqes == 0xffff
    assert create_cq(n, vector=200) == "INTERRUPT_VECTOR"
    assert create_cq(n, vector=0xffff) == "INTERRUPT_VECTOR"
    assert create_cq(n, flags=2) == "INVALID_FIELD"  # not contiguous, with CAP.CQR
    assert create_cq(n, at=n.page + 8) in ("PRP_OFFSET", "INVALID_FIELD")
    assert create_cq(n) == "SUCCESS"
    assert create_cq(n) == "QID_INVALID"            # twice


def test_create_sq_statuses(n):
    assert create_sq(n) == "CQ_INVALID"             # no CQ yet
    assert create_cq(n) == "SUCCESS"
    assert create_sq(n, qid=0) == "QID_INVALID"
    assert create_sq(n, qid=n.beyond) == "QID_INVALID"
    assert create_sq(n, cqid=0) == "CQ_INVALID"
    assert create_sq(n, cqid=2) == "CQ_INVALID"
    assert create_sq(n, cqid=60000) in ("CQ_INVALID", "QID_INVALID")
    assert create_sq(n, entries=1) == "QUEUE_SIZE"
    assert create_sq(n, flags=0) == "INVALID_FIELD"
    assert create_sq(n, at=n.page + 4) in ("PRP_OFFSET", "INVALID_FIELD")
    assert create_sq(n) == "SUCCESS"
    assert create_sq(n) == "QID_INVALID"


def test_delete_statuses(n):
    def delete(opc, qid):
        return n.run_admin(opc, ok=False, cdw10=qid).status

    for qid in (0, 1, n.beyond, 0xffff):
        assert delete(DELETE_SQ, qid) == "QID_INVALID"
        assert delete(DELETE_CQ, qid) == "QID_INVALID"
    assert create_cq(n) == "SUCCESS" and create_sq(n) == "SUCCESS"
    assert delete(DELETE_CQ, 1) == "QUEUE_DELETION"  # its SQ is still there
    assert delete(DELETE_SQ, 1) == "SUCCESS"
    assert delete(DELETE_SQ, 1) == "QID_INVALID"
    assert delete(DELETE_CQ, 1) == "SUCCESS"
    assert delete(DELETE_CQ, 1) == "QID_INVALID"
    n.create_io(1)
    n.read(0, 1)


def test_delete_sq_with_io_in_flight_completes_or_aborts_all(n, neighbour):
    """Every command of a deleted queue ends by a completion or is dropped with it; none lands later."""
    for _ in range(20):
        q = n.create_io(1, 64)
        at = n.memory.alloc(40 * 4096)
        for i in range(40):
            q.push(n.rw(READ, 8 * i, 8, at + 4096 * i))
        q.ring()
        n.run_admin(DELETE_SQ, cdw10=1)
        n.memory.write(at, b"\x99" * (40 * 4096))
        time.sleep(0.005)
        assert n.memory.read(at, 40 * 4096) == b"\x99" * (40 * 4096)
        for cqe in q.poll():
            assert cqe.status in ("SUCCESS", "ABORTED_SQ_DELETION"), cqe
        assert not q.unexpected
        n.run_admin(DELETE_CQ, cdw10=1)
        n.memory.used = at - n.memory.iova - 2 * 4096
    q = n.create_io(1)
    n.write(0, pattern(12, 512))


def test_several_sqs_share_a_cq(n):
    first = n.create_io(1, 64, 1)
    second = QueuePair(n, 2, 16)
    n.run_admin(CREATE_SQ, prp1=second.sq, cdw10=15 << 16 | 2, cdw11=1 << 16 | 1)
    at = n.memory.alloc(4096)
    cid = second.push(n.rw(READ, 0, 1, at), cid=0x4000)
    first.outstanding.add(cid)
    second.ring()
    cqe = first.wait(cid)
    assert (cqe.sqid, cqe.status, cqe.sqhd) == (2, "SUCCESS", 1)


def test_number_of_queues_feature_grants_and_is_final_after_creation(n):
    cqe = n.run_admin(SET_FEATURES, ok=False, cdw10=7, cdw11=0xfffe << 16 | 0xfffe)
    assert cqe.status == "SUCCESS" and 1 <= (cqe.dw0 & 0xffff) + 1 <= 31
    assert n.run_admin(SET_FEATURES, ok=False, cdw10=7, cdw11=0xffff << 16 | 0xffff).status == "INVALID_FIELD"
    n.create_io(1)
    assert n.run_admin(SET_FEATURES, ok=False, cdw10=7, cdw11=0).status in ("SEQUENCE_ERROR", "SUCCESS")


def test_cid_reused_while_active_is_never_mixed_up(nvme):
    """Twice the same CID: as many completions as commands, or a conflict; the queue stays in order."""
    q = nvme.io[1]
    at = nvme.memory.alloc(8192)
    nvme.write(0, pattern(13, 4096))
    q.push(nvme.rw(READ, 0, 8, at), cid=77)
    q.push(nvme.rw(READ, 0, 8, at + 4096), cid=77)
    q.ring()
    time.sleep(0.2)
    got = q.poll()
    assert [c.cid for c in got] == [77, 77]
    assert {c.status for c in got} <= {"SUCCESS", "CID_CONFLICT"}
    q.unexpected.clear()
    q.done.clear()
    nvme.read(0, 1)


def test_host_that_does_not_consume_its_cq_loses_nothing(path, neighbour):
    """CQ smaller than what is submitted: completions wait for room, and come when the head moves."""
    with Nvme(path, io_queues=0) as n:
        q = n.create_cq(1, 8, 1)[1]
        sq = QueuePair(n, 1, 64)
        n.run_admin(CREATE_SQ, prp1=sq.sq, cdw10=63 << 16 | 1, cdw11=1 << 16 | 1)
        at = n.memory.alloc(4096)
        for i in range(60):
            sq.push(n.rw(READ, 0, 1, at), cid=i + 1)
        sq.ring()
        time.sleep(0.3)
        seen = []
        deadline = time.monotonic() + 10
        while len(seen) < 60:
            new = q.poll()
            seen += [c.cid for c in new]
            time.sleep(0.002)
            assert time.monotonic() < deadline, f"only {len(seen)} of 60 completions"
        assert sorted(seen) == list(range(1, 61))


def test_service_asleep_with_a_full_cq_wakes_by_the_head(path):
    """With shadow doorbells: the event index of the CQ head must be armed while completions wait."""
    with Nvme(path, io_queues=0) as n:
        q = n.create_cq(1, 4, 1)[1]
        sq = QueuePair(n, 1, 64)
        n.run_admin(CREATE_SQ, prp1=sq.sq, cdw10=63 << 16 | 1, cdw11=1 << 16 | 1)
        n.shadow_doorbells()
        at = n.memory.alloc(4096)
        for i in range(40):
            sq.push(n.rw(READ, 0, 1, at), cid=i + 1)
        sq.ring()
        seen = 0
        deadline = time.monotonic() + 20
        while seen < 40:
            time.sleep(0.05)  # long enough for the service to sleep
            seen += len(q.poll())
            assert time.monotonic() < deadline, f"only {seen} of 40 completions"


def test_queue_that_wraps_thousands_of_times(path):
    with Nvme(path, entries=2) as n:
        for i in range(3000):
            n.io[1].run(sqe(0, nsid=1))
    with Nvme(path, entries=5) as n:
        at = n.memory.alloc(4096)
        for i in range(500):
            cids = [n.io[1].push(n.rw(READ, 0, 1, at)) for _ in range(4)]
            n.io[1].ring()
            for cid in cids:
                n.io[1].wait(cid)


def test_abort_and_event_requests_beyond_their_limits(nvme):
    for _ in range(20):
        cqe = nvme.run_admin(ABORT, ok=False, cdw10=0x7777 << 16 | 1)
        assert cqe.status in ("SUCCESS", "ABORT_LIMIT")
        if cqe.status == "SUCCESS":
            assert cqe.dw0 & 1  # not aborted: there is no such command
    cids = [nvme.admin.submit(sqe(ASYNC_EVENT)) for _ in range(12)]
    deadline = time.monotonic() + 3
    while not nvme.admin.done and time.monotonic() < deadline:
        nvme.admin.poll()
        time.sleep(0.01)
    time.sleep(0.1)
    nvme.admin.poll()
    assert nvme.admin.done, "none of 12 requests was refused"
    assert all(c.status == "AER_LIMIT" for c in nvme.admin.done.values())
    refused = len(nvme.admin.done)
    held = [c for c in cids if c not in nvme.admin.done]
    assert 1 <= len(held) <= 8 and refused + len(held) == 12
    nvme.admin.done.clear()
    cqe = nvme.run_admin(ABORT, ok=False, cdw10=held[0] << 16)
    assert cqe.status == "SUCCESS"
    if not cqe.dw0 & 1:
        assert nvme.admin.wait(held[0]).status == "ABORT_REQUESTED"


def test_writes_in_flight_at_queue_deletion_are_whole(n):
    """A block holds what one of the writes wrote, never a mixture."""
    n.create_io(1)
    n.write(0, bytes(4096))
    n.run_admin(DELETE_SQ, cdw10=1)
    n.run_admin(DELETE_CQ, cdw10=1)
    for turn in range(10):
        q = n.create_io(1, 64)
        at = n.memory.alloc(32 * 4096)
        for i in range(32):
            n.memory.write(at + 4096 * i, bytes([turn * 32 + i & 0xff]) * 4096)
            q.push(n.rw(WRITE, 0, 8, at + 4096 * i))
        q.ring()
        n.run_admin(DELETE_SQ, cdw10=1)
        n.run_admin(DELETE_CQ, cdw10=1)
        n.create_io(1, 64)
        data = n.read(0, 8)
        assert all(len(set(data[512 * b:512 * (b + 1)])) == 1 for b in range(8))
        n.run_admin(DELETE_SQ, cdw10=1)
        n.run_admin(DELETE_CQ, cdw10=1)
        n.memory.used = at - n.memory.iova
    with pytest.raises(v.Timeout):
        n.admin.wait(0xfffe, timeout=0.05)
