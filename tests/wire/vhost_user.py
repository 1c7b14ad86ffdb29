# SPDX-License-Identifier: BSD-3-Clause
"""The front end of a vhost-user socket, message by message: a well-behaved one by default, a hostile one on demand.

Nothing here hides a message: call() sends a request and waits for its reply, do() sends one and, with REPLY_ACK, waits for
its acknowledgement; send() and receive() are their halves."""
import mmap
import os
import socket
import struct
import time

from byte_stream import ByteStream, Disconnected, Timeout, connect  # noqa: F401

(GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE, SET_LOG_BASE, SET_LOG_FD, SET_VRING_NUM, SET_VRING_ADDR,
 SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, GET_PROTOCOL_FEATURES,
 SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE, SEND_RARP, NET_SET_MTU, SET_BACKEND_REQ_FD, IOTLB_MSG,
 SET_VRING_ENDIAN, GET_CONFIG, SET_CONFIG, CREATE_CRYPTO_SESSION, CLOSE_CRYPTO_SESSION, POSTCOPY_ADVISE, POSTCOPY_LISTEN,
 POSTCOPY_END, GET_INFLIGHT_FD, SET_INFLIGHT_FD, GPU_SET_SOCKET, RESET_DEVICE, VRING_KICK, GET_MAX_MEM_SLOTS, ADD_MEM_REG,
 REM_MEM_REG, SET_STATUS, GET_STATUS, GET_SHARED_OBJECT, SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE) = range(1, 44)
BACKEND_CONFIG_CHANGE = 2

HEADER = struct.Struct("=III")  # request, flags, size of the payload
VERSION, REPLY, NEED_REPLY = 1, 4, 8
NO_FD = 1 << 8

# Protocol features, by bit
(MQ, LOG_SHMFD, RARP, REPLY_ACK, MTU, BACKEND_REQ, CROSS_ENDIAN, CRYPTO, PAGEFAULT, CONFIG, BACKEND_SEND_FD, HOST_NOTIFIER,
 INFLIGHT_SHMFD, RESET_DEVICE_F, INBAND_NOTIFICATIONS, CONFIGURE_MEM_SLOTS, STATUS, XEN_MMAP, SHARED_OBJECT, DEVICE_STATE,
 GET_VRING_BASE_INFLIGHT) = range(21)
# What QEMU agrees on when it is offered.
QEMU_PROTOCOL = sum(1 << b for b in (MQ, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT_SHMFD, RESET_DEVICE_F,
                                     CONFIGURE_MEM_SLOTS, STATUS))

# Device features of the transport, by bit
LOG_ALL, PROTOCOL_FEATURES = 26, 30

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128

USER_OFFSET = 0x5500_0000_0000  # user addresses and guest addresses differ, so that nobody mixes them up unnoticed


class VhostError(Exception):
    """The server acknowledged with something else than 0."""

    def __init__(self, request, code):
        super().__init__(f"request {request} is refused with {code:#x}")
        self.request, self.code = request, code


def refused(call, *args, **how):
    """The server says no."""
    try:
        call(*args, **how)
    except VhostError:
        return
    raise AssertionError("that was accepted")


class Message:
    def __init__(self, header, payload, fds):
        self.request, self.flags, self.size = header
        self.payload, self.fds = payload, fds

    def __repr__(self):
        return f"Message(request={self.request}, flags={self.flags:#x}, size={self.size}, fds={len(self.fds)})"


