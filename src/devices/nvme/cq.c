/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Completion queues. The order that makes a crash harmless: intents of the whole batch, entries,
 * tail, slots. Between intent and tail the next service writes the same entries again; behind the
 * tail it frees the slots. */
#include "devices/nvme/inside.h"

#include "base/crash_point.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

struct nvme_cq *nvme_cq_create(struct nvme_dev *dev, unsigned qid)
{
    struct nvme_state_cq *st = &dev->st->cq[qid];
    struct nvme_cq *cq = calloc(1, sizeof(*cq));

    if (!cq)
        return NULL;
    cq->dev = dev;
    cq->st = st;
    cq->qid = (uint16_t)qid;
    cq->size = st->size;
    cq->gpa = st->gpa;
    cq->iv = st->iv;
    cq->ien = st->ien;
    cq->stopped = atomic_load_explicit(&st->stopped, memory_order_acquire);
    cq->tail = cq->head = atomic_load_explicit(&st->tail, memory_order_acquire);
    cq->pos = (uint32_t)(cq->tail % cq->size);
    dev->cq[qid] = cq;
    nvme_cq_bind(cq);
    return cq;
}

void nvme_cq_destroy(struct nvme_cq *cq)
{
    struct nvme_dev *dev = cq->dev;

    for (struct nvme_cq **it = &dev->dirty_cqs; *it; it = &(*it)->next_dirty)
        if (*it == cq) {
            *it = cq->next_dirty;
            break;
        }
    dev->cq[cq->qid] = NULL;
    free(cq);
}

static void link_last(struct nvme_cq *cq, struct nvme_req *req)
{
    req->next = NULL;
    if (cq->first)
        cq->last->next = req;
    else
        cq->first = req;
    cq->last = req;
    cq->nqueued++;
}

void nvme_cq_append(struct nvme_cq *cq, struct nvme_req *req)
{
    req->state = NVME_REQ_DONE;
    link_last(cq, req);
    if (!cq->queued) {
        cq->queued = true;
        cq->next_dirty = cq->dev->dirty_cqs;
        cq->dev->dirty_cqs = cq;
    }
}

void nvme_cq_drop_sq(struct nvme_cq *cq, const struct nvme_sq *sq)
{
    struct nvme_req *req = cq->first;

    cq->first = cq->last = NULL;
    cq->nqueued = 0;
    while (req) {
        struct nvme_req *next = req->next;

        if (req->sq == sq)
            nvme_req_release(req);
        else
            link_last(cq, req);
        req = next;
    }
}

static void bad_head(struct nvme_cq *cq)
{
    static struct log_limit limit;

    cq->stopped = true;
    atomic_store_explicit(&cq->st->stopped, 1, memory_order_release);
    log_limited(&limit, LOG_WARNING, "nvme",
                "ctrl %s: invalid head doorbell of CQ %u: the queue is stopped", cq->dev->base.name,
                cq->qid);
    nvme_event_raise(cq->dev, NVME_EVENT_DB_VALUE);
}

void nvme_cq_look(struct nvme_cq *cq)
{
    uint32_t used = (uint32_t)(cq->tail - cq->head), pos = (uint32_t)(cq->head % cq->size), moved;
    uint32_t now = nvme_cq_head(cq);

    if (cq->stopped || cq->reposts)
        return;
    moved = now >= pos ? now - pos : now + cq->size - pos;
    if (unlikely(now >= cq->size || moved > used)) {
        bad_head(cq);
        return;
    }
    if (moved == 0)
        return; /* an armed EventIdx stays armed */
    cq->head += moved;
    nvme_cq_relax(cq);
}

/* Free entries (one always stays empty). The host's head is looked at when half of them are used.
 */
static uint32_t room(struct nvme_cq *cq)
{
    if (unlikely(cq->tail - cq->head >= cq->size / 2))
        nvme_cq_look(cq);
    return cq->stopped ? 0 : cq->size - 1 - (uint32_t)(cq->tail - cq->head);
}

bool nvme_cq_has_room(struct nvme_cq *cq)
{
    return room(cq) > 0;
}

static struct nvme_cqe *entry(const struct nvme_cq *cq, uint32_t pos)
{
    uint64_t offset = (uint64_t)pos * sizeof(struct nvme_cqe);

    if (likely(cq->ring))
        return (struct nvme_cqe *)(cq->ring + offset);
    return guest_ptr(cq->dev->map, cq->gpa + offset, sizeof(struct nvme_cqe), GUEST_WRITE);
}

