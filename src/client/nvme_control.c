/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The controller as its host drives it: registers, admin commands, identify, queues. */
#include "base/clock.h"
#include "base/util.h"
#include "client/nvme_inside.h"
#include "spec/vfio_user.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* ---- registers ---- */

static void nap_us(uint32_t us)
{
    struct timespec ts = {.tv_nsec = (long)us * 1000};

    nanosleep(&ts, NULL);
}

static int reg_write(struct nvme_host *h, uint32_t offset, uint32_t value)
{
    return vfio_client_write32(h->vc, VFIO_PCI_BAR0, offset, value);
}

static int reg_write64(struct nvme_host *h, uint32_t offset, uint64_t value)
{
    int rc = reg_write(h, offset, (uint32_t)value);

    return rc ? rc : reg_write(h, offset + 4, (uint32_t)(value >> 32));
}

static int wait_ready(struct nvme_host *h, bool ready, struct err *err)
{
    uint64_t deadline = clock_ms() + h->o.timeout_ms;

    for (;;) {
        uint32_t csts;
        int rc = vfio_client_read32(h->vc, VFIO_PCI_BAR0, NVME_REG_CSTS, &csts);

        if (rc)
            return err_set(err, rc, "%s: cannot read CSTS: %s", h->o.path, strerror(-rc));
        if (csts != UINT32_MAX && csts & NVME_CSTS_CFS)
            return err_set(err, -EIO, "%s: controller fatal status", h->o.path);
        if (csts != UINT32_MAX && !!(csts & NVME_CSTS_RDY) == ready)
            return 0;
        if (clock_ms() > deadline)
            return err_set(err, -ETIMEDOUT, "%s: CSTS.RDY did not become %d within %u ms",
                           h->o.path, ready, h->o.timeout_ms);
        nap_us(1000);
    }
}

static int enable(struct nvme_host *h, struct err *err)
{
    uint32_t aqa = ADMIN_DEPTH | ADMIN_DEPTH << NVME_AQA_ACQS_SHIFT;
    int rc = reg_write(h, NVME_REG_CC, 0);

    if (!rc)
        rc = wait_ready(h, false, err);
    if (rc)
        return rc;
    nvme_queue_clear(&h->admin);
    h->cc = NVME_CC_EN | 6 << NVME_CC_IOSQES_SHIFT | 4 << NVME_CC_IOCQES_SHIFT;
    if ((rc = reg_write(h, NVME_REG_AQA, aqa)) ||
        (rc = reg_write64(h, NVME_REG_ASQ, h->admin.sq_iova)) ||
        (rc = reg_write64(h, NVME_REG_ACQ, h->admin.cq_iova)) ||
        (rc = reg_write(h, NVME_REG_CC, h->cc)))
        return err_set(err, rc, "%s: cannot write registers: %s", h->o.path, strerror(-rc));
    return wait_ready(h, true, err);
}

/* ---- admin commands ---- */

struct admin_wait {
    bool done;
    struct nvme_cqe cqe;
};

static void admin_completed(void *arg, const struct nvme_completion *c)
{
    struct admin_wait *w = c->tag;

    (void)arg;
    if (w) {
        w->cqe = c->cqe;
        w->done = true;
    }
}

/* data: what PRP1 (and PRP2) point to. */
static int admin_run(struct nvme_host *h, struct nvme_sqe *sqe, uint64_t iova, uint32_t len,
                     struct nvme_cqe *ret)
{
    static struct admin_wait abandoned; /* a late completion of a command we gave up lands here */
    struct admin_wait w = {0};
    uint64_t deadline = clock_ms() + h->o.timeout_ms;
    int rc;

    if (!nvme_queue_submit(&h->admin, sqe, iova, len, &w))
        return -EBUSY;
    rc = nvme_queue_ring(&h->admin);
    while (!rc && !w.done) {
        if (nvme_queue_poll(&h->admin, admin_completed, h))
            rc = nvme_queue_ring(&h->admin);
        else if (clock_ms() > deadline)
            rc = -ETIMEDOUT;
        else
            nap_us(50);
    }
    if (w.done) {
        *ret = w.cqe;
        return 0;
    }
    for (unsigned i = 0; i < h->admin.depth; i++)
        if (h->admin.slot[i].tag == &w)
            h->admin.slot[i].tag = &abandoned;
    return rc;
}