class Stream(ByteStream):
    """Messages on a connected socket, in either direction."""

    def receive(self, timeout=None):
        """The next whole message. Its descriptors are the caller's."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while len(self.buffer) < HEADER.size:
            self.more(deadline)
        header = HEADER.unpack_from(self.buffer)
        while len(self.buffer) < HEADER.size + header[2]:
            self.more(deadline)
        end = HEADER.size + header[2]
        payload, self.buffer = self.buffer[HEADER.size:end], self.buffer[end:]
        fds, self.fds = self.fds, []
        return Message(header, payload, fds)


def frame(request, payload=b"", flags=VERSION, size=None):
    return HEADER.pack(request, flags, len(payload) if size is None else size) + payload


class VhostUser(Stream):
    """protocol: the protocol features to agree on as far as they are offered; None: no negotiation at all."""

    def __init__(self, path, protocol=QEMU_PROTOCOL, timeout=10.0):
        super().__init__(connect(str(path), timeout), timeout)
        self.protocol = 0
        self.features = self.queues = self.slots = None
        self.channel = None  # our end of the back-end channel
        self.last_fds = []
        if protocol is not None:
            try:
                self.negotiate(protocol)
            except BaseException:
                self.close()
                raise

    def close(self):
        super().close()
        if self.channel:
            self.channel.close()
            self.channel = None

    def has(self, bit):
        return bool(self.protocol >> bit & 1)

    def negotiate(self, protocol=QEMU_PROTOCOL):
        """What QEMU says before a driver is there, in its order; the eventfds of the rings come later."""
        self.offered = self.get_u64(GET_FEATURES)
        if self.offered >> PROTOCOL_FEATURES & 1:
            self.offered_protocol = self.get_u64(GET_PROTOCOL_FEATURES)
            self.send(SET_PROTOCOL_FEATURES, struct.pack("=Q", self.offered_protocol & protocol))
            self.protocol = self.offered_protocol & protocol
        if self.has(MQ):
            self.queues = self.get_u64(GET_QUEUE_NUM)
        if self.has(CONFIGURE_MEM_SLOTS):
            self.slots = self.get_u64(GET_MAX_MEM_SLOTS)
        if self.has(BACKEND_REQ):
            self.open_channel()
        self.do(SET_OWNER)
        assert self.get_u64(GET_FEATURES) == self.offered

    # ---- messages ----
    def send(self, request, payload=b"", fds=(), need_reply=False, flags=VERSION):
        self.send_raw(frame(request, payload, flags | (NEED_REPLY if need_reply else 0)), fds)

    def reply_to(self, request, timeout=None):
        """Payload of the reply. Checks what every reply must be. Descriptors stay in self.last_fds, the caller's."""
        m = self.receive(timeout)
        self.last_fds = m.fds
        assert m.request == request, f"{m} answers request {request}"
        assert m.flags == VERSION | REPLY, m
        return m.payload

    def call(self, request, payload=b"", fds=(), timeout=None):
        """A request that has a reply of its own."""
        self.send(request, payload, fds)
        return self.reply_to(request, timeout)

    def ack_of(self, request, timeout=None):
        payload = self.reply_to(request, timeout)
        assert len(payload) == 8, f"an acknowledgement has 8 bytes, not {len(payload)}"
        code = struct.unpack("=Q", payload)[0]
        if code:
            raise VhostError(request, code)

    def do(self, request, payload=b"", fds=(), timeout=None):
        """A request that is acknowledged when that was agreed on. Otherwise it only leaves."""
        self.send(request, payload, fds, need_reply=self.has(REPLY_ACK))
        if self.has(REPLY_ACK):
            self.ack_of(request, timeout)

    def barrier(self):
        """All that was sent before has been handled."""
        return self.get_u64(GET_FEATURES)

    def get_u64(self, request, **how):
        payload = self.call(request, **how)
        assert len(payload) == 8
        return struct.unpack("=Q", payload)[0]

    def set_u64(self, request, value, fds=(), **how):
        self.do(request, struct.pack("=Q", value), fds, **how)

    # ---- device ----
    def set_features(self, features, **how):
        self.set_u64(SET_FEATURES, features, **how)
        self.features = features

    def status(self):
        return self.get_u64(GET_STATUS)

    def set_status(self, value, **how):
        self.set_u64(SET_STATUS, value, **how)

    def get_config(self, offset=0, size=60, flags=0):
        """The bytes, or None when the server has none to give."""
        payload = self.call(GET_CONFIG, struct.pack("=III", offset, size, flags) + bytes(size if size <= 256 else 0))
        if not payload:
            return None
        assert struct.unpack_from("=II", payload) == (offset, size)
        assert len(payload) == 12 + size, f"asked for {size} bytes, the reply has {len(payload) - 12}"
        return payload[12:]

    def set_config(self, offset, data, flags=0, size=None):
        self.do(SET_CONFIG, struct.pack("=III", offset, len(data) if size is None else size, flags) + data)

    def open_channel(self, room=None):
        """room: bytes of messages that fit before we read, about."""
        ours, theirs = socket.socketpair()
        if room is not None:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        with theirs:
            self.do(SET_BACKEND_REQ_FD, b"", (theirs.fileno(),))
        if self.channel:
            self.channel.close()
        self.channel = Stream(ours, self.timeout)

    def config_change(self, timeout=5.0):
        """Waits for the message on the back-end channel."""
        m = self.channel.receive(timeout)
        assert (m.request, m.size, m.fds) == (BACKEND_CONFIG_CHANGE, 0, []), m
        assert m.flags & 3 == VERSION and not m.flags & REPLY, m
        return m

    # ---- memory ----
    @staticmethod
    def region(gpa, size, user=None, offset=0):
        user = (gpa + USER_OFFSET) % (1 << 64) if user is None else user
        return struct.pack("=QQQQ", gpa, size, user, offset)

    def add_mem(self, gpa, size, fd, offset=0, user=None, **how):
        self.do(ADD_MEM_REG, bytes(8) + self.region(gpa, size, user, offset), () if fd is None else (fd,), **how)

    def rem_mem(self, gpa, size, offset=0, user=None, fds=(), **how):
        self.do(REM_MEM_REG, bytes(8) + self.region(gpa, size, user, offset), fds, **how)

    def set_mem_table(self, *regions, **how):
        """regions: (gpa, size, fd, offset). Without REPLY_ACK nothing says when it is done."""
        payload = struct.pack("=II", len(regions), 0) + b"".join(self.region(g, s, None, o) for g, s, _, o in regions)
        self.do(SET_MEM_TABLE, payload, [fd for _, _, fd, _ in regions], **how)

    # ---- rings ----
    def ring_state(self, request, index, num, **how):
        self.do(request, struct.pack("=II", index, num), **how)

    def set_num(self, index, num, **how):
        self.ring_state(SET_VRING_NUM, index, num, **how)

    def set_base(self, index, base, **how):
        self.ring_state(SET_VRING_BASE, index, base, **how)

    def enable(self, index, on=1, **how):
        self.ring_state(SET_VRING_ENABLE, index, on, **how)

    def set_addr(self, index, desc, avail, used, flags=0, log=0, user=True, **how):
        """Guest addresses, as long as user is True."""
        plus = USER_OFFSET if user else 0
        self.do(SET_VRING_ADDR, struct.pack("=IIQQQQ", index, flags, *((a + plus) % (1 << 64) for a in (desc, used, avail)),
                                            log), **how)

    def set_eventfd(self, request, index, fd=None, **how):
        self.set_u64(request, index | (NO_FD if fd is None else 0), () if fd is None else (fd,), **how)

    def kick_fd(self, index, fd=None, **how):
        self.set_eventfd(SET_VRING_KICK, index, fd, **how)

    def call_fd(self, index, fd=None, **how):
        self.set_eventfd(SET_VRING_CALL, index, fd, **how)

    def err_fd(self, index, fd=None, **how):
        self.set_eventfd(SET_VRING_ERR, index, fd, **how)

    def get_base(self, index, timeout=None):
        got, base = struct.unpack("=II", self.call(GET_VRING_BASE, struct.pack("=II", index, 0), timeout=timeout))
        assert got == index
        return base

    # ---- in-flight area ----
    def get_inflight(self, queues, size, trailer=0):
        """An Inflight, or None when the server gives none. trailer: bytes that some front ends send behind."""
        payload = self.call(GET_INFLIGHT_FD, struct.pack("=QQHH", 0, 0, queues, size) + bytes(trailer))
        fields = struct.unpack_from("=QQHH", payload)
        if not self.last_fds:
            assert fields[0] == 0
            return None
        assert fields[2:] == (queues, size) and len(self.last_fds) == 1
        return Inflight(self.last_fds[0], *fields)

    def set_inflight(self, area, **how):
        self.do(SET_INFLIGHT_FD, struct.pack("=QQHH", area.size, area.offset, area.queues, area.queue_size), (area.fd,),
                **how)


