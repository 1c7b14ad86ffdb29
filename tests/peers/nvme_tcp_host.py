# SPDX-License-Identifier: BSD-3-Clause
"""An NVMe/TCP host that can misbehave: each PDU can be built by hand, and what the target sends is checked.

    with Host(port, nqn, io_queues=2, hdgst=True) as host:
        host.io[0].write(0, b"x" * 512)
        assert host.io[0].read(0, 1).data == b"x" * 512
        q = host.io[0]
        q.send(H2C_DATA, data_header(cid=1, ttag=9, offset=0, length=4), b"abcd")
        assert q.end().fes == 1         # how the target ended the connection

Not for several threads: a connection reads when somebody waits for an answer."""

import itertools
import os
import socket
import struct
import uuid
from collections import namedtuple

from nvme_tcp_pdu import build, data_header, head, ic_req, padded
from nvme_tcp_wire import (C2H_DATA, C2H_TERM, CMD, DNR, F_DDGST, F_HDGST, F_LAST, F_SUCCESS, H2C_DATA, IC_RESP, R2T, RESP,
                           crc32c)

SECONDS = 20 * (4 if os.environ.get("SANITIZER") else 1)
DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
FLUSH, WRITE, READ, WRITE_ZEROES, DSM = 0x00, 0x01, 0x02, 0x08, 0x09
GET_LOG, IDENTIFY, ABORT, SET_FEATURES, GET_FEATURES, AER, KEEP_ALIVE = 0x02, 0x06, 0x08, 0x09, 0x0A, 0x0C, 0x18
FABRICS, PROPERTY_SET, CONNECT, PROPERTY_GET = 0x7F, 0x00, 0x01, 0x04
CAP, VS, CC, CSTS = 0x00, 0x08, 0x14, 0x1C
CC_ENABLE = 4 << 20 | 6 << 16 | 1
SGL_IN_CAPSULE, SGL_TRANSPORT = 0x01, 0x5A
SQFLOW_OFF = 4
PDU_HLEN = {IC_RESP: 128, C2H_TERM: 24, RESP: 24, C2H_DATA: 24, R2T: 24}

Pdu = namedtuple("Pdu", "type flags header data")
Term = namedtuple("Term", "fes fei header")
Ask = namedtuple("Ask", "cid ttag offset length")


class Ended(Exception):
    """The target has ended the connection. term: its TermReq, or None."""

    def __init__(self, term=None):
        super().__init__(f"the target ended the connection: {term}")
        self.term = term


class Reply(namedtuple("Reply", "status dw0 dw1 sqhd data success")):
    """status: without phase and DNR. success: by the flag of the last C2HData, without a response. dnr: Do Not Retry."""
    dnr = property(lambda self: bool(self.status_field & DNR))


