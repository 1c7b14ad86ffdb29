# SPDX-License-Identifier: BSD-3-Clause
"""Drivers whose rings break the rules of virtqueues: the function needs a reset, and nobody else notices."""
import os
import random
import struct
import time

import pytest
import vhost_user as vu
from blk_chains import (RESET_IDS, RESETS, UNTOUCHED, Hand, break_ring, heal, held, is_broken, offer_raw)
from vhost_user import Timeout, VhostError
from virtio_blk import IN, OK, OUT, VirtioBlk, connect_soon, pattern
from virtq import AVAIL, NEXT, USED, WRITE

pytestmark = pytest.mark.usefixtures("blk_neighbour")

SIZE = 64


@pytest.fixture
def packed_disk(blk_path):
    with VirtioBlk(blk_path, packed=True) as d:
        yield d


# ---- what becomes of a broken device ----

def test_broken_ring_stops_and_nothing_of_it_is_written_any_more(either):
    r = either.rings[0]
    break_ring(either)
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


@pytest.mark.parametrize("reset", RESETS, ids=RESET_IDS)
def test_every_reset_heals(either, reset):
    for _ in range(3):
        break_ring(either)
        is_broken(either)
        heal(either, reset)


def test_reconnect_heals(either):
    """The same front end, with rings and an in-flight area that begin anew."""
    for _ in range(2):
        break_ring(either)
        is_broken(either)
        either.rings[0].restart()
        either.area.clear()
        either.reconnect(bases=[either.rings[0].base()])
        assert not either.vc.status() & vu.NEEDS_RESET
        either.works()


def test_the_next_client_finds_a_working_device(blk_path, packed):
    for _ in range(3):
        with VirtioBlk(blk_path, packed=packed) as d:
            break_ring(d)
            is_broken(d)
        with connect_soon(blk_path) as vc:
            assert vc.status() == 0
    with VirtioBlk(blk_path, packed=packed) as d:
        d.works()


def test_ring_that_is_broken_is_stopped_all_the_same(either):
    break_ring(either)
    is_broken(either)
    either.stop()
    either.restart()
    either.works()


def test_other_rings_of_the_device_finish_what_they_have(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed, queues=2) as d:
        d.works(queue=1)
        break_ring(d)
        request = d.make(OUT, 0, pattern(1, 512))
        ident = d.submit(request, queue=1)
        is_broken(d)
        try:
            assert d.rings[1].wait(ident, 0.5) == 1 and request.status == OK
        except Timeout:
            pass
        heal(d)
        d.works(queue=1)


def test_broken_again_and_again(either, blk_snap):
    """The log stays small: what a guest can cause is said now and then, not each time."""
    size = (blk_snap.tmpdir / "service.log").stat().st_size
    for _ in range(100):
        break_ring(either)
        either.broken()
        either.vc.set_status(0)
        either.restart()
    either.works()
    assert (blk_snap.tmpdir / "service.log").stat().st_size - size < 100 * 200


def test_broken_ring_survives_the_service(blk_snap, either):
    """The next service does not serve it either; a reset heals."""
    break_ring(either)
    is_broken(either)
    blk_snap.kill_service()
    try:
        assert either.vc.status() & vu.NEEDS_RESET
    finally:
        blk_snap.start_service()
    os.eventfd_write(either.rings[0].kick_event, 1)
    assert either.rings[0].quiet(0.05) and either.vc.status() & vu.NEEDS_RESET
    heal(either)


# ---- A1, A2: where rings lie; what cannot be a ring at all is refused: test_vhost_rings.py ----

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


def test_ring_whose_memory_is_away_is_parked_and_can_be_reset(either):
    either.works()
    either.memory.detach(either.vc)
    os.eventfd_write(either.rings[0].kick_event, 1)
    either.vc.barrier()
    assert not either.vc.status() & vu.NEEDS_RESET
    either.vc.do(vu.RESET_DEVICE)
    either.memory.attach(either.vc)
    either.restart()
    either.works()


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
        r.kick(force=True)
        vc.barrier()
    heal(either)


def test_two_rings_in_the_same_memory(blk_path, packed):
    """Kicked in turns while the driver goes on with one of them."""
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
        for i in range(20):
            one.add(d.make(OUT, 8 * i, pattern(i, 512)).segs)
            one.publish()
            for r in d.rings:
                r.kick(force=True)
        time.sleep(0.02)
        other.desc, other.driver, other.device = mine
        heal(d)
        d.works(queue=1)


# ---- A3: the avail index ----

