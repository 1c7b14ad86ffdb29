# SPDX-License-Identifier: BSD-3-Clause
"""Rings on a vhost-user socket: setting up, starting, stopping, their eventfds, and resets."""
import os
import struct
import time

import pytest
import vhost_user as vu
from disks import BLK_QUEUES, no_more_fds, open_fds
from vfio_user import eventfd, fired
from vhost_user import GuestMemory, VhostError
from virtio_blk import IN, OK, OUT, RING_PACKED, Request, VirtioBlk, bits, head, pattern
from virtq import PackedRing, Seg

QUEUE_SIZE = 256
BASE = 0x8_0000_0000


def refused(call, *args, **kw):
    with pytest.raises(VhostError):
        call(*args, **kw)


@pytest.fixture
def stopped(blk_path, packed):
    """Memory and features are there, no ring is started."""
    with VirtioBlk(blk_path, packed=packed, start=False) as d:
        d.vc.set_features(d.vc.offered & d.wanted)
        d.memory.attach(d.vc)
        yield d


def fill(d, count=16, kind=OUT):
    """Adds requests without telling; returns them."""
    requests = [d.make(kind, 8 * i, pattern(i, 4096) if kind == OUT else b"", 0 if kind == OUT else 4096) for i in range(count)]
    for r in requests:
        d.rings[0].add(r.segs)
    d.rings[0].publish()
    return requests


# ---- what is refused ----

def test_ring_numbers_out_of_range(stopped):
    vc, r = stopped.vc, stopped.rings[0]
    for index in (BLK_QUEUES, 255, 256, 0xffffffff):
        refused(vc.set_num, index, 64)
        refused(vc.set_base, index, 0)
        refused(vc.set_addr, index, r.desc, r.driver, r.device)
        refused(vc.enable, index)
    for index in (BLK_QUEUES, 63, 255):
        for request in (vu.SET_VRING_KICK, vu.SET_VRING_CALL, vu.SET_VRING_ERR):
            refused(vc.set_eventfd, request, index, r.kick_event)
            refused(vc.set_eventfd, request, index)
    stopped.start_ring(0, r.base())
    stopped.enable()
    stopped.works()


def test_sizes(stopped, packed):
    vc = stopped.vc
    for size in (0, QUEUE_SIZE + 1, 512, 32768, 65536, 0xffffffff):
        refused(vc.set_num, 0, size)
    for size in (3, 100, 255):
        if packed:
            vc.set_num(0, size)
        else:
            refused(vc.set_num, 0, size)
    for size in (1, 2, 128, QUEUE_SIZE):
        vc.set_num(0, size)


@pytest.mark.parametrize("size", [2, 4, 128, 256])
def test_every_legal_size_works(blk_path, packed, size):
    with VirtioBlk(blk_path, size=size, packed=packed, memory=None) as d:
        d.indirect = True
        for i in range(3 * min(size, 20)):
            d.works(i)


def test_packed_ring_of_a_size_that_is_no_power_of_two(blk_path):
    with VirtioBlk(blk_path, size=37, packed=True) as d:
        for i in range(60):
            d.works(i)


def test_bases_out_of_range(stopped, packed):
    vc = stopped.vc
    vc.set_num(0, 64)
    if packed:
        for base in (64, 0x40 | 0x8000, 64 << 16, 0x7fff, 0x7fff_0000, 0xffff_ffff):
            refused(vc.set_base, 0, base)
        for base in (0, 63, 63 | 0x8000, 0x803f803f):
            vc.set_base(0, base)
    else:
        for base in (0x10000, 0x80008000, 0xffffffff):
            refused(vc.set_base, 0, base)
        for base in (0, 1, 0xffff):
            vc.set_base(0, base)


def test_addresses_outside_of_all_regions_or_unaligned(stopped, packed):
    vc, r, m = stopped.vc, stopped.rings[0], stopped.memory
    vc.set_num(0, r.size)
    end = m.gpa + m.size
    good = [r.desc, r.driver, r.device]
    bad = [0, 0x1000, end, end - 2, 0xffff_ffff_ffff_f000 - vu.USER_OFFSET, m.gpa - 16]
    for part in range(3):
        for at in bad + [good[part] + 1]:
            parts = list(good)
            parts[part] = at
            refused(vc.set_addr, 0, *parts)
            refused(vc.kick_fd, 0, r.kick_event)
    for part, step in zip(range(3), (8, 2 if packed else 1, 2)):
        parts = list(good)
        parts[part] += step
        refused(vc.set_addr, 0, *parts)
    refused(vc.set_addr, 0, *good, user=False)  # guest addresses where the front end's are due
    stopped.start_ring(0, r.base())
    stopped.enable()
    stopped.works()


