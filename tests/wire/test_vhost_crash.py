# SPDX-License-Identifier: BSD-3-Clause
"""The service or snap_emu dies with requests in flight: every request is completed once."""
import struct
import time

import pytest
import vhost_user as vu
from blk_chains import AWAY, MIB, held
from nvme_tcp_peer import NvmeTcpPeer, PeerNamespace
from vhost_user import GuestMemory
from virtio_blk import OK, OUT, VirtioBlk, pattern


# ---- the service dies ----

def wait_started(snap, ctrl="Blk0", seconds=20):
    deadline = time.monotonic() + seconds
    while True:
        found = [c["state"] for c in snap.rpc("virtio_blk_controller_list") if c["ctrl_id"] == ctrl]
        if found == ["STARTED"]:
            return
        assert time.monotonic() < deadline, f"{ctrl} is {found}"
        time.sleep(0.01)


def test_killed_service_leaves_nothing_open(blk_snap, either, blk_neighbour):
    """The front end's socket, rings and eventfds stay; it notices a pause at most."""
    either.works()
    for lap in range(2):
        with held(either, seed=700 + 20 * lap) as h:
            h.wait_fetched()
            blk_snap.kill_service()
            try:
                h.back()  # answered by snap_emu
                assert either.vc.status() & vu.DRIVER_OK and either.config()["capacity"] == 16384
                more = either.make(OUT, 3000, pattern(3, 512))
                h.ids.append(either.rings[0].submit(more.segs))
                h.requests.append(more)
            finally:
                blk_snap.start_service()
            h.check()
            assert either.read(3000, 1) == pattern(3, 512)
    assert either.vc.silent(0.01) and not either.vc.status() & vu.NEEDS_RESET


def test_killed_service_and_order(blk_snap, either, packed):
    ring = either.rings[0]
    (ring.free_ids if packed else ring.free).reverse()
    with held(either, count=12, sector=500, step=0, seed=900) as h:
        h.wait_fetched()
        blk_snap.kill_service()
        try:
            h.back()
        finally:
            blk_snap.start_service()
        h.check()


def test_messages_while_there_is_no_service(blk_snap, blk_path, packed, blk_neighbour):
    """Parked: memory is taken away after the fence; a ring without in-flight area cannot be drained, so the connection
    ends by a deadline."""
    with VirtioBlk(blk_path, packed=packed, inflight=False) as d:
        d.works()
        ram = GuestMemory(MIB, AWAY)
        ram.attach(d.vc)
        blk_snap.kill_service()
        try:
            start = time.monotonic()
            ram.detach(d.vc)
            ram.attach(d.vc)
            d.vc.enable(0, 0)
            d.vc.enable(0, 1)
            d.vc.call_fd(0, d.rings[0].call_event)
            assert time.monotonic() - start < 3
            with pytest.raises(vu.Disconnected):
                d.vc.get_base(0, timeout=8)
            assert 2 < time.monotonic() - start < 8
        finally:
            blk_snap.start_service()
        ram.close()
        d.reconnect(bases=[d.rings[0].position()] if packed else None)
        d.works()


def test_stop_that_waits_for_the_next_service(blk_snap, blk_path, packed):
    """Without an in-flight area only the next service knows where the ring is."""
    with VirtioBlk(blk_path, packed=packed, inflight=False) as d:
        d.works()
        blk_snap.kill_service()
        d.vc.send(vu.GET_VRING_BASE, struct.pack("=II", 0, 0))
        assert d.vc.silent(0.1)
        blk_snap.start_service()
        assert struct.unpack("=II", d.vc.reply_to(vu.GET_VRING_BASE))[1] == (d.rings[0].position() if packed else 2)


def go_on(disk, bases):
    """As a VM that was paused: memory and area are still there."""
    disk.vc.set_features(disk.vc.offered & disk.wanted)
    disk.vc.set_inflight(disk.area)
    for i, base in enumerate(bases):
        disk.start_ring(i, base)
    disk.enable()


