# SPDX-License-Identifier: BSD-3-Clause
"""Trapped, mapped and shadow doorbells."""
import mmap
import os
import random
import struct
import time

import pytest
from nvme import DOORBELL_BUFFER, DOORBELLS, READ, Nvme, pattern


@pytest.mark.parametrize("posted", [True, False])
def test_trapped_posted_and_waited_for(path, posted):
    with Nvme(path, posted=posted) as n:
        for i in range(50):
            n.write(i, pattern(i, 512))
        for i in range(50):
            assert n.read(i, 1) == pattern(i, 512)
        assert n.vc.silent(0.05)


class Mapped(Nvme):
    """Doorbells by the mapped page, as SPDK's initiator."""

    def __init__(self, path, **kw):
        self.page_map = None
        super().__init__(path, json=None, minor=1, start=False, **kw)
        info = self.vc.region_info(0, 4096)
        self.page_map = mmap.mmap(info["fds"][0], 4096, offset=info["offset"] + info["areas"][0][0])
        os.close(info["fds"][0])
        self.setup_pci()
        self.enable()
        self.create_io(1)

    def doorbell(self, index, value):
        self.page_map[4 * index:4 * index + 4] = struct.pack("<I", value)


def test_mapped_page_needs_no_message(path):
    with Mapped(path) as n:
        sent = n.vc.next_id
        for i in range(200):
            n.write(i % 64, pattern(i, 512))
            assert n.read(i % 64, 1) == pattern(i, 512)
        assert n.vc.next_id == sent


def test_mapped_page_is_seen_after_a_long_silence(path):
    """The service naps at most a few milliseconds when it cannot be notified."""
    with Mapped(path) as n:
        n.read(0, 1)
        for pause in (0.15, 1.0, 11.0):
            time.sleep(pause)
            start = time.monotonic()
            n.read(0, 1)
            assert time.monotonic() - start < 0.5


def test_mapped_page_of_nonsense_harms_nobody(path, neighbour):
    with Mapped(path) as n:
        rng = random.Random(1)
        for _ in range(50):
            n.page_map[:] = rng.randbytes(4096)
            time.sleep(0.005)
        neighbour.check()
    with Nvme(path) as n:
        n.read(0, 1)


def test_mapped_page_is_clear_for_the_next_client(path):
    with Mapped(path) as n:
        n.page_map[2048:] = b"\x55" * 2048
    with Mapped(path) as n:
        assert n.page_map[2048:] == bytes(2048)
        n.read(0, 1)


# ---- shadow doorbells ----

def eventidx(n, index):
    return struct.unpack("<I", n.memory.read(n.eventidx + 4 * index, 4))[0]


def need_event(event, new, old):
    """The driver's rule: did this move pass EventIdx?"""
    return (new - event - 1) & 0xffff < (new - old) & 0xffff


class Shadow(Nvme):
    """As Linux: shadow buffers after the I/O queues exist, messages only when EventIdx asks for one."""

    messages = 0

    def doorbell(self, index, value):
        if self.shadow is None or index < 2:
            return super().doorbell(index, value)
        old = struct.unpack("<I", self.memory.read(self.shadow + 4 * index, 4))[0]
        self.memory.write(self.shadow + 4 * index, struct.pack("<I", value))
        if need_event(eventidx(self, index), value, old):
            self.messages += 1
            self.vc.write32(0, DOORBELLS + 4 * index, value, posted=True)
        return None


def test_idle_busy_ping_pong_never_misses_a_doorbell(path):
    """Every pause puts the service to sleep about to arm; a lost wake-up is a command without end."""
    with Shadow(path, entries=16) as n:
        n.shadow_doorbells()
        rng = random.Random(2)
        at = n.memory.alloc(4096)
        for i in range(6000):
            n.io[1].wait(n.io[1].submit(n.rw(READ, i % 64, 1, at)), timeout=5)
            if i % 3 == 0:
                time.sleep(rng.choice((0, 0, 1e-5, 5e-5, 1e-4, 3e-4)))
        assert not n.io[1].unexpected


def test_busy_queue_with_shadow_doorbells_sends_few_messages(path):
    with Shadow(path, entries=64) as n:
        n.shadow_doorbells()
        at, queue, done, outstanding = n.memory.alloc(4096), n.io[1], 0, 0
        n.messages = 0
        deadline = time.monotonic() + 30
        while done < 2000:
            while outstanding < 32:
                queue.push(n.rw(READ, 0, 8, at))
                outstanding += 1
            queue.ring()
            got = queue.poll()
            done += len(got)
            outstanding -= len(got)
            queue.done.clear()
            assert time.monotonic() < deadline
        assert n.messages < 2 * done


