# SPDX-License-Identifier: BSD-3-Clause
"""Late writes in a kernel target: its disk has taken a write and carries it out when the test says so, after the connection
that brought it, or the whole service, has died."""
import os
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
# Behind the guest tests' own.
sys.path += [str(TESTS / folder) for folder in ("recovery", "wire") if str(TESTS / folder) not in sys.path]

from host import RecoverySnap  # noqa: E402
from tcp_proxy import TcpProxy  # noqa: E402
from test_late_target import ReadingNvmeHost, ReadingVblkHost  # noqa: E402
from test_remote_fence import BESIDE, BLOCKS, NEW, OLD, TOPOLOGY, hosts_on, wait  # noqa: E402

NQN = "nqn.2026-01.org.opensnap:late"
SIZE_MB = 4
APART = 4 * BLOCKS
FENCE = 15      # 3 x KATO: the kernel's keep-alive is by traffic


class Late:
    """A service with a function of each kind on the target, and what its host has written. lba: nobody else's."""

    def __init__(self, snap, proxy, hosts, how, lba):
        self.snap, self.proxy, self.how = snap, proxy, how
        self.hosts = [(host, lba + i * APART) for i, host in enumerate(hosts)]

    def write(self, data, beside=0):
        return [host.write(lba + beside, data) for host, lba in self.hosts]

    def lose(self):
        if self.how == "cut":
            assert self.proxy.cut()
        else:
            self.snap.kill_service()
            self.snap.start_service()

    def ended(self, requests):
        return [host.ended(request) for (host, _), request in zip(self.hosts, requests)]


@contextmanager
def services(target, folder, hows, program="snap_service"):
    with ExitStack() as stack:
        lates = []
        for i, how in enumerate(hows):
            proxy = stack.enter_context(TcpProxy(target.port))
            snap = stack.enter_context(RecoverySnap(folder / how, {"snap_service": program}, TOPOLOGY))
            hosts = stack.enter_context(hosts_on(snap, proxy.port, NQN, (ReadingNvmeHost, ReadingVblkHost)))
            lates.append(Late(snap, proxy, hosts, how, (1 + i * len(hosts)) * APART))
        yield lates


def overtaken(target, image, lates):
    """Of each service both functions have a write held, its connection is lost, and newer writes follow; what is wrong."""
    found, tags = [], []
    for late in lates:      # one at a time: the disk holds the next one it gets
        for host, lba in late.hosts:
            tags.append(f"{late.how}-{lba}")
            target.hold_next_write(tags[-1])
            late.old = getattr(late, "old", []) + [host.write(lba, OLD * 512 * BLOCKS)]
            wait(lambda: target.writes_in_flight() == len(tags), "the target's disk has taken the write")
    for late in lates:
        late.lose()
    for late in lates:
        wait(lambda: all(late.ended(late.old)), f"{late.how}: the writes are sent again and completed")
        late.new = late.write(NEW * 512 * BLOCKS)
        late.beside = late.write(BESIDE * 512, BLOCKS)
    for late in lates:
        wait(lambda: all(late.ended(late.beside)), f"{late.how}: a write beside does not wait")
    time.sleep(0.5)
    for late in lates:
        if any(late.ended(late.new)):
            found.append(f"{late.how}: a newer write completed while the old one was still to come")
    assert target.writes_in_flight() == len(tags)
    for tag in tags:
        target.release(tag)
    wait(lambda: target.writes_in_flight() == 0, "the late writes are over")
    for late in lates:
        wait(lambda: all(late.ended(late.new)), f"{late.how}: the newer writes complete", FENCE + 30)
        for host, lba in late.hosts:
            with open(image, "rb") as f:
                medium = set(os.pread(f.fileno(), BLOCKS * 512, lba * 512))
            if host.content(lba) != {NEW[0]} or medium != {NEW[0]}:
                found.append(f"{late.how}: the older write is back")
            if host.content(lba + BLOCKS, 1) != {BESIDE[0]}:
                found.append(f"{late.how}: the write beside is lost")
    return found
