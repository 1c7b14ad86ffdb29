# SPDX-License-Identifier: BSD-3-Clause
"""One measurement: a server on the last CPU, a client on the first, and how long both had to wait for their CPU."""
import json
import mmap
import os
import re
import signal
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "lib"), str(ROOT / "tests" / "guest"), str(ROOT / "tests" / "wire")]

import cache  # noqa: E402  (needs the path above)
from nvme import Nvme  # noqa: E402,F401
from snap import RpcError, Snap, program  # noqa: E402,F401
from target import Target  # noqa: E402
from vblk import vblk_disk  # noqa: E402

CLIENT_CPU = 0
SERVER_CPU = max(os.sched_getaffinity(0))
SERVER_MASK = f"{1 << SERVER_CPU:#x}"
CLIENT_MASK = f"{1 << CLIENT_CPU:#x}"
BLOCKS = 1 << 19  # of 512 bytes
PFS = {"NVME_EMULATION_NUM_PF": 1, "NVME_EMULATION_NUM_VF": 0, "VIRTIO_BLK_EMULATION_NUM_PF": 1,
       "VIRTIO_BLK_EMULATION_NUM_VF": 0}


class BenchError(Exception):
    """A measurement that says nothing, and why."""


class Skipped(BenchError):
    """A measurement that was not made, and why; nothing is wrong."""


class UnrecordedSnap(Snap):
    """A service that keeps no records: a build that exists to be measured."""

    def __init__(self, *args, **kw):
        super().__init__(*args, env={"SNAP_NO_RECORDS": "measure"}, **kw)

    def _spawn(self, name, args, log):
        return super()._spawn("snap_service_no_records" if name == "snap_service" else name, args, log)


def waited_ns(pids):
    """How long the threads of these processes have waited for a CPU."""
    total = 0
    for pid in pids:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total


class Delay:
    """The share of the time in which a process of ours was ready and had no CPU."""

    def __init__(self, *pids):
        self.pids, self.before, self.start = pids, waited_ns(pids), time.monotonic()

    def share(self):
        return (waited_ns(self.pids) - self.before) / 1e9 / (time.monotonic() - self.start)


def run_client(argv, pids=(), environment=None, cpu=CLIENT_CPU):
    """A client pinned to its CPU. Returns what it printed and the run-queue delay of it and of pids."""
    process = subprocess.Popen(["taskset", "-c", str(cpu), *map(str, argv)], text=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(environment or {})})
    delay = Delay(process.pid, *pids)
    out, problem = process.communicate(timeout=300)
    share = delay.share()
    if process.returncode:
        raise BenchError(f"{Path(str(argv[0])).name} ended with {process.returncode}: {(problem or out)[-300:]}")
    return out, share


def perf(sockets, seconds, depth, bs="4k", rw="randread", extra=(), pids=()):
    """snap_perf, which polls all the time. Returns its JSON and the delay."""
    words = [w for s in sockets for w in ("--socket", s)]
    out, delay = run_client([program("snap_perf"), *words, "--depth", depth, "--bs", bs, "--rw", rw, "--runtime", seconds,
                             "--spin-us", 1000000, "--json", "--quiet", *extra], pids)
    return json.loads(out), delay


def img_bench(socket, ios, depth, pids=()):
    """qemu-img bench over libblkio: IOPS and delay."""
    argv, environment = cache.tool("qemu-img")
    disk = f"driver=virtio-blk-vhost-user,path={socket},cache.direct=on"
    out, delay = run_client([*argv, "bench", "-c", ios, "-d", depth, "-s", 4096, "-t", "none", "--image-opts", disk], pids,
                            environment)
    found = re.search(r"completed in ([0-9.]+) seconds", out)
    if not found:
        raise BenchError(f"qemu-img bench printed no time: {out[-200:]}")
    return ios / float(found[1]), delay


def fio(path, seconds, depth, rw="randread", bs="4k"):
    """fio with io_uring and O_DIRECT on a file: IOPS and delay. On the CPU on which the service submits: a disk's interrupts may
    all come to one CPU, and whoever submits there pays for them."""
    out, delay = run_client(["fio", "--name=raw", f"--filename={path}", "--ioengine=io_uring", "--direct=1", f"--rw={rw}",
                             f"--bs={bs}", f"--iodepth={depth}", f"--runtime={seconds}", "--time_based",
                             "--output-format=json", "--norandommap", "--gtod_reduce=1"], cpu=SERVER_CPU)
    job = json.loads(out[out.index("{"):])["jobs"][0]
    return job["read"]["iops"] + job["write"]["iops"], delay


def wake_up_us(rounds=4):
    """What any server that sleeps must pay: after a second of rest, from the write to an eventfd to the moment in which the
    process that waits for it runs on the other CPU. The writer has not slept, like a client that polls. Median."""
    event, told = os.eventfd(0), mmap.mmap(-1, 8)
    sleeper = os.fork()
    if sleeper == 0:
        os.sched_setaffinity(0, {SERVER_CPU})
        while True:
            os.eventfd_read(event)
            struct.pack_into("<q", told, 0, time.monotonic_ns())
    affinity, took = os.sched_getaffinity(0), []
    try:
        os.sched_setaffinity(0, {CLIENT_CPU})
        for _ in range(rounds):
            rested = time.monotonic() + 1
            while time.monotonic() < rested:
                pass
            struct.pack_into("<q", told, 0, 0)
            begin = time.monotonic_ns()
            os.eventfd_write(event, 1)
            while not struct.unpack_from("<q", told, 0)[0]:
                pass
            took.append((struct.unpack_from("<q", told, 0)[0] - begin) / 1e3)
    finally:
        os.sched_setaffinity(0, affinity)
        os.kill(sleeper, signal.SIGKILL)
        os.waitpid(sleeper, 0)
        os.close(event)
    return statistics.median(took)


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])