class Inflight:
    """An in-flight area as the front end keeps it: per queue a header and entries ("Inflight I/O tracking")."""

    def __init__(self, fd, size, offset, queues, queue_size):
        self.fd, self.size, self.offset, self.queues, self.queue_size = fd, size, offset, queues, queue_size
        self.map = mmap.mmap(fd, size, offset=offset)
        packed = 32 + 32 * queue_size
        self.stride = (packed + 63) & ~63

    def close(self):
        self.map.close()
        os.close(self.fd)

    def clear(self):
        self.map[:] = bytes(self.size)

    def split(self, queue=0):
        """features, version, desc_num, last_batch_head, used_idx"""
        return struct.unpack_from("=QHHHH", self.map, queue * self.stride)

    def packed(self, queue=0):
        """dict of the header's fields"""
        names = ("features", "version", "desc_num", "free_head", "old_free_head", "used_idx", "old_used_idx", "used_wrap",
                 "old_used_wrap")
        return dict(zip(names, struct.unpack_from("=QHHHHHHBB", self.map, queue * self.stride)))

    def entry_at(self, i, queue=0, packed=False):
        return queue * self.stride + (32 + 32 * i if packed else 16 + 16 * i)

    def inflight(self, queue=0, packed=False, size=None):
        """{entry: counter} of those in flight."""
        found = {}
        for i in range(self.queue_size if size is None else size):
            at = self.entry_at(i, queue, packed)
            if self.map[at] == 1:
                found[i] = struct.unpack_from("=Q", self.map, at + 8)[0]
        return found

    def poke(self, at, data):
        self.map[at:at + len(data)] = data


