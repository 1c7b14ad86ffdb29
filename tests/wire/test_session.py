# SPDX-License-Identifier: BSD-3-Clause
"""A client's life: one at a time, gone in any state, come back to the same disk."""
import os
import socket
import struct
import time

import pytest
import vfio_user as v
from disks import emu_fds, service_fds
from nvme import CC, CSTS, READ, WRITE, Nvme, pattern
from vfio_user import Disconnected, Timeout, VfioError, VfioUser


def test_socket_is_named_as_spdk_wants_it(path):
    assert path.name == "cntrl"
    assert len(str(path)) <= 107


def test_second_client_is_refused_and_the_first_goes_on(nvme, path, neighbour):
    for _ in range(20):
        with pytest.raises((VfioError, Disconnected, ConnectionError, Timeout)):
            VfioUser(path, timeout=5).close()
        nvme.read(0, 1)


def test_new_client_finds_a_reset_function_and_the_same_disk(path):
    with Nvme(path) as n:
        n.write(7, pattern(9, 512))
        identity = n.identify(1)[:256]
    with VfioUser(path) as c:
        assert c.read32(0, CC) == 0 and c.read32(0, CSTS) & 1 == 0 and c.read32(0, 0x24) == 0
        assert c.config16(4) & 6 == 0
    with Nvme(path) as n:
        assert n.identify(1)[:256] == identity
        assert n.read(7, 1) == pattern(9, 512)


def test_maps_and_eventfds_of_a_gone_client_are_dropped(path, snap):
    with Nvme(path) as n:
        n.read(0, 1)
    deadline = time.monotonic() + 5
    before = None
    for i in range(30):
        with Nvme(path) as n:
            n.read(0, 1)
        if i == 5:
            time.sleep(0.2)
            before = emu_fds(snap), service_fds(snap)
    time.sleep(0.2)
    while (emu_fds(snap), service_fds(snap)) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert emu_fds(snap) <= before[0] and service_fds(snap) <= before[1]


@pytest.mark.parametrize("state", ["connected", "half_version", "agreed", "half_message", "mapped", "enabled", "io",
                                   "unread_replies", "resetting"])
def test_client_dying_in_any_state_makes_room_for_the_next(path, state, neighbour):
    for _ in range(5):
        c = VfioUser(path, minor=None if state in ("connected", "half_version") else 0)
        if state == "half_version":
            c.send_raw(c.frame(v.VERSION, bytes(64))[1][:24])
        elif state == "half_message":
            c.send_raw(c.frame(v.REGION_WRITE, bytes(64))[1][:40])
        elif state == "mapped":
            m = v.Memory()
            m.attach(c)
            m.close()
        elif state == "enabled":
            c.close()
            c = Nvme(path).vc
        elif state == "io":
            c.close()
            n = Nvme(path)
            at = n.memory.alloc(4096 * 32)
            for i in range(32):
                n.io[1].push(n.rw(READ if i % 2 else WRITE, 1000 + 8 * i, 8, at + 4096 * i))
            n.io[1].ring()
            c = n.vc
        elif state == "unread_replies":
            for _ in range(50):
                c.send(v.REGION_READ, struct.pack("=QII", 0, v.CONFIG, 4096))
        elif state == "resetting":
            c.send(v.DEVICE_RESET)
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()
        connect_soon(path).close()
    with Nvme(path) as n:
        n.write(0, pattern(10, 512))
        assert n.read(0, 1) == pattern(10, 512)


def connect_soon(path, seconds=10):
    """The old client's reset may take a moment; EAGAIN: so many wait already."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return VfioUser(path, timeout=5)
        except (VfioError, Disconnected, ConnectionError, Timeout, BlockingIOError):
            assert time.monotonic() < deadline, "the function takes no client any more"
            time.sleep(0.01)


def test_dead_clients_late_io_never_lands_in_the_next_ones_memory(path):
    """The guest's memory outlives its VMM here: nothing may be written to it once the next client is served."""
    n = Nvme(path)
    at = n.memory.alloc(4096 * 60)
    for i in range(60):
        n.io[1].push(n.rw(READ, 8 * i, 8, at + 4096 * i))
    n.io[1].ring()
    n.vc.close()
    with connect_soon(path) as c:
        c.device_info()
        n.memory.write(at, b"\x77" * (4096 * 60))
        time.sleep(0.2)
        assert n.memory.read(at, 4096 * 60) == b"\x77" * (4096 * 60)
    n.memory.close()


def test_client_that_stops_reading_is_dropped_by_a_deadline(path, neighbour):
    with VfioUser(path) as c:
        c.sock.setblocking(False)
        data = c.frame(v.REGION_READ, struct.pack("=QII", 0, v.CONFIG, 4096))[1]
        end = time.monotonic() + 20
        try:
            while time.monotonic() < end:
                try:
                    c.sock.send(data * 50)
                except BlockingIOError:
                    time.sleep(0.05)
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            raise AssertionError("still connected after 20 s without reading a reply")
    connect_soon(path).close()


def test_many_connections_at_once_are_bounded(path, snap, neighbour):
    socks = []
    before = emu_fds(snap)
    for _ in range(200):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(0.2)
        try:
            s.connect(str(path))
        except OSError:
            s.close()
            continue
        socks.append(s)
    time.sleep(0.2)
    assert emu_fds(snap) < before + 50
    for s in socks:
        s.close()
    connect_soon(path, 15).close()
    with Nvme(path) as n:
        n.read(0, 1)


def test_connect_and_leave_a_thousand_times_leaks_nothing(path, snap):
    connect_soon(path).close()
    before = emu_fds(snap)
    for _ in range(1000):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(path))
        s.close()
    connect_soon(path).close()
    deadline = time.monotonic() + 5
    while emu_fds(snap) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert emu_fds(snap) <= before


def test_function_without_a_controller_refuses_clients(snap, tmp_path):
    """A VMM gets a clear error, not a hang."""
    from snap import Snap
    with Snap(tmp_path, {"NVME_EMULATION_ENABLE": "True", "NVME_EMULATION_NUM_PF": 1}) as other:
        socket_path = other.vfio_socket(other.functions()[0]["vuid"])
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            VfioUser(socket_path, timeout=3)
        os.listdir(other.run_dir / "functions")
