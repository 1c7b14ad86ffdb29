# SPDX-License-Identifier: BSD-3-Clause
"""nvme_* methods, emulation_function_list and the general ones."""
import time

import pytest

from conftest import NQN


def test_general(snap):
    version = snap.rpc("spdk_get_version")
    assert set(version["fields"]) >= {"major", "minor", "patch", "suffix"} and version["version"]
    assert "nvme_controller_create" in snap.rpc("rpc_get_methods")
    assert snap.rpc("framework_wait_init") is True
    for level in (5, 3):
        assert snap.rpc("snap_log_level_set", level=level) is True


def test_functions(snap):
    pfs = snap.rpc("emulation_function_list", all=True)
    nvme = [f for f in pfs if f["emulation_type"] == "NVME"]
    assert [f["pf_index"] for f in nvme] == [0, 1]
    assert any(f["emulation_type"] == "VBLK" for f in pfs)
    for pf in nvme:
        assert "vf_index" not in pf and pf["hotplugged"] is False and "ctrl_id" not in pf
        assert pf["num_vfs"] == 2 and [v["vf_index"] for v in pf["vfs"]] == [0, 1]
        for i, vf in enumerate(pf["vfs"]):
            assert vf["vuid"] == f"{pf['vuid']}VF{i + 1}" and vf["pf_index"] == pf["pf_index"]
    vhca = [f["vhca_id"] for pf in pfs for f in [pf] + pf["vfs"]]
    assert len(set(vhca)) == len(vhca)
    assert all(f["vfs"] == [] for f in snap.rpc("emulation_function_list") if f["emulation_type"] == "NVME")


def test_subsystem(snap, refused):
    assert snap.rpc("nvme_subsystem_create", nqn=NQN) is True
    [ss] = snap.rpc("nvme_subsystem_list")
    assert ss["nqn"] == NQN and ss["sn"] == "MNC12" and ss["nn"] == 0xfffffffe and ss["mnan"] == 1024
    assert ss["controllers"] == [] and ss["namespaces"] == []
    refused(-17, NQN, "nvme_subsystem_create", nqn=NQN)
    assert snap.rpc("nvme_subsystem_create", nqn=NQN + "2", serial_number="S1", model_number="M1", nn=9, mnan=5) is True
    two = [s for s in snap.rpc("nvme_subsystem_list") if s["nqn"] == NQN + "2"][0]
    assert (two["sn"], two["mn"], two["nn"], two["mnan"]) == ("S1", "M1", 9, 5)
    assert snap.rpc("nvme_subsystem_destroy", nqn=NQN) is True
    refused(-19, NQN, "nvme_subsystem_destroy", nqn=NQN)
    refused(-19, NQN, "nvme_subsystem_destroy", nqn=NQN, force=True)


def test_namespace(snap, null0, subsystem, refused):
    made = snap.rpc("nvme_namespace_create", nqn=NQN, bdev_name="Null0", nsid=3)
    assert made["nsid"] == 3 and made["bdev_name"] == "Null0"
    [ns] = snap.rpc("nvme_namespace_list", nqn=NQN)
    assert (ns["nsid"], ns["bdev"], ns["nqn"], ns["ready"]) == (3, "Null0", NQN, "Yes")
    assert ns["uuid"] == made["uuid"] and ns["controllers"] == []
    assert snap.rpc("nvme_namespace_list") == [ns]
    refused(-17, "3", "nvme_namespace_create", nqn=NQN, bdev_name="Null0", nsid=3)
    refused(-19, "none", "nvme_namespace_create", nqn=NQN, bdev_name="none", nsid=4)
    refused(-19, "nqn.x", "nvme_namespace_create", nqn="nqn.x", bdev_name="Null0", nsid=4)
    refused(-19, "nqn.x", "nvme_namespace_list", nqn="nqn.x")
    refused(-16, NQN, "nvme_subsystem_destroy", nqn=NQN)
    assert snap.rpc("nvme_namespace_destroy", nqn=NQN, nsid=3) is True
    refused(-19, "3", "nvme_namespace_destroy", nqn=NQN, nsid=3)
    refused(-19, "nqn.x", "nvme_namespace_destroy", nqn="nqn.x", nsid=3)


def test_namespace_identity_is_kept(snap, null0, subsystem):
    uuid = "11111111-2222-4333-8444-555555555555"
    snap.rpc("nvme_namespace_create", nqn=NQN, bdev_name="Null0", nsid=1, uuid=uuid, nguid="ab" * 16,
             eui64="cd" * 8, bdev_type="spdk")
    assert snap.rpc("nvme_namespace_list")[0]["uuid"] == uuid


def test_namespace_beyond_nn(snap, null0, refused):
    snap.rpc("nvme_subsystem_create", nqn=NQN, nn=4)
    refused(-22, "5", "nvme_namespace_create", nqn=NQN, bdev_name="Null0", nsid=5)


