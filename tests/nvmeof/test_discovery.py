# SPDX-License-Identifier: BSD-3-Clause
"""A discovery attaches what a discovery controller lists and follows its changes; a list that lies ends nothing but its own
connection; and multipath with our own target, under a load that verifies."""
import struct
import time

import pytest

from nvme_tcp_peer import NvmeTcpPeer, PeerNamespace, discovery_record
from snap import RpcError, Snap
from target import Target
from test_snap_target import BLOCKS, NQN, TOPOLOGY, perf_end, perf_start

OTHER = "nqn.2026-01.org.example:more"
# Targets that confirm the end of associations are waited for until a path is made anew: little may overlap.
VERIFY = ("--rw", "randrw", "--verify", "--depth", 8, "--range", BLOCKS, "--bs", "4k")


def listener(port="0"):
    return {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(port)}


def listen(target, nqn=NQN, **how):
    """A new listener; returns its port."""
    before = ports(target, nqn)
    target.rpc("nvmf_subsystem_add_listener", nqn=nqn, listen_address=listener(), **how)
    [port] = set(ports(target, nqn)) - set(before)
    return port


def ports(target, nqn=NQN):
    return [a["trsvcid"] for a in target.rpc("nvmf_get_subsystems", nqn=nqn)[0]["listen_addresses"]]


def serve(target, nqn=NQN, bdev="Malloc0", listeners=2):
    target.rpc("bdev_malloc_create", name=bdev, block_size=512, num_blocks=BLOCKS)
    target.rpc("nvmf_create_subsystem", nqn=nqn, allow_any_host=True, ana_reporting=True)
    target.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": bdev})
    return [listen(target, nqn) for _ in range(listeners)]


@pytest.fixture
def target(tmp_path):
    with Target(tmp_path / "target") as t:
        t.rpc("nvmf_create_transport", trtype="TCP")
        yield t


@pytest.fixture
def snap(tmp_path):
    with Snap(tmp_path / "snap", topology=TOPOLOGY) as s:
        yield s


def discover(snap, port, name="D", **more):
    return snap.rpc("bdev_nvme_start_discovery", name=name, trtype="TCP", traddr="127.0.0.1", trsvcid=str(port),
                    **{"wait_for_attach": True, **more})


def attach(snap, port, **more):
    return snap.rpc("bdev_nvme_attach_controller", name="Remote", trtype="TCP", traddr="127.0.0.1", adrfam="IPv4",
                    trsvcid=str(port), subnqn=NQN, **more)


def found(snap):
    """{name: ports of its paths}"""
    return {c["name"]: sorted(p["trid"]["trsvcid"] for p in c["ctrlrs"]) for c in snap.rpc("bdev_nvme_get_controllers")}