class Queue:
    """One connection. After begin() and connect() it is a queue."""

    def __init__(self, port, addr="127.0.0.1", hdgst=False, ddgst=False, hpda=0, begin=True, rcvbuf=None):
        self.hdgst_asked, self.ddgst_asked, self.hpda = hdgst, ddgst, hpda
        self.hdgst = self.ddgst = False
        self.maxh2c = 0
        self.inline_bytes = 8192
        self.block_bytes = 512
        self.cids = itertools.count(1)
        self.replies, self.received, self.to_send = {}, {}, {}
        self.asked = []             # R2Ts
        self.answer_r2t = True
        self.piece = 0              # bytes of an H2CData; 0: as many as possible
        self.term = None
        self.sock = socket.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(SECONDS)
        self.sock.connect((addr, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if begin:
            self.begin()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # ---- bytes and PDUs ----

    def send_raw(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass                    # what it had to say can be read

    def send(self, pdu_type, header, data=b"", flags=0, **lies):
        self.send_raw(self.built(pdu_type, header, data, flags, **lies))

    def built(self, pdu_type, header, data=b"", flags=0, **lies):
        with_digests = pdu_type in (CMD, H2C_DATA)
        return build(pdu_type, header, data, flags, with_digests and self.hdgst, with_digests and self.ddgst, **lies)

    def recv(self, n):
        out = bytearray()
        while len(out) < n:
            try:
                got = self.sock.recv(n - len(out))
            except ConnectionResetError:
                got = b""
            if not got:
                raise Ended(self.term)
            out += got
        return bytes(out)

    def recv_pdu(self):
        """One PDU, which must be right in all that a host can check."""
        begin = self.recv(8)
        ch = head(begin)
        assert PDU_HLEN.get(ch.type) == ch.hlen, ch
        header = begin + self.recv(ch.hlen - 8)
        if ch.type == C2H_TERM:
            self.term = Term(*struct.unpack_from("<HI", header, 8), self.recv(ch.plen - ch.hlen))
            assert ch.plen <= 152 and not ch.flags and not ch.pdo
            return Pdu(ch.type, ch.flags, header, b"")
        before = ch.hlen
        digests = ch.type != IC_RESP
        assert bool(ch.flags & F_HDGST) == (digests and self.hdgst), ch
        if digests and self.hdgst:
            assert struct.unpack("<I", self.recv(4))[0] == crc32c(header), "header digest"
            before += 4
        if ch.type != C2H_DATA:
            assert ch.plen == before and not ch.pdo and not ch.flags & F_DDGST, ch
            return Pdu(ch.type, ch.flags, header, b"")
        assert ch.pdo == padded(before, (self.hpda + 1) * 4), (ch, self.hpda)
        assert not any(self.recv(ch.pdo - before)), "padding"
        assert bool(ch.flags & F_DDGST) == self.ddgst, ch
        data = self.recv(ch.plen - ch.pdo - (4 if self.ddgst else 0))
        assert data and struct.unpack_from("<I", header, 16)[0] == len(data), ch
        if self.ddgst:
            assert struct.unpack("<I", self.recv(4))[0] == crc32c(data), "data digest"
        return Pdu(ch.type, ch.flags, header, data)

    def end(self):
        """Reads until the target has ended the connection. Returns its TermReq or None."""
        try:
            while True:
                self.take(self.recv_pdu())
        except Ended as e:
            return e.term

    def begin(self, **lies):
        """ICReq and ICResp."""
        self.send_raw(ic_req(hpda=self.hpda, dgst=self.hdgst_asked | self.ddgst_asked << 1, **lies))
        resp = self.recv_pdu()
        if resp.type == C2H_TERM:
            self.end()
            raise Ended(self.term)
        pfv, cpda, dgst, self.maxh2c = struct.unpack_from("<HBBI", resp.header, 8)
        assert resp.type == IC_RESP and pfv == 0 and cpda == 0 and self.maxh2c >= 4096, resp
        assert not any(resp.header[16:])
        self.hdgst, self.ddgst = bool(dgst & 1), bool(dgst & 2)

    # ---- what comes ----

    def take(self, pdu):
        if pdu.type == RESP:
            dw0, dw1, sqhd, sqid, cid, sf = struct.unpack_from("<IIHHHH", pdu.header, 8)
            assert sqid == 0 and not sf & 1
            self.take_reply(cid, sf >> 1, dw0, dw1, sqhd, False)
        elif pdu.type == C2H_DATA:
            cid, _, offset, length, _ = struct.unpack_from("<HHIII", pdu.header, 8)
            got = self.received.setdefault(cid, bytearray())
            assert offset == len(got), "data in order"
            got += pdu.data
            assert not pdu.flags & F_SUCCESS or pdu.flags & F_LAST
            if pdu.flags & F_SUCCESS:
                self.take_reply(cid, 0, 0, 0, None, True)
        elif pdu.type == R2T:
            ask = Ask(*struct.unpack_from("<HHII", pdu.header, 8))
            if self.answer_r2t:
                self.answer(ask)
            else:
                self.asked.append(ask)
        elif pdu.type != C2H_TERM:
            raise AssertionError(f"PDU type {pdu.type} now")

    def take_reply(self, cid, status, dw0, dw1, sqhd, success):
        reply = Reply(status & 0x7FF, dw0, dw1, sqhd, bytes(self.received.pop(cid, b"")), success)
        reply.status_field = status
        self.replies.setdefault(cid, []).append(reply)

    def answer(self, ask, data=None):
        """H2CData for an R2T."""
        data = self.to_send[ask.cid][ask.offset:ask.offset + ask.length] if data is None else data
        piece = self.piece or self.maxh2c
        for at in range(0, len(data), piece):
            part = data[at:at + piece]
            self.h2c(ask, at, part, last=at + len(part) == len(data))

    def h2c(self, ask, at, part, last, **lies):
        """at: from the first byte that was asked for."""
        self.send(H2C_DATA, data_header(ask.cid, ask.ttag, ask.offset + at, len(part)), part, F_LAST if last else 0, **lies)

    def wait(self, cid):
        """The answer to a command."""
        while not self.replies.get(cid):
            pdu = self.recv_pdu()
            self.take(pdu)
        replies = self.replies[cid]
        reply = replies.pop(0)
        if not replies:
            del self.replies[cid]
        return reply

    def wait_asked(self):
        """The next R2T, which is not answered by itself."""
        assert not self.answer_r2t
        while not self.asked:
            self.take(self.recv_pdu())
        return self.asked.pop(0)

    # ---- commands ----

    def start(self, opc, nsid=0, data=b"", length=0, inline=None, cid=None, cdw10=0, cdw11=0, cdw12=0, cdw13=0, cdw14=0,
              body=None, sgl=None, flags=0x40, **lies):
        """Sends a command; returns its CID. data: to the target; length: of what is to come. inline: in the capsule (default:
        when it fits). body: from byte 40, for Fabrics commands. sgl: address, length, type, to lie."""
        cid = next(self.cids) & 0xFFFF if cid is None else cid
        if inline is None:
            inline = bool(data) and len(data) <= self.inline_bytes
        if sgl is None:
            sgl = (0, len(data), SGL_IN_CAPSULE) if inline else (0, len(data) or length, SGL_TRANSPORT)
        sqe = struct.pack("<BBHI16xQI3xB", opc, flags, cid, nsid, *sgl)
        sqe += body.ljust(24, b"\0") if body is not None else struct.pack("<IIIIII", cdw10, cdw11, cdw12, cdw13, cdw14, 0)
        if not inline:
            self.to_send[cid] = data
        self.send(CMD, sqe, data if inline else b"", **lies)
        return cid

    def command(self, opc, nsid=0, **how):
        return self.wait(self.start(opc, nsid, **how))

    def rw(self, opc, lba, blocks, nsid, control=0, **how):
        """How start() takes the blocks of a command."""
        return self.start(opc, nsid, cdw10=lba & 0xFFFFFFFF, cdw11=lba >> 32, cdw12=(blocks - 1) & 0xFFFF | control, **how)

    def start_read(self, lba, blocks=1, nsid=1, **how):
        how.setdefault("length", blocks * self.block_bytes)
        return self.rw(READ, lba, blocks, nsid, **how)

    def start_write(self, lba, data, nsid=1, blocks=None, **how):
        return self.rw(WRITE, lba, blocks or len(data) // self.block_bytes, nsid, data=data, **how)

    def read(self, lba, blocks=1, nsid=1, **how):
        return self.wait(self.start_read(lba, blocks, nsid, **how))

    def write(self, lba, data, nsid=1, **how):
        return self.wait(self.start_write(lba, data, nsid, **how))

    def flush(self, nsid=1):
        return self.command(FLUSH, nsid)

    def write_zeroes(self, lba, blocks, nsid=1, **how):
        return self.wait(self.rw(WRITE_ZEROES, lba, blocks, nsid, **how))

    def dsm(self, ranges, nsid=1, attributes=4, nr=None, **how):
        """ranges: (lba, blocks)."""
        data = b"".join(struct.pack("<IIQ", 0, blocks, lba) for lba, blocks in ranges)
        return self.command(DSM, nsid, data=data, cdw10=len(ranges) - 1 if nr is None else nr, cdw11=attributes, **how)

    def works(self, nsid=1):
        """It is up: an I/O queue reads, an admin queue (nsid 0) is alive."""
        reply = self.read(0, nsid=nsid) if nsid else self.command(KEEP_ALIVE)
        assert reply.status == 0, reply

    # ---- Fabrics ----

    def start_connect(self, subnqn, hostnqn, hostid, qid=0, cntlid=0xFFFF, sqsize=31, kato=0, cattr=0, recfmt=0, data=None, **how):
        how.setdefault("inline", True)
        body = struct.pack("<HHHBxI", recfmt, qid, sqsize, cattr, kato)
        if data is None:
            data = hostid + struct.pack("<H238x", cntlid) + subnqn.encode().ljust(256, b"\0") + \
                hostnqn.encode().ljust(256, b"\0") + bytes(256)
        return self.start(FABRICS, CONNECT, data=data, body=body, **how)

    def connect(self, *args, **how):
        return self.wait(self.start_connect(*args, **how))

    def property_get(self, offset, wide=False):
        reply = self.command(FABRICS, PROPERTY_GET, body=struct.pack("<B3xI", wide, offset))
        return reply, reply.dw0 | reply.dw1 << 32

    def property_set(self, offset, value, attrib=0):
        return self.command(FABRICS, PROPERTY_SET, body=struct.pack("<B3xIQ", attrib, offset, value))

    # ---- admin ----

    def identify(self, cns, nsid=0, csi=0, length=4096):
        return self.command(IDENTIFY, nsid, cdw10=cns, cdw11=csi << 24, length=length)

    def log_page(self, lid, size, offset=0, rae=False, lsp=0, **how):
        dwords = size // 4 - 1
        how.setdefault("length", size)
        return self.command(GET_LOG, 0xFFFFFFFF, cdw10=lid | lsp << 8 | rae << 15 | (dwords & 0xFFFF) << 16, cdw11=dwords >> 16,
                            cdw12=offset & 0xFFFFFFFF, cdw13=offset >> 32, **how)

    def set_feature(self, fid, value=0, **how):
        return self.command(SET_FEATURES, cdw10=fid, cdw11=value, **how)

    def get_feature(self, fid, select=0, **how):
        return self.command(GET_FEATURES, cdw10=fid | select << 8, **how)

    def keep_alive(self):
        return self.command(KEEP_ALIVE)


class Host:
    """A controller of a subsystem: admin queue, enabled, and I/O queues."""

    def __init__(self, port, subnqn, io_queues=0, hostnqn=None, hostid=None, kato=0, sqflow=True, depth=32, enable=True,
                 inline_bytes=4096, **connection):
        self.port, self.subnqn = port, subnqn
        self.hostid = hostid or uuid.uuid4().bytes      # another host each time: none waits for the end of another
        self.hostnqn = hostnqn or f"nqn.2014-08.org.nvmexpress:uuid:{uuid.UUID(bytes=self.hostid)}"
        self.cattr = 0 if sqflow else SQFLOW_OFF
        self.depth, self.inline_bytes, self.connection = depth, inline_bytes, connection
        self.io = []
        self.admin = Queue(port, **connection)
        try:
            self.connected = self.admin.connect(subnqn, self.hostnqn, self.hostid, kato=kato, cattr=self.cattr)
            assert self.connected.status == 0, self.connected
            self.cntlid = self.connected.dw0 & 0xFFFF
            if enable:
                self.enable()
            if io_queues:
                self.admin.set_feature(7, (io_queues - 1) | (io_queues - 1) << 16)
            for qid in range(1, io_queues + 1):
                self.add_queue(qid)
        except BaseException:
            self.close()
            raise

    def enable(self):
        assert self.admin.property_set(CC, CC_ENABLE).status == 0
        assert self.admin.property_get(CSTS)[1] & 1

    def add_queue(self, qid, **connection):
        q = Queue(self.port, **{**self.connection, **connection})
        q.inline_bytes = self.inline_bytes
        self.io.append(q)
        reply = self.connect_queue(q, qid)
        assert reply.status == 0, reply
        return q

    def connect_queue(self, q, qid, **how):
        how = {"cntlid": self.cntlid, "sqsize": self.depth - 1, "cattr": self.cattr, **how}
        return q.connect(self.subnqn, self.hostnqn, self.hostid, qid=qid, **how)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for q in [self.admin, *self.io]:
            q.close()
