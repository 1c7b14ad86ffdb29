# SPDX-License-Identifier: BSD-3-Clause
"""I/O commands: data by capsule and by R2T, ranges, lengths."""
import os
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from disks import BLOCKS
from nvme_tcp_host import DSM, FABRICS, FLUSH, READ, SGL_IN_CAPSULE, SGL_TRANSPORT, WRITE, Host

INVALID_OPCODE, INVALID_FIELD, INVALID_NS, SGL_LENGTH, SGL_TYPE, SGL_OFFSET, LBA_RANGE = 0x01, 0x02, 0x0B, 0x0F, 0x11, 0x16, 0x80
MAX_BLOCKS = 256    # max_io_size


@pytest.fixture
def asked(io):
    """The I/O queue; R2Ts are answered by hand."""
    io.answer_r2t = False
    return io


# ---- how data come ----

@pytest.mark.parametrize("blocks", [1, 7, 8])
def test_data_in_the_capsule_are_not_asked_for(asked, blocks):
    data = os.urandom(512 * blocks)
    assert asked.write(9, data, inline=True).status == 0
    assert not asked.asked and asked.read(9, blocks).data == data


@pytest.mark.parametrize("blocks", [1, 8, 9, MAX_BLOCKS])
def test_one_r2t_asks_for_all(asked, blocks):
    data = os.urandom(512 * blocks)
    cid = asked.start_write(3, data, inline=False)
    ask = asked.wait_asked()
    assert (ask.cid, ask.offset, ask.length) == (cid, 0, len(data))
    asked.answer(ask)
    assert asked.wait(cid).status == 0 and not asked.asked
    assert asked.read(3, blocks).data == data


