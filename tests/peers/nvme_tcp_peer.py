#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""A small NVMe/TCP target in memory that can misbehave.

    with NvmeTcpPeer(namespaces=[PeerNamespace(1, blocks=65536)], hdgst=True) as peer:
        attach(peer.addr, peer.port, peer.nqn)
        peer.cut()              # all connections
        peer.fault = Fault("bad_ddgst", at=100)
        assert not peer.violations      # what the host has done wrong

Standalone: nvme_tcp_peer.py --port 0 prints "PORT n" and serves until its stdin ends or a signal comes."""

import argparse
import itertools
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
import uuid as uuid_module
from dataclasses import dataclass

IC_REQ, IC_RESP, H2C_TERM, C2H_TERM, CMD, RESP, H2C_DATA, C2H_DATA, R2T = 0, 1, 2, 3, 4, 5, 6, 7, 9
F_HDGST, F_DDGST, F_LAST, F_SUCCESS = 1, 2, 4, 8
HLEN = {IC_REQ: 128, H2C_TERM: 24, CMD: 72, H2C_DATA: 24}

SC_INVALID_OPCODE, SC_INVALID_FIELD, SC_INVALID_NS, SC_LBA_RANGE, DNR = 0x01, 0x02, 0x0b, 0x80, 0x4000


def _make_crc_table():
    table = []
    for i in range(256):
        crc = i
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC = _make_crc_table()
try:
    import ctypes
    import ctypes.util

    _isal = ctypes.CDLL(ctypes.util.find_library("isal") or "libisal.so.2")
    _isal.crc32_iscsi.restype = ctypes.c_uint32
    _isal.crc32_iscsi.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32]

    def crc32c(data):
        data = bytes(data)
        return _isal.crc32_iscsi(data, len(data), 0xFFFFFFFF) ^ 0xFFFFFFFF
except (OSError, AttributeError):
    def crc32c(data):
        crc = 0xFFFFFFFF
        for b in bytes(data):
            crc = _CRC[(crc ^ b) & 0xFF] ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF


class PeerNamespace:
    def __init__(self, nsid=1, blocks=65536, block_bytes=512, uuid=None, nguid=bytes(16), eui64=bytes(8)):
        self.nsid, self.block_bytes = nsid, block_bytes
        self.data = bytearray(blocks * block_bytes)
        self.uuid = uuid_module.uuid4() if uuid is None else uuid   # False: it has none
        self.nguid, self.eui64 = nguid, eui64
        self.active = True
        self.read_only = False

    @property
    def blocks(self):
        return len(self.data) // self.block_bytes

    def resize(self, blocks):
        want = blocks * self.block_bytes
        if want < len(self.data):
            del self.data[want:]
        else:
            self.data.extend(bytes(want - len(self.data)))


@dataclass
class Fault:
    """Something wrong, done once: at the at-th I/O command (of its kind) after it was set."""

    name: str
    at: int = 1
    opc: int = None     # only commands of this opcode are counted
    done: bool = False


class _Gone(Exception):
    pass


class _Violation(Exception):
    def __init__(self, text, fes=1):
        super().__init__(text)
        self.fes = fes


class _Connection:
    def __init__(self, peer, sock, number):
        self.peer, self.sock, self.number = peer, sock, number
        self.qid = None
        self.ctrl = None
        self.hdgst = self.ddgst = False
        self.lock = threading.Lock()
        self.outstanding = {}       # cid: opc
        self.writes = {}            # ttag: state of a write that has been asked for data
        self.ttags = itertools.count(1)
        self.sqsize = 0
        self.no_sqflow = False
        self.sqhd = 0
        self.pdus = 0
        self.held = []

    # ---- bytes ----

    def recv(self, n):
        buf = bytearray(n)
        view = memoryview(buf)
        got = 0
        while got < n:
            try:
                k = self.sock.recv_into(view[got:])
            except OSError:
                raise _Gone from None
            if k == 0:
                raise _Gone
            got += k
        return bytes(buf)

    def send_raw(self, data):
        with self.lock:
            try:
                self.sock.sendall(data)
            except OSError:
                raise _Gone from None

    def send(self, pdu_type, header, data=b"", flags=0, spoil=None):
        """header: what follows the common header. spoil(hdr) may change the header before the digest."""
        hlen = 8 + len(header)
        before = hlen + (4 if self.hdgst else 0)
        pdo = 0
        if data:
            align = 4
            pdo = (before + align - 1) // align * align + self.peer.pad
            before = pdo
        plen = before + len(data) + (4 if data and self.ddgst else 0)
        if self.hdgst:
            flags |= F_HDGST
        if data and self.ddgst:
            flags |= F_DDGST
        head = bytearray(struct.pack("<BBBBI", pdu_type, flags, hlen, pdo, plen) + header)
        if spoil:
            spoil(head)
        out = bytes(head)
        if self.hdgst:
            crc = crc32c(head)
            out += struct.pack("<I", crc ^ (1 if self.take_fault("bad_hdgst", pdu_type) else 0))
        out += bytes(before - len(out) if data else 0)
        out += bytes(data)
        if data and self.ddgst:
            out += struct.pack("<I", crc32c(data) ^ (1 if self.take_fault("bad_ddgst", pdu_type) else 0))
        if self.peer.dribble:
            for i in range(0, len(out), self.peer.dribble):
                self.send_raw(out[i:i + self.peer.dribble])
        else:
            self.send_raw(out)

    def take_fault(self, name, _pdu_type=None):
        fault = self.peer.armed
        if fault and fault.name == name and not fault.done and self.qid:
            fault.done = True
            self.peer.armed = None
            return True
        return False

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def reset(self):
        """RST instead of FIN."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self.close()

    # ---- PDUs ----

    def recv_pdu(self):
        ch = self.recv(8)
        pdu_type, flags, hlen, pdo, plen = struct.unpack("<BBBBI", ch)
        if pdu_type not in HLEN:
            raise _Violation(f"PDU type {pdu_type}")
        if hlen != HLEN[pdu_type]:
            raise _Violation(f"HLEN {hlen} of PDU type {pdu_type}")
        head = ch + self.recv(hlen - 8)
        before = hlen
        digests = pdu_type in (CMD, H2C_DATA)
        if digests and bool(flags & F_HDGST) != self.hdgst:
            raise _Violation("HDGST flag")
        if digests and self.hdgst:
            if struct.unpack("<I", self.recv(4))[0] != crc32c(head):
                raise _Violation("header digest", 3)
            before += 4
        if pdu_type == H2C_TERM:
            fes = struct.unpack_from("<H", head, 8)[0]
            self.recv(plen - hlen)
            self.peer.term_reqs.append(fes)
            raise _Gone
        data = b""
        if plen != before:
            if pdo < before or pdo % ((self.peer.cpda + 1) * 4):
                raise _Violation(f"PDO {pdo} with CPDA {self.peer.cpda}")
            if pdo != (before + (self.peer.cpda + 1) * 4 - 1) // ((self.peer.cpda + 1) * 4) * ((self.peer.cpda + 1) * 4):
                raise _Violation(f"PDO {pdo} is padded more than asked for")
            if any(self.recv(pdo - before)):
                raise _Violation("padding is not zero")
            n = plen - pdo - (4 if self.ddgst else 0)
            if n <= 0 or n > max(self.peer.maxh2c, 8192, self.peer.inline_bytes):
                raise _Violation(f"{n} bytes of data")
            if bool(flags & F_DDGST) != self.ddgst:
                raise _Violation("DDGST flag")
            data = self.recv(n)
            if self.ddgst and struct.unpack("<I", self.recv(4))[0] != crc32c(data):
                self.peer.ddgst_errors += 1
                raise _Gone
        return pdu_type, flags, head, data

    def ic(self):
        ch = self.recv(8)
        if struct.unpack("<BBBBI", ch) != (IC_REQ, 0, 128, 0, 128):
            raise _Violation("not an ICReq")
        body = self.recv(120)
        pfv, hpda, dgst, maxr2t = struct.unpack_from("<HBBI", body)
        if pfv or hpda or maxr2t:
            raise _Violation(f"ICReq: PFV {pfv}, HPDA {hpda}, MAXR2T {maxr2t}")
        if self.peer.silent_ic:
            self.recv(1)
        grant = dgst & ((1 if self.peer.hdgst else 0) | (2 if self.peer.ddgst else 0))
        if self.peer.grant_unasked:
            grant = 3
        resp = struct.pack("<BBBBIHBBI", IC_RESP, 0, 128, 0, 128, self.peer.pfv, self.peer.cpda, grant,
                           self.peer.maxh2c)
        self.send_raw(resp.ljust(128, b"\0"))
        self.hdgst, self.ddgst = bool(grant & 1), bool(grant & 2)

    def serve(self):
        try:
            self.ic()
            while True:
                pdu_type, flags, head, data = self.recv_pdu()
                self.pdus += 1
                if self.qid and self.peer.cut_now(self):
                    self.reset() if self.peer.cut_with_rst else self.close()
                    raise _Gone
                if pdu_type == CMD:
                    self.command(head[8:72], data)
                elif pdu_type == H2C_DATA:
                    self.h2c_data(flags, head, data)
                else:
                    raise _Violation(f"PDU type {pdu_type} out of order")
        except _Violation as v:
            self.peer.violations.append(f"connection {self.number} qid {self.qid}: {v}")
            try:
                self.send_raw(struct.pack("<BBBBIH", C2H_TERM, 0, 24, 0, 24, v.fes).ljust(24, b"\0"))
            except _Gone:
                pass
        except _Gone:
            pass
        finally:
            self.peer.closed(self)
            self.sock.close()

    # ---- commands ----

    def respond(self, cid, status=0, dw0=0, dw1=0):
        opc = self.outstanding.pop(cid, None)
        if opc is None:
            return
        self.sqhd = (self.sqhd + 1) % (self.sqsize + 1)
        sqhd = 0xFFFF if self.no_sqflow else self.sqhd
        self.send(RESP, struct.pack("<IIHHHH", dw0, dw1, sqhd, self.qid or 0, cid, status << 1))

    def command(self, sqe, data):
        opc, flags, cid = struct.unpack_from("<BBH", sqe)
        if cid in self.outstanding:
            raise _Violation(f"CID {cid:#x} is in use")
        if flags != 0x40:
            raise _Violation(f"command flags {flags:#x}")
        self.outstanding[cid] = opc
        if self.sqsize and len(self.outstanding) > self.sqsize:
            raise _Violation(f"{len(self.outstanding)} commands in a queue of {self.sqsize + 1} entries")
        sgl_addr, sgl_len, sgl_type = struct.unpack_from("<QI3xB", sqe, 24)
        if data:
            if sgl_type != 0x01 or sgl_addr != 0 or sgl_len != len(data):
                raise _Violation(f"SGL {sgl_type:#x} {sgl_addr} {sgl_len} for {len(data)} bytes in the capsule")
            limit = 8192 if opc == 0x7F or not self.qid else self.peer.inline_bytes
            if len(data) > limit:
                raise _Violation(f"{len(data)} bytes in the capsule, {limit} allowed")
        elif sgl_type != 0x5A:
            raise _Violation(f"SGL type {sgl_type:#x} without data in the capsule")
        if opc == 0x7F:
            self.fabrics(sqe, cid, data)
        elif self.qid is None:
            raise _Violation("a command before Connect")
        elif self.qid == 0:
            self.admin(sqe, cid, opc, sgl_len)
        else:
            self.io(sqe, cid, opc, sgl_len, data)

    def send_data(self, cid, data, limit=None):
        """C2HData PDUs, then SUCCESS or a response."""
        success = self.peer.success if self.peer.success is not None else self.no_sqflow
        limit = limit or self.peer.c2h_bytes or len(data)
        for off in range(0, len(data), limit):
            part = data[off:off + limit]
            last = off + len(part) == len(data)
            flags = (F_LAST if last else 0) | (F_SUCCESS if last and success else 0)
            if last and success:
                self.outstanding.pop(cid, None)
            self.send(C2H_DATA, struct.pack("<HHIII", cid, 0, off, len(part), 0), part, flags)
        if not success:
            self.respond(cid)

    def fabrics(self, sqe, cid, data):
        fctype = sqe[4]
        if fctype == 1:
            recfmt, qid, sqsize, cattr, kato = struct.unpack_from("<HHHBxI", sqe, 40)
            if len(data) != 1024:
                raise _Violation(f"Connect with {len(data)} bytes")
            hostid, cntlid = data[:16], struct.unpack_from("<H", data, 16)[0]
            subnqn = data[256:512].rstrip(b"\0").decode()
            hostnqn = data[512:768].rstrip(b"\0").decode()
            self.peer.connect(self, cid, qid, sqsize, cattr, kato, hostid, cntlid, subnqn, hostnqn)
            return
        if self.qid is None:
            raise _Violation("a Fabrics command before Connect")
        if fctype == 4:
            attrib, ofst = struct.unpack_from("<B3xI", sqe, 40)
            value = self.ctrl.property(ofst)
            self.respond(cid, 0, value & 0xFFFFFFFF, value >> 32 if attrib & 1 else 0)
        elif fctype == 0:
            ofst, value = struct.unpack_from("<IQ", sqe, 44)
            if ofst == 0x14:
                self.ctrl.cc = value
            self.respond(cid)
        else:
            self.respond(cid, SC_INVALID_FIELD | DNR)

    def admin(self, sqe, cid, opc, length):
        peer, nsid = self.peer, struct.unpack_from("<I", sqe, 4)[0]
        cdw10, cdw11 = struct.unpack_from("<II", sqe, 40)
        if opc in peer.admin_stall:
            return
        if opc in peer.admin_status:
            self.respond(cid, peer.admin_status[opc])
        elif opc == 0x06:
            page = peer.identify(self.ctrl, cdw10 & 0xFF, nsid)
            if page is None:
                self.respond(cid, SC_INVALID_FIELD | DNR if cdw10 & 0xFF not in (0, 3) else SC_INVALID_NS | DNR)
            else:
                self.send_data(cid, page)
        elif opc == 0x09:
            if cdw10 & 0xFF == 7:
                n = max(min((cdw11 & 0xFFFF) + 1, peer.queues) - 1, 0)
                self.respond(cid, 0, n | n << 16)
            else:
                self.respond(cid)
        elif opc == 0x02:
            n = ((cdw10 >> 16 & 0xFFF) + 1) * 4
            if n != length:
                raise _Violation(f"Get Log Page of {n} bytes with an SGL of {length}")
            with peer.lock:
                changed, self.ctrl.changed = sorted(self.ctrl.changed), set()
            page = b"".join(struct.pack("<I", x) for x in changed) if cdw10 & 0xFF == 4 else b""
            self.send_data(cid, page.ljust(n, b"\0"))
        elif opc == 0x0C:
            with peer.lock:
                self.ctrl.aers.append(cid)
            self.ctrl.send_events()
        elif opc == 0x18:
            self.ctrl.keep_alives += 1
            if not peer.drop_keep_alive:
                self.respond(cid)
            else:
                self.outstanding.pop(cid)
        else:
            self.respond(cid, SC_INVALID_OPCODE | DNR)

    # ---- I/O ----

    def io(self, sqe, cid, opc, length, data):
        peer = self.peer
        if peer.holding(self, lambda: self.io(sqe, cid, opc, length, data)):
            return
        peer.count(opc)
        if opc & 3 == 1 and not data:      # from the host, and not in the capsule
            # One R2T at a time, as long as data are missing.
            state = {"cid": cid, "sqe": sqe, "len": length, "data": bytearray(), "ttag": next(self.ttags) & 0xFFFF}
            fault = peer.fault_due(opc)
            if fault and self.misbehave(fault, cid, opc, length, sqe):
                return
            if peer.status_due(opc) is not None:
                self.respond(cid, peer.pop_status(opc))
                return
            self.writes[state["ttag"]] = state
            self.ask(state)
            return
        fault = peer.fault_due(opc)
        if fault and self.misbehave(fault, cid, opc, length, sqe):
            return
        if peer.status_due(opc) is not None:
            self.respond(cid, peer.pop_status(opc))
            return
        self.execute(sqe, cid, opc, length, data)

    def ask(self, state):
        off = len(state["data"])
        n = min(state["len"] - off, self.peer.r2t_bytes or state["len"])
        state["off"], state["end"] = off, off + n
        self.send(R2T, struct.pack("<HHIII", state["cid"], state["ttag"], off, n, 0))

    def h2c_data(self, flags, head, data):
        cid, ttag, off, n = struct.unpack_from("<HHII", head, 8)
        state = self.writes.get(ttag)
        if not state or state["cid"] != cid:
            raise _Violation(f"H2CData for CID {cid:#x}, TTAG {ttag}")
        if n != len(data) or n > self.peer.maxh2c:
            raise _Violation(f"H2CData of {n} bytes, {len(data)} carried, MAXH2CDATA {self.peer.maxh2c}")
        if off != len(state["data"]) or off + n > state["end"]:
            raise _Violation(f"H2CData {off}+{n}, expected {len(state['data'])} of {state['end']}")
        last = off + n == state["end"]
        if bool(flags & F_LAST) != last or flags & F_SUCCESS:
            raise _Violation(f"H2CData flags {flags:#x}")
        state["data"] += data
        if not last:
            return
        if state["end"] < state["len"]:
            self.ask(state)
            return
        del self.writes[ttag]
        self.execute(state["sqe"], cid, state["sqe"][0], state["len"], bytes(state["data"]))

    def execute(self, sqe, cid, opc, length, data):
        peer = self.peer
        nsid = struct.unpack_from("<I", sqe, 4)[0]
        slba, cdw12 = struct.unpack_from("<QI", sqe, 40)
        ns = peer.namespace(nsid)
        if not ns:
            self.respond(cid, SC_INVALID_NS | DNR)
            return
        nlb = (cdw12 & 0xFFFF) + 1
        first, n = slba * ns.block_bytes, nlb * ns.block_bytes
        if opc == 0x00:
            self.respond(cid)
            return
        if opc == 0x09:
            count = struct.unpack_from("<I", sqe, 40)[0] & 0xFF
            if len(data) != 16 * (count + 1):
                raise _Violation(f"DSM: {count + 1} ranges in {len(data)} bytes")
            for i in range(count + 1):
                _, blocks, lba = struct.unpack_from("<IIQ", data, 16 * i)
                with peer.lock:
                    ns.data[lba * ns.block_bytes:(lba + blocks) * ns.block_bytes] = bytes(blocks * ns.block_bytes)
            self.respond(cid)
            return
        if opc not in (0x01, 0x02, 0x08):
            self.respond(cid, SC_INVALID_OPCODE | DNR)
            return
        if peer.mdts and n > 4096 << peer.mdts:
            raise _Violation(f"a transfer of {n} bytes is above MDTS")
        if slba + nlb > ns.blocks:
            self.respond(cid, SC_LBA_RANGE | DNR)
            return
        if opc == 0x08:
            with peer.lock:
                ns.data[first:first + n] = bytes(n)
            self.respond(cid)
        elif opc == 0x01:
            if len(data) != n or length != n:
                raise _Violation(f"write of {n} bytes with {len(data)} bytes of data, SGL {length}")
            with peer.lock:
                ns.data[first:first + n] = data
            if cdw12 & (1 << 30):
                peer.fua += 1
            self.respond(cid)
        else:
            if length != n:
                raise _Violation(f"read of {n} bytes with an SGL of {length}")
            with peer.lock:
                out = bytes(ns.data[first:first + n])
            self.send_data(cid, out)

    def misbehave(self, fault, cid, opc, length, sqe):
        """True when the command has been dealt with."""
        name = fault.name
        if name in ("bad_hdgst", "bad_ddgst"):
            self.peer.armed = fault     # the next PDU sent
            return False
        fault.done = True
        part = b"\xEE" * min(length, 512)

        def c2h(c, off, data, flags=F_LAST):
            self.send(C2H_DATA, struct.pack("<HHIII", c, 0, off, len(data), 0), data, flags)

        if name == "cut":
            self.close()
            raise _Gone
        if name == "rst":
            self.reset()
            raise _Gone
        if name == "stall":             # this command is never answered
            return True
        if name == "stall_pdu":         # half a header, then nothing
            self.send_raw(bytes([RESP, 1 if self.hdgst else 0, 24]))
            self.sock.settimeout(None)
            self.recv(1 << 30)
        if name == "stop_reading":
            while not self.peer.stopping and not self.dead():
                time.sleep(0.05)
            raise _Gone
        if name == "wrong_cccid":
            c2h(cid ^ 0x5555, 0, part)
        elif name == "c2h_beyond":
            c2h(cid, 0, b"\xEE" * (length + 512))
        elif name == "c2h_offset":
            c2h(cid, length, part)
        elif name == "c2h_far_offset":
            c2h(cid, 0xFFFFFE00, part)
        elif name == "c2h_gap":
            c2h(cid, 512, part)
        elif name == "c2h_twice":
            c2h(cid, 0, part, 0)
            c2h(cid, 0, part, 0)
        elif name == "c2h_for_write":
            c2h(cid, 0, part)
        elif name == "early_success_flag":
            c2h(cid, 0, part[:4], F_LAST | F_SUCCESS)
        elif name == "datal_lie":
            self.send(C2H_DATA, struct.pack("<HHIII", cid, 0, 0, len(part) + 4, 0), part, F_LAST)
        elif name == "success_without_last":
            c2h(cid, 0, part, F_SUCCESS)
        elif name == "short_success":
            c2h(cid, 0, part[:4])
            self.respond(cid)
        elif name == "early_success":   # a write without having asked for its data
            self.respond(cid)
        elif name == "dup_resp":
            self.outstanding[cid] = opc
            self.execute(sqe, cid, opc, length, b"") if opc == 0x02 else self.respond(cid)
            self.outstanding[cid] = opc
            self.respond(cid)
        elif name == "unknown_cid":
            self.outstanding[0xFFF0] = 0
            self.respond(0xFFF0)
        elif name == "r2t_zero":
            self.send(R2T, struct.pack("<HHIII", cid, 9, 0, 0, 0))
        elif name == "r2t_beyond":
            self.send(R2T, struct.pack("<HHIII", cid, 9, 0, length + 512, 0))
        elif name == "r2t_offset":
            self.send(R2T, struct.pack("<HHIII", cid, 9, 512, length - 512, 0))
        elif name == "r2t_twice":
            self.send(R2T, struct.pack("<HHIII", cid, 9, 0, length, 0))
            self.send(R2T, struct.pack("<HHIII", cid, 10, 0, length, 0))
        elif name == "r2t_for_read":
            self.send(R2T, struct.pack("<HHIII", cid, 9, 0, length, 0))
        elif name == "term_req":
            self.send_raw(struct.pack("<BBBBIH", C2H_TERM, 0, 24, 0, 24, 2).ljust(24, b"\0"))
        elif name == "huge_plen":
            self.send_raw(struct.pack("<BBBBI", C2H_DATA, (1 if self.hdgst else 0) | (2 if self.ddgst else 0) | 4, 24,
                                      28 if self.hdgst else 24, 0xFFFFFFFF) + bytes(64))
        elif name == "bad_type":
            self.send_raw(struct.pack("<BBBBI", 8, 0, 24, 0, 24) + bytes(64))
        elif name == "bad_hlen":
            self.send(RESP, bytes(20))
        elif name == "bad_flags":
            self.send(RESP, struct.pack("<IIHHHH", 0, 0, 0, 1, cid, 0), flags=0x10)
        elif name == "second_ic_resp":
            self.send_raw(struct.pack("<BBBBIHBBI", IC_RESP, 0, 128, 0, 128, 0, 0, 0, 4096).ljust(128, b"\0"))
        elif name == "garbage":
            self.send_raw(random.Random(1).randbytes(4096))
        else:
            raise AssertionError(f"no fault named {name}")
        # What the host says to it.
        try:
            while True:
                self.recv_pdu()
        except _Violation:
            raise _Gone from None

    def dead(self):
        try:
            return self.sock.fileno() < 0
        except OSError:
            return True


