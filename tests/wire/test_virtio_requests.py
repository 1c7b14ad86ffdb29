# SPDX-License-Identifier: BSD-3-Clause
"""virtio-blk requests: every kind, in any layout of descriptors, and what is wrong with them."""
import itertools
import random

import pytest
from blk_chains import UNTOUCHED, Hand, run_chain
from disks import BLOCKS
from virtio_blk import (DISCARD, DISCARD_F, FLUSH, FLUSH_F, GET_ID, GET_LIFETIME, IN, IOERR, OK, OUT, SECTOR, SECURE_ERASE, UNSUPP,
                        WRITE_ZEROES, WRITE_ZEROES_F, VirtioBlk, bits, head, pattern, ranges)

MAX_SEGMENTS = 1022  # of data, whatever seg_max says
MAX_RANGES = 256
MAX_RANGE_SECTORS = 1 << 23


@pytest.fixture(params=[False, True], ids=["direct", "indirect"])
def disk(either, request):
    either.indirect = request.param
    return either


@pytest.fixture(scope="module")
def big_blocks(blk_snap):
    """A disk with blocks of 4096 bytes on the free function."""
    blk_snap.rpc("bdev_malloc_create", name="Malloc4K", block_size=4096, num_blocks=1024)
    ctrl = blk_snap.rpc("virtio_blk_controller_create", pf_id=3, bdev="Malloc4K", num_queues=1)["ctrl_id"]
    yield blk_snap.vhost_socket(blk_snap.vuids[3])
    blk_snap.rpc("virtio_blk_controller_destroy", ctrl_id=ctrl)
    blk_snap.rpc("bdev_malloc_delete", name="Malloc4K")


@pytest.fixture
def big(big_blocks, packed):
    with VirtioBlk(big_blocks, packed=packed) as d:
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


def test_serial_number_in_pieces_and_in_more_than_is_there(disk):
    whole = disk.get_id()
    assert disk.get_id(in_cuts=[1, 0, 7, 12, 1]) == whole
    assert disk.get_id(in_bytes=64)[:20] == whole
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
    assert disk.run(WRITE_ZEROES, out=every_second, out_cuts=[3, 13, 5, 16 * MAX_RANGES - 5])[0] == OK
    data, whole = disk.read(0, 512), pattern(2, 512 * SECTOR)
    for i in range(512):
        block = slice(i * SECTOR, (i + 1) * SECTOR)
        assert data[block] == (whole[block] if i % 2 else bytes(SECTOR)), f"sector {i}"


def test_ranges_of_no_sectors_do_nothing(disk):
    disk.write(0, pattern(3, 8 * SECTOR))
    assert disk.discard((0, 0, 0)) == OK and disk.write_zeroes((0, 0, 0), (BLOCKS, 0, 0)) == OK
    assert disk.read(0, 8) == pattern(3, 8 * SECTOR)


def test_requests_without_data_do_nothing(disk):
    for kind in (IN, OUT):
        assert disk.run(kind, 0)[:2] == (OK, 1)


# ---- layouts ----

