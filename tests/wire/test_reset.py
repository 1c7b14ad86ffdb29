# SPDX-License-Identifier: BSD-3-Clause
"""FLR, D3/D0, DEVICE_RESET, controller reset: nothing of before survives, maps and eventfds do."""
import time

import pytest
import vfio_user as v
from nvme import CC, CC_ENABLE, CFS, CSTS, RDY, READ, WRITE, pattern


def flr(n):
    """DevCtl bit 15, as Linux and QEMU do it; waits as Linux does until config space answers again."""
    cap = n.vc.capability(0x10)
    n.vc.set_config16(cap + 8, n.vc.config16(cap + 8) | 0x8000)
    deadline = time.monotonic() + 10
    while n.vc.config32(0) == 0xffffffff:
        assert time.monotonic() < deadline, "still in reset"
        time.sleep(0.005)


def d3_d0(n):
    cap = n.vc.capability(1)
    assert not n.vc.config16(cap + 4) & 8  # No_Soft_Reset
    n.vc.set_config16(cap + 4, 3)
    assert n.vc.config16(cap + 4) & 3 == 3
    n.vc.set_config16(cap + 4, 0)
    deadline = time.monotonic() + 10
    while n.vc.config32(0) == 0xffffffff:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def device_reset(n):
    n.vc.reset()


def controller_reset(n):
    n.disable()


RESETS = [flr, d3_d0, device_reset]
ALL = RESETS + [controller_reset]


def submit_many(n, opc=WRITE, count=40):
    at = n.memory.alloc(count * 4096)
    for i in range(count):
        n.memory.write(at + 4096 * i, pattern(1000 + i, 4096))
        n.io[1].push(n.rw(opc, 8 * i, 8, at + 4096 * i))
    n.io[1].ring()
    return at


@pytest.mark.parametrize("reset", RESETS, ids=lambda f: f.__name__)
def test_registers_return_to_their_reset_values(nvme, reset, neighbour):
    cap = nvme.reg64(0)
    reset(nvme)
    assert (nvme.reg(CC), nvme.reg(CSTS) & (RDY | CFS), nvme.reg64(0)) == (0, 0, cap)
    assert nvme.reg(0x24) == 0 and nvme.reg64(0x28) == 0 and nvme.reg64(0x30) == 0
    if reset is not device_reset:
        assert nvme.vc.config16(4) & 0x6 == 0


def test_controller_reset_keeps_the_admin_queue_registers(nvme):
    before = nvme.reg(0x24), nvme.reg64(0x28), nvme.reg64(0x30)
    nvme.disable()
    assert (nvme.reg(0x24), nvme.reg64(0x28), nvme.reg64(0x30)) == before


@pytest.mark.parametrize("reset", ALL, ids=lambda f: f.__name__)
def test_queues_are_gone_and_the_next_ones_are_clean(nvme, reset):
    nvme.write(0, pattern(5, 512))
    reset(nvme)
    old = nvme.io.get(1)
    nvme.setup_pci()
    nvme.enable()
    if old:
        before = nvme.memory.read(old.cq, old.entries * 16)
        nvme.doorbell(2, (old.tail + 1) % old.entries)
        time.sleep(0.05)
        assert nvme.memory.read(old.cq, old.entries * 16) == before
    nvme.disable()
    nvme.enable()
    nvme.create_io(1)
    assert nvme.read(0, 1) == pattern(5, 512)


@pytest.mark.parametrize("reset", ALL, ids=lambda f: f.__name__)
def test_memory_maps_and_eventfds_survive(nvme, reset):
    reset(nvme)
    cap = nvme.vc.capability(0x11)
    nvme.vc.set_config16(cap + 2, 0x8000)
    nvme.vc.set_config16(4, 0x406)
    nvme.enable()  # without another DMA_MAP or SET_IRQS
    nvme.create_io(1)
    for fd in nvme.vectors:
        v.fired(fd, 0)
    nvme.read(0, 1)
    assert v.fired(nvme.vectors[1])


@pytest.mark.parametrize("reset", ALL, ids=lambda f: f.__name__)
def test_reset_with_io_in_flight_and_no_late_dma(nvme, reset, neighbour):
    """40 reads in flight; after the reset no buffer and no CQ changes any more."""
    for _ in range(10):
        at = submit_many(nvme, READ)
        reset(nvme)
        cq = nvme.admin.cq
        nvme.memory.write(at, b"\xee" * (40 * 4096))
        before = nvme.memory.read(cq, 512)
        time.sleep(0.02)
        assert nvme.memory.read(at, 40 * 4096) == b"\xee" * (40 * 4096)
        assert nvme.memory.read(cq, 512) == before
        nvme.memory.used = 0
        nvme.admin = None
        if hasattr(nvme, "buffer"):
            del nvme.buffer
        nvme.setup_pci()
        nvme.enable()
        nvme.create_io(1)
    nvme.write(0, pattern(6, 512))
    assert nvme.read(0, 1) == pattern(6, 512)


def test_flr_while_commands_wait_for_memory_still_ends(nvme):
    buffer = nvme.memory.alloc(4096)
    nvme.memory.detach(nvme.vc)
    nvme.io[1].push(nvme.rw(READ, 0, 8, buffer))
    nvme.io[1].ring()
    flr(nvme)
    nvme.memory.attach(nvme.vc)
    nvme.setup_pci()
    nvme.enable()
    nvme.create_io(1)
    nvme.read(0, 1)


@pytest.mark.parametrize("reset", RESETS, ids=lambda f: f.__name__)
def test_reset_storm_is_served_in_order(nvme, reset, neighbour):
    for _ in range(50):
        reset(nvme)
    nvme.setup_pci()
    nvme.enable()
    nvme.create_io(1)
    nvme.read(0, 1)


def test_enable_toggled_fast_ends_in_the_last_state(nvme, neighbour):
    for i in range(100):
        nvme.set_reg(CC, CC_ENABLE if i % 2 else 0)
    nvme.disable()
    nvme.enable()
    nvme.create_io(1)
    nvme.read(0, 1)


def test_device_reset_at_realize_before_anything_else(path):
    with v.VfioUser(path) as c:
        c.reset()
        assert c.read32(0, CSTS) == 0


def test_messages_sent_behind_a_reset_are_answered_after_it(nvme):
    idents = [(nvme.vc.send(v.DEVICE_RESET), v.DEVICE_RESET)]
    for _ in range(10):
        idents.append((nvme.vc.send(v.REGION_READ, b"\x1c" + bytes(11) + b"\4\0\0\0"), v.REGION_READ))
    for ident, command in idents:
        nvme.vc.reply_to(ident, command)


def test_shutdown_is_reported_complete(nvme):
    """A guest waits for CSTS.SHST at power-off."""
    nvme.write(0, pattern(8, 512))
    for shn in (1, 2):
        nvme.set_reg(CC, CC_ENABLE | shn << 14)
        nvme.wait_csts(0xc, 8)
        nvme.disable()
        nvme.enable()
    nvme.create_io(1)
    assert nvme.read(0, 1) == pattern(8, 512)
