/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reads an in-flight area back: records of what the last back end had fetched and not completed, in
 * the order of its counters. The area is foreign: copied, checked as a whole, and believed only
 * when all of it makes sense; the reconnection rules are those of the vhost-user specification. */
#include "virtio/inside.h"

#include "base/crash_point.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct chain {
    uint64_t counter;
    uint16_t head;        /* split: descriptor; packed: buffer ID */
    uint16_t first, last; /* packed: entries */
    uint16_t ndesc;
};

struct readback {
    union {
        void *copy;
        const struct vhost_inflight_split *split;
        const struct vhost_inflight_packed *packed;
    };
    struct chain *chains;
    uint32_t n;
    uint64_t *over;  /* split: completed by the last batch; packed: free entries */
    uint64_t *taken; /* split: heads; packed: entries that belong to a chain */
    uint64_t *ids;   /* packed: buffer IDs in flight */
    uint64_t used;
};

static int by_counter(const void *a, const void *b)
{
    const struct chain *x = a, *y = b;

    return x->counter < y->counter ? -1 : x->counter > y->counter;
}

/* ---- split ---- */

/* The batch that was being completed: published when the ring's idx is ahead of used_idx. */
static int split_last_batch(struct virtq *vq, struct readback *r, struct err *err)
{
    uint16_t used = virtq_split_used_idx(vq), batch = (uint16_t)(used - r->split->used_idx);
    uint32_t head = r->split->last_batch_head;

    r->used = used;
    if (batch > vq->size)
        return err_set(err, -EPROTO, "used index %u, the ring's is %u", r->split->used_idx, used);
    for (; batch > 0; batch--) {
        if (head >= vq->size || bit_test(r->over, head))
            return err_set(err, -EPROTO, "entry %u of the last batch is %s", head,
                           head >= vq->size ? "out of range" : "in it twice");
        bit_set(r->over, head);
        head = r->split->desc[head].next;
    }
    return 0;
}

static int split_chains(struct virtq *vq, struct readback *r, struct err *err)
{
    uint16_t offered;
    int rc = split_last_batch(vq, r, err);

    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < vq->size; i++)
        if (r->split->desc[i].inflight == 1 && !bit_test(r->over, i))
            r->chains[r->n++] = (struct chain){
                .counter = r->split->desc[i].counter, .head = (uint16_t)i, .ndesc = 1};
    offered = (uint16_t)(load16_acquire(&vq->ring.split.avail->idx) - (uint16_t)r->used);
    if (offered > vq->size || r->n > offered)
        return err_set(err, -EPROTO, "%u chains in flight, but the driver has %u outstanding", r->n,
                       offered);
    return 0;
}

/* ---- packed ---- */

/* Where the used cursor and the free list really were: the last batch counts when the ring shows
 * it. */
static int packed_cursor(struct virtq *vq, struct readback *r, uint32_t *free_head, struct err *err)
{
    const struct vhost_inflight_packed *a = r->packed;
    bool posted = false;
    uint32_t pos;
    bool wrap;

    if (a->used_idx >= vq->size || a->old_used_idx >= vq->size || a->used_wrap_counter > 1 ||
        a->old_used_wrap_counter > 1)
        return err_set(err, -EPROTO, "used index %u/%u, wrap counter %u/%u", a->used_idx,
                       a->old_used_idx, a->used_wrap_counter, a->old_used_wrap_counter);
    if (a->used_idx != a->old_used_idx || a->used_wrap_counter != a->old_used_wrap_counter)
        posted = !virtq_packed_is_avail(vq, a->old_used_idx, a->old_used_wrap_counter);
    pos = posted ? a->used_idx : a->old_used_idx;
    wrap = posted ? a->used_wrap_counter : a->old_used_wrap_counter;
    *free_head = posted ? a->free_head : a->old_free_head;
    r->used = pos + (wrap ? 0 : vq->size);
    return 0;
}

static int packed_free_list(struct virtq *vq, struct readback *r, uint32_t entry, struct err *err)
{
    for (; entry < vq->size; entry = r->packed->desc[entry].next) {
        if (bit_test(r->over, entry))
            return err_set(err, -EPROTO, "entry %u is twice in the free list", entry);
        bit_set(r->over, entry);
    }
    return 0;
}

static int packed_chain(struct virtq *vq, struct readback *r, uint32_t first, struct err *err)
{
    const struct vhost_inflight_packed_entry *head = &r->packed->desc[first];
    uint32_t entry = first;
    uint16_t id;

    if (head->num == 0 || head->num > vq->size || head->last >= vq->size)
        return err_set(err, -EPROTO, "entry %u: a chain of %u descriptors up to entry %u", first,
                       head->num, head->last);
    for (uint32_t i = 0;; i++) {
        if (entry >= vq->size || bit_test(r->over, entry) || bit_test(r->taken, entry))
            return err_set(err, -EPROTO, "entry %u: entry %u cannot be in its chain", first, entry);
        bit_set(r->taken, entry);
        if (i == head->num - 1U)
            break;
        entry = r->packed->desc[entry].next;
    }
    id = r->packed->desc[entry].id;
    if (entry != head->last || id >= vq->size || bit_test(r->ids, id))
        return err_set(err, -EPROTO, "entry %u: a chain that ends in entry %u with buffer ID %u",
                       first, entry, id);
    bit_set(r->ids, id);
    r->chains[r->n++] = (struct chain){head->counter, id, (uint16_t)first, head->last, head->num};
    return 0;
}

