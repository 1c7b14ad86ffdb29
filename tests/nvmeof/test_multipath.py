# SPDX-License-Identifier: BSD-3-Clause
"""One subsystem by two addresses: what one of them cannot do goes by the other, at once and without an error; ANA says which
is better; and a write that was sent by a lost path is not let loose on newer ones."""
import json
import time

import pytest
from conftest import SLOW
from nvme_tcp_peer import PeerNamespace
from test_fence import KATO_MS, NEW, OLD, TIME, content, wait

OPTIMIZED, NON_OPTIMIZED, INACCESSIBLE, LOSS, CHANGE = 1, 2, 3, 4, 15
LOAD = {"range_kib": 8192, "max_kib": 8, "depth": 16, "keep_alive_ms": KATO_MS}


@pytest.fixture
def two(make_peer):
    return lambda **options: make_peer(**{"paths": 2, **options})


def join(peer, d):
    assert d.add_path(peer.ports[1]) == "path added"
    return d


def join_first(peer, s):
    """Both are connected, and requests go by the first."""
    join(peer, s)
    s.tell("prefer 1")
    s.good(s.submit("read", 0, 1))
    wait(lambda: peer.connects == 4, "two I/O queues")
    time.sleep(0.1 * SLOW)                          # the answers have arrived
    return s


def goes_by(peer, d, path):
    """All I/O goes by this path now."""
    d.goes_on()
    before = peer.io_by_path()
    d.goes_on()
    return [i for i, (a, b) in enumerate(zip(before, peer.io_by_path())) if a != b] == [path]


def wait_goes_by(peer, d, path):
    wait(lambda: goes_by(peer, d, path), f"I/O goes by path {path}")


def stands_still(d):
    time.sleep(0.5 * SLOW)
    before = d.ops()
    time.sleep(0.7)
    return d.ops() == before


def paths(d):
    said = d.state().split(" ", 1)[1]
    d.expect("ops ")
    return [c["state"] for c in json.loads(said)["ctrlrs"]]


# ---- failover ----

@pytest.mark.parametrize("options", [{}, {"reactors": 2, "hdgst": True, "ddgst": True}], ids=["one", "two-reactors-digests"])
def test_paths_are_cut_and_come_back_under_load(two, drive, options):
    digests = {k: v for k, v in options.items() if "dgst" in k}
    peer = two(**digests)
    d = drive(peer, seconds=60, ops="rwwfzW", **LOAD, **options)
    d.expect("ready")
    join(peer, d)
    d.tell("prefer 1")
    assert paths(d) == ["enabled", "enabled"]
    wait_goes_by(peer, d, 0)
    peer.close_path(0)
    wait_goes_by(peer, d, 1)
    wait(lambda: paths(d) == ["resetting", "enabled"], "it is seen")
    peer.open_path(0)
    wait(lambda: paths(d) == ["enabled", "enabled"], "the path is back")
    wait_goes_by(peer, d, 0)                        # it is the preferred one
    for path in (0, 1):
        peer.close_path(path)
    assert stands_still(d)                          # held, not failed
    peer.open_path(1)
    wait_goes_by(peer, d, 1)
    d.stop()
    assert peer.violations == []


def test_cut_again_and_again_while_requests_are_taken_back(two, drive):
    peer = two(cut_every=300)
    d = drive(peer, seconds=60, ops="rwwfzW", reactors=2, detach=20, cancel=10, **LOAD)
    d.expect("ready")
    join(peer, d)
    d.tell("policy active_active")
    wait(lambda: peer.connects >= 14, "cuts", 40)
    peer.cut_every = 0
    d.stop()
    assert peer.violations == []


def test_a_loss_costs_no_wait_for_the_reconnection(two, steps):
    """With a target that holds what it has: the other path executes it at once."""
    peer = two()
    s = join_first(peer, steps(peer, keep_alive_ms=100000))
    peer.hold()
    writes = [s.submit("write", 8 * i, 8, i + 1) for i in range(20)]
    wait(lambda: peer.held() == 20, "they are with the target")
    with peer.lock:
        peer.hold_io = False
    peer.close_path(0)                              # and stays away
    s.good(*writes)
    assert [content(peer, 8 * i, 8) for i in range(20)] == [{i + 1} for i in range(20)]
    s.leave()


