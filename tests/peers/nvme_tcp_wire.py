# SPDX-License-Identifier: BSD-3-Clause
"""NVMe/TCP on the wire: constants, CRC32C, and how a connection of the peer ends."""

import ctypes
import ctypes.util

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


class Gone(Exception):
    pass


class Violation(Exception):
    def __init__(self, text, fes=1):
        super().__init__(text)
        self.fes = fes
