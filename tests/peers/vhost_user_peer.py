# SPDX-License-Identifier: BSD-3-Clause
"""A vhost-user-blk back end small enough to misbehave on demand: split and packed rings, in-flight tracking, one wrong
thing at a time. Serves one client after the other in a thread; what it keeps over a crash() is the in-flight area and
the medium, as a real one would."""
import array
import mmap
import os
import select
import socket
import struct
import threading

VERSION_1, PACKED, INDIRECT, EVENT_IDX = 1 << 32, 1 << 34, 1 << 28, 1 << 29
SEG_MAX, FLUSH, MQ, PROTOCOL = 1 << 2, 1 << 9, 1 << 12, 1 << 30
F_MQ, F_REPLY_ACK, F_BACKEND_REQ, F_CONFIG, F_INFLIGHT, F_SLOTS, F_STATUS = 0, 3, 5, 9, 12, 15, 16
IN, OUT, GET_ID = 0, 1, 8
NEXT, WRITE, TABLE, AVAIL, USED = 1, 2, 4, 1 << 7, 1 << 15

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_NUM, SET_ADDR, SET_BASE, GET_BASE, SET_KICK, SET_CALL = 8, 9, 10, 11, 12, 13
GET_PROTOCOL, SET_PROTOCOL, GET_QUEUE_NUM, ENABLE, BACKEND_FD = 15, 16, 17, 18, 21
GET_CONFIG, GET_INFLIGHT, SET_INFLIGHT, MAX_SLOTS, ADD_MEM, SET_STATUS = 24, 31, 32, 36, 37, 39


# Fields that the other side polls go through memoryviews cast to "H": one access. struct.pack_into() clears first.


class Memory:
    def __init__(self):
        self.regions = []

    def add(self, gpa, size, user, offset, fd):
        self.regions.append((gpa, size, user, offset, mmap.mmap(fd, offset + size)))
        os.close(fd)

    def at(self, address, length, user=False):
        """A memoryview of guest memory."""
        for gpa, size, uva, offset, memory in self.regions:
            base = uva if user else gpa
            if base <= address and address + length <= base + size:
                start = offset + address - base
                return memoryview(memory)[start:start + length]
        raise ValueError(f"{address:#x}+{length} is not in guest memory")


class Chain:
    def __init__(self, head, count, segments):
        self.head, self.count = head, count
        self.readable = b"".join(bytes(v) for v, w in segments if not w)
        self.writable = [v for v, w in segments if w]

    def write(self, data):
        at = 0
        for view in self.writable:
            part = data[at:at + len(view)]
            view[:len(part)] = part
            at += len(part)


