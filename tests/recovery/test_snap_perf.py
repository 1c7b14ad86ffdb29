# SPDX-License-Identifier: BSD-3-Clause
"""The instrument itself: it measures, and it names what a bad disk does."""
import json
import mmap
import os
import subprocess
import time

import pytest
from host import Load, RecoverySnap
from snap import program


def perf(*args, timeout=60):
    return subprocess.run([program("snap_perf"), *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout)


@pytest.fixture(scope="module")
def snap(tmp_path_factory):
    with RecoverySnap(tmp_path_factory.mktemp("perf")) as s:
        s.malloc_disk(0, 16384)
        s.image = s.file_disk(1, size=8 << 20)
        yield s


def test_help_names_every_option():
    result = perf("--help")
    assert result.returncode == 0
    for option in ("--socket", "--vuid", "--rw", "--bs", "--depth", "--queues", "--doorbells", "--verify", "--json",
                   "--kind", "--ring", "--no-indirect", "--no-event-idx", "--reconnect", "--reset-every"):
        assert option in result.stdout


@pytest.mark.parametrize("args,word", [
    ((), "--socket"), (("--socket", "a", "--vuid", "b"), "--socket"), (("--bs", "3q", "--vuid", "a"), "--bs"),
    (("--rw", "sideways", "--vuid", "a"), "--rw"), (("--depth", "0", "--vuid", "a"), "--depth"),
    (("--vuid", "a", "extra"), "extra"), (("--colour", "--vuid", "a"), "option"),
    (("--socket", "/nonexistent/cntrl"), "/nonexistent/cntrl"), (("--vuid", "x" * 200), "107")])
def test_wrong_use_is_explained_and_ends_with_2(args, word):
    result = perf(*args)
    assert result.returncode == 2 and word in result.stderr, result


@pytest.mark.parametrize("doorbells", ["trapped", "shadow", "mapped"])
def test_results_add_up(snap, doorbells):
    result = perf("--socket", snap.socket_of(0), "--rw", "randrw", "--bs", "4k", "--depth", 8, "--queues", 2, "--ios", 5000,
                  "--range", 4096, "--verify", "--doorbells", doorbells, "--json", "--seed", 42)
    assert result.returncode == 0, result.stderr
    r = json.loads(result.stdout)
    assert r["ok"] and r["ios"] == 5000 == r["reads"] + r["writes"] and r["errors"] == 0 and r["unfinished"] == 0
    assert r["bytes_read"] == 4096 * r["reads"] and r["read_latency"]["count"] == r["reads"]
    latency = r["read_latency"]
    assert 0 < latency["p50_us"] <= latency["p90_us"] <= latency["p99_us"] <= latency["max_us"]
    assert (r["queues"], r["depth"], r["doorbells"], r["seed"]) == (2, 8, doorbells, 42)
    assert r["kicks"] == 0 or doorbells != "mapped"
    assert r["kicks"] > 0 or doorbells != "trapped"
    assert 0 < r["interrupts"] <= 10000 and r["longest_gap_ms"] > 0


def test_vuid_finds_the_socket(snap):
    vuid = snap.functions()[0]["vuid"]
    result = perf("--vuid", vuid, "--run-dir", snap.run_dir, "--ios", 10)
    assert result.returncode == 0 and "10 commands" in result.stdout, result


def test_rate_is_kept(snap):
    r = json.loads(perf("--socket", snap.socket_of(0), "--rate", 500, "--runtime", 2, "--json").stdout)
    assert 800 <= r["ios"] <= 1050


def test_medium_changed_by_somebody_else_is_named(snap, tmp_path):
    load = Load(snap.socket_of(1), tmp_path, blocks=512)
    assert load.wait_progress(100, 20)
    # Direct, as the service: the page cache and direct I/O on one file do not agree.
    fd = os.open(snap.image, os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, 256 << 10)
    buffer[:] = b"not a pattern".ljust(4096, b"!") * 64
    for _ in range(50):
        os.pwrite(fd, buffer, 0)
        time.sleep(0.02)
        if load.ended():
            break
    os.close(fd)
    verdict = load.stop()
    assert verdict["exit"] == 1 and not verdict["ok"]
    assert verdict["errors_by_kind"]["foreign"] > 0, verdict
    assert "ERROR foreign" in load.errors()


def test_commands_without_completion_are_named(snap, tmp_path):
    load = Load(snap.socket_of(0), tmp_path, missing=1.5)
    assert load.wait_progress(100, 20)
    snap.kill_service()
    try:
        verdict = load.stop()
    finally:
        snap.start_service()
    assert verdict["exit"] == 1 and verdict["errors_by_kind"]["missing"] > 0 and verdict["unfinished"] > 0


def test_socket_closed_by_the_other_side_is_an_error(tmp_path):
    with RecoverySnap(tmp_path) as snap:
        snap.malloc_disk(0)
        load = Load(snap.socket_of(0), tmp_path)
        assert load.wait_progress(100, 20)
        snap.kill_service()
        snap.kill_emu()
        verdict = load.stop()
    assert verdict["exit"] == 1 and "socket" in verdict["message"], verdict
