# SPDX-License-Identifier: BSD-3-Clause
"""Virtqueues by the book, split and packed: wrapping, batches, indirect tables, and who tells whom when."""
import os
import time

import pytest
import virtio_blk as vb
from blk_chains import fill
from vfio_user import fired
from virtio_blk import IN, OK, OUT, Request, VirtioBlk, bits, head, pattern
from virtq import DESC, DISABLE, ENABLE, INDIRECT, NEXT, NO_INTERRUPT, WRITE


def show(d, queue=0, kick=True):
    d.rings[queue].publish()
    if kick:
        d.rings[queue].kick()


@pytest.fixture(params=[(False, False), (False, True), (True, False), (True, True)],
                ids=["split", "split-event", "packed", "packed-event"])
def any_ring(blk_path, request):
    packed, event_idx = request.param
    with VirtioBlk(blk_path, size=32, packed=packed, event_idx=event_idx) as d:
        yield d


@pytest.fixture
def event(blk_path, packed):
    with VirtioBlk(blk_path, size=32, packed=packed, event_idx=True) as d:
        yield d


def test_many_laps_with_chains_of_all_lengths(any_ring):
    for i in range(200):
        n = i % 5 + 1
        data = pattern(i, 512 * n)
        any_ring.write(64, data, out_cuts=[16] + [512] * n)
        assert any_ring.read(64, n, in_cuts=[512] * n + [1]) == data


def test_full_ring_again_and_again(any_ring):
    """All of it is used by chains of three; 32 is no multiple of 3, so chains wrap around the end."""
    for lap in range(40):
        requests = [any_ring.make(OUT, 8 * i, pattern(lap + i, 512), out_cuts=[16, 512]) for i in range(10)]
        for r in requests:
            any_ring.rings[0].add(r.segs)
        show(any_ring)
        assert set(any_ring.rings[0].wait_all().values()) == {1} and {r.status for r in requests} == {OK}
    assert any_ring.read(8, 1) == pattern(40, 512)


def test_indirect_tables_fill_every_slot(any_ring):
    for lap in range(5):
        requests = [any_ring.make(OUT, 8 * i, pattern(i, 512)) for i in range(32)]
        for r in requests:
            any_ring.rings[0].add(r.segs, indirect=any_ring.memory.alloc(16 * 3, 16))
        show(any_ring)
        any_ring.rings[0].wait_all()
        assert {r.status for r in requests} == {OK}


def test_one_interrupt_per_batch(any_ring):
    """Fewer signals than requests: those that are done together are told together."""
    ring = any_ring.rings[0]
    signals = 0
    for _ in range(10):
        fill(any_ring, 10, size=512)
        fired(ring.call_event, 0)
        show(any_ring)
        ring.wait_all()
        time.sleep(0.002)
        signals += fired(ring.call_event, 0.2)
    assert 1 <= signals < 60


def test_driver_that_sleeps_until_it_is_told(any_ring):
    """Idle and busy in turns; a lost kick or interrupt stops the test."""
    ring = any_ring.rings[0]
    for i in range(400):
        request = any_ring.make(OUT, i, pattern(i, 512))
        ident = any_ring.submit(request)
        deadline = time.monotonic() + 5
        while ident not in ring.done:
            ring.poll()
            if ident not in ring.done:
                assert fired(ring.call_event, 5), f"request {i}: no interrupt, or the kick was lost"
                assert time.monotonic() < deadline
        ring.done.clear()
        any_ring.drop(request, 16 + 512)
        if i % 50 == 0:
            time.sleep(0.02)


def test_kicks_are_few_while_the_device_is_busy(any_ring):
    """The device says when it need not be told."""
    ring = any_ring.rings[0]
    requests = 0
    for _ in range(50):
        fill(any_ring, 10, size=512)
        for _ in range(3):
            ring.publish()
            ring.kick()
        requests += 10
        ring.wait_all()
    assert ring.kicks < requests


