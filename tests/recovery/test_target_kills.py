# SPDX-License-Identifier: BSD-3-Clause
"""snap_target dies by kill -9, or stands still, again and again under verified load: every acknowledged write is there
again, at the same address. Functions on another target do not mind. TARGET_KILL_ROUNDS says how often; a soak has 50."""
import os
import random
import signal
import time

from host import Load, RecoverySnap
from rounds import NVME_SETTINGS, VBLK_SETTINGS
from target import Target

ROUNDS = int(os.environ.get("TARGET_KILL_ROUNDS", "10"))
TOPOLOGY = {"NVME_EMULATION_NUM_PF": 1, "NVME_EMULATION_NUM_VF": 9, "VIRTIO_BLK_EMULATION_NUM_PF": 1,
            "VIRTIO_BLK_EMULATION_NUM_VF": 9}
BLOCKS = 8192
MISSING = 60
CALM_SECONDS = 4


def serve(target, nqn, bdevs):
    """One namespace each. Returns the port."""
    target.rpc("nvmf_create_transport", trtype="TCP")
    target.rpc("nvmf_create_subsystem", nqn=nqn, allow_any_host=True)
    for bdev in bdevs:
        target.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": bdev})
    target.rpc("nvmf_subsystem_add_listener", nqn=nqn,
               listen_address={"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": "0"})
    return target.rpc("nvmf_get_subsystems", nqn=nqn)[0]["listen_addresses"][0]["trsvcid"]


def files(target, count):
    names = []
    for i in range(count):
        image = target.tmpdir / f"disk{i}.img"
        image.write_bytes(bytes(BLOCKS * 512))
        names.append(target.rpc("bdev_uring_create", name=f"File{i}", filename=str(image), block_size=512))
    return names


def memories(target, count):
    return [target.rpc("bdev_malloc_create", name=f"Memory{i}", block_size=512, num_blocks=BLOCKS) for i in range(count)]


class Disks:
    """Functions of a service, NVMe and virtio-blk in turn, with a remote namespace each."""

    def __init__(self, snap):
        self.snap = snap
        self.free = {kind: list(snap.functions(kind)) for kind in ("NVME", "VBLK")}
        self.used = 0

    def attach(self, name, port, nqn):
        """Returns snap_perf's words for the functions of this target."""
        snap, words = self.snap, []
        bdevs = snap.rpc("bdev_nvme_attach_controller", name=name, trtype="TCP", traddr="127.0.0.1", adrfam="IPv4",
                         trsvcid=port, subnqn=nqn)
        for bdev in bdevs:
            kind = ("NVME", "VBLK")[self.used % 2]
            vuid = self.free[kind].pop(0)["vuid"]
            if kind == "NVME":
                snap.nvme_disk(bdev=bdev, nqn=f"nqn.2024-01.io.opensnap:{bdev}", vuid=vuid)
                path, settings = snap.vfio_socket(vuid), NVME_SETTINGS
            else:
                snap.rpc("virtio_blk_controller_create", vuid=vuid, bdev=bdev, num_queues=4)
                path, settings = snap.vhost_socket(vuid), VBLK_SETTINGS
            snap.wait_listens(path)
            words.append(f"{path},{settings[self.used // 2 % len(settings)]}")
            self.used += 1
        return words


def good(verdict):
    assert verdict["ok"] and verdict["exit"] == 0 and not any(verdict["errors_by_kind"].values()), verdict
    return verdict


def p99(verdict):
    return max(verdict[f"{kind}_latency"]["p99_us"] for kind in ("read", "write"))


def one_round(number, target, load, rng):
    """What was done to the target; afterwards the load goes on."""
    time.sleep(rng.uniform(0.05, 0.4))
    frozen = number % 3 == 2
    if frozen:
        target.target.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0.3, 1.0))
        target.target.send_signal(signal.SIGCONT)
    else:
        target.kill_target()
        time.sleep(rng.choice((0, 0, 0.5)))
        target.start_target()
    assert load.wait_progress(100, MISSING), f"round {number}: no progress\n{load.errors()}"
    return frozen


def test_kills_of_a_target_are_pauses(tmp_path, capsys):
    rng = random.Random()
    with Target(tmp_path / "dies") as dies, Target(tmp_path / "lives") as lives, \
            RecoverySnap(tmp_path / "snap", None, TOPOLOGY) as snap:
        disks = Disks(snap)
        nqns = ["nqn.2026-01.org.example:dies", "nqn.2026-01.org.example:lives"]
        on_dying = disks.attach("Dies", serve(dies, nqns[0], files(dies, 4)), nqns[0])
        on_living = disks.attach("Lives", serve(lives, nqns[1], memories(lives, 16)), nqns[1])
        loads, start = [], time.monotonic()

        def load(words, name, rate):
            loads.append(Load(words, tmp_path, name, 8, "8k", 1024, MISSING, ["--rate", str(rate)]))
            assert loads[-1].wait_progress(50, 30), loads[-1].errors()
            return loads[-1]

        try:
            dying = load(on_dying, "dies", 500)
            calm = load(on_living, "calm", 100)
            time.sleep(CALM_SECONDS)
            without = p99(good(calm.stop()))
            living = load(on_living, "lives", 100)
            frozen = sum(one_round(n, dies, dying, rng) for n in range(ROUNDS))
            beside = good(living.stop(MISSING + 40))
            good(dying.stop(MISSING + 40))
        finally:
            for one in loads:
                one.kill()
    with capsys.disabled():
        print(f"\n{ROUNDS - frozen} kills and {frozen} freezes of a target in {time.monotonic() - start:.0f} s; 16 functions on another "
              f"one: p99 {p99(beside):.0f} us, {p99(beside) / without:.2f} times that without")
