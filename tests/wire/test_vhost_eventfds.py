# SPDX-License-Identifier: BSD-3-Clause
"""Eventfds of rings: given, replaced, missing, never emptied, written for nothing (A13)."""
import os
import struct
import time

import pytest
import vhost_user as vu
from blk_chains import UNTOUCHED, break_ring, heal
from disks import BLK_QUEUES, no_more_fds, open_fds
from vfio_user import eventfd, fired
from vhost_user import refused
from virtio_blk import OK, OUT, VirtioBlk, pattern

FULL = (1 << 64) - 2


# ---- what is refused ----

def test_descriptors_contrary_to_the_mask(stopped):
    vc, r = stopped.vc, stopped.rings[0]
    vc.set_num(0, r.size)
    vc.set_base(0, r.base())
    vc.set_addr(0, r.desc, r.driver, r.device)
    for request in (vu.SET_VRING_KICK, vu.SET_VRING_CALL, vu.SET_VRING_ERR):
        refused(vc.do, request, struct.pack("=Q", 0))
        refused(vc.do, request, struct.pack("=Q", vu.NO_FD), (r.kick_event,))
        refused(vc.do, request, struct.pack("=Q", 0), (r.kick_event, r.call_event))
    stopped.start_ring(0, r.base())
    stopped.enable()
    stopped.works()


def test_descriptor_that_is_no_eventfd_is_refused_or_harms_nobody(stopped, blk_neighbour):
    vc, ring = stopped.vc, stopped.rings[0]
    r, w = os.pipe()
    null, memory, directory = os.open("/dev/null", os.O_RDWR), os.memfd_create("x"), os.open("/", os.O_RDONLY)
    for fd in (r, w, null, memory, directory, vc.sock.fileno()):
        for request in (vu.SET_VRING_CALL, vu.SET_VRING_ERR, vu.SET_VRING_KICK):
            refused(vc.set_eventfd, request, 0, fd)
    for fd in (r, w, null, memory, directory):
        os.close(fd)
    stopped.start_ring(0, ring.base())
    stopped.enable()
    stopped.works()


def test_stop_closes_the_eventfds(either, blk_snap):
    for _ in range(3):
        either.start_ring(0, either.vc.get_base(0))
    either.works()
    assert fired(either.rings[0].call_event)  # the service has got the last ones
    before = open_fds(blk_snap)
    for _ in range(50):
        either.start_ring(0, either.vc.get_base(0))
    assert no_more_fds(blk_snap, before)
    either.works()


# ---- given, replaced, missing ----

def test_call_eventfd_is_replaced_at_any_time_and_called_once(either):
    """QEMU masks a vector by another eventfd: what came in between must not be lost."""
    r = either.rings[0]
    either.works()
    fired(r.call_event)
    other = eventfd()
    either.vc.call_fd(0, other)
    assert fired(other)
    either.works()
    assert fired(other)
    assert not fired(r.call_event, 0.05)
    either.vc.call_fd(0, r.call_event)
    assert fired(r.call_event)
    os.close(other)


def test_call_eventfd_swapped_under_load_loses_nothing(either):
    """The driver sleeps on whichever eventfd is the current one."""
    r = either.rings[0]
    events = [r.call_event, eventfd()]
    for i in range(150):
        ident = either.submit(either.make(OUT, i, bytes(512)))
        either.vc.call_fd(0, events[i % 2])
        assert fired(events[i % 2])
        deadline = time.monotonic() + 5
        while not r.poll():
            assert time.monotonic() < deadline
            fired(events[i % 2], 0.01)
        assert r.done.pop(ident) == 1
        if either.memory.used > 4 << 20:
            either.memory.used = either.memory.used - (2 << 20)
    os.close(events[1])


def test_ring_without_call_eventfd_is_polled_by_its_driver(either):
    either.vc.call_fd(0)
    either.works()
    either.vc.call_fd(0, either.rings[0].call_event)
    assert fired(either.rings[0].call_event)


def test_ring_without_kick_eventfd_is_polled_by_the_device(blk_path, packed):
    """Bit 8 of SET_VRING_KICK: the driver never kicks."""
    with VirtioBlk(blk_path, packed=packed, start=False) as d:
        d.vc.set_features(d.vc.offered & d.wanted)
        d.memory.attach(d.vc)
        r = d.rings[0]
        d.vc.set_num(0, r.size)
        d.vc.set_base(0, r.base())
        d.vc.set_addr(0, r.desc, r.driver, r.device)
        d.vc.call_fd(0, r.call_event)
        d.vc.kick_fd(0)
        d.enable()
        for i in range(3):
            request = d.make(OUT, i, pattern(i, 512))
            ident = r.add(request.segs)
            r.publish()
            assert r.wait(ident) == 1 and request.status == OK
            time.sleep(0.05)


def test_kick_eventfd_is_replaced_while_running(either):
    r = either.rings[0]
    other = eventfd()
    either.vc.kick_fd(0, other)
    old, r.kick_event = r.kick_event, other
    for i in range(20):
        time.sleep(0.005)
        either.works(i)
    r.kick_event = old
    os.close(other)


def test_eventfd_shared_by_all_rings(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed, queues=BLK_QUEUES, start=False) as d:
        shared = d.rings[0]
        own = [(r.kick_event, r.call_event) for r in d.rings[1:]]
        for r in d.rings[1:]:
            r.kick_event = r.call_event = shared.kick_event
        d.start()
        for lap in range(10):
            for q in range(BLK_QUEUES):
                d.works(lap, queue=q)
        for r, (kick, call) in zip(d.rings[1:], own):
            r.kick_event, r.call_event = kick, call


# ---- A13: eventfds that are full, kicks for nothing ----

@pytest.mark.parametrize("blocking", [False, True], ids=["non-blocking", "blocking"])
def test_call_eventfd_that_nobody_empties(either, blocking, blk_neighbour):
    full = os.eventfd(0, os.EFD_CLOEXEC | (0 if blocking else os.EFD_NONBLOCK))
    either.vc.call_fd(0, full)
    fired(full)
    os.eventfd_write(full, FULL)
    for i in range(50):
        either.works(i)
    blk_neighbour.goes_on()
    os.close(full)
    either.vc.barrier()


def test_error_eventfd_that_blocks(either, blk_neighbour):
    full = os.eventfd(0, os.EFD_CLOEXEC)
    os.eventfd_write(full, FULL)
    either.vc.err_fd(0, full)
    break_ring(either)
    either.broken()
    blk_neighbour.goes_on()
    os.close(full)
    heal(either)


def test_kick_eventfd_that_is_full(either):
    os.eventfd_write(either.rings[0].kick_event, FULL)
    either.works()


def test_kick_storm(either, blk_neighbour):
    """Work per turn is bounded: others are served, and so is the one who kicks."""
    before = blk_neighbour.completed()
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        for _ in range(200):
            os.eventfd_write(either.rings[0].kick_event, 1)
    assert blk_neighbour.completed() > before + 20
    either.works()


def test_kicks_where_there_is_nothing(stopped, blk_neighbour):
    """Queues that were never started, and before DRIVER_OK; what is in the ring already is done when it is enabled."""
    r = stopped.rings[0]
    request = stopped.make(OUT, 0, pattern(1, 512))
    r.add(request.segs)
    r.publish()
    stopped.start_ring(0, r.base())
    for _ in range(100):
        r.kick(force=True)
    refused(stopped.vc.kick_fd, 1, r.err_event)
    assert r.quiet(0.05) and request.status == UNTOUCHED
    stopped.enable()
    r.wait_all()
    assert request.status == OK
    stopped.works()
