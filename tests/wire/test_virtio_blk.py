# SPDX-License-Identifier: BSD-3-Clause
"""virtio-blk requests: any legal layout works, any other one ends with a status and costs nothing."""
import random

import pytest
import vhost_user as vu
import virtio_blk as vb
from disks import BLOCKS
from virtio_blk import (DISCARD, FLUSH, GET_ID, IN, IOERR, OK, OUT, UNSUPP, WRITE_ZEROES, Request, VirtioBlk, bits, head,
                        pattern, ranges)
from virtq import Seg

SECTOR = 1000


def readback(d, data):
    assert d.read(SECTOR, len(data) // 512) == data


# ---- layouts ----

@pytest.mark.parametrize("cuts", [[16, 4096], [4112], [1] * 16 + [4096], [8, 8, 4096], [20, 4092], [15, 2, 4095],
                                  [16, 1, 511, 512, 3072], [16] + [256] * 16, [0, 16, 0, 4096, 0]],
                         ids=lambda c: f"{len(c)}-{c[0]}")
def test_any_layout_of_what_the_device_reads(either, cuts):
    for indirect in (False, True):
        either.indirect = indirect
        data = pattern(sum(cuts) + indirect, 4096)
        either.write(SECTOR, data, out_cuts=cuts)
        readback(either, data)


@pytest.mark.parametrize("cuts", [[4096, 1], [4097], [1, 4096], [100, 3996, 1], [4095, 2], [512] * 8 + [1], [0, 4096, 0, 1],
                                  [4096, 0, 1], [2048, 2049]], ids=lambda c: f"{len(c)}-{c[0]}")
def test_any_layout_of_what_the_device_writes(either, cuts):
    data = pattern(3, 4096)
    either.write(SECTOR, data)
    for indirect in (False, True):
        either.indirect = indirect
        assert either.read(SECTOR, 8, in_cuts=cuts) == data


def test_random_layouts(either):
    """Seeded: a failure repeats."""
    rng = random.Random(5150)

    def cut(total):
        at = sorted(rng.randrange(total + 1) for _ in range(rng.randrange(12)))
        return [b - a for a, b in zip([0] + at, at + [total])]

    for i in range(120):
        size = 512 * rng.randrange(1, 33)
        data = pattern(i, size)
        either.indirect = bool(rng.randrange(2))
        either.write(SECTOR, data, out_cuts=cut(16 + size))
        assert either.read(SECTOR, size // 512, in_cuts=cut(size + 1)) == data


def test_data_at_odd_addresses(either):
    data = pattern(9, 1024)
    at = either.memory.alloc(4096) + 3
    either.memory.write(at, data)
    request = Request(either.memory, head(OUT, SECTOR), 1)
    either.rings[0].wait(either.rings[0].submit([request.segs[0], Seg(at, 1024, False), request.segs[1]]))
    assert request.status == OK
    readback(either, data)
    request = Request(either.memory, head(IN, SECTOR), 1)
    either.memory.write(at, bytes(1024))
    either.rings[0].wait(either.rings[0].submit([request.segs[0], Seg(at, 1024, True), request.segs[1]]))
    assert either.memory.read(at - 3, 1030) == bytes(3) + data + bytes(3)


def test_large_requests(either):
    either.indirect = True
    data = pattern(4, 512 * 1024)
    either.write(2000, data, out_cuts=[16] + [4096] * 128)
    assert either.read(2000, 1024, in_cuts=[8192] * 64 + [1]) == data


def test_more_segments_than_advertised(blk_path, packed, blk_neighbour):
    """Windows drivers exceed seg_max: taken up to a limit of the service, an I/O error above; never more."""
    with VirtioBlk(blk_path, packed=packed) as d:
        d.indirect = True
        for pieces in (255, 600, 1000):
            data = pattern(pieces, pieces // 5 * 512)
            cuts = [16] + [len(data) // pieces] * (pieces - 1)
            cuts.append(16 + len(data) - sum(cuts))
            d.write(SECTOR, data, out_cuts=cuts)
            readback(d, data)
        request, at = Request(d.memory, head(OUT, SECTOR), 1), d.memory.alloc(4096)
        scattered = [request.segs[0], *(Seg(at + 2 * i, 1, False) for i in range(1536)), request.segs[1]]
        assert d.rings[0].wait(d.rings[0].submit(scattered, indirect=d.memory.alloc(16 * 1538))) == 1
        assert request.status == IOERR
        readback(d, data)
        try:
            assert d.run(OUT, SECTOR, bytes(8192), out_cuts=[16] + [1] * 8192, timeout=1)[0] == IOERR
        except vu.Timeout:
            d.broken()
            d.vc.set_status(0)
            d.restart()
        readback(d, data)


def test_empty_data(either):
    either.write(SECTOR, pattern(1, 512))
    assert either.run(OUT, SECTOR, b"")[0] in (OK, IOERR)
    assert either.run(IN, SECTOR, b"")[0] in (OK, IOERR)
    readback(either, pattern(1, 512))


def test_used_length_says_what_was_written(either):
    assert either.run(IN, 0, in_bytes=4096)[1] == 4097
    assert either.run(OUT, 0, bytes(4096))[1] == 1
    assert either.run(FLUSH)[1] == 1
    assert either.run(GET_ID, in_bytes=20)[1] == 21
    assert either.run(999)[1] == 1


# ---- no request at all ----

def illegal(d):
    """(name, segments, place of the status or None)"""
    m = d.memory
    good = Request(m, head(OUT, SECTOR) + bytes(512), 1)
    at, status = good.out_at, good.in_at
    yield "nothing to write", [Seg(at, 16, False), Seg(at + 16, 512, False)], None
    yield "header only", [Seg(at, 16, False)], None
    yield "no header", [Seg(status, 1, True)], status
    yield "half a header", [Seg(at, 15, False), Seg(status, 1, True)], status
    yield "header and nothing but empty segments", [Seg(at, 16, False), Seg(status, 0, True)], None
    yield "empty segments only", [Seg(at, 0, False), Seg(status, 0, True)], None
    yield "header where the device writes", [Seg(at, 16, True), Seg(status, 1, True)], status
    yield "data behind the status", [Seg(at, 16, False), Seg(status, 1, True), Seg(at + 16, 512, False)], None
    yield "writable first", [Seg(status, 1, True), Seg(at, 16, False), Seg(at + 16, 512, False)], None


def test_illegal_requests_come_back_and_take_no_slot_with_them(either, blk_neighbour):
    """Each many times as often as the ring has slots; or the device asks for a reset."""
    data = pattern(6, 512)
    either.write(SECTOR, data)
    ring = either.rings[0]
    cases = list(illegal(either))
    for name, segs, status in cases:
        for _ in range(2 * ring.size):
            if status:
                either.memory.write(status, b"\xa5")
            try:
                length = ring.wait(ring.submit(segs), timeout=1)
            except vu.Timeout:
                assert name in ("data behind the status", "writable first"), name
                either.broken()
                either.vc.set_status(0)
                either.restart()
                break
            if status:
                assert either.memory.read(status, 1)[0] == IOERR and length <= 1, name
            else:
                assert length <= 1, name
    readback(either, data)


# ---- ranges and types ----

def test_beyond_the_end(either, blk_neighbour):
    either.write(BLOCKS - 8, pattern(2, 4096))
    for sector, sectors in ((BLOCKS, 1), (BLOCKS - 1, 2), (BLOCKS - 7, 8), (1 << 63, 1), ((1 << 64) - 1, 1),
                            ((1 << 64) - 1, 2), (1 << 55, 8), (0xffff_ffff, 1), (BLOCKS + (1 << 32), 1)):
        status, length, data = either.run(IN, sector, in_bytes=512 * sectors)
        assert status == IOERR and data == b"\xa5" * len(data)
        assert either.run(OUT, sector, bytes(512 * sectors))[:2] == (IOERR, 1)
    assert either.read(BLOCKS - 8, 8) == pattern(2, 4096)


def test_data_that_is_no_multiple_of_a_sector(either):
    either.write(SECTOR, pattern(2, 1024))
    for size in (1, 511, 513, 1023):
        status, _, data = either.run(IN, SECTOR, in_bytes=size)
        assert status == IOERR and data == b"\xa5" * size
        assert either.run(OUT, SECTOR, bytes(size))[0] == IOERR
    readback(either, pattern(2, 1024))


def test_data_in_the_wrong_direction(either):
    """A write whose data the device may only write, a read whose data it may only read."""
    either.write(SECTOR, pattern(2, 512))
    status, _, data = either.run(OUT, SECTOR, in_bytes=512)
    assert status == IOERR and data == b"\xa5" * 512
    request = either.make(IN, SECTOR, pattern(7, 512))
    either.rings[0].wait(either.submit(request))
    assert request.status == IOERR and either.memory.read(request.out_at + 16, 512) == pattern(7, 512)
    readback(either, pattern(2, 512))


def test_unknown_types(either, blk_neighbour):
    either.write(SECTOR, pattern(2, 512))
    for kind in (2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 17, 0x80000000, 0x80000001, 0xffffffff):
        assert either.run(kind, SECTOR, bytes(512))[0] == UNSUPP
        assert either.run(kind, SECTOR, in_bytes=512)[0] == UNSUPP
    readback(either, pattern(2, 512))


def test_serial_number_into_too_little_room(either):
    """At most the room there is; more of it stays as it is."""
    whole = either.get_id()
    for size in (0, 1, 19):
        status, _, data = either.run(GET_ID, in_bytes=size)
        assert status == IOERR or data == whole[:size]
    assert either.get_id(100)[:20] == whole
    assert either.run(GET_ID, in_bytes=20, in_cuts=[3] * 7)[2] == whole


def test_flush_with_and_without_the_feature(blk_path, either):
    for _ in range(3):
        either.flush()
    either.vc.close()
    with VirtioBlk(blk_path, features=VirtioBlk.WANTED & ~bits(vb.FLUSH_F), packed=either.packed) as d:
        assert d.run(FLUSH)[0] == UNSUPP
        d.works()


# ---- discard and write zeroes ----

def test_zeroes_are_written(either):
    either.write(SECTOR, pattern(1, 8192))
    assert either.write_zeroes((SECTOR + 2, 3, 0), (SECTOR + 8, 1, 1)) == OK
    data = either.read(SECTOR, 16)
    expected = bytearray(pattern(1, 8192))
    expected[1024:2560] = bytes(1536)
    expected[4096:4608] = bytes(512)
    assert data == bytes(expected)


def test_discard_harms_nothing_else(either):
    either.write(SECTOR, pattern(1, 8192))
    assert either.discard((SECTOR + 4, 8, 0)) == OK
    data = either.read(SECTOR, 16)
    assert data[:2048] == pattern(1, 8192)[:2048] and data[6144:] == pattern(1, 8192)[6144:]


def test_as_many_ranges_as_advertised(either):
    config = either.config()
    for kind, n in ((WRITE_ZEROES, config["max_write_zeroes_seg"]), (DISCARD, config["max_discard_seg"])):
        either.write(SECTOR, pattern(1, 512 * n))
        assert either.run(kind, out=ranges(*[(SECTOR + i, 1, 0) for i in range(n)]))[0] == OK
        if kind == WRITE_ZEROES:
            assert either.read(SECTOR, n) == bytes(512 * n)


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES], ids=["discard", "zeroes"])
def test_bad_ranges_change_nothing(either, kind, blk_neighbour):
    data = pattern(8, 4096)
    either.write(SECTOR, data)
    config = either.config()
    most = config["max_discard_seg" if kind == DISCARD else "max_write_zeroes_seg"]
    good = (SECTOR, 1, 0)
    for triples in ([(BLOCKS, 1, 0)], [(BLOCKS - 1, 2, 0)], [((1 << 64) - 1, 2, 0)], [((1 << 64) - 1, 0xffffffff, 0)],
                    [good, (BLOCKS, 1, 0)], [(0, 0xffffffff, 0)], [good] * (most + 1)):
        assert either.run(kind, out=ranges(*triples))[0] == IOERR, triples[0]
    for flags in (2, 0x80000000, 0xffffffff) + ((1,) if kind == DISCARD else ()):
        assert either.run(kind, out=ranges((SECTOR, 1, flags)))[0] in (UNSUPP, IOERR)
    for out in (b"", bytes(1), ranges(good)[:15], ranges(good) + b"\0", ranges(good, good)[:31]):
        assert either.run(kind, out=out)[0] == IOERR
    assert either.run(kind, out=ranges(good), in_bytes=16)[0] == IOERR
    assert either.run(kind, in_bytes=16)[0] == IOERR
    assert either.run(kind, out=ranges((SECTOR, 0, 0)))[0] in (OK, IOERR)
    readback(either, data)


@pytest.mark.parametrize("feature,kind", [(vb.DISCARD_F, DISCARD), (vb.WRITE_ZEROES_F, WRITE_ZEROES)])
def test_ranges_without_the_feature(blk_path, feature, kind):
    with VirtioBlk(blk_path, features=VirtioBlk.WANTED & ~bits(feature)) as d:
        d.write(SECTOR, pattern(1, 512))
        assert d.run(kind, out=ranges((SECTOR, 1, 0)))[0] == UNSUPP
        readback(d, pattern(1, 512))


def test_ranges_in_any_layout(either):
    either.write(SECTOR, pattern(1, 2048))
    out = ranges((SECTOR, 1, 0), (SECTOR + 2, 1, 0))
    assert either.run(WRITE_ZEROES, out=out, out_cuts=[7, 9, 5, 11, 8, 8])[0] == OK
    assert either.read(SECTOR, 4) == bytes(512) + pattern(1, 2048)[512:1024] + bytes(512) + pattern(1, 2048)[1536:]


# ---- other disks ----

def test_read_only_disk(blk_snap, packed):
    with VirtioBlk(blk_snap.vhost_socket(blk_snap.vuids[2]), packed=packed) as d:
        before = d.read(0, 16)
        assert d.run(OUT, 0, pattern(1, 512))[0] == IOERR
        assert d.write_zeroes((0, 8, 0)) in (IOERR, UNSUPP) and d.discard((0, 8, 0)) in (IOERR, UNSUPP)
        assert d.run(FLUSH)[0] in (OK, UNSUPP)
        assert d.read(0, 16) == before


def test_read_only_disk_and_a_driver_that_ignores_it(blk_snap):
    """Not having agreed on RO is no licence."""
    with VirtioBlk(blk_snap.vhost_socket(blk_snap.vuids[2]), features=VirtioBlk.WANTED & ~bits(vb.RO)) as d:
        assert d.run(OUT, 0, pattern(1, 512))[0] == IOERR
        assert d.read(0, 1) == bytes(512)


def test_disk_of_4096_byte_blocks(blk_snap, fresh, packed):
    """Sectors count 512 bytes all the same; what is not whole blocks is refused."""
    name = f"Four{packed:d}"
    blk_snap.rpc("bdev_malloc_create", name=name, block_size=4096, num_blocks=256)
    with VirtioBlk(fresh(bdev=name), packed=packed) as d:
        assert d.config()["capacity"] == 2048
        d.write(8, pattern(1, 8192))
        assert d.read(16, 8) == pattern(1, 8192)[4096:]
        for sector, sectors in ((1, 8), (8, 1), (8, 9), (12, 4), (2048, 8), (2044, 8)):
            assert d.run(OUT, sector, bytes(512 * sectors))[0] == IOERR
            assert d.run(IN, sector, in_bytes=512 * sectors)[0] == IOERR
        assert d.write_zeroes((8, 4, 0)) == IOERR and d.write_zeroes((9, 8, 0)) == IOERR
        assert d.discard((8, 7, 0)) == IOERR and d.discard((2048, 8, 0)) == IOERR
        assert d.read(8, 16) == pattern(1, 8192)
        assert d.write_zeroes((8, 8, 0)) == OK
        assert d.read(8, 16) == bytes(4096) + pattern(1, 8192)[4096:]


def test_controller_without_a_disk(fresh, blk_snap):
    with VirtioBlk(fresh()) as d:
        assert d.config()["capacity"] == 0
        assert d.run(IN, 0, in_bytes=512)[0] == IOERR and d.run(OUT, 0, bytes(512))[0] == IOERR
        assert d.run(GET_ID, in_bytes=20)[0] == OK


def test_counters(blk, blk_snap):
    def counts():
        stats = blk_snap.rpc("virtio_blk_controller_dbg_io_stats_get", ctrl_id="Blk0")
        return [stats[k] for k in ("read_io_count", "write_io_count", "flush_io_count")]

    before = counts()
    for _ in range(5):
        blk.works()
    blk.flush()
    assert [b - a for a, b in zip(before, counts())] == [5, 5, 1]
    queue = blk_snap.rpc("virtio_blk_controller_dbg_debug_stats_get", ctrl_id="Blk0")["queues"][0]
    assert queue["state"] == "RUNNING" and queue["hw_available_index"] == queue["sw_used_index"] == 11
