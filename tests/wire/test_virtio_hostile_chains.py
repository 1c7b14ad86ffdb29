# SPDX-License-Identifier: BSD-3-Clause
"""Drivers whose chains break the rules: an error when there is a byte to say so, else the function needs a reset. The walk
is bounded, nothing is read or written outside, no slot is lost, and nobody else notices."""
import struct
import time

import pytest
from blk_chains import (AWAY, MIB, UNTOUCHED, Hand, heal, is_broken, offer_raw, raw_table, run_chain, run_raw)
from vhost_user import NEEDS_RESET
from virtio_blk import IN, INDIRECT_DESC, IOERR, OK, OUT, Request, VirtioBlk, bits, head, pattern
from virtq import INDIRECT, NEXT, WRITE, Seg

pytestmark = pytest.mark.usefixtures("blk_neighbour")

SIZE = 64
CHAIN_MAX = 4096  # descriptors the service walks for one chain


# ---- A5: chains without an end ----

@pytest.mark.parametrize("length", [1, 2, SIZE])
def test_loop(blk, length):
    """Of readable descriptors, of writable ones behind a header, and of empty ones."""
    h = Hand(blk, IN, 0)
    header, status, empty = (h.head.addr, 16, NEXT), (h.status.addr, 1, NEXT | WRITE), (0, 0, NEXT)
    for first, rest in ((header, header), (header, status), (empty, empty)):
        offer_raw(blk, [(*(rest if i else first), (i + 1) % length) for i in range(length)])
        is_broken(blk)
        assert h.answer() == UNTOUCHED
        heal(blk)


def test_loop_of_writable_descriptors_behind_a_header(blk):
    h = Hand(blk, IN, 0)
    offer_raw(blk, [(h.head.addr, 16, NEXT, 1), (h.status.addr, 1, NEXT | WRITE, 1)])
    is_broken(blk)
    assert h.answer() == UNTOUCHED
    heal(blk)


def test_packed_ring_with_next_everywhere(blk_path):
    with VirtioBlk(blk_path, packed=True) as d:
        h = Hand(d, IN, 0)
        for rest in ((h.head.addr, 16, NEXT, 0), (h.status.addr, 1, NEXT | WRITE, 0)):
            offer_raw(d, [(h.head.addr, 16, NEXT, 0)] + [rest] * (SIZE - 1))
            is_broken(d)
            assert h.answer() == UNTOUCHED
            heal(d)


@pytest.mark.parametrize("following", [0, 2, 900], ids=["circle", "one-behind", "far-behind"])
def test_next_index_of_a_table(blk, following):
    """In a circle, and out of it."""
    h = Hand(blk, IN, 0)
    table = raw_table(blk, (h.head.addr, 16, NEXT, 1), (h.status.addr, 1, WRITE | NEXT, following),
                      (h.status.addr, 1, WRITE, 0))
    offer_raw(blk, [(table, 32, INDIRECT, 0)])
    is_broken(blk)
    assert h.answer() == UNTOUCHED
    heal(blk)


@pytest.mark.parametrize("entries", [CHAIN_MAX, 65536])
def test_table_beyond_the_services_limit(either, entries):
    h = Hand(either, IN, 0)
    seg = h.into(1)
    at = either.memory.alloc(16 * entries, 16)
    following = (lambda i: (WRITE | NEXT, (i + 1) & 0xffff)) if not either.packed else (lambda i: (0, WRITE))
    either.memory.write(at, b"".join(struct.pack("<QIHH", seg.addr, 1, *following(i)) for i in range(entries)))
    offer_raw(either, [(at, 16 * entries, INDIRECT, 0)])
    is_broken(either)
    assert h.read(seg) == bytes([UNTOUCHED])
    heal(either)


