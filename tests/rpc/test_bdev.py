# SPDX-License-Identifier: BSD-3-Clause
"""bdev_* methods."""
import os
import threading
import time

import pytest

from conftest import NQN


def only(snap, name):
    [b] = snap.rpc("bdev_get_bdevs", name=name)
    return b


def test_null(snap, refused):
    assert snap.rpc("bdev_null_create", name="Null0", block_size=4096, num_blocks=100) == "Null0"
    b = only(snap, "Null0")
    assert (b["product_name"], b["block_size"], b["num_blocks"]) == ("Null disk", 4096, 100)
    assert b["claimed"] is False and b["zoned"] is False and b["aliases"] == [b["uuid"]]
    assert set(b["assigned_rate_limits"].values()) == {0}
    assert b["supported_io_types"]["read"] is True and b["supported_io_types"]["compare"] is False
    refused(-17, "Null0", "bdev_null_create", name="Null0", block_size=512, num_blocks=1)
    assert snap.rpc("bdev_null_delete", name="Null0") is True
    refused(-19, "Null0", "bdev_null_delete", name="Null0")
    refused(-19, "Null0", "bdev_get_bdevs", name="Null0")


def test_malloc(snap, refused):
    assert snap.rpc("bdev_malloc_create", block_size=512, num_blocks=2048) == "Malloc0"
    assert snap.rpc("bdev_malloc_create", block_size=512, num_blocks=2048) == "Malloc1"
    uuid = "11111111-2222-4333-8444-555555555555"
    assert snap.rpc("bdev_malloc_create", name="M", block_size=512, num_blocks=2048, uuid=uuid) == "M"
    assert only(snap, "M")["uuid"] == uuid
    assert only(snap, "M")["product_name"] == "Malloc disk"
    refused(-17, "M", "bdev_malloc_create", name="M", block_size=512, num_blocks=2048)
    for name in ("Malloc0", "Malloc1", "M"):
        assert snap.rpc("bdev_malloc_delete", name=name) is True
    refused(-19, "M", "bdev_malloc_delete", name="M")


def test_malloc_of_another_size_after_delete(snap):
    for blocks in (2048, 4096):
        snap.rpc("bdev_malloc_create", name="M", block_size=512, num_blocks=blocks)
        assert only(snap, "M")["num_blocks"] == blocks
        snap.rpc("bdev_malloc_delete", name="M")


@pytest.mark.parametrize("create", ["bdev_null_create", "bdev_malloc_create"])
@pytest.mark.parametrize("size", [(0, 8), (511, 8), (1000, 8), (512, 0), (512, 2 ** 62)])
def test_bad_sizes(snap, refused, create, size):
    refused(-22, "", create, name="X", block_size=size[0], num_blocks=size[1])
    assert snap.rpc("bdev_get_bdevs") == []


@pytest.mark.parametrize("kind,product", [("aio", "AIO disk"), ("uring", "URING bdev")])
def test_file(snap, refused, tmp_path, kind, product):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    assert snap.rpc(f"bdev_{kind}_create", name="F", filename=str(path), block_size=512) == "F"
    b = only(snap, "F")
    assert (b["product_name"], b["num_blocks"]) == (product, 2048)
    other = "uring" if kind == "aio" else "aio"
    refused(-19, "F", f"bdev_{other}_delete", name="F")
    refused(-17, "F", f"bdev_{kind}_create", name="F", filename=str(path), block_size=512)
    os.truncate(path, 2 << 20)
    assert snap.rpc(f"bdev_{kind}_rescan", name="F") is True
    assert only(snap, "F")["num_blocks"] == 4096
    assert snap.rpc(f"bdev_{kind}_delete", name="F") is True
    assert path.stat().st_size == 2 << 20
    refused(-19, "F", f"bdev_{kind}_delete", name="F")
    refused(-19, "F", f"bdev_{kind}_rescan", name="F")


@pytest.mark.parametrize("kind", ["aio", "uring"])
@pytest.mark.parametrize("params,on", [({}, True), ({"fallocate": True}, True), ({"fallocate": False}, False)])
def test_discard_frees_space_unless_refused(snap, tmp_path, kind, params, on):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    snap.rpc(f"bdev_{kind}_create", name="F", filename=str(path), block_size=512, **params)
    b = only(snap, "F")
    assert b["driver_specific"][kind]["fallocate"] is on
    if not on:
        assert b["supported_io_types"]["unmap"] is False


