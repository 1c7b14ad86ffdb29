# SPDX-License-Identifier: BSD-3-Clause
"""Messages on a stream: pieces, lumps, lies."""
import os
import struct
import time

import pytest
import vfio_user as v
from disks import emu_fds
from vfio_user import HEADER, VfioError, VfioUser


def test_message_arriving_byte_by_byte_is_understood(vc):
    ident, data = vc.frame(v.DEVICE_GET_INFO, struct.pack("=IIII", 16, 0, 0, 0))
    for i in range(len(data)):
        vc.send_raw(data[i:i + 1])
    reply = vc.reply_to(ident, v.DEVICE_GET_INFO)
    assert struct.unpack("=IIII", reply)[2] == 9


def test_version_arriving_in_two_pieces_is_understood(path):
    with VfioUser(path, minor=None) as c:
        ident, data = c.frame(v.VERSION, struct.pack("=HH", 0, 0) + b'{"capabilities":{}}\0')
        c.send_raw(data[:20])
        time.sleep(0.05)
        c.send_raw(data[20:])
        c.reply_to(ident, v.VERSION)


def test_several_messages_in_one_write_are_answered_in_order(vc):
    frames, idents = b"", []
    for i in range(40):
        ident, data = vc.frame(v.REGION_READ, struct.pack("=QII", 0, v.CONFIG, 4 * (i + 1)))
        frames += data
        idents.append(ident)
    vc.send_raw(frames)
    for i, ident in enumerate(idents):
        assert len(vc.reply_to(ident, v.REGION_READ)) == 16 + 4 * (i + 1)


def test_descriptor_rides_with_the_first_byte_of_its_message(vc):
    """The rest of the message follows later; so does the next message, which has none."""
    memory = v.Memory(1 << 20)
    ident, data = vc.frame(v.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, memory.iova, memory.size))
    vc.send_raw(data[:1], (memory.fd,))
    time.sleep(0.02)
    vc.send_raw(data[1:20])
    second, more = vc.frame(v.DEVICE_GET_INFO, struct.pack("=IIII", 16, 0, 0, 0))
    vc.send_raw(data[20:] + more)
    vc.reply_to(ident, v.DMA_MAP)
    vc.reply_to(second, v.DEVICE_GET_INFO)
    memory.detach(vc)
    memory.close()


def test_error_reply_is_a_header_only(vc):
    with pytest.raises(VfioError) as e:  # reply_to() checks the shape
        vc.call(999, b"x" * 100)
    assert e.value.errno in (38, 95, 22)
    vc.device_info()


def test_reply_comes_in_one_piece_with_its_descriptor(path):
    """QEMU reads the header with one recvmsg and fails when it is short."""
    with VfioUser(path, json=None, minor=1) as c:
        for _ in range(200):
            c.send(v.REGION_INFO, struct.pack("=IIIIQQ", 4096, 0, 0, 0, 0, 0))
            c.more(time.monotonic() + 5)
            assert HEADER.unpack_from(c.buffer)[2] == len(c.buffer)
            assert len(c.fds) <= 1
            c.buffer = b""
            for fd in c.fds:
                os.close(fd)
            c.fds = []


def test_ids_are_echoed_and_may_repeat(vc):
    for ident in (0, 1, 0xffff, 0xffff, 7):
        vc.reply_to(vc.send(v.DEVICE_GET_INFO, struct.pack("=IIII", 16, 0, 0, 0), ident=ident), v.DEVICE_GET_INFO)


def test_no_reply_messages_are_never_answered(vc):
    vc.send(v.DEVICE_GET_INFO, struct.pack("=IIII", 16, 0, 0, 0), flags=v.NO_REPLY)
    vc.send(999, b"", flags=v.NO_REPLY)
    vc.send(v.REGION_WRITE, struct.pack("=QII", 1 << 40, 77, 4) + b"abcd", flags=v.NO_REPLY)
    assert vc.silent()
    vc.device_info()
    assert vc.silent(0.05)


@pytest.mark.parametrize("argsz", [0, 1, 15, 16, 31])
def test_short_argsz_is_refused(vc, argsz):
    with pytest.raises(VfioError):
        vc.region_info_raw(0, argsz)
    vc.device_info()


def test_oversized_argsz_gets_no_more_than_there_is(vc):
    for argsz in (32, 4096, 0xffffffff):
        info = vc.region_info(0, argsz)
        for fd in info["fds"]:
            os.close(fd)
        assert info["size"] >= 0x2000
        assert vc.last.size <= 16 + 4096