class GuestMemory:
    """Guest RAM: a memfd at a guest address. 16-bit words are stored and loaded whole."""

    def __init__(self, size=8 << 20, gpa=0x1_0000_0000):
        self.size, self.gpa, self.used = size, gpa, 0
        self.fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self.view = memoryview(self.map)
        self.words = self.view.cast("H")

    def close(self):
        self.words.release()
        self.view.release()
        self.map.close()
        os.close(self.fd)

    def attach(self, client, **how):
        if client.has(CONFIGURE_MEM_SLOTS):
            client.add_mem(self.gpa, self.size, self.fd, **how)
        else:
            client.set_mem_table((self.gpa, self.size, self.fd, 0), **how)

    def detach(self, client, **how):
        client.rem_mem(self.gpa, self.size, **how)

    def alloc(self, size, align=4096):
        """The address of fresh, zeroed memory."""
        at = (self.used + align - 1) // align * align
        assert at + size <= self.size, "guest memory is used up"
        self.used = at + size
        return self.gpa + at

    def read(self, gpa, size):
        return self.map[gpa - self.gpa:gpa - self.gpa + size]

    def write(self, gpa, data):
        self.map[gpa - self.gpa:gpa - self.gpa + len(data)] = data

    def get16(self, gpa):
        return self.words[(gpa - self.gpa) // 2]

    def set16(self, gpa, value):
        self.words[(gpa - self.gpa) // 2] = value & 0xffff

