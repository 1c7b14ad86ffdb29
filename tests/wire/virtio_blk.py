# SPDX-License-Identifier: BSD-3-Clause
"""A virtio-blk driver on a vhost-user socket: requests of any layout, and a disk that starts as QEMU starts one."""
import struct
import time

import vhost_user as vu
from virtq import Seg, ring
from vhost_user import GuestMemory, VhostUser

IN, OUT, FLUSH, GET_LIFETIME, GET_ID, DISCARD, WRITE_ZEROES, SECURE_ERASE = 0, 1, 4, 10, 8, 11, 13, 14
OK, IOERR, UNSUPP = 0, 1, 2
SECTOR = 512

# Feature bits
SIZE_MAX, SEG_MAX, GEOMETRY, RO, BLK_SIZE, FLUSH_F, TOPOLOGY, CONFIG_WCE, MQ = 1, 2, 4, 5, 6, 9, 10, 11, 12
DISCARD_F, WRITE_ZEROES_F, LIFETIME, SECURE_ERASE_F, ZONED = 13, 14, 15, 16, 17
INDIRECT_DESC, EVENT_IDX, VERSION_1, ACCESS_PLATFORM, RING_PACKED = 28, 29, 32, 33, 34
IN_ORDER, NOTIFICATION_DATA, RING_RESET = 35, 38, 40

CONFIG = struct.Struct("<QIIHBBIBBHIBBHIIIIIB")
CONFIG_NAMES = ("capacity", "size_max", "seg_max", "cylinders", "heads", "sectors", "blk_size", "physical_block_exp",
                "alignment_offset", "min_io_size", "opt_io_size", "writeback", "unused0", "num_queues",
                "max_discard_sectors", "max_discard_seg", "discard_sector_alignment", "max_write_zeroes_sectors",
                "max_write_zeroes_seg", "write_zeroes_may_unmap")
WRITEBACK_OFFSET = 32


def decode_config(raw):
    return dict(zip(CONFIG_NAMES, CONFIG.unpack_from(raw)))


def bits(*numbers):
    return sum(1 << n for n in numbers)


def head(kind, sector=0):
    return struct.pack("<IIQ", kind, 0, sector)


def ranges(*triples):
    """Of discard and write zeroes: (sector, sectors, flags)."""
    return b"".join(struct.pack("<QII", *t) for t in triples)


