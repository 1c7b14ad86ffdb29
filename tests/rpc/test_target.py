# SPDX-License-Identifier: BSD-3-Clause
"""snap_target: its command line, its life, its configuration."""
import os
import subprocess

import pytest

from snap import RpcError, program
from target import Target


@pytest.fixture
def target(tmp_path):
    with Target(tmp_path) as target:
        yield target


def run(name, *args, **env):
    return subprocess.run([program(name), *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=30, env={**os.environ, **env})


def cli(target, *args):
    return run("snap_rpc", "-s", target.rpc_socket, *args)


def bdevs(target):
    return {b["name"]: (b["product_name"], b["num_blocks"], b["uuid"]) for b in target.rpc("bdev_get_bdevs")}


def make_bdevs(target, directory):
    image = directory / "disk.img"
    image.write_bytes(bytes(1 << 20))
    target.rpc("bdev_null_create", name="Null0", block_size=512, num_blocks=2048)
    target.rpc("bdev_malloc_create", name="Malloc0", block_size=4096, num_blocks=256)
    target.rpc("bdev_aio_create", name="File0", filename=str(image), block_size=512)
    target.rpc("bdev_null_create", name="Gone", block_size=512, num_blocks=2048)
    target.rpc("bdev_null_delete", name="Gone")


@pytest.mark.parametrize("args", [[], ["-m", "3"]])
def test_the_configuration_outlives_kill_9(tmp_path, args):
    with Target(tmp_path, args) as target:
        make_bdevs(target, tmp_path)
        before = bdevs(target)
        assert {name: b[:2] for name, b in before.items()} == {
            "Null0": ("Null disk", 2048), "Malloc0": ("Malloc disk", 256), "File0": ("AIO disk", 2048)}
        target.kill_target()
        target.start_target()
        assert bdevs(target) == before
        target.rpc("bdev_malloc_delete", name="Malloc0")
        del before["Malloc0"]
        target.kill_target()
        target.start_target()
        assert bdevs(target) == before


def test_the_configuration_outlives_an_orderly_stop(target, tmp_path):
    make_bdevs(target, tmp_path)
    before = bdevs(target)
    assert target.stop_target() == 0
    assert not target.rpc_socket.exists()
    target.start_target()
    assert bdevs(target) == before


def test_it_serves_bdevs_and_nothing_that_needs_a_function(target):
    methods = target.rpc("rpc_get_methods")
    assert {"bdev_get_bdevs", "bdev_malloc_create", "bdev_aio_create", "bdev_nvme_attach_controller", "spdk_get_version",
            "framework_wait_init", "snap_log_level_set", "rpc_get_methods"} <= set(methods)
    assert not [m for m in methods if m.startswith(("emulation_", "nvme_", "virtio_blk_"))]
    with pytest.raises(RpcError) as e:
        target.rpc("nvme_subsystem_list")
    assert e.value.code == -32601


def test_the_command_line_knows_its_methods(target):
    assert cli(target, "bdev_malloc_create", 1, 512, "-b", "M0").stdout == "M0\n"
    help_text = cli(target, "--help").stdout
    for method in target.rpc("rpc_get_methods"):
        assert f"  {method} " in help_text
    out = cli(target, "nvme_subsystem_list")  # known, but of the other program
    assert out.returncode == 1 and "Method not found" in out.stdout


def test_memory_disks_of_one_name_follow_each_other(target):
    """No snap_emu keeps their memory, so none can be of the wrong size."""
    for blocks in (2048, 4096):
        target.rpc("bdev_malloc_create", name="M0", block_size=512, num_blocks=blocks)
        assert bdevs(target)["M0"][1] == blocks
        target.rpc("bdev_malloc_delete", name="M0")


def test_a_second_one_on_the_same_socket_is_refused(target, tmp_path):
    out = run("snap_target", "-r", target.rpc_socket, "--state-dir", tmp_path / "other")
    assert out.returncode == 1 and f"another process listens on '{target.rpc_socket}'" in out.stderr
    assert target.answers()


def test_a_second_one_on_the_same_state_is_refused(target):
    out = run("snap_target", "-r", target.short / "other.sock", "--state-dir", target.state_dir)
    assert out.returncode == 1 and "is in use by another service (pid " in out.stderr and "--state-dir" in out.stderr
    assert target.answers()


@pytest.mark.parametrize("args, words", [
    (["-m", "zz"], "cpu mask 'zz'"), (["-m", "-1"], "cpu mask '-1'"), (["-m", "1" + 16 * "0"], "cpu mask '1000"),
    (["-L", "6"], "log level '6'"), (["--poll-window-us", "1000001"], "poll window '1000001'"),
    (["--state-dir"], "requires an argument"), (["--bogus"], "--bogus"), (["stray"], "'stray' is not an option")])
def test_wrong_options_are_refused(tmp_path, args, words):
    out = run("snap_target", "-r", tmp_path / "s", "--state-dir", tmp_path / "state", *args)
    assert out.returncode == 2 and words in out.stderr and not out.stdout
    assert not (tmp_path / "state").exists()


def test_places_it_cannot_use_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    out = run("snap_target", "-r", tmp_path / "s", "--state-dir", tmp_path / "file" / "state")
    assert out.returncode == 1 and f"{tmp_path}/file" in out.stderr
    out = run("snap_target", "-r", "/tmp/" + 200 * "x", "--state-dir", tmp_path / "state")
    assert out.returncode == 1 and "107" in out.stderr


def test_help_and_version():
    out = run("snap_target", "--help")
    assert out.returncode == 0
    for word in ("/var/tmp/snap_target.sock", "/var/lib/opensnap-target", "--cpumask", "--poll-window-us", "--log-level"):
        assert word in out.stdout
    assert run("snap_target", "--version").stdout.startswith("snap_target 0.")
