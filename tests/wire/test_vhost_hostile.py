# SPDX-License-Identifier: BSD-3-Clause
"""A guest that breaks its rings: its device asks for a reset, its neighbours notice nothing, and a reset heals it."""
import os
import random
import struct
import threading
import time

import pytest
import vhost_user as vu
import virtio_blk as vb
from vfio_user import fired
from vhost_user import GuestMemory, VhostError
from virtio_blk import IN, IOERR, OK, OUT, Request, VirtioBlk, bits, head, pattern
from virtq import INDIRECT, NEXT, USED, WRITE, Seg

BASE = 0x8_0000_0000
HEALERS = ["status_0", "reset_device", "reconnect"]


def heal(d, how="status_0"):
    if how == "reconnect":
        for r in d.rings:
            r.restart()
        d.area.clear()
        d.reconnect(bases=[r.base() for r in d.rings])
    else:
        d.vc.set_status(0) if how == "status_0" else d.vc.do(vu.RESET_DEVICE)
        assert d.vc.status() == 0
        d.restart()
    d.works(sector=4000)


def expect_broken(d, how="status_0"):
    """All that must follow a broken ring."""
    d.broken()
    assert fired(d.rings[0].err_event), "the error eventfd"
    # Nothing of it is fetched any more.
    d.rings[0].poll()
    os.eventfd_write(d.rings[0].kick_event, 1)
    assert d.rings[0].quiet(0.03)
    heal(d, how)


def expect_broken_or_error(d, status, forms=(IOERR,)):
    """The chain comes back with an error, or, when its status cannot be trusted, the ring is broken."""
    deadline = time.monotonic() + 5
    while True:
        if d.rings[0].poll():
            assert status is None or d.memory.read(status, 1)[0] in forms
            d.works(sector=4000)
            return
        if d.vc.status() & vu.NEEDS_RESET:
            expect_broken(d)
            return
        assert time.monotonic() < deadline, "neither an error nor a device that needs a reset"
        time.sleep(0.001)


def offer(d, head_):
    """Split: makes a head available that add() knows nothing of."""
    r = d.rings[0]
    if head_ in r.free:
        r.free.remove(head_)
    r.offer(head_)
    r.outstanding[head_] = [head_]
    r.publish()
    r.kick(force=True)


def write_packed(d, descs, ident=0):
    """Packed: descriptors as they are, all available at once: (addr, length, flags) or with an id of their own."""
    r = d.rings[0]
    if ident in r.free_ids:
        r.free_ids.remove(ident)
    at = []
    for n, desc in enumerate(descs):
        addr, length, flags = desc[:3]
        pos, bit = r.next, r.avail_flags()
        d.memory.write(r.desc + 16 * pos, struct.pack("<QIH", addr, length, desc[3] if len(desc) > 3 else ident))
        at.append((r.desc + 16 * pos + 14, flags | bit))
        r.advance()
    r.outstanding[ident] = len(descs)
    for where, flags in reversed(at):
        d.memory.set16(where, flags)
    r.kick(force=True)


def pieces(d):
    """A good read: header, data, status."""
    request = Request(d.memory, head(IN, 0), 513)
    return request.segs[0].addr, request.in_at, request.in_at + 512


# ---- A1: where the rings are ----

@pytest.mark.parametrize("what", ["gone", "partly", "wrapping", "unaligned"])
def test_ring_address_that_cannot_be(blk_path, packed, what, blk_neighbour):
    """Refused when it is set, so that the ring never starts; the device goes on with a good one."""
    with VirtioBlk(blk_path, packed=packed, start=False) as d:
        d.vc.set_features(d.vc.offered & d.wanted)
        d.memory.attach(d.vc)
        r = d.rings[0]
        d.vc.set_num(0, r.size)
        at = {"gone": 0x10000, "partly": d.memory.gpa + d.memory.size - 16,
              "wrapping": 0xffff_ffff_ffff_fff0 - vu.USER_OFFSET, "unaligned": r.desc + 8}[what]
        with pytest.raises(VhostError):
            d.vc.set_addr(0, at, r.driver, r.device)
        with pytest.raises(VhostError):
            d.vc.kick_fd(0, r.kick_event)
        d.start_ring(0, r.base())
        d.enable()
        d.works()


