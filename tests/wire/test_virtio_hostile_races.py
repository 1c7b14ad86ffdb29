# SPDX-License-Identifier: BSD-3-Clause
"""A12: rings, tables and headers that change under the device. Only the guest's own data may be wrong."""
import random
import struct
import threading
import time
from contextlib import contextmanager

import pytest
import vhost_user as vu
from blk_chains import AWAY, Hand, heal
from virtio_blk import IN, OUT, VirtioBlk, head, pattern
from virtq import AVAIL, INDIRECT, NEXT, WRITE

pytestmark = pytest.mark.usefixtures("blk_neighbour")

SIZE = 64


@contextmanager
def in_a_thread(scribble, *args):
    """scribble(*args, stop) until the block is left."""
    stop = threading.Event()
    thread = threading.Thread(target=scribble, args=(*args, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def forget_buffers(d):
    """All but the rings' memory is free again."""
    d.memory.used = max(at + size for q in d.rings for at, size in q.parts) + 4096 - d.memory.gpa
    d.buffers.clear()


def scribble_descriptors(d, seed, stop):
    """Overwrites descriptors with what looks like some."""
    rng = random.Random(seed)
    r, m = d.rings[0], d.memory
    addresses = [m.gpa, r.desc, m.gpa + m.size - 8, m.gpa + (1 << 20), 0, (1 << 64) - 8]
    lengths = [0, 1, 15, 16, 512, 4096, 1 << 20, 0xffffffff]
    while not stop.is_set():
        for _ in range(50):
            at = r.desc + 16 * rng.randrange(SIZE)
            what = rng.randrange(4)
            if what == 0:
                m.write(at, struct.pack("<Q", rng.choice(addresses)))
            elif what == 1:
                m.write(at + 8, struct.pack("<I", rng.choice(lengths)))
            elif what == 2 and not d.packed:
                m.set16(at + 12, rng.randrange(8))
            else:
                m.set16(at + (12 if d.packed else 14), rng.choice((0, 1, SIZE - 1, rng.randrange(SIZE))))
        time.sleep(0)


def scribbles(d, rng):
    """Chains change while they are fetched and executed."""
    r = d.rings[0]
    with in_a_thread(scribble_descriptors, d, rng.random()):
        for _ in range(4):
            while (r.room if d.packed else len(r.free)) >= 3:
                r.add(d.make(rng.choice((IN, OUT)), 0, b"", 0).segs)
            r.publish()
            r.kick(force=True)
            time.sleep(0.002)
            r.poll()


def noise(d, rng):
    """Over the driver's parts of the ring; split: so that it is looked at, with a plausible index and plausible heads."""
    r = d.rings[0]
    for at, size in r.parts[:2]:
        d.memory.write(at, rng.randbytes(size))
    if not d.packed:
        r.set_avail_idx(rng.randrange(1, SIZE))
        for i in range(SIZE):
            r.set_head(i, rng.randrange(SIZE))
    for i in range(SIZE):
        at = r.desc + 16 * i
        if rng.random() < 0.8:
            d.memory.write(at, struct.pack("<QI", d.memory.gpa + rng.randrange(1 << 22), rng.randrange(1 << 12)))
        if d.packed:
            d.memory.set16(at + 14, rng.randrange(8) | AVAIL)
            d.memory.set16(at + 12, rng.randrange(SIZE))
        else:
            d.memory.write(at + 12, struct.pack("<HH", rng.randrange(8), rng.randrange(SIZE)))


def errors(d, rng):
    """Good requests, and then some bytes of all parts of the ring are others."""
    r = d.rings[0]
    for i in range(5):
        r.add(d.make(OUT, i, pattern(i, 512)).segs)
    r.publish()
    r.kick()
    for at, size in r.parts:
        for _ in range(rng.randrange(20)):
            d.memory.write(at + rng.randrange(size), bytes([rng.randrange(256)]))


def test_rings_full_of_nonsense(blk_path, packed):
    """Seeded: a failure repeats, as far as the two sides run alike."""
    rng = random.Random(8)
    with VirtioBlk(blk_path, packed=packed, queues=2) as d:
        for what, laps in ((scribbles, 15), (noise, 60), (errors, 30)):
            breaks = lap = 0
            while lap < laps or not breaks:
                assert lap < 300, f"nothing of the {what.__name__} was ever seen"
                lap += 1
                what(d, rng)
                d.rings[0].kick(force=True)
                d.vc.barrier()
                time.sleep(0.002)
                breaks += bool(d.vc.status() & vu.NEEDS_RESET)
                d.vc.set_status(0)
                d.restart()
                forget_buffers(d)
            d.works()
            d.works(queue=1)


def scribble_table(d, h, table, good, bad, stop):
    n = 0
    while not stop.is_set():
        n += 1
        d.memory.write(table, good if n & 1 else bad)
        d.memory.write(h.head.addr, head(IN if n & 2 else OUT, 0 if n & 4 else (1 << 64) - 1))


def test_tables_and_headers_that_change_while_they_are_read(either):
    h, r = Hand(either, IN, 0), either.rings[0]
    data, table = h.into(512), either.memory.alloc(4096, 16)
    flags = (NEXT, 1), (WRITE | NEXT, 2), (WRITE, 0)
    good = b"".join(struct.pack("<QIHH", s.addr, s.len, *((0, f) if either.packed else (f, n)))
                    for s, (f, n) in zip((h.head, data, h.status), flags))
    bad = struct.pack("<QIHH", AWAY, 0xffffffff, NEXT | WRITE, 0xffff) * 3
    with in_a_thread(scribble_table, either, h, table, good, bad):
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            r.put([(table, 48, INDIRECT)])
            r.publish()
            r.kick(force=True)
            deadline = time.monotonic() + 0.1  # longer only when it waits for memory that is away
            while not r.poll() and time.monotonic() < deadline:
                if either.vc.status() & vu.NEEDS_RESET:
                    deadline = 0
            r.done.clear()
            if r.outstanding:
                either.vc.set_status(0)
                either.restart()
    heal(either)