int nvme_host_admin(struct nvme_host *h, struct nvme_sqe *sqe, void *data, uint32_t len,
                    struct nvme_cqe *ret)
{
    int rc;

    if (len > NVME_PAGE)
        return -EINVAL;
    if (data && NVME_OPC_XFER(sqe->opc) == NVME_XFER_FROM_HOST)
        memcpy(h->admin_page, data, len);
    rc = admin_run(h, sqe, h->admin_page_iova, data ? len : 0, ret);
    if (!rc && data && NVME_OPC_XFER(sqe->opc) == NVME_XFER_TO_HOST)
        memcpy(data, h->admin_page, len);
    return rc;
}

static int admin_status(struct nvme_host *h, int rc, const struct nvme_cqe *cqe, const char *what,
                        struct err *err)
{
    if (rc)
        return err_set(err, rc, "%s: %s: %s", h->o.path, what, strerror(-rc));
    if (le16_get(cqe->sf) >> 1)
        return err_set(err, -EIO, "%s: %s ended with status %03x", h->o.path, what,
                       (le16_get(cqe->sf) >> 1) & NVME_STATUS_MASK);
    return 0;
}

/* 0, or err filled with the command's name and status. */
static int admin_ok(struct nvme_host *h, struct nvme_sqe *sqe, void *data, uint32_t len,
                    uint32_t *dw0, const char *what, struct err *err)
{
    struct nvme_cqe cqe = {0};
    int rc = nvme_host_admin(h, sqe, data, len, &cqe);

    rc = admin_status(h, rc, &cqe, what, err);
    if (!rc && dw0)
        *dw0 = le32_get(cqe.dw0);
    return rc;
}

static int identify(struct nvme_host *h, uint8_t cns, uint32_t nsid, void *page, struct err *err)
{
    struct nvme_sqe sqe = {
        .opc = NVME_ADMIN_IDENTIFY, .nsid = le32_of(nsid), .cdw10 = le32_of(cns)};

    return admin_ok(h, &sqe, page, NVME_IDENTIFY_BYTES, NULL, "Identify", err);
}

static void copy_text(char *out, const char *in, size_t n)
{
    memcpy(out, in, n);
    out[n] = '\0';
    while (n && (out[n - 1] == ' ' || out[n - 1] == '\0'))
        out[--n] = '\0';
}

static int identify_ctrl(struct nvme_host *h, void *page, struct err *err)
{
    struct nvme_id_ctrl *id = page;
    int rc = identify(h, NVME_CNS_CTRL, 0, page, err);

    if (rc)
        return rc;
    copy_text(h->info.sn, id->sn, sizeof(id->sn));
    copy_text(h->info.mn, id->mn, sizeof(id->mn));
    copy_text(h->info.subnqn, id->subnqn, sizeof(id->subnqn));
    h->info.cntlid = le16_get(id->cntlid);
    h->info.max_transfer_bytes = id->mdts ? (uint32_t)NVME_PAGE << MIN(id->mdts, 9) : 2U << 20;
    h->info.max_transfer_bytes = MIN(h->info.max_transfer_bytes, 2U << 20);
    h->info.can_write_zeroes = le16_get(id->oncs) & NVME_ONCS_WRITE_ZEROES;
    h->info.can_deallocate = le16_get(id->oncs) & NVME_ONCS_DSM;
    h->info.volatile_cache = id->vwc & NVME_VWC_PRESENT;
    if (h->o.doorbells == NVME_DOORBELLS_SHADOW &&
        !(le16_get(id->oacs) & NVME_OACS_DOORBELL_BUFFER))
        return err_set(err, -ENOTSUP, "%s: the controller has no Doorbell Buffer Config",
                       h->o.path);
    return 0;
}

static int identify_ns(struct nvme_host *h, void *page, struct err *err)
{
    struct nvme_id_ns *id = page;
    le32 *list = page;
    uint32_t nsid = h->o.nsid, lbads;
    int rc;

    if (!nsid) {
        rc = identify(h, NVME_CNS_ACTIVE_NS_LIST, 0, page, err);
        if (rc)
            return rc;
        nsid = le32_get(list[0]);
        if (!nsid)
            return err_set(err, -ENODEV, "%s: the controller has no active namespace", h->o.path);
    }
    rc = identify(h, NVME_CNS_NS, nsid, page, err);
    if (rc)
        return rc;
    lbads = id->lbaf[id->flbas & 0xf].lbads;
    if (!le64_get(id->nsze) || lbads < 9 || lbads > 16)
        return err_set(err, -ENODEV, "%s: namespace %u is not there (size 0)", h->o.path, nsid);
    h->info.nsid = nsid;
    h->info.nblocks = le64_get(id->nsze);
    h->info.block_bytes = 1U << lbads;
    return 0;
}

