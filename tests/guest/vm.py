# SPDX-License-Identifier: BSD-3-Clause
"""Linux guests in QEMU for tests: boot, run commands, plug devices, reset.

    with VM(kernel="6.12", qemu="backports", devices=[vfio_user("/run/x/cntrl")]) as vm:
        status, output = vm.run("lsblk")
        job = vm.start("fio ...")
        ...
        status, output = job.result(timeout=60)

Everything is emulated (TCG): guests prove function, never performance.
"""

import atexit
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import cache
from channel import Channel, ChannelError, Job
from initramfs import Cpio
from qmp import Qmp, QmpError

# Measured to boot fastest under TCG.
CMDLINE = ("console=ttyS0 quiet panic=-1 reboot=t mitigations=off nokaslr lpj=4000000 "
           "tsc=reliable no_timer_check raid=noautodetect rcupdate.rcu_expedited=1 "
           "cryptomgr.notests audit=0 apparmor=0 nowatchdog")
BOOT_TIMEOUT = 60
GUEST_ADDRESS = "10.0.2.15/24"  # QEMU's user networking; the host is 10.0.2.2
HOST_FROM_GUEST = "10.0.2.2"


class GuestError(Exception):
    """A guest did not do what a test needs; carries its last console lines."""


@dataclass
class Device:
    """A device as -device or device_add take it, with the socket chardev it may need."""

    props: dict
    chardev: str = None
    reconnect_ms: int = 0   # QEMU connects again that long after the server went away; 0: never

    def named(self, ident: str) -> "Device":
        """The same with an id, and its chardev's name filled in."""
        props = {"id": ident, **self.props}
        if self.chardev:
            props["chardev"] = f"{props['id']}-chardev"
        return replace(self, props=props)

    def reconnect(self, version: tuple) -> dict:
        """The chardev's setting, as the QEMU of that version spells it."""
        if not self.reconnect_ms:
            return {}
        if version >= (9, 2):
            return {"reconnect-ms": self.reconnect_ms}
        return {"reconnect": -(-self.reconnect_ms // 1000)}


def vfio_user(path, **props) -> Device:
    """A PCI function served on a vfio-user socket (needs qemu="backports").

    More properties as QEMU names them, "_" for "-": x_no_posted_writes=True.
    """
    sock = {"type": "unix", "path": str(path)}
    return Device({"driver": "vfio-user-pci", "socket": sock, **_dashes(props)})


def vhost_user_blk(path, reconnect_ms: int = 0, **props) -> Device:
    """A virtio-blk disk served on a vhost-user socket; num_queues=1 for a simple server."""
    return Device({"driver": "vhost-user-blk-pci", **_dashes(props)}, str(path), reconnect_ms)


def _dashes(props: dict) -> dict:
    return {name.replace("_", "-"): value for name, value in props.items()}


def die_with_parent() -> None:
    """In the child: do not outlive a killed test run."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@dataclass
class VM:
    """A guest. Started by start_vm() or "with"; ended by stop() or leaving the "with"."""

    kernel: str = "6.12"
    qemu: str = "backports"
    modules: tuple = ("nvme", "virtio_blk")
    devices: list = field(default_factory=list)
    ports: int = 0                  # hot-plug slots: PCIe root ports rp0, rp1, ...
    forward: tuple = ()             # guest TCP ports reachable on 127.0.0.1: see port()
    network: bool = False           # user networking without any forward
    memory_mb: int = 1024
    cpus: int = 2
    cmdline: str = ""               # more kernel parameters
    machine: str = ""               # more -machine settings, as "kernel-irqchip=split"
    args: list = field(default_factory=list)   # more QEMU arguments
    files: dict = field(default_factory=dict)  # guest path -> bytes, there at boot
    name: str = "guest"
    proc: subprocess.Popen = None
    folder: Path = None

    def __enter__(self) -> "VM":
        return self.start_vm()

    def __exit__(self, *_exc) -> None:
        self.stop()

    # -- life ------------------------------------------------------------------

    def start_vm(self) -> "VM":
        """Boots and waits for the command channel."""
        self.launch()
        self.wait_up()
        return self

    def launch(self) -> None:
        """Starts QEMU and does not wait for the guest: several can boot side by side."""
        self.folder = Path(tempfile.mkdtemp(prefix=f"osnap-{self.name}-"))
        self.forwarded = {}
        self.named_devices = 0
        self.plugged = {}  # ids of hot-plugged devices -> their chardevs
        self.qmp = self.channel = None
        atexit.register(self.stop)
        try:
            argv, extra = cache.qemu(self.qemu)
            with open(self.folder / "qemu.log", "wb") as log:
                self.proc = subprocess.Popen(
                    argv + self._arguments(), env={**os.environ, **extra}, stderr=log,
                    stdin=subprocess.DEVNULL, stdout=log, start_new_session=True,
                    # The kernel ties it to the thread that forks, not to the process.
                    preexec_fn=die_with_parent if _in_main_thread() else None)
            self.qmp = Qmp(str(self.folder / "qmp"), gone=self.dead)
            self.channel = Channel(str(self.folder / "agent"))
        except QmpError as failed:
            self._fail("QEMU did not start", failed)
        except BaseException:
            self.stop()
            raise

    def wait_up(self, timeout: float = BOOT_TIMEOUT) -> None:
        """After launch(): waits for the command channel."""
        try:
            self.channel.wait_boot(0, timeout, self.dead)
        except ChannelError as failed:
            self._fail("boot", failed)

    def stop(self) -> None:
        """Kills QEMU; any number of times, at any point."""
        atexit.unregister(self.stop)
        if self.proc:
            self.proc.kill()
            self.proc.wait()
            self.proc = None
        for link in (self.channel, self.qmp):
            if link:
                link.close()
        if self.folder and not os.environ.get("OPENSNAP_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def dead(self) -> bool:
        """Has QEMU ended?"""
        return self.proc is None or self.proc.poll() is not None

    def _fail(self, what: str, cause: Exception) -> None:
        error = GuestError(f"{self.name}: {what}: {cause}\n{self.diagnosis()}")
        if self.channel is None or not self.channel.boots:
            self.stop()
        raise error from cause

    def diagnosis(self, lines: int = 20) -> str:
        """The last lines of QEMU and of the guest's console."""
        if not self.folder:
            return ""
        parts = []
        for name in ("qemu.log", "console.log"):
            path = self.folder / name
            text = path.read_text("utf-8", "replace") if path.exists() else ""
            parts.append(f"--- {name}\n" + "\n".join(text.splitlines()[-lines:]))
        return "\n".join(parts)

    # -- the machine -----------------------------------------------------------

    def _arguments(self) -> list:
        guest = cache.kernel(self.kernel)
        machine = f"q35,memory-backend=ram{',' if self.machine else ''}{self.machine}"
        params = [CMDLINE, f"osnap.modules={','.join(self._modules())}", self.cmdline]
        if self.forward or self.network:
            params.append(f"osnap.ip={GUEST_ADDRESS}")
        argv = ["-name", self.name, "-machine", machine, "-cpu", "max", "-smp", str(self.cpus),
                "-accel", "tcg,thread=multi", "-m", f"{self.memory_mb}M",
                "-object", f"memory-backend-memfd,id=ram,size={self.memory_mb}M,share=on",
                "-nodefaults", "-display", "none", "-no-reboot",
                "-kernel", str(guest.vmlinux), "-initrd", self._initrd(guest.initramfs),
                "-append", " ".join(params)]
        for chardev, port in (("file,id=console,path={}/console.log", 1),
                              ("socket,id=agent,path={}/agent,server=on,wait=off", 2)):
            argv += ["-chardev", chardev.format(self.folder),
                     "-device", f"isa-serial,index={port - 1},chardev={chardev.split(',')[1][3:]}"]
        argv += ["-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"]
        for port in range(self.ports):
            argv += ["-device", f"pcie-root-port,id=rp{port},chassis={port + 1},slot={port + 1}"]
        argv += self._network() + self.args
        for device in self.devices:
            argv += self._device(device)
        return argv

    def _modules(self) -> list:
        extra = ["virtio_pci"] if self.kernel == "6.1" else []
        if self.forward or self.network:
            extra += ["virtio_net"]
        return [*extra, *self.modules]

    def _initrd(self, common: Path) -> str:
        if not self.files:
            return str(common)
        own = Cpio()
        for name, body in self.files.items():
            own.file(name, body, 0o755)
        path = self.folder / "initrd"
        shutil.copyfile(common, path)
        with open(path, "ab") as out:
            out.write(own.bytes())
        return str(path)

    def _network(self) -> list:
        if not (self.forward or self.network):
            return []
        hosts = "".join(f",hostfwd=tcp:127.0.0.1:0-:{port}" for port in self.forward)
        return ["-netdev", f"user,id=net{hosts}",
                "-device", "virtio-net-pci,netdev=net,romfile="]

    def _name(self, device: Device) -> Device:
        self.named_devices += 1
        return device.named(f"dev{self.named_devices}")

    def _device(self, device: Device) -> list:
        named = self._name(device)
        argv = []
        if named.chardev:
            settings = named.reconnect(cache.qemu_version(self.qemu))
            more = "".join(f",{name}={value}" for name, value in settings.items())
            argv = ["-chardev", f"socket,id={named.props['chardev']},path={named.chardev}{more}"]
        return [*argv, "-device", json.dumps(named.props)]

    def port(self, guest_port: int) -> int:
        """The port on 127.0.0.1 that leads to a guest port named in forward."""
        if guest_port not in self.forwarded:
            table = self.qmp.command("human-monitor-command", command_line="info usernet")
            for host, guest in re.findall(r"TCP\[HOST_FORWARD\]\s+\S+\s+\S+\s+(\d+)\s+\S+\s+(\d+)",
                                          table):
                self.forwarded[int(guest)] = int(host)
        return self.forwarded[guest_port]

    # -- commands in the guest -------------------------------------------------

    def start(self, command: str) -> Job:
        """Starts a shell command in the guest; Job.result() waits for it."""
        try:
            return self.channel.start(command)
        except ChannelError as failed:
            self._fail(f"command {_short(command)!r}", failed)

    def run(self, command: str, timeout: float = 30) -> tuple:
        """Runs a shell command in the guest: (exit status, output with stderr)."""
        job = self.start(command)
        try:
            return job.result(timeout)
        except ChannelError as failed:
            so_far = self._leftover(job)
            self._fail(f"output so far: {so_far!r}", failed)

    def check(self, command: str, timeout: float = 30) -> str:
        """run() that insists on status 0 and returns the output."""
        status, output = self.run(command, timeout)
        if status:
            raise GuestError(f"{self.name}: {_short(command)!r} ended with {status}: {output}\n"
                             + self.diagnosis())
        return output

    def _leftover(self, job: Job) -> str:
        if job.lost or self.dead():
            return ""
        try:
            text = job.output()
            job.kill()
            return text
        except ChannelError:
            return "(unknown)"

    def wait(self, command: str, timeout: float = 20) -> str:
        """Repeats a command in the guest until it succeeds; returns its output."""
        loop = (f"n=0; until out=$({{ {command}\n}} 2>&1); do n=$((n+1)); "
                f"[ $n -lt {int(timeout * 10)} ] || {{ echo \"$out\"; exit 1; }}; "
                "sleep 0.1; done; echo \"$out\"")
        return self.check(loop, timeout * 3 + 10)

    # -- events ----------------------------------------------------------------

    def plug(self, device: Device, bus: str = "rp0") -> str:
        """Hot-plugs a device into a root port (see ports); returns its id for unplug()."""
        named = self._name(device)
        if named.chardev:
            address = {"type": "unix", "data": {"path": named.chardev}}
            backend = {"type": "socket",
                       "data": {"addr": address, "server": False,
                                **named.reconnect(cache.qemu_version(self.qemu))}}
            self.qmp.raw("chardev-add", {"id": named.props["chardev"], "backend": backend})
            self.plugged[named.props["id"]] = named.props["chardev"]
        try:
            self.qmp.raw("device_add", {**named.props, "bus": bus}, timeout=30)
        except QmpError as failed:
            self._fail(f"plug {named.props}", failed)
        return named.props["id"]

    def unplug(self, ident: str, timeout: float = 20) -> None:
        """Asks the guest to give the device back and waits until it and its chardev are gone.

        QEMU 11.1 aborts when a vfio-user-pci function with MSI-X goes away.
        """
        since = self.qmp.mark()
        try:
            self.qmp.raw("device_del", {"id": ident})
            self.qmp.wait_event("DEVICE_DELETED", timeout, since, device=ident)
            if chardev := self.plugged.pop(ident, None):
                self.qmp.raw("chardev-remove", {"id": chardev})
        except QmpError as failed:
            self._fail(f"unplug {ident}", failed)

    def reset(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Hard reset, as by the reset button; returns when the guest is up again."""
        self._boot_again(lambda: self.qmp.command("system_reset"), timeout)

    def reboot(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Reboot from within the guest (drivers shut down); returns when it is up again."""
        self._boot_again(lambda: self.channel.start("reboot -f"), timeout)

    def pause(self) -> None:
        """Stops all virtual CPUs; QEMU itself (its sockets) lives on."""
        self.qmp.command("stop")

    def resume(self) -> None:
        """Ends pause()."""
        self.qmp.command("cont")

    def _boot_again(self, act, timeout: float) -> None:
        try:
            # Any other reset is a crash and ends QEMU (-no-reboot).
            self.qmp.command("set-action", reboot="reset")
            since = self.qmp.mark()
            boots = self.channel.forget()
            act()
            self.qmp.wait_event("RESET", 20, since)
            self.channel.wait_boot(boots, timeout, self.dead)
            # Not earlier: the firmware itself resets once more on its way.
            self.qmp.command("set-action", reboot="shutdown")
        except (QmpError, ChannelError) as failed:
            self._fail("reset", failed)


def _short(command: str) -> str:
    return command if len(command) < 200 else command[:200] + "..."


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
