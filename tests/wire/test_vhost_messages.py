# SPDX-License-Identifier: BSD-3-Clause
"""vhost-user framing and negotiation: what is offered, how it is acknowledged, and what becomes of messages that lie."""
import os
import random
import socket
import struct
import time

import pytest
import vhost_user as vu
import virtio_blk as vb
from disks import BLK_QUEUES, no_more_fds, open_fds
from vfio_user import fired
from vhost_user import HEADER, Disconnected, Timeout, VhostError, VhostUser, frame
from virtio_blk import VirtioBlk, connect_soon

OFFERED_PROTOCOL = (vu.MQ, vu.REPLY_ACK, vu.BACKEND_REQ, vu.CONFIG, vu.INFLIGHT_SHMFD, vu.RESET_DEVICE_F,
                    vu.CONFIGURE_MEM_SLOTS, vu.STATUS)
OFFERED = (vb.SEG_MAX, vb.BLK_SIZE, vb.FLUSH_F, vb.TOPOLOGY, vb.MQ, vb.DISCARD_F, vb.WRITE_ZEROES_F, vb.INDIRECT_DESC,
           vb.EVENT_IDX, vb.VERSION_1, vb.RING_PACKED, vb.RING_RESET, vu.PROTOCOL_FEATURES)
NOT_OFFERED = (vb.GEOMETRY, vb.RO, vb.LIFETIME, vb.SECURE_ERASE_F, vb.ZONED, vb.ACCESS_PLATFORM, vb.IN_ORDER,
               vb.NOTIFICATION_DATA, vu.LOG_ALL)
ANSWERED = (vu.GET_FEATURES, vu.GET_PROTOCOL_FEATURES, vu.GET_QUEUE_NUM, vu.GET_MAX_MEM_SLOTS, vu.GET_STATUS)
# With a reply of their own, or leaving a trace when they are accepted.
SIZES = {vu.SET_FEATURES: 8, vu.SET_PROTOCOL_FEATURES: 8, vu.SET_VRING_NUM: 8, vu.SET_VRING_ADDR: 40, vu.SET_VRING_BASE: 8,
         vu.SET_VRING_KICK: 8, vu.SET_VRING_CALL: 8, vu.SET_VRING_ERR: 8, vu.SET_VRING_ENABLE: 8, vu.SET_MEM_TABLE: 40,
         vu.ADD_MEM_REG: 40, vu.REM_MEM_REG: 40, vu.SET_STATUS: 8, vu.SET_CONFIG: 13, vu.SET_INFLIGHT_FD: 20}
UNKNOWN = (0, 44, 47, 48, 1000, 0xffffffff)
NOT_SERVED = (vu.SET_LOG_BASE, vu.SET_LOG_FD, vu.SEND_RARP, vu.NET_SET_MTU, vu.IOTLB_MSG, vu.SET_VRING_ENDIAN,
              vu.CREATE_CRYPTO_SESSION, vu.CLOSE_CRYPTO_SESSION, vu.POSTCOPY_ADVISE, vu.POSTCOPY_LISTEN, vu.POSTCOPY_END,
              vu.GPU_SET_SOCKET, vu.VRING_KICK, vu.GET_SHARED_OBJECT, vu.SET_DEVICE_STATE_FD, vu.CHECK_DEVICE_STATE)


def test_protocol_features_are_those_we_serve(fe):
    assert fe.offered_protocol == sum(1 << b for b in OFFERED_PROTOCOL)


def test_device_features_are_those_we_serve(fe):
    missing = [b for b in OFFERED if not fe.offered >> b & 1]
    surplus = [b for b in NOT_OFFERED if fe.offered >> b & 1]
    assert not missing and not surplus, (missing, surplus)