LAYOUTS = {  # cuts of what is read (16 + 4096 bytes, for a write), of what is written (4096 + 1 bytes, for a read)
    "plain": (None, None),
    "header-and-data-in-one": ([4112], None),
    "data-and-status-in-one": (None, [4097]),
    "header-split": ([1, 15, 4096], None),
    "header-byte-by-byte": ([1] * 16 + [4096], None),
    "header-end-with-data": ([8, 4104], None),
    "data-in-bytes-and-bits": ([16, 1, 510, 1, 3584], [1, 511, 3, 3581, 1]),
    "data-end-with-status": ([16, 4096], [4095, 2]),
    "zero-lengths": ([0, 16, 0, 0, 4096, 0], [0, 4096, 0, 0, 1, 0]),
    "zero-lengths-everywhere": ([0, 0, 5, 0, 11, 0, 512, 0, 3584, 0], [0, 512, 0, 3584, 0, 1, 0, 0]),
    "odd-pieces": ([7, 7, 7, 4091], [7, 7, 7, 4076]),
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_any_layout(disk, layout):
    out_cuts, in_cuts = LAYOUTS[layout]
    seed = len(layout)
    disk.write(40, pattern(seed, 4096), out_cuts=out_cuts)
    assert disk.read(40, 8) == pattern(seed, 4096)
    disk.write(40, pattern(seed + 1, 4096))
    assert disk.read(40, 8, in_cuts=in_cuts) == pattern(seed + 1, 4096)


def test_any_layout_of_requests_without_data(disk):
    for cuts in ([16], [4, 4, 8], [0, 16, 0]):
        assert disk.run(FLUSH, out_cuts=cuts, in_cuts=[0, 1, 0])[0] == OK
        assert disk.run(DISCARD, out=ranges((0, 8, 0)), out_cuts=[16 + 3, 13])[0] == OK


def cut_at_random(rng, size, most):
    cuts = sorted(rng.choices(range(size + 1), k=rng.randrange(most)))
    return [b - a for a, b in itertools.pairwise([0, *cuts, size])]


def test_random_layouts_of_random_requests(disk):
    """What is written and read is what a model of the disk says."""
    rng = random.Random(5)
    model = bytearray(256 * SECTOR)
    disk.write(0, bytes(model))
    for i in range(120):
        sectors = rng.choice((1, 2, 3, 8, 17))
        sector = rng.randrange(256 - sectors)
        area = slice(sector * SECTOR, (sector + sectors) * SECTOR)
        if rng.random() < 0.5:
            model[area] = pattern(i, sectors * SECTOR)
            disk.write(sector, pattern(i, sectors * SECTOR), out_cuts=cut_at_random(rng, 16 + sectors * SECTOR, 20))
        elif rng.random() < 0.3:
            model[area] = bytes(sectors * SECTOR)
            assert disk.run(WRITE_ZEROES, out=ranges((sector, sectors, 0)), out_cuts=cut_at_random(rng, 32, 6))[0] == OK
        else:
            got = disk.read(sector, sectors, in_cuts=cut_at_random(rng, sectors * SECTOR + 1, 20))
            assert got == model[area], f"request {i}"
    assert disk.read(0, 256) == model


def test_nothing_is_written_behind_a_buffer(either):
    for sizes in ([512], [1, 511], [200, 0, 312, 4096]):
        h = Hand(either, IN, 3)
        data = [h.into(n) for n in sizes]
        assert run_chain(either, [h.head, *data, h.status]) == sum(sizes) + 1
        assert h.answer() == OK and not any(h.overrun(s) for s in [*data, h.status])


# ---- many segments ----


@pytest.mark.parametrize("segments", [127, 254, 600, MAX_SEGMENTS])
def test_more_segments_than_advertised_are_served(either, segments):
    """Windows drivers exceed seg_max; tables are longer than the ring."""
    h = Hand(either, OUT, 64)
    data = [h.out(pattern(i, SECTOR)) for i in range(segments)]
    assert run_chain(either, [h.head, *data, h.status], indirect=True) == 1 and h.answer() == OK
    h = Hand(either, IN, 64)
    back = [h.into(SECTOR) for _ in range(segments)]
    assert run_chain(either, [h.head, *back, h.status], indirect=True) == segments * SECTOR + 1 and h.answer() == OK
    assert all(h.read(s) == pattern(i, SECTOR) for i, s in enumerate(back))


@pytest.mark.parametrize("segments", [MAX_SEGMENTS + 1, 2000, 4093])
def test_too_many_segments_end_with_an_error_and_move_nothing(either, segments, blk_neighbour):
    either.write(64, pattern(1, SECTOR))
    h = Hand(either, OUT, 64)
    one = h.out(pattern(2, SECTOR))
    assert run_chain(either, [h.head, *[one] * segments, h.status], indirect=True) == 1
    assert h.answer() == IOERR and either.read(64, 1) == pattern(1, SECTOR)
    h = Hand(either, IN, 64)
    one = h.into(SECTOR)
    run_chain(either, [h.head, *[one] * segments, h.status], indirect=True)
    assert h.answer() == IOERR and h.read(one) == bytes([UNTOUCHED]) * SECTOR


def test_segments_that_lie_behind_each_other_count_once(either):
    """4 KiB in pieces of two bytes."""
    either.write(8, pattern(9, 4096))
    assert either.read(8, 8) == pattern(9, 4096)
    either.indirect = True
    either.write(8, pattern(10, 4096), out_cuts=[16] + [2] * 2048)
    assert either.read(8, 8, in_cuts=[2] * 2048 + [1]) == pattern(10, 4096)


def test_requests_of_many_megabytes(blk_path, packed):
    """No limit of the size but that of the disk."""
    with VirtioBlk(blk_path, packed=packed) as d:
        h = Hand(d, IN, 0)
        piece = h.into(1 << 20)
        assert run_chain(d, [h.head, *[piece] * 8, h.status]) == (8 << 20) + 1 and h.answer() == OK
        h = Hand(d, IN, 0)
        run_chain(d, [h.head, *[piece] * 9, h.status])
        assert h.answer() == IOERR


# ---- what is refused ----

BAD_RANGES = {  # sector, bytes
    "beyond": (BLOCKS, 512), "across-the-end": (BLOCKS - 1, 1024), "far": (1 << 40, 512), "last-number": ((1 << 64) - 1, 512),
    "overflow": ((1 << 64) - 8, 16 * 512), "overflow-in-bytes": (1 << 55, 512), "one-byte": (0, 1), "less": (0, 511),
    "more": (0, 513), "odd": (0, 4095)}


@pytest.mark.parametrize("bad", BAD_RANGES, ids=str)
def test_bad_ranges_and_lengths_move_nothing(disk, bad, blk_neighbour):
    sector, size = BAD_RANGES[bad]
    disk.write(0, pattern(1, 4096))
    disk.write(BLOCKS - 8, pattern(2, 4096))
    for _ in range(3):
        status, _, data = disk.run(IN, sector, in_bytes=size)
        assert status == IOERR and data == bytes([UNTOUCHED]) * size
        assert disk.run(OUT, sector, b"\x11" * size)[:2] == (IOERR, 1)
    assert disk.read(0, 8) == pattern(1, 4096) and disk.read(BLOCKS - 8, 8) == pattern(2, 4096)


def test_data_in_the_wrong_direction(disk, blk_neighbour):
    disk.write(0, pattern(1, 4096))
    assert disk.run(IN, 0, b"\x11" * 512)[0] == IOERR  # nothing to write to
    assert disk.run(IN, 0, b"\x11" * 512, 512)[0] == IOERR
    status, _, data = disk.run(OUT, 0, in_bytes=512)
    assert status == IOERR and data == bytes([UNTOUCHED]) * 512
    assert disk.run(OUT, 0, b"\x11" * 512, 512)[0] == IOERR
    assert disk.run(DISCARD, 0, ranges((0, 8, 0)), 16)[0] == IOERR
    assert disk.read(0, 8) == pattern(1, 4096)


def test_unknown_types(disk, blk_neighbour):
    for kind in (2, 3, 5, 6, 7, 9, GET_LIFETIME, 12, SECURE_ERASE, 15, 16, 0x100, 0x80000000, 0x80000001, 0xffffffff):
        status, length, data = disk.run(kind, 0, b"\x11" * 512, 512)
        assert status == UNSUPP and length >= 1 and data == bytes([UNTOUCHED]) * 512, f"type {kind}"
    disk.works()


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES], ids=["discard", "write-zeroes"])
def test_bad_discards_and_write_zeroes_touch_nothing(disk, kind, blk_neighbour):
    unsupported = 1 if kind == DISCARD else 2
    disk.write(0, pattern(1, 4096))
    for payload, expected in (
            (b"", IOERR), (bytes(15), IOERR), (bytes(17), IOERR), (ranges((0, 8, 0))[:-1], IOERR),
            (ranges((0, 8, 0)) + b"x", IOERR), (ranges(*[(0, 8, 0)] * (MAX_RANGES + 1)), IOERR),
            (ranges((0, 8, unsupported)), UNSUPP), (ranges((0, 8, 0x80000000)), UNSUPP),
            (ranges((BLOCKS, 1, 0)), IOERR), (ranges((BLOCKS - 1, 2, 0)), IOERR), (ranges(((1 << 64) - 1, 2, 0)), IOERR),
            (ranges((1 << 55, 8, 0)), IOERR), (ranges((0, MAX_RANGE_SECTORS + 1, 0)), IOERR), (ranges((0, 0xffffffff, 0)), IOERR),
            (ranges((0, 8, 0), (BLOCKS, 1, 0)), IOERR), (ranges((0, 8, 0), (0, 8, unsupported)), UNSUPP)):
        assert disk.run(kind, 0, payload)[:2] == (expected, 1), payload[:48]
    assert disk.read(0, 8) == pattern(1, 4096)