static void store_intent(struct nvme_record *rec, const struct nvme_req *req, uint64_t index)
{
#ifndef SNAP_LEAVE_OUT_INTENT
    rec->dw0 = req->dw0;
    rec->status = req->status;
    rec->sqhd = (uint16_t)req->sq->pos;
    crash_point(nvme_intent_values);
    atomic_store_explicit(&rec->intent, index + 1, memory_order_release);
#else
    rec->dw0 = req->dw0;
    rec->status = req->status;
    rec->sqhd = (uint16_t)req->sq->pos;
#endif
}

/* The half with the phase tag last, in one store: the host polls it. */
static void write_cqe(struct nvme_cqe *cqe, const struct nvme_req *req, uint16_t phase)
{
    const struct nvme_record *rec = req->rec;
    bool recorded = nvme_recorded(req->sq->qid);
    uint16_t sqhd = recorded ? rec->sqhd : (uint16_t)req->sq->pos;
    uint16_t status = recorded ? rec->status : req->status;
    union {
        struct nvme_cqe cqe;
        uint64_t half[2];
    } v = {.cqe = {.dw0 = le32_of(recorded ? rec->dw0 : req->dw0),
                   .sqhd = le16_of(sqhd),
                   .sqid = le16_of(req->sq->qid),
                   .cid = rec->sqe.cid,
                   .sf = le16_of((uint16_t)(status << 1 | phase))}};
    _Atomic uint64_t *at = (_Atomic uint64_t *)(void *)cqe;

    atomic_store_explicit(&at[0], v.half[0], memory_order_relaxed);
    crash_point(nvme_cqe_half);
    atomic_store_explicit(&at[1], v.half[1], memory_order_release);
}

void nvme_cq_post(struct nvme_cq *cq)
{
    uint32_t n = cq->nqueued, limit, i;
    struct nvme_req *req;

    cq->full = false;
    if (n == 0 || cq->parked || cq->stopped)
        return;
    /* An entry with a stored intent had room when that was stored, and may have been consumed
     * already. */
    limit = cq->reposts ? cq->reposts : room(cq);
    if (unlikely(limit < n)) {
        cq->full = limit == 0;
        n = limit;
    }
    for (i = 0, req = cq->first; i < n && nvme_recorded(cq->qid); i++, req = req->next)
        if (!atomic_load_explicit(&req->rec->intent, memory_order_relaxed)) {
            store_intent(req->rec, req, cq->tail + i);
            if (unlikely(req->on_intent))
                req->on_intent(req);
            crash_point(nvme_intent_stored);
        }
    if (n > 0)
        crash_point(nvme_intents_stored);
    for (i = 0, req = cq->first; i < n; i++, req = req->next) {
        struct nvme_cqe *at = entry(cq, cq->pos);

        if (unlikely(!at)) {
            cq->parked = true;
            break;
        }
        /* The first lap has phase 1. */
        write_cqe(at, req, !((cq->tail + i) / cq->size & 1));
        crash_point(nvme_cqe_written);
        if (++cq->pos == cq->size)
            cq->pos = 0;
    }
    /* Not mapped in the middle of a batch: the rest has its places and goes there later. */
    cq->reposts = n - i;
    n = i;
    if (n == 0)
        return;
    crash_point(nvme_cqes_written);
    cq->tail += n;
    if (nvme_recorded(cq->qid))
        atomic_store_explicit(&cq->st->tail, cq->tail, memory_order_release);
    crash_point(nvme_tail_stored);
    for (i = 0; i < n; i++) {
        req = cq->first;
        cq->first = req->next;
        nvme_req_release(req);
        crash_point(nvme_record_freed);
    }
    cq->nqueued -= n;
    crash_point(nvme_batch_freed);
    nvme_irq_add(cq->dev, cq, n);
}

void nvme_dev_post(struct nvme_dev *dev)
{
    struct nvme_cq *cq = dev->dirty_cqs;

    if (dev->base.hold & (NVME_HOLD_BUS | DEVICE_HOLD_FAILED))
        cq = NULL;
    else
        dev->dirty_cqs = NULL;
    while (cq) {
        struct nvme_cq *next = cq->next_dirty;

        do
            nvme_cq_post(cq);
        while (cq->nqueued > 0 && !cq->full && !cq->parked && !cq->stopped);
        cq->queued = cq->nqueued > 0;
        if (cq->queued) {
            cq->next_dirty = dev->dirty_cqs;
            dev->dirty_cqs = cq;
        }
        cq = next;
    }
    nvme_irq_flush(dev);
}