@pytest.mark.parametrize("command", [v.DEVICE_GET_INFO, v.REGION_INFO, v.IRQ_INFO, v.SET_IRQS, v.DMA_MAP, v.DMA_UNMAP,
                                     v.REGION_READ, v.REGION_WRITE, v.REGION_WRITE_MULTI, v.DEVICE_FEATURE])
def test_truncated_payload_is_refused(vc, command):
    for size in (0, 1, 3):
        with pytest.raises(VfioError):
            vc.call(command, bytes(size))
    vc.device_info()


@pytest.mark.parametrize("command", [v.VERSION, v.REGION_IO_FDS, v.DMA_READ, v.DMA_WRITE, 0, 14, 19, 200, 0xffff])
def test_commands_out_of_place_are_refused(vc, command):
    with pytest.raises(VfioError):
        vc.call(command, bytes(16))
    vc.device_info()


@pytest.mark.parametrize("size", [0, 1, 15])
def test_header_size_below_16_ends_the_connection(path, size, neighbour):
    with VfioUser(path) as c:
        c.send(v.DEVICE_GET_INFO, b"", size=size)
        assert c.closed_within(5)
    with VfioUser(path):
        pass


@pytest.mark.parametrize("size", [1 << 20, 1 << 26, 0xffffffff])
def test_huge_header_size_ends_in_an_error_or_a_close_and_costs_nothing(path, snap, size):
    """With a byte or two of the payload: nobody may reserve what the header promises."""
    before = rss(snap.emu.pid)
    with VfioUser(path) as c:
        c.send(v.REGION_WRITE, b"abc", size=size)
        time.sleep(0.05)
        assert rss(snap.emu.pid) - before < 8 << 20
        try:
            c.receive(0.2)
        except (v.Timeout, v.Disconnected):
            pass
    with VfioUser(path) as c:
        c.device_info()


def rss(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * 4096


def test_half_a_message_ends_by_a_deadline(path, neighbour):
    with VfioUser(path) as c:
        c.send_raw(c.frame(v.DEVICE_GET_INFO, bytes(16))[1][:10])
        assert c.closed_within(10)
    with VfioUser(path):
        pass


def test_trickling_bytes_end_by_a_deadline(path):
    with VfioUser(path) as c:
        data = c.frame(v.REGION_WRITE, bytes(8000))[1]
        end = time.monotonic() + 15
        try:
            for i in range(len(data)):
                c.send_raw(data[i:i + 1])
                time.sleep(0.2)
                assert time.monotonic() < end, "a trickling client was served for ever"
                if c.closed_within(0.001):
                    break
        except v.Disconnected:
            pass


def test_message_with_the_reply_flag_is_refused(path):
    with VfioUser(path) as c:
        c.send(v.DEVICE_GET_INFO, bytes(16), flags=v.REPLY)
        try:
            m = c.receive(1)
            assert m.flags & v.ERROR
        except (v.Timeout, v.Disconnected):
            pass
    with VfioUser(path):
        pass


def test_surplus_and_wrong_descriptors_leave_none_behind(path, snap):
    """Messages that take no descriptor, one too many, the wrong kind; the number open in snap_emu stays."""
    r, w = os.pipe()
    directory = os.open("/", os.O_RDONLY)
    sock = __import__("socket").socket()
    try:
        with VfioUser(path) as c:
            c.device_info()
            before = emu_fds(snap)
            for fds in ((r,), (directory,), (sock.fileno(),), (r, w, directory), (r,) * 16, (r,) * 60):
                for command, payload in ((v.DEVICE_GET_INFO, struct.pack("=IIII", 16, 0, 0, 0)),
                                         (v.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, 1 << 40, 1 << 20)),
                                         (v.SET_IRQS, struct.pack("=IIIII", 20, 0x24, 2, 0, 2)),
                                         (v.REGION_READ, struct.pack("=QII", 0, 7, 4)),
                                         (999, b"")):
                    for _ in range(20):
                        try:
                            c.call(command, payload, fds)
                        except VfioError:
                            pass
                        if command == v.DMA_MAP:
                            try:
                                c.dma_unmap(1 << 40, 1 << 20)
                            except VfioError:
                                pass
            c.set_irqs(v.MSIX, 0, 0)
            assert emu_fds(snap) <= before + 1
            c.device_info()
    finally:
        sock.close()
        for fd in (r, w, directory):
            os.close(fd)


def test_every_message_is_answered_at_once(vc):
    """A vCPU waits for each: none may take long, and certainly none for ever."""
    slowest = 0
    for _ in range(300):
        start = time.monotonic()
        vc.region_read(v.CONFIG, 0, 64)
        slowest = max(slowest, time.monotonic() - start)
    assert slowest < 1.0
