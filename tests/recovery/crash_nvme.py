# SPDX-License-Identifier: BSD-3-Clause
"""What is done to an NVMe function when the service dies at a point, by situation, and what must be so afterwards."""
import contextlib
import struct
import time

from crash_calls import Calls
from snap import RpcError
from vfio_user import Disconnected
from nvme import (ASYNC_EVENT, CC, CC_ENABLE, CFS, CREATE_CQ, CREATE_SQ, CSTS, DELETE_CQ, DELETE_SQ, DOORBELL_BUFFER, DOORBELLS,
                  GET_FEATURES, GET_LOG_PAGE, RDY, READ, SET_FEATURES, Nvme, pattern, sqe)

CHANGED_NS = 4  # log page
ENTRIES = 16


class NvmeEffects(Calls):
    """pf 0: Ctrl0 with a host of our own; namespace 1 in memory, namespace 2 on a slow disk. pf 1 and 2 for calls."""
    KIND = "nvme"

    def __init__(self, snap):
        super().__init__(snap)
        snap.malloc_disk(0)
        self.nqn = "nqn.2024-01.io.opensnap:r0"
        snap.rpc("bdev_malloc_create", name="Base", block_size=512, num_blocks=4096)
        latency = {f"{kind}_{op}_latency": 200000 for kind in ("avg", "p99") for op in ("read", "write")}
        snap.rpc("bdev_delay_create", name="Slow", base_bdev_name="Base", **latency)
        snap.rpc("nvme_namespace_create", nqn=self.nqn, bdev_name="Slow", nsid=2)
        snap.rpc("nvme_controller_attach_ns", ctrl_id="Ctrl0", nsid=2)
        snap.rpc("nvme_namespace_create", nqn=self.nqn, bdev_name=self.file(), nsid=4)
        snap.rpc("nvme_controller_attach_ns", ctrl_id="Ctrl0", nsid=4)
        snap.rpc("bdev_null_create", name="Null3", block_size=512, num_blocks=2048)
        snap.rpc("nvme_namespace_create", nqn=self.nqn, bdev_name="Null3", nsid=3)
        self.open()

    def open(self):
        with contextlib.suppress(RpcError):  # left behind by a failure
            self.snap.rpc("nvme_controller_detach_ns", ctrl_id="Ctrl0", nsid=3)
        deadline = time.monotonic() + 5
        while True:  # the last client may take a moment to be gone
            try:
                self.n = Nvme(self.snap.socket_of(0))
                break
            except (OSError, Disconnected):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        self.n.write(0, pattern(1, 4096))
        self.rings = {}

    def close(self):
        self.n.close()

    def check(self):
        """After each point: the disk works, nothing came twice, CSTS is as it should be."""
        n = self.n
        assert n.read(0, 8) == pattern(1, 4096)
        n.admin.poll()
        assert not n.admin.unexpected and not n.io[1].unexpected, (n.admin.unexpected, n.io[1].unexpected)
        assert n.reg(CSTS) & (RDY | CFS) == RDY

    # ---- queues ----
    def pair(self, qid):
        """Its memory is used again."""
        if qid not in self.rings:
            from nvme import QueuePair
            self.rings[qid] = QueuePair(self.n, qid, ENTRIES, 1)
        self.rings[qid].clear()
        return self.rings[qid]

    def create_cq(self, qid):
        return sqe(CREATE_CQ, prp1=self.pair(qid).cq, cdw10=ENTRIES - 1 << 16 | qid, cdw11=1 << 16 | 3)

    def create_sq(self, qid):
        return sqe(CREATE_SQ, prp1=self.rings[qid].sq, cdw10=ENTRIES - 1 << 16 | qid, cdw11=qid << 16 | 1)

    def ok(self, command):
        cqe = self.n.admin.run(command)
        assert cqe.status == "SUCCESS", cqe

    def interrupted(self, point, command, passes=1):
        """An admin command during which the service dies: it succeeds, once."""
        with self.snap.dying(point.name, passes):
            cid = self.n.admin.submit(command)
        cqe = self.n.admin.wait(cid)
        assert cqe.status == "SUCCESS", f"{point.name}: {cqe}"
        return cqe

    def queue(self, qid):
        self.ok(self.create_cq(qid))
        self.ok(self.create_sq(qid))
        self.n.io[qid] = self.rings[qid]

    def drop_queue(self, qid):
        self.ok(sqe(DELETE_SQ, cdw10=qid))
        self.ok(sqe(DELETE_CQ, cdw10=qid))
        self.n.io.pop(qid, None)

    def works_on(self, qid):
        self.n.io[qid] = self.rings[qid]
        assert self.n.read(0, 8, qid=qid) == pattern(1, 4096)

    def first_io(self, point):
        self.queue(2)
        with self.snap.dying(point.name):
            cid = self.n.io[2].submit(self.n.rw(READ, 0, 1, self.n.page))
        assert self.n.io[2].wait(cid).status == "SUCCESS"
        self.drop_queue(2)

    def create_io_cq(self, point):
        command = self.create_cq(2)
        self.interrupted(point, command)
        assert self.n.admin.run(command).status == "QID_INVALID"  # it is there
        self.ok(self.create_sq(2))
        self.works_on(2)
        self.drop_queue(2)

    def create_io_sq(self, point):
        self.ok(self.create_cq(2))
        self.interrupted(point, self.create_sq(2))
        self.works_on(2)
        assert self.n.admin.run(self.create_sq(2)).status == "QID_INVALID"
        self.drop_queue(2)

    def delete_io_sq(self, point):
        self.queue(2)
        q = self.n.io[2]
        for i in range(6):
            q.push(self.n.rw(READ, 8 * i, 1, self.n.page, nsid=2))
        q.ring()
        deadline = time.monotonic() + 5
        while self.snap.counters("Ctrl0")["in_flight"] < 6:
            assert time.monotonic() < deadline, "the commands are not fetched"
        self.interrupted(point, sqe(DELETE_SQ, cdw10=2))
        q.poll()
        # What was in flight is completed once, aborted or not.
        assert not q.unexpected and not q.outstanding, (q.unexpected, q.outstanding)
        assert {c.status for c in q.done.values()} <= {"SUCCESS", "ABORTED_SQ_DELETION"}
        assert self.n.admin.run(sqe(DELETE_SQ, cdw10=2)).status == "QID_INVALID"
        self.ok(sqe(DELETE_CQ, cdw10=2))
        self.queue(2)
        self.works_on(2)
        self.drop_queue(2)

    def delete_io_cq(self, point):
        self.ok(self.create_cq(2))
        self.interrupted(point, sqe(DELETE_CQ, cdw10=2))
        assert self.n.admin.run(sqe(DELETE_CQ, cdw10=2)).status == "QID_INVALID"

    # ---- features, doorbells ----
    def set_features(self, point):
        n = self.n
        for fid, value in ((4, 0x0155), (8, 0x0102), (9, 1 << 16 | 2), (0xb, 0x100)):
            self.interrupted(point, sqe(SET_FEATURES, cdw10=fid, cdw11=value))
            got = n.run_admin(GET_FEATURES, cdw10=fid, cdw11=value & 0xffff if fid == 9 else 0).dw0
            assert got == value, (fid, got)
            self.ok(sqe(SET_FEATURES, cdw10=fid, cdw11={4: 343, 9: 2}.get(fid, 0)))

    def timestamp(self, point):
        n = self.n
        n.memory.write(n.page, struct.pack("<Q", 5000000))
        self.interrupted(point, sqe(SET_FEATURES, cdw10=0xe, prp1=n.page))
        n.run_admin(GET_FEATURES, cdw10=0xe, prp1=n.page)
        value, = struct.unpack("<Q", n.memory.read(n.page, 8))
        assert 5000000 <= value & (1 << 48) - 1 < 5000000 + 60000 and value >> 49 & 7 == 1, hex(value)

    def doorbell_buffer(self, point):
        """The first time, and again while they are in use."""
        n = self.n
        if not hasattr(self, "pages"):
            self.pages = [(n.memory.alloc(4096), n.memory.alloc(4096)) for _ in range(2)]
        for shadow, event in self.pages:
            self.interrupted(point, sqe(DOORBELL_BUFFER, prp1=shadow, prp2=event))
            n.shadow, n.eventidx = shadow, event
            n.doorbell = self.shadow_doorbell
            for _ in range(3):  # most are not rung: the BAR knows less than the shadow
                cids = [n.io[1].submit(n.rw(READ, 0, 1, n.page)) for _ in range(9)]
                assert [n.io[1].wait(cid).status for cid in cids] == ["SUCCESS"] * 9
        self.enable_again()
        del n.doorbell

    def shadow_doorbell(self, index, value):
        """A host that rings only when its update steps over EventIdx."""
        n = self.n
        if index < 2 or n.shadow is None:
            Nvme.doorbell(n, index, value)
            return
        old, = struct.unpack("<I", n.memory.read(n.shadow + 4 * index, 4))
        n.memory.write(n.shadow + 4 * index, struct.pack("<I", value))
        event, = struct.unpack("<I", n.memory.read(n.eventidx + 4 * index, 4))
        if (value - event - 1) % 65536 < (value - old) % 65536:
            n.vc.write32(0, DOORBELLS + 4 * index, value, posted=n.posted)

    # ---- events ----
    def changed(self):
        """Reads the list of changed namespaces."""
        n = self.n
        self.ok(sqe(GET_LOG_PAGE, nsid=0xffffffff, prp1=n.page, cdw10=1023 << 16 | CHANGED_NS))
        return self.changed_page()

    def changed_page(self):
        return [nsid for nsid in struct.unpack("<1024I", self.n.memory.read(self.n.page, 4096)) if nsid]

    def no_event(self, aer):
        time.sleep(0.02)
        self.n.admin.poll()
        assert aer in self.n.admin.outstanding, f"an event came twice: {self.n.admin.done}"

    def await_event(self, aer):
        cqe = self.n.admin.wait(aer)
        assert cqe.status == "SUCCESS" and cqe.dw0 == CHANGED_NS << 16 | 2, cqe

    def abort_events(self):
        """Event requests end with the controller."""
        self.enable_again()

    def event(self, point):
        """A namespace comes: the host is told once, however often it asks, and finds it in the list."""
        n = self.n
        self.ok(sqe(SET_FEATURES, cdw10=0xb, cdw11=0x100))
        aer = n.admin.submit(sqe(ASYNC_EVENT))
        with self.snap.dying(point.name):
            self.snap.lost("nvme_controller_attach_ns", ctrl_id="Ctrl0", nsid=3)
        self.await_event(aer)
        aer = n.admin.submit(sqe(ASYNC_EVENT))
        self.no_event(aer)
        assert self.changed() == [3]
        self.no_event(aer)
        assert self.changed() == []
        self.snap.rpc("nvme_controller_detach_ns", ctrl_id="Ctrl0", nsid=3)
        self.await_event(aer)
        self.changed()
        self.abort_events()

    def log_page(self, point):
        """The list is read: the next change is told again."""
        n = self.n
        self.ok(sqe(SET_FEATURES, cdw10=0xb, cdw11=0x100))
        aer = n.admin.submit(sqe(ASYNC_EVENT))
        self.snap.rpc("nvme_controller_attach_ns", ctrl_id="Ctrl0", nsid=3)
        self.await_event(aer)
        aer = n.admin.submit(sqe(ASYNC_EVENT))
        self.interrupted(point, sqe(GET_LOG_PAGE, nsid=0xffffffff, prp1=n.page, cdw10=1023 << 16 | CHANGED_NS))
        assert self.changed_page() == [3]
        self.no_event(aer)
        self.snap.rpc("nvme_controller_detach_ns", ctrl_id="Ctrl0", nsid=3)
        self.await_event(aer)
        assert 3 in self.changed()
        self.abort_events()

    # ---- namespaces ----
    def shows(self, nsid):
        page = self.n.identify(2)
        return nsid in struct.unpack("<1024I", page)

    def namespace_attach(self, point):
        with self.snap.dying(point.name):
            self.snap.lost("nvme_controller_attach_ns", ctrl_id="Ctrl0", nsid=3)
        assert self.shows(3)  # saved first
        self.repeated("nvme_controller_attach_ns", True, ctrl_id="Ctrl0", nsid=3)
        self.snap.rpc("nvme_controller_detach_ns", ctrl_id="Ctrl0", nsid=3)

    def namespace_detach(self, point):
        self.snap.rpc("nvme_controller_attach_ns", ctrl_id="Ctrl0", nsid=3)
        with self.snap.dying(point.name):
            self.snap.lost("nvme_controller_detach_ns", ctrl_id="Ctrl0", nsid=3)
        self.repeated("nvme_controller_detach_ns", not self.shows(3), ctrl_id="Ctrl0", nsid=3)
        assert not self.shows(3)

    def resize(self, point):
        def blocks():
            return struct.unpack_from("<Q", self.n.identify(0, nsid=4))[0]
        before = blocks()
        self.changed()  # of other points
        self.ok(sqe(SET_FEATURES, cdw10=0xb, cdw11=0x100))
        aer = self.n.admin.submit(sqe(ASYNC_EVENT))
        self.grow()
        with self.snap.dying(point.name):
            self.snap.lost("bdev_uring_rescan", name="Grows")
        assert blocks() > before
        self.await_event(aer)
        listed = self.changed()
        assert listed == [4], listed
        self.abort_events()

    # ---- registers ----
    def begin_enable(self):
        """All but the last step."""
        n = self.n
        n.disable()
        n.admin.clear()
        n.set_reg(0x24, (n.admin.entries - 1) | (n.admin.entries - 1) << 16)
        for reg, value in ((0x28, n.admin.sq), (0x30, n.admin.cq)):
            n.set_reg(reg, value & 0xffffffff)
            n.set_reg(reg + 4, value >> 32)

    def after_enable(self):
        self.n.wait_csts(RDY | CFS, RDY)
        self.n.io[1] = self.pair(1)
        self.ok(self.create_cq(1))
        self.ok(self.create_sq(1))

    def enable_again(self):
        self.n.enable()
        self.after_enable()

    def enable(self, point):
        self.begin_enable()
        time.sleep(0.01)  # the writes before it are applied
        with self.snap.dying(point.name):
            self.n.set_reg(CC, CC_ENABLE)
        self.after_enable()

    register_write = enable

    def controller_reset(self, point):
        with self.snap.dying(point.name):
            self.n.set_reg(CC, 0)
        self.n.wait_csts(RDY | CFS, 0)
        assert self.n.reg(CC) == 0
        self.enable_again()

    def reset_function(self):
        n = self.n
        cap = n.vc.capability(0x10)
        n.vc.set_config16(cap + 8, 0x8000)

    def after_reset(self):
        n = self.n
        deadline = time.monotonic() + 10
        while n.vc.config32(0) == 0xffffffff:
            assert time.monotonic() < deadline, "the function stays in reset"
            time.sleep(0.002)
        assert n.reg(CC) == 0 and n.reg(CSTS) == 0, (n.reg(CC), n.reg(CSTS))
        n.setup_pci()
        self.enable_again()

    def function_reset(self, point):
        with self.snap.dying(point.name):
            self.reset_function()
        self.after_reset()

    def adoption_after_a_reset(self, point):
        self.snap.kill_service()
        self.reset_function()
        self.snap.start_dying(point.name)
        self.snap.start_service()
        self.after_reset()

    def shutdown(self, point):
        n = self.n
        with self.snap.dying(point.name):
            n.set_reg(CC, CC_ENABLE | 1 << 14)
        n.wait_csts(3 << 2, 2 << 2)
        self.enable_again()

    # ---- memory ----
    def memory_unmap(self, point):
        n = self.n
        n.vc.dma_map(1 << 40, 1 << 20, n.memory.fd, 0)
        time.sleep(0.01)
        with self.snap.dying(point.name):
            n.vc.dma_unmap(1 << 40, 1 << 20)

    # ---- controllers ----
    def create(self, pf, name):
        return "nvme_controller_create", {"nqn": self.nqn, "pf_id": pf, "ctrl_id": name}

    def controllers(self):
        return [c["ctrl_id"] for c in self.snap.rpc("nvme_controller_list")]

    def chain(self):
        """Calls that make and unmake everything a controller needs: (method, parameters, is there what it makes?)"""
        nqn, rpc = "nqn.2024-01.io.opensnap:chain", self.snap.rpc

        def subsystem():
            return any(s["nqn"] == nqn for s in rpc("nvme_subsystem_list"))

        def namespace():
            return subsystem() and any(n["nsid"] == 9 for n in rpc("nvme_namespace_list", nqn=nqn))

        def bdev():
            return any(b["name"] == "Null9" for b in rpc("bdev_get_bdevs"))

        def attached():
            return namespace() and any(n["controllers"] for n in rpc("nvme_namespace_list", nqn=nqn))

        def controller():
            return "Ctrl9" in self.controllers()

        def running():
            return any(c["ctrl_id"] == "Ctrl9" and c["state"] == "STARTED" for c in rpc("nvme_controller_list"))

        ctrl = {"ctrl_id": "Ctrl9"}
        return [("bdev_null_create", {"name": "Null9", "block_size": 512, "num_blocks": 64}, bdev, True),
                ("nvme_subsystem_create", {"nqn": nqn}, subsystem, True),
                ("nvme_namespace_create", {"nqn": nqn, "bdev_name": "Null9", "nsid": 9}, namespace, True),
                ("nvme_controller_create", {"nqn": nqn, "pf_id": 1, "suspended": True, **ctrl}, controller, True),
                ("nvme_controller_attach_ns", {"nsid": 9, **ctrl}, attached, True),
                ("nvme_controller_resume", ctrl, running, True),
                ("nvme_controller_suspend", ctrl, running, False),
                ("nvme_controller_detach_ns", {"nsid": 9, **ctrl}, attached, False),
                ("nvme_controller_destroy", ctrl, controller, False),
                ("nvme_namespace_destroy", {"nqn": nqn, "nsid": 9}, namespace, False),
                ("nvme_subsystem_destroy", {"nqn": nqn}, subsystem, False),
                ("bdev_null_delete", {"name": "Null9"}, bdev, False)]

    def keep(self, bdev, write):
        """Writes to a disk, or finds it empty."""
        n, snap = self.n, self.snap
        snap.rpc("nvme_namespace_create", nqn=self.nqn, bdev_name=bdev, nsid=5)
        snap.rpc("nvme_controller_attach_ns", ctrl_id="Ctrl0", nsid=5)
        n.memory.write(n.page, b"\x5a" * 512)
        cqe = n.io[1].run(n.rw(1 if write else READ, 0, 1, n.page, nsid=5))
        assert cqe.status == "SUCCESS", cqe
        assert write or n.memory.read(n.page, 512) == bytes(512), "the deleted disk's contents are there"
        snap.rpc("nvme_controller_detach_ns", ctrl_id="Ctrl0", nsid=5)
        snap.rpc("nvme_namespace_destroy", nqn=self.nqn, nsid=5)
