# SPDX-License-Identifier: BSD-3-Clause
"""A target may execute a write late: after its connection has died. Nothing newer is overwritten by it.

The peer catches writes: they are accepted, and executed when the test says so. Times are lower bounds; the fence lasts long
enough for a slow machine to do what must happen before its end."""
import time

import pytest
from conftest import SLOW
from nvme_tcp_peer import PeerNamespace

KATO_MS = 2000 if SLOW == 1 else 6000
TIME = 2 * KATO_MS / 1000   # what is waited for when the target says nothing
OLD, NEW = 0xaa, 0xbb


@pytest.fixture
def make_peer(make_peer):
    return lambda **options: make_peer(**{"confirms": False, **options})


def wait(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def content(peer, first, blocks=1, nsid=1):
    ns = peer.namespace(nsid)
    return set(ns.data[first * ns.block_bytes:(first + blocks) * ns.block_bytes])


def lose(peer, s, *requests, rst=False, io_only=True):
    """Submits requests that the peer catches, and cuts the connections. Returns their numbers, and when."""
    peer.catch(len(requests))
    numbers = [s.submit(*r[:-1], **r[-1]) if isinstance(r[-1], dict) else s.submit(*r) for r in requests]
    wait(lambda: len(peer.late) == len(requests), "they are caught")
    lost = time.monotonic()
    peer.cut(rst=rst, io_only=io_only)
    return numbers, lost


@pytest.fixture(params=["reset", "fin", "all-queues"])
def cut(request):
    return {"reset": {"rst": True}, "fin": {}, "all-queues": {"io_only": False}}[request.param]


def test_a_newer_write_waits_until_the_late_one_can_do_no_harm(make_peer, steps, cut):
    peer = make_peer()
    s = steps(peer, keep_alive_ms=KATO_MS)
    assert s.nvme()["fence"] == "time" and "fence_ranges" not in s.nvme()
    [first], lost = lose(peer, s, ("write", 8, 8, OLD), **cut)
    s.good(first)                                   # sent again at once
    assert content(peer, 8, 8) == {OLD}
    newer = s.submit("write", 12, 1, NEW)
    others = [s.submit("write", 0, 8, 1), s.submit("write", 16, 8, 2), s.submit("zeroes", 16, 8),
              s.submit("read", 8, 8), s.submit("flush")]
    s.good(*others)                                 # next to it, reads and flushes: at once
    assert newer not in s.results
    nvme = s.nvme()
    assert (nvme["fence_ranges"], nvme["fence_waiting"]) == (1, 1)
    assert peer.execute_late() == 1
    rc, _, when = s.end_of(newer)
    assert rc == 0 and when - lost >= TIME
    assert content(peer, 12) == {NEW} and content(peer, 8, 4) == {OLD}
    s.good(s.submit("write", 8, 8, 3))              # nothing waits any more
    assert "fence_ranges" not in s.nvme()
    s.leave()


def test_every_kind_of_change_guards_and_waits(make_peer, steps):
    peer = make_peer()
    s = steps(peer, keep_alive_ms=KATO_MS)
    s.good(s.submit("write", 0, 64, 1))
    old, lost = lose(peer, s, ("write", 0, 8, OLD), ("zeroes", 8, 8), ("unmap", 16, 8))
    s.good(*old)
    newer = [s.submit("unmap", 0, 1), s.submit("zeroes", 3, 1), s.submit("write", 15, 1, NEW), s.submit("write", 16, 1, NEW),
             s.submit("write", 23, 2, NEW)]
    assert s.waits(newer[-1])
    assert not set(newer) & set(s.results) and s.nvme()["fence_waiting"] == 5
    peer.execute_late()
    assert all(s.end_of(n)[2] - lost >= TIME for n in newer)
    s.good(*newer)
    assert content(peer, 0) == content(peer, 3) == {0}
    assert content(peer, 15) == content(peer, 16) == content(peer, 23, 2) == {NEW}
    s.leave()


def test_the_second_of_two_overlapping_writes_that_were_lost_together_waits(make_peer, steps):
    peer = make_peer()
    s = steps(peer, keep_alive_ms=KATO_MS)
    [first, second, apart], lost = lose(peer, s, ("write", 0, 8, OLD), ("write", 4, 8, NEW), ("write", 100, 8, 1))
    s.good(first, apart)
    assert s.waits(second) and content(peer, 4, 4) == {OLD}
    peer.late.reverse()
    peer.execute_late()                             # the second, then the first
    assert s.end_of(second)[2] - lost >= TIME
    assert content(peer, 0, 4) == {OLD} and content(peer, 4, 8) == {NEW}
    s.leave()


def test_other_reactors_wait_too(make_peer, steps):
    peer = make_peer()
    s = steps(peer, keep_alive_ms=KATO_MS, reactors=3)
    s.good(*(s.submit("read", 0, 1, reactor=i) for i in range(3)))
    assert peer.accepted == 4
    [first, second], lost = lose(peer, s, ("write", 0, 8, OLD, {"reactor": 0}), ("write", 4, 8, NEW, {"reactor": 1}))
    wait(lambda: first in s.results or second in s.results or s.take(0.01), "one of the two is sent again")
    block = 0 if first in s.results else 11         # of the one that has completed; the other may be executed any time
    newer = s.submit("write", block, 1, 3, reactor=2)
    s.good(s.submit("write", 100, 8, 1, reactor=2))
    assert s.waits(newer)
    assert (first in s.results) != (second in s.results)
    peer.execute_late()
    assert s.end_of(newer)[2] - lost >= TIME
    s.good(first, second)
    assert content(peer, block) == {3} and content(peer, 1, 3) == {OLD} and content(peer, 8, 3) == {NEW}
    both = content(peer, 4, 4)
    assert both == ({NEW} if block == 0 else {OLD})  # the one that waited
    s.leave()


def test_a_command_time_of_the_target_is_added(make_peer, steps):
    peer = make_peer(cqt=1500)
    s = steps(peer, keep_alive_ms=KATO_MS)
    assert s.nvme()["fence"] == "cqt"
    [first], lost = lose(peer, s, ("write", 8, 8, OLD))
    s.good(first)
    assert s.end_of(s.submit("write", 8, 8, NEW))[2] - lost >= TIME + 1.5
    s.leave()


def test_traffic_based_keep_alive_takes_longer_to_expire(make_peer, steps):
    peer = make_peer(traffic_keep_alive=True)
    s = steps(peer, keep_alive_ms=KATO_MS)
    [first], lost = lose(peer, s, ("write", 8, 8, OLD))
    s.good(first)
    assert s.end_of(s.submit("write", 8, 8, NEW))[2] - lost >= 3 * KATO_MS / 1000
    s.leave()


def test_no_keep_alive_no_knowledge(make_peer, steps):
    peer = make_peer(kas=0)
    s = steps(peer, keep_alive_ms=KATO_MS)
    assert s.nvme()["fence"] == "none"
    [first], _ = lose(peer, s, ("write", 8, 8, OLD))
    s.good(first)
    newer = s.submit("write", 8, 8, NEW)
    assert s.waits(newer, TIME + 1)
    s.tell(f"cancel {newer}")                       # never sent: at once
    assert s.end_of(newer)[0] == -125
    s.leave()


def test_a_target_that_confirms_the_end_is_not_waited_for(make_peer, steps):
    peer = make_peer(confirms=True)
    s = steps(peer, keep_alive_ms=100000)           # 200 s, if time were waited for
    assert s.nvme()["fence"] == "confirmed"
    old, _ = lose(peer, s, ("write", 0, 8, OLD), ("write", 4, 8, 1))
    newer = s.submit("write", 2, 8, NEW)
    s.good(*old, newer)
    assert not peer.late and "fence_ranges" not in s.nvme()
    assert content(peer, 10, 2) == {1}
    s.good(s.submit("write", 0, 12, NEW))
    assert content(peer, 0, 12) == {NEW}
    s.leave()


def test_a_target_that_confirms_now_was_perhaps_another_one_before(make_peer, steps):
    """The longer time counts."""
    peer = make_peer()
    s = steps(peer, keep_alive_ms=KATO_MS)
    peer.catch()
    first = s.submit("write", 8, 8, OLD)
    wait(lambda: peer.late, "it is caught")
    late, peer.late = peer.late, []
    peer.confirms = True
    lost = time.monotonic()
    peer.cut()
    s.good(first)
    newer = s.submit("write", 8, 8, NEW)
    assert s.waits(newer)
    peer.late = late
    peer.execute_late()
    assert s.end_of(newer)[2] - lost >= TIME and content(peer, 8, 8) == {NEW}
    assert s.nvme()["fence"] == "confirmed"
    s.leave()


def test_a_restarted_target(make_peer, steps):
    """It is away, nothing is decided before it is back."""
    peer = make_peer()
    s = steps(peer, keep_alive_ms=KATO_MS)
    peer.catch()
    first = s.submit("write", 8, 8, OLD)
    wait(lambda: peer.late, "it is caught")
    peer.stop()
    newer = s.submit("write", 8, 8, NEW)
    beside = s.submit("write", 16, 8, 1)
    assert s.waits(newer, TIME + 0.5)
    peer.execute_late()
    peer.start()
    s.good(first, beside, newer)
    assert content(peer, 8, 8) == {NEW}
    s.leave()


def test_lost_again_while_it_is_guarded(make_peer, steps):
    """The time begins anew with the newest loss of that write; it keeps its right to be sent at once."""
    peer = make_peer()
    s = steps(peer, keep_alive_ms=KATO_MS)
    peer.catch(2)
    first = s.submit("write", 8, 8, OLD)
    wait(lambda: len(peer.late) == 1, "it is caught")
    peer.cut()
    wait(lambda: len(peer.late) == 2, "it is caught again")
    newer = s.submit("write", 8, 8, NEW)
    lost = time.monotonic()
    peer.cut()
    s.good(first)
    assert s.waits(newer)
    assert peer.execute_late() == 2
    assert s.end_of(newer)[2] - lost >= TIME and content(peer, 8, 8) == {NEW}
    s.leave()


def test_more_writes_than_the_table_has_ranges(make_peer, steps):
    peer = make_peer()
    s = steps(peer, keep_alive_ms=2 * KATO_MS, reactors=2)
    s.good(*(s.submit("read", 0, 1, reactor=i) for i in range(2)))
    requests = [("write", 100 * i, 8, OLD, {"reactor": i % 2}) for i in range(200)]
    old, lost = lose(peer, s, *requests)
    wait(lambda: len(s.results) > 120 or s.take(0.001), "most are sent again at once")
    newer = [s.submit("write", 100 * i + i % 8, 1, NEW) for i in range(200)]
    assert s.waits(newer[-1], 0.3) and not set(newer) & set(s.results)
    assert s.nvme()["fence_ranges"] <= 128
    peer.execute_late()
    assert all(s.end_of(n)[2] - lost >= TIME for n in newer)
    s.good(*old, *newer)
    assert all(content(peer, 100 * i + i % 8) == {NEW} for i in range(200))
    s.leave()


def test_who_waits_can_be_detached_and_cancelled(make_peer, steps):
    peer = make_peer()
    s = steps(peer, keep_alive_ms=KATO_MS)
    [first], lost = lose(peer, s, ("write", 0, 64, OLD))
    s.good(first)
    kept, gone, zeroes = s.submit("write", 0, 8, NEW), s.submit("write", 8, 8, NEW), s.submit("zeroes", 16, 8)
    assert s.waits(kept, 0.2)
    for n in (kept, zeroes):
        s.tell(f"detach {n}")                       # its memory is overwritten once it is free
    s.tell(f"cancel {gone}")
    assert s.end_of(gone)[0] == -125 and s.nvme()["fence_waiting"] == 2
    peer.execute_late()
    assert s.end_of(kept)[2] - lost >= TIME
    s.good(kept, zeroes)
    assert content(peer, 0, 8) == {NEW} and content(peer, 8, 8) == {OLD} and content(peer, 16, 8) == {0}
    s.leave()


def test_namespaces_have_fences_of_their_own(make_peer, steps):
    peer = make_peer(namespaces=[PeerNamespace(1), PeerNamespace(2)])
    s = steps(peer, keep_alive_ms=KATO_MS)
    [first], _ = lose(peer, s, ("write", 8, 8, OLD))
    s.good(first)
    assert content(peer, 8, 8, nsid=2) == {0}
    assert peer.execute_late() == 1
    s.leave()


# ---- what a service before this one had sent ----

def test_a_recovered_write_is_sent_at_once_and_guards_its_blocks(make_peer, steps):
    """Counted from our own connection; we do not know when the other process died."""
    peer = make_peer()
    before = steps(peer, keep_alive_ms=KATO_MS)
    peer.catch()
    before.submit("write", 8, 8, OLD)
    wait(lambda: peer.late, "it is caught")
    before.process.kill()
    before.process.wait()
    connected = time.monotonic()
    s = steps(peer, keep_alive_ms=KATO_MS)
    first, second = s.submit("write", 8, 8, OLD, resent=True), s.submit("write", 12, 8, 1, resent=True)
    read = s.submit("read", 8, 8, resent=True)
    newer = s.submit("write", 8, 1, NEW)
    s.good(first, read)
    assert s.waits(newer) and second not in s.results
    peer.execute_late()
    assert s.end_of(newer)[2] - connected >= TIME and s.end_of(second)[2] - connected >= TIME
    assert content(peer, 8) == {NEW} and content(peer, 9, 3) == {OLD} and content(peer, 12, 8) == {1}
    s.leave()


def test_recovered_writes_to_a_target_that_confirms_need_no_fence(make_peer, steps):
    peer = make_peer(confirms=True)
    s = steps(peer, keep_alive_ms=100000)
    s.good(s.submit("write", 8, 8, OLD, resent=True), s.submit("write", 12, 8, 1, resent=True))
    s.good(s.submit("write", 8, 8, NEW))
    assert "fence_ranges" not in s.nvme()
    s.leave()


# ---- under load ----

def test_load_with_cuts_and_late_writes_comes_out_right(make_peer, drive):
    """Every write that is in flight at a cut is executed again a little later."""
    peer = make_peer()
    d = drive(peer, seconds=60, depth=32, ops="rwwzW", range_kib=256, max_kib=16, keep_alive_ms=KATO_MS, reactors=2)
    d.expect("ready")
    for _ in range(4):
        time.sleep(0.5)
        peer.catch(6)
        wait(lambda: not peer.catching, "writes are caught")
        peer.cut(rst=True)
        wait(lambda: len(peer.connections) >= 3, "it is connected again")
        time.sleep(0.4)
        assert peer.execute_late() == 6
    d.stop()
    assert peer.violations == []
