/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Requests (virtio 1.3, 5.2.6): a chain with a header of 16 bytes, data, and a status byte as the
 * last one the device may write. How the driver has cut that into descriptors means nothing. */
#include "devices/virtio_blk/inside.h"

#include "base/checked.h"
#include "base/crash_point.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    PENDING = 0xff, /* of a start: no status yet */
    /* Of a batch that a bdev copies itself, so many are answered together: the host refills the
     * queue while the rest is copied. */
    POST_EARLY = 8,
};

/* ---- iovecs ---- */

static bool big_iov(struct vblk_req *req)
{
    struct vblk_dev *dev = req->q->dev;

    if (req->big)
        return true;
    if (dev->iov_pool) {
        req->big = dev->iov_pool;
        dev->iov_pool = *(void **)req->big;
    } else {
        /* Grows to the largest number ever needed at once, then never again. */
        req->big = malloc(VBLK_IOV_MAX * sizeof(struct iovec));
    }
    return req->big;
}

static void drop_big(struct vblk_req *req)
{
    struct vblk_dev *dev = req->q->dev;

    if (likely(!req->big))
        return;
    *(void **)req->big = dev->iov_pool;
    dev->iov_pool = req->big;
    req->big = NULL;
}

void vblk_iov_pool_free(struct vblk_dev *dev)
{
    while (dev->iov_pool) {
        void *next = *(void **)dev->iov_pool;

        free(dev->iov_pool);
        dev->iov_pool = next;
    }
}

static int map_chain(struct vblk_req *req)
{
    int rc;

    req->io = (struct virtq_iov){.iov = req->inline_iov, .max = VBLK_IOV_INLINE};
    rc = virtq_map(req->q->vq, req->slot, &req->io);
    if (likely(rc != -E2BIG))
        return rc;
    if (!big_iov(req))
        return -ENOMEM;
    req->io = (struct virtq_iov){.iov = req->big, .max = VBLK_IOV_MAX};
    return virtq_map(req->q->vq, req->slot, &req->io);
}

/* Copies bytes out of the readable part, from offset on; they are there. */
static void copy_out(const struct virtq_iov *io, uint64_t offset, void *to, size_t bytes)
{
    char *at = to;

    for (int i = 0; i < io->nreadable && bytes > 0; i++) {
        size_t len = io->iov[i].iov_len, n;

        if (offset >= len) {
            offset -= len;
            continue;
        }
        n = MIN(len - offset, bytes);
        memcpy(at, (char *)io->iov[i].iov_base + offset, n);
        at += n;
        bytes -= n;
        offset = 0;
    }
}

/* Cuts bytes off the front of iov. */
static void skip(struct iovec **iov, int *n, uint64_t bytes)
{
    while (bytes > 0 && *n > 0) {
        struct iovec *v = *iov;
        size_t cut = MIN(v->iov_len, bytes);

        v->iov_base = (char *)v->iov_base + cut;
        v->iov_len -= cut;
        bytes -= cut;
        if (v->iov_len == 0) {
            (*iov)++;
            (*n)--;
        }
    }
}

/* ---- the end of a request ---- */

static void release(struct vblk_req *req)
{
    drop_big(req);
    req->state = VBLK_REQ_FREE;
}

