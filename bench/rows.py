# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: groups of rows that share a set-up.

A group is a generator function: it starts what it needs and yields rows. The driver runs the sides of a row in turn, so that
what the machine does to one it does to the others."""
import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import guest
import measure as m
from measure import BenchError
from row import Row, Run, once
from setups import cost, fill, load, memory, null, nvme, service, vblk


def nvme_null(seconds):
    """NVMe over vfio-user, null bdev: the cost of the device model alone."""
    with nvme(null) as (snap, sock, extra):
        for depth, goal in ((1, 1.15e6), (16, 3.5e6), (128, 4.6e6)):
            yield Row(f"NVMe, null, 4 KiB, depth {depth}", "IOPS", goal, {"ours": load(snap, sock, seconds, depth, extra=extra)})


def service_cost(seconds):
    """Time-stamp cycles of the service per command, null bdev: what its reactor was busy, by its own count."""
    for name, kind, goal in (("NVMe", nvme, 400), ("virtio-blk", vblk, 0)):
        with kind(null) as (snap, sock, extra):
            for depth in (1, 64):
                yield Row(f"{name}, null, 4 KiB, depth {depth}: service cost", "cycles", goal if depth == 64 else 0,
                          {"ours": cost(snap, sock, seconds, depth, extra)}, better="less")


def recovery_records(seconds):
    """Recovery records on against off: the same null disk served by a build that leaves them out."""
    for name, kind in (("NVMe", nvme), ("virtio-blk", vblk)):
        with kind(null) as (snap, sock, extra), kind(null, records=False) as (bare, bare_sock, _):
            for depth in (1, 16, 128):
                yield Row(f"{name}, null, 4 KiB, depth {depth}, records on against off", "IOPS", 0,
                          {"ours": load(snap, sock, seconds, depth, extra=extra),
                           "off": load(bare, bare_sock, seconds, depth, extra=extra)})


def vblk_null(seconds):
    """virtio-blk over vhost-user, null bdev, split and packed rings."""
    with vblk(null) as (snap, sock, extra):
        for ring in ("split", "packed"):
            for depth, goal in ((1, 1.1e6), (16, 3.8e6), (128, 4.2e6)):
                yield Row(f"virtio-blk {ring}, null, 4 KiB, depth {depth}", "IOPS", goal if ring == "split" else 0,
                          {"ours": load(snap, sock, seconds, depth, extra=("--ring", ring))})


def in_memory(seconds):
    """malloc bdev, every page of which is there: one copy."""
    for name, kind in (("NVMe", nvme), ("virtio-blk", vblk)):
        with kind(memory) as (snap, sock, extra):
            fill(snap, sock, extra)
            yield Row(f"{name}, malloc, 4 KiB, depth 64", "IOPS", 1.15e6, {"ours": load(snap, sock, seconds, 64, extra=extra)})
            yield Row(f"{name}, malloc, 128 KiB, depth 16", "GB/s", 8.5,
                      {"ours": load(snap, sock, seconds, 16, "128k", extra, unit="GB/s")})


@contextlib.contextmanager
def storage_daemon():
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = f"{folder}/s"
        process = subprocess.Popen(["taskset", "-c", str(m.SERVER_CPU), "qemu-storage-daemon", "--blockdev",
                                    f"null-co,node-name=disk,size={m.BLOCKS * 512},read-zeroes=off", "--export",
                                    f"vhost-user-blk,id=disk,node-name=disk,addr.type=unix,addr.path={path},writable=on"],
                                   stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while not os.path.exists(path):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError("qemu-storage-daemon did not start")
                time.sleep(0.02)
            yield process.pid, path
        finally:
            process.kill()
            process.wait()


def against_qemu(seconds):
    """The same libblkio client (qemu-img bench) on us and on qemu-storage-daemon. The client sleeps between completions."""
    with vblk(null) as (snap, sock, _), storage_daemon() as (pid, path):
        for depth, rate in ((1, 60_000), (16, 200_000), (128, 200_000)):
            def side(at, server, ios=int(rate * seconds), depth=depth):
                return Run(*m.img_bench(at, ios, depth, (server,)))
            yield Row(f"libblkio, null, 4 KiB, depth {depth}", "IOPS", 1.5,
                      {"ours": lambda side=side: side(sock, snap.service.pid),
                       "qemu-storage-daemon": lambda side=side: side(path, pid)}, goal_of="ratio")


def whole_path(seconds):
    """Client -> service -> NVMe/TCP -> snap_target (malloc). Service on one core; client and target share the other: the
    target sleeps when it has no work, and so does the client, but for depth 1, where it gives way while it polls."""
    nqn = "nqn.2026-01.org.example:bench"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, \
            m.Target(folder, args=("-m", m.CLIENT_MASK, "--poll-window-us", "0")) as target, service() as snap:
        target.rpc("bdev_malloc_create", name="Disk", block_size=512, num_blocks=m.BLOCKS)
        target.rpc("nvmf_create_transport", trtype="TCP")
        target.rpc("nvmf_create_subsystem", nqn=nqn, allow_any_host=True)
        target.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": "Disk"})
        target.rpc("nvmf_subsystem_add_listener", nqn=nqn,
                   listen_address={"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": "0"})
        port = target.rpc("nvmf_get_subsystems", nqn=nqn)[0]["listen_addresses"][0]["trsvcid"]
        bdev, = snap.rpc("bdev_nvme_attach_controller", name="Remote", trtype="TCP", traddr="127.0.0.1", adrfam="IPv4",
                         trsvcid=port, subnqn=nqn)
        snap.nvme_disk(bdev)
        sock, mapped = snap.vfio_socket(), ("--doorbells", "mapped")
        fill(snap, sock, mapped)
        sleeps = (*mapped, "--spin-us", "0")
        for depth, goal in ((1, 30e3), (64, 300e3), (128, 350e3)):
            yield Row(f"NVMe -> NVMe/TCP -> snap_target, 4 KiB, depth {depth}", "IOPS", goal,
                      {"ours": load(snap, sock, seconds, depth, extra=(*mapped, "--yield") if depth == 1 else sleeps)})
        yield Row("NVMe -> NVMe/TCP -> snap_target, 128 KiB, depth 16", "GB/s", 3.0,
                  {"ours": load(snap, sock, seconds, 16, "128k", sleeps, unit="GB/s")})


def in_file(seconds):
    """A file with O_DIRECT, against fio with io_uring on the same file. fio has no second process, so it is at an advantage."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=m.ROOT) as folder, service() as snap:
        path = Path(folder) / "disk.img"
        with open(path, "wb") as image:
            for _ in range(64):
                image.write(os.urandom(4 << 20))
            os.fsync(image.fileno())
        snap.rpc("bdev_uring_create", name="Disk", filename=str(path), block_size=512)
        snap.nvme_disk("Disk")
        sock = snap.vfio_socket()
        for depth in (1, 64):
            yield Row(f"NVMe, file, 4 KiB, depth {depth}", "IOPS", 0.95,
                      {"ours": load(snap, sock, seconds, depth, extra=("--doorbells", "mapped")),
                       "fio io_uring": lambda depth=depth: Run(*m.fio(path, seconds, depth))}, goal_of="ratio")


