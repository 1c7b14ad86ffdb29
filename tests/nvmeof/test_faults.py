# SPDX-License-Identifier: BSD-3-Clause
"""Targets that break the rules, go away, stall or lie: no error reaches the guest, no data are wrong, no memory is touched
that should not be; the association is made anew."""
import os
import re
import time

import pytest
from nvme_tcp_peer import FAULTS_ANY, FAULTS_READ, FAULTS_WRITE, Fault, PeerNamespace

FAULTS = ([(name, 2) for name in FAULTS_READ] + [(name, 1) for name in FAULTS_WRITE] +
          [(name, None) for name in FAULTS_ANY])
TERM_REQ = {  # what the host must say where the target can still hear it: FES
    "wrong_cccid": 1, "c2h_beyond": 4, "c2h_offset": 4, "c2h_far_offset": 4, "c2h_gap": 4, "c2h_twice": 4,
    "c2h_for_write": 2, "early_success_flag": 2, "datal_lie": 1, "success_without_last": 1, "short_success": 2,
    "dup_resp": 1, "unknown_cid": 1, "r2t_zero": 4, "r2t_beyond": 4, "r2t_offset": 4,
    "r2t_for_read": 2, "early_success": 2, "huge_plen": 5, "bad_type": 1, "bad_hlen": 1, "bad_flags": 1,
    "second_ic_resp": 2,
}


