# SPDX-License-Identifier: BSD-3-Clause
"""What is left of the configuration when the service dies, at any moment."""
import json
import subprocess
import threading
import time

import pytest

from conftest import NQN, wipe
from snap import RpcError, Snap, program


def picture(snap):
    """All that can be seen, without what may differ between two runs."""
    lists = {m: snap.rpc(m) for m in ("bdev_get_bdevs", "nvme_subsystem_list", "nvme_namespace_list",
                                      "nvme_controller_list", "virtio_blk_controller_list")}
    for ss in lists["nvme_subsystem_list"]:
        ss["controllers"].sort(key=lambda c: c["ctrl_id"])
    for name in lists:
        lists[name].sort(key=lambda o: json.dumps(o, sort_keys=True))
    return lists


def restart(snap):
    snap.kill_service()
    snap.start_service()


def configure(snap, tmp_path):
    for name in ("disk.img", "disk2.img"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    snap.rpc("bdev_null_create", name="Null0", block_size=512, num_blocks=2048)
    snap.rpc("bdev_malloc_create", block_size=4096, num_blocks=256)
    snap.rpc("bdev_aio_create", name="F0", filename=str(tmp_path / "disk.img"), block_size=512, fallocate=True)
    snap.rpc("bdev_uring_create", name="F1", filename=str(tmp_path / "disk2.img"), block_size=4096,
             uuid="11111111-2222-4333-8444-555555555555")
    snap.rpc("nvme_subsystem_create", nqn=NQN, serial_number="S/1", mnan=8)
    snap.rpc("nvme_namespace_create", nqn=NQN, bdev_name="Null0", nsid=1)
    snap.rpc("nvme_namespace_create", nqn=NQN, bdev_name="Malloc0", nsid=2)
    snap.rpc("nvme_controller_create", nqn=NQN, pf_id=0, suspended=True, num_queues=5)
    snap.rpc("nvme_controller_attach_ns", ctrl="NVMeCtrl1", nsid=1)
    snap.rpc("nvme_controller_resume", ctrl="NVMeCtrl1")
    snap.rpc("nvme_controller_attach_ns", ctrl_id="NVMeCtrl1", nsid=2)
    snap.rpc("virtio_blk_controller_create", pf_id=0, bdev="F0", vblk_id="serial/1", num_queues=3, queue_size=64)
    snap.rpc("virtio_blk_controller_create", pf_id=0, vf_id=1, bdev="F1", read_only=True, suspended=True)


def test_everything_comes_back_after_kill(own_snap, tmp_path):
    snap = own_snap
    configure(snap, tmp_path)
    before = picture(snap)
    for _ in range(3):
        restart(snap)
        assert picture(snap) == before
    assert snap.rpc("nvme_controller_list")[0]["state"] == "STARTED"


def test_everything_comes_back_after_an_orderly_stop(own_snap, tmp_path):
    configure(own_snap, tmp_path)
    before = picture(own_snap)
    assert own_snap.stop_service() == 0
    own_snap.start_service()
    assert picture(own_snap) == before


def test_deleted_things_stay_deleted(own_snap, tmp_path):
    snap = own_snap
    configure(snap, tmp_path)
    snap.rpc("nvme_controller_detach_ns", ctrl_id="NVMeCtrl1", nsid=2)
    snap.rpc("nvme_namespace_destroy", nqn=NQN, nsid=2)
    snap.rpc("bdev_malloc_delete", name="Malloc0")
    before = picture(snap)
    restart(snap)
    assert picture(snap) == before
    snap.rpc("nvme_subsystem_destroy", nqn=NQN, force=True)
    restart(snap)
    assert snap.rpc("nvme_subsystem_list") == []
    wipe(snap)
    restart(snap)
    assert snap.rpc("bdev_get_bdevs") == []
    assert "cannot restore" not in snap.service_log()


def test_suspended_controllers_stay_suspended(own_snap):
    snap = own_snap
    snap.rpc("bdev_null_create", name="Null0", block_size=512, num_blocks=8)
    ctrl = snap.nvme_disk("Null0")
    snap.rpc("nvme_controller_suspend", ctrl_id=ctrl)
    restart(snap)
    assert snap.rpc("nvme_controller_list")[0]["state"] == "SUSPENDED"
    snap.rpc("nvme_controller_resume", ctrl_id=ctrl)
    restart(snap)
    assert snap.rpc("nvme_controller_list")[0]["state"] == "STARTED"


def test_identity_is_the_same_whatever_was_deleted_before(own_snap):
    """CNTLID, names and UUIDs are saved as they were, not found anew."""
    snap = own_snap
    snap.rpc("nvme_subsystem_create", nqn=NQN)
    for i in range(3):
        snap.rpc("bdev_null_create", name=f"N{i}", block_size=512, num_blocks=8)
        snap.rpc("nvme_namespace_create", nqn=NQN, bdev_name=f"N{i}", nsid=i + 1)
    snap.rpc("nvme_controller_create", nqn=NQN, pf_id=0, vf_id=0)
    snap.rpc("nvme_controller_create", nqn=NQN, pf_id=0, vf_id=1)
    snap.rpc("nvme_controller_create", nqn=NQN, pf_id=0)
    snap.rpc("nvme_controller_destroy", ctrl_id="NVMeCtrl1")
    before = picture(snap)
    restart(snap)
    assert picture(snap) == before


def test_malloc_contents_and_names_survive(own_snap):
    assert own_snap.rpc("bdev_malloc_create", block_size=512, num_blocks=2048) == "Malloc0"
    restart(own_snap)
    assert own_snap.rpc("bdev_malloc_create", block_size=512, num_blocks=2048) == "Malloc1"


def test_kill_at_random_moments_of_a_busy_client(own_snap):
    """Whatever was answered is there; what was not answered is there as a whole or not at all."""
    snap = own_snap
    answered = set()
    for round_ in range(8):
        stop = threading.Event()

        def create():
            n = 0
            with snap.client() as c:
                while not stop.is_set():
                    name = f"R{round_}_{n}"
                    try:
                        c.call("bdev_null_create", {"name": name, "block_size": 512, "num_blocks": 8})
                    except (OSError, EOFError):
                        return
                    answered.add(name)
                    n += 1
        t = threading.Thread(target=create)
        t.start()
        time.sleep(0.05 + 0.03 * round_)
        snap.kill_service()
        stop.set()
        t.join()
        snap.start_service()
        there = {b["name"] for b in snap.rpc("bdev_get_bdevs")}
        assert answered <= there
        assert len(there - answered) <= round_ + 1
        answered = there
    assert "cannot restore" not in snap.service_log()


@pytest.mark.parametrize("damage", ["garbage", "cut", "flip", "zeroes"])
def test_damaged_end_of_the_journal(own_snap, damage):
    snap = own_snap
    for i in range(5):
        snap.rpc("bdev_null_create", name=f"N{i}", block_size=512, num_blocks=8)
    snap.kill_service()
    path = snap.state_dir / "config.journal"
    data = path.read_bytes()
    lost = 0
    if damage == "garbage":
        path.write_bytes(data + b"\xff\x00garbage\n" + data[:50])
    elif damage == "cut":
        path.write_bytes(data[:-7])
        lost = 1
    elif damage == "flip":
        at = data.rindex(b"N3")
        path.write_bytes(data[:at] + b"M" + data[at + 1:])
        lost = 2
    else:
        path.write_bytes(data + bytes(4096))
    snap.start_service()
    assert sorted(b["name"] for b in snap.rpc("bdev_get_bdevs")) == [f"N{i}" for i in range(5 - lost)]
    assert (snap.state_dir / "config.journal.bad").stat().st_size > 0
    assert "config.journal" in snap.service_log() and "damaged" in snap.service_log()
    snap.rpc("bdev_null_create", name="After", block_size=512, num_blocks=8)
    restart(snap)
    assert "After" in {b["name"] for b in snap.rpc("bdev_get_bdevs")}


def test_journal_of_another_version_is_refused(own_snap):
    snap = own_snap
    snap.kill_service()
    path = snap.state_dir / "config.journal"
    text = b'{"journal":"opensnap","version":2}'
    path.write_bytes(b"%08x %s\n" % (crc32c(text), text))
    process = snap.spawn_service()
    assert process.wait(10) != 0
    snap.service = None
    assert "version 2" in snap.service_log()
    assert path.read_bytes().endswith(text + b"\n")


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def test_second_service_on_one_state_directory_is_refused(own_snap):
    snap = own_snap
    args = [program("snap_service"), "-r", str(snap.short / "other.sock"), "--run-dir", str(snap.run_dir),
            "--state-dir", str(snap.state_dir), "--no-emu"]
    out = subprocess.run(args, capture_output=True, text=True, timeout=20)
    assert out.returncode != 0
    assert "in use by another service" in out.stderr + out.stdout
    assert str(snap.state_dir) in out.stderr + out.stdout
    assert "version" in snap.rpc("spdk_get_version")


def test_rpc_socket_of_a_running_service_is_not_taken(own_snap, tmp_path):
    snap = own_snap
    args = [program("snap_service"), "-r", str(snap.rpc_socket), "--run-dir", str(snap.run_dir),
            "--state-dir", str(tmp_path / "other"), "--no-emu"]
    out = subprocess.run(args, capture_output=True, text=True, timeout=20)
    assert out.returncode != 0 and str(snap.rpc_socket) in out.stderr + out.stdout
    assert "version" in snap.rpc("spdk_get_version")


def test_rpc_socket_path_that_is_a_file_is_left_alone(own_snap, tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    snap = own_snap
    snap.stop_service()
    args = [program("snap_service"), "-r", str(path), "--run-dir", str(snap.run_dir), "--state-dir",
            str(snap.state_dir), "--no-emu"]
    out = subprocess.run(args, capture_output=True, text=True, timeout=20)
    assert out.returncode != 0 and path.read_text() == "data"


def test_missing_file_is_reported_and_the_rest_comes_up(own_snap, tmp_path):
    snap = own_snap
    configure(snap, tmp_path)
    snap.kill_service()
    (tmp_path / "disk.img").unlink()
    snap.start_service()
    names = {b["name"] for b in snap.rpc("bdev_get_bdevs")}
    assert names == {"Null0", "Malloc0", "F1"}
    assert "cannot restore 'bdev/F0'" in snap.service_log()
    assert snap.rpc("nvme_controller_list")[0]["state"] == "STARTED"
    snap.kill_service()
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    snap.start_service()
    assert {b["name"] for b in snap.rpc("bdev_get_bdevs")} == {"Null0", "Malloc0", "F0", "F1"}


def test_long_life_keeps_the_file_small(own_snap):
    snap = own_snap
    with snap.client() as c:
        for _ in range(600):
            c.call("bdev_null_create", {"name": "Churn", "block_size": 512, "num_blocks": 8})
            c.call("bdev_null_delete", {"name": "Churn"})
    snap.rpc("bdev_null_create", name="Last", block_size=512, num_blocks=8)
    deadline = time.monotonic() + 5
    while (snap.state_dir / "config.journal").stat().st_size > 80000 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (snap.state_dir / "config.journal").stat().st_size < 80000
    restart(snap)
    assert [b["name"] for b in snap.rpc("bdev_get_bdevs")] == ["Last"]


def test_full_disk_is_reported_and_made_good(tmp_path):
    """The file may not grow: calls fail with the reason; what they did is saved as soon as there is room."""
    import resource
    with Snap(tmp_path) as snap:
        snap.rpc("bdev_null_create", name="N0", block_size=512, num_blocks=8)
        limits = resource.prlimit(snap.service.pid, resource.RLIMIT_FSIZE)
        size = (snap.state_dir / "config.journal").stat().st_size
        resource.prlimit(snap.service.pid, resource.RLIMIT_FSIZE, (size + 20, limits[1]))
        with pytest.raises(RpcError) as e:
            snap.rpc("bdev_null_create", name="N1", block_size=512, num_blocks=8)
        assert e.value.code == -27 and "could not be saved" in e.value.message
        assert {b["name"] for b in snap.rpc("bdev_get_bdevs")} == {"N0", "N1"}
        resource.prlimit(snap.service.pid, resource.RLIMIT_FSIZE, limits)
        snap.rpc("bdev_null_create", name="N2", block_size=512, num_blocks=8)
        restart(snap)
        assert {b["name"] for b in snap.rpc("bdev_get_bdevs")} == {"N0", "N1", "N2"}


def test_an_attachment_is_saved_before_it_takes_effect(tmp_path):
    """Else a kill in between leaves a namespace in the function's state memory that the next service does not know."""
    import resource
    with Snap(tmp_path) as snap:
        for i in (1, 2):
            snap.rpc("bdev_null_create", name=f"N{i}", block_size=512, num_blocks=8)
        ctrl = snap.nvme_disk("N1")
        snap.rpc("nvme_namespace_create", nqn=snap.rpc("nvme_subsystem_list")[0]["nqn"], bdev_name="N2", nsid=2)
        before = picture(snap)
        limits = resource.prlimit(snap.service.pid, resource.RLIMIT_FSIZE)
        size = (snap.state_dir / "config.journal").stat().st_size
        resource.prlimit(snap.service.pid, resource.RLIMIT_FSIZE, (size + 20, limits[1]))
        with pytest.raises(RpcError) as e:
            snap.rpc("nvme_controller_attach_ns", ctrl_id=ctrl, nsid=2)
        assert e.value.code == -27 and "config.journal" in e.value.message
        assert picture(snap) == before
        resource.prlimit(snap.service.pid, resource.RLIMIT_FSIZE, limits)
        snap.rpc("bdev_null_create", name="N3", block_size=512, num_blocks=8)
        snap.rpc("bdev_null_delete", name="N3")
        restart(snap)
        assert picture(snap) == before
        snap.rpc("nvme_controller_attach_ns", ctrl_id=ctrl, nsid=2)
        attached = picture(snap)
        assert attached != before
        restart(snap)
        assert picture(snap) == attached