MANY = 250
MANY_VFS = {"NVME_EMULATION_NUM_PF": 2, "NVME_EMULATION_NUM_VF": 126, "VIRTIO_BLK_EMULATION_NUM_PF": 0}


@contextlib.contextmanager
def many():
    """MANY functions and one more, on null bdevs. Yields the service, their names, the seconds that MANY controllers took and
    the seconds of one small call."""
    with service(MANY_VFS) as snap:
        vuids = [f["vuid"] for f in snap.functions()][:MANY + 1]
        with snap.client() as c:
            for i in range(len(vuids)):
                c.call("bdev_null_create", {"name": f"Null{i}", "block_size": 512, "num_blocks": m.BLOCKS})
                c.call("nvme_subsystem_create", {"nqn": f"nqn.2024-01.io.opensnap:{i}"})
                c.call("nvme_namespace_create", {"nqn": f"nqn.2024-01.io.opensnap:{i}", "bdev_name": f"Null{i}", "nsid": 1})
            start = time.monotonic()
            made = [c.call("nvme_controller_create", {"nqn": f"nqn.2024-01.io.opensnap:{i}", "vuid": vuid})["ctrl_id"]
                    for i, vuid in enumerate(vuids)]
            created = (time.monotonic() - start) * MANY / len(vuids)
            for ctrl in made:
                c.call("nvme_controller_attach_ns", {"ctrl_id": ctrl, "nsid": 1})
            start = time.monotonic()
            for _ in range(500):
                c.call("spdk_get_version")
            one = (time.monotonic() - start) / 500
        yield snap, vuids, created, one


