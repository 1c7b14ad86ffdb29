/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/disk.h - a disk as its host loads it, whatever driver and socket are behind it:
 * nvme_disk.h, virtio_blk_host.h. The device is not trusted: a completion nobody waits for, or one
 * with a number that cannot be, is handed up as such.
 * Thread: one per disk. Owner: whoever opened it closes it, after the load on it is gone. */
#ifndef CLIENT_DISK_H
#define CLIENT_DISK_H

#include "base/err.h"

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum disk_op { DISK_READ, DISK_WRITE, DISK_ZEROES, DISK_DEALLOCATE, DISK_FLUSH };
enum { DISK_MAX_QUEUES = 64, DISK_MAX_FDS = DISK_MAX_QUEUES + 2 };

/* Fixed at open, but for nblocks, which follows the device when it tells of a change. */
struct disk_info {
    const char *kind; /* "nvme", "virtio-blk" */
    char name[300];   /* for people: "nqn..., namespace 1" */
    char how[64];     /* for people: "shadow doorbells", "packed ring, indirect, event index" */
    uint32_t block_bytes, max_transfer_bytes;
    uint32_t max_segments;  /* of one command; 0: no limit of its own */
    uint32_t queues, depth; /* commands in flight per queue */
    uint64_t nblocks;
    uint32_t max_zeroes_blocks, max_deallocate_blocks; /* per command; 0: it cannot */
    bool can_flush, read_only;
};

struct disk_stats {
    uint64_t kicks;      /* doorbell messages or eventfd writes */
    uint64_t interrupts; /* counted in the eventfds of the queues */
    uint64_t messages;   /* all messages sent on the socket */
    uint64_t reconnects;
    uint64_t config_changes; /* told by the device */
};

/* One command. The memory is [iova, iova + nblocks * block_bytes), at buf on this side; both are
 * given for every operation: a driver may use the first bytes for what the command needs. */
struct disk_io {
    enum disk_op op;
    uint32_t nblocks; /* 1-based; DISK_FLUSH: 0 */
    uint64_t lba;
    void *buf;
    uint64_t iova;
    void *tag; /* not NULL */
};

enum disk_flaw { DISK_BAD_SQHD = 1, DISK_BAD_USED_LEN = 2, DISK_BAD_USED_INDEX = 4 };

struct disk_completion {
    void *tag;      /* given at submission; NULL: it was not outstanding */
    bool ok;        /* the command succeeded */
    unsigned flaws; /* DISK_BAD_* */
    unsigned queue;
    uint32_t id;     /* CID, or the used id as the device wrote it */
    uint32_t status; /* NVMe: status field; virtio: status byte */
    uint32_t value;  /* NVMe: SQ head | SQ id << 16; virtio: used length, or the bad index */
};
typedef void (*disk_completed_fn)(void *arg, const struct disk_completion *c);

struct disk;
struct disk_ops {
    struct disk_info (*info)(const struct disk *d);
    struct disk_stats (*stats)(struct disk *d);
    /* Page-aligned memory the device can reach, never given back. NULL: used up. */
    void *(*alloc)(struct disk *d, uint64_t bytes, uint64_t *ret_iova);
    /* False: depth commands are outstanding. */
    bool (*submit)(struct disk *d, unsigned queue, const struct disk_io *io);
    /* Tells the device about all submitted since the last time, with one kick at most. */
    void (*ring)(struct disk *d, unsigned queue);
    unsigned (*poll)(struct disk *d, unsigned queue, disk_completed_fn fn, void *arg);
    /* Before a sleep: asks for interrupts. False: something has completed, poll again. */
    bool (*arm)(struct disk *d);
    unsigned (*fds)(struct disk *d, struct pollfd *fds, unsigned max); /* what to sleep on */
    void (*woken)(struct disk *d);                                     /* after the sleep */
    /* About every 20 ms: looks after the connection. 0: it is there, or is being made again;
     * -errno: the disk is gone. */
    int (*check)(struct disk *d, struct err *err);
    /* Resets the device and starts it again. What was outstanding is forgotten. */
    int (*reset)(struct disk *d, struct err *err);
    /* One phrase for an error text: "id 5 on queue 0, length 512, status 1". */
    void (*explain)(const struct disk_completion *c, char *text, size_t size);
    void (*close)(struct disk *d);
};

/* The first member of every driver. */
struct disk {
    const struct disk_ops *ops;
};

static inline void disk_close(struct disk *d) /* accepts NULL */
{
    if (d)
        d->ops->close(d);
}

#endif
