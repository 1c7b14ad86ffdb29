# SPDX-License-Identifier: BSD-3-Clause
"""DMA_MAP and DMA_UNMAP: what is accepted, what is refused, and that descriptors do not pile up."""
import errno
import os
import resource
import struct

import pytest
import vfio_user as v
from disks import emu_fds, service_fds
from nvme import READ, Nvme, pattern
from vfio_user import Memory, VfioError

MIB = 1 << 20
BASE = 0x8_0000_0000


@pytest.fixture
def ram():
    m = Memory(4 * MIB, BASE)
    yield m
    m.close()


def expect(code, call, *args, **kw):
    with pytest.raises(VfioError) as e:
        call(*args, **kw)
    if code:
        assert e.value.errno == code, e.value


def test_map_without_descriptor_is_accepted_and_unmapped_again(vc):
    """ROM shadow, other devices' BARs, our own doorbell page at its guest address."""
    vc.dma_map(0xc0000, 0x20000)
    vc.dma_map(0xfe000000, 0x1000, prot=3)
    vc.dma_unmap(0xfe000000, 0x1000)
    vc.dma_unmap(0xc0000, 0x20000)


def test_command_to_memory_without_descriptor_fails_alone(nvme, neighbour):
    """No DMA_READ or DMA_WRITE is ever sent to the client either."""
    nvme.vc.dma_map(BASE, MIB)
    cqe = nvme.io[1].run(nvme.rw(READ, 0, 8, BASE))
    assert cqe.status == "DATA_TRANSFER_ERROR"
    assert nvme.vc.silent()
    nvme.write(0, pattern(1, 4096))
    assert nvme.read(0, 8) == pattern(1, 4096)


def test_overlapping_map_is_eexist(vc, ram):
    vc.dma_map(BASE, 2 * MIB, ram.fd)
    for iova, size in ((BASE, 2 * MIB), (BASE + MIB, 2 * MIB), (BASE - MIB, 2 * MIB), (BASE + 4096, 4096),
                       (BASE - MIB, 8 * MIB)):
        expect(errno.EEXIST, vc.dma_map, iova, size, ram.fd if size <= ram.size else None)
    vc.dma_map(BASE + 2 * MIB, MIB, ram.fd, 2 * MIB)
    vc.dma_unmap(BASE, 2 * MIB)
    vc.dma_map(BASE, MIB, ram.fd)


def test_map_with_bad_numbers_is_refused(vc, ram):
    for iova, size, offset in ((BASE, 0, 0), (0xffff_ffff_ffff_f000, 0x2000, 0), (BASE, 1 << 63, 1 << 63),
                               (BASE, 8 * MIB, 0), (BASE, 4096, 4 * MIB), (BASE, 4096, 0xffff_ffff_ffff_f000),
                               (BASE, MIB, 3 * MIB + 4096)):
        expect(0, vc.dma_map, iova, size, ram.fd, offset)
    for iova, size, offset in ((BASE + 1, 4096, 0), (BASE, 4097, 0), (BASE, 4096, 1)):
        expect(0, vc.dma_map, iova, size, ram.fd, offset)
    expect(0, vc.call, v.DMA_MAP, struct.pack("=IIQQQ", 32, 0xfffc, 0, BASE, 4096), (ram.fd,))
    expect(0, vc.call, v.DMA_MAP, struct.pack("=IIQQQ", 0, 3, 0, BASE, 4096), (ram.fd,))
    vc.dma_map(BASE, 4 * MIB, ram.fd)


def test_map_of_the_wrong_kind_of_descriptor_is_refused(vc, neighbour):
    r, w = os.pipe()
    directory = os.open("/", os.O_RDONLY)
    null = os.open("/dev/null", os.O_RDWR)
    try:
        for fd in (r, directory, null):
            expect(0, vc.dma_map, BASE, 4096, fd)
        expect(0, vc.call, v.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, BASE, 4096), (r, w))
    finally:
        for fd in (r, w, directory, null):
            os.close(fd)
    vc.device_info()


def test_file_cut_short_later_stops_nobody_else(own_snap):
    """A map whose file shrinks under it: this function's commands may fail, everything else goes on; with the client the
    damage is gone."""
    path, other = (own_snap.vfio_socket(vuid) for vuid in own_snap.vuids)
    fd = os.memfd_create("shrinks")
    os.ftruncate(fd, 2 * MIB)
    with Nvme(other) as neighbour:
        with Nvme(path) as n:
            try:
                n.vc.dma_map(BASE, 2 * MIB, fd)
            except VfioError:
                os.close(fd)
                return  # refusing memory that can shrink is an answer, too
            n.io[1].run(n.rw(READ, 0, 8, BASE + MIB))
            os.ftruncate(fd, 4096)
            try:
                n.io[1].run(n.rw(READ, 0, 8, BASE + MIB), timeout=2)
            except v.Timeout:
                pass
            neighbour.write(0, pattern(2, 4096))
            os.close(fd)
        assert neighbour.read(0, 8) == pattern(2, 4096)
        with Nvme(path) as n:
            n.write(0, pattern(3, 4096))
            assert n.read(0, 8) == pattern(3, 4096)


