/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Admin commands: queues, abort, and the table of the others. An effect carries the number of the
 * command that had it, so that a command executed again after a crash answers success instead of an
 * error about its own doing. */
#include "devices/nvme/inside.h"

#include "base/crash_point.h"

static uint64_t seq_of(const struct nvme_req *req)
{
    return atomic_load_explicit(&req->rec->index1, memory_order_relaxed);
}

static nvme_status check_queue_memory(struct nvme_dev *dev, const struct nvme_sqe *sqe)
{
    uint32_t cdw10 = le32_get(sqe->cdw10), size = NVME_CREATE_QSIZE(cdw10) + 1;

    if (size < 2 || size > dev->max_depth)
        return NVME_DNR(NVME_SC_QUEUE_SIZE);
    if (!(le32_get(sqe->cdw11) & NVME_CREATE_PC))
        return NVME_DNR(NVME_SC_INVALID_FIELD); /* CAP.CQR */
    if (le64_get(sqe->prp1) % NVME_PAGE || !le64_get(sqe->prp1))
        return NVME_DNR(NVME_SC_PRP_OFFSET);
    return NVME_SC_SUCCESS;
}

static nvme_status create_cq(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    const struct nvme_sqe *sqe = &req->rec->sqe;
    uint32_t qid = NVME_CREATE_QID(le32_get(sqe->cdw10)), cdw11 = le32_get(sqe->cdw11);
    struct nvme_state_cq *st;
    nvme_status status;

    if (qid == 0 || qid > dev->num_queues)
        return NVME_DNR(NVME_SC_QID_INVALID);
    st = &dev->st->cq[qid];
    if (dev->cq[qid])
        return atomic_load_explicit(&st->created_by, memory_order_relaxed) == seq_of(req)
                   ? NVME_SC_SUCCESS
                   : NVME_DNR(NVME_SC_QID_INVALID);
    status = check_queue_memory(dev, sqe);
    if (status != NVME_SC_SUCCESS)
        return status;
    if (NVME_CREATE_CQ_IV(cdw11) >= dev->nvectors)
        return NVME_DNR(NVME_SC_INTERRUPT_VECTOR);
    if (NVME_CC_IOCQES(atomic_load(&dev->st->life.cc)) != 4)
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    nvme_doorbell_clear(dev, 2 * qid + 1);
    st->size = NVME_CREATE_QSIZE(le32_get(sqe->cdw10)) + 1;
    st->gpa = le64_get(sqe->prp1);
    st->iv = (uint16_t)NVME_CREATE_CQ_IV(cdw11);
    st->ien = !!(cdw11 & NVME_CREATE_CQ_IEN);
    atomic_store_explicit(&st->stopped, 0, memory_order_relaxed);
    atomic_store_explicit(&st->tail, 0, memory_order_relaxed);
    atomic_store_explicit(&st->created_by, seq_of(req), memory_order_relaxed);
    if (!nvme_cq_create(dev, qid))
        return NVME_SC_INTERNAL_ERROR;
    crash_point(nvme_create_cq_filled);
    atomic_store_explicit(&st->valid, 1, memory_order_release);
    crash_point(nvme_create_cq_done);
    return NVME_SC_SUCCESS;
}

static nvme_status create_sq(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    const struct nvme_sqe *sqe = &req->rec->sqe;
    uint32_t qid = NVME_CREATE_QID(le32_get(sqe->cdw10));
    uint32_t cqid = NVME_CREATE_SQ_CQID(le32_get(sqe->cdw11));
    struct nvme_state_sq *st;
    nvme_status status;

    if (qid == 0 || qid > dev->num_queues)
        return NVME_DNR(NVME_SC_QID_INVALID);
    st = &dev->st->sq[qid];
    if (dev->sq[qid])
        return atomic_load_explicit(&st->created_by, memory_order_relaxed) == seq_of(req)
                   ? NVME_SC_SUCCESS
                   : NVME_DNR(NVME_SC_QID_INVALID);
    if (cqid == 0 || cqid >= NVME_QUEUES || !dev->cq[cqid])
        return NVME_DNR(NVME_SC_CQ_INVALID);
    status = check_queue_memory(dev, sqe);
    if (status != NVME_SC_SUCCESS)
        return status;
    if (NVME_CC_IOSQES(atomic_load(&dev->st->life.cc)) != 6)
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    nvme_doorbell_clear(dev, 2 * qid);
    st->size = NVME_CREATE_QSIZE(le32_get(sqe->cdw10)) + 1;
    st->gpa = le64_get(sqe->prp1);
    st->cqid = (uint16_t)cqid;
    atomic_store_explicit(&st->stopped, 0, memory_order_relaxed);
    atomic_store_explicit(&st->head, 0, memory_order_relaxed);
    atomic_store_explicit(&st->slots_used, 0, memory_order_relaxed);
    atomic_store_explicit(&st->created_by, seq_of(req), memory_order_relaxed);
    if (!nvme_sq_create(dev, qid))
        return NVME_SC_INTERNAL_ERROR;
    crash_point(nvme_create_sq_filled);
    atomic_store_explicit(&st->valid, 1, memory_order_release);
    crash_point(nvme_create_sq_done);
    return NVME_SC_SUCCESS;
}

