# SPDX-License-Identifier: BSD-3-Clause
"""Namespaces, ANA states, hosts and listeners that change while hosts are at work."""
import struct
import threading

import pytest
from nvme_tcp_host import AER, DISCOVERY_NQN, Ended, Host, Queue
from snap import RpcError

INVALID_NS, LBA_RANGE, INACCESSIBLE = 0x0B, 0x80, 0x302
NS_NOTICE, ANA_NOTICE = 0x040002, 0x0C0302
PARAM, INVALID_HOST = 0x182, 0x184
OPTIMIZED, NON_OPTIMIZED, LOST = 1, 2, 3


@pytest.fixture
def ss(target, subsystem):
    """A subsystem with ANA, and disks to add to it."""
    nqn = subsystem(ana_reporting=True)
    for i in range(2):
        target.rpc("bdev_malloc_create", name=f"C{i}", block_size=512, num_blocks=4096)
    yield nqn
    target.rpc("nvmf_delete_subsystem", nqn=nqn)
    for i in range(2):
        target.rpc("bdev_malloc_delete", name=f"C{i}")


class Image:
    """A file whose size is that of the disk "Image", one namespace of a subsystem."""

    def __init__(self, target, path, nqn, blocks):
        self.target, self.path, self.nqn = target, path, nqn
        path.write_bytes(bytes(blocks * 512))
        target.rpc("bdev_aio_create", name="Image", filename=str(path), block_size=512)
        target.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": "Image"})

    def truncate(self, blocks):
        with self.path.open("r+b") as f:
            f.truncate(blocks * 512)

    def resize(self, blocks):
        self.truncate(blocks)
        self.target.rpc("bdev_aio_rescan", name="Image")

    def delete(self):
        self.target.rpc("nvmf_delete_subsystem", nqn=self.nqn)
        self.target.rpc("bdev_aio_delete", name="Image")


@pytest.fixture
def make_image(target, subsystem, connect, tmp_path):
    """make_image(blocks): an Image, deleted at the end, after the hosts."""
    made = []

    def make(blocks):
        made.append(Image(target, tmp_path / "image", subsystem(blocks=0), blocks))
        return made[-1]

    yield make
    connect.close()
    for image in made:
        image.delete()


@pytest.fixture
def change(target, ss):
    class Change:
        def add(self, nsid, bdev="C0", **how):
            return target.rpc("nvmf_subsystem_add_ns", nqn=ss, namespace={"bdev_name": bdev, "nsid": nsid, **how})

        def remove(self, nsid):
            return target.rpc("nvmf_subsystem_remove_ns", nqn=ss, nsid=nsid)

        def ana(self, state, group=None, port=None):
            how = {} if group is None else {"anagrpid": group}
            return target.rpc("nvmf_subsystem_listener_set_ana_state", nqn=ss, listen_address=target.address(port),
                              ana_state=state, **how)

    return Change()


class Load(threading.Thread):
    """Reads and writes a namespace all the time; the statuses that came."""

    def __init__(self, q, nsid):
        super().__init__(daemon=True)
        self.q, self.nsid, self.statuses, self.stopping, self.rounds, self.problem = q, nsid, set(), False, 0, None
        self.start()

    def run(self):
        try:
            while not self.stopping:
                cids = [self.q.start_write(i, bytes(512 * n), nsid=self.nsid) for i in (0, 9) for n in (1, 16, 256)]
                cids += [self.q.start_read(i, n, nsid=self.nsid) for i in (0, 9) for n in (1, 16, 256)]
                self.statuses |= {self.q.wait(cid).status for cid in cids}
                self.rounds += 1
        except Exception as e:
            self.problem = e

    def end(self):
        self.stopping = True
        self.join(60)
        assert self.problem is None and not self.is_alive(), self.problem
        return self.statuses


def test_a_namespace_that_is_added_is_there_at_once(ss, change, connect):
    host = connect(ss, io_queues=3)
    assert host.io[0].read(0, nsid=5).status == INVALID_NS
    change.add(5)
    for q in host.io:
        assert q.write(0, b"n" * 512, nsid=5).status == 0
    assert host.io[0].read(0, nsid=5).data == b"n" * 512
    change.remove(5)
    for q in host.io:
        assert q.read(0, nsid=5).status == INVALID_NS
        q.works()


