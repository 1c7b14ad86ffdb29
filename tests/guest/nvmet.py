# SPDX-License-Identifier: BSD-3-Clause
"""The Linux kernel's NVMe/TCP target in a guest: real remote storage for tests.

    with NvmetTarget(namespaces=[Namespace(size_mb=32)]) as target:
        connect_to(target.addr, target.port, target.nqn)
        target.unlink()     # the target goes away, its data does not
        target.link()       # and is back

From another guest the same target is HOST_FROM_GUEST:target.port (user networking).
"""

import socket
import struct
import time
import uuid
from dataclasses import dataclass, field

from tcp_proxy import GentleProxy
from vm import VM, GuestError

NVMET = "/sys/kernel/config/nvmet"
MODULES = ("virtio_blk", "nvmet", "nvmet-tcp", "null_blk nr_devices=0")


@dataclass
class Namespace:
    """One namespace: guest RAM of size_mb, or an existing device or file of the guest."""

    nsid: int = 1
    size_mb: int = 64
    block_bytes: int = 512
    path: str = ""      # in the guest, as "/dev/vda" (see NvmetTarget.image); "" is RAM
    uuid: str = ""
    nguid: str = ""


def _script(lines: list) -> str:
    return "set -e\n" + "\n".join(lines)


def _ram_disk(ns: Namespace) -> list:
    """A disk in guest RAM, with discard, whose contents live as long as the guest."""
    disk = f"/sys/kernel/config/nullb/ram{ns.nsid}"
    return [f"mkdir {disk}", f"echo {ns.size_mb} >{disk}/size",
            f"echo {ns.block_bytes} >{disk}/blocksize", f"echo 1 >{disk}/memory_backed",
            f"echo 1 >{disk}/discard", f"echo 1 >{disk}/power"]


def ic_exchange(addr: str, port: int, timeout: float = 2) -> bytes:
    """Connects and exchanges ICReq for ICResp: the proof that a target serves."""
    request = struct.pack("<BBBBIHBBI", 0, 0, 128, 0, 128, 0, 0, 0, 0).ljust(128, b"\0")
    with socket.create_connection((addr, port), timeout) as sock:
        sock.settimeout(timeout)
        sock.sendall(request)
        answer = b""
        while len(answer) < 128:
            more = sock.recv(128 - len(answer))
            if not more:
                raise ConnectionError("closed before ICResp")
            answer += more
    if answer[0] != 1:
        raise ConnectionError(f"PDU type {answer[0]} instead of ICResp")
    return answer


