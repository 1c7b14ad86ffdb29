# SPDX-License-Identifier: BSD-3-Clause
"""Direct I/O copies nothing, unless a guest's buffer is not aligned for it; then the copy is counted."""
from nvme import READ, WRITE, Nvme, pattern, sqe
from snap import Snap

from disks import TOPOLOGY

NBLOCKS = 8


def moves(n, opc, lba, iova):
    command = sqe(opc, nsid=1, prp1=iova, prp2=(iova | 4095) + 1, cdw10=lba, cdw12=NBLOCKS - 1)
    assert n.io[1].run(command).status == "SUCCESS"


def test_a_misaligned_buffer_is_copied_and_counted(tmp_path):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    data = pattern(5, NBLOCKS * 512)
    with Snap(tmp_path, TOPOLOGY) as s:
        s.rpc("bdev_aio_create", name="File0", filename=str(image), block_size=512)
        ctrl = s.nvme_disk("File0")

        def bounced():
            return s.rpc("nvme_controller_dbg_io_stats_get", ctrl_id=ctrl)["bounce_bytes"]

        with Nvme(s.vfio_socket()) as n:
            at = n.memory.alloc(16384)
            n.memory.write(at, data)
            moves(n, WRITE, 0, at)
            assert bounced() == 0
            n.memory.write(at + 4100, data)
            moves(n, WRITE, 64, at + 4100)  # dword aligned, as PRPs may be; no disk's alignment
            moves(n, READ, 0, at + 4)
            assert n.memory.read(at + 4, len(data)) == data
            assert bounced() == 2 * len(data)
        assert image.read_bytes()[64 * 512:64 * 512 + len(data)] == data