def test_unmap_echoes_the_request(vc, ram):
    vc.dma_map(BASE, MIB, ram.fd)
    assert vc.dma_unmap(BASE, MIB)[1:] == (0, BASE, MIB)


def test_unmap_of_what_is_not_there_is_refused(vc, ram):
    try:
        vc.dma_unmap(BASE, MIB)  # nothing there at all: VFIO itself says success
    except VfioError:
        pass
    vc.dma_map(BASE, 2 * MIB, ram.fd)
    expect(0, vc.dma_unmap, BASE, MIB)       # a part
    expect(0, vc.dma_unmap, BASE + MIB, MIB)
    expect(0, vc.dma_unmap, 0xffff_ffff_ffff_f000, 0x2000)
    vc.dma_unmap(BASE, 2 * MIB)


def test_unmap_all_takes_everything(vc, ram):
    vc.dma_map(BASE, MIB, ram.fd)
    vc.dma_map(BASE + MIB, MIB, ram.fd, MIB)
    vc.dma_map(0xc0000, 0x1000)
    vc.dma_unmap(0, 0, flags=2)
    vc.dma_map(BASE, 4 * MIB, ram.fd)


def test_unmap_with_dirty_bitmap_is_refused_and_unmaps_nothing(vc, ram):
    """Dirty logging is not offered."""
    vc.dma_map(BASE, MIB, ram.fd)
    with pytest.raises(VfioError) as e:
        vc.call(v.DMA_UNMAP, struct.pack("=IIQQ", 24, 1, BASE, MIB) + struct.pack("=QQ", 4096, 8))
    assert e.value.errno == errno.ENOTSUP
    with pytest.raises(VfioError):
        vc.dma_map(BASE, 4096, ram.fd)      # it is there still
    vc.dma_unmap(BASE, MIB)
    vc.dma_map(BASE, 4096, ram.fd)


def test_number_of_maps_is_bounded(vc, ram, neighbour):
    made = 0
    try:
        for i in range(70000):
            vc.dma_map(BASE + 0x1000 * i, 0x1000)
            made += 1
    except VfioError:
        pass
    assert 64 <= made <= 65535
    vc.dma_unmap(0, 0, flags=2)
    vc.dma_map(BASE, MIB, ram.fd)


def test_mapping_thousands_of_times_leaks_nothing(path, snap, ram):
    with Nvme(path) as n:
        n.vc.dma_map(BASE, MIB, ram.fd)
        n.vc.dma_unmap(BASE, MIB)
        before = emu_fds(snap), service_fds(snap)
        for _ in range(2000):
            n.vc.dma_map(BASE, MIB, ram.fd)
            n.vc.dma_unmap(BASE, MIB)
            expect(0, n.vc.dma_map, BASE, 0, ram.fd)
        assert emu_fds(snap) <= before[0]
        assert service_fds(snap) <= before[1]
        n.write(0, pattern(4, 512))


def test_maps_and_unmaps_sent_without_waiting_are_done_in_order(vc, ram):
    idents = []
    for _ in range(20):
        idents.append((vc.send(v.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, BASE, MIB), (ram.fd,)), v.DMA_MAP))
        idents.append((vc.send(v.DMA_UNMAP, struct.pack("=IIQQ", 24, 0, BASE, MIB)), v.DMA_UNMAP))
    for ident, command in idents:
        vc.reply_to(ident, command)


def test_read_only_memory_is_not_written(path, snap, ram):
    """prot 1: the device may read it. A read command into it fails and leaves it as it is."""
    with Nvme(path) as n:
        n.vc.dma_map(BASE, 4 * MIB, ram.fd, 0, 1)
        ram.write(BASE, b"keep" * 128)
        assert n.io[1].run(n.rw(READ, 0, 1, BASE)).status == "DATA_TRANSFER_ERROR"
        assert ram.read(BASE, 512) == b"keep" * 128


def test_one_file_behind_many_maps_is_fine(vc, ram):
    """QEMU maps one RAM file in pieces; a client with few descriptors to spare must not exhaust the server's."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for i in range(min(1024, soft)):
        vc.dma_map(BASE + 4096 * i, 4096, ram.fd, 4096 * i % ram.size)
    vc.dma_unmap(0, 0, flags=2)
