# SPDX-License-Identifier: BSD-3-Clause
"""snap_service_no_records, which bench/ measures beside the real one: it says what it is, and it keeps no records."""
import os
import subprocess
import time

import pytest
from host import RecoverySnap
from snap import program

NAMES = {"NVME": "Nvme0", "VBLK": "Vblk0"}
TOPOLOGY = {"NVME_EMULATION_NUM_PF": 1, "NVME_EMULATION_NUM_VF": 0, "VIRTIO_BLK_EMULATION_NUM_PF": 1, "VIRTIO_BLK_EMULATION_NUM_VF": 0}
DEPTH = 8


def test_it_does_not_run_by_mistake():
    for word in ({}, {"SNAP_NO_RECORDS": "1"}):
        out = subprocess.run([program("snap_service_no_records"), "--no-emu"], capture_output=True, text=True, timeout=20,
                             env={**os.environ, **word})
        assert out.returncode == 2 and "SNAP_NO_RECORDS=measure" in out.stderr


def slow_disks(snap):
    """A disk of each kind whose requests stay in flight. Returns [(kind of snap_perf's JSON, ctrl_id, socket)]."""
    latency = {f"{kind}_{op}_latency": 60_000_000 for kind in ("avg", "p99") for op in ("read", "write")}
    for name in NAMES.values():
        snap.rpc("bdev_null_create", name=f"{name}Base", block_size=512, num_blocks=8192)
        snap.rpc("bdev_delay_create", name=name, base_bdev_name=f"{name}Base", **latency)
    snap.nvme_disk(bdev="Nvme0", ctrl_id="CtrlNvme0")
    snap.rpc("virtio_blk_controller_create", vuid=snap.functions("VBLK")[0]["vuid"], ctrl_id="CtrlVblk0", bdev="Vblk0")
    return {"CtrlNvme0": snap.vfio_socket(), "CtrlVblk0": snap.vhost_socket()}


def in_flight(snap, ctrl):
    return snap.counters(ctrl)["in_flight"]


@pytest.mark.parametrize("records", [True, False])
def test_what_was_in_flight_when_it_was_killed(tmp_path, records):
    programs = {} if records else {"snap_service": "snap_service_no_records"}
    with RecoverySnap(tmp_path, programs, TOPOLOGY, env={"SNAP_NO_RECORDS": "measure"}) as snap:
        assert records or "keeps no records" in snap.service_log()
        disks = slow_disks(snap)
        loads = [subprocess.Popen([program("snap_perf"), "--socket", str(path), "--depth", str(DEPTH), "--bs", "4k", "--rw", "randread",
                                   "--runtime", "60", "--quiet"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL) for path in disks.values()]
        try:
            deadline = time.monotonic() + 20
            while not all(in_flight(snap, ctrl) == DEPTH for ctrl in disks):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            snap.kill_service()
            snap.programs = {}
            snap.start_service()
            while not all(snap.recovery(ctrl)["adopted"] for ctrl in disks):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert {ctrl: snap.recovery(ctrl)["records"] for ctrl in disks} == dict.fromkeys(disks, DEPTH if records else 0)
        finally:
            for load in loads:
                load.kill()
                load.wait()
            snap.kill_service()
