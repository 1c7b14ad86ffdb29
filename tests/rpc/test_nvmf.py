# SPDX-License-Identifier: BSD-3-Clause
"""The nvmf_* methods of snap_target: good calls and wrong ones, lists, the command line, the saved configuration."""
import json
import socket
import subprocess

import pytest

from snap import RpcError, program
from target import Target

NQN = "nqn.2026-01.org.example:disks"
HOST = "nqn.2026-01.org.example:host1"
DISCOVERY = "nqn.2014-08.org.nvmexpress.discovery"
UUID = "11111111-2222-4333-8444-555555555555"
NGUID, EUI64 = "0123456789abcdef0123456789abcdef", "0011223344556677"


def wipe(target):
    for ss in target.rpc("nvmf_get_subsystems")[1:]:
        target.rpc("nvmf_delete_subsystem", nqn=ss["nqn"])
    for b in target.rpc("bdev_get_bdevs"):
        target.rpc("bdev_null_delete", name=b["name"])


@pytest.fixture(scope="module")
def program_(tmp_path_factory):
    with Target(tmp_path_factory.mktemp("target")) as t:
        t.rpc("nvmf_create_transport", trtype="TCP")
        yield t


@pytest.fixture
def target(program_):
    """With a transport and nothing else."""
    yield program_
    assert program_.target.poll() is None, "it has died:\n" + program_.log("target")[-3000:]
    wipe(program_)


@pytest.fixture
def own(tmp_path):
    with Target(tmp_path) as t:
        yield t


def make_nulls(target, *names):
    for name in names:
        target.rpc("bdev_null_create", name=name, block_size=512, num_blocks=2048)


@pytest.fixture
def subsystem(target):
    target.rpc("nvmf_create_subsystem", nqn=NQN, ana_reporting=True)
    make_nulls(target, "Null0", "Null1")
    return NQN


def address(port="0", traddr="127.0.0.1", **more):
    return {"trtype": "TCP", "adrfam": "IPv6" if ":" in traddr else "IPv4", "traddr": traddr, "trsvcid": str(port), **more}


def listen(target, nqn=NQN, **more):
    target.rpc("nvmf_subsystem_add_listener", nqn=nqn, listen_address=address(), **more)
    return listed(target, nqn)["listen_addresses"][-1]


def listed(target, nqn=NQN):
    [ss] = target.rpc("nvmf_get_subsystems", nqn=nqn)
    return ss


def refused(target, code, words, method, **params):
    with pytest.raises(RpcError) as e:
        target.rpc(method, **params)
    assert e.value.code == code, e.value
    assert words in e.value.message, e.value


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", int(port)), timeout=5).close()
        return True
    except ConnectionRefusedError:
        return False


# ---- transport ----

def test_transport_with_its_defaults(target):
    [t] = target.rpc("nvmf_get_transports")
    assert t == {"trtype": "TCP", "max_queue_depth": 128, "max_io_qpairs_per_ctrlr": 127, "in_capsule_data_size": 4096,
                 "max_io_size": 131072, "io_unit_size": 131072, "max_aq_depth": 128, "num_shared_buffers": 512,
                 "buf_cache_size": 0, "dif_insert_or_strip": False, "zcopy": False, "c2h_success": True, "sock_priority": 0}
    assert target.rpc("nvmf_get_transports", trtype="tcp", tgt_name="any") == [t]
    refused(target, -19, "'RDMA'", "nvmf_get_transports", trtype="RDMA")
    refused(target, -17, "'TCP'", "nvmf_create_transport", trtype="TCP")


def test_transport_with_limits_of_ones_own(own):
    assert own.rpc("nvmf_get_transports") == []
    refused(own, -19, "no transport 'TCP'", "nvmf_get_transports", trtype="TCP")
    own.rpc("nvmf_create_subsystem", nqn=NQN)
    refused(own, -19, "nvmf_create_transport", "nvmf_subsystem_add_listener", nqn=NQN, listen_address=address())
    assert own.rpc("nvmf_get_stats")["poll_groups"][0]["transports"] == []
    limits = {"max_queue_depth": 64, "max_io_qpairs_per_ctrlr": 8, "in_capsule_data_size": 0, "max_io_size": 65536,
              "max_aq_depth": 32, "num_shared_buffers": 16, "c2h_success": False}
    assert own.rpc("nvmf_create_transport", trtype="tcp", io_unit_size=8192, zcopy=False, buf_cache_size=32,
                   **limits) is True
    [t] = own.rpc("nvmf_get_transports")
    assert {k: t[k] for k in limits} == limits
    own.kill_target()
    own.start_target()
    assert own.rpc("nvmf_get_transports") == [t]


