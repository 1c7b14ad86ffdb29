/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Submission queues. A batch is copied into records, published by one store of the queue's head,
 * and only then executed: a record at or beyond the stored head is void, its command will be
 * fetched again. */
#include "devices/nvme/inside.h"

#include "base/crash_point.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

enum {
    BATCH = 64,
    PREFETCH = 8,
    MIN_SLOTS = 64,
    /* Of a batch that a bdev copies itself, so many are posted together: the host refills the queue
     * while the rest is copied. */
    POST_EARLY = 8,
};

struct nvme_sq *nvme_sq_create(struct nvme_dev *dev, unsigned qid)
{
    struct nvme_state_sq *st = &dev->st->sq[qid];
    struct nvme_sq *sq = calloc(1, sizeof(*sq));

    if (!sq)
        return NULL;
    sq->dev = dev;
    sq->st = st;
    sq->qid = (uint16_t)qid;
    sq->size = st->size;
    sq->gpa = st->gpa;
    sq->head = atomic_load_explicit(&st->head, memory_order_acquire);
    sq->pos = (uint32_t)(sq->head % sq->size);
    sq->stopped = atomic_load_explicit(&st->stopped, memory_order_acquire);
    sq->used = MIN(atomic_load_explicit(&st->slots_used, memory_order_acquire), dev->max_depth);
    sq->start = qid ? nvme_io_start : nvme_admin_start;
    sq->cq = dev->cq[st->cqid];
    /* Outstanding events keep admin slots for ever: a tiny queue must have some left. */
    if (nvme_sq_slots_init(sq, nvme_state_slots(dev->st, dev->max_depth, qid),
                           MIN(dev->max_depth, MAX(sq->size, (uint32_t)MIN_SLOTS))) < 0) {
        nvme_sq_destroy(sq);
        return NULL;
    }
    sq->used = MIN(sq->used, sq->nslots);
    sq->cq->nsqs++;
    dev->sq[qid] = sq;
    atomic_store_explicit(&dev->has_queue, atomic_load(&dev->has_queue) | 1U << qid,
                          memory_order_relaxed);
    nvme_sq_bind(sq);
    return sq;
}

void nvme_sq_destroy(struct nvme_sq *sq)
{
    struct nvme_dev *dev = sq->dev;

    if (dev->sq[sq->qid] == sq) {
        dev->sq[sq->qid] = NULL;
        sq->cq->nsqs--;
        atomic_store_explicit(&dev->has_queue, atomic_load(&dev->has_queue) & ~(1U << sq->qid),
                              memory_order_relaxed);
    }
    nvme_sq_slots_free(sq);
    free(sq);
}

static const void *entry(const struct nvme_sq *sq, uint32_t pos)
{
    uint64_t offset = (uint64_t)pos * sizeof(struct nvme_sqe);

    if (likely(sq->ring))
        return sq->ring + offset;
    return guest_ptr(sq->dev->map, sq->gpa + offset, sizeof(struct nvme_sqe), GUEST_READ);
}

static void bad_tail(struct nvme_sq *sq)
{
    static struct log_limit limit;

    sq->stopped = true;
    atomic_store_explicit(&sq->st->stopped, 1, memory_order_release);
    log_limited(&limit, LOG_WARNING, "nvme",
                "ctrl %s: invalid tail doorbell of SQ %u: the queue is stopped", sq->dev->base.name,
                sq->qid);
    nvme_event_raise(sq->dev, NVME_EVENT_DB_VALUE);
}

/* Entries between our head and the host's tail; 0 when there is nothing that may be fetched. */
static uint32_t available(struct nvme_sq *sq)
{
    uint32_t tail;

    if (unlikely(sq->parked || sq->stopped || sq->delete_req))
        return 0;
    tail = nvme_sq_tail(sq);
    if (likely(tail == sq->pos))
        return 0;
    if (unlikely(tail >= sq->size)) {
        bad_tail(sq);
        return 0;
    }
    return tail > sq->pos ? tail - sq->pos : tail + sq->size - sq->pos;
}

