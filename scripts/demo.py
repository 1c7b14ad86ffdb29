#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""make demo: a Linux guest does verified I/O on remote NVMe/TCP namespaces, through an NVMe and a virtio-blk function, and
notices neither kill -9 of the service nor that of the remote target.

Everything it runs is printed as it can be typed; README.md has the same steps for a VM of your own.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "guest"))

import cache  # noqa: E402  (needs the path above)
from vm import VM, vfio_user, vhost_user_blk  # noqa: E402

NQN = "nqn.2026-01.org.opensnap:demo"
TARGET_NQN = "nqn.2026-01.org.opensnap:remote"
KILLS = 5
DISKS = ("nvme0n1", "nvme0n2", "vda")
FIO = ("fio --name={name} --filename=/dev/{name} --rw=randrw --bsrange=4k-64k --iodepth=32 --ioengine=libaio --direct=1 "
       "--size=48M --verify=crc32c --verify_fatal=1 --verify_backlog=128 --output-format=json")
TOPOLOGY = """\
NVME_EMULATION_ENABLE = 1
NVME_EMULATION_NUM_PF = 1
NVME_EMULATION_NUM_VF = 4
VIRTIO_BLK_EMULATION_ENABLE = 1
VIRTIO_BLK_EMULATION_NUM_PF = 1
VIRTIO_BLK_EMULATION_NUM_VF = 4
"""


def title(text):
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def show(text, indent="    "):
    for line in text.rstrip().splitlines():
        print(indent + line, flush=True)


class Program:
    """One of our programs with directories and an RPC socket of its own."""
    name = None

    def __init__(self, folder, build):
        self.folder, self.build = folder, build
        self.socket = folder / f"{self.name}.sock"
        self.log_path = folder / f"{self.name}.log"
        self.log = open(self.log_path, "wb")
        self.proc = None

    def start(self):
        argv = [str(self.build / self.name), "-r", str(self.socket), *self.arguments()]
        show(shlex.join(argv) + " &")
        self.proc = subprocess.Popen(argv, stderr=self.log, stdin=subprocess.DEVNULL)
        self.wait()

    def wait(self, timeout=20):
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self.call("spdk_get_version", quiet=True)
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def call(self, *words, quiet=False):
        """Runs one RPC command by the command-line client, and prints both."""
        argv = [str(self.build / "snap_rpc.py"), "-s", str(self.socket), *words]
        if not quiet:
            show(shlex.join(argv))
        out = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True,
                             stderr=subprocess.DEVNULL if quiet else None).stdout
        if not quiet and out.strip() not in ("", "true"):
            show(out, "      -> ")
        return out

    def stop(self):
        if self.proc:
            self.proc.terminate()
            try:
                self.proc.wait(10)
            except subprocess.TimeoutExpired:
                self.proc.kill()


class Target(Program):
    """The remote storage: snap_target with two namespaces on files."""
    name = "snap_target"

    def arguments(self):
        return ["--state-dir", str(self.folder / "target-state")]

    def configure(self):
        self.call("nvmf_create_transport", "-t", "TCP")
        self.call("nvmf_create_subsystem", TARGET_NQN, "-a")
        for name in ("Disk1", "Disk2"):
            image = self.folder / f"{name}.img"
            with open(image, "wb") as file:
                file.truncate(64 << 20)
            self.call("bdev_aio_create", str(image), name, "512")
            self.call("nvmf_subsystem_add_ns", TARGET_NQN, name)
        self.call("nvmf_subsystem_add_listener", TARGET_NQN, "-t", "tcp", "-f", "ipv4", "-a", "127.0.0.1", "-s", "0")
        [listener] = json.loads(self.call("nvmf_subsystem_get_listeners", TARGET_NQN, quiet=True))
        self.port = listener["address"]["trsvcid"]

    def kill_and_start(self):
        show(f"kill -9 {self.proc.pid}")
        self.proc.kill()
        self.proc.wait()
        time.sleep(1)
        self.start()


