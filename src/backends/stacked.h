/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/stacked.h - inside of the room: what bdevs that stand on another one have in common. The
 * disk claims its base and follows its size. A request is given to the base as a request of our
 * own, from a pool of the channel that only grows: as deep as the caller's queues. Thread: the
 * disk's calls control, the channel's its reactor. */
#ifndef BACKENDS_STACKED_H
#define BACKENDS_STACKED_H

#include "bdev/bdev.h"

struct stacked_disk {
    struct bdev *base, *bd;
    struct bdev_listener listener;
};

/* Registers dev, whose part d is, on top of base: as large, able to do the same, but another disk.
 * uuid NULL: made from ops->kind and the name. On an error nothing is claimed. */
int stacked_register(struct bdev_set *set, const char *name, const struct bdev_ops *ops, void *dev,
                     struct stacked_disk *d, struct bdev *base, const struct bdev_uuid *uuid,
                     struct err *err);
/* From ops->destroy of a registered disk. */
void stacked_release(struct stacked_disk *d);

enum stacked_where {
    STACKED_HELD, /* by the disk, in a list of its own */
    STACKED_BASE, /* at the base */
    STACKED_OVER, /* ends in a later turn */
};

struct stacked_io {
    struct bdev_req inner; /* the base's */
    struct bdev_req *outer;
    struct stacked_channel *ch;
    struct list node; /* the disk's while held */
    enum stacked_where where;
    bool detached; /* outer->iov must not be touched any more */
    int rc;        /* when it is over */
    char *copy;    /* of a write's data */
    struct iovec copy_iov;
    /* the disk's */
    uint64_t due_us;
    uint64_t corrupt_at;
    uint8_t corrupt_by;
};

struct stacked_channel {
    struct bdev_channel *base;
    struct reactor *reactor;
    /* Looks at an ending request, before its caller does. May be NULL. */
    void (*ending)(struct stacked_io *io, int rc);
    unsigned at_base;
    struct list free, over;
    struct timer over_timer;
    struct stacked_chunk *chunks;
};

/* ch is zeroed. 0, or an error of the base's. */
int stacked_open(struct stacked_channel *ch, struct stacked_disk *d, struct reactor *r,
                 struct err *err);
void stacked_close(struct stacked_channel *ch);

/* Held, in no list. NULL: no memory. */
struct stacked_io *stacked_take(struct stacked_channel *ch, struct bdev_req *outer);
struct stacked_io *stacked_io_of(struct bdev_req *outer);
/* Inside of submit: to the base, and what submit answers. */
int stacked_submit(struct stacked_io *io);
/* Later: to the base; bdev_flush_batch(ch->base) is the caller's at the end of a batch. */
void stacked_go(struct stacked_io *io);
/* Held, in no list, inside of submit: it is not begun at all; submit answers an error. */
void stacked_drop(struct stacked_io *io);
/* Held, in no list: ends it now, not inside of submit, detach or cancel. */
void stacked_end(struct stacked_io *io, int rc);
/* Held: takes it out of its list and ends it in a later turn. */
void stacked_end_later(struct stacked_io *io, int rc);
/* Held: its data are copied, and outer->iov is not needed any more. 0 or -ENOMEM. */
int stacked_copy(struct stacked_io *io);

/* For the table of operations. A held read that is detached ends early. */
int stacked_detach(void *ctx, struct bdev_req *outer); /* ctx begins with the stacked_channel */
void stacked_flush_batch(void *ctx);

#endif