def test_a_path_joins_and_leaves_under_load(two, drive):
    peer = two()
    d = drive(peer, seconds=60, reactors=2, **LOAD)
    d.expect("ready")
    for _ in range(3):
        join(peer, d)
        assert d.leave_path(peer.ports[0]) == "path left"
        wait_goes_by(peer, d, 1)
        assert d.add_path(peer.ports[0]) == "path added"
        assert d.leave_path(peer.ports[1]) == "path left"
        wait_goes_by(peer, d, 0)
    wait(lambda: {c.path for c in list(peer.connections)} == {0}, "nothing is left of the other")
    d.stop()
    assert peer.violations == []


# ---- what is no path ----

def test_another_namespace_is_refused(make_peer, steps):
    peer, other = make_peer(), make_peer()
    s = steps(peer)
    assert "its namespace 1 is not that of bdev 'Peer0n1'" in s.add_path(other.port)
    assert "its UUID was" in s.add_path(other.port)
    assert len(json.loads(json.dumps(s.nvme()))) > 0 and not other.violations
    wait(lambda: not other.connections, "it is left alone")
    assert "already" in s.add_path(peer.port)
    assert "leads to the same one" in s.add_path(other.port, "nqn.2024-01.io.opensnap:another")
    s.good(s.submit("write", 0, 8, 1))
    s.leave()


def test_a_path_that_shows_another_namespace_later_is_not_used(two, drive):
    peer = two()
    d = drive(peer, seconds=60, **LOAD)
    d.expect("ready")
    join(peer, d)
    peer.close_path(0)
    wait_goes_by(peer, d, 1)

    def patch(page, cns, nsid):                     # what the first path shows when it is back
        if cns == 3:
            page[4:20] = bytes(range(16))

    peer.identify_patch = patch
    peer.open_path(0)
    d.wait_log(r"NOT the namespace it was: its UUID was .* This path is not used for it")
    peer.identify_patch = None
    d.goes_on()
    peer.close_path(1)                              # now there is none
    assert stands_still(d)
    peer.open_path(1)
    d.goes_on()
    d.stop()


# ---- policies ----

def test_requests_are_spread_in_turns_or_by_depth(two, steps):
    peer = two()
    s = join_first(peer, steps(peer))
    for policy, shares in (("active_active 4", [20, 20]), ("active_active queue_depth", None),
                                          ("active_passive", [40, 0])):
        s.tell("policy " + policy)
        s.nvme()
        time.sleep(0.1)                             # the reactor has heard of it
        before = peer.io_by_path()
        s.good(*[s.submit("read", 8 * i, 8) for i in range(40)])
        got = [b - a for a, b in zip(before, peer.io_by_path())]
        assert sum(got) == 40 and (got == shares if shares else min(got) > 5), (policy, got)
    s.tell("prefer 2")
    s.nvme()
    time.sleep(0.1)
    before = peer.io_by_path()
    s.good(s.submit("read", 0, 8))
    assert peer.io_by_path() == [before[0], before[1] + 1]
    s.leave()


# ---- asymmetric access ----

@pytest.mark.parametrize("bad", [INACCESSIBLE, LOSS, CHANGE, NON_OPTIMIZED])
def test_the_better_path_is_used_and_changes_are_followed(two, drive, bad):
    peer = two(ana=[{1: bad}, {1: OPTIMIZED}])
    d = drive(peer, seconds=60, ops="rwwfzW", **LOAD)
    d.expect("ready")
    join(peer, d)
    wait_goes_by(peer, d, 1)
    peer.set_ana(0, OPTIMIZED)
    d.goes_on()
    peer.set_ana(1, bad)
    wait_goes_by(peer, d, 0)
    peer.set_ana(0, NON_OPTIMIZED)                  # better than nothing
    peer.set_ana(1, INACCESSIBLE)
    wait_goes_by(peer, d, 0)
    peer.set_ana(1, OPTIMIZED)
    wait_goes_by(peer, d, 1)
    d.stop()
    assert peer.violations == []


def test_statuses_tell_before_the_event_does(two, drive):
    peer = two(ana=[{1: OPTIMIZED}, {1: OPTIMIZED}])
    d = drive(peer, seconds=60, ops="rww", **LOAD)
    d.expect("ready")
    join(peer, d)
    assert goes_by(peer, d, 0)
    peer.set_ana(0, INACCESSIBLE, tell=False)
    wait_goes_by(peer, d, 1)
    peer.statuses = {1: [0x300, 0x360, 0x370, 0x371] * 20}    # the other path may do, and this one again
    d.goes_on()
    peer.statuses = {}
    d.stop()


