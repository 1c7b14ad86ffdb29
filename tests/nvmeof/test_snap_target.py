# SPDX-License-Identifier: BSD-3-Clause
"""snap_target serves a bdev, snap_service makes a disk of it, snap_perf verifies each block: the way of a 4 KiB write from
a guest over the network to its medium."""
import json
import subprocess
import time
from pathlib import Path

import pytest

from snap import RpcError, Snap, program
from target import Target

NQN = "nqn.2026-01.org.example:disks"
HOST = "nqn.2026-01.org.example:host1"
BLOCKS = 16384
TOPOLOGY = {"VIRTIO_BLK_EMULATION_ENABLE": 1, "VIRTIO_BLK_EMULATION_NUM_PF": 1}


def serve(target, bdev, host=None, **transport):
    """A subsystem with the bdev at a free port, which is returned. The listener is the first of it: after a restart hosts
    may come before the rest is restored."""
    target.rpc("nvmf_create_transport", trtype="TCP", **transport)
    target.rpc("nvmf_create_subsystem", nqn=NQN, allow_any_host=host is None, serial_number="SN1")
    target.rpc("nvmf_subsystem_add_listener", nqn=NQN,
               listen_address={"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": "0"})
    target.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": bdev})
    if host:
        target.rpc("nvmf_subsystem_add_host", nqn=NQN, host=host)
    return target.rpc("nvmf_get_subsystems", nqn=NQN)[0]["listen_addresses"][0]["trsvcid"]


def malloc0(target):
    return target.rpc("bdev_malloc_create", name="Malloc0", block_size=512, num_blocks=BLOCKS)


def attach(snap, port, **options):
    return snap.rpc("bdev_nvme_attach_controller", name="Remote", trtype="TCP", traddr="127.0.0.1", adrfam="IPv4",
                    trsvcid=port, subnqn=NQN, **options)


def listens(path):
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(words[-1] == str(path) and words[3] == "00010000" for words in lines)


