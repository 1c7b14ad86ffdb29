# SPDX-License-Identifier: BSD-3-Clause
"""Hosts whose data are for nobody, or not what was asked for (E2, E3), and who have more commands than they may."""
import os

import pytest
from nvme_tcp_host import READ, Ended, Host, Queue
from nvme_tcp_pdu import data_header
from nvme_tcp_wire import F_LAST, H2C_DATA

pytestmark = pytest.mark.usefixtures("neighbour")

HEADER_FIELD, SEQUENCE, OUT_OF_RANGE, LIMIT = 1, 2, 4, 5
CCCID, TTAG, DATAO, DATAL = 8, 10, 12, 16
LENGTH = 65536


@pytest.fixture
def q(io):
    io.answer_r2t = False
    io.write(0, os.urandom(512))
    return io


@pytest.fixture
def ask(q):
    """Of a write to block 128."""
    q.start_write(128, b"\xEE" * LENGTH)
    return q.wait_asked()


def data(q, cid, ttag, offset, payload, last=True, told=None):
    q.send(H2C_DATA, data_header(cid, ttag, offset, len(payload) if told is None else told), payload, F_LAST if last else 0)


def untouched(connect):
    """No block of the write has reached the disk."""
    fresh = connect(io_queues=1).io[0]
    assert b"\xEE" * 512 not in [fresh.read(128 + i).data for i in (0, 1, 64, 127)]


@pytest.fixture(autouse=True)
def clean(connect):
    connect(io_queues=1).io[0].write_zeroes(0, 1024)


@pytest.mark.parametrize("ttag", [0, 1, 31, 32, 127, 0xFFFF])
def test_data_nobody_asked_for(q, ttag):
    data(q, 1, ttag, 0, bytes(512))
    term = q.end()
    assert (term.fes, term.fei) == (HEADER_FIELD, TTAG)


def test_data_with_another_tag(q, ask, connect):
    data(q, ask.cid, ask.ttag ^ 1, 0, b"\xEE" * LENGTH)
    assert q.end()[:2] == (HEADER_FIELD, TTAG)
    untouched(connect)


@pytest.mark.parametrize("other", [0, 0xFFFF, None])
def test_data_for_another_command(q, ask, connect, other):
    data(q, ask.cid ^ 1 if other is None else other, ask.ttag, 0, b"\xEE" * LENGTH)
    assert q.end()[:2] == (HEADER_FIELD, CCCID)
    untouched(connect)


def test_data_after_the_command_has_finished(q, ask):
    q.answer(ask)
    assert q.wait(ask.cid).status == 0
    q.answer(ask, bytes(512))
    assert q.end()[:2] == (HEADER_FIELD, TTAG)


def test_data_for_a_read(q):
    cid = q.start_read(0)
    assert q.wait(cid).status == 0
    data(q, cid, 0, 0, bytes(512))
    assert q.end().fes == HEADER_FIELD


def test_data_of_another_queue(connect):
    host = connect(io_queues=2)
    first, second = host.io
    first.answer_r2t = False
    cid = first.start_write(128, b"\xEE" * LENGTH)
    ask = first.wait_asked()
    data(second, cid, ask.ttag, 0, b"\xEE" * LENGTH)
    assert second.end()[:2] == (HEADER_FIELD, TTAG)
    first.answer(ask)
    assert first.wait(cid).status == 0


def test_data_of_a_command_with_data_in_its_capsule(q):
    cid = q.start_write(128, b"\xEE" * 512, inline=True)
    data(q, cid, 0, 0, b"\xEE" * 512)
    q.end()


@pytest.mark.parametrize("offset, length", [
    (0, LENGTH + 4), (LENGTH, 4), (LENGTH - 4, 8), (0xFFFFFFFC, 8), (0xFFFFFFFC, 4), (0x80000000, 512), (4, 512), (512, 512),
    (4096, LENGTH - 4096)])
def test_data_outside_or_not_in_order(q, ask, connect, offset, length):
    data(q, ask.cid, ask.ttag, offset, b"\xEE" * length)
    assert q.end()[:2] == (OUT_OF_RANGE, DATAO)
    untouched(connect)


@pytest.mark.parametrize("offset, length", [(0, 4096), (4092, 4096), (4100, 4096), (8192, 4096), (4096, LENGTH), (0, LENGTH)])
def test_second_piece_overlaps_or_leaves_a_gap(q, ask, connect, offset, length):
    data(q, ask.cid, ask.ttag, 0, b"\xEE" * 4096, last=False)
    data(q, ask.cid, ask.ttag, offset, b"\xEE" * length, last=False)
    assert q.end()[:2] == (OUT_OF_RANGE, DATAO)
    untouched(connect)


@pytest.mark.parametrize("told", [0, 4, 511, 513, LENGTH, 0xFFFFFFFF])
def test_lengths_that_lie(q, ask, connect, told):
    data(q, ask.cid, ask.ttag, 0, b"\xEE" * 512, told=told)
    assert q.end()[:2] == (HEADER_FIELD, DATAL)
    untouched(connect)


