# SPDX-License-Identifier: BSD-3-Clause
"""One snap_emu and one service for all wire tests; each test connects to the function as a fresh client. A second function
has a client that verifies all the time: whatever is done to the first, the neighbour must not notice."""
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib")]

from disks import Neighbour, two_disks  # noqa: E402
from nvme import Nvme  # noqa: E402
from vfio_user import VfioUser  # noqa: E402


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
    n = Neighbour(snap.vfio_socket(snap.vuids[1]), snap.tmpdir)
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
