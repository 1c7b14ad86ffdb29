# SPDX-License-Identifier: BSD-3-Clause
"""What both device kinds have in common when the service dies at a point: calls, journal, keepsakes, leases. A call whose
answer was lost has happened or has not, and its client can say it again."""
import signal

from snap import RpcError

SORRY = ("exist", "attached", "no ", "not ", "suspended", "already")  # words of an answer to a call that has happened already
MIB = 1 << 20
# Situations are methods, of the same name but for these.
OTHER_NAMES = {"RPC": "calls", "Set Features timestamp": "timestamp", "Doorbell Buffer Config": "doorbell_buffer"}


class Calls:
    KIND = None

    def __init__(self, snap):
        self.snap = snap

    def walk(self, point):
        """Does what reaches the point, then checks."""
        getattr(self, OTHER_NAMES.get(point.situation, point.situation.lower().replace("/", "").replace(" ", "_")))(point)
        self.check()

    def anew(self):
        """After a failure: a service and a host without a past."""
        if self.snap.service is None or self.snap.service.poll() is not None:
            self.snap.service = None
            self.snap.die_at()
            self.snap.start_service()
        self.close()
        self.open()

    # ---- disks ----
    def file(self):
        """A bdev that can grow."""
        self.path = self.snap.tmpdir / "grows.img"
        self.path.write_bytes(bytes(MIB))
        self.snap.rpc("bdev_uring_create", name="Grows", filename=str(self.path), block_size=512)
        return "Grows"

    def grow(self):
        with open(self.path, "ab") as f:
            f.truncate(f.tell() + MIB)

    # ---- calls ----
    def repeated(self, method, happened, **params):
        """What its client hears when it says it again."""
        try:
            self.snap.rpc(method, **params)
            return
        except RpcError as e:
            assert happened, f"{method} had not happened, and cannot: {e}"
            assert any(word in e.message for word in SORRY), f"{method} had happened: {e}"

    def calls(self, point):
        for method, params, is_there, made in self.chain():
            with self.snap.dying(point.name):
                answer = self.snap.lost(method, **params)
            happened = is_there() == made
            assert answer is None, f"{method} was answered before it was safe: {answer}"
            # Saved is what counts.
            assert happened == (point.name == "journal_appended"), f"{method} at {point.name}: happened: {happened}"
            self.repeated(method, happened, **params)
            assert is_there() == made, method

    def controller_destroy(self, point):
        method, params = self.create(1, "Ctrl8")
        self.snap.rpc(method, **params)
        with self.snap.dying(point.name):
            self.snap.lost(method.replace("create", "destroy"), ctrl_id="Ctrl8")
        self.repeated(method.replace("create", "destroy"), "Ctrl8" not in self.controllers(), ctrl_id="Ctrl8")
        assert "Ctrl8" not in self.controllers()
        self.snap.rpc(method, **params)  # the function is free
        self.snap.rpc(method.replace("create", "destroy"), ctrl_id="Ctrl8")

    def first_lease(self, point):
        method, params = self.create(2, "Ctrl7")
        with self.snap.dying(point.name):
            self.snap.lost(method, **params)
        assert "Ctrl7" not in self.controllers()
        self.snap.rpc(method, **params)
        self.snap.rpc(method.replace("create", "destroy"), ctrl_id="Ctrl7")

    # ---- journal ----
    def objects(self):
        return sorted(b["name"] for b in self.snap.rpc("bdev_get_bdevs"))

    def journal_sync(self, point):
        with self.snap.dying(point.name):
            self.snap.rpc("bdev_null_create", name="Null8", block_size=512, num_blocks=64)
        assert "Null8" in self.objects()  # it was answered
        self.snap.rpc("bdev_null_delete", name="Null8")

    def journal_compaction(self, point):
        """The file is written anew while calls go on: all that were answered are there."""
        wanted = set(self.objects())
        with self.snap.dying(point.name):
            try:
                with self.snap.client(15) as c:
                    for i in range(100000):
                        name = f"Null{'x' * 50}{i % 7}"
                        if name in wanted:
                            maybe = wanted - {name}
                            c.call("bdev_null_delete", {"name": name})
                        else:
                            maybe = wanted | {name}
                            c.call("bdev_null_create", {"name": name, "block_size": 512, "num_blocks": 64})
                        wanted = maybe
            except (OSError, EOFError):
                pass
        # The call that was under way has happened or has not.
        found = set(self.objects())
        assert found in (wanted, maybe), (found ^ wanted, found ^ maybe)
        for name in found:
            if name.startswith("Nullx"):
                self.snap.rpc("bdev_null_delete", name=name)

    def damaged_journal(self, point):
        before = self.objects()
        self.snap.kill_service()
        with open(self.snap.state_dir / "config.journal", "ab") as f:
            f.write(b"00000000 {\"half a li")
        self.snap.start_dying(point.name)
        self.snap.start_service()
        assert self.objects() == before

    def orderly_stop(self, point):
        before = self.objects()
        with self.snap.dying(point.name):
            self.snap.service.send_signal(signal.SIGTERM)
        assert self.objects() == before

    # ---- keepsakes ----
    def memory_disk_create(self, point):
        for blocks in (64, 128):  # the second time it was to be another one
            with self.snap.dying(point.name):
                self.snap.lost("bdev_malloc_create", name="Keep", block_size=512, num_blocks=blocks)
            assert "Keep" not in self.objects()
        self.snap.rpc("bdev_malloc_create", name="Keep", block_size=512, num_blocks=64)
        self.snap.rpc("bdev_malloc_delete", name="Keep")

    def memory_disk_delete(self, point):
        """A disk of the same name is an empty one."""
        self.snap.rpc("bdev_malloc_create", name="Keep", block_size=512, num_blocks=64)
        self.keep("Keep", True)
        with self.snap.dying(point.name):
            self.snap.lost("bdev_malloc_delete", name="Keep")
        gone = "Keep" not in self.objects()
        self.repeated("bdev_malloc_delete", gone, name="Keep")
        self.snap.rpc("bdev_malloc_create", name="Keep", block_size=512, num_blocks=64)
        self.keep("Keep", False)
        self.snap.rpc("bdev_malloc_delete", name="Keep")
