/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Requests on one ring (5.2.6). */
#include "base/util.h"
#include "client/virtio_blk_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { STATUS_UNWRITTEN = 0xff };

int blk_queue_init(struct blk_queue *q, const struct virtio_ring_opts *opts)
{
    int rc = virtio_ring_init(&q->ring, opts);

    q->nids = q->ring.nids;
    q->slot = calloc(q->nids, sizeof(q->slot[0]));
    q->free = calloc(q->nids, sizeof(q->free[0]));
    if (rc || !q->slot || !q->free)
        return -ENOMEM;
    blk_queue_clear(q);
    return 0;
}

void blk_queue_free(struct blk_queue *q)
{
    virtio_ring_free(&q->ring);
    free(q->slot);
    free(q->free);
    q->slot = NULL;
    q->free = NULL;
}

void blk_queue_clear(struct blk_queue *q)
{
    virtio_ring_clear(&q->ring);
    q->free_at = 0;
    q->nfree = q->nids;
    q->outstanding = 0;
    for (uint16_t i = 0; i < q->nids; i++) {
        q->free[i] = i;
        q->slot[i].tag = NULL;
    }
}

/* ---- submit ---- */

static unsigned add_data(const struct blk_queue *q, struct virtio_seg *seg, uint64_t gpa,
                         uint32_t len, bool write)
{
    unsigned n = 0;

    while (len) {
        uint32_t piece = MIN(len, q->segment_bytes);

        seg[n++] = (struct virtio_seg){gpa, piece, write};
        gpa += piece;
        len -= piece;
    }
    return n;
}

bool blk_queue_submit(struct blk_queue *q, const struct blk_request *req)
{
    struct virtio_seg seg[BLK_MAX_SEGMENTS];
    uint64_t at, sector = req->lba << q->shift;
    struct blk_control *c;
    unsigned id, n = 0;
    bool in = req->type == VIRTIO_BLK_T_IN || req->type == VIRTIO_BLK_T_GET_ID;

    if (q->outstanding == q->depth || !q->nfree)
        return false;
    id = q->free[q->free_at];
    q->free_at = q->free_at + 1 == q->nids ? 0 : (uint16_t)(q->free_at + 1);
    q->nfree--;
    q->outstanding++;
    q->slot[id] = (struct blk_slot){req->tag, 1 + (in ? req->len : 0)};
    c = &q->control[id];
    at = q->control_gpa + id * sizeof(*c);
    c->head.type = le32_of(req->type);
    c->head.sector = le64_of(req->len ? sector : 0); /* only IN and OUT have one (5.2.6.1) */
    c->status = STATUS_UNWRITTEN;
    if (unlikely(q->split_header)) {
        seg[n++] = (struct virtio_seg){at, 8, false};
        seg[n++] = (struct virtio_seg){at + 8, sizeof(c->head) - 8, false};
    } else {
        seg[n++] = (struct virtio_seg){at, sizeof(c->head), false};
    }
    if (req->len) {
        n += add_data(q, seg + n, req->gpa, req->len, in);
    } else if (req->nblocks) {
        c->range = (struct virtio_blk_range){.sector = le64_of(sector),
                                             .num_sectors = le32_of(req->nblocks << q->shift)};
        seg[n++] =
            (struct virtio_seg){at + offsetof(struct blk_control, range), sizeof(c->range), false};
    }
    seg[n++] = (struct virtio_seg){at + offsetof(struct blk_control, status), 1, true};
    virtio_ring_add(&q->ring, id, seg, n);
    return true;
}

void blk_queue_ring(struct blk_queue *q)
{
    const uint64_t one = 1;

    if (!virtio_ring_publish(&q->ring))
        return;
    q->kicks++;
    /* A full counter (-EAGAIN) is a kick that waits already. */
    if (write(q->kick_fd, &one, sizeof(one)) != sizeof(one))
        return;
}

/* ---- complete ---- */

static void complete(struct blk_queue *q, const struct virtio_used *used, disk_completed_fn fn,
                     void *arg)
{
    struct disk_completion c = {.queue = q->index, .id = used->raw, .value = used->len};
    struct blk_slot *s = used->id < 0 ? NULL : &q->slot[used->id];
    unsigned end;

    if (unlikely(!s || !s->tag)) {
        c.flaws = used->bad_index ? DISK_BAD_USED_INDEX : 0;
        fn(arg, &c);
        return;
    }
    c.tag = s->tag;
    c.status = *(volatile uint8_t *)&q->control[used->id].status;
    c.ok = c.status == VIRTIO_BLK_S_OK;
    /* 2.7.8: what was written, from the beginning of the writable part on; the status is its last
     * byte. A request that failed may have filled less. */
    if (used->len > s->writable || !used->len || (c.ok && used->len != s->writable))
        c.flaws = DISK_BAD_USED_LEN;
    s->tag = NULL;
    end = (unsigned)q->free_at + q->nfree++;
    q->free[end < q->nids ? end : end - q->nids] = (uint16_t)used->id;
    q->outstanding--;
    fn(arg, &c);
}

unsigned blk_queue_poll(struct blk_queue *q, disk_completed_fn fn, void *arg)
{
    struct virtio_used used;
    unsigned n = 0;

    while (n < q->ring.o.size && virtio_ring_next(&q->ring, &used)) {
        complete(q, &used, fn, arg);
        n++;
    }
    if (n)
        virtio_ring_relax(&q->ring);
    return n;
}

void blk_queue_woken(struct blk_queue *q)
{
    uint64_t n;

    if (read(q->call_fd, &n, sizeof(n)) == sizeof(n))
        q->interrupts += n;
}