def test_many_long_chains_do_not_starve_others(either, blk_neighbour):
    """Work per turn is bounded: tables of the largest size, again and again."""
    table, r = either.memory.alloc(16 * CHAIN_MAX, 16), either.rings[0]
    request = Request(either.memory, head(IN, 0), 1)
    r.write_table([request.segs[0]] + [Seg(request.segs[0].addr, 0, False)] * 4000 + [request.segs[1]], table)
    for _ in range(50):
        r.put([(table, 16 * 4002, INDIRECT)])
    r.publish()
    r.kick()
    assert set(r.wait_all().values()) == {1} and request.status == OK
    blk_neighbour.goes_on()


# ---- A6: indirect descriptors ----

def bad_tables(d, h):
    good = (h.head.addr, 16, NEXT, 1), (h.status.addr, 1, WRITE, 0)
    table = raw_table(d, *good)
    nested = raw_table(d, (table, 32, INDIRECT, 0))
    late = raw_table(d, (h.head.addr, 16, NEXT, 1), (table, 32, INDIRECT, 0))
    return {
        "length-0": [(table, 0, INDIRECT, 0)],
        "length-1": [(table, 1, INDIRECT, 0)],
        "length-15": [(table, 15, INDIRECT, 0)],
        "length-33": [(table, 33, INDIRECT, 0)],
        "length-47": [(table, 47, INDIRECT, 0)],
        "length-max": [(table, 0xffffffff, INDIRECT, 0)],
        "all-of-memory": [(d.memory.gpa, MIB, INDIRECT, 0)],
        "nested": [(nested, 16, INDIRECT, 0)],
        "nested-late": [(late, 32, INDIRECT, 0)],
        "with-next": [(table, 32, INDIRECT | NEXT, 1), good[1]],
    }


def test_bad_indirect_descriptor(either):
    for case in bad_tables(either, Hand(either)):
        h = Hand(either, IN, 0)
        offer_raw(either, bad_tables(either, h)[case])
        is_broken(either)
        assert h.answer() == UNTOUCHED, case
        heal(either)


def test_table_said_to_be_longer_than_there_is_memory(either):
    """A split ring's chain ends where its table says; a packed ring's is as long as the table."""
    h = Hand(either, IN, 0)
    table = raw_table(either, (h.head.addr, 16, NEXT, 1), (h.status.addr, 1, WRITE, 0))
    if either.packed:
        offer_raw(either, [(table, 0xfffffff0, INDIRECT, 0)])
        is_broken(either)
    else:
        assert run_raw(either, [(table, 0xfffffff0, INDIRECT, 0)]) == 1 and h.answer() == OK
    heal(either)


def test_indirect_descriptor_behind_others(either):
    """2.7.5.3.2: a chain may go on in a table. A packed ring has no such thing, and is broken or served."""
    h = Hand(either, IN, 0)
    table = raw_table(either, (h.status.addr, 1, WRITE, 0))
    offer_raw(either, [(h.head.addr, 16, NEXT, 1), (table, 16, INDIRECT, 0)])
    if either.packed:
        deadline = time.monotonic() + 5
        while h.answer() == UNTOUCHED and not either.vc.status() & NEEDS_RESET:
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
    assert run_raw(either, [(table, 32, INDIRECT | WRITE, 0)]) == 1 and h.answer() == OK
    heal(either)


def test_indirect_that_was_not_negotiated(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed, features=VirtioBlk.WANTED & ~bits(INDIRECT_DESC)) as d:
        h = Hand(d, IN, 0)
        table = raw_table(d, (h.head.addr, 16, NEXT, 1), (h.status.addr, 1, WRITE, 0))
        offer_raw(d, [(table, 32, INDIRECT, 0)])
        is_broken(d)
        assert h.answer() == UNTOUCHED
        heal(d)


# ---- A6, A7, A9: chains that point to nowhere ----

def parked_ones_end(d):
    """One queue each: a table, a header, data, a status byte. The device waits a while for memory that may come back."""
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
    while not d.vc.channel.silent(0.05):  # of the other broken one
        d.vc.config_change()
    heal(d)


