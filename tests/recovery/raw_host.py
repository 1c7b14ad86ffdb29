# SPDX-License-Identifier: BSD-3-Clause
"""A host of NVMe/TCP down to its bytes: one connection is one queue, without digests, data in the capsule."""
import socket
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))
from nvme_tcp_wire import CMD, IC_REQ, IC_RESP, RESP  # noqa: E402

FABRICS, PROPERTY_SET, CONNECT, WRITE = 0x7f, 0x00, 0x01, 0x01
DYNAMIC = 0xffff


class Queue:
    """connect() sends Connect, answer() waits for a response: (cid, status, dword 0), or None when none comes in time."""

    def __init__(self, port, nqn, host, qid=0, cntlid=DYNAMIC, kato=0):
        """host: (HOSTID of 16 bytes, HOSTNQN)."""
        self.sock = socket.create_connection(("127.0.0.1", int(port)), timeout=10)
        self.cid, self.early = 0, b""
        self.nqn, self.host, self.qid, self.cntlid, self.kato = nqn, host, qid, cntlid, kato
        self.sock.sendall(struct.pack("<BBBBIHBBI", IC_REQ, 0, 128, 0, 128, 0, 0, 0, 0).ljust(128, b"\0"))
        assert self._read(128, 10)[0] == IC_RESP

    def close(self):
        self.sock.close()

    def _read(self, n, seconds):
        self.sock.settimeout(seconds)
        while len(self.early) < n:
            try:
                data = self.sock.recv(n - len(self.early))
            except socket.timeout:
                return None
            assert data, "the target has closed the connection"
            self.early += data
        data, self.early = self.early[:n], b""
        return data

    def send(self, opc, nsid=0, tail=b"", data=b""):
        """tail: bytes 40 and on of the command. Returns its CID."""
        self.cid += 1
        sgl = struct.pack("<QIBBBB", 0, len(data), 0, 0, 0, 0x01 if data else 0x50)
        sqe = struct.pack("<BBHI16x", opc, 0x40, self.cid, nsid) + sgl + tail.ljust(24, b"\0")
        pdo = 72 if data else 0
        self.sock.sendall(struct.pack("<BBBBI", CMD, 0, 72, pdo, 72 + len(data)) + sqe + data)
        return self.cid

    def answer(self, seconds=10):
        pdu = self._read(24, seconds)
        if pdu is None:
            return None
        assert pdu[0] == RESP, pdu
        dw0, _, _, _, cid, status = struct.unpack_from("<IIHHHH", pdu, 8)
        return cid, status >> 1, dw0

    def connect(self):
        data = self.host[0] + struct.pack("<H", self.cntlid) + bytes(238)
        data += self.nqn.encode().ljust(256, b"\0") + self.host[1].encode().ljust(256, b"\0") + bytes(256)
        self.send(FABRICS, CONNECT, struct.pack("<HHHBBI", 0, self.qid, 31, 0, 0, self.kato), data)

    def connected(self, seconds=10):
        """CNTLID, or None: no answer in time."""
        got = self.answer(seconds)
        assert got is None or got[1] == 0, got
        return got and got[2] & 0xffff

    def enable(self):
        self.send(FABRICS, PROPERTY_SET, struct.pack("<B3xIQ", 0, 0x14, 0x00460001))
        assert self.answer()[1] == 0

    def write(self, lba, data, nsid=1):
        return self.send(WRITE, nsid, struct.pack("<QI", lba, len(data) // 512 - 1), data)
