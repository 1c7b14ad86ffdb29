# SPDX-License-Identifier: BSD-3-Clause
"""libblkio's client (QEMU's tools) and the servers it is tested on."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "guest"), str(HERE.parent / "lib")]

import cache  # noqa: E402  (needs the path above)
from require import require  # noqa: E402
from snap import Snap  # noqa: E402
from vblk import vblk_disk  # noqa: E402

SIZE = 64 << 20


class Tools:
    """qemu-img and qemu-io on one disk: each call is a process that connects, works and goes."""

    def __init__(self, socket):
        self.disk = f"driver=virtio-blk-vhost-user,path={socket},cache.direct=on"

    def start(self, name, *words):
        argv, environment = cache.tool(name)
        return subprocess.Popen([*argv, *map(str, words)], env={**os.environ, **environment}, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, name, *words, timeout=60):
        """(exit status, all it printed)"""
        return finish(self.start(name, *words), timeout)

    def io(self, *commands, options=()):
        """qemu-io's commands, one after the other, in one connection."""
        return self.run("qemu-io", *options, *(word for c in commands for word in ("-c", c)), "--image-opts", self.disk)

    def check_io(self, *commands):
        """io() that insists on success."""
        status, text = self.io(*commands)
        assert status == 0, text

    def img(self, command, *words, timeout=60):
        """qemu-img that insists on success; returns what it printed."""
        status, text = self.run("qemu-img", command, *words, timeout=timeout)
        assert status == 0, text
        return text


def finish(process, timeout=60):
    """(exit status, all it printed) of a tool; one that hangs is ended and said so."""
    try:
        text, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        text, _ = process.communicate()
        pytest.fail(f"no end within {timeout} s: {' '.join(process.args[3:])}\n{text}")
    return process.returncode, text


class Server:
    """A disk on a vhost-user socket. image: its file, or None. stop(): ends it."""

    def __init__(self, socket, image, stop, snap=None):
        self.tools, self.image, self.stop, self.snap = Tools(socket), image, stop, snap


def sparse(path, size=SIZE):
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def storage_daemon(folder, read_only=False):
    """QEMU's own server: shows that a failing test is not the instrument's fault."""
    require(shutil.which("qemu-storage-daemon"), "no qemu-storage-daemon (scripts/deps.sh test)")
    image, socket = sparse(folder / "disk.img"), folder / "s"
    process = subprocess.Popen(
        ["qemu-storage-daemon", "--blockdev", f"file,node-name=disk,filename={image},discard=unmap,read-only="
         + ("on" if read_only else "off"), "--export",
         f"vhost-user-blk,id=disk,node-name=disk,addr.type=unix,addr.path={socket},num-queues=2,writable="
         + ("off" if read_only else "on")], stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not socket.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)

    def stop():
        process.kill()
        process.wait()

    return Server(socket, image, stop)


def our_file(folder, read_only=False):
    """snap_service with a file."""
    snap = Snap(folder)
    image = sparse(folder / "disk.img")
    snap.rpc("bdev_aio_create", name="File0", filename=str(image), block_size=512)
    _, socket = vblk_disk(snap, "File0", ctrl_id="VblkCtrl1", num_queues=2, read_only=read_only)
    return Server(socket, image, snap.stop, snap)


def our_memory(folder, read_only=False):
    """snap_service with memory of its own."""
    snap = Snap(folder)
    snap.rpc("bdev_malloc_create", name="Mem0", block_size=512, num_blocks=SIZE // 512)
    _, socket = vblk_disk(snap, "Mem0", ctrl_id="VblkCtrl1", num_queues=2, read_only=read_only)
    return Server(socket, None, snap.stop, snap)


SERVERS = {"qemu-storage-daemon": storage_daemon, "file": our_file, "memory": our_memory}


@pytest.fixture(scope="session")
def qemu_tools():
    """Skips (or fails, see require) unless QEMU's tools are there or can be had."""
    try:
        cache.tool("qemu-io")
    except cache.CacheError as missing:
        require(False, str(missing))


@pytest.fixture(scope="module", params=SERVERS)
def server(request, qemu_tools, tmp_path_factory):
    """A disk of 64 MiB, one after the other on each server."""
    made = SERVERS[request.param](tmp_path_factory.mktemp("disk"))
    yield made
    made.stop()


@pytest.fixture(params=SERVERS)
def read_only_server(request, qemu_tools, tmp_path):
    """The same, read-only."""
    made = SERVERS[request.param](tmp_path, read_only=True)
    yield made
    made.stop()


@pytest.fixture
def our_server(qemu_tools, tmp_path):
    """The same of ours, with a file, for one test."""
    made = our_file(tmp_path)
    yield made
    made.stop()
