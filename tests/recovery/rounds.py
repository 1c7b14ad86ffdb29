# SPDX-License-Identifier: BSD-3-Clause
"""The proof and its counter-proofs: a client that never stops, a service that dies again and again.

run() kills the service at random moments, or lets a crash-point build die at a named place, starts it again, and asks what
it found in the state memory. It returns an Outcome; whether that is good or bad news is the caller's to say."""
import contextlib
import random
import time

from host import Load, Noise, RecoverySnap
from snap import tail

PHASES = ("unpublished", "live", "intent_stored", "posted")
# Where a crash-point build dies, and about how many passes a lively client makes there in half a second.
POINTS = {"nvme_fetch_copied": 3000, "nvme_fetch_published": 3000, "nvme_intents_stored": 3000, "nvme_cqes_written": 3000,
          "nvme_tail_stored": 1500, "nvme_batch_freed": 3000}
VBLK_POINTS = {f"vq_{name}": 600 for name in ("fetch_copied", "fetch_published", "intents_stored", "used_written",
                                              "used_published", "tail_stored", "batch_freed")}


class Round:
    def __init__(self, number, how):
        self.number, self.how = number, how
        self.found = {}

    def records(self):
        return sum(f["records"] for f in self.found.values())

    def __str__(self):
        parts, found = [], self.found
        if len(found) > 4:  # many: by kind
            found = {}
            for ctrl, f in self.found.items():
                kind = ctrl.rstrip("0123456789")
                found[kind] = {k: found.get(kind, {}).get(k, 0) + n for k, n in f.items()}
        for ctrl, f in sorted(found.items()):
            phases = ", ".join(f"{f[p]} {p}" for p in PHASES if f[p])
            parts.append(f"{ctrl} {f['records']} records" + (f" ({phases})" if phases else ""))
        return f"round {self.number}: {self.how}: " + "; ".join(parts)


class Outcome:
    def __init__(self):
        self.rounds, self.errors, self.notes = [], {}, []
        self.verdicts = []

    def phases(self):
        return {p: sum(f[p] for r in self.rounds for f in r.found.values()) for p in PHASES}

    def good(self):
        return not self.errors and all(v["ok"] for v in self.verdicts)

    def kinds(self):
        return {k for k, n in self.errors.items() if n}

    def __str__(self):
        return "\n".join([str(r) for r in self.rounds] + [f"errors: {self.errors}"] + self.notes)


@contextlib.contextmanager
def three_disks(snap, tmpdir, backends=("file", "file", "malloc"), depth=32, bs="16k", missing=20, extra=()):
    """NVMe functions with a client each. Yields (clients, controllers)."""
    loads, noise = [], None
    for pf, backend in enumerate(backends):
        if backend == "file":
            image = snap.file_disk(pf)
            noise = noise or (Noise(image, 3) if image else None)
        else:
            snap.malloc_disk(pf)
    try:
        for pf, backend in enumerate(backends):
            # Memory answers at once: a modest pace leaves the two cores to the others.
            pace = ["--rate", "4000"] if backend == "malloc" else []
            loads.append(Load(snap.socket_of(pf), tmpdir, f"load{pf}", depth, bs, 1024, missing, [*pace, *extra]))
        yield loads, [f"Ctrl{pf}" for pf in range(len(backends))]
    finally:
        if noise:
            noise.stop()


NVME_SETTINGS = ["doorbells=trapped", "doorbells=shadow", "doorbells=mapped"]
VBLK_SETTINGS = ["ring=split", "ring=packed", "ring=split,no-indirect,queues=2", "ring=packed,no-indirect,segment=4096",
                 "ring=split,no-event-idx", "ring=packed,no-event-idx,queues=2", "ring=split,split-header", "ring=packed,queues=4"]


@contextlib.contextmanager
def one_client(snap, tmpdir, nvme=8, vblk=8, depth=16, bs="16k", missing=20, rate=2000, settings=VBLK_SETTINGS, extra=()):
    """One client on so many functions at once: all doorbell modes, both ring formats."""
    disks = snap.fleet(nvme, vblk)
    words = [f"{path},{s[i % len(s)]}" for s, kind in ((NVME_SETTINGS, "NVME"), (settings, "VBLK"))
             for i, path in enumerate(p for k, _, p in disks if k == kind)]
    image = tmpdir / f"{'Nvme' if nvme else 'Vblk'}0.img"
    noise = Noise(image, 3) if image.exists() else None
    load = Load(words, tmpdir, "fleet", depth, bs, 1024, missing, ["--rate", str(rate), *extra] if rate else extra)
    try:
        yield [load], [ctrl for _, ctrl, _ in disks]
    finally:
        if noise:
            noise.stop()


