# SPDX-License-Identifier: BSD-3-Clause
"""The NVMe-oF backend, driven by nvmeof_drive through the bdev door, against a target that can misbehave."""
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "peers"), str(HERE.parent / "lib")]

from nvme_tcp_peer import NvmeTcpPeer  # noqa: E402
from snap import program  # noqa: E402

SLOW = 4 if os.environ.get("SANITIZER") else 1


class Drive:
    """nvmeof_drive as a process; its lines arrive in order."""

    PROGRAM = "nvmeof_drive"

    def __init__(self, peer=None, port=None, variant="", **options):
        argv = [program(self.PROGRAM + variant), "--port", str(port or peer.port)]
        for name, value in options.items():
            if value is False or value is None:
                continue
            argv.append("--" + name.replace("_", "-"))
            if value is not True:
                argv.append(str(value))
        self.log = []
        self.lines = queue.Queue()
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)
        threading.Thread(target=self._read_out, daemon=True).start()
        self.err_thread = threading.Thread(target=self._read_err, daemon=True)
        self.err_thread.start()

    def _read_out(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def _read_err(self):
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))

    def tell(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def expect(self, prefix, timeout=15):
        """The next line that begins with prefix; errors in between are failures."""
        deadline = time.monotonic() + timeout * SLOW
        while True:
            try:
                line = self.lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                raise AssertionError(f"no '{prefix}' within {timeout} s; log:\n" + "\n".join(self.log[-20:])) from None
            assert line is not None, f"ended before '{prefix}'; log:\n" + "\n".join(self.log[-20:])
            if line.startswith(prefix):
                return line
            assert not line.startswith("error"), line + "\n" + "\n".join(self.log[-20:])

    def error(self, timeout=15):
        """The next line that tells of an error."""
        deadline = time.monotonic() + timeout * SLOW
        while True:
            try:
                line = self.lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            except queue.Empty:
                raise AssertionError(f"no error within {timeout} s") from None
            assert line is not None, "ended without an error"
            if line.startswith("error"):
                return line

    def add_path(self, port, *more):
        self.tell(" ".join(map(str, ("path", port, *more))))
        return self.expect("path ")

    def leave_path(self, port):
        self.tell(f"leave {port}")
        return self.expect("path ")

    def ops(self):
        self.tell("state")
        return int(self.expect("ops ").split()[1])

    def state(self):
        self.tell("state")
        return self.expect("state ")

    def wait_log(self, text, timeout=15):
        deadline = time.monotonic() + timeout * SLOW
        while time.monotonic() < deadline:
            for line in list(self.log):
                if re.search(text, line):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no '{text}' in the log within {timeout} s:\n" + "\n".join(self.log[-20:]))

    def finish(self, timeout=40):
        """All I/O has come out right. Returns the numbers of the last line."""
        line = self.expect("OK ", timeout)
        assert self.process.wait(10 * SLOW) == 0, "\n".join(self.log)
        return {k: int(v) for k, v in (part.split("=") for part in line.split()[1:])}

    def failed(self, timeout=15):
        """The attach has failed. Returns its message."""
        line = self.expect("failed ", timeout)
        assert self.process.wait(10 * SLOW) == 1
        return line[len("failed "):]

    def goes_on(self):
        """I/O is being done."""
        before = self.ops()
        deadline = time.monotonic() + 15 * SLOW
        while self.ops() < before + 20:
            assert time.monotonic() < deadline, "I/O stands still:\n" + "\n".join(self.log[-20:])
            time.sleep(0.02)

    def stop(self):
        """Ends the load: reads and verifies all, and ends."""
        self.goes_on()
        self.tell("stop")
        return self.finish()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.err_thread.join(5)
        for word in ("AddressSanitizer", "runtime error:", "LeakSanitizer", "ThreadSanitizer"):
            assert not any(word in line for line in self.log), "\n".join(self.log)


class Steps(Drive):
    """nvmeof_steps: single requests, which end when they end."""

    PROGRAM = "nvmeof_steps"

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.results, self.last = {}, 0
        self.expect("ready")

    def submit(self, op, *args, reactor=0, resent=False):
        """write LBA BLOCKS BYTE, zeroes or unmap or read LBA BLOCKS, flush. Returns the request's number."""
        self.last += 1
        self.tell(" ".join(map(str, (op, self.last, reactor, *args, *(["resent"] if resent else [])))))
        return self.last

    def take(self, seconds):
        """Looks at one more line, if any comes."""
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            return
        assert line is not None and not line.startswith("error"), f"{line}\n" + "\n".join(self.log[-20:])
        word, *rest = line.split()
        if word == "done":
            self.results[int(rest[0])] = (int(rest[1]), int(rest[2]), time.monotonic())

    def end_of(self, number, timeout=30):
        """Waits for it: (rc, byte, when)."""
        deadline = time.monotonic() + timeout * SLOW
        while number not in self.results:
            assert time.monotonic() < deadline, f"request {number} has not ended; log:\n" + "\n".join(self.log[-20:])
            self.take(0.2)
        return self.results[number]

    def good(self, *numbers):
        for number in numbers:
            rc, byte, when = self.end_of(number)
            assert rc == 0, f"request {number}: {rc}"
        return byte

    def waits(self, number, seconds=0.5):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.take(0.05)
        return number not in self.results

    def nvme(self, path=0):
        """Of bdev_get_bdevs."""
        self.tell("state")
        deadline = time.monotonic() + 10 * SLOW
        while True:
            line = self.lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            if line.startswith("bdev "):
                return json.loads(line[5:])["nvme"][path]
            self.lines.put(line)
            time.sleep(0.01)

    def leave(self):
        self.tell("stop")
        self.expect("stopped")
        assert self.process.wait(10 * SLOW) == 0


@pytest.fixture
def drive():
    started = []

    def start(*args, **options):
        d = Drive(*args, **options)
        started.append(d)
        return d

    yield start
    for d in started:
        d.end()


@pytest.fixture
def steps():
    started = []

    def start(*args, **options):
        s = Steps(*args, **options)
        started.append(s)
        return s

    yield start
    for s in started:
        s.end()


@pytest.fixture
def make_peer():
    started = []

    def start(**options):
        # Nothing is late here unless a test makes it so: who says so is not waited for.
        p = NvmeTcpPeer(**{"confirms": True, **options}).start()
        started.append(p)
        return p

    yield start
    for p in started:
        p.stop()
