# SPDX-License-Identifier: BSD-3-Clause
"""Resets of the device and of single rings, with requests in flight (A14): nothing lands afterwards, and all begins anew."""
import os
import time

import pytest
import vhost_user as vu
from blk_chains import AWAY, MIB, RESET_IDS, RESETS, UNTOUCHED, Hand, fill, held
from vhost_user import GuestMemory, refused
from virtio_blk import IN, OK, RING_PACKED, RING_RESET, VirtioBlk, bits, connect_soon, pattern
from virtq import PackedRing, Seg, ring

each_reset = pytest.mark.parametrize("reset", RESETS, ids=RESET_IDS)


def load(d, queue=0, **how):
    """Requests that are on their way."""
    requests = fill(d, queue=queue, **how)
    d.rings[queue].publish()
    d.rings[queue].kick()
    return requests


# ---- the device ----

@each_reset
def test_reset_stops_rings_and_forgets_features(either, reset):
    for _ in range(5):
        load(either)
        reset(either)
        for at, size in either.rings[0].parts:
            either.memory.write(at, b"\x55" * size)
        os.eventfd_write(either.rings[0].kick_event, 1)
        time.sleep(0.02)
        assert all(either.memory.read(at, size) == b"\x55" * size for at, size in either.rings[0].parts)
        assert either.vc.status() == 0
        refused(either.vc.kick_fd, 0, either.rings[0].kick_event)
        either.restart()
        either.works()


@each_reset
def test_no_late_dma_after_a_reset(either, reset):
    """Reads in flight: from the answer to the reset on the guest's memory is its own."""
    data = [either.memory.alloc(65536) for _ in range(16)]
    for _ in range(5):
        for at in data:
            h = Hand(either, IN, 0)
            either.rings[0].add([h.head, Seg(at, 65536, True), h.status])
        either.rings[0].publish()
        either.rings[0].kick()
        reset(either)
        for at in data:
            either.memory.write(at, b"\x66" * 65536)
        time.sleep(0.01)
        assert all(either.memory.read(at, 65536) == b"\x66" * 65536 for at in data)
        either.restart()


def test_reset_storm(either, blk_neighbour):
    for i in range(150):
        RESETS[i % 2](either)
    either.restart()
    either.works()


def test_reset_storm_under_load(either, blk_neighbour):
    """Each with what a driver has just sent."""
    for i in range(60):
        load(either)
        RESETS[i % 2](either)
        either.restart()
    either.works()


def test_memory_and_call_eventfds_survive_a_reset(either):
    either.vc.do(vu.RESET_DEVICE)
    refused(either.memory.attach, either.vc)  # still there
    either.restart()
    either.works()


def test_driver_that_resets_with_requests_nobody_can_finish(either):
    """Their memory is away: the reset drops them, and nothing comes back later."""
    ram = GuestMemory(MIB, AWAY)
    ram.attach(either.vc)
    ram.detach(either.vc)
    h = Hand(either, IN, 0)
    either.rings[0].submit([h.head, Seg(AWAY, 4096, True), h.status])
    assert either.rings[0].quiet(0.05)
    either.vc.do(vu.RESET_DEVICE)
    ram.attach(either.vc)
    time.sleep(0.05)
    assert ram.read(AWAY, 4096) == bytes(4096)
    either.restart()
    either.works()
    assert ram.read(AWAY, 4096) == bytes(4096) and h.answer() == UNTOUCHED
    ram.close()


def test_features_of_the_next_driver_may_be_others(blk_path):
    """A guest with another driver after a reboot: packed after split and back, on one connection."""
    with VirtioBlk(blk_path) as d:
        d.stop()
        split, packed = d.rings, [PackedRing(d.memory, 64)]
        for rings in (split, packed, split):
            d.rings, d.wanted = rings, VirtioBlk.WANTED | bits(RING_PACKED) * rings[0].packed
            d.restart()
            d.works()
            d.stop()
        packed[0].close()


# ---- one ring ----

def test_stop_while_requests_wait_for_memory(either):
    """GET_VRING_BASE drains: what cannot be done ends with an error, or the connection ends by a deadline."""
    with held(either, count=1) as h:
        assert either.rings[0].quiet(0.05)
        try:
            either.vc.get_base(0, timeout=8)
            h.check_failed()
        except vu.Disconnected:
            pass


def test_one_ring_is_reset_and_comes_back_of_another_size_elsewhere(blk_path, packed):
    """RING_RESET: requests are in flight on both rings; the other one goes on all the time."""
    with VirtioBlk(blk_path, queues=2, packed=packed) as d:
        assert d.vc.features >> RING_RESET & 1
        for size in (16, 64, 32, 128, 64):
            other, old = load(d, queue=1), d.rings[0]
            mine = load(d, count=5)
            d.vc.enable(0, 0)
            d.vc.get_base(0)  # drained: whatever was fetched has been answered
            old.poll()
            assert {r.status for r in mine} <= {OK, UNTOUCHED}
            done, parts = len(old.done), [(at, n, d.memory.read(at, n)) for at, n in old.parts]
            assert [r.status for r in mine].count(OK) == done
            d.rings[0] = ring(packed, d.memory, size)
            d.start_ring(0, d.rings[0].base())
            d.vc.enable(0)
            d.works(size)
            d.rings[1].wait_all()
            assert {r.status for r in other} == {OK}
            assert all(d.memory.read(at, n) == before for at, n, before in parts), "the old place is the driver's again"
            old.close()


def test_ring_of_another_size_under_an_old_area_begins_anew(either):
    """The area tells of requests of a larger ring, in flight when the front end went away: they are not replayed."""
    either.works()
    with held(either) as h:
        h.wait_fetched()
        either.vc.close()
        either.vc = connect_soon(either.path)
        old, either.rings = either.rings, [ring(either.packed, either.memory, 32)]
        h.back()
        either.start()
        either.works()
        assert h.untouched() and not either.rings[0].unexpected
        assert either.area.inflight(packed=either.packed) == {}
        old[0].close()


def test_one_ring_stops_alone(blk_path, packed):
    with VirtioBlk(blk_path, queues=2, packed=packed) as d:
        base = d.vc.get_base(1)
        d.works(queue=0)
        d.start_ring(1, base)
        d.works(queue=1)


def test_driver_that_leaves_and_comes_back_under_load(either):
    """Unbound and bound again: disabled, stopped, reset, and all of it set up once more."""
    for i in range(10):
        requests = load(either)
        either.stop()
        either.rings[0].poll()
        assert {r.status for r in requests} <= {OK, UNTOUCHED}
        either.restart()
        either.write(0, pattern(i, 512))
        assert either.read(0, 1) == pattern(i, 512)
