# SPDX-License-Identifier: BSD-3-Clause
"""The two disks of the wire tests, and the neighbour that verifies on the second one."""
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from snap import Snap, program, tail

BLOCKS = 16384  # of 512 bytes, per disk


class Neighbour:
    """snap_perf, verifying a small range of other functions at a modest rate."""

    def __init__(self, sockets, directory, rate=300):
        self.log = Path(directory) / "neighbour.log"
        self.out = open(self.log, "wb")
        where = (a for s in sockets for a in ("--socket", str(s)))
        self.process = subprocess.Popen(
            [program("snap_perf"), *where, "--rw", "randrw", "--bs", "4k", "--depth", "4", "--range", "512", "--verify",
             "--rate", str(rate), "--runtime", "3600", "--missing-after", "20", "--status", "0.2", "--json"],
            stdout=subprocess.PIPE, stderr=self.out, stdin=subprocess.DEVNULL)

    def check(self):
        """Still there, nothing found."""
        assert self.process.poll() is None, f"the neighbour ended:\n{tail(self.log)}"

    def completed(self):
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith('{"status"')]
        return json.loads(lines[-1])["completed"] if lines else 0

    def goes_on(self, seconds=5):
        """It does something from now on."""
        before, deadline = self.completed(), time.monotonic() + seconds
        while self.completed() <= before:
            self.check()
            assert time.monotonic() < deadline, f"the neighbour does nothing:\n{tail(self.log)}"
            time.sleep(0.02)

    def stop(self):
        """Its verdict."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            out = self.process.communicate(timeout=40)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise AssertionError(f"the neighbour hung:\n{tail(self.log)}") from None
        finally:
            self.out.close()
        assert self.process.returncode == 0, f"the neighbour found errors:\n{tail(self.log)}\n{out.decode()}"
        return json.loads(out)


TOPOLOGY = {"NVME_EMULATION_ENABLE": "True", "NVME_EMULATION_NUM_PF": 2, "NVME_EMULATION_NUM_VF": 0,
            "NVME_EMULATION_MAX_QUEUE_DEPTH": 10, "VIRTIO_BLK_EMULATION_ENABLE": "False"}


def two_disks(directory):
    s = Snap(directory, TOPOLOGY)
    for pf in range(2):
        s.rpc("bdev_malloc_create", name=f"Malloc{pf}", block_size=512, num_blocks=BLOCKS)
        s.nvme_disk(bdev=f"Malloc{pf}", nqn=f"nqn.2024-01.io.opensnap:wire{pf}", pf_id=pf, ctrl_id=f"Wire{pf}")
    s.vuids = [f["vuid"] for f in s.functions()]
    return s


BLK_TOPOLOGY = {"NVME_EMULATION_ENABLE": "True", "NVME_EMULATION_NUM_PF": 1, "NVME_EMULATION_NUM_VF": 0,
                "NVME_EMULATION_MAX_QUEUE_DEPTH": 10, "VIRTIO_BLK_EMULATION_ENABLE": "True",
                "VIRTIO_BLK_EMULATION_NUM_PF": 4, "VIRTIO_BLK_EMULATION_NUM_VF": 0, "VIRTIO_BLK_EMULATION_NUM_MSIX": 16}
BLK_QUEUES = 4


def blk_disks(directory):
    """virtio-blk on PFs 0 and 1, read-only on PF 2, PF 3 is free; NVMe on its only PF."""
    s = Snap(directory, BLK_TOPOLOGY)
    for pf in range(2):
        s.rpc("bdev_malloc_create", name=f"Malloc{pf}", block_size=512, num_blocks=BLOCKS)
        s.rpc("virtio_blk_controller_create", pf_id=pf, ctrl_id=f"Blk{pf}", bdev=f"Malloc{pf}", num_queues=BLK_QUEUES)
    s.rpc("bdev_malloc_create", name="Malloc2", block_size=512, num_blocks=2048)
    s.rpc("virtio_blk_controller_create", pf_id=2, ctrl_id="Blk2", bdev="Malloc2", num_queues=1, read_only=True,
          vblk_id="SERIAL-0123456789XYZ")
    s.rpc("bdev_malloc_create", name="MallocN", block_size=512, num_blocks=BLOCKS)
    s.nvme_disk(bdev="MallocN", pf_id=0, ctrl_id="Nvme0")
    s.vuids = [f["vuid"] for f in s.functions("VBLK")]
    return s


def service_fds(snap):
    return len(os.listdir(f"/proc/{snap.service.pid}/fd"))


def emu_fds(snap):
    return len(os.listdir(f"/proc/{snap.emu.pid}/fd"))


def open_fds(snap):
    return emu_fds(snap), service_fds(snap)


def no_more_fds(snap, before, seconds=5):
    """Whether both are back to no more descriptors than open_fds() said before; what a message brought is closed a moment
    after its answer."""
    deadline = time.monotonic() + seconds
    while any(now > then for now, then in zip(open_fds(snap), before)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
