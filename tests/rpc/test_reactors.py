# SPDX-License-Identifier: BSD-3-Clause
"""framework_get_reactors: where the time of the I/O reactors goes."""
import subprocess
import time

import pytest

from snap import Snap, program
from target import Target


def spans(part, seconds=0.3):
    """What each reactor was busy and idle in a span of time, in seconds."""
    first = part.rpc("framework_get_reactors")
    time.sleep(seconds)
    second = part.rpc("framework_get_reactors")
    assert first["tick_rate"] == second["tick_rate"] > 10 ** 6
    assert [r["tid"] for r in first["reactors"]] == [r["tid"] for r in second["reactors"]]
    return [tuple((b[member] - a[member]) / first["tick_rate"] for member in ("busy", "idle"))
            for a, b in zip(first["reactors"], second["reactors"])]


def test_members(snap):
    [reactor] = snap.rpc("framework_get_reactors")["reactors"]
    assert set(reactor) == {"lcore", "tid", "busy", "idle", "in_interrupt", "lw_threads"}
    [thread] = reactor["lw_threads"]
    assert (thread["name"], thread["id"]) == ("reactor_0", 1) and int(thread["cpumask"], 16) > 0
    assert thread["elapsed"] == reactor["busy"] + reactor["idle"] > 0
    with open(f"/proc/{snap.service.pid}/task/{reactor['tid']}/comm") as comm:
        assert comm.read() == "reactor_0\n"


def test_every_reactor_of_the_mask_is_there(tmp_path):
    with Target(tmp_path, ["-m", "3"]) as t:
        reactors = t.rpc("framework_get_reactors")["reactors"]
        assert [r["lcore"] for r in reactors] == [0, 1]
        assert [r["lw_threads"][0]["cpumask"] for r in reactors] == ["1", "2"]
        assert all(idle > 0 for _, idle in spans(t))


@pytest.mark.parametrize("window", [0, 1_000_000])
def test_sleep_and_polling_in_vain_are_idle(tmp_path, window):
    with Snap(tmp_path, service_args=["--poll-window-us", window]) as snap:
        [(busy, idle)] = spans(snap)
        assert idle > busy >= 0
        assert busy + idle > 0.25  # the whole span, whoever else is on the CPU
        assert snap.rpc("framework_get_reactors")["reactors"][0]["in_interrupt"] is (window == 0)


def test_io_is_busy(tmp_path):
    with Snap(tmp_path) as snap:
        snap.rpc("bdev_null_create", name="Null0", block_size=512, num_blocks=2048)
        snap.nvme_disk()
        [(rest, _)] = spans(snap)
        load = subprocess.Popen([program("snap_perf"), "--socket", snap.vfio_socket(), "--depth", "64", "--bs", "4k",
                                 "--runtime", "10", "--json", "--quiet"], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while not snap.rpc("bdev_get_iostat")["bdevs"][0]["num_read_ops"]:
                assert load.poll() is None and time.monotonic() < deadline
            [(busy, _)] = spans(snap)
        finally:
            load.kill()
            load.wait()
    assert busy > 10 * rest