class Service(Program):
    """snap_service --supervise."""
    name = "snap_service"

    def arguments(self):
        (self.folder / "topology.conf").write_text(TOPOLOGY)
        return ["--supervise", "--run-dir", str(self.folder / "run"), "--state-dir", str(self.folder / "state"),
                "--topology", str(self.folder / "topology.conf")]

    def child(self):
        """The process that serves; its parent only supervises."""
        children = Path(f"/proc/{self.proc.pid}/task/{self.proc.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def emu(self):
        """snap_emu's process, by the link socket's holder: it is no child of ours."""
        for proc in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = proc.read_bytes().split(b"\0")
            except OSError:
                continue
            if words[0].endswith(b"snap_emu") and str(self.folder / "run").encode() in words:
                return int(proc.parent.name)
        return None

    def stop(self):
        super().stop()
        emu = self.emu()
        if emu:
            os.kill(emu, signal.SIGTERM)


def fio_ios(job, timeout):
    status, output = job.result(timeout)
    if status != 0:
        raise SystemExit(f"fio failed in the guest:\n{output[-3000:]}")
    report = json.loads(output[output.index("{"):])["jobs"][0]
    return report["read"]["total_ios"] + report["write"]["total_ios"]


def configure(service, target, folder):
    """The documented commands, in the documented order."""
    with open(folder / "local.img", "wb") as image:
        image.truncate(64 << 20)
    service.call("bdev_nvme_attach_controller", "-b", "Remote", "-t", "tcp", "-f", "ipv4", "-a", "127.0.0.1",
                 "-s", target.port, "-n", TARGET_NQN)
    service.call("bdev_aio_create", str(folder / "local.img"), "Local", "512")
    service.call("nvme_subsystem_create", "--nqn", NQN)
    service.call("nvme_namespace_create", "--nqn", NQN, "-b", "Remoten1", "-n", "1")
    service.call("nvme_namespace_create", "--nqn", NQN, "-b", "Local", "-n", "2")
    service.call("nvme_controller_create", "--nqn", NQN, "--pf_id", "0", "-c", "NVMeCtrl1", "--suspended")
    service.call("nvme_controller_attach_ns", "-c", "NVMeCtrl1", "-n", "1")
    service.call("nvme_controller_attach_ns", "-c", "NVMeCtrl1", "-n", "2")
    service.call("nvme_controller_resume", "-c", "NVMeCtrl1")
    service.call("virtio_blk_controller_create", "--pf_id", "0", "--bdev", "Remoten2", "-c", "VBlkCtrl1")


def taken_over(service):
    """Commands in flight that the running service has found and gone on with, of both functions."""
    return [json.loads(service.call(f"{kind}_controller_dbg_io_stats_get", "-c", ctrl, quiet=True))["recovery"]["records"]
            for kind, ctrl in (("nvme", "NVMeCtrl1"), ("virtio_blk", "VBlkCtrl1"))]


def kill_under_load(service, target, vm):
    """fio keeps all disks busy and verified while the service is killed again and again, and the target once."""
    seconds = KILLS * 4 + 12
    jobs = [vm.start(FIO.format(name=name) + f" --time_based --runtime={seconds}") for name in DISKS]
    time.sleep(4)
    for _ in range(KILLS):
        pid = service.child()
        show(f"kill -9 {pid}")
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        while service.child() in (pid, None):
            time.sleep(0.01)
        service.wait()
        pause = time.monotonic() - began
        nvme, vblk = taken_over(service)
        show(f"  back after {pause * 1000:.0f} ms; in flight and taken over: {nvme} NVMe commands, {vblk} virtio-blk requests")
        time.sleep(2.5)
    show("and the remote target:")
    target.kill_and_start()
    ios = sum(fio_ios(job, seconds + 120) for job in jobs)
    show(f"fio in the guest: {ios} I/Os, every one verified, 0 errors")
    errors = vm.run("dmesg | grep -iE '(nvme|virtio|vd[a-z]).*(timeout|reset|abort)|I/O error'")[1]
    show("guest kernel log: " + (errors or "no timeout, no reset, no I/O error"))
    if errors:
        raise SystemExit("the guest has noticed")


def installed(build):
    """What make has put here, and the peers, which are made on first use."""
    title("Installed (scripts/deps.sh says each package and why; nothing is installed twice)")
    check = subprocess.run([str(ROOT / "scripts" / "deps.sh"), "--check", "build", "guest"], stdout=subprocess.PIPE, text=True)
    show(check.stdout or "Debian packages of the groups build and guest: all there")
    for name in ("snap_emu", "snap_service", "snap_target", "snap_rpc", "snap_host"):
        show(f"{build / name}")
    argv, extra = cache.qemu("backports")
    version = subprocess.run([*argv, "--version"], env={**os.environ, **extra}, stdout=subprocess.PIPE, text=True, check=True)
    show(f"{version.stdout.splitlines()[0]} (Debian 13 backports, a private root below {Path(argv[0]).parents[4]})")
    show(f"guest kernel: {cache.kernel('6.12').vmlinux}")


def demo(folder, build):
    installed(build)

    service, target = Service(folder, build), Target(folder, build)
    guest = None
    try:
        title("The remote storage: snap_target, an NVMe/TCP target")
        target.start()
        target.configure()

        title("Topology (firmware parameter names)")
        show(TOPOLOGY)

        title("The service; it starts snap_emu, which owns the PCIe functions")
        service.start()

        title("RPC commands")
        configure(service, target, folder)

        title("A guest with both functions")
        listed = subprocess.run([str(build / "snap_host"), "list", "--run-dir", str(folder / "run")],
                                stdout=subprocess.PIPE, text=True, check=True).stdout
        show(listed)
        nvme, vblk = (folder / "run" / "functions" / json.loads(service.call(f"{kind}_controller_list", quiet=True))[0]["vuid"]
                      for kind in ("nvme", "virtio_blk"))
        devices = [vfio_user(nvme / "cntrl"), vhost_user_blk(vblk / "vhost.sock", reconnect_ms=1000, num_queues=2)]
        show("qemu-system-x86_64 -machine q35,memory-backend=ram -object memory-backend-memfd,id=ram,size=1G,share=on \\\n"
             f"    -device '{json.dumps(devices[0].props)}' \\\n"
             f"    -chardev socket,id=disk,path={vblk / 'vhost.sock'},reconnect-ms=1000 \\\n"
             "    -device vhost-user-blk-pci,chardev=disk,num-queues=2 ...")
        guest = VM(devices=devices).start_vm()
        guest.wait("test -b /dev/nvme0n2 && test -b /dev/vda")
        show("guest# lsblk")
        show(guest.check("lsblk"), "      ")
        show("guest# nvme list")
        show(guest.check("nvme list"), "      ")

        title("Verified I/O on all disks: remote NVMe, local NVMe, remote virtio-blk")
        for name in DISKS:
            show(f"guest# {FIO.format(name=name)}")
            show(f"  {fio_ios(guest.start(FIO.format(name=name)), 120)} I/Os, every one verified, 0 errors")

        title(f"kill -9 of the service under load, {KILLS} times, and of the target")
        kill_under_load(service, target, guest)

        title("Where to look next")
        show("README.md, \"First disk, by hand\"    the same on your own VM\n"
             "docs/operation.md                    topology, options, methods, limits\n"
             "docs/target.md                       snap_target\n"
             "docs/recovery.md                     why the guest saw nothing, and the tests that prove it\n"
             "make test                            all tests")
    except BaseException:
        for program in (service, target):
            print(f"\n{program.name}'s log ends with:\n{program.log_path.read_text()[-2000:]}", file=sys.stderr)
        raise
    finally:
        if guest:
            guest.stop()
        service.stop()
        target.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=ROOT / "build", type=Path, help="directory with the programs (default: build)")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="opensnap-demo-"))
    try:
        demo(folder, args.build.resolve())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
