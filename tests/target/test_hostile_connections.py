# SPDX-License-Identifier: BSD-3-Clause
"""Hosts that stall, never read, go away at any moment or come in thousands (E6): bounded, and nobody else notices."""
import os
import random
import resource
import socket
import struct
import time

import pytest
from nvme_tcp_host import SECONDS, Host, Queue
from nvme_tcp_pdu import ic_req
from nvme_tcp_wire import CMD, F_LAST, H2C_DATA

HOSTNQN = "nqn.2024-01.io.opensnap:h"


def silent(port, n, data=b""):
    """So many connections that say only this."""
    socks = []
    for _ in range(n):
        s = socket.create_connection(("127.0.0.1", port), SECONDS)
        socks.append(s)
        if data:
            s.sendall(data)
    return socks


def closed(s):
    """By the target; what is there is read first."""
    s.settimeout(SECONDS)
    try:
        while s.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


# ---- deadlines; they run side by side ----

def test_everything_has_a_deadline(target, connect, neighbour):
    """About 10 s each: no ICReq, half an ICReq, no Connect, half a Connect, half a PDU, half of the data, answers not taken."""
    half = ic_req()
    waiting = silent(target.port, 1) + silent(target.port, 1, half[:7]) + silent(target.port, 1, half[:127]) + \
        silent(target.port, 1, half)
    with Queue(target.port) as q:
        q.send_raw(q.built(CMD, bytes(64), bytes(1024))[:500])
        waiting.append(q.sock.dup())
    for cut in (1, 8, 40, 71, 72, 100):
        q = connect(io_queues=1).io[0]
        out = []
        q.send_raw, send_raw = out.append, q.send_raw
        q.start_write(0, bytes(512))
        send_raw(out[0][:cut])
        waiting.append(q.sock)
    q = connect(io_queues=1).io[0]
    q.answer_r2t = False
    q.start_write(0, bytes(65536))
    ask = q.wait_asked()
    q.send_raw(q.built(H2C_DATA, struct.pack("<HHIII", ask.cid, ask.ttag, 0, 65536, 0), bytes(65536), F_LAST)[:3000])
    waiting.append(q.sock)
    taker = connect(io_queues=1, depth=128, rcvbuf=4096).io[0]     # many more bytes than sockets take
    for _ in range(120):
        taker.start_read(0, 256)
    begin = time.monotonic()
    for s in waiting:
        assert closed(s)
    assert time.monotonic() - begin > 5
    target.settles(lambda: not peer_established(target, taker.sock.getsockname()[1]))


def peer_established(target, port):
    """/proc/net/tcp has the target's end of a connection from this port."""
    local, remote = f":{target.port:04X}", f":{port:04X}"
    with open("/proc/net/tcp", encoding="ascii") as f:
        for line in f:
            fields = line.split()
            if fields[1].endswith(local) and fields[2].endswith(remote):
                return fields[3] == "01"
    return False


def test_half_closed_connections_end(target, connect, neighbour):
    for how in (socket.SHUT_WR, socket.SHUT_RDWR):
        q = connect(io_queues=1).io[0]
        q.sock.shutdown(how)
        if how == socket.SHUT_WR:
            assert q.end() is None


def steps(port, nqn):
    """The life of a host, one step at a time."""
    q = Queue(port, begin=False)
    yield q, []
    q.send_raw(ic_req()[:50])
    yield q, []
    q.send_raw(ic_req()[50:])
    yield q, []
    q.recv_pdu()
    yield q, []
    q.start_connect(nqn, HOSTNQN, os.urandom(16))
    yield q, []
    q.close()
    h = Host(port, nqn, enable=False)
    yield h.admin, h.io
    h.enable()
    yield h.admin, h.io
    h.admin.start(0x0C)
    h.admin.start(0x06, cdw10=1, length=4096)
    yield h.admin, h.io
    h.admin.set_feature(7, 1 | 1 << 16)
    q = Queue(port)
    h.io.append(q)
    q.start_connect(nqn, h.hostnqn, h.hostid, qid=1, cntlid=h.cntlid)
    yield h.admin, h.io
    h.close()
    h = Host(port, nqn, io_queues=2)
    for q in h.io:
        q.answer_r2t = False
    h.io[0].start_write(0, bytes(65536))
    yield h.admin, h.io
    h.io[0].h2c(h.io[0].wait_asked(), 0, bytes(4096), False)
    yield h.admin, h.io
    for q in h.io:
        for i in range(20):
            q.start_read(8 * i, 256)
            q.start_write(8 * i, bytes(4096))
            q.start_write(8 * i, bytes(8192))
    yield h.admin, h.io
    h.admin.property_set(0x14, 0)
    yield h.admin, h.io


@pytest.mark.parametrize("how", ["reset", "close"])
def test_gone_at_every_step(target, neighbour, how):
    """Of the life of a host; all its connections, the admin queue first or last."""
    nqn, n = target.nqn("disk"), sum(1 for _ in steps(target.port, target.nqn("disk")))
    for stop in range(n):
        for admin_first in (True, False):
            life = steps(target.port, nqn)
            for _ in range(stop + 1):
                admin, io = next(life)
            for q in [admin, *io] if admin_first else [*io, admin]:
                getattr(q, how)()
            life.close()
    target.settles(lambda: not target.controllers(nqn))


def test_flood_of_silent_connections(target, connect, neighbour):
    """Bounded; other hosts go on, and new ones get in."""
    host, before = connect(io_queues=1), target.fds()
    socks = silent(target.port, 150) + silent(target.port, 150, ic_req()) + silent(target.port, 150, ic_req()[:9])
    host.io[0].works()
    assert target.fds() <= before + 300
    connect(io_queues=1).io[0].works()
    for s in socks:
        s.close()


