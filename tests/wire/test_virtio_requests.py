# SPDX-License-Identifier: BSD-3-Clause
"""virtio-blk requests: every kind, on every kind of disk, and what is wrong with them."""
import pytest
from blk_chains import UNTOUCHED, Hand, run_chain
from disks import BLOCKS
from virtio_blk import (DISCARD, DISCARD_F, FLUSH, FLUSH_F, GET_ID, GET_LIFETIME, IN, IOERR, OK, OUT, RO, SECTOR, SECURE_ERASE,
                        UNSUPP, WRITE_ZEROES, WRITE_ZEROES_F, VirtioBlk, bits, pattern, ranges)
from virtq import Seg

MAX_RANGES = 256
MAX_RANGE_SECTORS = 1 << 23


@pytest.fixture(params=[False, True], ids=["direct", "indirect"])
def disk(either, request):
    either.indirect = request.param
    return either


@pytest.fixture
def big(blk_snap, fresh, packed):
    """A disk with blocks of 4096 bytes."""
    name = f"Big{len(blk_snap.rpc('bdev_get_bdevs'))}"
    blk_snap.rpc("bdev_malloc_create", name=name, block_size=4096, num_blocks=1024)
    with VirtioBlk(fresh(bdev=name), packed=packed) as d:
        yield d


@pytest.fixture
def read_only(blk_snap, packed):
    with VirtioBlk(blk_snap.vhost_socket(blk_snap.vuids[2]), packed=packed) as d:
        yield d


# ---- what a driver does ----

def test_write_read_flush(disk):
    for sectors in (1, 2, 8, 63, 256):
        disk.write(5, pattern(sectors, sectors * SECTOR))
        disk.flush()
        assert disk.read(5, sectors) == pattern(sectors, sectors * SECTOR)


def test_last_sectors(disk):
    disk.write(BLOCKS - 8, pattern(1, 4096))
    assert disk.read(BLOCKS - 1, 1) == pattern(1, 4096)[-512:]


def test_serial_number(disk, blk_snap, read_only):
    [c] = blk_snap.rpc("virtio_blk_controller_list", ctrl_id="Blk0")
    assert disk.get_id() == c["vblk_id"].encode().ljust(20, b"\0")
    assert read_only.get_id() == b"SERIAL-0123456789XYZ"
    one = blk_snap.rpc("virtio_blk_controller_list", ctrl_id="Blk1")[0]["vblk_id"]
    assert one != c["vblk_id"], "two disks have serial numbers of their own"


def test_serial_number_in_pieces_and_in_more_and_less_than_there_is(disk):
    whole = disk.get_id()
    for cuts in ([1, 0, 7, 12, 1], [3] * 7):
        assert disk.get_id(in_cuts=cuts) == whole
    for size in (64, 100):
        assert disk.get_id(in_bytes=size)[:20] == whole
    for size in (0, 1, 19):
        status, length, data = disk.run(GET_ID, in_bytes=size)
        assert status == IOERR and length <= size + 1 and data == bytes([UNTOUCHED]) * size


def test_discard_and_write_zeroes(disk):
    disk.write(100, pattern(1, 64 * SECTOR))
    assert disk.discard((100, 8, 0)) == OK
    assert disk.write_zeroes((116, 8, 0)) == OK
    assert disk.write_zeroes((130, 2, 1), (133, 1, 0)) == OK
    data = disk.read(100, 64)
    expected = bytearray(pattern(1, 64 * SECTOR))
    for at, n in ((16, 8), (30, 2), (33, 1)):
        expected[at * SECTOR:(at + n) * SECTOR] = bytes(n * SECTOR)
    assert data[8 * SECTOR:] == expected[8 * SECTOR:]
    assert data[:8 * SECTOR] in (expected[:8 * SECTOR], bytes(8 * SECTOR)), "discarded: as it was, or zeroes"


def test_as_many_ranges_as_advertised(disk):
    config = disk.config()
    assert (config["max_discard_seg"], config["max_write_zeroes_seg"]) == (MAX_RANGES, MAX_RANGES)
    disk.write(0, pattern(2, 512 * SECTOR))
    every_second = ranges(*((2 * i, 1, 0) for i in range(MAX_RANGES)))
    cuts = [3, 13, 5, 16 * MAX_RANGES - 5]
    assert disk.run(WRITE_ZEROES, out=every_second, out_cuts=cuts)[0] == OK
    assert disk.run(DISCARD, out=every_second, out_cuts=cuts)[0] == OK
    data, whole = disk.read(0, 512), pattern(2, 512 * SECTOR)
    for i in range(512):
        block = slice(i * SECTOR, (i + 1) * SECTOR)
        assert data[block] == (whole[block] if i % 2 else bytes(SECTOR)), f"sector {i}"


def test_ranges_of_no_sectors_do_nothing(disk):
    disk.write(0, pattern(3, 8 * SECTOR))
    assert disk.discard((0, 0, 0)) == OK and disk.write_zeroes((0, 0, 0), (BLOCKS, 0, 0)) == OK
    assert disk.read(0, 8) == pattern(3, 8 * SECTOR)


