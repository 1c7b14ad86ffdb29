# SPDX-License-Identifier: BSD-3-Clause
"""One service per test file; every test leaves it empty."""
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for path in (HERE, HERE.parent / "lib"):
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))

from snap import RpcError, Snap  # noqa: E402

NQN = "nqn.2024-01.io.opensnap:test"


def wipe(snap):
    """Destroys all objects of a service."""
    for c in snap.rpc("virtio_blk_controller_list"):
        snap.rpc("virtio_blk_controller_destroy", ctrl_id=c["ctrl_id"], force=True)
    for ss in snap.rpc("nvme_subsystem_list"):
        snap.rpc("nvme_subsystem_destroy", nqn=ss["nqn"], force=True)
    for c in snap.rpc("bdev_nvme_get_controllers"):
        snap.rpc("bdev_nvme_detach_controller", name=c["name"])
    delete = {"Null disk": "bdev_null_delete", "Malloc disk": "bdev_malloc_delete",
              "AIO disk": "bdev_aio_delete", "URING bdev": "bdev_uring_delete", "delay": "bdev_delay_delete",
              "Error Injection Disk": "bdev_error_delete"}
    for b in reversed(snap.rpc("bdev_get_bdevs")):  # the newest first: one may stand on another
        snap.rpc(delete[b["product_name"]], name=b["name"])


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    topology = {"NVME_EMULATION_NUM_PF": 2, "NVME_EMULATION_NUM_VF": 2,
                "VIRTIO_BLK_EMULATION_ENABLE": 1, "VIRTIO_BLK_EMULATION_NUM_PF": 1}
    with Snap(tmp_path_factory.mktemp("snap"), topology=topology) as snap:
        yield snap


@pytest.fixture
def snap(service):
    yield service
    assert service.service.poll() is None, "the service has died:\n" + service.service_log()[-3000:]
    wipe(service)


@pytest.fixture
def own_snap(tmp_path):
    """A service of the test's own, to kill and start."""
    with Snap(tmp_path) as snap:
        yield snap


@pytest.fixture
def null0(snap):
    return snap.rpc("bdev_null_create", name="Null0", block_size=512, num_blocks=2048)


@pytest.fixture
def subsystem(snap):
    snap.rpc("nvme_subsystem_create", nqn=NQN)
    return NQN


@pytest.fixture
def refused(snap):
    """refused(code, words, method, **params): the call fails with this code and a message with these words."""
    def check(code, words, method, **params):
        with pytest.raises(RpcError) as e:
            snap.rpc(method, **params)
        assert e.value.code == code, e.value
        assert words in e.value.message, e.value
        return e.value.message
    return check


def cli_environment(snap):
    return dict(os.environ, SNAP_RPC_SOCK=str(snap.rpc_socket))