def test_rings_on_top_of_each_other(blk_path, packed, blk_snap, blk_neighbour):
    """Two queues in one place, and the parts of one on one page: the guest hurts itself only."""
    with VirtioBlk(blk_path, queues=2, packed=packed, start=False) as d:
        d.vc.set_features(d.vc.offered & d.wanted)
        d.memory.attach(d.vc)
        r = d.rings[0]
        for i in range(2):
            d.vc.set_num(i, r.size)
            d.vc.set_base(i, r.base())
            d.vc.set_addr(i, r.desc, r.driver, r.device)
            d.vc.kick_fd(i, d.rings[i].kick_event)
        d.enable()
        for i in range(50):
            r.add(d.make(OUT, i, pattern(i, 512)).segs)
            r.publish()
            os.eventfd_write(d.rings[0].kick_event, 1)
            os.eventfd_write(d.rings[1].kick_event, 1)
            r.poll()
            if r.size - 3 < len(r.outstanding) * 3:
                break
        d.vc.do(vu.RESET_DEVICE)
        for i in range(2):
            d.vc.set_features(d.vc.offered & d.wanted)
            d.vc.set_num(i, r.size)
            d.vc.set_base(i, r.base())
            d.vc.set_addr(i, r.desc, r.desc, r.desc)
            d.vc.kick_fd(i, d.rings[i].kick_event)
            d.vc.enable(i)
            os.eventfd_write(d.rings[i].kick_event, 1)
        d.vc.barrier()
        d.vc.do(vu.RESET_DEVICE)
        assert blk_snap.service.poll() is None
        d.restart()
        d.works()


def test_ring_whose_memory_stays_away_harms_nobody(either, blk_neighbour):
    """Parked, not broken: it goes on when the memory is back, and a reset works meanwhile."""
    either.works()
    either.memory.detach(either.vc)
    os.eventfd_write(either.rings[0].kick_event, 1)
    either.vc.barrier()
    assert not either.vc.status() & vu.NEEDS_RESET
    either.vc.do(vu.RESET_DEVICE)
    either.memory.attach(either.vc)
    either.restart()
    either.works()


# ---- A3: the avail index ----

@pytest.mark.parametrize("jump", [65, 1000, 0x8000, 0xfffe, 0xffff])
@pytest.mark.parametrize("how", HEALERS)
def test_avail_index_that_jumps_or_runs_backwards(blk, jump, how, blk_neighbour):
    blk.works()
    r = blk.rings[0]
    before = r.device_idx()
    r.set_avail_idx(r.avail_idx + jump)
    r.kick(force=True)
    blk.broken()
    assert (r.device_idx() - before) & 0xffff <= r.size
    expect_fired_and_heal(blk, how)


def expect_fired_and_heal(d, how):
    assert fired(d.rings[0].err_event)
    os.eventfd_write(d.rings[0].kick_event, 1)
    assert d.rings[0].quiet(0.02)
    heal(d, how)


def test_avail_index_that_moves_all_the_time(blk, blk_snap, blk_neighbour):
    """While it is read; never more than the ring has is taken."""
    r = blk.rings[0]
    chain = [Seg(*s) for s in blk.make(IN, 0, in_bytes=512).segs]
    for _ in range(20):
        r.add(chain)
    stop = time.monotonic() + 0.5
    while time.monotonic() < stop:
        for k in range(300):
            r.set_avail_idx(k * 7919)
        r.kick(force=True)
    blk.broken()
    heal(blk)


# ---- A4: numbers out of range ----

@pytest.mark.parametrize("number", [64, 65, 0x7fff, 0xffff])
def test_head_out_of_range(blk, number, blk_neighbour):
    blk.works()
    offer(blk, number)
    expect_broken(blk)


@pytest.mark.parametrize("number", [64, 0x7fff, 0xffff])
def test_next_out_of_range(blk, number, blk_neighbour):
    at, data, status = pieces(blk)
    r = blk.rings[0]
    r.write_desc(0, at, 16, NEXT, number)
    offer(blk, 0)
    expect_broken_or_error(blk, None)


def test_head_that_is_in_flight_already(blk, blk_neighbour):
    """Its first life is held by memory that is away."""
    ram = GuestMemory(1 << 20, BASE)
    ram.attach(blk.vc)
    ram.detach(blk.vc)
    request = Request(blk.memory, head(IN, 0), 1)
    r = blk.rings[0]
    ident = r.submit([request.segs[0], Seg(BASE, 512, True), request.segs[1]])
    assert r.quiet(0.05)
    offer(blk, ident)
    expect_broken(blk)
    ram.close()