class Ring:
    """Positions: split free-running avail and used; packed (position, wrap) of both."""

    def __init__(self, peer, index):
        self.peer, self.index = peer, index
        self.size = self.base = 0
        self.kick = self.call = None
        self.addr = None
        self.enabled = False

    def start(self):
        self.desc = self.peer.memory.at(self.addr[0], 16 * self.size, True)
        packed = self.peer.features & PACKED
        self.driver = self.peer.memory.at(self.addr[2], 4 if packed else 6 + 2 * self.size, True)
        self.device = self.peer.memory.at(self.addr[1], 4 if packed else 6 + 8 * self.size, True)
        self.desc16, self.driver16, self.device16 = (v.cast("H") for v in (self.desc, self.driver, self.device))
        self.held = []
        if packed:
            self.start_packed()
        else:
            self.start_split()

    # ---- split ----
    def entry(self, i):
        return self.index * self.peer.stride + 16 + 16 * i

    def start_split(self):
        self.used, = struct.unpack_from("<H", self.device, 2)
        area = self.peer.area
        assert self.base == self.used, f"queue {self.index}: base {self.base}, used index {self.used}"
        live = [] if not area else sorted((struct.unpack_from("<Q", area, self.entry(i) + 8)[0], i)
                                          for i in range(self.size) if area[self.entry(i)])
        self.counter = live[-1][0] + 1 if live else 1
        self.avail = (self.used + len(live)) & 0xffff
        for _, head in live:
            self.peer.resumed += 1
            self.held.append(self.chain_split(head))

    def chain_split(self, head):
        table, at, segments = self.desc, head, []
        while True:
            addr, length, flags, following = struct.unpack_from("<QIHH", table, 16 * at)
            if flags & TABLE:
                table, at = self.peer.memory.at(addr, length), 0
                continue
            segments.append((self.peer.memory.at(addr, length), bool(flags & WRITE)))
            if not flags & NEXT:
                return Chain(head, 1, segments)
            at = following

    def fetch_split(self):
        avail = self.driver16[1]
        while self.avail != avail:
            head, = struct.unpack_from("<H", self.driver, 4 + 2 * (self.avail % self.size))
            if self.peer.area:
                struct.pack_into("<Q", self.peer.area, self.entry(head) + 8, self.counter)
                self.peer.area[self.entry(head)] = 1
                self.counter += 1
            self.avail = (self.avail + 1) & 0xffff
            self.held.append(self.chain_split(head))

    def post_split(self, head, length):
        struct.pack_into("<II", self.device, 4 + 8 * (self.used % self.size), head, length)
        self.used = (self.used + 1) & 0xffff
        self.device16[1] = self.used
        if self.peer.area and head < self.size:
            self.peer.area[self.entry(head)] = 0

    # ---- packed: completes in order, so that no descriptor of a held chain is overwritten ----
    def start_packed(self):
        at = self.index * self.peer.stride
        half = self.base & 0xffff
        assert self.base >> 16 == half, f"queue {self.index}: base {self.base:#x}"
        self.used = [half & 0x7fff, half >> 15]
        self.avail = list(self.used)
        area = self.peer.area
        if not area:
            return
        valid, pos, wrap = struct.unpack_from("<BxHH", area, at)
        if valid:
            assert [pos, wrap] == self.used, f"queue {self.index}: base {self.used}, the area says {[pos, wrap]}"
            while self.avail != list(struct.unpack_from("<HH", area, at + 8)):
                self.peer.resumed += 1
                self.held.append(self.chain_packed())
        self.note()

    def note(self):
        if self.peer.area:
            struct.pack_into("<BxHHHHH", self.peer.area, self.index * self.peer.stride, 1, *self.used, 0, *self.avail)

    def step(self, position, count):
        position[0] += count
        if position[0] >= self.size:
            position[0] -= self.size
            position[1] ^= 1

    def chain_packed(self):
        segments, count = [], 0
        while True:
            addr, length, ident, flags = struct.unpack_from("<QIHH", self.desc, 16 * self.avail[0])
            self.step(self.avail, 1)
            count += 1
            if flags & TABLE:
                table = self.peer.memory.at(addr, length)
                for i in range(length // 16):
                    addr, size, _, inner = struct.unpack_from("<QIHH", table, 16 * i)
                    segments.append((self.peer.memory.at(addr, size), bool(inner & WRITE)))
            else:
                segments.append((self.peer.memory.at(addr, length), bool(flags & WRITE)))
            if not flags & NEXT:
                return Chain(ident, count, segments)

    def fetch_packed(self):
        while True:
            flags = self.desc16[8 * self.avail[0] + 7]
            if bool(flags & AVAIL) != bool(self.avail[1]) or bool(flags & USED) == bool(self.avail[1]):
                return
            self.held.append(self.chain_packed())
            self.note()

    def post_packed(self, ident, length, count):
        at = 16 * self.used[0]
        flags = AVAIL | USED if self.used[1] else 0
        struct.pack_into("<IH", self.desc, at + 8, length, ident)
        self.step(self.used, count)
        self.note()
        self.desc16[at // 2 + 7] = flags

    # ---- both ----
    def serve(self):
        """Fetches, then completes all but the newest few, which stay in flight until something new comes or it calms."""
        packed = self.peer.features & PACKED
        before = len(self.held)
        (self.fetch_packed if packed else self.fetch_split)()
        fresh = len(self.held) > before
        keep = min(self.peer.keep, len(self.held)) if fresh else 0
        ready, self.held = self.held[:len(self.held) - keep], self.held[len(self.held) - keep:]
        for chain in ready:
            self.complete(chain, packed)
        if ready:
            os.write(self.call, struct.pack("=Q", 1))
        return fresh

    def complete(self, chain, packed):
        peer = self.peer
        status, data = peer.execute(chain)
        length = len(data) + 1
        if peer.strikes("no_status"):
            status = None
        chain.write(data + bytes([0xee if status is None else status]))
        if peer.strikes("used_len"):
            length += 1
        if peer.strikes("drop"):
            return
        for _ in range(2 if peer.strikes("twice") else 1):
            head = self.size + 7 if peer.strikes("id") else chain.head
            if packed:
                self.post_packed(head, length, chain.count)
            else:
                self.post_split(head, length)


class VhostUserPeer:
    """fault: None or "twice", "id", "used_len", "no_status", "drop", "lose_write": strikes at the
    200th chance, once; a lost write may be hidden by the next one, so those go on."""

    def __init__(self, path, blocks=8192, fault=None, keep=4, features=INDIRECT | PACKED, queues=2):
        self.path, self.fault, self.keep = str(path), fault, keep
        self.offered = VERSION_1 | PROTOCOL | SEG_MAX | FLUSH | MQ | features
        self.queues, self.blocks = queues, blocks
        self.medium = bytearray(512 * blocks)
        self.chances = 200
        self.connections = self.resumed = 0
        self.acks = []
        self.error = None
        self.area = self.area_id = self.backend = None
        self.stopping, self.crashing, self.resizing = False, threading.Event(), 0
        self.wake = socket.socketpair()
        self.listen()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def listen(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(4)

    def crash(self):
        """Closes the connection with requests in flight; serves again, from the area, when the client is back."""
        self.crashing.set()
        self.wake[1].send(b"c")

    def resize(self, blocks):
        self.resizing = blocks
        self.wake[1].send(b"r")

    def stop(self):
        self.stopping = True
        self.wake[1].send(b"s")
        self.thread.join(20)
        self.listener.close()
        if self.error:
            raise self.error

    def strikes(self, fault):
        if fault != self.fault:
            return False
        self.chances -= 1
        if self.chances:
            return False
        if fault == "lose_write":
            self.chances = 50
        return True

    # ---- the device ----
    def execute(self, chain):
        kind, _, sector = struct.unpack_from("<IIQ", chain.readable)
        room = sum(len(v) for v in chain.writable) - 1
        if kind == IN:
            return 0, bytes(self.medium[512 * sector:512 * sector + room])
        if kind == OUT:
            data = chain.readable[16:]
            if not self.strikes("lose_write"):
                self.medium[512 * sector:512 * sector + len(data)] = data
            return 0, b""
        if kind == GET_ID:
            return 0, b"python peer".ljust(20, b"\0")
        return (0 if kind == 4 else 2), b""

    def config(self):
        data = bytearray(60)
        struct.pack_into("<QII", data, 0, self.blocks, 0, 126)
        struct.pack_into("<H", data, 34, self.queues)
        return bytes(data)

    # ---- the socket ----
    def run(self):
        try:
            while not self.stopping:
                ready, _, _ = select.select([self.listener, self.wake[0]], [], [])
                if self.wake[0] in ready:
                    self.wake[0].recv(64)
                if self.listener in ready and not self.stopping:
                    conn, _ = self.listener.accept()
                    self.connections += 1
                    with conn:
                        self.session(conn)
        except Exception as e:  # shown by stop()
            self.error = e
            self.listener.close()

    def session(self, conn):
        self.memory, self.features, self.protocol = Memory(), 0, 0
        self.rings = [Ring(self, i) for i in range(self.queues)]
        self.crashing.clear()
        while not self.stopping:
            running = [r for r in self.rings if r.enabled and r.kick is not None]
            busy = any(r.held for r in running)
            waits = [conn, self.wake[0], *[r.kick for r in running], *([self.backend] if self.backend else [])]
            ready, _, _ = select.select(waits, [], [], 0.001 if busy else None)
            if self.wake[0] in ready:
                self.wake[0].recv(64)
            if self.crashing.is_set():
                if not busy:
                    self.wake[1].send(b"c")  # only with something in flight
                else:
                    self.forget()
                    return
            if self.resizing and self.backend:
                self.blocks, self.resizing = self.resizing, 0
                self.backend.send(struct.pack("=III", 2, 1 | 8, 0))
            if self.backend in ready:
                self.acks.append(self.backend.recv(20))
            if conn in ready and not self.message(conn):
                self.forget()
                return
            for ring in running:
                if ring.kick in ready:
                    os.read(ring.kick, 8)
                if ring.enabled:
                    ring.serve()

    def forget(self):
        for ring in self.rings:
            for fd in (ring.kick, ring.call):
                if fd is not None:
                    os.close(fd)
        if self.backend:
            self.backend.close()
            self.backend = None

    def message(self, conn):
        head, ancillary, _, _ = conn.recvmsg(12, socket.CMSG_SPACE(32))
        if len(head) < 12:
            return False
        request, flags, size = struct.unpack("=III", head)
        body = b""
        while len(body) < size:
            more = conn.recv(size - len(body))
            if not more:
                return False
            body += more
        fds = array.array("i")
        for _, _, data in ancillary:
            fds.frombytes(data[:len(data) // 4 * 4])
        reply, out = self.handle(request, body, list(fds))
        if reply is None and flags & 8:
            reply = struct.pack("=Q", 0)
        if reply is not None:
            message = struct.pack("=III", request, 1 | 4, len(reply)) + reply
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", out))] if out else []
            conn.sendmsg([message], rights)
        return True

    def handle(self, request, body, fds):
        u64 = struct.unpack_from("=Q", body)[0] if len(body) >= 8 else 0
        index, number = struct.unpack_from("=II", body) if len(body) >= 8 else (0, 0)
        if request == GET_FEATURES:
            return struct.pack("=Q", self.offered), []
        if request == GET_PROTOCOL:
            offered = sum(1 << f for f in (F_MQ, F_REPLY_ACK, F_BACKEND_REQ, F_CONFIG, F_INFLIGHT, F_SLOTS, F_STATUS))
            return struct.pack("=Q", offered), []
        if request == GET_QUEUE_NUM:
            return struct.pack("=Q", self.queues), []
        if request == MAX_SLOTS:
            return struct.pack("=Q", 32), []
        if request == SET_FEATURES:
            assert not u64 & ~self.offered
            self.features = u64
        elif request == BACKEND_FD:
            self.backend = socket.socket(fileno=fds.pop())
        elif request == ADD_MEM:
            self.memory.add(*struct.unpack_from("=4Q", body, 8), fds.pop())
        elif request == GET_CONFIG:
            _, size, _ = struct.unpack_from("=III", body)
            return struct.pack("=III", 0, size, 0) + self.config()[:size].ljust(size, b"\0"), []
        elif request == GET_INFLIGHT:
            return self.make_area(*struct.unpack_from("=HH", body, 16))
        elif request == SET_INFLIGHT:
            length, _ = struct.unpack_from("=QQ", body)
            fd = fds.pop()
            assert os.fstat(fd).st_ino == self.area_id, "not the area that was given out"
            self.stride = length // struct.unpack_from("=H", body, 16)[0]
            self.area = mmap.mmap(fd, length)
            os.close(fd)
        elif request == GET_BASE:
            return self.stop_ring(self.rings[index])
        elif request == SET_STATUS:
            self.status = u64
        elif request in (SET_NUM, SET_BASE, SET_ADDR, SET_KICK, SET_CALL, ENABLE):
            self.vring(request, self.rings[index & 0xff], number, body, fds)
        assert not fds, f"message {request}: {len(fds)} descriptors too many"
        return None, []

    def make_area(self, queues, size):
        self.stride = 32 + 32 * size
        fd = os.memfd_create("inflight")
        os.ftruncate(fd, self.stride * queues)
        self.area_id = os.fstat(fd).st_ino
        threading.Timer(0.5, os.close, [fd]).start()  # after the message is out
        return struct.pack("=QQHHI", self.stride * queues, 0, queues, size, 0), [fd]

    def vring(self, request, ring, number, body, fds):
        if request == SET_NUM:
            ring.size = number
        elif request == SET_BASE:
            ring.base = number
        elif request == SET_ADDR:
            _, _, desc, used, avail, _ = struct.unpack("=IIQQQQ", body)
            ring.addr = (desc, used, avail)
        elif request == SET_KICK:
            ring.kick = fds.pop()
        elif request == SET_CALL:
            ring.call = fds.pop()
            os.write(ring.call, struct.pack("=Q", 1))
        elif number:
            ring.start()
            ring.enabled = True
            while ring.serve():
                pass
        else:
            ring.enabled = False

    def stop_ring(self, ring):
        while ring.enabled and (ring.serve() or ring.held):
            pass
        ring.enabled = False
        packed = self.features & PACKED
        base = ring.base if ring.size == 0 else 0
        if ring.size:
            half = ring.used[0] | ring.used[1] << 15 if packed else ring.used
            base = half << 16 | half if packed else half
        for fd in (ring.kick, ring.call):
            os.close(fd)
        ring.kick = ring.call = None
        return struct.pack("=II", ring.index, base), []
