# SPDX-License-Identifier: BSD-3-Clause
"""The device's configuration: read, written, and changed under the front end."""
import os
import struct
import time

import pytest
import vhost_user as vu
import virtio_blk as vb
from blk_chains import fill
from disks import BLK_QUEUES, BLOCKS, no_more_fds, open_fds
from nvme_tcp_peer import NvmeTcpPeer, PeerNamespace
from snap import RpcError
from vhost_user import VhostError, VhostUser
from virtio_blk import OK, OUT, WRITEBACK_OFFSET, VirtioBlk, decode_config

MIB = 1 << 20


@pytest.fixture
def file_disk(blk_snap, fresh, tmp_path):
    """A disk on a file that can change its size: (socket, image, name of the bdev)."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(4 * MIB))
    blk_snap.rpc("bdev_uring_create", name="Resized", filename=str(image), block_size=512)
    yield fresh(bdev="Resized", num_queues=2), image, "Resized"
    [made] = [c for c in blk_snap.rpc("virtio_blk_controller_list") if c["vuid"] == blk_snap.vuids[3]]
    if made["bdev"] != "none":
        blk_snap.rpc("virtio_blk_controller_bdev_detach", ctrl_id=made["ctrl_id"])
    blk_snap.rpc("bdev_uring_delete", name="Resized")


def ctrl_of(snap, pf=3):
    return next(c["ctrl_id"] for c in snap.rpc("virtio_blk_controller_list") if c["vuid"] == snap.vuids[pf])


def test_fields(blk):
    c = blk.config()
    assert c["capacity"] == BLOCKS and c["blk_size"] == 512 and c["num_queues"] == BLK_QUEUES
    assert c["seg_max"] == 254 and c["writeback"] in (0, 1)
    assert c["max_discard_sectors"] > 0 and 0 < c["max_discard_seg"] <= 256 and c["discard_sector_alignment"] == 1
    assert c["max_write_zeroes_sectors"] > 0 and c["max_write_zeroes_seg"] > 0 and c["write_zeroes_may_unmap"] in (0, 1)
    assert c["cylinders"] == c["unused0"] == 0


def test_capacity_is_in_512_byte_sectors_whatever_the_block_size(blk_snap, fresh):
    blk_snap.rpc("bdev_malloc_create", name="Big4K", block_size=4096, num_blocks=512)
    with VhostUser(fresh(bdev="Big4K", queue_size=64, seg_max=17, size_max=65536, num_queues=3)) as c:
        config = decode_config(c.get_config())
        assert config["capacity"] == 4096 and config["blk_size"] == 4096 and config["discard_sector_alignment"] == 8
        assert (config["seg_max"], config["size_max"], config["num_queues"]) == (17, 65536, 3)
        assert c.offered >> vb.SIZE_MAX & 1 and c.queues == 3


def test_exactly_the_bytes_asked_for(fe):
    whole = fe.get_config(0, 256)
    assert whole[60:] == bytes(196)
    for offset, size in ((0, 1), (0, 8), (1, 3), (34, 2), (59, 1), (60, 4), (255, 1), (0, 60), (7, 249), (100, 0), (256, 0)):
        assert fe.get_config(offset, size) == whole[offset:offset + size]


def test_without_room_for_the_answer_in_the_request(fe):
    """QEMU sends as many bytes as it asks for; others send the fields only."""
    payload = fe.call(vu.GET_CONFIG, struct.pack("=III", 0, 60, 0))
    assert len(payload) == 72 and payload[12:] == fe.get_config()


def test_beyond_the_end_is_an_empty_answer(fe, blk_neighbour):
    for offset, size in ((0, 257), (256, 1), (255, 2), (0xffffffff, 1), (1, 0xffffffff), (0xffffffff, 0xffffffff), (8, 4096)):
        assert fe.get_config(offset, size) is None
    assert fe.get_config(0, 8) == struct.pack("<Q", BLOCKS)


def test_fields_nobody_may_write_stay_as_they_are(blk, blk_neighbour):
    before = blk.vc.get_config(0, 256)
    for offset, data in ((0, bytes(8)), (0, b"\xff" * 32), (33, b"\xff" * 27), (60, b"\xff" * 196), (24, b"\1\2\3\4")):
        try:
            blk.vc.set_config(offset, data)
        except VhostError:
            pass
    assert blk.vc.get_config(0, 256) == before
    blk.works()


def test_writes_that_lie_about_their_size_are_refused(fe):
    before = fe.get_config(0, 256)
    for offset, size, data in ((0, 257, bytes(256)), (256, 1, b"\1"), (255, 2, b"\1\1"), (0xffffffff, 1, b"\1"),
                               (WRITEBACK_OFFSET, 2, b"\1"), (WRITEBACK_OFFSET, 200, bytes(8)), (1, 0xffffffff, b"\1")):
        with pytest.raises(VhostError):
            fe.set_config(offset, data, size=size)
    assert fe.get_config(0, 256) == before


def test_write_cache_is_switched_by_the_host(file_disk):
    """A disk with a write cache offers CONFIG_WCE. The setting outlives resets and connections: QEMU answers its
    guest from a copy of the configuration, so a guest that reset its device goes on without flushes."""
    path, _, _ = file_disk
    with VirtioBlk(path) as d:
        assert d.vc.offered >> vb.CONFIG_WCE & 1 and d.config()["writeback"] == 1
        d.vc.set_config(WRITEBACK_OFFSET, b"\0", flags=0)
        assert d.config()["writeback"] == 0
        d.works()
        d.flush()
        d.vc.set_config(WRITEBACK_OFFSET, b"\1")
        assert d.config()["writeback"] == 1
        d.vc.set_config(WRITEBACK_OFFSET, b"\0")
        d.vc.do(vu.RESET_DEVICE)
        assert d.config()["writeback"] == 0
    with VirtioBlk(path) as d:
        assert d.config()["writeback"] == 0
        d.vc.set_config(WRITEBACK_OFFSET, b"\1")
        assert d.config()["writeback"] == 1


# ---- the back-end channel ----

def test_resize_is_told_and_read_at_once(file_disk, blk_snap):
    """The front end asks for the configuration before it thinks of answering anything. Requests are on their way."""
    path, image, bdev = file_disk
    with VirtioBlk(path) as d:
        assert d.config()["capacity"] == 8192
        for sectors in (16384, 4096):
            requests = fill(d)
            d.rings[0].publish()
            d.rings[0].kick()
            os.truncate(image, sectors * 512)
            blk_snap.rpc("bdev_uring_rescan", name=bdev)
            d.vc.config_change()
            assert d.config()["capacity"] == sectors
            d.rings[0].wait_all()
            assert {r.status for r in requests} == {OK}
            assert d.run(OUT, sectors - 1, bytes(512))[0] == OK
            assert d.run(OUT, sectors, bytes(512))[0] != OK


def test_disk_that_cannot_be_detached_stays(blk_snap, fresh):
    """The target holds a write: the detach gives up and says so, and the write has its real end."""
    with NvmeTcpPeer(namespaces=[PeerNamespace(1, blocks=4096)]) as peer:
        blk_snap.rpc("bdev_nvme_attach_controller", name="Held", trtype="TCP", traddr="127.0.0.1", adrfam="IPv4",
                     trsvcid=str(peer.port), subnqn=peer.nqn)
        with VirtioBlk(fresh(bdev="Heldn1")) as d:
            ctrl = ctrl_of(blk_snap)
            d.works()
            peer.hold()
            held = d.make(OUT, 64, b"held" * 128)
            chain = d.submit(held)
            while not any(c.held for c in peer.connections):
                time.sleep(0.01)
            with pytest.raises(RpcError, match="1 requests are still in flight"):
                blk_snap.rpc("virtio_blk_controller_bdev_detach", ctrl_id=ctrl)
            assert d.config()["capacity"] == 4096
            peer.release()
            assert d.rings[0].wait(chain, 10.0) == 1 and held.status == OK
            d.works()
            blk_snap.rpc("virtio_blk_controller_bdev_detach", ctrl_id=ctrl)
            assert d.config()["capacity"] == 0
        blk_snap.rpc("bdev_nvme_detach_controller", name="Held")


def test_disk_detached_and_another_one_attached(blk_snap, fresh):
    for name, blocks in (("DetachA", 2048), ("DetachB", 1024)):
        blk_snap.rpc("bdev_malloc_create", name=name, block_size=512, num_blocks=blocks)
    with VirtioBlk(fresh(bdev="DetachA")) as d:
        ctrl = ctrl_of(blk_snap)
        d.works(sector=100)
        blk_snap.rpc("virtio_blk_controller_bdev_detach", ctrl_id=ctrl)
        d.vc.config_change()
        assert d.config()["capacity"] == 0
        assert d.run(OUT, 0, bytes(512))[0] == vb.IOERR
        blk_snap.rpc("virtio_blk_controller_bdev_attach", ctrl_id=ctrl, bdev="DetachB")
        d.vc.config_change()
        assert d.config()["capacity"] == 1024
        d.works(sector=100)


def test_no_channel_no_message(file_disk, blk_snap):
    """Changes under a front end without BACKEND_REQ; it reads what there is."""
    path, image, bdev = file_disk
    with VirtioBlk(path, protocol=vu.QEMU_PROTOCOL & ~(1 << vu.BACKEND_REQ)) as d:
        os.truncate(image, 2 * MIB)
        blk_snap.rpc("bdev_uring_rescan", name=bdev)
        deadline = time.monotonic() + 5
        while d.config()["capacity"] != 4096:
            assert time.monotonic() < deadline
        d.works()
        assert d.vc.silent()


def test_channel_that_is_not_read_blocks_nobody(file_disk, blk_snap, blk_neighbour):
    """When it is full one note stands for all changes; it comes when there is room."""
    path, image, bdev = file_disk
    changes, told = 100, 0
    with VirtioBlk(path) as d:
        d.vc.open_channel(room=1)
        for i in range(changes):
            os.truncate(image, MIB + 512 * (i + 1))
            blk_snap.rpc("bdev_uring_rescan", name=bdev)
        d.works(sector=0)
        deadline = time.monotonic() + 5
        while d.config()["capacity"] != MIB // 512 + changes:
            assert time.monotonic() < deadline
        while not d.vc.channel.silent(0.1):
            d.vc.config_change()
            told += 1
        assert 2 <= told < changes
        os.truncate(image, MIB)
        blk_snap.rpc("bdev_uring_rescan", name=bdev)
        d.vc.config_change()


def test_channel_closed_or_talked_to_harms_nobody(file_disk, blk_snap, blk_neighbour):
    path, image, bdev = file_disk
    with VirtioBlk(path) as d:
        for _ in range(100):
            d.vc.channel.send_raw(vu.frame(2, bytes(8), vu.VERSION | vu.REPLY))
        d.vc.channel.send_raw(b"\xff" * 4000, (d.rings[0].kick_event,) * 8)
        os.truncate(image, 2 * MIB)
        blk_snap.rpc("bdev_uring_rescan", name=bdev)
        d.vc.config_change()
        d.vc.channel.close()
        os.truncate(image, 3 * MIB)
        blk_snap.rpc("bdev_uring_rescan", name=bdev)
        d.works()
        d.vc.channel = None
        d.vc.open_channel()
        os.truncate(image, 4 * MIB)
        blk_snap.rpc("bdev_uring_rescan", name=bdev)
        d.vc.config_change()


def test_channel_replaced_thousands_of_times(fe, blk_snap):
    fe.open_channel()
    before = open_fds(blk_snap)
    for _ in range(2000):
        fe.open_channel()
    assert no_more_fds(blk_snap, before)


def test_channel_that_is_no_socket_is_refused(fe, blk_neighbour):
    r, w = os.pipe()
    fds = (r, w, os.memfd_create("x"), os.open("/dev/null", os.O_RDWR), os.eventfd(0))
    for fd in fds:
        with pytest.raises(VhostError):
            fe.do(vu.SET_BACKEND_REQ_FD, b"", (fd,))
    with pytest.raises(VhostError):
        fe.do(vu.SET_BACKEND_REQ_FD)
    for fd in fds:
        os.close(fd)


def test_config_is_that_of_the_list(blk, blk_snap):
    [c] = blk_snap.rpc("virtio_blk_controller_list", ctrl_id="Blk0")
    config = blk.config()
    assert (c["num_queues"], c["seg_max"], c["size_max"]) == (config["num_queues"], config["seg_max"], config["size_max"])
    assert c["queue_size"] == 256 and c["bdev"] == "Malloc0" and c["plugged"] and c["state"] == "STARTED"
