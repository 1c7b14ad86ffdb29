# SPDX-License-Identifier: BSD-3-Clause
"""The front end's memory: what is accepted, what is refused, and that it can be taken away under load."""
import os
import socket
import struct
import time

import pytest
import vhost_user as vu
from blk_chains import Hand
from disks import no_more_fds, open_fds
from vhost_user import USER_OFFSET, GuestMemory, refused
from virtio_blk import IN, OK, OUT, Request, VirtioBlk, connect_soon, head, pattern
from virtq import Seg

MIB = 1 << 20
BASE = 0x8_0000_0000


@pytest.fixture
def ram():
    m = GuestMemory(4 * MIB, BASE)
    yield m
    m.close()


def in_memory(memory, kind, sector, out=b"", in_bytes=0):
    return Request(memory, head(kind, sector) + out, in_bytes + 1)


def test_table_of_up_to_eight_regions(fe, ram):
    for n in (1, 2, 8):
        fe.set_mem_table(*[(BASE + i * MIB, 4096 * (i + 1), ram.fd, 4096 * i) for i in range(n)])
    refused(fe.do, vu.SET_MEM_TABLE, struct.pack("=II", 0, 0))
    refused(fe.set_mem_table, *[(BASE + i * MIB, 4096, ram.fd, 0) for i in range(9)])
    fe.set_mem_table((BASE, MIB, ram.fd, 0))


def test_table_whose_parts_do_not_agree_is_refused_whole(fe, ram):
    one, two = fe.region(BASE, MIB), fe.region(BASE + MIB, MIB, None, MIB)
    for count, payload, fds in ((2, one, (ram.fd, ram.fd)), (1, one + two, ()), (2, one + two, (ram.fd,)),
                                (1, one, (ram.fd, ram.fd)), (0xffffffff, one, (ram.fd,)),
                                (2, one + one, (ram.fd, ram.fd)), (2, one + fe.region(BASE + 4096, MIB), (ram.fd, ram.fd)),
                                (2, one + fe.region(BASE + MIB, MIB, BASE + USER_OFFSET + 4096), (ram.fd, ram.fd)),
                                (2, one + fe.region(BASE + MIB, 64 * MIB), (ram.fd, ram.fd))):
        refused(fe.do, vu.SET_MEM_TABLE, struct.pack("=II", count, 0) + payload, fds)
    fe.add_mem(BASE, MIB, ram.fd)  # nothing of them is there


def test_bad_numbers_are_refused(fe, ram):
    for gpa, size, offset in ((BASE, 0, 0), (0xffff_ffff_ffff_f000, 0x2000, 0), (BASE, 1 << 63, 1 << 63), (BASE, 8 * MIB, 0),
                              (BASE, 4096, 4 * MIB), (BASE, 4096, 0xffff_ffff_ffff_f000), (BASE, MIB, 3 * MIB + 4096),
                              (BASE, 4096, 1), (BASE, 4096, 2048)):
        refused(fe.add_mem, gpa, size, ram.fd, offset)
    refused(fe.add_mem, BASE, MIB, ram.fd, 0, 0xffff_ffff_ffff_f000)
    fe.add_mem(BASE, 4 * MIB, ram.fd)


def test_overlaps_are_refused(fe, ram):
    fe.add_mem(BASE, 2 * MIB, ram.fd)
    for gpa, size, user in ((BASE, 2 * MIB, None), (BASE + MIB, 2 * MIB, None), (BASE - MIB, 2 * MIB, None),
                            (BASE + 4096, 4096, None), (BASE - MIB, 4 * MIB, None),
                            (BASE + 4 * MIB, 4096, BASE + USER_OFFSET + 4096), (BASE + 4096, 4096, 0x1000)):
        refused(fe.add_mem, gpa, size, ram.fd, 0, user)
    fe.add_mem(BASE + 2 * MIB, MIB, ram.fd, 2 * MIB)


def test_wrong_descriptors_are_refused(fe, ram, blk_neighbour):
    r, w = os.pipe()
    a, b = socket.socketpair()
    directory, null = os.open("/", os.O_RDONLY), os.open("/dev/null", os.O_RDWR)
    readonly = os.open(f"/proc/self/fd/{ram.fd}", os.O_RDONLY)
    fds = (r, w, a.fileno(), directory, null, readonly, os.eventfd(0))
    for fd in fds:
        refused(fe.add_mem, BASE, 4096, fd)
        refused(fe.set_mem_table, (BASE, 4096, fd, 0))
    refused(fe.add_mem, BASE, 4096, None)
    refused(fe.do, vu.ADD_MEM_REG, bytes(8) + fe.region(BASE, 4096), (ram.fd, ram.fd))
    a.close()
    b.close()
    for fd in (r, w, directory, null, readonly, fds[-1]):
        os.close(fd)
    fe.add_mem(BASE, MIB, ram.fd)


