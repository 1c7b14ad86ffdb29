# SPDX-License-Identifier: BSD-3-Clause
"""A small QMP client: commands, and waiting for events."""

import json
import socket
import threading
import time


class QmpError(Exception):
    """QEMU refused a command or is gone."""


class Qmp:
    """One QMP connection. A thread reads; commands and waits come from the test."""

    def __init__(self, path: str, timeout: float = 10, gone=lambda: False):
        self.sock = _connect(path, timeout, gone)
        self.news = threading.Condition()
        self.answers = {}
        self.events = []
        self.last_id = 0
        self.closed = False
        threading.Thread(target=self._read, daemon=True).start()
        self.command("qmp_capabilities")

    def _read(self) -> None:
        try:
            for line in self.sock.makefile("r", encoding="utf-8"):
                self._sort(json.loads(line))
        except (OSError, ValueError):
            pass
        with self.news:
            self.closed = True
            self.news.notify_all()

    def _sort(self, message: dict) -> None:
        with self.news:
            if "event" in message:
                self.events.append(message)
            elif "id" in message:
                self.answers[message["id"]] = message
            self.news.notify_all()

    def command(self, execute: str, timeout: float = 10, **arguments):
        """Runs a command, returns what it returned. "_" in argument names stands for "-"."""
        arguments = {k.replace("_", "-"): v for k, v in arguments.items()}
        return self.raw(execute, arguments, timeout)

    def raw(self, execute: str, arguments: dict, timeout: float = 10):
        """Like command(), with the arguments as QEMU spells them."""
        with self.news:
            self.last_id += 1
            ident = self.last_id
        request = {"execute": execute, "arguments": arguments, "id": ident}
        try:
            self.sock.sendall(json.dumps(request).encode() + b"\n")
        except OSError as gone:
            raise QmpError(f"{execute}: QEMU is gone: {gone}") from gone
        with self.news:
            self.news.wait_for(lambda: self.closed or ident in self.answers, timeout)
            answer = self.answers.pop(ident, None)
        if answer is None:
            raise QmpError(f"{execute}: " + ("QEMU is gone" if self.closed else "no answer"))
        if "error" in answer:
            raise QmpError(f"{execute}: {answer['error'].get('desc')}")
        return answer["return"]

    def mark(self) -> int:
        """A point in the event history, for wait_event(since=...)."""
        with self.news:
            return len(self.events)

    def wait_event(self, name: str, timeout: float = 10, since: int = 0, **data) -> dict:
        """Waits for an event whose data holds the given values; earlier ones count."""
        deadline = time.monotonic() + timeout
        with self.news:
            while True:
                for event in self.events[since:]:
                    body = event.get("data", {})
                    if event["event"] == name and all(body.get(k) == v for k, v in data.items()):
                        return event
                left = deadline - time.monotonic()
                if self.closed or left <= 0 or not self.news.wait(left):
                    raise QmpError(f"no event {name} {data or ''} within {timeout} s")

    def close(self) -> None:
        """Ends the connection."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


def _connect(path: str, timeout: float, gone) -> socket.socket:
    deadline = time.monotonic() + timeout
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
            return sock
        except OSError as refused:
            sock.close()
            if gone() or time.monotonic() > deadline:
                raise QmpError(f"cannot connect to {path}: {refused}") from refused
            time.sleep(0.02)
