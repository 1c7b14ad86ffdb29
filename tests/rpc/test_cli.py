# SPDX-License-Identifier: BSD-3-Clause
"""snap_rpc, the command line."""
import json
import os
import re
import subprocess

import pytest

from conftest import NQN, cli_environment
from snap import program


@pytest.fixture
def cli(snap):
    def run(*args, stdin=None, env=None):
        return subprocess.run([program("snap_rpc"), *map(str, args)], input=stdin, text=True,
                              stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True,
                              timeout=60, env=env or cli_environment(snap))
    return run


def good(out):
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stdout


def test_help_lists_every_method_on_one_line(snap, cli):
    out = good(cli("--help"))
    for method in snap.rpc("rpc_get_methods"):
        assert re.search(rf"^  {method}\s+\S.*$", out, re.M), method


def test_help_of_every_method(snap, cli):
    for method in snap.rpc("rpc_get_methods"):
        out = good(cli(method, "--help"))
        assert out.startswith(f"usage: {method}")
        assert "_namespaces" not in out


def test_documented_session(snap, cli):
    assert good(cli("bdev_null_create", "Null0", 64, 512)) == "Null0\n"
    assert snap.rpc("bdev_get_bdevs", name="Null0")[0]["num_blocks"] == 64 * 2048
    assert good(cli("bdev_malloc_create", 1, 4096, "-b", "M0")) == "M0\n"
    assert snap.rpc("bdev_get_bdevs", name="M0")[0]["num_blocks"] == 256
    assert good(cli("nvme_subsystem_create", "-s", NQN, "-sn", "SN1", "-mn", "Model", "-nn", 16, "-mnan", 16)) == "true\n"
    assert json.loads(good(cli("nvme_namespace_create", "-s", NQN, "-b", "Null0", "-n", 1)))["nsid"] == 1
    made = json.loads(good(cli("nvme_controller_create", "-s", NQN, "--pf_id", 0, "-c", "Disk0", "--suspended",
                               "--num_queues", 4)))
    assert made == {"ctrl_id": "Disk0"}
    assert good(cli("nvme_controller_attach_ns", "-c", "Disk0", "-n", 1)) == "true\n"
    assert good(cli("nvme_controller_resume", "--ctrl", "Disk0")) == "true\n"
    listed = good(cli("nvme_controller_list"))
    assert listed.startswith('[\n  {\n    "ctrl_id": "Disk0",')
    assert json.loads(listed) == snap.rpc("nvme_controller_list")
    assert good(cli("nvme_controller_suspend", "-c", "Disk0", "-t", 500)) == "true\n"
    assert json.loads(good(cli("emulation_function_list", "-a"))) == snap.rpc("emulation_function_list", all=True)
    assert good(cli("nvme_subsystem_destroy", "--nqn", NQN, "--force")) == "true\n"


def test_files(snap, cli, tmp_path):
    for name in ("disk.img", "disk2.img"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    assert good(cli("bdev_aio_create", tmp_path / "disk.img", "F0", 4096)) == "F0\n"
    assert snap.rpc("bdev_get_bdevs", name="F0")[0]["num_blocks"] == 256
    assert good(cli("bdev_uring_create", tmp_path / "disk2.img", "F1")) == "F1\n"


def test_fractions_of_a_mib(snap, cli):
    good(cli("bdev_null_create", "Small", "0.5", 512))
    assert snap.rpc("bdev_get_bdevs", name="Small")[0]["num_blocks"] == 1024


def test_dashes_and_equals_signs(snap, cli):
    out = cli("bdev_nvme_attach_controller", "-b", "R", "-t", "tcp", "-a", "127.0.0.1", "-s", "1", "-f", "ipv4", "-n",
              NQN, "--num-io-queues", 2, "--ctrlr-loss-timeout-sec=-1", "-e", "-d")
    assert out.returncode == 1 and '"num_io_queues": 2' in out.stdout and '"hdgst": true' in out.stdout


def test_failure_prints_request_and_error(cli):
    out = cli("bdev_null_delete", "none")
    assert out.returncode == 1
    assert '"method": "bdev_null_delete"' in out.stdout
    assert '"code": -19' in out.stdout and "No such device" in out.stdout


def test_secrets_are_not_printed(cli):
    out = cli("bdev_nvme_attach_controller", "-b", "R", "-t", "tcp", "-a", "x", "-n", NQN, "-k", "verysecret")
    assert out.returncode == 1 and "verysecret" not in out.stdout + out.stderr


@pytest.mark.parametrize("args", [["nope"], ["bdev_null_create"], ["bdev_null_create", "x", "1"],
                                  ["bdev_null_create", "x", "a", "512"], ["bdev_null_create", "x", "1", "y"],
                                  ["bdev_null_create", "x", "1", "512", "more"], ["nvme_subsystem_create", "-s"],
                                  ["nvme_subsystem_create", "--bogus", "1"], ["--bogus"], ["-t", "0", "spdk_get_version"],
                                  ["nvme_subsystem_create", "-s", "a", "-s", "b"]])
def test_wrong_usage(snap, cli, args):
    out = cli(*args)
    assert out.returncode == 2 and out.stderr and not out.stdout
    assert snap.rpc("bdev_get_bdevs") == [] and snap.rpc("nvme_subsystem_list") == []


def test_batch(snap, cli):
    out = good(cli(stdin=f"""# a comment
bdev_null_create 'Null0' 1 512   # another

nvme_subsystem_create -s "{NQN}" -mn "Two words"
nvme_subsystem_create -s {NQN}2 -mn Two\\ words
"""))
    assert out == "Null0\ntrue\ntrue\n"
    assert [s["mn"] for s in snap.rpc("nvme_subsystem_list")] == ["Two words"] * 2


def test_batch_stops_at_the_first_failure(snap, cli):
    out = cli(stdin="bdev_null_create A 1 512\nbdev_null_create A 1 512\nbdev_null_create B 1 512\n")
    assert out.returncode == 1
    assert out.stdout.endswith("bdev_null_create A 1 512\nbdev_null_create A 1 512 <<<\n")
    assert [b["name"] for b in snap.rpc("bdev_get_bdevs")] == ["A"]


@pytest.mark.parametrize("line", ["nope", "bdev_null_create 'A", "bdev_null_create A 1 512 \\"])
def test_batch_with_a_bad_line(snap, cli, line):
    out = cli(stdin=line + "\nbdev_null_create B 1 512\n")
    assert out.returncode == 1 and f"{line} <<<" in out.stdout
    assert snap.rpc("bdev_get_bdevs") == []


def test_socket_option_and_missing_service(snap, cli, tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "SNAP_RPC_SOCK"}
    good(cli("-s", snap.rpc_socket, "-t", "5.5", "-v", "ERROR", "spdk_get_version", env=env))
    out = cli("-s", tmp_path / "none", "spdk_get_version", env=env)
    assert out.returncode == 1 and "none" in out.stderr and "running" in out.stderr


def test_timeout(snap, cli):
    out = cli("-t", "0.3", "bdev_get_bdevs", "-b", "never", "-t", "2000")
    assert out.returncode == 1 and "0.3 seconds" in out.stderr


def test_debug_shows_the_request(cli):
    assert '"method": "spdk_get_version"' in cli("-v", "DEBUG", "spdk_get_version").stderr
