# SPDX-License-Identifier: BSD-3-Clause
"""A front end's life: one at a time, gone at any step, come back to the same disk."""
import socket
import struct
import time

import pytest
import vhost_user as vu
from blk_chains import break_ring
from disks import no_more_fds, open_fds
from vhost_user import Disconnected, GuestMemory, Timeout, VhostUser, frame
from virtio_blk import IN, OUT, Request, VirtioBlk, connect_soon, head, pattern
from virtq import Seg


def test_socket_path(blk_path):
    assert blk_path.name == "vhost.sock" and len(str(blk_path)) <= 107


def test_function_without_a_controller_refuses_front_ends(own_blk_snap):
    """A VMM gets a clear error, not a hang."""
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        VhostUser(own_blk_snap.vhost_socket(own_blk_snap.vuids[3]), timeout=3).close()


def test_second_front_end_is_refused_and_the_first_goes_on(either, blk_neighbour):
    for _ in range(20):
        with pytest.raises((Disconnected, ConnectionError, Timeout)):
            VhostUser(either.path, timeout=5).close()
        either.works()


def test_next_front_end_finds_a_reset_device_and_the_same_disk(blk_path, packed):
    with VirtioBlk(blk_path, packed=packed) as d:
        d.write(70, pattern(70, 512))
        config, ident = d.vc.get_config(), d.get_id()
    with VirtioBlk(blk_path, packed=packed) as d:
        assert d.vc.get_config() == config and d.get_id() == ident
        assert d.read(70, 1) == pattern(70, 512)
    with connect_soon(blk_path) as c:
        assert c.status() == 0


def test_stop_and_start_like_a_rebooting_guest(either):
    for i in range(10):
        either.works(i)
        either.stop()
        either.area.clear()
        either.restart()


def test_descriptors_of_a_gone_front_end_are_dropped(blk_path, blk_snap, packed):
    before = None
    for i in range(30):
        with VirtioBlk(blk_path, packed=packed, queues=2) as d:
            d.works()
        if i == 4:
            connect_soon(blk_path).close()
            before = open_fds(blk_snap)
    connect_soon(blk_path).close()
    assert no_more_fds(blk_snap, before)


STATES = ["connected", "half_header", "half_message", "negotiated", "memory", "half_set_up", "started", "disabled", "io",
          "unread_replies", "resetting", "stopping", "unmapping", "broken"]


@pytest.mark.parametrize("state", STATES)
def test_front_end_dying_at_any_step_makes_room_for_the_next(blk_path, packed, state, blk_neighbour):
    for _ in range(3):
        d = VirtioBlk(blk_path, packed=packed, start=False, protocol=None if state in STATES[:3] else vu.QEMU_PROTOCOL)
        vc = d.vc
        if state == "half_header":
            vc.send_raw(frame(vu.GET_FEATURES)[:5])
        elif state == "half_message":
            vc.send_raw(frame(vu.SET_MEM_TABLE, bytes(40))[:30])
        elif state == "memory":
            d.memory.attach(vc)
        elif state == "half_set_up":
            vc.set_features(vc.offered & d.wanted)
            d.memory.attach(vc)
            vc.set_num(0, 64)
        elif state not in ("connected", "negotiated"):
            d.start()
            requests = [d.make(OUT if i % 2 else IN, 8 * i, pattern(i, 4096) if i % 2 else b"", 0 if i % 2 else 4096)
                        for i in range(20)]
            if state not in ("started", "disabled", "broken"):
                for r in requests:
                    d.rings[0].add(r.segs)
                d.rings[0].publish()
                d.rings[0].kick()
            if state == "disabled":
                vc.enable(0, 0)
            elif state == "unread_replies":
                for _ in range(50):
                    vc.send(vu.GET_CONFIG, struct.pack("=III", 0, 256, 0))
            elif state == "resetting":
                vc.send(vu.RESET_DEVICE)
            elif state == "stopping":
                vc.send(vu.GET_VRING_BASE, struct.pack("=II", 0, 0))
            elif state == "unmapping":
                vc.send(vu.REM_MEM_REG, bytes(8) + vc.region(d.memory.gpa, d.memory.size))
            elif state == "broken":
                break_ring(d)
        vc.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        d.close()
        connect_soon(blk_path).close()
    with VirtioBlk(blk_path, packed=packed) as d:
        d.works()


