# SPDX-License-Identifier: BSD-3-Clause
"""Properties, Identify, features, log pages, events."""
import struct

import pytest
from disks import BLOCKS
from nvme_tcp_host import ABORT, AER, CAP, CC, CC_ENABLE, CSTS, FABRICS, KEEP_ALIVE, PROPERTY_GET, VS, Host

INVALID_OPCODE, INVALID_FIELD, INVALID_NS, SEQUENCE, SGL_LENGTH, LOG_PAGE = 0x01, 0x02, 0x0B, 0x0C, 0x0F, 0x109
ABORTED_SQ, ABORT_REQUESTED, AER_LIMIT = 0x08, 0x07, 0x105
NS_NOTICE, ANA_NOTICE = 0x040002, 0x0C0302


def u16(page, at):
    return struct.unpack_from("<H", page, at)[0]


def u32(page, at):
    return struct.unpack_from("<I", page, at)[0]


def u64(page, at):
    return struct.unpack_from("<Q", page, at)[0]


# ---- properties ----

def test_properties(connect):
    q = connect(enable=False).admin
    cap = q.property_get(CAP, wide=True)[1]
    assert cap & 0xFFFF == 127 and cap >> 16 & 1 and cap >> 37 & 1 and not cap >> 48 & 0xF
    assert q.property_get(VS)[1] == 0x20000
    assert q.property_get(CC)[1] == 0 and q.property_get(CSTS)[1] == 0
    assert q.property_set(CC, CC_ENABLE).status == 0
    assert q.property_get(CC)[1] == CC_ENABLE and q.property_get(CSTS)[1] == 1
    assert q.property_set(CC, CC_ENABLE | 1 << 14).status == 0
    assert q.property_get(CSTS)[1] == 1 | 2 << 2        # shut down


@pytest.mark.parametrize("offset, wide", [(CAP, False), (VS, True), (CC, True), (CSTS, True), (0x04, False), (0x0C, False),
                                          (0x20, False), (0x24, False), (0x28, True), (0x1000, False), (0xFFFFFFFC, False), (1, False)])
def test_properties_that_are_not_there(admin, offset, wide):
    reply, _ = admin.property_get(offset, wide)
    assert reply.status == INVALID_FIELD and reply.dnr
    assert admin.property_set(offset, 0, int(wide)).status == INVALID_FIELD or (offset, wide) == (CC, False)


def test_read_only_properties(admin):
    for offset in (CAP, VS, CSTS):
        assert admin.property_set(offset, 1).status == INVALID_FIELD
    admin.works(0)


@pytest.mark.parametrize("cc", [1, CC_ENABLE | 1 << 4, CC_ENABLE | 1 << 7, CC_ENABLE | 1 << 11, 5 << 20 | 6 << 16 | 1])
def test_settings_that_do_not_work(connect, cc):
    q = connect(enable=False).admin
    assert q.property_set(CC, cc).status == 0
    assert q.property_get(CSTS)[1] == 2        # CFS
    assert q.identify(1).status == SEQUENCE


def test_no_admin_commands_before_enable(connect):
    q = connect(enable=False).admin
    for opc in (0x02, 0x06, 0x09, 0x0A, AER, KEEP_ALIVE, ABORT):
        assert q.command(opc, cdw10=1, length=0).status == SEQUENCE
    assert q.property_get(CSTS)[0].status == 0


def test_disable_ends_events_and_all_queues(target, connect):
    host = connect(io_queues=2)
    event = host.admin.start(AER)
    assert host.admin.property_set(CC, 0).status == 0
    assert host.admin.wait(event).status == ABORTED_SQ
    assert all(q.end() is None for q in host.io)
    target.settles(lambda: host.admin.property_get(CSTS)[1] == 0)
    host.enable()
    host.io.clear()
    host.add_queue(1).works()


# ---- Identify ----

