# SPDX-License-Identifier: BSD-3-Clause
"""Keep Alive, and the fence: a host that comes again gets its controller when the old one has ended or is alive."""
import os
import socket
import struct
import time

import pytest
from nvme_tcp_host import SECONDS, Host, Queue


def is_there(target, host):
    return host.cntlid in [c["cntlid"] for c in target.controllers(host.subnqn)]


def test_keep_alive_keeps_alive(target, connect):
    host = connect(io_queues=1, kato=500)
    for _ in range(15):
        assert host.admin.keep_alive().status == 0
        time.sleep(0.1)
    assert is_there(target, host)


def test_any_command_keeps_alive(target, connect):
    """TBKAS: traffic on any queue counts."""
    host = connect(io_queues=1, kato=500)
    assert struct.unpack_from("<I", host.admin.identify(1).data, 96)[0] & 1 << 6
    for _ in range(15):
        host.io[0].works()
        time.sleep(0.1)
    assert is_there(target, host)


def test_silence_ends_the_controller(target, connect, neighbour):
    host = connect(io_queues=2, kato=200)
    begin = time.monotonic()
    assert host.admin.end() is None
    assert all(q.end() is None for q in host.io)
    assert time.monotonic() - begin > 0.15
    target.settles(lambda: not is_there(target, host))
    assert "keep-alive timeout" in target.log("target")


def test_keep_alive_timeout_can_be_changed(target, connect):
    host = connect(kato=0)
    assert host.admin.set_feature(0x0F, 200).status == 0
    assert host.admin.end() is None
    host = connect(kato=300)
    assert host.admin.set_feature(0x0F, 0).status == 0
    time.sleep(1.5)
    host.admin.works(0)


@pytest.mark.parametrize("kato", [0xFFFFFFFF, 0xFFFFFFFF - 400, 0x80000000])
def test_the_longest_timeouts(target, connect, kato):
    """A sum that wraps would end them at once: while another Connect of the host waits, it is looked often."""
    host = connect(kato=kato)
    with Queue(target.port) as q:
        q.start_connect(host.subnqn, host.hostnqn, host.hostid)
        time.sleep(1)
        assert is_there(target, host)
        host.admin.works(0)


def test_connect_waits_for_a_sign_of_life(target, connect):
    host = connect(io_queues=1)
    with Queue(target.port) as q:
        cid = q.start_connect(host.subnqn, host.hostnqn, host.hostid)
        q.sock.settimeout(0.3)
        with pytest.raises(socket.timeout):
            q.wait(cid)
        q.sock.settimeout(SECONDS)
        host.io[0].works()          # it is another path
        assert q.wait(cid).status == 0
        host.io[0].works()


def test_connect_goes_on_when_the_old_connections_are_gone(target, connect):
    host = connect(io_queues=2)
    with Queue(target.port) as q:
        cid = q.start_connect(host.subnqn, host.hostnqn, host.hostid)
        host.io[0].close()
        host.io[1].reset()
        host.admin.close()
        assert q.wait(cid).status == 0
        assert not is_there(target, host)


def test_a_host_that_comes_again_at_once(target):
    hostid = os.urandom(16)
    for i in range(20):
        with Host(target.port, target.nqn("disk"), hostid=hostid, io_queues=2) as host:
            host.io[0].write(0, bytes([i]) * 512)
            host.io[1].start_write(0, bytes(65536))
            if i % 2:
                host.admin.reset()


def test_a_silent_one_ends_by_its_keep_alive_timeout(target, connect):
    host = connect(io_queues=1, kato=300)
    begin = time.monotonic()
    again = connect(hostnqn=host.hostnqn, hostid=host.hostid, kato=300)
    assert time.monotonic() - begin > 0.2
    assert not is_there(target, host) and is_there(target, again)
    assert host.admin.end() is None


@pytest.fixture
def slow(target, subsystem):
    """The NQN of a subsystem whose writes take 1.5 s."""
    nqn = subsystem(blocks=0)
    latency = {"avg_read_latency": 0, "p99_read_latency": 0, "avg_write_latency": 1500000, "p99_write_latency": 1500000}
    target.rpc("bdev_malloc_create", name="Base", block_size=512, num_blocks=64)
    target.rpc("bdev_delay_create", name="Slow", base_bdev_name="Base", **latency)
    target.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": "Slow"})
    yield nqn
    target.rpc("nvmf_delete_subsystem", nqn=nqn)
    target.rpc("bdev_delay_delete", name="Slow")
    target.rpc("bdev_malloc_delete", name="Base")


