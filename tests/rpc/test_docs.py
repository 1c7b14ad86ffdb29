# SPDX-License-Identifier: BSD-3-Clause
"""The commands in README.md and docs/ are run as they stand there; only addresses and paths are put in place."""
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import wipe
from snap import program
from target import Target

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "peers"))
from nvme_tcp_peer import NvmeTcpPeer, PeerNamespace  # noqa: E402


def commands(page, name):
    """Indented lines of a page that run the named program."""
    pattern = re.compile(rf"^ {{4,}}(?:\./build/)?{re.escape(name)} (.+?)(?: \\)?$")
    return [m.group(1) for m in map(pattern.match, (ROOT / page).read_text().splitlines()) if m]


def run(snap, name, words):
    done = subprocess.run([program(name), *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{name} {shlex.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def peer():
    with NvmeTcpPeer(namespaces=[PeerNamespace(1, blocks=2048)]) as p:
        yield p


def test_the_disks_of_the_readme(snap, peer, tmp_path):
    lines = commands("README.md", "snap_rpc.py")
    assert len(lines) == 7
    with open(tmp_path / "second.img", "wb") as image:
        image.truncate(1 << 20)
    places = {"192.0.2.10": "127.0.0.1", "-s 4420": f"-s {peer.port}", "nqn.2026-01.org.example:disks": peer.nqn,
              "/path/second.img": str(tmp_path / "second.img")}
    for line in lines:
        for old, new in places.items():
            line = line.replace(old, new)
        run(snap, "snap_rpc", ["-s", str(snap.rpc_socket), *shlex.split(line)])
    [c] = snap.rpc("nvme_controller_list")
    assert (c["ctrl_id"], c["state"], len(c["namespaces"])) == ("NVMeCtrl1", "STARTED", 1)
    [v] = snap.rpc("virtio_blk_controller_list")
    assert (v["ctrl_id"], v["state"], v["bdev"], v["vblk_id"]) == ("VblkCtrl1", "STARTED", "File1", "second-disk")
    # The default topology has one NVMe PF before it, this service two.
    lines = [line.replace("01:00.1", v["pci_bdf"]) for line in commands("README.md", "snap_host")]
    said = [run(snap, "snap_host", ["--run-dir", str(snap.run_dir), *shlex.split(line)]) for line in lines]
    assert len(said) == 3 and "vfio-user-pci" in said[1] and "vhost-user-blk-pci" in said[2] and "vhost.sock" in said[2]
    [line] = commands("README.md", "snap_perf")
    perf = shlex.split(line.replace("VUID", v["vuid"]).replace("--range 65536", "--range 1024").replace("--runtime 10", "--runtime 1"))
    assert "0 errors" in run(snap, "snap_perf", ["--run-dir", str(snap.run_dir), *perf])
    wipe(snap)


def test_the_disk_of_the_operator_guide(snap, tmp_path):
    lines = commands("docs/operation.md", "snap_rpc.py")
    assert len(lines) == 6
    with open(tmp_path / "disk.img", "wb") as image:
        image.truncate(1 << 20)
    for line in lines:
        line = line.replace("/srv/disk.img", str(tmp_path / "disk.img"))
        run(snap, "snap_rpc", ["-s", str(snap.rpc_socket), *shlex.split(line)])
    [c] = snap.rpc("nvme_controller_list")
    assert (c["state"], c["namespaces"][0]["bdev"]) == ("STARTED", "File0")
    wipe(snap)


def test_the_pages_about_the_target(tmp_path):
    with Target(tmp_path) as target:
        with open(tmp_path / "disk.img", "wb") as image:
            image.truncate(1 << 20)
        with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
            ports = [str(s.getsockname()[1]) for s in (first, second)]
        places = {"192.0.2.10": "127.0.0.1", "-s 4420": f"-s {ports[0]}", "-s 4421": f"-s {ports[1]}",
                  "/srv/disk.img": str(tmp_path / "disk.img")}
        lines = commands("docs/target.md", "snap_rpc.py")
        assert len(lines) == 15
        for line in lines:
            for old, new in places.items():
                line = line.replace(old, new)
            if not line.startswith("bdev_nvme_attach_controller"):  # that one is for snap_service
                run(target, "snap_rpc", ["-s", str(target.rpc_socket), *shlex.split(line)])
        one, two = target.rpc("nvmf_get_subsystems")[1:]
        assert one["namespaces"][0]["bdev_name"] == "File0" and len(one["hosts"]) == 1 and not one["allow_any_host"]
        assert [a["trsvcid"] for a in two["listen_addresses"]] == ports
        states = [a["ana_states"][0]["ana_state"] for a in target.rpc("nvmf_subsystem_get_listeners", nqn=two["nqn"])]
        assert states == ["optimized", "inaccessible"]


def test_every_link_of_the_pages_leads_somewhere():
    for page in ("README.md", "ARCHITECTURE.md", "HACKING.md", "docs/operation.md", "docs/recovery.md", "docs/target.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


def test_every_path_of_the_map_exists():
    """ARCHITECTURE.md names rooms and doors."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for room, doors in re.findall(r"^\| `(src/[^`]+)` \|[^|]*\|([^|]*)\|", text, re.M):
        assert (ROOT / room).is_dir(), room
        for door in re.findall(r"`([^`]+)`", doors):
            assert (ROOT / "src" / door).exists(), door
