# SPDX-License-Identifier: BSD-3-Clause
"""Rings on a vhost-user socket: setting up (A1, A2), starting, enabling, stopping."""
import os
import signal
import struct
import time

import pytest
import vhost_user as vu
from blk_chains import fill
from disks import BLK_QUEUES
from vfio_user import fired
from vhost_user import GuestMemory, refused
from virtio_blk import GET_ID, OK, OUT, RING_PACKED, VirtioBlk, pattern

QUEUE_SIZE = 256


def show(d, **how):
    """Requests in the ring that the device has not been told of."""
    requests = fill(d, **how)
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
    for index in (BLK_QUEUES, BLK_QUEUES + 1, 63, 64, 255):
        for request in (vu.SET_VRING_KICK, vu.SET_VRING_CALL, vu.SET_VRING_ERR):
            refused(vc.set_eventfd, request, index, r.kick_event)
            refused(vc.set_eventfd, request, index)
    stopped.start_ring(0, r.base())
    stopped.enable()
    stopped.works()


def test_sizes(stopped, packed):
    vc = stopped.vc
    for size in (0, QUEUE_SIZE + 1, 512, 32768, 65535, 65536, 0xffffffff):
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


def test_addresses_outside_of_all_regions_or_unaligned(stopped, packed, blk_neighbour):
    vc, r, m = stopped.vc, stopped.rings[0], stopped.memory
    vc.set_num(0, r.size)
    end = m.gpa + m.size
    good = [r.desc, r.driver, r.device]
    bad = [0, 0x1000, 0x10000, end, end - 2, m.gpa - 16, 0xffff_ffff_ffff_f000 - vu.USER_OFFSET,
           0xffff_ffff_ffff_fff0 - vu.USER_OFFSET]
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
    refused(vc.set_addr, 0, end - 16, r.driver, r.device)  # of the descriptors, one is there
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


def test_size_and_base_are_judged_by_the_features_at_the_start(stopped, packed):
    """Whatever they were when the messages came."""
    vc, r = stopped.vc, stopped.rings[0]
    split = vc.features & ~(1 << RING_PACKED)
    for features, num, base in ((split | 1 << RING_PACKED, 63, 0x80008000), (split | 1 << RING_PACKED, 64, 0x80008000),
                                (split, 64, 64)):
        vc.set_features(features)
        vc.set_num(0, num)
        vc.set_base(0, base)
        vc.set_addr(0, r.desc, r.driver, r.device)
        vc.set_features(features ^ 1 << RING_PACKED)
        refused(vc.kick_fd, 0, r.kick_event)
    vc.set_features(vc.offered & stopped.wanted)
    stopped.start_ring(0, r.base())
    stopped.enable()
    stopped.works()


def test_ring_larger_than_the_controller_allows(fresh, packed):
    with VirtioBlk(fresh(queue_size=32), packed=packed, start=False, size=32) as d:
        refused(d.vc.set_num, 0, 64)
        assert d.vc.get_inflight(1, 64) is None
        d.start()
        assert d.run(GET_ID, in_bytes=20)[0] == OK


def test_set_up_again_while_started_is_refused(either):
    vc, r = either.vc, either.rings[0]
    either.works()
    refused(vc.set_num, 0, 32)
    refused(vc.set_num, 0, r.size)
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
    requests = show(stopped)
    stopped.start_ring(0, stopped.rings[0].base())
    assert stopped.rings[0].quiet(0.05)
    stopped.enable()
    stopped.rings[0].wait_all()
    assert {r.status for r in requests} == {OK} and stopped.rings[0].kicks == 0


def test_enabled_before_started(stopped):
    stopped.enable()
    requests = show(stopped)
    assert stopped.rings[0].quiet(0.05)
    stopped.start_ring(0, stopped.rings[0].base())
    stopped.rings[0].wait_all()
    assert {r.status for r in requests} == {OK}


def test_disabled_ring_fetches_nothing_and_keeps_its_state(either):
    for _ in range(5):
        either.vc.enable(0, 0)
        time.sleep(0.02)  # how fast is asked below
        requests = show(either)
        either.rings[0].kick(force=True)
        assert either.rings[0].quiet(0.03)
        either.vc.enable(0, 1)
        either.rings[0].wait_all()
        assert {r.status for r in requests} == {OK}


def test_acknowledged_disable_means_that_nothing_is_fetched_any_more(either, blk_snap):
    """However busy the service is: either it has heard of it, or the answer waits until it has."""
    for _ in range(5):
        os.kill(blk_snap.service.pid, signal.SIGSTOP)
        try:
            either.rings[0].kick(force=True)  # for nothing; the service looks at the ring first of all
            either.vc.send(vu.SET_VRING_ENABLE, struct.pack("=II", 0, 0), need_reply=True)
            waits = either.vc.silent(0.05)
            requests = [] if waits else show(either)
        finally:
            os.kill(blk_snap.service.pid, signal.SIGCONT)
        either.vc.ack_of(vu.SET_VRING_ENABLE)
        requests = requests or show(either)
        either.rings[0].kick(force=True)
        quiet = either.rings[0].quiet(0.05)
        either.vc.enable(0, 1)
        either.rings[0].wait_all()
        assert {r.status for r in requests} == {OK}
        assert quiet, "requests that were made after the acknowledgement are fetched"


def test_disable_and_enable_under_load(either):
    for i in range(60):
        show(either)
        either.rings[0].kick()
        either.vc.enable(0, 0)
        either.vc.enable(0, 1)
        assert set(either.rings[0].wait_all().values()) == {1}


def test_base_is_where_a_later_start_goes_on(either, packed):
    r = either.rings[0]
    for lap in range(30):
        requests = show(either, count=7)
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
    show(either)
    r.kick()
    either.vc.get_base(0)
    for at, size in r.parts:
        either.memory.write(at, b"\x55" * size)
    os.eventfd_write(r.kick_event, 1)
    time.sleep(0.05)
    assert all(either.memory.read(at, size) == b"\x55" * size for at, size in r.parts)


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
