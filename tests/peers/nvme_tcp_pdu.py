# SPDX-License-Identifier: BSD-3-Clause
"""NVMe/TCP PDUs as bytes, for both sides. Each field of one that is built can lie.

    build(RESP, header, hdgst=True)                     # a good one
    build(H2C_DATA, header, data, plen=0xFFFFFFFF)      # a bad one
    head(received).plen"""

import struct
from collections import namedtuple

from nvme_tcp_wire import C2H_TERM, F_DDGST, F_HDGST, H2C_TERM, IC_REQ, IC_RESP, crc32c

CommonHeader = namedtuple("CommonHeader", "type flags hlen pdo plen")


def head(data):
    return CommonHeader(*struct.unpack_from("<BBBBI", data))


def padded(n, align):
    return (n + align - 1) // align * align


def build(pdu_type, header, data=b"", flags=0, hdgst=False, ddgst=False, align=4, pad=0, spoil=None, hdgst_xor=0, ddgst_xor=0,
          **lies):
    """header: what follows the common header. pad: bytes of padding beyond what align asks for. flags: besides those of
    the digests. lies: type, all_flags, hlen, pdo and plen as they are to be told; digests are right nevertheless, but for
    hdgst_xor and ddgst_xor. spoil(head) may change the header before its digest is made."""
    hlen = 8 + len(header)
    before = hlen + (4 if hdgst else 0)
    pdo = 0
    if data:
        before = pdo = padded(before, align) + pad
    plen = before + len(data) + (4 if data and ddgst else 0)
    if hdgst:
        flags |= F_HDGST
    if data and ddgst:
        flags |= F_DDGST
    told = {"type": pdu_type, "all_flags": flags, "hlen": hlen, "pdo": pdo, "plen": plen}
    assert set(lies) <= set(told), lies
    told.update(lies)
    out = bytearray(struct.pack("<BBBBI", *told.values()) + header)
    if spoil:
        spoil(out)
    if hdgst:
        out += struct.pack("<I", crc32c(out) ^ hdgst_xor)
    out += bytes(before - len(out)) + bytes(data)
    if data and ddgst:
        out += struct.pack("<I", crc32c(data) ^ ddgst_xor)
    return bytes(out)


def ic_req(pfv=0, hpda=0, dgst=0, maxr2t=0, **lies):
    return build(IC_REQ, struct.pack("<HBBI", pfv, hpda, dgst, maxr2t).ljust(120, b"\0"), **lies)


def ic_resp(pfv=0, cpda=0, dgst=0, maxh2c=4096, **lies):
    return build(IC_RESP, struct.pack("<HBBI", pfv, cpda, dgst, maxh2c).ljust(120, b"\0"), **lies)


def term_req(from_host, fes, fei=0, offending=b"", **lies):
    """A TermReq has no PDO; what follows its header is the beginning of the offending PDU."""
    lies.setdefault("plen", 24 + len(offending))
    return build(H2C_TERM if from_host else C2H_TERM, struct.pack("<HI", fes, fei).ljust(16, b"\0"), **lies) + offending


def data_header(cid, ttag, offset, length):
    """Of H2CData, C2HData and R2T."""
    return struct.pack("<HHIII", cid, ttag, offset, length, 0)