@pytest.mark.parametrize("kind", ["aio", "uring"])
def test_file_that_cannot_be_a_disk(snap, refused, tmp_path, kind):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    empty = tmp_path / "empty"
    empty.touch()
    create = f"bdev_{kind}_create"
    refused(-2, str(tmp_path / "none"), create, name="F", filename=str(tmp_path / "none"), block_size=512)
    for path in (fifo, empty, tmp_path):
        with pytest.raises(Exception) as e:
            snap.rpc(create, name="F", filename=str(path), block_size=512)
        assert e.value.code < 0 and str(path) in e.value.message
    refused(-32602, "'filename'", create, name="F", filename="/" + "x" * 5000)
    assert snap.rpc("bdev_get_bdevs") == []


def test_deletion_by_the_wrong_method(snap, null0, refused):
    for method in ("bdev_malloc_delete", "bdev_aio_delete", "bdev_uring_delete", "bdev_aio_rescan"):
        refused(-19, "Null0", method, name="Null0")
    assert only(snap, "Null0")


def test_deletion_of_a_bdev_in_use(snap, null0, subsystem, refused):
    snap.rpc("nvme_namespace_create", nqn=NQN, bdev_name="Null0", nsid=1)
    assert only(snap, "Null0")["claimed"] is True
    refused(-16, "Null0", "bdev_null_delete", name="Null0")
    snap.rpc("nvme_namespace_destroy", nqn=NQN, nsid=1)
    assert snap.rpc("bdev_null_delete", name="Null0") is True


def test_list_of_all(snap):
    names = [f"N{i}" for i in range(200)]
    for name in names:
        snap.rpc("bdev_null_create", name=name, block_size=512, num_blocks=8)
    assert sorted(b["name"] for b in snap.rpc("bdev_get_bdevs")) == sorted(names)


def test_get_bdevs_waits_for_the_name(snap, refused):
    started = time.monotonic()
    refused(-19, "Late", "bdev_get_bdevs", name="Late", timeout=200)
    assert time.monotonic() - started >= 0.2

    def create():
        time.sleep(0.2)
        snap.rpc("bdev_null_create", name="Late", block_size=512, num_blocks=8)
    t = threading.Thread(target=create)
    t.start()
    [b] = snap.rpc("bdev_get_bdevs", name="Late", timeout=5000)
    t.join()
    assert b["name"] == "Late"


def test_iostat(snap, null0, refused):
    snap.rpc("bdev_null_create", name="Null1", block_size=512, num_blocks=8)
    all_of_them = snap.rpc("bdev_get_iostat")
    assert all_of_them["tick_rate"] > 0 and all_of_them["ticks"] > 0
    assert sorted(b["name"] for b in all_of_them["bdevs"]) == ["Null0", "Null1"]
    [one] = snap.rpc("bdev_get_iostat", name="Null1")["bdevs"]
    for member in ("bytes_read", "num_read_ops", "bytes_written", "num_write_ops", "bytes_unmapped",
                   "num_unmap_ops", "bounce_bytes"):
        assert one[member] == 0
    assert [b["name"] for b in snap.rpc("bdev_get_iostat", names=["Null1", "Null0"])["bdevs"]] == ["Null1", "Null0"]
    refused(-19, "none", "bdev_get_iostat", name="none")
    refused(-19, "none", "bdev_get_iostat", names=["Null0", "none"])
    refused(-32602, "'names'", "bdev_get_iostat", names=[5])
    refused(-32602, "'names'", "bdev_get_iostat", names="Null0")


def test_attach_to_nobody(snap, refused):
    started = time.monotonic()
    with pytest.raises(Exception) as e:
        snap.rpc("bdev_nvme_attach_controller", name="R", trtype="TCP", traddr="127.0.0.1", trsvcid="1",
                 adrfam="IPv4", subnqn=NQN)
    assert e.value.code < 0 and e.value.code > -4096
    assert time.monotonic() - started < 15
    assert snap.rpc("bdev_nvme_get_controllers") == []
    refused(-19, "R", "bdev_nvme_get_controllers", name="R")
    refused(-19, "R", "bdev_nvme_detach_controller", name="R")


@pytest.mark.parametrize("change", [{"trtype": "RDMA"}, {"trtype": ""}, {"adrfam": "IB"}, {"traddr": ""},
                                    {"trsvcid": "70000"}, {"trsvcid": "x"}])
def test_attach_with_bad_addresses(snap, change):
    params = {"name": "R", "trtype": "TCP", "traddr": "127.0.0.1", "trsvcid": "1", "adrfam": "IPv4",
              "subnqn": NQN, **change}
    with pytest.raises(Exception) as e:
        snap.rpc("bdev_nvme_attach_controller", **params)
    assert e.value.code < 0
    assert snap.rpc("bdev_nvme_get_controllers") == []


def test_attach_needs_a_subsystem(refused):
    refused(-32602, "'subnqn'", "bdev_nvme_attach_controller", name="R", trtype="TCP", traddr="127.0.0.1")
