# SPDX-License-Identifier: BSD-3-Clause
"""Hosts that ask for room for data and never send them: others go on."""
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from neighbour import Neighbour
from nvme_tcp_host import Host

LENGTH = 65536
COMMANDS = 30


class Hog(Host):
    """Has queues on both reactors, and writes in each as many as go. Sends no data of them."""

    def __init__(self, port, nqn):
        super().__init__(port, nqn, io_queues=4)
        for q in self.io:
            q.answer_r2t = False
            q.cids = [q.start_write(0, bytes(LENGTH)) for _ in range(COMMANDS)]

    def send_all(self):
        """The statuses."""
        def finish(q):
            q.answer_r2t = True
            return {q.wait(cid).status for cid in q.cids}

        with ThreadPoolExecutor(len(self.io)) as pool:
            return set().union(*pool.map(finish, self.io))


@pytest.fixture
def small(own_target):
    """16 buffers on each of 2 reactors, and disks for two neighbours. start(kind, disk)."""
    t = own_target(num_shared_buffers=16)
    for name in ("near", "far"):
        t.subsystem(name)
    with ExitStack() as stack:
        def start(kind, name):
            made = kind(t.port, t.nqn(name))
            stack.callback(made.stop if kind is Neighbour else made.close)
            return made

        yield t, start


def all_wait(t):
    """Commands wait on both reactors."""
    t.settles(lambda: all(g["transports"][0]["pending_data_buffer"] > 0 for g in t.rpc("nvmf_get_stats")["poll_groups"]))


def goes_on(t, neighbour, rounds=30):
    t.settles(lambda: neighbour.problem or neighbour.rounds >= rounds)
    neighbour.check()


def test_who_takes_all_it_can_leaves_enough_for_others(small):
    """Nor is it disturbed: it sends late what it was asked for."""
    t, start = small
    hog = start(Hog, "disk")
    all_wait(t)
    for name in ("near", "far"):
        goes_on(t, start(Neighbour, name))
    assert hog.send_all() == {0}


def test_hosts_that_have_all_of_it_together_are_ended_when_others_wait(small):
    t, start = small
    for _ in range(6):      # 8 + 4 + 2 + 1 + 1 buffers, and one has none
        start(Hog, "disk")
    all_wait(t)
    goes_on(t, start(Neighbour, "near"))
    assert "others need the room" in t.log("target")