FAULTS_READ = ("wrong_cccid", "c2h_beyond", "c2h_offset", "c2h_far_offset", "c2h_gap", "c2h_twice", "early_success_flag",
               "datal_lie", "success_without_last", "short_success", "dup_resp", "unknown_cid", "r2t_for_read")
FAULTS_WRITE = ("c2h_for_write", "early_success", "r2t_zero", "r2t_beyond", "r2t_offset", "r2t_twice")
FAULTS_ANY = ("cut", "rst", "term_req", "huge_plen", "bad_type", "bad_hlen", "bad_flags", "second_ic_resp", "garbage")


class _Controller:
    def __init__(self, peer, cntlid, admin, kato):
        self.peer, self.cntlid, self.admin, self.kato = peer, cntlid, admin, kato
        self.cc = 0
        self.aers = []
        self.changed = set()
        self.event_masked = False
        self.keep_alives = 0
        self.event_due = False

    def property(self, ofst):
        if ofst == 0x00:
            return (self.peer.mqes & 0xFFFF) | 1 << 16 | 20 << 24 | 1 << 37
        if ofst == 0x08:
            return self.peer.vs
        if ofst == 0x14:
            return self.cc
        if ofst == 0x1C:
            if self.peer.csts is not None:
                return self.peer.csts
            return (1 if self.cc & 1 else 0) | (8 if self.cc >> 14 & 3 else 0)
        return 0

    def send_events(self):
        with self.peer.lock:
            if not self.event_due or not self.aers:
                return
            self.event_due = False
            cid = self.aers.pop(0)
        try:
            self.admin.respond(cid, 0, 0x00040002)
        except _Gone:
            pass


