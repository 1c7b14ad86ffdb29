# SPDX-License-Identifier: BSD-3-Clause
"""One connection of the peer: PDUs, Fabrics, admin and I/O commands. It checks what the host sends: see violations."""

import itertools
import socket
import struct
import threading
import time

from nvme_tcp_faults import misbehave
from nvme_tcp_pdu import build, data_header, ic_resp, term_req
from nvme_tcp_wire import (C2H_DATA, CMD, DNR, F_DDGST, F_HDGST, F_LAST, F_SUCCESS, H2C_DATA, H2C_TERM, HLEN, IC_REQ, R2T,
                           RESP, SC_INVALID_FIELD, SC_INVALID_NS, SC_INVALID_OPCODE, SC_LBA_RANGE, Gone,
                           Violation, crc32c)


class Connection:
    def __init__(self, peer, sock, number, path=0):
        self.peer, self.sock, self.number, self.path = peer, sock, number, path
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
                raise Gone from None
            if k == 0:
                raise Gone
            got += k
        return bytes(buf)

    def send_raw(self, data):
        with self.lock:
            try:
                self.sock.sendall(data)
            except OSError:
                raise Gone from None

    def send(self, pdu_type, header, data=b"", flags=0, spoil=None):
        """header: what follows the common header. spoil(head) may change it before the digest."""
        out = build(pdu_type, header, data, flags, self.hdgst, self.ddgst, pad=self.peer.pad if data else 0, spoil=spoil,
                    hdgst_xor=int(self.hdgst and self.take_fault("bad_hdgst")),
                    ddgst_xor=int(bool(data) and self.ddgst and self.take_fault("bad_ddgst")))
        if self.peer.dribble:
            for i in range(0, len(out), self.peer.dribble):
                self.send_raw(out[i:i + self.peer.dribble])
        else:
            self.send_raw(out)

    def take_fault(self, name):
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
            raise Violation(f"PDU type {pdu_type}")
        if hlen != HLEN[pdu_type]:
            raise Violation(f"HLEN {hlen} of PDU type {pdu_type}")
        head = ch + self.recv(hlen - 8)
        before = hlen
        digests = pdu_type in (CMD, H2C_DATA)
        if digests and bool(flags & F_HDGST) != self.hdgst:
            raise Violation("HDGST flag")
        if digests and self.hdgst:
            if struct.unpack("<I", self.recv(4))[0] != crc32c(head):
                raise Violation("header digest", 3)
            before += 4
        if pdu_type == H2C_TERM:
            fes = struct.unpack_from("<H", head, 8)[0]
            self.recv(plen - hlen)
            self.peer.term_reqs.append(fes)
            raise Gone
        data = b""
        if plen != before:
            if pdo < before or pdo % ((self.peer.cpda + 1) * 4):
                raise Violation(f"PDO {pdo} with CPDA {self.peer.cpda}")
            if pdo != (before + (self.peer.cpda + 1) * 4 - 1) // ((self.peer.cpda + 1) * 4) * ((self.peer.cpda + 1) * 4):
                raise Violation(f"PDO {pdo} is padded more than asked for")
            if any(self.recv(pdo - before)):
                raise Violation("padding is not zero")
            n = plen - pdo - (4 if self.ddgst else 0)
            if n <= 0 or n > max(self.peer.maxh2c, 8192, self.peer.inline_bytes):
                raise Violation(f"{n} bytes of data")
            if bool(flags & F_DDGST) != self.ddgst:
                raise Violation("DDGST flag")
            data = self.recv(n)
            if self.ddgst and struct.unpack("<I", self.recv(4))[0] != crc32c(data):
                self.peer.ddgst_errors += 1
                raise Gone
        return pdu_type, flags, head, data

    def ic(self):
        ch = self.recv(8)
        if struct.unpack("<BBBBI", ch) != (IC_REQ, 0, 128, 0, 128):
            raise Violation("not an ICReq")
        body = self.recv(120)
        pfv, hpda, dgst, maxr2t = struct.unpack_from("<HBBI", body)
        if pfv or hpda or maxr2t:
            raise Violation(f"ICReq: PFV {pfv}, HPDA {hpda}, MAXR2T {maxr2t}")
        if self.peer.silent_ic:
            self.recv(1)
        grant = dgst & ((1 if self.peer.hdgst else 0) | (2 if self.peer.ddgst else 0))
        if self.peer.grant_unasked:
            grant = 3
        self.send_raw(ic_resp(self.peer.pfv, self.peer.cpda, grant, self.peer.maxh2c))
        self.hdgst, self.ddgst = bool(grant & 1), bool(grant & 2)

    def serve(self):
        try:
            self.ic()
            while True:
                pdu_type, flags, head, data = self.recv_pdu()
                self.pdus += 1
                if self.qid and self.peer.cut_now(self):
                    self.reset() if self.peer.cut_with_rst else self.close()
                    raise Gone
                if pdu_type == CMD:
                    self.command(head[8:72], data)
                elif pdu_type == H2C_DATA:
                    self.h2c_data(flags, head, data)
                else:
                    raise Violation(f"PDU type {pdu_type} out of order")
        except Violation as v:
            self.peer.violations.append(f"connection {self.number} qid {self.qid}: {v}")
            try:
                self.send_raw(term_req(False, v.fes))
            except Gone:
                pass
        except Gone:
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
            raise Violation(f"CID {cid:#x} is in use")
        if flags != 0x40:
            raise Violation(f"command flags {flags:#x}")
        self.outstanding[cid] = opc
        if self.sqsize and len(self.outstanding) > self.sqsize:
            raise Violation(f"{len(self.outstanding)} commands in a queue of {self.sqsize + 1} entries")
        sgl_addr, sgl_len, sgl_type = struct.unpack_from("<QI3xB", sqe, 24)
        if data:
            if sgl_type != 0x01 or sgl_addr != 0 or sgl_len != len(data):
                raise Violation(f"SGL {sgl_type:#x} {sgl_addr} {sgl_len} for {len(data)} bytes in the capsule")
            limit = 8192 if opc == 0x7F or not self.qid else self.peer.inline_bytes
            if len(data) > limit:
                raise Violation(f"{len(data)} bytes in the capsule, {limit} allowed")
        elif sgl_type != 0x5A:
            raise Violation(f"SGL type {sgl_type:#x} without data in the capsule")
        if opc == 0x7F:
            self.fabrics(sqe, cid, data)
        elif self.qid is None:
            raise Violation("a command before Connect")
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
            self.send(C2H_DATA, data_header(cid, 0, off, len(part)), part, flags)
        if not success:
            self.respond(cid)

    def fabrics(self, sqe, cid, data):
        fctype = sqe[4]
        if fctype == 1:
            recfmt, qid, sqsize, cattr, kato = struct.unpack_from("<HHHBxI", sqe, 40)
            if len(data) != 1024:
                raise Violation(f"Connect with {len(data)} bytes")
            hostid, cntlid = data[:16], struct.unpack_from("<H", data, 16)[0]
            subnqn = data[256:512].rstrip(b"\0").decode()
            hostnqn = data[512:768].rstrip(b"\0").decode()
            self.peer.connect(self, cid, qid, sqsize, cattr, kato, hostid, cntlid, subnqn, hostnqn)
            return
        if self.qid is None:
            raise Violation("a Fabrics command before Connect")
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
        cdw10, cdw11, offset = struct.unpack_from("<IIQ", sqe, 40)
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
                raise Violation(f"Get Log Page of {n} bytes with an SGL of {length}")
            self.send_data(cid, self.log_page(cdw10 & 0xFF, cdw10 >> 8 & 0xF, offset)[:n].ljust(n, b"\0"))
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

    def log_page(self, lid, lsp, offset):
        if lid == 0x0C:
            if lsp != 1:
                raise Violation("the ANA log with namespaces")
            return self.peer.ana_log(self.path)[offset:]
        if lid == 0x70:
            return self.peer.discovery_log()[offset:]
        with self.peer.lock:
            changed, self.ctrl.changed = sorted(self.ctrl.changed), set()
        return b"".join(struct.pack("<I", x) for x in changed) if lid == 4 else b""

    # ---- I/O ----

    def io(self, sqe, cid, opc, length, data):
        peer = self.peer
        if peer.holding(self, lambda: self.io(sqe, cid, opc, length, data)):
            return
        peer.count(opc)
        with peer.lock:
            peer.path_counts[self.path] = peer.path_counts.get(self.path, 0) + 1
        status = peer.ana_status(self.path, struct.unpack_from("<I", sqe, 4)[0])
        if status:
            self.respond(cid, status)
            return
        if opc & 3 == 1 and not data:      # from the host, and not in the capsule
            # One R2T at a time, as long as data are missing.
            state = {"cid": cid, "sqe": sqe, "len": length, "data": bytearray(), "ttag": next(self.ttags) & 0xFFFF}
            fault = peer.fault_due(opc)
            if fault and misbehave(self, fault, cid, opc, length, sqe):
                return
            if peer.status_due(opc) is not None:
                self.respond(cid, peer.pop_status(opc))
                return
            self.writes[state["ttag"]] = state
            self.ask(state)
            return
        fault = peer.fault_due(opc)
        if fault and misbehave(self, fault, cid, opc, length, sqe):
            return
        if peer.status_due(opc) is not None:
            self.respond(cid, peer.pop_status(opc))
            return
        self.execute(sqe, cid, opc, length, data)

    def ask(self, state):
        off = len(state["data"])
        n = min(state["len"] - off, self.peer.r2t_bytes or state["len"])
        state["off"], state["end"] = off, off + n
        self.send(R2T, data_header(state["cid"], state["ttag"], off, n))

    def h2c_data(self, flags, head, data):
        cid, ttag, off, n = struct.unpack_from("<HHII", head, 8)
        state = self.writes.get(ttag)
        if not state or state["cid"] != cid:
            raise Violation(f"H2CData for CID {cid:#x}, TTAG {ttag}")
        if n != len(data) or n > self.peer.maxh2c:
            raise Violation(f"H2CData of {n} bytes, {len(data)} carried, MAXH2CDATA {self.peer.maxh2c}")
        if off != len(state["data"]) or off + n > state["end"]:
            raise Violation(f"H2CData {off}+{n}, expected {len(state['data'])} of {state['end']}")
        last = off + n == state["end"]
        if bool(flags & F_LAST) != last or flags & F_SUCCESS:
            raise Violation(f"H2CData flags {flags:#x}")
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
                raise Violation(f"DSM: {count + 1} ranges in {len(data)} bytes")
            ranges = [struct.unpack_from("<IIQ", data, 16 * i) for i in range(count + 1)]
            self.store(cid, opc, ns, [(lba * ns.block_bytes, bytes(blocks * ns.block_bytes)) for _, blocks, lba in ranges])
            return
        if opc not in (0x01, 0x02, 0x08):
            self.respond(cid, SC_INVALID_OPCODE | DNR)
            return
        if peer.mdts and n > 4096 << peer.mdts:
            raise Violation(f"a transfer of {n} bytes is above MDTS")
        if slba + nlb > ns.blocks:
            self.respond(cid, SC_LBA_RANGE | DNR)
            return
        if opc == 0x08:
            self.store(cid, opc, ns, [(first, bytes(n))])
        elif opc == 0x01:
            if len(data) != n or length != n:
                raise Violation(f"write of {n} bytes with {len(data)} bytes of data, SGL {length}")
            if cdw12 & (1 << 30):
                peer.fua += 1
            self.store(cid, opc, ns, [(first, bytes(data))])
        else:
            if length != n:
                raise Violation(f"read of {n} bytes with an SGL of {length}")
            with peer.lock:
                out = bytes(ns.data[first:first + n])
            self.send_data(cid, out)

    def store(self, cid, opc, ns, pieces):
        """What changes blocks: now, and answered; or late, and never."""
        with self.peer.lock:
            if self.peer.catches(self, opc, ns, pieces):
                return
            for at, data in pieces:
                ns.data[at:at + len(data)] = data
            self.peer.stored.append((opc, pieces[0][0] // ns.block_bytes, time.monotonic()))
        self.respond(cid)

    def dead(self):
        try:
            return self.sock.fileno() < 0
        except OSError:
            return True