def pattern(seed, size):
    """Bytes that differ from block to block and from seed to seed."""
    return b"".join(struct.pack("<QQ", seed, i) for i in range(size // 16))


class Request:
    """What the device may read lies in one piece, what it may write in another; cuts say how the driver divides them into
    descriptors (lengths; 0 is a length)."""

    def __init__(self, memory, readable, writable, out_cuts=None, in_cuts=None, at=None, in_at=None):
        self.memory, self.writable = memory, writable
        self.out_at = memory.alloc(max(len(readable), 1), 512) if at is None else at
        self.in_at = memory.alloc(max(writable, 1), 512) if in_at is None else in_at
        memory.write(self.out_at, readable)
        memory.write(self.in_at, b"\xa5" * writable)
        self.segs = self.cut(self.out_at, out_cuts or [n for n in (min(16, len(readable)), len(readable) - 16) if n > 0], False)
        self.segs += self.cut(self.in_at, in_cuts or [n for n in (writable - 1, min(writable, 1)) if n > 0], True)

    @staticmethod
    def cut(at, lengths, write):
        segs = []
        for n in lengths:
            segs.append(Seg(at, n, write))
            at += n
        return segs

    @property
    def status(self):
        return self.memory.read(self.in_at + self.writable - 1, 1)[0]

    @property
    def data(self):
        return self.memory.read(self.in_at, self.writable - 1)


class VirtioBlk:
    """start False: connected and negotiated, nothing more. features: bits to agree on, as far as offered.
    area: an Inflight of an earlier life; rings: those of an earlier life, as they are (a reconnect)."""

    WANTED = bits(SIZE_MAX, SEG_MAX, RO, BLK_SIZE, FLUSH_F, TOPOLOGY, CONFIG_WCE, MQ, DISCARD_F, WRITE_ZEROES_F,
                  INDIRECT_DESC, VERSION_1, RING_RESET, vu.PROTOCOL_FEATURES)

    def __init__(self, path, queues=1, size=64, packed=False, event_idx=False, features=WANTED, memory=None,
                 protocol=vu.QEMU_PROTOCOL, area=None, start=True, rings=None, inflight=True, calls=True):
        self.path, self.size, self.packed, self.event_idx = path, size, packed, event_idx
        self.wanted = (features | bits(RING_PACKED) * packed | bits(EVENT_IDX) * event_idx)
        self.memory = memory or GuestMemory()
        self.own_memory = memory is None
        self.buffers = {}
        self.indirect = None
        self.area, self.use_area, self.calls = area, inflight, calls
        self.vc = VhostUser(path, protocol)
        try:
            self.rings = rings or [ring(packed, self.memory, size, event_idx) for _ in range(queues)]
            if start:
                self.start()
        except BaseException:
            self.close()
            raise

    def close(self):
        self.vc.close()
        for r in self.rings if hasattr(self, "rings") else ():
            r.close()
        self.rings = []
        if self.area:
            self.area.close()
            self.area = None
        if self.own_memory and self.memory:
            self.memory.close()
            self.memory = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- start and stop ----
    def start(self, bases=None):
        """As QEMU when the driver says DRIVER_OK."""
        vc = self.vc
        vc.set_features(vc.offered & self.wanted)
        if vc.has(vu.INFLIGHT_SHMFD) and self.use_area:
            if self.area is None:
                self.area = vc.get_inflight(len(self.rings), self.size)
            vc.set_inflight(self.area)
        self.memory.attach(vc)
        for i, r in enumerate(self.rings):
            self.start_ring(i, r.base() if bases is None else bases[i])
        self.enable()

    def start_ring(self, i, base, num=None):
        vc, r = self.vc, self.rings[i]
        vc.set_num(i, r.size if num is None else num)
        vc.set_base(i, base)
        vc.set_addr(i, r.desc, r.driver, r.device)
        vc.err_fd(i, r.err_event)
        vc.kick_fd(i, r.kick_event)
        vc.call_fd(i, r.call_event if self.calls else None)

    def enable(self):
        vc = self.vc
        if vc.features >> vu.PROTOCOL_FEATURES & 1:
            for i in range(len(self.rings)):
                vc.enable(i)
        if vc.has(vu.STATUS):
            vc.set_status(vu.ACKNOWLEDGE | vu.DRIVER | vu.FEATURES_OK | vu.DRIVER_OK)

    def stop(self):
        """As QEMU when the guest reboots. Returns the rings' bases."""
        vc = self.vc
        if vc.features >> vu.PROTOCOL_FEATURES & 1:
            for i in range(len(self.rings)):
                vc.enable(i, 0)
        bases = [vc.get_base(i) for i in range(len(self.rings))]
        if vc.has(vu.STATUS):
            vc.set_status(0)
        return bases

    def restart(self):
        """A driver that starts anew after a reset: fresh rings, fresh in-flight area, memory as it was."""
        for r in self.rings:
            r.restart()
        if self.area:
            self.area.clear()
            self.vc.set_inflight(self.area)
        self.vc.set_features(self.vc.offered & self.wanted)
        for i, r in enumerate(self.rings):
            self.start_ring(i, r.base())
        self.enable()

    def reconnect(self, bases=None, before_start=None):
        """The connection breaks and is made again, as by QEMU's reconnect: the guest's memory and rings are what they were."""
        self.vc.close()
        self.vc = connect_soon(self.path)
        if before_start:
            before_start(self)
        self.start(bases or [r.base() if self.packed else r.device_idx() for r in self.rings])

    # ---- requests ----
    def take(self, size):
        """A buffer: one that was given back, or fresh memory."""
        free = self.buffers.setdefault(size, [])
        return free.pop() if free else self.memory.alloc(size, 512)

    def give(self, size, at):
        self.buffers[size].append(at)

    def make(self, kind, sector=0, out=b"", in_bytes=0, **cuts):
        """A request in buffers that are used again."""
        readable = head(kind, sector) + out
        sizes = [(n + 511) // 512 * 512 for n in (len(readable), in_bytes + 1)]
        return Request(self.memory, readable, in_bytes + 1, at=self.take(sizes[0]), in_at=self.take(sizes[1]), **cuts)

    def drop(self, request, readable):
        self.give((readable + 511) // 512 * 512, request.out_at)
        self.give((request.writable + 511) // 512 * 512, request.in_at)

    def submit(self, request, queue=0):
        """Returns the chain's id. With self.indirect set, chains of more than one descriptor are indirect."""
        r = self.rings[queue]
        if self.indirect and len(request.segs) > 1:
            return r.submit(request.segs, indirect=self.memory.alloc(16 * len(request.segs), 16))
        return r.submit(request.segs)

    def run(self, kind, sector=0, out=b"", in_bytes=0, queue=0, timeout=10.0, **cuts):
        """(status, bytes written, data)"""
        request = self.make(kind, sector, out, in_bytes, **cuts)
        length = self.rings[queue].wait(self.submit(request, queue), timeout)
        result = request.status, length, request.data
        self.drop(request, 16 + len(out))
        return result

    def write(self, sector, data, **how):
        status, length, _ = self.run(OUT, sector, data, **how)
        assert (status, length) == (OK, 1), (status, length)

    def read(self, sector, sectors, **how):
        status, length, data = self.run(IN, sector, in_bytes=SECTOR * sectors, **how)
        assert (status, length) == (OK, SECTOR * sectors + 1), (status, length)
        return data

    def flush(self, **how):
        status, length, _ = self.run(FLUSH, **how)
        assert (status, length) == (OK, 1), (status, length)

    def get_id(self, in_bytes=20, **how):
        status, length, data = self.run(GET_ID, in_bytes=in_bytes, **how)
        assert (status, length) == (OK, in_bytes + 1), (status, length)
        return data

    def discard(self, *triples):
        return self.run(DISCARD, out=ranges(*triples))[0]

    def write_zeroes(self, *triples):
        return self.run(WRITE_ZEROES, out=ranges(*triples))[0]

    def config(self):
        return decode_config(self.vc.get_config())

    def works(self, seed=77, sector=2048, queue=0):
        """A write and a read come through."""
        self.write(sector, pattern(seed, 4096), queue=queue)
        assert self.read(sector, 8, queue=queue) == pattern(seed, 4096)

    def broken(self, timeout=5.0):
        """Waits until the device says that it needs a reset: in its status, on the back-end channel and by the error
        eventfds."""
        self.vc.config_change(timeout)
        assert self.vc.status() & vu.NEEDS_RESET


def connect_soon(path, protocol=vu.QEMU_PROTOCOL, seconds=10):
    """The old client's things may take a moment to be taken away."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return VhostUser(path, protocol, timeout=5)
        except (vu.Disconnected, ConnectionError, vu.Timeout, BlockingIOError):
            assert time.monotonic() < deadline, "the function takes no client any more"
            time.sleep(0.01)