def test_flush_without_its_feature(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed, features=VirtioBlk.WANTED & ~bits(FLUSH_F)) as d:
        assert d.run(FLUSH)[:2] == (UNSUPP, 1)
        d.works()


def test_discard_and_write_zeroes_without_their_features(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed, features=VirtioBlk.WANTED & ~bits(DISCARD_F, WRITE_ZEROES_F)) as d:
        d.write(0, pattern(4, 4096))
        assert d.discard((0, 8, 0)) == UNSUPP and d.write_zeroes((0, 8, 0)) == UNSUPP
        assert d.read(0, 8) == pattern(4, 4096)


def test_read_only_disk(read_only, blk_neighbour):
    before = read_only.read(0, 16)
    assert read_only.run(OUT, 0, b"\x11" * 4096)[:2] == (IOERR, 1)
    assert read_only.discard((0, 8, 0)) in (IOERR, UNSUPP) and read_only.write_zeroes((0, 8, 0)) in (IOERR, UNSUPP)
    assert read_only.run(FLUSH)[0] == OK
    assert read_only.read(0, 16) == before


# ---- blocks of 4096 bytes, requests in units of 512 ----

def test_big_blocks_are_addressed_in_sectors(big):
    config = big.config()
    assert (config["capacity"], config["blk_size"], config["discard_sector_alignment"]) == (8192, 4096, 8)
    for sector, sectors in ((0, 8), (8, 16), (8184, 8)):
        big.write(sector, pattern(sector, sectors * SECTOR))
        assert big.read(sector, sectors) == pattern(sector, sectors * SECTOR)
    assert big.read(8, 8) == pattern(8, 16 * SECTOR)[:4096]
    assert big.write_zeroes((8, 8, 0)) == OK and big.discard((16, 8, 0)) == OK
    assert big.read(8, 8) == bytes(4096)
    assert big.read(0, 8) == pattern(0, 4096)


def test_parts_of_big_blocks_are_refused(big, blk_neighbour):
    big.write(0, pattern(1, 8192))
    for sector, sectors in ((0, 1), (1, 8), (7, 8), (0, 7), (4, 4), (8184, 16), (8192, 8)):
        assert big.run(IN, sector, in_bytes=sectors * SECTOR)[0] == IOERR
        assert big.run(OUT, sector, b"\x11" * (sectors * SECTOR))[0] == IOERR
        assert big.discard((sector, sectors, 0)) == IOERR and big.write_zeroes((sector, sectors, 0)) == IOERR
    assert big.read(0, 16) == pattern(1, 8192)
