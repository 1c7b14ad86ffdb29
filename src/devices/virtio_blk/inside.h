/* SPDX-License-Identifier: BSD-3-Clause
 *
 * devices/virtio_blk/inside.h - what the files of this room share. Thread: the controller's
 * reactor, except where a comment says control. */
#ifndef DEVICES_VIRTIO_BLK_INSIDE_H
#define DEVICES_VIRTIO_BLK_INSIDE_H

#include "base/util.h"
#include "devices/virtio_blk/state.h"
#include "devices/virtio_blk/virtio_blk.h"

enum {
    VBLK_IOV_INLINE = 8,                  /* header, six data segments, status */
    VBLK_IOV_MAX = VBLK_MAX_SEGMENTS + 2, /* of a big iov */
    VBLK_MAX_RANGES = 256,                /* of one discard or write zeroes */
    VBLK_MAX_RANGE_SECTORS = 1 << 23,     /* 4 GiB */
    VBLK_REMAP_US = 2000000, /* after a map change, data that is not mapped is waited for so long */
    VBLK_BATCH = 64,
};

struct vblk_dev;
struct vblk_queue;

enum vblk_req_state {
    VBLK_REQ_FREE,
    VBLK_REQ_ACTIVE,
    VBLK_REQ_PENDING, /* with the bdev */
    VBLK_REQ_HELD,    /* its memory is away: started again when memory comes */
};

enum vblk_detach { VBLK_ATTACHED, VBLK_DETACHED, VBLK_DETACHING };

/* The private half of a slot; its record is the virtqueue's. */
struct vblk_req {
    struct vblk_queue *q;  /* NULL: never used */
    struct vblk_req *next; /* held */
    struct virtq_iov io;
    int mapped;                      /* 0, or why its chain is no request */
    struct virtio_blk_req_head head; /* our copy; zero when the chain is too short for one */
    uint32_t type;
    uint32_t step, steps; /* ranges of a discard or write zeroes; they lie in big */
    uint32_t resent;      /* BDEV_RESENT: recovered, a service before us may have sent it */
    uint16_t slot;
    uint8_t state, detach; /* enum vblk_req_state, enum vblk_detach */
    bool last_away;        /* the status byte's memory was taken away meanwhile */
    void *big;             /* VBLK_IOV_MAX iovecs from the pool, or NULL */
    struct iovec inline_iov[VBLK_IOV_INLINE];
    struct bdev_req bdev;
};

struct vblk_queue {
    struct vblk_dev *dev;
    struct function_queue cfg;
    struct virtq *vq;      /* NULL: not started */
    struct vblk_req *reqs; /* one for each slot */
    size_t reqs_bytes;
    uint32_t pending; /* with the bdev */
    bool through;     /* writes go to the medium before they are done */
    bool adopted;     /* recovered, and its live chains not started again yet */
    uint16_t *reads;  /* slots, between vblk_queue_restart() and vblk_queue_restart_reads() */
    unsigned nreads;
    bool told_broken;
    bool call; /* answers are there for which the host wants a call */
    void (*stopped)(void *arg, uint32_t base);
    void *stopped_arg;
};

enum { VBLK_HOLD_DETACH = DEVICE_HOLD_KIND }; /* not fetching: the bdev is being taken away */

struct vblk_disk {                /* what is behind it now */
    struct bdev_channel *channel; /* NULL: nothing */
    uint32_t block_shift;
    uint64_t nblocks;
    bool write_cache, read_only, can_unmap, can_write_zeroes, copies;
    struct bdev_uuid uuid;
};

struct vblk_dev_opts {
    const char *name; /* for logs */
    struct reactor *reactor;
    char vblk_id[VBLK_ID_BYTES];
    uint32_t num_queues, queue_size, seg_max, size_max;
    bool read_only;
    uint64_t features; /* offered */
};

struct vblk_dev {
    struct device base;
    struct guest_map *map;
    struct vblk_state *st;
    struct vblk_dev_opts o;
    uint64_t map_generation;
    uint32_t max_depth;
    bool dirty;
    bool dropping;        /* a reset: what ends is forgotten */
    bool after_crash;     /* the last holder died of a fault of its own */
    bool resumed;         /* since the lease */
    bool owns_state;      /* the identity in state memory is ours */
    bool writeback;       /* as the host has set it */
    bool through_by_area; /* the in-flight area tells of a choice that snap_emu does not know any
                             more */
    struct vblk_disk disk;
    struct vblk_queue *queue[VBLK_MAX_QUEUES];
    unsigned nqueues; /* highest index used + 1 */
    struct vblk_req *held, *held_last;
    unsigned nheld;
    uint64_t remap_until_us;
    void *iov_pool;
    struct timer hold_timer;

