/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Keeps the in-flight area as the vhost-user specification demands ("Inflight I/O tracking"), so
 * that it is right whenever this process and snap_emu may die. Nothing is read from it here. */
#include "virtio/inside.h"

#include "base/crash_point.h"

enum { AREA_VERSION = 1 };

static void put8(uint8_t *p, uint8_t v)
{
    atomic_store_explicit((_Atomic uint8_t *)p, v, memory_order_release);
}

static void put16(uint16_t *p, uint16_t v)
{
    atomic_store_explicit((_Atomic uint16_t *)p, v, memory_order_release);
}

static void put64(uint64_t *p, uint64_t v)
{
    atomic_store_explicit((_Atomic uint64_t *)p, v, memory_order_release);
}

static uint64_t counter_of(const struct virtq *vq, unsigned slot)
{
    return atomic_load_explicit(&vq->records[slot].index1, memory_order_relaxed) - 1;
}

/* ---- split ---- */

static void split_fetched(struct virtq *vq, unsigned slot)
{
    struct vhost_inflight_split *area = vq->area;
    struct vhost_inflight_split_entry *e = &area->desc[vq->slots[slot].head];

    put64(&e->counter, counter_of(vq, slot));
    crash_point(vq_mirror_filled);
    put8(&e->inflight, 1);
    crash_point(vq_mirror_fetched);
}

/* Links the batch: if its publication is all that we live to do, the list tells what it was. */
static void split_posting(struct virtq *vq, uint32_t n)
{
    struct vhost_inflight_split *area = vq->area;

    for (uint32_t i = 0; i < n; i++) {
        uint16_t head = vq->slots[vq->done[i].slot].head;

        put16(&area->desc[head].next, vq->last_batch);
        vq->last_batch = head;
    }
    crash_point(vq_mirror_linked);
    put16(&area->last_batch_head, vq->last_batch);
    crash_point(vq_mirror_posting);
}

static void split_posted(struct virtq *vq, uint32_t n, uint64_t used)
{
    struct vhost_inflight_split *area = vq->area;

    crash_point(vq_mirror_published);
    for (uint32_t i = 0; i < n; i++) {
        put8(&area->desc[vq->slots[vq->done[i].slot].head].inflight, 0);
        crash_point(vq_mirror_over);
    }
    crash_point(vq_mirror_posted);
    put16(&area->used_idx, (uint16_t)used);
}

static void split_clear(struct virtq *vq)
{
    struct vhost_inflight_split *area = vq->area;

    for (uint32_t i = 0; i < vq->size; i++) {
        put8(&area->desc[i].inflight, 0);
        put16(&area->desc[i].next, 0);
    }
    vq->last_batch = 0;
    put16(&area->last_batch_head, 0);
    put16(&area->used_idx, (uint16_t)vq->used);
}

/* ---- packed ---- */

/* Fields that must change together are stored together. */
union free_heads {
    struct {
        uint16_t now, old;
    };
    uint32_t word;
};
union used_cursors {
    struct {
        uint16_t now, old;
        uint8_t wrap, old_wrap;
        uint8_t padding[2];
    };
    uint64_t word;
};
static_assert(offsetof(struct vhost_inflight_packed, old_free_head) ==
                  offsetof(struct vhost_inflight_packed, free_head) + 2,
              "stored together");
static_assert(offsetof(struct vhost_inflight_packed, used_idx) % 8 == 0, "stored together");
static_assert(offsetof(struct vhost_inflight_packed, old_used_wrap_counter) ==
                  offsetof(struct vhost_inflight_packed, used_idx) + 5,
              "stored together");

static void put_free_heads(struct virtq *vq, uint16_t head)
{
    struct vhost_inflight_packed *area = vq->area;
    union free_heads v = {{head, head}};

    atomic_store_explicit((_Atomic uint32_t *)(void *)&area->free_head, v.word,
                          memory_order_release);
}

static void put_used(struct virtq *vq, uint64_t used, uint64_t old)
{
    struct vhost_inflight_packed *area = vq->area;
    struct virtq_position now = virtq_position(vq, used), before = virtq_position(vq, old);
    union used_cursors v = {.now = (uint16_t)now.pos,
                            .old = (uint16_t)before.pos,
                            .wrap = now.wrap,
                            .old_wrap = before.wrap};

    atomic_store_explicit((_Atomic uint64_t *)(void *)&area->used_idx, v.word,
                          memory_order_release);
}

/* The chain's entries are the first of the free list, in which they keep their links. */
static void packed_fill(struct virtq *vq, unsigned slot)
{
    struct vhost_inflight_packed *area = vq->area;
    const struct virtq_slot *s = &vq->slots[slot];
    struct vhost_inflight_packed_entry *head = &area->desc[s->saved];
    uint32_t entry = s->saved;

    for (uint32_t i = 0; i < s->ndesc; i++) {
        struct vhost_inflight_packed_entry *e = &area->desc[entry];
        const struct virtq_desc *d = &vq->saved[entry];

        e->addr = le64_get(d->addr);
        e->len = le32_get(d->len);
        e->flags = le16_get(d->flags);
        e->id = s->head;
        entry = vq->next[entry];
    }
    head->num = s->ndesc;
    head->last = s->saved_last;
    put64(&head->counter, counter_of(vq, slot));
    crash_point(vq_mirror_filled);
    put8(&head->inflight, 1);
    crash_point(vq_mirror_fetched);
}

