/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/virtio_blk_inside.h - the virtio-blk driver from inside: virtio_blk_host.c (a disk),
 * virtio_blk_start.c (sizes, memory, the start sequence) and virtio_blk_queue.c (requests on one
 * ring). */
#ifndef CLIENT_VIRTIO_BLK_INSIDE_H
#define CLIENT_VIRTIO_BLK_INSIDE_H

#include "client/arena.h"
#include "client/vhost_client.h"
#include "client/virtio_blk_host.h"
#include "client/virtio_ring.h"

enum { BLK_MAX_DATA_SEGMENTS = 254, BLK_MAX_SEGMENTS = BLK_MAX_DATA_SEGMENTS + 3 };

/* What a request needs beside its data, in memory the device reaches. */
struct blk_control {
    struct virtio_blk_req_head head;
    struct virtio_blk_range range;
    uint8_t status, pad[31];
};
_Static_assert(sizeof(struct blk_control) == 64, "a cache line per request");

struct blk_slot {
    void *tag;         /* NULL: free */
    uint32_t writable; /* bytes the device may write, status byte included */
};

struct blk_queue {
    struct virtio_ring ring;
    struct blk_control *control; /* one per request id */
    uint64_t control_gpa;
    struct blk_slot *slot;
    uint16_t *free; /* a ring of free ids: the one that rested longest is next, so that a late
                       duplicate seldom meets a new request with its id */
    uint16_t nids, free_at, nfree;
    unsigned index, outstanding, depth;
    unsigned shift; /* of an LBA to sectors */
    uint32_t segment_bytes;
    bool split_header;
    int kick_fd, call_fd;
    uint64_t kicks, interrupts;
};

/* One request. type: VIRTIO_BLK_T_*; len: of the data, for IN, OUT and GET_ID. */
struct blk_request {
    uint32_t type, nblocks, len;
    uint64_t lba, gpa;
    void *tag;
};

/* memory: control_gpa and control are set by the caller before, as are all plain fields. */
int blk_queue_init(struct blk_queue *q, const struct virtio_ring_opts *opts);
void blk_queue_free(struct blk_queue *q);
void blk_queue_clear(struct blk_queue *q); /* forgets what is outstanding */
bool blk_queue_submit(struct blk_queue *q, const struct blk_request *req);
void blk_queue_ring(struct blk_queue *q);
unsigned blk_queue_poll(struct blk_queue *q, disk_completed_fn fn, void *arg);
void blk_queue_woken(struct blk_queue *q); /* takes the count of call_fd */

struct virtio_blk_host {
    struct disk disk;
    struct virtio_blk_opts o;
    struct vhost_client *vc; /* NULL: the connection is lost, and is tried again */
    struct disk_info info;
    uint64_t features; /* negotiated */
    uint32_t segment_bytes, request_segments, ring_size;
    struct arena control, data;
    struct blk_queue queue[DISK_MAX_QUEUES];
    unsigned nqueues;
    struct vhost_user_inflight area;
    int area_fd; /* -1: none */
    uint64_t messages, reconnects, config_changes;
};

/* ---- virtio_blk_start.c ---- */
/* Features, configuration, sizes and memory of a device that was just connected to. */
int blk_start_prepare(struct virtio_blk_host *h, struct err *err);
/* Features to ring enable. */
int blk_start(struct virtio_blk_host *h, struct err *err);
/* Stops all queues; the back end has drained them. */
int blk_stop(struct virtio_blk_host *h, struct err *err);
/* Reads the capacity again. */
int blk_read_capacity(struct virtio_blk_host *h, struct err *err);

#endif
