# SPDX-License-Identifier: BSD-3-Clause
"""Starts a snap_emu and a snap_service of one's own, in a directory of one's own.

    with Snap(tmp_path, topology={"NVME_EMULATION_NUM_VF": 2}) as snap:
        snap.rpc("bdev_null_create", name="Null0", block_size=512, num_blocks=2048)
        snap.kill_service()
        snap.start_service()

Programs come from $BUILD_DIR (default: build/ of this tree). What is started here is stopped here, by its pid; the logs
stay in the directory and their ends are printed when something goes wrong."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "rpc"))
from client import Client, RpcError, RpcTimeout  # noqa: E402,F401

START_SECONDS = 20
STOP_SECONDS = 10
NOT_EMULATED = {"bdev_aio_create": "it has no io_uring", "bdev_uring_create": "it has no io_uring"}
SANITIZER_REPORTS = ("AddressSanitizer", "runtime error:", "LeakSanitizer", "ThreadSanitizer")


def build_dir():
    return Path(os.environ.get("BUILD_DIR", ROOT / "build")).resolve()


def program(name):
    """A binary of the build tree, wherever meson put it."""
    for path in sorted(build_dir().rglob(name)):
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    raise FileNotFoundError(f"no program '{name}' below {build_dir()}: build first, or set BUILD_DIR")


def tail(path, lines=30):
    try:
        return "".join(Path(path).read_text(errors="replace").splitlines(True)[-lines:])
    except OSError:
        return "(no log)\n"


class Programs:
    """Processes of one test in a directory of its own. PROGRAMS: attributes that hold one, in the order of stopping; the
    log of each is <attribute>.log. netns: the path of a network namespace to run in."""
    PROGRAMS = ()

    def __init__(self, tmpdir, env=None, netns=None):
        self.prefix = ["nsenter", f"--net={netns}", "--"] if netns else []
        self.tmpdir = Path(tmpdir)
        self.tmpdir.mkdir(parents=True, exist_ok=True)
        # Socket paths end at 107 bytes, and pytest's directories are long.
        self.short = Path(tempfile.mkdtemp(prefix="snap-"))
        self.state_dir = self.tmpdir / "state"
        self.state_dir.mkdir(exist_ok=True)
        self.rpc_socket = self.short / "rpc.sock"
        # Programs leave their memory to the end of the process, so leaks at exit say nothing.
        self.env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:" + os.environ.get("ASAN_OPTIONS", ""), **(env or {})}
        for name in self.PROGRAMS:
            setattr(self, name, None)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.print_logs()
        self.stop()

    def _start_all(self, *starts):
        try:
            for start in starts:
                start()
        except BaseException:
            self.print_logs()
            self.stop()
            raise

    def _spawn(self, name, args, log):
        with open(self.tmpdir / log, "ab") as out:
            # Its own session: a Ctrl-C of the test run ends the tests first, and they end these.
            return subprocess.Popen([*self.prefix, program(name), *map(str, args)], stdin=subprocess.DEVNULL,
                                    stdout=out, stderr=subprocess.STDOUT, env=self.env,
                                    cwd=self.tmpdir, start_new_session=True)  # core dumps go there

    def _wait(self, what, ready, process, log):
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None:
                raise RuntimeError(f"{what} ended with {process.returncode}:\n{tail(self.tmpdir / log)}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} not ready in {START_SECONDS} s:\n{tail(self.tmpdir / log)}")
            time.sleep(0.02)

    def _end(self, process, sig):
        if process.poll() is None:
            process.send_signal(sig)
            if sig == signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"pid {process.pid} did not end within {STOP_SECONDS} s of signal {sig}") from None

    def answers(self):
        try:
            with Client(self.rpc_socket, timeout=5) as c:
                c.call("framework_wait_init")
                return True
        except (OSError, EOFError, RpcTimeout):
            return False

    def stop(self):
        """Ends everything; raises when something hung or a sanitizer had something to say."""
        problem = None
        for name in self.PROGRAMS:
            process = getattr(self, name)
            setattr(self, name, None)
            if process is None:
                continue
            try:
                self._end(process, signal.SIGTERM)
            except RuntimeError as e:
                problem = problem or e
        shutil.rmtree(self.short, ignore_errors=True)
        for name in self.PROGRAMS:
            text = self.log(name)
            for words in SANITIZER_REPORTS:
                if words in text:
                    at = text.index(words)
                    problem = problem or RuntimeError(f"{name}.log: {text[max(0, at - 300):at + 4000]}")
        if problem:
            raise problem

    def log(self, name):
        try:
            return (self.tmpdir / f"{name}.log").read_text(errors="replace")
        except OSError:
            return ""

    def print_logs(self):
        for name in reversed(self.PROGRAMS):
            print(f"--- end of {name}.log ---\n{tail(self.tmpdir / f'{name}.log')}", file=sys.stderr)

    # ---- RPC ----
    def rpc(self, method, /, _timeout=30.0, **params):
        if method in NOT_EMULATED and os.environ.get("EMULATED"):
            pytest.skip(f"{method} does not work under {os.environ['EMULATED']}: {NOT_EMULATED[method]}")
        with Client(self.rpc_socket, timeout=_timeout) as c:
            return c.call(method, params or None)

    def client(self, timeout=30.0):
        return Client(self.rpc_socket, timeout=timeout)


class Snap(Programs):
    PROGRAMS = ("service", "emu")

    def __init__(self, tmpdir, topology=None, mask=None, service_args=(), emu_args=(), env=None,
                 start=True, netns=None):
        super().__init__(tmpdir, env, netns)
        self.run_dir = self.short / "run"
        self.topology_file = self.tmpdir / "topology.conf"
        self.mask = mask
        self.service_args, self.emu_args = list(service_args), list(emu_args)
        self.starts = 0
        self.run_dir.mkdir()
        self.topology_file.write_text("".join(f"{k} = {v}\n" for k, v in (topology or {}).items()))
        if start:
            self._start_all(self.start_emu, self.start_service)

    # ---- processes ----
    def spawn_emu(self):
        """Starts it without waiting."""
        assert self.emu is None
        self.emu = self._spawn("snap_emu", ["--foreground", "--run-dir", self.run_dir, "--state-dir", self.state_dir,
                                            "--topology", self.topology_file, *self.emu_args], "emu.log")

    def start_emu(self):
        self.spawn_emu()
        self._wait("snap_emu", self.emu_answers, self.emu, "emu.log")

    def emu_answers(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            return s.connect_ex(str(self.run_dir / "emu.sock")) == 0

    def spawn_service(self, extra=()):
        """Starts it without waiting."""
        assert self.service is None
        args = ["-r", self.rpc_socket, "--run-dir", self.run_dir, "--state-dir", self.state_dir,
                "--no-emu"]
        if self.mask:
            args += ["-m", self.mask]
        self.starts += 1
        self.service = self._spawn("snap_service", [*args, *self.service_args, *extra], "service.log")
        return self.service

    def start_service(self, extra=()):
        self.spawn_service(extra)
        self._wait("snap_service", self.answers, self.service, "service.log")

    def kill_service(self):
        """kill -9; returns when the process is gone."""
        process, self.service = self.service, None
        self._end(process, signal.SIGKILL)

    def stop_service(self):
        """SIGTERM, as an operator stops it; returns its exit code."""
        process, self.service = self.service, None
        return self._end(process, signal.SIGTERM)

    def end_service(self, seconds=STOP_SECONDS):
        """Waits for a service that ends by itself: its snap_emu is gone."""
        process, self.service = self.service, None
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"pid {process.pid} outlived its snap_emu by {seconds} s") from None

    def kill_emu(self):
        process, self.emu = self.emu, None
        self._end(process, signal.SIGKILL)

    def service_log(self):
        return self.log("service")

    # ---- RPC ----
    def functions(self, kind="NVME"):
        """All functions, flat: PFs and then their VFs."""
        found = []
        for pf in self.rpc("emulation_function_list", all=True):
            if pf["emulation_type"] == kind:
                found += [pf] + pf.get("vfs", [])
        return found

    def vfio_socket(self, vuid=None):
        """Directory and path of a function's vfio-user socket (default: the first NVMe PF)."""
        vuid = vuid or self.functions()[0]["vuid"]
        return self.run_dir / "functions" / vuid / "cntrl"

    def vhost_socket(self, vuid=None):
        """Path of a function's vhost-user socket (default: the first virtio-blk PF)."""
        vuid = vuid or self.functions("VBLK")[0]["vuid"]
        return self.run_dir / "functions" / vuid / "vhost.sock"

    def nvme_disk(self, bdev="Null0", nqn="nqn.2024-01.io.opensnap:disk", nsid=1, **controller):
        """A subsystem, a namespace on an existing bdev and a running controller (default: the first NVMe PF).
        Returns ctrl_id."""
        self.rpc("nvme_subsystem_create", nqn=nqn)
        self.rpc("nvme_namespace_create", nqn=nqn, bdev_name=bdev, nsid=nsid)
        if not {"vuid", "vhca_id", "pf_id", "pci_bdf"} & set(controller):
            controller["pf_id"] = 0
        ctrl = self.rpc("nvme_controller_create", nqn=nqn, suspended=True, **controller)["ctrl_id"]
        self.rpc("nvme_controller_attach_ns", ctrl_id=ctrl, nsid=nsid)
        self.rpc("nvme_controller_resume", ctrl_id=ctrl)
        return ctrl