def test_every_kick_counts(any_ring, blk_snap):
    """Also those for nothing, and those that the device finds together."""
    def counted():
        return blk_snap.rpc("virtio_blk_controller_dbg_io_stats_get", ctrl_id="Blk0")["kicks"]

    ring = any_ring.rings[0]
    any_ring.works()
    time.sleep(0.05)
    before, kicks = counted(), ring.kicks
    for i in range(20):
        fill(any_ring, 5, size=512)
        ring.publish()
        ring.kick()
        for _ in range(3):
            ring.kick(force=True)
        ring.wait_all()
    assert ring.kicks >= kicks + 60
    deadline = time.monotonic() + 5
    while counted() - before < ring.kicks - kicks:
        assert time.monotonic() < deadline
    assert counted() - before == ring.kicks - kicks


def test_interrupts_are_off_when_the_driver_says_so(blk_path, packed):
    """avail flags, or the driver's event suppression structure."""
    with VirtioBlk(blk_path, packed=packed) as d:
        ring = d.rings[0]
        d.works()
        while fired(ring.call_event, 0.1):  # the one for a new eventfd may come late
            pass
        if packed:
            ring.set_driver_event(DISABLE)
        else:
            ring.set_avail_flags(NO_INTERRUPT)
        for i in range(20):
            d.works(i)
        assert not fired(ring.call_event, 0.1)
        if packed:
            ring.set_driver_event(ENABLE)
        else:
            ring.set_avail_flags(0)
        d.works()
        assert fired(ring.call_event)


def test_interrupt_is_asked_for_by_index(event, packed):
    """Not before the chain the driver named, and then at once."""
    ring = event.rings[0]
    event.works()
    fired(ring.call_event)
    for ahead in (3, 7):
        if packed:
            at = ring.used_at + 3 * (ahead - 1)
            want = DESC, at % 32 | (ring.used_wrap ^ (at >= 32)) << 15
        else:
            want = (ring.used_idx + ahead - 1) & 0xffff
        poll, told = ring.poll, 0

        def poll_quietly():
            """Taking what is used without asking for more."""
            before = event.memory.read(ring.driver, 4 if packed else 6 + 2 * 32)
            n = poll()
            event.memory.write(ring.driver, before)
            return n

        if packed:
            ring.set_driver_event(*want)
        else:
            ring.set_used_event(want)
        ring.poll = poll_quietly
        for i in range(1, ahead + 1):
            request = event.make(OUT, i, pattern(i, 512))
            ident = ring.add(request.segs)
            if packed:
                ring.publish()
                ring.kick(force=True)
            else:
                ring.set_avail_idx(ring.avail_idx)
                ring.kick(force=True)
            ring.wait(ident)
            told = fired(ring.call_event, 0.5 if i == ahead else 0.03)
            assert bool(told) == (i == ahead), f"interrupt after chain {i}, asked for {ahead}"
        ring.poll = poll
        event.works()
        fired(ring.call_event)


def test_event_index_that_the_driver_never_updates(event, packed):
    """It gets one interrupt per lap of the index, and may poll; nothing is lost or stuck."""
    ring = event.rings[0]
    poll = ring.poll

    def poll_only():
        before = event.memory.read(ring.driver, 4 if packed else 6 + 2 * 32)
        n = poll()
        event.memory.write(ring.driver, before)
        return n

    ring.poll = poll_only
    for i in range(200):
        event.works(i)


def test_notification_without_a_new_chain(any_ring):
    for _ in range(50):
        os.eventfd_write(any_ring.rings[0].kick_event, 1)
    any_ring.works()


def test_chains_shown_one_by_one_without_a_kick_are_found_after_the_next(any_ring):
    requests = fill(any_ring, 5, size=512)
    any_ring.rings[0].publish()
    time.sleep(0.01)
    requests += fill(any_ring, 5, size=512)
    show(any_ring)
    any_ring.rings[0].kick(force=True)
    any_ring.rings[0].wait_all()
    assert {r.status for r in requests} == {OK}


# ---- split only ----