def test_all_inaccessible_is_a_pause(two, drive):
    peer = two(ana=[{1: OPTIMIZED}, {1: OPTIMIZED}])
    d = drive(peer, seconds=60, ops="rww", **LOAD)
    d.expect("ready")
    join(peer, d)
    for path in (0, 1):
        peer.set_ana(path, INACCESSIBLE)
    assert stands_still(d)
    peer.set_ana(1, OPTIMIZED)
    wait_goes_by(peer, d, 1)
    d.stop()


def test_groups_have_states_of_their_own(two, drive):
    peer = two(namespaces=[PeerNamespace(1), PeerNamespace(2)], ana=[{1: OPTIMIZED, 2: OPTIMIZED}] * 2)
    peer.ana = [{1: INACCESSIBLE, 2: OPTIMIZED}, {1: OPTIMIZED, 2: INACCESSIBLE}]
    d = drive(peer, seconds=60, ops="rww", **LOAD)
    d.expect("ready")
    join(peer, d)
    d.goes_on()
    peer.close_path(0)                              # namespace 2 waits; 1 does not wait behind it
    d.goes_on()
    peer.open_path(0)
    d.stop()


def test_a_change_that_does_not_end_is_ended(two, drive):
    peer = two(ana=[{1: OPTIMIZED}, {1: OPTIMIZED}])
    peer.anatt = 1
    d = drive(peer, seconds=60, ops="rww", **LOAD)
    d.expect("ready")
    join(peer, d)
    peer.set_ana(0, CHANGE)
    d.wait_log(r"an ANA group changes for longer than 1000 ms")
    d.stop()


@pytest.mark.parametrize("lie,text", [
    ("too many groups", "more than it has room for"), ("group 0", "ANA group 0"), ("twice", "ANA group 1 twice"),
    ("state", "unknown state 9"), ("namespaces", "which were not asked for"), ("nanagrpid", r"2000000 ANA groups")])
def test_lies_in_the_log(two, drive, lie, text):
    peer = two(ana=[{1: OPTIMIZED}, {1: OPTIMIZED}], namespaces=[PeerNamespace(1)])
    peer.nanagrpid = 2000000 if lie == "nanagrpid" else 2

    def patch(log):
        if lie == "too many groups":
            log[8:10] = b"\xff\xff"
        elif lie == "group 0":
            log[16:20] = bytes(4)
        elif lie == "twice":
            log[8] = 2
            log += log[16:48]
        elif lie == "state":
            log[16 + 16] = 9
        elif lie == "namespaces":
            log[20] = 3

    peer.ana_patch = patch
    message = drive(peer, seconds=60).failed()
    assert text in message
    peer.ana_patch, peer.nanagrpid = None, 2
    d = drive(peer, seconds=60, **LOAD)             # and later, on a path of two
    d.expect("ready")
    join(peer, d)
    if lie != "nanagrpid":
        peer.ana_patch = patch
        peer.set_ana(0, OPTIMIZED)
        d.wait_log(text)
        d.goes_on()
        peer.ana_patch = None
    d.stop()


def test_a_group_that_the_log_does_not_name_is_not_used(two, drive):
    peer = two(ana=[{}, {1: OPTIMIZED}])
    d = drive(peer, seconds=60, **LOAD)
    d.expect("ready")
    d.wait_log("does not tell the state of its ANA group 1")
    join(peer, d)
    wait_goes_by(peer, d, 1)
    d.stop()


# ---- the fence across paths ----

def late_by_the_other_path(peer, s, reactor=0):
    """A write that path 0 has taken and will execute later; path 1 has executed its second copy."""
    peer.catch()
    first = s.submit("write", 8, 8, OLD, reactor=reactor)
    wait(lambda: peer.late, "it is caught")
    lost = time.monotonic()
    peer.close_path(0)
    s.good(first)
    assert content(peer, 8, 8) == {OLD}
    return lost


def overtaken(peer, s):
    """What is wrong."""
    lost = late_by_the_other_path(peer, s)
    s.good(s.submit("write", 16, 8, 1), s.submit("read", 8, 8), s.submit("flush"))      # beside it: at once
    newer = [s.submit("write", 12, 1, NEW), s.submit("zeroes", 8, 1), s.submit("unmap", 9, 1)]
    early = not s.waits(newer[0]) or set(newer) & set(s.results)
    peer.execute_late()
    if not early:
        assert s.nvme(1)["fence_waiting"] == 3
        assert all(s.end_of(n)[2] - lost >= TIME for n in newer)
    s.good(*newer)
    return (["did not wait"] if early else []) + (["the older write is back"] if content(peer, 12) != {NEW} else [])


