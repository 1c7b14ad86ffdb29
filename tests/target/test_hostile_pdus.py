# SPDX-License-Identifier: BSD-3-Clause
"""Hosts whose PDUs lie: the connection ends with a TermReq that says why (E1, E5), and nobody else notices."""
import os
import struct

import pytest
from nvme_tcp_host import Ended, Queue
from nvme_tcp_pdu import build, data_header, ic_req, ic_resp, term_req
from nvme_tcp_wire import C2H_DATA, C2H_TERM, CMD, F_LAST, F_SUCCESS, H2C_DATA, H2C_TERM, IC_REQ, IC_RESP, R2T, RESP

pytestmark = pytest.mark.usefixtures("neighbour")

HEADER_FIELD, SEQUENCE, HDGST, OUT_OF_RANGE, LIMIT, UNSUPPORTED = 1, 2, 3, 4, 5, 6
TYPE, FLAGS, HLEN, PDO, PLEN = 0, 1, 2, 3, 4    # FEI: the field's place in the header
CONTROLLER_PDUS = [IC_RESP, C2H_TERM, RESP, C2H_DATA, R2T]


def sqe(opc=0x18, cid=7, flags=0x40, length=0, sgl_type=0x5A):
    return struct.pack("<BBHI16xQI3xB24x", opc, flags, cid, 1, 0, length, sgl_type)


def ends(q, fes, fei=None, pdu=b""):
    """With this TermReq, which carries the beginning of the PDU."""
    term = q.end()
    assert term is not None, "no TermReq"
    assert term.fes == fes and (fei is None or term.fei == fei), term
    assert pdu.startswith(term.header[:8]) if pdu else True, term


# ---- before the IC exchange ----

@pytest.fixture
def raw(target):
    with Queue(target.port, begin=False) as q:
        yield q


@pytest.mark.parametrize("pdu, fes, fei", [
    (ic_req(pfv=1), UNSUPPORTED, 8), (ic_req(pfv=0xFFFF), UNSUPPORTED, 8), (ic_req(hpda=32), HEADER_FIELD, 10),
    (ic_req(hpda=255), HEADER_FIELD, 10), (ic_req(dgst=4), UNSUPPORTED, 11), (ic_req(dgst=0xFF), UNSUPPORTED, 11),
    (ic_req(hlen=127), HEADER_FIELD, HLEN), (ic_req(hlen=0), HEADER_FIELD, HLEN), (ic_req(hlen=255), HEADER_FIELD, HLEN),
    (ic_req(plen=127), HEADER_FIELD, PLEN), (ic_req(plen=0), HEADER_FIELD, PLEN), (ic_req(plen=8), HEADER_FIELD, PLEN),
    (ic_req(plen=129), HEADER_FIELD, PLEN), (ic_req(plen=0xFFFFFFFF), HEADER_FIELD, PLEN),
    (ic_req(all_flags=1), HEADER_FIELD, FLAGS), (ic_req(all_flags=0xFF), HEADER_FIELD, FLAGS),
    (build(CMD, sqe()), SEQUENCE, TYPE), (build(H2C_DATA, data_header(1, 0, 0, 4), b"abcd", F_LAST), SEQUENCE, TYPE),
    *((ic_req(type=t), HEADER_FIELD, TYPE) for t in (*CONTROLLER_PDUS, 8, 10, 0x7F, 0xFF)),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", HEADER_FIELD, TYPE), (b"\xFF" * 128, HEADER_FIELD, TYPE),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01", HEADER_FIELD, TYPE),      # TLS, E11
])
def test_bad_beginnings(raw, pdu, fes, fei):
    raw.send_raw(pdu)
    ends(raw, fes, fei, pdu)


def test_a_bad_header_is_refused_before_the_rest_comes(raw):
    raw.send_raw(ic_req(plen=0xFFFFFFFF)[:8])
    ends(raw, HEADER_FIELD, PLEN)


def test_term_req_before_the_exchange(raw):
    raw.send_raw(term_req(True, 1))
    assert raw.end() is None


def test_commands_behind_icreq_without_waiting(target):
    """The answer to ICReq is not waited for: neither is anything lost."""
    with Queue(target.port, begin=False) as q:
        connect = build(CMD, sqe(0x7F, 1, length=1024, sgl_type=1)[:4] + b"\1" + sqe(0x7F, 1, length=1024, sgl_type=1)[5:], bytes(1024))
        q.send_raw(ic_req() + connect)
        assert q.recv_pdu().type == IC_RESP
        assert q.wait(1).status == 0x182