def test_thousands_of_connects_leave_nothing(target, neighbour):
    nqn = target.nqn("disk")

    def some(n):
        for i in range(n):
            with Queue(target.port, begin=i % 3 > 0) as q:
                if i % 3 == 2:
                    q.start_connect(nqn, HOSTNQN, os.urandom(16))
                if i % 2:
                    q.reset()
        for _ in range(n // 20):
            with Host(target.port, nqn, io_queues=2) as h:
                h.io[0].works()

    some(300)
    target.no_more_sockets(neighbour.sockets)
    before = target.rss_bytes()
    some(1500)
    target.no_more_sockets(neighbour.sockets)
    if not os.environ.get("SANITIZER"):
        assert target.rss_bytes() < before + (8 << 20)


def test_no_descriptor_left(own_target):
    """It waits instead of spinning, goes on when there is one again, and those who are connected notice nothing."""
    t = own_target()
    with Host(t.port, t.nqn("disk"), io_queues=1) as host:
        soft, hard = resource.prlimit(t.target.pid, resource.RLIMIT_NOFILE)
        assert soft == hard, "it takes as many as it may have"
        resource.prlimit(t.target.pid, resource.RLIMIT_NOFILE, (t.fds() + 5, hard))
        socks = silent(t.port, 20)
        before, begin = cpu_seconds(t), time.monotonic()
        while time.monotonic() < begin + 1:
            host.io[0].works()
            time.sleep(0.02)
        assert cpu_seconds(t) - before < 0.6 * (time.monotonic() - begin)
        assert "Too many open files" in t.log("target")
        for s in socks:
            s.close()
        resource.prlimit(t.target.pid, resource.RLIMIT_NOFILE, (soft, hard))
        with Host(t.port, t.nqn("disk"), io_queues=1) as other:
            other.io[0].works()


def cpu_seconds(target):
    with open(f"/proc/{target.target.pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_log_stays_small(target, neighbour):
    """What a host can cause is said now and then, not each time."""
    size = len(target.log("target"))
    for _ in range(300):
        with Queue(target.port, begin=False) as q:
            q.send_raw(b"\xFF" * 8)
            q.end()
    assert len(target.log("target")) - size < 100 * 200


def test_a_busy_host_does_not_starve_others(connect, neighbour):
    q = connect(io_queues=1, depth=128).io[0]
    out = []
    send_raw, q.send_raw = q.send_raw, out.append
    for i in range(100):
        q.start_read(i)
    burst = b"".join(out)
    rounds = neighbour.rounds
    for _ in range(30):
        send_raw(burst)
        for cid in range(2, 102):
            q.wait(cid)
    neighbour.check()
    assert neighbour.rounds > rounds


# ---- noise ----

def mutate(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(min(len(data), 140))
        data[at] = rng.choice((0, 1, 0xFF, 0x7F, 0x80, data[at] ^ 1 << rng.randrange(8), rng.randrange(256)))
    if rng.random() < 0.2:
        del data[rng.randrange(len(data)):]
    return bytes(data)


def good_pdus(rng, q):
    """As a host would send them, but nobody waits for answers."""
    out = []
    q.send_raw = out.append
    for _ in range(rng.randrange(1, 6)):
        lba, n = rng.randrange(4000), rng.choice((1, 8, 20))
        kind = rng.randrange(6)
        if kind == 0:
            q.start_read(lba, n)
        elif kind == 1:
            q.start_write(lba, bytes(512 * n))
        elif kind == 2:
            q.start(9, 1, data=struct.pack("<IIQ", 0, n, lba), cdw11=4)
        elif kind == 3:
            q.start(rng.choice((0, 2, 6, 8, 9, 10, 12, 24, 0x7F)), rng.choice((0, 1, 4)), cdw10=rng.randrange(1 << 32), length=4096)
        elif kind == 4:
            q.send(H2C_DATA, struct.pack("<HHIII", rng.randrange(8), rng.randrange(8), 512 * rng.randrange(4), 512, 0), bytes(512))
        else:
            q.start_connect(q.subnqn, HOSTNQN, os.urandom(16), qid=rng.randrange(3))
    return out


@pytest.mark.parametrize("seed", range(6))
def test_random_pdus(target, neighbour, seed):
    """Mutations of good ones at every stage of a connection."""
    rng = random.Random(seed)
    hosts = [Host(target.port, target.nqn("disk"), io_queues=1)]
    try:
        for _ in range(40):
            stage, digests = rng.randrange(4), rng.random() < 0.3
            if stage == 0:
                with Queue(target.port, begin=False) as q:
                    q.send_raw(mutate(rng, ic_req()))
                continue
            if stage == 1:
                q = Queue(target.port, hdgst=digests, ddgst=digests)
            else:
                hosts.append(Host(target.port, target.nqn("disk"), io_queues=1, hdgst=digests, ddgst=digests))
                q = hosts[-1].io[0] if stage == 2 else hosts[-1].admin
            q.subnqn = target.nqn("disk")
            send_raw, pdus = q.send_raw, good_pdus(rng, q)
            send_raw(b"".join(mutate(rng, p) if rng.random() < 0.5 else p for p in pdus))
            if rng.random() < 0.5:
                q.close()
            else:
                q.reset()
        hosts[0].io[0].works()
        hosts[0].admin.works(0)
    finally:
        for h in hosts:
            h.close()


def test_noise(target, neighbour):
    rng = random.Random(7)
    for _ in range(100):
        with Queue(target.port, begin=False) as q:
            q.send_raw(rng.randbytes(rng.randrange(1, 600)))
        with Queue(target.port) as q:
            q.send_raw(bytes([4, 0, 72, 0]) + rng.randbytes(300))
