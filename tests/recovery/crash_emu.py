# SPDX-License-Identifier: BSD-3-Clause
"""What is done when snap_emu dies at a point of its own. State memory and what it kept die with it, and the service ends. A
vhost-user front end comes back with its in-flight area; of a vfio-user client the device is lost, and a new one finds the disk."""
import contextlib
import threading
import time

from crash_walk import points
from nvme import Nvme
from snap import RpcError
from virtio_blk import VirtioBlk, pattern


class EmuDeaths:
    """Function 0 of the kind is for a load or client, function 1 for a host that stops and resets, function 2 for calls."""

    def __init__(self, snap, kind):
        self.snap, self.kind = snap, kind
        self.disks = snap.fleet(*((2, 0) if kind == "nvme" else (0, 2)))
        self.vuid = snap.functions("NVME" if kind == "nvme" else "VBLK")[2]["vuid"]
        self.method = "nvme_controller_create" if kind == "nvme" else "virtio_blk_controller_create"
        self.ready()

    def points(self):
        """Rings are virtio-blk's."""
        return [p for p in points("emu") if self.kind == "vblk" or p.situation != "ring stop"]

    def ready(self):
        """A controller that may be destroyed."""
        extra = {"nqn": "nqn.2024-01.io.opensnap:Nvme0"} if self.kind == "nvme" else {}
        with contextlib.suppress(RpcError):
            self.snap.rpc(self.method, vuid=self.vuid, ctrl_id="Ctrl9", **extra)

    def walk(self, point):
        getattr(self, point.situation.replace(" ", "_"))(point.name)
        if self.snap.emu is None:
            self.snap.start_emu()
        if self.snap.service is None:
            self.snap.start_service()
        self.check()

    def check(self):
        """Every controller is there again and runs; the one for calls is made again when it was to go."""
        kind = "nvme" if self.kind == "nvme" else "virtio_blk"
        states = {c["ctrl_id"]: c["state"] for c in self.snap.rpc(f"{kind}_controller_list")}
        assert {states[ctrl] for _, ctrl, _ in self.disks} == {"STARTED"}, states
        self.ready()
        if self.kind == "nvme":
            path = self.disks[0][2]
            self.snap.wait_listens(path)
            with Nvme(path) as n:
                n.write(0, pattern(5, 4096))
                assert n.read(0, 8) == pattern(5, 4096)

    # ---- situations ----
    def hello(self, name):
        snap = self.snap
        snap.kill_service()
        snap.die_at(name)
        snap.spawn_service()
        snap.emu_dead(name)

    lease = hello

    def fence(self, name):
        self.snap.die_at(name)
        self.snap.kill_service()
        self.snap.emu_dead(name)

    def former_holder(self, name):
        snap = self.snap
        snap.kill_service()
        snap.kill_emu()
        snap.die_at(name)
        snap.spawn_emu()
        snap.emu_dead(name)

    def release(self, name):
        self.snap.die_at(name)
        self.snap.lost(self.method.replace("create", "destroy"), ctrl_id="Ctrl9")
        self.snap.emu_dead(name)

    def keep(self, name):
        self.snap.die_at(name)
        with contextlib.suppress(RpcError):
            self.snap.lost("bdev_malloc_create", name="Keep", block_size=512, num_blocks=64)
        self.snap.emu_dead(name)
        self.snap.start_emu()
        self.snap.start_service()
        self.snap.rpc("bdev_malloc_create", name="Keep", block_size=512, num_blocks=64)
        self.snap.rpc("bdev_malloc_delete", name="Keep")

    def ring_stop(self, name):
        """A VM that is paused while its front end's connection breaks: nothing old is done again when it goes on."""
        snap = self.snap
        for packed in (False, True):
            with VirtioBlk(self.disks[1][2], packed=packed) as h:
                for i in range(5):
                    h.write(64, pattern(100 + i, 512))
                snap.die_at(name)
                h.vc.enable(0, 0)
                threading.Thread(target=self.ask_base, args=(h,), daemon=True).start()
                snap.emu_dead(name)
                snap.start_emu()
                snap.start_service()
                time.sleep(0.02)
                snap.wait_listens(self.disks[1][2])
                h.reconnect([h.rings[0].position() if packed else h.rings[0].device_idx()])
                assert h.rings[0].quiet(0.01)
                h.works()

    @staticmethod
    def ask_base(h):
        with contextlib.suppress(Exception):
            h.vc.get_base(0)

    def reset(self, name):
        snap = self.snap
        path = self.disks[1][2]
        if self.kind == "nvme":
            with Nvme(path) as n:
                snap.die_at(name)
                n.vc.set_config16(n.vc.capability(0x10) + 8, 0x8000)
                snap.emu_dead(name)
        else:
            with VirtioBlk(path) as h:
                h.works()
                h.vc.enable(0, 0)
                h.vc.get_base(0)
                snap.die_at(name)
                threading.Thread(target=self.say_reset, args=(h,), daemon=True).start()
                snap.emu_dead(name)

    @staticmethod
    def say_reset(h):
        with contextlib.suppress(Exception):
            h.vc.set_status(0)
