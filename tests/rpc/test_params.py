# SPDX-License-Identifier: BSD-3-Clause
"""Every method with every kind of wrong parameter: nothing happens, and the message names the member."""
import pytest

from snap import RpcError

NAME = "x1"
NQN = "nqn.2024-01.io.opensnap:params"
# Well-formed parameters of every method; the objects need not exist.
WELL_FORMED = {
    "rpc_get_methods": {"current": True, "include_aliases": False},
    "spdk_get_version": {},
    "framework_wait_init": {},
    "framework_get_reactors": {},
    "snap_log_level_set": {"level": 3},
    "spdk_kill_instance": {"sig_name": "SIGUSR1"},
    "emulation_function_list": {"all": True},
    "nvme_subsystem_create": {"nqn": NQN, "serial_number": "S", "model_number": "M", "nn": 4, "mnan": 4,
                              "single_ctrl": False},
    "nvme_subsystem_destroy": {"nqn": NQN, "force": False},
    "nvme_subsystem_list": {},
    "nvme_namespace_create": {"nqn": NQN, "bdev_name": NAME, "nsid": 1,
                              "uuid": "11111111-2222-4333-8444-555555555555", "nguid": "0" * 31 + "1",
                              "eui64": "0" * 15 + "1", "bdev_type": "spdk"},
    "nvme_namespace_destroy": {"nqn": NQN, "nsid": 1},
    "nvme_namespace_list": {"nqn": NQN},
    "nvme_controller_create": {"nqn": NQN, "ctrl_id": NAME, "pf_id": 0, "num_queues": 1, "mdts": 7,
                               "fw_slots": 4, "write_zeroes": True, "compare": False, "compare_write": False,
                               "deallocate_dsm": True, "suspended": True, "admin_only": False,
                               "live_update_listener": False, "dynamic_msix": False, "vf_num_msix": 0},
    "nvme_controller_destroy": {"ctrl_id": NAME, "force": False, "release_msix": False},
    "nvme_controller_suspend": {"ctrl_id": NAME, "timeout_ms": 100, "admin_only": False,
                                "live_update_notifier": False, "force": False},
    "nvme_controller_resume": {"ctrl_id": NAME},
    "nvme_controller_attach_ns": {"ctrl_id": NAME, "nsid": 1},
    "nvme_controller_detach_ns": {"ctrl_id": NAME, "nsid": 1},
    "nvme_controller_list": {"ctrl_id": NAME, "nqn": NQN},
    "nvme_controller_dbg_io_stats_get": {"ctrl_id": NAME},
    "virtio_blk_controller_create": {"ctrl_id": NAME, "pf_id": 0, "bdev": NAME, "dbg_bdev_type": "spdk", "vblk_id": "S",
                                     "num_queues": 1, "queue_size": 64, "size_max": 4096, "seg_max": 16, "read_only": False,
                                     "indirect_desc": True, "force_in_order": False, "admin_q": False,
                                     "dbg_local_optimized": False, "suspended": True, "live_update_listener": False,
                                     "dynamic_msix": False, "vf_num_msix": 0},
    "virtio_blk_controller_destroy": {"ctrl_id": NAME, "force": False, "release_msix": False},
    "virtio_blk_controller_suspend": {"ctrl_id": NAME, "timeout_ms": 100, "events_only": False,
                                      "live_update_notifier": False, "force": False},
    "virtio_blk_controller_resume": {"ctrl_id": NAME},
    "virtio_blk_controller_bdev_attach": {"ctrl_id": NAME, "bdev": NAME, "vblk_id": "S", "dbg_bdev_type": "spdk",
                                          "size_max": 0, "seg_max": 0},
    "virtio_blk_controller_bdev_detach": {"ctrl_id": NAME},
    "virtio_blk_controller_list": {"ctrl_id": NAME},
    "virtio_blk_controller_dbg_io_stats_get": {"ctrl_id": NAME},
    "virtio_blk_controller_dbg_debug_stats_get": {"ctrl_id": NAME},
    "bdev_get_bdevs": {"name": NAME, "timeout": 0},
    "bdev_get_iostat": {"name": NAME, "per_channel": False, "reset_mode": "none"},
    "bdev_null_create": {"name": NAME, "num_blocks": 8, "block_size": 512,
                         "uuid": "11111111-2222-4333-8444-555555555555", "md_size": 0, "dif_type": 0},
    "bdev_null_delete": {"name": NAME},
    "bdev_malloc_create": {"name": NAME, "num_blocks": 8, "block_size": 512,
                           "uuid": "11111111-2222-4333-8444-555555555555", "md_size": 0, "numa_id": -1},
    "bdev_malloc_delete": {"name": NAME},
    "bdev_aio_create": {"name": NAME, "filename": "/nonexistent/file", "block_size": 512, "readonly": False,
                        "fallocate": False, "nowait": False},
    "bdev_aio_delete": {"name": NAME},
    "bdev_aio_rescan": {"name": NAME},
    "bdev_uring_create": {"name": NAME, "filename": "/nonexistent/file", "block_size": 512, "fallocate": True},
    "bdev_uring_delete": {"name": NAME},
    "bdev_uring_rescan": {"name": NAME},
    "bdev_delay_create": {"name": NAME, "base_bdev_name": "base", "uuid": "11111111-2222-4333-8444-555555555555",
                          "avg_read_latency": 1, "p99_read_latency": 1, "avg_write_latency": 1, "p99_write_latency": 1},
    "bdev_delay_delete": {"name": NAME},
    "bdev_delay_update_latency": {"delay_bdev_name": NAME, "latency_type": "avg_read", "latency_us": 1},
    "bdev_error_create": {"base_name": NAME, "uuid": "11111111-2222-4333-8444-555555555555"},
    "bdev_error_delete": {"name": NAME},
    "bdev_error_inject_error": {"name": NAME, "io_type": "read", "error_type": "failure", "num": 1, "queue_depth": 1,
                                "corrupt_offset": 0, "corrupt_value": 1, "nvme_sct": 0, "nvme_sc": 0},
    "bdev_nvme_attach_controller": {"name": NAME, "trtype": "TCP", "traddr": "127.0.0.1", "adrfam": "IPv4",
                                    "trsvcid": "1", "subnqn": NQN, "hostnqn": NQN, "hdgst": False,
                                    "ddgst": False, "multipath": "multipath", "num_io_queues": 1, "max_bdevs": 4,
                                    "ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1},
    "bdev_nvme_detach_controller": {"name": NAME, "trtype": "TCP", "traddr": "127.0.0.1"},
    "bdev_nvme_get_controllers": {"name": NAME},
    "bdev_nvme_get_io_paths": {"name": NAME},
    "bdev_nvme_set_multipath_policy": {"name": NAME, "policy": "active_active", "selector": "round_robin", "rr_min_io": 1},
    "bdev_nvme_set_preferred_path": {"name": NAME, "cntlid": 1},
    "bdev_nvme_start_discovery": {"name": NAME, "trtype": "TCP", "traddr": "127.0.0.1", "adrfam": "IPv4", "trsvcid": "1",
                                  "hostnqn": NQN, "wait_for_attach": False, "attach_timeout_ms": 1,
                                  "ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1},
    "bdev_nvme_stop_discovery": {"name": NAME},
    "bdev_nvme_get_discovery_info": {},
}
REQUIRED = {
    "snap_log_level_set": ["level"], "spdk_kill_instance": ["sig_name"],
    "nvme_subsystem_create": ["nqn"], "nvme_subsystem_destroy": ["nqn"],
    "nvme_namespace_create": ["nqn", "bdev_name", "nsid"], "nvme_namespace_destroy": ["nqn", "nsid"],
    "nvme_controller_create": ["nqn"], "nvme_controller_destroy": ["ctrl_id"],
    "nvme_controller_suspend": ["ctrl_id"], "nvme_controller_resume": ["ctrl_id"],
    "nvme_controller_attach_ns": ["ctrl_id", "nsid"], "nvme_controller_detach_ns": ["ctrl_id", "nsid"],
    "nvme_controller_dbg_io_stats_get": ["ctrl_id"],
    "virtio_blk_controller_destroy": ["ctrl_id"], "virtio_blk_controller_suspend": ["ctrl_id"],
    "virtio_blk_controller_resume": ["ctrl_id"], "virtio_blk_controller_bdev_attach": ["ctrl_id", "bdev"],
    "virtio_blk_controller_bdev_detach": ["ctrl_id"], "virtio_blk_controller_dbg_io_stats_get": ["ctrl_id"],
    "virtio_blk_controller_dbg_debug_stats_get": ["ctrl_id"],
    "bdev_null_create": ["name", "num_blocks", "block_size"], "bdev_null_delete": ["name"],
    "bdev_malloc_create": ["num_blocks", "block_size"], "bdev_malloc_delete": ["name"],
    "bdev_aio_create": ["name", "filename"], "bdev_aio_delete": ["name"], "bdev_aio_rescan": ["name"],
    "bdev_uring_create": ["name", "filename"], "bdev_uring_delete": ["name"], "bdev_uring_rescan": ["name"],
    "bdev_delay_create": ["name", "base_bdev_name", "avg_read_latency", "p99_read_latency", "avg_write_latency",
                          "p99_write_latency"],
    "bdev_delay_delete": ["name"], "bdev_delay_update_latency": ["delay_bdev_name", "latency_type", "latency_us"],
    "bdev_error_create": ["base_name"], "bdev_error_delete": ["name"],
    "bdev_error_inject_error": ["name", "io_type", "error_type"],
    "bdev_nvme_attach_controller": ["name", "trtype", "traddr"], "bdev_nvme_detach_controller": ["name"],
    "bdev_nvme_set_multipath_policy": ["name", "policy"], "bdev_nvme_set_preferred_path": ["name", "cntlid"],
    "bdev_nvme_start_discovery": ["name", "trtype", "traddr"], "bdev_nvme_stop_discovery": ["name"],
}
MEMBERS = [(m, p) for m, params in WELL_FORMED.items() for p in params]


def wrong_types(value):
    if isinstance(value, bool):
        return ["true", 2, -1, 1.0, None, [], {}]
    if isinstance(value, int):
        return ["1", 1.5, True, None, [], {}]
    return [1, True, None, [], {}, "\u0007", "x" * 5000]


def refusal(snap, method, params):
    with pytest.raises(RpcError) as e:
        with snap.client() as c:
            c.call(method, params)
    return e.value


def test_every_method_is_in_the_table(snap):
    assert sorted(snap.rpc("rpc_get_methods")) == sorted(WELL_FORMED)


@pytest.mark.parametrize("method", WELL_FORMED)
def test_unknown_member(snap, method):
    error = refusal(snap, method, {**WELL_FORMED[method], "no_such_member": 1})
    assert error.code == -32602 and "'no_such_member'" in error.message


@pytest.mark.parametrize("method", WELL_FORMED)
def test_private_member(snap, method):
    for name in ("_namespaces", "_paths", "_discovery", "_x"):
        error = refusal(snap, method, {**WELL_FORMED[method], name: 1})
        assert error.code == -32602 and f"'{name}'" in error.message


@pytest.mark.parametrize("method", WELL_FORMED)
def test_params_that_are_no_object(snap, method):
    assert refusal(snap, method, [1]).code == -32602


@pytest.mark.parametrize("method,member", [(m, p) for m, required in REQUIRED.items() for p in required])
def test_missing_member(snap, method, member):
    params = {k: v for k, v in WELL_FORMED[method].items() if k != member}
    error = refusal(snap, method, params)
    assert error.code == -32602 and f"'{member}'" in error.message


@pytest.mark.parametrize("method,member", MEMBERS)
def test_wrong_type(snap, method, member):
    for value in wrong_types(WELL_FORMED[method][member]):
        error = refusal(snap, method, {**WELL_FORMED[method], member: value})
        assert error.code == -32602, (value, error)
        assert f"'{member}'" in error.message, (value, error)


@pytest.mark.parametrize("method,member", [(m, p) for m, p in MEMBERS if p in ("name", "ctrl_id", "bdev_name")])
@pytest.mark.parametrize("value", ["", "a/b", "../x", "..", "a b", "a\nb", "x" * 64, "é"])
def test_bad_names(snap, method, member, value):
    error = refusal(snap, method, {**WELL_FORMED[method], member: value})
    assert error.code == -32602 and f"'{member}'" in error.message


@pytest.mark.parametrize("method", [m for m, p in MEMBERS if p == "nqn"])
@pytest.mark.parametrize("value", ["", "x" * 224, "a\tb"])
def test_bad_nqn(snap, method, value):
    error = refusal(snap, method, {**WELL_FORMED[method], "nqn": value})
    assert error.code == -32602 and "'nqn'" in error.message


@pytest.mark.parametrize("method,member,value", [
    ("bdev_null_create", "md_size", 8), ("bdev_null_create", "dif_type", 1),
    ("bdev_null_create", "physical_block_size", 4096), ("bdev_malloc_create", "md_interleave", True),
    ("bdev_malloc_create", "numa_id", 1), ("bdev_aio_create", "nowait", True),
    ("bdev_nvme_attach_controller", "psk", "key0"), ("bdev_nvme_attach_controller", "dhchap_key", "key0"),
    ("bdev_nvme_attach_controller", "ctrlr_loss_timeout_sec", 30),
    ("bdev_nvme_attach_controller", "reconnect_delay_sec", 5),
    ("bdev_nvme_start_discovery", "fast_io_fail_timeout_sec", 5),
    ("bdev_nvme_attach_controller", "prchk_guard", True),
    ("nvme_controller_create", "compare", True), ("nvme_controller_create", "compare_write", True),
    ("nvme_controller_create", "dynamic_msix", True), ("nvme_controller_create", "vf_num_msix", 4),
    ("nvme_controller_create", "live_update_listener", True),
    ("nvme_controller_suspend", "live_update_notifier", True),
    ("nvme_controller_destroy", "release_msix", True), ("nvme_subsystem_create", "single_ctrl", True),
    ("nvme_namespace_create", "bdev_type", "rbd"), ("bdev_get_iostat", "per_channel", True),
    ("bdev_get_iostat", "reset_mode", "all"),
])
def test_what_is_not_built_is_refused_by_name(snap, method, member, value):
    error = refusal(snap, method, {**WELL_FORMED[method], member: value})
    assert error.code == -95 and f"'{member}'" in error.message
    if member in ("psk", "dhchap_key"):
        assert "key0" not in error.message


@pytest.mark.parametrize("method,member,value", [
    ("snap_log_level_set", "level", 6), ("snap_log_level_set", "level", -1),
    ("spdk_kill_instance", "sig_name", "SIGSEGV"),
    ("nvme_subsystem_create", "nn", 0), ("nvme_subsystem_create", "serial_number", "x" * 21),
    ("nvme_subsystem_create", "model_number", "x" * 41),
    ("nvme_namespace_create", "nsid", 0), ("nvme_namespace_create", "nsid", 0xffffffff),
    ("nvme_namespace_create", "uuid", "x"), ("nvme_namespace_create", "nguid", "12"),
    ("nvme_namespace_create", "eui64", "g" * 16),
    ("nvme_controller_create", "num_queues", 32), ("nvme_controller_create", "mdts", 0),
    ("nvme_controller_create", "mdts", 8), ("nvme_controller_create", "fw_slots", 8),
    ("nvme_controller_attach_ns", "nsid", 0),
    ("bdev_null_create", "uuid", "zz"), ("bdev_null_create", "num_blocks", -1),
    ("bdev_null_create", "block_size", 2 ** 32),
])
def test_values_out_of_range(snap, method, member, value):
    error = refusal(snap, method, {**WELL_FORMED[method], member: value})
    assert error.code == -32602 and f"'{member}'" in error.message


def test_nothing_was_made(snap):
    assert snap.rpc("bdev_get_bdevs") == []
    assert snap.rpc("nvme_subsystem_list") == []
