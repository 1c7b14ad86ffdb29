# SPDX-License-Identifier: BSD-3-Clause
"""A TCP connection that can be cut: a listener on 127.0.0.1 that hands everything on to another port."""
import socket
import struct
import threading


class TcpProxy:
    def __init__(self, port):
        self.to = ("127.0.0.1", int(port))
        self.lock = threading.Lock()
        self.pairs, self.threads = set(), []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._start(self._accept)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def _start(self, fn, *args):
        thread = threading.Thread(target=fn, args=args, daemon=True)
        thread.start()
        self.threads.append(thread)

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self.to, timeout=5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            for s in (near, far):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (near, far)
            with self.lock:
                self.pairs.add(pair)
            self._start(self._pump, pair, near, far)
            self._start(self._pump, pair, far, near)

    def _pump(self, pair, source, sink):
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            pass
        self._end(pair)

    def _end(self, pair):
        """Both sides are told by a reset, once; what was under way is lost."""
        with self.lock:
            if pair not in self.pairs:
                return
            self.pairs.remove(pair)
        for s in pair:
            try:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.shutdown(socket.SHUT_RD)  # wakes the thread that reads
            except OSError:
                pass
            s.close()

    def cut(self):
        """Ends all connections; new ones are taken."""
        with self.lock:
            pairs = list(self.pairs)
        for pair in pairs:
            self._end(pair)
        return len(pairs)

    def stop(self):
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        self.cut()
        for thread in self.threads:
            thread.join(10)


class GentleProxy(TcpProxy):
    """What is behind never sees a reset, however the host goes: what was under way arrives, and then the end. QEMU's user
    networking does not bear more: a reset while its buffer towards the guest is full ends it by an assertion (soread)."""

    def _pump(self, pair, source, sink):
        near, far = pair
        dropping = False
        while True:
            try:
                data = source.recv(1 << 18)
                if not data:
                    break
                if not dropping:
                    sink.sendall(data)
            except OSError:
                if source is near or dropping:
                    break
                dropping = True     # the host is gone: what the far side still says is for nobody
        self._shutdown(sink, socket.SHUT_WR)
        if source is near:
            return                  # the other thread ends it, when the far side has
        with self.lock:
            self.pairs.discard(pair)
        for s in pair:
            self._shutdown(s, socket.SHUT_RDWR)
            s.close()

    @staticmethod
    def _shutdown(sock, how):
        try:
            sock.shutdown(how)
        except OSError:
            pass
