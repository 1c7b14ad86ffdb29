/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Packed virtqueues (Virtio 1.3, 2.8). Completions overwrite the descriptors of other chains, so
 * every descriptor is copied into saved[] when its chain is fetched. */
#include "virtio/inside.h"

#include "base/crash_point.h"

enum { AVAIL_USED = VIRTQ_PACKED_F_AVAIL | VIRTQ_PACKED_F_USED };

/* The half of a descriptor with the flags: read and written in one piece. */
union tail {
    struct {
        le32 len;
        le16 id, flags;
    };
    uint64_t word;
};

bool virtq_packed_bind(struct virtq *vq)
{
    uint64_t event = sizeof(struct virtq_packed_event);

    vq->ring.packed.desc =
        guest_ptr(vq->map, vq->desc_gpa, virtq_desc_bytes(vq->size), GUEST_READ | GUEST_WRITE);
    vq->ring.packed.driver = guest_ptr(vq->map, vq->driver_gpa, event, GUEST_READ);
    vq->ring.packed.device = guest_ptr(vq->map, vq->device_gpa, event, GUEST_READ | GUEST_WRITE);
    return vq->ring.packed.desc && vq->ring.packed.driver && vq->ring.packed.device;
}

static _Atomic uint64_t *tail_at(const struct virtq *vq, uint32_t pos)
{
    return (_Atomic uint64_t *)(void *)&vq->ring.packed.desc[pos].len;
}

static bool is_avail(uint16_t flags, bool wrap)
{
    return (flags & AVAIL_USED) == (wrap ? VIRTQ_PACKED_F_AVAIL : VIRTQ_PACKED_F_USED);
}

bool virtq_packed_is_avail(const struct virtq *vq, uint32_t pos, bool wrap)
{
    return is_avail(load16_acquire(&vq->ring.packed.desc[pos].flags), wrap);
}

bool virtq_packed_has_work(struct virtq *vq)
{
    return virtq_packed_is_avail(vq, vq->avail_pos, vq->avail_wrap);
}

static void advance(const struct virtq *vq, uint32_t *pos, bool *wrap, uint32_t n)
{
    *pos += n;
    if (*pos >= vq->size) {
        *pos -= vq->size;
        *wrap = !*wrap;
    }
}

/* Copies the chain at the avail position, which is there, into the first free entries of saved[].
 * Returns its length; *last is its last entry, *id its buffer ID. 0: the driver broke the rules. */
static uint32_t copy_chain(struct virtq *vq, uint16_t *last, uint16_t *id)
{
    uint32_t pos = vq->avail_pos, n = 0;
    bool wrap = vq->avail_wrap;
    uint16_t entry = vq->saved_free, flags;

    do {
        union tail t;
        struct virtq_desc *to;

        if (unlikely(entry >= vq->size)) {
            virtq_break(vq, "more descriptors are in flight than the ring has");
            return 0;
        }
        t.word = atomic_load_explicit(tail_at(vq, pos), memory_order_acquire);
        flags = le16_get(t.flags);
        if (unlikely(!is_avail(flags, wrap))) {
            virtq_break(vq, "a descriptor of a chain has wrong wrap bits");
            return 0;
        }
        to = &vq->saved[entry];
        to->addr.le = atomic_load_explicit(
            (const _Atomic uint64_t *)(const void *)&vq->ring.packed.desc[pos].addr,
            memory_order_relaxed);
        to->len = t.len;
        to->flags =
            le16_of(flags & (VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT));
        to->next = le16_of(flags & VIRTQ_DESC_F_NEXT ? vq->next[entry] : 0);
        *last = entry;
        *id = le16_get(t.id);
        entry = vq->next[entry];
        n++;
        advance(vq, &pos, &wrap, 1);
    } while (flags & VIRTQ_DESC_F_NEXT);
    return n;
}

/* Descriptors of the next chains: some lines of the ring. */
static void prefetch_ring(const struct virtq *vq, uint32_t ahead)
{
    uint32_t pos = vq->avail_pos + ahead;

    __builtin_prefetch(&vq->ring.packed.desc[pos < vq->size ? pos : 0]);
}

unsigned virtq_packed_fetch(struct virtq *vq, uint16_t *slots, unsigned max)
{
    uint64_t avail = vq->avail;
    unsigned i;

    for (i = 0; i < max && virtq_packed_has_work(vq); i++) {
        uint16_t first = vq->saved_free, last = 0, id = 0;
        uint32_t n;

        prefetch_ring(vq, 4 * VIRTQ_PREFETCH);
        if (unlikely(vq->nfree == 0)) {
            virtq_break(vq, "more chains are in flight than the ring has descriptors");
            break;
        }
        n = copy_chain(vq, &last, &id);
        if (unlikely(n == 0))
            break;
        if (unlikely(id >= vq->size)) {
            virtq_break(vq, "a buffer ID is not below the queue size");
            break;
        }
        if (unlikely(bit_test(vq->busy, id))) {
            virtq_break(vq, "a buffer ID is in flight already");
            break;
        }
        vq->saved_free = vq->next[last];
        slots[i] = (uint16_t)virtq_slot_fill(vq, avail, id, (uint16_t)n, first, last);
        if (vq->area)
            virtq_mirror_fetched(vq, slots[i]);
        avail += n;
        advance(vq, &vq->avail_pos, &vq->avail_wrap, n);
    }
    if (i == 0)
        return 0;
    crash_point(vq_fetch_copied);
    vq->avail = avail;
    if (VIRTQ_RECORDS)
        atomic_store_explicit(&vq->st->avail, avail, memory_order_release);
    crash_point(vq_fetch_published);
    return i;
}