def test_a_newer_write_by_another_path_waits_for_the_late_one(two, steps):
    peer = two(confirms=False)
    s = join_first(peer, steps(peer, keep_alive_ms=KATO_MS))
    assert overtaken(peer, s) == []
    assert content(peer, 8) == {0}
    s.leave()


def test_without_the_fence_the_late_write_is_found_out(two, steps):
    peer = two(confirms=False)
    s = join_first(peer, steps(peer, variant="_no_remote_fence", keep_alive_ms=KATO_MS))
    assert "the older write is back" in overtaken(peer, s)


def test_a_target_that_confirms_lets_them_go_when_a_path_is_made_anew(two, steps):
    peer = two(confirms=True)
    s = join_first(peer, steps(peer, keep_alive_ms=100000))
    late_by_the_other_path(peer, s)
    newer = s.submit("write", 12, 1, NEW)
    assert s.waits(newer, 1)                        # the path that is there was there before
    peer.open_path(0)
    s.good(newer)
    assert not peer.late and content(peer, 12) == {NEW}
    s.leave()


def test_a_path_that_stays_away_is_waited_for_as_long_as_its_keep_alive(two, steps):
    peer = two(confirms=True)
    s = join_first(peer, steps(peer, keep_alive_ms=KATO_MS))
    lost = late_by_the_other_path(peer, s)
    newer = s.submit("write", 12, 1, NEW)
    assert s.waits(newer)
    peer.execute_late()
    assert s.end_of(newer)[2] - lost >= TIME and content(peer, 12) == {NEW}
    s.leave()


def test_what_overlaps_a_write_under_way_on_the_other_path_is_not_sent_beside_it(two, steps):
    peer = two(confirms=False)
    s = join_first(peer, steps(peer, keep_alive_ms=KATO_MS))
    s.tell("policy active_active 1")
    s.nvme()
    time.sleep(0.1)
    peer.hold()
    pair = [s.submit("write", 8, 8, OLD), s.submit("write", 8, 8, NEW)]
    wait(lambda: peer.held() == 2, "one on each path")
    with peer.lock:
        assert sorted(len(c.held) for c in peer.connections) == [0, 0, 1, 1]
    lost = time.monotonic()
    peer.close_path(0)
    wait(lambda: s.nvme().get("fence_waiting"), "the loss is known where the writes are")
    peer.release()
    wait(lambda: s.results or s.take(0.01), "the one on the other path")
    [there] = s.results
    again = pair[0] if there == pair[1] else pair[1]
    assert s.end_of(again)[2] - lost >= TIME
    s.good(*pair)
    assert content(peer, 8, 8) == {OLD if again == pair[0] else NEW}
    s.leave()


def test_a_recovered_write_with_two_paths(two, steps):
    peer = two(confirms=False)
    before = join_first(peer, steps(peer, keep_alive_ms=KATO_MS))
    peer.catch()
    before.submit("write", 8, 8, OLD)
    wait(lambda: peer.late, "it is caught")
    before.process.kill()
    before.process.wait()
    connected = time.monotonic()
    s = steps(peer, port=peer.ports[1], keep_alive_ms=KATO_MS)
    first, newer = s.submit("write", 8, 8, OLD, resent=True), s.submit("write", 8, 1, NEW)
    s.good(first)
    assert s.add_path(peer.ports[0]) == "path added"    # knows nothing of it
    assert s.waits(newer)
    peer.execute_late()
    assert s.end_of(newer)[2] - connected >= TIME
    assert content(peer, 8) == {NEW}
    s.leave()


def test_load_with_late_writes_over_two_paths_comes_out_right(two, drive):
    """Every write that is in flight at a cut is executed again a little later."""
    peer = two(confirms=False)
    d = drive(peer, seconds=60, depth=32, ops="rwwzW", range_kib=256, max_kib=16, keep_alive_ms=KATO_MS, reactors=2)
    d.expect("ready")
    join(peer, d)
    d.tell("policy active_active")
    for n in range(4):
        time.sleep(0.4)
        peer.catch(6, path=n % 2)
        wait(lambda: not peer.catching, "writes are caught")
        peer.cut(rst=True, path=n % 2)
        wait(lambda: paths(d) == ["enabled", "enabled"], "it is connected again")
        time.sleep(0.2 * SLOW)
        peer.execute_late()
    d.stop()
    assert peer.violations == []
