# SPDX-License-Identifier: BSD-3-Clause
"""What the recovery tests share: a Snap whose programs can be replaced by test builds, and snap_perf running on."""
import json
import mmap
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from snap import Snap, program, tail

TOPOLOGY = {"NVME_EMULATION_ENABLE": "True", "NVME_EMULATION_NUM_PF": 3, "NVME_EMULATION_NUM_VF": 0,
            "NVME_EMULATION_MAX_QUEUE_DEPTH": 10, "VIRTIO_BLK_EMULATION_ENABLE": "False"}
MIB = 1 << 20


class RecoverySnap(Snap):
    """programs: {"snap_service": "snap_service_no_intent"} replaces a binary. The replacement may change between starts."""

    def __init__(self, tmpdir, programs=None, topology=None, **kw):
        self.programs = dict(programs or {})
        super().__init__(tmpdir, topology or TOPOLOGY, **kw)

    def _spawn(self, name, args, log):
        return super()._spawn(self.programs.get(name, name), args, log)

    def fleet(self, nvme, vblk, blocks=8192, block=512):
        """So many functions of each kind, PFs and VFs: even ones on files, odd ones on memory. Their disks are claimed and
        running; returns [(kind, ctrl_id, socket)], NVMe first."""
        disks = []
        for kind, count in (("NVME", nvme), ("VBLK", vblk)):
            for i, function in enumerate(self.functions(kind)[:count]):
                name, vuid = f"{kind.capitalize()}{i}", function["vuid"]
                if i % 2 == 0:
                    self.slow_bdev(name, Path(self.tmpdir) / f"{name}.img", blocks * block, block)
                else:
                    self.rpc("bdev_malloc_create", name=name, block_size=block, num_blocks=blocks)
                ctrl = f"Ctrl{name}"
                if kind == "NVME":
                    self.nvme_disk(bdev=name, nqn=f"nqn.2024-01.io.opensnap:{name}", vuid=vuid, ctrl_id=ctrl)
                    socket_path = self.vfio_socket(vuid)
                else:
                    self.rpc("virtio_blk_controller_create", vuid=vuid, ctrl_id=ctrl, bdev=name, num_queues=4)
                    socket_path = self.vhost_socket(vuid)
                self.wait_listens(socket_path)
                disks.append((kind, ctrl, socket_path))
        return disks

    def slow_bdev(self, name, path, size, block=512):
        """Whose requests stay in flight for a while: a file, preallocated, with O_DIRECT. Under an emulator, which has no
        io_uring, memory with a delay on it. Returns the file's path or None."""
        if os.environ.get("EMULATED"):
            self.rpc("bdev_malloc_create", name=f"{name}Base", block_size=block, num_blocks=size // block)
            latency = {f"{kind}_{op}_latency": 5000 for kind in ("avg", "p99") for op in ("read", "write")}
            self.rpc("bdev_delay_create", name=name, base_bdev_name=f"{name}Base", **latency)
            return None
        with open(path, "wb") as f:
            for at in range(0, size, MIB):
                f.write(bytes(min(MIB, size - at)))
        self.rpc("bdev_uring_create", name=name, filename=str(path), block_size=block)
        return path

    def file_disk(self, pf=0, size=64 * MIB, block=512, name=None):
        """A disk on a slow_bdev(). Returns the file's path, if it has one."""
        name = name or f"File{pf}"
        path = self.slow_bdev(name, Path(self.tmpdir) / f"disk{pf}.img", size, block)
        self.nvme_disk(bdev=name, nqn=f"nqn.2024-01.io.opensnap:r{pf}", pf_id=pf, ctrl_id=f"Ctrl{pf}")
        self.wait_accepts(pf)
        return path

    def malloc_disk(self, pf=1, blocks=8192, block=512):
        self.rpc("bdev_malloc_create", name=f"Malloc{pf}", block_size=block, num_blocks=blocks)
        self.nvme_disk(bdev=f"Malloc{pf}", nqn=f"nqn.2024-01.io.opensnap:r{pf}", pf_id=pf, ctrl_id=f"Ctrl{pf}")
        self.wait_accepts(pf)

    def socket_of(self, pf):
        return self.vfio_socket(self.functions()[pf]["vuid"])

    def wait_accepts(self, pf):
        self.wait_listens(self.socket_of(pf))

    def wait_listens(self, path):
        """A new controller's socket accepts clients a moment after the RPC's answer."""
        deadline = time.monotonic() + 5
        while True:
            with socket.socket(socket.AF_UNIX) as s:
                try:
                    s.connect(str(path))
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline, "the function takes no client"
            time.sleep(0.005)
        time.sleep(0.05)  # one client at a time: let it notice that this one is gone

    def counters(self, ctrl):
        kind = "virtio_blk" if ctrl.startswith("CtrlVblk") else "nvme"
        return self.rpc(f"{kind}_controller_dbg_io_stats_get", ctrl_id=ctrl)

    def recovery(self, ctrl):
        return self.counters(ctrl)["recovery"]

    def wait_started(self, ctrl, seconds=15):
        """Until the controller serves its function again."""
        deadline = time.monotonic() + seconds
        while True:
            state = next((c["state"] for c in self.rpc("nvme_controller_list") if c["ctrl_id"] == ctrl), None)
            if state == "STARTED":
                return
            if time.monotonic() > deadline or (state or "").startswith("FAILED"):
                raise AssertionError(f"{ctrl} is {state}")
            time.sleep(0.01)


class Noise:
    """Other programs' reads keep the disk busy, so that requests stay in flight for a while."""

    def __init__(self, path, threads=12):
        self.stopping = False
        self.threads = [threading.Thread(target=self.run, args=(path, i, threads), daemon=True) for i in range(threads)]
        for t in self.threads:
            t.start()

    def run(self, path, i, threads):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, 2 * MIB)
        size = os.fstat(fd).st_size
        offset = size // threads * i // MIB * MIB
        while not self.stopping:
            os.preadv(fd, [buffer], offset)
            offset = (offset + 2 * MIB) % size
        os.close(fd)

    def stop(self):
        self.stopping = True
        for t in self.threads:
            t.join()


