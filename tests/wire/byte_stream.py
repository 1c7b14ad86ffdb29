# SPDX-License-Identifier: BSD-3-Clause
"""A connected Unix socket on which messages and descriptors come: what the clients of both transports have in common."""
import array
import os
import select
import socket
import time


class Disconnected(Exception):
    """The server closed the connection."""


class Timeout(Exception):
    """The server did not answer."""


def connect(path, timeout):
    """A new controller's socket accepts clients a moment after the RPC's answer: a refusal counts when it lasts."""
    deadline = time.monotonic() + 0.5
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(path)
            return sock
        except OSError as e:
            sock.close()
            if not isinstance(e, ConnectionRefusedError) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


class ByteStream:
    """buffer and fds: what has come and belongs to no message yet."""

    def __init__(self, sock, timeout=10.0):
        self.sock, self.timeout = sock, timeout
        self.buffer, self.fds = b"", []
        sock.settimeout(timeout)

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send_raw(self, data, fds=()):
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
            if sent < len(data):
                self.sock.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError) as e:
            raise Disconnected from e
        except socket.timeout as e:
            raise Timeout from e

    def more(self, deadline):
        """Waits for bytes, and takes what is there."""
        self.sock.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data, ancillary, _, _ = self.sock.recvmsg(1 << 20, socket.CMSG_SPACE(4 * 64), socket.MSG_CMSG_CLOEXEC)
        except socket.timeout as e:
            raise Timeout from e
        except ConnectionResetError as e:
            raise Disconnected from e
        finally:
            self.sock.settimeout(self.timeout)
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(raw[:len(raw) - len(raw) % fds.itemsize])
                self.fds += list(fds)
        if not data:
            raise Disconnected
        self.buffer += data

    def silent(self, seconds=0.1):
        """True when nothing arrives for so long (and the connection stays open)."""
        return not self.buffer and not select.select([self.sock], [], [], seconds)[0]

    def closed_within(self, seconds):
        """True when the server closes within the time; messages before that are dropped."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self.more(deadline)
                self.buffer = b""
            except Disconnected:
                return True
            except Timeout:
                return False
        return False
