/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/file.h - inside of the file backend. file.c: the device and its table; file_open.c: from
 * a path to descriptors; file_io.c: requests on the ring; bounce.c: aligned buffers for requests
 * that direct I/O cannot take. */
#ifndef BACKENDS_FILE_H
#define BACKENDS_FILE_H

#include "backends/backends.h"
#include "runtime/ring.h"

#include <stdatomic.h>

enum { BOUNCE_BYTES = 128 << 10, BOUNCE_MAX = 16 };

struct file_disk {
    int fd; /* holds the lock; I/O goes through descriptors of the channels */
    char *name, *path;
    bool block_device, read_only, direct, fallocate, block_bytes_given;
    uint32_t block_bytes;
    uint32_t mem_align, offset_align; /* of direct I/O; 1 without */
    uint64_t bytes;
    /* Known only by trying; set by any channel. */
    _Atomic bool no_punch, no_zero_range;
    _Atomic int
        flush_error; /* the first failed flush: all later ones fail too (data is lost already) */
};

/* Fills path-dependent members of d (name is set): type, size, alignment, descriptor, lock. */
int file_open(struct file_disk *d, const struct file_opts *opts, struct err *err);
/* Bytes it has now. 0 or -errno. */
int file_bytes(const struct file_disk *d, uint64_t *ret);
/* Another open file of the same device, for I/O: write-back errors are reported to each open file
 * once. fd or -errno. */
int file_reopen(const struct file_disk *d, bool direct);

/* Aligned buffers of BOUNCE_BYTES, made at first use. Thread: the channel's. */
struct bounce_pool {
    char *spare[BOUNCE_MAX];
    unsigned nspare, made;
};
/* NULL: all are in use, or there is no memory. */
char *bounce_get(struct bounce_pool *pool);
void bounce_put(struct bounce_pool *pool, char *buf);
void bounce_free(struct bounce_pool *pool);

struct file_channel {
    struct file_disk *disk;
    struct ring *ring;
    int fd;
    struct bounce_pool bounce;
    struct list bounce_waiting;
    /* One fdatasync at a time; requests that come meanwhile share the next one. */
    struct list flush_waiting, flushing;
    struct ring_op flush_op;
    bool flush_busy;
};

void file_channel_init(struct file_channel *ch);
int file_submit(void *ctx, struct bdev_req *req);
int file_detach(void *ctx, struct bdev_req *req);
void file_cancel(void *ctx, struct bdev_req *req);

#endif