def wait(condition, what, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


@pytest.mark.parametrize("name,opc", FAULTS, ids=[name for name, _ in FAULTS])
def test_protocol_errors_end_the_connection_and_nothing_else(make_peer, drive, name, opc):
    peer = make_peer(inline_bytes=0)
    d = drive(peer, seconds=60, depth=4, ops="rw", max_kib=16)
    d.expect("ready")
    before = peer.accepted
    peer.fault = Fault(name, at=20, opc=opc)
    d.wait_log("connection lost")
    d.wait_log("connected, CNTLID 2")
    d.stop()
    assert peer.violations == []
    assert peer.accepted == before + 3 or peer.accepted == before + 2  # admin and one I/O queue again
    if name in TERM_REQ:
        assert peer.term_reqs == [TERM_REQ[name]]
    elif name == "r2t_twice":   # 5 while the data of the first are being sent, else they are out of range
        assert peer.term_reqs in ([4], [5])


@pytest.mark.parametrize("name", ["bad_hdgst", "bad_ddgst"])
def test_digest_errors(make_peer, drive, name):
    for success in (True, False):
        peer = make_peer(hdgst=True, ddgst=True, success=success)
        d = drive(peer, seconds=60, depth=8, ops="rw", hdgst=True, ddgst=True)
        d.expect("ready")
        peer.fault = Fault(name, at=50)
        d.wait_log("header digest error" if name == "bad_hdgst" else "data digest error")
        d.wait_log("connected, CNTLID 2")
        d.stop()
        assert peer.violations == []


@pytest.mark.parametrize("mode", ["plain", "digests", "rst", "rst-small-pdus", "two-reactors", "harassed"])
def test_connections_cut_under_load_again_and_again(make_peer, drive, mode):
    """After each cut all requests are sent again in their order: nothing is lost, nothing is stale."""
    digests = mode == "digests"
    small = {"maxh2c": 4096, "r2t_bytes": 8192, "inline_bytes": 0, "c2h_bytes": 4096} if "small" in mode else {}
    peer = make_peer(hdgst=digests, ddgst=digests, cut_every=400, cut_with_rst="rst" in mode, **small)
    harass = {"detach": 20, "cancel": 10} if mode == "harassed" else {}
    d = drive(peer, seconds=60, depth=32, ops="rwwfzW", range_kib=1024, max_kib=64, hdgst=digests, ddgst=digests,
              reactors=2 if mode == "two-reactors" else 1, **harass)
    d.expect("ready")
    wait(lambda: peer.connects >= 8, "four associations", 30)
    peer.cut_every = 0
    d.stop()
    assert peer.violations == []


def test_an_association_is_made_anew_as_a_whole(make_peer, drive):
    peer = make_peer()
    d = drive(peer, seconds=60, reactors=2)
    d.expect("ready")
    wait(lambda: peer.accepted == 3, "two I/O queues")
    peer.cut(io_only=True, rst=True)
    wait(lambda: peer.accepted == 6, "all queues again")
    d.stop()


def test_a_target_that_is_away_for_a_while(make_peer, drive):
    peer = make_peer()
    d = drive(peer, seconds=60)
    d.expect("ready")
    time.sleep(0.5)
    peer.stop()
    d.wait_log("connection lost")
    assert "resetting" in d.state()
    before = d.ops()
    time.sleep(2.5)
    assert d.ops() == before                # held, not failed
    peer.start()
    d.wait_log("connected, CNTLID 2")
    wait(lambda: d.ops() > before, "I/O goes on")
    assert "enabled" in d.state()
    d.stop()


def test_a_command_that_is_never_answered(make_peer, drive):
    peer = make_peer()
    d = drive(peer, seconds=60, io_timeout_ms=1000)
    d.expect("ready")
    peer.fault = Fault("stall", at=50)
    d.wait_log("no answer to command")
    d.wait_log("connected, CNTLID 2")
    d.stop()


@pytest.mark.parametrize("name,text", [("stall_pdu", "middle of a PDU"), ("stop_reading", "no answer|not taken any data")])
def test_a_target_that_stalls(make_peer, drive, name, text):
    peer = make_peer()
    d = drive(peer, seconds=60, timeout_ms=1000, io_timeout_ms=2000, depth=64)
    d.expect("ready")
    peer.fault = Fault(name, at=50)
    d.wait_log(text)
    d.wait_log("connected, CNTLID 2")
    d.stop()


def test_keep_alive(make_peer, drive):
    peer = make_peer()
    d = drive(peer, seconds=60, keep_alive_ms=1000)
    d.expect("ready")
    time.sleep(1.5)
    ctrl = next(iter(peer.controllers.values()))
    assert ctrl.kato == 1000 and ctrl.keep_alives >= 2
    peer.drop_keep_alive = True
    d.wait_log("keep-alive not answered")
    peer.drop_keep_alive = False
    d.wait_log("connected, CNTLID 2")
    d.stop()


def test_statuses_worth_another_try_are_retried_and_others_reported(make_peer, drive):
    peer = make_peer()
    peer.statuses = {1: [0x82, 0x302, 0x303, 0x06, 0x22], 2: [0x82, 0x82, 0x400b]}
    drive(peer, seconds=2).finish()
    assert peer.statuses == {1: [], 2: []}
    peer.statuses = {2: [0x4281]}
    d = drive(peer, seconds=2)
    assert "No data available" in d.error()
    assert "errors=1" in d.expect("FAILED")


def test_a_status_that_never_ends_is_not_tried_for_ever(make_peer, drive):
    peer = make_peer(namespaces=[PeerNamespace(1, 64)])
    peer.statuses = {2: [0x82] * 11}    # once, and ten times more
    d = drive(peer, seconds=1, ops="r", depth=1)
    assert "Input/output error" in d.error(40)
    assert "errors=1" in d.expect("FAILED")
    assert peer.statuses == {2: []}


@pytest.mark.skipif("thread" in os.environ.get("SANITIZER", ""), reason="a data race on purpose")
def test_a_guest_that_changes_data_while_they_are_sent_does_not_break_the_connection_for_ever(make_peer, drive):
    """The digest of such a write is wrong; its third try is sent from a copy."""
    peer = make_peer(ddgst=True)
    d = drive(peer, seconds=60, ddgst=True, ops="w", scribble=True, depth=8, max_kib=1024)
    d.expect("ready")
    wait(lambda: peer.ddgst_errors >= 3, "wrong digests", 30)
    before = d.ops()
    d.wait_log("connected, CNTLID 4")
    wait(lambda: d.ops() > before, "writes are completed")
    d.tell("stop")
    d.finish()


# ---- identity ----

def test_resize_and_new_namespaces_are_seen(make_peer, drive):
    peer = make_peer(namespaces=[PeerNamespace(1, 8192)])
    d = drive(peer, seconds=60, range_kib=512)
    d.expect("ready")
    wait(lambda: any(c.aers for c in peer.controllers.values()), "an event request")
    peer.resize(1, 16384)
    assert d.expect("changed Peer0n1").split()[2] == "16384"
    wait(lambda: any(c.aers for c in peer.controllers.values()), "the next event request")
    peer.namespaces.append(PeerNamespace(3, 4096))
    peer.namespaces_changed(3)
    d.expect("changed Peer0n1")
    assert d.expect("changed Peer0n3").split()[2] == "4096"
    d.stop()


def other_uuid(peer):
    peer.namespaces[0].uuid = PeerNamespace().uuid


def other_nguid(peer):
    peer.namespaces[0].nguid = bytes(range(16))


def other_block_size(peer):
    peer.namespaces[0].block_bytes = 4096


def shrunk(peer):
    peer.namespaces[0].resize(4096)


def missing(peer):
    peer.namespaces[0].active = False


def capacity_0(peer):
    peer.identify_patch = lambda page, cns, nsid: page.__setitem__(slice(0, 8), bytes(8)) if cns == 0 else None


@pytest.mark.parametrize("change,text", [(other_uuid, "UUID"), (other_nguid, "NGUID"), (other_block_size, "block size"),
                                         (shrunk, "capacity"), (missing, "not list it as active"),
                                         (capacity_0, "capacity is 0")])
def test_another_disk_under_the_same_name_gets_no_io(make_peer, drive, change, text):
    peer = make_peer(namespaces=[PeerNamespace(1, 8192)])
    d = drive(peer, seconds=30)
    d.expect("ready")
    time.sleep(0.3)
    peer.hold()
    peer.stop()
    old = peer.namespaces[0]
    saved = (old.uuid, old.nguid, old.block_bytes, bytes(old.data))
    change(peer)
    time.sleep(0.3)
    peer.hold_io = False
    before = peer.io_count()
    peer.start()
    d.wait_log(f"NOT the namespace it was.*{text}")
    ops = d.ops()
    time.sleep(1.5)
    assert peer.io_count() == before and d.ops() == ops
    # The right one comes back: all goes on, verified.
    peer.stop()
    old.uuid, old.nguid, old.block_bytes = saved[:3]
    old.data[:] = saved[3]
    old.active = True
    peer.identify_patch = None
    peer.start()
    d.wait_log("the namespace is back")
    d.stop()


def test_known_namespaces_exist_before_the_target_does(make_peer, drive):
    peer = make_peer(namespaces=[PeerNamespace(1, 8192)])
    known = f"1,{peer.namespaces[0].uuid},512,8192"
    peer.stop()
    d = drive(peer, seconds=60, known=known)
    assert d.expect("attached").split()[1] == "Peer0n1"
    d.expect("ready")
    assert d.ops() == 0
    d.wait_log("cannot connect.*Connection refused")
    time.sleep(1)
    peer.start()
    d.wait_log("connected")
    assert d.stop()["verified"] > 0


def test_known_namespaces_of_another_identity_are_refused(make_peer, drive):
    peer = make_peer()
    d = drive(peer, seconds=30, known="1,11111111-2222-3333-4444-555555555555,512,8192")
    d.wait_log("NOT the namespace it was.*UUID")
    time.sleep(0.5)
    assert d.ops() == 0 and peer.io_count() == 0


@pytest.mark.parametrize("away", ["refused", "silent"])
def test_detach_while_the_target_cannot_be_reached(make_peer, drive, away):
    peer = make_peer()
    if away == "refused":
        peer.stop()
    peer.silent_ic = True
    d = drive(peer, seconds=0, range_kib=0, known="1,11111111-2222-3333-4444-555555555555,512,8192")
    d.expect("detached", 5)
    d.finish()


# ---- attach ----

def patched(cns, offset, *values):
    def patch(page, this_cns, nsid):
        if this_cns == cns:
            page[offset:offset + len(values)] = bytes(values)
    return patch


ATTACH_ERRORS = {
    "mqes-0": ({"mqes": 0}, None, "MQES 0"),
    "icdoff": ({}, patched(1, 1800, 4), "ICDOFF"),
    "ioccsz": ({}, patched(1, 1792, 3, 0, 0, 0), "IOCCSZ"),
    "sqes": ({}, patched(1, 512, 0x77), "SQES"),
    "discovery": ({}, patched(1, 111, 2), "discovery controller"),
    "other-subnqn": ({}, patched(1, 768, 88), "its subsystem is"),
    "other-cntlid": ({}, patched(1, 78, 99, 9), "CNTLID"),
    "block-size-0": ({}, patched(0, 130, 0), "blocks of 2\\^0 bytes"),
    "block-size-2-40": ({}, patched(0, 130, 40), "blocks of 2\\^40 bytes"),
    "lba-format": ({}, patched(0, 26, 5), "LBA format 5"),
    "metadata": ({}, patched(0, 128, 8, 0), "metadata"),
    "capacity-0": ({}, patched(0, 0, 0, 0, 0, 0, 0, 0, 0, 0), "capacity is 0"),
    "capacity-huge": ({}, patched(0, 0, *[255] * 8), "too many"),
    "list-order": ({}, patched(2, 0, 5, 0, 0, 0, 3, 0, 0, 0), "not in order"),
    "many-namespaces": ({"namespaces": [PeerNamespace(i + 1, 8) for i in range(130)]}, None, "more than 128 namespaces"),
}


@pytest.mark.parametrize("name", ATTACH_ERRORS)
def test_impossible_identify_data_are_refused_with_a_reason(make_peer, drive, name):
    options, patch, text = ATTACH_ERRORS[name]
    peer = make_peer(**options)
    peer.identify_patch = patch
    d = drive(peer, seconds=1)
    message = d.failed()
    assert re.search(text, message), message
    assert f"127.0.0.1:{peer.port}" in message


def test_one_bad_namespace_does_not_keep_the_others_away(make_peer, drive):
    same = PeerNamespace(1, 8192)
    peer = make_peer(namespaces=[same, PeerNamespace(2, 8192), PeerNamespace(3, 8192, uuid=same.uuid)])
    peer.identify_patch = lambda page, cns, nsid: page.__setitem__(130, 3) if cns == 0 and nsid == 2 else None
    d = drive(peer, seconds=1)
    d.expect("attached Peer0n1")
    d.expect("ready")
    d.wait_log("namespace 2: blocks of 2.3 bytes")
    d.wait_log("namespaces 1 and 3 claim to be the same disk")
    d.finish()


def test_attach_errors_name_address_and_reason(make_peer, drive):
    peer = make_peer()
    assert "no subsystem of this NQN" in drive(peer, nqn="nqn.2024-01.io.opensnap:none").failed()
    peer.allow_hosts = ["nqn.2024-01.io.opensnap:friend"]
    assert "not allowed" in drive(peer).failed()
    drive(peer, hostnqn="nqn.2024-01.io.opensnap:friend", seconds=0).finish()
    assert "not an IP address" not in drive(peer, addr="no-such-host.invalid", timeout_ms=3000).failed()
    peer.stop()
    message = drive(port=peer.port).failed()
    assert "Connection refused" in message and f"127.0.0.1:{peer.port}" in message


@pytest.mark.parametrize("kind,text", [("silent_ic", "IC exchange"), ("pfv", "format version"),
                                       ("grant_unasked", "not asked for"), ("stall_identify", "command 06h"),
                                       ("csts", "fatal error"), ("not_ready", "not ready")])
def test_attach_has_a_deadline_in_every_phase(make_peer, drive, kind, text):
    peer = make_peer()
    if kind == "stall_identify":
        peer.admin_stall = {6}
    elif kind == "csts":
        peer.csts = 2
    elif kind == "not_ready":
        peer.csts = 0
    else:
        setattr(peer, kind, 1)
    start = time.monotonic()
    message = drive(peer, timeout_ms=1000).failed()
    assert time.monotonic() - start < 8
    assert text in message or "no answer within 1000 ms" in message


def test_more_reactors_than_granted_queues(make_peer, drive):
    peer = make_peer(queues=1)
    d = drive(peer, seconds=1, reactors=2)
    line = ""
    while not line.startswith("error"):
        line = d.lines.get(timeout=10)
    assert "all of its 1 I/O queues are in use" in line