def test_identify_controller(target, host):
    page = host.admin.identify(1).data
    assert u16(page, 78) == host.cntlid and u32(page, 80) == 0x20000 and page[111] == 1
    assert page[4:24] == b"0" * 20 and page[24:64].rstrip() == b"OpenSNAP NVMe Target"
    assert 4096 << page[77] == 131072
    assert u32(page, 516) == 32 and u16(page, 320) == 10    # NN, KAS
    assert page[259] == 3 and page[258] == 3                # AERL, ACL
    assert page[512:514] == b"\x66\x44"
    assert u32(page, 536) & 1 and u32(page, 536) >> 20 & 1  # SGLS
    assert page[768:1024].rstrip(b"\0").decode() == target.nqn("disk")
    assert (u32(page, 1792), u32(page, 1796)) == ((64 + 4096) // 16, 1)
    assert u16(page, 1800) == 0 and page[1803] == 1         # ICDOFF, MSDBD


def test_identify_namespace(target, subsystem, connect):
    nqn = subsystem(ana_reporting=True)
    q = connect(nqn).admin
    page = q.identify(0, 1).data
    assert (u64(page, 0), u64(page, 8)) == (BLOCKS, BLOCKS)
    assert page[26] & 0xF == 0 and page[128 + 2] == 9 and page[30] & 1     # FLBAS, LBADS, NMIC
    assert u32(page, 92) == 1                               # ANAGRPID
    descriptors = q.identify(3, 1).data
    uuid = target.get(nqn)["namespaces"][0]["uuid"]
    assert descriptors[:2] == b"\x03\x10" and descriptors[4:20].hex() == uuid.replace("-", "")
    assert q.identify(8, 1).data[4:8] == b"\1\0\0\0"       # independent of the command set


def test_identify_lists(target, subsystem, connect):
    nqn = subsystem(max_namespaces=200)
    for nsid in (7, 3, 200):
        target.rpc("bdev_null_create", name=f"L{nsid}", block_size=512, num_blocks=64)
        target.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": f"L{nsid}", "nsid": nsid})
    q = connect(nqn).admin

    def listed(after, cns=2):
        return [x for x in struct.unpack("<1024I", q.identify(cns, after).data) if x]

    assert listed(0) == [1, 3, 7, 200] == listed(0, 7)
    assert listed(3) == [7, 200] and listed(200) == [] and listed(0xFFFFFFFD) == []
    for after in (0xFFFFFFFE, 0xFFFFFFFF):
        assert q.identify(2, after).status == INVALID_NS
    target.rpc("nvmf_delete_subsystem", nqn=nqn)
    for nsid in (7, 3, 200):
        target.rpc("bdev_null_delete", name=f"L{nsid}")


def test_identify_what_is_not_there(admin):
    assert not any(admin.identify(0, 2).data)
    for nsid in (0, 33, 0xFFFFFFFE):
        assert admin.identify(0, nsid).status == INVALID_NS
    for cns in (4, 9, 0x10, 0x11, 0x12, 0x14, 0x15, 0x20, 0xFF):
        assert admin.identify(cns, 1).status == INVALID_FIELD
    for cns in (5, 6, 7):
        assert admin.identify(cns, 1, csi=2).status == INVALID_FIELD
    assert admin.identify(1, length=0).status == SGL_LENGTH


@pytest.mark.parametrize("length", [4, 16, 4092, 4096, 8192, 8196, 131072])
def test_identify_of_other_lengths(admin, length):
    """The page and zeroes: nothing that was in memory before."""
    page = admin.identify(1).data
    assert admin.identify(1, length=length).data == page[:length].ljust(length, b"\0")


# ---- features ----

def test_features(connect):
    q = connect().admin
    assert q.set_feature(7, 3 | 7 << 16).dw0 == 3 | 3 << 16 == q.get_feature(7).dw0
    assert q.set_feature(7, 0xFFFE | 0xFFFE << 16).dw0 == 126 | 126 << 16
    assert q.set_feature(7, 0xFFFF).status == INVALID_FIELD
    assert q.set_feature(0x0F, 12345).status == 0 and q.get_feature(0x0F).dw0 == 12345
    assert q.set_feature(0x0B, 0x100).status == 0 and q.get_feature(0x0B).dw0 == 0x100
    assert q.get_feature(6).dw0 == 1 and q.set_feature(6, 1).status == 0 and q.set_feature(6, 0).status == 0x10E
    assert len(q.get_feature(0x16, length=512).data) == 512
    for fid in (0, 3, 8, 0x0C, 0x0D, 0x78, 0x80, 0xC0, 0xFF):
        assert q.get_feature(fid).status == INVALID_FIELD and q.set_feature(fid, 1).status == INVALID_FIELD
    for select in (1, 2, 3, 7):
        assert q.get_feature(7, select=select).status == INVALID_FIELD
    assert q.command(0x09, cdw10=7 | 1 << 31).status == 0x10D


@pytest.mark.parametrize("fid", [1, 2, 4, 5, 6, 7, 0x0A, 0x0B, 0x0F])
@pytest.mark.parametrize("length", [4, 8192, 8196, 131072])
def test_features_without_data_send_none(admin, neighbour, fid, length):
    """However much room the SGL has."""
    reply = admin.get_feature(fid, length=length)
    assert reply.status == 0 and not reply.data and not reply.success


# ---- log pages ----

def test_log_pages(admin):
    for lid in (1, 2, 3, 4, 5):
        page = admin.log_page(lid, 4096).data
        assert len(page) == 4096
        assert b"".join(admin.log_page(lid, 4, offset=at).data for at in range(0, 64, 4)) == page[:64]
    assert admin.log_page(2, 512).data[3] == 100            # spare
    for lid in (0, 6, 7, 0x0C, 0x0D, 0x70, 0x80, 0xC0, 0xFF):
        assert admin.log_page(lid, 512).status == LOG_PAGE
    for offset in (1, 3, 513):
        assert admin.log_page(2, 512, offset=offset).status == INVALID_FIELD
    for offset in (516, 1 << 32, 1 << 63, (1 << 64) - 4):
        assert admin.log_page(2, 512, offset=offset).status == INVALID_FIELD
    assert admin.log_page(2, 4, offset=512).data == bytes(4)
    for length in (0, 508, 516):
        assert admin.log_page(2, 512, length=length).status == SGL_LENGTH
    assert admin.log_page(2, 131072).status == 0
    assert admin.log_page(2, 131076).status == SGL_LENGTH


# ---- Asynchronous Event Requests ----

def test_four_events_and_no_more(admin):
    cids = [admin.start(AER) for _ in range(4)]
    for _ in range(3):
        reply = admin.command(AER)
        assert reply.status == AER_LIMIT and reply.dnr
    admin.works(0)
    for cid in reversed(cids):
        reply = admin.command(ABORT, cdw10=cid << 16)
        assert (reply.status, reply.dw0) == (0, 0)
        assert admin.wait(cid).status == ABORT_REQUESTED
    assert admin.command(ABORT, cdw10=cids[0] << 16).dw0 == 1
    admin.start(AER)
    admin.works(0)


def test_abort_of_what_is_not_there(admin):
    event = admin.start(AER)
    for cdw10 in (0xFFFF << 16, event << 16 | 1, event << 16 | 0xFFFF):
        reply = admin.command(ABORT, cdw10=cdw10)
        assert (reply.status, reply.dw0) == (0, 1)
    assert admin.command(ABORT, cdw10=event << 16).dw0 == 0


@pytest.fixture
def shared(target, subsystem, connect):
    """A controller that wants all events, and a way to change its namespaces."""
    nqn = subsystem(ana_reporting=True)
    target.rpc("bdev_null_create", name="Extra", block_size=512, num_blocks=64)
    host = connect(nqn, io_queues=1)
    host.admin.set_feature(0x0B, 0xFFFFFFFF)
    host.add = lambda nsid: target.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": "Extra", "nsid": nsid})
    host.remove = lambda nsid: target.rpc("nvmf_subsystem_remove_ns", nqn=nqn, nsid=nsid)
    yield host
    target.rpc("nvmf_delete_subsystem", nqn=nqn)
    target.rpc("bdev_null_delete", name="Extra")


def changed(q, **how):
    return [x for x in struct.unpack("<1024I", q.log_page(4, 4096, **how).data) if x]


def test_namespace_events_are_told_once_until_the_list_is_read(shared):
    q = shared.admin
    events = [q.start(AER) for _ in range(2)]
    shared.add(5)
    assert q.wait(events[0]).dw0 == NS_NOTICE
    shared.remove(5)
    shared.add(6)
    q.works(0)
    assert not q.replies, "masked"
    assert changed(q, rae=True) == [5, 6]
    q.works(0)
    assert not q.replies, "still masked: RAE"
    assert changed(q) == [5, 6]
    shared.remove(6)
    assert q.wait(events[1]).dw0 == NS_NOTICE
    assert changed(q) in ([6], [])
    assert changed(q) == []


def test_event_that_came_before_its_request(shared):
    shared.add(5)
    assert shared.admin.command(AER).dw0 == NS_NOTICE


def test_events_that_are_not_wanted(shared):
    q = shared.admin
    q.set_feature(0x0B, 0)
    event = q.start(AER)
    shared.add(5)
    q.works(0)
    assert not q.replies and changed(q) == [5]
    q.command(ABORT, cdw10=event << 16)


def test_more_changes_than_are_listed(target, shared):
    """The list has one entry that means all."""
    nqn = shared.subnqn
    target.rpc("nvmf_delete_subsystem", nqn=nqn)
    target.rpc("nvmf_create_subsystem", nqn=nqn, allow_any_host=True, max_namespaces=100)
    target.listen(nqn, target.port)
    with Host(target.port, nqn) as host:
        q = host.admin
        for nsid in range(1, 71):
            shared.add(nsid)
            shared.remove(nsid)
        assert changed(q) == [0xFFFFFFFF]
        shared.add(3)
        assert changed(q) == [3]
        shared.remove(3)


# ---- the wrong queue ----

def test_admin_commands_on_io_queues(io, neighbour):
    for opc in (0x06, 0x0A, AER, KEEP_ALIVE):
        assert io.command(opc, 1, cdw10=1, length=4096).status == INVALID_OPCODE
    assert io.command(FABRICS, PROPERTY_GET, body=bytes(24)).status == INVALID_OPCODE
    assert io.property_set(CC, 0).status == INVALID_OPCODE
    io.works()


def test_io_commands_on_the_admin_queue(admin, neighbour):
    for opc in (0x00, 0x01, 0x04, 0x05, 0x0D, 0x10, 0x11, 0x80, 0x81, 0x82, 0x84, 0xC0, 0xFF):
        assert admin.command(opc, 1, cdw12=0).status == INVALID_OPCODE, hex(opc)
    assert admin.write(0, bytes(512)).status == INVALID_OPCODE
    admin.works(0)


def test_unknown_fabrics_commands(admin):
    for fctype in set(range(256)) - {0, 1, 4}:
        reply = admin.command(FABRICS, fctype, body=bytes(24))
        assert reply.status == INVALID_OPCODE and reply.dnr, hex(fctype)


def test_admin_commands_with_flags(admin):
    for flags in (0x41, 0x42, 0x43, 0x00, 0x80, 0xC0):
        assert admin.command(KEEP_ALIVE, flags=flags).status == INVALID_FIELD
    admin.works(0)