def test_ring_that_does_not_lie_in_one_region(stopped):
    vc, r = stopped.vc, stopped.rings[0]
    other = GuestMemory(1 << 20, stopped.memory.gpa + stopped.memory.size)
    other.attach(vc)
    vc.set_num(0, QUEUE_SIZE)
    refused(vc.set_addr, 0, other.gpa - 64, r.driver, r.device)
    other.close()


def test_ring_is_not_started_before_it_is_complete(stopped):
    vc, r = stopped.vc, stopped.rings[0]
    refused(vc.kick_fd, 0, r.kick_event)
    vc.set_num(0, r.size)
    refused(vc.kick_fd, 0, r.kick_event)
    vc.set_addr(0, r.desc, r.driver, r.device)
    vc.set_base(0, r.base())
    vc.kick_fd(0, r.kick_event)
    vc.call_fd(0, r.call_event)
    stopped.enable()
    stopped.works()


def test_size_that_grows_beyond_the_regions_after_the_address(stopped):
    """Addresses are checked with the size that counts, whatever came first."""
    vc, r, m = stopped.vc, stopped.rings[0], stopped.memory
    vc.set_num(0, 2)
    vc.set_base(0, r.base())
    vc.set_addr(0, m.gpa + m.size - 32, r.driver, r.device)
    vc.set_num(0, QUEUE_SIZE)
    refused(vc.kick_fd, 0, r.kick_event)


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


def test_set_up_again_while_started_is_refused(either):
    vc, r = either.vc, either.rings[0]
    refused(vc.set_num, 0, 32)
    refused(vc.set_base, 0, 5)
    refused(vc.set_addr, 0, r.desc + 16, r.driver, r.device)
    vc.set_addr(0, r.desc, r.driver, r.device)  # QEMU repeats itself when memory is plugged
    either.works()


def test_enable_is_0_or_1_and_needs_the_protocol_bit(stopped):
    refused(stopped.vc.enable, 0, 2)
    refused(stopped.vc.enable, 0, 0xffffffff)
    stopped.vc.set_features(stopped.vc.features & ~(1 << vu.PROTOCOL_FEATURES))
    refused(stopped.vc.enable, 0)


# ---- start, enable, stop ----

def test_work_queued_before_the_ring_is_started_is_done(stopped):
    requests = fill(stopped)
    stopped.start_ring(0, stopped.rings[0].base())
    assert stopped.rings[0].quiet(0.05)
    stopped.enable()
    stopped.rings[0].wait_all()
    assert {r.status for r in requests} == {OK} and stopped.rings[0].kicks == 0


def test_enabled_before_started(stopped):
    stopped.enable()
    requests = fill(stopped)
    assert stopped.rings[0].quiet(0.05)
    stopped.start_ring(0, stopped.rings[0].base())
    stopped.rings[0].wait_all()
    assert {r.status for r in requests} == {OK}


def test_disabled_ring_fetches_nothing_and_keeps_its_state(either):
    for i in range(5):
        either.vc.enable(0, 0)
        requests = fill(either)
        either.rings[0].kick(force=True)
        assert either.rings[0].quiet(0.03)
        either.vc.enable(0, 1)
        either.rings[0].wait_all()
        assert {r.status for r in requests} == {OK}


def test_disable_and_enable_under_load(either):
    for i in range(60):
        fill(either)
        either.rings[0].kick()
        either.vc.enable(0, 0)
        either.vc.enable(0, 1)
        assert set(either.rings[0].wait_all().values()) == {1}


def test_base_is_where_a_later_start_goes_on(either, packed):
    r = either.rings[0]
    for lap in range(30):
        requests = fill(either, 7)
        r.kick()
        either.vc.enable(0, 0)
        base = either.vc.get_base(0)  # drained: whatever was fetched has been answered
        r.poll()
        if packed:
            at = r.used_at | r.used_wrap << 15
            assert base == at | at << 16
        else:
            assert base == r.used_idx
        either.start_ring(0, base)
        either.vc.enable(0)
        r.wait_all()
        assert {q.status for q in requests} == {OK}
    either.works()


