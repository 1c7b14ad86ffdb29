/* SPDX-License-Identifier: BSD-3-Clause
 *
 * runtime/ring.h - the io_uring of a reactor. Every ring holds files that tell of its end (the
 * service's fence pipe, its holder's lock) as registered files: they are closed only when the
 * kernel has let go of the ring and all its requests. Thread: the reactor's, except ring_create().
 */
#ifndef RUNTIME_RING_H
#define RUNTIME_RING_H

#include "runtime/reactor.h"

#include <liburing.h>

struct ring;

struct ring_op {
    void (*done)(struct ring_op *op, int res); /* res: bytes or -errno */
};

/* Before the reactor runs. entries: submission queue size. held: nheld descriptors to be
 * registered; stay the caller's to close. Returns NULL with err filled when the kernel refuses
 * io_uring. */
struct ring *ring_create(struct reactor *r, unsigned entries, const int *held, unsigned nheld,
                         struct err *err);
/* Nothing may be in flight. */
void ring_destroy(struct ring *ring);

/* The reactor's ring, or NULL. */
struct ring *reactor_ring(struct reactor *r);

/* A cleared submission entry whose completion calls op->done. Never NULL: submits when the queue is
 * full. Fill it by io_uring_prep_*() and then ring_bind(): the prep functions clear user_data.
 * Submitted at the end of the turn. */
struct io_uring_sqe *ring_sqe(struct ring *ring);
/* op is the caller's again when op->done runs. */
void ring_bind(struct ring *ring, struct io_uring_sqe *sqe, struct ring_op *op);
unsigned ring_inflight(const struct ring *ring);

#endif