def test_removal_of_what_is_not_there_is_refused(fe, ram):
    refused(fe.rem_mem, BASE, MIB)
    fe.add_mem(BASE, 2 * MIB, ram.fd)
    for gpa, size, user in ((BASE, MIB, None), (BASE + MIB, MIB, None), (BASE, 4 * MIB, None), (BASE, 0, None),
                            (BASE, 2 * MIB, 0x1000)):
        refused(fe.rem_mem, gpa, size, 0, user)
    fe.rem_mem(BASE, 2 * MIB)
    refused(fe.rem_mem, BASE, 2 * MIB)


def test_descriptor_that_comes_with_a_removal_is_closed(fe, ram, blk_snap):
    fe.add_mem(BASE, MIB, ram.fd)
    fe.rem_mem(BASE, MIB, fds=(ram.fd,))
    before = open_fds(blk_snap)
    for _ in range(200):
        fe.add_mem(BASE, MIB, ram.fd)
        fe.rem_mem(BASE, MIB, fds=(ram.fd,))
    assert no_more_fds(blk_snap, before)


def test_as_many_regions_as_slots(blk, ram):
    slots = blk.vc.slots - 1  # one is the disk's
    for i in range(slots):
        blk.vc.add_mem(BASE + 2 * 4096 * i, 4096, ram.fd, 4096 * i)
    refused(blk.vc.add_mem, BASE + 2 * 4096 * slots, 4096, ram.fd)
    blk.works()
    for i in (0, 5, slots - 1):
        request = Request(blk.memory, head(OUT, i), 1)
        data = BASE + 8192 * i
        ram.write(BASE + 4096 * i, pattern(i, 512))
        segs = [request.segs[0], Seg(data, 512, False), request.segs[1]]
        blk.rings[0].wait(blk.rings[0].submit(segs))
        assert request.status == OK and blk.read(i, 1) == pattern(i, 512)
    for i in range(slots):
        blk.vc.rem_mem(BASE + 2 * 4096 * i, 4096)
    blk.works()


def test_thousands_of_times_leaks_nothing(blk, ram, blk_snap):
    blk.vc.add_mem(BASE, MIB, ram.fd)
    blk.vc.rem_mem(BASE, MIB)
    before = open_fds(blk_snap)
    for _ in range(1500):
        blk.vc.add_mem(BASE, MIB, ram.fd)
        refused(blk.vc.add_mem, BASE, MIB, ram.fd)
        blk.vc.rem_mem(BASE, MIB)
    for _ in range(500):
        blk.vc.set_mem_table((blk.memory.gpa, blk.memory.size, blk.memory.fd, 0), (BASE, MIB, ram.fd, 0))
        blk.vc.set_mem_table((blk.memory.gpa, blk.memory.size, blk.memory.fd, 0))
    assert no_more_fds(blk_snap, before)
    blk.works()


def test_request_across_two_regions(either):
    """Neighbours in guest addresses, but not in the file: one descriptor covers both."""
    with_two = GuestMemory(2 * MIB, BASE)
    either.vc.add_mem(BASE, MIB, with_two.fd, MIB)
    either.vc.add_mem(BASE + MIB, MIB, with_two.fd, 0)
    data = pattern(5, 8192)
    with_two.write(BASE + 2 * MIB - 4096, data[:4096])
    with_two.write(BASE, data[4096:])
    request = Request(either.memory, head(OUT, 64), 1)
    either.rings[0].wait(either.rings[0].submit([request.segs[0], Seg(BASE + MIB - 4096, 8192, False), request.segs[1]]))
    assert request.status == OK and either.read(64, 16) == data
    with_two.close()


def test_answer_to_a_removal_means_no_access_any_more(either, ram, packed, blk_neighbour):
    """Reads into memory that is taken away: from the answer on it stays as the front end leaves it."""
    vc, ring = either.vc, either.rings[0]
    for _ in range(15):
        ram.used = 0
        vc.add_mem(BASE, 4 * MIB, ram.fd)
        requests = [Request(either.memory, head(IN, 8 * i), 1) for i in range(16)]
        for i, r in enumerate(requests):
            ring.add([r.segs[0], Seg(BASE + 65536 * i, 4096, True), r.segs[1]])
        ring.publish()
        ring.kick()
        vc.rem_mem(BASE, 4 * MIB)
        mark = b"\x77" * 4096
        for i in range(16):
            ram.write(BASE + 65536 * i, mark)
        either.memory.used = max(0, either.memory.used - 16 * 1024)
        time.sleep(0.002)
        assert all(ram.read(BASE + 65536 * i, 4096) == mark for i in range(16))
        vc.add_mem(BASE, 4 * MIB, ram.fd)
        ring.wait_all()
        assert {r.status for r in requests} == {OK}
        vc.rem_mem(BASE, 4 * MIB)