class Load:
    """snap_perf in the background, verifying: one disk, or several ("SOCKET,setting,...")."""

    def __init__(self, sockets, directory, name="load", depth=32, bs="4k", blocks=2048, missing=20, extra=()):
        self.log = Path(directory) / f"{name}.log"
        self.err = open(self.log, "wb")
        self.verdict = None
        sockets = sockets if isinstance(sockets, list) else [sockets]
        self.process = subprocess.Popen(
            [program("snap_perf"), *(word for s in sockets for word in ("--socket", str(s))), "--rw", "randrw", "--bs", str(bs), "--align", "512", "--depth",
             str(depth), "--range", str(blocks), "--verify", "--runtime", "36000", "--missing-after", str(missing),
             "--stop-on-error", "--status", "0.02", "--json", *map(str, extra)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.err)

    def status(self):
        """The newest status line, or {}."""
        with open(self.log, "rb") as f:
            f.seek(0, 2)
            f.seek(max(0, f.tell() - 4096))
            lines = f.read().decode(errors="replace").splitlines()
        for line in reversed(lines):
            if line.startswith('{"status"') and line.endswith("}"):
                return json.loads(line)
        return {}

    def ended(self):
        return self.process.poll() is not None

    def completed(self):
        return self.status().get("completed", 0)

    def wait_progress(self, commands, seconds):
        """True when so many more commands have completed in the main phase; False when it ended or stood still."""
        deadline = time.monotonic() + seconds
        start = None
        while time.monotonic() < deadline:
            if self.ended():
                return False
            s = self.status()
            if s.get("status") == "main":
                start = s["completed"] if start is None else start
                if s["completed"] >= start + commands:
                    return True
            time.sleep(0.005)
        return False

    def stop(self, seconds=60):
        """Ends it; the result as a dictionary ("errors_by_kind", ...)."""
        if self.verdict is None:
            if not self.ended():
                self.process.send_signal(signal.SIGINT)
            try:
                out = self.process.communicate(timeout=seconds)[0]
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.communicate()
                raise AssertionError(f"snap_perf hung:\n{tail(self.log)}") from None
            finally:
                self.err.close()
            try:
                self.verdict = json.loads(out)
            except ValueError:
                raise AssertionError(f"snap_perf exit {self.process.returncode}:\n{tail(self.log)}") from None
            self.verdict["exit"] = self.process.returncode
        return self.verdict

    def kill(self):
        if not self.ended():
            self.process.kill()
        self.process.communicate()
        self.err.close()

    def errors(self):
        return "\n".join(line for line in self.log.read_text(errors="replace").splitlines() if "ERROR" in line)