def test_packed_buffer_id_out_of_range_or_in_flight(blk_path, blk_neighbour):
    with VirtioBlk(blk_path, packed=True) as d:
        at, data, status = pieces(d)
        for ident in (64, 0x7fff, 0xffff):
            write_packed(d, [(at, 16, NEXT, 0), (data, 512, WRITE | NEXT, 0), (status, 1, WRITE, ident)])
            expect_broken(d)
        ram = GuestMemory(1 << 20, BASE)
        ram.attach(d.vc)
        ram.detach(d.vc)
        request = Request(d.memory, head(IN, 0), 1)
        ident = d.rings[0].submit([request.segs[0], Seg(BASE, 512, True), request.segs[1]])
        assert d.rings[0].quiet(0.05)
        write_packed(d, [(at, 16, NEXT, 9), (data, 512, WRITE | NEXT, 9), (status, 1, WRITE, ident)], ident)
        expect_broken(d)
        ram.close()


def test_packed_wrong_wrap_bits_are_not_available(blk_path):
    """Neither is half a chain: it waits."""
    with VirtioBlk(blk_path, packed=True) as d:
        d.works()
        r = d.rings[0]
        at, data, status = pieces(d)
        for flags in (USED, 0):
            r.write_desc(r.next, at, 16, 0, flags | NEXT)
            r.kick(force=True)
            assert r.quiet(0.03)
            assert not d.vc.status() & vu.NEEDS_RESET
        r.write_desc(r.next, 0, 0, 0, 0)
        d.works()


# ---- A5: chains without an end ----

def test_chain_in_a_circle(blk, blk_neighbour):
    at, data, status = pieces(blk)
    r = blk.rings[0]
    for length in (1, 2, 64):
        for i in range(length):
            r.write_desc(i, data if i else at, 512 if i else 16, (WRITE if i else 0) | NEXT, (i + 1) % length)
        offer(blk, 0)
        expect_broken(blk)
        r = blk.rings[0]


def test_circle_of_empty_descriptors(blk, blk_neighbour):
    r = blk.rings[0]
    for i in range(64):
        r.write_desc(i, 0, 0, NEXT, (i + 1) % 64)
    offer(blk, 3)
    expect_broken(blk)


def test_all_packed_descriptors_with_next(blk_path, blk_neighbour):
    with VirtioBlk(blk_path, packed=True) as d:
        at, data, status = pieces(d)
        write_packed(d, [(at, 16, NEXT)] + [(data, 8, WRITE | NEXT)] * 63)
        expect_broken(d)


def test_packed_chain_as_long_as_the_ring(blk_path):
    with VirtioBlk(blk_path, packed=True) as d:
        for i in range(5):
            assert d.run(IN, 0, in_bytes=512 * 62, in_cuts=[512] * 62 + [1])[0] == OK


def test_many_long_chains_do_not_starve_others(blk, blk_neighbour):
    """Work per turn is bounded: tables of the largest size, again and again."""
    table = blk.memory.alloc(16 * 4096, 16)
    request = Request(blk.memory, head(IN, 0), 1)
    blk.rings[0].write_table([request.segs[0]] + [Seg(request.segs[0].addr, 0, False)] * 4000 + [request.segs[1]], table)
    before = blk_neighbour.completed()
    ids = []
    for i in range(50):
        k = blk.rings[0].free.pop(0)
        blk.rings[0].write_desc(k, table, 16 * 4002, INDIRECT)
        blk.rings[0].outstanding[k] = [k]
        blk.rings[0].offer(k)
        ids.append(k)
    blk.rings[0].publish()
    blk.rings[0].kick()
    blk.rings[0].wait_all()
    assert request.status in (OK, IOERR)
    deadline = time.monotonic() + 5
    while blk_neighbour.completed() <= before:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- A6: indirect tables ----

