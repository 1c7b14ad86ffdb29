# SPDX-License-Identifier: BSD-3-Clause
"""What the peer can do wrong. Each fault is done once."""

import random
import struct
import time
from dataclasses import dataclass

from nvme_tcp_pdu import data_header, ic_resp, term_req
from nvme_tcp_wire import C2H_DATA, F_LAST, F_SUCCESS, R2T, RESP, Gone, Violation


FAULTS_READ = ("wrong_cccid", "c2h_beyond", "c2h_offset", "c2h_far_offset", "c2h_gap", "c2h_twice", "early_success_flag",
               "datal_lie", "success_without_last", "short_success", "dup_resp", "unknown_cid", "r2t_for_read")
FAULTS_WRITE = ("c2h_for_write", "early_success", "r2t_zero", "r2t_beyond", "r2t_offset", "r2t_twice")
FAULTS_ANY = ("cut", "rst", "term_req", "huge_plen", "bad_type", "bad_hlen", "bad_flags", "second_ic_resp", "garbage")


@dataclass
class Fault:
    """Something wrong, done once: at the at-th I/O command (of its kind) after it was set."""

    name: str
    at: int = 1
    opc: int = None     # only commands of this opcode are counted
    done: bool = False


def misbehave(c, fault, cid, opc, length, sqe):
    """True when the command has been dealt with."""
    name = fault.name
    if name in ("bad_hdgst", "bad_ddgst"):
        c.peer.armed = fault     # the next PDU sent
        return False
    fault.done = True
    part = b"\xEE" * min(length, 512)

    def c2h(cccid, off, data, flags=F_LAST):
        c.send(C2H_DATA, data_header(cccid, 0, off, len(data)), data, flags)

    if name == "cut":
        c.close()
        raise Gone
    if name == "rst":
        c.reset()
        raise Gone
    if name == "stall":             # this command is never answered
        return True
    if name == "stall_pdu":         # half a header, then nothing
        c.send_raw(bytes([RESP, 1 if c.hdgst else 0, 24]))
        while True:
            c.recv(1024)
    if name == "stop_reading":
        while not c.peer.stopping and not c.dead():
            time.sleep(0.05)
        raise Gone
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
        c.send(C2H_DATA, data_header(cid, 0, 0, len(part) + 4), part, F_LAST)
    elif name == "success_without_last":
        c2h(cid, 0, part, F_SUCCESS)
    elif name == "short_success":
        c2h(cid, 0, part[:4])
        c.respond(cid)
    elif name == "early_success":   # a write without having asked for its data
        c.respond(cid)
    elif name == "dup_resp":
        c.outstanding[cid] = opc
        c.execute(sqe, cid, opc, length, b"") if opc == 0x02 else c.respond(cid)
        c.outstanding[cid] = opc
        c.respond(cid)
    elif name == "unknown_cid":
        c.outstanding[0xFFF0] = 0
        c.respond(0xFFF0)
    elif name == "r2t_zero":
        c.send(R2T, data_header(cid, 9, 0, 0))
    elif name == "r2t_beyond":
        c.send(R2T, data_header(cid, 9, 0, length + 512))
    elif name == "r2t_offset":
        c.send(R2T, data_header(cid, 9, 512, length - 512))
    elif name == "r2t_twice":
        c.send(R2T, data_header(cid, 9, 0, length))
        c.send(R2T, data_header(cid, 10, 0, length))
    elif name == "r2t_for_read":
        c.send(R2T, data_header(cid, 9, 0, length))
    elif name == "term_req":
        c.send_raw(term_req(False, 2))
    elif name == "huge_plen":
        c.send_raw(struct.pack("<BBBBI", C2H_DATA, (1 if c.hdgst else 0) | (2 if c.ddgst else 0) | 4, 24,
                                  28 if c.hdgst else 24, 0xFFFFFFFF) + bytes(64))
    elif name == "bad_type":
        c.send_raw(struct.pack("<BBBBI", 8, 0, 24, 0, 24) + bytes(64))
    elif name == "bad_hlen":
        c.send(RESP, bytes(20))
    elif name == "bad_flags":
        c.send(RESP, struct.pack("<IIHHHH", 0, 0, 0, 1, cid, 0), flags=0x10)
    elif name == "second_ic_resp":
        c.send_raw(ic_resp())
    elif name == "garbage":
        c.send_raw(random.Random(1).randbytes(4096))
    else:
        raise AssertionError(f"no fault named {name}")
    # What the host says to it.
    try:
        while True:
            c.recv_pdu()
    except Violation:
        raise Gone from None
