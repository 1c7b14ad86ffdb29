# SPDX-License-Identifier: BSD-3-Clause
"""Good targets of every kind: what is written is what is read."""
import uuid

import pytest
from nvme_tcp_peer import PeerNamespace

MODES = {
    "plain": {},
    "hdgst": {"hdgst": True},
    "ddgst": {"ddgst": True},
    "both-digests": {"hdgst": True, "ddgst": True},
    "success-flag": {"success": True},
    "success-flag-ddgst": {"success": True, "hdgst": True, "ddgst": True},
    "no-inline": {"inline_bytes": 0},
    "inline-16k": {"inline_bytes": 16384},
    "small-h2c": {"maxh2c": 4096, "inline_bytes": 0},
    "small-h2c-digests": {"maxh2c": 4096, "inline_bytes": 512, "hdgst": True, "ddgst": True},
    "several-r2t": {"r2t_bytes": 12288, "maxh2c": 8192, "inline_bytes": 4096},
    "several-r2t-digests": {"r2t_bytes": 10752, "maxh2c": 4096, "hdgst": True, "ddgst": True, "inline_bytes": 1024},
    "split-c2h": {"c2h_bytes": 1536},
    "split-c2h-ddgst-success": {"c2h_bytes": 7680, "ddgst": True, "success": True},
    "cpda-31": {"cpda": 31, "hdgst": True, "ddgst": True, "r2t_bytes": 8192},
    "padded-c2h": {"pad": 64, "ddgst": True},
    "mdts-8k": {"mdts": 1},
    "mdts-4k-digests": {"mdts": 0, "hdgst": True, "ddgst": True},
    "mdts-8k-digests-success": {"mdts": 1, "hdgst": True, "ddgst": True, "success": True},
    "queue-of-two": {"mqes": 1},
    "dribble": {"dribble": 7, "hdgst": True, "ddgst": True, "c2h_bytes": 4096},
}


@pytest.mark.parametrize("mode", MODES)
def test_data_come_back_as_written(make_peer, drive, mode):
    options = MODES[mode]
    peer = make_peer(**options)
    slow = mode == "dribble"
    d = drive(peer, hdgst=options.get("hdgst"), ddgst=options.get("ddgst"), seconds=1, depth=16,
              max_kib=8 if slow else 256, range_kib=64 if slow else 4096, ops="rwWfzu")
    got = d.finish()
    assert peer.violations == []
    assert peer.ddgst_errors == 0
    assert got["verified"] > 100 and got["errors"] == 0


def test_digests_that_the_target_does_not_grant_are_not_used(make_peer, drive):
    peer = make_peer()
    drive(peer, hdgst=True, ddgst=True, seconds=1).finish()
    assert peer.violations == []


def test_no_sq_flow_control_is_asked_for_on_demand(make_peer, drive):
    peer = make_peer(ddgst=True)
    drive(peer, no_sqflow=True, ddgst=True, seconds=1).finish()
    assert peer.violations == []


def test_blocks_of_4096_bytes_several_namespaces_and_reactors(make_peer, drive):
    spaces = [PeerNamespace(1, 4096, 4096), PeerNamespace(7, 65536, 512), PeerNamespace(9, 2048, 4096, uuid=False)]
    peer = make_peer(namespaces=spaces)
    d = drive(peer, seconds=2, reactors=2, depth=8)
    names = [d.expect("attached").split()[1:4] for _ in spaces]
    assert names == [["Peer0n1", "4096", "4096"], ["Peer0n7", "65536", "512"], ["Peer0n9", "2048", "4096"]]
    d.finish()
    assert peer.violations == []
    # One connection per reactor, shared by the namespaces; one for admin.
    assert peer.accepted == 3


def test_the_bdev_has_the_uuid_of_the_namespace_or_a_stable_one(make_peer, drive):
    own = uuid.UUID("11112222-3333-4444-5555-666677778888")
    nguid = bytes(range(16))
    spaces = [PeerNamespace(1, 2048, uuid=own), PeerNamespace(2, 2048, uuid=False, nguid=nguid),
              PeerNamespace(3, 2048, uuid=False), PeerNamespace(4, 2048, uuid=False)]
    peer = make_peer(namespaces=spaces)
    seen = []
    for _ in range(2):
        d = drive(peer, seconds=0)
        seen.append([d.expect("attached").split()[4] for _ in spaces])
        d.finish()
    assert seen[0] == seen[1]
    assert seen[0][0] == str(own)
    assert seen[0][1] == str(uuid.UUID(bytes=nguid))
    assert len(set(seen[0])) == 4


def test_what_the_target_cannot_do_is_done_otherwise_or_not_offered(make_peer, drive):
    peer = make_peer(oncs=0, vwc=False)
    d = drive(peer, seconds=1, ops="rwzf")
    line = d.expect("attached")
    assert "cache=0" in line and "unmap=0" in line
    d.finish()
    assert 0x08 not in peer.counts and 0x00 not in peer.counts and 0x09 not in peer.counts
    assert peer.violations == []


def test_fua_reaches_the_target(make_peer, drive):
    peer = make_peer()
    drive(peer, seconds=1, ops="rW").finish()
    assert peer.fua > 10 and peer.fua >= peer.counts[1]


def test_detached_and_canceled_requests(make_peer, drive):
    """Detached writes go on from a copy, detached reads leave memory alone, canceled ones end; nothing is lost."""
    for options in ({}, {"hdgst": True, "ddgst": True, "maxh2c": 4096, "inline_bytes": 0, "c2h_bytes": 2048}):
        peer = make_peer(**options)
        got = drive(peer, hdgst=options.get("hdgst"), ddgst=options.get("ddgst"), seconds=2, depth=64, ops="rwfzu",
                    detach=40, cancel=20).finish()
        assert got["detached"] > 50 and got["canceled"] > 20
        assert peer.violations == []
        # A digest made of data that were changed meanwhile would show here: detaching copies before that.
        assert peer.ddgst_errors == 0


def test_ipv6_and_host_names(make_peer, drive):
    peer = make_peer(addr="::1")
    d = drive(peer, addr="::1", seconds=1)
    d.expect("ready")
    assert "IPv6" in d.state()
    d.finish()
    peer = make_peer()
    drive(peer, addr="localhost", adrfam="ipv4", seconds=1).finish()
