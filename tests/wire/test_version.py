# SPDX-License-Identifier: BSD-3-Clause
"""VERSION: every client's form is answered in that client's terms."""
import struct
import time

import pytest
import vfio_user as v
from vfio_user import Disconnected, Timeout, VfioError, VfioUser


@pytest.mark.parametrize("minor,expected", [(0, 0), (1, 1), (7, 1), (0xffff, 1)])
def test_minor_is_the_smaller_of_the_two(path, minor, expected):
    with VfioUser(path, minor=minor) as c:
        assert c.server_version[:2] == (0, expected)
        c.device_info()


@pytest.mark.parametrize("minor", [0, 1])
def test_client_without_json_gets_json(path, minor):
    with VfioUser(path, json=None, minor=minor) as c:
        assert "max_msg_fds" in c.server_version[2]
        c.device_info()


def test_capabilities_are_those_clients_accept(path):
    with VfioUser(path) as c:
        caps = c.server_version[2]
    assert caps["max_msg_fds"] == 16
    assert caps["max_data_xfer_size"] == 1048576
    assert caps["max_dma_maps"] <= 65535
    assert caps["pgsizes"] == 4096
    assert caps["write_multiple"] is True
    assert not caps.get("twin_socket")


def test_unknown_capabilities_are_ignored(path):
    text = b'{"capabilities":{"max_msg_fds":1,"colour":"blue","twin_socket":{"supported":true}},"x":[1,2]}\0'
    with VfioUser(path, json=text) as c:
        c.device_info()


def refused(path, payload, command=v.VERSION):
    """Error reply or close; then the next client is served."""
    with VfioUser(path, minor=None) as c:
        with pytest.raises((VfioError, Disconnected)):
            c.call(command, payload, timeout=8)
        assert c.closed_within(8)
    with VfioUser(path) as c:
        c.device_info()


@pytest.mark.parametrize("text", [b"{", b"not json\0", b'{"capabilities":', b"[]\0", b'{"capabilities":7}\0',
                                  b'{"capabilities":{"max_msg_fds":-1}}\0', b'{"capabilities":{"max_msg_fds":"a"}}\0',
                                  b'{"capabilities":{"max_data_xfer_size":0}}\0',
                                  b'{"capabilities":{"max_msg_fds":1e400}}\0', b"\xff\xfe\0",
                                  b'{"capabilities":{}}'],
                         ids=lambda t: t.decode("latin1")[:24])
def test_bad_json_is_refused(path, text, neighbour):
    refused(path, struct.pack("=HH", 0, 0) + text)


def test_deep_and_huge_json_is_refused(path):
    refused(path, struct.pack("=HH", 0, 0) + b"[" * 4000 + b"\0")
    with VfioUser(path, minor=None) as c:
        try:
            c.call(v.VERSION, struct.pack("=HH", 0, 0) + b'{"a":"' + b"x" * (1 << 20) + b'"}\0', timeout=8)
        except (VfioError, Disconnected, Timeout, BrokenPipeError):
            pass
    with VfioUser(path) as c:
        c.device_info()


def test_major_other_than_0_is_refused(path):
    refused(path, struct.pack("=HH", 1, 0))


def test_first_message_other_than_version_is_refused(path):
    refused(path, struct.pack("=IIII", 16, 0, 0, 0), v.DEVICE_GET_INFO)
    refused(path, struct.pack("=QII", 0, v.CONFIG, 4), v.REGION_READ)


def test_version_too_short_is_refused(path):
    refused(path, b"")
    refused(path, b"\0\0")


def test_client_that_never_says_version_makes_room(path):
    """A silent one is dropped by a deadline, so that a VMM can come."""
    with VfioUser(path, minor=None) as silent:
        assert silent.closed_within(10)
    deadline = time.monotonic() + 5
    while True:
        try:
            with VfioUser(path):
                break
        except (VfioError, Disconnected, ConnectionError):
            assert time.monotonic() < deadline
            time.sleep(0.1)