@pytest.mark.parametrize("code, words, params", [
    (-32602, "'trtype' is missing", {"trtype": None}), (-95, "'RDMA'", {"trtype": "RDMA"}),
    (-32602, "'max_queue_depth' is 1, the limits are 2 to 1024", {"max_queue_depth": 1}),
    (-32602, "'max_io_qpairs_per_ctrlr'", {"max_io_qpairs_per_ctrlr": 1024}),
    (-32602, "'in_capsule_data_size'", {"in_capsule_data_size": 65537}),
    (-32602, "multiple of 16", {"in_capsule_data_size": 100}), (-32602, "'max_io_size'", {"max_io_size": 4096}),
    (-32602, "power of two", {"max_io_size": 12288}), (-32602, "'max_aq_depth'", {"max_aq_depth": 31}),
    (-95, "'zcopy'", {"zcopy": True}), (-95, "'buf_cache_size'", {"buf_cache_size": 7}),
    (-95, "'dif_insert_or_strip'", {"dif_insert_or_strip": True}), (-95, "'masked_oncs'", {"masked_oncs": ["x"]}),
    (-32602, "'bogus'", {"bogus": 1})])
def test_transports_that_are_refused(own, code, words, params):
    params = {k: v for k, v in {"trtype": "TCP", **params}.items() if v is not None}
    refused(own, code, words, "nvmf_create_transport", **params)
    assert own.rpc("nvmf_get_transports") == []


# ---- subsystems ----

def test_the_list_begins_with_the_discovery_subsystem(target):
    discovery = {"nqn": DISCOVERY, "subtype": "Discovery", "listen_addresses": [], "allow_any_host": True, "hosts": []}
    assert target.rpc("nvmf_get_subsystems") == [discovery]
    assert target.rpc("nvmf_get_subsystems", nqn=DISCOVERY) == [discovery]
    target.rpc("nvmf_create_subsystem", nqn=NQN)
    assert target.rpc("nvmf_get_subsystems", tgt_name="any") == [discovery, listed(target)]


def test_subsystem_with_its_defaults_and_all_members(target):
    assert target.rpc("nvmf_create_subsystem", nqn=NQN, serial_number="", model_number="", max_namespaces=0, min_cntlid=0) is True
    assert listed(target) == {
        "nqn": NQN, "subtype": "NVMe", "listen_addresses": [], "allow_any_host": False, "hosts": [],
        "serial_number": "0" * 20, "model_number": "OpenSNAP NVMe Target", "max_namespaces": 32, "min_cntlid": 1,
        "max_cntlid": 65519, "ana_reporting": False, "namespaces": []}
    target.rpc("nvmf_create_subsystem", nqn=NQN + "2", tgt_name="t", serial_number="SN1", model_number="Model",
               max_namespaces=1024, allow_any_host=True, ana_reporting=True, min_cntlid=5, max_cntlid=7)
    got = listed(target, NQN + "2")
    assert (got["serial_number"], got["model_number"], got["max_namespaces"], got["allow_any_host"], got["ana_reporting"],
            got["min_cntlid"], got["max_cntlid"]) == ("SN1", "Model", 1024, True, True, 5, 7)
    assert target.rpc("nvmf_delete_subsystem", nqn=NQN) is True
    assert [s["nqn"] for s in target.rpc("nvmf_get_subsystems")] == [DISCOVERY, NQN + "2"]


