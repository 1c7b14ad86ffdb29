# SPDX-License-Identifier: BSD-3-Clause
"""The socket: framing, limits, hostile input."""
import json
import os
import socket
import stat
import time

import pytest

VERSION = {"jsonrpc": "2.0", "method": "spdk_get_version", "id": 1}


def request(n, method="spdk_get_version", **params):
    r = {"jsonrpc": "2.0", "method": method, "id": n}
    if params:
        r["params"] = params
    return json.dumps(r).encode()


def resident_kib(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


def still_serves(snap):
    assert "version" in snap.rpc("spdk_get_version")


def expect_error(client, code, words=""):
    answer = client.read_value(10)
    assert answer["error"]["code"] == code, answer
    assert words in answer["error"]["message"], answer
    return answer


def test_answer_has_result_and_no_error_member(snap):
    with snap.client() as c:
        c.send(VERSION)
        answer = c.read_value()
    assert set(answer) == {"jsonrpc", "id", "result"}
    assert answer["jsonrpc"] == "2.0"


def test_request_without_delimiter_and_half_close(snap):
    with snap.client() as c:
        c.send(VERSION)
        c.half_close()
        assert c.read_value()["id"] == 1
        assert c.read_value() is None


def test_half_close_does_not_drop_a_deferred_answer(snap, null0):
    snap.nvme_disk("Null0")
    with snap.client() as c:
        c.send(request(7, "nvme_controller_destroy", ctrl_id="NVMeCtrl1"))
        c.half_close()
        assert c.read_value() == {"jsonrpc": "2.0", "id": 7, "result": True}
        assert c.read_value() is None


def test_byte_by_byte(snap):
    text = json.dumps({**VERSION, "id": "q\"}\\"}, indent="\t").encode() + b"\r\n"
    with snap.client() as c:
        for i in range(len(text)):
            c.send(text[i:i + 1])
        assert c.read_value()["id"] == "q\"}\\"


@pytest.mark.parametrize("between", [b"", b"\n", b" \r\n\t"])
def test_several_requests_in_one_write(snap, between):
    with snap.client() as c:
        c.send(between.join(request(n) for n in range(1, 41)))
        assert sorted(c.read_value()["id"] for _ in range(40)) == list(range(1, 41))


def test_many_pipelined_requests_are_all_answered(snap):
    count = 3000
    with snap.client() as c:
        c.send(b"".join(request(n) for n in range(count)))
        assert sorted(c.read_value()["id"] for _ in range(count)) == list(range(count))


def test_batch(snap):
    with snap.client() as c:
        c.send([{**VERSION, "id": n} for n in (3, "x", None)] + [{"jsonrpc": "2.0", "method": "nope", "id": 4}])
        answers = c.read_value()
    assert [a["id"] for a in answers] == [3, "x", None, 4]
    assert answers[3]["error"]["code"] == -32601


def test_batch_is_carried_out_in_order(snap):
    nqn = "nqn.2024-01.io.opensnap:batch"
    calls = [("bdev_null_create", {"name": "B0", "block_size": 512, "num_blocks": 8}),
             ("nvme_subsystem_create", {"nqn": nqn}),
             ("nvme_namespace_create", {"nqn": nqn, "bdev_name": "B0", "nsid": 1}),
             ("nvme_controller_create", {"nqn": nqn, "pf_id": 0, "suspended": True}),
             ("nvme_controller_attach_ns", {"ctrl_id": "NVMeCtrl1", "nsid": 1}),
             ("nvme_controller_resume", {"ctrl_id": "NVMeCtrl1"})]
    with snap.client() as c:
        c.send([{"jsonrpc": "2.0", "id": i, "method": m, "params": p} for i, (m, p) in enumerate(calls)])
        answers = c.read_value()
    assert [a["id"] for a in answers] == list(range(len(calls)))
    assert all("result" in a for a in answers), answers


def test_empty_batch_is_one_invalid_request(snap):
    with snap.client() as c:
        c.send(b"[]")
        answer = expect_error(c, -32600)
        assert answer["id"] is None
        c.send(VERSION)
        assert c.read_value()["id"] == 1


def test_batch_of_garbage(snap):
    with snap.client() as c:
        c.send(b"[1, {}, null]")
        answers = c.read_value()
    assert [a["error"]["code"] for a in answers] == [-32600] * 3


def test_notification_gets_no_answer(snap):
    with snap.client() as c:
        c.send({"jsonrpc": "2.0", "method": "spdk_get_version"})
        c.send([{"jsonrpc": "2.0", "method": "spdk_get_version"}])
        c.send(VERSION)
        assert c.read_value()["id"] == 1


@pytest.mark.parametrize("value", [0, -5, 2 ** 63 - 1, 1.5, "", "x" * 128, "ä€", None])
def test_id_comes_back_as_it_was(snap, value):
    with snap.client() as c:
        c.send({**VERSION, "id": value})
        answer = c.read_value()
    assert answer["id"] == value and type(answer["id"]) is type(value)
    assert "result" in answer


@pytest.mark.parametrize("value", ["x" * 129, True, [], {}])
def test_bad_id(snap, value):
    with snap.client() as c:
        c.send({**VERSION, "id": value})
        assert expect_error(c, -32600, "id")["id"] is None


@pytest.mark.parametrize("change", [{"jsonrpc": "1.0"}, {"jsonrpc": 2}, {"method": 5}, {"method": None},
                                    {"params": 5}, {"params": "x"}])
def test_bad_envelope(snap, change):
    with snap.client() as c:
        c.send({**VERSION, **change})
        assert expect_error(c, -32600)["id"] == 1
        c.send(VERSION)
        assert "result" in c.read_value()


def test_unknown_method(snap):
    with snap.client() as c:
        c.send(request(1, "no_such_method"))
        assert expect_error(c, -32601)["error"]["message"] == "Method not found"


@pytest.mark.parametrize("text", [
    b"hello", b"\"text\"", b"17", b"{]", b"{\"a\" 1}", b"}", b"\xff\xfe{}", b"{\"id\":1,\"method\":\"\xff\"}",
    b"{\"id\":1,\"method\":\"\xed\xa0\x80\"}", b"{\"id\":1,\"id\":2,\"method\":\"spdk_get_version\"}",
    b"{\"id\":99999999999999999999999,\"method\":\"spdk_get_version\"}",
    b"{\"id\":1e999,\"method\":\"spdk_get_version\"}",
    b"{\"id\":1,\"method\":\"spdk\\u0000x\"}", b"{\"id\":1,\x00}", b"[" * 100000,
    b"{\"a\":" * 100000, b"[" + b"1," * 9000 + b"1]",
])
def test_garbage_is_a_parse_error_and_ends_the_connection(snap, text):
    with snap.client() as c:
        try:
            c.send(text)
        except OSError:
            pass  # answered and closed before all was sent
        answer = expect_error(c, -32700)
        assert answer["id"] is None
        c.half_close()
        assert c.read_value() is None
    still_serves(snap)


def test_input_that_ends_inside_a_request(snap):
    with snap.client() as c:
        c.send(request(1)[:-1])
        c.half_close()
        expect_error(c, -32700)
        assert c.read_value() is None


def test_calls_before_the_garbage_are_answered(snap):
    with snap.client() as c:
        c.send(request(1) + request(2) + b"garbage" + request(3))
        answers = [c.read_value() for _ in range(3)]
    assert [a["id"] for a in answers] == [1, 2, None]


def test_request_of_almost_256_kib_is_decoded(snap):
    with snap.client() as c:
        c.send(request(1, "nvme_subsystem_create", nqn="n" * 250000))
        expect_error(c, -32602, "'nqn' has 250000 bytes, the limit is 223")


def test_request_beyond_256_kib_is_refused_and_memory_stays(snap):
    before = resident_kib(snap.service.pid)
    for _ in range(5):
        with snap.client() as c:
            try:
                c.send(b"{\"method\":\"" + b"x" * (1 << 20))
            except OSError:
                pass
            expect_error(c, -32700, "256 KiB")
    assert resident_kib(snap.service.pid) - before < 8192
    still_serves(snap)


def test_connections_are_limited_and_come_back(snap):
    clients = []
    try:
        for _ in range(64):
            clients.append(snap.client())
            clients[-1].call("spdk_get_version")
        with snap.client() as one_more:
            assert "too many connections" in one_more.read_value()["error"]["message"]
            assert one_more.read_value() is None
        clients[0].call("spdk_get_version")
        clients.pop().close()
        for _ in range(100):
            with snap.client() as c:
                c.send(VERSION)
                if "result" in c.read_value():
                    break
            time.sleep(0.02)
        else:
            pytest.fail("the free place was never given out")
    finally:
        for c in clients:
            c.close()


def test_a_thousand_connections(snap):
    before = len(os.listdir(f"/proc/{snap.service.pid}/fd"))
    for _ in range(1000):
        snap.client().close()
    deadline = time.monotonic() + 5
    while len(os.listdir(f"/proc/{snap.service.pid}/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(os.listdir(f"/proc/{snap.service.pid}/fd")) <= before
    still_serves(snap)


def test_client_that_never_reads_blocks_nobody_and_is_bounded(snap):
    before = resident_kib(snap.service.pid)
    silent = snap.client()
    silent.sock.setblocking(False)
    data = b"".join(request(n, "rpc_get_methods") for n in range(200))
    sent, deadline = 0, time.monotonic() + 3
    while time.monotonic() < deadline:
        try:
            sent += silent.sock.send(data[sent % len(data):])
        except BlockingIOError:
            break
    started = time.monotonic()
    for _ in range(20):
        still_serves(snap)
    assert time.monotonic() - started < 2
    assert resident_kib(snap.service.pid) - before < 16384
    silent.close()
    still_serves(snap)


def test_slow_reader_gets_everything(snap):
    with snap.client() as c:
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.send(b"".join(request(n, "rpc_get_methods") for n in range(100)))
        time.sleep(0.3)
        ids = [c.read_value()["id"] for _ in range(100)]
    assert sorted(ids) == list(range(100))


def test_client_that_leaves_while_a_call_runs(snap, null0):
    snap.nvme_disk("Null0")
    for _ in range(20):
        c = snap.client()
        c.send(request(1, "nvme_controller_suspend", ctrl_id="NVMeCtrl1"))
        c.send(request(2, "nvme_controller_resume", ctrl_id="NVMeCtrl1"))
        c.close()
    c = snap.client()
    c.send(request(1, "nvme_controller_destroy", ctrl_id="NVMeCtrl1"))
    c.close()
    deadline = time.monotonic() + 10
    while snap.rpc("nvme_controller_list") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert snap.rpc("nvme_controller_list") == []


def test_two_clients_racing_for_one_name(snap):
    clients = [snap.client() for _ in range(8)]
    for c in clients:
        c.send(request(1, "bdev_null_create", name="Race", block_size=512, num_blocks=8))
    answers = [c.read_value() for c in clients]
    for c in clients:
        c.close()
    assert sum("result" in a for a in answers) == 1
    assert all(a["error"]["code"] == -17 for a in answers if "error" in a)


def test_socket_is_private(snap):
    mode = os.stat(snap.rpc_socket).st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


def test_bytes_are_unicode_safe_in_errors(snap):
    with snap.client() as c:
        c.send(request(1, "nvme_controller_list", ctrl_id="ä/€"))
        expect_error(c, -32602, "ctrl_id")
