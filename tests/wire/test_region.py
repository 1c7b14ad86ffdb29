# SPDX-License-Identifier: BSD-3-Clause
"""Device, region and interrupt information; region reads and writes."""
import mmap
import os
import struct

import pytest
import vfio_user as v
from vfio_user import VfioError, VfioUser


def test_device_info_says_reset_pci_nine_regions_five_irqs(vc):
    argsz, flags, regions, irqs = vc.device_info()
    assert (argsz, flags & 3, regions, irqs) == (16, 3, 9, 5)


def test_every_region_index_is_answered_and_no_other(vc):
    sizes = {}
    for i in range(9):
        info = vc.region_info(i, 4096)
        sizes[i] = info["size"]
        for fd in info["fds"]:
            os.close(fd)
    assert sizes[0] == 0x2000 and sizes[4] >= 0x1000 and sizes[v.CONFIG] in (256, 4096)
    assert [sizes[i] for i in (1, 2, 3, 5, 6, 8)] == [0] * 6
    for i in (9, 100, 0xffffffff):
        with pytest.raises(VfioError):
            vc.region_info(i)


def test_mappable_region_takes_two_steps_one_area_one_descriptor(path):
    with VfioUser(path, json=None, minor=1) as c:
        first = c.region_info(0, 32)
        assert first["flags"] & 4 and not first["fds"] and not first["areas"]
        assert first["argsz"] > 32
        middle = c.region_info(0, first["argsz"] - 1)
        assert not middle["fds"]
        full = c.region_info(0, first["argsz"])
        assert len(full["fds"]) == 1 and len(full["areas"]) == 1
        assert full["flags"] & 0xc == 0xc
        os.close(full["fds"][0])


def test_mapped_area_is_the_doorbell_page_and_the_last_of_its_bar(path):
    with VfioUser(path, json=None, minor=1) as c:
        info = c.region_info(0, 4096)
        (offset, size), = info["areas"]
        assert (offset, size) == (0x1000, 0x1000) and offset + size == info["size"]
        page = mmap.mmap(info["fds"][0], size, offset=info["offset"] + offset)
        page[:4] = page[:4]
        page.close()
        os.close(info["fds"][0])


def test_mapped_file_cannot_be_resized(path):
    with VfioUser(path, json=None, minor=1) as c:
        fd, = c.region_info(0, 4096)["fds"]
        for size in (0, 1 << 30):
            with pytest.raises(OSError):
                os.ftruncate(fd, size)
        os.close(fd)


def test_client_with_json_gets_trapped_doorbells(vc):
    """auto: nothing to map, so that QEMU posts its writes."""
    info = vc.region_info(0, 4096)
    assert not info["flags"] & 4 and not info["fds"] and not info["areas"]


def test_msix_bar_is_not_mappable(path):
    with VfioUser(path, json=None, minor=1) as c:
        info = c.region_info(4, 4096)
        assert not info["flags"] & 4 and not info["fds"]


def test_whole_config_space_in_one_read(vc):
    size = vc.region_info(v.CONFIG)["size"]
    assert vc.region_read(v.CONFIG, 0, size)[:2] != b"\xff\xff"
    assert vc.region_read(v.CONFIG, 0, 1) == vc.region_read(v.CONFIG, 0, size)[:1]
    assert vc.region_read(v.CONFIG, 3, 9) == vc.region_read(v.CONFIG, 0, size)[3:12]


@pytest.mark.parametrize("region,offset,count", [
    (9, 0, 4), (0xffffffff, 0, 4), (1, 0, 4), (6, 0, 4), (0, 0x2000, 4), (0, 0x1ffe, 4), (0, 1 << 63, 4),
    (0, 0xffff_ffff_ffff_ffff, 4), (v.CONFIG, 4096, 1), (v.CONFIG, 4092, 8), (4, 1 << 20, 4), (0, 0, 0xffffffff),
    (v.CONFIG, 0, 0x7fffffff), (0, 0, 1 << 21)])
