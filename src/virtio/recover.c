/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Takes over what the last service left in state memory. All of it is checked: a record that makes
 * no sense ends the adoption, never the service. */
#include "virtio/inside.h"

#include "base/crash_point.h"

#include <errno.h>
#include <stdlib.h>

struct found {
    uint64_t order; /* cursor of the completion, or of the chain */
    uint16_t slot;
};

struct recovery {
    struct found *intents, *live;
    uint32_t nintents, nlive;
    uint64_t *taken; /* entries of saved[] that belong to a record */
};

static int by_order(const void *a, const void *b)
{
    const struct found *x = a, *y = b;

    return x->order < y->order ? -1 : x->order > y->order;
}

static int check_ring(struct virtq *vq, struct err *err)
{
    const struct virtq_state *st = vq->st;
    uint64_t avail = atomic_load_explicit(&st->avail, memory_order_acquire);
    uint64_t used = atomic_load_explicit(&st->used, memory_order_acquire);

    if (st->size != vq->size || st->packed != vq->packed || st->desc_gpa != vq->desc_gpa ||
        st->driver_gpa != vq->driver_gpa || st->device_gpa != vq->device_gpa)
        return err_set(err, -EPROTO, "%s: state memory is of another ring", vq->name);
    if (avail > VIRTQ_CURSOR_MAX || used > VIRTQ_CURSOR_MAX)
        return err_set(err, -EPROTO, "%s: state memory: impossible cursors %llu, %llu", vq->name,
                       (unsigned long long)avail, (unsigned long long)used);
    virtq_cursors_set(vq, avail, used);
    vq->slots_used = atomic_load_explicit(&st->slots_used, memory_order_acquire);
    vq->slots_used = MIN(vq->slots_used, vq->size);
    if (atomic_load_explicit(&st->broken, memory_order_acquire))
        vq->broken = "the driver broke the ring under an earlier service";
    return 0;
}

/* The saved descriptors of a packed chain: each belongs to one record only. The last entry, or
 * -EPROTO. */
static int take_saved(struct virtq *vq, struct recovery *r, uint32_t first, uint32_t ndesc)
{
    uint32_t entry = first;

    for (uint32_t i = 0;; i++) {
        uint32_t next;

        if (entry >= vq->size || bit_test(r->taken, entry))
            return -EPROTO;
        bit_set(r->taken, entry);
        if (i == ndesc - 1)
            return (int)entry;
        next = le16_get(vq->saved[entry].next);
        vq->next[entry] = (uint16_t)next;
        entry = next;
    }
}

/* A record that is neither void nor over: its slot becomes active. */
static int take_record(struct virtq *vq, struct recovery *r, unsigned slot, struct err *err)
{
    const struct virtq_record *rec = &vq->records[slot];
    struct virtq_slot s = {.head = rec->head, .ndesc = rec->ndesc, .saved = rec->saved};
    int last = 0;

    if (s.head >= vq->size || bit_test(vq->busy, s.head))
        return err_set(err, -EPROTO, "%s: state memory: slot %u: head %u is %s", vq->name, slot,
                       s.head, s.head >= vq->size ? "out of range" : "in two records");
    if (s.ndesc == 0 || s.ndesc > (vq->packed ? vq->size - vq->ndesc : 1))
        return err_set(err, -EPROTO, "%s: state memory: slot %u: %u descriptors", vq->name, slot,
                       s.ndesc);
    if (vq->packed)
        last = take_saved(vq, r, s.saved, s.ndesc);
    if (last < 0)
        return err_set(err, last, "%s: state memory: slot %u: bad copies of its descriptors",
                       vq->name, slot);
    s.saved_last = (uint16_t)last;
    s.state = VIRTQ_SLOT_ACTIVE;
    vq->slots[slot] = s;
    bit_set(vq->busy, s.head);
    vq->ndesc += s.ndesc;
    return 0;
}