def wait(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


# ---- our own target ----

def test_what_is_listed_is_attached_and_followed(target, snap):
    mine = serve(target)
    assert discover(snap, mine[0]) is True
    assert found(snap) == {"D0": sorted(mine)}
    assert [b["name"] for b in snap.rpc("bdev_get_bdevs")] == ["D0n1"]
    [info] = snap.rpc("bdev_nvme_get_discovery_info")
    assert (info["name"], info["trid"]["trsvcid"], info["connected"]) == ("D", mine[0], True)
    more = serve(target, OTHER, "Malloc1", listeners=1)
    wait(lambda: found(snap) == {"D0": sorted(mine), "D1": more}, "another subsystem")
    third = listen(target)
    wait(lambda: found(snap).get("D0") == sorted([*mine, third]), "another path")
    target.rpc("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=listener(mine[1]))
    wait(lambda: found(snap).get("D0") == sorted([mine[0], third]), "a path less")
    target.rpc("nvmf_delete_subsystem", nqn=OTHER)
    wait(lambda: found(snap) == {"D0": sorted([mine[0], third])}, "a subsystem less")
    assert snap.rpc("bdev_nvme_stop_discovery", name="D") is True
    assert found(snap) == {} and snap.rpc("bdev_get_bdevs") == [] and snap.rpc("bdev_nvme_get_discovery_info") == []
    with pytest.raises(RpcError):
        snap.rpc("bdev_nvme_stop_discovery", name="D")


def test_a_disk_in_use_stays_and_comes_back(target, snap):
    mine = serve(target, listeners=1)
    other = serve(target, OTHER, "Malloc1", listeners=1)
    discover(snap, other[0])
    wait(lambda: len(found(snap)) == 2, "both")
    [name] = [n for n, p in found(snap).items() if p == mine]
    snap.nvme_disk(f"{name}n1")
    with pytest.raises(RpcError) as e:
        snap.rpc("bdev_nvme_stop_discovery", name="D")
    assert e.value.code == -16 and f"{name}n1" in str(e.value)
    target.rpc("nvmf_delete_subsystem", nqn=NQN)
    wait(lambda: "is listed no more, but" in snap.service_log(), "it is said")
    assert found(snap)[name] == mine


def test_kill_9_of_the_service_with_two_paths_and_a_discovery(target, snap):
    """The disk is there at once, with the target away; the paths and the discovery are, too."""
    mine = serve(target)
    discover(snap, mine[0])
    snap.rpc("bdev_nvme_set_multipath_policy", name="D0n1", policy="active_active", rr_min_io=2)
    snap.nvme_disk("D0n1")
    load = perf_start(snap.vfio_socket(), *VERIFY, "--runtime", 4)
    for _ in range(2):
        time.sleep(1)
        snap.kill_service()
        snap.start_service()
        assert found(snap) == {"D0": sorted(mine)}
    r = perf_end(load)
    assert r["reads"] > 100 and r["writes"] > 100
    [b] = snap.rpc("bdev_get_bdevs", name="D0n1")
    assert (b["driver_specific"]["mp_policy"], b["driver_specific"]["rr_min_io"]) == ("active_active", 2)
    third = listen(target)
    wait(lambda: found(snap) == {"D0": sorted([*mine, third])}, "changes are followed again")
    assert "cannot restore" not in snap.service_log()


def test_a_discovery_that_finds_nobody_in_time_ends(snap):
    with pytest.raises(RpcError) as e:
        discover(snap, 1, attach_timeout_ms=300)
    assert e.value.code == -110
    wait(lambda: snap.rpc("bdev_nvme_get_discovery_info") == [], "it has ended")
    assert discover(snap, 1, wait_for_attach=False) is True
    with pytest.raises(RpcError) as e:
        discover(snap, 1)
    assert e.value.code == -17
    assert snap.rpc("bdev_nvme_stop_discovery", name="D") is True


# ---- two listeners under load ----

@pytest.mark.parametrize("digests", [{}, {"hdgst": True, "ddgst": True}])
def test_access_changes_and_listeners_go_under_load(target, tmp_path, digests):
    with Snap(tmp_path / "snap", topology=TOPOLOGY, mask="3") as snap:
        first, second = serve(target)
        assert attach(snap, first, num_io_queues=4, **digests) == ["Remoten1"]
        assert attach(snap, second, multipath="multipath", num_io_queues=4, **digests) == ["Remoten1"]
        assert found(snap) == {"Remote": sorted([first, second])}
        snap.rpc("bdev_nvme_set_multipath_policy", name="Remoten1", policy="active_active")
        snap.nvme_disk("Remoten1")
        load = perf_start(snap.vfio_socket(), *VERIFY, "--queues", 2, "--zeroes", 5, "--flush", 1, "--runtime", 6)

        def state(port, ana):
            target.rpc("nvmf_subsystem_listener_set_ana_state", nqn=NQN, listen_address=listener(port), ana_state=ana)

        def used():
            return {p["transport"]["trsvcid"]: (p["connected"], p["accessible"], p["current"])
                    for p in snap.rpc("bdev_nvme_get_io_paths", name="Remoten1")["poll_groups"][0]["io_paths"]}

        for ana, want in (("inaccessible", (True, False, False)), ("non_optimized", (True, True, False)),
                          ("optimized", (True, True, True))):
            state(first, ana)
            wait(lambda: used()[first] == want, ana)
            assert used()[second] == (True, True, True)
            time.sleep(0.3)
        target.rpc("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=listener(first))
        wait(lambda: used()[first][0] is False, "its connection is lost")
        time.sleep(0.3)
        target.rpc("nvmf_subsystem_add_listener", nqn=NQN, listen_address=listener(first))
        wait(lambda: used()[first] == (True, True, True), "it is back")
        r = perf_end(load)
        assert r["reads"] > 100 and r["writes"] > 100


def test_paths_by_rpc(target, snap):
    first, second = serve(target)
    attach(snap, first)
    with pytest.raises(RpcError) as e:
        attach(snap, second, multipath="disable")
    assert e.value.code == -17
    attach(snap, second)                            # failover is the default
    [b] = snap.rpc("bdev_get_bdevs")
    [c] = snap.rpc("bdev_nvme_get_controllers")
    assert [p["trid"] for p in b["driver_specific"]["nvme"]] == [p["trid"] for p in c["ctrlrs"]]
    assert b["driver_specific"]["mp_policy"] == "active_passive"
    cntlid = c["ctrlrs"][1]["cntlid"]
    assert snap.rpc("bdev_nvme_set_preferred_path", name="Remoten1", cntlid=cntlid) is True
    for bad in ({"policy": "any"}, {"policy": "active_passive", "rr_min_io": 4}, {"policy": "active_active", "selector": "x"},
                {"policy": "active_active", "selector": "queue_depth", "rr_min_io": 4}):
        with pytest.raises(RpcError):
            snap.rpc("bdev_nvme_set_multipath_policy", name="Remoten1", **bad)
    snap.nvme_disk("Remoten1")                      # in use: one path may go, the last one not
    assert snap.rpc("bdev_nvme_detach_controller", name="Remote", trsvcid=first) is True
    assert found(snap) == {"Remote": [second]}
    with pytest.raises(RpcError) as e:
        snap.rpc("bdev_nvme_detach_controller", name="Remote", trsvcid=second)
    assert e.value.code == -16
    snap.kill_service()
    snap.start_service()                            # the path that was the first is not saved any more
    assert found(snap) == {"Remote": [second]}


# ---- lists that lie ----

RECORD = {"subnqn": "nqn.2024-01.io.opensnap:peer", "traddr": "127.0.0.1"}


@pytest.fixture
def liar(snap):
    with NvmeTcpPeer(namespaces=[PeerNamespace(1, blocks=2048)], confirms=True) as peer:
        peer.records = [discovery_record(trsvcid=peer.port, **RECORD)]
        yield peer


@pytest.mark.parametrize("lie,text", [("count", "records, more than 1024"), ("format", "unknown format 7"),
                                      ("restless", "changes while it is read"), ("not one", "not a discovery controller")])
def test_a_log_that_cannot_be(snap, liar, lie, text):
    if lie == "count":
        liar.discovery_head = lambda head: struct.pack_into("<Q", head, 8, 1 << 60)
    elif lie == "format":
        liar.discovery_head = lambda head: struct.pack_into("<H", head, 16, 7)
    elif lie == "restless":
        def count_on(head):
            liar.genctr += 1
        liar.discovery_head = count_on
    else:
        liar.identify_patch = lambda page, cns, nsid: page.__setitem__(111, 1)
    discover(snap, liar.port, wait_for_attach=False)
    wait(lambda: text in snap.service_log(), text)
    assert found(snap) == {}
    liar.discovery_head = liar.identify_patch = None
    wait(lambda: len(found(snap)) == 1, "attached when the lie is over")
    assert liar.violations == []


@pytest.mark.parametrize("lie", [
    {"subnqn": b"n" * 256}, {"subnqn": b""}, {"subnqn": b"nqn\x07"}, {"traddr": b"1" * 256}, {"traddr": b"not an address"},
    {"trsvcid": b"0"}, {"trsvcid": b"4420 4420"}, {"trsvcid": b"9" * 32}, {"adrfam": 9}, {"trtype": 77}, {"trtype": 1},
    {"subtype": 1}, {"subtype": 200}], ids=lambda lie: "-".join(f"{k}-{str(v)[:12]}" for k, v in lie.items()))
def test_a_record_that_cannot_be_is_left_out_and_others_are_not(snap, liar, lie):
    liar.records.insert(0, discovery_record(**{"trsvcid": liar.port, **RECORD, **lie}))
    discover(snap, liar.port)
    assert found(snap) == {"D0": [str(liar.port)]}
    assert liar.violations == []


def test_a_short_log_and_a_subsystem_that_is_not_there(snap, liar):
    """NUMREC beyond what is given: records of zeroes. And the others are attached all the same."""
    liar.records.insert(0, discovery_record(subnqn="nqn.2024-01.io.opensnap:away", traddr="127.0.0.1", trsvcid=1))
    liar.discovery_head = lambda head: struct.pack_into("<Q", head, 8, 9)
    discover(snap, liar.port)
    assert found(snap) == {"D0": [str(liar.port)]} or found(snap) == {"D1": [str(liar.port)]}
    assert "cannot attach" in snap.service_log()
    liar.records = []
    liar.genctr += 1
    liar.discovery_changed()
    wait(lambda: found(snap) == {}, "nothing is listed any more")
    assert liar.violations == []