static uint8_t status_of(int rc)
{
    if (likely(rc == 0))
        return VIRTIO_BLK_S_OK;
    return rc == -EOPNOTSUPP || rc == -ENOTSUP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

static void finish(struct vblk_req *req, uint8_t status)
{
    struct vblk_queue *q = req->q;
    bool in = req->type == VIRTIO_BLK_T_IN || req->type == VIRTIO_BLK_T_GET_ID;
    uint64_t len = in ? req->io.writable_bytes : 1;

    if (unlikely(status != VIRTIO_BLK_S_OK))
        counter_add(&q->dev->stats[q->cfg.index].errors, 1);
    crash_point(vblk_executed);
    *req->io.last = status;
    crash_point(vblk_status_written);
    virtq_done(q->vq, req->slot, (uint32_t)MIN(len, (uint64_t)UINT32_MAX));
    release(req);
}

static void hold_expired(struct timer *t)
{
    struct vblk_dev *dev = container_of(t, struct vblk_dev, hold_timer);

    vblk_restart_held(dev);
    device_kick(&dev->base);
}

static void hold(struct vblk_req *req)
{
    struct vblk_dev *dev = req->q->dev;

    drop_big(req);
    req->state = VBLK_REQ_HELD;
    req->next = NULL;
    if (dev->held)
        dev->held_last->next = req;
    else
        dev->held = req;
    dev->held_last = req;
    dev->nheld++;
    counter_add(&dev->base.counts.memory_parked, 1);
    if (!dev->hold_timer.armed)
        timer_arm(dev->base.reactor, &dev->hold_timer, VBLK_REMAP_US / 1000 + 10, hold_expired);
}

/* ---- with the bdev ---- */

static uint8_t next_range(struct vblk_req *req);

static void ended(struct vblk_req *req, int rc)
{
    struct vblk_queue *q = req->q;
    struct vblk_dev *dev = q->dev;

    q->pending--;
    dev->base.inflight--;
    req->state = VBLK_REQ_ACTIVE;
    device_kick(&dev->base);
    if (unlikely(device_drains(&dev->base) || dev->detach.cb || dev->dropping || q->stopped))
        dev->base.settle = true;
    if (unlikely(dev->dropping)) {
        release(req);
        return;
    }
    if (unlikely(rc == -ECANCELED && dev->base.keeping)) {
        /* The record stays: it is the next service's. Nothing has died of it. */
        virtq_set_starts(q->vq, req->slot, (uint8_t)(virtq_starts(q->vq, req->slot) - 1));
        release(req);
        return;
    }
    if (unlikely(req->detach != VBLK_ATTACHED || req->last_away)) {
        dev->remap_until_us = reactor_now_us(dev->base.reactor) + VBLK_REMAP_US;
        hold(req); /* its status byte may be away */
        return;
    }
    if (unlikely(rc == 0 && req->steps)) {
        uint8_t status = next_range(req);

        if (status != PENDING)
            finish(req, status);
        return;
    }
    finish(req, status_of(rc));
}

static void io_done(struct bdev_req *io, int rc)
{
    ended(container_of(io, struct vblk_req, bdev), rc);
}

static uint8_t submit(struct vblk_req *req)
{
    struct vblk_dev *dev = req->q->dev;
    int rc;

    req->bdev.done = io_done;
    req->detach = VBLK_ATTACHED;
    req->last_away = false;
    dev->dirty = true;
    rc = bdev_submit(dev->disk.channel, &req->bdev);
    if (rc != BDEV_PENDING)
        return status_of(rc);
    req->state = VBLK_REQ_PENDING;
    req->q->pending++;
    dev->base.inflight++;
    return PENDING;
}

/* Sectors of 512 bytes as blocks of the disk. */
static bool to_blocks(const struct vblk_disk *d, uint64_t sector, uint64_t nsectors,
                      struct bdev_req *io)
{
    uint32_t shift = d->block_shift - 9;
    uint64_t mask = (1ULL << shift) - 1;

    if (unlikely((sector & mask) || (nsectors & mask) || nsectors >> shift > UINT32_MAX))
        return false;
    io->lba = sector >> shift;
    io->nblocks = (uint32_t)(nsectors >> shift);
    return checked_range(io->lba, io->nblocks, d->nblocks);
}

static uint8_t start_rw(struct vblk_req *req, uint64_t sector, bool write)
{
    struct vblk_dev *dev = req->q->dev;
    struct virtq_iov *io = &req->io;
    uint64_t bytes =
        write ? io->readable_bytes - sizeof(struct virtio_blk_req_head) : io->writable_bytes - 1;

    /* Data that goes the other way belongs to no such request. */
    if (unlikely(write ? io->writable_bytes != 1
                       : io->readable_bytes != sizeof(struct virtio_blk_req_head)))
        return VIRTIO_BLK_S_IOERR;
    if (unlikely(!dev->disk.channel || bytes % VIRTIO_BLK_SECTOR ||
                 !to_blocks(&dev->disk, sector, bytes / VIRTIO_BLK_SECTOR, &req->bdev)))
        return VIRTIO_BLK_S_IOERR;
    if (unlikely(write && (dev->o.read_only || dev->disk.read_only)))
        return VIRTIO_BLK_S_IOERR;
    poison(req->bdev.lba);
    counter_add(
        write ? &dev->stats[req->q->cfg.index].writes : &dev->stats[req->q->cfg.index].reads, 1);
    if (unlikely(bytes == 0))
        return VIRTIO_BLK_S_OK;
    if (write) {
        req->bdev.iov = io->iov;
        req->bdev.iovcnt = io->nreadable;
        skip(&req->bdev.iov, &req->bdev.iovcnt, sizeof(struct virtio_blk_req_head));
    } else {
        struct iovec *last = &io->iov[io->nreadable + io->nwritable - 1];

        req->bdev.iov = io->iov + io->nreadable;
        req->bdev.iovcnt = io->nwritable;
        if (--last->iov_len == 0)
            req->bdev.iovcnt--;
    }
    req->bdev.op = write ? BDEV_WRITE : BDEV_READ;
    req->bdev.flags = (write && (req->q->through || !dev->writeback) ? BDEV_FUA : 0) | req->resent;
    return submit(req);
}

static uint8_t start_flush(struct vblk_req *req)
{
    struct vblk_dev *dev = req->q->dev;

    if (!(req->q->cfg.features & VIRTIO_BLK_F_FLUSH))
        return VIRTIO_BLK_S_UNSUPP;
    counter_add(&dev->stats[req->q->cfg.index].flushes, 1);
    if (!dev->disk.channel)
        return VIRTIO_BLK_S_IOERR;
    if (!dev->disk.write_cache)
        return VIRTIO_BLK_S_OK;
    req->bdev.op = BDEV_FLUSH;
    req->bdev.flags = 0;
    req->bdev.lba = 0;
    req->bdev.nblocks = 0;
    req->bdev.iov = NULL;
    req->bdev.iovcnt = 0;
    return submit(req);
}

static uint8_t start_get_id(struct vblk_req *req)
{
    const struct vblk_dev *dev = req->q->dev;
    struct virtq_iov *io = &req->io;
    size_t at = 0;

    if (io->writable_bytes < VIRTIO_BLK_ID_BYTES + 1)
        return VIRTIO_BLK_S_IOERR;
    for (int i = io->nreadable; i < io->nreadable + io->nwritable && at < VIRTIO_BLK_ID_BYTES;
         i++) {
        size_t n = MIN(io->iov[i].iov_len, VIRTIO_BLK_ID_BYTES - at);

        memcpy(io->iov[i].iov_base, dev->o.vblk_id + at, n);
        at += n;
    }
    return VIRTIO_BLK_S_OK;
}

/* ---- discard, write zeroes: range after range ---- */

static bool zeroes(const struct vblk_req *req)
{
    return req->type == VIRTIO_BLK_T_WRITE_ZEROES;
}

/* req->step of req->steps ranges in req->big are begun; the last one was submitted. */
static uint8_t next_range(struct vblk_req *req)
{
    const struct virtio_blk_range *ranges = req->big;
    struct vblk_dev *dev = req->q->dev;

    while (req->step < req->steps) {
        const struct virtio_blk_range *r = &ranges[req->step++];
        uint8_t status;

        /* The capacity may have become less meanwhile. */
        if (!dev->disk.channel ||
            !to_blocks(&dev->disk, le64_get(r->sector), le32_get(r->num_sectors), &req->bdev))
            return VIRTIO_BLK_S_IOERR;
        if (req->bdev.nblocks == 0)
            continue;
        req->bdev.op = zeroes(req) ? BDEV_WRITE_ZEROES : BDEV_UNMAP;
        req->bdev.flags =
            (zeroes(req) && (req->q->through || !dev->writeback) ? BDEV_FUA : 0) | req->resent;
        req->bdev.iov = NULL;
        req->bdev.iovcnt = 0;
        status = submit(req);
        if (status != VIRTIO_BLK_S_OK)
            return status;
    }
    return VIRTIO_BLK_S_OK;
}

static uint8_t check_range(const struct vblk_req *req, const struct virtio_blk_range *r)
{
    uint32_t flags = le32_get(r->flags);
    struct bdev_req io;

    if (flags & ~(zeroes(req) ? 1U : 0U)) /* unmap is for write zeroes only */
        return VIRTIO_BLK_S_UNSUPP;
    if (le32_get(r->num_sectors) > VBLK_MAX_RANGE_SECTORS ||
        !to_blocks(&req->q->dev->disk, le64_get(r->sector), le32_get(r->num_sectors), &io))
        return VIRTIO_BLK_S_IOERR;
    return VIRTIO_BLK_S_OK;
}

static uint8_t start_ranges(struct vblk_req *req)
{
    struct virtio_blk_range ranges[VBLK_MAX_RANGES] = {0};
    struct vblk_dev *dev = req->q->dev;
    uint64_t feature = zeroes(req) ? VIRTIO_BLK_F_WRITE_ZEROES : VIRTIO_BLK_F_DISCARD;
    uint64_t bytes = req->io.readable_bytes - sizeof(struct virtio_blk_req_head);
    uint32_t n = (uint32_t)(bytes / sizeof(ranges[0]));

    static_assert(sizeof(ranges) <= VBLK_IOV_MAX * sizeof(struct iovec), "ranges fit a big iov");
    if (!(req->q->cfg.features & feature))
        return VIRTIO_BLK_S_UNSUPP;
    if (bytes == 0 || bytes % sizeof(ranges[0]) || bytes > sizeof(ranges) || !dev->disk.channel ||
        req->io.writable_bytes != 1 || dev->o.read_only || dev->disk.read_only)
        return VIRTIO_BLK_S_IOERR;
    counter_add(zeroes(req) ? &dev->stats[req->q->cfg.index].write_zeroes
                            : &dev->stats[req->q->cfg.index].discards,
                1);
    copy_out(&req->io, sizeof(struct virtio_blk_req_head), ranges, (size_t)bytes);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t status = check_range(req, &ranges[i]);

        if (status != VIRTIO_BLK_S_OK)
            return status;
    }
    if (!zeroes(req) && !dev->disk.can_unmap)
        return VIRTIO_BLK_S_OK; /* a hint, and this disk has no use for it */
    /* The iovecs are done with; only the status byte's place is still needed. */
    if (!big_iov(req))
        return VIRTIO_BLK_S_IOERR;
    memcpy(req->big, ranges, (size_t)bytes);
    req->step = 0;
    req->steps = n;
    return next_range(req);
}