def test_requests_without_data_do_nothing(disk):
    disk.write(0, pattern(4, SECTOR))
    for kind in (IN, OUT):
        assert disk.run(kind, 0)[:2] == (OK, 1)
    assert disk.read(0, 1) == pattern(4, SECTOR)


def test_counters(either, blk_snap):
    """Each request counts once, whatever it is cut into."""
    def counts():
        stats = blk_snap.rpc("virtio_blk_controller_dbg_io_stats_get", ctrl_id="Blk0")
        return [stats[k] for k in ("read_io_count", "write_io_count", "flush_io_count")]

    before = counts()
    for _ in range(5):
        either.works()
    either.write(0, bytes(512), out_cuts=[0, 16, 0, 512, 0])
    either.read(0, 1, in_cuts=[0, 512, 0, 1, 0])
    either.flush(out_cuts=[0, 16, 0])
    h = Hand(either, OUT, 0)
    run_chain(either, [Seg(h.head.addr, 0, False), Seg(h.status.addr, 0, True)])
    assert [b - a for a, b in zip(before, counts())] == [6, 6, 1]
    queue = blk_snap.rpc("virtio_blk_controller_dbg_debug_stats_get", ctrl_id="Blk0")["queues"][0]
    assert queue["state"] == "RUNNING"
    if not either.packed:
        assert queue["hw_available_index"] == queue["sw_used_index"] == 14


# ---- what is refused ----

BAD_RANGES = (  # sector, bytes
    (BLOCKS, 512), (BLOCKS - 1, 1024), (BLOCKS - 7, 4096), (0xffff_ffff, 512), (BLOCKS + (1 << 32), 512), (1 << 40, 512),
    (1 << 63, 512), ((1 << 64) - 1, 512), ((1 << 64) - 1, 1024), ((1 << 64) - 8, 16 * 512), (1 << 55, 512), (1 << 55, 4096),
    (0, 1), (0, 511), (0, 513), (0, 1023), (0, 4095))


def test_bad_ranges_and_lengths_move_nothing(disk, blk_neighbour):
    disk.write(0, pattern(1, 4096))
    disk.write(BLOCKS - 8, pattern(2, 4096))
    for sector, size in BAD_RANGES:
        for _ in range(2):
            status, _, data = disk.run(IN, sector, in_bytes=size)
            assert status == IOERR and data == bytes([UNTOUCHED]) * size, (sector, size)
            assert disk.run(OUT, sector, b"\x11" * size)[:2] == (IOERR, 1), (sector, size)
    assert disk.read(0, 8) == pattern(1, 4096) and disk.read(BLOCKS - 8, 8) == pattern(2, 4096)


def test_data_in_the_wrong_direction(disk, blk_neighbour):
    """A write whose data the device may only write, a read whose data it may only read; and both at once."""
    disk.write(0, pattern(1, 4096))
    request = disk.make(IN, 0, b"\x11" * 512)
    disk.rings[0].wait(disk.submit(request))
    assert request.status == IOERR and disk.memory.read(request.out_at + 16, 512) == b"\x11" * 512
    assert disk.run(IN, 0, b"\x11" * 512, 512)[0] == IOERR
    status, _, data = disk.run(OUT, 0, in_bytes=512)
    assert status == IOERR and data == bytes([UNTOUCHED]) * 512
    assert disk.run(OUT, 0, b"\x11" * 512, 512)[0] == IOERR
    for kind in (DISCARD, WRITE_ZEROES):
        assert disk.run(kind, 0, ranges((0, 8, 0)), 16)[0] == IOERR
        assert disk.run(kind, in_bytes=16)[0] == IOERR
    assert disk.read(0, 8) == pattern(1, 4096)


def test_unknown_types(disk, blk_neighbour):
    disk.write(0, pattern(1, 512))
    for kind in (2, 3, 5, 6, 7, 9, GET_LIFETIME, 12, SECURE_ERASE, 15, 16, 17, 0x100, 0x80000000, 0x80000001, 0xffffffff):
        for out, in_bytes in ((b"\x11" * 512, 512), (b"\x11" * 512, 0), (b"", 512)):
            status, length, data = disk.run(kind, 0, out, in_bytes)
            assert status == UNSUPP and length >= 1 and data == bytes([UNTOUCHED]) * in_bytes, f"type {kind}"
    assert disk.read(0, 1) == pattern(1, 512)


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES], ids=["discard", "write-zeroes"])
def test_bad_discards_and_write_zeroes_touch_nothing(disk, kind, blk_neighbour):
    unsupported = 1 if kind == DISCARD else 2
    good, last = (0, 8, 0), (1 << 64) - 1
    disk.write(0, pattern(1, 4096))
    for payload, expected in (
            (b"", IOERR), (bytes(1), IOERR), (bytes(15), IOERR), (bytes(17), IOERR), (ranges(good)[:-1], IOERR),
            (ranges(good) + b"x", IOERR), (ranges(good, good)[:31], IOERR), (ranges(*[good] * (MAX_RANGES + 1)), IOERR),
            (ranges((0, 8, unsupported)), UNSUPP), (ranges((0, 8, 0x80000000)), UNSUPP), (ranges((0, 8, 0xffffffff)), UNSUPP),
            (ranges((BLOCKS, 1, 0)), IOERR), (ranges((BLOCKS - 1, 2, 0)), IOERR), (ranges((last, 2, 0)), IOERR),
            (ranges((last, 0xffffffff, 0)), IOERR), (ranges((1 << 55, 8, 0)), IOERR),
            (ranges((0, MAX_RANGE_SECTORS + 1, 0)), IOERR), (ranges((0, 0xffffffff, 0)), IOERR),
            (ranges(good, (BLOCKS, 1, 0)), IOERR), (ranges(good, (0, 8, unsupported)), UNSUPP)):
        assert disk.run(kind, 0, payload)[:2] == (expected, 1), payload[:48]
    assert disk.read(0, 8) == pattern(1, 4096)