@pytest.mark.parametrize("code, words, params", [
    (-32602, "'nqn' is missing", {"nqn": None}), (-32602, "iqn.2026", {"nqn": "iqn.2026-01.org.example:disks"}),
    (-32602, "'nqn'", {"nqn": "nqn." + "x" * 220}), (-32602, "discovery", {"nqn": DISCOVERY}),
    (-32602, "'serial_number'", {"serial_number": "x" * 21}), (-32602, "'model_number'", {"model_number": "x" * 41}),
    (-32602, "serial_number", {"serial_number": "Nummer \u00e9"}),
    (-32602, "'max_namespaces'", {"max_namespaces": 1025}), (-32602, "cntlid 9 to 8", {"min_cntlid": 9, "max_cntlid": 8}),
    (-32602, "'max_cntlid'", {"max_cntlid": 65520}), (-95, "'passthrough'", {"passthrough": True}),
    (-95, "'admin_label'", {"admin_label": "x"}), (-32602, "'allow_any_host'", {"allow_any_host": "yes"})])
def test_subsystems_that_are_refused(target, code, words, params):
    params = {k: v for k, v in {"nqn": NQN, **params}.items() if v is not None}
    refused(target, code, words, "nvmf_create_subsystem", **params)
    assert len(target.rpc("nvmf_get_subsystems")) == 1


@pytest.mark.parametrize("method, params", [
    ("nvmf_delete_subsystem", {}), ("nvmf_get_subsystems", {}),
    ("nvmf_subsystem_add_ns", {"namespace": {"bdev_name": "Null0"}}), ("nvmf_subsystem_remove_ns", {"nsid": 1}),
    ("nvmf_subsystem_add_listener", {"listen_address": address()}),
    ("nvmf_subsystem_remove_listener", {"listen_address": address(4420)}),
    ("nvmf_subsystem_listener_set_ana_state", {"listen_address": address(4420), "ana_state": "optimized"}),
    ("nvmf_subsystem_get_listeners", {}), ("nvmf_subsystem_get_controllers", {}),
    ("nvmf_subsystem_add_host", {"host": HOST}), ("nvmf_subsystem_remove_host", {"host": HOST}),
    ("nvmf_subsystem_allow_any_host", {"allow_any_host": True})])
def test_a_subsystem_that_is_not_there_is_named(target, method, params):
    refused(target, -19, f"no subsystem '{NQN}': No such device", method, nqn=NQN, **params)


def test_a_subsystem_that_is_there_already(target, subsystem):
    refused(target, -17, NQN, "nvmf_create_subsystem", nqn=NQN)


# ---- namespaces ----

def test_namespaces(target, subsystem):
    add = dict(nqn=NQN)
    assert target.rpc("nvmf_subsystem_add_ns", **add, namespace={"bdev_name": "Null0", "nsid": 3}) == 3
    assert target.rpc("nvmf_subsystem_add_ns", **add, namespace={
        "bdev_name": "Null1", "nguid": NGUID, "eui64": EUI64, "uuid": UUID, "anagrpid": 2}, tgt_name="t") == 1
    [null0] = target.rpc("bdev_get_bdevs", name="Null0")
    assert null0["claimed"]
    assert listed(target)["namespaces"] == [
        {"nsid": 1, "bdev_name": "Null1", "name": "Null1", "nguid": NGUID.upper(), "eui64": EUI64.upper(), "uuid": UUID,
         "anagrpid": 2},
        {"nsid": 3, "bdev_name": "Null0", "name": "Null0", "uuid": null0["uuid"], "anagrpid": 3}]
    refused(target, -16, "Null0", "bdev_null_delete", name="Null0")
    assert target.rpc("nvmf_subsystem_remove_ns", nqn=NQN, nsid=3) is True
    assert [ns["nsid"] for ns in listed(target)["namespaces"]] == [1]
    assert not target.rpc("bdev_get_bdevs", name="Null0")[0]["claimed"]
    refused(target, -19, "no namespace 3", "nvmf_subsystem_remove_ns", nqn=NQN, nsid=3)
    target.rpc("nvmf_delete_subsystem", nqn=NQN)
    assert not target.rpc("bdev_get_bdevs", name="Null1")[0]["claimed"]


