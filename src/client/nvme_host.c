/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/nvme_host.h"

#include "base/fd.h"
#include "base/util.h"
#include "client/nvme_inside.h"
#include "spec/vfio_user.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- memory ---- */

void *nvme_host_alloc(struct nvme_host *h, uint64_t bytes, uint64_t *ret_iova)
{
    return arena_alloc(&h->arena, bytes, ret_iova);
}

static int arena_create(struct nvme_host *h, struct err *err)
{
    /* Per queue: SQ, CQ, a PRP page per command; a few pages of the host's own. */
    uint64_t per_queue =
        ((uint64_t)h->o.depth + 8) * NVME_PAGE + ((uint64_t)h->o.depth + 1) * 80 + 2 * NVME_PAGE;
    uint64_t bytes = h->o.data_bytes + h->o.queues * per_queue + (ADMIN_DEPTH + 32) * NVME_PAGE;
    int rc = arena_open(&h->arena, "nvme-host", bytes, ARENA_IOVA);

    if (rc)
        return err_set(err, rc, "%s: no memory for %llu bytes", h->o.path,
                       (unsigned long long)bytes);
    rc = vfio_client_dma_map(h->vc, ARENA_IOVA, h->arena.bytes, h->arena.fd, 0,
                             VFIO_USER_DMA_F_READ | VFIO_USER_DMA_F_WRITE);
    return rc ? err_set(err, rc, "%s: DMA_MAP refused: %s", h->o.path, strerror(-rc)) : 0;
}

/* ---- open and close ---- */

static int setup(struct nvme_host *h, struct err *err)
{
    void *pages;
    uint64_t cap;
    uint32_t mqes;
    int rc;

    if ((rc = nvme_pci_map_doorbells(h, err)) || (rc = nvme_pci_open_vectors(h, err)))
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
    return nvme_control_start(h, true, err);
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
    if (h->vc)
        nvme_control_stop(h); /* the memory goes away: not before the device has let go of it */
    vfio_client_close(h->vc);
    for (unsigned i = 0; i < h->nvectors; i++)
        fd_close(&h->vector_fd[i]);
    nvme_queue_free(&h->admin);
    for (unsigned i = 0; i < h->nio; i++)
        nvme_queue_free(&h->io[i]);
    if (h->doorbells)
        munmap(h->doorbells, h->doorbells_bytes);
    arena_close(&h->arena);
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

unsigned nvme_host_fds(const struct nvme_host *h, struct pollfd *fds, unsigned max)
{
    unsigned n = 0;

    /* Vector 0 is the admin queue's, if there is another. */
    for (unsigned i = h->nvectors > 1; i < h->nvectors && n < max; i++)
        fds[n++] = (struct pollfd){.fd = h->vector_fd[i], .events = POLLIN};
    if (n < max)
        fds[n++] = (struct pollfd){.fd = vfio_client_fd(h->vc), .events = POLLIN};
    return n;
}

void nvme_host_woken(struct nvme_host *h)
{
    for (unsigned i = h->nvectors > 1; i < h->nvectors; i++) {
        uint64_t n;

        if (read(h->vector_fd[i], &n, sizeof(n)) == sizeof(n))
            h->interrupts += n;
    }
}

struct nvme_host_stats nvme_host_get_stats(struct nvme_host *h)
{
    nvme_host_woken(h);
    return (struct nvme_host_stats){.kicks = h->bell.kicks,
                                    .interrupts = h->interrupts,
                                    .messages = vfio_client_messages(h->vc)};
}