def test_answer_to_a_table_without_a_region_means_no_access_any_more(either, ram):
    mine = either.memory.gpa, either.memory.size, either.memory.fd, 0
    theirs, ring, mark = (BASE, 4 * MIB, ram.fd, 0), either.rings[0], b"\x77" * 65536
    for _ in range(10):
        either.vc.set_mem_table(mine, theirs)
        hands = [Hand(either, IN, 8 * i) for i in range(16)]
        for i, h in enumerate(hands):
            ring.add([h.head, Seg(BASE + 4096 * i, 4096, True), h.status])
        ring.publish()
        ring.kick()
        either.vc.set_mem_table(mine)
        ram.write(BASE, mark)
        time.sleep(0.002)
        assert ram.read(BASE, 65536) == mark
        either.vc.set_mem_table(mine, theirs)
        ring.wait_all()
        assert {h.answer() for h in hands} == {OK}


def test_requests_whose_memory_went_away_finish_when_it_is_back(either, ram):
    vc, ring = either.vc, either.rings[0]
    vc.add_mem(BASE, 4 * MIB, ram.fd)
    either.write(300, pattern(7, 4096))
    vc.rem_mem(BASE, 4 * MIB)
    request = Request(either.memory, head(IN, 300), 1)
    ident = ring.submit([request.segs[0], Seg(BASE, 4096, True), request.segs[1]])
    assert ring.quiet(0.1)
    either.works()  # others pass by
    assert ident not in ring.done
    vc.add_mem(BASE, 4 * MIB, ram.fd)
    assert ring.wait(ident) == 4097 and request.status == OK and ram.read(BASE, 4096) == pattern(7, 4096)


def test_rings_memory_away_and_back(either):
    """Rings are looked up again after each change of the map."""
    for i in range(5):
        either.memory.detach(either.vc)
        request = either.make(OUT, i, pattern(i, 512))
        ident = either.submit(request)
        assert either.rings[0].quiet(0.03)
        either.memory.attach(either.vc)
        assert either.rings[0].wait(ident) == 1 and request.status == OK
    assert either.read(3, 1) == pattern(3, 512)


def test_table_that_drops_a_region_keeps_the_rings_running(blk, ram):
    vc = blk.vc
    mine = blk.memory.gpa, blk.memory.size, blk.memory.fd, 0
    requests = [blk.make(OUT, 8 * i, pattern(i, 4096)) for i in range(16)]
    for lap in range(10):
        vc.set_mem_table(mine, (BASE, MIB, ram.fd, 0))
        for r in requests:
            blk.rings[0].add(r.segs)
        blk.rings[0].publish()
        blk.rings[0].kick()
        vc.set_mem_table(mine)
        blk.rings[0].wait_all()
        assert {r.status for r in requests} == {OK}
    assert blk.read(24, 8) == pattern(3, 4096)


def test_memory_is_plugged_under_load(either, ram):
    ring, vc = either.rings[0], either.vc
    requests = [either.make(OUT, 8 * i, pattern(i, 4096)) for i in range(16)]
    for i in range(100):
        for r in requests:
            ring.add(r.segs)
        ring.publish()
        ring.kick()
        vc.add_mem(BASE + MIB * (i % 2), MIB, ram.fd, MIB * (i % 2))
        vc.rem_mem(BASE + MIB * (i % 2), MIB)
        assert set(ring.wait_all().values()) == {1} and {r.status for r in requests} == {OK}


def test_file_cut_short_later_stops_nobody_else(own_blk_snap):
    """Memory whose file shrinks under it: this function's requests may fail, everything else goes on."""
    first, second = (own_blk_snap.vhost_socket(v) for v in own_blk_snap.vuids[:2])
    fd = os.memfd_create("shrinks")
    os.ftruncate(fd, 2 * MIB)
    with VirtioBlk(second) as other:
        with VirtioBlk(first) as d:
            d.vc.add_mem(BASE, 2 * MIB, fd)
            request = Request(d.memory, head(IN, 0), 1)
            chain = [request.segs[0], Seg(BASE + MIB, 4096, True), request.segs[1]]
            d.rings[0].wait(d.rings[0].submit(chain))
            assert request.status == OK
            os.ftruncate(fd, 4096)
            try:
                d.rings[0].wait(d.rings[0].submit(chain), timeout=2)
            except vu.Timeout:
                pass
            other.works()
            os.close(fd)
        other.works(5)
        with connect_soon(first):
            pass
        with VirtioBlk(first) as d:
            d.works()


def test_rings_in_a_file_cut_short(own_blk_snap):
    first, second = (own_blk_snap.vhost_socket(v) for v in own_blk_snap.vuids[:2])
    with VirtioBlk(second) as other, VirtioBlk(first) as d:
        d.works()
        os.ftruncate(d.memory.fd, 4096)
        os.eventfd_write(d.rings[0].kick_event, 1)
        other.works()
        d.vc.close()
        d.vc = connect_soon(first)
        other.works(5)
    with VirtioBlk(first) as d:
        d.works()