def test_indirect_table_in_any_order(blk):
    """next leads where the driver likes; unused entries are not looked at."""
    ring, m = blk.rings[0], blk.memory
    data = pattern(5, 1024)
    request = Request(m, head(OUT, 32) + data, 1, out_cuts=[16, 512, 512])
    table = m.alloc(16 * 8, 16)
    m.write(table, b"\xff" * 128)
    a, b, c, status = request.segs
    for i, seg, following in ((0, a, 5), (5, b, 2), (2, c, 7), (7, status, None)):
        ring.write_desc(i, seg.addr, seg.len, (WRITE if seg.write else 0) | (NEXT if following is not None else 0),
                        following or 0xffff, table=table)
    i = ring.put([(table, 128, INDIRECT)])
    ring.publish()
    ring.kick()
    assert ring.wait(i) == 1 and request.status == OK and blk.read(32, 2) == data


def test_indirect_behind_direct_descriptors(blk):
    """A chain that ends in a table (2.7.5.3.1 does not allow NEXT with INDIRECT, this is legal)."""
    ring, m = blk.rings[0], blk.memory
    request = Request(m, head(OUT, 40) + pattern(6, 512), 1)
    table = m.alloc(64, 16)
    ring.write_table(request.segs[1:], table)
    i = ring.put([(request.segs[0].addr, 16, 0), (table, 32, INDIRECT)])
    ring.publish()
    ring.kick()
    assert ring.wait(i) == 1 and request.status == OK and blk.read(40, 1) == pattern(6, 512)


def test_indirect_table_that_is_not_aligned(blk):
    request = blk.make(OUT, 41, pattern(7, 512))
    at = blk.memory.alloc(4096) + 4
    assert blk.rings[0].wait(blk.rings[0].submit(request.segs, indirect=at)) == 1 and request.status == OK


# ---- packed only ----

def test_buffer_ids_are_the_drivers(blk_path):
    """Any number below the size, in any order, and none is used twice at a time."""
    with VirtioBlk(blk_path, packed=True, size=32) as d:
        ring = d.rings[0]
        ids = [31, 0, 17, 5, 30, 2]
        requests = [d.make(IN, 8 * i, in_bytes=512 * (i + 1)) for i in range(len(ids))]
        for r, ident in zip(requests, ids):
            ring.add(r.segs, ident=ident)
        show(d)
        assert ring.wait_all() == {ident: 512 * (i + 1) + 1 for i, ident in enumerate(ids)}


def test_used_descriptors_skip_the_length_of_their_chain(blk_path):
    with VirtioBlk(blk_path, packed=True, size=16) as d:
        for i in range(60):
            n = i % 4 + 1
            d.write(0, pattern(i, 512 * n), out_cuts=[16] + [512] * n)
            assert d.rings[0].used_at == d.rings[0].next and d.rings[0].used_wrap == d.rings[0].wrap


# ---- both ----

def test_chain_as_long_as_the_ring(either):
    for _ in range(5):
        assert either.run(IN, 0, in_bytes=512 * 62, in_cuts=[512] * 62 + [1])[0] == OK


def test_rings_without_indirect_or_event_index(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed, features=VirtioBlk.WANTED & ~bits(vb.INDIRECT_DESC)) as d:
        for i in range(50):
            d.works(i)
        assert d.run(IN, 0, in_bytes=16 * 512, in_cuts=[512] * 16 + [1])[0] == OK


def test_device_writes_its_part_only(either):
    """The driver's parts, and what lies behind the device's, stay as they are."""
    ring, m = either.rings[0], either.memory
    for i in range(100):
        either.works(i)
    for i in range(20):
        request = either.make(IN, 0, in_bytes=512)
        ident = ring.add(request.segs)
        ring.publish()
        pages = [at for at, _ in ring.parts]
        before = [m.read(at, 4096) for at in pages]
        ring.kick(force=True)
        deadline = time.monotonic() + 5
        while request.status == 0xa5 or (not either.packed and ring.device_idx() == ring.used_idx):
            assert time.monotonic() < deadline
        time.sleep(0.001)
        after = [m.read(at, 4096) for at in pages]
        assert after[1] == before[1]
        if either.packed:
            changed = [k for k in range(256) if before[0][16 * k:16 * k + 16] != after[0][16 * k:16 * k + 16]]
            assert changed == [ring.used_at] and after[2][4:] == bytes(4092)
        else:
            used_bytes = 6 + 8 * ring.size
            assert after[0] == before[0] and after[2][used_bytes:] == bytes(4096 - used_bytes)
        ring.wait(ident)