def test_added_and_removed_under_load(ss, change, connect, neighbour):
    hosts = [connect(ss, io_queues=2) for _ in range(2)]
    loads = [Load(q, 5) for h in hosts for q in h.io]
    for i in range(30):
        change.add(5, bdev=f"C{i % 2}")
        change.remove(5)
    for load in loads:
        assert load.end() <= {0, INVALID_NS}
        assert load.rounds


def test_removed_while_data_are_awaited(ss, change, connect, neighbour):
    """The write fails, and removal does not wait for the host."""
    q = connect(ss, io_queues=1).io[0]
    q.answer_r2t = False
    change.add(5)
    cids = [q.start_write(8 * i, bytes(8192), nsid=5) for i in range(4)]
    # In the order of the commands: one that finds no namespace yet looks again, and is overtaken.
    asks = sorted((q.wait_asked() for _ in cids), key=lambda ask: cids.index(ask.cid))
    q.h2c(asks[0], 0, bytes(4096), False)
    q.works()
    change.remove(5)
    q.h2c(asks[0], 4096, bytes(4096), True)
    q.answer(asks[1], bytes(8192))
    assert q.wait(cids[0]).status == q.wait(cids[1]).status == INVALID_NS
    change.add(5, bdev="C1")        # another disk at the same place: not for those writes
    for ask in asks[2:]:
        q.answer(ask, b"w" * 8192)
    assert q.wait(cids[2]).status == q.wait(cids[3]).status == INVALID_NS
    assert not any(q.read(0, 64, nsid=5).data)


def test_removed_while_buffers_are_awaited(own_target):
    t = own_target(num_shared_buffers=1)
    t.rpc("bdev_malloc_create", name="C0", block_size=512, num_blocks=1024)
    t.rpc("nvmf_subsystem_add_ns", nqn=t.nqn("disk"), namespace={"bdev_name": "C0", "nsid": 5})
    with Host(t.port, t.nqn("disk"), io_queues=1) as host:
        q = host.io[0]
        q.answer_r2t = False
        first = q.start_write(0, bytes(8192))
        ask = q.wait_asked()
        cids = [q.start_write(0, bytes(8192), nsid=5), q.start_read(0, 16, nsid=5)]
        host.admin.works(0)
        t.rpc("nvmf_subsystem_remove_ns", nqn=t.nqn("disk"), nsid=5)
        q.answer_r2t = True
        q.answer(ask)
        assert q.wait(first).status == 0
        assert [q.wait(cid).status for cid in cids] == [INVALID_NS] * 2
        q.works()


def test_resized_under_load(make_image, connect, neighbour):
    image = make_image(4096)
    host = connect(image.nqn, io_queues=2)
    host.admin.set_feature(0x0B, 0x100)
    load = Load(host.io[0], 1)
    q = host.io[1]
    for blocks in (8192, 2048, 1024, 16384):
        event = host.admin.start(AER)
        image.resize(blocks)
        assert host.admin.wait(event).dw0 == NS_NOTICE
        assert struct.unpack_from("<I", host.admin.log_page(4, 4096).data)[0] == 1
        assert struct.unpack_from("<Q", host.admin.identify(0, 1).data)[0] == blocks
        assert q.read(blocks - 1).status == 0 and q.read(blocks).status == LBA_RANGE
        assert q.write(blocks - 1, bytes(512)).status == 0 and q.write(blocks - 1, bytes(1024)).status == LBA_RANGE
    assert load.end() == {0}


