/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Slots: the record in state memory and the private request beside it. Free slots are a stack, so
 * that a queue which runs shallow touches few pages of either. */
#include "devices/nvme/inside.h"

#include "base/crash_point.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static size_t reqs_bytes(const struct nvme_sq *sq)
{
    return sq->nslots * sizeof(struct nvme_req);
}

int nvme_sq_slots_init(struct nvme_sq *sq, struct nvme_record *slots, uint32_t nslots)
{
    sq->slots = slots;
    sq->nslots = nslots;
    sq->free = malloc(nslots * sizeof(*sq->free));
    if (!sq->free)
        return -ENOMEM;
    /* Zeroes, and resident only where a slot has been in use. */
    sq->reqs = mmap(NULL, reqs_bytes(sq), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (sq->reqs == MAP_FAILED) {
        sq->reqs = NULL;
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < nslots; i++)
        sq->free[i] = (uint16_t)(nslots - 1 - i);
    sq->nfree = nslots;
    return 0;
}

void nvme_sq_slots_free(struct nvme_sq *sq)
{
    for (uint32_t i = 0; sq->reqs && i < sq->used; i++)
        if (sq->reqs[i].sq)
            nvme_req_drop_big(&sq->reqs[i]);
    if (sq->reqs)
        munmap(sq->reqs, reqs_bytes(sq));
    free(sq->free);
    sq->reqs = NULL;
    sq->free = NULL;
}

struct nvme_req *nvme_req_at(struct nvme_sq *sq, unsigned slot)
{
    struct nvme_req *req = &sq->reqs[slot];

    if (unlikely(!req->sq)) {
        req->sq = sq;
        req->rec = &sq->slots[slot];
        req->slot = (uint16_t)slot;
    }
    return req;
}

struct nvme_req *nvme_req_take(struct nvme_sq *sq)
{
    unsigned slot = sq->free[--sq->nfree];
    struct nvme_req *req = nvme_req_at(sq, slot);

    if (unlikely(slot >= sq->used)) {
        sq->used = slot + 1;
        /* Whatever another incarnation left there is void before recovery, which looks at the slots
         * below only, may look at it. */
        atomic_store_explicit(&req->rec->index1, 0, memory_order_relaxed);
        atomic_store_explicit(&sq->st->slots_used, sq->used, memory_order_release);
        crash_point(nvme_slots_used);
    }
    req->state = NVME_REQ_ACTIVE;
    req->detach = NVME_ATTACHED;
    req->dw0 = 0;
    req->ns = NULL;
    req->resent = 0;
    req->on_intent = NULL;
    return req;
}

void nvme_req_release(struct nvme_req *req)
{
    struct nvme_sq *sq = req->sq;

#ifndef SNAP_LEAVE_OUT_INTENT
    if (nvme_recorded(sq->qid))
        atomic_store_explicit(&req->rec->index1, 0, memory_order_release);
#endif
    if (unlikely(req->big))
        nvme_req_drop_big(req);
    req->state = NVME_REQ_FREE;
    sq->free[sq->nfree++] = req->slot;
    if (unlikely(sq->starved)) {
        sq->starved = false;
        device_kick(&sq->dev->base);
    }
}

struct iovec *nvme_req_big_iov(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;

    if (req->big)
        return req->big;
    if (dev->iov_pool) {
        req->big = dev->iov_pool;
        dev->iov_pool = *(void **)req->big;
    } else {
        /* Grows to the largest number ever needed at once, then never again. */
        req->big = malloc(NVME_IOV_MAX * sizeof(struct iovec));
    }
    return req->big;
}

void nvme_req_drop_big(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;

    if (!req->big)
        return;
    *(void **)req->big = dev->iov_pool;
    dev->iov_pool = req->big;
    req->big = NULL;
}

void nvme_iov_pool_free(struct nvme_dev *dev)
{
    while (dev->iov_pool) {
        void *next = *(void **)dev->iov_pool;

        free(dev->iov_pool);
        dev->iov_pool = next;
    }
}
