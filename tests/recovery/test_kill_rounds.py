# SPDX-License-Identifier: BSD-3-Clause
"""kill -9 of the service under verified load: nothing lost, stale, torn or completed twice. And: the test can fail."""
import os

import pytest
from rounds import PHASES, POINTS, run

ROUNDS = int(os.environ.get("KILL_ROUNDS", "100"))


def mixed(number, rng):
    """Five of six rounds at a random moment, the others at each named place in turn."""
    if number % 6 != 5:
        return None
    names = sorted(POINTS)
    name = names[number // 6 % len(names)]
    return name, rng.randrange(POINTS[name] // 3, POINTS[name])


def at(*names):
    """Always at these places."""
    def plan(number, rng):
        name = names[number % len(names)]
        return name, rng.randrange(POINTS[name] // 3, POINTS[name])
    return plan


def random_moment(number, rng):
    return None


def test_kill_rounds(tmp_path, capsys):
    with capsys.disabled():  # what each round found belongs into the log
        print()
        outcome = run(tmp_path, ROUNDS, mixed)
    assert outcome.good(), str(outcome)
    assert len(outcome.rounds) == ROUNDS
    busy = sum(1 for r in outcome.rounds if r.records() >= 8)
    slow = os.environ.get("EMULATED") or os.environ.get("SANITIZER") == "thread"
    enough = 0.25 if slow else 0.9  # there the client is not fast enough for more
    assert busy >= enough * ROUNDS, f"only {busy} of {ROUNDS} rounds found 8 records or more\n{outcome}"
    if ROUNDS >= 50:
        phases = outcome.phases()
        assert all(phases[p] for p in PHASES), f"phases met: {phases}\n{outcome}"


@pytest.mark.parametrize("doorbells", ["trapped", "mapped"])
def test_kill_rounds_with_other_doorbells(tmp_path, doorbells):
    """The long run uses shadow doorbells."""
    outcome = run(tmp_path, 12, mixed, extra=("--doorbells", doorbells))
    assert outcome.good(), str(outcome)


def test_kill_rounds_with_every_command(tmp_path):
    """Write Zeroes, deallocate and Flush among the others, four queues."""
    outcome = run(tmp_path, 12, mixed, depth=8,
                  extra=("--queues", "4", "--zeroes", "10", "--deallocate", "10", "--flush", "5"))
    assert outcome.good(), str(outcome)


# ---- the counter-proofs: each leaves out one rule, and must be found out ----

def test_without_resubmission_the_rounds_fail(tmp_path):
    outcome = run(tmp_path, 10, random_moment, {"snap_service": "snap_service_no_resubmit"}, missing=4)
    assert outcome.kinds() & {"missing"}, f"not found out\n{outcome}"


def test_without_the_intent_step_the_rounds_fail(tmp_path):
    """A command completed just before the crash is completed again after it."""
    outcome = run(tmp_path, 20, at("nvme_cqes_written", "nvme_tail_stored"), {"crash": "snap_service_no_intent"}, missing=4)
    assert outcome.kinds() & {"duplicate", "missing"}, f"not found out\n{outcome}"


def test_without_the_phase_the_rounds_fail(tmp_path):
    outcome = run(tmp_path, 20, random_moment, {"snap_service": "snap_service_no_phase"}, missing=4)
    assert outcome.kinds() & {"missing", "duplicate", "sqhd"}, f"not found out\n{outcome}"