def test_who_knows_of_more_blocks_may_deallocate_them_at_once(target, make_image, connect):
    """The ranges are data: the size is looked at when they are there, and a connection may learn of it later than its host."""
    image = make_image(1024)
    host = connect(image.nqn, io_queues=3)
    host.admin.set_feature(0x0B, 0x100)
    for i in range(60):
        event, blocks = host.admin.start(AER), 1024 * (i + 2)
        image.truncate(blocks)
        with target.client() as c:
            c.start("bdev_aio_rescan", {"name": "Image"})
            assert host.admin.wait(event).dw0 == NS_NOTICE
            for q in host.io:
                for length in (1, 200):     # with the capsule, and behind it
                    assert q.dsm([(blocks - 1, 1)] * length, inline=length == 1).status == 0
                assert q.dsm([(blocks, 1)]).status == LBA_RANGE
        host.admin.log_page(4, 4096)


def test_shrunk_while_data_are_awaited(make_image, connect):
    image = make_image(1024)
    q = connect(image.nqn, io_queues=1).io[0]
    q.answer_r2t = False
    cid = q.start_write(1000, bytes(12288))
    ask = q.wait_asked()
    image.resize(512)
    q.answer(ask)
    assert q.wait(cid).status == LBA_RANGE
    assert image.path.stat().st_size == 512 * 512


def test_disks_in_use_stay(target, subsystem):
    subsystem()
    with pytest.raises(RpcError):
        target.rpc("bdev_malloc_delete", name="M-s0")


# ---- ANA ----

def groups(host):
    """Group: state, namespaces."""
    page = host.admin.log_page(0x0C, 4096).data
    _, n = struct.unpack_from("<QH", page)
    found, at = {}, 16
    for _ in range(n):
        group, count, _, state = struct.unpack_from("<IIQB", page, at)
        found[group] = (state & 0xF, list(struct.unpack_from(f"<{count}I", page, at + 32)))
        at += 32 + 4 * count
    return found


def test_ana_states(target, ss, change, connect):
    change.add(2, bdev="C0")
    change.add(3, bdev="C1", anagrpid=2)
    host = connect(ss, io_queues=1)
    q = host.io[0]
    assert groups(host) == {1: (OPTIMIZED, [1]), 2: (OPTIMIZED, [2, 3])}
    host.admin.set_feature(0x0B, 0x800)
    event = host.admin.start(AER)
    change.ana("inaccessible", 2)
    assert host.admin.wait(event).dw0 == ANA_NOTICE
    assert groups(host) == {1: (OPTIMIZED, [1]), 2: (LOST, [2, 3])}
    for nsid, status in ((1, 0), (2, INACCESSIBLE), (3, INACCESSIBLE)):
        assert q.read(0, nsid=nsid).status == q.write(0, bytes(512), nsid=nsid).status == q.flush(nsid).status == status
        assert not q.read(0, nsid=nsid).dnr
    change.ana("non_optimized")
    assert groups(host) == {1: (NON_OPTIMIZED, [1]), 2: (NON_OPTIMIZED, [2, 3])}
    for nsid in (1, 2, 3):
        q.works(nsid)
    count = struct.unpack_from("<Q", host.admin.log_page(0x0C, 16).data)[0]
    change.ana("optimized", 1)
    page = host.admin.log_page(0x0C, 4096, lsp=1).data       # groups only
    assert struct.unpack_from("<Q", page)[0] > count
    assert struct.unpack_from("<II", page, 16) == (1, 0) and struct.unpack_from("<II", page, 48) == (2, 0)


def test_ana_states_are_those_of_a_port(target, ss, change, connect):
    other = target.listen(ss, ana_state="inaccessible")
    host = connect(ss, io_queues=1)
    with Host(other, ss, io_queues=1) as second:
        assert second.io[0].read(0).status == INACCESSIBLE and host.io[0].read(0).status == 0
        change.ana("inaccessible")
        change.ana("optimized", port=other)
        assert second.io[0].read(0).status == 0 and host.io[0].read(0).status == INACCESSIBLE
        assert groups(host) == {1: (LOST, [1])} and groups(second) == {1: (OPTIMIZED, [1])}
        change.add(7)
        assert second.io[0].read(0, nsid=7).status == 0
    change.remove(7)


