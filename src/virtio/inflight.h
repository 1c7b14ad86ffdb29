/* SPDX-License-Identifier: BSD-3-Clause
 *
 * virtio/inflight.h - the in-flight area of vhost-user ("Inflight I/O tracking"): memory that the
 * front end keeps for us. Our own state memory is what recovery uses; the area is a mirror for the
 * case that snap_emu, which keeps the state memory, is gone too. Its content is foreign.
 * Thread: the function's reactor; the sizes any. */
#ifndef VIRTIO_INFLIGHT_H
#define VIRTIO_INFLIGHT_H

#include "spec/vhost_user.h"

#include <stdbool.h>

/* One queue's part. queue_size: entries there is room for. at NULL: there is no area. */
struct virtq_inflight {
    void *at;
    uint32_t queue_size;
};

/* Room that one queue takes, whichever format it has. */
static inline uint64_t virtq_inflight_stride(uint32_t queue_size)
{
    uint64_t bytes = sizeof(struct vhost_inflight_packed) +
                     (uint64_t)queue_size * sizeof(struct vhost_inflight_packed_entry);

    return (bytes + 63) & ~63ULL;
}

/* Makes it a part that was never used: its ring was reset or drained, and the next start is told
 * where to begin. Nothing happens when there is no area. */
void virtq_inflight_clear(const struct virtq_inflight *area);

#endif