/* ---- start ---- */

/* A start has three parts, so that what one request waits for in memory can be fetched while those
 * before it are executed. */

static void map(struct vblk_req *req)
{
    req->state = VBLK_REQ_ACTIVE;
    req->type = UINT32_MAX;
    req->steps = 0;
    req->mapped = map_chain(req);
    if (likely(req->mapped == 0 && req->io.nreadable > 0))
        __builtin_prefetch(req->io.iov[0].iov_base);
}

static void read_head(struct vblk_req *req)
{
    const struct vblk_disk *d = &req->q->dev->disk;

    req->head = (struct virtio_blk_req_head){0};
    if (unlikely(req->mapped < 0 || req->io.readable_bytes < sizeof(req->head)))
        return;
    if (likely(req->io.iov[0].iov_len >= sizeof(req->head)))
        memcpy(&req->head, req->io.iov[0].iov_base, sizeof(req->head)); /* the one read */
    else
        copy_out(&req->io, 0, &req->head, sizeof(req->head));
    req->type = le32_get(req->head.type);
    if (d->copies && d->channel && req->type <= VIRTIO_BLK_T_OUT)
        bdev_expect(d->channel, le64_get(req->head.sector) >> (d->block_shift - 9));
}

static uint8_t execute(struct vblk_req *req)
{
    if (unlikely(req->io.readable_bytes < sizeof(req->head)))
        return VIRTIO_BLK_S_IOERR;
    switch (req->type) {
    case VIRTIO_BLK_T_IN:
        return start_rw(req, le64_get(req->head.sector), false);
    case VIRTIO_BLK_T_OUT:
        return start_rw(req, le64_get(req->head.sector), true);
    case VIRTIO_BLK_T_FLUSH:
        return start_flush(req);
    case VIRTIO_BLK_T_GET_ID:
        return start_get_id(req);
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return start_ranges(req);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

/* A chain that cannot be executed: the driver gets it back, or has to reset the device. */
static void refuse(struct vblk_req *req, int rc)
{
    static struct log_limit limit;
    struct vblk_queue *q = req->q;
    struct vblk_dev *dev = q->dev;

    if (rc == -EFAULT && reactor_now_us(dev->base.reactor) < dev->remap_until_us) {
        hold(req); /* the host is moving its memory about: it may be back in a moment */
        return;
    }
    log_limited(&limit, LOG_WARNING, "vblk", "ctrl %s: queue %u: chain at descriptor %u: %s",
                dev->base.name, q->cfg.index, virtq_head(q->vq, req->slot),
                rc == -EFAULT   ? "not in guest memory"
                : rc == -E2BIG  ? "too many segments"
                : rc == -ENOMEM ? "out of memory"
                                : "not a legal chain");
    if (req->io.last) {
        req->type = VIRTIO_BLK_T_OUT; /* one byte is written */
        finish(req, VIRTIO_BLK_S_IOERR);
        return;
    }
    release(req);
    virtq_break(q->vq, rc == -EFAULT ? "a chain is not in guest memory" : "a chain is not legal");
}

static void launch(struct vblk_req *req)
{
    uint8_t status;

    if (unlikely(req->mapped < 0)) {
        refuse(req, req->mapped);
        return;
    }
    if (unlikely(!req->io.last)) { /* no status byte: it goes back as it came */
        counter_add(&req->q->dev->stats[req->q->cfg.index].errors, 1);
        virtq_done(req->q->vq, req->slot, 0);
        release(req);
        return;
    }
    status = execute(req);
    if (status != PENDING)
        finish(req, status);
}

static void start(struct vblk_req *req)
{
    map(req);
    read_head(req);
    launch(req);
}

static struct vblk_req *req_at(struct vblk_queue *q, unsigned slot)
{
    struct vblk_req *req = &q->reqs[slot];

    if (unlikely(!req->q)) {
        req->q = q;
        req->slot = (uint16_t)slot;
    }
    return req;
}

static struct vblk_req *begin(struct vblk_queue *q, unsigned slot, uint32_t resent)
{
    struct vblk_req *req = req_at(q, slot);

    req->resent = resent;
    virtq_set_starts(q->vq, slot, (uint8_t)(virtq_starts(q->vq, slot) + 1));
    crash_point(vq_start_counted);
    return req;
}

void vblk_req_start(struct vblk_queue *q, unsigned slot, uint32_t resent)
{
    start(begin(q, slot, resent));
}

void vblk_reqs_start(struct vblk_queue *q, const uint16_t *slots, unsigned n)
{
    if (!q->dev->disk.copies) { /* nothing takes long enough to look ahead */
        for (unsigned i = 0; i < n; i++)
            start(begin(q, slots[i], 0));
        return;
    }
    for (unsigned i = 0; i < n + 2; i++) {
        if (i < n)
            map(begin(q, slots[i], 0));
        if (i >= 1 && i <= n)
            read_head(&q->reqs[slots[i - 1]]);
        if (i < 2)
            continue;
        if (i % POST_EARLY == 0 && virtq_has_done(q->vq))
            q->call |= virtq_post(q->vq);
        launch(&q->reqs[slots[i - 2]]);
    }
}

bool vblk_req_reads(struct vblk_queue *q, unsigned slot)
{
    struct vblk_req *req = req_at(q, slot);
    struct virtio_blk_req_head head = {0};

    if (map_chain(req) < 0 || req->io.readable_bytes < sizeof(head))
        return false;
    copy_out(&req->io, 0, &head, sizeof(head));
    return le32_get(head.type) == VIRTIO_BLK_T_IN;
}

void vblk_req_fail(struct vblk_queue *q, unsigned slot)
{
    struct vblk_req *req = req_at(q, slot);

    req->state = VBLK_REQ_ACTIVE;
    req->type = UINT32_MAX;
    if (map_chain(req) == 0 && req->io.last)
        finish(req, VIRTIO_BLK_S_IOERR);
    else
        virtq_done(req->q->vq, req->slot, 0);
}

/* ---- held requests ---- */

void vblk_restart_held(struct vblk_dev *dev)
{
    struct vblk_req *req = dev->held;
    unsigned n = dev->nheld;

    /* Whoever drains is waiting for these as well: only what forbids execution keeps them. */
    if (dev->base.hold & (DEVICE_HOLD_RESET | DEVICE_HOLD_QUIT | DEVICE_HOLD_FAILED))
        return;
    timer_cancel(&dev->hold_timer);
    dev->held = dev->held_last = NULL;
    dev->nheld = 0;
    for (; n > 0 && req; n--) { /* those that must go on waiting append themselves again */
        struct vblk_req *next = req->next;

        start(req);
        req = next;
    }
    dev->base.settle = true;
}

void vblk_forget_held(struct vblk_dev *dev, const struct vblk_queue *q)
{
    struct vblk_req **at = &dev->held;

    dev->held_last = NULL;
    while (*at) {
        struct vblk_req *req = *at;

        if (q && req->q != q) {
            dev->held_last = req;
            at = &req->next;
            continue;
        }
        *at = req->next;
        req->state = VBLK_REQ_FREE;
        dev->nheld--;
    }
    if (!dev->held)
        timer_cancel(&dev->hold_timer);
}
