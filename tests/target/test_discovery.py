# SPDX-License-Identifier: BSD-3-Clause
"""The discovery subsystem: what a host is shown."""
import struct
from collections import namedtuple

import pytest
from nvme_tcp_host import AER, DISCOVERY_NQN, GET_LOG, Host, Queue

LID = 0x70
Entry = namedtuple("Entry", "trtype adrfam subtype treq portid cntlid asqsz trsvcid subnqn traddr")


def text(data, stop):
    return data.split(stop)[0].decode()


def entry(page):
    trtype, adrfam, subtype, treq, portid, cntlid, asqsz = struct.unpack_from("<BBBBHHH", page)
    return Entry(trtype, adrfam, subtype, treq, portid, cntlid, asqsz, text(page[32:64], b" "), text(page[256:512], b"\0"),
                 text(page[512:768], b" "))


def genctr(q):
    return struct.unpack_from("<Q", q.log_page(LID, 1024, rae=True).data)[0]


def log(q):
    """genctr and entries, read as hosts do."""
    counter, n, recfmt = struct.unpack_from("<QQH", q.log_page(LID, 1024).data)
    assert recfmt == 0
    whole = q.log_page(LID, 1024 * (n + 1)).data
    assert struct.unpack_from("<QQ", whole) == (counter, n)
    return counter, [entry(whole[1024 * (i + 1):1024 * (i + 2)]) for i in range(n)]


def of(q, nqn):
    return [e for e in log(q)[1] if e.subnqn == nqn]


@pytest.fixture
def discovery(target):
    with Host(target.port, DISCOVERY_NQN, kato=20000) as h:
        yield h


def test_entries(target, discovery):
    (e,) = of(discovery.admin, target.nqn("disk"))
    assert (e.trtype, e.adrfam, e.subtype, e.traddr, e.trsvcid) == (3, 1, 2, "127.0.0.1", str(target.port))
    assert e.cntlid == 0xFFFF and e.asqsz >= 32 and e.portid > 0
    assert e.treq & 4, "flow control can be disabled"


