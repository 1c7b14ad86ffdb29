# SPDX-License-Identifier: BSD-3-Clause
"""The client end of a vfio-user socket, byte by byte: a well-behaved one by default, a hostile one on demand.

Nothing here hides a message: call() sends one and waits for its reply; send() and receive() are its halves."""
import json
import mmap
import os
import select
import struct
import time

from byte_stream import ByteStream, Disconnected, Timeout, connect  # noqa: F401

VERSION, DMA_MAP, DMA_UNMAP, DEVICE_GET_INFO, REGION_INFO, REGION_IO_FDS, IRQ_INFO, SET_IRQS = range(1, 9)
REGION_READ, REGION_WRITE, DMA_READ, DMA_WRITE, DEVICE_RESET = range(9, 14)
REGION_WRITE_MULTI, DEVICE_FEATURE, MIG_DATA_READ, MIG_DATA_WRITE = range(15, 19)

REPLY, NO_REPLY, ERROR = 0x1, 0x10, 0x20
HEADER = struct.Struct("=HHIII")  # id, command, size, flags, errno
CONFIG = 7  # region index
INTX, MSI, MSIX, ERR_IRQ, REQ_IRQ = range(5)
IRQ_NONE, IRQ_BOOL, IRQ_EVENTFD = 1, 2, 4
IRQ_MASK, IRQ_UNMASK, IRQ_TRIGGER = 8, 0x10, 0x20

QEMU_JSON = {"capabilities": {"max_msg_fds": 16, "max_data_xfer_size": 1048576, "migration": {"pgsize": 4096},
                              "pgsizes": 4096, "max_dma_maps": 65535, "write_multiple": True}}


class VfioError(Exception):
    """The server answered with an error."""

    def __init__(self, command, errno):
        super().__init__(f"command {command}: {os.strerror(errno)}")
        self.command, self.errno = command, errno


class Message:
    def __init__(self, header, payload, fds):
        self.id, self.command, self.size, self.flags, self.errno = header
        self.payload, self.fds = payload, fds

    def __repr__(self):
        return (f"Message(id={self.id}, command={self.command}, size={self.size}, flags={self.flags:#x}, "
                f"errno={self.errno}, fds={len(self.fds)})")


