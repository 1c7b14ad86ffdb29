# SPDX-License-Identifier: BSD-3-Clause
"""Drivers that break the rules of virtqueues: the function needs a reset, or the request fails, and nobody else notices."""
import os
import random
import struct
import threading
import time

import pytest
import vhost_user as vu
from blk_chains import (UNTOUCHED, Hand, heal, is_broken, offer_raw, raw_table, reset_by_message, reset_by_status,
                        run_chain)
from vhost_user import Timeout, VhostError
from virtio_blk import INDIRECT_DESC, IN, IOERR, OK, OUT, VirtioBlk, bits, connect_soon, pattern
from virtq import AVAIL, INDIRECT, NEXT, USED, WRITE, Seg

pytestmark = pytest.mark.usefixtures("blk_neighbour")

SIZE = 64
CHAIN_MAX = 4096  # descriptors the service walks for one chain


@pytest.fixture
def split(blk_path):
    with VirtioBlk(blk_path) as d:
        yield d


@pytest.fixture
def packed_disk(blk_path):
    with VirtioBlk(blk_path, packed=True) as d:
        yield d


# ---- what becomes of a broken device ----

def test_broken_ring_stops_and_nothing_of_it_is_written_any_more(either):
    r = either.rings[0]
    offer_raw(either, [(0x1000, 16, NEXT | INDIRECT, 1), (0x1000, 16, WRITE, 0)])
    is_broken(either)
    before = either.memory.read(r.device, 4)
    request = either.make(IN, 0, in_bytes=512)
    for _ in range(3):
        if either.packed:
            r.next, r.wrap = 2, 1
        r.free = list(range(2, SIZE))
        r.add(request.segs)
        r.publish()
        r.kick(force=True)
    time.sleep(0.05)
    assert request.status == UNTOUCHED and either.memory.read(r.device, 4) == before
    assert either.vc.status() & vu.NEEDS_RESET
    heal(either)


@pytest.mark.parametrize("reset", [reset_by_status, reset_by_message], ids=["status", "message"])
def test_every_reset_heals(either, reset):
    for _ in range(3):
        offer_raw(either, [(0x1000, 16, NEXT | INDIRECT, 1), (0x1000, 16, WRITE, 0)])
        is_broken(either)
        heal(either, reset)


def test_the_next_client_finds_a_working_device(blk_path, packed):
    for _ in range(3):
        with VirtioBlk(blk_path, packed=packed) as d:
            offer_raw(d, [(0x1000, 16, NEXT | INDIRECT, 1), (0x1000, 16, WRITE, 0)])
            is_broken(d)
        with connect_soon(blk_path) as vc:
            assert vc.status() == 0
    with VirtioBlk(blk_path, packed=packed) as d:
        d.works()


def test_ring_that_is_broken_is_stopped_all_the_same(either):
    offer_raw(either, [(0x1000, 16, NEXT | INDIRECT, 1), (0x1000, 16, WRITE, 0)])
    is_broken(either)
    either.stop()
    either.restart()
    either.works()


def test_other_rings_of_the_device_finish_what_they_have(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed, queues=2) as d:
        d.works(queue=1)
        offer_raw(d, [(0x1000, 16, NEXT | INDIRECT, 1), (0x1000, 16, WRITE, 0)])
        request = d.make(OUT, 0, pattern(1, 512))
        ident = d.submit(request, queue=1)
        is_broken(d)
        try:
            assert d.rings[1].wait(ident, 1) == 1 and request.status == OK
        except Timeout:
            pass
        heal(d)
        d.works(queue=1)


# ---- A1, A2: where rings lie ----

