# SPDX-License-Identifier: BSD-3-Clause
"""snap_perf's virtio-blk driver on somebody else's server: qemu-storage-daemon's vhost-user-blk export."""
import json
import mmap
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from host import Load, MIB
from require import require
from test_snap_perf import perf

QUEUES = 4


class StorageDaemon:
    """An export of a file with O_DIRECT. The socket's directory is short: paths end at 107 bytes."""

    def __init__(self, directory, size=16 * MIB, name="vhost.sock", writable=True):
        require(shutil.which("qemu-storage-daemon"), "qemu-storage-daemon is not installed")
        self.image = Path(directory) / "disk.img"
        with open(self.image, "wb") as f:
            f.write(bytes(size))
        self.short = Path(tempfile.mkdtemp(prefix="snap-"))
        self.socket = self.short / name
        self.process = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev",
             f"driver=file,filename={self.image},node-name=f,cache.direct=on,discard=unmap", "--export",
             f"type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={self.socket},num-queues={QUEUES},"
             f"writable={'on' if writable else 'off'}"], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self.socket.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, "qemu-storage-daemon did not start"
            time.sleep(0.01)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.short, ignore_errors=True)


@pytest.fixture
def daemon(tmp_path):
    d = StorageDaemon(tmp_path)
    yield d
    d.stop()


@pytest.mark.parametrize("settings,queues,depth", [
    ("", 1, 32),
    ("queues=4", 4, 32),
    ("no-indirect", 1, 32),
    ("no-event-idx", 1, 32),
    ("no-indirect,no-event-idx,ring-size=16", 1, 5),
    ("segment=1024,split-header,depth=100", 1, 100),
    ("no-indirect,segment=512,split-header", 1, 32),
    ("ring-size=8", 1, 8),
    ("depth=1", 1, 1),
], ids=lambda v: v or "plain" if isinstance(v, str) else str(v))
def test_verify_finds_nothing(daemon, settings, queues, depth):
    result = perf("--socket", f"{daemon.socket},{settings}".rstrip(","), "--rw", "randrw", "--bs", "4k", "--align", 512,
                  "--range", 4096, "--zeroes", 10, "--deallocate", 5, "--flush", 5, "--verify", "--ios", 6000, "--json")
    assert result.returncode == 0, result.stderr
    r = json.loads(result.stdout)
    assert r["ok"] and r["errors"] == 0 and r["unfinished"] == 0 and r["ios"] == 6000
    assert (r["kind"], r["ring"], r["queues"], r["depth"], r["block_bytes"]) == ("virtio-blk", "split", queues, depth, 512)
    assert r["write_zeroes"] > 0 and r["deallocates"] > 0 and r["flushes"] > 0
    assert r["blocks_verified"] >= 4096 + 8 * r["reads"]
    assert 0 < r["kicks"] <= 6000 and r["interrupts"] > 0


def test_large_commands(daemon):
    result = perf("--socket", daemon.socket, "--rw", "write", "--bs", "1m", "--depth", 4, "--verify", "--ios", 40, "--json")
    assert result.returncode == 0, result.stderr
    r = json.loads(result.stdout)
    assert r["bytes_written"] == 40 * MIB and r["errors"] == 0


def test_name_of_the_socket_or_kind_chooses_the_driver(tmp_path):
    d = StorageDaemon(tmp_path, name="any")
    try:
        result = perf("--socket", d.socket, "--kind", "virtio-blk", "--ios", 10)
        assert result.returncode == 0 and "virtio-blk disk" in result.stdout and "10 commands" in result.stdout, result
    finally:
        d.stop()


def test_medium_changed_by_somebody_else_is_named(daemon, tmp_path):
    load = Load(daemon.socket, tmp_path, blocks=512)
    try:
        assert load.wait_progress(100, 20), load.errors()
        fd = os.open(daemon.image, os.O_RDWR | os.O_DIRECT)
        buffer = mmap.mmap(-1, 256 << 10)
        buffer[:] = b"not a pattern".ljust(4096, b"!") * 64
        for _ in range(50):
            os.pwrite(fd, buffer, 0)
            time.sleep(0.02)
            if load.ended():
                break
        os.close(fd)
        verdict = load.stop()
    finally:
        load.kill()
    assert verdict["exit"] == 1 and not verdict["ok"]
    assert verdict["errors_by_kind"]["foreign"] > 0, verdict


def test_server_that_goes_away_is_an_error(daemon, tmp_path):
    load = Load(daemon.socket, tmp_path)
    try:
        assert load.wait_progress(100, 20)
        daemon.process.kill()
        verdict = load.stop()
    finally:
        load.kill()
    assert verdict["exit"] == 1 and "socket" in verdict["message"], verdict


def test_several_disks_in_one_process(tmp_path):
    daemons = []
    try:
        for i in range(3):
            (tmp_path / str(i)).mkdir()
            daemons.append(StorageDaemon(tmp_path / str(i)))
        sockets = [f"{daemons[0].socket},queues=2", f"{daemons[1].socket},no-indirect,depth=8,bs=8k",
                   f"{daemons[2].socket},no-event-idx,ios=1000"]
        args = [word for s in sockets for word in ("--socket", s)]
        result = perf(*args, "--rw", "randrw", "--range", 2048, "--verify", "--ios", 3000, "--json", "--status", 0.05)
        assert result.returncode == 0, result.stderr
        r = json.loads(result.stdout)
        disks = r["disks"]
        assert [d["ios"] for d in disks] == [3000, 3000, 1000] and r["ios"] == 7000
        assert [d["queues"] for d in disks] == [2, 1, 1] and [d["depth"] for d in disks] == [32, 8, 32]
        assert [d["bs_bytes"] for d in disks] == [4096, 8192, 4096] and len({d["seed"] for d in disks}) == 3
        assert all(d["ok"] for d in disks) and r["ok"] and r["kicks"] == sum(d["kicks"] for d in disks)
        assert r["read_latency"]["count"] == sum(d["reads"] for d in disks) == r["reads"]
        lines = [json.loads(line) for line in result.stderr.splitlines() if line.startswith('{"status"')]
        assert lines and lines[-1]["disks"] == 3 and lines[-1]["errors"] == 0
    finally:
        for d in daemons:
            d.stop()


@pytest.mark.parametrize("settings,word", [
    ("ring=packed", "packed"), ("reconnect", "in flight"), ("ring-size=12", "power of two"), ("colour=red", "colour"),
    ("depth=0", "depth"), ("no-indirect=yes", "no value"), ("ring", "needs a value"), ("spin-us=3", "spin-us"),
    ("bs=1000", "--bs"), ("segment=1,bs=4k", "segments"), ("kind=nvme,reconnect", "virtio-blk")])
def test_what_cannot_be_is_explained_and_ends_with_2(daemon, settings, word):
    result = perf("--socket", f"{daemon.socket},{settings}", "--ios", 1)
    assert result.returncode == 2 and word in result.stderr, result


def test_read_only_export_is_only_read(tmp_path):
    d = StorageDaemon(tmp_path, writable=False)
    try:
        assert perf("--socket", d.socket, "--ios", 100).returncode == 0
        result = perf("--socket", d.socket, "--ios", 100, "--rw", "randwrite")
        assert result.returncode == 2 and "read-only" in result.stderr
    finally:
        d.stop()