def test_memory_that_is_not_there(blk_path, packed):
    """Once the time for memory to come back is over, the answer comes at once."""
    with VirtioBlk(blk_path, packed=packed, queues=4) as d:
        d.write(0, pattern(1, 512))
        parked_ones_end(d)
        end = d.memory.gpa + d.memory.size
        nowhere = (0, AWAY, end, end - 8, 0xffff_ffff_ffff_fff0, 0x7fff_ffff_ffff_f000)
        for addr in nowhere:
            h = Hand(d, IN, 0)
            data = h.into(512)
            assert run_chain(d, [Seg(addr, 16, False), data, h.status]) == 1 and h.answer() == IOERR
            assert h.read(data) == bytes([UNTOUCHED]) * 512
        for addr, length in [(a, 512) for a in nowhere] + [(end - 4096, 8192), (0xffff_ffff_ffff_f000, 8192)] + \
                [(h.status.addr, n) for n in (0xffffffff, 0x80000000, 0xfffffe00)]:
            for kind in (IN, OUT):
                h = Hand(d, kind, 0)
                assert run_chain(d, [h.head, Seg(addr, length, kind == IN), h.status]) == 1 and h.answer() == IOERR
        h = Hand(d, IN, 0)
        assert run_chain(d, [h.head] + [Seg(h.head.addr, 0xfffffe00, True)] * 12 + [h.status]) == 1
        assert h.answer() == IOERR, "more than 32 bits together"
        for addr in nowhere[:3] + nowhere[4:]:
            h = Hand(d, IN, 0)
            data = h.into(512)
            offer_raw(d, [(h.head.addr, 16, NEXT, 1), (data.addr, 512, NEXT | WRITE, 2), (addr, 1, WRITE, 0)])
            is_broken(d)
            assert h.read(data) in (bytes([UNTOUCHED]) * 512, pattern(1, 512))
            heal(d)
        d.memory.write(end - 16, struct.pack("<QIHH", h.head.addr, 16, NEXT, 1))
        for addr in nowhere + (end - 16, (1 << 64) - 16):
            offer_raw(d, [(addr, 48, INDIRECT, 0)])
            is_broken(d)
            heal(d)
        d.write(0, pattern(2, 512))
        assert d.read(0, 1) == pattern(2, 512)


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
        "header-where-the-device-writes": ([Seg(h.head.addr, 16, True), h.status], IOERR),
        "header-of-15": ([short, h.status], IOERR),
        "header-of-nothing": ([none, h.status], IOERR),
        "no-status": ([h.head], None),
        "no-status-but-data": ([h.head, data], None),
        "status-of-nothing": ([h.head, empty], None),
        "status-not-writable": ([h.head, Seg(h.status.addr, 1, False)], None),
        "nothing-at-all": ([none], None),
        "zero-lengths-only": ([none, none, empty, empty], None),
        "readable-behind-writable": ([h.head, more, data, h.status], IOERR),
        "data-behind-the-status": ([h.head, h.status, data], IOERR),
        "header-at-the-end": ([h.status, h.head], IOERR),
        "all-the-wrong-way-round": ([h.status, h.head, data], IOERR),
    }


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_chain_that_is_no_request_comes_back(either, indirect):
    """More often than the ring has slots: none is lost."""
    either.write(0, pattern(1, 512))
    for case in no_requests(Hand(either)):
        h = Hand(either, OUT, 0)
        segs, status = no_requests(h)[case]
        table = either.memory.alloc(16 * len(segs), 16) if indirect else None
        for _ in range(2 * SIZE + 1):
            either.memory.write(h.status.addr, bytes([UNTOUCHED]))
            length = either.rings[0].wait(either.rings[0].submit(segs, indirect=table))
            if status is None:
                assert length == 0 and h.answer() == UNTOUCHED, case
            else:
                assert length == 1 and h.answer() == status, case
    assert not either.vc.status() & NEEDS_RESET
    assert either.read(0, 1) == pattern(1, 512)
