# SPDX-License-Identifier: BSD-3-Clause
"""The guests themselves work: what every other guest test builds on."""

import json
import shutil
import subprocess
import time

import pytest
from nvmet import Namespace, ic_exchange
from require import require
from vm import HOST_FROM_GUEST, Device, GuestError, vhost_user_blk

VERIFY = ("fio --name=verify --filename={} --rw=randwrite --bs=4k --iodepth=8 --ioengine=libaio "
          "--direct=1 --size=16M --verify=crc32c --runtime=2 --output-format=json")


def nvme_disk(tmp_path) -> list:
    """QEMU's own NVMe controller on a sparse file."""
    path = tmp_path / "disk.img"
    with open(path, "wb") as image:
        image.truncate(64 << 20)
    return ["-drive", f"file={path},if=none,id=disk,format=raw,cache=unsafe"]


def fio_errors(output: str) -> int:
    """The error count of a fio JSON report with one job."""
    return json.loads(output[output.index("{"):])["jobs"][0]["error"]


def test_guest_verifies_data_on_an_emulated_nvme_disk(boot, tmp_path):
    vm = boot(args=nvme_disk(tmp_path), devices=[Device({"driver": "nvme", "drive": "disk",
                                                         "serial": "SMOKE1"})])
    disks = vm.wait("lsblk -dno NAME,SIZE | grep nvme0n1")
    assert disks.split() == ["nvme0n1", "64M"]
    assert "SMOKE1" in vm.check("nvme list")
    assert fio_errors(vm.check(VERIFY.format("/dev/nvme0n1"), timeout=60)) == 0


def test_guest_comes_back_after_reset_and_reboot(boot):
    vm = boot()
    vm.check("touch /run/before")
    vm.reset()
    assert vm.run("test -e /run/before")[0] == 1
    vm.reboot()
    assert vm.run("test -e /run/before")[0] == 1


def test_a_stuck_command_times_out_and_leaves_the_channel_usable(boot):
    vm = boot()
    stuck = vm.start("echo begun; sleep 1000")
    with pytest.raises(GuestError, match="output so far: 'hello"):
        vm.run("echo hello; sleep 1000", timeout=1)
    assert vm.check("echo still here") == "still here\n"
    assert stuck.output() == "begun\n"
    stuck.kill()
    assert stuck.result(10)[0] == 137


def test_files_given_to_a_guest_are_there(boot):
    vm = boot(files={"/opt/hello": b"#!/bin/sh\necho hello $1\n"})
    assert vm.check("/opt/hello world") == "hello world\n"


@pytest.fixture
def vhost_disk(tmp_path):
    """A vhost-user-blk socket served by qemu-storage-daemon."""
    require(shutil.which("qemu-storage-daemon"), "no qemu-storage-daemon (scripts/deps.sh test)")
    image, sock = tmp_path / "disk.img", tmp_path / "blk.sock"
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    daemon = subprocess.Popen(
        ["qemu-storage-daemon", "--blockdev", f"file,node-name=disk,filename={image}", "--export",
         f"vhost-user-blk,id=disk,node-name=disk,addr.type=unix,addr.path={sock},writable=on"])
    deadline = time.monotonic() + 10
    while not sock.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    yield sock
    daemon.kill()
    daemon.wait()


def test_system_qemu_hot_plugs_and_unplugs_a_vhost_user_disk(boot, vhost_disk):
    vm = boot(kernel="6.1", qemu="system", ports=1)
    ident = vm.plug(vhost_user_blk(vhost_disk, num_queues=1))
    vm.wait("test -b /dev/vda")
    assert fio_errors(vm.check(VERIFY.format("/dev/vda"), timeout=60)) == 0
    vm.unplug(ident)
    vm.wait("! test -b /dev/vda")


def test_nvmet_serves_a_guest_initiator_and_survives_unlinking(boot, nvmet):
    target = nvmet(namespaces=[Namespace(size_mb=32, block_bytes=4096)])
    assert ic_exchange(target.addr, target.port)[0] == 1
    vm = boot(network=True, modules=("nvme-tcp",))
    vm.check(f"nvme connect -t tcp -a {HOST_FROM_GUEST} -s {target.port} -n {target.nqn} -i 1")
    uuid = vm.wait("cat /sys/block/nvme0n1/uuid").strip()
    assert uuid == target.namespaces[0].uuid
    assert fio_errors(vm.check(VERIFY.format("/dev/nvme0n1"), timeout=90)) == 0

    target.unlink()
    with pytest.raises(OSError):
        ic_exchange(target.addr, target.port)
    target.link()
    vm.check("dd if=/dev/nvme0n1 of=/dev/null bs=4k count=16 iflag=direct", timeout=60)
