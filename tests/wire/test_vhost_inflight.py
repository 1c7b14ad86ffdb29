# SPDX-License-Identifier: BSD-3-Clause
"""The in-flight area: what is accepted as one, what is in it, and what becomes of one that lies (D5)."""
import os
import random
import struct
import time

import pytest
import vhost_user as vu
from blk_chains import held
from disks import BLK_QUEUES, no_more_fds, open_fds
from vhost_user import Inflight, VhostError
from virtio_blk import OK, OUT, VirtioBlk


# ---- the area ----

def test_area_has_room_for_what_was_asked_and_begins_empty(fe):
    for queues, size in ((1, 2), (1, 256), (BLK_QUEUES, 256), (2, 37)):
        for trailer in (0, 4):
            area = fe.get_inflight(queues, size, trailer)
            assert area.size >= queues * (32 + 32 * size) and area.offset % 4096 == 0
            assert area.map[:] == bytes(area.size) and os.fstat(area.fd).st_size >= area.offset + area.size
            fe.set_inflight(area)
            area.close()


def test_area_for_impossible_queues_is_not_given(fe):
    for queues, size in ((0, 64), (BLK_QUEUES + 1, 64), (0xffff, 64), (1, 0), (1, 257), (1, 0xffff)):
        assert fe.get_inflight(queues, size) is None


def test_areas_asked_for_thousands_of_times(fe, blk_snap):
    before = open_fds(blk_snap)
    for _ in range(1000):
        area = fe.get_inflight(BLK_QUEUES, 256)
        fe.set_inflight(area)
        area.close()
    fe.get_inflight(1, 2).close()
    assert no_more_fds(blk_snap, (before[0] + 1, before[1] + 1))


def test_area_that_does_not_fit_is_refused(blk_path, blk_snap, blk_neighbour):
    with VirtioBlk(blk_path, start=False) as d:
        area = d.vc.get_inflight(2, 64)
        before = open_fds(blk_snap)
        good = {"size": area.size, "offset": area.offset, "queues": 2, "queue_size": 64, "fd": area.fd}
        r, w = os.pipe()
        null, readonly = os.open("/dev/null", os.O_RDWR), os.open(f"/proc/self/fd/{area.fd}", os.O_RDONLY)
        for bad in ({"size": 0}, {"size": 64}, {"size": 1 << 40}, {"size": (1 << 64) - 1}, {"offset": 4096}, {"offset": 1},
                    {"offset": (1 << 64) - 4096}, {"queues": 0}, {"queues": BLK_QUEUES + 1}, {"queues": 4, "size": 4096},
                    {"queue_size": 0}, {"queue_size": 257}, {"queue_size": 256, "size": 4096}, {"fd": r}, {"fd": null},
                    {"fd": readonly}):
            fields = {**good, **bad}
            message = struct.pack("=QQHH", fields["size"], fields["offset"], fields["queues"], fields["queue_size"])
            with pytest.raises(VhostError):
                d.vc.do(vu.SET_INFLIGHT_FD, message, (fields["fd"],))
        with pytest.raises(VhostError):
            d.vc.do(vu.SET_INFLIGHT_FD, message)
        for fd in (r, w, null, readonly):
            os.close(fd)
        assert no_more_fds(blk_snap, before)
        area.close()
        d.start()
        d.works()


def test_area_changed_while_rings_run_is_refused(either):
    with pytest.raises(VhostError):
        either.vc.set_inflight(either.area)
    either.works()


def test_area_cut_short_later_harms_nobody_else(own_blk_snap):
    first, second = (own_blk_snap.vhost_socket(v) for v in own_blk_snap.vuids[:2])
    fd = os.memfd_create("area")
    os.ftruncate(fd, 1 << 20)
    with VirtioBlk(second) as other:
        with VirtioBlk(first, start=False) as d:
            d.area = Inflight(fd, 1 << 20, 0, 1, 64)
            try:
                d.start()
            except VhostError:
                return  # refusing an area that can shrink is an answer, too
            d.works()
            d.area.map.close()
            os.ftruncate(fd, 0)
            try:
                d.run(OUT, 0, bytes(512), timeout=2)
            except vu.Timeout:
                pass
            other.works()
            d.area = None
        other.works(5)
        with VirtioBlk(first) as d:
            d.works()
    os.close(fd)