# ---- an I/O queue, with and without digests ----

@pytest.fixture(params=["plain", "digests"])
def queue(request, connect):
    both = request.param == "digests"
    q = connect(io_queues=1, hdgst=both, ddgst=both).io[0]
    q.works()
    return q


@pytest.mark.parametrize("pdu_type", [*CONTROLLER_PDUS, 8, 10, 11, 0x20, 0x80, 0xFF])
def test_pdu_types_a_host_does_not_send(queue, pdu_type):
    pdu = queue.built(CMD, sqe(), type=pdu_type)
    queue.send_raw(pdu)
    ends(queue, HEADER_FIELD, TYPE, pdu)


def test_second_icreq(queue):
    queue.send_raw(ic_req())
    ends(queue, SEQUENCE, TYPE)


def test_icresp_of_a_host(queue):
    queue.send_raw(ic_resp())
    ends(queue, HEADER_FIELD, TYPE)


@pytest.mark.parametrize("hlen", [0, 8, 24, 71, 73, 128, 255])
def test_header_lengths_of_commands(queue, hlen):
    queue.send(CMD, sqe(), hlen=hlen)
    ends(queue, HEADER_FIELD, HLEN)


@pytest.mark.parametrize("plen", [0, 1, 8, 71, 24])
def test_commands_shorter_than_their_header(queue, plen):
    queue.send(CMD, sqe(), plen=plen)
    ends(queue, HEADER_FIELD, PLEN)