class VfioUser(ByteStream):
    """json: True (QEMU's capabilities), None (no JSON at all, like SPDK's initiator), or the bytes to send.
    minor None: do not negotiate."""

    def __init__(self, path, json=True, minor=0, timeout=10.0):
        super().__init__(connect(str(path), timeout), timeout)
        self.next_id = 1
        self.posted = 0
        self.server_version = None
        if minor is not None:
            try:
                self.server_version = self.version(json, minor)
            except BaseException:
                self.close()
                raise

    # ---- messages ----
    def frame(self, command, payload=b"", flags=0, ident=None, size=None, errno=0):
        if ident is None:
            ident = self.next_id
            self.next_id = (self.next_id + 1) & 0xffff
        size = HEADER.size + len(payload) if size is None else size
        return ident, HEADER.pack(ident, command, size, flags, errno) + payload

    def send(self, command, payload=b"", fds=(), **how):
        """Returns the message's id."""
        ident, data = self.frame(command, payload, **how)
        self.send_raw(data, fds)
        return ident

    def receive(self, timeout=None):
        """The next whole message. Its descriptors are the caller's."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while len(self.buffer) < HEADER.size:
            self.more(deadline)
        header = HEADER.unpack_from(self.buffer)
        assert header[2] >= HEADER.size, f"reply of {header[2]} bytes"
        while len(self.buffer) < header[2]:
            self.more(deadline)
        payload, self.buffer = self.buffer[HEADER.size:header[2]], self.buffer[header[2]:]
        fds, self.fds = self.fds, []
        return Message(header, payload, fds)

    def reply_to(self, ident, command, timeout=None):
        """Payload of the reply; VfioError when it is an error. Checks what every reply must be. Descriptors stay in
        self.last.fds."""
        m = self.receive(timeout)
        self.last = m
        assert (m.id, m.command) == (ident, command), f"{m} answers id {ident}, command {command}"
        assert m.flags & 0xf == REPLY, m
        if m.flags & ERROR:
            assert m.size == HEADER.size, f"an error reply is a header only: {m}"
            assert 0 < m.errno < 4096, m
            raise VfioError(command, m.errno)
        return m.payload

    def call(self, command, payload=b"", fds=(), timeout=None, **how):
        return self.reply_to(self.send(command, payload, fds, **how), command, timeout)

    # ---- commands ----
    def version(self, json_=True, minor=0, major=0):
        """(major, minor, capabilities) of the server."""
        text = b"" if json_ is None else json_ if isinstance(json_, bytes) else json.dumps(QEMU_JSON).encode() + b"\0"
        payload = self.call(VERSION, struct.pack("=HH", major, minor) + text)
        major, minor = struct.unpack_from("=HH", payload)
        assert payload[-1:] == b"\0", "the server's JSON must end with NUL"
        return major, minor, json.loads(payload[4:-1])["capabilities"]

    def dma_map(self, iova, size, fd=None, offset=0, prot=3, **how):
        self.call(DMA_MAP, struct.pack("=IIQQQ", 32, prot, offset, iova, size), () if fd is None else (fd,), **how)

    def dma_unmap(self, iova, size, flags=0, **how):
        reply = self.call(DMA_UNMAP, struct.pack("=IIQQ", 24, flags, iova, size), **how)
        return struct.unpack("=IIQQ", reply[:24])

    def device_info(self):
        """argsz, flags, regions, irqs"""
        return struct.unpack("=IIII", self.call(DEVICE_GET_INFO, struct.pack("=IIII", 16, 0, 0, 0)))

    def region_info_raw(self, index, argsz=32):
        return self.call(REGION_INFO, struct.pack("=IIIIQQ", argsz, 0, index, 0, 0, 0))

    def region_info(self, index, argsz=32):
        """dict with argsz, flags, size, offset, areas, fds (the caller's)."""
        reply = self.region_info_raw(index, argsz)
        size, flags, got, cap, bytes_, offset = struct.unpack_from("=IIIIQQ", reply)
        assert got == index and len(reply) <= argsz
        areas = []
        while cap and cap + 16 <= len(reply):
            ident, _, following = struct.unpack_from("=HHI", reply, cap)
            if ident == 1:
                count = struct.unpack_from("=I", reply, cap + 8)[0]
                areas += [struct.unpack_from("=QQ", reply, cap + 16 + 16 * i) for i in range(count)]
            cap = following
        return {"argsz": size, "flags": flags, "size": bytes_, "offset": offset, "areas": areas,
                "fds": self.last.fds}

    def irq_info(self, index):
        """flags, count"""
        reply = self.call(IRQ_INFO, struct.pack("=IIII", 16, 0, index, 0))
        return struct.unpack("=II", reply[4:8] + reply[12:16])

    def set_irqs(self, index=MSIX, start=0, count=0, fds=(), flags=None, data=b"", **how):
        if flags is None:
            flags = (IRQ_EVENTFD if fds or count else IRQ_NONE) | IRQ_TRIGGER
        self.call(SET_IRQS, struct.pack("=IIIII", 20 + len(data), flags, index, start, count) + data, fds, **how)

    def region_read(self, region, offset, count, **how):
        reply = self.call(REGION_READ, struct.pack("=QII", offset, region, count), **how)
        assert struct.unpack_from("=QII", reply) == (offset, region, count)
        assert len(reply) == 16 + count
        return reply[16:]

    def region_write(self, region, offset, data, posted=False, **how):
        payload = struct.pack("=QII", offset, region, len(data)) + data
        if posted:
            self.posted += 1
            self.send(REGION_WRITE, payload, flags=NO_REPLY)
        else:
            reply = self.call(REGION_WRITE, payload, **how)
            assert reply == payload[:16]

    def reset(self, **how):
        self.call(DEVICE_RESET, **how)

    # ---- registers ----
    def read32(self, region, offset):
        return struct.unpack("<I", self.region_read(region, offset, 4))[0]

    def write32(self, region, offset, value, **how):
        self.region_write(region, offset, struct.pack("<I", value), **how)

    def config16(self, offset):
        return struct.unpack("<H", self.region_read(CONFIG, offset, 2))[0]

    def config32(self, offset):
        return self.read32(CONFIG, offset)

    def set_config16(self, offset, value, **how):
        self.region_write(CONFIG, offset, struct.pack("<H", value), **how)

    def set_config32(self, offset, value):
        self.region_write(CONFIG, offset, struct.pack("<I", value))

    def capability(self, ident):
        """Offset of a PCI capability, or 0."""
        at, hops = self.region_read(CONFIG, 0x34, 1)[0], 0
        while at and hops < 48:
            found, following = self.region_read(CONFIG, at, 2)
            if found == ident:
                return at
            at, hops = following, hops + 1
        return 0


class Memory:
    """Guest RAM: a memfd at an I/O virtual address."""

    def __init__(self, size=8 << 20, iova=0x1_0000_0000):
        self.size, self.iova, self.used = size, iova, 0
        self.fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)

    def close(self):
        self.map.close()
        os.close(self.fd)

    def attach(self, client, prot=3):
        client.dma_map(self.iova, self.size, self.fd, 0, prot)

    def detach(self, client, **how):
        client.dma_unmap(self.iova, self.size, **how)

    def alloc(self, size, align=4096):
        """The address of fresh, zeroed memory."""
        at = (self.used + align - 1) // align * align
        assert at + size <= self.size, "guest memory is used up"
        self.used = at + size
        return self.iova + at

    def read(self, iova, size):
        return self.map[iova - self.iova:iova - self.iova + size]

    def write(self, iova, data):
        self.map[iova - self.iova:iova - self.iova + len(data)] = data


def eventfd():
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def fired(fd, timeout=2.0):
    """Waits for an eventfd; the number of signals, 0 when none came."""
    if not select.select([fd], [], [], timeout)[0]:
        return 0
    return os.eventfd_read(fd)
