# SPDX-License-Identifier: BSD-3-Clause
"""A snap_target with subsystems: each has a memory disk as namespace 1."""
import os
import time

from snap import RpcError
from target import Target

BLOCKS = 4096  # of 512 bytes


class Disks(Target):
    """Subsystem "disk" is there from the beginning; all are reached at one port."""

    def __init__(self, directory, **transport):
        super().__init__(directory, args=["-m", "3"])
        self.port = 0
        try:
            self.rpc("nvmf_create_transport", trtype="TCP", **transport)
            self.subsystem("disk")
        except BaseException:
            self.print_logs()
            self.stop()
            raise

    def nqn(self, name):
        return f"nqn.2024-01.io.opensnap:{name}"

    def listen(self, nqn, port=None, **how):
        """Returns the port."""
        self.rpc("nvmf_subsystem_add_listener", nqn=nqn, listen_address=self.address(port or 0), **how)
        return int(self.get(nqn)["listen_addresses"][-1]["trsvcid"])

    def address(self, port=None):
        return {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(self.port if port is None else port)}

    def get(self, nqn):
        return self.rpc("nvmf_get_subsystems", nqn=nqn)[0]

    def controllers(self, nqn):
        return self.rpc("nvmf_subsystem_get_controllers", nqn=nqn)

    def subsystem(self, name, blocks=BLOCKS, block_size=512, allow_any_host=True, **how):
        """Returns its NQN."""
        nqn = self.nqn(name)
        self.rpc("nvmf_create_subsystem", nqn=nqn, allow_any_host=allow_any_host, **how)
        if blocks:
            self.rpc("bdev_malloc_create", name=f"M-{name}", block_size=block_size, num_blocks=blocks)
            self.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": f"M-{name}"})
        self.port = self.listen(nqn, self.port)
        return nqn

    def delete(self, name):
        """With its disk, if it is still there."""
        for method, params in (("nvmf_delete_subsystem", {"nqn": self.nqn(name)}), ("bdev_malloc_delete", {"name": f"M-{name}"})):
            try:
                self.rpc(method, **params)
            except RpcError as e:
                if e.code != -32602 and e.code not in (-19, -2):
                    raise

    # ---- what the process holds ----

    def fds(self):
        return len(os.listdir(f"/proc/{self.target.pid}/fd"))

    def sockets(self):
        directory, n = f"/proc/{self.target.pid}/fd", 0
        for fd in os.listdir(directory):
            try:
                n += os.readlink(f"{directory}/{fd}").startswith("socket:")
            except FileNotFoundError:
                pass
        return n

    def quiet_sockets(self):
        """When connections of earlier tests have been closed."""
        last, since = self.sockets(), time.monotonic()
        while time.monotonic() < since + 0.5:
            time.sleep(0.005)
            if self.sockets() != last:
                last, since = self.sockets(), time.monotonic()
        return last

    def no_more_sockets(self, before, seconds=60):
        deadline = time.monotonic() + seconds
        while self.sockets() > before:
            assert time.monotonic() < deadline, f"{self.sockets()} sockets, {before} before"
            time.sleep(0.01)

    def rss_bytes(self):
        with open(f"/proc/{self.target.pid}/statm", encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def settles(self, what, seconds=60):
        """Waits for what() to be true: what the target does on its other threads."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, what
            time.sleep(0.005)