def test_ring_outside_of_memory_is_refused(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed, start=False) as d:
        d.vc.set_features(d.vc.offered & d.wanted)
        d.memory.attach(d.vc)
        r, end = d.rings[0], d.memory.gpa + d.memory.size
        d.vc.set_num(0, SIZE)
        for bad in (0, end, end - 2, d.memory.gpa - 16, 0xffff_ffff_ffff_fff0 - vu.USER_OFFSET, r.desc + 1):
            for part in range(3):
                where = [r.desc, r.driver, r.device]
                where[part] = bad
                with pytest.raises(VhostError):
                    d.vc.set_addr(0, *where)
        d.start_ring(0, r.base())
        d.enable()
        d.works()


def test_packed_ring_that_begins_more_than_a_lap_apart(blk_path):
    """Each half is in range, together they make no sense."""
    for base in (0x8001_8000, 0x803f_8000, 0x0001_8002):
        with VirtioBlk(blk_path, packed=True, start=False) as d:
            try:
                d.start([base])
            except VhostError:
                continue
            is_broken(d)
            heal(d)


@pytest.mark.parametrize("where", ["desc", "driver", "device"])
def test_parts_of_a_ring_that_overlap(either, where):
    """All of it is the driver's own memory, and the device's writes are what the driver has asked for."""
    at = getattr(either.rings[0], where) & ~0xf
    either.stop()
    vc, r = either.vc, either.rings[0]
    r.restart()
    either.area.clear()
    vc.set_inflight(either.area)
    vc.set_features(vc.offered & either.wanted)
    vc.set_num(0, SIZE)
    vc.set_base(0, r.base())
    vc.set_addr(0, at, at, at)
    vc.err_fd(0, r.err_event)
    vc.kick_fd(0, r.kick_event)
    either.enable()
    rng = random.Random(3)
    for _ in range(100):
        either.memory.write(at, rng.randbytes(1024))
        os.eventfd_write(r.kick_event, 1)
        vc.barrier()
    heal(either)


def test_two_rings_in_the_same_memory(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed, queues=2) as d:
        d.stop()
        one, other = d.rings
        for r in d.rings:
            r.restart()
        d.area.clear()
        d.vc.set_inflight(d.area)
        d.vc.set_features(d.vc.offered & d.wanted)
        mine = other.desc, other.driver, other.device
        other.desc, other.driver, other.device = one.desc, one.driver, one.device
        for i, r in enumerate(d.rings):
            d.start_ring(i, r.base())
        d.enable()
        requests = [d.make(OUT, 8 * i, pattern(i, 512)) for i in range(10)]
        for request in requests:
            one.add(request.segs)
        one.publish()
        for r in d.rings:
            r.kick(force=True)
        time.sleep(0.05)
        other.desc, other.driver, other.device = mine
        heal(d)


def test_sizes_and_changes_after_the_start_are_refused(either):
    vc, r = either.vc, either.rings[0]
    either.works()
    for call in (lambda: vc.set_num(0, 32), lambda: vc.set_num(0, SIZE), lambda: vc.set_base(0, 3),
                 lambda: vc.set_addr(0, r.desc + 16, r.driver, r.device)):
        with pytest.raises(VhostError):
            call()
    either.works()
    for size in (0, 257, 32768, 65535, 0xffffffff):
        with pytest.raises(VhostError):
            vc.set_num(1, size)
    either.works()


# ---- A3: the avail index ----

@pytest.mark.parametrize("jump", [SIZE + 1, 2 * SIZE, 0x7fff, 0x8000, 0xffff], ids=hex)
def test_avail_index_that_jumps(split, jump):
    """0xffff: backwards by one."""
    r = split.rings[0]
    split.works()
    request = split.make(IN, 0, in_bytes=512)
    r.set_avail_idx(r.avail_idx + jump)
    r.kick(force=True)
    is_broken(split)
    assert request.status == UNTOUCHED
    heal(split)


