# SPDX-License-Identifier: BSD-3-Clause
"""What tests of virtio-blk requests and rings have in common: chains made by hand, and devices that break and heal."""
import struct

import vhost_user as vu
from vfio_user import fired
from virtio_blk import IN, head
from virtq import Seg

UNTOUCHED = 0xa5


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


def reset_by_status(d):
    d.vc.set_status(0)


def reset_by_message(d):
    d.vc.do(vu.RESET_DEVICE)


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
