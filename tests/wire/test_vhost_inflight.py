# SPDX-License-Identifier: BSD-3-Clause
"""What is in flight when somebody dies: the service, snap_emu or the connection. Every request is completed once.

Requests are kept in flight by taking the memory of their data away: they wait until it is back."""
import os
import random
import struct
import time
from contextlib import contextmanager

import pytest
import vhost_user as vu
from disks import BLK_QUEUES, no_more_fds, open_fds
from nvme_tcp_peer import NvmeTcpPeer, PeerNamespace
from vhost_user import GuestMemory, Inflight, VhostError
from virtio_blk import IN, OK, OUT, Request, VirtioBlk, head, pattern
from virtq import Seg

MIB = 1 << 20
BASE = 0x8_0000_0000


class Held:
    """Writes whose data is in memory of its own, which is taken away before they are submitted."""

    def __init__(self, disk, count=8, sector=1000, step=1, seed=50):
        self.disk, self.ring = disk, disk.rings[0]
        self.ram = GuestMemory(MIB, BASE)
        self.ram.attach(disk.vc)
        self.ram.detach(disk.vc)
        self.sectors = [sector + step * i for i in range(count)]
        self.requests = [Request(disk.memory, head(OUT, s), 1) for s in self.sectors]
        self.ids = []
        for i, r in enumerate(self.requests):
            self.ram.write(BASE + 4096 * i, pattern(seed + i, 512))
            self.ids.append(self.ring.add([r.segs[0], Seg(BASE + 4096 * i, 512, False), r.segs[1]]))
        self.seed, self.there = seed, False
        self.ring.publish()
        self.ring.kick(force=True)

    def wait_fetched(self):
        """Until the in-flight area has all of them."""
        deadline = time.monotonic() + 5
        while len(self.disk.area.inflight(packed=self.disk.packed)) < len(self.ids):
            assert time.monotonic() < deadline, "they were not fetched"
            time.sleep(0.001)

    def back(self, _=None):
        self.ram.attach(self.disk.vc)
        self.there = True

    def check(self):
        """All have come back, once, and are done."""
        used = self.ring.wait_all()
        assert sorted(used) == sorted(self.ids) and set(used.values()) == {1}
        assert {r.status for r in self.requests} == {OK}
        assert self.ring.quiet(0.05) and not self.ring.unexpected
        for i, s in enumerate(self.sectors):
            if s not in self.sectors[i + 1:]:
                assert self.disk.read(s, 1) == pattern(self.seed + i, 512)

    def close(self):
        self.ram.close()


@contextmanager
def held(disk, **how):
    h = Held(disk, **how)
    try:
        yield h
        if h.there:
            h.ram.detach(disk.vc)
    finally:
        h.close()


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
        assert all(r.status == 0xa5 for r in h.requests)
        either.restart()
        either.works(9)
        assert all(r.status == 0xa5 for r in h.requests) and not either.rings[0].unexpected


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


# ---- the connection breaks ----

def test_reconnect_replays_each_once(either, blk_neighbour):
    either.works()
    for lap in range(3):
        with held(either, seed=100 * lap) as h:
            h.wait_fetched()
            either.reconnect(before_start=h.back)
            h.check()
    either.works()


def test_reconnect_with_new_requests_queued_meanwhile(either, packed):
    """Kicks while nobody listens are kept in the eventfd."""
    with held(either) as h:
        h.wait_fetched()
        either.vc.close()
        more = [either.make(OUT, 2000 + i, pattern(i, 512)) for i in range(8)]
        for r in more:
            h.ids.append(either.rings[0].submit(r.segs))
        either.reconnect(before_start=h.back)
        h.requests += more
        h.check()
        assert either.read(2003, 1) == pattern(3, 512)


def test_reconnect_replays_in_the_order_of_fetching(either, packed):
    """Writes to one sector, the later ones under smaller numbers: the last one must win."""
    ring = either.rings[0]
    for lap in range(4):
        if packed:
            ring.free_ids.reverse()
        else:
            ring.free.reverse()
        with held(either, count=12, sector=500, step=0, seed=300 + 20 * lap) as h:
            h.wait_fetched()
            either.reconnect(before_start=h.back)
            h.check()


def test_stale_base_is_ignored_with_an_area(either, packed):
    """2.3: what counts is used idx and what is in flight, not the base the front end believes in."""
    for i in range(5):
        either.works(i)
    with held(either) as h:
        h.wait_fetched()
        ring = either.rings[0]
        stale = ring.base() if packed else ring.avail_idx
        either.reconnect(bases=[stale], before_start=h.back)
        h.check()
        either.works()


