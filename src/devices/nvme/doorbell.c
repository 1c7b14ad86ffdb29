/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Doorbells: the BAR page, and the shadow doorbells of Doorbell Buffer Config (Base 2.0, 5.8) for
 * I/O queues. With a shadow the BAR is only a wake-up, rung when the host's update steps over
 * EventIdx. */
#include "devices/nvme/inside.h"

#include "base/crash_point.h"

#include <string.h>

/* The page is ours to clear: a new queue's doorbell is 0, whatever its predecessor of the same
 * number left there. */
static _Atomic uint32_t *bar(struct nvme_dev *dev, unsigned index)
{
    return (_Atomic uint32_t *)(uintptr_t)function_doorbells(dev->base.f) + index;
}

static _Atomic uint32_t *guest_word(struct nvme_dev *dev, uint64_t gpa)
{
    char *p = guest_ptr(dev->map, gpa, sizeof(uint32_t), GUEST_READ | GUEST_WRITE);

    return (uintptr_t)p % sizeof(uint32_t) ? NULL : (_Atomic uint32_t *)(void *)p;
}

/* The whole ring when it lies in one region, else NULL; *mapped tells whether all of its pages are
 * there at all. */
static char *ring(struct nvme_dev *dev, uint64_t gpa, uint64_t bytes, uint32_t prot, bool *mapped)
{
    char *p = guest_ptr(dev->map, gpa, bytes, prot);

    *mapped = true;
    if (p) {
        *mapped = (uintptr_t)p % sizeof(struct nvme_cqe) == 0;
        return *mapped ? p : NULL;
    }
    for (uint64_t at = 0; at < bytes && *mapped; at += NVME_PAGE) {
        p = guest_ptr(dev->map, gpa + at, MIN((uint64_t)NVME_PAGE, bytes - at), prot);
        *mapped = p && (uintptr_t)p % sizeof(struct nvme_cqe) == 0;
    }
    return NULL;
}

/* False: there is a shadow, but its memory is away. */
static bool bind_shadow(struct nvme_dev *dev, unsigned index, _Atomic uint32_t **shadow,
                        _Atomic uint32_t **eventidx)
{
    const struct nvme_state_life *life = &dev->st->life;

    *shadow = *eventidx = NULL;
    if (index < 2 || !atomic_load_explicit(&life->dbbuf_seq, memory_order_acquire))
        return true;
    *shadow = guest_word(dev, life->dbbuf_shadow + index * 4);
    *eventidx = guest_word(dev, life->dbbuf_eventidx + index * 4);
    if (*shadow && *eventidx)
        return true;
    *shadow = *eventidx = NULL;
    return false;
}

void nvme_sq_bind(struct nvme_sq *sq)
{
    struct nvme_dev *dev = sq->dev;
    bool mapped, shadow;

    sq->bar_tail = bar(dev, 2 * sq->qid);
    sq->ring =
        ring(dev, sq->gpa, (uint64_t)sq->size * sizeof(struct nvme_sqe), GUEST_READ, &mapped);
    shadow = bind_shadow(dev, 2 * sq->qid, &sq->shadow_tail, &sq->eventidx);
    sq->last_eventidx = UINT32_MAX; /* not known */
    sq->parked = !mapped || !shadow;
}

void nvme_cq_bind(struct nvme_cq *cq)
{
    struct nvme_dev *dev = cq->dev;
    bool mapped, shadow;

    cq->bar_head = bar(dev, 2 * cq->qid + 1);
    cq->ring =
        ring(dev, cq->gpa, (uint64_t)cq->size * sizeof(struct nvme_cqe), GUEST_WRITE, &mapped);
    shadow = bind_shadow(dev, 2 * cq->qid + 1, &cq->shadow_head, &cq->eventidx);
    cq->last_eventidx = UINT32_MAX;
    cq->parked = !mapped || !shadow;
}

void nvme_dev_bind(struct nvme_dev *dev)
{
    dev->map_generation = guest_map_generation(dev->map);
    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        if (dev->sq[i])
            nvme_sq_bind(dev->sq[i]);
        if (dev->cq[i])
            nvme_cq_bind(dev->cq[i]);
    }
}

static void count_ring(struct nvme_dev *dev, _Atomic uint32_t *word, uint32_t *last)
{
    uint32_t now = atomic_load_explicit(word, memory_order_acquire);

    if (now != *last) {
        *last = now;
        counter_add(&dev->doorbell_messages, 1);
    }
}

uint32_t nvme_sq_tail(struct nvme_sq *sq)
{
    count_ring(sq->dev, sq->bar_tail, &sq->last_bar);
    return sq->shadow_tail ? atomic_load_explicit(sq->shadow_tail, memory_order_acquire)
                           : sq->last_bar;
}

uint32_t nvme_cq_head(struct nvme_cq *cq)
{
    count_ring(cq->dev, cq->bar_head, &cq->last_bar);
    return cq->shadow_head ? atomic_load_explicit(cq->shadow_head, memory_order_acquire)
                           : cq->last_bar;
}

/* The host rings when its update steps over EventIdx. One that lies just behind its position is out
 * of the way for almost a lap, so that this stores about twice per lap. */
static void relax(_Atomic uint32_t *eventidx, uint32_t *last, uint32_t pos, uint32_t size)
{
    uint32_t ahead = *last >= pos ? *last - pos : *last + size - pos;

    if (*last < size && ahead >= size / 2)
        return;
    *last = pos ? pos - 1 : size - 1;
    atomic_store_explicit(eventidx, *last, memory_order_relaxed);
}

