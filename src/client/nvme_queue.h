/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/nvme_queue.h - inside: one queue pair of the host driver, and how it rings. */
#ifndef CLIENT_NVME_QUEUE_H
#define CLIENT_NVME_QUEUE_H

#include "client/nvme_host.h"
#include "client/vfio_client.h"

#include <stdatomic.h>

/* Where doorbells go; one for all queues of a host. Pointers are NULL where the mode does not use
 * them. */
struct nvme_bell {
    struct vfio_client *vc;
    _Atomic uint32_t *mapped;         /* the doorbell page */
    _Atomic uint32_t *shadow, *event; /* Doorbell Buffer Config pages */
    uint64_t kicks;
};

struct nvme_slot {
    void *tag;     /* NULL: free */
    uint16_t turn; /* of the CID: a late duplicate does not meet the next command in the slot */
};

struct nvme_queue {
    struct nvme_bell *bell;
    unsigned qid;
    uint32_t entries, depth, outstanding;
    struct nvme_sqe *sq;
    _Atomic uint32_t *cq; /* CQEs as dwords */
    uint64_t sq_iova, cq_iova;
    le64 *prp; /* a page of entries per slot */
    uint64_t prp_iova;
    uint32_t sq_tail, sq_rung, sq_head, cq_head, cq_rung;
    bool phase;
    bool shadowed; /* doorbells by the shadow pages */
    struct nvme_slot *slot;
    uint16_t *free; /* stack of free slots */
    uint32_t nfree;
};

enum { NVME_PAGE = 4096, NVME_CID_SLOT_BITS = 10 };

/* The memory is the caller's (nvme_host_alloc): SQ, CQ, and depth pages for PRP lists. 0 or
 * -ENOMEM. */
int nvme_queue_init(struct nvme_queue *q, struct nvme_host *h, struct nvme_bell *bell, unsigned qid,
                    unsigned depth);
void nvme_queue_free(struct nvme_queue *q);
/* As after creation: empty, first phase. */
void nvme_queue_clear(struct nvme_queue *q);

bool nvme_queue_submit(struct nvme_queue *q, struct nvme_sqe *sqe, uint64_t iova, uint32_t len,
                       void *tag);
int nvme_queue_ring(struct nvme_queue *q);
unsigned nvme_queue_poll(struct nvme_queue *q, nvme_completed_fn fn, void *arg);

#endif
