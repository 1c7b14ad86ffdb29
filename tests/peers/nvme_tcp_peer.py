#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""A small NVMe/TCP target in memory that can misbehave.

    with NvmeTcpPeer(namespaces=[PeerNamespace(1, blocks=65536)], hdgst=True) as peer:
        attach(peer.addr, peer.port, peer.nqn)
        peer.cut()              # all connections
        peer.fault = Fault("bad_ddgst", at=100)
        peer.catch(2)           # the next two writes are neither answered nor executed before peer.execute_late()
        assert not peer.violations      # what the host has done wrong

Standalone: nvme_tcp_peer.py --port 0 prints "PORT n" and serves until its stdin ends or a signal comes."""

import argparse
import collections
import itertools
import os
import random
import signal
import socket
import struct
import sys
import threading
import uuid as uuid_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from nvme_tcp_connection import Connection  # noqa: E402
from nvme_tcp_faults import FAULTS_ANY, FAULTS_READ, FAULTS_WRITE, Fault  # noqa: E402
from nvme_tcp_wire import DNR, Gone, Violation  # noqa: E402


DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"


def discovery_record(subnqn, traddr, trsvcid, trtype=3, adrfam=1, subtype=2):
    """An entry of the discovery log; texts may be bytes, which are taken as they are."""
    def text(value, size, pad):
        return (value if isinstance(value, bytes) else str(value).encode()).ljust(size, pad)[:size]
    return struct.pack("<BBBBHHHH20x32s192x256s256s256x", trtype, adrfam, subtype, 0, 1, 0xFFFF, 32, 0,
                       text(trsvcid, 32, b" "), text(subnqn, 256, b"\0"), text(traddr, 256, b" "))


class PeerNamespace:
    def __init__(self, nsid=1, blocks=65536, block_bytes=512, uuid=None, nguid=bytes(16), eui64=bytes(8)):
        self.nsid, self.block_bytes = nsid, block_bytes
        self.data = bytearray(blocks * block_bytes)
        self.uuid = uuid_module.uuid4() if uuid is None else uuid   # False: it has none
        self.nguid, self.eui64 = nguid, eui64
        self.active = True
        self.read_only = False

    @property
    def blocks(self):
        return len(self.data) // self.block_bytes

    def resize(self, blocks):
        want = blocks * self.block_bytes
        if want < len(self.data):
            del self.data[want:]
        else:
            self.data.extend(bytes(want - len(self.data)))


class Controller:
    def __init__(self, peer, cntlid, admin, kato):
        self.peer, self.cntlid, self.admin, self.kato = peer, cntlid, admin, kato
        self.path, self.discovery = admin.path, False
        self.cc = 0
        self.aers = []
        self.changed = set()
        self.event_masked = False
        self.keep_alives = 0
        self.event_due = self.ana_due = self.list_due = False

    def property(self, ofst):
        if ofst == 0x00:
            return (self.peer.mqes & 0xFFFF) | 1 << 16 | 20 << 24 | 1 << 37
        if ofst == 0x08:
            return self.peer.vs
        if ofst == 0x14:
            return self.cc
        if ofst == 0x1C:
            if self.peer.csts is not None:
                return self.peer.csts
            return (1 if self.cc & 1 else 0) | (8 if self.cc >> 14 & 3 else 0)
        return 0

    def send_events(self):
        with self.peer.lock:
            if not (self.event_due or self.ana_due or self.list_due) or not self.aers:
                return
            if self.event_due:
                self.event_due, dw0 = False, 0x00040002
            elif self.ana_due:
                self.ana_due, dw0 = False, 0x000C0302
            else:
                self.list_due, dw0 = False, 0x0070F002
            cid = self.aers.pop(0)
        try:
            self.admin.respond(cid, 0, dw0)
        except Gone:
            pass


class NvmeTcpPeer:
    def __init__(self, namespaces=None, nqn="nqn.2024-01.io.opensnap:peer", port=0, addr="127.0.0.1", hdgst=False,
                 ddgst=False, inline_bytes=8192, maxh2c=131072, cpda=0, success=None, r2t_bytes=0, c2h_bytes=0, mdts=5,
                 vwc=True, oncs=0x0C, queues=64, mqes=127, pad=0, dribble=0, cut_every=0, cut_with_rst=False,
                 vs=0x00010400, fault=None, seed=1, cqt=0, confirms=False, traffic_keep_alive=False, kas=10,
                 paths=1, ana=None):
        self.namespaces = namespaces if namespaces is not None else [PeerNamespace()]
        self.nqn, self.addr, self.port = nqn, addr, port
        self.hdgst, self.ddgst, self.inline_bytes, self.maxh2c = hdgst, ddgst, inline_bytes, maxh2c
        self.cpda, self.success, self.r2t_bytes, self.c2h_bytes = cpda, success, r2t_bytes, c2h_bytes
        self.mdts, self.vwc, self.oncs, self.queues, self.mqes, self.vs = mdts, vwc, oncs, queues, mqes, vs
        self.pad, self.dribble = pad, dribble       # extra padding before data; bytes per send call
        self.cut_every = cut_every                  # an I/O connection ends after about so many PDUs
        self.cut_with_rst = cut_with_rst
        self.fault = fault
        self.cqt, self.confirms, self.traffic_keep_alive, self.kas = cqt, confirms, traffic_keep_alive, kas
        self.ports = [port] + [0] * (paths - 1)     # a path is a port
        self.ana = ana                              # [{group: state} of each path]; a namespace's group is its NSID
        self.anatt = 10
        self.ana_patch = None                       # fn(bytearray): the log with its groups
        self.nanagrpid = None
        self.ana_reads = 0
        self.records, self.genctr = None, 1         # it is a discovery controller, too
        self.discovery_head = None                  # fn(bytearray): the header of the log
        self.catching, self.catch_where, self.catch_path = 0, None, None
        self.late = []                              # (hostid and hostnqn, namespace, pieces): to be executed late
        self.stored = collections.deque(maxlen=10000)   # (opcode, first block, when) of what was executed
        self.armed = None
        self.grant_unasked = self.silent_ic = self.drop_keep_alive = False
        self.pfv = 0
        self.csts = None
        self.admin_stall = set()                    # opcodes that are never answered
        self.admin_status = {}                      # opcode: status
        self.statuses = {}                          # I/O opcode: list of statuses to answer with
        self.identify_patch = None                  # fn(bytearray, cns, nsid)
        self.allow_hosts = None
        self.violations, self.term_reqs = [], []
        self.connections, self.controllers = [], {}
        self.counts, self.accepted, self.connects = {}, 0, 0
        self.path_counts = {}
        self.ddgst_errors = self.fua = 0
        self.hosts = []                             # (hostid, hostnqn) of each admin Connect
        self.lock = threading.RLock()
        self.random = random.Random(seed)
        self.cntlids = itertools.count(1)
        self.hold_io = False
        self.stopping = False
        self.listeners = {}
        self.threads = []

    # ---- life ----

    def start(self):
        self.stopping = False
        for path in range(len(self.ports)):
            self.open_path(path)
        self.port = self.ports[0]
        return self

    def open_path(self, path):
        listener = socket.socket(socket.AF_INET6 if ":" in self.addr else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.addr, self.ports[path]))
        self.ports[path] = listener.getsockname()[1]
        listener.listen(128)
        self.listeners[path] = listener
        threading.Thread(target=self._accept, args=(listener, path), daemon=True).start()

    def _accept(self, listener, path):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.accepted += 1
                c = Connection(self, sock, self.accepted, path)
                self.connections.append(c)
            threading.Thread(target=c.serve, daemon=True).start()

    def close_path(self, path):
        """Refuses new connections of the path and ends all there are."""
        listener = self.listeners.pop(path, None)
        if listener:
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listener.close()
        self.cut(path=path)

    def stop(self):
        """Refuses new connections and ends all there are. start() is possible again, on the same ports."""
        self.stopping = True
        for path in list(self.listeners):
            self.close_path(path)
        self.cut()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()

    def cut(self, rst=False, io_only=False, path=None):
        with self.lock:
            victims = [c for c in self.connections if (c.qid or not io_only) and path in (None, c.path)]
        for c in victims:
            c.reset() if rst else c.close()
        return len(victims)

    def closed(self, connection):
        with self.lock:
            if connection in self.connections:
                self.connections.remove(connection)
            if connection.ctrl and connection.qid == 0:
                self.controllers.pop(connection.ctrl.cntlid, None)
                others = [c for c in self.connections if c.ctrl is connection.ctrl]
            else:
                others = []
        for c in others:
            c.close()

    # ---- called by connections ----

    def connect(self, c, cid, qid, sqsize, cattr, kato, hostid, cntlid, subnqn, hostnqn):
        if c.qid is not None:
            raise Violation("a second Connect")
        discovery = subnqn == DISCOVERY_NQN and self.records is not None
        if subnqn != self.nqn and not discovery:
            c.respond(cid, 0x182 | DNR, 0x10000 | 256)
            return
        if self.allow_hosts is not None and hostnqn not in self.allow_hosts:
            c.respond(cid, 0x184 | DNR)
            return
        with self.lock:
            self.connects += 1
            if qid == 0:
                if cntlid != 0xFFFF:
                    raise Violation(f"CNTLID {cntlid:#x} in an admin Connect")
                if self.confirms:       # all commands of former associations end before the answer
                    self.execute_late((hostid, hostnqn))
                c.ctrl = Controller(self, next(self.cntlids), c, kato)
                c.ctrl.host, c.ctrl.discovery = (hostid, hostnqn), discovery
                self.controllers[c.ctrl.cntlid] = c.ctrl
                self.hosts.append((hostid, hostnqn))
            else:
                c.ctrl = self.controllers.get(cntlid)
                if not c.ctrl or qid > self.queues or sqsize > self.mqes or sqsize == 0:
                    c.ctrl = None
                elif not c.ctrl.cc & 1:
                    raise Violation("an I/O queue before CC.EN")
        if not c.ctrl:
            c.respond(cid, 0x182 | DNR, 42)
            return
        c.qid, c.sqsize, c.no_sqflow = qid, sqsize, bool(cattr & 4)
        if self.ctrl_qids(c).count(qid) > 1:
            raise Violation(f"queue {qid} is connected already")
        c.respond(cid, 0, c.ctrl.cntlid)

    def ctrl_qids(self, connection):
        with self.lock:
            return [c.qid for c in self.connections if c.ctrl is connection.ctrl]

    def namespace(self, nsid):
        for ns in self.namespaces:
            if ns.nsid == nsid and ns.active:
                return ns
        return None

    def identify(self, ctrl, cns, nsid):
        page = bytearray(4096)
        if cns == 1:
            struct.pack_into("<HH20s40s8s", page, 0, 0x1AF4, 0x1AF4, b"PEER0001".ljust(20), b"OpenSNAP test peer".ljust(40),
                             b"1".ljust(8))
            page[77] = self.mdts
            if self.ana:
                page[76], page[342], page[343] = 0x0A, self.anatt, 0x1F
                struct.pack_into("<II", page, 344, 1024, self.nanagrpid or len(self.namespaces))
            struct.pack_into("<HI", page, 78, ctrl.cntlid, self.vs)
            struct.pack_into("<II", page, 92, 1 << 8 | (1 << 11 if self.ana else 0), 1 << 6 if self.traffic_keep_alive else 0)
            page[111] = 1
            struct.pack_into("<H", page, 320, self.kas)
            struct.pack_into("<H", page, 386, self.cqt)
            page[512], page[513] = 0x66, 0x44
            struct.pack_into("<I", page, 516, 1024)
            struct.pack_into("<H", page, 520, self.oncs)
            page[525] = 1 if self.vwc else 0
            struct.pack_into("<I", page, 536, 1 | 1 << 20)
            if ctrl.discovery:
                page[111] = 2
                struct.pack_into("<I", page, 92, 1 << 31)
            nqn = DISCOVERY_NQN.encode() if ctrl.discovery else self.nqn.encode()
            page[768:768 + len(nqn)] = nqn
            struct.pack_into("<IIH", page, 1792, (64 + self.inline_bytes) // 16, 1, 0)
            if self.confirms:
                page[3072:3088] = b"OpenSNAP-fence-1"
        elif cns == 2:
            nsids = sorted(ns.nsid for ns in self.namespaces if ns.active and ns.nsid > nsid)[:1024]
            for i, n in enumerate(nsids):
                struct.pack_into("<I", page, 4 * i, n)
        elif cns == 0:
            ns = self.namespace(nsid)
            if ns:
                struct.pack_into("<QQQ", page, 0, ns.blocks, ns.blocks, ns.blocks)
                page[99] = 1 if ns.read_only else 0
                if self.ana:
                    struct.pack_into("<I", page, 92, nsid)
                page[104:120], page[120:128] = ns.nguid, ns.eui64
                page[130] = ns.block_bytes.bit_length() - 1
        elif cns == 3:
            ns = self.namespace(nsid)
            if not ns:
                return None
            at = 0
            for nidt, value in ((3, ns.uuid.bytes if ns.uuid else b""), (2, ns.nguid), (1, ns.eui64)):
                if any(value):
                    page[at:at + 4 + len(value)] = bytes([nidt, len(value), 0, 0]) + value
                    at += 4 + len(value)
        else:
            return None
        if self.identify_patch:
            self.identify_patch(page, cns, nsid)
        return bytes(page)

    # ---- discovery ----

    def discovery_log(self):
        head = bytearray(struct.pack("<QQH1006x", self.genctr, len(self.records), 0))
        if self.discovery_head:
            self.discovery_head(head)
        return bytes(head) + b"".join(self.records)

    def discovery_changed(self):
        with self.lock:
            controllers = [c for c in self.controllers.values() if c.discovery]
            for ctrl in controllers:
                ctrl.list_due = True
        for ctrl in controllers:
            ctrl.send_events()

    # ---- asymmetric access ----

    def ana_log(self, path):
        """Of groups only."""
        groups = sorted(self.ana[path].items())
        log = bytearray(struct.pack("<QH6x", 1, len(groups)))
        for group, state in groups:
            log += struct.pack("<IIQB15x", group, 0, 1, state)
        if self.ana_patch:
            self.ana_patch(log)
        self.ana_reads += 1
        return bytes(log)

    def ana_status(self, path, nsid):
        """What an I/O command is answered with."""
        return {3: 0x302, 4: 0x301, 15: 0x303}.get(self.ana[path].get(nsid)) if self.ana else None

    def set_ana(self, path, state, group=1, tell=True):
        with self.lock:
            self.ana[path][group] = state
            controllers = [c for c in self.controllers.values() if c.path == path]
            for ctrl in controllers:
                ctrl.ana_due = tell
        for ctrl in controllers:
            ctrl.send_events()

    def io_by_path(self):
        """Reads and writes executed so far, of each path."""
        with self.lock:
            return [self.path_counts.get(path, 0) for path in range(len(self.ports))]

    def count(self, opc):
        with self.lock:
            self.counts[opc] = self.counts.get(opc, 0) + 1

    def cut_now(self, _connection):
        return self.cut_every and self.random.random() < 1.0 / self.cut_every

    def fault_due(self, opc):
        with self.lock:
            fault = self.fault
            if not fault or fault.done or (fault.opc is not None and fault.opc != opc):
                return None
            fault.at -= 1
            if fault.at > 0:
                return None
            self.fault = None
            return fault

    def status_due(self, opc):
        with self.lock:
            left = self.statuses.get(opc)
            return left[0] if left else None

    def pop_status(self, opc):
        with self.lock:
            return self.statuses[opc].pop(0)

    # ---- called by tests ----

    def holding(self, connection, run):
        with self.lock:
            if not self.hold_io:
                return False
            connection.held.append(run)
            return True

    def hold(self):
        """I/O commands are taken and not answered until release()."""
        with self.lock:
            self.hold_io = True

    def release(self):
        with self.lock:
            self.hold_io = False
            todo = [(c, c.held) for c in self.connections]
            for c, _ in todo:
                c.held = []
        for c, held in todo:
            try:
                for run in held:
                    run()
            except (Gone, Violation):
                c.close()

    def held(self):
        with self.lock:
            return sum(len(c.held) for c in self.connections)

    def catch(self, count=1, where=None, path=None):
        """The next writes, zeroes and deallocations (of those for which where(opcode, first block) holds) are accepted, never
        answered, and executed late: by execute_late(), whatever has become of their connection."""
        with self.lock:
            self.catching, self.catch_where, self.catch_path = count, where, path

    def catches(self, connection, opc, ns, pieces):
        if not self.catching or self.catch_path not in (None, connection.path) or \
                (self.catch_where and not self.catch_where(opc, pieces[0][0] // ns.block_bytes)):
            return False
        self.catching -= 1
        self.late.append((connection.ctrl.host, ns, pieces))
        return True

    def execute_late(self, host=None):
        """Executes what was caught (of one host). Returns how many commands."""
        with self.lock:
            mine = [entry for entry in self.late if host in (None, entry[0])]
            for entry in mine:
                self.late.remove(entry)
                for at, data in entry[2]:
                    entry[1].data[at:at + len(data)] = data
        return len(mine)

    def namespaces_changed(self, *nsids):
        """Tells every controller that asked for it."""
        with self.lock:
            controllers = list(self.controllers.values())
            for ctrl in controllers:
                ctrl.changed.update(nsids)
                ctrl.event_due = True
        for ctrl in controllers:
            ctrl.send_events()

    def resize(self, nsid, blocks):
        with self.lock:
            for ns in self.namespaces:
                if ns.nsid == nsid:
                    ns.resize(blocks)
        self.namespaces_changed(nsid)

    def io_count(self):
        with self.lock:
            return sum(self.counts.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--addr", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4420)
    parser.add_argument("--nqn", default="nqn.2024-01.io.opensnap:peer")
    parser.add_argument("--namespaces", type=int, default=1)
    parser.add_argument("--mib", type=int, default=64, help="of each namespace")
    parser.add_argument("--block-bytes", type=int, default=512)
    parser.add_argument("--uuid", help="of the first namespace")
    for flag in ("hdgst", "ddgst", "cut-with-rst"):
        parser.add_argument("--" + flag, action="store_true")
    parser.add_argument("--success", choices=("always", "never", "auto"), default="auto", help="C2H SUCCESS flag")
    for name, default in (("inline-bytes", 8192), ("maxh2c", 131072), ("cpda", 0), ("r2t-bytes", 0), ("c2h-bytes", 0),
                          ("mdts", 5), ("queues", 64), ("mqes", 127), ("pad", 0), ("dribble", 0), ("cut-every", 0)):
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--fault", help="NAME[:AT], one of " + ", ".join(FAULTS_READ + FAULTS_WRITE + FAULTS_ANY))
    args = parser.parse_args()
    blocks = (args.mib << 20) // args.block_bytes
    spaces = [PeerNamespace(i + 1, blocks, args.block_bytes,
                            uuid_module.UUID(args.uuid) if args.uuid and i == 0 else None) for i in range(args.namespaces)]
    fault = None
    if args.fault:
        name, _, at = args.fault.partition(":")
        fault = Fault(name, int(at or 1))
    peer = NvmeTcpPeer(spaces, args.nqn, args.port, args.addr, args.hdgst, args.ddgst, args.inline_bytes, args.maxh2c,
                       args.cpda, {"always": True, "never": False, "auto": None}[args.success], args.r2t_bytes,
                       args.c2h_bytes, args.mdts, queues=args.queues, mqes=args.mqes, pad=args.pad,
                       dribble=args.dribble, cut_every=args.cut_every, cut_with_rst=args.cut_with_rst, fault=fault)
    peer.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"PORT {peer.port}", flush=True)
    try:
        while os.read(0, 4096):
            pass
    except KeyboardInterrupt:
        pass
    for v in peer.violations:
        print(f"violation: {v}", file=sys.stderr)
    peer.stop()
    return 1 if peer.violations else 0


if __name__ == "__main__":
    sys.exit(main())