@pytest.mark.parametrize("jump", [SIZE + 1, 2 * SIZE, 1000, 0x7fff, 0x8000, 0xfffe, 0xffff], ids=hex)
def test_avail_index_that_jumps(blk, jump):
    """0xffff: backwards by one."""
    r = blk.rings[0]
    blk.works()
    request, before = blk.make(IN, 0, in_bytes=512), r.device_idx()
    r.set_avail_idx(r.avail_idx + jump)
    r.kick(force=True)
    is_broken(blk)
    assert request.status == UNTOUCHED and r.device_idx() == before
    heal(blk)


def test_avail_index_one_ring_ahead_is_the_most(blk):
    """As many as the ring has, and not one of them twice."""
    r = blk.rings[0]
    h = Hand(blk, IN, 0)
    for i in range(SIZE):
        r.write_desc(i, h.status.addr, 1, WRITE)
        r.set_head(i, i)
    r.set_avail_idx(SIZE)
    r.kick(force=True)
    deadline = time.monotonic() + 5
    while r.device_idx() != SIZE:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    used = [struct.unpack("<II", blk.memory.read(r.device + 4 + 8 * i, 8)) for i in range(SIZE)]
    assert sorted(i for i, _ in used) == list(range(SIZE))
    heal(blk)


def test_avail_index_that_moves_all_the_time(blk):
    """While it is read. At most a ring's worth is taken at a time; sooner or later the lie is seen."""
    r = blk.rings[0]
    h = Hand(blk, IN, 0)
    for i in range(SIZE):
        r.write_desc(i, h.status.addr, 1, WRITE)
        r.set_head(i, i)
    end = time.monotonic() + 0.3
    idx = 0
    while time.monotonic() < end:
        for _ in range(100):
            idx = (idx + random.choice((1, 1, 1, 5, SIZE // 2, -3))) & 0xffff
            r.set_avail_idx(idx)
        r.kick(force=True)
    r.set_avail_idx(r.device_idx() + 0x4000)
    r.kick(force=True)
    is_broken(blk)
    heal(blk)


# ---- A4: heads, next indexes, buffer IDs, wrap bits ----

@pytest.mark.parametrize("head", [SIZE, SIZE + 1, 255, 0x7fff, 0x8000, 0xffff])
def test_head_out_of_range(blk, head):
    r = blk.rings[0]
    blk.works()
    r.offer(head)
    r.publish()
    r.kick(force=True)
    is_broken(blk)
    heal(blk)


def test_head_that_is_in_flight_already(blk):
    """Twice in one batch, and while its first life is held."""
    r = blk.rings[0]
    ident = r.add(blk.make(IN, 0, in_bytes=4096).segs)
    r.offer(ident)
    r.publish()
    r.kick()
    is_broken(blk)
    assert r.device_idx() <= 1
    heal(blk)
    with held(blk, count=1) as h:
        h.wait_fetched()
        r.offer(h.ids[0])
        r.publish()
        r.kick(force=True)
        is_broken(blk)
        assert h.untouched()
        heal(blk)


@pytest.mark.parametrize("following", [SIZE, 0x7fff, 0xffff])
def test_next_index_out_of_range(blk, following):
    h = Hand(blk, IN, 0)
    offer_raw(blk, [(h.head.addr, 16, NEXT, following)])
    is_broken(blk)
    heal(blk)


@pytest.mark.parametrize("ident", [SIZE, SIZE + 1, 0x7fff, 0x8000, 0xffff])
def test_buffer_id_out_of_range(packed_disk, ident):
    h = Hand(packed_disk, IN, 0)
    offer_raw(packed_disk, [(h.head.addr, 16, NEXT, 0), (h.status.addr, 1, WRITE, 0)], ident=ident)
    is_broken(packed_disk)
    assert h.answer() == UNTOUCHED
    heal(packed_disk)


def test_buffer_id_that_is_in_flight_already(packed_disk):
    """Twice in one batch, and while its first life is held."""
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
    with held(packed_disk, count=1) as h:
        h.wait_fetched()
        again = Hand(packed_disk, IN, 0)
        offer_raw(packed_disk, [(again.head.addr, 16, NEXT, 0), (again.status.addr, 1, WRITE, 0)], ident=h.ids[0])
        is_broken(packed_disk)
        assert h.untouched() and again.answer() == UNTOUCHED
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
    packed_disk.works()
    r = packed_disk.rings[0]
    h = Hand(packed_disk, IN, 0)
    for flags in (0, AVAIL | USED, USED):
        for chain in (WRITE, NEXT):
            r.write_desc(r.next, h.status.addr, 1, 0, chain | flags)
            r.kick(force=True)
            packed_disk.vc.barrier()
            time.sleep(0.01)
            assert h.answer() == UNTOUCHED
    assert not packed_disk.vc.status() & vu.NEEDS_RESET
    r.write_desc(r.next, 0, 0, 0, 0)
    packed_disk.works()
