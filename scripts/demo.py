#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""make demo: a Linux guest does verified I/O on a remote NVMe/TCP namespace and does not notice kill -9 of the service.

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
from nvmet import Namespace, NvmetTarget  # noqa: E402
from vm import VM, vfio_user  # noqa: E402

NQN = "nqn.2026-01.org.opensnap:demo"
KILLS = 5
FIO = ("fio --name={name} --filename=/dev/{name} --rw=randrw --bsrange=4k-64k --iodepth=32 --ioengine=libaio --direct=1 "
       "--size=48M --verify=crc32c --verify_fatal=1 --verify_backlog=128 --output-format=json")
TOPOLOGY = """\
NVME_EMULATION_ENABLE = 1
NVME_EMULATION_NUM_PF = 1
NVME_EMULATION_NUM_VF = 4
"""


def title(text):
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def show(text, indent="    "):
    for line in text.rstrip().splitlines():
        print(indent + line, flush=True)


class Service:
    """snap_service --supervise with directories of its own."""

    def __init__(self, folder, build):
        self.folder, self.build = folder, build
        self.socket = folder / "snap.sock"
        self.log = open(folder / "service.log", "wb")
        (folder / "topology.conf").write_text(TOPOLOGY)
        self.proc = None

    def start(self):
        argv = [str(self.build / "snap_service"), "--supervise", "-r", str(self.socket),
                "--run-dir", str(self.folder / "run"), "--state-dir", str(self.folder / "state"),
                "--topology", str(self.folder / "topology.conf")]
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
        if self.proc:
            self.proc.terminate()
            try:
                self.proc.wait(10)
            except subprocess.TimeoutExpired:
                self.proc.kill()
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
    service.call("bdev_nvme_attach_controller", "-b", "Remote", "-t", "tcp", "-f", "ipv4", "-a", target.addr,
                 "-s", str(target.port), "-n", target.nqn)
    service.call("bdev_aio_create", str(folder / "local.img"), "Local", "512")
    service.call("nvme_subsystem_create", "--nqn", NQN)
    service.call("nvme_namespace_create", "--nqn", NQN, "-b", "Remoten1", "-n", "1")
    service.call("nvme_namespace_create", "--nqn", NQN, "-b", "Local", "-n", "2")
    service.call("nvme_controller_create", "--nqn", NQN, "--pf_id", "0", "-c", "NVMeCtrl1", "--suspended")
    service.call("nvme_controller_attach_ns", "-c", "NVMeCtrl1", "-n", "1")
    service.call("nvme_controller_attach_ns", "-c", "NVMeCtrl1", "-n", "2")
    service.call("nvme_controller_resume", "-c", "NVMeCtrl1")


def kill_under_load(service, vm):
    """fio keeps both disks busy and verified while the service is killed again and again."""
    seconds = KILLS * 4 + 6
    jobs = [vm.start(FIO.format(name=name) + f" --time_based --runtime={seconds}") for name in ("nvme0n1", "nvme0n2")]
    time.sleep(4)
    for n in range(KILLS):
        pid = service.child()
        show(f"kill -9 {pid}")
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        while service.child() in (pid, None):
            time.sleep(0.01)
        service.wait()
        pause = time.monotonic() - began
        found = json.loads(service.call("nvme_controller_dbg_io_stats_get", "-c", "NVMeCtrl1", quiet=True))["recovery"]
        show(f"  back after {pause * 1000:.0f} ms; commands in flight taken over: {found['records']}")
        time.sleep(2.5)
    ios = sum(fio_ios(job, seconds + 120) for job in jobs)
    show(f"fio in the guest: {ios} I/Os, every one verified, 0 errors")
    errors = vm.run("dmesg | grep -iE 'nvme.*(timeout|reset|abort)|I/O error'")[1]
    show("guest kernel log: " + (errors or "no timeout, no reset, no I/O error"))
    if errors:
        raise SystemExit("the guest has noticed")


def installed(build):
    """What make has put here, and the peers, which are made on first use."""
    title("Installed (scripts/deps.sh says each package and why; nothing is installed twice)")
    check = subprocess.run([str(ROOT / "scripts" / "deps.sh"), "--check", "build", "guest"], stdout=subprocess.PIPE, text=True)
    show(check.stdout or "Debian packages of the groups build and guest: all there")
    for name in ("snap_emu", "snap_service", "snap_rpc", "snap_host"):
        show(f"{build / name}")
    argv, extra = cache.qemu("backports")
    version = subprocess.run([*argv, "--version"], env={**os.environ, **extra}, stdout=subprocess.PIPE, text=True, check=True)
    show(f"{version.stdout.splitlines()[0]} (Debian 13 backports, a private root below {Path(argv[0]).parents[4]})")
    show(f"guest kernel: {cache.kernel('6.12').vmlinux}")


def demo(folder, build):
    installed(build)

    title("A remote target")
    service = Service(folder, build)
    target = NvmetTarget(namespaces=[Namespace(size_mb=64)])
    guest = None
    try:
        show("booting a guest that is the remote storage: the Linux kernel's NVMe/TCP target ...")
        target.start()
        show(f"NVMe/TCP target: {target.addr}:{target.port}, {target.nqn}, one namespace of 64 MiB")

        title("Topology (firmware parameter names)")
        show(TOPOLOGY)

        title("The service; it starts snap_emu, which owns the PCIe functions")
        service.start()

        title("RPC commands")
        configure(service, target, folder)

        title("A guest with that function")
        cntrl = next((folder / "run" / "functions").glob("*/cntrl"))
        listed = subprocess.run([str(build / "snap_host"), "list", "--run-dir", str(folder / "run")],
                                stdout=subprocess.PIPE, text=True, check=True).stdout
        show(listed)
        vuid = json.loads(service.call("nvme_controller_list", "-c", "NVMeCtrl1", quiet=True))[0].get("vuid", "")
        if vuid:
            cntrl = folder / "run" / "functions" / vuid / "cntrl"
        device = vfio_user(cntrl)
        show("qemu-system-x86_64 -machine q35,memory-backend=ram -object memory-backend-memfd,id=ram,size=1G,share=on \\\n"
             f"    -device '{json.dumps(device.props)}' ...")
        guest = VM(devices=[device]).start_vm()
        guest.wait("test -b /dev/nvme0n2")
        show("guest# lsblk")
        show(guest.check("lsblk"), "      ")
        show("guest# nvme list")
        show(guest.check("nvme list"), "      ")

        title("Verified I/O on both disks")
        for name in ("nvme0n1", "nvme0n2"):
            show(f"guest# {FIO.format(name=name)}")
            show(f"  {fio_ios(guest.start(FIO.format(name=name)), 120)} I/Os, every one verified, 0 errors")

        title(f"kill -9 of the service under load, {KILLS} times")
        kill_under_load(service, guest)

        title("Where to look next")
        show("README.md, \"First disk, by hand\"    the same on your own VM\n"
             "docs/operation.md                    topology, options, methods, limits\n"
             "docs/recovery.md                     why the guest saw nothing, and the tests that prove it\n"
             "make test                            all tests")
    except BaseException:
        print(f"\nThe service's log ends with:\n{(folder / 'service.log').read_text()[-2000:]}", file=sys.stderr)
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