def indirect_cases(d):
    """(name, prepare): prepare() returns the address, length and extra flags of the referring descriptor."""
    m, r = d.memory, d.rings[0]
    at, data, status = pieces(d)
    segs = [Seg(at, 16, False), Seg(data, 512, True), Seg(status, 1, True)]
    table = m.alloc(16 * 64, 16)
    r.write_table(segs, table)
    nested = m.alloc(64, 16)
    if d.packed:
        r.write_desc(0, table, 48, 0, INDIRECT, table=nested)
    else:
        r.write_desc(0, table, 48, INDIRECT, 0, table=nested)
    beyond = m.alloc(64, 16)
    r.write_table(segs, beyond)
    if not d.packed:
        r.write_desc(1, data, 512, WRITE | NEXT, 900, table=beyond)
    circle = m.alloc(64, 16)
    if d.packed:
        r.write_table(segs, circle)
    else:
        r.write_desc(0, at, 16, NEXT, 1, table=circle)
        r.write_desc(1, data, 1, WRITE | NEXT, 0, table=circle)
    return status, [("no multiple of 16", (table, 47, 0)), ("empty", (table, 0, 0)), ("one byte", (table, 1, 0)),
                    ("huge", (m.gpa, 0x10000 * 16, 0)), ("4 GiB", (table, 0xfffffff0, 0)), ("nested", (nested, 16, 0)),
                    ("with next", (table, 48, NEXT)), ("unmapped", (BASE, 48, 0)), ("wrapping", ((1 << 64) - 16, 48, 0)),
                    ("partly mapped", (m.gpa + m.size - 16, 48, 0)), ("beyond its table", (beyond, 48, 0)),
                    ("in a circle", (circle, 32, 0)), ("writable reference", (table, 48, WRITE))]


def refer(d, addr, length, flags):
    if d.packed:
        write_packed(d, [(addr, length, INDIRECT | flags)] + ([(addr, 16, 0)] if flags & NEXT else []))
        return
    r = d.rings[0]
    r.write_desc(0, addr, length, INDIRECT | flags, 1 if flags & NEXT else 0)
    r.write_desc(1, addr, 16, 0)
    offer(d, 0)


def test_bad_indirect_tables(either, blk_snap, blk_neighbour):
    """An error, or the ring is broken. WRITE of a reference means nothing (2.7.5.3.1), and a good chain may lie in a table
    that is longer than there is memory."""
    count = len(indirect_cases(either)[1])
    for n in range(count):
        heal(either)
        either.rings[0].restart()
        either.vc.set_status(0)
        either.restart()
        either.memory.used = 1 << 20
        status, cases = indirect_cases(either)
        name, reference = cases[n]
        refer(either, *reference)
        fine = ("writable reference",) + (("beyond its table", "in a circle") if either.packed else ("4 GiB",))
        ok = (OK,) if name in fine else ()
        expect_broken_or_error(either, status, (IOERR, 0xa5, *ok))
        assert blk_snap.service.poll() is None, name


def test_indirect_that_was_not_agreed_on(blk_path, packed, blk_neighbour):
    with VirtioBlk(blk_path, packed=packed, features=VirtioBlk.WANTED & ~bits(vb.INDIRECT_DESC)) as d:
        request = d.make(IN, 0, in_bytes=512)
        d.rings[0].submit(request.segs, indirect=d.memory.alloc(48, 16))
        expect_broken_or_error(d, request.in_at + 512)


# ---- A7, A9: where data points ----

@pytest.mark.parametrize("addr", [0, BASE, 0xffff_ffff_ffff_fff0, 0x7fff_ffff_ffff_f000])
def test_header_or_status_in_nowhere(either, addr, blk_neighbour):
    at, data, status = pieces(either)
    either.rings[0].submit([Seg(addr, 16, False), Seg(data, 512, True), Seg(status, 1, True)])
    expect_broken_or_error(either, status)
    at, data, status = pieces(either)
    either.rings[0].submit([Seg(at, 16, False), Seg(data, 512, True), Seg(addr, 1, True)])
    expect_broken_or_error(either, None)
    assert either.memory.read(data, 512) in (b"\xa5" * 512, either.read(0, 1))


def test_lengths_up_to_4_gib(either, blk_neighbour):
    for length in (0xffffffff, 0x80000000, 0xfffffe00):
        at, data, status = pieces(either)
        either.rings[0].submit([Seg(at, 16, False), Seg(data, length, True), Seg(status, 1, True)])
        expect_broken_or_error(either, status)
    at, data, status = pieces(either)
    either.rings[0].submit([Seg(at, 16, False)] + [Seg(data, 0xfffffe00, True)] * 12 + [Seg(status, 1, True)])
    expect_broken_or_error(either, status)


