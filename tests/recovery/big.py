# SPDX-License-Identifier: BSD-3-Clause
"""128 MiB of O_DIRECT requests in flight when the service is killed, and a second service waiting for its lease: from the
moment it has it, nothing of the first may reach the first one's file or the guest's pages. The second one works on a copy: a
file belongs to one program at a time, and that lock would be a fence of its own."""
import mmap
import os
import time

from host import MIB, Noise, RecoverySnap
from nvme import READ, WRITE, Nvme
from snap import RpcError, Snap
from vfio_user import Memory

EACH = 512 << 10  # the largest command
COUNT = 256       # half of them writes, half reads: 128 MiB
BLOCK = 512
WRITES = COUNT // 2
OLD, NEW, LATE, GUARD, READ_DATA = b"\x11", b"\x22", b"\x33", b"\x44", b"\x55"
SAMPLE = 4096
TAIL = 64 << 10  # of each buffer: overwritten at once when the lease is there, before the kernel gets to it


class Direct:
    """Reads of the file past the page cache."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self.buffer = mmap.mmap(-1, EACH)

    def read(self, offset, size):
        view = memoryview(self.buffer)[:size]
        try:
            assert os.preadv(self.fd, [view], offset) == size
            return bytes(view)
        finally:
            view.release()

    def close(self):
        os.close(self.fd)
        self.buffer.close()


def create_file(path):
    """Writes go to its first half, reads come from the second."""
    with open(path, "wb") as f:
        for i in range(COUNT * EACH // MIB):
            f.write((OLD if i < WRITES * EACH // MIB else READ_DATA) * MIB)
        f.flush()
        os.fsync(f.fileno())


def create_holes(path):
    with open(path, "wb") as f:
        f.truncate(COUNT * EACH)


def waiting_service(snap, path, tmpdir):
    """A second service on the same snap_emu, with its own bdev and the same subsystem, without a controller."""
    other = Snap(tmpdir / "second", start=False)
    os.rmdir(other.run_dir)
    other.run_dir = snap.run_dir
    other.start_service()
    other.rpc("bdev_uring_create", name="File0", filename=str(path), block_size=BLOCK)
    info = snap.rpc("nvme_namespace_list")[0]
    other.rpc("nvme_subsystem_create", nqn=info["nqn"])
    other.rpc("nvme_namespace_create", nqn=info["nqn"], bdev_name="File0", nsid=1, uuid=info["uuid"])
    return other, info["nqn"]


def take_over(other, nqn, seconds=20):
    """The lease, suspended. Returns how long it took."""
    start = time.monotonic()
    while True:
        try:
            other.rpc("nvme_controller_create", nqn=nqn, pf_id=0, ctrl_id="Ctrl0", suspended=True)
            break
        except RpcError:
            assert time.monotonic() - start < seconds, "the lease was never granted"
            time.sleep(0.001)
    while True:
        state = next(c["state"] for c in other.rpc("nvme_controller_list") if c["ctrl_id"] == "Ctrl0")
        if state != "WAITING":
            assert state.startswith("SUSPEND"), state
            return time.monotonic() - start
        assert time.monotonic() - start < seconds, "the lease was never granted"
        time.sleep(0.001)


def fill_queue(n):
    """Writes first, then reads; returns the addresses of their buffers."""
    buffers = [n.memory.alloc(EACH) for _ in range(COUNT)]
    blocks = EACH // BLOCK
    for i, at in enumerate(buffers):
        n.memory.write(at, (NEW if i < WRITES else b"\x66") * EACH)
        n.io[1].push(n.rw(WRITE if i < WRITES else READ, i * blocks, blocks, at, EACH))
    return buffers


def round_(tmpdir, programs=None, settle=0.01, watch=1.5, to_the_end=True):
    """One kill. Returns a list of violations (empty: the fence held) and how many commands were in flight (0 without
    to_the_end: then the next service is not resumed)."""
    found = []
    with RecoverySnap(tmpdir, programs) as snap:
        path, copy = tmpdir / "disk0.img", tmpdir / "copy.img"
        create_file(path)
        if to_the_end:
            create_file(copy)
        else:
            create_holes(copy)
        snap.rpc("bdev_uring_create", name="File0", filename=str(path), block_size=BLOCK)
        snap.nvme_disk(bdev="File0", nqn="nqn.2024-01.io.opensnap:big", pf_id=0, ctrl_id="Ctrl0", mdts=7)
        snap.wait_accepts(0)
        other, nqn = waiting_service(snap, copy, tmpdir)
        direct, second = Direct(path), Direct(copy)
        noise = None
        n = Nvme(snap.socket_of(0), memory=Memory(COUNT * EACH + 16 * MIB), entries=COUNT + 1)
        try:
            buffers = fill_queue(n)
            noise = Noise(path)
            n.io[1].ring()
            time.sleep(settle)
            snap.service.kill()  # nobody waits for it to be reaped: the next lease may come as early as snap_emu lets it
            took = take_over(other, nqn)
            # From here on, what the first service had in flight must be over. The newest requests first: they are the
            # last the kernel gets to.
            marks = [(i, LATE * TAIL if i < WRITES else GUARD * TAIL) for i in reversed(range(COUNT))]
            for i, mark in marks:
                n.memory.write(tail_of(buffers[i]), mark)
            noise.stop()
            snap.kill_service()
            cq = n.memory.read(n.io[1].cq, n.io[1].entries * 16)
            before = [direct.read((i + 1) * EACH - SAMPLE, SAMPLE) for i in range(WRITES)]
            time.sleep(watch)
            after = [direct.read((i + 1) * EACH - SAMPLE, SAMPLE) for i in range(WRITES)]
            changed = sum(1 for x, y in zip(before, after) if x != y)
            if changed:
                found.append(f"file: {changed} of {WRITES} regions changed after the lease")
            late = sum(1 for i in range(WRITES) if LATE in direct.read(i * EACH, EACH))
            if late:
                found.append(f"file: {late} regions hold what the guest wrote into its buffers after the lease")
            changed = sum(1 for i, mark in marks if n.memory.read(tail_of(buffers[i]), TAIL) != mark)
            if changed:
                found.append(f"guest pages of {changed} buffers changed after the lease")
            if n.memory.read(n.io[1].cq, n.io[1].entries * 16) != cq:
                found.append("completions appeared after the lease, while the next service was suspended")
            posted = sum(cq[16 * i + 14] & 1 for i in range(n.io[1].entries))
            print(f"settled {settle * 1000:.0f} ms: the lease took {took * 1000:.0f} ms, {posted} of {COUNT} were completed: {found}")
            if not to_the_end:
                return found, 0
            finish(n, other, second, buffers[0], found)
            records = other.rpc("nvme_controller_dbg_io_stats_get", ctrl_id="Ctrl0")["recovery"]["records"]
        finally:
            if noise:
                noise.stop()
            n.close()
            direct.close()
            second.close()
            other.stop()
    return found, records


def tail_of(buffer):
    return buffer + EACH - TAIL


def finish(n, other, direct, base, found):
    """Resumed, the next service runs all of it again, from the buffers as they are now."""
    other.rpc("nvme_controller_attach_ns", ctrl_id="Ctrl0", nsid=1)
    other.rpc("nvme_controller_resume", ctrl_id="Ctrl0")
    deadline = time.monotonic() + 60
    while n.io[1].outstanding:
        n.io[1].poll()
        if time.monotonic() > deadline:
            found.append(f"{len(n.io[1].outstanding)} commands never completed")
            return
        time.sleep(0.002)
    if n.io[1].unexpected:
        found.append(f"duplicate completions: {n.io[1].unexpected[:4]}")
    bad = {c.status for c in n.io[1].done.values()} - {"SUCCESS"}
    if bad:
        found.append(f"commands ended with {bad}")
    # Those the first service had completed are not done again.
    for i in range(COUNT):
        if i >= WRITES and n.memory.read(base + i * EACH, EACH) not in (
                READ_DATA * EACH, READ_DATA * (EACH - TAIL) + GUARD * TAIL):
            found.append(f"read {i} brought wrong data")
            return
        if i < WRITES and direct.read(i * EACH, EACH) not in (OLD * EACH, NEW * (EACH - TAIL) + LATE * TAIL):
            found.append(f"write {i} left a mixture")
            return