@pytest.mark.parametrize("plen", [1 << 20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_huge_commands(queue, plen):
    queue.send(CMD, sqe(0x01, length=512, sgl_type=1), bytes(512), plen=plen)
    ends(queue, LIMIT, PLEN)


@pytest.mark.parametrize("plen", [1 << 20, 0x7FFFFFFF, 0xFFFFFFFF])
def test_huge_data(queue, plen):
    queue.send(H2C_DATA, data_header(1, 0, 0, 512), bytes(512), F_LAST, plen=plen)
    ends(queue, LIMIT, PLEN)


@pytest.mark.parametrize("pdo", [0, 8, 24, 71, 73, 74, 75, 255])
def test_data_offsets_of_commands(queue, pdo):
    queue.send(CMD, sqe(0x01, length=512, sgl_type=1), bytes(512), pdo=pdo)
    ends(queue, HEADER_FIELD, PDO)


@pytest.mark.parametrize("pdo", [0, 4, 23, 25, 27, 30, 255])
def test_data_offsets_of_data(queue, pdo):
    queue.send(H2C_DATA, data_header(1, 0, 0, 512), bytes(512), F_LAST, pdo=pdo)
    ends(queue, HEADER_FIELD, PDO)


@pytest.mark.parametrize("hlen", [0, 23, 25, 72, 255])
def test_header_lengths_of_data(queue, hlen):
    queue.send(H2C_DATA, data_header(1, 0, 0, 512), bytes(512), F_LAST, hlen=hlen)
    ends(queue, HEADER_FIELD, HLEN)


def test_data_without_data(queue):
    queue.send(H2C_DATA, data_header(1, 0, 0, 0), flags=F_LAST)
    assert queue.end().fes == HEADER_FIELD


@pytest.mark.parametrize("flags", [0x04, 0x08, 0x10, 0x80, 0xFC])
def test_reserved_flags_of_commands(queue, flags):
    queue.send(CMD, sqe(), flags=flags)
    ends(queue, HEADER_FIELD, FLAGS)


@pytest.mark.parametrize("flags", [F_SUCCESS, F_SUCCESS | F_LAST, 0x10, 0xF0])
def test_reserved_flags_of_data(queue, flags):
    queue.send(H2C_DATA, data_header(1, 0, 0, 512), bytes(512), flags)
    ends(queue, HEADER_FIELD, FLAGS)


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_digest_flags_are_those_agreed(queue, flags):
    agreed = queue.hdgst | queue.ddgst << 1
    queue.send(CMD, sqe(0x01, length=512, sgl_type=1), bytes(512), all_flags=flags)
    if flags == agreed:
        assert queue.wait(7).status == 0
    else:
        ends(queue, HEADER_FIELD, FLAGS)


@pytest.mark.parametrize("length, extra", [(0, b""), (128, bytes(range(128, 256)))])
def test_term_req_ends_it_silently(queue, length, extra):
    queue.send_raw(term_req(True, 1, offending=extra))
    assert queue.end() is None


@pytest.mark.parametrize("lies", [{"plen": 153}, {"plen": 0xFFFFFFFF}, {"plen": 8}, {"hlen": 8}, {"all_flags": 1}, {"hlen": 152}])
def test_bad_term_reqs(queue, lies):
    queue.send_raw(term_req(True, 1, **lies))
    assert queue.end().fes == HEADER_FIELD


def test_bad_pdu_behind_good_ones(queue):
    """What came before it has its answer or not; nothing hangs."""
    cids = [queue.start_read(i, 8) for i in range(8)]
    queue.send(CMD, sqe(), type=0x55)
    assert queue.end().fes == HEADER_FIELD
    assert set(queue.replies) <= set(cids)


# ---- digests ----

def test_header_digest_error_ends_the_connection(connect):
    q = connect(io_queues=1, hdgst=True).io[0]
    before = os.urandom(512)
    q.write(0, before)
    q.start_write(0, bytes(512), hdgst_xor=0x80000000)
    term = q.end()
    assert term.fes == HDGST
    assert connect(io_queues=1).io[0].read(0).data == before, "nothing parsed any more"


def test_header_digest_error_of_data(connect):
    q = connect(io_queues=1, hdgst=True).io[0]
    q.answer_r2t = False
    q.start_write(0, bytes(8192))
    q.h2c(q.wait_asked(), 0, bytes(8192), True, hdgst_xor=1)
    ends(q, HDGST)


@pytest.mark.parametrize("hdgst", [False, True])
def test_data_digest_error_fails_the_command_alone(connect, hdgst):
    """Transport 1.0, 3.3.1.1: transient transport error, the connection goes on."""
    q = connect(io_queues=1, hdgst=hdgst, ddgst=True).io[0]
    before = os.urandom(8192)
    q.write(0, before)
    for _ in range(3):
        reply = q.write(0, bytes(4096), ddgst_xor=1)
        assert (reply.status, reply.dnr) == (0x22, False)
    q.answer_r2t = False
    for bad in range(4):        # any of the pieces
        cid = q.start_write(0, bytes(8192), inline=False)
        ask = q.wait_asked()
        for i in range(4):
            q.h2c(ask, 2048 * i, bytes(2048), i == 3, ddgst_xor=int(i == bad))
        reply = q.wait(cid)
        assert (reply.status, reply.dnr) == (0x22, False)
    assert q.read(0, 16).data == before
    assert q.dsm([(0, 1)], ddgst_xor=1).status == 0x22


def test_digest_errors_of_many_commands_at_once(connect):
    q = connect(io_queues=1, ddgst=True).io[0]
    cids = [q.start_write(i, bytes(512), ddgst_xor=i & 1) for i in range(30)]
    assert [q.wait(cid).status for cid in cids] == [0, 0x22] * 15


# ---- admin queue ----

def test_bad_pdu_on_the_admin_queue_ends_the_controller(target, connect):
    host, other = connect(io_queues=2), connect(io_queues=1)
    host.admin.send(CMD, sqe(), type=9)
    ends(host.admin, HEADER_FIELD, TYPE)
    for q in host.io:
        assert q.end() is None
    other.io[0].works()


def test_bad_pdu_on_one_io_queue_leaves_the_others(connect):
    host = connect(io_queues=3)
    host.io[1].send(CMD, sqe(), hlen=1)
    ends(host.io[1], HEADER_FIELD, HLEN)
    for q in (host.io[0], host.io[2]):
        q.works()
    host.admin.works(0)


def test_too_much_in_an_admin_capsule(connect):
    q = connect().admin
    q.send(CMD, sqe(0x81, length=8192, sgl_type=1), bytes(8192))
    assert q.wait(7).status == 1
    q.send(CMD, sqe(0x81, length=8196, sgl_type=1), bytes(8196))
    ends(q, LIMIT, PLEN)


def test_too_much_before_connect(target):
    with Queue(target.port) as q:
        q.send(CMD, sqe(0x7F, length=8192, sgl_type=1), bytes(8192))
        assert q.end().fes == LIMIT


def test_refused_icreq_is_raised(target):
    """Of Queue itself: a test that forgets about a TermReq does not hang."""
    with Queue(target.port, begin=False) as q, pytest.raises(Ended) as e:
        q.begin(pfv=2)
    assert e.value.term.fes == UNSUPPORTED
    assert IC_REQ == 0 and H2C_TERM == 2