static void packed_fetched(struct virtq *vq, unsigned slot)
{
    packed_fill(vq, slot);
    put_free_heads(vq, vq->saved_free);
}

/* Gives the chains' entries back. Up to packed_posted() it can be rolled back, and is when the ring
 * does not show the completions. */
static void packed_posting(struct virtq *vq, uint32_t n, uint64_t used)
{
    struct vhost_inflight_packed *area = vq->area;
    uint16_t head = vq->saved_free;

    for (uint32_t i = 0; i < n; i++) {
        const struct virtq_slot *s = &vq->slots[vq->done[i].slot];

        put16(&area->desc[s->saved_last].next, head);
        head = s->saved;
    }
    crash_point(vq_mirror_linked);
    put16(&area->free_head, head);
    put_used(vq, used, vq->used);
    crash_point(vq_mirror_posting);
}

static void packed_posted(struct virtq *vq, uint32_t n, uint64_t used)
{
    struct vhost_inflight_packed *area = vq->area;

    crash_point(vq_mirror_published);
    for (uint32_t i = 0; i < n; i++) {
        put8(&area->desc[vq->slots[vq->done[i].slot].saved].inflight, 0);
        crash_point(vq_mirror_over);
    }
    crash_point(vq_mirror_posted);
    put_free_heads(vq, vq->slots[vq->done[n - 1].slot].saved);
    put_used(vq, used, used);
}

static void packed_dropped(struct virtq *vq, unsigned slot)
{
    struct vhost_inflight_packed *area = vq->area;
    const struct virtq_slot *s = &vq->slots[slot];

    put16(&area->desc[s->saved_last].next, vq->saved_free);
    put_free_heads(vq, s->saved);
    put8(&area->desc[s->saved].inflight, 0);
}

static void packed_clear(struct virtq *vq)
{
    struct vhost_inflight_packed *area = vq->area;

    for (uint32_t i = 0; i < vq->size; i++) {
        put8(&area->desc[i].inflight, 0);
        put16(&area->desc[i].next, vq->next[i]);
    }
    put_free_heads(vq, vq->saved_free);
    put_used(vq, vq->used, vq->used);
}

/* ---- both ---- */

void virtq_mirror_fetched(struct virtq *vq, unsigned slot)
{
    if (vq->packed)
        packed_fetched(vq, slot);
    else
        split_fetched(vq, slot);
}

void virtq_mirror_posting(struct virtq *vq, uint32_t n, uint64_t used)
{
    if (vq->packed)
        packed_posting(vq, n, used);
    else
        split_posting(vq, n);
}

void virtq_mirror_posted(struct virtq *vq, uint32_t n, uint64_t used)
{
    if (vq->packed)
        packed_posted(vq, n, used);
    else
        split_posted(vq, n, used);
}

void virtq_mirror_dropped(struct virtq *vq, unsigned slot)
{
    struct vhost_inflight_split *area = vq->area;

    if (vq->packed)
        packed_dropped(vq, slot);
    else
        put8(&area->desc[vq->slots[slot].head].inflight, 0);
}

/* The records are what counts meanwhile, so nobody reads the area before its version is back. Both
 * formats have it in the same place. */
void virtq_mirror_sync(struct virtq *vq)
{
    struct vhost_inflight_split *area = vq->area;
    uint64_t used = vq->used;

    put16(&area->version, 0);
    crash_point(vq_sync_begun);
    put16(&area->desc_num, (uint16_t)vq->size);
    if (vq->packed)
        packed_clear(vq);
    else
        split_clear(vq);
    for (uint32_t slot = 0; slot < vq->slots_used; slot++) {
        if (vq->slots[slot].state == VIRTQ_SLOT_FREE)
            continue;
        if (vq->packed)
            packed_fill(vq, slot);
        else
            split_fetched(vq, slot);
    }
    /* What is to be posted again may have been published: as if we were about to do it. */
    for (uint32_t i = 0; i < vq->reposts; i++)
        used += vq->slots[vq->done[i].slot].ndesc;
    if (vq->reposts)
        virtq_mirror_posting(vq, vq->reposts, used);
    crash_point(vq_sync_filled);
    put16(&area->version, AREA_VERSION);
}

uint64_t virtq_inflight_remark(const struct virtq_inflight *area)
{
    const struct vhost_inflight_split *head = area->at;

    return head ? atomic_load_explicit((const _Atomic uint64_t *)(const void *)&head->features,
                                       memory_order_acquire)
                : 0;
}

void virtq_inflight_set_remark(const struct virtq_inflight *area, uint64_t remark)
{
    struct vhost_inflight_split *head = area->at;

    if (head)
        put64(&head->features, remark);
}

void virtq_inflight_clear(const struct virtq_inflight *area)
{
    struct vhost_inflight_split *head = area->at; /* a packed one begins the same way */

    static_assert(offsetof(struct vhost_inflight_split, version) ==
                      offsetof(struct vhost_inflight_packed, version),
                  "both formats tell by their version whether they are in use");
    if (head)
        atomic_store_explicit((_Atomic uint16_t *)(void *)&head->version, 0, memory_order_release);
}