def wait_target(addr: str, port: int, timeout: float = 20) -> None:
    """Waits until ic_exchange() works. QEMU accepts connections long before the guest does."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            ic_exchange(addr, port)
            return
        except OSError as refused:
            if time.monotonic() > deadline:
                raise GuestError(f"no NVMe/TCP target at {addr}:{port}: {refused}") from refused
            time.sleep(0.1)


@dataclass
class NvmetTarget:
    """A guest that is an NVMe/TCP target with one subsystem."""

    nqn: str = "nqn.2024-01.org.opensnap:nvmet"
    namespaces: list = field(default_factory=lambda: [Namespace()])
    kernel: str = "6.12"
    qemu: str = "backports"
    image: str = ""             # a file on the host, in the guest as /dev/vda
    serial: str = "NVMET0001"
    model: str = "nvmet"
    hosts: tuple = ()           # allowed host NQNs; () is any host
    inline_data_bytes: int = 16384
    listen: tuple = (4420,)     # ports in the guest: one nvmet port each
    attributes: dict = field(default_factory=dict)  # more of the subsystem's attr_*
    memory_mb: int = 1024
    addr: str = "127.0.0.1"
    vm: VM = None
    proxies: dict = field(default_factory=dict)     # by port in the guest

    def __enter__(self) -> "NvmetTarget":
        return self.start()

    def __exit__(self, *_exc) -> None:
        self.stop()

    def start(self) -> "NvmetTarget":
        """Boots the guest, configures the target, waits until it answers."""
        self.launch()
        self.wait_up()
        return self

    def launch(self) -> None:
        """Starts the guest without waiting: see VM.launch()."""
        args = []
        if self.image:
            # Through QEMU's blkdebug, which can hold a write on its way to the file: see hold_next_write().
            args = ["-drive", "if=none,id=image,driver=raw,file.driver=blkdebug,file.image.driver=file,"
                    f"file.image.filename={self.image}", "-device", "virtio-blk-pci,drive=image,romfile="]
        self.vm = VM(name="nvmet", kernel=self.kernel, qemu=self.qemu, modules=(),
                     forward=self.listen, memory_mb=self.memory_mb, args=args)
        self.vm.launch()

    def wait_up(self) -> None:
        """After launch(): configures and waits until the target answers."""
        try:
            self.vm.wait_up()
            self.configure()
            for port in self.listen:
                wait_target(self.addr, self.vm.port(port))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kills the guest; what was in its RAM is gone."""
        if self.vm:
            self.vm.stop()
        while self.proxies:
            self.proxies.popitem()[1].stop()

    def reset(self) -> None:
        """Power-cycles the target; RAM namespaces come back empty, the port stays."""
        self.vm.reset()
        self.configure()
        wait_target(self.addr, self.port)

    @property
    def port(self) -> int:
        """The TCP port on addr."""
        return self.host_port(self.listen[0])

    def host_port(self, listen: int) -> int:
        """The TCP port on addr that leads to one of the guest's."""
        if listen not in self.proxies:
            self.proxies[listen] = GentleProxy(self.vm.port(listen))
        return self.proxies[listen].port

    def run(self, command: str, timeout: float = 30) -> tuple:
        """Runs a command in the target's guest: (status, output)."""
        return self.vm.run(command, timeout)

    # -- configfs --------------------------------------------------------------

    @property
    def subsystem(self) -> str:
        """The subsystem's configfs folder in the guest."""
        return f"{NVMET}/subsystems/{self.nqn}"

    def configure(self) -> None:
        """Sets everything up in a freshly booted guest."""
        lines = [f"modprobe {module}" for module in MODULES]
        lines.append("mount -t configfs config /sys/kernel/config")
        lines += self._subsystem_lines()
        for ns in self.namespaces:
            lines += self._namespace_lines(ns)
        for port in self.listen:
            lines += self._port_lines(port) + [self._link_line(port)]
        self.vm.check(_script(lines), timeout=60)

    def _subsystem_lines(self) -> list:
        here = self.subsystem
        attributes = {"serial": self.serial, "model": self.model,
                      "allow_any_host": int(not self.hosts), **self.attributes}
        lines = [f"mkdir {here}"]
        lines += [f"echo '{value}' >{here}/attr_{name}" for name, value in attributes.items()]
        for host in self.hosts:
            lines += [f"mkdir -p {NVMET}/hosts/{host}",
                      f"ln -s {NVMET}/hosts/{host} {here}/allowed_hosts/{host}"]
        return lines

    def _namespace_lines(self, ns: Namespace) -> list:
        here = f"{self.subsystem}/namespaces/{ns.nsid}"
        ns.uuid = ns.uuid or str(uuid.uuid4())
        lines = [] if ns.path else _ram_disk(ns)
        lines += [f"mkdir {here}", f"echo {ns.uuid} >{here}/device_uuid",
                  f"echo {ns.path or f'/dev/ram{ns.nsid}'} >{here}/device_path"]
        if ns.nguid:
            lines.append(f"echo {ns.nguid} >{here}/device_nguid")
        return [*lines, f"echo 1 >{here}/enable"]

    def _port_lines(self, port: int) -> list:
        here = f"{NVMET}/ports/{port}"
        settings = {"addr_trtype": "tcp", "addr_adrfam": "ipv4", "addr_traddr": "0.0.0.0",
                    "addr_trsvcid": port, "param_inline_data_size": self.inline_data_bytes}
        return [f"mkdir {here}"] + [f"echo {v} >{here}/{k}" for k, v in settings.items()]

    def _link_line(self, port: int) -> str:
        return f"ln -s {self.subsystem} {NVMET}/ports/{port}/subsystems/{self.nqn}"

    def unlink(self, listen: int = 0) -> None:
        """Takes the subsystem off a port: connections end, new ones are refused."""
        port = listen or self.listen[0]
        self.vm.check(f"rm {NVMET}/ports/{port}/subsystems/{self.nqn}")

    def link(self, listen: int = 0) -> None:
        """Puts the subsystem back on a port and waits until it answers."""
        port = listen or self.listen[0]
        self.vm.check(self._link_line(port))
        wait_target(self.addr, self.vm.port(port))

    def add_namespace(self, ns: Namespace) -> None:
        """Adds a namespace while hosts are connected; they get an event."""
        self.namespaces.append(ns)
        self.vm.check(_script(self._namespace_lines(ns)))

    def enable_namespace(self, nsid: int, enable: bool = True) -> None:
        """Makes a namespace appear or disappear; hosts get an event."""
        self.vm.check(f"echo {int(enable)} >{self.subsystem}/namespaces/{nsid}/enable")

    def hold_next_write(self, tag: str) -> None:
        """The guest's disk (image) takes the next write and does not carry it out before release(tag); others pass it."""
        self._image_command(f"break write_aio {tag}")

    def release(self, tag: str) -> None:
        """The write that was held under this tag reaches the file."""
        self._image_command(f"resume {tag}")

    def writes_in_flight(self) -> int:
        """How many the guest's disk has taken and not completed."""
        return int(self.vm.check("cat /sys/block/vda/inflight").split()[1])

    def _image_command(self, command: str) -> None:
        said = self.vm.qmp.command("human-monitor-command", command_line=f'qemu-io image "{command}"')
        if said.strip():
            raise GuestError(f"nvmet: {command}: {said}")

    def serve_image(self, nqn: str, nsids: tuple, listen: int = 0) -> None:
        """One more subsystem, for any host: each namespace is the whole of the image."""
        here, port = f"{NVMET}/subsystems/{nqn}", listen or self.listen[0]
        lines = [f"mkdir {here}", f"echo 1 >{here}/attr_allow_any_host"]
        for nsid in nsids:
            lines += [f"mkdir {here}/namespaces/{nsid}", f"echo /dev/vda >{here}/namespaces/{nsid}/device_path",
                      f"echo 1 >{here}/namespaces/{nsid}/enable"]
        self.vm.check(_script([*lines, f"ln -s {here} {NVMET}/ports/{port}/subsystems/{nqn}"]))

    def pause(self) -> None:
        """Freezes the target: connections stay open and silent."""
        self.vm.pause()

    def resume(self) -> None:
        """Ends pause()."""
        self.vm.resume()
