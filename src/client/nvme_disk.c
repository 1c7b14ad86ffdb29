/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/nvme_disk.h"

#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct nvme_disk {
    struct disk disk;
    struct nvme_host *host;
    struct nvme_host_info info;
    enum nvme_doorbells doorbells;
    struct disk_poll {
        disk_completed_fn fn;
        void *arg;
        unsigned queue;
    } poll; /* while a poll runs */
};

static struct nvme_disk *of(const struct disk *d)
{
    return container_of(d, struct nvme_disk, disk);
}

static struct disk_info disk_info(const struct disk *d)
{
    static const char *const modes[] = {
        [NVME_DOORBELLS_TRAPPED] = "trapped",
        [NVME_DOORBELLS_SHADOW] = "shadow",
        [NVME_DOORBELLS_MAPPED] = "mapped",
    };
    const struct nvme_host_info *h = &of(d)->info;
    struct disk_info i = {
        .kind = "nvme",
        .block_bytes = h->block_bytes,
        .max_transfer_bytes = h->max_transfer_bytes,
        .queues = h->queues,
        .depth = h->depth,
        .nblocks = h->nblocks,
        .max_zeroes_blocks = h->can_write_zeroes ? 65536 : 0,
        .max_deallocate_blocks = h->can_deallocate ? UINT32_MAX : 0,
        .can_flush = true,
    };

    snprintf(i.name, sizeof(i.name), "%s, namespace %u", h->subnqn, h->nsid);
    snprintf(i.how, sizeof(i.how), "%s doorbells", modes[of(d)->doorbells]);
    return i;
}

static struct disk_stats disk_stats(struct disk *d)
{
    struct nvme_host_stats s = nvme_host_get_stats(of(d)->host);

    return (struct disk_stats){
        .kicks = s.kicks, .interrupts = s.interrupts, .messages = s.messages};
}

static void *disk_alloc(struct disk *d, uint64_t bytes, uint64_t *ret_iova)
{
    return nvme_host_alloc(of(d)->host, bytes, ret_iova);
}

/* ---- I/O ---- */

static bool disk_submit(struct disk *d, unsigned queue, const struct disk_io *io)
{
    static const uint8_t opcodes[] = {
        [DISK_READ] = NVME_CMD_READ,           [DISK_WRITE] = NVME_CMD_WRITE,
        [DISK_ZEROES] = NVME_CMD_WRITE_ZEROES, [DISK_DEALLOCATE] = NVME_CMD_DSM,
        [DISK_FLUSH] = NVME_CMD_FLUSH,
    };
    struct nvme_disk *n = of(d);
    struct nvme_sqe sqe = nvme_host_rw(n->host, opcodes[io->op], io->lba, MAX(io->nblocks, 1U));
    uint32_t bytes = 0;

    switch (io->op) {
    case DISK_READ:
    case DISK_WRITE:
        bytes = io->nblocks * n->info.block_bytes;
        break;
    case DISK_DEALLOCATE: {
        struct nvme_dsm_range range = {.nlb = le32_of(io->nblocks), .slba = le64_of(io->lba)};

        memcpy(io->buf, &range, sizeof(range));
        sqe.cdw10 = le32_of(0); /* one range */
        sqe.cdw11 = le32_of(NVME_DSM_AD);
        sqe.cdw12 = le32_of(0);
        bytes = sizeof(range);
        break;
    }
    case DISK_FLUSH:
        sqe.cdw10 = sqe.cdw11 = sqe.cdw12 = le32_of(0);
        break;
    case DISK_ZEROES:
        break;
    }
    return nvme_host_submit(n->host, queue, &sqe, io->iova, bytes, io->tag);
}

static void disk_ring(struct disk *d, unsigned queue)
{
    nvme_host_ring(of(d)->host, queue); /* also returns CQ room */
}

static void completed(void *arg, const struct nvme_completion *nc)
{
    const struct nvme_disk *n = arg;
    struct disk_completion c = {
        .tag = nc->tag,
        .ok = nc->status == 0,
        .flaws = nc->bad_sqhd ? DISK_BAD_SQHD : 0,
        .queue = n->poll.queue,
        .id = le16_get(nc->cqe.cid),
        .status = nc->status & NVME_STATUS_MASK,
        .value = (uint32_t)le16_get(nc->cqe.sqid) << 16 | le16_get(nc->cqe.sqhd),
    };

    n->poll.fn(n->poll.arg, &c);
}

static unsigned disk_poll(struct disk *d, unsigned queue, disk_completed_fn fn, void *arg)
{
    struct nvme_disk *n = of(d);

    n->poll = (struct disk_poll){fn, arg, queue};
    return nvme_host_poll(n->host, queue, completed, n);
}

static void disk_explain(const struct disk_completion *c, char *text, size_t size)
{
    snprintf(text, size, "CID %04x on SQ %u, SQ head %u, status %03x", c->id, c->value >> 16,
             c->value & 0xffff, c->status);
}

/* ---- sleeping and the connection ---- */

static bool disk_arm(struct disk *d)
{
    (void)d;
    return true; /* interrupts are never off; their eventfds remember */
}

static unsigned disk_fds(struct disk *d, struct pollfd *fds, unsigned max)
{
    return nvme_host_fds(of(d)->host, fds, max);
}

static void disk_woken(struct disk *d)
{
    nvme_host_woken(of(d)->host);
}

static int disk_check(struct disk *d, struct err *err)
{
    if (!nvme_host_alive(of(d)->host))
        return err_set(err, -ECONNRESET, "the function's socket was closed by the other side");
    return 0;
}

static int disk_reset(struct disk *d, struct err *err)
{
    return nvme_host_reset(of(d)->host, err);
}

static void close_disk(struct disk *d)
{
    nvme_host_close(of(d)->host);
    free(of(d));
}

static const struct disk_ops ops = {
    .info = disk_info,
    .stats = disk_stats,
    .alloc = disk_alloc,
    .submit = disk_submit,
    .ring = disk_ring,
    .poll = disk_poll,
    .arm = disk_arm,
    .fds = disk_fds,
    .woken = disk_woken,
    .check = disk_check,
    .reset = disk_reset,
    .explain = disk_explain,
    .close = close_disk,
};

struct disk *nvme_disk_open(const struct nvme_host_opts *opts, struct err *err)
{
    struct nvme_disk *n = calloc(1, sizeof(*n));

    if (!n) {
        err_set(err, -ENOMEM, "%s: no memory", opts->path);
        return NULL;
    }
    n->host = nvme_host_open(opts, err);
    if (!n->host) {
        free(n);
        return NULL;
    }
    n->disk.ops = &ops;
    n->info = nvme_host_get_info(n->host);
    n->doorbells = opts->doorbells;
    return &n->disk;
}