@pytest.mark.parametrize("status_first", [True, False])
def test_stop_does_not_wait_for_a_service_when_there_is_an_area(blk_snap, either, status_first):
    """A paused VM: what was in flight is done when the ring starts again, wherever its base says it is."""
    for i in range(3):
        either.works(i)
    with held(either) as h:
        h.wait_fetched()
        blk_snap.kill_service()
        try:
            if status_first:
                either.vc.set_status(0)
            bases = [either.vc.get_base(i) for i in range(len(either.rings))]
            if not status_first:
                either.vc.set_status(0)
        finally:
            blk_snap.start_service()
        assert either.vc.silent(0.1) and len(either.area.inflight(packed=either.packed)) == len(h.ids)
        h.back()
        go_on(either, bases)
        h.check()
        either.works()


def test_target_that_is_away_makes_an_old_qemu_wait(blk_snap, fresh):
    """It says status 0 before it asks for bases, and would not come over a connection that is lost meanwhile."""
    with NvmeTcpPeer(namespaces=[PeerNamespace(1, blocks=4096)]) as peer:
        blk_snap.rpc("bdev_nvme_attach_controller", name="Away", trtype="TCP", traddr="127.0.0.1", adrfam="IPv4",
                     trsvcid=str(peer.port), subnqn=peer.nqn)
        with VirtioBlk(fresh(bdev="Awayn1")) as d:
            d.works()
            peer.hold()
            request = d.make(OUT, 64, pattern(64, 512))
            ident = d.submit(request)
            while not any(c.held for c in peer.connections):
                time.sleep(0.01)
            d.vc.send(vu.SET_STATUS, struct.pack("=Q", 0), need_reply=True)
            assert d.vc.silent(3.5)
            peer.release()
            assert struct.unpack("=Q", d.vc.reply_to(vu.SET_STATUS)) == (0,)
            assert d.rings[0].wait(ident) == 1 and request.status == OK
            assert d.vc.get_base(0) == d.rings[0].device_idx() == 3
        [made] = [c for c in blk_snap.rpc("virtio_blk_controller_list") if c["bdev"] == "Awayn1"]
        blk_snap.rpc("virtio_blk_controller_bdev_detach", ctrl_id=made["ctrl_id"])
        blk_snap.rpc("bdev_nvme_detach_controller", name="Away")


def test_driver_that_resets_while_there_is_no_service_and_forgets_to_clear_its_area(blk_snap, either):
    """Its rings are new: what the area says of the old ones is not done."""
    either.works()
    with held(either) as h:
        h.wait_fetched()
        blk_snap.kill_service()
        either.stop()
        blk_snap.start_service()
        h.back()
        for r in either.rings:
            r.restart()
        go_on(either, [r.base() for r in either.rings])
        either.works()
        assert h.untouched()


def test_reset_while_there_is_no_service(blk_snap, either):
    with held(either) as h:
        h.wait_fetched()
        blk_snap.kill_service()
        try:
            either.vc.do(vu.RESET_DEVICE)
            h.back()
        finally:
            blk_snap.start_service()
        either.restart()
        either.works()
        assert h.untouched()


def test_front_end_comes_while_there_is_no_service(blk_snap, blk_path, packed):
    blk_snap.kill_service()
    try:
        d = VirtioBlk(blk_path, packed=packed)
        request = d.make(OUT, 70, pattern(70, 512))
        ident = d.submit(request)
        assert d.rings[0].quiet(0.05)
    finally:
        blk_snap.start_service()
    assert d.rings[0].wait(ident) == 1 and request.status == OK
    d.works()
    d.close()


# ---- snap_emu dies ----

@pytest.mark.parametrize("first", ["emu", "service"])
def test_killed_snap_emu_loses_the_connection_only(own_blk_snap, packed, first):
    """State memory is gone with it: the in-flight area tells what was in flight."""
    s = own_blk_snap
    with VirtioBlk(s.vhost_socket(s.vuids[0]), packed=packed) as d:
        d.works()
        with held(d) as h:
            h.wait_fetched()
            if first == "service":
                s.kill_service()
                s.kill_emu()
            else:
                s.kill_emu()
                s.kill_service()
            (s.run_dir / "emu.sock").unlink(missing_ok=True)
            assert d.vc.closed_within(5)
            assert len(d.area.inflight(packed=packed)) == len(h.ids)
            s.start_emu()
            s.start_service()
            wait_started(s)
            d.reconnect(before_start=h.back)
            h.check()
        d.works()