def test_read_only_and_without_indirect(blk_snap, fresh):
    with VhostUser(blk_snap.vhost_socket(blk_snap.vuids[2])) as c:
        assert c.offered >> vb.RO & 1
    blk_snap.rpc("bdev_null_create", name="NullI", block_size=512, num_blocks=64)
    with VhostUser(fresh(bdev="NullI", indirect_desc=False)) as c:
        assert not c.offered >> vb.INDIRECT_DESC & 1


def test_queue_number_and_memory_slots_are_enough_and_constant(blk_path):
    for _ in range(3):
        with VhostUser(blk_path) as c:
            assert c.queues == BLK_QUEUES
            assert c.slots >= 32


def test_sequence_of_qemu_is_answered(blk_path, packed):
    """Message by message; what comes before SET_OWNER is in negotiate()."""
    with VirtioBlk(blk_path, queues=2, packed=packed, start=False) as d:
        vc, agreed = d.vc, d.vc.offered & d.wanted
        for i, r in enumerate(d.rings):
            vc.call_fd(i, r.call_event)
        assert d.config()["num_queues"] >= 2
        vc.set_status(vu.ACKNOWLEDGE)
        vc.set_status(vu.ACKNOWLEDGE | vu.DRIVER)
        for start in range(3):
            vc.set_features(agreed)
            if start == 0:
                d.area = vc.get_inflight(2, d.size, trailer=4)
            vc.set_inflight(d.area)
            vc.set_features(agreed)
            if start == 0:
                d.memory.attach(vc)
            for i, r in enumerate(d.rings):
                vc.set_num(i, r.size)
                vc.set_base(i, r.base())
                vc.set_addr(i, r.desc, r.driver, r.device)
                vc.kick_fd(i, r.kick_event)
                vc.call_fd(i, r.call_event)
            for i in range(2):
                vc.enable(i)
            vc.set_status(vc.status() | vu.FEATURES_OK)
            vc.set_status(vc.status() | vu.DRIVER_OK)
            assert vc.status() == vu.ACKNOWLEDGE | vu.DRIVER | vu.FEATURES_OK | vu.DRIVER_OK
            for q in range(2):
                d.works(start, queue=q)
            d.stop()
            for r in d.rings:
                r.restart()
            d.area.clear()
            vc.set_status(vu.ACKNOWLEDGE | vu.DRIVER)


def test_initiator_with_few_features(blk_path):
    """SPDK's: MQ and CONFIG only; a memory table, no acknowledgements, no in-flight area, no status."""
    with VirtioBlk(blk_path, protocol=1 << vu.MQ | 1 << vu.CONFIG) as d:
        assert d.vc.protocol == 1 << vu.MQ | 1 << vu.CONFIG and d.vc.queues == BLK_QUEUES
        d.works()
        d.vc.set_mem_table((d.memory.gpa, d.memory.size, d.memory.fd, 0))
        d.works(78)


def test_libblkio_takes_acknowledgements_config_and_slots(blk_path):
    with VirtioBlk(blk_path, protocol=1 << vu.REPLY_ACK | 1 << vu.CONFIG | 1 << vu.CONFIGURE_MEM_SLOTS) as d:
        d.works()


def test_front_end_without_any_protocol_feature(blk_path):
    """Bit 30 not agreed on: rings are enabled from their start."""
    with VirtioBlk(blk_path, protocol=None, start=False) as d:
        d.vc.offered = d.vc.get_u64(vu.GET_FEATURES) & ~(1 << vu.PROTOCOL_FEATURES)
        d.vc.do(vu.SET_OWNER)
        d.start()
        d.works()


def test_every_request_with_a_reply_is_answered_at_once(blk):
    for _ in range(20):
        for request in ANSWERED:
            start = time.monotonic()
            assert len(blk.vc.call(request)) == 8
            assert time.monotonic() - start < 1


