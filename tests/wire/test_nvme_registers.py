# SPDX-License-Identifier: BSD-3-Clause
"""Controller registers and doorbells as a hostile guest uses them."""
import random
import struct
import time

import pytest
import vfio_user as v
from nvme import (ACQ, AQA, ASQ, ASYNC_EVENT, CAP, CC, CC_ENABLE, CFS, CSTS, GET_LOG_PAGE, INTMC, INTMS, NSSR, RDY, READ, VS,
                  Nvme, pattern, sqe)
from vfio_user import VfioError


@pytest.fixture
def bare(path):
    """Connected, PCI set up, not enabled."""
    with Nvme(path, start=False) as n:
        n.setup_pci()
        yield n


def test_capabilities_are_what_drivers_need(bare):
    cap = bare.reg64(CAP)
    assert cap & 0xffff >= 63          # MQES, 0's based
    assert cap >> 16 & 1               # CQR
    assert cap >> 24 & 0xff            # TO
    assert cap >> 32 & 0xf == 0        # DSTRD
    assert cap >> 37 & 1               # NVM command set
    assert cap >> 48 & 0xf == 0        # MPSMIN 4 KiB
    assert bare.reg(VS) == 0x00020000
    assert bare.reg(0x38) == bare.reg(0x3c) == 0  # no CMB


@pytest.mark.parametrize("order", [(0, 4), (4, 0)])
def test_64_bit_registers_take_two_halves_in_any_order(bare, order):
    for register in (ASQ, ACQ):
        value = 0x1234_5678_9000
        for half in order:
            bare.set_reg(register + half, value >> 8 * half & 0xffffffff)
        assert bare.reg64(register) == value
        bare.vc.region_write(0, register, struct.pack("<Q", 0xabc_0000_d000))
        assert bare.reg64(register) == 0xabc_0000_d000


def test_odd_widths_and_offsets_touch_nothing_else(bare, neighbour):
    for offset in list(range(0, 0x48)) + [0xfc, 0xff, 0x100, 0xfff, 0x1000, 0x1ffc, 0x1fff]:
        for size in (1, 2, 3, 4, 5, 7, 8, 16, 64):
            if offset + size > 0x2000:
                continue
            try:
                assert len(bare.vc.region_read(0, offset, size)) == size
            except VfioError:
                pass
    before = bare.reg64(CAP), bare.reg(VS)
    for offset in (0, 4, 8, 0x1c, 0x38, 0x3c, 0x40, 0x68, 0xf0, 0xfff):
        for size in (1, 2, 3, 4, 8):
            if offset in (0x1c,) and size > 4:
                continue
            try:
                bare.vc.region_write(0, offset, b"\xff" * size)
            except VfioError:
                pass
    assert (bare.reg64(CAP), bare.reg(VS)) == before
    bare.enable()
    bare.create_io(1)
    bare.read(0, 1)


def test_read_only_registers_stay(bare):
    for offset in (CAP, CAP + 4, VS, CSTS, 0x38, 0x3c):
        before = bare.reg(offset)
        bare.set_reg(offset, 0xffffffff)
        assert bare.reg(offset) == before