def test_reconnect_of_a_split_ring_without_an_area(blk_path):
    """Its base is the used index: what was in flight is fetched again."""
    with VirtioBlk(blk_path, inflight=False) as d:
        d.works()
        with held(d) as h:
            assert d.rings[0].quiet(0.05)
            d.reconnect(before_start=h.back)
            h.check()


def test_reconnect_again_and_again_under_load(either):
    """At whatever point of a request the connection breaks."""
    ring = either.rings[0]
    requests = [either.make(IN if i % 2 else OUT, 8 * i, b"" if i % 2 else pattern(i, 4096), 4096 if i % 2 else 0)
                for i in range(16)]
    for lap in range(25):
        for r in requests:
            ring.add(r.segs)
        ring.publish()
        ring.kick()
        either.reconnect()
        ring.wait_all()
        assert {r.status for r in requests} == {OK}
    either.works()


# ---- the service dies ----

def wait_started(snap, ctrl="Blk0", seconds=20):
    deadline = time.monotonic() + seconds
    while True:
        found = [c["state"] for c in snap.rpc("virtio_blk_controller_list") if c["ctrl_id"] == ctrl]
        if found == ["STARTED"]:
            return
        assert time.monotonic() < deadline, f"{ctrl} is {found}"
        time.sleep(0.01)


def test_killed_service_leaves_nothing_open(blk_snap, either, blk_neighbour):
    """The front end's socket, rings and eventfds stay; it notices a pause at most."""
    either.works()
    for lap in range(2):
        with held(either, seed=700 + 20 * lap) as h:
            h.wait_fetched()
            blk_snap.kill_service()
            try:
                h.back()  # answered by snap_emu
                assert either.vc.status() & vu.DRIVER_OK and either.config()["capacity"] == 16384
                more = either.make(OUT, 3000, pattern(3, 512))
                h.ids.append(either.rings[0].submit(more.segs))
                h.requests.append(more)
            finally:
                blk_snap.start_service()
            h.check()
            assert either.read(3000, 1) == pattern(3, 512)
    assert either.vc.silent(0.01) and not either.vc.status() & vu.NEEDS_RESET


def test_killed_service_and_order(blk_snap, either, packed):
    ring = either.rings[0]
    (ring.free_ids if packed else ring.free).reverse()
    with held(either, count=12, sector=500, step=0, seed=900) as h:
        h.wait_fetched()
        blk_snap.kill_service()
        try:
            h.back()
        finally:
            blk_snap.start_service()
        h.check()


def test_messages_while_there_is_no_service(blk_snap, blk_path, packed, blk_neighbour):
    """Parked: memory is taken away after the fence; a ring without in-flight area cannot be drained, so the connection
    ends by a deadline."""
    with VirtioBlk(blk_path, packed=packed, inflight=False) as d:
        d.works()
        ram = GuestMemory(MIB, BASE)
        ram.attach(d.vc)
        blk_snap.kill_service()
        try:
            start = time.monotonic()
            ram.detach(d.vc)
            ram.attach(d.vc)
            d.vc.enable(0, 0)
            d.vc.enable(0, 1)
            d.vc.call_fd(0, d.rings[0].call_event)
            assert time.monotonic() - start < 3
            with pytest.raises(vu.Disconnected):
                d.vc.get_base(0, timeout=8)
            assert 2 < time.monotonic() - start < 8
        finally:
            blk_snap.start_service()
        ram.close()
        d.reconnect(bases=[d.rings[0].position()] if packed else None)
        d.works()


def test_stop_that_waits_for_the_next_service(blk_snap, blk_path, packed):
    """Without an in-flight area only the next service knows where the ring is."""
    with VirtioBlk(blk_path, packed=packed, inflight=False) as d:
        d.works()
        blk_snap.kill_service()
        d.vc.send(vu.GET_VRING_BASE, struct.pack("=II", 0, 0))
        assert d.vc.silent(0.1)
        blk_snap.start_service()
        assert struct.unpack("=II", d.vc.reply_to(vu.GET_VRING_BASE))[1] == (d.rings[0].position() if packed else 2)


def go_on(disk, bases):
    """As a VM that was paused: memory and area are still there."""
    disk.vc.set_features(disk.vc.offered & disk.wanted)
    disk.vc.set_inflight(disk.area)
    for i, base in enumerate(bases):
        disk.start_ring(i, base)
    disk.enable()