/* ---- I/O queues ---- */

static int create_queue(struct nvme_host *h, struct nvme_queue *q, struct err *err)
{
    uint32_t size = (q->entries - 1) << 16 | q->qid;
    uint32_t vector = q->qid % h->nvectors;
    struct nvme_sqe cq = {
        .opc = NVME_ADMIN_CREATE_CQ,
        .cdw10 = le32_of(size),
        .cdw11 = le32_of(vector << 16 | NVME_CREATE_CQ_IEN | NVME_CREATE_PC),
    };
    struct nvme_sqe sq = {
        .opc = NVME_ADMIN_CREATE_SQ,
        .cdw10 = le32_of(size),
        .cdw11 = le32_of((uint32_t)q->qid << 16 | NVME_CREATE_PC),
    };
    struct nvme_cqe cqe = {0};
    int rc;

    nvme_queue_clear(q);
    rc = admin_run(h, &cq, q->cq_iova, NVME_PAGE, &cqe); /* PRP1 is the queue itself */
    rc = admin_status(h, rc, &cqe, "Create I/O Completion Queue", err);
    if (rc)
        return rc;
    rc = admin_run(h, &sq, q->sq_iova, NVME_PAGE, &cqe);
    return admin_status(h, rc, &cqe, "Create I/O Submission Queue", err);
}

static int doorbell_buffers(struct nvme_host *h, struct err *err)
{
    struct nvme_sqe sqe = {.opc = NVME_ADMIN_DOORBELL_BUFFER_CONFIG};
    struct nvme_cqe cqe = {0};
    int rc;

    memset((void *)h->bell.shadow, 0, NVME_PAGE);
    memset((void *)h->bell.event, 0, NVME_PAGE);
    /* Two neighbouring pages: PRP1 the shadow doorbells, PRP2 the EventIdx. */
    rc = admin_run(h, &sqe, h->shadow_iova, 2 * NVME_PAGE, &cqe);
    rc = admin_status(h, rc, &cqe, "Doorbell Buffer Config", err);
    for (unsigned i = 0; !rc && i < h->nio; i++)
        h->io[i].shadowed = true;
    return rc;
}

int nvme_control_start(struct nvme_host *h, bool first, struct err *err)
{
    uint32_t granted = 0, want = h->o.queues - 1;
    struct nvme_sqe sqe = {
        .opc = NVME_ADMIN_SET_FEATURES,
        .cdw10 = le32_of(NVME_FEAT_NUM_QUEUES),
        .cdw11 = le32_of(want << 16 | want),
    };
    _Alignas(8) char page[NVME_IDENTIFY_BYTES] = {0};
    int rc = enable(h, err);

    if (rc || (rc = identify_ctrl(h, page, err)) || (rc = identify_ns(h, page, err)) ||
        (rc = admin_ok(h, &sqe, NULL, 0, &granted, "Set Features (number of queues)", err)))
        return rc;
    if (first)
        h->nio = MIN(h->o.queues, MIN((granted & 0xffff) + 1, (granted >> 16) + 1));
    for (unsigned i = 0; i < h->nio; i++) {
        if (first && (rc = nvme_queue_init(&h->io[i], h, &h->bell, i + 1, h->o.depth)))
            return err_set(err, rc, "%s: no memory for queue %u", h->o.path, i + 1);
        if ((rc = create_queue(h, &h->io[i], err)))
            return rc;
    }
    h->info.queues = h->nio;
    h->info.depth = h->o.depth;
    h->info.vectors = h->nvectors;
    return h->o.doorbells == NVME_DOORBELLS_SHADOW ? doorbell_buffers(h, err) : 0;
}

int nvme_host_reset(struct nvme_host *h, struct err *err)
{
    return nvme_control_start(h, false, err);
}

void nvme_control_stop(struct nvme_host *h)
{
    h->o.timeout_ms =
        MIN(h->o.timeout_ms, 3000U); /* a device without its service may never answer */
    if (h->cc && vfio_client_alive(h->vc) && reg_write(h, NVME_REG_CC, 0) == 0)
        wait_ready(h, false, NULL);
}
