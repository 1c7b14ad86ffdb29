# SPDX-License-Identifier: BSD-3-Clause
"""A core dump goes where logs and bug reports go: no data of guests or hosts may be in it."""
import os

import pytest
from core_dump import aborted, holds, where_dumped
from nvme import READ, WRITE, Nvme, sqe
from snap import Snap
from target import Target

from disks import TOPOLOGY

NQN = "nqn.2024-01.io.opensnap:dumped"
# Longer than what a memcpy has in vector registers at a time: their contents are in every dump and, saved by the dynamic
# linker, on stacks.
SECRET = os.urandom(640)
DATA = (SECRET + bytes(1024 - len(SECRET))) * 16  # two blocks each


@pytest.fixture
def remote(tmp_path):
    """A snap_target that serves a file."""
    (tmp_path / "target").mkdir()
    image = tmp_path / "target" / "disk.img"
    image.write_bytes(DATA + bytes(1 << 20))
    with Target(tmp_path / "target") as t:
        t.rpc("nvmf_create_transport", trtype="TCP")
        t.rpc("bdev_aio_create", name="File0", filename=str(image), block_size=512)
        t.rpc("nvmf_create_subsystem", nqn=NQN, allow_any_host=True)
        t.rpc("nvmf_subsystem_add_ns", nqn=NQN, namespace={"bdev_name": "File0"})
        t.rpc("nvmf_subsystem_add_listener", nqn=NQN, listen_address={"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1",
                                                                     "trsvcid": "0"})
        t.port = t.rpc("nvmf_get_subsystems", nqn=NQN)[0]["listen_addresses"][0]["trsvcid"]
        yield t


@pytest.fixture
def snap(tmp_path, remote):
    """Namespaces on memory, on a file and on the remote target."""
    image = tmp_path / "disk.img"
    image.write_bytes(DATA + bytes(1 << 20))
    with Snap(tmp_path / "snap", TOPOLOGY) as s:
        s.rpc("bdev_malloc_create", name="Memory0", block_size=512, num_blocks=4096)
        s.rpc("bdev_aio_create", name="File0", filename=str(image), block_size=512)
        s.rpc("bdev_nvme_attach_controller", name="Remote", trtype="TCP", traddr="127.0.0.1", trsvcid=remote.port, adrfam="IPv4",
              subnqn=NQN)
        ctrl = s.nvme_disk("Memory0")
        for nsid, bdev in enumerate(("File0", "Remoten1"), 2):
            s.rpc("nvme_namespace_create", nqn="nqn.2024-01.io.opensnap:disk", bdev_name=bdev, nsid=nsid)
            s.rpc("nvme_controller_attach_ns", ctrl_id=ctrl, nsid=nsid)
        yield s


def fill(nvme, nsid):
    """Aligned and not, big and small: whatever buffers there are have held the secret."""
    at = nvme.memory.alloc(8 * 4096)
    for offset in (0, 4):
        for blocks in (2, 8, 14):
            nvme.memory.write(at + offset, DATA)
            for opc in (WRITE, READ):
                size = blocks * 512
                second = (at + offset + size - 1) & ~4095
                command = sqe(opc, nsid=nsid, prp1=at + offset, prp2=second if second > at + offset else 0, cdw12=blocks - 1)
                assert nvme.io[1].run(command).status == "SUCCESS"
    return at


def test_dumps_of_service_and_target_hold_no_data(snap, remote):
    programs = {"snap_service": (snap.service, b"opensnap:disk"), "snap_emu": (snap.emu, b"cntrl"),
                "snap_target": (remote.target, NQN.encode())}
    with Nvme(snap.vfio_socket()) as nvme:
        for nsid in (1, 2, 3):
            at = fill(nvme, nsid)
        assert nvme.memory.read(at + 4, len(SECRET)) == SECRET  # it is there, all the time
        for name, (process, _) in programs.items():
            assert where_dumped(process.pid, SECRET) == [], name
        for name, (process, known) in programs.items():
            core = aborted(process)
            if core:
                assert holds(core, known), f"{name}: the dump shows nothing"
                assert not holds(core, SECRET), name
                core.unlink()
        for owner, attribute in ((snap, "service"), (snap, "emu"), (remote, "target")):
            setattr(owner, attribute, None)
