# SPDX-License-Identifier: BSD-3-Clause
"""Interrupts: every form of SET_IRQS, and that no event is lost between two of them."""
import os
import struct
import time

import pytest
import vfio_user as v
from disks import emu_fds
from nvme import READ, Nvme, sqe
from vfio_user import VfioError, eventfd, fired


def drain(fds):
    for fd in fds:
        fired(fd, 0)


def test_msix_is_eventfd_and_resizable(vc):
    flags, count = vc.irq_info(v.MSIX)
    assert flags & 1 and not flags & 8
    assert count >= 2
    for index in range(5):
        vc.irq_info(index)
    for index in (5, 0xffffffff):
        with pytest.raises(VfioError):
            vc.irq_info(index)


def test_completion_signals_its_vector(nvme):
    drain(nvme.vectors)
    nvme.read(0, 1)
    assert fired(nvme.vectors[1]) >= 1


def test_one_interrupt_per_batch_not_per_command(nvme):
    """32 reads by one doorbell: far fewer signals than completions."""
    drain(nvme.vectors)
    at = nvme.memory.alloc(4096)
    cids = [nvme.io[1].push(nvme.rw(READ, 0, 1, at)) for _ in range(32)]
    nvme.io[1].ring()
    time.sleep(0.3)
    for cid in cids:
        nvme.io[1].wait(cid)
    assert 1 <= fired(nvme.vectors[1]) <= 16


def test_event_while_no_eventfd_is_there_fires_on_assignment(nvme):
    drain(nvme.vectors)
    nvme.vc.set_irqs(v.MSIX, 1, 1, flags=0x24)  # take vector 1 away
    for _ in range(50):     # what happens before the service has heard of it still goes to the old one, and is not lost
        nvme.io[1].wait(nvme.io[1].submit(nvme.rw(READ, 0, 1, nvme.memory.alloc(512))))
        if not fired(nvme.vectors[1], 0.1):
            break
        drain(nvme.vectors)
    else:
        pytest.fail("the vector is still signalled")
    nvme.vc.set_irqs(v.MSIX, 1, 1, (nvme.vectors[1],))
    assert fired(nvme.vectors[1])


def test_event_between_disable_and_reassignment_of_all_is_not_lost(nvme):
    drain(nvme.vectors)
    nvme.vc.set_irqs(v.MSIX, 0, 0)  # NONE | TRIGGER, count 0: the whole index
    nvme.io[1].wait(nvme.io[1].submit(nvme.rw(READ, 0, 1, nvme.memory.alloc(512))))
    nvme.vc.set_irqs(v.MSIX, 0, len(nvme.vectors), nvme.vectors)
    assert fired(nvme.vectors[1])


def test_eventfd_swapped_under_load_loses_nothing(nvme):
    """QEMU masks a vector by giving it another eventfd."""
    other = eventfd()
    at = nvme.memory.alloc(512)
    for i in range(100):
        drain(nvme.vectors + [other])
        cid = nvme.io[1].submit(nvme.rw(READ, 0, 1, at))
        nvme.vc.set_irqs(v.MSIX, 1, 1, ((other, nvme.vectors[1])[i % 2],))
        nvme.io[1].wait(cid)
        deadline = time.monotonic() + 2
        while not fired(other, 0) + fired(nvme.vectors[1], 0):
            assert time.monotonic() < deadline, f"round {i}: no signal on either eventfd"
            time.sleep(0.001)
    os.close(other)


def test_vectors_may_come_one_by_one(path):
    with Nvme(path, start=False) as n:
        n.setup_pci()
        n.vc.set_irqs(v.MSIX, 0, 0)
        n.vc.set_irqs(v.MSIX, 0, 1, flags=0x24)  # as QEMU switches MSI-X on
        for i, fd in enumerate(n.vectors):
            n.vc.set_irqs(v.MSIX, i, 1, (fd,))
        n.enable()
        n.create_io(1, 16, 3)
        drain(n.vectors)
        n.read(0, 1)
        assert fired(n.vectors[3])


def test_more_vectors_than_fit_one_message_come_in_several(path):
    with Nvme(path, start=False) as n:
        count = n.vc.irq_info(v.MSIX)[1]
        fds = [eventfd() for _ in range(count)]
        for start in range(0, count, 16):
            n.vc.set_irqs(v.MSIX, start, len(fds[start:start + 16]), fds[start:start + 16])
        n.vc.set_config16(n.vc.capability(0x11) + 2, 0x8000)
        n.vc.set_config16(4, 0x406)
        n.enable()
        n.create_io(1, 16, count - 1)
        drain(fds)
        n.read(0, 1)
        assert fired(fds[-1])
        for fd in fds:
            os.close(fd)


