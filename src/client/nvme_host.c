/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/nvme_host.h"

#include "base/fd.h"
#include "base/util.h"
#include "client/nvme_queue.h"
#include "client/vfio_client.h"
#include "spec/pci.h"
#include "spec/vfio_user.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ADMIN_DEPTH = 31, MAX_QUEUES = 64, MAX_VECTORS = 64 };
#define ARENA_IOVA 0x100000000ULL

struct nvme_host {
    struct nvme_host_opts o;
    struct nvme_host_info info;
    struct vfio_client *vc;
    struct nvme_bell bell;
    struct nvme_queue admin;
    struct nvme_queue io[MAX_QUEUES];
    unsigned nio;
    int arena_fd;
    char *arena;
    uint64_t arena_bytes, arena_used;
    char *doorbells; /* mapping of the sparse area, or NULL */
    uint64_t doorbells_bytes;
    char *admin_page;
    uint64_t admin_page_iova, shadow_iova;
    int vector_fd[MAX_VECTORS];
    unsigned nvectors;
    uint64_t interrupts;
    uint32_t cc;
};

/* ---- memory ---- */

void *nvme_host_alloc(struct nvme_host *h, uint64_t bytes, uint64_t *ret_iova)
{
    uint64_t rounded = (bytes + NVME_PAGE - 1) & ~(uint64_t)(NVME_PAGE - 1);
    char *p = h->arena + h->arena_used;

    if (rounded < bytes || rounded > h->arena_bytes - h->arena_used)
        return NULL;
    *ret_iova = ARENA_IOVA + h->arena_used;
    h->arena_used += rounded;
    return p;
}

static int arena_create(struct nvme_host *h, struct err *err)
{
    /* Per queue: SQ, CQ, a PRP page per command; a few pages of the host's own. */
    uint64_t per_queue =
        ((uint64_t)h->o.depth + 8) * NVME_PAGE + ((uint64_t)h->o.depth + 1) * 80 + 2 * NVME_PAGE;
    int rc;

    h->arena_bytes = h->o.data_bytes + h->o.queues * per_queue + (ADMIN_DEPTH + 32) * NVME_PAGE;
    h->arena_bytes = (h->arena_bytes + (2 << 20) - 1) & ~((2ULL << 20) - 1);
    h->arena_fd = fd_memfd("nvme-host", h->arena_bytes);
    if (h->arena_fd < 0)
        return err_set(err, h->arena_fd, "%s: no memory for %llu bytes", h->o.path,
                       (unsigned long long)h->arena_bytes);
    h->arena = mmap(NULL, h->arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, h->arena_fd, 0);
    if (h->arena == MAP_FAILED) {
        h->arena = NULL;
        return err_set(err, -errno, "%s: cannot map %llu bytes", h->o.path,
                       (unsigned long long)h->arena_bytes);
    }
    rc = vfio_client_dma_map(h->vc, ARENA_IOVA, h->arena_bytes, h->arena_fd, 0,
                             VFIO_USER_DMA_F_READ | VFIO_USER_DMA_F_WRITE);
    return rc ? err_set(err, rc, "%s: DMA_MAP refused: %s", h->o.path, strerror(-rc)) : 0;
}

/* ---- PCI ---- */

static int find_cap(struct nvme_host *h, uint8_t id, uint8_t *ret)
{
    uint8_t cfg[256];
    unsigned at, hops = 0;
    int rc = vfio_client_read(h->vc, VFIO_PCI_CONFIG, 0, cfg, sizeof(cfg));

    if (rc)
        return rc;
    for (at = cfg[PCI_CAP_POINTER] & 0xfc; at && hops < 48; at = cfg[at + 1] & 0xfc, hops++)
        if (cfg[at] == id) {
            *ret = (uint8_t)at;
            return 0;
        }
    return -ENOENT;
}

static int open_vectors(struct nvme_host *h, struct err *err)
{
    uint32_t count = 0;
    uint8_t cap = 0;
    int rc = vfio_client_irq_count(h->vc, VFIO_PCI_IRQ_MSIX, &count);

    if (!rc)
        rc = find_cap(h, PCI_CAP_MSIX, &cap);
    if (rc)
        return err_set(err, rc, "%s: no MSI-X: %s", h->o.path, strerror(-rc));
    h->nvectors = MIN(MIN(count, h->o.queues + 1), (unsigned)MAX_VECTORS);
    if (!h->nvectors)
        return err_set(err, -ENOENT, "%s: the function has no MSI-X vectors", h->o.path);
    for (unsigned i = 0; i < h->nvectors; i++) {
        h->vector_fd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (h->vector_fd[i] < 0)
            return err_set(err, -errno, "%s: no eventfd: %s", h->o.path, strerror(errno));
    }
    rc = vfio_client_set_irqs(h->vc, VFIO_PCI_IRQ_MSIX, 0, h->nvectors, h->vector_fd);
    if (!rc)
        rc = vfio_client_write16(h->vc, VFIO_PCI_CONFIG, cap + PCI_MSIX_CONTROL, PCI_MSIX_ENABLE);
    if (!rc)
        rc = vfio_client_write16(h->vc, VFIO_PCI_CONFIG, PCI_COMMAND,
                                 PCI_COMMAND_MEMORY | PCI_COMMAND_BUS_MASTER |
                                     PCI_COMMAND_INTX_DISABLE);
    return rc ? err_set(err, rc, "%s: cannot set up interrupts: %s", h->o.path, strerror(-rc)) : 0;
}

