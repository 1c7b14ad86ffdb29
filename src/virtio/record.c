/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Slots: the record in state memory and the private half beside it. Free slots are a stack, so that
 * a queue which runs shallow touches few of them. A free slot below slots_used has index1 == 0. */
#include "virtio/inside.h"

#include "base/crash_point.h"

#include <errno.h>
#include <stdlib.h>

int virtq_slots_init(struct virtq *vq)
{
    vq->slots = calloc(vq->size, sizeof(*vq->slots));
    vq->free = calloc(vq->size, sizeof(*vq->free));
    vq->busy = calloc(bitmap_words(vq->size), sizeof(*vq->busy));
    vq->done = calloc(vq->size, sizeof(*vq->done));
    vq->live = calloc(vq->size, sizeof(*vq->live));
    if (vq->packed)
        vq->next = calloc(vq->size, sizeof(*vq->next));
    if (!vq->slots || !vq->free || !vq->busy || !vq->done || !vq->live || (vq->packed && !vq->next))
        return -ENOMEM;
    return 0;
}

void virtq_slots_free(struct virtq *vq)
{
    free(vq->slots);
    free(vq->free);
    free(vq->busy);
    free(vq->done);
    free(vq->live);
    free(vq->next);
}

void virtq_slots_stack(struct virtq *vq)
{
    vq->nfree = 0;
    for (uint32_t slot = vq->size; slot-- > 0;)
        if (vq->slots[slot].state == VIRTQ_SLOT_FREE)
            vq->free[vq->nfree++] = (uint16_t)slot;
}

void virtq_saved_list(struct virtq *vq, const uint64_t *taken)
{
    uint32_t next = vq->size;

    for (uint32_t i = vq->size; i-- > 0;)
        if (!taken || !bit_test(taken, i)) {
            vq->next[i] = (uint16_t)next;
            next = i;
        }
    vq->saved_free = (uint16_t)next;
}

struct virtq_position virtq_position(const struct virtq *vq, uint64_t cursor)
{
    return (struct virtq_position){(uint32_t)(cursor % vq->size), !(cursor / vq->size & 1)};
}

void virtq_cursors_set(struct virtq *vq, uint64_t avail, uint64_t used)
{
    struct virtq_position a = virtq_position(vq, avail), u = virtq_position(vq, used);

    vq->avail = avail;
    vq->used = used;
    vq->avail_pos = a.pos;
    vq->used_pos = u.pos;
    vq->avail_wrap = a.wrap;
    vq->used_wrap = u.wrap;
}

unsigned virtq_slot_fill(struct virtq *vq, uint64_t index, uint16_t head, uint16_t ndesc,
                         uint16_t saved, uint16_t saved_last)
{
    unsigned slot = vq->free[--vq->nfree];
    struct virtq_record *rec = &vq->records[slot];

    if (unlikely(slot >= vq->slots_used)) {
        /* Whatever another incarnation left there is void before recovery may look at it. */
        atomic_store_explicit(&rec->index1, 0, memory_order_relaxed);
        vq->slots_used = slot + 1;
        atomic_store_explicit(&vq->st->slots_used, vq->slots_used, memory_order_release);
        crash_point(vq_slots_used);
    }
    vq->slots[slot] = (struct virtq_slot){head, ndesc, saved, saved_last, VIRTQ_SLOT_ACTIVE};
    bit_set(vq->busy, head);
    vq->ndesc += ndesc;
    if (!VIRTQ_RECORDS)
        return slot;
    rec->start = vq->start;
    rec->head = head;
    rec->ndesc = ndesc;
    rec->saved = saved;
    atomic_store_explicit(&rec->starts, 0, memory_order_relaxed);
    atomic_store_explicit(&rec->intent, 0, memory_order_relaxed);
    atomic_store_explicit(&rec->index1, index + 1, memory_order_release);
    crash_point(vq_record_filled);
    return slot;
}

void virtq_slot_release(struct virtq *vq, unsigned slot)
{
    struct virtq_slot *s = &vq->slots[slot];

#ifndef SNAP_LEAVE_OUT_INTENT
    if (VIRTQ_RECORDS)
        atomic_store_explicit(&vq->records[slot].index1, 0, memory_order_release);
#endif
    if (vq->packed) {
        vq->next[s->saved_last] = vq->saved_free;
        vq->saved_free = s->saved;
    }
    bit_clear(vq->busy, s->head);
    vq->ndesc -= s->ndesc;
    s->state = VIRTQ_SLOT_FREE;
    vq->free[vq->nfree++] = (uint16_t)slot;
}
