/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/nvme_queue.h"

#include "base/util.h"
#include "spec/vfio_user.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int nvme_queue_init(struct nvme_queue *q, struct nvme_host *h, struct nvme_bell *bell, unsigned qid,
                    unsigned depth)
{
    *q = (struct nvme_queue){.bell = bell, .qid = qid, .depth = depth, .entries = depth + 1};
    q->sq = nvme_host_alloc(h, (uint64_t)q->entries * sizeof(struct nvme_sqe), &q->sq_iova);
    q->cq = nvme_host_alloc(h, (uint64_t)q->entries * sizeof(struct nvme_cqe), &q->cq_iova);
    q->prp = nvme_host_alloc(h, (uint64_t)depth * NVME_PAGE, &q->prp_iova);
    q->slot = calloc(depth, sizeof(q->slot[0]));
    q->free = calloc(depth, sizeof(q->free[0]));
    if (!q->sq || !q->cq || !q->prp || !q->slot || !q->free) {
        nvme_queue_free(q);
        return -ENOMEM;
    }
    nvme_queue_clear(q);
    return 0;
}

void nvme_queue_free(struct nvme_queue *q)
{
    free(q->slot);
    free(q->free);
    q->slot = NULL;
    q->free = NULL;
}

void nvme_queue_clear(struct nvme_queue *q)
{
    memset(q->sq, 0, (size_t)q->entries * sizeof(struct nvme_sqe));
    memset((void *)q->cq, 0, (size_t)q->entries * sizeof(struct nvme_cqe));
    q->sq_tail = q->sq_rung = q->sq_head = q->cq_head = q->cq_rung = 0;
    q->outstanding = 0;
    q->phase = true;
    q->shadowed = false;
    q->nfree = q->depth;
    for (uint32_t i = 0; i < q->depth; i++) {
        q->slot[i].tag = NULL;
        q->free[i] = (uint16_t)(q->depth - 1 - i);
    }
}

static uint16_t cid_of(const struct nvme_queue *q, unsigned slot)
{
    return (uint16_t)(q->slot[slot].turn << NVME_CID_SLOT_BITS | slot);
}

/* PRP1, PRP2 or a list in the slot's page (Base 2.0, 4.1.1). */
static void set_prps(struct nvme_queue *q, unsigned slot, struct nvme_sqe *sqe, uint64_t iova,
                     uint32_t len)
{
    uint32_t first = NVME_PAGE - (uint32_t)(iova % NVME_PAGE);
    le64 *list = q->prp + (size_t)slot * (NVME_PAGE / sizeof(le64));
    uint64_t at = iova + first;

    sqe->prp1 = le64_of(len ? iova : 0);
    sqe->prp2 = le64_of(0);
    if (len <= first)
        return;
    len -= first;
    if (len <= NVME_PAGE) {
        sqe->prp2 = le64_of(at);
        return;
    }
    sqe->prp2 = le64_of(q->prp_iova + (uint64_t)slot * NVME_PAGE);
    for (unsigned i = 0; len; i++, at += NVME_PAGE) {
        list[i] = le64_of(at);
        len -= MIN(len, (uint32_t)NVME_PAGE);
    }
}

bool nvme_queue_submit(struct nvme_queue *q, struct nvme_sqe *sqe, uint64_t iova, uint32_t len,
                       void *tag)
{
    unsigned slot;

    if (!q->nfree)
        return false;
    slot = q->free[--q->nfree];
    q->slot[slot].turn++;
    q->slot[slot].tag = tag;
    q->outstanding++;
    sqe->cid = le16_of(cid_of(q, slot));
    set_prps(q, slot, sqe, iova, len);
    q->sq[q->sq_tail] = *sqe;
    q->sq_tail = q->sq_tail + 1 == q->entries ? 0 : q->sq_tail + 1;
    return true;
}

/* ---- doorbells ---- */

