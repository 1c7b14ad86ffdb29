/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/virtio_blk_host.h - a small virtio-blk driver in user space over vhost-user, as a disk.
 * Rings and requests are one memfd, data is another: two memory regions. With `reconnect` a broken
 * connection is made again as QEMU does it: the start sequence with the same in-flight area, rings,
 * and eventfds; what is outstanding stays so. The sequence then runs inside check(), and holds up
 * the thread for as long as the back end takes to answer (at most timeout_ms a message). */
#ifndef CLIENT_VIRTIO_BLK_HOST_H
#define CLIENT_VIRTIO_BLK_HOST_H

#include "client/disk.h"

struct virtio_blk_opts {
    const char *path; /* of the vhost-user socket; stays valid while the disk is open */
    bool packed;
    bool no_indirect, no_event_idx; /* not used even if offered */
    bool reconnect;
    bool split_header;      /* the request header in two descriptors */
    uint32_t segment_bytes; /* data in pieces of at most so many; 0: as large as the device takes */
    uint32_t ring_size;     /* descriptors per ring; 0: what the depth needs, 128 to 1024 */
    unsigned queues, depth; /* wanted; the device may have fewer queues, the ring less room */
    uint32_t io_bytes;      /* largest command */
    uint64_t data_bytes;    /* memory for alloc() */
    uint32_t timeout_ms;    /* of messages and of requests while it opens; 0: 10 s */
};

/* Starts the device. NULL: err says why. */
struct disk *virtio_blk_open(const struct virtio_blk_opts *opts, struct err *err);

#endif