# ---- A12: races ----

def test_descriptors_that_change_while_they_are_read(either, blk_snap, blk_neighbour):
    """A thread scribbles over chains, tables and headers in flight. Whatever comes of it is the guest's own trouble."""
    m, r = either.memory, either.rings[0]
    at, data, status = pieces(either)
    table = m.alloc(4096, 16)
    good = struct.pack("<QIHH", at, 16, NEXT, 1) + struct.pack("<QIHH", data, 512, WRITE | NEXT, 2) + \
        struct.pack("<QIHH", status, 1, WRITE, 0)
    bad = struct.pack("<QIHH", BASE, 0xffffffff, NEXT | WRITE, 0xffff) * 3
    stop = threading.Event()

    def scribble():
        n = 0
        while not stop.is_set():
            n += 1
            m.write(table, good if n & 1 else bad)
            m.write(at, head(IN if n & 2 else OUT, 0 if n & 4 else (1 << 64) - 1))

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            if either.packed:
                ident = r.free_ids.pop(0)
                r.write_desc(r.next, table, 48, ident, r.avail_flags() | INDIRECT)
                r.advance()
                r.outstanding[ident] = 1
            else:
                ident = r.free.pop(0)
                r.write_desc(ident, table, 48, INDIRECT)
                r.outstanding[ident] = [ident]
                r.offer(ident)
                r.publish()
            r.kick(force=True)
            deadline = time.monotonic() + 1
            while not r.poll() and time.monotonic() < deadline:
                if either.vc.status() & vu.NEEDS_RESET:
                    either.vc.set_status(0)
                    either.restart()
                    break
            r.done.clear()
    finally:
        stop.set()
        thread.join()
    assert blk_snap.service.poll() is None
    heal(either)


def test_rings_scribbled_over(either, blk_snap, blk_neighbour):
    """Seeded noise over all parts of a running ring."""
    rng = random.Random(99)
    for lap in range(30):
        for _ in range(5):
            either.rings[0].add(either.make(OUT, lap, pattern(lap, 512)).segs)
        either.rings[0].publish()
        either.rings[0].kick()
        for at, size in either.rings[0].parts:
            for _ in range(rng.randrange(20)):
                either.memory.write(at + rng.randrange(size), bytes([rng.randrange(256)]))
        os.eventfd_write(either.rings[0].kick_event, 1)
        either.vc.barrier()
        either.vc.set_status(0)
        either.buffers.clear()
        either.memory.used = 1 << 20
        either.restart()
    assert blk_snap.service.poll() is None
    either.works()


# ---- who is not harmed ----

def test_other_queues_of_a_broken_device_are_healed_with_it(blk_path, blk_neighbour):
    with VirtioBlk(blk_path, queues=2) as d:
        d.works(queue=1)
        offer(d, 999)
        d.broken()
        heal(d)
        d.works(queue=1)


def test_broken_ring_can_be_stopped(either, blk_neighbour):
    """GET_VRING_BASE of a ring that is broken is answered, and the front end may go on in any way."""
    if either.packed:
        at, data, status = pieces(either)
        write_packed(either, [(at, 16, 0, 0xffff)])
    else:
        offer(either, 999)
    either.broken()
    either.vc.get_base(0, timeout=8)
    heal(either)


def test_broken_again_and_again(blk, blk_snap, blk_neighbour):
    """The log stays small: what a guest can cause is said now and then, not each time."""
    size = (blk_snap.tmpdir / "service.log").stat().st_size
    for _ in range(100):
        offer(blk, 999)
        blk.broken()
        blk.vc.set_status(0)
        blk.restart()
    blk.works()
    assert (blk_snap.tmpdir / "service.log").stat().st_size - size < 100 * 200


def test_broken_ring_survives_the_service(blk_snap, either, blk_neighbour):
    """The next service does not serve it either; a reset heals."""
    if either.packed:
        at, data, status = pieces(either)
        write_packed(either, [(at, 16, 0, 0xffff)])
    else:
        offer(either, 999)
    either.broken()
    blk_snap.kill_service()
    try:
        assert either.vc.status() & vu.NEEDS_RESET
    finally:
        blk_snap.start_service()
    os.eventfd_write(either.rings[0].kick_event, 1)
    assert either.rings[0].quiet(0.05) and either.vc.status() & vu.NEEDS_RESET
    heal(either)