static nvme_status delete_cq(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    uint32_t qid = NVME_CREATE_QID(le32_get(req->rec->sqe.cdw10));
    struct nvme_state_cq *st;

    if (qid == 0 || qid >= NVME_QUEUES)
        return NVME_DNR(NVME_SC_QID_INVALID);
    st = &dev->st->cq[qid];
    if (!dev->cq[qid])
        return atomic_load_explicit(&st->deleted_by, memory_order_relaxed) == seq_of(req)
                   ? NVME_SC_SUCCESS
                   : NVME_DNR(NVME_SC_QID_INVALID);
    if (dev->cq[qid]->nsqs > 0)
        return NVME_DNR(NVME_SC_QUEUE_DELETION);
    atomic_store_explicit(&st->deleted_by, seq_of(req), memory_order_relaxed);
    crash_point(nvme_delete_cq_marked);
    atomic_store_explicit(&st->valid, 0, memory_order_release);
    nvme_cq_destroy(dev->cq[qid]);
    crash_point(nvme_delete_cq_done);
    return NVME_SC_SUCCESS;
}

/* Stops fetching, cancels what is in flight; nvme_admin_sq_drained() ends it. */
static nvme_status delete_sq(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    uint32_t qid = NVME_CREATE_QID(le32_get(req->rec->sqe.cdw10));
    struct nvme_sq *sq;

    if (qid == 0 || qid >= NVME_QUEUES)
        return NVME_DNR(NVME_SC_QID_INVALID);
    sq = dev->sq[qid];
    if (!sq)
        return atomic_load_explicit(&dev->st->sq[qid].deleted_by, memory_order_relaxed) ==
                       seq_of(req)
                   ? NVME_SC_SUCCESS
                   : NVME_DNR(NVME_SC_QID_INVALID);
    if (sq->delete_req)
        return NVME_DNR(NVME_SC_QID_INVALID);
    sq->delete_req = req;
    req->state = NVME_REQ_PENDING;
    req->sq->inflight++;
    dev->base.inflight++;
    nvme_dev_unhold_sq(sq, NVME_SC_ABORTED_SQ_DELETION);
    nvme_sq_cancel(sq);
    crash_point(nvme_delete_sq_begun);
    dev->base.settle = true; /* not from here: requests of this batch may still be about to start */
    device_kick(&dev->base);
    return NVME_PENDING;
}

void nvme_admin_sq_drained(struct nvme_sq *sq)
{
    struct nvme_req *req = sq->delete_req;
    struct nvme_dev *dev = sq->dev;

    if (!dev->dropping) {
        nvme_cq_post(sq->cq); /* the aborted ones, as far as there is room */
        nvme_cq_drop_sq(sq->cq, sq);
        crash_point(nvme_delete_sq_drained);
        atomic_store_explicit(&sq->st->deleted_by, seq_of(req), memory_order_relaxed);
        crash_point(nvme_delete_sq_marked);
        atomic_store_explicit(&sq->st->valid, 0, memory_order_release);
        nvme_sq_destroy(sq);
        crash_point(nvme_delete_sq_done);
    } else {
        sq->delete_req = NULL;
    }
    nvme_req_end(req, NVME_SC_SUCCESS);
}

static nvme_status abort_cmd(struct nvme_req *req)
{
    req->dw0 = 1; /* not aborted: it ends in its own time */
    return NVME_SC_SUCCESS;
}

static nvme_status (*const admin_cmds[256])(struct nvme_req *req) = {
    [NVME_ADMIN_DELETE_SQ] = delete_sq,
    [NVME_ADMIN_CREATE_SQ] = create_sq,
    [NVME_ADMIN_GET_LOG_PAGE] = nvme_get_log_page,
    [NVME_ADMIN_DELETE_CQ] = delete_cq,
    [NVME_ADMIN_CREATE_CQ] = create_cq,
    [NVME_ADMIN_IDENTIFY] = nvme_identify,
    [NVME_ADMIN_ABORT] = abort_cmd,
    [NVME_ADMIN_SET_FEATURES] = nvme_set_features,
    [NVME_ADMIN_GET_FEATURES] = nvme_get_features,
    [NVME_ADMIN_ASYNC_EVENT] = nvme_aer,
    [NVME_ADMIN_DOORBELL_BUFFER_CONFIG] = nvme_dbbuf_config,
};

void nvme_admin_start(struct nvme_req *req)
{
    const struct nvme_sqe *sqe = &req->rec->sqe;
    nvme_status st = NVME_DNR(NVME_SC_INVALID_OPCODE);

    if (NVME_SQE_FUSE(sqe->flags) || NVME_SQE_PSDT(sqe->flags) != NVME_PSDT_PRP)
        st = NVME_DNR(NVME_SC_INVALID_FIELD);
    else if (admin_cmds[sqe->opc])
        st = admin_cmds[sqe->opc](req);
    if (st != NVME_PENDING)
        nvme_req_finish(req, st);
}
