# SPDX-License-Identifier: BSD-3-Clause
"""The driver's side of virtqueues, split (virtio 1.3, 2.7) and packed (2.8), on GuestMemory: any chain, any corruption.

add() writes a chain into the ring (put(): descriptors of any kind), publish() shows it to the device, kick() tells it when it
wants to be told; submit() is all three. poll() takes what has been used. Both classes do the same, so that a test can be
given either."""
import os
import struct
import threading
import time
from collections import namedtuple

from vfio_user import Timeout, eventfd

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15  # packed
NO_INTERRUPT = 1               # split, avail.flags
NO_NOTIFY = 1                  # split, used.flags
ENABLE, DISABLE, DESC = 0, 1, 2  # packed, event suppression

Seg = namedtuple("Seg", "addr len write")

fence_lock = threading.Lock()


def fence():
    """A lock is a full barrier."""
    with fence_lock:
        pass


def flags_of(seg):
    return WRITE if seg.write else 0


class Ring:
    """What both kinds have in common. done: {id: bytes written} of chains that are used and not yet taken."""

    def __init__(self, memory, size, event_idx, areas):
        self.memory, self.size, self.event_idx = memory, size, event_idx
        # Each part in pages of its own: whatever is written beyond one hits nothing by accident.
        self.parts = [(memory.alloc((n + 4095) & ~4095), n) for n in areas]
        self.desc, self.driver, self.device = (at for at, _ in self.parts)
        self.kick_event, self.call_event, self.err_event = eventfd(), eventfd(), eventfd()
        self.restart()

    def close(self):
        for fd in (self.kick_event, self.call_event, self.err_event):
            os.close(fd)

    def restart(self):
        """As after a reset of the device."""
        for at, size in self.parts:
            self.memory.write(at, bytes(size))
        self.outstanding, self.done, self.unexpected, self.kicks = {}, {}, [], 0

    def kick(self, force=False):
        fence()
        if force or self.wants_kick():
            self.kicks += 1
            try:
                os.eventfd_write(self.kick_event, 1)
            except BlockingIOError:
                pass  # full up: it is readable, which is all a kick can do

    def add(self, segs, indirect=None, **how):
        """Puts a chain into the ring; indirect: where the table of it is to be written. Returns its id."""
        if indirect is None:
            return self.put([(s.addr, s.len, flags_of(s)) for s in segs], **how)
        self.write_table(segs, indirect)
        return self.put([(indirect, 16 * len(segs), INDIRECT)], **how)

    def submit(self, segs, **how):
        """Returns the chain's id."""
        ident = self.add(segs, **how)
        self.publish()
        self.kick()
        return ident

    def used(self, ident, length):
        if ident in self.outstanding:
            del self.outstanding[ident]
            self.done[ident] = length
        else:
            self.unexpected.append((ident, length))

    def wait(self, ident, timeout=10.0):
        """The bytes written, as the device says; Timeout when the chain does not come back."""
        deadline = time.monotonic() + timeout
        while ident not in self.done:
            if not self.poll():
                if time.monotonic() > deadline:
                    raise Timeout(f"chain {ident} did not come back in {timeout} s")
                time.sleep(0.0003)
        assert not self.unexpected, f"used without having been available: {self.unexpected}"
        return self.done.pop(ident)

    def wait_all(self, timeout=20.0):
        """{id: bytes written} of all that was outstanding."""
        deadline = time.monotonic() + timeout
        while self.outstanding:
            if not self.poll():
                if time.monotonic() > deadline:
                    raise Timeout(f"{len(self.outstanding)} chains did not come back in {timeout} s")
                time.sleep(0.0003)
        assert not self.unexpected, f"used without having been available: {self.unexpected}"
        taken, self.done = self.done, {}
        return taken

    def quiet(self, seconds=0.2):
        """True when nothing is used within the time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.poll():
                return False
            time.sleep(0.005)
        return True


class SplitRing(Ring):
    """desc: table, driver: avail, device: used."""

    packed = False

    def __init__(self, memory, size, event_idx=False):
        super().__init__(memory, size, event_idx, (16 * size, 6 + 2 * size, 6 + 8 * size))

    def restart(self):
        super().restart()
        self.avail_idx = self.shown = self.used_idx = 0
        self.free = list(range(self.size))

    def resume(self, base):
        """Goes on in fresh memory as if base chains had been there before."""
        self.restart()
        self.avail_idx = self.shown = self.used_idx = base
        self.memory.set16(self.driver + 2, base)
        self.memory.set16(self.device + 2, base)

    def base(self):
        return 0

    # ---- raw ----
    def write_desc(self, i, addr, length, flags=0, following=0, table=None):
        self.memory.write((self.desc if table is None else table) + 16 * i,
                          struct.pack("<QIHH", addr, length, flags, following))

    def read_desc(self, i):
        return struct.unpack("<QIHH", self.memory.read(self.desc + 16 * i, 16))

    def set_head(self, position, head):
        self.memory.set16(self.driver + 4 + 2 * (position % self.size), head)

    def set_avail_idx(self, idx):
        self.memory.set16(self.driver + 2, idx)

    def set_avail_flags(self, flags):
        self.memory.set16(self.driver, flags)

    def set_used_event(self, idx):
        self.memory.set16(self.driver + 4 + 2 * self.size, idx)

    def avail_event(self):
        return self.memory.get16(self.device + 4 + 8 * self.size)

    def used_flags(self):
        return self.memory.get16(self.device)

    def device_idx(self):
        return self.memory.get16(self.device + 2)

    # ---- driver ----
    def write_table(self, segs, at):
        """An indirect table."""
        for i, seg in enumerate(segs):
            more = i + 1 < len(segs)
            self.write_desc(i, seg.addr, seg.len, flags_of(seg) | (NEXT if more else 0), i + 1 if more else 0, table=at)

    def put(self, descs):
        """A chain of (address, length, flags); NEXT is added. Returns the head."""
        assert len(self.free) >= len(descs), "the ring is full"
        used = [self.free.pop(0) for _ in descs]
        for i, (addr, length, flags) in enumerate(descs):
            more = i + 1 < len(descs)
            self.write_desc(used[i], addr, length, flags | (NEXT if more else 0), used[i + 1] if more else 0)
        self.outstanding[used[0]] = used
        self.offer(used[0])
        return used[0]

    def offer(self, head):
        """Puts a head into the avail ring, known or not."""
        self.set_head(self.avail_idx, head)
        self.avail_idx = (self.avail_idx + 1) & 0xffff

    def publish(self):
        self.set_avail_idx(self.avail_idx)

    def wants_kick(self):
        old, self.shown = self.shown, self.avail_idx
        if not self.event_idx:
            return not self.used_flags() & NO_NOTIFY
        return (self.avail_idx - self.avail_event() - 1) & 0xffff < (self.avail_idx - old) & 0xffff

    def poll(self):
        """Returns how many were used since the last time."""
        n = 0
        while self.device_idx() != self.used_idx:
            at = self.device + 4 + 8 * (self.used_idx % self.size)
            ident, length = struct.unpack("<II", self.memory.read(at, 8))
            self.free += self.outstanding.get(ident, [])
            self.used(ident, length)
            self.used_idx = (self.used_idx + 1) & 0xffff
            n += 1
        if n:
            self.set_used_event(self.used_idx)
        return n


class PackedRing(Ring):
    """desc: descriptor ring, driver and device: event suppression structures."""

    packed = True

    def __init__(self, memory, size, event_idx=False):
        super().__init__(memory, size, event_idx, (16 * size, 4, 4))

    def restart(self):
        super().restart()
        self.next = self.used_at = 0
        self.wrap = self.used_wrap = 1
        self.shown = 0, 1
        self.pending = []
        self.free_ids = list(range(self.size))
        self.room = self.size

    def base(self):
        """As of SET_VRING_BASE: where both sides begin."""
        return 0x80008000

    def position(self):
        """Where both sides are when nothing is outstanding."""
        return self.next | self.wrap << 15 | self.used_at << 16 | self.used_wrap << 31

    def resume(self, position, wrap=1):
        """Goes on in fresh memory as if both sides had come to position."""
        self.restart()
        self.next = self.used_at = position
        self.wrap = self.used_wrap = wrap
        self.shown = position, wrap
        if not wrap:  # what the lap before has left: used, with that lap's counter
            for i in range(self.size):
                self.write_desc(i, 0, 0, 0, AVAIL | USED if i >= position else 0)
        elif position:
            for i in range(position):
                self.write_desc(i, 0, 0, 0, AVAIL | USED)

    # ---- raw ----
    def write_desc(self, i, addr, length, ident=0, flags=0, table=None):
        """The flags last, in one store."""
        at = (self.desc if table is None else table) + 16 * i
        self.memory.write(at, struct.pack("<QIH", addr, length, ident))
        self.memory.set16(at + 14, flags)

    def set_driver_event(self, flags, off_wrap=0):
        self.memory.set16(self.driver, off_wrap)
        self.memory.set16(self.driver + 2, flags)

    def device_event(self):
        """off_wrap, flags"""
        return self.memory.get16(self.device), self.memory.get16(self.device + 2)

    def avail_flags(self, wrap=None):
        return AVAIL if (self.wrap if wrap is None else wrap) else USED

    def advance(self, n=1):
        self.next += n
        self.room -= n
        if self.next >= self.size:
            self.next, self.wrap = self.next - self.size, self.wrap ^ 1

    # ---- driver ----
    def write_table(self, segs, at):
        for i, seg in enumerate(segs):
            self.write_desc(i, seg.addr, seg.len, 0, flags_of(seg), table=at)

    def put(self, descs, ident=None):
        """A chain of (address, length, flags); NEXT is added to all but the last, and only the last one's buffer ID counts
        (2.8.6). Returns it."""
        assert self.room >= len(descs), "the ring is full"
        if ident is None:
            ident = self.free_ids.pop(0)
        else:
            self.free_ids.remove(ident)
        for i, (addr, length, flags) in enumerate(descs):
            last = i + 1 == len(descs)
            flags |= self.avail_flags() | (0 if last else NEXT)
            at = self.desc + 16 * self.next
            self.memory.write(at, struct.pack("<QIH", addr, length, ident if last else 0xeeee))
            if i == 0:
                self.pending.append((at + 14, flags))
            else:
                self.memory.set16(at + 14, flags)
            self.advance()
        self.outstanding[ident] = len(descs)
        return ident

    def publish(self):
        for at, flags in self.pending:
            self.memory.set16(at, flags)
        self.pending = []

    def wants_kick(self):
        old, self.shown = self.shown, (self.next, self.wrap)
        off_wrap, flags = self.device_event()
        if flags & 3 != DESC:
            return flags & 3 == ENABLE
        # Counted from the start of the lap the driver is in, as Linux does.
        event, at = off_wrap & 0x7fff, self.next
        if off_wrap >> 15 != self.wrap:
            event -= self.size
        passed = (self.next - old[0]) % self.size or (self.size if self.wrap != old[1] else 0)
        return (at - event - 1) & 0xffff < passed

    def poll(self):
        n = 0
        while True:
            at = self.desc + 16 * self.used_at
            flags = self.memory.get16(at + 14)
            if bool(flags & AVAIL) != bool(self.used_wrap) or bool(flags & USED) != bool(self.used_wrap):
                break
            length, ident = struct.unpack("<IH", self.memory.read(at + 8, 6))
            entries = self.outstanding.get(ident, 1)
            if ident in self.outstanding:
                self.free_ids.append(ident)
            self.used(ident, length)
            self.used_at += entries
            self.room += entries
            if self.used_at >= self.size:
                self.used_at, self.used_wrap = self.used_at - self.size, self.used_wrap ^ 1
            n += 1
        if n and self.event_idx:
            self.set_driver_event(DESC, self.used_at | self.used_wrap << 15)
        return n


def ring(packed, *args, **how):
    return (PackedRing if packed else SplitRing)(*args, **how)
