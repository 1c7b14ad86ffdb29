# SPDX-License-Identifier: BSD-3-Clause
"""A snap_emu that starts anew knows nothing of the leases of the last one: it waits for the processes that had them."""
import os
import signal
import subprocess
import time

import pytest
from host import RecoverySnap
from snap import Client, program, tail

SILENCE = 1.5  # a lease that is granted takes milliseconds


class Second:
    """Another service on the same snap_emu, with an NVMe controller that is to be made."""

    def __init__(self, snap):
        self.snap = snap
        self.socket = snap.short / "second.sock"
        self.log = snap.tmpdir / "second.log"
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                [program("snap_service"), "-r", str(self.socket), "--run-dir", str(snap.run_dir), "--state-dir",
                 str(snap.tmpdir / "second-state"), "--no-emu"], stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, env=snap.env, start_new_session=True)
        deadline = time.monotonic() + 20
        while not self.socket.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, tail(self.log)
            time.sleep(0.02)
        self.rpc("bdev_null_create", name="Null0", block_size=512, num_blocks=2048)
        self.rpc("nvme_subsystem_create", nqn="nqn.2024-01.io.opensnap:second")

    def rpc(self, method, /, **params):
        with Client(self.socket, timeout=30) as c:
            return c.call(method, params or None)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


@pytest.fixture
def snap(tmp_path):
    with RecoverySnap(tmp_path) as s:
        s.file_disk(0)
        yield s


def holder_files(snap):
    return sorted(os.listdir(snap.run_dir / "holders"))


def leased_to(snap, pid):
    """Whether snap_emu says so."""
    out = subprocess.run([program("snap_host"), "--run-dir", str(snap.run_dir), "list"], capture_output=True, text=True,
                         check=True).stdout
    return any(" leased " in line and f" {pid} " in line for line in out.splitlines())


def wait_for(what, seconds=5):
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_no_lease_while_a_holder_of_the_last_snap_emu_lives(snap):
    old = snap.service
    assert [f.split("-")[0] for f in holder_files(snap)] == [str(old.pid)]
    old.send_signal(signal.SIGSTOP)
    snap.kill_emu()
    snap.start_emu()
    second = Second(snap)
    asker = None
    try:
        # The call is answered when the lease is granted, or at once and the controller waits: both are fine.
        asker = subprocess.Popen([program("snap_rpc"), "-s", str(second.socket), "nvme_controller_create", "--nqn",
                                  "nqn.2024-01.io.opensnap:second", "--pf_id", "0", "-c", "Second"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(SILENCE)
        assert not leased_to(snap, second.process.pid)
        assert f"waits for the end of pid {old.pid}" in (snap.tmpdir / "emu.log").read_text()
        started = time.monotonic()
        snap.kill_service()
        assert wait_for(lambda: leased_to(snap, second.process.pid)), tail(snap.tmpdir / "emu.log")
        assert time.monotonic() - started < 2
        assert asker.wait(10) == 0
        # The file of the one that is gone is gone as well.
        assert [f.split("-")[0] for f in holder_files(snap)] == [str(second.process.pid)]
    finally:
        if asker and asker.poll() is None:
            asker.kill()
            asker.wait()
        second.stop()


def test_what_was_over_before_the_start_holds_up_nobody(snap):
    snap.kill_service()
    snap.kill_emu()
    assert len(holder_files(snap)) == 1
    (snap.run_dir / "holders" / "not-a-holder").write_text("")
    # The kernel's own end of the process may still take a moment.
    snap.start_emu()
    snap.start_service()
    snap.wait_started("Ctrl0")
    assert leased_to(snap, snap.service.pid)