def test_controller_life(snap, null0, subsystem, refused):
    snap.rpc("nvme_namespace_create", nqn=NQN, bdev_name="Null0", nsid=1)
    assert snap.rpc("nvme_controller_create", nqn=NQN, pf_id=0, suspended=True, num_queues=4,
                    mdts=6) == {"ctrl_id": "NVMeCtrl1"}
    [c] = snap.rpc("nvme_controller_list")
    assert (c["ctrl_id"], c["nqn"], c["mdts"], c["num_queues"], c["state"]) == ("NVMeCtrl1", NQN, 6, 4, "SUSPENDED")
    assert c["plugged"] is False and c["namespaces"] == [] and c["vhca_id"] == snap.functions()[0]["vhca_id"]
    assert snap.functions()[0]["ctrl_id"] == "NVMeCtrl1"
    assert snap.rpc("nvme_controller_attach_ns", ctrl_id="NVMeCtrl1", nsid=1) is True
    refused(-17, "1", "nvme_controller_attach_ns", ctrl_id="NVMeCtrl1", nsid=1)
    assert snap.rpc("nvme_controller_resume", ctrl_id="NVMeCtrl1") is True
    [c] = snap.rpc("nvme_controller_list", ctrl="NVMeCtrl1")
    assert c["state"] == "STARTED"
    assert [(n["nsid"], n["bdev"]) for n in c["namespaces"]] == [(1, "Null0")]
    assert snap.rpc("nvme_namespace_list")[0]["controllers"] == [{"ctrl_id": "NVMeCtrl1"}]
    refused(-16, "1", "nvme_namespace_destroy", nqn=NQN, nsid=1)
    refused(-16, NQN, "nvme_subsystem_destroy", nqn=NQN)
    assert snap.rpc("nvme_controller_suspend", ctrl_id="NVMeCtrl1", timeout_ms=1000) is True
    assert snap.rpc("nvme_controller_list", nqn=NQN)[0]["state"] == "SUSPENDED"
    assert snap.rpc("nvme_controller_detach_ns", ctrl_id="NVMeCtrl1", nsid=1) is True
    refused(-19, "1", "nvme_controller_detach_ns", ctrl_id="NVMeCtrl1", nsid=1)
    assert snap.rpc("nvme_controller_destroy", ctrl_id="NVMeCtrl1") is True
    assert snap.rpc("nvme_controller_list") == []
    assert "ctrl_id" not in snap.functions()[0]


def test_controller_names_and_functions_are_taken_once(snap, subsystem, refused):
    assert snap.rpc("nvme_controller_create", nqn=NQN, pf_id=0)["ctrl_id"] == "NVMeCtrl1"
    refused(-17, "NVMeCtrl1", "nvme_controller_create", nqn=NQN, pf_id=0)
    refused(-17, "NVMeCtrl1", "nvme_controller_create", nqn=NQN, pf_id=1, ctrl_id="NVMeCtrl1")
    assert snap.rpc("nvme_controller_create", nqn=NQN, pf_id=1)["ctrl_id"] == "NVMeCtrl2"
    cntlids = [c["cntlid"] for c in snap.rpc("nvme_controller_list")]
    assert len(set(cntlids)) == 2
    snap.rpc("nvme_controller_destroy", ctrl_id="NVMeCtrl1")
    assert snap.rpc("nvme_controller_create", nqn=NQN, pf_id=0)["ctrl_id"] == "NVMeCtrl1"


def test_every_way_to_name_a_function(snap, subsystem, refused):
    functions = snap.functions()
    vf = [f for f in functions if f.get("vf_index") == 1 and f["pf_index"] == 1][0]
    ways = [{"vuid": vf["vuid"]}, {"vhca_id": vf["vhca_id"]}, {"pf_id": 1, "vf_id": 1}]
    for way in ways:
        ctrl = snap.rpc("nvme_controller_create", nqn=NQN, suspended=True, **way)["ctrl_id"]
        assert snap.rpc("nvme_controller_list")[0]["vuid"] == vf["vuid"]
        snap.rpc("nvme_controller_destroy", ctrl_id=ctrl)
    for wrong in ({}, {"pf_id": 0, "vuid": vf["vuid"]}, {"vf_id": 0}, {"vhca_id": 1, "vf_id": 0},
                  {"pf_id": 0, "pci_bdf": "00:00.0"}):
        refused(-32602, "exactly one way", "nvme_controller_create", nqn=NQN, **wrong)
    refused(-19, "none", "nvme_controller_create", nqn=NQN, vuid="none")
    refused(-19, "4000000000", "nvme_controller_create", nqn=NQN, vhca_id=4000000000)
    refused(-19, "7", "nvme_controller_create", nqn=NQN, pf_id=7)
    refused(-19, "9", "nvme_controller_create", nqn=NQN, pf_id=0, vf_id=9)
    refused(-19, "ff:1f.7", "nvme_controller_create", nqn=NQN, pci_bdf="ff:1f.7")
    blk = snap.functions("VBLK")[0]
    refused(-22, blk["vuid"], "nvme_controller_create", nqn=NQN, vuid=blk["vuid"])