def test_acknowledged_when_asked_and_only_then(fe):
    fe.do(vu.SET_OWNER)
    fe.send(vu.SET_OWNER)
    assert fe.silent()
    with pytest.raises(VhostError):
        fe.set_features(1 << 63)
    fe.send(vu.SET_FEATURES, struct.pack("=Q", 1 << 63))
    assert fe.silent()
    # A request that has a reply gets that one only.
    fe.send(vu.GET_FEATURES, need_reply=True)
    assert struct.unpack("=Q", fe.reply_to(vu.GET_FEATURES))[0] == fe.offered
    assert fe.silent()


def test_not_acknowledged_when_that_was_not_agreed_on(blk_path):
    with VhostUser(blk_path, protocol=1 << vu.CONFIG) as c:
        c.send(vu.SET_OWNER, need_reply=True)
        assert c.silent()
        c.barrier()


def test_message_byte_by_byte_is_understood(fe):
    data = frame(vu.GET_CONFIG, struct.pack("=III", 0, 8, 0) + bytes(8))
    for i in range(len(data)):
        fe.send_raw(data[i:i + 1])
    assert len(fe.reply_to(vu.GET_CONFIG)) == 20


def test_several_messages_in_one_write_are_answered_in_order(fe):
    fe.send_raw(b"".join(frame(r) for r in ANSWERED * 5))
    for r in ANSWERED * 5:
        assert len(fe.reply_to(r)) == 8


def test_descriptors_ride_with_the_first_byte_of_their_message(blk):
    """Two messages in one write, the second with a descriptor of its own behind."""
    vc, r = blk.vc, blk.rings[0]
    call = frame(vu.SET_VRING_CALL, struct.pack("=Q", 0), vu.VERSION | vu.NEED_REPLY)
    vc.send_raw(frame(vu.GET_FEATURES))
    vc.send_raw(call[:1], (r.call_event,))
    vc.send_raw(call[1:13])
    vc.send_raw(call[13:])
    vc.reply_to(vu.GET_FEATURES)
    vc.ack_of(vu.SET_VRING_CALL)
    blk.works()


def test_unknown_requests_are_refused_and_harm_nothing(blk, blk_neighbour):
    for request in UNKNOWN + NOT_SERVED:
        blk.vc.send(request, bytes(8))
        blk.vc.barrier()
        with pytest.raises(VhostError):
            blk.vc.do(request, bytes(8))
    blk.works()


def test_logging_is_refused_cleanly(blk, blk_snap):
    """Neither the feature nor the messages: nothing is ever written to such a log, and its descriptor is closed."""
    blk.works()  # all of the start has arrived
    fds = open_fds(blk_snap)
    log = os.memfd_create("log")
    os.ftruncate(log, 4096)
    for size, offset in ((4096, 0), (1, 0), (1 << 40, 0), (4096, 0xffff_ffff_ffff_f000)):
        with pytest.raises(VhostError):
            blk.vc.do(vu.SET_LOG_BASE, struct.pack("=QQ", size, offset), (log,))
    with pytest.raises(VhostError):
        blk.vc.do(vu.SET_LOG_FD, b"", (blk.rings[0].call_event,))
    with pytest.raises(VhostError):
        blk.vc.set_features(blk.vc.features | 1 << vu.LOG_ALL)
    blk.works()
    r, base = blk.rings[0], blk.vc.get_base(0)  # a ring that says that its used part is to be logged
    blk.vc.set_addr(0, r.desc, r.driver, r.device, flags=1, log=0)
    blk.vc.set_base(0, base)
    blk.vc.kick_fd(0, r.kick_event)
    blk.vc.enable(0)
    blk.works()
    assert os.pread(log, 4096, 0) == bytes(4096)
    os.close(log)
    assert no_more_fds(blk_snap, fds)


@pytest.mark.parametrize("flags", [0, 2, 3, vu.VERSION | vu.REPLY])
def test_wrong_version_or_a_reply_ends_the_connection(blk_path, flags, blk_neighbour):
    with VhostUser(blk_path) as c:
        c.send_raw(frame(vu.GET_FEATURES, flags=flags))
        assert c.closed_within(5)
    connect_soon(blk_path).close()