def test_bar_value_is_only_a_wake_up_once_shadow_is_on(path):
    """The shadow rules: a BAR write with another value must not move the queue."""
    with Shadow(path, entries=16) as n:
        n.shadow_doorbells()
        n.read(0, 1)
        queue = n.io[1]
        n.vc.write32(0, DOORBELLS + 8, (queue.tail + 3) % 16)
        time.sleep(0.1)
        assert not queue.poll()
        n.read(0, 1)


def test_current_doorbells_are_carried_into_the_shadow_page(path):
    """Commands rung by BAR just before 7Ch are not lost, and the shadow page starts from where the BAR stood."""
    with Shadow(path, entries=16) as n:
        for _ in range(5):
            n.read(0, 1)
        n.shadow_doorbells()
        assert struct.unpack("<II", n.memory.read(n.shadow + 8, 8)) == (n.io[1].tail, n.io[1].head)
        n.read(0, 1)


def test_admin_queue_stays_with_the_bar(path):
    with Shadow(path) as n:
        n.shadow_doorbells()
        for _ in range(10):
            n.identify(1)


def test_queue_created_after_7c_uses_the_shadow_page(path):
    with Shadow(path, entries=16) as n:
        n.shadow_doorbells()
        n.create_io(2, 16, 2)
        for i in range(40):
            n.write(i, pattern(i, 512), qid=2)
            assert n.read(i, 1, qid=1) == pattern(i, 512)


def test_controller_reset_switches_shadow_off_and_7c_may_come_again(path, neighbour):
    with Shadow(path, entries=16) as n:
        for _ in range(5):
            n.shadow_doorbells()
            n.read(0, 1)
            n.disable()
            n.enable()
            n.create_io(1, 16)
            n.read(0, 1)  # by BAR


def test_reset_with_shadow_active_and_io_in_flight(path, neighbour):
    with Shadow(path, entries=64) as n:
        at = n.memory.alloc(4096)
        for _ in range(10):
            n.shadow_doorbells()
            for _ in range(40):
                n.io[1].push(n.rw(READ, 0, 8, at))
            n.io[1].ring()
            n.disable()
            n.enable()
            n.create_io(1, 64)
            n.read(0, 1)


@pytest.mark.parametrize("prp1,prp2", [("x", "x"), (0, 0), (1, 0), (0, "x"), ("x", 0), ("same", "same"), ("odd", 0)])
def test_bad_shadow_buffers_are_refused_and_change_nothing(path, prp1, prp2):
    with Nvme(path) as n:
        good = n.memory.alloc(4096)
        value = {"x": 0x7000_0000_0000, "same": good, "odd": good + 8, 0: 0, 1: good}
        cqe = n.run_admin(DOORBELL_BUFFER, ok=False, prp1=value[prp1], prp2=value[prp2])
        if prp1 != "same":
            assert cqe.status in ("INVALID_FIELD", "PRP_OFFSET", "DATA_TRANSFER_ERROR"), cqe
        n.disable()
        n.enable()
        n.create_io(1)
        n.read(0, 1)


def test_absurd_shadow_values_stop_this_queue_only(path, neighbour):
    rng = random.Random(3)
    with Shadow(path, entries=16) as n:
        n.shadow_doorbells()
        n.read(0, 1)
        for _ in range(100):
            n.memory.write(n.shadow + 8, struct.pack("<II", rng.getrandbits(32), rng.getrandbits(32)))
            n.memory.write(n.eventidx, rng.randbytes(4096))
            n.vc.write32(0, DOORBELLS + 8, rng.getrandbits(16), posted=True)
        n.identify(1)
        neighbour.check()
    with Nvme(path) as n:
        n.read(0, 1)


def test_shadow_pages_unmapped_under_load_park_and_resume(path):
    with Shadow(path, entries=16) as n:
        n.shadow_doorbells()
        for _ in range(10):
            n.memory.detach(n.vc)
            n.memory.attach(n.vc)
            n.read(0, 1)


def test_new_shadow_buffers_under_load_are_taken_over(path):
    with Shadow(path, entries=16) as n:
        for _ in range(5):
            n.shadow_doorbells()
            for i in range(20):
                n.read(i, 1)