/* again: somebody may have written it before us. Then the driver may have taken it out already and
 * put something new there, for another lap. */
static void put(struct virtq *vq, uint32_t pos, bool wrap, const struct virtq_finished *f,
                bool again)
{
    union tail t = {
        .len = le32_of(f->len),
        .id = le16_of(vq->slots[f->slot].head),
        .flags = le16_of((uint16_t)((wrap ? AVAIL_USED : 0) | (f->len ? VIRTQ_DESC_F_WRITE : 0)))};

    if (unlikely(again) && !virtq_packed_is_avail(vq, pos, wrap))
        return;
    atomic_store_explicit(tail_at(vq, pos), t.word, memory_order_release);
}

void virtq_packed_write(struct virtq *vq, uint32_t n, bool again)
{
    uint32_t pos = vq->used_pos;
    bool wrap = vq->used_wrap;

    for (uint32_t i = 0; i < n; i++) {
        if (i > 0) /* the driver looks at the first one first: it comes last */
            put(vq, pos, wrap, &vq->done[i], again);
        crash_point(vq_used_entry_written);
        advance(vq, &pos, &wrap, vq->slots[vq->done[i].slot].ndesc);
    }
}

void virtq_packed_publish(struct virtq *vq, uint64_t used, bool again)
{
    put(vq, vq->used_pos, vq->used_wrap, &vq->done[0], again);
    advance(vq, &vq->used_pos, &vq->used_wrap, (uint32_t)(used - vq->used));
}

/* A batch that was not published may have left its later completions in the ring, and the driver
 * would take them for real when it gets there. */
void virtq_packed_take_back(struct virtq *vq, uint32_t ndesc)
{
    uint32_t pos = vq->used_pos;
    bool wrap = vq->used_wrap;

    for (uint32_t i = 0; i < ndesc; i++) {
        if (!virtq_packed_is_avail(vq, pos, wrap))
            store16_release(&vq->ring.packed.desc[pos].flags,
                            wrap ? VIRTQ_PACKED_F_AVAIL : VIRTQ_PACKED_F_USED);
        advance(vq, &pos, &wrap, 1);
    }
}

/* ---- notifications ---- */

union event {
    struct virtq_packed_event e;
    uint32_t word;
};

bool virtq_packed_wants_interrupt(struct virtq *vq, uint64_t old)
{
    union event v;
    uint16_t off_wrap;
    uint64_t event;

    atomic_thread_fence(memory_order_seq_cst);
    v.word = atomic_load_explicit((const _Atomic uint32_t *)(const void *)vq->ring.packed.driver,
                                  memory_order_acquire);
    switch (le16_get(v.e.flags) & 3) {
    case VIRTQ_PACKED_EVENT_DISABLE:
        return false;
    case VIRTQ_PACKED_EVENT_DESC:
        if (vq->event_idx)
            break;
        return true;
    default:
        return true;
    }
    /* The position is of this lap or of the one before. */
    off_wrap = le16_get(v.e.off_wrap);
    event = vq->used - vq->used_pos + (off_wrap & 0x7fff);
    if (off_wrap >> 15 != vq->used_wrap)
        event -= vq->size;
    return event - old < vq->used - old;
}

static void set_event(struct virtq *vq, uint16_t flags, uint16_t off_wrap)
{
    union event v = {.e = {.off_wrap = le16_of(off_wrap), .flags = le16_of(flags)}};

    if (vq->notify == v.word)
        return;
    vq->notify = v.word;
    atomic_store_explicit((_Atomic uint32_t *)(void *)vq->ring.packed.device, v.word,
                          memory_order_relaxed);
}

void virtq_packed_relax(struct virtq *vq)
{
    set_event(vq, VIRTQ_PACKED_EVENT_DISABLE, 0);
}

void virtq_packed_arm(struct virtq *vq)
{
    if (vq->event_idx)
        set_event(vq, VIRTQ_PACKED_EVENT_DESC,
                  (uint16_t)(vq->avail_pos | (uint32_t)vq->avail_wrap << 15));
    else
        set_event(vq, VIRTQ_PACKED_EVENT_ENABLE, 0);
}
