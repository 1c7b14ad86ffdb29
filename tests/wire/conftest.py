# SPDX-License-Identifier: BSD-3-Clause
"""One snap_emu and one service for all wire tests; each test connects to the function as a fresh client. A second function
has a client that verifies all the time: whatever is done to the first, the neighbour must not notice."""
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib"), str(HERE.parent / "peers")]

from disks import Neighbour, blk_disks, two_disks  # noqa: E402
from nvme import Nvme  # noqa: E402
from vfio_user import VfioUser  # noqa: E402
from vhost_user import VhostUser  # noqa: E402
from virtio_blk import VirtioBlk  # noqa: E402


@pytest.fixture(scope="session")
def snap(tmp_path_factory):
    with two_disks(tmp_path_factory.mktemp("wire")) as s:
        yield s


@pytest.fixture
def own_snap(tmp_path):
    """For tests that may leave a function broken behind."""
    with two_disks(tmp_path) as s:
        yield s


@pytest.fixture(scope="session")
def neighbour_process(snap):
    n = Neighbour([snap.vfio_socket(snap.vuids[1])], snap.tmpdir)
    yield n
    n.stop()


@pytest.fixture
def neighbour(neighbour_process):
    """A test that names this fails when the other function's client finds anything wrong or stands still."""
    neighbour_process.check()
    yield neighbour_process
    neighbour_process.check()


@pytest.fixture
def path(snap):
    return snap.vfio_socket(snap.vuids[0])


@pytest.fixture
def vc(path):
    """A client that has agreed on a version, as QEMU."""
    with VfioUser(path) as c:
        yield c


@pytest.fixture
def nvme(path):
    """An enabled controller with one I/O queue."""
    with Nvme(path) as n:
        yield n


# ---- the same for virtio-blk on vhost-user sockets ----

@pytest.fixture(scope="session")
def blk_snap(tmp_path_factory):
    with blk_disks(tmp_path_factory.mktemp("blk")) as s:
        yield s


@pytest.fixture(scope="session")
def blk_neighbour_process(blk_snap):
    n = Neighbour([blk_snap.vhost_socket(blk_snap.vuids[1]), blk_snap.vfio_socket()], blk_snap.tmpdir)
    n.goes_on(20)
    yield n
    n.stop()


@pytest.fixture
def blk_neighbour(blk_neighbour_process):
    """Clients of the second virtio-blk function and of an NVMe function; see neighbour."""
    blk_neighbour_process.check()
    yield blk_neighbour_process
    blk_neighbour_process.check()


@pytest.fixture
def own_blk_snap(tmp_path):
    with blk_disks(tmp_path) as s:
        yield s


@pytest.fixture
def blk_path(blk_snap):
    return blk_snap.vhost_socket(blk_snap.vuids[0])


@pytest.fixture
def fe(blk_path):
    """A front end that has negotiated, as QEMU."""
    with VhostUser(blk_path) as c:
        yield c


@pytest.fixture
def blk(blk_path):
    """A running disk with one split ring."""
    with VirtioBlk(blk_path) as d:
        yield d


@pytest.fixture(params=[False, True], ids=["split", "packed"])
def packed(request):
    return request.param


@pytest.fixture
def either(blk_path, packed):
    """A running disk with one ring, split and then packed."""
    with VirtioBlk(blk_path, packed=packed) as d:
        yield d


@pytest.fixture
def stopped(blk_path, packed):
    """Memory and features are there, no ring is started."""
    with VirtioBlk(blk_path, packed=packed, start=False) as d:
        d.vc.set_features(d.vc.offered & d.wanted)
        d.memory.attach(d.vc)
        yield d


@pytest.fixture
def fresh(blk_snap):
    """Makes the controller on the free function: fresh(bdev=..., ...) returns its socket."""
    made = []

    def make(**params):
        ctrl = blk_snap.rpc("virtio_blk_controller_create", pf_id=3, **params)["ctrl_id"]
        made.append(ctrl)
        return blk_snap.vhost_socket(blk_snap.vuids[3])

    yield make
    for ctrl in made:
        blk_snap.rpc("virtio_blk_controller_destroy", ctrl_id=ctrl)
