# SPDX-License-Identifier: BSD-3-Clause
"""Reboot, FLR, DEVICE_RESET, a client that dies, memory that goes away: with the service alive and with the service dead."""
import time

import pytest
import vfio_user as v
from host import RecoverySnap
from nvme import (ASYNC_EVENT, CC, CREATE_CQ, CREATE_SQ, CSTS, DELETE_SQ, GET_FEATURES, READ, SET_FEATURES,
                  WRITE, Nvme, pattern, sqe)
from vfio_user import VfioError, VfioUser

COUNT = 60


@pytest.fixture(scope="module")
def snap(tmp_path_factory):
    with RecoverySnap(tmp_path_factory.mktemp("life")) as s:
        s.malloc_disk(0, 16384)
        s.file_disk(1)
        yield s


@pytest.fixture(autouse=True)
def service_runs_again(snap):
    yield
    if snap.service is None or snap.service.poll() is not None:
        snap.service = None
        snap.start_service()


@pytest.fixture(params=["malloc", "file"])
def path(snap, request):
    return snap.socket_of(0 if request.param == "malloc" else 1)


@pytest.fixture
def n(path):
    with Nvme(path, entries=128) as x:
        yield x


dead_or_alive = pytest.mark.parametrize("alive", [True, False], ids=["alive", "dead"])


def in_flight(n, opc=READ):
    """COUNT commands rung; returns their buffers' address."""
    at = n.memory.alloc(COUNT * 4096)
    for i in range(COUNT):
        if opc == WRITE:
            n.memory.write(at + 4096 * i, pattern(5000 + i, 4096))
        n.io[1].push(n.rw(opc, 8 * i, 8, at + 4096 * i))
    n.io[1].ring()
    return at


def wait_config(vc, seconds=10):
    deadline = time.monotonic() + seconds
    while vc.config32(0) == 0xffffffff:
        assert time.monotonic() < deadline, "the function stays in reset"
        time.sleep(0.005)


def flr(n):
    cap = n.vc.capability(0x10)
    n.vc.set_config16(cap + 8, 0x8000)
    wait_config(n.vc)


def d3_d0(n):
    cap = n.vc.capability(1)
    n.vc.set_config16(cap + 4, 3)
    n.vc.set_config16(cap + 4, 0)
    wait_config(n.vc)


def device_reset(n):
    n.vc.reset(timeout=5)


def reboot(n):
    """What QEMU does at a guest reboot: DEVICE_RESET, all memory away and back, PCI set up anew."""
    n.vc.reset(timeout=5)
    n.memory.detach(n.vc, timeout=5)
    n.memory.attach(n.vc)


RESETS = [flr, d3_d0, device_reset, reboot]


@dead_or_alive
@pytest.mark.parametrize("reset", RESETS, ids=lambda f: f.__name__)
def test_reset_with_io_in_flight(snap, n, reset, alive):
    """No command of before completes after it, none of its data lands, and the next driver gets a clean function."""
    n.write(0, pattern(1, 4096))
    at = in_flight(n)
    if not alive:
        snap.kill_service()
    reset(n)
    n.memory.write(at, b"\xdd" * (COUNT * 4096))
    cq = n.memory.read(n.io[1].cq, 128 * 16)
    assert n.reg(CC) == 0 and n.reg(CSTS) & 1 == 0
    if not alive:
        snap.start_service()
    time.sleep(0.1)
    assert n.memory.read(at, COUNT * 4096) == b"\xdd" * (COUNT * 4096)
    assert n.memory.read(n.io[1].cq, 128 * 16) == cq
    n.setup_pci()
    n.enable()
    n.create_io(1, 128)
    assert n.read(0, 8) == pattern(1, 4096)
    n.write(8, pattern(2, 4096))
    assert n.read(8, 8) == pattern(2, 4096)


@pytest.mark.parametrize("reset", RESETS, ids=lambda f: f.__name__)
def test_reset_between_kill_and_start_then_enable_while_dead(snap, n, reset):
    """A rebooting guest goes on by itself: its register writes wait in the log."""
    in_flight(n, WRITE)
    snap.kill_service()
    reset(n)
    n.setup_pci()
    n.admin.clear()
    n.io = {}
    n.set_reg(0x24, 31 | 31 << 16)
    for reg, value in ((0x28, n.admin.sq), (0x30, n.admin.cq)):
        n.set_reg(reg, value & 0xffffffff)
        n.set_reg(reg + 4, value >> 32)
    n.set_reg(CC, 1 | 6 << 16 | 4 << 20)
    snap.start_service()
    n.wait_csts(1, 1)
    n.create_io(1, 64)
    n.write(0, pattern(3, 4096))
    assert n.read(0, 8) == pattern(3, 4096)


