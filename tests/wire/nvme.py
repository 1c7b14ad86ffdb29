# SPDX-License-Identifier: BSD-3-Clause
"""A small NVMe driver on top of vfio_user.py, for tests that want every step in their own hands."""
import os
import struct
import time

from vfio_user import MSIX, Memory, Timeout, VfioUser, eventfd

CAP, VS, INTMS, INTMC, CC, CSTS, NSSR, AQA, ASQ, ACQ = 0, 8, 0xc, 0x10, 0x14, 0x1c, 0x20, 0x24, 0x28, 0x30
DOORBELLS = 0x1000
CC_ENABLE = 1 | 6 << 16 | 4 << 20
RDY, CFS = 1, 2

# opcodes
DELETE_SQ, CREATE_SQ, GET_LOG_PAGE, DELETE_CQ, CREATE_CQ, IDENTIFY, ABORT = 0, 1, 2, 4, 5, 6, 8
SET_FEATURES, GET_FEATURES, ASYNC_EVENT, DOORBELL_BUFFER = 9, 0xa, 0xc, 0x7c
FLUSH, WRITE, READ, WRITE_ZEROES, DSM = 0, 1, 2, 8, 9

STATUS = {
    0x000: "SUCCESS", 0x001: "INVALID_OPCODE", 0x002: "INVALID_FIELD", 0x003: "CID_CONFLICT",
    0x004: "DATA_TRANSFER_ERROR", 0x006: "INTERNAL_ERROR", 0x007: "ABORT_REQUESTED", 0x008: "ABORTED_SQ_DELETION",
    0x00b: "INVALID_NAMESPACE", 0x00c: "SEQUENCE_ERROR", 0x00d: "INVALID_SGL_SEGMENT", 0x00e: "INVALID_SGL_COUNT",
    0x00f: "SGL_DATA_LENGTH", 0x011: "SGL_TYPE", 0x013: "PRP_OFFSET", 0x016: "SGL_OFFSET", 0x080: "LBA_RANGE",
    0x100: "CQ_INVALID", 0x101: "QID_INVALID", 0x102: "QUEUE_SIZE", 0x103: "ABORT_LIMIT", 0x105: "AER_LIMIT",
    0x108: "INTERRUPT_VECTOR", 0x109: "LOG_PAGE", 0x10c: "QUEUE_DELETION", 0x10d: "FEATURE_NOT_SAVEABLE",
    0x10e: "FEATURE_NOT_CHANGEABLE", 0x10f: "FEATURE_NOT_NS_SPECIFIC",
}


class Cqe:
    def __init__(self, raw):
        self.dw0, self.dw1, self.sqhd, self.sqid, self.cid, sf = struct.unpack("<IIHHHH", raw)
        self.status_code = sf >> 1 & 0x7ff
        self.dnr = bool(sf >> 15)
        self.status = STATUS.get(self.status_code, f"{self.status_code:#05x}")

    def __repr__(self):
        return f"Cqe(cid={self.cid}, sqid={self.sqid}, sqhd={self.sqhd}, dw0={self.dw0:#x}, {self.status})"


def sqe(opc, nsid=0, prp1=0, prp2=0, cdw10=0, cdw11=0, cdw12=0, cdw13=0, cdw14=0, cdw15=0, flags=0, cid=0, mptr=0):
    return struct.pack("<BBHIIIQQQIIIIII", opc, flags, cid, nsid, 0, 0, mptr, prp1, prp2, cdw10, cdw11, cdw12, cdw13,
                       cdw14, cdw15)