bool nvme_sq_has_work(struct nvme_sq *sq)
{
    return available(sq) > 0 && sq->nfree > 0;
}

static void fill_record(struct nvme_sq *sq, struct nvme_record *rec, const void *src,
                        uint64_t index)
{
    memcpy(&rec->sqe, src, sizeof(rec->sqe)); /* the one read of guest memory */
    if (!nvme_recorded(sq->qid))
        return;
    rec->generation = atomic_load_explicit(&sq->dev->st->life.generation, memory_order_relaxed);
    rec->qid = sq->qid;
    atomic_store_explicit(&rec->starts, 0, memory_order_relaxed);
    atomic_store_explicit(&rec->intent, 0, memory_order_relaxed);
    atomic_store_explicit(&rec->index1, index + 1, memory_order_release);
    crash_point(nvme_record_filled);
}

unsigned nvme_sq_fetch(struct nvme_sq *sq)
{
    struct nvme_req *batch[BATCH];
    uint32_t n = available(sq), i;

    if (n == 0)
        return 0;
    if (unlikely(n > sq->nfree)) {
        sq->starved = sq->nfree == 0;
        n = sq->nfree;
    }
    n = MIN(n, (uint32_t)BATCH);
    /* A free slot's record is void: that, and the CQ tail before it, comes before what is written
     * into the record next. */
    atomic_thread_fence(memory_order_release);
    for (i = 0; i < MIN(n, (uint32_t)PREFETCH) && sq->ring; i++)
        __builtin_prefetch(sq->ring + ((uint64_t)(sq->pos + i) % sq->size) * 64);
    for (i = 0; i < n; i++) {
        const void *src = entry(sq, sq->pos);

        if (unlikely(!src)) {
            sq->parked = true;
            break;
        }
        if (sq->ring && i + PREFETCH < n)
            __builtin_prefetch(sq->ring + ((uint64_t)(sq->pos + PREFETCH) % sq->size) * 64);
        batch[i] = nvme_req_take(sq);
        fill_record(sq, batch[i]->rec, src, sq->head + i);
        if (++sq->pos == sq->size)
            sq->pos = 0;
    }
    if (i == 0)
        return 0;
    crash_point(nvme_fetch_copied);
    sq->head += i;
    if (nvme_recorded(sq->qid))
        atomic_store_explicit(&sq->st->head, sq->head, memory_order_release);
    crash_point(nvme_fetch_published);
    nvme_sq_relax(sq);
    n = i;
    for (i = 0; i < n; i++) {
        if (unlikely(sq->dev->copies) && i + 1 < n && sq->qid)
            nvme_io_expect(batch[i + 1]);
        nvme_req_start(batch[i]);
        if (sq->cq->nqueued >= POST_EARLY && batch[i]->ns && batch[i]->ns->copies)
            nvme_cq_post(sq->cq);
    }
    return n;
}

/* ---- a request's way ---- */

static void hold_expired(struct timer *t)
{
    struct nvme_dev *dev = container_of(t, struct nvme_dev, hold_timer);

    nvme_dev_restart_held(dev);
    device_kick(&dev->base);
}

void nvme_req_hold(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;

    req->state = NVME_REQ_HELD;
    req->next = NULL;
    if (dev->held)
        dev->held_last->next = req;
    else
        dev->held = req;
    dev->held_last = req;
    dev->nheld++;
    if (!dev->hold_timer.armed)
        timer_arm(dev->base.reactor, &dev->hold_timer, NVME_REMAP_US / 1000 + 10, hold_expired);
}

/* Its memory is away. */
static void park(struct nvme_req *req)
{
    counter_add(&req->sq->dev->base.counts.memory_parked, 1);
    nvme_req_hold(req);
}

