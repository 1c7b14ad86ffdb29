# SPDX-License-Identifier: BSD-3-Clause
"""Connect: who gets a queue, and what is said to the others."""
import struct

import pytest
from nvme_tcp_host import CONNECT, DISCOVERY_NQN, FABRICS, IDENTIFY, READ, SGL_TRANSPORT, VS, Host, Queue

HOSTID = bytes(range(16))
HOSTNQN = "nqn.2024-01.io.opensnap:a-host"
FORMAT, BUSY, PARAM, INVALID_HOST = 0x180, 0x181, 0x182, 0x184
SEQUENCE, SGL_LENGTH, SGL_TYPE = 0x0C, 0x0F, 0x11


def in_command(offset):
    return offset


def in_data(offset):
    return 1 << 16 | offset


def data_of(subnqn, hostnqn=HOSTNQN, hostid=HOSTID, cntlid=0xFFFF):
    return hostid + struct.pack("<H238x", cntlid) + subnqn.ljust(256, b"\0") + hostnqn.encode().ljust(256, b"\0") + bytes(256)


@pytest.fixture
def fresh(target, neighbour):
    with Queue(target.port) as q:
        yield q


def test_the_target_chooses_the_controller(connect):
    ids = {connect().cntlid for _ in range(5)}
    assert len(ids) == 5 and all(1 <= i <= 0xFFEF for i in ids)


@pytest.mark.parametrize("how, status, dw0", [
    ({"recfmt": 1}, FORMAT, None),
    ({"sqsize": 0}, PARAM, in_command(44)),
    ({"sqsize": 128}, PARAM, in_command(44)),
    ({"sqsize": 0xFFFF}, PARAM, in_command(44)),
    ({"cntlid": 1}, PARAM, in_data(16)),
    ({"cntlid": 0xFFFE}, PARAM, in_data(16)),
    ({"subnqn": "nqn.2024-01.io.opensnap:other"}, PARAM, in_data(256)),
    ({"subnqn": ""}, PARAM, in_data(256)),
    ({"hostnqn": ""}, PARAM, in_data(512)),
    ({"subnqn": "x" * 256}, PARAM, in_data(256)),
    ({"hostnqn": "x" * 256}, PARAM, in_data(512)),
    ({"qid": 1, "cntlid": 0xFFFF}, PARAM, in_data(16)),
    ({"qid": 1, "cntlid": 0xFFEF}, PARAM, in_data(16)),
    ({"qid": 1, "cntlid": 0}, PARAM, in_data(16)),
    ({"qid": 1, "subnqn": DISCOVERY_NQN}, PARAM, in_data(16)),
    ({"data": bytes(1024)}, PARAM, in_data(256)),
    ({"data": bytes(1023)}, SGL_LENGTH, None),
    ({"data": bytes(512)}, SGL_LENGTH, None),
    ({"data": b"", "length": 0}, SGL_LENGTH, None),
    ({"inline": False}, SGL_TYPE, None),
    ({"sgl": (0, 1020, 1)}, SGL_LENGTH, None),
    ({"sgl": (0, 4096, 1)}, SGL_LENGTH, None),
    ({"sgl": (0, 0xFFFFFFFF, 1)}, SGL_LENGTH, None),
    ({"sgl": (16, 1024, 1)}, 0x16, None),
    ({"sgl": (0, 1024, 0)}, SGL_TYPE, None),
    ({"sgl": (0, 1024, SGL_TRANSPORT)}, SGL_LENGTH, None),
    ({"flags": 0x00}, 0x02, None),
    ({"flags": 0xC0}, 0x02, None),
])
def test_wrong_parameters_are_named_and_it_may_try_again(target, fresh, neighbour, how, status, dw0):
    how = {"subnqn": target.nqn("disk"), "hostnqn": HOSTNQN, "hostid": HOSTID, **how}
    for _ in range(2):
        reply = fresh.connect(**how)
        assert reply.status == status and reply.dnr, reply
        assert dw0 is None or reply.dw0 == dw0, hex(reply.dw0)
    how = {"subnqn": target.nqn("disk"), "hostnqn": HOSTNQN, "hostid": HOSTID}
    assert fresh.connect(**how).status == 0
    assert fresh.property_get(VS)[0].status == 0


def test_names_may_have_223_bytes_and_no_more(target, fresh):
    longest = "nqn.2024-01.io.opensnap:".ljust(223, "h")
    assert fresh.connect(target.nqn("disk"), longest + "h", HOSTID).status == PARAM
    assert fresh.connect(target.nqn("disk"), longest, HOSTID).status == 0


def test_a_name_with_a_nul_inside_ends_there(target, fresh):
    name = target.nqn("disk").encode()
    assert fresh.connect("", "", HOSTID, data=data_of(name + b"\0garbage")).status == 0


@pytest.mark.parametrize("first", [{"opc": IDENTIFY, "cdw10": 1, "length": 4096}, {"opc": READ, "nsid": 1, "length": 512},
                                   {"opc": FABRICS, "nsid": 4}, {"opc": 0xFF}, {"opc": 0}, {"opc": FABRICS, "nsid": 0xFF}])