def resident_bytes_of(snap):
    return m.resident_kib(snap.service.pid) * 1024


def idle_functions(seconds):
    """MANY functions with a connected host each, two I/O queues of 256, which does nothing; and what one more does among them."""
    with service() as alone, many() as (snap, vuids, created, one):
        null(alone)
        alone.nvme_disk("Disk")
        yield Row(f"{MANY} controllers by RPC", "s", 0.5, {"ours": once(created)}, better="less")
        yield Row("one RPC", "ms", 0.3, {"ours": once(one * 1e3)}, better="less")
        before = resident_bytes_of(snap)
        with contextlib.ExitStack() as hosts:
            for vuid in vuids[:MANY]:
                hosts.enter_context(m.Nvme(snap.vfio_socket(vuid), io_queues=2, entries=256))
            time.sleep(1)
            yield Row("resident memory of an idle function", "KiB", 128,
                      {"ours": once((resident_bytes_of(snap) - before) / MANY / 1024)}, better="less")

            def idle_cpu():
                start, used = time.monotonic(), m.cpu_seconds(snap.service.pid) + m.cpu_seconds(snap.emu.pid)
                time.sleep(max(seconds, 5))
                used = m.cpu_seconds(snap.service.pid) + m.cpu_seconds(snap.emu.pid) - used
                return Run(100 * used / (time.monotonic() - start))
            yield Row(f"CPU of service and snap_emu, {MANY} idle functions", "%", 1, {"ours": idle_cpu}, better="less")
            sock = snap.vfio_socket(vuids[MANY])
            for depth in (1, 128):
                extra = ("--doorbells", "mapped")
                yield Row(f"one busy function among {MANY} idle ones, null, depth {depth}", "IOPS", 0.9,
                          {"ours": load(snap, sock, seconds, depth, extra=extra),
                           "the same alone": load(alone, alone.vfio_socket(), seconds, depth, extra=extra)}, goal_of="ratio")
            for doorbells, goal in (("shadow", 100), ("mapped", 6000)):
                yield Row(f"first I/O after a second of rest, {doorbells} doorbells", "us", goal,
                          {"ours": after_rest(sock, doorbells, snap.service.pid), "one bare wake-up": lambda: Run(m.wake_up_us())},
                          better="less")


def after_rest(sock, doorbells, pid):
    def run():
        got, delay = m.perf([sock], 4, 1, extra=("--doorbells", doorbells, "--rate", 1), pids=(pid,))
        return Run(got["read_latency"]["p50_us"], delay)
    return run


def start(seconds):
    """From exec to the answer of the first RPC, and the memory then; with an empty journal, beside a running snap_emu."""
    with service() as snap:
        def first_answer():
            snap.kill_service()
            begin = time.monotonic()
            snap.spawn_service()
            while True:
                try:
                    with socket.socket(socket.AF_UNIX) as s:
                        s.settimeout(5)
                        s.connect(str(snap.rpc_socket))
                        s.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "spdk_get_version"}).encode())
                        if s.recv(4096):
                            return Run((time.monotonic() - begin) * 1e3)
                except OSError:
                    time.sleep(0.0005)
                if time.monotonic() - begin > 10:
                    raise BenchError("no answer within 10 s")
        yield Row("start to first RPC", "ms", 50, {"ours": first_answer}, better="less")
        yield Row("resident memory at start", "MiB", 12, {"ours": lambda: Run(resident_bytes_of(snap) / 2**20)}, better="less")


GROUPS = {f.__name__: f for f in (nvme_null, service_cost, vblk_null, recovery_records, in_memory, against_qemu, whole_path, in_file,
                                  idle_functions, start, guest.in_guest)}
