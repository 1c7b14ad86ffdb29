# SPDX-License-Identifier: BSD-3-Clause
"""kill -9 of the service under one client on 16 functions: NVMe in all doorbell modes, virtio-blk on split and packed rings.
And, for virtio-blk, that the test can fail."""
import os
import time

import pytest
from host import Load, Noise, RecoverySnap
from rounds import PHASES, POINTS, VBLK_POINTS, one_client, run

ROUNDS = int(os.environ.get("FLEET_ROUNDS", "30"))
TOPOLOGY = {"NVME_EMULATION_NUM_PF": 2, "NVME_EMULATION_NUM_VF": 3, "VIRTIO_BLK_EMULATION_NUM_PF": 2,
            "VIRTIO_BLK_EMULATION_NUM_VF": 3}
FORMATS = {"split": ["ring=split", "ring=split,no-indirect"], "packed": ["ring=packed", "ring=packed,no-indirect"]}


def every_point(number, rng):
    """Every third round at a named place, of NVMe and of virtqueues in turn."""
    names = sorted(POINTS) + sorted(VBLK_POINTS)
    if number % 3 != 2:
        return None
    return names[number // 3 % len(names)], rng.randrange(20, 200)


def at(*names):
    def plan(number, rng):
        return names[number % len(names)], rng.randrange(50, 400)
    return plan


def random_moment(number, rng):
    return None


def vblk_only(tmp_path, rounds, plan, programs, form, missing=4):
    return run(tmp_path, rounds, plan, programs, missing=missing, disks=one_client, topology=TOPOLOGY, nvme=0, vblk=2, depth=32,
               rate=0, settings=FORMATS[form])


def test_sixteen_functions_do_not_notice(tmp_path, capsys):
    with capsys.disabled():  # what each round found belongs into the log
        print()
        outcome = run(tmp_path, ROUNDS, every_point, disks=one_client, topology=TOPOLOGY)
    assert outcome.good(), str(outcome)
    assert len(outcome.rounds) == ROUNDS
    busy = sum(1 for r in outcome.rounds if r.records() >= 8)
    assert busy >= 0.7 * ROUNDS, f"only {busy} of {ROUNDS} rounds found 8 records or more\n{outcome}"


@pytest.mark.parametrize("form", FORMATS)
def test_virtqueues_meet_every_phase(tmp_path, form):
    """Two functions at full depth; the places of virtqueues in turn."""
    outcome = vblk_only(tmp_path, 21, lambda n, rng: at(*sorted(VBLK_POINTS))(n, rng) if n % 2 else None, None, form, 20)
    assert outcome.good(), str(outcome)
    phases = outcome.phases()
    assert all(phases[p] for p in PHASES), f"phases met: {phases}\n{outcome}"


def test_every_request_survives(tmp_path):
    """Write zeroes, discard and flush among the others, several queues."""
    outcome = run(tmp_path, 10, every_point, disks=one_client, topology=TOPOLOGY, nvme=0, vblk=4,
                  extra=("--zeroes", "10", "--deallocate", "10", "--flush", "5", "--queues", "2"))
    assert outcome.good(), str(outcome)


@pytest.mark.parametrize("form", FORMATS)
def test_snap_emu_dies_too(tmp_path, form):
    """State memory is gone with it: what was in flight comes back from the area that the front end has kept."""
    with RecoverySnap(tmp_path, None, {**TOPOLOGY, "VIRTIO_BLK_EMULATION_NUM_VF": 0}) as snap:
        image = snap.fleet(0, 1)[0]
        noise = Noise(tmp_path / "Vblk0.img", 3)
        load = Load(f"{image[2]},{FORMATS[form][0]}", tmp_path, blocks=1024, bs="16k", extra=["--reconnect"])
        from_area = 0
        try:
            assert load.wait_progress(100, 20), load.errors()
            for number in range(6):
                time.sleep(0.1 + 0.05 * number)
                first, second = (snap.kill_service, snap.kill_emu) if number % 2 else (snap.kill_emu, snap.end_service)
                first()
                second()
                snap.start_emu()
                snap.start_service()
                assert load.wait_progress(100, 30), load.errors()
                from_area += snap.recovery("CtrlVblk0")["from_area"]
        finally:
            noise.stop()
            verdict = load.stop()
        print(f"{from_area} chains came back from the in-flight area")
        assert verdict["ok"], verdict
        assert from_area > 0


# ---- the counter-proofs: each leaves out one rule, and must be found out ----

@pytest.mark.parametrize("form", FORMATS)
def test_without_resubmission_virtqueues_fail(tmp_path, form):
    outcome = vblk_only(tmp_path, 10, random_moment, {"snap_service": "snap_service_no_resubmit"}, form)
    assert outcome.kinds() & {"missing"}, f"not found out\n{outcome}"


@pytest.mark.parametrize("form", FORMATS)
def test_without_the_intent_step_virtqueues_fail(tmp_path, form):
    """A chain completed just before the crash is completed again after it."""
    outcome = vblk_only(tmp_path, 20, at("vq_used_published", "vq_tail_stored"), {"crash": "snap_service_no_intent"}, form)
    assert outcome.kinds() & {"duplicate", "missing"}, f"not found out\n{outcome}"


@pytest.mark.parametrize("form", FORMATS)
def test_without_the_used_cursor_virtqueues_fail(tmp_path, form):
    outcome = vblk_only(tmp_path, 20, random_moment, {"snap_service": "snap_service_no_phase"}, form)
    assert outcome.errors, f"not found out\n{outcome}"
