# SPDX-License-Identifier: BSD-3-Clause
"""virtio-blk disks on the functions of a running Snap."""


def vblk_disk(snap, bdev, pf=0, **controller):
    """A controller on the pf-th virtio-blk PF (of a topology without VFs, or the first), serving an existing bdev.
    Returns its name and its vhost-user socket."""
    vuid = snap.functions("VBLK")[pf]["vuid"]
    made = snap.rpc("virtio_blk_controller_create", vuid=vuid, bdev=bdev, **controller)
    return made["ctrl_id"], snap.vhost_socket(vuid)
