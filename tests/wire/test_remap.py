# SPDX-License-Identifier: BSD-3-Clause
"""Guest memory comes and goes under an enabled controller, as while firmware shadows RAM."""
import random
import struct
import time

import pytest
import vfio_user as v
from nvme import READ, WRITE, Nvme, pattern, sqe


def pieces(n, step):
    m = n.memory
    for at in range(0, m.size, step):
        n.vc.dma_map(m.iova + at, min(step, m.size - at), m.fd, at)


def unmap_pieces(n, step):
    m = n.memory
    for at in range(0, m.size, step):
        n.vc.dma_unmap(m.iova + at, min(step, m.size - at))


def queue_reads(n, count, at):
    return [n.io[1].push(n.rw(READ, 8 * i, 8, at + 4096 * i)) for i in range(count)]


def test_unmap_of_all_ram_with_io_queued_and_remap_in_pieces(nvme, neighbour):
    """8.4: rung before, during and after; all of it finishes once memory is back."""
    at = nvme.memory.alloc(40 * 4096)
    for i in range(40):
        nvme.write(8 * i, pattern(i, 4096))
    cids = queue_reads(nvme, 20, at)
    nvme.io[1].ring()
    nvme.memory.detach(nvme.vc)
    more = [nvme.io[1].push(nvme.rw(READ, 8 * i, 8, at + 4096 * i)) for i in range(20, 40)]
    nvme.io[1].ring()
    time.sleep(0.1)
    pieces(nvme, 1 << 20)
    for cid in cids + more:
        cqe = nvme.io[1].wait(cid)
        assert cqe.status == "SUCCESS", cqe
    for i in range(40):
        assert nvme.memory.read(at + 4096 * i, 4096) == pattern(i, 4096)


def test_reply_to_unmap_means_no_access_any_more(nvme):
    """After the reply the pages belong to the host: no late data, no late completion."""
    at = nvme.memory.alloc(50 * 4096)
    rng = random.Random(4)
    for _ in range(30):
        cids = queue_reads(nvme, 50, at)
        nvme.io[1].ring()
        time.sleep(rng.random() * 0.003)
        nvme.memory.detach(nvme.vc)
        before = bytes(nvme.memory.map)
        time.sleep(0.005)
        assert bytes(nvme.memory.map) == before
        nvme.memory.attach(nvme.vc)
        for cid in cids:
            assert nvme.io[1].wait(cid).status == "SUCCESS"


def test_unmap_never_fails_the_controller(nvme):
    for i in range(20):
        nvme.memory.detach(nvme.vc)
        assert nvme.reg(0x1c) & 3 == 1
        nvme.memory.attach(nvme.vc)
        nvme.write(0, pattern(i, 512))


def test_unmap_of_buffers_only_keeps_queues_running(path):
    ram = v.Memory(1 << 20, 0x9_0000_0000)
    with Nvme(path) as n:
        ram.attach(n.vc)
        cids = [n.io[1].submit(n.rw(READ, 0, 8, ram.iova + 4096 * i)) for i in range(20)]
        ram.detach(n.vc)
        n.read(0, 1)
        ram.attach(n.vc)
        for cid in cids:
            assert n.io[1].wait(cid).status in ("SUCCESS", "DATA_TRANSFER_ERROR")
        n.read(0, 1)


def test_queue_memory_in_several_maps(nvme):
    """Every page of the SQ and the CQ in a map of its own."""
    nvme.memory.detach(nvme.vc)
    pieces(nvme, 4096)
    for i in range(200):
        nvme.write(i % 64, pattern(i, 4096))
        assert nvme.read(i % 64, 8) == pattern(i, 4096)
    unmap_pieces(nvme, 4096)
    nvme.memory.attach(nvme.vc)
    nvme.read(0, 8)


def test_maps_pipelined_without_waiting_while_io_runs(nvme):
    m = nvme.memory
    at = m.alloc(20 * 4096)
    for _ in range(20):
        cids = queue_reads(nvme, 20, at)
        nvme.io[1].ring()
        idents = [(nvme.vc.send(v.DMA_UNMAP, struct.pack("=IIQQ", 24, 0, m.iova, m.size)), v.DMA_UNMAP)]
        for offset in range(0, m.size, 2 << 20):
            idents.append((nvme.vc.send(v.DMA_MAP, struct.pack("=IIQQQ", 32, 3, offset, m.iova + offset, 2 << 20),
                                        (m.fd,)), v.DMA_MAP))
        for ident, command in idents:
            nvme.vc.reply_to(ident, command)
        for cid in cids:
            assert nvme.io[1].wait(cid).status == "SUCCESS"
        unmap_pieces(nvme, 2 << 20)
        m.attach(nvme.vc)


def test_boot_like_sequence(nvme):
    """About twenty maps and fifteen unmaps, with I/O after each, as firmware does it."""
    rng = random.Random(5)
    for i in range(15):
        nvme.memory.detach(nvme.vc)
        step = rng.choice((64 << 10, 640 << 10, 1 << 20, 4 << 20)) & ~4095
        pieces(nvme, step)
        nvme.write(i, pattern(i, 512))
        assert nvme.read(i, 1) == pattern(i, 512)
        nvme.vc.dma_unmap(0, 0, flags=2)
        nvme.memory.attach(nvme.vc)


def test_admin_queue_parks_and_resumes(nvme):
    nvme.memory.detach(nvme.vc)
    cid = nvme.admin.submit(sqe(6, prp1=nvme.page, cdw10=1))
    with pytest.raises(v.Timeout):
        nvme.admin.wait(cid, timeout=0.2)
    nvme.memory.attach(nvme.vc)
    assert nvme.admin.wait(cid).status == "SUCCESS"


def test_memory_that_comes_back_elsewhere_in_the_file_is_what_is_used(path):
    """Re-translated after the map change, not remembered: the same address, other pages."""
    a, b = v.Memory(1 << 20, 0xa_0000_0000), v.Memory(1 << 20, 0xa_0000_0000)
    with Nvme(path) as n:
        n.write(0, pattern(20, 4096))
        a.attach(n.vc)
        assert n.io[1].run(n.rw(READ, 0, 8, a.iova)).status == "SUCCESS"
        a.detach(n.vc)
        b.attach(n.vc)
        assert n.io[1].run(n.rw(READ, 0, 8, a.iova)).status == "SUCCESS"
        assert b.read(b.iova, 4096) == pattern(20, 4096)
        b.detach(n.vc)
    a.close()
    b.close()


def test_writes_across_remaps_are_neither_lost_nor_doubled(nvme):
    """Random unmaps between rings; every write is read back."""
    rng = random.Random(6)
    at = nvme.memory.alloc(32 * 4096)
    for turn in range(30):
        cids = []
        for i in range(32):
            nvme.memory.write(at + 4096 * i, pattern(turn * 100 + i, 4096))
            cids.append(nvme.io[1].push(nvme.rw(WRITE, 8 * i, 8, at + 4096 * i)))
        nvme.io[1].ring()
        if rng.random() < 0.7:
            nvme.memory.detach(nvme.vc)
            time.sleep(rng.random() * 0.002)
            nvme.memory.attach(nvme.vc)
        for cid in cids:
            assert nvme.io[1].wait(cid).status == "SUCCESS"
        i = rng.randrange(32)
        assert nvme.read(8 * i, 8) == pattern(turn * 100 + i, 4096)
