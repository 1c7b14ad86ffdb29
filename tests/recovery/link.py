# SPDX-License-Identifier: BSD-3-Clause
"""A network link that can be dropped: a veth pair between two network namespaces, which end with this process. Needs root.

    with Link() as link:
        Target(folder, netns=link.far)      # listens at FAR
        link.drop()"""
import ctypes
import signal
import subprocess

NEAR, FAR = "192.0.2.1", "192.0.2.2"    # TEST-NET-1: nobody's, and in namespaces of our own


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Link:
    def __enter__(self):
        self.holders = []
        try:
            self.near, self.far = self._namespace(), self._namespace()
            self._ip(self.near, "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(self.holders[1].pid))
            for netns, name, addr in ((self.near, "near", NEAR), (self.far, "far", FAR)):
                self._ip(netns, "address", "add", f"{addr}/24", "dev", name)
                self._ip(netns, "link", "set", name, "up")
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        for holder in self.holders:
            holder.kill()
            holder.wait()

    def _namespace(self):
        """Lives as long as a process in it. Returns its path."""
        holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True,
                                  preexec_fn=die_with_parent)
        self.holders.append(holder)
        assert holder.stdout.readline() == b"up\n", "no network namespace"
        return f"/proc/{holder.pid}/ns/net"

    @staticmethod
    def _ip(netns, *args):
        subprocess.run(["nsenter", f"--net={netns}", "ip", *args], check=True)

    def drop(self):
        """What is sent is lost from now on: the near side sees no carrier, and no error."""
        self._ip(self.far, "link", "set", "far", "down")

    def restore(self):
        self._ip(self.far, "link", "set", "far", "up")