def test_avail_index_one_ring_ahead_is_the_most(split):
    """As many as the ring has, and not one of them twice."""
    r = split.rings[0]
    h = Hand(split, IN, 0)
    for i in range(SIZE):
        r.write_desc(i, h.status.addr, 1, WRITE)
        r.set_head(i, i)
    r.set_avail_idx(SIZE)
    r.kick(force=True)
    deadline = time.monotonic() + 5
    while r.device_idx() != SIZE:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    used = [struct.unpack("<II", split.memory.read(r.device + 4 + 8 * i, 8)) for i in range(SIZE)]
    assert sorted(i for i, _ in used) == list(range(SIZE))
    heal(split)


def test_avail_index_that_moves_all_the_time(split):
    """While it is read. At most a ring's worth is taken at a time; sooner or later the lie is seen."""
    r = split.rings[0]
    h = Hand(split, IN, 0)
    for i in range(SIZE):
        r.write_desc(i, h.status.addr, 1, WRITE)
        r.set_head(i, i)
    end = time.monotonic() + 0.3
    idx = 0
    while time.monotonic() < end:
        for _ in range(100):
            idx = (idx + random.choice((1, 1, 1, 5, SIZE // 2, -3))) & 0xffff
            r.set_avail_idx(idx)
        os.eventfd_write(r.kick_event, 1)
    r.set_avail_idx(r.device_idx() + 0x4000)
    r.kick(force=True)
    is_broken(split)
    heal(split)


# ---- A4: heads, next indexes, buffer IDs ----

@pytest.mark.parametrize("head", [SIZE, SIZE + 1, 255, 0x8000, 0xffff])
def test_head_out_of_range(split, head):
    r = split.rings[0]
    r.offer(head)
    r.publish()
    r.kick(force=True)
    is_broken(split)
    heal(split)


def test_head_that_is_in_flight_already(split):
    r = split.rings[0]
    request = split.make(IN, 0, in_bytes=4096)
    ident = r.add(request.segs)
    r.offer(ident)
    r.publish()
    r.kick()
    is_broken(split)
    assert r.device_idx() <= 1
    heal(split)


@pytest.mark.parametrize("following", [SIZE, 0x7fff, 0xffff])
def test_next_index_out_of_range(split, following):
    h = Hand(split, IN, 0)
    offer_raw(split, [(h.head.addr, 16, NEXT, following)])
    is_broken(split)
    heal(split)


@pytest.mark.parametrize("ident", [SIZE, SIZE + 1, 0x8000, 0xffff])
def test_buffer_id_out_of_range(packed_disk, ident):
    h = Hand(packed_disk, IN, 0)
    offer_raw(packed_disk, [(h.head.addr, 16, NEXT, 0), (h.status.addr, 1, WRITE, 0)], ident=ident)
    is_broken(packed_disk)
    assert h.answer() == UNTOUCHED
    heal(packed_disk)


def test_buffer_id_that_is_in_flight_already(packed_disk):
    r = packed_disk.rings[0]
    first, second = (packed_disk.make(IN, 0, in_bytes=4096) for _ in range(2))
    ident = r.add(first.segs)
    r.free_ids.insert(0, ident)
    assert r.add(second.segs) == ident
    r.publish()
    r.kick()
    is_broken(packed_disk)
    assert second.status == UNTOUCHED
    heal(packed_disk)


@pytest.mark.parametrize("flags", [0, AVAIL | USED, USED], ids=["neither", "both", "used"])
def test_wrong_wrap_bits_within_a_chain(packed_disk, flags):
    r = packed_disk.rings[0]
    h = Hand(packed_disk, IN, 0)
    r.write_desc(1, h.status.addr, 1, 0, WRITE | flags)
    offer_raw(packed_disk, [(h.head.addr, 16, NEXT, 0)])
    is_broken(packed_disk)
    assert h.answer() == UNTOUCHED
    heal(packed_disk)


def test_wrong_wrap_bits_of_a_first_descriptor_are_no_work(packed_disk):
    r = packed_disk.rings[0]
    h = Hand(packed_disk, IN, 0)
    for flags in (0, AVAIL | USED, USED):
        r.write_desc(0, h.status.addr, 1, 0, WRITE | flags)
        os.eventfd_write(r.kick_event, 1)
        packed_disk.vc.barrier()
    assert not packed_disk.vc.status() & vu.NEEDS_RESET
    r.write_desc(0, 0, 0, 0, 0)
    packed_disk.works()


# ---- A5: chains without an end ----

@pytest.mark.parametrize("length", [1, 2, SIZE])
def test_loop(split, length):
    h = Hand(split, IN, 0)
    offer_raw(split, [(h.head.addr, 16, NEXT, (i + 1) % length) for i in range(length)])
    is_broken(split)
    heal(split)


def test_loop_of_writable_descriptors_writes_nothing(split):
    h = Hand(split, IN, 0)
    offer_raw(split, [(h.head.addr, 16, NEXT, 1), (h.status.addr, 1, NEXT | WRITE, 1)])
    is_broken(split)
    assert h.answer() == UNTOUCHED
    heal(split)


def test_packed_ring_with_next_everywhere(packed_disk):
    h = Hand(packed_disk, IN, 0)
    offer_raw(packed_disk, [(h.head.addr, 16, NEXT, 0)] * SIZE)
    is_broken(packed_disk)
    heal(packed_disk)


def test_loop_in_a_table(split):
    h = Hand(split, IN, 0)
    table = raw_table(split, (h.head.addr, 16, NEXT, 1), (h.status.addr, 1, NEXT | WRITE, 0))
    offer_raw(split, [(table, 32, INDIRECT, 0)])
    is_broken(split)
    assert h.answer() == UNTOUCHED
    heal(split)


def test_next_index_out_of_a_table(split):
    h = Hand(split, IN, 0)
    table = raw_table(split, (h.head.addr, 16, NEXT, 2), (h.status.addr, 1, WRITE, 0), (h.status.addr, 1, WRITE, 0))
    offer_raw(split, [(table, 32, INDIRECT, 0)])
    is_broken(split)
    assert h.answer() == UNTOUCHED
    heal(split)


@pytest.mark.parametrize("entries", [CHAIN_MAX, 65536])
def test_table_beyond_the_services_limit(either, entries):
    h = Hand(either, IN, 0)
    seg = h.into(1)
    at = either.memory.alloc(16 * entries, 16)
    for i in range(entries):
        words = (WRITE | NEXT, (i + 1) & 0xffff) if not either.packed else (0, WRITE)
        either.memory.write(at + 16 * i, struct.pack("<QIHH", seg.addr, 1, *words))
    offer_raw(either, [(at, 16 * entries, INDIRECT, 0)])
    is_broken(either)
    assert h.read(seg) == bytes([UNTOUCHED])
    heal(either)


# ---- A6: indirect descriptors ----

def indirect_cases(d, h):
    good = (h.head.addr, 16, NEXT, 1), (h.status.addr, 1, WRITE, 0)
    table = raw_table(d, *good)
    nested = raw_table(d, (table, 32, INDIRECT, 0))
    late = raw_table(d, (h.head.addr, 16, NEXT, 1), (table, 32, INDIRECT, 0))
    return {
        "length-0": [(table, 0, INDIRECT, 0)],
        "length-15": [(table, 15, INDIRECT, 0)],
        "length-33": [(table, 33, INDIRECT, 0)],
        "length-max": [(table, 0xffffffff, INDIRECT, 0)],
        "nested": [(nested, 16, INDIRECT, 0)],
        "nested-late": [(late, 32, INDIRECT, 0)],
        "with-next": [(table, 32, INDIRECT | NEXT, 1), good[1]],
    }


@pytest.mark.parametrize("case", ["length-0", "length-15", "length-33", "length-max", "nested", "nested-late", "with-next"])
def test_bad_indirect_descriptor(either, case):
    h = Hand(either, IN, 0)
    offer_raw(either, indirect_cases(either, h)[case])
    is_broken(either)
    assert h.answer() == UNTOUCHED
    heal(either)


def test_indirect_descriptor_behind_others(either):
    """2.7.5.3.2: a chain may go on in a table. A packed ring has no such thing, and is broken or served."""
    h = Hand(either, IN, 0)
    table = raw_table(either, (h.status.addr, 1, WRITE, 0))
    offer_raw(either, [(h.head.addr, 16, NEXT, 1), (table, 16, INDIRECT, 0)])
    if either.packed:
        deadline = time.monotonic() + 5
        while h.answer() == UNTOUCHED and not either.vc.status() & vu.NEEDS_RESET:
            assert time.monotonic() < deadline
    else:
        r = either.rings[0]
        r.outstanding[0] = []
        assert r.wait(0) == 1 and h.answer() == OK
    heal(either)


def test_indirect_write_flag_is_ignored(either):
    """2.7.5.3.2: the device must ignore it."""
    h = Hand(either, IN, 0)
    table = raw_table(either, (h.head.addr, 16, NEXT, 1), (h.status.addr, 1, WRITE, 0))
    offer_raw(either, [(table, 32, INDIRECT | WRITE, 0)])
    either.rings[0].outstanding[0] = 1 if either.packed else []
    assert either.rings[0].wait(0) == 1 and h.answer() == OK
    heal(either)


def test_indirect_that_was_not_negotiated(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed, features=VirtioBlk.WANTED & ~bits(INDIRECT_DESC)) as d:
        h = Hand(d, IN, 0)
        table = raw_table(d, (h.head.addr, 16, NEXT, 1), (h.status.addr, 1, WRITE, 0))
        offer_raw(d, [(table, 32, INDIRECT, 0)])
        is_broken(d)
        assert h.answer() == UNTOUCHED
        heal(d)


def test_memory_that_is_not_there(blk_path, packed):
    """One queue each: a table, a header, data, a status byte. The device waits a while for memory that may come back."""
    with VirtioBlk(blk_path, packed=packed, queues=4) as d:
        far = d.memory.gpa + d.memory.size
        hands = [Hand(d, IN, 0) for _ in range(4)]
        offer_raw(d, [(far, 32, INDIRECT, 0)], 0)
        offer_raw(d, [(far - 8, 16, NEXT, 1), (hands[1].status.addr, 1, WRITE, 0)], 1)
        offer_raw(d, [(hands[2].head.addr, 16, NEXT, 1), (0xffff_ffff_ffff_ff00, 512, NEXT | WRITE, 2),
                      (hands[2].status.addr, 1, WRITE, 0)], 2)
        offer_raw(d, [(hands[3].head.addr, 16, NEXT, 1), (far, 1, WRITE, 0)], 3)
        is_broken(d, timeout=10)
        deadline = time.monotonic() + 5
        while not hands[1].answer() == hands[2].answer() == IOERR:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert hands[0].answer() == UNTOUCHED and hands[3].answer() == UNTOUCHED
        heal(d)


# ---- A7, A8: chains that are no requests ----

def no_requests(h):
    """name: (segments, status or None when there is no byte for it)"""
    data, more = h.out(bytes(512)), h.into(512)
    none = Seg(h.head.addr, 0, False)
    empty = Seg(h.status.addr, 0, True)
    short = Seg(h.head.addr, 15, False)
    return {
        "only-a-status": ([h.status], IOERR),
        "no-header-but-data": ([more, h.status], IOERR),
        "header-of-15": ([short, h.status], IOERR),
        "header-of-nothing": ([none, h.status], IOERR),
        "no-status": ([h.head], None),
        "no-status-but-data": ([h.head, data], None),
        "status-of-nothing": ([h.head, empty], None),
        "status-not-writable": ([h.head, Seg(h.status.addr, 1, False)], None),
        "nothing-at-all": ([none], None),
        "zero-lengths-only": ([none, none, empty, empty], None),
        "readable-behind-writable": ([h.head, more, data, h.status], IOERR),
        "header-at-the-end": ([h.status, h.head], IOERR),
    }


NO_REQUESTS = ("only-a-status", "no-header-but-data", "header-of-15", "header-of-nothing", "no-status", "no-status-but-data",
               "status-of-nothing", "status-not-writable", "nothing-at-all", "zero-lengths-only", "readable-behind-writable",
               "header-at-the-end")


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("case", NO_REQUESTS)
def test_chain_that_is_no_request_comes_back(either, case, indirect):
    """More often than the ring has slots: none is lost."""
    h = Hand(either, OUT, 0)
    segs, status = no_requests(h)[case]
    either.write(0, pattern(1, 512))
    table = either.memory.alloc(16 * len(segs), 16) if indirect else None
    for _ in range(3 * SIZE):
        either.memory.write(h.status.addr, bytes([UNTOUCHED]))
        length = either.rings[0].wait(either.rings[0].submit(segs, indirect=table))
        if status is None:
            assert length == 0 and h.answer() == UNTOUCHED
        else:
            assert length == 1 and h.answer() == status
    assert not either.vc.status() & vu.NEEDS_RESET
    assert either.read(0, 1) == pattern(1, 512)


# ---- A12: memory that changes under the device ----

def scribble(d, stop, seed):
    """Overwrites descriptors, tables and the header of requests with what looks like some."""
    rng = random.Random(seed)
    r, m = d.rings[0], d.memory
    addresses = [m.gpa, r.desc, m.gpa + m.size - 8, m.gpa + (1 << 20), 0, (1 << 64) - 8]
    lengths = [0, 1, 15, 16, 512, 4096, 1 << 20, 0xffffffff]
    while not stop.is_set():
        for _ in range(50):
            at = r.desc + 16 * rng.randrange(SIZE)
            what = rng.randrange(4)
            if what == 0:
                m.write(at, struct.pack("<Q", rng.choice(addresses)))
            elif what == 1:
                m.write(at + 8, struct.pack("<I", rng.choice(lengths)))
            elif what == 2 and not d.packed:
                m.set16(at + 12, rng.randrange(8))
            else:
                m.set16(at + (12 if d.packed else 14), rng.choice((0, 1, SIZE - 1, rng.randrange(SIZE))))
        time.sleep(0)


def test_descriptors_that_change_after_the_kick(blk_path, packed, blk_neighbour):
    with VirtioBlk(blk_path, packed=packed, queues=2) as d:
        breaks = 0
        for lap in range(25):
            stop = threading.Event()
            thread = threading.Thread(target=scribble, args=(d, stop, lap))
            thread.start()
            try:
                r = d.rings[0]
                for _ in range(4):
                    while (r.room if packed else len(r.free)) >= 3:
                        r.add(d.make(random.choice((IN, OUT)), 0, b"", 0).segs)
                    r.publish()
                    r.kick(force=True)
                    time.sleep(0.002)
                    r.poll()
            finally:
                stop.set()
                thread.join()
            breaks += bool(d.vc.status() & vu.NEEDS_RESET)
            heal(d)
            d.memory.used = max(at + size for q in d.rings for at, size in q.parts) + 4096 - d.memory.gpa
            d.buffers.clear()
        d.works(queue=1)
        assert breaks, "nothing the scribbler did was ever seen"


def test_rings_full_of_noise(blk_path, packed, blk_neighbour):
    """All three parts of the ring, and what its addresses point to."""
    with VirtioBlk(blk_path, packed=packed) as d:
        rng = random.Random(8)
        r = d.rings[0]
        for lap in range(60):
            for at, size in r.parts[:2]:
                d.memory.write(at, rng.randbytes(size))
            if not packed:  # so that it is looked at: a plausible index, plausible heads
                r.set_avail_idx(rng.randrange(1, SIZE))
                for i in range(SIZE):
                    r.set_head(i, rng.randrange(SIZE))
            for i in range(SIZE):
                at = r.desc + 16 * i
                if rng.random() < 0.8:
                    d.memory.write(at, struct.pack("<QI", d.memory.gpa + rng.randrange(1 << 22), rng.randrange(1 << 12)))
                if packed:
                    d.memory.set16(at + 14, rng.randrange(8) | AVAIL)
                    d.memory.set16(at + 12, rng.randrange(SIZE))
                else:
                    d.memory.write(at + 12, struct.pack("<HH", rng.randrange(8), rng.randrange(SIZE)))
            r.kick(force=True)
            d.vc.barrier()
            time.sleep(0.002)
            d.vc.set_status(0)
            d.restart()
        d.works()


# ---- A13: notifications ----

def test_kicks_without_work(either, blk_snap, blk_neighbour):
    """The neighbour goes on meanwhile."""
    before = blk_neighbour.completed()
    end = time.monotonic() + 1
    while time.monotonic() < end:
        for _ in range(100):
            os.eventfd_write(either.rings[0].kick_event, 1)
    assert blk_neighbour.completed() > before + 50
    either.works()


def test_kick_eventfd_that_is_full_and_is_never_empty(either):
    os.eventfd_write(either.rings[0].kick_event, 0xffff_ffff_ffff_fffe)
    either.works()


@pytest.mark.parametrize("blocking", [False, True], ids=["non-blocking", "blocking"])
def test_call_eventfd_that_nobody_empties(either, blocking, blk_neighbour):
    full = os.eventfd(0, os.EFD_CLOEXEC | (0 if blocking else os.EFD_NONBLOCK))
    os.eventfd_write(full, 0xffff_ffff_ffff_fffe)
    either.vc.call_fd(0, full)
    for i in range(50):
        either.works(i)
    before = blk_neighbour.completed()
    time.sleep(0.5)
    assert blk_neighbour.completed() > before
    os.close(full)


def test_error_eventfd_that_blocks(either, blk_neighbour):
    full = os.eventfd(0, os.EFD_CLOEXEC)
    os.eventfd_write(full, 0xffff_ffff_ffff_fffe)
    either.vc.err_fd(0, full)
    offer_raw(either, [(0x1000, 16, NEXT | INDIRECT, 1), (0x1000, 16, WRITE, 0)])
    either.broken()
    os.close(full)
    heal(either)


def test_kicks_before_the_driver_is_ready(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed, start=False) as d:
        d.vc.set_features(d.vc.offered & d.wanted)
        d.memory.attach(d.vc)
        r = d.rings[0]
        request = d.make(OUT, 0, pattern(1, 512))
        r.add(request.segs)
        r.publish()
        d.start_ring(0, r.base())
        for _ in range(100):
            os.eventfd_write(r.kick_event, 1)
        assert r.quiet(0.05) and request.status == UNTOUCHED
        d.enable()
        r.wait_all()
        assert request.status == OK


def test_kicks_of_rings_that_do_not_exist(either):
    for index in (4, 5, 63, 64, 255):
        with pytest.raises(VhostError):
            either.vc.kick_fd(index, either.rings[0].kick_event)
    with pytest.raises(VhostError):  # it exists and has no addresses
        either.vc.kick_fd(1, either.rings[0].kick_event)
    either.works()


def test_eventfd_shared_by_all_rings(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed, queues=4, start=False) as d:
        shared = d.rings[0]
        own = [(r.kick_event, r.call_event) for r in d.rings[1:]]
        for r in d.rings[1:]:
            r.kick_event = r.call_event = shared.kick_event
        d.start()
        for lap in range(10):
            for q in range(4):
                d.works(lap, queue=q)
        for r, (kick, call) in zip(d.rings[1:], own):
            r.kick_event, r.call_event = kick, call