def test_late_io_of_a_gone_front_end_never_lands_in_its_memory(blk_path, packed):
    """The guest's memory outlives its VMM here: nothing may be written to it once the next one is served."""
    ram = GuestMemory(8 << 20)
    for _ in range(5):
        ram.used = 0
        ram.map[:] = bytes(ram.size)
        d = VirtioBlk(blk_path, packed=packed, memory=ram, size=256)
        data = [ram.alloc(4096) for _ in range(60)]
        requests = [Request(ram, head(IN, 8 * i), 1) for i in range(60)]
        for r, at in zip(requests, data):
            d.rings[0].add([r.segs[0], Seg(at, 4096, True), r.segs[1]])
        d.rings[0].publish()
        d.rings[0].kick()
        d.close()
        with connect_soon(blk_path):
            ram.map[:] = b"\x77" * ram.size
            time.sleep(0.01)
            assert ram.map[:] == b"\x77" * ram.size
    ram.close()


def send_without_reading(c):
    """Until nothing more goes out, or the server closes. True: it has closed."""
    data = frame(vu.GET_CONFIG, struct.pack("=III", 0, 256, 0)) * 50
    try:
        while True:
            c.sock.send(data)
    except BlockingIOError:
        return False
    except (BrokenPipeError, ConnectionResetError):
        return True


def test_front_ends_that_stall_are_dropped_by_a_deadline(blk_snap, fresh, blk_neighbour):
    """At the same time: one that never says anything, one with half a message, one that does not read its replies."""
    fresh()
    paths = [blk_snap.vhost_socket(blk_snap.vuids[i]) for i in (0, 2, 3)]
    with VhostUser(paths[0], protocol=None) as silent, VhostUser(paths[1]) as half, VhostUser(paths[2]) as full:
        half.send_raw(frame(vu.SET_FEATURES, bytes(4), size=8))
        full.sock.setblocking(False)
        assert not send_without_reading(full)
        assert silent.silent(1) and half.silent(0) and not send_without_reading(full)
        deadline = time.monotonic() + 9
        assert silent.closed_within(deadline - time.monotonic())
        assert half.closed_within(deadline - time.monotonic())
        while not send_without_reading(full):
            assert time.monotonic() < deadline, "still connected without having read a reply"
            time.sleep(0.02)
    for path in paths:
        connect_soon(path).close()


def test_many_connections_at_once_are_bounded(blk_path, blk_snap, blk_neighbour):
    socks = []
    before = open_fds(blk_snap)
    for _ in range(200):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(0.1)
        try:
            s.connect(str(blk_path))
        except OSError:
            s.close()
            continue
        socks.append(s)
    assert no_more_fds(blk_snap, (before[0] + 50, before[1]))
    for s in socks:
        s.close()
    with connect_soon(blk_path, seconds=15):
        pass
    with VirtioBlk(blk_path) as d:
        d.works()


def test_connect_and_leave_a_thousand_times_leaks_nothing(blk_path, blk_snap):
    connect_soon(blk_path).close()
    before = open_fds(blk_snap)
    for _ in range(1000):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(blk_path))
        s.close()
    connect_soon(blk_path).close()
    assert no_more_fds(blk_snap, before)


def test_suspended_controller_fetches_nothing_until_it_is_resumed(blk, blk_snap):
    blk.works()
    blk_snap.rpc("virtio_blk_controller_suspend", ctrl_id="Blk0")
    try:
        request = blk.make(OUT, 5, pattern(5, 512))
        ident = blk.submit(request)
        assert blk.rings[0].quiet(0.1)
        assert blk.config()["capacity"] == 16384
    finally:
        blk_snap.rpc("virtio_blk_controller_resume", ctrl_id="Blk0")
    assert blk.rings[0].wait(ident) == 1
    assert blk.read(5, 1) == pattern(5, 512)


def test_controller_destroyed_under_a_front_end_and_made_again(fresh, blk_snap):
    """The connection stays; without a controller nothing is served, with the next one, once it is resumed, all goes on."""
    blk_snap.rpc("bdev_malloc_create", name="Again", block_size=512, num_blocks=4096)
    path = fresh(bdev="Again", ctrl_id="BlkAgain")
    with VirtioBlk(path) as d:
        d.works()
        blk_snap.rpc("virtio_blk_controller_destroy", ctrl_id="BlkAgain")
        request = d.make(OUT, 5, pattern(5, 512))
        ident = d.submit(request)
        assert d.rings[0].quiet(0.05)
        blk_snap.rpc("virtio_blk_controller_create", pf_id=3, ctrl_id="BlkAgain", bdev="Again")
        blk_snap.rpc("virtio_blk_controller_resume", ctrl_id="BlkAgain")
        assert d.rings[0].wait(ident) == 1
        assert d.read(5, 1) == pattern(5, 512)


def test_functions_show_who_is_connected(blk, blk_snap):
    [mine] = [c for c in blk_snap.rpc("virtio_blk_controller_list") if c["ctrl_id"] == "Blk0"]
    assert mine["plugged"]
    kinds = {f["emulation_type"] for f in blk_snap.rpc("emulation_function_list", all=True)}
    assert kinds == {"NVME", "VBLK"}
