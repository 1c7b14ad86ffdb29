# SPDX-License-Identifier: BSD-3-Clause
"""snap_perf's virtio-blk driver against a back end that does one thing wrong, or crashes and comes back."""
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest
from host import Load, RecoverySnap
from test_snap_perf import perf

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))
from vhost_user_peer import VhostUserPeer  # noqa: E402

FORMATS = ["ring=split", "ring=split,no-indirect", "ring=packed", "ring=packed,no-indirect"]


@pytest.fixture
def peer():
    """Makes peers, each in a short directory of its own."""
    made, short = [], []

    def make(**kw):
        short.append(tempfile.mkdtemp(prefix="snap-"))
        made.append(VhostUserPeer(Path(short[-1]) / "vhost.sock", **kw))
        return made[-1]

    yield make
    problems = []
    for p in made:
        try:
            p.stop()
        except Exception as e:
            problems.append(e)
    for directory in short:
        shutil.rmtree(directory)
    if problems:
        raise problems[0]


@pytest.mark.parametrize("settings", FORMATS)
def test_good_peer_has_no_errors(peer, settings):
    p = peer()
    result = perf("--socket", f"{p.path},{settings},queues=2,depth=12,segment=1k,split-header", "--rw", "randrw", "--range", 1024,
                  "--align", 512, "--flush", 5, "--verify", "--ios", 3000, "--json")
    assert result.returncode == 0, result.stderr
    r = json.loads(result.stdout)
    assert r["ok"] and r["ios"] == 3000 and r["queues"] == 2 and r["ring"] == settings[5:].split(",")[0]


@pytest.mark.parametrize("ring", ["split", "packed"])
@pytest.mark.parametrize("fault,kind", [
    ("id", "duplicate"), ("used_len", "used_len"), ("no_status", "status"), ("drop", "missing"), ("lose_write", "lost")])
def test_fault_is_named(peer, ring, fault, kind):
    p = peer(fault=fault)
    result = perf("--socket", p.path, "--ring", ring, "--rw", "randrw", "--range", 64, "--bs", 512, "--verify", "--ios", 4000,
                  "--json", "--missing-after", 1.5, timeout=90)
    assert result.returncode == 1, result
    r = json.loads(result.stdout)
    assert r["errors_by_kind"][kind] > 0, r["errors_by_kind"]
    assert f"ERROR {kind}" in result.stderr


def test_request_used_twice_is_a_duplicate(peer):
    p = peer(fault="twice")
    result = perf("--socket", p.path, "--rw", "randrw", "--range", 1024, "--verify", "--ios", 3000, "--json")
    r = json.loads(result.stdout)
    assert result.returncode == 1 and r["errors_by_kind"]["duplicate"] == 1, r["errors_by_kind"]
    assert "used id" in result.stderr


@pytest.mark.parametrize("settings", FORMATS)
def test_reconnects_with_requests_in_flight(peer, tmp_path, settings):
    p = peer()
    load = Load(f"{p.path},{settings},reconnect,queues=2", tmp_path, depth=8, blocks=1024)
    try:
        for crash in range(1, 6):
            assert load.wait_progress(200, 20), f"{load.errors()} {p.error}"
            p.crash()
            deadline = time.monotonic() + 10
            while p.connections <= crash:
                assert time.monotonic() < deadline and not load.ended(), f"did not come back {p.error}"
                time.sleep(0.005)
        assert load.wait_progress(200, 20), load.errors()
        verdict = load.stop()
    finally:
        load.kill()
    assert verdict["exit"] == 0 and verdict["ok"], verdict
    assert verdict["reconnects"] == 5 and p.resumed > 0


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_resets_and_crashes_together(peer, tmp_path, ring):
    p = peer()
    load = Load(f"{p.path},ring={ring},reconnect,reset-every=0.05", tmp_path, depth=8, blocks=1024)
    try:
        for _ in range(8):
            assert load.wait_progress(50, 20), f"{load.errors()} {p.error}"
            p.crash()
        assert load.wait_progress(200, 20), load.errors()
        verdict = load.stop()
    finally:
        load.kill()
    assert verdict["exit"] == 0 and verdict["ok"], verdict
    assert verdict["reconnects"] > 2 and verdict["resets"] > 2