def test_ana_changes_while_data_are_awaited(target, ss, change, connect):
    q = connect(ss, io_queues=1).io[0]
    q.answer_r2t = False
    cid = q.start_write(0, b"w" * 8192)
    ask = q.wait_asked()
    change.ana("inaccessible")
    assert q.read(0).status == INACCESSIBLE
    q.answer(ask)
    reply = q.wait(cid)
    assert (reply.status, reply.dnr) == (INACCESSIBLE, False)
    change.ana("optimized")
    assert not any(q.read(0, 16).data)


def test_ana_states_are_known_to_all_before_they_are_told(target, ss, change, connect):
    """The connections, before the RPC's answer and before the host's event."""
    for nsid in range(2, 33):
        target.rpc("bdev_null_create", name=f"Ana{nsid}", block_size=512, num_blocks=64)
        change.add(nsid, bdev=f"Ana{nsid}")
    host = connect(ss, io_queues=6)
    host.admin.set_feature(0x0B, 0x800)
    for i in range(100):
        lost = i % 2 == 0
        event = host.admin.start(AER)
        with target.client() as c:
            call = c.start("nvmf_subsystem_listener_set_ana_state", {"nqn": ss, "listen_address": target.address(),
                                                                    "ana_state": "inaccessible" if lost else "optimized"})
            if i % 4 < 2:
                assert host.admin.wait(event).dw0 == ANA_NOTICE
            else:
                assert c.read_value() == {"jsonrpc": "2.0", "id": call, "result": True}
            for cid, q in [(q.start_read(0, nsid=32), q) for q in reversed(host.io)]:
                assert q.wait(cid).status == (INACCESSIBLE if lost else 0)
            if i % 4 < 2:
                c.read_value()
            else:
                host.admin.wait(event)
        groups(host)
    host.close()
    target.rpc("nvmf_delete_subsystem", nqn=ss)
    for nsid in range(2, 33):
        target.rpc("bdev_null_delete", name=f"Ana{nsid}")
    target.rpc("nvmf_create_subsystem", nqn=ss)     # for who cleans up


def test_ana_flaps_under_load(target, ss, change, connect, neighbour):
    host = connect(ss, io_queues=2)
    loads = [Load(q, 1) for q in host.io]
    for i in range(40):
        change.ana(("inaccessible", "optimized", "non_optimized")[i % 3])
    change.ana("optimized")
    for load in loads:
        assert load.end() <= {0, INACCESSIBLE}
    assert host.io[0].read(0).status == 0


# ---- hosts ----

def test_hosts_that_are_admitted(target, subsystem, connect):
    nqn, friend = subsystem(allow_any_host=False), "nqn.2024-01.io.opensnap:friend"
    with Queue(target.port) as q:
        reply = q.connect(nqn, friend, bytes(16))
        assert reply.status == INVALID_HOST and reply.dnr
    target.rpc("nvmf_subsystem_add_host", nqn=nqn, host=friend)
    host = connect(nqn, hostnqn=friend, io_queues=1)
    for name in (friend + "x", friend[:-1], friend.upper()):
        with Queue(target.port) as q:
            assert q.connect(nqn, name, bytes(16)).status == INVALID_HOST
    target.rpc("nvmf_subsystem_remove_host", nqn=nqn, host=friend)
    assert host.admin.end() is None and host.io[0].end() is None
    with Queue(target.port) as q:
        assert q.connect(nqn, friend, bytes(16)).status == INVALID_HOST


def test_no_more_any_host_ends_those_not_named(target, subsystem, connect, neighbour):
    nqn, friend = subsystem(), "nqn.2024-01.io.opensnap:friend"
    target.rpc("nvmf_subsystem_add_host", nqn=nqn, host=friend)
    stays, goes = connect(nqn, hostnqn=friend, io_queues=1), connect(nqn, io_queues=1)
    target.rpc("nvmf_subsystem_allow_any_host", nqn=nqn, allow_any_host=False)
    assert goes.admin.end() is None
    stays.io[0].works()
    stays.admin.works(0)


# ---- listeners and subsystems ----