def test_reserved_flags_are_ignored_or_refused(blk_path):
    with VhostUser(blk_path) as c:
        try:
            c.send_raw(frame(vu.GET_FEATURES, flags=0xfffffff1))
            c.reply_to(vu.GET_FEATURES)
        except Disconnected:
            pass
    connect_soon(blk_path).close()


@pytest.mark.parametrize("size", [4097, 65536, 0x7fffffff, 0xffffffff])
def test_huge_payload_ends_the_connection_and_costs_nothing(blk_path, blk_snap, size, blk_neighbour):
    with VhostUser(blk_path) as c:
        with open(f"/proc/{blk_snap.emu.pid}/statm") as f:
            before = int(f.read().split()[1])
        c.send_raw(HEADER.pack(vu.SET_MEM_TABLE, vu.VERSION, size))
        assert c.closed_within(5)
        with open(f"/proc/{blk_snap.emu.pid}/statm") as f:
            assert int(f.read().split()[1]) < before + 1024
    connect_soon(blk_path).close()


@pytest.mark.parametrize("request_", sorted(SIZES))
def test_payload_of_the_wrong_size_is_refused(fe, request_):
    right = SIZES[request_]
    sizes = {0, 1, right - 1, right + 1, 4096} - ({right + 1} if request_ in (vu.SET_INFLIGHT_FD, vu.SET_CONFIG) else set())
    for size in sorted(sizes):
        with pytest.raises(VhostError):
            fe.do(request_, b"\1" * size)
    assert fe.barrier() == fe.offered


@pytest.mark.parametrize("request_,size", [(vu.GET_VRING_BASE, 7), (vu.GET_CONFIG, 11), (vu.GET_INFLIGHT_FD, 19),
                                           (vu.GET_FEATURES, 9), (vu.GET_VRING_BASE, 0)])
def test_request_with_a_reply_and_the_wrong_size_is_no_hang(blk_path, request_, size):
    """There is no form for a no: the connection ends."""
    with VhostUser(blk_path) as c:
        c.send(request_, bytes(size))
        assert c.closed_within(5)
    connect_soon(blk_path).close()


def test_surplus_descriptors_leave_none_behind(blk, blk_snap):
    memory = os.memfd_create("x")
    r, w = os.pipe()
    sock = socket.socketpair()
    fds = [memory, r, w, sock[0].fileno(), sock[1].fileno(), os.open("/dev/null", os.O_RDWR)]
    blk.vc.barrier()
    before = open_fds(blk_snap)
    for request, size in SIZES.items():
        for n in (1, 2, 6):
            try:
                blk.vc.do(request, b"\xee" * size, (fds * 4)[:n])
            except VhostError:
                pass
    blk.vc.send(vu.GET_FEATURES, b"", fds)  # cannot be refused in words
    assert blk.vc.closed_within(5)
    for fd in (memory, r, w, fds[-1]):
        os.close(fd)
    for s in sock:
        s.close()
    with connect_soon(blk.path):
        assert no_more_fds(blk_snap, before)


def test_descriptors_with_every_message_thousands_of_times(blk, blk_snap):
    blk.works()
    assert fired(blk.rings[0].call_event)  # the service has got its own
    before = open_fds(blk_snap)
    null = os.open("/dev/null", os.O_RDWR)
    for _ in range(2500):
        for request in (vu.SET_OWNER, vu.SET_VRING_NUM, 1000, vu.SET_VRING_ERR):
            blk.vc.send(request, bytes(8), (null,) * 4)
    blk.vc.barrier()
    os.close(null)
    assert no_more_fds(blk_snap, before)
    blk.works()


def test_owner_set_twice_and_reset(blk):
    for request in (vu.SET_OWNER, vu.SET_OWNER, vu.RESET_OWNER, vu.SET_OWNER):
        blk.vc.do(request)
    blk.works()


