/* SPDX-License-Identifier: BSD-3-Clause */
#include "runtime/ring.h"

#include "runtime/inside.h"

#include <stdlib.h>
#include <string.h>

enum { COMPLETIONS_PER_TURN = 64 };

struct ring {
    struct io_uring uring;
    struct reactor *reactor;
    struct poller poller;
    struct watch watch;
    unsigned queued, inflight;
};

static void ring_submit(struct ring *ring)
{
    if (ring->queued == 0)
        return;
    /* -EAGAIN/-EBUSY leave entries in the queue: they go with the next turn. */
    if (io_uring_submit(&ring->uring) >= 0)
        ring->queued = io_uring_sq_ready(&ring->uring);
}

static unsigned ring_poll(struct poller *p)
{
    struct ring *ring = container_of(p, struct ring, poller);
    struct io_uring_cqe *cqes[COMPLETIONS_PER_TURN];
    unsigned n;

    if (ring->inflight == 0)
        return 0;
    n = io_uring_peek_batch_cqe(&ring->uring, cqes, COMPLETIONS_PER_TURN);
    for (unsigned i = 0; i < n; i++) {
        struct ring_op *op = io_uring_cqe_get_data(cqes[i]);
        int res = cqes[i]->res;

        io_uring_cqe_seen(&ring->uring, cqes[i]);
        ring->inflight--;
        if (op)
            op->done(op, res);
    }
    return n;
}

static void ring_flush(struct poller *p)
{
    ring_submit(container_of(p, struct ring, poller));
}

static bool ring_arm(struct poller *p)
{
    struct ring *ring = container_of(p, struct ring, poller);

    ring_submit(ring);
    return ring->queued == 0 && io_uring_cq_ready(&ring->uring) == 0;
}

static void ring_ready(struct watch *w, uint32_t events)
{
    (void)events;
    ring_poll(&container_of(w, struct ring, watch)->poller);
}

struct ring *ring_create(struct reactor *r, unsigned entries, const int *held, unsigned nheld,
                         struct err *err)
{
    struct ring *ring = calloc(1, sizeof(*ring));
    int rc;

    if (!ring) {
        err_set(err, -ENOMEM, "no memory for an io_uring");
        return NULL;
    }
    rc = io_uring_queue_init(entries, &ring->uring, IORING_SETUP_CLAMP);
    if (rc < 0) {
        err_set(err, rc,
                "the kernel refuses io_uring (%s): allow it (kernel.io_uring_disabled, seccomp)",
                strerror(-rc));
        free(ring);
        return NULL;
    }
    if (nheld > 0)
        rc = io_uring_register_files(&ring->uring, held, nheld);
    if (rc >= 0)
        rc = watch_add(r, &ring->watch, ring->uring.ring_fd, EPOLLIN, ring_ready);
    if (rc < 0) {
        err_set(err, rc, "io_uring set-up: %s", strerror(-rc));
        io_uring_queue_exit(&ring->uring);
        free(ring);
        return NULL;
    }
    ring->reactor = r;
    ring->poller = (struct poller){.poll = ring_poll, .flush = ring_flush, .arm = ring_arm};
    poller_add(r, &ring->poller);
    r->ring = ring;
    return ring;
}

void ring_destroy(struct ring *ring)
{
    if (!ring)
        return;
    ring->reactor->ring = NULL;
    poller_remove(ring->reactor, &ring->poller);
    watch_remove(ring->reactor, &ring->watch);
    io_uring_queue_exit(&ring->uring);
    free(ring);
}

struct ring *reactor_ring(struct reactor *r)
{
    return r->ring;
}

struct io_uring_sqe *ring_sqe(struct ring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

    while (!sqe) { /* full: the kernel takes what is queued, so this ends */
        io_uring_submit(&ring->uring);
        sqe = io_uring_get_sqe(&ring->uring);
    }
    ring->queued++;
    ring->inflight++;
    return sqe;
}

void ring_bind(struct ring *ring, struct io_uring_sqe *sqe, struct ring_op *op)
{
    (void)ring;
    io_uring_sqe_set_data(sqe, op);
}

unsigned ring_inflight(const struct ring *ring)
{
    return ring->inflight;
}