@pytest.mark.parametrize("feature,kinds", [(FLUSH_F, [FLUSH]), (DISCARD_F, [DISCARD]), (WRITE_ZEROES_F, [WRITE_ZEROES])],
                         ids=["flush", "discard", "write-zeroes"])
def test_request_without_its_feature(blk_path, packed, feature, kinds):
    """That kind is not known, all others are."""
    with VirtioBlk(blk_path, packed=packed, features=VirtioBlk.WANTED & ~bits(feature)) as d:
        d.write(0, pattern(4, 4096))
        for kind in (FLUSH, DISCARD, WRITE_ZEROES):
            out = b"" if kind == FLUSH else ranges((0 if kind in kinds else 8, 8, 0))
            assert d.run(kind, out=out)[:2] == (UNSUPP if kind in kinds else OK, 1)
        assert d.read(0, 8) == pattern(4, 4096)


# ---- read-only disks, no disk ----

def test_read_only_disk(read_only, blk_neighbour):
    before = read_only.read(0, 16)
    assert read_only.run(OUT, 0, b"\x11" * 4096)[:2] == (IOERR, 1)
    assert read_only.discard((0, 8, 0)) in (IOERR, UNSUPP) and read_only.write_zeroes((0, 8, 0)) in (IOERR, UNSUPP)
    assert read_only.run(FLUSH)[0] == OK
    assert read_only.read(0, 16) == before


def test_read_only_disk_and_a_driver_that_ignores_it(blk_snap, packed):
    """Not having agreed on RO is no licence."""
    path = blk_snap.vhost_socket(blk_snap.vuids[2])
    with VirtioBlk(path, packed=packed, features=VirtioBlk.WANTED & ~bits(RO)) as d:
        assert d.run(OUT, 0, pattern(1, 512))[0] == IOERR
        assert d.read(0, 1) == bytes(512)


def test_controller_without_a_disk(fresh, packed):
    with VirtioBlk(fresh(), packed=packed) as d:
        assert d.config()["capacity"] == 0
        assert d.run(IN, 0, in_bytes=512)[0] == IOERR and d.run(OUT, 0, bytes(512))[0] == IOERR
        assert d.run(GET_ID, in_bytes=20)[0] == OK


# ---- blocks of 4096 bytes, requests in units of 512 ----

def test_big_blocks_are_addressed_in_sectors(big):
    config = big.config()
    assert (config["capacity"], config["blk_size"], config["discard_sector_alignment"]) == (8192, 4096, 8)
    for sector, sectors in ((0, 8), (8, 16), (8184, 8)):
        big.write(sector, pattern(sector, sectors * SECTOR))
        assert big.read(sector, sectors) == pattern(sector, sectors * SECTOR)
    assert big.read(8, 8) == pattern(8, 16 * SECTOR)[:4096] and big.read(16, 8) == pattern(8, 16 * SECTOR)[4096:]
    assert big.write_zeroes((8, 8, 0)) == OK and big.read(16, 8) == pattern(8, 16 * SECTOR)[4096:]
    assert big.discard((16, 8, 0)) == OK
    assert big.read(8, 8) == bytes(4096)
    assert big.read(0, 8) == pattern(0, 4096)


def test_parts_of_big_blocks_are_refused(big, blk_neighbour):
    big.write(0, pattern(1, 8192))
    for sector, sectors in ((0, 1), (1, 8), (7, 8), (0, 7), (8, 9), (4, 4), (12, 4), (8184, 16), (8188, 8), (8192, 8)):
        assert big.run(IN, sector, in_bytes=sectors * SECTOR)[0] == IOERR
        assert big.run(OUT, sector, b"\x11" * (sectors * SECTOR))[0] == IOERR
        assert big.discard((sector, sectors, 0)) == IOERR and big.write_zeroes((sector, sectors, 0)) == IOERR
    assert big.read(0, 16) == pattern(1, 8192)
