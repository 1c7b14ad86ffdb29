/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A chain as iovecs. Its descriptors are the driver's (2.7.5) or, of a packed ring, our copies in
 * the same format; a table of indirect ones is always the driver's. Each is read once. A walk that
 * has failed goes on to the end where it can, for the last byte the device may write: that is where
 * a block device tells about the failure. */
#include "virtio/inside.h"

#include "base/checked.h"

#include <errno.h>
#include <string.h>

struct walk {
    struct virtq *vq;
    struct virtq_iov *io;
    int rc;         /* the worst so far */
    uint32_t count; /* descriptors read */
    bool writing;   /* a writable one was there */
    uint64_t last_gpa;
};

static struct virtq_desc copy_desc(const void *from)
{
    struct virtq_desc d;

    memcpy(&d, from, sizeof(d));
    atomic_signal_fence(memory_order_seq_cst); /* not read a second time */
    return d;
}

/* There is no way to go on, so that nobody knows which byte would have been the last. */
static int stop(struct walk *w, int rc)
{
    w->writing = false;
    return w->rc == -EINVAL ? -EINVAL : rc;
}

static int illegal(struct walk *w)
{
    return stop(w, -EINVAL);
}

static void add_readable(struct walk *w, uint64_t gpa, uint32_t len)
{
    struct virtq_iov *io = w->io;

    if (unlikely(w->writing)) {
        w->rc = -EINVAL;
        return;
    }
    io->readable_bytes += len;
    if (likely(w->rc == 0))
        w->rc = guest_iov(w->vq->map, gpa, len, GUEST_READ, io->iov, &io->nreadable, io->max);
}

static void add_writable(struct walk *w, uint64_t gpa, uint32_t len)
{
    struct virtq_iov *io = w->io;

    w->writing = true;
    w->last_gpa = gpa + (len - 1);
    io->writable_bytes += len;
    /* Entries of its own, even when it begins where the readable part ends. */
    if (likely(w->rc == 0))
        w->rc = guest_iov(w->vq->map, gpa, len, GUEST_WRITE, io->iov + io->nreadable,
                          &io->nwritable, io->max - io->nreadable);
}

static void add(struct walk *w, const struct virtq_desc *d)
{
    uint32_t len = le32_get(d->len);

    if (len == 0)
        return;
    if (le16_get(d->flags) & VIRTQ_DESC_F_WRITE)
        add_writable(w, le64_get(d->addr), len);
    else
        add_readable(w, le64_get(d->addr), len);
}

/* 2.7.5.3, 2.8.7: the chain goes on, and ends, in a table of its own. */
static int walk_indirect(struct walk *w, const struct virtq_desc *ref)
{
    uint64_t table = le64_get(ref->addr);
    uint32_t bytes = le32_get(ref->len), n = bytes / sizeof(struct virtq_desc), i = 0, read;
    const char *whole;

    if (!w->vq->indirect || bytes == 0 || bytes % sizeof(struct virtq_desc) != 0)
        return illegal(w);
    whole = guest_ptr(w->vq->map, table, bytes, GUEST_READ);
    for (read = 1;; read++) {
        struct virtq_desc d;
        uint64_t gpa;
        const void *at = whole ? whole + (size_t)i * sizeof(d) : NULL;
        uint16_t flags;

        if (unlikely(!at)) { /* spread over regions, or not there */
            if (!checked_add(table, (uint64_t)i * sizeof(d), &gpa))
                return illegal(w);
            at = guest_ptr(w->vq->map, gpa, sizeof(d), GUEST_READ);
        }
        if (unlikely(!at))
            return stop(w, -EFAULT);
        if (unlikely(++w->count > VIRTQ_CHAIN_MAX || read > n))
            return illegal(w);
        d = copy_desc(at);
        if (w->vq->packed) /* its own layout: buffer ID, then flags */
            d.flags = d.next;
        flags = le16_get(d.flags);
        if (unlikely(flags & VIRTQ_DESC_F_INDIRECT))
            return illegal(w);
        add(w, &d);
        if (w->vq->packed) { /* one after the other; NEXT means nothing */
            if (++i == n)
                return w->rc;
            continue;
        }
        if (!(flags & VIRTQ_DESC_F_NEXT))
            return w->rc;
        i = le16_get(d.next);
        if (unlikely(i >= n))
            return illegal(w);
    }
}

static int walk_chain(struct walk *w, const struct virtq_desc *table, uint32_t i, uint32_t most)
{
    for (;;) {
        struct virtq_desc d;
        uint16_t flags;

        if (unlikely(i >= w->vq->size || w->count == most))
            return illegal(w);
        w->count++;
        d = copy_desc(&table[i]);
        flags = le16_get(d.flags);
        if (flags & VIRTQ_DESC_F_INDIRECT) {
            if (unlikely(flags & VIRTQ_DESC_F_NEXT))
                return illegal(w);
            return walk_indirect(w, &d);
        }
        add(w, &d);
        if (!(flags & VIRTQ_DESC_F_NEXT))
            return w->rc;
        i = le16_get(d.next);
    }
}

int virtq_map(struct virtq *vq, unsigned slot, struct virtq_iov *io)
{
    const struct virtq_slot *s = &vq->slots[slot];
    struct walk w = {.vq = vq, .io = io};
    int rc;

    io->nreadable = io->nwritable = 0;
    io->readable_bytes = io->writable_bytes = 0;
    io->last = NULL;
    if (vq->packed)
        rc = walk_chain(&w, vq->saved, s->saved, MIN(s->ndesc, (uint32_t)VIRTQ_CHAIN_MAX));
    else if (likely(vq->ring.split.desc))
        rc = walk_chain(&w, vq->ring.split.desc, s->head, MIN(vq->size, (uint32_t)VIRTQ_CHAIN_MAX));
    else
        return -EFAULT;
    if (likely(w.writing))
        io->last = guest_ptr(vq->map, w.last_gpa, 1, GUEST_WRITE);
    return rc;
}
