# SPDX-License-Identifier: BSD-3-Clause
"""Configuration space as firmware and Linux read it."""
import struct

import vfio_user as v
from nvme import Nvme, pattern
from vfio_user import VfioUser


def chain(vc):
    at, found = vc.region_read(v.CONFIG, 0x34, 1)[0], []
    while at:
        assert at % 4 == 0 and at >= 0x40 and len(found) < 48
        ident, following = vc.region_read(v.CONFIG, at, 2)
        found.append(ident)
        at = following
    return found


def test_capability_list_is_pm_msix_express(vc):
    assert vc.config16(6) & 0x10  # Status.CapList
    found = chain(vc)
    assert [i for i in found if i in (1, 0x11, 0x10)] == [1, 0x11, 0x10]


def test_express_capability_is_an_endpoint_with_flr(vc):
    cap = vc.capability(0x10)
    flags = vc.config16(cap + 2)
    assert flags & 0xf == 2 and flags >> 4 & 0xf == 0
    assert vc.config32(cap + 4) & 1 << 28


def test_identity_is_an_nvme_controller_linux_does_not_mistrust(vc):
    """1b36:0010 makes Linux ignore EUI64, NGUID and UUID."""
    vendor, device = struct.unpack("<HH", vc.region_read(v.CONFIG, 0, 4))
    assert (vendor, device) != (0x1b36, 0x0010) and vendor not in (0, 0xffff)
    assert vc.region_read(v.CONFIG, 9, 3) == b"\x02\x08\x01"


def test_serial_number_capability(vc):
    size = vc.region_info(v.CONFIG)["size"]
    assert size == 4096
    assert vc.config32(0x100) & 0xffff == 0x0003
    assert vc.region_read(v.CONFIG, 0x104, 8) != bytes(8)


def test_no_sriov_is_shown_to_clients_that_hide_it_from_guests(vc):
    at, seen = 0x100, []
    while at:
        header = vc.config32(at)
        seen.append(header & 0xffff)
        at = header >> 20
        assert len(seen) < 32
    assert 0x10 not in seen


def test_interrupt_pin_is_0(vc):
    assert vc.region_read(v.CONFIG, 0x3d, 1) == b"\0"


def test_rom_bar_write_reads_back_0(vc):
    vc.set_config32(0x30, 0xfffff800)
    assert vc.config32(0x30) == 0
    vc.set_config32(0x30, 0xffffffff)
    assert vc.config32(0x30) == 0


def test_bars_have_real_masks_and_unused_ones_are_0(vc):
    sizes = {}
    for bar in range(6):
        before = vc.config32(0x10 + 4 * bar)
        vc.set_config32(0x10 + 4 * bar, 0xffffffff)
        sizes[bar] = vc.config32(0x10 + 4 * bar)
        vc.set_config32(0x10 + 4 * bar, before)
    assert sizes[0] & 0xf == 4 and (-(sizes[0] & ~0xf)) & 0xffffffff == 0x2000
    assert sizes[1] == 0xffffffff  # upper half of the 64-bit BAR 0
    assert (-(sizes[4] & ~0xf)) & 0xffffffff == vc.region_info(4)["size"]
    unused = [2, 3] + ([] if sizes[4] & 4 else [5])
    assert [sizes[b] for b in unused] == [0] * len(unused)


def test_read_only_fields_keep_their_values(vc):
    before = vc.region_read(v.CONFIG, 0, 16), vc.region_read(v.CONFIG, 0x2c, 16)
    for offset in (0, 2, 8, 0xa, 0xe, 0x2c, 0x2e, 0x34):
        vc.set_config16(offset, 0xffff)
    after = vc.region_read(v.CONFIG, 0, 16), vc.region_read(v.CONFIG, 0x2c, 16)
    assert before[0][:4] == after[0][:4] and before[0][8:12] == after[0][8:12] and before[1][:12] == after[1][:12]
    assert chain(vc)


def test_command_register_keeps_what_is_written_and_no_reserved_bit(vc):
    vc.set_config16(4, 0xffff)
    value = vc.config16(4)
    assert value & 0x6 == 0x6 and value & 0xf800 == 0
    vc.set_config16(4, 0)
    assert vc.config16(4) & 0x7 == 0


def test_config_write_of_all_ones_everywhere_breaks_nothing(path, neighbour):
    with VfioUser(path) as c:
        cap = c.capability(0x10)
        for offset in range(0, 4096, 4):
            if cap <= offset < cap + 60 or offset in (c.capability(1) + 4,):
                continue  # FLR and power have their own tests
            c.set_config32(offset, 0xffffffff)
        assert chain(c)
    with Nvme(path) as n:
        n.write(0, pattern(7, 512))
        assert n.read(0, 1) == pattern(7, 512)


def test_msix_table_and_pba_lie_inside_their_bar(vc):
    cap = vc.capability(0x11)
    vectors = (vc.config16(cap + 2) & 0x7ff) + 1
    table, pba = vc.config32(cap + 4), vc.config32(cap + 8)
    size = vc.region_info(table & 7)["size"]
    assert table & 7 == pba & 7 == 4
    assert (table & ~7) + 16 * vectors <= (pba & ~7) or (pba & ~7) + (vectors + 7) // 8 <= (table & ~7)
    assert (table & ~7) + 16 * vectors <= size and (pba & ~7) + (vectors + 63) // 64 * 8 <= size
    assert vectors == vc.irq_info(v.MSIX)[1]


def test_pba_is_read_only_and_table_is_plain_memory(vc):
    cap = vc.capability(0x11)
    table, pba = vc.config32(cap + 4) & ~7, vc.config32(cap + 8) & ~7
    vc.region_write(4, pba, b"\xff" * 8)
    assert vc.region_read(4, pba, 8) == bytes(8)
    vc.region_write(4, table, struct.pack("<QII", 0xfee00000, 0x4041, 1))
    assert vc.region_read(4, table, 16) == struct.pack("<QII", 0xfee00000, 0x4041, 1)


def test_pba_shows_an_event_that_has_no_eventfd(nvme):
    cap = nvme.vc.capability(0x11)
    pba = nvme.vc.config32(cap + 8) & ~7
    nvme.vc.set_irqs(v.MSIX, 1, 1, flags=0x24)
    nvme.read(0, 1)
    assert nvme.vc.region_read(4, pba, 1)[0] in (0, 2)  # a read never fails; delivery is the eventfd's
    nvme.vc.set_irqs(v.MSIX, 1, 1, (nvme.vectors[1],))
    assert v.fired(nvme.vectors[1])


def test_bus_master_off_stops_dma_and_on_resumes(nvme):
    nvme.read(0, 1)
    nvme.vc.set_config16(4, 0x402)
    cid = nvme.io[1].submit(nvme.rw(2, 0, 1, nvme.memory.alloc(512)))
    try:
        nvme.io[1].wait(cid, timeout=0.3)
        raise AssertionError("completed without bus mastering")
    except v.Timeout:
        pass
    nvme.vc.set_config16(4, 0x406)
    assert nvme.io[1].wait(cid).status == "SUCCESS"


def test_memory_space_toggle_remaps_the_bar_page_without_descriptor(nvme):
    """What QEMU does when command bit 1 toggles: our own BAR page appears at its guest address, without fd."""
    for _ in range(5):
        nvme.vc.set_config16(4, 0x404)
        nvme.vc.set_config16(4, 0x406)
        nvme.vc.dma_map(0xfe001000, 0x1000)
        nvme.read(0, 1)
        nvme.vc.dma_unmap(0xfe001000, 0x1000)