def test_ipv6(target, subsystem):
    nqn = subsystem()
    address = {"trtype": "TCP", "adrfam": "IPv6", "traddr": "::1", "trsvcid": "0"}
    target.rpc("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address)
    (address,) = [a for a in target.get(nqn)["listen_addresses"] if a["adrfam"] == "IPv6"]
    port = int(address["trsvcid"])
    with Host(port, DISCOVERY_NQN, addr="::1") as h:
        (e,) = [e for e in of(h.admin, nqn) if e.adrfam == 2]
        assert (e.trtype, e.traddr, e.trsvcid) == (3, "::1", str(port))
    with Host(port, nqn, io_queues=1, addr="::1") as h:
        assert h.io[0].write(0, b"6" * 8192).status == 0 and h.io[0].read(0, 16).data == b"6" * 8192


def test_one_entry_a_listener(target, subsystem, discovery):
    nqn = subsystem()
    port = target.listen(nqn)
    entries = of(discovery.admin, nqn)
    assert sorted(e.trsvcid for e in entries) == sorted(map(str, (target.port, port)))
    assert entries[0].portid != entries[1].portid
    with Host(port, DISCOVERY_NQN) as other:        # the same at every port
        assert len(of(other.admin, nqn)) == 2


def test_in_pieces_at_offsets(discovery, target, subsystem):
    for _ in range(3):
        subsystem()
    q = discovery.admin
    n = len(log(q)[1])
    whole = q.log_page(LID, 1024 * (n + 1)).data
    for piece in (4, 512, 1000, 2048):
        got = b"".join(q.log_page(LID, piece, offset=at).data for at in range(0, 2048, piece))
        assert got[:2048] == whole[:2048]
    assert q.log_page(LID, 4096, offset=1024 * n).data == whole[1024 * n:] + bytes(3072)
    assert q.log_page(LID, 4, offset=len(whole)).data == bytes(4)
    for offset in (len(whole) + 4, 1 << 40, (1 << 64) - 4):
        assert q.log_page(LID, 4, offset=offset).status == 2
    assert q.log_page(LID, 4, offset=2).status == 2


def test_a_host_sees_what_it_may_connect_to(target, subsystem):
    nqn, hostnqn = subsystem(allow_any_host=False), "nqn.2024-01.io.opensnap:friend"
    with Host(target.port, DISCOVERY_NQN) as stranger, Host(target.port, DISCOVERY_NQN, hostnqn=hostnqn) as friend:
        before = genctr(friend.admin)
        assert not of(friend.admin, nqn) and not of(stranger.admin, nqn)
        target.rpc("nvmf_subsystem_add_host", nqn=nqn, host=hostnqn)
        assert of(friend.admin, nqn) and not of(stranger.admin, nqn)
        assert genctr(friend.admin) > before
        target.rpc("nvmf_subsystem_allow_any_host", nqn=nqn, allow_any_host=True)
        assert of(stranger.admin, nqn)
        target.rpc("nvmf_subsystem_allow_any_host", nqn=nqn, allow_any_host=False)
        target.rpc("nvmf_subsystem_remove_host", nqn=nqn, host=hostnqn)
        assert not of(friend.admin, nqn) and not of(stranger.admin, nqn)


def test_each_change_is_counted_and_told(target, subsystem, discovery):
    q = discovery.admin
    assert q.set_feature(0x0B, 1 << 31).status == 0

    def changed(change):
        event = q.start(AER)
        log(q)
        before = genctr(q)
        result = change()
        reply = q.wait(event)
        assert (reply.status, reply.dw0) == (0, 0x70F002)
        assert genctr(q) > before
        return result

    log(q)
    nqn = changed(subsystem)
    port = changed(lambda: target.listen(nqn))
    changed(lambda: target.rpc("nvmf_subsystem_remove_listener", nqn=nqn, listen_address=target.address(port)))
    changed(lambda: target.rpc("nvmf_subsystem_add_host", nqn=nqn, host="nqn.2024-01.io.opensnap:x"))
    changed(lambda: target.rpc("nvmf_subsystem_remove_host", nqn=nqn, host="nqn.2024-01.io.opensnap:x"))
    changed(lambda: target.rpc("nvmf_delete_subsystem", nqn=nqn))
    assert not of(q, nqn)


def test_it_is_a_discovery_controller(discovery):
    page = discovery.admin.identify(1).data
    assert page[111] == 2 and page[768:1024].rstrip(b"\0").decode() == DISCOVERY_NQN
    assert struct.unpack_from("<I", page, 516)[0] == 0      # NN
    assert struct.unpack_from("<I", page, 92)[0] == 1 << 31     # OAES


def test_it_has_no_namespaces_and_no_io_queues(target, discovery):
    q = discovery.admin
    for cns in (0, 2, 3, 5, 6, 7, 8, 0xFF):
        assert q.identify(cns, 1).status == 2
    for lid in (2, 3, 4, 5, 0x0C):
        assert q.log_page(lid, 512).status == 0x109
    assert q.set_feature(7, 0).status == 2 and q.get_feature(7).status == 2
    for qid in (1, 0xFFFF):
        with Queue(target.port) as io:
            assert discovery.connect_queue(io, qid).status == 0x182


def test_lengths_that_lie(connect, neighbour):
    q = connect(DISCOVERY_NQN).admin
    for how in ({"length": 512}, {"length": 2048}, {"length": 0}, {"sgl": (0, 0xFFFFFFFF, 0x5A)}):
        assert q.log_page(LID, 1024, **how).status == 0x0F
    assert q.command(GET_LOG, cdw10=LID | 0xFFFF << 16, cdw11=0xFFFF, length=4096).status == 0x0F
    assert q.log_page(LID, 1024).status == 0