def test_nothing_before_connect(target, fresh, first):
    reply = fresh.command(**first)
    assert reply.status in (SEQUENCE, 0x01), reply
    assert not reply.data
    assert fresh.connect(target.nqn("disk"), HOSTNQN, HOSTID).status == 0


def test_not_twice(host):
    for q in (host.admin, host.io[0]):
        assert host.connect_queue(q, 1).status == SEQUENCE
        assert q.connect(host.subnqn, host.hostnqn, host.hostid).status == SEQUENCE
    host.io[0].works()
    host.admin.works(0)


def test_io_queue_of_another_hosts_controller_is_refused(target, connect, neighbour):
    victim = connect(io_queues=1)
    victim.admin.set_feature(7, 7 | 7 << 16)
    for hostnqn, hostid in ((victim.hostnqn, HOSTID), (HOSTNQN, victim.hostid), (HOSTNQN, HOSTID)):
        with Queue(target.port) as q:
            reply = q.connect(victim.subnqn, hostnqn, hostid, qid=2, cntlid=victim.cntlid)
            assert (reply.status, reply.dw0) == (PARAM, in_data(16))
    for cntlid in range(64):
        if cntlid != victim.cntlid:
            with Queue(target.port) as q:
                assert q.connect(victim.subnqn, victim.hostnqn, victim.hostid, qid=2, cntlid=cntlid).status == PARAM
    victim.io[0].works()


def test_io_queue_of_a_controller_of_another_subsystem_is_refused(target, subsystem, connect):
    host = connect(subsystem(), io_queues=1)
    with Queue(target.port) as q:
        assert q.connect(target.nqn("disk"), host.hostnqn, host.hostid, qid=1, cntlid=host.cntlid).status == PARAM


def test_io_queue_at_another_port_is_refused(target, subsystem, connect):
    nqn = subsystem()
    other = target.listen(nqn)
    host = connect(nqn)
    with Queue(other) as q:
        assert host.connect_queue(q, 1).status == PARAM


def test_queue_numbers_are_those_that_were_granted(target, connect):
    host = connect()
    assert host.admin.set_feature(7, 1 | 1 << 16).dw0 == 1 | 1 << 16
    for qid in (3, 127, 0xFFFF):
        with Queue(target.port) as q:
            reply = host.connect_queue(q, qid)
            assert (reply.status, reply.dw0) == (PARAM, in_command(42))
    host.add_queue(2)
    with Queue(target.port) as q:
        reply = host.connect_queue(q, 2)
        assert (reply.status, reply.dw0) == (PARAM, in_command(42))
        assert host.connect_queue(q, 1).status == 0      # the same connection, as another queue
        q.works()
    host.io[0].works()


def test_no_io_queue_before_the_controller_is_enabled(target, connect):
    host = connect(enable=False)
    with Queue(target.port) as q:
        assert host.connect_queue(q, 1).status == PARAM
        host.enable()
        assert host.connect_queue(q, 1).status == 0
        q.works()


def test_a_queue_number_is_free_again_when_its_connection_is_gone(target, connect):
    host = connect(io_queues=1)
    host.io.pop().close()
    target.settles(lambda: [c for c in target.controllers(host.subnqn) if c["cntlid"] == host.cntlid and c["num_io_qpairs"] == 0])
    host.add_queue(1).works()


def test_the_end_of_the_admin_queue_ends_all_queues(target, connect, neighbour):
    host = connect(io_queues=3)
    host.admin.close()
    for q in host.io:
        assert q.end() is None
    target.settles(lambda: host.cntlid not in [c["cntlid"] for c in target.controllers(host.subnqn)])


def test_controller_ids_run_out(target, subsystem):
    nqn = subsystem(min_cntlid=5, max_cntlid=7)
    hosts = [Host(target.port, nqn) for _ in range(3)]
    try:
        assert sorted(h.cntlid for h in hosts) == [5, 6, 7]
        with Queue(target.port) as q:
            assert q.connect(nqn, HOSTNQN, HOSTID).status == BUSY
            hosts.pop().close()
            target.settles(lambda: q.connect(nqn, HOSTNQN, HOSTID).status == 0)
    finally:
        for h in hosts:
            h.close()


@pytest.mark.parametrize("depth", [2, 3, 128])
def test_queues_of_all_sizes(connect, depth):
    q = connect(io_queues=1, depth=depth).io[0]
    for _ in range(3):
        cids = [q.start_read(0) for _ in range(depth - 1)]
        assert all(q.wait(cid).status == 0 for cid in cids)


def test_connect_data_with_a_wrong_digest_fails_alone(target):
    with Queue(target.port, ddgst=True) as q:
        for _ in range(3):
            reply = q.connect(target.nqn("disk"), HOSTNQN, HOSTID, ddgst_xor=1)
            assert (reply.status, reply.dnr) == (0x22, False)
        assert q.connect(target.nqn("disk"), HOSTNQN, HOSTID).status == 0
        assert q.property_get(VS)[0].status == 0


def test_refused_again_and_again_in_one_write(target, neighbour):
    """A host that does not wait for the answer breaks the sequence; nothing else happens."""
    with Queue(target.port) as q:
        bad = q.built(4, struct.pack("<BBHI", FABRICS, 0x40, 1, CONNECT).ljust(64, b"\0"))
        q.send_raw(bad * 200)
        term = q.end()
        assert term is None or term.fes == 2