@dead_or_alive
def test_client_dies_and_another_attaches(snap, path, alive):
    n = Nvme(path, entries=128)
    n.write(0, pattern(4, 4096))
    at = in_flight(n)
    if not alive:
        snap.kill_service()
    n.vc.close()
    deadline = time.monotonic() + 10
    while True:
        try:
            c = VfioUser(path, timeout=3)
            break
        except (VfioError, v.Disconnected, v.Timeout, ConnectionError):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    n.memory.write(at, b"\xdd" * (COUNT * 4096))
    assert c.read32(0, CC) == 0
    if not alive:
        snap.start_service()
    time.sleep(0.1)
    assert n.memory.read(at, COUNT * 4096) == b"\xdd" * (COUNT * 4096)
    n.memory.close()
    with Nvme(path, vc=c) as m:
        assert m.read(0, 8) == pattern(4, 4096)


@dead_or_alive
def test_all_ram_unmapped_under_an_enabled_controller(snap, n, alive):
    for i in range(COUNT):
        n.write(8 * i, pattern(100 + i, 4096))
    at = in_flight(n)
    if not alive:
        snap.kill_service()
    n.memory.detach(n.vc, timeout=5)
    n.memory.map[at - n.memory.iova:at - n.memory.iova + COUNT * 4096] = b"\xdd" * (COUNT * 4096)
    before = bytes(n.memory.map)
    time.sleep(0.05)
    if not alive:
        snap.start_service()
        time.sleep(0.1)
    assert bytes(n.memory.map) == before, "memory was written after the reply to DMA_UNMAP"
    n.memory.attach(n.vc)
    seen = sorted(n.io[1].outstanding)
    for cid in seen:
        assert n.io[1].wait(cid).status == "SUCCESS"
    # Those that had completed before the unmap wrote their buffers then; the others wrote them now.
    n.write(0, pattern(7, 512))
    assert n.read(0, 1) == pattern(7, 512)


@dead_or_alive
def test_memory_remapped_in_pieces_while_io_waits(snap, n, alive):
    for i in range(COUNT):
        n.write(8 * i, pattern(200 + i, 4096))
    n.memory.detach(n.vc)
    if not alive:
        snap.kill_service()
    at = in_flight(n)
    for offset in range(0, n.memory.size, 1 << 20):
        n.vc.dma_map(n.memory.iova + offset, 1 << 20, n.memory.fd, offset)
    if not alive:
        snap.start_service()
    for cid in sorted(n.io[1].outstanding):
        assert n.io[1].wait(cid).status == "SUCCESS"
    for i in range(COUNT):
        assert n.memory.read(at + 4096 * i, 4096) == pattern(200 + i, 4096)


def test_registers_answer_while_the_service_is_dead(snap, n):
    """The socket is snap_emu's: nothing of it hangs or closes, and doorbells accumulate."""
    snap.kill_service()
    time.sleep(0.1)
    assert n.reg(CSTS) & 1 == 1 and n.reg64(0) and n.vc.config32(0) != 0xffffffff
    slowest = 0
    for _ in range(100):
        start = time.monotonic()
        n.reg(CSTS)
        slowest = max(slowest, time.monotonic() - start)
    assert slowest < 0.5
    at = in_flight(n)
    admin = n.admin.submit(sqe(6, prp1=n.page, cdw10=1))
    time.sleep(0.1)
    assert not n.io[1].poll()
    snap.start_service()
    for cid in sorted(n.io[1].outstanding):
        assert n.io[1].wait(cid).status == "SUCCESS"
    assert n.admin.wait(admin).status == "SUCCESS"
    assert at


def test_more_register_writes_than_the_log_holds_while_dead(snap, n):
    """Lost writes end in a reset of the device, and the register image as it stands last."""
    snap.kill_service()
    for i in range(2000):
        n.set_reg(0x0c, i)  # INTMS
    n.set_reg(CC, 0)
    snap.start_service()
    n.wait_csts(1, 0)
    n.enable()
    n.create_io(1, 64)
    n.write(0, pattern(8, 512))
    assert n.read(0, 1) == pattern(8, 512)


def test_interrupts_are_signalled_once_after_adoption(snap, n):
    """A driver that sleeps may have missed the one the dead service did not send."""
    for fd in n.vectors:
        v.fired(fd, 0)
    snap.kill_service()
    snap.start_service()
    assert v.fired(n.vectors[0], 5) and v.fired(n.vectors[1], 5)


def test_eventfds_given_while_dead_are_used(snap, n):
    snap.kill_service()
    other = [v.eventfd() for _ in range(4)]
    n.vc.set_irqs(v.MSIX, 0, 0)
    n.vc.set_irqs(v.MSIX, 0, 4, other)
    snap.start_service()
    assert v.fired(other[1], 5)
    n.read(0, 1)
    assert v.fired(other[1])


