# SPDX-License-Identifier: BSD-3-Clause
"""What a group measures on: a service of its own with a disk, and the ways to load that."""
import contextlib
import tempfile

import measure as m
from row import Run


@contextlib.contextmanager
def service(topology=None, mask=m.SERVER_MASK, args=(), records=True):
    kind = m.Snap if records else m.UnrecordedSnap
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, \
            kind(folder, topology=topology or m.PFS, mask=mask, service_args=args) as snap:
        yield snap


@contextlib.contextmanager
def nvme(bdev, **how):
    with service(**how) as snap:
        bdev(snap)
        snap.nvme_disk("Disk")
        yield snap, snap.vfio_socket(), ("--doorbells", "mapped")


@contextlib.contextmanager
def vblk(bdev, **how):
    with service(**how) as snap:
        bdev(snap)
        yield snap, m.vblk_disk(snap, "Disk")[1], ()


def null(snap):
    snap.rpc("bdev_null_create", name="Disk", block_size=512, num_blocks=m.BLOCKS)


def memory(snap):
    snap.rpc("bdev_malloc_create", name="Disk", block_size=512, num_blocks=m.BLOCKS)


def fill(snap, sock, extra):
    """Every page of the disk is there, as in a disk that is in use."""
    m.perf([sock], 60, 16, "128k", "write", (*extra, "--ios", m.BLOCKS * 512 >> 17))


def load(snap, sock, seconds, depth, bs="4k", extra=(), rw="randread", unit="iops"):
    """One run of snap_perf."""
    def run():
        got, delay = m.perf([sock], seconds, depth, bs, rw, extra, (snap.service.pid,))
        value = got["iops"] if unit == "iops" else got["iops"] * got["bs_bytes"] / 1e9
        latency = got["write_latency"] if "write" in rw else got["read_latency"]
        return Run(value, delay, {"p50_us": latency["p50_us"], "p99_us": latency["p99_us"]})
    return run


def busy_ticks(snap):
    """Of all reactors; and ticks a second."""
    got = snap.rpc("framework_get_reactors")
    return sum(r["busy"] for r in got["reactors"]), got["tick_rate"]


def commands(snap):
    return sum(b[f"num_{op}_ops"] for b in snap.rpc("bdev_get_iostat")["bdevs"] for op in ("read", "write"))


def cost(snap, sock, seconds, depth, extra=()):
    """One run of snap_perf: the time-stamp ticks in which the service's reactor was busy, for each command that it completed."""
    def run():
        ticks, done = busy_ticks(snap)[0], commands(snap)
        got, delay = m.perf([sock], seconds, depth, extra=extra, pids=(snap.service.pid,))
        after, rate = busy_ticks(snap)
        done = commands(snap) - done
        return Run((after - ticks) / done, delay, {"commands": done, "tick_rate": rate, "iops": got["iops"]})
    return run
