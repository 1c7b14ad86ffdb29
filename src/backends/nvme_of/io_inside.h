/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/io_inside.h - a request of a lane, as io.c, io_dispatch.c, io_fence.c and
 * io_command.c share it. Thread: the reactor of the lane. */
#ifndef BACKENDS_NVME_OF_IO_INSIDE_H
#define BACKENDS_NVME_OF_IO_INSIDE_H

#include "backends/nvme_of/queue.h"

#include <stdatomic.h>

enum io_state { IO_PENDING, IO_ACTIVE, IO_WAITING, IO_FENCED, IO_DELAYED, IO_ENDED };

/* Lives in bdev_req.backend. */
struct nof_io {
    struct list node; /* in the list of its state */
    struct bdev_req *req;
    struct nof_channel *ch;
    struct nof_queue *queue; /* pending or active there */
    uint64_t seq;            /* order of arrival */
    uint64_t guard;          /* number, see fence.h; 0: none */
    enum io_state state;
    int rc;
    uint32_t total, issued, finished; /* blocks; flush and unmap: 1 command */
    uint32_t out;                     /* commands with the target */
    uint8_t tries, losses;
    bool retry;
    bool elsewhere; /* by another path, if there is one */
    bool uncertain; /* was with the target when a connection was lost: may still be executed, as
                       long as the fence lasts */
    bool lost;      /* now; for io_connection_lost() */
    uint8_t wait_ticks;
    char *copy; /* of the data of a write, when the caller's memory may not be used */
    struct iovec copy_iov;
};
static_assert(sizeof(struct nof_io) <= sizeof(((struct bdev_req *)0)->backend), "fits");

static inline struct nof_io *io_of(struct bdev_req *req)
{
    return (struct nof_io *)(void *)req->backend;
}

static inline bool io_changes_blocks(const struct nof_io *io)
{
    return io->req->op != BDEV_READ && io->req->op != BDEV_FLUSH;
}

/* Takes it out of its list. */
static inline void io_leave_list(struct nof_io *io)
{
    list_remove(&io->node);
    if (io->state <= IO_ACTIVE)
        io->queue->load--;
    else if (unlikely(io->state == IO_FENCED))
        atomic_fetch_sub_explicit(&io->ch->ns->fence.waiting, 1, memory_order_relaxed);
}

/* The block behind its last. */
static inline uint64_t io_end_lba(const struct nof_io *io)
{
    return io->req->lba + io->req->nblocks;
}

static inline void io_wait_in(struct list *list, struct nof_io *io, enum io_state state)
{
    io_leave_list(io);
    io->state = state;
    list_append(list, &io->node);
}

/* ---- io.c ---- */
/* The end of a request: done() runs inside. No command of it is with the target. */
void io_finish(struct nof_io *io, int rc);
/* Ends a request from inside a call of its owner: done() runs later. No command of it is left in a
 * slot. */
void io_end_later(struct nof_io *io, int rc);
/* From now on the data of a write are those of a copy; they are made once. False: no memory. */
bool io_copy_data(struct nof_io *io);

/* ---- io_dispatch.c ---- */
/* Finds its queue, or waits for one. It is in no list, and nothing of it is sent. */
void io_dispatch(struct nof_io *io);
/* The target or the path has refused it: after a while, or on another path, from the beginning. No
 * command of it is with the target. */
void io_try_again(struct nof_io *io);

/* ---- io_fence.c ---- */
/* The connection of q is lost, and the request was with the target there: it may be executed late.
 */
void io_guard(struct nof_io *io, const struct nof_queue *q);
/* The same, lost by a process before this one. */
void io_guard_resent(struct nof_io *io);
/* When late copies of its blocks, other than that of the given number (0: all), are known to be
 * over: microseconds of reactor_now_us(), FENCE_OVER, or FENCE_UNKNOWN. */
uint64_t io_fenced_until(const struct nof_io *io, uint64_t number);
/* True: it would overtake the late copy of another one, and waits now in lane->fenced. */
bool io_fenced(struct nof_io *io);

#endif