class NvmeTcpPeer:
    def __init__(self, namespaces=None, nqn="nqn.2024-01.io.opensnap:peer", port=0, addr="127.0.0.1", hdgst=False,
                 ddgst=False, inline_bytes=8192, maxh2c=131072, cpda=0, success=None, r2t_bytes=0, c2h_bytes=0, mdts=5,
                 vwc=True, oncs=0x0C, queues=64, mqes=127, pad=0, dribble=0, cut_every=0, cut_with_rst=False,
                 vs=0x00010400, fault=None, seed=1):
        self.namespaces = namespaces if namespaces is not None else [PeerNamespace()]
        self.nqn, self.addr, self.port = nqn, addr, port
        self.hdgst, self.ddgst, self.inline_bytes, self.maxh2c = hdgst, ddgst, inline_bytes, maxh2c
        self.cpda, self.success, self.r2t_bytes, self.c2h_bytes = cpda, success, r2t_bytes, c2h_bytes
        self.mdts, self.vwc, self.oncs, self.queues, self.mqes, self.vs = mdts, vwc, oncs, queues, mqes, vs
        self.pad, self.dribble = pad, dribble       # extra padding before data; bytes per send call
        self.cut_every = cut_every                  # an I/O connection ends after about so many PDUs
        self.cut_with_rst = cut_with_rst
        self.fault = fault
        self.armed = None
        self.grant_unasked = self.silent_ic = self.drop_keep_alive = False
        self.pfv = 0
        self.csts = None
        self.admin_stall = set()                    # opcodes that are never answered
        self.admin_status = {}                      # opcode: status
        self.statuses = {}                          # I/O opcode: list of statuses to answer with
        self.identify_patch = None                  # fn(bytearray, cns, nsid)
        self.allow_hosts = None
        self.violations, self.term_reqs = [], []
        self.connections, self.controllers = [], {}
        self.counts, self.accepted, self.connects = {}, 0, 0
        self.ddgst_errors = self.fua = 0
        self.hosts = []                             # (hostid, hostnqn) of each admin Connect
        self.lock = threading.RLock()
        self.random = random.Random(seed)
        self.cntlids = itertools.count(1)
        self.hold_io = False
        self.stopping = False
        self.listener = None
        self.threads = []

    # ---- life ----

    def start(self):
        self.listener = socket.socket(socket.AF_INET6 if ":" in self.addr else socket.AF_INET)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((self.addr, self.port))
        self.port = self.listener.getsockname()[1]
        self.listener.listen(128)
        self.stopping = False
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()
        return self

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.accepted += 1
                c = _Connection(self, sock, self.accepted)
                self.connections.append(c)
            threading.Thread(target=c.serve, daemon=True).start()

    def stop(self):
        """Refuses new connections and ends all there are. start() is possible again, on the same port."""
        self.stopping = True
        if self.listener:
            try:
                self.listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self.listener.close()
            self.listener = None
        self.cut()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()

    def cut(self, rst=False, io_only=False):
        with self.lock:
            victims = [c for c in self.connections if c.qid or not io_only]
        for c in victims:
            c.reset() if rst else c.close()
        return len(victims)

    def closed(self, connection):
        with self.lock:
            if connection in self.connections:
                self.connections.remove(connection)
            if connection.ctrl and connection.qid == 0:
                self.controllers.pop(connection.ctrl.cntlid, None)
                others = [c for c in self.connections if c.ctrl is connection.ctrl]
            else:
                others = []
        for c in others:
            c.close()

    # ---- called by connections ----

    def connect(self, c, cid, qid, sqsize, cattr, kato, hostid, cntlid, subnqn, hostnqn):
        if c.qid is not None:
            raise _Violation("a second Connect")
        if subnqn != self.nqn:
            c.respond(cid, 0x182 | DNR, 0x10000 | 256)
            return
        if self.allow_hosts is not None and hostnqn not in self.allow_hosts:
            c.respond(cid, 0x184 | DNR)
            return
        with self.lock:
            self.connects += 1
            if qid == 0:
                if cntlid != 0xFFFF:
                    raise _Violation(f"CNTLID {cntlid:#x} in an admin Connect")
                c.ctrl = _Controller(self, next(self.cntlids), c, kato)
                self.controllers[c.ctrl.cntlid] = c.ctrl
                self.hosts.append((hostid, hostnqn))
            else:
                c.ctrl = self.controllers.get(cntlid)
                if not c.ctrl or qid > self.queues or sqsize > self.mqes or sqsize == 0:
                    c.ctrl = None
                elif not c.ctrl.cc & 1:
                    raise _Violation("an I/O queue before CC.EN")
        if not c.ctrl:
            c.respond(cid, 0x182 | DNR, 42)
            return
        c.qid, c.sqsize, c.no_sqflow = qid, sqsize, bool(cattr & 4)
        if self.ctrl_qids(c).count(qid) > 1:
            raise _Violation(f"queue {qid} is connected already")
        c.respond(cid, 0, c.ctrl.cntlid)

    def ctrl_qids(self, connection):
        with self.lock:
            return [c.qid for c in self.connections if c.ctrl is connection.ctrl]

    def namespace(self, nsid):
        for ns in self.namespaces:
            if ns.nsid == nsid and ns.active:
                return ns
        return None

    def identify(self, ctrl, cns, nsid):
        page = bytearray(4096)
        if cns == 1:
            struct.pack_into("<HH20s40s8s", page, 0, 0x1AF4, 0x1AF4, b"PEER0001".ljust(20), b"OpenSNAP test peer".ljust(40),
                             b"1".ljust(8))
            page[77] = self.mdts
            struct.pack_into("<HI", page, 78, ctrl.cntlid, self.vs)
            struct.pack_into("<I", page, 92, 1 << 8)
            page[111] = 1
            struct.pack_into("<H", page, 320, 10)
            page[512], page[513] = 0x66, 0x44
            struct.pack_into("<I", page, 516, 1024)
            struct.pack_into("<H", page, 520, self.oncs)
            page[525] = 1 if self.vwc else 0
            struct.pack_into("<I", page, 536, 1 | 1 << 20)
            nqn = self.nqn.encode()
            page[768:768 + len(nqn)] = nqn
            struct.pack_into("<IIH", page, 1792, (64 + self.inline_bytes) // 16, 1, 0)
        elif cns == 2:
            nsids = sorted(ns.nsid for ns in self.namespaces if ns.active and ns.nsid > nsid)[:1024]
            for i, n in enumerate(nsids):
                struct.pack_into("<I", page, 4 * i, n)
        elif cns == 0:
            ns = self.namespace(nsid)
            if ns:
                struct.pack_into("<QQQ", page, 0, ns.blocks, ns.blocks, ns.blocks)
                page[99] = 1 if ns.read_only else 0
                page[104:120], page[120:128] = ns.nguid, ns.eui64
                page[130] = ns.block_bytes.bit_length() - 1
        elif cns == 3:
            ns = self.namespace(nsid)
            if not ns:
                return None
            at = 0
            for nidt, value in ((3, ns.uuid.bytes if ns.uuid else b""), (2, ns.nguid), (1, ns.eui64)):
                if any(value):
                    page[at:at + 4 + len(value)] = bytes([nidt, len(value), 0, 0]) + value
                    at += 4 + len(value)
        else:
            return None
        if self.identify_patch:
            self.identify_patch(page, cns, nsid)
        return bytes(page)

    def count(self, opc):
        with self.lock:
            self.counts[opc] = self.counts.get(opc, 0) + 1

    def cut_now(self, _connection):
        return self.cut_every and self.random.random() < 1.0 / self.cut_every

    def fault_due(self, opc):
        with self.lock:
            fault = self.fault
            if not fault or fault.done or (fault.opc is not None and fault.opc != opc):
                return None
            fault.at -= 1
            if fault.at > 0:
                return None
            self.fault = None
            return fault

    def status_due(self, opc):
        with self.lock:
            left = self.statuses.get(opc)
            return left[0] if left else None

    def pop_status(self, opc):
        with self.lock:
            return self.statuses[opc].pop(0)

    # ---- called by tests ----

    def holding(self, connection, run):
        with self.lock:
            if not self.hold_io:
                return False
            connection.held.append(run)
            return True

    def hold(self):
        """I/O commands are taken and not answered until release()."""
        with self.lock:
            self.hold_io = True

    def release(self):
        with self.lock:
            self.hold_io = False
            todo = [(c, c.held) for c in self.connections]
            for c, _ in todo:
                c.held = []
        for c, held in todo:
            try:
                for run in held:
                    run()
            except (_Gone, _Violation):
                c.close()

    def held(self):
        with self.lock:
            return sum(len(c.held) for c in self.connections)

    def namespaces_changed(self, *nsids):
        """Tells every controller that asked for it."""
        with self.lock:
            controllers = list(self.controllers.values())
            for ctrl in controllers:
                ctrl.changed.update(nsids)
                ctrl.event_due = True
        for ctrl in controllers:
            ctrl.send_events()

    def resize(self, nsid, blocks):
        with self.lock:
            for ns in self.namespaces:
                if ns.nsid == nsid:
                    ns.resize(blocks)
        self.namespaces_changed(nsid)

    def io_count(self):
        with self.lock:
            return sum(self.counts.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--addr", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4420)
    parser.add_argument("--nqn", default="nqn.2024-01.io.opensnap:peer")
    parser.add_argument("--namespaces", type=int, default=1)
    parser.add_argument("--mib", type=int, default=64, help="of each namespace")
    parser.add_argument("--block-bytes", type=int, default=512)
    parser.add_argument("--uuid", help="of the first namespace")
    for flag in ("hdgst", "ddgst", "cut-with-rst"):
        parser.add_argument("--" + flag, action="store_true")
    parser.add_argument("--success", choices=("always", "never", "auto"), default="auto", help="C2H SUCCESS flag")
    for name, default in (("inline-bytes", 8192), ("maxh2c", 131072), ("cpda", 0), ("r2t-bytes", 0), ("c2h-bytes", 0),
                          ("mdts", 5), ("queues", 64), ("mqes", 127), ("pad", 0), ("dribble", 0), ("cut-every", 0)):
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--fault", help="NAME[:AT], one of " + ", ".join(FAULTS_READ + FAULTS_WRITE + FAULTS_ANY))
    args = parser.parse_args()
    blocks = (args.mib << 20) // args.block_bytes
    spaces = [PeerNamespace(i + 1, blocks, args.block_bytes,
                            uuid_module.UUID(args.uuid) if args.uuid and i == 0 else None) for i in range(args.namespaces)]
    fault = None
    if args.fault:
        name, _, at = args.fault.partition(":")
        fault = Fault(name, int(at or 1))
    peer = NvmeTcpPeer(spaces, args.nqn, args.port, args.addr, args.hdgst, args.ddgst, args.inline_bytes, args.maxh2c,
                       args.cpda, {"always": True, "never": False, "auto": None}[args.success], args.r2t_bytes,
                       args.c2h_bytes, args.mdts, queues=args.queues, mqes=args.mqes, pad=args.pad,
                       dribble=args.dribble, cut_every=args.cut_every, cut_with_rst=args.cut_with_rst, fault=fault)
    peer.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"PORT {peer.port}", flush=True)
    try:
        while os.read(0, 4096):
            pass
    except KeyboardInterrupt:
        pass
    for v in peer.violations:
        print(f"violation: {v}", file=sys.stderr)
    peer.stop()
    return 1 if peer.violations else 0


if __name__ == "__main__":
    sys.exit(main())
