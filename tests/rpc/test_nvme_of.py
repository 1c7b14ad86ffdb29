# SPDX-License-Identifier: BSD-3-Clause
"""bdev_nvme_* against a target: lists, deletion in use, and what a restart knows of a target that is away."""
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))
from nvme_tcp_peer import NvmeTcpPeer, PeerNamespace  # noqa: E402

from conftest import NQN  # noqa: E402


@pytest.fixture
def peer():
    with NvmeTcpPeer(namespaces=[PeerNamespace(1, blocks=2048), PeerNamespace(7, blocks=512, block_bytes=4096)]) as p:
        yield p


def attach(snap, peer, name="Remote", **more):
    return snap.rpc("bdev_nvme_attach_controller", name=name, trtype="TCP", traddr="127.0.0.1", adrfam="IPv4",
                    trsvcid=str(peer.port), subnqn=peer.nqn, **more)


def wait_for(what, seconds=15):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("digests", [False, True])
def test_attach_list_detach(snap, peer, refused, digests):
    assert attach(snap, peer, hdgst=digests, ddgst=digests, num_io_queues=4) == ["Remoten1", "Remoten7"]
    [c] = snap.rpc("bdev_nvme_get_controllers")
    assert c["name"] == "Remote" and c["ctrlrs"][0]["state"] == "enabled"
    [b] = snap.rpc("bdev_get_bdevs", name="Remoten7")
    assert (b["product_name"], b["block_size"], b["num_blocks"]) == ("NVMe disk", 4096, 512)
    # The live-update tool compares these two.
    assert b["driver_specific"]["nvme"][0]["trid"] == c["ctrlrs"][0]["trid"]
    assert c["ctrlrs"][0]["trid"]["trsvcid"] == str(peer.port)
    assert snap.rpc("bdev_nvme_get_controllers", name="Remote") == [c]
    refused(-19, "no such path", "bdev_nvme_detach_controller", name="Remote", traddr="10.0.0.1")
    refused(-19, "Remoten1", "bdev_null_delete", name="Remoten1")
    assert snap.rpc("bdev_nvme_detach_controller", name="Remote", trtype="TCP", traddr="127.0.0.1") is True
    assert snap.rpc("bdev_get_bdevs") == [] and snap.rpc("bdev_nvme_get_controllers") == []


def test_name_is_taken_once(snap, peer, refused):
    attach(snap, peer)
    refused(-17, "Remote", "bdev_nvme_attach_controller", name="Remote", trtype="TCP", traddr="127.0.0.1",
            trsvcid=str(peer.port), subnqn=peer.nqn)


def test_detach_of_a_controller_in_use(snap, peer, refused):
    attach(snap, peer)
    snap.nvme_disk("Remoten1", nqn=NQN)
    refused(-16, "Remoten1", "bdev_nvme_detach_controller", name="Remote")
    assert snap.rpc("nvme_namespace_list")[0]["ready"] == "Yes"
    snap.rpc("nvme_subsystem_destroy", nqn=NQN, force=True)
    assert snap.rpc("bdev_nvme_detach_controller", name="Remote") is True


def test_wrong_subsystem(snap, peer):
    with pytest.raises(Exception) as e:
        snap.rpc("bdev_nvme_attach_controller", name="R", trtype="tcp", traddr="127.0.0.1", trsvcid=str(peer.port),
                 subnqn=peer.nqn + "x")
    assert e.value.code < 0 and snap.rpc("bdev_nvme_get_controllers") == []


def test_remote_disk_comes_back_without_its_target(own_snap, peer):
    """The saved call knows the namespaces, so everything built on them can be restored at once."""
    snap = own_snap
    attach(snap, peer)
    ctrl = snap.nvme_disk("Remoten7", nqn=NQN)
    before = snap.rpc("nvme_controller_list")
    size = snap.rpc("bdev_get_bdevs", name="Remoten7")[0]["num_blocks"]
    snap.kill_service()
    peer.stop()
    started = time.monotonic()
    snap.start_service()
    assert time.monotonic() - started < 10
    assert snap.rpc("nvme_controller_list") == before
    [b] = snap.rpc("bdev_get_bdevs", name="Remoten7")
    assert b["num_blocks"] == size and b["claimed"] is True
    assert snap.rpc("nvme_namespace_list")[0]["ready"] == "In_progress"
    with NvmeTcpPeer(namespaces=peer.namespaces, nqn=peer.nqn, port=peer.port):
        wait_for(lambda: snap.rpc("nvme_namespace_list")[0]["ready"] == "Yes")
        assert snap.rpc("nvme_controller_list", ctrl_id=ctrl)[0]["state"] == "STARTED"
        assert "cannot restore" not in snap.service_log()


def test_changed_size_is_saved(own_snap, peer):
    snap = own_snap
    attach(snap, peer)
    peer.resize(1, 4096)
    wait_for(lambda: snap.rpc("bdev_get_bdevs", name="Remoten1")[0]["num_blocks"] == 4096)
    journal = (snap.state_dir / "config.journal").read_text()
    assert '"num_blocks":4096' in journal.splitlines()[-1]
    snap.kill_service()
    peer.stop()
    snap.start_service()
    assert snap.rpc("bdev_get_bdevs", name="Remoten1")[0]["num_blocks"] == 4096


def test_detached_controller_stays_away(own_snap, peer):
    attach(own_snap, peer)
    own_snap.rpc("bdev_nvme_detach_controller", name="Remote")
    own_snap.kill_service()
    own_snap.start_service()
    assert own_snap.rpc("bdev_nvme_get_controllers") == []