def test_pci_bdf(snap, subsystem, refused):
    bdf = snap.functions()[0]["pci_bdf"]
    if bdf == "00:00.0":
        refused(-22, "several", "nvme_controller_create", nqn=NQN, pci_bdf=bdf)
    else:
        for spelling in (bdf, "0000:" + bdf):
            ctrl = snap.rpc("nvme_controller_create", nqn=NQN, pci_bdf=spelling)["ctrl_id"]
            snap.rpc("nvme_controller_destroy", ctrl_id=ctrl)


def test_controller_of_nothing(refused):
    refused(-19, "nqn.x", "nvme_controller_create", nqn="nqn.x", pf_id=0)
    for method in ("destroy", "suspend", "resume"):
        refused(-19, "none", f"nvme_controller_{method}", ctrl_id="none")
    for method in ("attach_ns", "detach_ns"):
        refused(-19, "none", f"nvme_controller_{method}", ctrl_id="none", nsid=1)
    refused(-19, "none", "nvme_controller_list", ctrl_id="none")
    refused(-19, "nqn.x", "nvme_controller_list", nqn="nqn.x")
    refused(-19, "none", "nvme_controller_dbg_io_stats_get", ctrl_id="none")


def test_namespaces_are_not_shared(snap, null0, subsystem, refused):
    snap.rpc("nvme_namespace_create", nqn=NQN, bdev_name="Null0", nsid=1)
    for pf in (0, 1):
        snap.rpc("nvme_controller_create", nqn=NQN, pf_id=pf, suspended=True)
    snap.rpc("nvme_controller_attach_ns", ctrl_id="NVMeCtrl1", nsid=1)
    refused(-16, "NVMeCtrl1", "nvme_controller_attach_ns", ctrl_id="NVMeCtrl2", nsid=1)
    refused(-19, "2", "nvme_controller_attach_ns", ctrl_id="NVMeCtrl1", nsid=2)


def test_pf_goes_after_its_vfs(snap, subsystem, refused):
    snap.rpc("nvme_controller_create", nqn=NQN, pf_id=0, ctrl_id="pf")
    snap.rpc("nvme_controller_create", nqn=NQN, pf_id=0, vf_id=0, ctrl_id="vf")
    refused(-16, "vf", "nvme_controller_destroy", ctrl_id="pf")
    assert snap.rpc("nvme_controller_destroy", ctrl_id="pf", force=True) is True
    assert snap.rpc("nvme_controller_destroy", ctrl_id="vf") is True


def test_forced_destruction_of_a_subsystem(snap, null0):
    snap.nvme_disk("Null0", nqn=NQN)
    snap.rpc("nvme_controller_create", nqn=NQN, pf_id=1)
    assert snap.rpc("nvme_subsystem_destroy", nqn=NQN, force=True) is True
    assert snap.rpc("nvme_subsystem_list") == [] and snap.rpc("nvme_controller_list") == []
    assert snap.rpc("bdev_null_delete", name="Null0") is True


def test_admin_only(snap, subsystem):
    ctrl = snap.rpc("nvme_controller_create", nqn=NQN, pf_id=0, admin_only=True)["ctrl_id"]
    assert snap.rpc("nvme_controller_list", ctrl_id=ctrl)[0]["num_queues"] == 0
    assert snap.rpc("nvme_controller_suspend", ctrl_id=ctrl, admin_only=True) is True
    assert snap.rpc("nvme_controller_resume", ctrl_id=ctrl) is True


def test_suspend_and_resume_are_repeatable(snap, subsystem):
    ctrl = snap.rpc("nvme_controller_create", nqn=NQN, pf_id=0)["ctrl_id"]
    for _ in range(20):
        snap.rpc("nvme_controller_suspend", ctrl_id=ctrl, timeout_ms=1000)
        snap.rpc("nvme_controller_resume", ctrl_id=ctrl)
    assert snap.rpc("nvme_controller_list", ctrl_id=ctrl)[0]["state"] == "STARTED"


def test_counters(snap, null0):
    ctrl = snap.nvme_disk("Null0", num_queues=3)
    stats = snap.rpc("nvme_controller_dbg_io_stats_get", ctrl_id=ctrl)
    assert stats["ctrl_id"] == ctrl
    for q in stats["queues"]:
        assert {"queue_id", "core_id", "read_io_count", "write_io_count", "flush_io_count"} <= set(q)
    assert stats["read_io_count"] == stats["write_io_count"] == stats["flush_io_count"] == 0
    assert stats["bounce_bytes"] == 0 and stats["doorbell_messages"] == 0
    assert stats["recovery"]["adopted"] == 0


def test_create_and_destroy_many_times(snap, null0, subsystem):
    snap.rpc("nvme_namespace_create", nqn=NQN, bdev_name="Null0", nsid=1)
    started = time.monotonic()
    for _ in range(50):
        ctrl = snap.rpc("nvme_controller_create", nqn=NQN, pf_id=0, suspended=True)["ctrl_id"]
        snap.rpc("nvme_controller_attach_ns", ctrl_id=ctrl, nsid=1)
        snap.rpc("nvme_controller_resume", ctrl_id=ctrl)
        snap.rpc("nvme_controller_destroy", ctrl_id=ctrl)
    assert time.monotonic() - started < 20
