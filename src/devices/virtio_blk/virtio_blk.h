/* SPDX-License-Identifier: BSD-3-Clause
 *
 * devices/virtio_blk/virtio_blk.h - virtio-blk controllers, as the control plane makes them: a
 * block device (or none) shown to a host through virtqueues, whatever transport they come by.
 * Thread: control; requests run on the controller's reactor. Names and texts are copied. */
#ifndef DEVICES_VIRTIO_BLK_H
#define DEVICES_VIRTIO_BLK_H

#include "bdev/bdev.h"
#include "controller/controller.h"
#include "virtio/virtqueue.h"

struct vblk_ctrl;

enum {
    VBLK_MAX_QUEUES = FUNCTION_MAX_QUEUES,
    VBLK_DEFAULT_QUEUE_SIZE = 256,
    VBLK_MAX_SEGMENTS = 1022, /* of one request; longer chains end with an I/O error */
    VBLK_ID_BYTES = 20,
};

struct vblk_ctrl_opts {
    struct controller_opts base;
    struct bdev *bdev;   /* NULL: none; capacity 0 */
    const char *vblk_id; /* serial number, up to 20 bytes; NULL: the end of the vuid */
    uint32_t num_queues; /* 0: as many as the function has vectors for, less one */
    uint32_t queue_size; /* largest ring accepted; 0: 256 */
    uint32_t seg_max;    /* 0: queue_size - 2 */
    uint32_t size_max;   /* bytes of a segment; 0: no limit, not offered */
    bool read_only, indirect_desc;
};

/* The controller is in opts->base.set from the return of this call on, and gone again when created
 * comes with an error. created runs once, never inside. -EINVAL names the value and the limit. */
int vblk_ctrl_create(const struct vblk_ctrl_opts *opts, struct vblk_ctrl **ret,
                     controller_cb created, void *arg, struct err *err);
struct controller *vblk_ctrl_base(struct vblk_ctrl *ctrl);
struct vblk_ctrl *vblk_ctrl_from(struct controller *c); /* NULL: of another kind */

/* Shows a bdev to the host: a change of capacity. -EBUSY: it has one. vblk_id NULL: as it is. */
void vblk_ctrl_attach(struct vblk_ctrl *ctrl, struct bdev *bdev, const char *vblk_id,
                      controller_cb done, void *arg);
/* Takes it away: requests in flight finish, capacity becomes 0. -ENODEV: there is none. -ETIMEDOUT:
 * they did not within 2 s, the controller runs on as before. */
void vblk_ctrl_detach(struct vblk_ctrl *ctrl, controller_cb done, void *arg);

/* What the kind knows; controller/ tells state and function. */
struct vblk_ctrl_info {
    const char *ctrl_id, *vblk_id;
    struct bdev *bdev; /* NULL: none */
    uint32_t num_queues, queue_size, seg_max, size_max;
    bool read_only, indirect_desc;
    const struct device_counts *counts; /* valid while the controller is */
};
struct vblk_ctrl_info vblk_ctrl_get_info(const struct vblk_ctrl *ctrl);

struct vblk_queue_stats {
    uint64_t reads, writes, flushes, discards, write_zeroes, errors;
};
/* What a queue (below num_queues) has ever done. false: the host has not started it now. */
bool vblk_ctrl_queue_stats(const struct vblk_ctrl *ctrl, unsigned index,
                           struct vblk_queue_stats *ret);

/* The rings as they are at one moment, asked on the reactor. */
struct vblk_rings {
    unsigned n;
    struct {
        unsigned index;
        bool run;
        struct virtq_info info;
    } ring[VBLK_MAX_QUEUES];
};
void vblk_ctrl_rings(struct vblk_ctrl *ctrl, struct vblk_rings *ret, controller_cb done, void *arg);

#endif
