# SPDX-License-Identifier: BSD-3-Clause
"""snap_target dies by kill -9, or stands still, again and again under verified load: every acknowledged write is there
again, at the same address. The link to it is dropped, for less and for more time than its connections live. Functions on
another target do not mind. TARGET_KILL_ROUNDS says how often; the complete run kills it 50 times."""
import os
import random
import signal
import time

import pytest
from host import Load, RecoverySnap
from link import FAR, Link
from require import require
from rounds import NVME_SETTINGS, VBLK_SETTINGS
from target import Target

ROUNDS = int(os.environ.get("TARGET_KILL_ROUNDS", "10"))
TOPOLOGY = {"NVME_EMULATION_NUM_PF": 1, "NVME_EMULATION_NUM_VF": 9, "VIRTIO_BLK_EMULATION_NUM_PF": 1,
            "VIRTIO_BLK_EMULATION_NUM_VF": 9}
BLOCKS = 8192
MISSING = 60
CALM_SECONDS = 4
DEPTH = 8
DROPS = (1, 9)      # KATO is 5 s
NQNS = {name: f"nqn.2026-01.org.example:{name}" for name in ("dies", "lives")}


def serve(target, nqn, bdevs, addr="127.0.0.1"):
    """One namespace each. Returns the port."""
    target.rpc("nvmf_create_transport", trtype="TCP")
    target.rpc("nvmf_create_subsystem", nqn=nqn, allow_any_host=True)
    for bdev in bdevs:
        target.rpc("nvmf_subsystem_add_ns", nqn=nqn, namespace={"bdev_name": bdev})
    target.rpc("nvmf_subsystem_add_listener", nqn=nqn,
               listen_address={"trtype": "TCP", "adrfam": "IPv4", "traddr": addr, "trsvcid": "0"})
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

    def attach(self, name, port, nqn, addr="127.0.0.1"):
        """Returns snap_perf's words for the functions of this target."""
        snap, words = self.snap, []
        bdevs = snap.rpc("bdev_nvme_attach_controller", name=name, trtype="TCP", traddr=addr, adrfam="IPv4",
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
    frozen = number % 10 == 5
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


class Fleet:
    """4 functions on a target that is about to suffer, 16 on another one. With a link the first is at its far end."""

    def __init__(self, folder, link=None):
        self.folder, self.loads, self.parts = folder, [], []
        at = link.far if link else None
        addr = FAR if link else "127.0.0.1"
        try:
            self.dies = self.begin(Target, "dies", netns=at)
            self.lives = self.begin(Target, "lives", netns=link.near if link else None)
            self.snap = self.begin(RecoverySnap, "snap", None, TOPOLOGY, netns=link.near if link else None)
            disks = Disks(self.snap)
            self.on_dying = disks.attach("Dies", serve(self.dies, NQNS["dies"], files(self.dies, 4), addr), NQNS["dies"], addr)
            self.on_living = disks.attach("Lives", serve(self.lives, NQNS["lives"], memories(self.lives, 16)), NQNS["lives"])
            calm = self.load(self.on_living, "calm", 100)
            time.sleep(CALM_SECONDS)
            self.calm_us = p99(good(calm.stop()))
        except BaseException:
            self.stop()
            raise

    def begin(self, kind, name, *args, **how):
        self.parts.append(kind(self.folder / name, *args, **how))
        return self.parts[-1]

    def load(self, words, name, rate):
        self.loads.append(Load(words, self.folder, name, DEPTH, "8k", 1024, MISSING, ["--rate", str(rate)]))
        assert self.loads[-1].wait_progress(50, 30), self.loads[-1].errors()
        return self.loads[-1]

    def suffer(self, name, acts):
        """Under load on all functions, each of acts(load). Returns what to print of the others."""
        start = time.monotonic()
        dying = self.load(self.on_dying, f"dies-{name}", 500)
        living = self.load(self.on_living, f"lives-{name}", 100)
        for act in acts:
            act(dying)
        beside = p99(good(living.stop(MISSING + 40)))
        good(dying.stop(MISSING + 40))
        return (f"in {time.monotonic() - start:.0f} s; 16 functions on another one: p99 {beside:.0f} us, "
                f"{beside / self.calm_us:.2f} times that without")

    def stop(self):
        for load in self.loads:
            load.kill()
        for part in reversed(self.parts):
            part.stop()


@pytest.fixture(scope="module")
def link():
    """None: it needs root."""
    if os.geteuid() != 0:
        yield None
        return
    with Link() as made:
        yield made


@pytest.fixture(scope="module")
def fleet(link, tmp_path_factory):
    made = Fleet(tmp_path_factory.mktemp("fleet"), link)
    yield made
    made.stop()


def test_kills_of_a_target_are_pauses(fleet):
    rng = random.Random()
    frozen = []
    said = fleet.suffer("kills", [lambda load, n=n: frozen.append(one_round(n, fleet.dies, load, rng)) for n in range(ROUNDS)])
    print(f"{ROUNDS - sum(frozen)} kills and {sum(frozen)} freezes of a target {said}")


def test_a_dropped_link_to_a_target_is_a_pause(fleet, link):
    """For a moment: the connections live on. For longer than they may be silent: both sides end them."""
    require(link, "root: the link is a veth pair between two network namespaces")

    def drop(load, seconds):
        link.drop()
        time.sleep(0.3)
        before = load.completed()
        time.sleep(seconds)
        assert load.completed() <= before + 4 * DEPTH, "it goes on without the link"
        link.restore()
        assert load.wait_progress(100, MISSING), f"after {seconds} s: no progress\n{load.errors()}"
        connected.append(fleet.snap.service_log().count("connected, CNTLID"))

    connected = [fleet.snap.service_log().count("connected, CNTLID")]
    said = fleet.suffer("link", [lambda load, s=s: drop(load, s) for s in DROPS])
    assert connected[-1] > connected[-2], "the last drop was too short for its connections to end"
    print(f"link to a target dropped {len(DROPS)} times, for {' and '.join(map(str, DROPS))} s, {said}")
