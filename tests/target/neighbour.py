# SPDX-License-Identifier: BSD-3-Clause
"""A host that verifies a disk of its own all the time."""
import os
import random
import threading
import time

from nvme_tcp_host import Host
from nvme_tcp_wire import crc32c


class Neighbour(threading.Thread):
    """Writes and reads a few blocks at a modest rate, by capsules and by R2T."""
    SIZES = (1, 8, 16, 64)

    def __init__(self, port, nqn, blocks=4096):
        super().__init__(daemon=True)
        self.blocks = blocks
        self.host = Host(port, nqn, io_queues=1, hdgst=True, ddgst=True, kato=20000)
        self.random = random.Random(1)
        self.written = {}           # block: CRC of what is there
        self.rounds = 0
        self.problem = None
        self.stopping = False
        self.start()

    def run(self):
        try:
            while not self.stopping:
                self.round()
                self.rounds += 1
                time.sleep(0.004)
        except Exception as e:      # whatever it is, check() says so
            self.problem = e

    def round(self):
        q, n = self.host.io[0], self.random.choice(self.SIZES)
        at = self.random.randrange(self.blocks - n)
        data = os.urandom(512 * n)
        assert q.write(at, data).status == 0
        for i in range(n):
            self.written[at + i] = crc32c(data[512 * i:512 * i + 512])
        at = self.random.choice(list(self.written))
        reply = q.read(at, min(8, self.blocks - at))
        assert reply.status == 0
        for i in range(len(reply.data) // 512):
            known = self.written.get(at + i)
            assert known is None or known == crc32c(reply.data[512 * i:512 * i + 512]), f"block {at + i}"
        if self.rounds % 50 == 0:
            assert self.host.admin.keep_alive().status == 0

    def check(self):
        """Nothing found, and it goes on."""
        rounds, deadline = self.rounds, time.monotonic() + 60
        while self.rounds < rounds + 2:
            assert self.problem is None, f"the neighbour: {self.problem!r}"
            assert time.monotonic() < deadline, "the neighbour stands still"
            time.sleep(0.005)

    def stop(self):
        self.stopping = True
        self.join(60)
        self.host.close()
        assert self.problem is None and not self.is_alive(), f"the neighbour: {self.problem!r}"
