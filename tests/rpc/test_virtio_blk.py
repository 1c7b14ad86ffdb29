# SPDX-License-Identifier: BSD-3-Clause
"""virtio-blk controllers by RPC: what the calls answer, and what is left of them when the service dies."""
import pytest
from conftest import wipe


def listed(snap, ctrl="VblkCtrl1"):
    [c] = snap.rpc("virtio_blk_controller_list", ctrl_id=ctrl)
    return c


@pytest.fixture
def ctrl(snap, null0):
    return snap.rpc("virtio_blk_controller_create", pf_id=0, bdev="Null0")["ctrl_id"]


def test_a_controller_has_a_name_a_function_and_defaults(snap, ctrl):
    c = listed(snap, ctrl)
    assert ctrl == "VblkCtrl1"
    [f] = [f for f in snap.functions("VBLK") if f.get("ctrl_id") == ctrl]
    assert (c["vuid"], c["vhca_id"], c["pci_bdf"]) == (f["vuid"], f["vhca_id"], f["pci_bdf"])
    assert (c["num_queues"], c["queue_size"], c["seg_max"], c["size_max"]) == (c["num_msix"] - 1, 256, 254, 0)
    assert (c["bdev"], c["state"], c["plugged"], c["read_only"], c["indirect_desc"]) == ("Null0", "STARTED", False, False, True)
    assert c["vuid"].endswith(c["vblk_id"]) and len(c["vblk_id"]) <= 20


def test_documented_parameters_rule(snap, null0):
    made = snap.rpc("virtio_blk_controller_create", ctrl="Disk/1".replace("/", "-"), pf_id=0, bdev="Null0", vblk_id="SN 0123456789abcdefg",
                    num_queues=2, queue_size=128, seg_max=16, size_max=65536, read_only=True, indirect_desc=False, suspended=True)
    c = listed(snap, made["ctrl_id"])
    assert {k: c[k] for k in ("num_queues", "queue_size", "seg_max", "size_max", "read_only", "indirect_desc", "state", "vblk_id")} == {
        "num_queues": 2, "queue_size": 128, "seg_max": 16, "size_max": 65536, "read_only": True, "indirect_desc": False,
        "state": "SUSPENDED", "vblk_id": "SN 0123456789abcdefg"}


def test_what_cannot_be_is_refused_with_the_limit(snap, ctrl, refused):
    refused(-17, "has controller 'VblkCtrl1'", "virtio_blk_controller_create", pf_id=0)
    refused(-17, "exists", "virtio_blk_controller_create", pf_id=0, vf_id=0, ctrl_id=ctrl)
    refused(-16, "in use", "virtio_blk_controller_create", pf_id=0, vf_id=0, bdev="Null0")
    refused(-19, "no bdev 'Nix'", "virtio_blk_controller_create", pf_id=0, vf_id=0, bdev="Nix")
    refused(-22, "1 to 31", "virtio_blk_controller_create", pf_id=0, vf_id=0, num_queues=32)
    refused(-22, "power of two", "virtio_blk_controller_create", pf_id=0, vf_id=0, queue_size=100)
    refused(-32602, "dbg_bdev_type", "virtio_blk_controller_create", pf_id=0, vf_id=0, dbg_bdev_type="tape")
    refused(-95, "force_in_order", "virtio_blk_controller_create", pf_id=0, vf_id=0, force_in_order=True)
    nvme = snap.functions("NVME")[0]["vuid"]
    refused(-22, "not a virtio-blk function", "virtio_blk_controller_create", vuid=nvme)
    refused(-32602, "exactly one way", "virtio_blk_controller_create")
    refused(-19, "no virtio-blk controller 'Nix'", "virtio_blk_controller_destroy", ctrl_id="Nix")
    assert snap.rpc("virtio_blk_controller_destroy", ctrl_id=ctrl) is True
    refused(-19, "no virtio-blk controller", "virtio_blk_controller_destroy", ctrl_id=ctrl)


def test_a_pf_goes_after_its_vfs(snap, ctrl, refused):
    snap.rpc("virtio_blk_controller_create", pf_id=0, vf_id=0, ctrl_id="V")
    refused(-16, "'V' of its VF", "virtio_blk_controller_destroy", ctrl_id=ctrl)
    assert snap.rpc("virtio_blk_controller_destroy", ctrl_id=ctrl, force=True) is True


