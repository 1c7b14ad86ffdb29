# SPDX-License-Identifier: BSD-3-Clause
"""bdev_delay_* and bdev_error_*: bdevs that stand on another one."""
import os
import subprocess

import pytest

from conftest import NQN, cli_environment
from snap import RpcError, program
from target import Target

LATENCY = {"avg_read_latency": 10, "p99_read_latency": 20, "avg_write_latency": 30, "p99_write_latency": 40}


def only(snap, name):
    [b] = snap.rpc("bdev_get_bdevs", name=name)
    return b


def delay_of(snap, name="D"):
    return only(snap, name)["driver_specific"]["delay"]


@pytest.fixture
def delay(snap, null0):
    return snap.rpc("bdev_delay_create", base_bdev_name="Null0", name="D", **LATENCY)


@pytest.fixture
def error(snap, null0):
    return snap.rpc("bdev_error_create", base_name="Null0")


def test_delay(snap, delay, refused):
    assert delay == "D"
    d, base = only(snap, "D"), only(snap, "Null0")
    assert (d["product_name"], d["block_size"], d["num_blocks"]) == ("delay", 512, 2048)
    assert d["driver_specific"]["delay"] == {"name": "D", "base_bdev_name": "Null0", "held": 0, **LATENCY}
    assert d["uuid"] != base["uuid"] and d["supported_io_types"] == base["supported_io_types"]
    assert base["claimed"] is True and d["claimed"] is False
    refused(-16, "bdev 'D'", "bdev_null_delete", name="Null0")
    refused(-17, "D", "bdev_delay_create", base_bdev_name="Null0", name="D", **LATENCY)
    assert snap.rpc("bdev_delay_delete", name="D") is True
    refused(-19, "D", "bdev_delay_delete", name="D")
    assert only(snap, "Null0")["claimed"] is False
    assert snap.rpc("bdev_null_delete", name="Null0") is True


def test_delay_with_a_uuid(snap, null0):
    uuid = "11111111-2222-4333-8444-555555555555"
    snap.rpc("bdev_delay_create", base_bdev_name="Null0", name="D", uuid=uuid, **LATENCY)
    assert only(snap, "D")["uuid"] == uuid


def test_latency_is_updated(snap, delay, refused):
    for kind in ("avg_read", "p99_read", "avg_write", "p99_write"):
        assert snap.rpc("bdev_delay_update_latency", delay_bdev_name="D", latency_type=kind, latency_us=7) is True
        assert delay_of(snap)[f"{kind}_latency"] == 7
    refused(-32602, "'latency_type'", "bdev_delay_update_latency", delay_bdev_name="D", latency_type="avg", latency_us=7)
    refused(-32602, "'latency_us'", "bdev_delay_update_latency", delay_bdev_name="D", latency_type="avg_read", latency_us=-1)
    refused(-32602, "'latency_us'", "bdev_delay_update_latency", delay_bdev_name="D", latency_type="avg_read", latency_us=2 ** 60)
    refused(-19, "Null0", "bdev_delay_update_latency", delay_bdev_name="Null0", latency_type="avg_read", latency_us=7)
    refused(-19, "none", "bdev_delay_update_latency", delay_bdev_name="none", latency_type="avg_read", latency_us=7)


@pytest.mark.parametrize("change,code,words", [
    ({"base_bdev_name": "none"}, -19, "none"), ({"name": "Null0"}, -17, "Null0"), ({"name": "D"}, -22, "p99"),
    ({"uuid": "x"}, -32602, "'uuid'")])
def test_wrong_delays_claim_nothing(snap, null0, refused, change, code, words):
    params = {"base_bdev_name": "Null0", "name": "D", **LATENCY, **change}
    if words == "p99":
        params["p99_write_latency"] = 29
    refused(code, words, "bdev_delay_create", **params)
    assert only(snap, "Null0")["claimed"] is False


def test_all_latencies_are_needed(null0, refused):
    for missing in LATENCY:
        params = {k: v for k, v in LATENCY.items() if k != missing}
        refused(-32602, f"'{missing}'", "bdev_delay_create", base_bdev_name="Null0", name="D", **params)


def test_error(snap, error, refused):
    assert error == "EE_Null0"
    b = only(snap, "EE_Null0")
    assert (b["product_name"], b["num_blocks"]) == ("Error Injection Disk", 2048)
    assert b["driver_specific"]["error_disk"] == {"base_bdev": "Null0"}
    refused(-16, "EE_Null0", "bdev_null_delete", name="Null0")
    refused(-17, "EE_Null0", "bdev_error_create", base_name="Null0")
    refused(-19, "none", "bdev_error_create", base_name="none")
    refused(-19, "EE_Null0", "bdev_delay_delete", name="EE_Null0")
    assert snap.rpc("bdev_error_delete", name="EE_Null0") is True
    refused(-19, "EE_Null0", "bdev_error_delete", name="EE_Null0")


@pytest.mark.parametrize("params", [
    {"io_type": "read", "error_type": "failure"}, {"io_type": "write", "error_type": "pending", "num": 4, "queue_depth": 2},
    {"io_type": "all", "error_type": "corrupt_data", "corrupt_offset": 5, "corrupt_value": 255},
    {"io_type": "unmap", "error_type": "nomem", "nvme_sct": 0, "nvme_sc": 0}, {"io_type": "flush", "error_type": "failure"},
    {"io_type": "clear", "error_type": "failure"}])