static int map_doorbells(struct nvme_host *h, struct err *err)
{
    struct vfio_client_region r;
    int rc = vfio_client_region(h->vc, VFIO_PCI_BAR0, &r);
    void *p;

    if (rc)
        return err_set(err, rc, "%s: no BAR 0: %s", h->o.path, strerror(-rc));
    if (h->o.doorbells != NVME_DOORBELLS_MAPPED) {
        fd_close(&r.fd);
        return 0;
    }
    if (r.fd < 0 || !r.mmap_length || r.mmap_offset != NVME_REG_DOORBELLS) {
        fd_close(&r.fd);
        return err_set(err, -ENOTSUP, "%s: the function's doorbells cannot be mapped", h->o.path);
    }
    p = mmap(NULL, r.mmap_length, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd,
             (off_t)(r.fd_offset + r.mmap_offset));
    rc = p == MAP_FAILED ? -errno : 0;
    fd_close(&r.fd);
    if (rc)
        return err_set(err, rc, "%s: cannot map the doorbells: %s", h->o.path, strerror(-rc));
    h->doorbells = p;
    h->doorbells_bytes = r.mmap_length;
    h->bell.mapped = (void *)p;
    return 0;
}

/* ---- registers ---- */

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

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
    uint64_t deadline = now_ms() + h->o.timeout_ms;

    for (;;) {
        uint32_t csts;
        int rc = vfio_client_read32(h->vc, VFIO_PCI_BAR0, NVME_REG_CSTS, &csts);

        if (rc)
            return err_set(err, rc, "%s: cannot read CSTS: %s", h->o.path, strerror(-rc));
        if (csts != UINT32_MAX && csts & NVME_CSTS_CFS)
            return err_set(err, -EIO, "%s: controller fatal status", h->o.path);
        if (csts != UINT32_MAX && !!(csts & NVME_CSTS_RDY) == ready)
            return 0;
        if (now_ms() > deadline)
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
    uint64_t deadline = now_ms() + h->o.timeout_ms;
    int rc;

    if (!nvme_queue_submit(&h->admin, sqe, iova, len, &w))
        return -EBUSY;
    rc = nvme_queue_ring(&h->admin);
    while (!rc && !w.done) {
        if (nvme_queue_poll(&h->admin, admin_completed, h))
            rc = nvme_queue_ring(&h->admin);
        else if (now_ms() > deadline)
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

/* Everything from CC.EN on; the queues' memory exists. */
static int start(struct nvme_host *h, bool first, struct err *err)
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
    return start(h, false, err);
}

/* ---- open and close ---- */

static int setup(struct nvme_host *h, struct err *err)
{
    void *pages;
    uint64_t cap;
    uint32_t mqes;
    int rc;

    if ((rc = map_doorbells(h, err)) || (rc = open_vectors(h, err)))
        return rc;
    rc = vfio_client_read(h->vc, VFIO_PCI_BAR0, NVME_REG_CAP, &cap, sizeof(cap));
    if (rc)
        return err_set(err, rc, "%s: cannot read CAP: %s", h->o.path, strerror(-rc));
    mqes = NVME_CAP_MQES(le64toh(cap));
    h->o.depth = MIN(h->o.depth, mqes); /* a queue of n entries holds n - 1 commands */
    h->o.depth = MIN(h->o.depth, 1U << NVME_CID_SLOT_BITS);
    if ((rc = arena_create(h, err)))
        return rc;
    h->admin_page = nvme_host_alloc(h, NVME_PAGE, &h->admin_page_iova);
    pages = nvme_host_alloc(h, 2 * NVME_PAGE, &h->shadow_iova);
    if (!h->admin_page || !pages || nvme_queue_init(&h->admin, h, &h->bell, 0, ADMIN_DEPTH))
        return err_set(err, -ENOMEM, "%s: no memory", h->o.path);
    h->bell.shadow = pages;
    h->bell.event = (void *)((char *)pages + NVME_PAGE);
    return start(h, true, err);
}

struct nvme_host *nvme_host_open(const struct nvme_host_opts *opts, struct err *err)
{
    struct nvme_host *h;
    struct vfio_client_opts vo = {
        .path = opts->path,
        .no_json = opts->doorbells == NVME_DOORBELLS_MAPPED,
        .minor = 1,
        .timeout_ms = opts->timeout_ms,
    };

    if (!opts->queues || opts->queues > MAX_QUEUES || !opts->depth) {
        err_set(err, -EINVAL, "queues must be 1 to %d, depth at least 1", MAX_QUEUES);
        return NULL;
    }
    h = calloc(1, sizeof(*h));
    if (!h) {
        err_set(err, -ENOMEM, "%s: no memory", opts->path);
        return NULL;
    }
    h->o = *opts;
    h->o.timeout_ms = opts->timeout_ms ? opts->timeout_ms : 10000;
    h->arena_fd = -1;
    for (unsigned i = 0; i < MAX_VECTORS; i++)
        h->vector_fd[i] = -1;
    h->vc = vfio_client_connect(&vo, err);
    h->bell.vc = h->vc;
    if (!h->vc || setup(h, err)) {
        nvme_host_close(h);
        return NULL;
    }
    return h;
}

void nvme_host_close(struct nvme_host *h)
{
    if (!h)
        return;
    if (h->vc && h->cc && vfio_client_alive(h->vc)) {
        reg_write(h, NVME_REG_CC, 0);
        wait_ready(h, false,
                   NULL); /* the memory goes away: not before the device has let go of it */
    }
    vfio_client_close(h->vc);
    for (unsigned i = 0; i < h->nvectors; i++)
        fd_close(&h->vector_fd[i]);
    nvme_queue_free(&h->admin);
    for (unsigned i = 0; i < h->nio; i++)
        nvme_queue_free(&h->io[i]);
    if (h->doorbells)
        munmap(h->doorbells, h->doorbells_bytes);
    if (h->arena)
        munmap(h->arena, h->arena_bytes);
    fd_close(&h->arena_fd);
    free(h);
}

struct nvme_host_info nvme_host_get_info(const struct nvme_host *h)
{
    return h->info;
}

bool nvme_host_alive(struct nvme_host *h)
{
    return vfio_client_alive(h->vc);
}

/* ---- I/O ---- */

bool nvme_host_submit(struct nvme_host *h, unsigned queue, struct nvme_sqe *sqe, uint64_t iova,
                      uint32_t len, void *tag)
{
    return nvme_queue_submit(&h->io[queue], sqe, iova, len, tag);
}

void nvme_host_ring(struct nvme_host *h, unsigned queue)
{
    nvme_queue_ring(&h->io[queue]);
}

unsigned nvme_host_poll(struct nvme_host *h, unsigned queue, nvme_completed_fn fn, void *arg)
{
    return nvme_queue_poll(&h->io[queue], fn, arg);
}

struct nvme_sqe nvme_host_rw(const struct nvme_host *h, uint8_t opc, uint64_t lba, uint32_t nblocks)
{
    return (struct nvme_sqe){
        .opc = opc,
        .nsid = le32_of(h->info.nsid),
        .cdw10 = le32_of((uint32_t)lba),
        .cdw11 = le32_of((uint32_t)(lba >> 32)),
        .cdw12 = le32_of(nblocks - 1),
    };
}

static void drain_vectors(struct nvme_host *h)
{
    for (unsigned i = h->nvectors > 1; i < h->nvectors;
         i++) { /* vector 0 is the admin queue's, if there is another */
        uint64_t n;

        if (read(h->vector_fd[i], &n, sizeof(n)) == sizeof(n))
            h->interrupts += n;
    }
}

void nvme_host_wait(struct nvme_host *h, uint32_t timeout_us)
{
    struct timespec ts = {.tv_sec = timeout_us / 1000000,
                          .tv_nsec = (long)(timeout_us % 1000000) * 1000};
    struct pollfd p[MAX_VECTORS + 1];
    unsigned n = 0;

    for (unsigned i = h->nvectors > 1; i < h->nvectors; i++)
        p[n++] = (struct pollfd){.fd = h->vector_fd[i], .events = POLLIN};
    p[n++] = (struct pollfd){.fd = vfio_client_fd(h->vc), .events = POLLIN};
    if (ppoll(p, n, &ts, NULL) > 0)
        drain_vectors(h);
}

struct nvme_host_stats nvme_host_get_stats(struct nvme_host *h)
{
    drain_vectors(h);
    return (struct nvme_host_stats){.kicks = h->bell.kicks,
                                    .interrupts = h->interrupts,
                                    .messages = vfio_client_messages(h->vc)};
}