@pytest.mark.parametrize("status_first", [True, False])
def test_stop_does_not_wait_for_a_service_when_there_is_an_area(blk_snap, either, status_first):
    """A paused VM: what was in flight is done when the ring starts again, wherever its base says it is."""
    for i in range(3):
        either.works(i)
    with held(either) as h:
        h.wait_fetched()
        blk_snap.kill_service()
        try:
            if status_first:
                either.vc.set_status(0)
            bases = [either.vc.get_base(i) for i in range(len(either.rings))]
            if not status_first:
                either.vc.set_status(0)
        finally:
            blk_snap.start_service()
        assert either.vc.silent(0.1) and len(either.area.inflight(packed=either.packed)) == len(h.ids)
        h.back()
        go_on(either, bases)
        h.check()
        either.works()


def test_target_that_is_away_makes_an_old_qemu_wait(blk_snap, fresh):
    """It says status 0 before it asks for bases, and would not come over a connection that is lost meanwhile."""
    with NvmeTcpPeer(namespaces=[PeerNamespace(1, blocks=4096)]) as peer:
        blk_snap.rpc("bdev_nvme_attach_controller", name="Away", trtype="TCP", traddr="127.0.0.1", adrfam="IPv4",
                     trsvcid=str(peer.port), subnqn=peer.nqn)
        with VirtioBlk(fresh(bdev="Awayn1")) as d:
            d.works()
            peer.hold()
            request = d.make(OUT, 64, pattern(64, 512))
            ident = d.submit(request)
            while not any(c.held for c in peer.connections):
                time.sleep(0.01)
            d.vc.send(vu.SET_STATUS, struct.pack("=Q", 0), need_reply=True)
            assert d.vc.silent(3.5)
            peer.release()
            assert struct.unpack("=Q", d.vc.reply_to(vu.SET_STATUS)) == (0,)
            assert d.rings[0].wait(ident) == 1 and request.status == OK
            assert d.vc.get_base(0) == d.rings[0].device_idx() == 3
        [made] = [c for c in blk_snap.rpc("virtio_blk_controller_list") if c["bdev"] == "Awayn1"]
        blk_snap.rpc("virtio_blk_controller_bdev_detach", ctrl_id=made["ctrl_id"])
        blk_snap.rpc("bdev_nvme_detach_controller", name="Away")


def test_driver_that_resets_while_there_is_no_service_and_forgets_to_clear_its_area(blk_snap, either):
    """Its rings are new: what the area says of the old ones is not done."""
    either.works()
    with held(either) as h:
        h.wait_fetched()
        blk_snap.kill_service()
        either.stop()
        blk_snap.start_service()
        h.back()
        for r in either.rings:
            r.restart()
        go_on(either, [r.base() for r in either.rings])
        either.works()
        assert all(r.status == 0xa5 for r in h.requests)


def test_reset_while_there_is_no_service(blk_snap, either):
    with held(either) as h:
        h.wait_fetched()
        blk_snap.kill_service()
        try:
            either.vc.do(vu.RESET_DEVICE)
            h.back()
        finally:
            blk_snap.start_service()
        either.restart()
        either.works()
        assert all(r.status == 0xa5 for r in h.requests)


def test_front_end_comes_while_there_is_no_service(blk_snap, blk_path, packed):
    blk_snap.kill_service()
    try:
        d = VirtioBlk(blk_path, packed=packed)
        request = d.make(OUT, 70, pattern(70, 512))
        ident = d.submit(request)
        assert d.rings[0].quiet(0.05)
    finally:
        blk_snap.start_service()
    assert d.rings[0].wait(ident) == 1 and request.status == OK
    d.works()
    d.close()


# ---- snap_emu dies ----

@pytest.mark.parametrize("first", ["emu", "service"])
def test_killed_snap_emu_loses_the_connection_only(own_blk_snap, packed, first):
    """State memory is gone with it: the in-flight area tells what was in flight."""
    s = own_blk_snap
    with VirtioBlk(s.vhost_socket(s.vuids[0]), packed=packed) as d:
        d.works()
        with held(d) as h:
            h.wait_fetched()
            if first == "service":
                s.kill_service()
                s.kill_emu()
            else:
                s.kill_emu()
                s.kill_service()
            (s.run_dir / "emu.sock").unlink(missing_ok=True)
            assert d.vc.closed_within(5)
            assert len(d.area.inflight(packed=packed)) == len(h.ids)
            s.start_emu()
            s.start_service()
            wait_started(s)
            d.reconnect(before_start=h.back)
            h.check()
        d.works()


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