def test_last_too_early(q, ask, connect):
    data(q, ask.cid, ask.ttag, 0, b"\xEE" * 4096, last=True)
    assert q.end().fes == SEQUENCE
    untouched(connect)


def test_more_than_maxh2cdata(q, ask):
    data(q, ask.cid, ask.ttag, 0, bytes(q.maxh2c + 4))
    assert q.end()[:2] == (LIMIT, 4)


def test_data_before_the_r2t(own_target):
    """The only buffer is another command's."""
    t = own_target(num_shared_buffers=1)
    with Host(t.port, t.nqn("disk"), io_queues=1) as host:
        q = host.io[0]
        q.answer_r2t = False
        q.start_write(0, bytes(LENGTH))
        first = q.wait_asked()
        early = q.start_write(0, bytes(LENGTH))
        data(q, early, first.ttag ^ 1, 0, bytes(LENGTH))
        assert q.end().fes == HEADER_FIELD
    with Host(t.port, t.nqn("disk"), io_queues=1) as host:     # the buffer is back
        assert host.io[0].write(0, bytes(LENGTH)).status == 0


def test_the_end_of_a_connection_frees_its_buffers(own_target):
    t = own_target(num_shared_buffers=8)   # half of them for one host
    for how in ("close", "reset", "term"):
        with Host(t.port, t.nqn("disk"), io_queues=2) as host:
            for q in host.io:
                q.answer_r2t = False
                for _ in range(20):
                    q.start_write(0, bytes(LENGTH))
                for _ in range(4):
                    q.h2c(q.wait_asked(), 0, bytes(4096), False)
                if how == "term":
                    q.send(H2C_DATA, bytes(16), b"x", type=99)
                    assert q.end() is not None
                getattr(q, "reset" if how == "reset" else "close")()
    with Host(t.port, t.nqn("disk"), io_queues=2) as host:
        for q in host.io:
            assert q.write(0, bytes(LENGTH)).status == 0 and q.read(0, 128).status == 0


# ---- more than the queue has ----

def test_more_commands_than_the_queue_has_entries(connect):
    q = connect(io_queues=1, depth=8).io[0]
    q.answer_r2t = False
    for i in range(40):
        q.start_write(8 * i, bytes(8192), inline=False)
    term = q.end()
    assert term.fes == SEQUENCE
    assert len(q.asked) <= 8


def test_more_admin_commands_than_entries(connect):
    q = connect().admin
    for _ in range(4):
        q.start(0x0C)
    q.sock.setblocking(True)
    out = []
    send_raw, q.send_raw = q.send_raw, out.append
    for _ in range(300):
        q.start(0x06, cdw10=1, length=4096)
    send_raw(b"".join(out))
    term = q.end()
    assert term is None or term.fes == SEQUENCE


def test_cids_that_are_used_twice(q):
    """Allowed to be an error or not; each command has one answer, and the data of each go to its own blocks."""
    cids = [q.start_write(128 + 16 * i, bytes([i]) * 8192, inline=False, cid=5) for i in range(4)]
    asks = [q.wait_asked() for _ in cids]
    assert len({ask.ttag for ask in asks}) == 4
    for i, ask in reversed(list(enumerate(asks))):
        q.answer(ask, bytes([i]) * 8192)
    assert [q.wait(5).status for _ in cids] == [0] * 4
    cids = [q.start(READ, 1, cid=5, cdw10=128 + 16 * i, length=512) for i in range(1)]
    assert q.wait(cids[0]).data == bytes(512)
    for i in range(4):
        assert q.read(128 + 16 * i).data == bytes([i]) * 512


def test_event_cids_that_are_used_twice(admin):
    for _ in range(3):
        admin.start(0x0C, cid=9)
    assert admin.command(0x08, cdw10=9 << 16).dw0 == 0
    assert admin.wait(9).status == 7
    admin.works(0)


def test_abort_does_not_reach_other_queues(connect):
    host = connect(io_queues=1)
    q = host.io[0]
    q.answer_r2t = False
    cid = q.start_write(0, bytes(LENGTH))
    ask = q.wait_asked()
    for sqid in (0, 1, 2, 0xFFFF):
        assert host.admin.command(0x08, cdw10=cid << 16 | sqid).dw0 & 1
    q.answer(ask)
    assert q.wait(cid).status == 0


def test_two_connects_at_once(target):
    with Queue(target.port) as q:
        cids = [q.start_connect(target.nqn("disk"), "nqn.2024-01.io.opensnap:h", os.urandom(16)) for _ in range(2)]
        try:
            assert [q.wait(cid).status for cid in cids] == [0, 0x0C]     # the first had its answer already
        except Ended as e:
            assert e.term.fes == SEQUENCE