static int packed_chains(struct virtq *vq, struct readback *r, struct err *err)
{
    uint32_t free_head = 0;
    int rc = packed_cursor(vq, r, &free_head, err);
    bool wrap = r->used < vq->size;

    if (rc == 0)
        rc = packed_free_list(vq, r, free_head, err);
    for (uint32_t i = 0; rc == 0 && i < vq->size; i++)
        if (r->packed->desc[i].inflight == 1 && !bit_test(r->over, i))
            rc = packed_chain(vq, r, i, err);
    if (rc < 0 || r->n == 0)
        return rc;
    /* The descriptor at the used position is not used yet, or the driver has begun anew. */
    if (!virtq_packed_is_avail(vq, (uint32_t)(r->used - (wrap ? 0 : vq->size)), wrap))
        return err_set(err, -EPROTO, "%u chains in flight, but the driver has none outstanding",
                       r->n);
    return 0;
}

/* The descriptors as copies of ours, in the entries they had. */
static void packed_restore(struct virtq *vq, const struct readback *r)
{
    for (uint32_t i = 0; i < r->n; i++) {
        uint32_t entry = r->chains[i].first;

        for (uint32_t k = 1; k <= r->chains[i].ndesc; k++) {
            const struct vhost_inflight_packed_entry *e = &r->packed->desc[entry];
            bool more = k < r->chains[i].ndesc;

            vq->saved[entry] = (struct virtq_desc){
                .addr = le64_of(e->addr),
                .len = le32_of(e->len),
                .flags =
                    le16_of((uint16_t)((more ? VIRTQ_DESC_F_NEXT : 0) |
                                       (e->flags & (VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT)))),
                .next = le16_of(more ? e->next : 0)};
            vq->next[entry] = e->next;
            entry = e->next;
        }
    }
    virtq_saved_list(vq, r->taken);
}

/* ---- both ---- */

static int check_order(struct readback *r, struct err *err)
{
    qsort(r->chains, r->n, sizeof(*r->chains), by_counter);
    for (uint32_t i = 1; i < r->n; i++)
        if (r->chains[i].counter == r->chains[i - 1].counter)
            return err_set(err, -EPROTO, "heads %u and %u have the same counter",
                           r->chains[i - 1].head, r->chains[i].head);
    return 0;
}

static void make_records(struct virtq *vq, const struct readback *r)
{
    uint64_t index = r->used;

    if (vq->packed)
        packed_restore(vq, r);
    virtq_slots_stack(vq);
    for (uint32_t i = 0; i < r->n; i++) {
        const struct chain *c = &r->chains[i];

        vq->live[i] = (uint16_t)virtq_slot_fill(vq, index, c->head, c->ndesc, c->first, c->last);
        index += c->ndesc;
    }
    virtq_cursors_set(vq, index, r->used);
    if (vq->packed)
        virtq_packed_take_back(vq, vq->ndesc);
    vq->found.records = vq->found.live = vq->found.from_area = r->n;
    crash_point(vq_readback_records);
}

static int readback(struct virtq *vq, struct readback *r, struct err *err)
{
    size_t bytes = vq->packed ? sizeof(struct vhost_inflight_packed) +
                                    vq->size * sizeof(struct vhost_inflight_packed_entry)
                              : sizeof(struct vhost_inflight_split) +
                                    vq->size * sizeof(struct vhost_inflight_split_entry);
    int rc;

    r->copy = malloc(bytes);
    r->chains = calloc(vq->size, sizeof(*r->chains));
    r->over = calloc(bitmap_words(vq->size), sizeof(*r->over));
    r->taken = calloc(bitmap_words(vq->size), sizeof(*r->taken));
    r->ids = calloc(bitmap_words(vq->size), sizeof(*r->ids));
    if (!r->copy || !r->chains || !r->over || !r->taken || !r->ids)
        return err_set(err, -ENOMEM, "no memory for the in-flight area of %s", vq->name);
    memcpy(r->copy, vq->area, bytes);
    /* Version and desc_num are in the same place in both. */
    if (r->split->version == 0)
        return 0;
    if (r->split->version != 1 || r->split->desc_num != vq->size)
        return err_set(err, -EPROTO, "version %u, %u entries, not 1 and %u", r->split->version,
                       r->split->desc_num, vq->size);
    rc = vq->packed ? packed_chains(vq, r, err) : split_chains(vq, r, err);
    if (rc == 0)
        rc = check_order(r, err);
    if (rc < 0)
        return rc;
    make_records(vq, r);
    return 1;
}

int virtq_readback(struct virtq *vq, struct err *err)
{
    struct readback r = {0};
    int rc = readback(vq, &r, err);

    free(r.copy);
    free(r.chains);
    free(r.over);
    free(r.taken);
    free(r.ids);
    return rc;
}
