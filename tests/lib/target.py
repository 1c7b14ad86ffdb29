# SPDX-License-Identifier: BSD-3-Clause
"""Starts a snap_target of one's own, in a directory of one's own.

    with Target(tmp_path) as target:
        target.rpc("bdev_null_create", name="Null0", block_size=512, num_blocks=2048)
        target.kill_target()
        target.start_target()"""
import signal

from snap import Programs


class Target(Programs):
    PROGRAMS = ("target",)

    def __init__(self, tmpdir, args=(), env=None, start=True, netns=None):
        super().__init__(tmpdir, env, netns)
        self.args = list(args)
        if start:
            self._start_all(self.start_target)

    def spawn_target(self, extra=()):
        """Starts it without waiting."""
        assert self.target is None
        args = ["-r", self.rpc_socket, "--state-dir", self.state_dir]
        self.target = self._spawn("snap_target", [*args, *self.args, *extra], "target.log")
        return self.target

    def start_target(self, extra=()):
        self.spawn_target(extra)
        self._wait("snap_target", self.answers, self.target, "target.log")

    def kill_target(self):
        """kill -9; returns when the process is gone."""
        process, self.target = self.target, None
        self._end(process, signal.SIGKILL)

    def stop_target(self):
        """SIGTERM, as an operator stops it; returns its exit code."""
        process, self.target = self.target, None
        return self._end(process, signal.SIGTERM)
