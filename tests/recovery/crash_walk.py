# SPDX-License-Identifier: BSD-3-Clause
"""Services that die at a named point of src/base/crash_points.h: the list, and a Snap that makes them die."""
import contextlib
import functools
import os
import signal
import subprocess
import time
from collections import namedtuple

from host import RecoverySnap
from snap import program, tail

PROGRAM = "snap_service_crash_points"
FILE_BYTES = 128

Point = namedtuple("Point", "name kind between situation")


@functools.cache
def all_points():
    out = subprocess.run([program(PROGRAM), "--list-crash-points"], capture_output=True, text=True, check=True).stdout
    return [Point(*line.split("\t")) for line in out.splitlines()]


def points(kind, situation=None):
    """Those of a device kind, or of snap_emu, in the order of the list; situation: only of this one."""
    kinds = (kind,) if kind == "emu" else (kind, "both")
    return [p for p in all_points() if p.kind in kinds and situation in (None, p.situation)]


class CrashSnap(RecoverySnap):
    """Its services are of the test build (another: programs), and do nothing but serve until die_at() tells where to die."""

    def __init__(self, tmpdir, programs=None, topology=None, **kw):
        tmpdir.mkdir(parents=True, exist_ok=True)
        self.wish = tmpdir / "crash-point"
        self.wish.write_bytes(bytes(FILE_BYTES))
        self.met = []
        super().__init__(tmpdir, {"snap_service": PROGRAM, **(programs or {})}, topology,
                         env={"SNAP_CRASH_POINT": f"@{self.wish}"}, **kw)

    def die_at(self, name=None, passes=1):
        """Where the next one to pass it dies; None: nowhere."""
        with open(self.wish, "r+b") as f:  # in place: running services have it mapped
            f.write((f"{name}:{passes}" if name else "").encode().ljust(FILE_BYTES, b"\0"))

    def dead(self, name, seconds=15):
        """Waits for the death at the point. Fails when it is never reached."""
        self.end_at(name, self.service, seconds)
        self.service = None

    def emu_dead(self, name, seconds=15):
        """The same of snap_emu; the service ends by itself."""
        self.end_at(name, self.emu, seconds)
        self.emu = None
        if self.service:
            self.end_service()

    def end_at(self, name, process, seconds):
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} was never reached\n{tail(self.tmpdir / 'service.log')}") from None
        self.die_at()
        assert code == -signal.SIGKILL, f"{name}: the program ended with {code}\n{tail(self.tmpdir / 'service.log')}"
        self.met.append(name)

    @contextlib.contextmanager
    def dying(self, name, passes=1):
        """What is done inside makes the service die at the point; behind it the next one serves."""
        self.die_at(name, passes)
        try:
            yield
            self.dead(name)
        finally:
            self.die_at()
        self.start_service()

    def start_dying(self, name, passes=1, seconds=15):
        """A service that dies at the point while it starts or recovers."""
        self.die_at(name, passes)
        self.spawn_service()
        self.dead(name, seconds)

    def lost(self, method, **params):
        """A call whose answer is lost because the service dies."""
        with contextlib.suppress(OSError, EOFError):
            with self.client(15) as c:
                answer = c.call(method, params or None)
                # Only a death behind the answer lets it come through.
                return answer
        return None

    def wait_log(self, words, seconds=10):
        deadline = time.monotonic() + seconds
        while words not in self.service_log():
            assert time.monotonic() < deadline, f"'{words}' is not in the log"
            time.sleep(0.005)


def slow():
    """Passes are fewer under an emulator."""
    return bool(os.environ.get("EMULATED"))