def test_split_index_wraps(stopped, packed):
    """From a base near the end on."""
    r = stopped.rings[0]
    if packed:
        r.resume(60, 0)
        base = 60 | 60 << 16
    else:
        r.resume(65530)
        base = 65530
    stopped.start_ring(0, base)
    stopped.enable()
    for i in range(40):
        stopped.works(i)


def test_stopped_twice_and_stopped_before_started(either):
    vc = either.vc
    assert vc.get_base(1) == 0
    base = vc.get_base(0)
    assert vc.get_base(0) == base
    either.start_ring(0, base)
    either.works()
    vc.send(vu.GET_VRING_BASE, struct.pack("=II", BLK_QUEUES, 0))  # cannot be refused in words
    assert vc.closed_within(5)


def test_stopped_ring_is_not_touched_any_more(either):
    r = either.rings[0]
    fill(either)
    r.kick()
    either.vc.get_base(0)
    for at, size in r.parts:
        either.memory.write(at, b"\x55" * size)
    os.eventfd_write(r.kick_event, 1)
    time.sleep(0.05)
    assert all(either.memory.read(at, size) == b"\x55" * size for at, size in r.parts)


def test_stop_closes_the_eventfds(either, blk_snap):
    for _ in range(3):
        either.start_ring(0, either.vc.get_base(0))
    before = open_fds(blk_snap)
    for _ in range(50):
        either.start_ring(0, either.vc.get_base(0))
    assert no_more_fds(blk_snap, before)
    either.works()


def test_all_queues_at_once(blk_path, packed):
    with VirtioBlk(blk_path, queues=BLK_QUEUES, packed=packed) as d:
        requests = []
        for lap in range(20):
            for q, r in enumerate(d.rings):
                request = d.make(OUT, 100 * q + lap, pattern(100 * q + lap, 512))
                requests.append(request)
                r.add(request.segs)
        for r in d.rings:
            r.publish()
            r.kick()
        for r in d.rings:
            r.wait_all()
        assert {r.status for r in requests} == {OK}
        for q in range(BLK_QUEUES):
            assert d.read(100 * q + 7, 1, queue=(q + 1) % BLK_QUEUES) == pattern(100 * q + 7, 512)
        assert all(fired(r.call_event) for r in d.rings)
        d.stop()


def test_one_queue_stops_alone(blk_path, packed):
    with VirtioBlk(blk_path, queues=2, packed=packed) as d:
        base = d.vc.get_base(1)
        d.works(queue=0)
        d.start_ring(1, base)
        d.works(queue=1)


def test_rings_without_the_status_feature(blk_path):
    """libblkio and SPDK never send a status."""
    with VirtioBlk(blk_path, protocol=vu.QEMU_PROTOCOL & ~(1 << vu.STATUS)) as d:
        d.works()


# ---- eventfds ----

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
    """Bit 8 of SET_VRING_KICK: the driver never kicks. Refused, or served all the same."""
    with VirtioBlk(blk_path, packed=packed, start=False) as d:
        d.vc.set_features(d.vc.offered & d.wanted)
        d.memory.attach(d.vc)
        r = d.rings[0]
        d.vc.set_num(0, r.size)
        d.vc.set_base(0, r.base())
        d.vc.set_addr(0, r.desc, r.driver, r.device)
        d.vc.call_fd(0, r.call_event)
        try:
            d.vc.kick_fd(0)
        except VhostError:
            d.vc.kick_fd(0, r.kick_event)
            d.enable()
            d.works()
            return
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


def test_call_eventfd_never_drained_does_not_block(either, blk_neighbour):
    """Full up to the last number, and blocking."""
    fd = os.eventfd(0)
    either.vc.call_fd(0, fd)
    fired(fd)
    os.eventfd_write(fd, (1 << 64) - 2)
    for i in range(50):
        either.works(i)
    os.close(fd)
    either.vc.barrier()


def test_kick_storm(either, blk_snap, blk_neighbour):
    """Work per turn is bounded: others are served, and so is the one who kicks."""
    r = either.rings[0]
    before = blk_neighbour.completed()
    end = time.monotonic() + 1
    while time.monotonic() < end:
        for _ in range(200):
            os.eventfd_write(r.kick_event, 1)
    either.works()
    deadline = time.monotonic() + 5
    while blk_neighbour.completed() <= before:
        assert time.monotonic() < deadline, "the neighbour stands still"
        time.sleep(0.05)


