# SPDX-License-Identifier: BSD-3-Clause
"""What hosts see of a remote disk that comes back another: grown disks are told, other disks get no I/O."""
import struct
import time
import uuid

import pytest
from test_remote_fence import BESIDE, BLOCKS, LBA, NEW, content, two_hosts, wait, wait_ended

MORE = 16384    # blocks; before: 8192


def nvme_blocks(host):
    data = host.nvme.identify(0, nsid=1)
    return struct.unpack_from("<Q", data)[0]


def sizes(hosts):
    return nvme_blocks(hosts[0]), hosts[1].disk.config()["capacity"]


def away(snap, peer, how):
    peer.stop()
    if how == "restart":
        snap.kill_service()


def back(snap, peer, how):
    peer.start()
    if how == "restart":
        snap.start_service()


@pytest.mark.parametrize("how", ["event", "reconnect", "restart"])
def test_a_disk_that_has_grown_reaches_the_hosts(tmp_path, how):
    with two_hosts(tmp_path) as (peer, snap, hosts):
        assert sizes(hosts) == (8192, 8192)
        if how == "event":
            wait(lambda: any(c.aers for c in peer.controllers.values()), "an event request")
            peer.resize(1, MORE)
            wait(lambda: any(c.aers for c in peer.controllers.values()), "the next event request")
            peer.resize(2, MORE)
        else:
            away(snap, peer, how)
            for ns in peer.namespaces:
                ns.resize(MORE)
            back(snap, peer, how)
        wait(lambda: sizes(hosts) == (MORE, MORE), "the hosts see the new size")
        wait_ended(hosts, [h.write(MORE - 1, NEW * 512) for h in hosts], "the last block is written")
        assert content(peer, 1, MORE - 1, 1) == content(peer, 2, MORE - 1, 1) == {NEW[0]}


def other_uuid(ns):
    ns.uuid = uuid.uuid4()


def other_nguid(ns):
    ns.nguid = bytes(range(16))


def shrunk(ns):
    ns.resize(4096)


@pytest.mark.parametrize("how", ["reconnect", "restart"])
@pytest.mark.parametrize("change,text", [(other_uuid, "UUID"), (other_nguid, "NGUID"), (shrunk, "capacity")])
def test_another_disk_is_refused_loudly_and_gets_nothing(tmp_path, change, text, how):
    with two_hosts(tmp_path) as (peer, snap, hosts):
        ns = peer.namespaces
        saved = [(n.uuid, n.nguid) for n in ns]
        away(snap, peer, how)
        for n in ns:
            change(n)
        before = peer.io_count()
        waiting = [h.write(LBA, BESIDE * 512 * BLOCKS) for h in hosts]
        back(snap, peer, how)

        def held():
            states = [b["driver_specific"]["nvme"][0] for b in snap.rpc("bdev_get_bdevs")]
            return all(s["state"] == "held" and text in s["held_because"] for s in states)

        wait(held, "both disks are held and the reason is shown")
        for n in ("Remoten1", "Remoten2"):
            assert f"bdev {n} (127.0.0.1:{peer.port}): NOT the namespace it was: " in snap.service_log()
        time.sleep(0.5)
        assert peer.io_count() == before and not any(h.ended(w) for h, w in zip(hosts, waiting))
        peer.stop()
        for n, (uid, nguid) in zip(ns, saved):
            n.uuid, n.nguid = uid, nguid
            n.resize(8192)
        peer.start()
        wait_ended(hosts, waiting, "the right disks are back, the writes end")
        assert content(peer, 1) == content(peer, 2) == {BESIDE[0]}
