# SPDX-License-Identifier: BSD-3-Clause
"""The host's end of the command channel into a guest (image/agent is the other)."""

import base64
import re
import socket
import threading
import time

LINE = 900  # bytes of a command per line: the guest's tty buffers 4096


class ChannelError(Exception):
    """The guest did not answer in time, or went away."""


class Job:
    """A command in the guest. result() waits for its end."""

    def __init__(self, channel: "Channel", ident: str, command: str):
        self.channel = channel
        self.ident = ident
        self.command = command
        self.outcome = None  # (status, output), or None while it runs
        self.lost = None     # why there will be no outcome

    def done(self) -> bool:
        """Has it ended, or been lost to a reset?"""
        return self.outcome is not None or self.lost is not None

    def result(self, timeout: float = 30) -> tuple:
        """(exit status, output with stderr); raises when it does not end in time."""
        news = self.channel.news
        with news:
            news.wait_for(self.done, timeout)
        if self.outcome is not None:
            return self.outcome
        raise ChannelError(f"guest command {self.command[:200]!r}: "
                           + (self.lost or f"no end within {timeout:g} s"))

    def output(self) -> str:
        """What it printed so far."""
        return self.channel.start(f"cat /run/jobs/{self.ident}/out").result(10)[1]

    def kill(self) -> None:
        """Kills it and its children in the guest; a process stuck in the kernel stays."""
        self.channel.send(f"K {self.ident}")


class Channel:
    """Runs commands in a guest over a serial port, any number at a time."""

    def __init__(self, path: str):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.news = threading.Condition()
        self.turn = threading.Lock()
        self.jobs = {}
        self.acks = 0
        self.boots = []
        self.count = 0
        self.closed = False
        self.data = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                more = self.sock.recv(65536)
            except OSError:
                more = b""
            with self.news:
                if not more:
                    self.closed = True
                    self._lose("QEMU is gone")
                self.data += more
                while self._frame():
                    pass
                self.news.notify_all()
            if not more:
                return

    def _frame(self) -> bool:
        """Takes one frame off the received bytes; False when none is complete."""
        line, found, rest = self.data.partition(b"\n")
        if not found:
            return False
        text = line.decode("utf-8", "replace").strip()
        if out := re.search(r"@@out (\S+) (-?\d+) (\d+)$", text):
            size = int(out[3])
            if len(rest) < size:
                return False
            self._finish(out[1], int(out[2]), rest[:size].decode("utf-8", "replace"))
            rest = rest[size:]
        elif hello := re.search(r"@@hello (\S+)", text):
            self._lose("the guest was reset")
            self.boots.append(hello[1])
        elif text.endswith("@@ack"):
            self.acks += 1
        self.data = rest
        return True

    def _finish(self, ident: str, status: int, output: str) -> None:
        if job := self.jobs.pop(ident, None):
            job.outcome = (status, output)

    def _lose(self, why: str) -> None:
        for job in self.jobs.values():
            job.lost = why
        self.jobs.clear()

    def forget(self) -> int:
        """Before a reset: drops half a frame, loses all jobs; returns the boots so far."""
        with self.news:
            self.data = b""
            self._lose("the guest was reset")
            self.news.notify_all()
            return len(self.boots)

    def wait_boot(self, boots: int, timeout: float, gone=lambda: False) -> None:
        """Waits until the agent came up more than boots times; gone() ends it early."""
        deadline = time.monotonic() + timeout
        with self.news:
            while len(self.boots) <= boots:
                if self.closed or gone():
                    raise ChannelError("QEMU ended while the guest booted")
                if time.monotonic() > deadline:
                    raise ChannelError(f"the guest did not come up within {timeout:g} s")
                self.news.wait(0.2)

    def send(self, line: str, timeout: float = 10) -> None:
        """Sends one request and waits until the agent took it."""
        with self.turn:
            with self.news:
                before = self.acks
                boots = len(self.boots)
            try:
                self.sock.sendall(line.encode() + b"\n")
            except OSError as gone:
                raise ChannelError(f"QEMU is gone: {gone}") from gone
            with self.news:
                self.news.wait_for(lambda: self.acks > before or self.closed
                                   or len(self.boots) > boots, timeout)
                if self.acks == before:
                    raise ChannelError("QEMU is gone" if self.closed else
                                       f"the guest's agent is silent for {timeout:g} s")

    def start(self, command: str) -> Job:
        """Starts a shell command in the guest."""
        with self.news:
            self.count += 1
            job = Job(self, f"j{self.count}", command)
            self.jobs[job.ident] = job
        text = base64.b64encode(command.encode()).decode()
        for at in range(0, len(text), LINE):
            self.send("A " + text[at:at + LINE])
        self.send("R " + job.ident)
        return job

    def close(self) -> None:
        """Ends the connection."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()
