/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A virtqueue's life, and what both formats have in common: above all the order in which a batch of
 * completions is posted. */
#include "virtio/inside.h"

#include "base/crash_point.h"
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ---- */

static int check(const struct virtq_opts *opts, struct err *err)
{
    const struct virtq_config *c = &opts->cfg;
    bool packed = c->features & VIRTIO_F_RING_PACKED;
    uint64_t event_align = packed ? 4 : 2;

    if (c->size == 0 || c->size > opts->max_size || c->size > VIRTQ_MAX_SIZE)
        return err_set(err, -EINVAL, "%s: size %u is not 1 to %u", opts->name, c->size,
                       MIN(opts->max_size, (uint32_t)VIRTQ_MAX_SIZE));
    if (!packed && (c->size & (c->size - 1)))
        return err_set(err, -EINVAL, "%s: size %u of a split ring is not a power of 2", opts->name,
                       c->size);
    if (c->start == 0)
        return err_set(err, -EINVAL, "%s: a ring's incarnation is not 0", opts->name);
    if (c->desc_gpa % 16 || c->driver_gpa % event_align || c->device_gpa % 4)
        return err_set(err, -EINVAL, "%s: misaligned ring (0x%llx, 0x%llx, 0x%llx)", opts->name,
                       (unsigned long long)c->desc_gpa, (unsigned long long)c->driver_gpa,
                       (unsigned long long)c->device_gpa);
    return 0;
}

static struct virtq *make(const struct virtq_opts *opts)
{
    const struct virtq_config *c = &opts->cfg;
    struct virtq *vq = calloc(1, sizeof(*vq));

    if (!vq)
        return NULL;
    vq->map = opts->map;
    vq->st = opts->st;
    vq->records = opts->records;
    vq->saved = opts->saved;
    vq->size = c->size;
    vq->start = c->start;
    vq->packed = c->features & VIRTIO_F_RING_PACKED;
    vq->event_idx = c->features & VIRTIO_F_RING_EVENT_IDX;
    vq->indirect = c->features & VIRTIO_F_RING_INDIRECT_DESC;
    vq->desc_gpa = c->desc_gpa;
    vq->driver_gpa = c->driver_gpa;
    vq->device_gpa = c->device_gpa;
    vq->first_post = true;
    snprintf(vq->name, sizeof(vq->name), "%s", opts->name);
    if (virtq_slots_init(vq) < 0) {
        virtq_close(vq);
        return NULL;
    }
    return vq;
}

static void take_area(struct virtq *vq, const struct virtq_inflight *area)
{
    static struct log_limit limit;

    if (!VIRTQ_RECORDS || !area->at)
        return;
    if (area->queue_size < vq->size || (uintptr_t)area->at % 8) {
        log_limited(&limit, LOG_ERROR, "virtio",
                    "%s: the in-flight area has room for %u entries, not %u: not used", vq->name,
                    area->queue_size, vq->size);
        return;
    }
    vq->area = area->at;
}

/* Where the driver's base says. Packed: the used position is at most a lap behind the avail one. */
static int cursors_from_base(struct virtq *vq, uint32_t base, struct err *err)
{
    uint32_t avail = base & 0x7fff, used = base >> 16 & 0x7fff;
    uint64_t a, u;

    if (!vq->packed) {
        virtq_cursors_set(vq, base & 0xffff, virtq_split_used_idx(vq));
        return 0;
    }
    if (avail >= vq->size || used >= vq->size)
        return err_set(err, -EINVAL, "%s: base 0x%x is beyond the size of %u", vq->name, base,
                       vq->size);
    a = avail + (base & 1U << 15 ? 0 : vq->size);
    u = used + (base & 1U << 31 ? 0 : vq->size);
    if (a < u)
        a += 2ULL * vq->size;
    if (a - u > vq->size)
        return err_set(err, -EINVAL, "%s: base 0x%x: avail and used are more than a lap apart",
                       vq->name, base);
    virtq_cursors_set(vq, a, u);
    return 0;
}