def test_err_and_req_eventfds_are_taken_and_never_signalled(path):
    """QEMU stops the machine when ERR fires."""
    err, req = eventfd(), eventfd()
    with Nvme(path) as n:
        for index, fd in ((v.ERR_IRQ, err), (v.REQ_IRQ, req)):
            if n.vc.irq_info(index)[1]:
                n.vc.set_irqs(index, 0, 1, (fd,))
        n.io[1].run(sqe(0xff, nsid=1))
        n.doorbell(2 * 30, 5)
        n.vc.reset()
        time.sleep(0.1)
    assert not fired(err, 0.1) and not fired(req, 0)
    os.close(err)
    os.close(req)


def test_mask_and_unmask_of_intx_are_taken_when_there_is_one(vc):
    count = vc.irq_info(v.INTX)[1]
    for flags in (v.IRQ_NONE | v.IRQ_MASK, v.IRQ_NONE | v.IRQ_UNMASK):
        try:
            vc.set_irqs(v.INTX, 0, 1, flags=flags)
        except VfioError:
            assert not count
    vc.device_info()


def test_host_may_trigger_a_vector_itself(nvme):
    """NONE | TRIGGER and BOOL | TRIGGER with a count: a test interrupt."""
    drain(nvme.vectors)
    for flags, data in ((v.IRQ_NONE | v.IRQ_TRIGGER, b""), (v.IRQ_BOOL | v.IRQ_TRIGGER, b"\1")):
        try:
            nvme.vc.set_irqs(v.MSIX, 2, 1, flags=flags, data=data)
        except VfioError:
            continue
        assert fired(nvme.vectors[2])


@pytest.mark.parametrize("index,start,count,flags,data,nfds", [
    (5, 0, 1, 0x24, b"", 1), (0xffffffff, 0, 1, 0x24, b"", 1),
    (2, 0xffffffff, 1, 0x24, b"", 1), (2, 0xffffffff, 2, 0x24, b"", 1), (2, 1, 0xffffffff, 0x24, b"", 1),
    (2, 4096, 1, 0x24, b"", 1), (2, 0, 4096, 0x24, b"", 1), (2, 0, 2, 0x24, b"", 1), (2, 0, 1, 0x24, b"", 2),
    (2, 0, 1, 0, b"", 0), (2, 0, 1, 0x3f, b"", 1), (2, 0, 1, 0xffffffff, b"", 1), (2, 0, 1, 0x4, b"", 1),
    (2, 0, 4, 0x22, b"\1", 0), (2, 0, 1, 0x22, b"\1" * 64, 0), (2, 0, 1, 0x21, b"", 1)])
def test_nonsense_is_refused_and_changes_nothing(nvme, snap, index, start, count, flags, data, nfds, neighbour):
    r, w = os.pipe()
    before = emu_fds(snap)
    payload = struct.pack("=IIIII", 20 + len(data), flags, index, start, count) + data
    with pytest.raises(VfioError):
        nvme.vc.call(v.SET_IRQS, payload, (r, w)[:nfds])
    assert emu_fds(snap) == before
    os.close(r)
    os.close(w)
    drain(nvme.vectors)
    nvme.read(0, 1)
    assert fired(nvme.vectors[1])


def test_eventfd_that_blocks_does_not_stop_the_service(path, neighbour):
    """Full, and in blocking mode: signalling it must not wait."""
    with Nvme(path) as n:
        full = os.eventfd(0, 0)
        os.eventfd_write(full, 0xfffffffffffffffe)
        n.vc.set_irqs(v.MSIX, 1, 1, (full,))
        for _ in range(20):
            n.read(0, 1)
        os.close(full)


def test_descriptor_that_is_no_eventfd_harms_nobody(path, neighbour):
    """A pipe nobody reads, a socket, a file: refused, or signalled without effect on anybody else."""
    r, w = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    with Nvme(path) as n:
        for fd in (w, r, null):
            try:
                n.vc.set_irqs(v.MSIX, 1, 1, (fd,))
            except VfioError:
                continue
            for _ in range(50):
                n.read(0, 1)
    for fd in (r, w, null):
        os.close(fd)
    with Nvme(path) as n:
        n.read(0, 1)


def test_assigning_thousands_of_times_leaks_nothing(nvme, snap):
    before = emu_fds(snap)
    for _ in range(3000):
        nvme.vc.set_irqs(v.MSIX, 0, len(nvme.vectors), nvme.vectors)
    assert emu_fds(snap) <= before