def test_controller_state_survives(snap, n):
    """Features, held event requests, shadow doorbells, queues with their phases half-way round."""
    n.run_admin(SET_FEATURES, cdw10=4, cdw11=0x0150)
    n.run_admin(SET_FEATURES, cdw10=0xb, cdw11=0x100)
    aer = n.admin.submit(sqe(ASYNC_EVENT))
    q = n.create_io(2, 8, 2)
    for i in range(11):  # past the end of the ring once
        n.write(i, pattern(i, 512), qid=2)
    n.shadow_doorbells()
    for _ in range(3):
        snap.kill_service()
        snap.start_service()
        assert n.run_admin(GET_FEATURES, cdw10=4).dw0 == 0x0150
        for i in range(11):
            assert n.read(i, 1, qid=2) == pattern(i, 512)
            n.write(i, pattern(i, 512), qid=1)
    assert aer in n.admin.outstanding and not q.unexpected
    name = next(c["ctrl_id"] for c in snap.rpc("nvme_controller_list") if c["plugged"])
    snap.rpc("nvme_controller_detach_ns", ctrl_id=name, nsid=1)
    cqe = n.admin.wait(aer)
    assert cqe.status == "SUCCESS" and cqe.dw0 & 7 == 2, cqe
    snap.rpc("nvme_controller_attach_ns", ctrl_id=name, nsid=1)


def test_commands_rung_while_dead_come_in_one_piece(snap, n):
    """A whole ring filled and rung with nobody there, with a wrap in it."""
    for _ in range(90):
        n.io[1].run(sqe(0, nsid=1))
    snap.kill_service()
    cids = [n.io[1].push(sqe(0, nsid=1)) for _ in range(127)]
    n.io[1].ring()
    snap.start_service()
    for cid in cids:
        assert n.io[1].wait(cid).status == "SUCCESS"
    assert not n.io[1].unexpected


# ---- admin commands cut at the worst moment ----

@pytest.mark.parametrize("point", ["nvme_intents_stored", "nvme_cqes_written", "nvme_tail_stored", "nvme_fetch_copied",
                                   "nvme_fetch_published", "nvme_batch_freed"])
def test_admin_commands_interrupted_at_every_point_answer_once(tmp_path, point):
    """Create, delete, set features, doorbell buffers: executed again after the crash, they find their own number and say
    success, not "exists already"."""
    with RecoverySnap(tmp_path) as snap:
        snap.malloc_disk(0)
        with Nvme(snap.socket_of(0), io_queues=0) as n:
            cq, sq = n.memory.alloc(4096), n.memory.alloc(4096)
            shadow, event = n.memory.alloc(4096), n.memory.alloc(4096)
            commands = [
                ("features", sqe(SET_FEATURES, cdw10=7, cdw11=3 << 16 | 3)),
                ("create cq", sqe(CREATE_CQ, prp1=cq, cdw10=15 << 16 | 1, cdw11=1 << 16 | 3)),
                ("create sq", sqe(CREATE_SQ, prp1=sq, cdw10=15 << 16 | 1, cdw11=1 << 16 | 1)),
                ("shadow", sqe(0x7c, prp1=shadow, prp2=event)),
                ("temperature", sqe(SET_FEATURES, cdw10=4, cdw11=0x0155)),
                ("delete sq", sqe(DELETE_SQ, cdw10=1)),
                ("delete cq", sqe(4, cdw10=1)),
                ("create cq again", sqe(CREATE_CQ, prp1=cq, cdw10=15 << 16 | 1, cdw11=1 << 16 | 3)),
            ]
            for name, command in commands:
                snap.kill_service()
                snap.programs["snap_service"] = "snap_service_crash_points"
                snap.env["SNAP_CRASH_POINT"] = f"{point}:1"
                snap.start_service()
                cid = n.admin.submit(command)
                deadline = time.monotonic() + 1
                while snap.service.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.002)
                died = snap.service.poll() is not None
                if not died:
                    snap.kill_service()
                snap.service = None
                snap.programs.pop("snap_service")
                snap.env.pop("SNAP_CRASH_POINT")
                snap.start_service()
                cqe = n.admin.wait(cid)
                assert cqe.status == "SUCCESS", f"{name} at {point} (died: {died}): {cqe}"
                assert died, f"{name}: {point} was never passed"
                time.sleep(0.05)
                n.admin.poll()
                assert not n.admin.unexpected, f"{name}: completed twice: {n.admin.unexpected}"


def test_record_that_kills_two_services_ends_with_an_error(tmp_path):
    """Started twice in services that died: completed with an internal error, and the disk goes on."""
    with RecoverySnap(tmp_path) as snap:
        snap.malloc_disk(0)
        with Nvme(snap.socket_of(0)) as n:
            n.write(0, pattern(1, 512))
            snap.kill_service()
            snap.programs["snap_service"] = "snap_service_crash_points"
            snap.env["SNAP_CRASH_POINT"] = "nvme_intents_stored:1"
            snap.start_service()
            cid = n.io[1].submit(n.rw(READ, 0, 1, n.memory.alloc(512)))
            for _ in range(4):
                deadline = time.monotonic() + 3
                while snap.service.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.005)
                if snap.service.poll() is None:
                    break
                snap.service = None
                try:
                    snap.start_service()
                except RuntimeError:
                    continue
            if snap.service is not None:
                snap.kill_service()
            snap.programs.pop("snap_service")
            snap.env.pop("SNAP_CRASH_POINT")
            snap.start_service()
            cqe = n.io[1].wait(cid)
            assert cqe.status in ("INTERNAL_ERROR", "SUCCESS"), cqe
            assert n.read(0, 1) == pattern(1, 512)
