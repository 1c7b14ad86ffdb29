# SPDX-License-Identifier: BSD-3-Clause
"""The exchange of ICReq and ICResp, and what was agreed there."""
import os

import pytest
from nvme_tcp_host import SQFLOW_OFF, Host, Queue

DIGESTS = [(False, False), (True, False), (False, True), (True, True)]


def use(host):
    """Data in capsules, by R2T, and back."""
    q = host.io[0]
    for n in (1, 8, 9, 256):
        data = os.urandom(512 * n)
        assert q.write(n, data).status == 0
        assert q.read(n, n).data == data
    assert len(host.admin.identify(1).data) == 4096


@pytest.mark.parametrize("hdgst, ddgst", DIGESTS)
def test_digests_are_those_that_were_asked_for(connect, hdgst, ddgst):
    host = connect(io_queues=1, hdgst=hdgst, ddgst=ddgst)
    assert (host.io[0].hdgst, host.io[0].ddgst) == (hdgst, ddgst)
    use(host)


@pytest.mark.parametrize("hpda", range(32))
def test_data_are_aligned_as_the_host_wants_it(connect, hpda):
    """Queue.recv_pdu() checks place and padding."""
    host = connect(io_queues=1, hpda=hpda, hdgst=bool(hpda & 1), ddgst=bool(hpda & 2))
    data = os.urandom(4096)
    assert host.io[0].write(8, data).status == 0
    assert host.io[0].read(8, 8).data == data
    assert host.io[0].read(8, 1).data == data[:512]


def test_each_queue_agrees_for_itself(connect):
    host = connect()
    host.admin.set_feature(7, 3 | 3 << 16)
    for qid, (hdgst, ddgst) in enumerate(DIGESTS, 1):
        q = host.add_queue(qid, hdgst=hdgst, ddgst=ddgst, hpda=qid)
        q.works()


def test_more_padding_than_needed_is_taken(io):
    data = os.urandom(512)
    for pad in (4, 8, 100):
        assert io.write(3, data, pad=pad).status == 0
        assert io.read(3).data == data


@pytest.mark.parametrize("maxr2t", [0, 1, 0xFFFFFFFF])
def test_any_number_of_r2ts_is_fine(target, maxr2t):
    with Queue(target.port, begin=False) as q:
        q.begin(maxr2t=maxr2t)
        assert q.maxh2c == 131072


def test_success_instead_of_a_response_only_without_flow_control(connect):
    on, off = connect(io_queues=1), connect(io_queues=1, sqflow=False)
    assert not on.io[0].read(0).success
    assert off.io[0].read(0).success
    assert not off.io[0].write(0, bytes(512)).success       # no data, no flag
    assert not off.io[0].read(1 << 40).success


def test_success_can_be_forbidden(own_target):
    t = own_target(c2h_success=False)
    with Host(t.port, t.nqn("disk"), io_queues=1, sqflow=False) as host:
        assert not host.io[0].read(0).success


def test_head_of_the_queue_is_told_with_flow_control(connect):
    q = connect(io_queues=1, depth=5).io[0]
    heads = [q.write(0, bytes(512)).sqhd for _ in range(12)]
    assert heads == [(i + 1) % 5 for i in range(12)]


def test_agreement_to_no_flow_control_is_told(target, connect):
    """Base 2.0, 3.3.2.5: SQHD FFFFh in the response to Connect."""
    host = connect()
    assert host.connected.sqhd != 0xFFFF
    host.admin.set_feature(7, 0)
    with Queue(target.port) as q:
        assert host.connect_queue(q, 1, cattr=SQFLOW_OFF).sqhd == 0xFFFF
    assert connect(sqflow=False).connected.sqhd == 0xFFFF
