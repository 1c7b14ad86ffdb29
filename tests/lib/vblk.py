# SPDX-License-Identifier: BSD-3-Clause
"""virtio-blk disks on the functions of a running Snap."""


def vblk_disk(snap, bdev, pf=0, **controller):
    """A controller on the pf-th virtio-blk PF, serving an existing bdev. Returns its name and its vhost-user socket."""
    pfs = [pf["vuid"] for pf in snap.rpc("emulation_function_list", all=True) if pf["emulation_type"] == "VBLK"]
    made = snap.rpc("virtio_blk_controller_create", vuid=pfs[pf], bdev=bdev, **controller)
    return made["ctrl_id"], snap.run_dir / "functions" / pfs[pf] / "vhost.sock"
