/* SPDX-License-Identifier: BSD-3-Clause */
#include "client/virtio_ring.h"

#include <errno.h>
#include <stdlib.h>

int virtio_ring_init(struct virtio_ring *r, const struct virtio_ring_opts *opts)
{
    *r = (struct virtio_ring){.o = *opts, .nids = virtio_ring_ids(opts)};
    r->chain = calloc(r->nids, sizeof(r->chain[0]));
    if (!r->chain)
        return -ENOMEM;
    virtio_ring_clear(r);
    return 0;
}

void virtio_ring_free(struct virtio_ring *r)
{
    free(r->chain);
    r->chain = NULL;
}

void virtio_ring_clear(struct virtio_ring *r)
{
    r->avail = r->published = r->used = r->used_limit = 0;
    r->avail_wrap = r->used_wrap = true;
    r->unpublished = 0;
    r->armed = true;
    r->dirty = false;
    for (unsigned i = 0; i < r->nids; i++)
        r->chain[i] = 0;
    if (r->o.packed)
        virtio_packed_clear(r);
    else
        virtio_split_clear(r);
}

void virtio_ring_add(struct virtio_ring *r, unsigned id, const struct virtio_seg *seg, unsigned n)
{
    r->dirty = true;
    if (r->o.packed)
        virtio_packed_add(r, id, seg, n);
    else
        virtio_split_add(r, id, seg, n);
}

bool virtio_ring_publish(struct virtio_ring *r)
{
    if (!r->dirty)
        return false;
    r->dirty = false;
    return r->o.packed ? virtio_packed_publish(r) : virtio_split_publish(r);
}

bool virtio_ring_next(struct virtio_ring *r, struct virtio_used *ret)
{
    return r->o.packed ? virtio_packed_next(r, ret) : virtio_split_next(r, ret);
}

bool virtio_ring_arm(struct virtio_ring *r)
{
    r->armed = true;
    return r->o.packed ? virtio_packed_arm(r) : virtio_split_arm(r);
}

void virtio_ring_relax(struct virtio_ring *r)
{
    if (!r->armed)
        return;
    r->armed = false;
    if (r->o.packed)
        virtio_packed_relax(r);
    else
        virtio_split_relax(r);
}

uint32_t virtio_ring_base(const struct virtio_ring *r)
{
    const struct virtq_used *used = r->o.memory.device;

    /* A dead device may have posted more than was looked at here (QEMU does the same). */
    return r->o.packed ? virtio_packed_base(r) : virtio_load16(&used->idx, memory_order_acquire);
}

uint64_t virtio_ring_table(struct virtio_ring *r, unsigned id, const struct virtio_seg *seg,
                           unsigned n)
{
    size_t at = (size_t)id * r->o.max_segments;

    if (r->o.packed) {
        struct virtq_packed_desc *t = (struct virtq_packed_desc *)r->o.memory.tables + at;

        for (unsigned i = 0; i < n; i++)
            t[i] =
                (struct virtq_packed_desc){.addr = le64_of(seg[i].gpa),
                                           .len = le32_of(seg[i].len),
                                           .flags = le16_of(seg[i].write ? VIRTQ_DESC_F_WRITE : 0)};
    } else {
        struct virtq_desc *t = (struct virtq_desc *)r->o.memory.tables + at;

        for (unsigned i = 0; i < n; i++)
            t[i] = (struct virtq_desc){.addr = le64_of(seg[i].gpa),
                                       .len = le32_of(seg[i].len),
                                       .flags = le16_of((seg[i].write ? VIRTQ_DESC_F_WRITE : 0) |
                                                        (i + 1 < n ? VIRTQ_DESC_F_NEXT : 0)),
                                       .next = le16_of((uint16_t)(i + 1 < n ? i + 1 : 0))};
    }
    return r->o.memory.tables_gpa + at * sizeof(struct virtq_desc);
}
