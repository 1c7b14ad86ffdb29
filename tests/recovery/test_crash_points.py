# SPDX-License-Identifier: BSD-3-Clause
"""The enumeration: the service dies at each point of src/base/crash_points.h in turn, for both device kinds, and the next one
goes on as if nothing had happened. A point that is not reached is a failure.

CRASH_WALK_LAPS: how often each point under load is visited (default 1), always at other passes."""
import os
import random
import time

import pytest
from crash_emu import EmuDeaths
from crash_nvme import NvmeEffects
from crash_vblk import PackedEffects, VblkEffects
from crash_walk import CrashSnap, all_points, points, slow
from host import Load

LAPS = int(os.environ.get("CRASH_WALK_LAPS", "1"))
SEED = int(os.environ.get("CRASH_WALK_SEED", "0")) or None
TOPOLOGY = {"NVME_EMULATION_NUM_PF": 2, "NVME_EMULATION_NUM_VF": 0, "NVME_EMULATION_MAX_QUEUE_DEPTH": 10,
            "VIRTIO_BLK_EMULATION_NUM_PF": 2, "VIRTIO_BLK_EMULATION_NUM_VF": 0}
FORMS = {"nvme": ("nvme", ["doorbells=shadow", "doorbells=trapped"]), "nvme-mapped": ("nvme", ["doorbells=mapped", "doorbells=mapped"]),
         "split": ("vblk", ["ring=split", "ring=split,no-indirect"]), "packed": ("vblk", ["ring=packed", "ring=packed,no-indirect"])}
AFTER = "adoption after "


def plan(kind, rng):
    """(point, passes), ... of all points that a load reaches."""
    steps = []
    for p in points(kind):
        passes = rng.randrange(1, 20) if slow() else rng.randrange(1, 120)
        if p.situation == "I/O":
            steps.append((p.name, passes))
        elif p.situation == "adoption":
            steps.append((p.name, rng.randrange(1, 3)))  # of either function
        elif p.situation.startswith(AFTER) and p.situation != AFTER + "a reset":
            steps += [(p.situation[len(AFTER):], passes), (p.name, 1)]
    return steps


@pytest.mark.parametrize("form", [f for f in FORMS if f != "nvme-mapped" or LAPS > 1])
def test_walk_under_load(tmp_path, form):
    """A load that verifies runs on while one service after the other dies; adoptions die as well, also twice in a row."""
    seed = SEED or random.randrange(1 << 30)
    kind, settings = FORMS[form]
    with CrashSnap(tmp_path, None, TOPOLOGY) as snap:
        disks = snap.fleet(*((2, 0) if kind == "nvme" else (0, 2)))
        load = Load([f"{path},{s}" for (_, _, path), s in zip(disks, settings)], tmp_path, "load", 16, "16k", 1024,
                    extra=["--rate", "3000", "--zeroes", "3", "--deallocate", "3", "--flush", "3"])
        at = "the beginning"
        try:
            assert load.wait_progress(50, 20), load.errors()
            snap.kill_service()
            for lap in range(LAPS):
                for at, passes in plan(kind, random.Random(seed + lap)):
                    snap.start_dying(at, passes)
                    assert not load.ended(), f"the load ended when the service died at {at}: {load.stop()}"
            snap.programs["snap_service"] = "snap_service"
            snap.start_service()
            assert load.wait_progress(200, 30), load.errors()
            time.sleep(0.05)
        finally:
            verdict = load.stop()
        print(f"{len(snap.met)} deaths, seed {seed}")
        assert verdict["ok"], f"seed {seed}, last death at {at}: {verdict}\n{load.errors()}"


def effects(kind, packed=False):
    """Points that the load does not meet. Calls and the journal do not depend on the form of a ring."""
    return [p for p in points(kind) if not (packed and p.kind == "both" and not p.name.startswith("link_")) and p.situation not in ("I/O", "adoption", "I/O, both die", "readback") and
            (not p.situation.startswith(AFTER) or p.situation == AFTER + "a reset")]


@pytest.mark.parametrize("host", [NvmeEffects, VblkEffects, PackedEffects], ids=lambda h: h.__name__)
def test_walk_of_effects(tmp_path, host):
    """Admin commands, registers, resets, calls: each cut in the middle has happened or has not."""
    with CrashSnap(tmp_path, None, TOPOLOGY | {"NVME_EMULATION_NUM_PF": 3, "VIRTIO_BLK_EMULATION_NUM_PF": 3}) as snap:
        h = host(snap)
        problems = []
        try:
            for p in effects(host.KIND, host is PackedEffects) * LAPS:
                try:
                    h.walk(p)
                except Exception as e:  # go on: other points tell more
                    problems.append(f"{p.name} ({p.situation}): {type(e).__name__}: {str(e)[:600]}")
                    h.anew()
        finally:
            h.close()
        assert not problems, "\n".join(problems)
        assert set(snap.met) == {p.name for p in effects(host.KIND, host is PackedEffects)}


