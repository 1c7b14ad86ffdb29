# SPDX-License-Identifier: BSD-3-Clause
"""A command that crashes each service which executes it: two crashes, then an error to its guest, and nothing to anybody else."""
import os
import time

import pytest
from host import Load, RecoverySnap
from nvme import READ, WRITE, Nvme, pattern
from virtio_blk import IN, IOERR, OUT, VirtioBlk

TOPOLOGY = {"NVME_EMULATION_NUM_PF": 2, "NVME_EMULATION_NUM_VF": 0, "VIRTIO_BLK_EMULATION_NUM_PF": 2, "VIRTIO_BLK_EMULATION_NUM_VF": 0}
POISON = 4000  # beyond what the neighbours use
# The crash is meant: a sanitizer, where one is built in, is not to report it in the place of our own handler.
ENV = {"SNAP_POISON_LBA": str(POISON), "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0:" + os.environ.get("ASAN_OPTIONS", ""),
       "TSAN_OPTIONS": "handle_segv=0:" + os.environ.get("TSAN_OPTIONS", "")}


class NvmeHost(Nvme):
    def __init__(self, path, packed):
        super().__init__(path)

    def poisoned(self, write):
        """The status of the poisoned command: is it the error that it should end with?"""
        cqe = self.io[1].wait(self.io[1].submit(self.rw(WRITE if write else READ, POISON, 1, self.memory.alloc(512))), 20)
        assert cqe.status == "INTERNAL_ERROR" and cqe.dnr, cqe  # a host that tries again would kill again

    def quiet(self):
        assert not self.io[1].poll() and not self.io[1].unexpected


class BlkHost(VirtioBlk):
    def __init__(self, path, packed):
        super().__init__(path, packed=packed)

    def poisoned(self, write):
        status = self.run(*((OUT, POISON, bytes(512), 0) if write else (IN, POISON, b"", 512)), timeout=20)[0]
        assert status == IOERR, status

    def write(self, lba, data):
        super().write(lba, data)

    def quiet(self):
        pass  # a chain that comes twice is an error of its ring


def neighbours_words(disks, own):
    """Both formats, all others, deep enough that each crash finds commands of theirs in flight."""
    settings = {"NVME": "doorbells=shadow", "VBLK": "ring=packed"}
    return [f"{path},{settings[kind]}" for kind, ctrl, path in disks if ctrl != own]


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("kind", ["nvme", "split", "packed"])
def test_two_crashes_and_an_error(tmp_path, kind, write):
    own = "CtrlNvme1" if kind == "nvme" else "CtrlVblk1"
    host = NvmeHost if kind == "nvme" else BlkHost
    with RecoverySnap(tmp_path, {"snap_service": "snap_service_crash_points"}, TOPOLOGY, service_args=["--supervise"],
                      env=ENV) as snap:
        disks = snap.fleet(2, 2)
        load = Load(neighbours_words(disks, own), tmp_path, blocks=1024, bs="16k")
        try:
            assert load.wait_progress(100, 20), load.errors()
            with host(next(path for _, ctrl, path in disks if ctrl == own), kind == "packed") as h:
                h.write(0, pattern(1, 512))
                h.poisoned(write)
                assert load.wait_progress(300, 20), load.errors()
                # Its disk goes on: neither the command nor the function crashes a third one.
                h.write(8, pattern(2, 512))
                first = h.read(0, 1)
                assert (first if isinstance(first, bytes) else first[-1]) == pattern(1, 512)
                time.sleep(0.1)
                h.quiet()
            assert snap.service_log().count("died of signal 11") == 2, snap.service_log()
            assert snap.service_log().count("were started in") + snap.service_log().count("was started in") == 1, snap.service_log()
        finally:
            verdict = load.stop()
        assert verdict["ok"], verdict