def test_a_listener_that_is_removed_ends_its_hosts(target, ss, connect, neighbour):
    other = target.listen(ss)
    stays = connect(ss, io_queues=1)
    with Host(other, ss, io_queues=1) as goes:
        target.rpc("nvmf_subsystem_remove_listener", nqn=ss, listen_address=target.address(other))
        assert goes.admin.end() is None and goes.io[0].end() is None
    stays.io[0].works()
    with pytest.raises(ConnectionRefusedError):
        Queue(other)


def test_the_last_listener_of_a_port_takes_discovery_along(target, ss):
    other = target.listen(ss)
    with Host(other, DISCOVERY_NQN, kato=60000) as goes, Host(target.port, DISCOVERY_NQN, kato=60000) as stays, Queue(other) as new:
        target.rpc("nvmf_subsystem_remove_listener", nqn=ss, listen_address=target.address(other))
        assert goes.admin.end() is None and new.end() is None
        stays.admin.works(0)


def test_the_port_of_others_stays(target, ss, connect):
    """One subsystem less at a shared port."""
    host, other = connect(ss, io_queues=1), connect(io_queues=1)
    target.rpc("nvmf_subsystem_remove_listener", nqn=ss, listen_address=target.address())
    assert host.admin.end() is None
    other.io[0].works()
    with Queue(target.port) as q:
        assert q.connect(ss, host.hostnqn, host.hostid).status == PARAM


@pytest.mark.parametrize("how", ["delete", "listener"])
def test_the_end_of_a_subsystem_under_load(target, subsystem, connect, neighbour, how):
    nqn = subsystem()
    hosts = [connect(nqn, io_queues=2) for _ in range(3)]
    loads = [Load(q, 1) for h in hosts for q in h.io]
    target.settles(lambda: all(load.rounds for load in loads))
    if how == "delete":
        target.rpc("nvmf_delete_subsystem", nqn=nqn)
        target.rpc("bdev_malloc_delete", name="M-s0")
    else:
        target.rpc("nvmf_subsystem_remove_listener", nqn=nqn, listen_address=target.address())
    for load in loads:
        load.join(60)
        assert isinstance(load.problem, Ended), load.problem
        assert load.statuses <= {0, INVALID_NS}
    if how == "listener":
        target.settles(lambda: not target.controllers(nqn))
    else:
        with Queue(target.port) as q:
            assert q.connect(nqn, "nqn.2024-01.io.opensnap:h", bytes(16)).status == PARAM


def test_deleted_while_data_are_awaited(target, subsystem, connect):
    nqn = subsystem()
    q = connect(nqn, io_queues=1).io[0]
    q.answer_r2t = False
    q.start_write(0, bytes(65536))
    q.h2c(q.wait_asked(), 0, bytes(1000), False)
    target.rpc("nvmf_delete_subsystem", nqn=nqn)
    assert q.end() is None


def test_configuration_and_hosts_at_once(target, subsystem, neighbour):
    """Connects and disconnects race with everything that can be changed."""
    nqn = subsystem()
    stopping, problems = [], []

    def come_and_go():
        try:
            while not stopping:
                try:
                    with Host(target.port, nqn, io_queues=2) as h:
                        for q in h.io:
                            q.start_write(0, bytes(65536))
                            q.start_read(0, 8)
                        h.io[0].read(0)
                except (Ended, AssertionError, ConnectionError):
                    pass
        except Exception as e:
            problems.append(e)

    threads = [threading.Thread(target=come_and_go, daemon=True) for _ in range(3)]
    for t in threads:
        t.start()
    for i in range(40):
        target.rpc("nvmf_subsystem_remove_ns", nqn=nqn, nsid=1)
        target.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": "M-s0", "nsid": 1})
        target.rpc("nvmf_subsystem_allow_any_host", nqn=nqn, allow_any_host=bool(i % 2))
        if i % 8 == 7:
            target.rpc("nvmf_subsystem_remove_listener", nqn=nqn, listen_address=target.address())
            target.listen(nqn, target.port)
    stopping.append(True)
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    assert not problems
    target.rpc("nvmf_subsystem_allow_any_host", nqn=nqn, allow_any_host=True)
    with Host(target.port, nqn, io_queues=1) as h:
        h.io[0].works()