void nvme_req_start(struct nvme_req *req)
{
    struct nvme_record *rec = req->rec;

    req->state = NVME_REQ_ACTIVE;
    req->detach = NVME_ATTACHED;
    /* Waiting for an event is not execution: it may last over many services. */
    if (nvme_recorded(req->sq->qid) &&
        likely(req->sq->qid != 0 || rec->sqe.opc != NVME_ADMIN_ASYNC_EVENT))
        atomic_store_explicit(
            &rec->starts, (uint8_t)(atomic_load_explicit(&rec->starts, memory_order_relaxed) + 1),
            memory_order_release);
    crash_point(nvme_start_counted);
    req->sq->start(req);
}

void nvme_req_finish(struct nvme_req *req, nvme_status status)
{
    struct nvme_dev *dev = req->sq->dev;

    if (unlikely((status & NVME_STATUS_MASK) == NVME_SC_DATA_TRANSFER_ERROR) &&
        reactor_now_us(dev->base.reactor) < dev->remap_until_us && !dev->dropping &&
        !req->sq->delete_req) {
        park(req); /* the host is moving its memory about: the data may be back in a moment */
        return;
    }
    req->status = status;
    if (unlikely(status != NVME_SC_SUCCESS))
        nvme_error_log(dev, req);
    crash_point(nvme_executed);
    nvme_cq_append(req->sq->cq, req);
}

void nvme_req_end(struct nvme_req *req, nvme_status status)
{
    struct nvme_sq *sq = req->sq;
    struct nvme_dev *dev = sq->dev;

    sq->inflight--;
    dev->base.inflight--;
    device_kick(&dev->base);
    if (unlikely(dev->dropping)) {
        nvme_req_release(req);
        dev->base.settle = true;
        return;
    }
    if (unlikely(status == NVME_SC_ABORT_REQUESTED)) {
        dev->base.settle = true;
        if (dev->base.keeping) {
            /* The record stays: it is the next service's. Nothing has died of it. */
            atomic_store_explicit(&req->rec->starts, (uint8_t)(atomic_load(&req->rec->starts) - 1),
                                  memory_order_release);
            req->state = NVME_REQ_FREE;
            return;
        }
        if (sq->delete_req) {
            nvme_req_finish(req, NVME_SC_ABORTED_SQ_DELETION);
            return;
        }
        if (req->detach != NVME_ATTACHED) {
            dev->remap_until_us = reactor_now_us(dev->base.reactor) + NVME_REMAP_US;
            park(req);
            return;
        }
    }
    nvme_req_finish(req, status);
    if (unlikely(device_drains(&dev->base) || sq->delete_req || dev->shutdown_wanted ||
                 (req->ns && req->ns->leaving)))
        dev->base.settle = true;
}

/* ---- held requests ---- */

void nvme_dev_restart_held(struct nvme_dev *dev)
{
    struct nvme_req *req = dev->held;
    unsigned n = dev->nheld;

    if (dev->base.hold & ~(uint32_t)DEVICE_HOLD_EVENTS)
        return; /* resume looks again */
    timer_cancel(&dev->hold_timer);
    dev->held = dev->held_last = NULL;
    dev->nheld = 0;
    for (; n > 0 && req; n--) { /* those that must go on waiting append themselves again */
        struct nvme_req *next = req->next;

        req->state = NVME_REQ_ACTIVE;
        req->detach = NVME_ATTACHED;
        req->sq->start(req);
        req = next;
    }
}

void nvme_dev_unhold_sq(struct nvme_sq *sq, nvme_status status)
{
    struct nvme_dev *dev = sq->dev;
    struct nvme_req *req = dev->held;

    dev->held = dev->held_last = NULL;
    dev->nheld = 0;
    while (req) {
        struct nvme_req *next = req->next;

        if (req->sq == sq)
            nvme_req_finish(req, status);
        else
            nvme_req_hold(req);
        req = next;
    }
}

void nvme_sq_cancel(struct nvme_sq *sq)
{
    for (uint32_t i = 0; i < sq->used; i++) {
        struct nvme_req *req = &sq->reqs[i];

        if (req->state == NVME_REQ_PENDING && req->in_bdev)
            bdev_cancel(req->ns->channel, &req->io);
    }
}