static int start_fresh(struct virtq *vq, const struct virtq_config *c, struct err *err)
{
    static struct log_limit limit;
    struct virtq_state *st = vq->st;
    struct err why = {0};
    int rc = 0;

    if (vq->parked)
        return err_set(err, -EFAULT, "%s: the ring (0x%llx, 0x%llx, 0x%llx) is not in guest memory",
                       vq->name, (unsigned long long)c->desc_gpa, (unsigned long long)c->driver_gpa,
                       (unsigned long long)c->device_gpa);
    virtq_state_reset(st); /* nobody takes it over while it is half written */
    crash_point(vq_open_reset);
    if (vq->area)
        rc = virtq_readback(vq, &why);
    if (rc == -ENOMEM)
        return err_set(err, rc, "%s", why.msg);
    if (rc < 0)
        log_limited(&limit, LOG_ERROR, "virtio", "%s: in-flight area: %s: a fresh start", vq->name,
                    why.msg);
    if (rc <= 0) {
        rc = cursors_from_base(vq, c->base, err);
        if (rc < 0)
            return rc;
        if (vq->packed)
            virtq_saved_list(vq, NULL);
        virtq_slots_stack(vq);
    }
    st->size = vq->size;
    st->packed = vq->packed;
    st->desc_gpa = c->desc_gpa;
    st->driver_gpa = c->driver_gpa;
    st->device_gpa = c->device_gpa;
    atomic_store_explicit(&st->avail, vq->avail, memory_order_relaxed);
    atomic_store_explicit(&st->used, vq->used, memory_order_relaxed);
    crash_point(vq_open_filled);
    atomic_store_explicit(&st->start, c->start, memory_order_release);
    return 0;
}

int virtq_open(const struct virtq_opts *opts, struct virtq **ret, struct err *err)
{
    struct virtq *vq;
    int rc = check(opts, err);

    if (rc < 0)
        return rc;
    vq = make(opts);
    if (!vq)
        return err_set(err, -ENOMEM, "no memory for %s", opts->name);
    take_area(vq, &opts->inflight);
    virtq_bind(vq);
    if (atomic_load_explicit(&vq->st->start, memory_order_acquire) == vq->start)
        rc = virtq_adopt(vq, err);
    else
        rc = start_fresh(vq, &opts->cfg, err);
    if (rc < 0) {
        virtq_close(vq);
        return rc;
    }
    if (vq->area)
        virtq_mirror_sync(vq);
    crash_point(vq_opened);
    *ret = vq;
    return 0;
}

void virtq_close(struct virtq *vq)
{
    if (!vq)
        return;
    virtq_slots_free(vq);
    free(vq);
}

void virtq_state_reset(struct virtq_state *st)
{
    atomic_store_explicit(&st->start, 0, memory_order_release);
    atomic_thread_fence(memory_order_release);
    st->size = st->packed = st->reserved = 0;
    st->desc_gpa = st->driver_gpa = st->device_gpa = 0;
    atomic_store_explicit(&st->avail, 0, memory_order_relaxed);
    atomic_store_explicit(&st->used, 0, memory_order_relaxed);
    atomic_store_explicit(&st->slots_used, 0, memory_order_relaxed);
    atomic_store_explicit(&st->broken, 0, memory_order_release);
}

void virtq_bind(struct virtq *vq)
{
    memset(&vq->ring, 0, sizeof(vq->ring));
    vq->parked = !(vq->packed ? virtq_packed_bind(vq) : virtq_split_bind(vq));
    if (vq->parked)
        memset(&vq->ring, 0, sizeof(vq->ring));
    vq->notify = VIRTQ_NOTIFY_UNKNOWN;
}

struct virtq_found virtq_get_found(const struct virtq *vq)
{
    return vq->found;
}

unsigned virtq_live(const struct virtq *vq, uint16_t *slots, unsigned max)
{
    memcpy(slots, vq->live, MIN(vq->found.live, max) * sizeof(*slots));
    return vq->found.live;
}