def test_names_are_unique_over_both_kinds(snap, ctrl, subsystem, refused):
    refused(-17, "exists", "nvme_controller_create", nqn=subsystem, pf_id=0, ctrl_id=ctrl)
    refused(-19, "no NVMe controller", "nvme_controller_suspend", ctrl_id=ctrl)


def test_suspend_and_resume(snap, ctrl):
    assert snap.rpc("virtio_blk_controller_suspend", ctrl_id=ctrl, timeout_ms=1000) is True
    assert listed(snap)["state"] == "SUSPENDED"
    assert snap.rpc("virtio_blk_controller_suspend", ctrl_id=ctrl) is True
    assert snap.rpc("virtio_blk_controller_resume", ctrl_id=ctrl) is True
    assert snap.rpc("virtio_blk_controller_suspend", ctrl_id=ctrl, events_only=True) is True
    assert listed(snap)["state"] == "STARTED"


def test_a_bdev_comes_and_goes(snap, ctrl, refused):
    refused(-16, "detach it first", "virtio_blk_controller_bdev_attach", ctrl_id=ctrl, bdev="Null0")
    assert snap.rpc("virtio_blk_controller_bdev_detach", ctrl_id=ctrl) is True
    assert listed(snap)["bdev"] == "none"
    refused(-19, "has no bdev", "virtio_blk_controller_bdev_detach", ctrl_id=ctrl)
    snap.rpc("bdev_null_create", name="Null1", block_size=4096, num_blocks=16)
    assert snap.rpc("virtio_blk_controller_bdev_attach", ctrl_id=ctrl, bdev="Null1", vblk_id="other") is True
    assert (listed(snap)["bdev"], listed(snap)["vblk_id"]) == ("Null1", "other")
    refused(-16, ctrl, "bdev_null_delete", name="Null1")
    assert snap.rpc("bdev_null_delete", name="Null0") is True


def test_a_dummy_needs_no_bdev(snap):
    made = snap.rpc("virtio_blk_controller_create", pf_id=0, bdev="none", dbg_bdev_type="null")["ctrl_id"]
    assert (listed(snap, made)["bdev"], listed(snap, made)["state"]) == ("none", "STARTED")


def test_counters_have_the_documented_shape(snap, ctrl):
    io = snap.rpc("virtio_blk_controller_dbg_io_stats_get", ctrl_id=ctrl)
    assert (io["ctrl_id"], io["queues"], io["read_io_count"], io["in_flight"]) == (ctrl, [], 0, 0)
    assert set(io["recovery"]) == {"adopted", "records", "live", "intent_stored", "posted", "unpublished", "from_area"}
    assert snap.rpc("virtio_blk_controller_dbg_debug_stats_get", ctrl_id=ctrl) == {"ctrl_id": ctrl, "queues": []}


def test_the_last_bdev_is_what_comes_back(own_snap):
    """Attached, detached, deleted: the restored controller has the one it had last, also when its first one is gone."""
    snap = own_snap
    for name in ("Null0", "Null1"):
        snap.rpc("bdev_null_create", name=name, block_size=512, num_blocks=64)
    snap.rpc("virtio_blk_controller_create", pf_id=0, bdev="Null0")
    snap.rpc("virtio_blk_controller_bdev_detach", ctrl_id="VblkCtrl1")
    snap.kill_service()
    snap.start_service()
    assert (listed(snap)["bdev"], listed(snap)["state"]) == ("none", "STARTED")
    snap.rpc("bdev_null_delete", name="Null0")
    snap.rpc("virtio_blk_controller_bdev_attach", ctrl_id="VblkCtrl1", bdev="Null1")
    snap.rpc("bdev_null_create", name="Null2", block_size=512, num_blocks=64)
    for name in ("Null1", "Null2"):
        snap.kill_service()
        snap.start_service()
        assert (listed(snap)["bdev"], listed(snap)["state"]) == (name, "STARTED")
        if name == "Null1":
            snap.rpc("virtio_blk_controller_bdev_detach", ctrl_id="VblkCtrl1")
            snap.rpc("virtio_blk_controller_bdev_attach", ctrl_id="VblkCtrl1", bdev="Null2")
            snap.rpc("bdev_null_delete", name="Null1")
    wipe(snap)
    snap.kill_service()
    snap.start_service()
    assert snap.rpc("virtio_blk_controller_list") == [] and "cannot restore" not in snap.service_log()
