# SPDX-License-Identifier: BSD-3-Clause
"""The instrument itself: our front end drives somebody else's server, and our packed ring a device of a few lines."""
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from require import require
from vfio_user import fired
from vhost_user import GuestMemory, VhostError, VhostUser
from virtio_blk import GET_ID, IN, OK, OUT, UNSUPP, VirtioBlk, pattern
from virtq import AVAIL, DISABLE, INDIRECT, NEXT, USED, WRITE, PackedRing, Seg, SplitRing

MIB = 1 << 20


@pytest.fixture(scope="module")
def daemon():
    """qemu-storage-daemon with a file behind a vhost-user-blk export."""
    tool = shutil.which("qemu-storage-daemon")
    require(tool, "qemu-storage-daemon")
    directory = Path(tempfile.mkdtemp(prefix="qsd-"))
    image = directory / "disk"
    image.write_bytes(bytes(4 * MIB))
    path = directory / "vhost.sock"
    process = subprocess.Popen(
        [tool, "--blockdev", f"driver=file,node-name=disk,filename={image},cache.direct=off,discard=unmap", "--export",
         f"type=vhost-user-blk,id=x,node-name=disk,addr.type=unix,addr.path={path},writable=on,num-queues=2"],
        stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, "qemu-storage-daemon does not start"
        time.sleep(0.01)
    yield path, image
    process.terminate()
    process.wait(10)
    shutil.rmtree(directory)


@pytest.mark.parametrize("how", [{}, {"event_idx": True}, {"queues": 2}, {"size": 4}], ids=["plain", "event", "two", "small"])
def test_write_read_flush_on_another_server(daemon, how):
    path, image = daemon
    with VirtioBlk(path, **how) as d:
        for q in range(len(d.rings)):
            for i in range(70):
                d.write(64 * q + i % 40, pattern(i, 512), queue=q)
            d.flush(queue=q)
            assert d.read(64 * q + 29, 1, queue=q) == pattern(69, 512)
        assert image.read_bytes()[29 * 512:30 * 512] == pattern(69, 512)
        assert all(r.kicks > 0 and fired(r.call_event) for r in d.rings)


def test_layouts_and_indirect_on_another_server(daemon):
    with VirtioBlk(daemon[0]) as d:
        d.write(100, pattern(1, 4096), out_cuts=[5, 11, 1024, 3072])
        d.indirect = True
        assert d.read(100, 8, in_cuts=[100, 3996, 1]) == pattern(1, 4096)
        assert d.run(999)[0] == UNSUPP
        assert d.run(GET_ID, in_bytes=20)[0] == OK
        assert d.discard((0, 8, 0)) == OK


def test_many_requests_at_once_on_another_server(daemon):
    with VirtioBlk(daemon[0], size=64, event_idx=True) as d:
        requests = [d.make(OUT, 512 + i, pattern(i, 512)) for i in range(21)]
        for r in requests:
            d.rings[0].add(r.segs)
        d.rings[0].publish()
        d.rings[0].kick()
        assert set(d.rings[0].wait_all().values()) == {1} and all(r.status == OK for r in requests)
        assert d.read(520, 1) == pattern(8, 512)


def test_config_and_features_of_another_server(daemon):
    with VirtioBlk(daemon[0], start=False) as d:
        config = d.config()
        assert config["capacity"] == 4 * MIB // 512 and config["blk_size"] == 512 and config["num_queues"] == 2
        assert d.vc.queues >= 2 and d.vc.slots >= 8


def test_rings_are_stopped_and_go_on_at_their_base_on_another_server(daemon):
    with VirtioBlk(daemon[0]) as d:
        for i in range(10):
            d.write(i, pattern(i, 512))
        d.vc.enable(0, 0)
        base = d.vc.get_base(0)
        assert base == d.rings[0].used_idx == 10
        d.start_ring(0, base)
        d.vc.enable(0)
        assert d.read(3, 1) == pattern(3, 512)


def test_refusals_are_seen():
    """With a server of our own that says no."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = f"{directory}/s"
        listener.bind(path)
        listener.listen()
        c = VhostUser(path, protocol=None)
        server = listener.accept()[0]
        c.protocol = 1 << 3
        server.sendall(struct.pack("=IIIQ", 3, 5, 8, 22))
        with pytest.raises(VhostError):
            c.do(3)
        assert server.recv(100) == struct.pack("=III", 3, 9, 0)
        server.close()
        assert c.closed_within(1)
        c.close()


class PackedDevice:
    """A packed ring's other side, as 2.8 describes it; done with everything at once, in an order of its own."""

    def __init__(self, ring, order=reversed):
        self.ring, self.order, self.at, self.wrap, self.out, self.out_wrap = ring, order, 0, 1, 0, 1
        self.chains = []

    def desc(self, i):
        return struct.unpack("<QIHH", self.ring.memory.read(self.ring.desc + 16 * i, 16))

    def fetch(self):
        found = []
        while True:
            chain, at, wrap = [], self.at, self.wrap
            while True:
                addr, length, ident, flags = self.desc(at)
                if bool(flags & AVAIL) != bool(wrap) or bool(flags & USED) == bool(wrap):
                    assert not chain, "half a chain is available"
                    return found
                chain.append((addr, length, flags & (WRITE | INDIRECT)))
                at, wrap = (at + 1, wrap) if at + 1 < self.ring.size else (0, wrap ^ 1)
                if not flags & NEXT:
                    break
            self.at, self.wrap = at, wrap
            found.append((ident, chain))

    def serve(self):
        found = self.fetch()
        for ident, chain in self.order(found):
            self.ring.write_desc(self.out, 0, sum(n for _, n, f in chain if f & WRITE), ident,
                                 (AVAIL | USED) if self.out_wrap else 0)
            self.out += len(chain)
            if self.out >= self.ring.size:
                self.out, self.out_wrap = self.out - self.ring.size, self.out_wrap ^ 1
        self.chains += found
        return len(found)


@pytest.mark.parametrize("size", [3, 8, 64])
def test_packed_ring_against_a_device_by_the_book(size):
    memory = GuestMemory(1 << 20)
    r = PackedRing(memory, size)
    device = PackedDevice(r)
    total = 0
    for lap in range(50):
        expected = {}
        while r.room >= 3:
            n = lap % 3 + 1
            ident = r.add([Seg(0x1000 * i, 10 * i + 1, i > 0) for i in range(n)])
            expected[ident] = sum(10 * i + 1 for i in range(1, n))
        assert device.serve() == 0, "nothing is available before it is published"
        r.publish()
        assert device.serve() == len(expected)
        assert r.poll() == len(expected)
        assert r.done == expected and not r.unexpected and not r.outstanding
        r.done = {}
        total += len(expected)
    assert len(device.chains) == total and r.room == size
    r.set_driver_event(DISABLE)
    r.memory.set16(r.device + 2, DISABLE)
    assert not r.wants_kick()
    r.close()
    memory.close()


def test_ring_that_goes_on_in_the_middle():
    memory = GuestMemory(1 << 20)
    for wrap in (0, 1):
        r = PackedRing(memory, 8)
        r.resume(5, wrap)
        device = PackedDevice(r)
        device.at = device.out = 5
        device.wrap = device.out_wrap = wrap
        for _ in range(20):
            ident = r.add([Seg(0, 1, True), Seg(0, 2, True)])
            r.publish()
            assert device.serve() == 1 and r.poll() == 1 and r.done.pop(ident) == 3
        r.close()
    s = SplitRing(memory, 8)
    s.resume(65534)
    for i in range(4):
        s.add([Seg(0, 1, True)])
    s.publish()
    assert s.memory.get16(s.driver + 2) == 2 and s.poll() == 0
    s.close()
    memory.close()


def test_data_of_a_read_is_what_the_device_wrote():
    """The checks can fail: a request whose buffers nobody has written shows neither a status nor data."""
    memory = GuestMemory(1 << 20)
    d = VirtioBlk.__new__(VirtioBlk)
    d.memory, d.buffers = memory, {}
    r = d.make(IN, 5, in_bytes=512)
    assert r.status not in (0, 1, 2) and r.data == b"\xa5" * 512
    assert [(s.len, s.write) for s in r.segs] == [(16, False), (512, True), (1, True)]
    assert memory.read(r.out_at, 16) == struct.pack("<IIQ", IN, 0, 5)
    memory.close()