static int sort_records(struct virtq *vq, struct recovery *r, struct err *err)
{
    for (uint32_t slot = 0; slot < vq->slots_used; slot++) {
        struct virtq_record *rec = &vq->records[slot];
        uint64_t index1 = atomic_load_explicit(&rec->index1, memory_order_acquire);
        uint64_t intent = atomic_load_explicit(&rec->intent, memory_order_acquire);
        bool over = true;
        int rc;

        if (index1 == 0)
            continue;
        if (rec->start != vq->start) {
            atomic_store_explicit(&rec->index1, 0, memory_order_release);
            continue;
        }
        vq->found.records++;
        if (index1 > vq->avail) /* fetched again from the ring */
            vq->found.unpublished++;
        else if (intent && intent <= vq->used)
            vq->found.posted++;
        else
            over = false;
        if (over) {
            atomic_store_explicit(&rec->index1, 0, memory_order_release);
            crash_point(vq_adopt_record_over);
            continue;
        }
        rc = take_record(vq, r, slot, err);
        if (rc < 0)
            return rc;
        if (intent)
            r->intents[r->nintents++] = (struct found){intent - 1, (uint16_t)slot};
        else
            r->live[r->nlive++] = (struct found){index1 - 1, (uint16_t)slot};
    }
    return 0;
}

/* Intents were stored for consecutive places from the used cursor on. */
static int repost(struct virtq *vq, struct recovery *r, struct err *err)
{
    uint64_t at = vq->used;

    qsort(r->intents, r->nintents, sizeof(*r->intents), by_order);
    for (uint32_t i = 0; i < r->nintents; i++) {
        unsigned slot = r->intents[i].slot;

        if (r->intents[i].order != at)
            return err_set(
                err, -EPROTO, "%s: state memory: completions are not consecutive (%llu, not %llu)",
                vq->name, (unsigned long long)r->intents[i].order, (unsigned long long)at);
        at += vq->slots[slot].ndesc;
        virtq_done(vq, slot, vq->records[slot].len);
    }
    vq->reposts = vq->found.intent_stored = r->nintents;
    return 0;
}

static int restore_live(struct virtq *vq, struct recovery *r, struct err *err)
{
    qsort(r->live, r->nlive, sizeof(*r->live), by_order);
    for (uint32_t i = 1; i < r->nlive; i++)
        if (r->live[i].order == r->live[i - 1].order)
            return err_set(err, -EPROTO, "%s: state memory: two records of chain %llu", vq->name,
                           (unsigned long long)r->live[i].order);
    for (uint32_t i = 0; i < r->nlive; i++)
        vq->live[i] = r->live[i].slot;
    vq->found.live = r->nlive;
    return 0;
}

static int adopt(struct virtq *vq, struct recovery *r, struct err *err)
{
    int rc = check_ring(vq, err);

    if (rc == 0)
        rc = sort_records(vq, r, err);
    if (rc == 0)
        rc = repost(vq, r, err);
    crash_point(vq_adopt_sorted);
    if (rc == 0)
        rc = restore_live(vq, r, err);
    if (rc < 0)
        return rc;
    if (vq->packed)
        virtq_saved_list(vq, r->taken);
    virtq_slots_stack(vq);
#ifdef SNAP_LEAVE_OUT_PHASE
    virtq_cursors_set(vq, vq->avail, 0);
#endif
#ifdef SNAP_LEAVE_OUT_RESUBMIT
    for (uint32_t i = 0; i < vq->found.live; i++)
        virtq_slot_release(vq, vq->live[i]);
    vq->found.live = 0;
#endif
    return 0;
}

int virtq_adopt(struct virtq *vq, struct err *err)
{
    struct recovery r = {0};
    int rc;

    r.intents = calloc(vq->size, sizeof(*r.intents));
    r.live = calloc(vq->size, sizeof(*r.live));
    r.taken = calloc(bitmap_words(vq->size), sizeof(*r.taken));
    if (r.intents && r.live && r.taken)
        rc = adopt(vq, &r, err);
    else
        rc = err_set(err, -ENOMEM, "no memory for the recovery of %s", vq->name);
    free(r.intents);
    free(r.live);
    free(r.taken);
    return rc;
}