def test_without_reconnect_a_crash_ends_the_run(peer, tmp_path):
    p = peer()
    load = Load(p.path, tmp_path)
    try:
        assert load.wait_progress(100, 20)
        p.crash()
        verdict = load.stop()
    finally:
        load.kill()
    assert verdict["exit"] == 1 and "socket" in verdict["message"]


@pytest.mark.parametrize("ring", ["split", "packed"])
def test_resets_under_load_lose_nothing(peer, ring):
    p = peer()
    result = perf("--socket", p.path, "--ring", ring, "--rw", "randrw", "--range", 1024, "--verify", "--runtime", 1.5,
                  "--reset-every", 0.1, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["resets"] >= 5


def test_change_of_capacity_is_followed(peer, tmp_path):
    p = peer()
    load = Load(p.path, tmp_path, blocks=1024)
    try:
        assert load.wait_progress(100, 20)
        p.resize(16384)
        deadline = time.monotonic() + 10
        while not p.acks:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        verdict = load.stop()
    finally:
        load.kill()
    assert verdict["ok"] and verdict["config_changes"] == 1 and verdict["blocks"] == 16384


def test_nvme_and_virtio_blk_in_one_process(peer, tmp_path):
    with RecoverySnap(tmp_path) as snap:
        for pf in range(3):
            snap.malloc_disk(pf)
        disks = [f"{snap.socket_of(pf)},doorbells={mode}" for pf, mode in enumerate(("trapped", "shadow", "mapped"))]
        disks += [f"{peer().path},{settings},depth=8" for settings in FORMATS]
        result = perf(*(word for d in disks for word in ("--socket", d)), "--rw", "randrw", "--range", 1024, "--verify",
                      "--runtime", 2, "--json")
    assert result.returncode == 0, result.stderr
    r = json.loads(result.stdout)
    assert [d["kind"] for d in r["disks"]] == ["nvme"] * 3 + ["virtio-blk"] * 4
    assert [d.get("doorbells") or d["ring"] for d in r["disks"]] == ["trapped", "shadow", "mapped", "split", "split", "packed",
                                                                      "packed"]
    assert all(d["ok"] and d["ios"] > 100 for d in r["disks"]) and r["ios"] == sum(d["ios"] for d in r["disks"])


def test_one_disk_with_errors_is_told_from_the_others(peer):
    good, bad = peer(), peer(fault="used_len")
    result = perf("--socket", good.path, "--socket", bad.path, "--range", 64, "--ios", 2000, "--json")
    assert result.returncode == 1
    r = json.loads(result.stdout)
    assert not r["ok"] and [d["ok"] for d in r["disks"]] == [True, False]
    assert r["errors"] == 1 == r["errors_by_kind"]["used_len"] and f"ERROR used_len: {bad.path}" in result.stderr


def test_nvme_resets_under_load_lose_nothing(tmp_path):
    with RecoverySnap(tmp_path) as snap:
        snap.malloc_disk(0)
        result = perf("--socket", snap.socket_of(0), "--rw", "randrw", "--range", 1024, "--verify", "--runtime", 2,
                      "--reset-every", 0.2, "--queues", 2, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["resets"] >= 3


def test_vuid_finds_the_socket_that_is_there(peer, tmp_path):
    p = peer()
    run_dir = Path(p.path).parent
    (run_dir / "functions" / "blk0").mkdir(parents=True)
    (run_dir / "functions" / "blk0" / "vhost.sock").symlink_to(p.path)
    result = perf("--run-dir", run_dir, "--vuid", "blk0,ring=packed", "--ios", 10)
    assert result.returncode == 0 and "packed ring" in result.stdout, result
    result = perf("--run-dir", run_dir, "--vuid", "blk0", "--kind", "nvme", "--ios", 10)
    assert result.returncode == 2 and "blk0/cntrl" in result.stderr