@pytest.mark.parametrize("form", ["split", "packed"])
def test_walk_of_the_in_flight_area(tmp_path, form):
    """snap_emu dies as well, and state memory with it: the area that the front end keeps is right at every point."""
    seed = SEED or random.randrange(1 << 30)
    rng = random.Random(seed)
    from_area, at = 0, None
    with CrashSnap(tmp_path, None, TOPOLOGY | {"VIRTIO_BLK_EMULATION_NUM_PF": 1}) as snap:
        disk = snap.fleet(0, 1)[0]
        load = Load([f"{disk[2]},{FORMS[form][1][0]}"], tmp_path, "load", 16, "16k", 1024, extra=["--reconnect", "--rate", "3000"])
        try:
            assert load.wait_progress(50, 20), load.errors()
            snap.kill_service()
            for at in [p.name for p in points("vblk", "I/O, both die")] * LAPS:
                snap.start_dying(at, rng.randrange(1, 20 if slow() else 120))
                snap.kill_emu()
                snap.start_emu()
                for readback in points("vblk", "readback") if at == "vq_mirror_fetched" else ():
                    snap.start_dying(readback.name)  # the area is read once more
                assert not load.ended(), f"the load ended when both died at {at}: {load.stop()}"
            snap.start_service()
            assert load.wait_progress(100, 30), load.errors()
            from_area = snap.recovery("CtrlVblk0")["from_area"]
        finally:
            verdict = load.stop()
        assert verdict["ok"], f"seed {seed}, last death at {at}: {verdict}\n{load.errors()}"
        print(f"{len(snap.met)} deaths, {from_area} chains in the last area, seed {seed}")


@pytest.mark.parametrize("kind", ["nvme", "vblk"])
def test_walk_of_snap_emu(tmp_path, kind):
    """snap_emu dies at each of its own points: vhost-user front ends go on, the others find their disks."""
    topology = TOPOLOGY | {"NVME_EMULATION_NUM_PF": 3, "VIRTIO_BLK_EMULATION_NUM_PF": 3}
    with CrashSnap(tmp_path, {"snap_emu": "snap_emu_crash_points", "snap_service": "snap_service"}, topology) as snap:
        deaths = EmuDeaths(snap, kind)
        load = Load([f"{deaths.disks[0][2]},ring=packed"], tmp_path, "load", 16, "16k", 1024,
                    extra=["--reconnect", "--rate", "2000"]) if kind == "vblk" else None
        verdict = {"ok": True}
        try:
            assert not load or load.wait_progress(50, 20), load.errors()
            for p in deaths.points():
                try:
                    deaths.walk(p)
                except Exception as e:
                    raise AssertionError(f"{p.name} ({p.situation}): {type(e).__name__}: {e}") from e
                assert not load or not load.ended(), f"the load ended when snap_emu died at {p.name}"
            assert not load or load.wait_progress(100, 30), load.errors()
        finally:
            if load:
                verdict = load.stop()
        assert verdict["ok"], verdict
        assert set(snap.met) == {p.name for p in deaths.points()}


def test_every_point_belongs_to_a_walk():
    """A point whose situation none of the walks knows would not be met, and nobody would miss it."""
    assert {p.kind for p in all_points()} == {"nvme", "vblk", "both", "emu"}
    for kind in ("nvme", "vblk"):
        walked = {name for name, _ in plan(kind, random.Random(0))} | {p.name for p in effects(kind)}
        if kind == "vblk":
            walked |= {p.name for s in ("I/O, both die", "readback") for p in points(kind, s)}
        assert walked >= {p.name for p in points(kind)}, {p.name for p in points(kind)} - walked


# ---- the counter-proof: services with one rule left out die at points of the enumeration, and the same walk finds it out ----

LEFT_OUT = [("nvme", "no_intent", ["nvme_cqes_written", "nvme_tail_stored"]), ("split", "no_resubmit", ["vq_fetch_published"]),
            ("packed", "no_phase", ["vq_batch_freed"])]


@pytest.mark.parametrize("form, rule, names", LEFT_OUT, ids=lambda v: v if isinstance(v, str) else "")
def test_without_a_rule_the_walk_fails(tmp_path, form, rule, names):
    rng = random.Random(SEED)
    kind, settings = FORMS[form]
    with CrashSnap(tmp_path, {"snap_service": f"snap_service_{rule}"}, TOPOLOGY) as snap:
        disks = snap.fleet(*((2, 0) if kind == "nvme" else (0, 2)))
        load = Load([f"{path},{s}" for (_, _, path), s in zip(disks, settings)], tmp_path, "load", 16, "16k", 1024, 3,
                    extra=["--rate", "3000"])
        try:
            assert load.wait_progress(50, 20), load.errors()
            snap.kill_service()
            for name in names * 8:
                snap.die_at(name, rng.randrange(20, 120))
                snap.spawn_service()
                try:
                    snap.dead(name, 5)
                except AssertionError:  # it stands still: nothing comes any more
                    snap.kill_service()
                if load.ended():
                    break
            else:
                snap.start_service()
                load.wait_progress(300, 5)
        finally:
            verdict = load.stop()
        assert not verdict["ok"], f"not found out: {verdict}"