    /* motions */
    uint32_t reset_epoch;
    bool reset_forgets;  /* no client will come back for what is in flight */
    bool reset_defaults; /* configuration begins anew */
    void (*reset_done)(void *arg);
    void *reset_arg;
    struct motion detach; /* of the bdev */

    /* counters that control reads without a lock */
    struct {
        _Atomic uint64_t reads, writes, flushes, discards, write_zeroes, errors;
    } stats[VBLK_MAX_QUEUES];
    _Atomic uint64_t has_queue; /* bit per started queue */
};
static_assert(offsetof(struct vblk_dev, base) == 0, "function_ops gets either");

static inline struct vblk_dev *vblk_dev_of(struct device *d)
{
    return container_of(d, struct vblk_dev, base);
}

/* ---- device.c: what link/ calls ---- */
extern const struct function_ops vblk_function_ops;
struct vblk_dev *vblk_dev_create(const struct vblk_dev_opts *opts, struct err *err); /* control */
void vblk_dev_destroy(struct vblk_dev *dev); /* control; the lease is gone, the disk is closed */

/* ---- motion.c: its part of the motions of controller/device.h, reset, bdev taken away ---- */
extern const struct device_ops vblk_device_ops;
/* Takes the bdev away; requests in flight finish. After -ETIMEDOUT it keeps it and runs on. */
void vblk_dev_detach(struct vblk_dev *dev, controller_cb cb, void *arg);
void vblk_dev_reset(struct vblk_dev *dev, enum function_reset why, uint32_t epoch,
                    void (*done)(void *arg), void *arg);

/* ---- disk.c: the bdev behind it, and the configuration the host sees ---- */
int vblk_disk_open(struct vblk_dev *dev, struct bdev *bdev, struct err *err);
void vblk_disk_close(struct vblk_dev *dev);
void vblk_disk_resize(struct vblk_dev *dev, uint64_t nblocks);
/* Writes the configuration space; tell: the host is told of it. */
void vblk_config_put(struct vblk_dev *dev, bool tell);
void vblk_config_written(struct vblk_dev *dev); /* the host may have changed writeback */
void vblk_config_default(struct vblk_dev *dev); /* it has begun anew */
void vblk_store_identity(struct vblk_dev *dev);

/* ---- queue.c ---- */
void vblk_queue_changed(struct vblk_dev *dev, const struct function_queue *cfg,
                        void (*stopped)(void *arg, uint32_t base), void *arg);
void vblk_queue_close(struct vblk_queue *q); /* keeps its state */
/* Nothing of a closed ring is recorded any more: it was drained, or reset by the host. */
void vblk_queue_forget(struct vblk_queue *q);
/* Writes into the in-flight areas how the host wants its writes. */
void vblk_queues_remark(struct vblk_dev *dev);
void vblk_queue_free(struct vblk_queue *q);
unsigned vblk_queue_fetch(struct vblk_queue *q); /* and execute */
void vblk_queue_post(struct vblk_queue *q);
void vblk_queue_settle(struct vblk_queue *q); /* answers a stop whose end has come */
/* Live chains of an adopted one; those that only read are kept for vblk_queue_restart_reads(),
 * which comes when all queues that start again have done this: a dead service may have left half a
 * block of a write behind, and no read may see that. */
void vblk_queue_restart(struct vblk_queue *q);
void vblk_queue_restart_reads(struct vblk_queue *q);
bool vblk_queue_held(const struct vblk_queue *q); /* may not fetch */

/* ---- request.c ---- */
void vblk_req_start(struct vblk_queue *q, unsigned slot, uint32_t resent); /* 0 or BDEV_RESENT */
/* A batch of new ones, in order. */
void vblk_reqs_start(struct vblk_queue *q, const uint16_t *slots, unsigned n);
/* Ends a recovered chain with an I/O error, not executed. */
void vblk_req_fail(struct vblk_queue *q, unsigned slot);
/* It is told to only read the disk; any other, and one that cannot be told from it, may write. */
bool vblk_req_reads(struct vblk_queue *q, unsigned slot);
void vblk_restart_held(struct vblk_dev *dev);
/* Held requests of the queue (NULL: of all) are forgotten; their chains stay recorded. */
void vblk_forget_held(struct vblk_dev *dev, const struct vblk_queue *q);
void vblk_iov_pool_free(struct vblk_dev *dev);

/* ---- adopt.c ---- */
int vblk_adopt(struct vblk_dev *dev, struct err *err);
/* Compares the identity with what the host knows. 0 or -ESTALE. */
int vblk_adopt_identity(struct vblk_dev *dev, struct err *err);
bool vblk_host_knows_us(const struct vblk_dev *dev); /* a queue has been started in this epoch */
void vblk_recovery_begin(struct vblk_dev *dev);
void vblk_recovery_end(struct vblk_dev *dev);

#endif