def test_area_smaller_than_the_rings_is_not_written_beyond(blk_path, packed):
    """One queue of 16 entries noted, two of 64 started: works, and what is behind the area stays as it is."""
    fd = os.memfd_create("area")
    size = 4096
    os.ftruncate(fd, 8 * size)
    os.pwrite(fd, b"\x5a" * (7 * size), size)
    with VirtioBlk(blk_path, queues=2, packed=packed, start=False) as d:
        d.area = Inflight(fd, size, 0, 1, 16)
        d.start()
        for i in range(100):
            d.works(i, queue=i % 2)
        assert os.pread(fd, 7 * size, size) == b"\x5a" * (7 * size)


# ---- what is in it ----

def test_requests_are_in_it_while_they_are_in_flight(either, packed):
    either.works()
    with held(either) as h:
        h.wait_fetched()
        entries = either.area.inflight(packed=packed)
        if packed:
            assert len(entries) == len(h.ids) and either.area.packed()["version"] == 1
            assert either.area.packed()["desc_num"] == 64
        else:
            assert sorted(entries) == sorted(h.ids) and either.area.split()[1:3] == (1, 64)
            assert sorted(h.ids, key=entries.get) == h.ids, "the counters are in the order of fetching"
        h.back()
        h.check()
        assert either.area.inflight(packed=packed) == {}
        used = either.rings[0].used_at if packed else either.rings[0].used_idx
        assert (either.area.packed()["used_idx"] if packed else either.area.split()[4]) == used


def test_used_index_begins_as_that_of_the_ring(blk_path):
    """An area that is new under a ring that is not: entry 0 must not be taken for completed."""
    with VirtioBlk(blk_path, start=False) as d:
        r = d.rings[0]
        r.resume(30)
        d.start(bases=[30])
        d.works()
        assert d.area.split()[4] == 32
        with held(d) as h:
            h.wait_fetched()
            d.reconnect(before_start=h.back)
            h.check()


def test_area_of_a_ring_that_was_stopped_in_peace(either, packed):
    """QEMU stops and goes on (a paused guest): same area, base of the ring."""
    for i in range(5):
        either.works(i)
        bases = either.stop()
        either.vc.set_features(either.vc.offered & either.wanted)
        either.vc.set_inflight(either.area)
        either.start_ring(0, bases[0])
        either.enable()
    either.works()
    assert either.area.inflight(packed=packed) == {}


def test_reset_ends_the_area(either, packed):
    """The driver begins anew, with requests left in the area by the one before: they are not replayed."""
    either.works()
    with held(either) as h:
        h.wait_fetched()
        either.vc.do(vu.RESET_DEVICE)
        h.back()
        time.sleep(0.05)
        assert h.untouched()
        either.restart()
        either.works(9)
        assert h.untouched() and not either.rings[0].unexpected


def test_ring_that_began_anew_under_an_old_area(either):
    """A front end that does not empty the area after a reset of its guest."""
    for i in range(20):
        either.works(i)
    either.stop()
    either.rings[0].restart()
    either.vc.set_features(either.vc.offered & either.wanted)
    either.vc.set_inflight(either.area)
    either.start_ring(0, either.rings[0].base())
    either.enable()
    either.works()
    assert not either.rings[0].unexpected


# ---- a hostile area ----

def split_attacks(area, ids):
    def entry(i, inflight, following, counter):
        area.poke(area.entry_at(i), struct.pack("=B5xHQ", inflight, following, counter))

    def header(version=1, num=64, last=0, used=None):
        area.poke(0, struct.pack("=QHHHH", 0, version, num, last, area.split()[4] if used is None else used & 0xffff))

    yield "version 7", lambda: header(version=7)
    yield "another size", lambda: header(num=32)
    yield "a huge size", lambda: header(num=0xffff)
    yield "used index ahead", lambda: header(used=area.split()[4] + 1)
    yield "used index far away", lambda: header(used=area.split()[4] + 30000)
    yield "last batch out of range", lambda: header(last=0xffff, used=area.split()[4] - 3)
    yield "last batch in a circle", lambda: (header(last=5, used=area.split()[4] - 3), entry(5, 1, 5, 0))
    yield "links out of range", lambda: (header(last=5, used=area.split()[4] - 3), entry(5, 1, 0xffff, 0))
    yield "all in flight", lambda: [entry(i, 1, i, i) for i in range(64)]
    yield "the same counter", lambda: [entry(i, 1, 0, 7) for i in ids]
    yield "wild counters", lambda: [entry(i, 1, 0, (1 << 64) - 1 - i) for i in ids]
    yield "in flight 255", lambda: [entry(i, 255, 0, i) for i in ids]