def test_a_disk_shown_twice_has_two_uuids(target, subsystem):
    for nsid in (1, 2):
        assert target.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "Null0"}) == nsid
    first, second = (ns["uuid"] for ns in listed(target)["namespaces"])
    assert first == target.rpc("bdev_get_bdevs", name="Null0")[0]["uuid"] != second


@pytest.mark.parametrize("code, words, namespace", [
    (-32602, "'namespace.bdev_name' is missing", None), (-32602, "'namespace.bdev_name' is missing", {}),
    (-32602, "'namespace' must be an object", "Null0"), (-32602, "'namespace.bdev_name'", {"bdev_name": "a/b"}),
    (-19, "no bdev 'None'", {"bdev_name": "None"}), (-17, "namespace 1", {"bdev_name": "Null1", "nsid": 1}),
    (-32602, "max_namespaces is 32", {"bdev_name": "Null1", "nsid": 33}),
    (-32602, "'namespace.nsid'", {"bdev_name": "Null1", "nsid": 1025}),
    (-32602, "anagrpid 33", {"bdev_name": "Null1", "anagrpid": 33}),
    (-32602, "'namespace.nguid' is '12'", {"bdev_name": "Null1", "nguid": "12"}),
    (-32602, "'namespace.eui64'", {"bdev_name": "Null1", "eui64": "g" * 16}),
    (-32602, "'namespace.uuid'", {"bdev_name": "Null1", "uuid": "x"}),
    (-32602, "'namespace.bogus'", {"bdev_name": "Null1", "bogus": 1}),
    (-95, "'namespace.hide_metadata'", {"bdev_name": "Null1", "hide_metadata": True}),
    (-95, "'namespace.ptpl_file'", {"bdev_name": "Null1", "ptpl_file": "/f"})])
def test_namespaces_that_are_refused(target, subsystem, code, words, namespace):
    target.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "Null0"})
    params = {} if namespace is None else {"namespace": namespace}
    refused(target, code, words, "nvmf_subsystem_add_ns", nqn=NQN, **params)
    assert len(listed(target)["namespaces"]) == 1