def test_access_outside_is_refused(vc, region, offset, count, neighbour):
    with pytest.raises(VfioError):
        vc.call(v.REGION_READ, struct.pack("=QII", offset, region, count))
    with pytest.raises(VfioError):
        vc.call(v.REGION_WRITE, struct.pack("=QII", offset, region, min(count, 64)) + bytes(min(count, 64))
                if count <= 64 else struct.pack("=QII", offset, region, count))
    vc.device_info()


def test_access_of_no_bytes_changes_nothing(vc):
    for command in (v.REGION_READ, v.REGION_WRITE):
        try:
            assert len(vc.call(command, struct.pack("=QII", 0, 0, 0))) == 16
        except VfioError:
            pass
    vc.device_info()


def test_write_whose_count_lies_is_refused(vc):
    for count, data in ((8, 4), (4, 8), (4096, 0), (0xffffffff, 16)):
        with pytest.raises(VfioError):
            vc.call(v.REGION_WRITE, struct.pack("=QII", 0x14, 0, count) + bytes(data))
    assert vc.read32(0, 0x14) == 0


def test_posted_writes_are_done_in_order_before_the_next_read(vc):
    for value in range(1, 200):
        vc.write32(0, 0x24, value, posted=True)
    assert vc.read32(0, 0x24) == 199
    assert vc.silent(0.05)


def test_write_multi_is_done_in_order_and_never_answered(vc):
    writes = [(0x24, 4, 0x00030003), (0x28, 4, 0x1000), (0x2c, 4, 0), (0x24, 4, 0x00070007)]
    payload = struct.pack("=Q", len(writes))
    for offset, size, value in writes:
        payload += struct.pack("=QII", offset, 0, size) + struct.pack("<Q", value)
    vc.send(v.REGION_WRITE_MULTI, payload, flags=v.NO_REPLY)
    assert vc.read32(0, 0x24) == 0x00070007
    assert vc.read32(0, 0x28) == 0x1000
    assert vc.silent(0.05)


def test_write_multi_with_lies_writes_nothing_outside(vc, neighbour):
    one = struct.pack("=QII", 0x24, 0, 4) + bytes(8)
    for payload in (struct.pack("=Q", 0), struct.pack("=Q", 2) + one, struct.pack("=Q", 1 << 60) + one,
                    struct.pack("=Q", 201) + one * 201, struct.pack("=Q", 1) + struct.pack("=QII", 1 << 40, 0, 8) + bytes(8),
                    struct.pack("=Q", 1) + struct.pack("=QII", 0x24, 0, 4096) + bytes(8),
                    struct.pack("=Q", 1) + struct.pack("=QII", 0x24, 77, 4) + bytes(8)):
        vc.send(v.REGION_WRITE_MULTI, payload, flags=v.NO_REPLY)
    vc.device_info()
    assert vc.silent(0.05)


def test_region_io_fds_are_not_offered(vc):
    with pytest.raises(VfioError) as e:
        vc.call(v.REGION_IO_FDS, struct.pack("=IIII", 16, 0, 0, 0))
    assert e.value.errno in (38, 95)  # ENOSYS, EOPNOTSUPP


@pytest.mark.parametrize("feature", [1 | 1 << 16, 1 | 1 << 18, 2 | 1 << 17, 6 | 1 << 17, 0xffff | 1 << 16, 0, 0xffffffff])
def test_device_features_are_not_offered(vc, feature):
    with pytest.raises(VfioError) as e:
        vc.call(v.DEVICE_FEATURE, struct.pack("=II", 8, feature) + bytes(16))
    assert e.value.errno in (25, 95, 22, 38)  # ENOTTY, EOPNOTSUPP, EINVAL, ENOSYS


@pytest.mark.parametrize("command", [v.MIG_DATA_READ, v.MIG_DATA_WRITE])
def test_migration_data_is_not_offered(vc, command):
    for payload in (b"", struct.pack("=II", 8, 4096), struct.pack("=II", 4096, 0xffffffff) + bytes(64)):
        with pytest.raises(VfioError):
            vc.call(command, payload)
    vc.device_info()