/* ---- fetching ---- */

const char *virtq_broken(const struct virtq *vq)
{
    return vq->broken;
}

void virtq_break(struct virtq *vq, const char *why)
{
    if (vq->broken)
        return;
    vq->broken = why;
    atomic_store_explicit(&vq->st->broken, 1, memory_order_release);
}

/* A head whose completion is to be posted once more may be in the ring again already. */
static inline bool may_fetch(const struct virtq *vq)
{
    return likely(!vq->parked && !vq->broken && vq->reposts == 0);
}

unsigned virtq_fetch(struct virtq *vq, uint16_t *slots, unsigned max)
{
    unsigned n;

    if (unlikely(!may_fetch(vq)))
        return 0;
    /* A free slot's record is void: that, and the used cursor before it, comes before what is
     * written into the record next. */
    atomic_thread_fence(memory_order_release);
    n = vq->packed ? virtq_packed_fetch(vq, slots, max) : virtq_split_fetch(vq, slots, max);
    vq->fetched += n;
    return n;
}

bool virtq_has_work(struct virtq *vq)
{
    if (unlikely(!may_fetch(vq)))
        return false;
    return vq->packed ? virtq_packed_has_work(vq) : virtq_split_has_work(vq);
}

/* ---- completing ---- */

void virtq_done(struct virtq *vq, unsigned slot, uint32_t len)
{
    assert(slot < vq->size && vq->slots[slot].state == VIRTQ_SLOT_ACTIVE);
    vq->slots[slot].state = VIRTQ_SLOT_DONE;
    vq->done[vq->ndone++] = (struct virtq_finished){(uint16_t)slot, len};
}

bool virtq_has_done(const struct virtq *vq)
{
    return vq->ndone > 0 && !vq->parked;
}

unsigned virtq_inflight(const struct virtq *vq)
{
    return vq->size - vq->nfree;
}

static void forget_done(struct virtq *vq, unsigned slot)
{
    uint32_t i = 0;

    while (i < vq->ndone && vq->done[i].slot != slot)
        i++;
    if (i == vq->ndone)
        return;
    memmove(&vq->done[i], &vq->done[i + 1], (vq->ndone - i - 1) * sizeof(*vq->done));
    vq->ndone--;
    if (i < vq->reposts)
        vq->reposts--;
}

void virtq_drop(struct virtq *vq, unsigned slot)
{
    assert(slot < vq->size && vq->slots[slot].state != VIRTQ_SLOT_FREE);
    if (vq->slots[slot].state == VIRTQ_SLOT_DONE)
        forget_done(vq, slot);
    if (vq->area)
        virtq_mirror_dropped(vq, slot);
    virtq_slot_release(vq, slot);
}

/* The cursor behind the first n finished chains. With store, their intents are stored. */
static uint64_t intents(struct virtq *vq, uint32_t n, bool store)
{
    uint64_t at = vq->used;

    for (uint32_t i = 0; i < n; i++) {
        unsigned slot = vq->done[i].slot;

        if (store) {
#ifndef SNAP_LEAVE_OUT_INTENT
            vq->records[slot].len = vq->done[i].len;
            crash_point(vq_intent_values);
            atomic_store_explicit(&vq->records[slot].intent, at + 1, memory_order_release);
#endif
            crash_point(vq_intent_stored);
        }
        at += vq->slots[slot].ndesc;
    }
    return at;
}

/* The first n finished chains. again: their intents were stored by the last service, and all that
 * follows may have been done by it. */
