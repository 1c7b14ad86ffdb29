# SPDX-License-Identifier: BSD-3-Clause
"""What tests of virtio-blk requests and rings have in common: chains made by hand, requests held in flight, and devices that
break and heal."""
import struct
import time
from contextlib import contextmanager

import vhost_user as vu
from vfio_user import fired
from vhost_user import GuestMemory
from virtio_blk import IN, IOERR, OK, OUT, Request, head, pattern
from virtq import INDIRECT, NEXT, WRITE, Seg

UNTOUCHED = 0xa5
AWAY = 0x8_0000_0000  # where no disk of the tests has memory of its own
MIB = 1 << 20


class Hand:
    """The parts of a request, each in memory of its own with a gap behind it, for a test to order as it likes."""

    def __init__(self, d, kind=IN, sector=0):
        self.memory = d.memory
        self.head = self.out(head(kind, sector))
        self.status = self.into(1)

    def out(self, data):
        """A piece the device may read."""
        at = self.memory.alloc(len(data) + 64, 64)
        self.memory.write(at, data)
        return Seg(at, len(data), False)

    def into(self, size):
        """A piece the device may write."""
        at = self.memory.alloc(size + 64, 64)
        self.memory.write(at, bytes([UNTOUCHED]) * (size + 64))
        return Seg(at, size, True)

    def read(self, seg):
        return self.memory.read(seg.addr, seg.len)

    def answer(self):
        """The status byte; UNTOUCHED: none was written."""
        return self.memory.read(self.status.addr, 1)[0]

    def overrun(self, seg):
        """Whether something was written behind a piece of into()."""
        return self.memory.read(seg.addr + seg.len, 63) != bytes([UNTOUCHED]) * 63


def run_chain(d, segs, queue=0, indirect=False, timeout=10.0):
    """The used length. indirect: the chain lies in a table."""
    r = d.rings[queue]
    table = d.memory.alloc(16 * len(segs), 16) if indirect else None
    return r.wait(r.submit(segs, indirect=table), timeout)


def fill(d, count=16, kind=OUT, queue=0, size=4096):
    """Requests in the ring, not yet shown to the device."""
    out = kind == OUT
    requests = [d.make(kind, 8 * i, pattern(i, size) if out else b"", 0 if out else size) for i in range(count)]
    for r in requests:
        d.rings[queue].add(r.segs)
    return requests


# ---- chains that no driver makes ----

def raw_table(d, *descs):
    """An indirect table of whatever: (address, length, flags, next). Returns where it lies."""
    at = d.memory.alloc(16 * len(descs), 16)
    for i, (addr, length, flags, following) in enumerate(descs):
        words = (flags, following) if not d.packed else (0, flags)
        d.memory.write(at + 16 * i, struct.pack("<QIHH", addr, length, *words))
    return at


def offer_raw(d, descs, queue=0, ident=0, kick=True):
    """Puts descriptors as they are into a ring where nothing is outstanding: (address, length, flags, next). A split ring's
    head is descriptor 0; a packed ring's are placed where the driver is, the first one last."""
    r = d.rings[queue]
    if d.packed:
        for i, (addr, length, flags, _) in reversed(list(enumerate(descs))):
            lap, at = divmod(r.next + i, r.size)
            r.write_desc(at, addr, length, ident, flags | r.avail_flags(r.wrap ^ (lap & 1)))
    else:
        for i, (addr, length, flags, following) in enumerate(descs):
            r.write_desc(i, addr, length, flags, following)
        r.offer(0)
        r.publish()
    if kick:
        r.kick(force=True)


def run_raw(d, descs, queue=0):
    """The used length of such a chain."""
    d.rings[queue].outstanding[0] = len(descs) if d.packed else []
    offer_raw(d, descs, queue)
    return d.rings[queue].wait(0)


def break_ring(d, queue=0):
    """A chain that is none: NEXT together with INDIRECT."""
    offer_raw(d, [(0x1000, 16, NEXT | INDIRECT, 1), (0x1000, 16, WRITE, 0)], queue)


# ---- devices that break and heal ----

def reset_by_status(d):
    d.vc.set_status(0)


def reset_by_message(d):
    d.vc.do(vu.RESET_DEVICE)


RESETS = [reset_by_status, reset_by_message]
RESET_IDS = ["status", "message"]


def is_broken(d, queue=0, timeout=6.0):
    """The device says that it needs a reset, in all the ways there are."""
    d.broken(timeout)
    assert fired(d.rings[queue].err_event)


def heal(d, reset=reset_by_status):
    """After a reset the device is as good as new."""
    reset(d)
    assert d.vc.status() == 0
    d.restart()
    assert not d.vc.status() & vu.NEEDS_RESET
    d.works()


# ---- requests in flight ----

class Held:
    """Writes whose data is in memory of its own, which is taken away before they are submitted: they wait until it is back."""

    def __init__(self, disk, count=8, sector=1000, step=1, seed=50):
        self.disk, self.ring = disk, disk.rings[0]
        self.ram = GuestMemory(MIB, AWAY)
        self.ram.attach(disk.vc)
        self.ram.detach(disk.vc)
        self.sectors = [sector + step * i for i in range(count)]
        self.requests = [Request(disk.memory, head(OUT, s), 1) for s in self.sectors]
        self.ids = []
        for i, r in enumerate(self.requests):
            self.ram.write(AWAY + 4096 * i, pattern(seed + i, 512))
            self.ids.append(self.ring.add([r.segs[0], Seg(AWAY + 4096 * i, 512, False), r.segs[1]]))
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

    def untouched(self):
        return all(r.status == UNTOUCHED for r in self.requests)

    def check(self):
        """All have come back, once, and are done."""
        used = self.ring.wait_all()
        assert sorted(used) == sorted(self.ids) and set(used.values()) == {1}
        assert {r.status for r in self.requests} == {OK}
        assert self.ring.quiet(0.05) and not self.ring.unexpected
        for i, s in enumerate(self.sectors):
            if s not in self.sectors[i + 1:]:
                assert self.disk.read(s, 1) == pattern(self.seed + i, 512)

    def check_failed(self):
        """All have come back, once, with an error."""
        used = self.ring.wait_all()
        assert sorted(used) == sorted(self.ids) and {r.status for r in self.requests} == {IOERR}

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