def perf_start(socket, *args):
    # snap_emu opens a function's socket when it hears that the controller runs, which may be after the client does.
    deadline = time.monotonic() + 10
    while not listens(socket) and time.monotonic() < deadline:
        time.sleep(0.01)
    args = ("--socket", socket, *args)
    return subprocess.Popen([program("snap_perf"), *map(str, args), "--json"], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def perf_end(process, timeout=90):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, out + err
    result = json.loads(out)
    assert result["ok"] and result["errors"] == 0, result
    return result


VERIFY = ("--rw", "randrw", "--verify", "--depth", 16, "--range", 8192)


@pytest.mark.parametrize("mask", [None, "3"])
@pytest.mark.parametrize("digests", [{}, {"hdgst": True, "ddgst": True}, {"disable_sq_flow_control": True}])
def test_what_is_written_is_read(tmp_path, digests, mask):
    with Target(tmp_path / "target", ["-m", mask] if mask else []) as target, \
            Snap(tmp_path / "snap", topology=TOPOLOGY, mask=mask) as snap:
        port = serve(target, malloc0(target))
        assert attach(snap, port, **digests) == ["Remoten1"]
        [remote] = snap.rpc("bdev_get_bdevs", name="Remoten1")
        [local] = target.rpc("bdev_get_bdevs", name="Malloc0")
        assert (remote["block_size"], remote["num_blocks"], remote["uuid"]) == (512, BLOCKS, local["uuid"])
        snap.nvme_disk("Remoten1")
        r = perf_end(perf_start(snap.vfio_socket(), *VERIFY, "--queues", 2, "--bs", "4k", "--zeroes", 5,
                                "--flush", 1, "--runtime", 2))
        assert r["reads"] > 100 and r["writes"] > 100
        r = perf_end(perf_start(snap.vfio_socket(), *VERIFY, "--bs", "64k", "--runtime", 1))
        assert r["reads"] > 10
        stats = target.rpc("nvmf_get_stats")["poll_groups"]
        assert sum(g["current_admin_qpairs"] for g in stats) == 1
        [c] = target.rpc("nvmf_subsystem_get_controllers", nqn=NQN)
        assert c["num_io_qpairs"] == sum(g["current_io_qpairs"] for g in stats) >= 1
        assert sum(g["completed_nvme_io"] for g in stats) > 200
        assert all(g["pending_bdev_io"] == 0 for g in stats)


def test_virtio_blk_on_it(tmp_path):
    with Target(tmp_path / "target") as target, Snap(tmp_path / "snap", topology=TOPOLOGY) as snap:
        port = serve(target, malloc0(target), in_capsule_data_size=0, max_io_size=8192, num_shared_buffers=8)
        attach(snap, port)
        snap.rpc("virtio_blk_controller_create", pf_id=0, bdev="Remoten1", ctrl_id="Vblk0", num_queues=2)
        r = perf_end(perf_start(snap.vhost_socket(), *VERIFY, "--queues", 2, "--bs", "16k", "--runtime", 2))
        assert r["reads"] > 100 and r["writes"] > 100


def test_kill_9_of_the_target_is_a_pause(tmp_path):
    """The same port, NSID and identity are there again, and every write that was acknowledged."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(BLOCKS * 512))
    with Target(tmp_path / "target") as target, Snap(tmp_path / "snap", topology=TOPOLOGY) as snap:
        target.rpc("bdev_aio_create", name="File0", filename=str(image), block_size=512)
        port = serve(target, "File0", host=HOST)
        attach(snap, port, hostnqn=HOST)
        snap.nvme_disk("Remoten1")
        load = perf_start(snap.vfio_socket(), *VERIFY, "--bs", "4k", "--runtime", 8)
        for _ in range(2):
            time.sleep(2)
            target.kill_target()
            target.start_target()
        r = perf_end(load)
        assert r["reads"] > 100 and r["longest_gap_ms"] > 50


def test_only_hosts_that_are_named_may_connect(tmp_path):
    with Target(tmp_path / "target") as target, Snap(tmp_path / "snap", topology=TOPOLOGY) as snap:
        port = serve(target, malloc0(target), host=HOST)
        with pytest.raises(RpcError):
            attach(snap, port, hostnqn=HOST + "x", fabrics_connect_timeout_us=2000000)
        attach(snap, port, hostnqn=HOST)
        [c] = target.rpc("nvmf_subsystem_get_controllers", nqn=NQN)
        assert c["hostnqn"] == HOST
        target.rpc("nvmf_subsystem_remove_host", nqn=NQN, host=HOST)
        deadline = time.monotonic() + 5
        while target.rpc("nvmf_subsystem_get_controllers", nqn=NQN):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_namespace_and_a_subsystem_can_go_under_load(tmp_path):
    """The call is answered when the commands in flight are over; the disk is gone, and the program lives."""
    with Target(tmp_path / "target") as target, Snap(tmp_path / "snap", topology=TOPOLOGY) as snap:
        port = serve(target, malloc0(target))
        attach(snap, port)
        snap.nvme_disk("Remoten1")
        load = perf_start(snap.vfio_socket(), "--rw", "randrw", "--range", 8192, "--runtime", 4)
        time.sleep(1)
        assert target.rpc("nvmf_subsystem_remove_ns", nqn=NQN, nsid=1) is True
        target.rpc("bdev_malloc_delete", name="Malloc0")
        assert target.rpc("nvmf_delete_subsystem", nqn=NQN) is True
        assert [s["nqn"] for s in target.rpc("nvmf_get_subsystems")][1:] == []
        time.sleep(0.3)
        assert sum(g["current_io_qpairs"] + g["current_admin_qpairs"] for g in target.rpc("nvmf_get_stats")["poll_groups"]) == 0
        load.kill()  # the service holds its commands until the disk comes back
        load.communicate(timeout=30)
