# SPDX-License-Identifier: BSD-3-Clause
"""A small JSON-RPC client: one connection, values read back to back."""
import json
import socket
import time


class RpcError(Exception):
    def __init__(self, method, error):
        self.method, self.code, self.message = method, error.get("code"), error.get("message", "")
        super().__init__(f"{method}: {self.code} {self.message}")


class RpcTimeout(Exception):
    pass


class Client:
    def __init__(self, path, timeout=30.0):
        self.timeout = timeout
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(str(path))
        self.buffer = ""
        self.next_id = 1
        self.decoder = json.JSONDecoder()

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        if not isinstance(data, (bytes, bytearray)):
            data = json.dumps(data).encode()
        self.sock.sendall(data)

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def read_value(self, timeout=None):
        """The next JSON value, or None at the end of the stream."""
        deadline = time.monotonic() + (timeout or self.timeout)
        while True:
            self.buffer = self.buffer.lstrip()
            if self.buffer:
                try:
                    value, end = self.decoder.raw_decode(self.buffer)
                    self.buffer = self.buffer[end:]
                    return value
                except ValueError:
                    pass
            left = deadline - time.monotonic()
            if left <= 0:
                raise RpcTimeout("no answer in time")
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(65536)
            except socket.timeout:
                raise RpcTimeout("no answer in time") from None
            if not data:
                if self.buffer:
                    raise EOFError(f"stream ends inside a value: {self.buffer[:100]!r}")
                return None
            self.buffer += data.decode()

    def start(self, method, params=None):
        """Sends a request and returns its id; the answer is read by read_value()."""
        request = {"jsonrpc": "2.0", "method": method, "id": self.next_id}
        self.next_id += 1
        if params is not None:
            request["params"] = params
        self.send(request)
        return request["id"]

    def call(self, method, params=None, timeout=None):
        want = self.start(method, params)
        answer = self.read_value(timeout)
        if answer is None:
            raise EOFError(f"{method}: the connection was closed")
        assert answer.get("id") == want, answer
        if "error" in answer:
            raise RpcError(method, answer["error"])
        return answer["result"]