def packed_attacks(area, ids):
    def header(**change):
        h = {**area.packed(), **change}
        area.poke(0, struct.pack("=QHHHHHHBB", *(h[n] for n in ("features", "version", "desc_num", "free_head",
                                                                "old_free_head", "used_idx", "old_used_idx", "used_wrap",
                                                                "old_used_wrap"))))

    def entry(i, **change):
        at = area.entry_at(i, packed=True)
        names = ("inflight", "next", "last", "num", "counter", "id", "flags", "len", "addr")
        e = {**dict(zip(names, struct.unpack_from("=BxHHHQHHIQ", area.map, at))), **change}
        area.poke(at, struct.pack("=BxHHHQHHIQ", *(e[n] for n in names)))

    yield "version 7", lambda: header(version=7)
    yield "another size", lambda: header(desc_num=32)
    yield "used index out of range", lambda: header(used_idx=64, old_used_idx=64)
    yield "used index elsewhere", lambda: header(used_idx=50, old_used_idx=51)
    yield "wrap counters", lambda: header(used_wrap=9, old_used_wrap=200)
    yield "free list out of range", lambda: header(free_head=0xffff, old_free_head=0xfffe)
    yield "free list in a circle", lambda: (header(free_head=60, old_free_head=60), entry(60, next=60))
    yield "chain in a circle", lambda: [entry(i, inflight=1, num=3, next=i, last=i) for i in range(64)]
    yield "chain too long", lambda: [entry(i, num=0xffff) for i in range(64)]
    yield "chain of none", lambda: [entry(i, num=0) for i in range(64)]
    yield "last out of range", lambda: [entry(i, last=0xffff) for i in range(64)]
    yield "buffer id out of range", lambda: [entry(i, id=0xffff) for i in range(64)]
    yield "the same buffer id", lambda: [entry(i, id=3) for i in range(64)]
    yield "the same counter", lambda: [entry(i, counter=3) for i in range(64)]
    yield "all in flight", lambda: [entry(i, inflight=1, num=1, last=i) for i in range(64)]


def test_hostile_area_is_a_fresh_start(either, packed, blk_snap, blk_neighbour):
    """Whatever a split ring's area says, what the driver made available is done; a packed ring may need a reset. Nothing
    comes back that was not in flight, and a reset heals all."""
    ring = either.rings[0]
    count = len(list((packed_attacks if packed else split_attacks)(either.area, [])))
    for n in range(count):
        for i in range(4):
            either.works(i)
        with held(either, count=4) as h:
            h.wait_fetched()
            name, attack = list((packed_attacks if packed else split_attacks)(either.area, h.ids))[n]
            attack()
            either.reconnect(before_start=h.back)
            if packed:
                ring.quiet(0.05)
            elif name not in ("all in flight", "wild counters"):
                ring.wait_all()
                assert {r.status for r in h.requests} == {OK}, name
            assert not ring.unexpected, f"{name}: {ring.unexpected}"
            either.vc.do(vu.RESET_DEVICE)
            either.restart()
            either.works()


def test_random_areas(either, packed, blk_snap, blk_neighbour):
    """Seeded: a failure repeats."""
    rng = random.Random(4711)
    ring = either.rings[0]
    for _ in range(40):
        with held(either, count=4) as h:
            h.wait_fetched()
            for _ in range(rng.choice((1, 3, 50))):
                either.area.poke(rng.randrange(2000), bytes([rng.choice((0, 1, 64, 0xff, rng.randrange(256)))]))
            either.reconnect(before_start=h.back)
            ring.quiet(0.02)
            assert blk_snap.service.poll() is None
            either.vc.do(vu.RESET_DEVICE)
            either.restart()
    either.works()
