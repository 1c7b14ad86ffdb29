# SPDX-License-Identifier: BSD-3-Clause
"""What is done to a virtio-blk function when the service dies at a point, by situation, and what must be so afterwards."""
import threading
import time

import vhost_user as vu
from crash_calls import Calls
from virtio_blk import IN, OK, OUT, WRITEBACK_OFFSET, VirtioBlk, connect_soon, pattern


class VblkEffects(Calls):
    """pf 0: Ctrl0 with a front end of our own. pf 1 and 2 for calls."""
    KIND, PACKED = "vblk", False

    def __init__(self, snap):
        super().__init__(snap)
        self.functions = [f["vuid"] for f in snap.functions("VBLK")]
        snap.rpc("bdev_malloc_create", name="Disk", block_size=512, num_blocks=8192)
        snap.rpc("virtio_blk_controller_create", vuid=self.functions[0], ctrl_id="Ctrl0", bdev="Disk", num_queues=2)
        self.file()
        snap.wait_listens(snap.vhost_socket(self.functions[0]))
        self.laps = 0
        self.open()

    def open(self, inflight=True):
        path = self.snap.vhost_socket(self.functions[0])
        connect_soon(path).close()
        time.sleep(0.02)
        self.h = VirtioBlk(path, packed=self.PACKED, inflight=inflight)
        self.h.vc.open_channel()
        self.h.write(0, pattern(1, 4096))

    def close(self):
        self.h.close()

    def check(self):
        h = self.h
        assert h.read(0, 8) == pattern(1, 4096)
        assert not h.vc.status() & vu.NEEDS_RESET
        assert h.rings[0].quiet(0.002)

    # ---- rings ----
    def first_io(self, point):
        h = self.h
        h.stop()
        h.restart()
        request = h.make(IN, 0, in_bytes=512)
        with self.snap.dying(point.name):
            ident = h.submit(request)
        h.rings[0].wait(ident)
        assert request.status == OK

    def ring_start(self, point):
        h = self.h
        h.stop()
        with self.snap.dying(point.name):
            h.restart()

    def pause(self):
        """As QEMU when its VM is stopped: the rings stay what they are. Returns their bases."""
        h = self.h
        for i in range(len(h.rings)):
            h.vc.enable(i, 0)
        return [h.vc.get_base(i, timeout=20) for i in range(len(h.rings))]

    def go_on(self, bases):
        h = self.h
        if h.area:
            h.vc.set_inflight(h.area)
        for i, base in enumerate(bases):
            h.start_ring(i, base)
        h.enable()

    def ring_stop(self, point):
        """With and without an in-flight area: nothing that was completed before is done again after it."""
        for inflight in (True, False):
            self.close()
            self.open(inflight)
            h = self.h
            for i in range(5):
                h.write(64, pattern(100 + i, 512))
            h.write(65, pattern(7, 512))
            bases = []
            stop = threading.Thread(target=lambda: bases.extend(self.pause()))
            with self.snap.dying(point.name):
                stop.start()
            stop.join(20)
            if not inflight:  # else the area tells
                assert bases == [h.rings[0].position() if self.PACKED else h.rings[0].avail_idx], bases
            self.go_on(bases)
            assert h.read(65, 1) == pattern(7, 512)
            assert h.read(64, 1) == pattern(104, 512)
            assert h.rings[0].quiet(0.01)
        self.close()
        self.open()

    def reset(self):
        self.h.vc.set_status(0)

    def function_reset(self, point):
        h = self.h
        for i in range(len(h.rings)):
            h.vc.enable(i, 0)
            h.vc.get_base(i)
        with self.snap.dying(point.name):
            self.reset()
        h.restart()

    def adoption_after_a_reset(self, point):
        h = self.h
        self.snap.kill_service()
        for i in range(len(h.rings)):
            h.vc.enable(i, 0)
            h.vc.get_base(i)
        self.reset()
        self.snap.start_dying(point.name)
        self.snap.start_service()
        h.restart()

    # ---- configuration ----
    def register_write(self, point):
        h = self.h
        for value in (0, 1):
            with self.snap.dying(point.name):
                h.vc.set_config(WRITEBACK_OFFSET, bytes([value]))
            assert h.config()["writeback"] == value

    def told(self, capacity):
        """The host hears of it, at least once, and reads the new capacity."""
        h = self.h
        deadline = time.monotonic() + 5
        while h.config()["capacity"] != capacity:
            assert time.monotonic() < deadline, (h.config()["capacity"], capacity)
            time.sleep(0.005)
        h.vc.config_change()
        self.forget_changes()

    def forget_changes(self):
        while not self.h.vc.channel.silent(0.01):
            self.h.vc.config_change()

    def bdev_attach(self, point):
        rpc = self.snap.rpc
        rpc("virtio_blk_controller_bdev_detach", ctrl_id="Ctrl0")
        self.forget_changes()
        params = {"ctrl_id": "Ctrl0", "bdev": "Disk", "vblk_id": f"serial {self.laps}"}
        self.laps += 1
        with self.snap.dying(point.name):
            self.snap.lost("virtio_blk_controller_bdev_attach", **params)
        self.told(8192)
        self.repeated("virtio_blk_controller_bdev_attach", True, **params)
        assert self.h.get_id().rstrip(b"\0").decode() == params["vblk_id"]

    def bdev_detach(self, point):
        with self.snap.dying(point.name):
            self.snap.lost("virtio_blk_controller_bdev_detach", ctrl_id="Ctrl0")
        # Saved last: it has not happened.
        assert self.h.config()["capacity"] == 8192
        self.check()
        self.repeated("virtio_blk_controller_bdev_detach", False, ctrl_id="Ctrl0")
        assert self.h.config()["capacity"] == 0
        self.snap.rpc("virtio_blk_controller_bdev_attach", ctrl_id="Ctrl0", bdev="Disk")
        self.forget_changes()

    def resize(self, point):
        rpc = self.snap.rpc
        rpc("virtio_blk_controller_bdev_detach", ctrl_id="Ctrl0")
        rpc("virtio_blk_controller_bdev_attach", ctrl_id="Ctrl0", bdev="Grows")
        self.forget_changes()
        before = self.h.config()["capacity"]
        self.grow()
        with self.snap.dying(point.name):
            self.snap.lost("bdev_uring_rescan", name="Grows")
        self.told(before + 2048)
        rpc("virtio_blk_controller_bdev_detach", ctrl_id="Ctrl0")
        rpc("virtio_blk_controller_bdev_attach", ctrl_id="Ctrl0", bdev="Disk")
        self.forget_changes()

    # ---- memory ----
    def memory_unmap(self, point):
        h = self.h
        h.vc.add_mem(1 << 40, 1 << 20, h.memory.fd)
        time.sleep(0.01)
        with self.snap.dying(point.name):
            h.vc.rem_mem(1 << 40, 1 << 20)

    # ---- controllers ----
    def create(self, pf, name):
        return "virtio_blk_controller_create", {"vuid": self.functions[pf], "ctrl_id": name}

    def controllers(self):
        return [c["ctrl_id"] for c in self.snap.rpc("virtio_blk_controller_list")]

    def chain(self):
        """Calls that make and unmake everything a controller needs: (method, parameters, is there what it makes?)"""
        rpc = self.snap.rpc

        def ctrl():
            return next((c for c in rpc("virtio_blk_controller_list") if c["ctrl_id"] == "Ctrl9"), {})

        def bdev():
            return any(b["name"] == "Null9" for b in rpc("bdev_get_bdevs"))

        def attached():
            return ctrl().get("bdev") == "Null9"

        def running():
            return ctrl().get("state") == "STARTED"

        def there():
            return bool(ctrl())

        name = {"ctrl_id": "Ctrl9"}
        return [("bdev_null_create", {"name": "Null9", "block_size": 512, "num_blocks": 64}, bdev, True),
                ("virtio_blk_controller_create", {"vuid": self.functions[1], "suspended": True, **name}, there, True),
                ("virtio_blk_controller_bdev_attach", {"bdev": "Null9", **name}, attached, True),
                ("virtio_blk_controller_resume", name, running, True),
                ("virtio_blk_controller_suspend", name, running, False),
                ("virtio_blk_controller_bdev_detach", name, attached, False),
                ("virtio_blk_controller_destroy", name, there, False),
                ("bdev_null_delete", {"name": "Null9"}, bdev, False)]

    def keep(self, bdev, write):
        """Writes to a disk, or finds it empty."""
        h, rpc = self.h, self.snap.rpc
        rpc("virtio_blk_controller_bdev_detach", ctrl_id="Ctrl0")
        rpc("virtio_blk_controller_bdev_attach", ctrl_id="Ctrl0", bdev=bdev)
        if write:
            assert h.run(OUT, 0, b"\x5a" * 512)[0] == OK
        else:
            assert h.read(0, 1) == bytes(512), "the deleted disk's contents are there"
        rpc("virtio_blk_controller_bdev_detach", ctrl_id="Ctrl0")
        rpc("virtio_blk_controller_bdev_attach", ctrl_id="Ctrl0", bdev="Disk")
        self.forget_changes()


class PackedEffects(VblkEffects):
    PACKED = True