class QueuePair:
    """One SQ and its CQ; qid 0 is the admin pair."""

    def __init__(self, nvme, qid, entries, vector=0):
        self.nvme, self.qid, self.entries, self.vector = nvme, qid, entries, vector
        self.sq = nvme.memory.alloc(entries * 64)
        self.cq = nvme.memory.alloc(entries * 16)
        self.clear()

    def clear(self):
        self.nvme.memory.write(self.sq, bytes(self.entries * 64))
        self.nvme.memory.write(self.cq, bytes(self.entries * 16))
        self.tail = self.head = self.sq_head = 0
        self.rung = None
        self.phase = 1
        self.next_cid = 1
        self.done = {}       # cid -> Cqe, completed and not yet taken
        self.outstanding = set()
        self.unexpected = []  # completions nobody waited for

    def push(self, command, cid=None):
        """Puts a 64-byte command into the SQ, without ringing. Returns its CID."""
        if cid is None:
            while self.next_cid in self.outstanding:
                self.next_cid = self.next_cid % 0xfff0 + 1
            cid = self.next_cid
            self.next_cid = self.next_cid % 0xfff0 + 1
        command = command[:2] + struct.pack("<H", cid) + command[4:]
        self.nvme.memory.write(self.sq + self.tail * 64, command)
        self.tail = (self.tail + 1) % self.entries
        self.outstanding.add(cid)
        return cid

    def ring(self, value=None):
        self.nvme.doorbell(2 * self.qid, self.tail if value is None else value)

    def submit(self, command, cid=None):
        cid = self.push(command, cid)
        self.ring()
        return cid

    def poll(self):
        """Takes what has been completed; rings the CQ doorbell. Returns the new completions."""
        new = []
        while True:
            raw = self.nvme.memory.read(self.cq + self.head * 16, 16)
            if (raw[14] & 1) != self.phase:
                break
            cqe = Cqe(raw)
            new.append(cqe)
            self.sq_head = cqe.sqhd
            if cqe.cid in self.outstanding:
                self.outstanding.discard(cqe.cid)
                self.done[cqe.cid] = cqe
            else:
                self.unexpected.append(cqe)
            self.head += 1
            if self.head == self.entries:
                self.head, self.phase = 0, self.phase ^ 1
        if new:
            self.nvme.doorbell(2 * self.qid + 1, self.head)
        return new

    def wait(self, cid, timeout=10.0):
        """The completion of one command; Timeout when there is none."""
        deadline = time.monotonic() + timeout
        while cid not in self.done:
            if not self.poll():
                if time.monotonic() > deadline:
                    raise Timeout(f"no completion of CID {cid} on queue {self.qid} in {timeout} s")
                time.sleep(0.0005)
        assert not self.unexpected, f"completions of commands that were not outstanding: {self.unexpected}"
        return self.done.pop(cid)

    def run(self, command, timeout=10.0):
        return self.wait(self.submit(command), timeout)