def fatal_or_refused(n):
    """Either CFS, or never ready: and a correct enable works afterwards."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        csts = n.reg(CSTS)
        assert not csts & RDY, "became ready"
        if csts & CFS:
            break
        time.sleep(0.01)
    assert n.reg(CSTS) & CFS
    n.set_reg(CC, 0)
    n.wait_csts(RDY | CFS, 0)
    n.enable()
    n.create_io(1)
    n.read(0, 1)


@pytest.mark.parametrize("cc", [1 | 6 << 16 | 4 << 20 | 5 << 7,       # MPS 128 KiB
                                1 | 6 << 16 | 4 << 20 | 1 << 4,       # CSS reserved
                                1 | 6 << 16 | 4 << 20 | 7 << 11])     # AMS vendor
def test_enable_with_a_bad_configuration_is_fatal_for_this_controller(bare, cc, neighbour):
    m = bare.memory
    bare.set_reg(AQA, 31 | 31 << 16)
    bare.vc.region_write(0, ASQ, struct.pack("<Q", m.alloc(4096)))
    bare.vc.region_write(0, ACQ, struct.pack("<Q", m.alloc(4096)))
    bare.set_reg(CC, cc)
    fatal_or_refused(bare)


@pytest.mark.parametrize("aqa,asq,acq", [(0, 1, 1), (31, 1, 1), (31 << 16, 1, 1), (31 | 31 << 16, "odd", 1)])
def test_enable_with_a_bad_admin_queue_is_fatal_for_this_controller(bare, aqa, asq, acq):
    m = bare.memory
    good = m.alloc(4096)
    bare.set_reg(AQA, aqa)
    bare.vc.region_write(0, ASQ, struct.pack("<Q", good + 8 if asq == "odd" else good))
    bare.vc.region_write(0, ACQ, struct.pack("<Q", m.alloc(4096)))
    bare.set_reg(CC, CC_ENABLE)
    try:
        fatal_or_refused(bare)
    except AssertionError:
        # A queue of two entries or more with any address is legal to enable; only the size 0 must be refused, and a
        # misaligned address may be rounded down.
        if aqa == 0:
            raise


def test_admin_queue_in_missing_memory_parks_or_fails_alone(bare, neighbour):
    bare.set_reg(AQA, 31 | 31 << 16)
    bare.vc.region_write(0, ASQ, struct.pack("<Q", 0x7fff_0000_0000))
    bare.vc.region_write(0, ACQ, struct.pack("<Q", 0xffff_ffff_ffff_f000))
    bare.set_reg(CC, CC_ENABLE)
    for i in range(20):
        bare.vc.write32(0, 0x1000, i)
    time.sleep(0.05)
    neighbour.check()
    bare.enable()
    bare.create_io(1)
    bare.read(0, 1)


def test_interrupt_mask_registers_do_not_break_msix(nvme):
    nvme.set_reg(INTMS, 0xffffffff)
    nvme.set_reg(INTMC, 0xffffffff)
    v.fired(nvme.vectors[1], 0)
    nvme.read(0, 1)
    assert v.fired(nvme.vectors[1])


def test_subsystem_reset_is_not_offered_and_ignored(nvme):
    nvme.write(0, pattern(1, 512))
    assert nvme.reg64(CAP) >> 36 & 1 == 0       # NSSRS
    nvme.set_reg(NSSR, 0x4e564d65)
    assert nvme.read(0, 1) == pattern(1, 512)   # by the same queue
    assert nvme.reg(CSTS) == RDY and nvme.reg(NSSR) == 0


def test_shutdown_during_io_and_enable_again(nvme, neighbour):
    at = nvme.memory.alloc(4096)
    for _ in range(40):
        nvme.io[1].push(nvme.rw(READ, 0, 8, at))
    nvme.io[1].ring()
    nvme.set_reg(CC, CC_ENABLE | 1 << 14)
    nvme.wait_csts(0xc, 8)
    nvme.enable()
    nvme.create_io(1)
    nvme.read(0, 1)


@pytest.mark.parametrize("index,value", [(2 * 9, 1), (2 * 9 + 1, 1), (2, 64), (2, 0xffff), (2, 0xffffffff)])
def test_bad_doorbell_is_an_event_and_stops_that_queue_only(nvme, index, value, neighbour):
    aer = nvme.admin.submit(sqe(ASYNC_EVENT))
    nvme.read(0, 1)
    nvme.doorbell(index, value)
    cqe = nvme.admin.wait(aer, timeout=3)
    assert cqe.status == "SUCCESS" and cqe.dw0 & 7 == 0 and cqe.dw0 >> 8 & 0xff in (0, 1), cqe
    # The error log is read to clear the event; the admin queue works on.
    nvme.run_admin(GET_LOG_PAGE, nsid=0xffffffff, prp1=nvme.page, cdw10=cqe.dw0 >> 16 & 0xff | 15 << 16)
    nvme.enable()
    nvme.create_io(1)
    nvme.write(0, pattern(11, 512))
    assert nvme.read(0, 1) == pattern(11, 512)


@pytest.mark.parametrize("index,value", [(3, 64), (3, 0xffff), (2 * 511, 3), (3, 21)])
def test_bad_cq_head_or_doorbell_beyond_all_queues_is_no_crash(nvme, neighbour, index, value):
    """A CQ head is looked at when room is needed, so that no event is owed at once; 21 is beyond the tail."""
    nvme.read(0, 1)
    nvme.doorbell(index, value)
    at = nvme.memory.alloc(4096)
    for _ in range(60):
        nvme.io[1].push(nvme.rw(READ, 0, 1, at))
    nvme.io[1].ring()
    time.sleep(0.05)
    nvme.identify(1)
    nvme.enable()
    nvme.create_io(1)
    nvme.read(0, 1)


def test_doorbells_before_ready_are_ignored(bare, neighbour):
    for index in range(0, 1024, 7):
        bare.vc.write32(0, 0x1000 + 4 * index, index, posted=True)
    bare.enable()
    bare.create_io(1)
    bare.read(0, 1)


def test_odd_doorbell_offsets_are_ignored(nvme):
    for offset in (0x1001, 0x1002, 0x100a, 0x1009):
        for size in (1, 2, 4):
            try:
                nvme.vc.region_write(0, offset, b"\1" * size)
            except VfioError:
                pass
    nvme.identify(1)
    nvme.enable()
    nvme.create_io(1)
    nvme.read(0, 1)


def test_random_register_writes_for_a_while(bare, neighbour):
    rng = random.Random(7)
    for _ in range(5000):
        offset = rng.choice((rng.randrange(0, 0x40), 0x14, 0x1000 + 4 * rng.randrange(64), rng.randrange(0, 0x1ff8)))
        size = rng.choice((1, 2, 4, 4, 4, 8))
        bare.vc.region_write(0, offset, rng.randbytes(size), posted=True)
    bare.vc.device_info()
    bare.vc.reset()
    bare.setup_pci()
    bare.enable()
    bare.create_io(1)
    bare.read(0, 1)