def test_features_not_offered_are_refused_and_features_ok_is_not_kept(blk_path):
    with VhostUser(blk_path) as c:
        for bit in NOT_OFFERED + (50, 63):
            with pytest.raises(VhostError):
                c.set_features(c.offered | 1 << bit)
            c.set_status(vu.ACKNOWLEDGE | vu.DRIVER | vu.FEATURES_OK)
            assert c.status() == vu.ACKNOWLEDGE | vu.DRIVER
        with pytest.raises(VhostError):
            c.set_u64(vu.SET_PROTOCOL_FEATURES, c.offered_protocol | 1 << vu.PAGEFAULT)
        c.set_features(c.offered & VirtioBlk.WANTED)
        c.set_status(vu.ACKNOWLEDGE | vu.DRIVER | vu.FEATURES_OK)
        assert c.status() == vu.ACKNOWLEDGE | vu.DRIVER | vu.FEATURES_OK


def test_driver_ok_without_features(blk_path):
    """What was not agreed on is not there, and the next driver gets all of it."""
    with VirtioBlk(blk_path, start=False) as d:
        d.memory.attach(d.vc)
        d.vc.set_status(vu.ACKNOWLEDGE | vu.DRIVER | vu.DRIVER_OK)
        assert d.vc.status() == vu.ACKNOWLEDGE | vu.DRIVER | vu.DRIVER_OK
        d.start_ring(0, d.rings[0].base())
        d.works()
        for kind in (vb.FLUSH, vb.DISCARD, vb.WRITE_ZEROES):
            assert d.run(kind, out=b"" if kind == vb.FLUSH else vb.ranges((0, 8, 0)))[0] == vb.UNSUPP
        d.indirect = True
        d.submit(d.make(vb.IN, 0, in_bytes=512))
        d.broken()
        d.vc.set_status(0)
        d.restart()
        d.works()
        d.flush()


def test_features_set_again_while_running_restart_nothing(blk):
    """QEMU does when it switches logging."""
    for _ in range(3):
        blk.vc.set_features(blk.vc.features)
        blk.works()
    assert blk.rings[0].used_idx == 6


def test_features_changed_while_running_are_refused(blk):
    with pytest.raises(VhostError):
        blk.vc.set_u64(vu.SET_FEATURES, blk.vc.features ^ 1 << vb.RING_PACKED)
    with pytest.raises(VhostError):
        blk.vc.set_u64(vu.SET_PROTOCOL_FEATURES, 0)
    blk.works()


def test_status_values_out_of_range_are_refused(fe):
    with pytest.raises(VhostError):
        fe.set_status(0x1_0000_0001)
    fe.set_status(vu.ACKNOWLEDGE)
    assert fe.status() == vu.ACKNOWLEDGE


def test_random_messages_harm_nobody(blk_path, blk_snap, blk_neighbour):
    """Seeded: a failure repeats."""
    rng = random.Random(20240)
    eventfd = os.eventfd(0)
    for _ in range(30):
        with connect_soon(blk_path) as c:
            try:
                for _ in range(200):
                    request = rng.randrange(1, 48)
                    size = SIZES.get(request, rng.choice((0, 8, 12, 20, 40)))
                    payload = b"".join(struct.pack("=I", rng.choice((0, 1, 2, 256, 0xffffffff, rng.randrange(1 << 32))))
                                       for _ in range(size // 4 + 1))[:size]
                    c.send(request, payload, (eventfd,) * rng.choice((0, 0, 1, 2)), need_reply=bool(rng.randrange(2)))
                c.sock.settimeout(0.01)
                c.receive(0.01)
            except (Disconnected, Timeout):
                pass
    os.close(eventfd)
    assert blk_snap.emu.poll() is None and blk_snap.service.poll() is None
    with VirtioBlk(blk_path) as d:
        d.works()