class Nvme:
    """A controller, from connect to I/O queues. start=False leaves it after connect and DMA map."""

    def __init__(self, path, memory=None, json=True, minor=0, start=True, io_queues=1, entries=64, posted=True,
                 vectors=4, vc=None):
        self.vc = vc or VfioUser(path, json=json, minor=minor)
        self.memory = memory or Memory()
        self.posted = posted
        self.vectors = [eventfd() for _ in range(vectors)]
        self.admin = None
        self.io = {}
        self.shadow = self.eventidx = None
        try:
            self.memory.attach(self.vc)
            if start:
                self.setup_pci()
                self.enable()
                for qid in range(1, io_queues + 1):
                    self.create_io(qid, entries, vector=min(qid, vectors - 1))
        except BaseException:
            self.close()
            raise

    def close(self):
        self.vc.close()
        for fd in self.vectors:
            os.close(fd)
        self.vectors = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- PCI and registers ----
    def setup_pci(self):
        self.vc.set_irqs(MSIX, 0, len(self.vectors), self.vectors)
        self.vc.set_config16(self.vc.capability(0x11) + 2, 0x8000)
        self.vc.set_config16(4, 0x406)

    def reg(self, offset):
        return self.vc.read32(0, offset)

    def reg64(self, offset):
        return struct.unpack("<Q", self.vc.region_read(0, offset, 8))[0]

    def set_reg(self, offset, value):
        self.vc.write32(0, offset, value)

    def doorbell(self, index, value):
        if self.shadow is not None and index >= 2:
            self.memory.write(self.shadow + 4 * index, struct.pack("<I", value))
        self.vc.write32(0, DOORBELLS + 4 * index, value, posted=self.posted)

    def wait_csts(self, mask, value, timeout=10.0):
        deadline = time.monotonic() + timeout
        while True:
            csts = self.reg(CSTS)
            if csts != 0xffffffff and csts & mask == value:
                return csts
            if time.monotonic() > deadline:
                raise Timeout(f"CSTS is {csts:#x}, waited for {value:#x} in {mask:#x}")
            time.sleep(0.001)

    def disable(self):
        self.set_reg(CC, 0)
        self.wait_csts(RDY, 0)
        self.shadow = self.eventidx = None
        self.io = {}

    def enable(self, entries=32):
        self.set_reg(CC, 0)
        self.wait_csts(RDY, 0)
        self.io = {}
        self.shadow = self.eventidx = None
        if self.admin is None:
            self.admin = QueuePair(self, 0, entries)
            self.page = self.memory.alloc(4096)
        self.admin.clear()
        self.set_reg(AQA, (self.admin.entries - 1) | (self.admin.entries - 1) << 16)
        for reg, value in ((ASQ, self.admin.sq), (ACQ, self.admin.cq)):
            self.set_reg(reg, value & 0xffffffff)
            self.set_reg(reg + 4, value >> 32)
        self.set_reg(CC, CC_ENABLE)
        self.wait_csts(RDY | CFS, RDY)

    # ---- admin ----
    def run_admin(self, opc, ok=True, timeout=10.0, **fields):
        cqe = self.admin.run(sqe(opc, **fields), timeout)
        if ok:
            assert cqe.status == "SUCCESS", f"admin opcode {opc:#x}: {cqe}"
        return cqe

    def identify(self, cns, nsid=0, **fields):
        self.run_admin(IDENTIFY, nsid=nsid, prp1=self.page, cdw10=cns, **fields)
        return self.memory.read(self.page, 4096)

    def create_cq(self, qid, entries, vector=0, at=None, ok=True, flags=3):
        pair = QueuePair(self, qid, max(entries, 2), vector)
        cqe = self.run_admin(CREATE_CQ, ok, prp1=pair.cq if at is None else at, cdw10=(entries - 1 & 0xffff) << 16 | qid,
                             cdw11=vector << 16 | flags)
        return cqe, pair

    def create_io(self, qid=1, entries=64, vector=1):
        pair = self.create_cq(qid, entries, vector)[1]
        self.run_admin(CREATE_SQ, prp1=pair.sq, cdw10=entries - 1 << 16 | qid, cdw11=qid << 16 | 1)
        self.io[qid] = pair
        return pair

    def shadow_doorbells(self):
        self.shadow, self.eventidx = self.memory.alloc(4096), self.memory.alloc(4096)
        self.run_admin(DOORBELL_BUFFER, prp1=self.shadow, prp2=self.eventidx)

    # ---- I/O ----
    def prps(self, iova, size):
        """PRP1 and PRP2 for a buffer; a list page when it needs one."""
        first = 4096 - iova % 4096
        if size <= first:
            return iova, 0
        pages = list(range(iova + first, iova + size, 4096))
        if len(pages) == 1:
            return iova, pages[0]
        at = self.memory.alloc(8 * len(pages), 8 * 512)
        self.memory.write(at, struct.pack(f"<{len(pages)}Q", *pages))
        return iova, at

    def rw(self, opc, lba, nblocks, iova, size=None, nsid=1, **fields):
        """The 64 bytes of a read or write."""
        prp1, prp2 = self.prps(iova, nblocks * 512 if size is None else size)
        return sqe(opc, nsid=nsid, prp1=prp1, prp2=prp2, cdw10=lba & 0xffffffff, cdw11=lba >> 32, cdw12=nblocks - 1,
                   **fields)

    def write(self, lba, data, qid=1, block=512, ok=True, timeout=10.0):
        if not hasattr(self, "buffer"):
            self.buffer = self.memory.alloc(65536)
        assert len(data) <= 65536
        self.memory.write(self.buffer, data)
        cqe = self.io[qid].run(self.rw(WRITE, lba, len(data) // block, self.buffer, len(data)), timeout)
        assert not ok or cqe.status == "SUCCESS", cqe
        return cqe

    def read(self, lba, nblocks, qid=1, block=512, timeout=10.0):
        if not hasattr(self, "buffer"):
            self.buffer = self.memory.alloc(65536)
        size = nblocks * block
        assert size <= 65536
        self.memory.write(self.buffer, b"\xa5" * size)
        cqe = self.io[qid].run(self.rw(READ, lba, nblocks, self.buffer, size), timeout)
        assert cqe.status == "SUCCESS", cqe
        return self.memory.read(self.buffer, size)


def pattern(seed, size):
    """Bytes that differ from block to block and from seed to seed."""
    return b"".join(struct.pack("<QQ", seed, i) for i in range(size // 16))