def test_a_host_that_waits_for_a_command_is_not_silent(target, connect, slow):
    """Linux sends no Keep Alive while it disconnects, and its shutdown comes behind its last write."""
    host = connect(slow, io_queues=1, kato=300)
    assert host.io[0].write(0, bytes(512)).status == 0
    host.admin.works(0)
    assert host.admin.end() is None  # behind it, silence counts again
    target.settles(lambda: not is_there(target, host))


def test_a_connect_that_waits_has_no_patience(target, connect, slow):
    """With a write under way, too: the old controller ends by the time that its host has set, and the write before the new one."""
    host = connect(slow, io_queues=1, kato=300)
    host.io[0].start_write(0, bytes(512))
    begin = time.monotonic()
    connect(slow, hostnqn=host.hostnqn, hostid=host.hostid, kato=20000)
    assert time.monotonic() - begin > 1
    assert host.admin.end() is None and host.io[0].end() is None
    target.settles(lambda: not is_there(target, host))


def kernel_timer(ours, its_port):
    """Of the target's end of a connection: "02" is the kernel's keep-alive, and the seconds until it is due."""
    def words(port):
        return f":{port:04X}"

    with open("/proc/net/tcp", encoding="ascii") as f:
        for line in f:
            _, local, remote, _, _, timer, *_ = line.split()
            if local.endswith(words(its_port)) and remote.endswith(words(ours)):
                kind, when = timer.split(":")
                return kind, int(when, 16) / os.sysconf("SC_CLK_TCK")
    return None


def test_without_keep_alive_the_kernel_looks_whether_a_host_is_there(target, connect):
    host = connect(io_queues=1)
    for q in (host.admin, host.io[0]):
        port = q.sock.getsockname()[1]
        target.settles(lambda: (kernel_timer(port, target.port) or ("", 0))[0] == "02")   # not still an acknowledgement
        target.settles(lambda: 0 < kernel_timer(port, target.port)[1] <= 10)


def test_a_silent_one_without_keep_alive_ends_too(target, connect, neighbour):
    host = connect(io_queues=1)
    again = connect(hostnqn=host.hostnqn, hostid=host.hostid)
    assert not is_there(target, host) and is_there(target, again)


def test_nobody_waits_for_another_host(target, connect):
    host = connect(io_queues=1)
    connect(hostnqn=host.hostnqn)
    connect(hostid=host.hostid, hostnqn="nqn.2024-01.io.opensnap:other")


def test_nobody_waits_in_another_subsystem(subsystem, connect):
    host = connect(io_queues=1)
    connect(subsystem(), hostnqn=host.hostnqn, hostid=host.hostid)


def test_those_who_wait_may_go_away(target, connect, neighbour):
    host = connect(io_queues=1, kato=20000)
    queues = [Queue(target.port) for _ in range(20)]
    for i, q in enumerate(queues):
        q.start_connect(host.subnqn, host.hostnqn, host.hostid)
        if i % 2:
            q.close()
    host.admin.works(0)
    for i, q in enumerate(queues):
        if i % 2 == 0:
            q.close()
    host.close()
    connect(hostnqn=host.hostnqn, hostid=host.hostid)


def test_those_who_wait_are_refused_when_the_subsystem_goes(target, subsystem, connect):
    nqn = subsystem()
    host = connect(nqn, kato=20000)
    with Queue(target.port) as q:
        cid = q.start_connect(nqn, host.hostnqn, host.hostid)
        host.admin.sock.settimeout(SECONDS)
        time.sleep(0.1)
        target.rpc("nvmf_delete_subsystem", nqn=nqn)
        assert q.wait(cid).status == 0x182


def test_a_second_connect_of_one_that_waits_breaks_the_sequence(target, connect):
    host = connect(kato=20000)
    with Queue(target.port) as q:
        for _ in range(2):
            q.start_connect(host.subnqn, host.hostnqn, host.hostid)
        assert q.end().fes == 2
    host.admin.works(0)


def test_identify_says_that_there_is_a_fence(admin):
    assert any(admin.identify(1).data[3072:])