def test_kicks_where_there_is_nothing(blk_path, packed, blk_neighbour):
    """Queues that were never started, and before DRIVER_OK."""
    with VirtioBlk(blk_path, packed=packed, start=False) as d:
        d.vc.set_features(d.vc.offered & d.wanted)
        d.memory.attach(d.vc)
        d.start_ring(0, d.rings[0].base())
        for _ in range(100):
            os.eventfd_write(d.rings[0].kick_event, 1)
        refused(d.vc.kick_fd, 1, d.rings[0].err_event)
        assert d.rings[0].quiet(0.05)
        d.enable()
        d.works()


# ---- resets ----

RESETS = [vu.RESET_DEVICE, vu.SET_STATUS]


def reset(d, how):
    if how == vu.RESET_DEVICE:
        d.vc.do(vu.RESET_DEVICE)
    else:
        d.vc.set_status(0)


@pytest.mark.parametrize("how", RESETS, ids=["reset_device", "status_0"])
def test_reset_stops_rings_and_forgets_features(either, how):
    for i in range(5):
        fill(either)
        either.rings[0].kick()
        reset(either, how)
        for at, size in either.rings[0].parts:
            either.memory.write(at, b"\x55" * size)
        os.eventfd_write(either.rings[0].kick_event, 1)
        time.sleep(0.02)
        assert all(either.memory.read(at, size) == b"\x55" * size for at, size in either.rings[0].parts)
        assert either.vc.status() == 0
        refused(either.vc.kick_fd, 0, either.rings[0].kick_event)
        either.restart()
        either.works()


@pytest.mark.parametrize("how", RESETS, ids=["reset_device", "status_0"])
def test_no_late_dma_after_a_reset(either, how):
    """Reads in flight: from the answer to the reset on the guest's memory is its own."""
    data = [either.memory.alloc(65536) for _ in range(16)]
    for _ in range(5):
        requests = [Request(either.memory, head(IN, 0), 1) for _ in data]
        for r, at in zip(requests, data):
            either.rings[0].add([r.segs[0], Seg(at, 65536, True), r.segs[1]])
        either.rings[0].publish()
        either.rings[0].kick()
        reset(either, how)
        for at in data:
            either.memory.write(at, b"\x66" * 65536)
        time.sleep(0.01)
        assert all(either.memory.read(at, 65536) == b"\x66" * 65536 for at in data)
        either.restart()


def test_reset_storm(either, blk_neighbour):
    for i in range(150):
        reset(either, RESETS[i % 2])
    either.restart()
    either.works()


def test_memory_and_call_eventfds_survive_a_reset(either):
    either.vc.do(vu.RESET_DEVICE)
    refused(either.memory.attach, either.vc)  # still there
    either.restart()
    either.works()


def test_driver_that_resets_with_requests_nobody_can_finish(either):
    """Their memory is away: the reset drops them, and nothing comes back later."""
    other = GuestMemory(1 << 20, BASE)
    other.attach(either.vc)
    other.detach(either.vc)
    request = Request(either.memory, head(IN, 0), 1)
    either.rings[0].submit([request.segs[0], Seg(BASE, 4096, True), request.segs[1]])
    assert either.rings[0].quiet(0.05)
    either.vc.do(vu.RESET_DEVICE)
    other.attach(either.vc)
    time.sleep(0.05)
    assert other.read(BASE, 4096) == bytes(4096)
    either.restart()
    either.works()
    assert other.read(BASE, 4096) == bytes(4096)
    other.close()


def test_stop_while_requests_wait_for_memory(either):
    """GET_VRING_BASE drains: what cannot be done ends with an error, or the connection ends by a deadline."""
    other = GuestMemory(1 << 20, BASE)
    other.attach(either.vc)
    other.detach(either.vc)
    request = Request(either.memory, head(IN, 0), 1)
    ident = either.rings[0].submit([request.segs[0], Seg(BASE, 4096, True), request.segs[1]])
    assert either.rings[0].quiet(0.05)
    try:
        either.vc.get_base(0, timeout=8)
        assert either.rings[0].wait(ident) and request.status != OK
    except vu.Disconnected:
        pass
    other.close()


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
