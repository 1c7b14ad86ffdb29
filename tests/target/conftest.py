# SPDX-License-Identifier: BSD-3-Clause
"""One snap_target for all tests; each connects as fresh hosts. Another host verifies a disk of its own all the time: whatever
is done to the target, this neighbour must not notice."""
import itertools
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib"), str(HERE.parent / "peers")]

from disks import Disks  # noqa: E402
from neighbour import Neighbour  # noqa: E402
from nvme_tcp_host import Host  # noqa: E402


@pytest.fixture(scope="session")
def target(tmp_path_factory):
    with Disks(tmp_path_factory.mktemp("target")) as t:
        yield t


@pytest.fixture
def own_target(tmp_path):
    """Makes a target with limits of its own: own_target(max_queue_depth=...)."""
    made = []

    def make(**transport):
        made.append(Disks(tmp_path / f"own{len(made)}", **transport))
        return made[-1]

    yield make
    for t in made:
        t.stop()


@pytest.fixture(scope="session")
def neighbour_process(target):
    target.subsystem("neighbour")
    n = Neighbour(target.port, target.nqn("neighbour"))
    n.sockets = target.quiet_sockets()
    yield n
    n.stop()


class Hosts:
    """Makes hosts; close() closes all."""

    def __init__(self, target):
        self.target, self.made = target, []

    def __call__(self, nqn=None, **how):
        self.made.append(Host(self.target.port, nqn or self.target.nqn("disk"), **how))
        return self.made[-1]

    def close(self):
        while self.made:
            self.made.pop().close()


@pytest.fixture
def connect(target):
    """Hosts that are closed at the end: connect(nqn, io_queues=...)."""
    hosts = Hosts(target)
    yield hosts
    hosts.close()


@pytest.fixture
def neighbour(neighbour_process, target, connect):
    """A test that names this fails when the neighbour finds anything wrong or stands still, or when the target ends or does
    not close what the test has opened."""
    yield neighbour_process
    neighbour_process.check()
    assert target.target.poll() is None
    connect.close()
    target.no_more_sockets(neighbour_process.sockets)


@pytest.fixture
def subsystem(target):
    """Makes subsystems that are deleted at the end: subsystem(blocks=..., ...) returns the NQN."""
    made = []
    names = itertools.count()

    def make(**how):
        name = f"s{next(names)}"
        made.append(name)
        return target.subsystem(name, **how)

    yield make
    for name in made:
        target.delete(name)


@pytest.fixture
def host(connect):
    """A controller of the common disk with one I/O queue."""
    return connect(io_queues=1)


@pytest.fixture
def io(host):
    return host.io[0]


@pytest.fixture
def admin(connect):
    return connect().admin