static int bell_post(struct nvme_bell *bell, unsigned index, uint32_t value)
{
    le32 v = le32_of(value);

    bell->kicks++;
    return vfio_client_post(bell->vc, VFIO_PCI_BAR0, NVME_REG_DOORBELLS + index * 4, &v, sizeof(v));
}

/* Base 2.0, Doorbell Buffer Config: the value goes to memory; a message only when the move passes
 * EventIdx. */
static int bell_shadow(struct nvme_bell *bell, unsigned index, uint32_t old, uint32_t value)
{
    uint32_t event;

    atomic_store_explicit(&bell->shadow[index], value, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst); /* our store before the device's EventIdx */
    event = atomic_load_explicit(&bell->event[index], memory_order_acquire);
    if ((uint16_t)(value - event - 1) < (uint16_t)(value - old))
        return bell_post(bell, index, value);
    return 0;
}

static int bell_ring(struct nvme_queue *q, unsigned index, uint32_t old, uint32_t value)
{
    if (q->shadowed)
        return bell_shadow(q->bell, index, old, value);
    if (q->bell->mapped) {
        atomic_store_explicit(&q->bell->mapped[index], value, memory_order_release);
        return 0;
    }
    return bell_post(q->bell, index, value);
}

int nvme_queue_ring(struct nvme_queue *q)
{
    int rc = 0;

    if (q->sq_rung != q->sq_tail) {
        rc = bell_ring(q, q->qid * 2, q->sq_rung, q->sq_tail);
        q->sq_rung = q->sq_tail;
    }
    if (q->cq_rung != q->cq_head) {
        int cq = bell_ring(q, q->qid * 2 + 1, q->cq_rung, q->cq_head);

        q->cq_rung = q->cq_head;
        rc = rc ? rc : cq;
    }
    return rc;
}

/* ---- completions ---- */

/* True when head lies in [q->sq_head, q->sq_rung], which wraps. */
static bool sqhd_good(const struct nvme_queue *q, uint32_t head)
{
    uint32_t window = (q->sq_rung + q->entries - q->sq_head) % q->entries;

    return head < q->entries && (head + q->entries - q->sq_head) % q->entries <= window;
}

static void complete(struct nvme_queue *q, const struct nvme_cqe *cqe, nvme_completed_fn fn,
                     void *arg)
{
    struct nvme_completion c = {.cqe = *cqe, .status = le16_get(cqe->sf) >> 1};
    unsigned cid = le16_get(cqe->cid), slot = cid & ((1 << NVME_CID_SLOT_BITS) - 1);
    uint32_t head = le16_get(cqe->sqhd);

    c.bad_sqhd = !sqhd_good(q, head) || le16_get(cqe->sqid) != q->qid;
    if (!c.bad_sqhd)
        q->sq_head = head;
    if (slot < q->depth && q->slot[slot].tag && cid == cid_of(q, slot)) {
        c.tag = q->slot[slot].tag;
        q->slot[slot].tag = NULL;
        q->free[q->nfree++] = (uint16_t)slot;
        q->outstanding--;
    }
    fn(arg, &c);
}

unsigned nvme_queue_poll(struct nvme_queue *q, nvme_completed_fn fn, void *arg)
{
    unsigned n = 0;

    while (n < q->entries) {
        _Atomic uint32_t *dw = q->cq + (size_t)q->cq_head * 4;
        /* The dword with the phase tag first: the others were stored before it. */
        uint32_t last = atomic_load_explicit(&dw[3], memory_order_acquire);
        struct nvme_cqe cqe;
        uint32_t raw[4];

        if (((le32toh(last) >> 16) & 1) != q->phase)
            break;
        for (unsigned i = 0; i < 3; i++)
            raw[i] = atomic_load_explicit(&dw[i], memory_order_relaxed);
        raw[3] = last;
        memcpy(&cqe, raw, sizeof(cqe));
        if (++q->cq_head == q->entries) {
            q->cq_head = 0;
            q->phase = !q->phase;
        }
        complete(q, &cqe, fn, arg);
        n++;
    }
    return n;
}
