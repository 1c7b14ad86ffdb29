# SPDX-License-Identifier: BSD-3-Clause
"""Layouts of virtio-blk requests: any legal division into descriptors works, up to limits of which the driver is told."""
import itertools
import random

import pytest
from blk_chains import UNTOUCHED, Hand, run_chain
from virtio_blk import (DISCARD, FLUSH, GET_ID, IN, IOERR, OK, OUT, SECTOR, WRITE_ZEROES, VirtioBlk, pattern, ranges)
from virtq import Seg

MAX_SEGMENTS = 1022  # of data, whatever seg_max says


@pytest.fixture(params=[False, True], ids=["direct", "indirect"])
def disk(either, request):
    either.indirect = request.param
    return either


# Of what is read: 16 + 4096 bytes, for a write.
READABLE = ([16, 4096], [4112], [1, 15, 4096], [1] * 16 + [4096], [8, 4104], [8, 8, 4096], [20, 4092], [15, 2, 4095],
            [16, 1, 510, 1, 3584], [16, 1, 511, 512, 3072], [16] + [256] * 16, [0, 16, 0, 0, 4096, 0],
            [0, 0, 5, 0, 11, 0, 512, 0, 3584, 0], [7, 7, 7, 4091])
# Of what is written: 4096 + 1 bytes, for a read.
WRITABLE = ([4096, 1], [4097], [1, 4096], [100, 3996, 1], [4095, 2], [2048, 2049], [1, 511, 3, 3581, 1], [512] * 8 + [1],
            [0, 4096, 0, 0, 1, 0], [4096, 0, 1], [0, 512, 0, 3584, 0, 1, 0, 0], [7, 7, 7, 4076])


def test_any_layout_of_what_the_device_reads(disk):
    for seed, cuts in enumerate(READABLE):
        disk.write(40, pattern(seed, 4096), out_cuts=cuts)
        assert disk.read(40, 8) == pattern(seed, 4096), cuts


def test_any_layout_of_what_the_device_writes(disk):
    for seed, cuts in enumerate(WRITABLE):
        disk.write(40, pattern(seed, 4096))
        assert disk.read(40, 8, in_cuts=cuts) == pattern(seed, 4096), cuts


def test_any_layout_of_other_requests(disk):
    for cuts in ([16], [4, 4, 8], [0, 16, 0]):
        assert disk.run(FLUSH, out_cuts=cuts, in_cuts=[0, 1, 0])[0] == OK
        assert disk.run(DISCARD, out=ranges((0, 8, 0)), out_cuts=[16 + 3, 13])[0] == OK
    disk.write(40, pattern(1, 2048))
    two = ranges((40, 1, 0), (42, 1, 0))
    assert disk.run(WRITE_ZEROES, out=two, out_cuts=[7, 9, 5, 11, 8, 8])[0] == OK
    assert disk.read(40, 4) == bytes(512) + pattern(1, 2048)[512:1024] + bytes(512) + pattern(1, 2048)[1536:]


def test_used_length_says_what_was_written(disk):
    assert disk.run(IN, 0, in_bytes=4096)[1] == 4097
    assert disk.run(OUT, 0, bytes(4096))[1] == 1
    assert disk.run(FLUSH)[1] == 1
    assert disk.run(GET_ID, in_bytes=20)[1] == 21
    assert disk.run(999)[1] == 1


def cut_at_random(rng, size, most):
    cuts = sorted(rng.choices(range(size + 1), k=rng.randrange(most)))
    return [b - a for a, b in itertools.pairwise([0, *cuts, size])]


def test_random_layouts_of_random_requests(disk):
    """What is written and read is what a model of the disk says. Seeded: a failure repeats."""
    rng = random.Random(5)
    model = bytearray(256 * SECTOR)
    disk.write(0, bytes(model))
    for i in range(120):
        sectors = rng.choice((1, 2, 3, 8, 17, 32))
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


def test_data_at_odd_addresses(either):
    data = pattern(9, 1024)
    h = Hand(either, OUT, 40)
    at = either.memory.alloc(4096) + 3
    either.memory.write(at, data)
    assert run_chain(either, [h.head, Seg(at, 1024, False), h.status]) == 1 and h.answer() == OK
    assert either.read(40, 2) == data
    h = Hand(either, IN, 40)
    either.memory.write(at, bytes(1024))
    assert run_chain(either, [h.head, Seg(at, 1024, True), h.status]) == 1025 and h.answer() == OK
    assert either.memory.read(at - 3, 1030) == bytes(3) + data + bytes(3)


# ---- many segments ----

@pytest.mark.parametrize("segments", [127, 254, 255, 600, MAX_SEGMENTS])
def test_more_segments_than_advertised_are_served(either, segments):
    """Windows drivers exceed seg_max; tables are longer than the ring."""
    h = Hand(either, OUT, 64)
    data = [h.out(pattern(i, SECTOR)) for i in range(segments)]
    assert run_chain(either, [h.head, *data, h.status], indirect=True) == 1 and h.answer() == OK
    h = Hand(either, IN, 64)
    back = [h.into(SECTOR) for _ in range(segments)]
    assert run_chain(either, [h.head, *back, h.status], indirect=True) == segments * SECTOR + 1 and h.answer() == OK
    assert all(h.read(s) == pattern(i, SECTOR) for i, s in enumerate(back))


@pytest.mark.parametrize("segments", [MAX_SEGMENTS + 1, 1536, 2000, 4093])
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
    """4 KiB in pieces of two bytes, 512 KiB in pages."""
    either.indirect = True
    either.write(8, pattern(10, 4096), out_cuts=[16] + [2] * 2048)
    assert either.read(8, 8) == pattern(10, 4096)
    assert either.read(8, 8, in_cuts=[2] * 2048 + [1]) == pattern(10, 4096)
    data = pattern(4, 512 * 1024)
    either.write(2000, data, out_cuts=[16] + [4096] * 128)
    assert either.read(2000, 1024, in_cuts=[8192] * 64 + [1]) == data


def test_requests_of_many_megabytes(blk_path, packed):
    """No limit of the size but that of the disk."""
    with VirtioBlk(blk_path, packed=packed) as d:
        h = Hand(d, IN, 0)
        piece = h.into(1 << 20)
        assert run_chain(d, [h.head, *[piece] * 8, h.status]) == (8 << 20) + 1 and h.answer() == OK
        h = Hand(d, IN, 0)
        run_chain(d, [h.head, *[piece] * 9, h.status])
        assert h.answer() == IOERR