def run(tmpdir, rounds, plan, programs=None, seed=None, missing=20, disks=three_disks, topology=None, **settings):
    """plan(number, rng) -> None for a kill at a random moment, or (point, passes). The crash-point build (programs
    ["crash"], default snap_service_crash_points) runs in such rounds only, so that the product build does the rest."""
    rng = random.Random(seed)
    outcome = Outcome()
    programs = dict(programs or {})
    crash = programs.pop("crash", "snap_service_crash_points")
    plain = programs.get("snap_service", "snap_service")
    with RecoverySnap(tmpdir, programs, topology, start=False) as snap:
        def choose(number):
            point = plan(number, rng) if number < rounds else None  # the last service lives until the load has ended
            snap.programs["snap_service"] = crash if point else plain
            snap.env.pop("SNAP_CRASH_POINT", None)
            if point:
                snap.env["SNAP_CRASH_POINT"] = f"{point[0]}:{point[1]}"
            return point

        snap.start_emu()
        snap.start_service()
        with disks(snap, tmpdir, missing=missing, **settings) as (loads, ctrls):
            try:
                kill_rounds(snap, loads, ctrls, rounds, choose, rng, outcome, missing)
            finally:
                for load in loads:
                    finish(load, outcome, missing)
    return outcome


def kill_rounds(snap, loads, ctrls, rounds, choose, rng, outcome, missing):
    point = None
    for load in loads:
        if not load.wait_progress(50, 30):
            outcome.notes.append(f"no load to begin with:\n{tail(load.log)}")
            outcome.errors["start"] = 1
            return
    number = 0
    while number < rounds:
        if point is None:
            time.sleep(rng.uniform(0.0, 0.12))
            if rng.random() < 0.9:  # else: the moment as it comes
                wait_busy(snap, ctrls)
            snap.kill_service()
        elif not dies(snap, 10):
            outcome.notes.append(f"round {number}: the service did not pass {point[0]} {point[1]} times")
            snap.kill_service()
        how = "killed" if point is None else f"died at {point[0]}"
        point = choose(number + 1)
        found = adopt(snap, ctrls, outcome, may_die=point is not None)
        if "restart" in outcome.errors:
            return
        if found is not None:
            r = Round(number, how)
            r.found = found
            outcome.rounds.append(r)
            print(r, flush=True)
            number += 1
        if any(load.ended() for load in loads):
            return  # its verdict says why
        if point is None and not all(load.wait_progress(30, missing + 10) for load in loads):
            return


def wait_busy(snap, ctrls, seconds=1.0):
    """On two busy cores a service may stand still for a moment with nothing in its hands; killing it then shows little.
    Any moment with commands in flight will do."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if sum(snap.counters(c)["in_flight"] for c in ctrls) >= 8:
            return


def adopt(snap, ctrls, outcome, may_die):
    """Starts the service; what it found. None: it died at its point before it could be asked."""
    try:
        snap.start_service()
        return {c: snap.recovery(c) for c in ctrls}
    except Exception as e:
        if may_die and dies(snap, 5):
            return None
        outcome.notes.append(f"restart: {e!r}")
        outcome.errors["restart"] = 1
        return None


def dies(snap, seconds):
    """Waits for the service to end by itself."""
    deadline = time.monotonic() + seconds
    while snap.service is not None:
        if snap.service.poll() is not None:
            snap.service = None
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def finish(load, outcome, missing):
    try:
        verdict = load.stop(missing + 40)
    except AssertionError as e:
        outcome.notes.append(str(e))
        outcome.errors["client"] = outcome.errors.get("client", 0) + 1
        load.kill()
        return
    outcome.verdicts.append(verdict)
    for kind, n in verdict["errors_by_kind"].items():
        if n:
            outcome.errors[kind] = outcome.errors.get(kind, 0) + n
    if verdict["message"] and not verdict["ok"]:
        outcome.notes.append(verdict["message"])
    if load.errors():
        outcome.notes.append(load.errors())