def test_a_full_subsystem(target):
    make_nulls(target, "Null0", "Null1")
    target.rpc("nvmf_create_subsystem", nqn=NQN, max_namespaces=1)
    target.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "Null0"})
    refused(target, -28, "max_namespaces is 1", "nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "Null1"})


# ---- hosts ----

def test_hosts(target, subsystem):
    assert target.rpc("nvmf_subsystem_add_host", nqn=NQN, host=HOST, tgt_name="t") is True
    refused(target, -17, HOST, "nvmf_subsystem_add_host", nqn=NQN, host=HOST)
    target.rpc("nvmf_subsystem_add_host", nqn=NQN, host=HOST + "2")
    assert listed(target)["hosts"] == [{"nqn": HOST}, {"nqn": HOST + "2"}]
    assert target.rpc("nvmf_subsystem_remove_host", nqn=NQN, host=HOST) is True
    refused(target, -19, HOST, "nvmf_subsystem_remove_host", nqn=NQN, host=HOST)
    assert listed(target)["hosts"] == [{"nqn": HOST + "2"}]
    refused(target, -32602, "'host'", "nvmf_subsystem_add_host", nqn=NQN)
    refused(target, -32602, "iqn.x", "nvmf_subsystem_add_host", nqn=NQN, host="iqn.x")
    refused(target, -95, "'dhchap_key'", "nvmf_subsystem_add_host", nqn=NQN, host=HOST, dhchap_key="key0")


def test_any_host(target, subsystem):
    assert target.rpc("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=True) is True
    assert listed(target)["allow_any_host"] is True
    target.rpc("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=False)
    assert listed(target)["allow_any_host"] is False
    refused(target, -32602, "'allow_any_host'", "nvmf_subsystem_allow_any_host", nqn=NQN)
    refused(target, -32602, "both", "nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=True, disable=True)


# ---- listeners ----

def test_listeners(target, subsystem):
    got = listen(target)
    assert got == address(got["trsvcid"]) and int(got["trsvcid"]) > 0 and accepts(got["trsvcid"])
    refused(target, -17, got["trsvcid"], "nvmf_subsystem_add_listener", nqn=NQN, listen_address=got)
    # Two subsystems at one address.
    target.rpc("nvmf_create_subsystem", nqn=NQN + "2")
    assert target.rpc("nvmf_subsystem_add_listener", nqn=NQN + "2", tgt_name="t", listen_address={
        "trtype": "tcp", "adrfam": "ipv4", "traddr": "127.0.0.1", "trsvcid": got["trsvcid"]}) is True
    assert target.rpc("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=got) is True
    assert listed(target)["listen_addresses"] == [] and accepts(got["trsvcid"])
    refused(target, -19, got["trsvcid"], "nvmf_subsystem_remove_listener", nqn=NQN, listen_address=got)
    target.rpc("nvmf_delete_subsystem", nqn=NQN + "2")
    assert not accepts(got["trsvcid"])


def test_ipv6_and_an_address_without_its_family(target, subsystem):
    target.rpc("nvmf_subsystem_add_listener", nqn=NQN, listen_address={"traddr": "0:0:0:0:0:0:0:1", "trsvcid": "0"})
    [got] = listed(target)["listen_addresses"]
    assert got == address(got["trsvcid"], "::1")
    # Removed under another spelling.
    target.rpc("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=address(got["trsvcid"], "0:0::1"))
    assert listed(target)["listen_addresses"] == []


@pytest.mark.parametrize("code, words, addr", [
    (-32602, "'listen_address.traddr' is missing", {"trtype": "TCP"}), (-95, "'RDMA'", address(trtype="RDMA")),
    (-32602, "'listen_address.adrfam' is 'ib'", address(adrfam="ib")), (-32602, "'localhost'", address(traddr="localhost")),
    (-32602, "'127.0.0.1' is no IPv6", address(adrfam="IPv6")), (-32602, "trsvcid '70000'", address("70000")),
    (-32602, "trsvcid 'http'", address("http")), (-32602, "'listen_address.trsvcid'", {"traddr": "127.0.0.1", "trsvcid": 4420}),
    (-32602, "'listen_address.bogus'", address(bogus=1)), (-32602, "'listen_address' must be an object", "127.0.0.1"),
    (-99, "192.0.2.1", address(traddr="192.0.2.1"))])
def test_addresses_that_are_refused(target, subsystem, code, words, addr):
    refused(target, code, words, "nvmf_subsystem_add_listener", nqn=NQN, listen_address=addr)
    assert listed(target)["listen_addresses"] == []


def test_a_port_that_is_taken(target, subsystem):
    with socket.create_server(("127.0.0.1", 0)) as s:
        refused(target, -98, "bind: Address already in use", "nvmf_subsystem_add_listener", nqn=NQN,
                listen_address=address(s.getsockname()[1]))


def states(target):
    return [[s["ana_state"] for s in entry["ana_states"]] for entry in target.rpc("nvmf_subsystem_get_listeners", nqn=NQN)]


def test_ana_states(target):
    target.rpc("nvmf_create_subsystem", nqn=NQN, ana_reporting=True, max_namespaces=3)
    first, second = listen(target), listen(target, ana_state="non_optimized")
    got = target.rpc("nvmf_subsystem_get_listeners", nqn=NQN)
    assert got[0] == {"address": first, "ana_states": [{"ana_group": g, "ana_state": "optimized"} for g in (1, 2, 3)]}
    assert got[1]["address"] == second
    assert states(target) == [["optimized"] * 3, ["non_optimized"] * 3]
    change = dict(nqn=NQN, listen_address=first)
    assert target.rpc("nvmf_subsystem_listener_set_ana_state", **change, ana_state="inaccessible", anagrpid=2) is True
    assert states(target)[0] == ["optimized", "inaccessible", "optimized"]
    target.rpc("nvmf_subsystem_listener_set_ana_state", **change, ana_state="non_optimized")
    assert states(target)[0] == ["non_optimized"] * 3
    method = "nvmf_subsystem_listener_set_ana_state"
    refused(target, -32602, "'ana_state' is 'lost'", method, **change, ana_state="lost")
    refused(target, -32602, "'ana_state' is missing", method, **change)
    refused(target, -32602, "anagrpid 4", method, **change, ana_state="optimized", anagrpid=4)
    refused(target, -19, "port 1", method, nqn=NQN, listen_address=address(1), ana_state="optimized")


def test_ana_states_need_ana_reporting(target):
    target.rpc("nvmf_create_subsystem", nqn=NQN)
    refused(target, -32602, "ana_reporting", "nvmf_subsystem_add_listener", nqn=NQN, listen_address=address(),
            ana_state="inaccessible")
    refused(target, -32602, "ana_reporting", "nvmf_subsystem_listener_set_ana_state", nqn=NQN, listen_address=listen(target),
            ana_state="inaccessible")


# ---- who is there ----

def test_controllers_and_statistics_of_nobody(target, subsystem):
    assert target.rpc("nvmf_subsystem_get_controllers", nqn=NQN, tgt_name="t") == []
    stats = target.rpc("nvmf_get_stats", tgt_name="t")
    assert stats["tick_rate"] == 10 ** 9
    [group] = stats["poll_groups"]
    assert group["name"] == "reactor_0" and group["transports"][0]["trtype"] == "TCP"
    for member in ("admin_qpairs", "io_qpairs", "current_admin_qpairs", "current_io_qpairs", "pending_bdev_io",
                   "completed_nvme_io"):
        assert group[member] == 0


def test_each_reactor_is_a_poll_group(tmp_path):
    with Target(tmp_path, ["-m", "3"]) as t:
        assert [g["name"] for g in t.rpc("nvmf_get_stats")["poll_groups"]] == ["reactor_0", "reactor_1"]


# ---- command line ----

def cli(target, *args):
    out = subprocess.run([program("snap_rpc"), "-s", str(target.rpc_socket), *map(str, args)], stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, timeout=30)
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stdout


def test_the_words_of_spdks_rpc_py(own):
    assert cli(own, "nvmf_create_transport", "-t", "TCP", "-u", 16384, "-m", 8, "-c", 8192, "-o") == "true\n"
    [t] = json.loads(cli(own, "nvmf_get_transports"))
    assert (t["max_io_qpairs_per_ctrlr"], t["in_capsule_data_size"], t["c2h_success"]) == (8, 8192, False)
    cli(own, "bdev_null_create", "Null0", 1, 512)
    assert cli(own, "nvmf_create_subsystem", NQN, "-a", "-s", "SN1", "-d", "Model", "-m", 8, "-r", "-i", 1, "-I", 9) == "true\n"
    assert cli(own, "nvmf_subsystem_add_ns", NQN, "Null0", "-n", 2, "-g", NGUID, "-e", EUI64, "-u", UUID, "-i", 1) == "2\n"
    cli(own, "nvmf_subsystem_add_listener", NQN, "-t", "tcp", "-f", "ipv4", "-a", "127.0.0.1", "-s", "0")
    cli(own, "nvmf_subsystem_add_listener", NQN, "--trtype", "tcp", "--traddr=127.0.0.1", "--trsvcid", "0", "-n", "inaccessible")
    cli(own, "nvmf_subsystem_add_host", NQN, HOST)
    [ss] = json.loads(cli(own, "nvmf_get_subsystems", NQN))
    assert ss == listed(own)
    assert ss["allow_any_host"] and ss["hosts"] == [{"nqn": HOST}]
    assert ss["namespaces"] == [{"nsid": 2, "bdev_name": "Null0", "name": "Null0", "nguid": NGUID.upper(),
                                 "eui64": EUI64.upper(), "uuid": UUID, "anagrpid": 1}]
    first, second = (a["trsvcid"] for a in ss["listen_addresses"])
    where = ["-t", "tcp", "-a", "127.0.0.1", "-s", first]
    cli(own, "nvmf_subsystem_listener_set_ana_state", NQN, *where, "-n", "non_optimized", "-g", 1)
    assert [states[0] for states in states(own)] == ["non_optimized", "inaccessible"]
    assert len(json.loads(cli(own, "nvmf_subsystem_get_listeners", NQN))) == 2
    assert json.loads(cli(own, "nvmf_subsystem_get_controllers", NQN)) == []
    assert "poll_groups" in json.loads(cli(own, "nvmf_get_stats"))
    cli(own, "nvmf_subsystem_allow_any_host", "-d", NQN)
    assert not listed(own)["allow_any_host"]
    cli(own, "nvmf_subsystem_allow_any_host", NQN, "-e")
    assert listed(own)["allow_any_host"]
    cli(own, "nvmf_subsystem_remove_host", NQN, HOST)
    cli(own, "nvmf_subsystem_remove_listener", NQN, *where)
    cli(own, "nvmf_subsystem_remove_ns", NQN, 2)
    assert [a["trsvcid"] for a in listed(own)["listen_addresses"]] == [second]
    cli(own, "nvmf_delete_subsystem", NQN)
    assert len(own.rpc("nvmf_get_subsystems")) == 1


def test_help_names_the_nested_members_and_what_is_missing(target):
    text = cli(target, "nvmf_subsystem_add_listener", "--help")
    assert "-a, --traddr TEXT" in text and "(in JSON: listen_address.traddr)" in text
    assert cli(target, "nvmf_subsystem_add_ns", "--help").startswith("usage: nvmf_subsystem_add_ns <nqn> <bdev_name> [options]")
    for args, words in ((["nvmf_subsystem_add_listener", NQN], "option --traddr is missing"),
                        (["nvmf_subsystem_add_ns", NQN], "argument <bdev_name> is missing"),
                        (["nvmf_subsystem_add_ns", NQN, "a", "-n", "x"], "--nsid: 'x'"),
                        (["nvmf_subsystem_add_ns", NQN, "a", "-n", 1, "-n", 2], "--nsid is given twice")):
        out = subprocess.run([program("snap_rpc"), "-s", str(target.rpc_socket), *map(str, args)], capture_output=True, text=True,
                             timeout=30)
        assert out.returncode == 2 and words in out.stderr


# ---- saved configuration ----

def everything(target):
    return [target.rpc(m) for m in ("nvmf_get_transports", "nvmf_get_subsystems")] + [
        target.rpc("nvmf_subsystem_get_listeners", nqn=ss["nqn"]) for ss in target.rpc("nvmf_get_subsystems")[1:]]


def restart(target):
    target.kill_target()
    target.start_target()
    assert "cannot restore" not in target.log("target"), target.log("target")


def test_kill_9_and_all_is_there_again(own):
    make_nulls(own, "Null0", "Null1", "Gone")
    own.rpc("nvmf_create_transport", trtype="TCP", max_queue_depth=64)
    own.rpc("nvmf_create_subsystem", nqn=NQN, serial_number="SN1", ana_reporting=True, max_namespaces=4)
    own.rpc("nvmf_create_subsystem", nqn=NQN + "/a%2", allow_any_host=True)
    own.rpc("nvmf_create_subsystem", nqn=NQN + ":gone", allow_any_host=True)
    for bdev in ("Null0", "Gone", "Null0", "Null1"):
        own.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": bdev, "nguid": NGUID if bdev == "Null1" else "0" * 32})
    first, second, third = (listen(own) for _ in range(3))
    own.rpc("nvmf_subsystem_add_listener", nqn=NQN + "/a%2", listen_address=first)
    own.rpc("nvmf_subsystem_add_listener", nqn=NQN + ":gone", listen_address=address())
    for host in (HOST, HOST + "2"):
        own.rpc("nvmf_subsystem_add_host", nqn=NQN, host=host)
    set_state = "nvmf_subsystem_listener_set_ana_state"
    own.rpc(set_state, nqn=NQN, listen_address=first, ana_state="inaccessible", anagrpid=2)
    own.rpc(set_state, nqn=NQN, listen_address=second, ana_state="inaccessible", anagrpid=2)
    own.rpc(set_state, nqn=NQN, listen_address=second, ana_state="non_optimized")
    own.rpc(set_state, nqn=NQN, listen_address=second, ana_state="optimized", anagrpid=3)
    before = everything(own)
    assert states(own) == [["optimized", "inaccessible", "optimized", "optimized"],
                           ["non_optimized", "non_optimized", "optimized", "non_optimized"], ["optimized"] * 4]
    assert len({ns["uuid"] for ns in listed(own)["namespaces"]}) == 4
    restart(own)
    assert everything(own) == before
    assert all(accepts(a["trsvcid"]) for a in (first, second, third))
    # What is taken away stays away, with all that was below it.
    own.rpc("nvmf_subsystem_remove_ns", nqn=NQN, nsid=2)
    own.rpc("bdev_null_delete", name="Gone")
    own.rpc("nvmf_subsystem_remove_host", nqn=NQN, host=HOST)
    own.rpc("nvmf_subsystem_remove_listener", nqn=NQN, listen_address=second)
    own.rpc("nvmf_subsystem_add_listener", nqn=NQN, listen_address=second)
    own.rpc("nvmf_delete_subsystem", nqn=NQN + ":gone")
    own.rpc("nvmf_subsystem_allow_any_host", nqn=NQN, allow_any_host=True)
    own.rpc("nvmf_subsystem_allow_any_host", nqn=NQN + "/a%2", allow_any_host=False)
    before = everything(own)
    assert listed(own)["allow_any_host"] and not listed(own, NQN + "/a%2")["allow_any_host"]
    assert states(own)[2] == ["optimized"] * 4
    restart(own)
    assert everything(own) == before
    own.rpc("nvmf_delete_subsystem", nqn=NQN)
    restart(own)
    assert [s["nqn"] for s in own.rpc("nvmf_get_subsystems")] == [DISCOVERY, NQN + "/a%2"]


def test_what_was_deleted_and_made_again_is_restored_in_the_new_order(own):
    own.rpc("nvmf_create_transport", trtype="TCP")
    own.rpc("nvmf_create_subsystem", nqn=NQN)
    for name in ("Null0", "Null1"):
        make_nulls(own, name)
        own.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": name})
    own.rpc("nvmf_delete_subsystem", nqn=NQN)
    own.rpc("bdev_null_delete", name="Null0")
    own.rpc("nvmf_create_subsystem", nqn=NQN)
    make_nulls(own, "Null0")
    own.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "Null0"})
    before = everything(own)
    restart(own)
    assert everything(own) == before


def test_a_port_that_is_taken_at_the_start_stays_saved(own):
    """It is named in the log; the rest is served; the next start tries again."""
    own.rpc("nvmf_create_transport", trtype="TCP")
    own.rpc("nvmf_create_subsystem", nqn=NQN)
    got = listen(own)
    own.kill_target()
    with socket.create_server(("127.0.0.1", int(got["trsvcid"]))):
        own.start_target()
        assert listed(own)["listen_addresses"] == []
        assert f"127.0.0.1:{got['trsvcid']}" in own.log("target") and "Address already in use" in own.log("target")
        own.kill_target()
    own.start_target()
    assert listed(own)["listen_addresses"] == [got]


def test_a_call_that_fails_saves_nothing(own):
    own.rpc("nvmf_create_transport", trtype="TCP")
    own.rpc("nvmf_create_subsystem", nqn=NQN)
    size = (own.state_dir / "config.journal").stat().st_size
    for method, params in (("nvmf_create_subsystem", {}), ("nvmf_subsystem_remove_ns", {"nsid": 1}),
                           ("nvmf_subsystem_add_ns", {"namespace": {"bdev_name": "x"}}),
                           ("nvmf_subsystem_remove_host", {"host": HOST}),
                           ("nvmf_subsystem_remove_listener", {"listen_address": address(1)})):
        with pytest.raises(RpcError):
            own.rpc(method, nqn=NQN, **params)
    assert (own.state_dir / "config.journal").stat().st_size == size


def test_discovery_and_silent_clients_do_no_harm(target, subsystem):
    """A client that connects and says nothing, and one that speaks HTTP."""
    port = int(listen(target)["trsvcid"])
    with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"GET / HTTP/1.0\r\n\r\n" + bytes(200))
        s.settimeout(5)
        while s.recv(4096):
            pass
        assert target.rpc("nvmf_subsystem_get_controllers", nqn=NQN) == []
        assert target.rpc("nvmf_delete_subsystem", nqn=NQN) is True