def test_injections(snap, error, params):
    assert snap.rpc("bdev_error_inject_error", name="EE_Null0", **params) is True


@pytest.mark.parametrize("params,code,words", [
    ({"io_type": "reset"}, -32602, "'io_type'"), ({"error_type": "slow"}, -32602, "'error_type'"),
    ({"error_type": "nvme_failure"}, -95, "nvme_failure"), ({"error_type": "corrupt_data"}, -22, "corrupt_value"),
    ({"error_type": "corrupt_data", "corrupt_value": 256}, -32602, "'corrupt_value'"), ({"nvme_sc": 6}, -95, "nvme_sc"),
    ({"name": "Null0"}, -19, "Null0"), ({"name": "none"}, -19, "none")])
def test_wrong_injections(error, refused, params, code, words):
    refused(code, words, "bdev_error_inject_error",
            **{"name": "EE_Null0", "io_type": "read", "error_type": "failure", **params})


def test_they_stand_on_each_other_and_follow_the_size(snap, tmp_path, refused):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    snap.rpc("bdev_aio_create", name="F", filename=str(image), block_size=512)
    snap.rpc("bdev_delay_create", base_bdev_name="F", name="D", **LATENCY)
    assert snap.rpc("bdev_error_create", base_name="D") == "EE_D"
    os.truncate(image, 2 << 20)
    snap.rpc("bdev_aio_rescan", name="F")
    assert [only(snap, name)["num_blocks"] for name in ("F", "D", "EE_D")] == [4096] * 3
    refused(-16, "EE_D", "bdev_delay_delete", name="D")
    refused(-16, "D", "bdev_aio_delete", name="F")


def test_one_in_use_is_not_deleted(snap, delay, error, subsystem, refused):
    for nsid, (name, method) in enumerate({"D": "bdev_delay_delete", "EE_Null0": "bdev_error_delete"}.items(), 1):
        snap.rpc("nvme_namespace_create", nqn=NQN, bdev_name=name, nsid=nsid)
        refused(-16, name, method, name=name)
        snap.rpc("nvme_namespace_destroy", nqn=NQN, nsid=nsid)


def test_command_line(snap, null0):
    def cli(*args):
        out = subprocess.run([program("snap_rpc"), *map(str, args)], env=cli_environment(snap), stdin=subprocess.DEVNULL,
                             capture_output=True, text=True, timeout=30)
        assert out.returncode == 0, out.stdout + out.stderr
        return out.stdout

    assert cli("bdev_delay_create", "-b", "Null0", "-d", "D", "-r", 1, "-t", 2, "-w", 3, "-n", 4) == "D\n"
    cli("bdev_delay_update_latency", "D", "avg_write", 9)
    assert delay_of(snap)["avg_write_latency"] == 9 and delay_of(snap)["p99_read_latency"] == 2
    assert cli("bdev_error_create", "D") == "EE_D\n"
    cli("bdev_error_inject_error", "EE_D", "write", "corrupt_data", "-n", 2, "-q", 1, "-d", 7, "-v", 8)
    cli("bdev_error_delete", "EE_D")
    cli("bdev_delay_delete", "D")


@pytest.fixture(params=["snap_service", "snap_target"])
def own(request, tmp_path):
    if request.param == "snap_service":
        snap = request.getfixturevalue("own_snap")
        yield snap, snap.kill_service, snap.start_service
    else:
        with Target(tmp_path) as target:
            yield target, target.kill_target, target.start_target


def test_the_configuration_outlives_kill_9(own):
    """Also when the base comes late in the alphabet, and with the latency it has now."""
    snap, kill, start = own
    snap.rpc("bdev_null_create", name="Z", block_size=512, num_blocks=2048)
    snap.rpc("bdev_delay_create", base_bdev_name="Z", name="A", **LATENCY)
    snap.rpc("bdev_error_create", base_name="A")
    snap.rpc("bdev_error_create", base_name="Z")
    snap.rpc("bdev_error_delete", name="EE_Z")
    for us in (5, 6):
        snap.rpc("bdev_delay_update_latency", delay_bdev_name="A", latency_type="avg_write", latency_us=us)
    before = snap.rpc("bdev_get_bdevs")
    assert [b["name"] for b in before] == ["Z", "A", "EE_A"]
    assert delay_of(snap, "A") == {"name": "A", "base_bdev_name": "Z", "held": 0, **LATENCY, "avg_write_latency": 6}
    kill()
    start()
    assert snap.rpc("bdev_get_bdevs") == before
    # Nothing of it is left for the next of this name.
    snap.rpc("bdev_error_delete", name="EE_A")
    snap.rpc("bdev_delay_delete", name="A")
    snap.rpc("bdev_delay_create", base_bdev_name="Z", name="A", **LATENCY)
    kill()
    start()
    assert delay_of(snap, "A")["avg_write_latency"] == 30
    with pytest.raises(RpcError):
        snap.rpc("bdev_null_delete", name="Z")
