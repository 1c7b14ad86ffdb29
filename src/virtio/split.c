/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Split virtqueues (Virtio 1.3, 2.7). Descriptors stay in the driver's table until the chain is
 * used, so that a record needs the head only. */
#include "virtio/inside.h"

#include "base/crash_point.h"

bool virtq_split_bind(struct virtq *vq)
{
    vq->ring.split.desc = guest_ptr(vq->map, vq->desc_gpa, virtq_desc_bytes(vq->size), GUEST_READ);
    vq->ring.split.avail =
        guest_ptr(vq->map, vq->driver_gpa, virtq_avail_bytes(vq->size), GUEST_READ);
    vq->ring.split.used =
        guest_ptr(vq->map, vq->device_gpa, virtq_used_bytes(vq->size), GUEST_READ | GUEST_WRITE);
    return vq->ring.split.desc && vq->ring.split.avail && vq->ring.split.used;
}

uint16_t virtq_split_used_idx(const struct virtq *vq)
{
    return load16_acquire(&vq->ring.split.used->idx);
}

bool virtq_split_has_work(struct virtq *vq)
{
    return load16_acquire(&vq->ring.split.avail->idx) != (uint16_t)vq->avail;
}

static uint16_t head_at(const struct virtq *vq, uint64_t cursor)
{
    return load16(&vq->ring.split.avail->ring[cursor & (vq->size - 1)]);
}

static void prefetch_desc(const struct virtq *vq, uint64_t cursor)
{
    __builtin_prefetch(&vq->ring.split.desc[head_at(vq, cursor) & (vq->size - 1)]);
}

unsigned virtq_split_fetch(struct virtq *vq, uint16_t *slots, unsigned max)
{
    uint16_t idx = load16_acquire(&vq->ring.split.avail->idx);
    uint32_t n = (uint16_t)(idx - (uint16_t)vq->avail), i;

    if (n == 0)
        return 0;
    if (unlikely(n > vq->size)) {
        virtq_break(vq, "the avail index is more than a queue size ahead");
        return 0;
    }
    n = MIN(n, MIN(max, vq->nfree));
    for (i = 0; i < MIN(n, (uint32_t)VIRTQ_PREFETCH); i++)
        prefetch_desc(vq, vq->avail + i);
    for (i = 0; i < n; i++) {
        uint16_t head = head_at(vq, vq->avail + i);

        if (i + VIRTQ_PREFETCH < n)
            prefetch_desc(vq, vq->avail + i + VIRTQ_PREFETCH);
        if (unlikely(head >= vq->size)) {
            virtq_break(vq, "a head in the avail ring is not below the queue size");
            break;
        }
        if (unlikely(bit_test(vq->busy, head))) {
            virtq_break(vq, "a head in the avail ring is in flight already");
            break;
        }
        slots[i] = (uint16_t)virtq_slot_fill(vq, vq->avail + i, head, 1, 0, 0);
        if (vq->area)
            virtq_mirror_fetched(vq, slots[i]);
    }
    if (unlikely(i == 0))
        return 0;
    crash_point(vq_fetch_copied);
    vq->avail += i;
    if (VIRTQ_RECORDS)
        atomic_store_explicit(&vq->st->avail, vq->avail, memory_order_release);
    crash_point(vq_fetch_published);
    return i;
}

void virtq_split_write(struct virtq *vq, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct virtq_used_elem *at = &vq->ring.split.used->ring[(vq->used + i) & (vq->size - 1)];

        store32(&at->id, vq->slots[vq->done[i].slot].head);
        store32(&at->len, vq->done[i].len);
        crash_point(vq_used_entry_written);
    }
}

void virtq_split_publish(struct virtq *vq, uint64_t used)
{
    store16_release(&vq->ring.split.used->idx, (uint16_t)used);
}

/* ---- notifications ---- */

/* Behind the rings, with EVENT_IDX: the driver's used_event and our avail_event. */
static le16 *avail_event(struct virtq *vq)
{
    return (le16 *)(void *)&vq->ring.split.used->ring[vq->size];
}

bool virtq_split_wants_interrupt(struct virtq *vq, uint64_t old)
{
    uint16_t event;

    atomic_thread_fence(memory_order_seq_cst); /* the driver stores its wish, fences, reads idx */
    if (!vq->event_idx)
        return !(load16(&vq->ring.split.avail->flags) & VIRTQ_AVAIL_F_NO_INTERRUPT);
    event = load16(&vq->ring.split.avail->ring[vq->size]);
    return (uint16_t)(vq->used - event - 1) < (uint16_t)(vq->used - old);
}

/* The driver kicks when it steps over avail_event. One that lies behind our cursor is out of the
 * way for half the numbers there are, so that this stores rarely. */
void virtq_split_relax(struct virtq *vq)
{
    if (vq->event_idx) {
        uint16_t ahead = (uint16_t)(vq->notify - vq->avail);

        if (vq->notify != VIRTQ_NOTIFY_UNKNOWN && ahead >= 0x8000)
            return;
        vq->notify = (uint16_t)(vq->avail - 1);
        store16(avail_event(vq), (uint16_t)vq->notify);
    } else if (vq->notify != VIRTQ_USED_F_NO_NOTIFY) {
        vq->notify = VIRTQ_USED_F_NO_NOTIFY;
        store16(&vq->ring.split.used->flags, VIRTQ_USED_F_NO_NOTIFY);
    }
}

void virtq_split_arm(struct virtq *vq)
{
    uint32_t want = vq->event_idx ? (uint16_t)vq->avail : 0;

    if (vq->notify == want)
        return;
    vq->notify = want;
    store16(vq->event_idx ? avail_event(vq) : &vq->ring.split.used->flags, (uint16_t)want);
}