static void post(struct virtq *vq, uint32_t n, bool again)
{
    uint64_t used = intents(vq, n, VIRTQ_RECORDS && !again);

    atomic_thread_fence(memory_order_release); /* all intents before any of the ring */
    crash_point(vq_intents_stored);
    if (vq->area && !again)
        virtq_mirror_posting(vq, n, used);
    if (vq->packed)
        virtq_packed_write(vq, n, again);
    else
        virtq_split_write(vq, n);
    crash_point(vq_used_written);
    if (vq->packed)
        virtq_packed_publish(vq, used, again);
    else
        virtq_split_publish(vq, used);
    crash_point(vq_used_published);
    if (vq->area)
        virtq_mirror_posted(vq, n, used);
    vq->used = used;
    if (VIRTQ_RECORDS)
        atomic_store_explicit(&vq->st->used, used, memory_order_release);
    crash_point(vq_tail_stored);
    for (uint32_t i = 0; i < n; i++) {
        virtq_slot_release(vq, vq->done[i].slot);
        crash_point(vq_record_freed);
    }
    crash_point(vq_batch_freed);
    vq->completed += n;
}

bool virtq_post(struct virtq *vq)
{
    uint64_t old = vq->used;
    uint32_t reposts = vq->reposts;

    if (vq->ndone == 0 || unlikely(vq->parked))
        return false;
    if (unlikely(reposts)) {
        post(vq, reposts, true);
        vq->reposts = 0;
        vq->ndone -= reposts;
        memmove(vq->done, vq->done + reposts, vq->ndone * sizeof(*vq->done));
    }
    if (likely(vq->ndone)) {
        post(vq, vq->ndone, false);
        vq->ndone = 0;
    }
    if (unlikely(vq->first_post)) {
        vq->first_post = false;
        return true;
    }
    return vq->packed ? virtq_packed_wants_interrupt(vq, old)
                      : virtq_split_wants_interrupt(vq, old);
}

/* ---- notifications ---- */

void virtq_relax(struct virtq *vq)
{
    if (unlikely(vq->parked))
        return;
    if (vq->packed)
        virtq_packed_relax(vq);
    else
        virtq_split_relax(vq);
}

bool virtq_arm(struct virtq *vq)
{
    if (unlikely(vq->parked))
        return true;
    if (vq->packed)
        virtq_packed_arm(vq);
    else
        virtq_split_arm(vq);
    atomic_thread_fence(memory_order_seq_cst); /* the driver stores its idx, fences, reads ours */
    return !virtq_has_work(vq);
}

/* ---- small things ---- */

uint8_t virtq_starts(const struct virtq *vq, unsigned slot)
{
    return VIRTQ_RECORDS ? atomic_load_explicit(&vq->records[slot].starts, memory_order_relaxed)
                         : 0;
}

void virtq_set_starts(struct virtq *vq, unsigned slot, uint8_t starts)
{
    if (VIRTQ_RECORDS)
        atomic_store_explicit(&vq->records[slot].starts, starts, memory_order_release);
}

uint16_t virtq_head(const struct virtq *vq, unsigned slot)
{
    return vq->slots[slot].head;
}

static uint32_t position(uint32_t pos, bool wrap)
{
    return pos | (uint32_t)wrap << 15;
}

uint32_t virtq_base(const struct virtq *vq)
{
    if (!vq->packed)
        return (uint16_t)vq->avail;
    return position(vq->avail_pos, vq->avail_wrap) | position(vq->used_pos, vq->used_wrap) << 16;
}

struct virtq_info virtq_get_info(struct virtq *vq)
{
    struct virtq_info info = {
        .state = vq->broken   ? "BROKEN"
                 : vq->parked ? "PARKED"
                              : "RUNNING",
        .size = vq->size,
        .sw_avail = (uint16_t)(vq->packed ? vq->avail_pos : vq->avail),
        .sw_used = (uint16_t)(vq->packed ? vq->used_pos : vq->used),
        .fetched = vq->fetched,
        .completed = vq->completed,
    };

    /* A packed ring has no index in the driver's memory. */
    info.hw_avail = info.sw_avail;
    info.hw_used = info.sw_used;
    if (!vq->packed && !vq->parked) {
        info.hw_avail = load16(&vq->ring.split.avail->idx);
        info.hw_used = load16(&vq->ring.split.used->idx);
    }
    return info;
}