void nvme_sq_relax(struct nvme_sq *sq)
{
    if (sq->eventidx)
        relax(sq->eventidx, &sq->last_eventidx, sq->pos, sq->size);
}

void nvme_cq_relax(struct nvme_cq *cq)
{
    if (cq->eventidx)
        relax(cq->eventidx, &cq->last_eventidx, (uint32_t)(cq->head % cq->size), cq->size);
}

bool nvme_sq_arm(struct nvme_sq *sq)
{
    if (sq->eventidx && !sq->parked) {
        sq->last_eventidx = sq->pos;
        atomic_store_explicit(sq->eventidx, sq->pos, memory_order_relaxed);
        atomic_thread_fence(
            memory_order_seq_cst); /* the host stores its tail, fences, reads EventIdx */
    }
    return !nvme_sq_has_work(sq);
}

bool nvme_cq_arm(struct nvme_cq *cq)
{
    if (!cq->full)
        return true;
    if (cq->eventidx && !cq->parked) {
        cq->last_eventidx = (uint32_t)(cq->head % cq->size);
        atomic_store_explicit(cq->eventidx, cq->last_eventidx, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
    }
    return !nvme_cq_has_room(cq);
}

void nvme_doorbell_clear(struct nvme_dev *dev, unsigned index)
{
    _Atomic uint32_t *shadow, *eventidx;

    atomic_store_explicit(bar(dev, index), 0, memory_order_release);
    if (bind_shadow(dev, index, &shadow, &eventidx) && shadow) {
        atomic_store_explicit(shadow, 0, memory_order_release);
        atomic_store_explicit(eventidx, 0, memory_order_release);
    }
    dev->missing_bar[index] = 0;
}

void nvme_doorbells_clear_all(struct nvme_dev *dev)
{
    for (unsigned i = 0; i < 2 * NVME_QUEUES; i++) {
        atomic_store_explicit(bar(dev, i), 0, memory_order_release);
        dev->missing_bar[i] = 0;
    }
}

/* Off the data path (before sleeping): somebody rang for a queue that does not exist, or moved a
 * head beyond the tail. */
void nvme_doorbells_check(struct nvme_dev *dev)
{
    for (unsigned i = 0; i < 2 * NVME_QUEUES; i++) {
        uint32_t now = atomic_load_explicit(bar(dev, i), memory_order_relaxed);

        if (now == dev->missing_bar[i])
            continue;
        dev->missing_bar[i] = now;
        if (i % 2 ? !dev->cq[i / 2] : !dev->sq[i / 2])
            nvme_event_raise(dev, NVME_EVENT_DB_REG);
    }
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (dev->cq[i] && !dev->cq[i]->parked)
            nvme_cq_look(dev->cq[i]);
}

/* What the host has last said, by the doorbells that are in use. */
static uint32_t doorbell_now(struct nvme_dev *dev, unsigned index)
{
    if (index % 2)
        return dev->cq[index / 2] ? nvme_cq_head(dev->cq[index / 2]) : 0;
    return dev->sq[index / 2] ? nvme_sq_tail(dev->sq[index / 2]) : 0;
}

/* While one pair of shadow pages replaces another there is none: a service that comes after us in
 * that moment goes by the BAR, which the host has not rung for long. A ring of just now stays. */
static void keep_in_bar(struct nvme_dev *dev)
{
    for (unsigned i = 2; i < 2 * NVME_QUEUES; i++) {
        uint32_t rung = atomic_load_explicit(bar(dev, i), memory_order_acquire);

        if (i % 2 ? !dev->cq[i / 2] : !dev->sq[i / 2])
            continue;
        atomic_compare_exchange_strong(bar(dev, i), &rung, doorbell_now(dev, i));
    }
}

nvme_status nvme_dbbuf_config(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    struct nvme_state_life *life = &dev->st->life;
    uint64_t seq = atomic_load_explicit(&req->rec->index1, memory_order_relaxed);
    uint64_t shadow = le64_get(req->rec->sqe.prp1), eventidx = le64_get(req->rec->sqe.prp2);

    if (shadow % NVME_PAGE || eventidx % NVME_PAGE)
        return NVME_DNR(NVME_SC_PRP_OFFSET);
    if (!shadow || !eventidx || shadow == eventidx)
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    if (!guest_ptr(dev->map, shadow, NVME_PAGE, GUEST_READ | GUEST_WRITE) ||
        !guest_ptr(dev->map, eventidx, NVME_PAGE, GUEST_READ | GUEST_WRITE))
        return NVME_DNR(NVME_SC_DATA_TRANSFER_ERROR);
    if (atomic_load_explicit(&life->dbbuf_seq, memory_order_relaxed) == seq)
        return NVME_SC_SUCCESS; /* executed again after a crash */
    if (atomic_load_explicit(&life->dbbuf_seq, memory_order_relaxed))
        keep_in_bar(dev);
    atomic_store_explicit(&life->dbbuf_seq, 0, memory_order_release);
    crash_point(nvme_dbbuf_void);
    life->dbbuf_shadow = shadow;
    life->dbbuf_eventidx = eventidx;
    for (unsigned i = 2; i < 2 * NVME_QUEUES; i++) {
        uint32_t value = doorbell_now(dev, i);
        _Atomic uint32_t *word = guest_word(dev, shadow + i * 4);

        if (word)
            atomic_store_explicit(word, value, memory_order_release);
    }
    crash_point(nvme_dbbuf_filled);
    atomic_store_explicit(&life->dbbuf_seq, seq, memory_order_release);
    crash_point(nvme_dbbuf_done);
    nvme_dev_bind(dev);
    return NVME_SC_SUCCESS;
}