@pytest.mark.parametrize("piece", [4, 512, 1000, 4096, 65536])
def test_data_in_pieces(asked, piece):
    data = os.urandom(4096 if piece == 4 else 131072)
    asked.piece = piece
    cid = asked.start_write(0, data, inline=False)
    asked.answer(asked.wait_asked())
    assert asked.wait(cid).status == 0
    assert asked.read(0, len(data) // 512).data == data


def test_pieces_of_several_writes_in_any_order(asked):
    data = [os.urandom(16384) for _ in range(8)]
    cids = [asked.start_write(32 * i, d, inline=False) for i, d in enumerate(data)]
    asks = {ask.cid: ask for ask in (asked.wait_asked() for _ in cids)}
    assert len({ask.ttag for ask in asks.values()}) == 8
    for at in range(0, 16384, 4096):
        for i in reversed(range(8)):
            asked.h2c(asks[cids[i]], at, data[i][at:at + 4096], last=at == 12288)
    for cid in cids:
        assert asked.wait(cid).status == 0
    for i, d in enumerate(data):
        assert asked.read(32 * i, 32).data == d


def test_last_may_be_missing(asked):
    """It only says what the length says."""
    cid = asked.start_write(0, bytes(8192), inline=False)
    asked.h2c(asked.wait_asked(), 0, bytes(8192), last=False)
    assert asked.wait(cid).status == 0


def test_pdus_byte_by_byte(connect):
    q = connect(io_queues=1, hdgst=True, ddgst=True).io[0]
    data = os.urandom(1024)
    send_raw = q.send_raw
    q.send_raw = lambda out: [send_raw(out[i:i + 1]) for i in range(len(out))]
    assert q.write(1, data).status == 0
    assert q.write(5, data, inline=False).status == 0
    assert q.read(1, 2).data == data and q.read(5, 2).data == data


def test_many_pdus_in_one_write(io):
    out = []
    send_raw, io.send_raw = io.send_raw, out.append
    cids = [io.start_write(i, bytes([i]) * 512) for i in range(15)] + [io.start_read(i) for i in range(15)]
    send_raw(b"".join(out))
    io.send_raw = send_raw
    replies = [io.wait(cid) for cid in cids]
    assert all(r.status == 0 for r in replies)
    assert [r.data for r in replies[15:]] == [bytes([i]) * 512 for i in range(15)]


@pytest.mark.parametrize("bytes_", [0, 16, 512, 8192, 65536])
def test_in_capsule_limit(own_target, bytes_):
    t = own_target(in_capsule_data_size=bytes_)
    with Host(t.port, t.nqn("disk"), io_queues=2, inline_bytes=bytes_) as host:
        page = host.admin.identify(1).data
        assert struct.unpack_from("<I", page, 1792)[0] * 16 - 64 == bytes_
        q = host.io[0]
        q.answer_r2t = False
        if bytes_ >= 512:
            data = os.urandom(bytes_)
            assert q.write(0, data).status == 0 and q.read(0, bytes_ // 512).data == data
        data = os.urandom(bytes_ // 512 * 512 + 512)
        cid = q.start_write(0, data)
        q.answer(q.wait_asked())
        assert q.wait(cid).status == 0 and q.read(0, len(data) // 512).data == data
        q.start(WRITE, 1, data=bytes(bytes_ + 4), inline=True)
        assert q.end()[:2] == (5, 4)        # more than allowed: PLEN
        host.io[1].works()


@pytest.mark.parametrize("max_io", [8192, 131072, 1048576])
def test_most_bytes_of_a_command(own_target, max_io):
    t = own_target(max_io_size=max_io)
    with Host(t.port, t.nqn("disk"), io_queues=1) as host:
        q, blocks = host.io[0], max_io // 512
        assert 4096 << host.admin.identify(1).data[77] == max_io
        assert q.maxh2c == max_io
        data = os.urandom(max_io)
        assert q.write(0, data).status == 0 and q.read(0, blocks).data == data
        assert q.write(0, data + bytes(512)).status in (INVALID_FIELD, SGL_LENGTH)
        assert q.read(0, blocks + 1).status in (INVALID_FIELD, SGL_LENGTH)
        q.works()


# ---- ranges ----

OUTSIDE = [(BLOCKS, 1), (BLOCKS - 1, 2), (1 << 32, 1), (1 << 63, 1), ((1 << 64) - 1, 1), ((1 << 64) - 1, 2), ((1 << 64) - 8, 16)]


@pytest.mark.parametrize("lba, blocks", OUTSIDE)
def test_ranges_outside_fail_alone(asked, neighbour, lba, blocks):
    asked.write(BLOCKS - 1, b"e" * 512)
    for reply in (asked.read(lba, blocks), asked.write(lba, bytes(512 * blocks)), asked.write(lba, bytes(512 * blocks), inline=False),
                  asked.write_zeroes(lba, blocks), asked.dsm([(0, 1), (lba, blocks)])):
        assert reply.status == LBA_RANGE and reply.dnr and not reply.data
    assert not asked.asked, "data are not asked for in vain"
    assert asked.read(BLOCKS - 1).data == b"e" * 512


@pytest.mark.parametrize("lba, blocks", [(0, 1), (BLOCKS - 1, 1), (BLOCKS - MAX_BLOCKS, MAX_BLOCKS), (BLOCKS - 3, 3)])
def test_ranges_at_the_edges(io, lba, blocks):
    data = os.urandom(512 * blocks)
    assert io.write(lba, data).status == 0
    assert io.read(lba, blocks).data == data
    assert io.write_zeroes(lba, blocks).status == 0
    assert not any(io.read(lba, blocks).data)


def test_write_zeroes_of_everything(io):
    io.write(BLOCKS - 1, b"x" * 512)
    assert io.write_zeroes(0, BLOCKS).status == 0
    assert not any(io.read(BLOCKS - 1).data)
    assert io.write_zeroes(0, 65536).status == LBA_RANGE


def test_dsm(io):
    io.write(0, b"d" * 512 * 8)
    assert io.dsm([(0, 2), (4, 2)]).status == 0
    assert io.read(2, 2).data == b"d" * 1024 and io.read(6, 2).data == b"d" * 1024
    assert io.dsm([(i, 1) for i in range(256)], inline=True).status == 0
    assert io.dsm([(i, 1) for i in range(256)], inline=False).status == 0
    assert io.dsm([(0, 0)]).status == 0
    assert io.dsm([(0, BLOCKS)], attributes=0).status == 0      # hints of other kinds
    assert io.dsm([(0, 1)], nr=1).status == SGL_LENGTH
    assert io.command(DSM, 1, cdw10=0, cdw11=4).status == SGL_LENGTH
    assert io.dsm([(0, 1 << 31)]).status == LBA_RANGE
    assert io.dsm([(0, 0xFFFFFFFF)]).status == LBA_RANGE


def test_flush(io):
    assert io.flush(1).status == 0
    assert io.flush(0xFFFFFFFF).status == 0
    for nsid in (0, 2, 33, 0xFFFFFFFE):
        assert io.flush(nsid).status == INVALID_NS


def test_fua_is_taken(io):
    assert io.wait(io.rw(WRITE, 0, 1, 1, control=1 << 30, data=b"f" * 512)).status == 0
    assert io.wait(io.rw(READ, 0, 1, 1, control=1 << 30, length=512)).data == b"f" * 512


# ---- fields that lie ----

@pytest.mark.parametrize("nsid", [0, 2, 32, 33, 1024, 0xFFFFFFFE, 0xFFFFFFFF])
def test_namespaces_that_are_not_there(asked, nsid):
    for reply in (asked.read(0, nsid=nsid), asked.write(0, bytes(512), nsid=nsid), asked.write(0, bytes(65536), nsid=nsid),
                  asked.write_zeroes(0, 1, nsid=nsid), asked.dsm([(0, 1)], nsid=nsid)):
        assert reply.status == INVALID_NS and reply.dnr
    assert not asked.asked


def test_opcodes_nobody_knows(io, neighbour):
    known = {READ, WRITE, FLUSH, 0x08, DSM, FABRICS}
    for opc in set(range(256)) - known:
        reply = io.command(opc, 1, cdw12=0, length=512)
        assert reply.status in (INVALID_OPCODE, INVALID_FIELD) and reply.dnr and not reply.data, hex(opc)
    for opc in set(range(1, 256, 4)) - known:       # with data
        assert io.command(opc, 1, data=bytes(512)).status == INVALID_OPCODE, hex(opc)
    io.works()


@pytest.mark.parametrize("flags, status", [(0x00, INVALID_FIELD), (0x80, INVALID_FIELD), (0xC0, INVALID_FIELD), (0x41, INVALID_FIELD),
                                           (0x42, INVALID_FIELD), (0x43, INVALID_FIELD)])
def test_command_flags(io, flags, status):
    assert io.read(0, flags=flags).status == status
    assert io.write(0, bytes(512), flags=flags).status == status
    io.works()


@pytest.mark.parametrize("sgl, status", [
    ((0, 512, 0x00), SGL_TYPE), ((0, 512, 0x40), SGL_TYPE), ((0, 512, 0x4F), SGL_TYPE), ((0, 512, 0x20), SGL_TYPE),
    ((0, 512, 0x30), SGL_TYPE), ((0, 512, 0xFF), SGL_TYPE), ((0, 512, 0x5F), SGL_TYPE), ((0, 511, SGL_TRANSPORT), SGL_LENGTH),
    ((0, 0, SGL_TRANSPORT), SGL_LENGTH), ((0, 1024, SGL_TRANSPORT), SGL_LENGTH), ((0, 0xFFFFFFFF, SGL_TRANSPORT), SGL_LENGTH),
    ((0, 0x80000000, SGL_TRANSPORT), SGL_LENGTH), ((0, 131073, SGL_TRANSPORT), SGL_LENGTH),
    ((0, 512, SGL_IN_CAPSULE), SGL_LENGTH), ((4, 512, SGL_IN_CAPSULE), SGL_OFFSET)])
def test_sgls_that_lie(asked, sgl, status):
    for reply in (asked.read(0, sgl=sgl), asked.write(0, bytes(512), inline=False, sgl=sgl)):
        assert reply.status == status and reply.dnr and not reply.data
    assert not asked.asked
    asked.works()


@pytest.mark.parametrize("sgl, status", [
    ((0, 508, SGL_IN_CAPSULE), SGL_LENGTH), ((0, 1024, SGL_IN_CAPSULE), SGL_LENGTH), ((0, 0xFFFFFFFF, SGL_IN_CAPSULE), SGL_LENGTH),
    ((512, 512, SGL_IN_CAPSULE), SGL_OFFSET), ((1 << 63, 512, SGL_IN_CAPSULE), SGL_OFFSET), ((0, 512, SGL_TRANSPORT), SGL_LENGTH),
    ((0, 0, SGL_IN_CAPSULE), SGL_LENGTH), ((0, 512, 0x00), SGL_TYPE), ((0, 512, 0x02), SGL_TYPE)])
def test_sgls_of_data_in_the_capsule_that_lie(asked, sgl, status):
    asked.write(0, b"k" * 512)
    reply = asked.write(0, bytes(512), sgl=sgl)
    assert reply.status == status and reply.dnr
    assert asked.read(0).data == b"k" * 512


def test_data_with_commands_that_have_none(io):
    for opc in (FLUSH, 0x08, READ):
        assert io.command(opc, 1, data=bytes(512)).status == SGL_LENGTH
    io.works()


@pytest.mark.parametrize("blocks, bytes_", [(1, 1024), (2, 512), (65536, 512), (1, 516), (256, 512)])
def test_blocks_and_bytes_that_differ(asked, blocks, bytes_):
    assert asked.read(0, blocks, length=bytes_).status in (SGL_LENGTH, LBA_RANGE)
    assert asked.write(0, bytes(bytes_), blocks=blocks).status in (SGL_LENGTH, LBA_RANGE)
    assert not asked.asked
    asked.works()


def test_protection_information_is_not_there(io):
    assert io.wait(io.rw(READ, 0, 1, 1, control=1 << 29, length=512)).status == INVALID_FIELD


# ---- how many ----

def test_queue_full(connect):
    q = connect(io_queues=1, depth=128).io[0]
    q.answer_r2t = False
    cids = [q.start_write(8 * i, bytes([i]) * 4096, inline=False) for i in range(127)]
    asks = [q.wait_asked() for _ in cids]
    for ask in asks:
        q.answer(ask)
    assert all(q.wait(cid).status == 0 for cid in cids)
    cids = [q.start_read(8 * i, 8) for i in range(127)]
    assert [q.wait(cid).data for cid in cids] == [bytes([i]) * 4096 for i in range(127)]


def test_many_queues(connect):
    host = connect(io_queues=64, depth=4)
    cids = [(q, i, q.start_write(i, bytes([i]) * 512)) for i, q in enumerate(host.io)]
    assert all(q.wait(cid).status == 0 for q, _, cid in cids)
    for q, i, _ in cids:
        assert host.io[63 - i].read(i).data == bytes([i]) * 512


def test_many_hosts(connect):
    hosts = [connect(io_queues=1, depth=2) for _ in range(40)]
    for i, h in enumerate(hosts):
        assert h.io[0].write(i, bytes([i]) * 512).status == 0
    for i, h in enumerate(hosts):
        assert hosts[39 - i].io[0].read(i).data == bytes([i]) * 512


def test_commands_wait_for_buffers_and_all_get_one(own_target):
    t = own_target(num_shared_buffers=2)
    hosts = [Host(t.port, t.nqn("disk"), io_queues=2) for _ in range(2)]
    try:
        def load(q):
            cids = [q.start_write(0, bytes(65536)) for _ in range(8)] + [q.start_read(0, 128) for _ in range(8)]
            return [q.wait(cid).status for cid in cids]

        with ThreadPoolExecutor(4) as pool:
            assert all(not any(statuses) for statuses in pool.map(load, [q for h in hosts for q in h.io]))
        assert sum(g["transports"][0]["pending_data_buffer"] for g in t.rpc("nvmf_get_stats")["poll_groups"]) > 0
    finally:
        for h in hosts:
            h.close()


def test_blocks_of_4096_bytes(subsystem, connect):
    q = connect(subsystem(block_size=4096, blocks=64), io_queues=1).io[0]
    q.block_bytes = 4096
    data = os.urandom(32 * 4096)
    assert q.write(32, data).status == 0 and q.read(32, 32).data == data
    assert q.read(63, 2).status == LBA_RANGE
    assert q.read(0, 1, length=512).status == SGL_LENGTH
